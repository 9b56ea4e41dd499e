"""`gazeqwen train`: a run, its dry run, or the check that eight questions can be learned by heart.

The data's reader comes from the caller (`cli.py`), because this package knows no file format.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train.config import TrainConfig, load_config

Opener = Callable[..., Any]  # benchmarks.streamgaze.training.open_source


def command(arguments: argparse.Namespace, open_source: Opener) -> int:
    """Runs one of the three; returns the exit code (1: `--overfit` did not reach 100 %)."""
    config = load_config(arguments.config, arguments.set)
    # transformers renames its own arguments and says so at each use; nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if arguments.dry_run == "meta":
        from gazeqwen.train.plan import meta_plan, plan_text

        return _print(arguments, found := meta_plan(config), plan_text(found))
    if not config.data.train:
        raise InputError("data.train", expected="a folder of training data", found="none", fix="--set data.train=DIR")
    from gazeqwen.train.augment import build_augmentations
    from gazeqwen.train.loop import Trainer, new_accelerator
    from gazeqwen.train.losses import build_loss
    from gazeqwen.train.setup import build

    for loss in config.losses:  # names and parameters, before a model is loaded for them
        build_loss(loss.name, loss.params)
    build_augmentations([{"name": item.name, "params": item.params} for item in config.augment])

    quiet = bool(arguments.dry_run or arguments.overfit)
    config = replace(config, trackers=()) if quiet else config
    accelerator = new_accelerator(config)
    main = accelerator.is_main_process
    prepared = build(config, device=config.model.device or accelerator.device)
    training, validation = _sources(config, open_source)
    for source in (training, validation) if main else ():
        for note in getattr(source, "notes", ()):
            _note(f"note: {note}")
    if arguments.overfit:
        from gazeqwen.train.overfit import overfit

        found = overfit(config, prepared, training, arguments.overfit, accelerator=accelerator, report=_note)
        return (_print(arguments, found, found["text"]) if main else 0) or int(not found["learned"])
    report = None if quiet or not main else _Bar(config)
    trainer = Trainer(config, prepared, training, validation, accelerator=accelerator, report=report)
    if arguments.dry_run:
        from gazeqwen.train.plan import plan, plan_text

        found = plan(trainer)
        return _print(arguments, found, plan_text(found)) if main else 0
    from gazeqwen.train.result import write_result

    try:
        outcome = trainer.run()
    finally:
        if report is not None:
            report.close()
    folder = write_result(trainer, outcome, command=_command())
    for source in (training, validation) if main else ():
        counts = getattr(source, "cache_counts", dict)()
        for name in ("damaged_files", "unwritten_files"):
            if counts.get(name):
                _note(f"note: cache of frozen features: {counts[name]} {name.replace('_', ' ')}")
    found = {
        "model": str(folder),
        "step": outcome.progress.step,
        "best_step": outcome.progress.best_step,
        "score": outcome.progress.best,
        "validation": outcome.validation,
        "seconds": outcome.seconds,
    }
    return _print(arguments, found, _told(found)) if main else 0


def _sources(config: TrainConfig, open_source: Opener) -> tuple[Any, Any]:
    data = config.data
    options: dict[str, Any] = {
        "tasks": data.tasks,
        "cache": Path(data.cache) if data.cache else None,
        "gaze_input": data.gaze_input,
    }
    folder = Path(data.train)
    if not data.split:
        other = open_source(Path(data.validation), **options) if data.validation else None
        return open_source(folder, **options), other
    if data.validation:
        raise ConfigError("data: either validation (another folder) or split (a file about one folder), not both")
    split = Path(data.split)
    return open_source(folder, split=(split, "train"), **options), open_source(
        folder, split=(split, "validation"), **options
    )


def _command() -> tuple[str, ...]:
    return ("gazeqwen", *sys.argv[1:])


def _print(arguments: argparse.Namespace, found: Mapping[str, Any], text: str) -> int:
    from gazeqwen.types import plain_json

    sys.stdout.write((json.dumps(plain_json(found)) if arguments.json else text) + "\n")
    return 0


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


def _told(found: Mapping[str, Any]) -> str:
    lines = [f"model       {found['model']}", f"steps       {found['step']}"]
    if found["validation"]:
        lines[1] += f", the weights of step {found['best_step']}"
        lines += [f"{name:<12}{_result(result)}" for name, result in found["validation"].items()]
    else:
        lines.append("validation  none: the weights are the last ones")
    return "\n".join(lines)


def _result(result: Mapping[str, Any]) -> str:
    said = []
    if result["macro"] is not None:
        n = sum(result["n"].values())
        said.append(f"{100 * result['macro']:.1f} % macro over {len(result['n'])} tasks, {n} questions")
    if result["text_nll"] is not None:
        said.append(f"free text {result['text_nll']:.3f} nats a token")
    return ", ".join(said)


class _Bar:
    """A bar on a terminal; elsewhere (a log file) a line every `log_every` steps. Both on stderr."""

    def __init__(self, config: TrainConfig) -> None:
        self.every = config.log_every
        self.terminal = sys.stderr is not None and sys.stderr.isatty() and "TERM" in os.environ
        self._bar: Any = None

    def __call__(self, row: Mapping[str, Any]) -> None:
        if row["event"] == "validation":
            for name, result in row["arms"].items():
                self._line(f"validation at {row['step']}: {name} {_result(result)}")
            return
        accuracy = "" if row["accuracy"] is None else f"{100 * row['accuracy']:.0f} %"
        if self.terminal:
            from tqdm import tqdm

            if self._bar is None:
                self._bar = tqdm(
                    total=row["total"], initial=row["step"] - 1, desc="training", unit="step", dynamic_ncols=True
                )
            self._bar.update(1)
            self._bar.set_postfix_str(f"loss {row['loss']:.3f} {accuracy}")
        elif row["step"] % self.every == 0 or row["step"] == row["total"]:
            self._line(
                f"step {row['step']}/{row['total']} loss {row['loss']:.4f} right {accuracy or '-'} "
                f"lr {row['lr']:.2e} {row['questions_per_s']:.1f} questions/s"
            )

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            _note(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
