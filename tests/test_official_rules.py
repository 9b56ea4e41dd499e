"""GazeQwen's windows and frames, beyond the golden numbers: against torch, on uneven video, and never in the future."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze.official_rules import (
    official_frame_count,
    official_frame_rows,
    official_window,
    spread,
)
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.errors import InputError


@settings(deadline=None)
@given(total=st.integers(2, 40_000), share=st.floats(0, 1))
def test_spread_is_torchs_linspace_rounded(total: int, share: float) -> None:
    taken = min(total, 2 + 2 * round(share * 20))
    assert spread(total, taken).tolist() == torch.linspace(0, total - 1, taken).round().long().tolist()


def test_every_task_has_its_window_under_each_of_its_names() -> None:
    for task in TASKS.values():
        start_s = 40.0 if task.group == "present" else 0.0
        assert official_window(task.name, 100) == official_window(task.key, 100) == (start_s, 100.0)
    assert official_window("OI-E", 30) == (0.0, 30.0)
    assert official_window("GTA", 30, (10, 25)) == (10.0, 25.0) and official_window("GTA", 0) == (0.0, 1.0)


def test_eight_frames_over_a_minute_and_over_a_long_past() -> None:
    times = np.arange(0, 400, 1 / 24)
    rows = official_frame_rows(times, 100.0, 160.0)
    assert len(rows) == 8 and times[rows[0]] == pytest.approx(100.0) and times[rows[-1]] == pytest.approx(160 - 1 / 24)
    rows = official_frame_rows(times, 0.0, 90.0, None)
    # 18 frames at 0.2 a second, each the one on display just before the middle of its five seconds
    middle_s = 5.0 * np.arange(18) + 2.5
    assert len(rows) == 18 and ((times[rows] < middle_s) & (times[rows] > middle_s - 0.05)).all()


@settings(deadline=None)
@given(
    seed=st.integers(0, 50),
    start_s=st.floats(0, 300),
    length_s=st.floats(0, 400),
    max_frames=st.sampled_from([2, 8, None]),
)
def test_rows_lie_in_the_window_in_order_and_fill_steps(
    seed: int, start_s: float, length_s: float, max_frames: int | None
) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.01, 0.2, 5000))  # about 500 s
    end_s = start_s + length_s
    try:
        rows = official_frame_rows(times, start_s, end_s, max_frames)
    except InputError:
        assert not ((times >= start_s) & (times <= end_s)).any()
        return
    assert (np.diff(rows) >= 0).all() and len(rows) <= (768 if max_frames is None else max_frames)
    assert len(rows) == 1 or len(rows) % 2 == 0
    assert times[rows[0]] >= start_s - 1e-6 and times[rows[-1]] <= end_s + 1e-6


def test_a_question_at_the_start_sees_its_frame_and_no_later_one() -> None:
    times = np.arange(0, 10, 1 / 30)
    assert official_frame_rows(times, 0.0, 0.0).tolist() == [0]
    with pytest.raises(InputError, match="expected frames between 20 and 30 s, found none"):
        official_frame_rows(times, 20.0, 30.0)


def test_counts_that_upstream_would_drop_are_errors_that_say_so() -> None:
    assert official_frame_count(3, 30.0, 1.0) == 2 and official_frame_count(300, 30.0, 1.0, 3) == 2
    for total, max_frames in ((1, 8), (0, 8), (300, 1)):
        with pytest.raises(InputError, match="at least 2 frames to take"):
            official_frame_count(total, 30.0, 1.0, max_frames)
