"""Makes the embedded model's language model: `python -m benchmarks.tiny.language --out WORK [--visual visual.pt]`.

    worlds ─► reading (on symbols) ─► reading.safetensors
    reading + vision tower ─► tuning (on what the tower sees) ─► language.safetensors

The second half needs `--visual`, the weights of `benchmarks.tiny.vision_training`, and is short: both halves were
trained on the same symbols. Either goes on where it was stopped, and is left alone once it is done.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.commands import run_command
from benchmarks.tiny.files import load_state, write_bytes
from benchmarks.tiny.lessons import Lessons
from benchmarks.tiny.pretraining import Mix, PretrainingSettings, init_language, pretrain
from benchmarks.tiny.seeing import SeenWorlds
from benchmarks.tiny.symbol_worlds import SymbolWorld, symbol_worlds
from gazeqwen.backbone import Backbone
from gazeqwen.errors import InputError
from gazeqwen.tiny import build_tiny_vlm, tiny_tokenizer
from gazeqwen.tiny.symbols import symbol_table
from gazeqwen.tiny.world import PRETRAINING_SEEDS, VALIDATION_SEEDS
from gazeqwen.weight_files import read_weights

PER_TASK = 8
TUNING_WORLDS = 400
TUNING = PretrainingSettings(
    steps=1500,
    lr=4e-4,
    warmup=50,
    hold=0.3,
    mixes=(Mix(1.0, probe=0.2, name=0.05, choose=0.15, brief=0.1, question=0.5),),
    letters_from=0.0,
    probe_growth=(-1.0, 0.0),  # the longest from the start
    question_growth=(-1.0, 0.0),
    row_tokens={"name": 1200, "recall": 2000, "probe": 2000, "choose": 2000, "brief": 2400, "question": 3000},
)


def make_language(
    out: Path,
    worlds: Sequence[SymbolWorld],
    held_out: Sequence[SymbolWorld],
    *,
    reading: PretrainingSettings,
    visual: Path | None = None,
    tuning: PretrainingSettings = TUNING,
    tuning_worlds: int = TUNING_WORLDS,
) -> Path:
    """Trains what is not there yet and returns its file: language.safetensors, without `visual` reading.safetensors.
    Each file says what made it.

    Args:
        visual: weights of the vision tower.
        tuning_worlds: so many of `worlds` are drawn and seen for the second half.

    Raises:
        InputError: a checkpoint or the tower's weights are damaged or of another shape; files in `out` were made with
            other settings.
    """
    lessons, table = Lessons(tiny_tokenizer()), symbol_table()
    vlm = build_tiny_vlm()
    read, run = out / "reading.safetensors", _run(asdict(reading), [world.seed for world in worlds])
    if not _kept(read, run):
        init_language(vlm, lessons, table, seed=reading.seed)
        pretrain(vlm, worlds, lessons, reading, out / "reading", held_out=held_out)
        write_bytes(read, save(_language_of(vlm), metadata={"run": run}))
    if visual is None:
        return read
    made = out / "language.safetensors"
    run = _run(run, asdict(tuning), tuning_worlds, hashlib.sha256(_content(visual)).hexdigest())
    if not _kept(made, run):
        put_language(vlm, read)
        sight = see(out, [*worlds[:tuning_worlds], *held_out], visual)
        put_tower(vlm, visual)
        pretrain(
            vlm, worlds[:tuning_worlds], lessons, tuning, out / "tuning", held_out=held_out, eval_every=250, sight=sight
        )
        write_bytes(made, save(_language_of(vlm), metadata={"run": run}))
    return made


def see(out: Path, worlds: Sequence[SymbolWorld], visual: Path) -> SeenWorlds:
    """Worlds as the trained tower sees them, kept in out/seen.

    Raises:
        InputError: the tower's weights are damaged or of another shape; `out` can't be written.
    """
    vlm = build_tiny_vlm()
    put_tower(vlm, visual)
    return SeenWorlds(worlds, Backbone(vlm), out / "seen")


def _language_of(vlm: Any) -> dict[str, Tensor]:
    """All weights but the tower's; the head is the embedding's."""
    return {
        name: tensor.detach().clone().contiguous()
        for name, tensor in vlm.state_dict().items()
        if ".visual." not in name and name != "lm_head.weight"
    }


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(path, expected="weights of the vision tower", found=error.strerror or str(error)) from error


def put_language(vlm: Any, path: Path) -> None:
    """Replaces all weights but the tower's. Raises InputError where they do not fit, or are not there."""
    _put(vlm, read_weights(path), path)


def put_tower(vlm: Any, path: Path) -> None:
    """Replaces the tower's weights. Raises InputError where they do not fit, or are not there."""
    weights = load_state(path, expected="weights of the vision tower")
    if not isinstance(weights, dict):
        raise InputError(path, expected="weights of the vision tower", found="none")
    _put(vlm, {f"model.visual.{name}": tensor for name, tensor in weights.items()}, path)


def _put(vlm: Any, weights: dict[str, Tensor], source: Path) -> None:
    """Replaces the tower's weights, or all others; strictly."""
    tower = any(".visual." in name for name in weights)
    wanted = {name for name in vlm.state_dict() if (".visual." in name) == tower and name != "lm_head.weight"}
    try:
        vlm.load_state_dict(weights, strict=False)
        odd = sorted(wanted ^ set(weights))
    except RuntimeError:
        odd = ["another shape"]
    if odd:
        raise InputError(source, expected="weights of the embedded model", found=f"{odd[0]} amiss, {len(odd)} in all")


def _kept(path: Path, run: str) -> bool:
    """Whether the file is there, made by this run.

    Raises:
        InputError: it was made by another one.
    """
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get("run")
    except (OSError, SafetensorError) as error:
        raise InputError(path, expected="weights", found="a damaged file", fix="delete it") from error
    if told != run:
        raise InputError(
            path,
            expected="weights made with these settings",
            found="others",
            fix="delete them, or choose another --out",
        )
    return True


def _run(*told: object) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny.language", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for worlds, logs, checkpoints and weights")
    parser.add_argument("--visual", type=Path, help="weights of the vision tower; without them only the first half")
    parser.add_argument("--worlds", type=int, default=5000)
    parser.add_argument("--held-out-worlds", type=int, default=64)
    parser.add_argument("--steps", type=int, default=PretrainingSettings().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="that make worlds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--see", action="store_true", help="only draw and see the worlds of the second half")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    return run_command(lambda: _make(options))


def _make(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)

    def made(first: int, count: int) -> list[SymbolWorld]:
        return symbol_worlds(
            range(first, first + count),
            per_task=PER_TASK,
            folder=options.out / "worlds",
            processes=options.processes,
        )

    if options.see:
        if options.visual is None:
            raise InputError("--see", expected="--visual with weights of the vision tower", found="none")
        shown = made(PRETRAINING_SEEDS, min(options.worlds, TUNING_WORLDS))
        see(options.out, [*shown, *made(VALIDATION_SEEDS, options.held_out_worlds)], options.visual)
        return
    make_language(
        options.out,
        made(PRETRAINING_SEEDS, options.worlds),
        made(VALIDATION_SEEDS, options.held_out_worlds),
        reading=PretrainingSettings(steps=options.steps, seed=options.seed),
        visual=options.visual,
    )


if __name__ == "__main__":
    sys.exit(main())
