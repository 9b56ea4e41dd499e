"""Makes the embedded model from nothing: `make tiny`, or `python -m benchmarks.tiny --work runs/tiny`.

    vision ─► seeing ─┐
    reading ──────────┼► tuning ─► assemble ─► features ─► inject, null ─► ship
    vision ─► vjepa ──┘

Each is a command of its own that goes on where it was stopped, so this one does, too. Two run side by side, with one
thread each. What a command prints goes to WORK/NAME.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import run_command
from gazeqwen.errors import InputError


@dataclass(frozen=True)
class Stage:
    """One command. `after`: names of those that must be done."""

    name: str
    module: str
    flags: tuple[str, ...]
    after: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", f"benchmarks.tiny.{self.module}", *self.flags]


def stages(work: Path, *, seed: int) -> tuple[Stage, ...]:
    """All of them, so that each comes after what it needs."""
    language, vision, vjepa = work / "language", work / "vision", work / "vjepa"
    model, runs = work / "model", work / "stage_one"
    told = ("--seed", str(seed))
    read = ("--out", str(language), *told)
    parts = ("--language", str(language / "language.safetensors"), "--visual", str(vision / "visual.pt"))
    trained = ("--model", str(model), "--out", str(runs), *told)
    return (
        Stage("vision", "vision_training", ("--out", str(vision), *told)),
        Stage("reading", "language", read),
        Stage("vjepa", "vjepa_training", ("--out", str(vjepa), *told), after=("vision",)),
        Stage("seeing", "language", (*read, "--visual", str(vision / "visual.pt"), "--see"), after=("vision",)),
        Stage("tuning", "language", (*read, "--visual", str(vision / "visual.pt")), after=("seeing", "reading")),
        Stage(
            "assemble",
            "assemble",
            (*parts, "--vjepa", str(vjepa / "vjepa.safetensors"), "--out", str(model)),
            after=("tuning", "vjepa"),
        ),
        Stage("features", "stage_one", (*trained, "--fill", "2"), after=("assemble",)),
        Stage("inject", "stage_one", trained, after=("features",)),
        Stage("null", "stage_one", (*trained, "--arm", "null"), after=("features",)),
        Stage(
            "ship",
            "ship",
            (
                *("--inject", str(runs / "inject" / "model"), "--null", str(runs / "null" / "model" / "arms" / "null")),
                *("--out", str(work / "tiny")),
            ),
            after=("inject", "null"),
        ),
    )


def make(work: Path, planned: Sequence[Stage], *, side_by_side: int = 2) -> None:
    """Runs the stages, at most so many at a time. Those done before say so quickly: each looks at its own files.

    Raises:
        InputError: one of them failed; the others are stopped first. `work` can't be written.
    """
    done: set[str] = set()
    running: dict[str, tuple[subprocess.Popen, float]] = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    try:
        work.mkdir(parents=True, exist_ok=True)
        while len(done) < len(planned):
            for stage in planned:
                ready = stage.name not in done and stage.name not in running and done.issuperset(stage.after)
                if ready and len(running) < side_by_side:
                    with (work / f"{stage.name}.txt").open("ab") as told:
                        process = subprocess.Popen(stage.command, stdout=told, stderr=told, env=environment)
                    running[stage.name] = (process, time.monotonic())
                    _say(f"{stage.name:10} started, {work / f'{stage.name}.txt'}")
            time.sleep(0.2)
            for name, (process, started) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                if process.returncode:
                    raise InputError(f"benchmarks.tiny {name}", expected="a stage that ends", found=_last(work, name))
                done.add(name)
                _say(f"{name:10} done in {(time.monotonic() - started) / 60:.1f} minutes")
    except OSError as error:
        raise InputError(work, expected="room to work in", found=error.strerror or str(error)) from error
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _last(work: Path, name: str) -> str:
    lines = (work / f"{name}.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"), help="folder of all that is made")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options.work, seed=options.seed))


def _run(work: Path, *, seed: int) -> str:
    make(work, stages(work, seed=seed))
    return f"the model as it ships: {work / 'tiny'}"


if __name__ == "__main__":
    sys.exit(main())
