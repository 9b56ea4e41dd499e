"""No question sees the future: whatever frames, gaze samples and fixations come after it, its log-probabilities keep
every bit. And the test can fail: the same change just before the question moves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.protocols import ModelProtocol, answered, build_protocol
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.work import Settings
from tests.made_steps import moved_tiny
from tests.streamgaze_data import FPS, make_dataset

PROTOCOLS = ("stream", "official", "streamgaze")
BEFORE_S = 1.5  # how much of the past is altered to see that it counts
MADE: dict[str, Any] = {"videos": 1, "seconds": 5.0, "crf": 0}  # lossless: a frame does not depend on later ones


def noise(time_s: float) -> np.ndarray:
    return np.random.default_rng(round(time_s * 1000)).integers(0, 256, (112, 112, 3), dtype=np.uint8)


def altered(folder: Path, change: Callable[[float], bool]) -> Path:
    """The same data with every frame, gaze sample and fixation whose time is to be changed made something else."""

    def gaze(rows: np.ndarray) -> np.ndarray:
        hit = np.array([change(t) for t in rows[:, 0]])
        rows[hit, 1:] = np.random.default_rng(1).uniform(0, 1, (int(hit.sum()), 2))
        return rows

    def fixations(rows: np.ndarray) -> np.ndarray:
        hit = np.array([change(t) for t in rows[:, 0]])
        rows[hit, 2:] = np.random.default_rng(2).uniform(0, 1, (int(hit.sum()), 2))
        return rows

    return make_dataset(
        folder,
        **MADE,
        alter_frame=lambda time_s, image: noise(time_s) if change(time_s) else image,
        alter_gaze=gaze,
        alter_fixations=fixations,
    )


def protocol_of(data: Path, name: str, **options: Any) -> ModelProtocol:
    # Letters under every protocol: generated text has no log-probabilities.
    settings = Settings(protocol=name, scoring="letters", **options)
    found = build_protocol(Dataset.open(data), settings, moved_tiny(), {}, None)
    assert isinstance(found, ModelProtocol)
    return found


def logprobs(data: Path, name: str, sample: Sample, **options: Any) -> list[float]:
    (row,) = answered(protocol_of(data, name, **options), sample.video, [sample])
    assert row["status"] == "ok", row["reason"]
    assert row["steps"] > 0
    return list(row["logprobs"].values())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("original"), **MADE)


@pytest.fixture(scope="module")
def others(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[float, bool], Path]]:
    """Datasets altered after a time, or in the last seconds before it; each made once."""
    made: dict[tuple[float, bool], Path] = {}

    def of(t_s: float, past: bool) -> Path:
        if (t_s, past) not in made:
            change = (lambda t: t_s - BEFORE_S < t <= t_s) if past else (lambda t: t > t_s)
            made[t_s, past] = altered(tmp_path_factory.mktemp("altered"), change)
        return made[t_s, past]

    yield of


def sample_of(data: Path, task: str) -> Sample:
    """The task's first question, or its second point."""
    return Dataset.open(data).samples((task,))[1 if TASKS[task].proactive else 0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("task", "gaze_input"), [*((task, "samples") for task in TASKS), ("GSM", "fixations"), ("GTA", "fixations")]
)
def test_nothing_later_than_the_question_reaches_it(
    original: Path, others: Callable[[float, bool], Path], task: str, protocol: str, gaze_input: Any
) -> None:
    sample = sample_of(original, task)
    assert sample.t_s < MADE["seconds"] - 1  # there is a future
    alone = logprobs(original, protocol, sample, gaze_input=gaze_input)
    assert logprobs(others(sample.t_s, False), protocol, sample, gaze_input=gaze_input) == alone
    assert logprobs(others(sample.t_s, True), protocol, sample, gaze_input=gaze_input) != alone


def test_refilled_windows_and_budgets_see_no_future_either(
    original: Path, others: Callable[[float, bool], Path]
) -> None:
    sample = sample_of(original, "OAR")
    for options in ({"window": "refill"}, {"max_frames": 4}, {"arm": "marker"}, {"arm": "heatmap"}, {"arm": "text"}):
        alone = logprobs(original, "stream", sample, **options)
        assert logprobs(others(sample.t_s, False), "stream", sample, **options) == alone
        assert logprobs(others(sample.t_s, True), "stream", sample, **options) != alone


def test_the_altered_video_is_the_original_up_to_the_question(
    original: Path, others: Callable[[float, bool], Path]
) -> None:
    """What the bits above rest on: lossless coding, so that only the future differs."""
    t_s = sample_of(original, "SR").t_s
    pair = [Dataset.open(folder).recording("clip-0.mp4") for folder in (original, others(t_s, False))]
    one, other = ([step.vjepa_frames for step in recording.steps(vjepa_fps=FPS)] for recording in pair)
    first, second = np.concatenate(one), np.concatenate(other)
    same = int(t_s * FPS) + 1
    assert np.array_equal(first[:same], second[:same])
    assert not (first[same:] == second[same:]).all(axis=(1, 2, 3)).any()
