"""Stage one of the embedded model on worlds: `python -m benchmarks.tiny.stage_one --model DIR --out DIR [--arm null]`.

`gazeqwen train` on worlds that are made, not read: the trainer and what it writes are the same, the settings those of
the evidence (`benchmarks.evidence.training`). The backbone is frozen; residuals learn to say where the tracker's noisy
gaze was.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.commands import run_command
from benchmarks.evidence.plan import FULL, TRAININGS
from benchmarks.evidence.run import Evidence
from benchmarks.evidence.training import training_config
from benchmarks.tiny.world_source import WorldSource
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.loop import Trainer
from gazeqwen.train.result import write_result
from gazeqwen.train.setup import build


def stage_one(config: TrainConfig, training: WorldSource, validation: WorldSource) -> Path:
    """Trains one arm, or goes on; returns the folder of the model (of inject) that holds the weights.

    Raises:
        InputError, ConfigError: as `Trainer`.
    """
    trainer = Trainer(config, build(config), training, validation)
    return write_result(trainer, trainer.run(), command=sys.argv)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tiny.stage_one", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="of benchmarks.tiny.assemble")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; its worlds are kept there")
    parser.add_argument("--arm", choices=("inject", "null"), default="inject")
    parser.add_argument("--worlds", type=int, default=FULL.training_worlds)
    parser.add_argument("--validation-worlds", type=int, default=FULL.validation_worlds)
    parser.add_argument("--steps", type=int, default=FULL.steps)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fill", type=int, default=0, metavar="N", help="make features only, in N processes")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> str:
    """Trains as the flags say; tells the folder and the validation accuracy."""
    plan = replace(
        FULL, steps=options.steps, training_worlds=options.worlds, validation_worlds=options.validation_worlds
    )
    made = Evidence(plan, options.out, model=str(options.model), processes=options.fill or 1)
    if options.fill:
        made.fill("worlds", made.lessons())
        return str(options.out / "worlds")
    config = training_config(
        plan,
        TRAININGS[options.arm],
        model=str(options.model),
        out=options.out / options.arm,
        rate=options.lr,
        seed=options.seed,
    )
    folder = stage_one(config, *made.lessons())
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return f"{folder}\n{json.dumps(results.get('validation', results))}"


if __name__ == "__main__":
    sys.exit(main())
