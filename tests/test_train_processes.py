"""Several processes (gloo) against one, and a run that is killed again and again."""

from __future__ import annotations

import random
import socket
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from gazeqwen.train.state import Checkpoints, read_metrics
from tests.made_training import losses
from tests.train_worker import start, work


def finished(process: ForkServerProcess) -> None:
    process.join(timeout=280)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0


def two(out: Path, settings: dict[str, Any], **environment: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(out, settings, RANK=rank, LOCAL_RANK=rank, **shared, **environment) for rank in "01"]
    try:
        for process in ranks:
            finished(process)
    finally:
        for process in ranks:
            process.kill()


def scores(out: Path) -> list[float]:
    return [row["score"] for row in read_metrics(out) if row["event"] == "validation"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    checkpoints = Checkpoints(out, max_keep=1)
    tensors = checkpoints.load(checkpoints.steps()[-1])[1]
    return {name: tensor for name, tensor in tensors.items() if name.startswith("weight.")}


def agree(a: Path, b: Path, *, steps: int, rel: float) -> None:
    assert len(losses(a)) == steps and losses(b) == pytest.approx(losses(a), rel=rel)
    assert scores(b) == pytest.approx(scores(a))
    one, other = weights(a), weights(b)
    assert set(one) == set(other)
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_two_processes_equal_one(tmp_path: Path, sharded: bool) -> None:
    """Resampler and LoRA; the second time with the decoder layers sharded (FSDP2), which changes nothing either."""
    settings = {
        "steps": 4,
        "batch_videos": 2,
        "train": "joint",
        "model": {"dtype": "float64"},
        "forms": {"letters": 1.0, "text": 1.0},
        "videos": 3,
    }
    work(tmp_path / "one", settings)
    two(tmp_path / "two", settings, ACCELERATE_USE_FSDP=str(sharded).lower())
    assert (tmp_path / "two" / "sharded").exists() == sharded
    agree(tmp_path / "one", tmp_path / "two", steps=4, rel=1e-5)
    assert (tmp_path / "two" / "model" / "lora").is_dir() and (tmp_path / "two" / "model" / "README.md").is_file()


@pytest.mark.soak
def test_two_processes_equal_one_over_fifty_steps(tmp_path: Path) -> None:
    settings = {
        "steps": 50,
        "batch_videos": 4,
        "eval_every": 25,
        "model": {"dtype": "float64"},
        "forms": {"letters": 1.0, "likelihood": 1.0, "text": 1.0},
        "questions_per_video": 3,
    }
    work(tmp_path / "one", settings)
    two(tmp_path / "two", settings)
    agree(tmp_path / "one", tmp_path / "two", steps=50, rel=1e-5)


@pytest.mark.soak
def test_killed_at_ten_random_moments_equals_uninterrupted(tmp_path: Path) -> None:
    settings = {
        "steps": 36,
        "save_every": 3,
        "eval_every": 7,
        "train": "joint",
        "lora": {"dropout": 0.1},
        "forms": {"letters": 1.0, "likelihood": 1.0},
        "augment": [{"name": "noise", "params": {"sd_norm": 0.05}}],
        "null_gaze": 0.2,
    }
    work(tmp_path / "whole", settings)
    moments, out = random.Random(0), tmp_path / "killed"
    for kill in range(10):
        process = start(out, {**settings, "pause_s": 0.05})  # slow enough for ten kills to find it at work
        reached = len(losses(out)) if kill else 0
        while process.is_alive() and not (out / "metrics.jsonl").exists():
            time.sleep(0.01)
        while process.is_alive() and len(losses(out)) <= reached < 33:
            time.sleep(0.01)  # till it does a step that the one before did not: it is killed in the loop, or in a save
        time.sleep(moments.uniform(0.0, 0.1))
        assert process.is_alive(), f"it was done before kill {kill + 1}"
        process.kill()
        process.join()
    finished(start(out, settings))
    assert losses(out) == losses(tmp_path / "whole") and scores(out) == scores(tmp_path / "whole")
    one, other = weights(tmp_path / "whole"), weights(out)
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-6)
