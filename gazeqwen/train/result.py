"""The end of a run: its model as a folder, with card, settings and results, put in place at once."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gazeqwen.info import PACKAGES, _version
from gazeqwen.train.card import Facts, write_card
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.evaluate import evaluated
from gazeqwen.train.loop import Outcome, Trainer, result_folder
from gazeqwen.train.plan import trainable_by_module
from gazeqwen.train.setup import Prepared, build, write
from gazeqwen.train.state import restore_tensors

_STAGE = {"resampler": "stage one", "lora": "stage two", "joint": "both stages at once"}


def write_result(trainer: Trainer, outcome: Outcome, *, command: Sequence[str] = ()) -> Path:
    """Writes OUT/model on the main process; the trainer's model is used up by it.

    Raises:
        InputError: it can't be written. The checkpoints stand; the same command goes on here.
    """
    folder = result_folder(trainer.config)
    if trainer.accelerator.is_main_process:
        step = outcome.progress.kept_step
        facts = _facts(trainer, outcome, step, command)
        staging = folder.with_name(f".{folder.name}")
        for left in (staging, staging.with_name(f"{staging.name}.arm")):
            shutil.rmtree(left, ignore_errors=True)
        trained = (
            f"{_STAGE[trainer.config.train]} on {facts.questions} questions of {len(facts.training)} videos "
            f"(arm {trainer.config.arm}, step {step}, seed {trainer.config.seed})"
        )
        write(_whole(trainer, step), trainer.config, staging, trained=trained)
        write_card(staging, trainer.config, facts)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def _facts(trainer: Trainer, outcome: Outcome, step: int, command: Sequence[str]) -> Facts:
    model, training = trainer.model, trainer.training
    validation = trainer.validation
    shown = [] if validation is None else evaluated(validation, trainer.config.eval_videos)
    return Facts(
        steps=outcome.progress.step,
        best_step=step,
        questions=sum(training.counts),
        trainable=trainable_by_module(trainer.parameters),
        training=[training.ids[index] for index in evaluated(training, 0)],
        validation=[validation.ids[index] for index in shown] if validation is not None else [],
        results=outcome.validation,
        base=trainer.prepared.began.base or trainer.prepared.began.name,
        vjepa=model.config.vjepa_weights,
        command=command,
        earlier=trainer.prepared.earlier,
        versions={name: _version(name) for name in PACKAGES},
    )


def _whole(trainer: Trainer, step: int) -> Prepared:
    """The trained model on one process, with weights that can be saved: sharded and quantised ones are loaded anew."""
    quantised = getattr(trainer.model.backbone.bare, "is_quantized", False) and not trainer.prepared.began.base
    if not (trainer.sharded or quantised):
        return trainer.prepared
    config: TrainConfig = trainer.config
    settings = replace(config.model, quantization=None if quantised else config.model.quantization)
    prepared = build(replace(config, model=settings), device="cpu")
    _, tensors = trainer.checkpoints.load(step)
    restore_tensors(tensors, prepared.parameters(), None, source=trainer.checkpoints.path(step))
    return prepared
