"""Flags of `train`. Its settings are a YAML file's and `--set`'s (`gazeqwen.train.config`), not flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def add_train(commands: Any, *, count: Callable[[str], int]) -> None:
    """Adds the command to `commands`."""
    text = "train the resampler, LoRA, or both on videos with gaze"
    train = commands.add_parser(
        "train",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Settings: docs/training.md. "
        "For several GPUs: accelerate launch --config_file configs/accelerate/ddp.yaml -m gazeqwen train ...",
    )
    train.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings (default: the built-in ones)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="over the file, e.g. data.train=DIR optimizer.lr=1e-3; may be repeated",
    )
    which = train.add_mutually_exclusive_group()
    which.add_argument(
        "--dry-run",
        nargs="?",
        const="measured",
        choices=("measured", "meta"),
        help="questions, hours and memory, timed on one step; meta: sizes and memory only, no weights needed",
    )
    which.add_argument(
        "--overfit", type=count, metavar="N", help="learn N questions by heart; exit code 1 if that fails"
    )
    train.add_argument("--json", action="store_true", help="one JSON object on stdout at the end")
    train.set_defaults(command="train")
