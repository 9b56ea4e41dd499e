"""A training run on made-up data in a process of its own, for tests of several processes and of one that is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from gazeqwen.train.loop import Trainer
from gazeqwen.train.result import write_result
from gazeqwen.train.setup import build
from tests.made_training import MadeSource, made_config


def work(out: Path, settings: Mapping[str, Any]) -> None:
    """Trains in this process. Besides keys of a config: `videos` (6), `text` (true), `pause_s` after each row (0)."""
    given = dict(settings)
    pause_s, videos, text = given.pop("pause_s", 0.0), given.pop("videos", 6), given.pop("text", True)
    config = made_config(out, **given)
    trainer = Trainer(
        config,
        build(config),
        MadeSource(videos, text=text),
        MadeSource(3, name="other"),
        report=lambda row: time.sleep(pause_s),
    )
    outcome = trainer.run()
    write_result(trainer, outcome)
    if trainer.sharded:
        (out / "sharded").touch()


def start(out: Path, settings: Mapping[str, Any], **environment: str) -> ForkServerProcess:
    """The same in another process, forked from a server that has imported everything: a second, not ten."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.train_worker", "peft", "transformers.models.qwen2_5_vl"])
    process = context.Process(target=_work_there, args=(out, settings, environment))
    process.start()
    return process


def _work_there(out: Path, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    os.environ.update({"ACCELERATE_USE_CPU": "true", **environment})
    torch.set_num_threads(1)
    work(out, settings)
