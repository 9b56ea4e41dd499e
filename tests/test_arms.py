"""The registry of arms: what each does to a step, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from gazeqwen.arms import ARMS, LAG_S, get_arm
from gazeqwen.errors import ConfigError
from gazeqwen.types import Fixations
from tests.made_steps import made_steps


def test_arms_by_name() -> None:
    assert all(ARMS[name].name == name and ARMS[name].title for name in ARMS)
    assert {name for name, arm in ARMS.items() if arm.inject} == {"inject", "null", "center", "lagged"}
    assert {name for name, arm in ARMS.items() if arm.gaze_lag_s} == {"lagged"} and ARMS["lagged"].gaze_lag_s == LAG_S
    with pytest.raises(ConfigError, match="arms are inject, none"):
        get_arm("telepathy")


def test_only_null_center_and_marker_change_a_step_and_never_the_callers() -> None:
    step = made_steps(1)[0]
    frames, events = step.frames.copy(), step.gaze.xy_norm.copy()
    for name, arm in ARMS.items():
        assert (arm.prepare(step) is step) == (name not in ("null", "center", "marker"))
    assert np.array_equal(step.frames, frames) and np.array_equal(step.gaze.xy_norm, events)


def test_center_is_one_event_in_the_middle_whatever_the_wearer_did() -> None:
    step = made_steps(1)[0]
    seen, blind = (ARMS["center"].prepare(one).gaze for one in (step, step.without_gaze()))
    assert seen.xy_norm.tolist() == blind.xy_norm.tolist() == [[0.5, 0.5]]
    assert seen.valid.all() and seen.duration_s.tolist() == [step.span_s[1] - step.span_s[0]]
    assert len(ARMS["null"].prepare(step).gaze) == 0


def test_the_marker_is_a_ring_around_gaze_on_qwens_frames_only() -> None:
    step = made_steps(1)[0]
    marked = ARMS["marker"].prepare(step)
    assert marked.vjepa_frames is step.vjepa_frames
    height, width = step.frames.shape[1:3]
    for before, after, time_s in zip(step.frames, marked.frames, step.frame_times_s, strict=True):
        changed = (before != after).any(axis=-1)
        nearest = int(np.argmin(np.abs(step.gaze.frame_t_s - time_s)))
        x, y = step.gaze.xy_norm[nearest] * (width, height)
        rows, columns = np.nonzero(changed)
        distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
        radius = 0.045 * max(width, height)
        assert changed.any() and (after[changed] == (255, 0, 0)).all()
        assert (np.abs(distance - radius) <= max(1.0, radius / 5)).all()
    assert ARMS["marker"].prepare(step.without_gaze()).frames is step.frames


def test_control_arms_change_the_scanpath_that_the_published_model_reads() -> None:
    path = Fixations.build([0.0, 1.0], [0.5, 2.0], [[0.1, 0.2], [0.9, 0.8]])
    assert len(ARMS["null"].scanpath(path)) == 0
    centred = ARMS["center"].scanpath(path)
    assert (centred.xy_norm == 0.5).all() and centred.start_s.tolist() == [0.0, 1.0]
    assert ARMS["inject"].scanpath(path) is path
