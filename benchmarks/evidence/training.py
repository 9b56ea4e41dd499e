"""One training cell: `gazeqwen train` on worlds, its adapter kept, its run folder removed.

OUT/trained/NAME/seed-K-lr-RATE/     model.safetensors (the resampler) or lora/, and training.json
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.evidence.plan import ALL_LORA, TRAININGS, Plan, Training
from benchmarks.streamgaze.feature_cache import model_fingerprint
from benchmarks.tiny.files import round_weights, write_bytes
from benchmarks.tiny.world_source import WorldSource
from gazeqwen.arms import get_arm
from gazeqwen.errors import InputError
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.loop import Trainer
from gazeqwen.train.setup import build, write_arm
from gazeqwen.types import plain_json

FORMS = {"letters": 0.5, "likelihood": 0.4, "text": 0.1}
TOLD = "training.json"


def training_config(plan: Plan, training: Training, *, model: str, out: Path, rate: float, seed: int) -> TrainConfig:
    """The settings of a training cell; those of `make tiny`'s stage one are the first seed's of inject and null."""
    arm = get_arm(training.arm)
    return TrainConfig.from_dict(
        {
            "out": str(out),
            "train": "resampler" if arm.inject else "lora",
            "arm": training.arm,
            "seed": seed,
            "model": {"path": model, "overrides": dict(training.overrides)},
            "lora": {"rank": 8, "alpha": 16.0, "targets": ALL_LORA},
            "forms": FORMS,
            "null_gaze": plan.null_gaze if arm.inject and arm.gaze_reaches else 0.0,
            "optimizer": {"lr": rate, "warmup_steps": 20, "final_lr": 0.02},
            "batch_videos": plan.batch_videos,
            "questions_per_video": plan.questions_per_video,
            "steps": plan.steps,
            "eval_every": max(1, plan.steps // 3),
            "max_keep": 1,
            "trackers": [],
        }
    )


def sources(plan: Plan, cache: Path) -> tuple[WorldSource, WorldSource]:
    """Training and validation worlds."""
    return (
        WorldSource(plan.training_seeds, per_task=plan.per_task, duration_s=plan.duration_s, cache=cache),
        WorldSource(plan.validation_seeds, per_task=plan.per_task, duration_s=plan.duration_s, cache=cache),
    )


def train_cell(plan: Plan, name: str, *, model: str, out: Path, rate: float, seed: int) -> dict[str, Any]:
    """Trains, or goes on, or finds it done; returns what training.json tells: settings and validation accuracy.

    Raises:
        InputError, ConfigError: as `Trainer`; what is there was made with other settings.
    """
    training = TRAININGS[name]
    place = out / "trained" / name / f"seed-{seed}-lr-{rate:g}"
    run = out / "runs" / f"{name}-seed-{seed}-lr-{rate:g}"
    config = training_config(plan, training, model=model, out=run, rate=rate, seed=seed)
    worlds, held_out = sources(plan, out / "worlds")
    prepared = build(config)
    told = read_told(place)
    identity = {key: value for key, value in plain_json(config.identity()).items() if key not in ("out", "model.path")}
    identity |= {"model": model_fingerprint(prepared.model)}
    identity |= {"worlds": worlds.identity, "held_out": held_out.identity}
    if told is not None:
        if told["settings"] != identity:
            raise InputError(
                place, expected="an arm trained with these settings", found="others", fix="choose another --out"
            )
        return told
    trainer = Trainer(config, prepared, worlds, held_out)
    outcome = trainer.run()
    staging = place.with_name(f".{place.name}")
    shutil.rmtree(staging, ignore_errors=True)
    write_arm(trainer.model, config, staging)
    for path in staging.rglob("*.safetensors"):
        round_weights(path)  # what answers is what is kept
    told = plain_json(
        {
            "name": name,
            "arm": training.arm,
            "seed": seed,
            "rate": rate,
            "settings": identity,
            "validation": outcome.validation[training.arm],
            "step": outcome.progress.kept_step,
            "seconds": round(outcome.seconds, 1),
            "trainable": sum(parameter.numel() for parameter in trainer.parameters.values()),
        }
    )
    write_bytes(staging / TOLD, (json.dumps(told, indent=1) + "\n").encode())
    staging.rename(place)
    shutil.rmtree(run, ignore_errors=True)
    return told


def read_told(place: Path) -> dict[str, Any] | None:
    """training.json of a trained arm; None where there is none.

    Raises:
        InputError: a damaged one.
    """
    path = place / TOLD
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told["settings"], dict):
            raise TypeError("settings")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            path, expected="what tells of a trained arm", found="a damaged file", fix="delete its folder"
        ) from error
    return told
