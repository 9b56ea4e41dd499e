"""Flags of `gaze-target`. What it does is in `stream.gaze_targets`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMOOTHINGS = ("none", "ema")  # of stream.target_smoothing


def add_gaze_target(commands: Any, *, positive: Callable[[str], float]) -> None:
    """Adds the command to `commands`."""
    text = "where other people in a video or picture look (Gaze-LLE)"
    target = commands.add_parser(
        "gaze-target",
        help=text,
        description=f"{text[0].upper()}{text[1:]}; not where its wearer looks. Weights and the form of F: "
        "docs/gaze_target.md.",
    )
    target.add_argument("path", metavar="VIDEO|IMAGE", help="any file that FFmpeg reads, or a picture")
    target.add_argument("--weights", required=True, type=Path, metavar="FILE", help="Gaze-LLE weights")
    target.add_argument("--backbone", required=True, metavar="ID", help="the DINOv2 they are for: folder or hub id")
    heads = target.add_argument_group("heads", "Without either flag the scene as a whole is asked about.")
    which = heads.add_mutually_exclusive_group()
    which.add_argument("--boxes", type=Path, metavar="F", help="head boxes by time (JSON)")
    which.add_argument(
        "--box",
        action="append",
        default=[],
        type=_box,
        metavar="X1,Y1,X2,Y2",
        help="a head, normalised, in every frame; may be repeated",
    )
    target.add_argument("--smoothing", choices=SMOOTHINGS, help="of a video's targets (default: none)")
    target.add_argument("--fps", type=positive, metavar="F", help="frames looked at a second (default: every one)")
    target.add_argument("--out", type=Path, metavar="DIR", help="write targets.json and the overlay there")
    target.add_argument("--device", metavar="DEVICE", help="cuda, cpu, ... (default: cuda when there is one)")
    target.add_argument("--offline", action="store_true", help="never ask the hub")
    target.add_argument("--json", action="store_true", help="one JSON object on stdout")
    target.set_defaults(command="gaze-target")


def _box(text: str) -> tuple[float, ...]:
    """Four numbers; whether they make a box is said where it is used."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"expected X1,Y1,X2,Y2 from 0 to 1, found {text!r}")
    return numbers
