"""A run that is killed again and again, and shared out anew each time, ends with the rows of one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.streamgaze import report
from benchmarks.streamgaze.records import prediction_files, read_run
from tests.streamgaze_data import make_dataset
from tests.test_run import assert_same

KILLS = 20
FLAGS = ("--no-cache", "--tasks", "OTP", "FAP", "OI-E", "GTA")


def start(data: Path, out: Path, *flags: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gazeqwen", "eval", "streamgaze", "--data", str(data), "--out", str(out)]
    return subprocess.Popen(
        [*command, *FLAGS, *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
    )


def finish(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        _, told = process.communicate(timeout=500)
        assert process.returncode == 0, told


def rows_written(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in prediction_files(out)) if out.is_dir() else 0


def kill_at(processes: Sequence[subprocess.Popen[str]], out: Path, rows: int, wait_s: float) -> int:
    """Kills them `wait_s` after the run has so many rows; how many were still alive."""
    while rows_written(out) < rows and any(process.poll() is None for process in processes):
        time.sleep(0.005)
    time.sleep(wait_s)
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    return len(alive)


def test_killed_twenty_times(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", videos=12, seconds=8.0, points=3)
    whole, out = tmp_path / "whole", tmp_path / "run"
    finish(start(data, whole))
    total = len(read_run(whole).samples)
    assert total == 12 * (3 + 3)
    dice, killed = random.Random(20), 0
    while killed < KILLS:
        # Some before the first row, some in the middle of one, some while the model loads again.
        # The last kill comes well before the end, however fast the model is.
        target = int(0.8 * total * killed / KILLS) + dice.randint(-2, 2)
        count = dice.choice([1, 1, 2, 3])
        wait_s = dice.uniform(0, 1.0 if rows_written(out) >= target else 0.1)
        shards = [start(data, out, "--shard", f"{index + 1}/{count}") for index in range(count)]
        ended = kill_at(shards, out, target, wait_s)
        assert ended, "the run was done before it was killed often enough"
        killed += ended
    finish(start(data, out))
    assert not read_run(out).missing
    assert_same(read_run(out).predictions, read_run(whole).predictions)
    tables = [report.json_report(read_run(folder))["tasks"] for folder in (whole, out)]
    assert tables[0] == tables[1]
    before = {file: file.read_bytes() for file in out.iterdir()}
    finish(start(data, out))
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_processes_of_a_launcher_share_a_run(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", videos=4, seconds=6.0, points=2)
    whole, out = tmp_path / "whole", tmp_path / "run"
    finish(start(data, whole))
    finish(*(start(data, out, RANK=str(rank), WORLD_SIZE="3") for rank in range(3)))
    assert len(prediction_files(out)) == 3
    assert_same(read_run(out).predictions, read_run(whole).predictions)


pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
