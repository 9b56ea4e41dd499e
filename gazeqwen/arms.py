"""The one registry of experiment arms (DESIGN 8): how gaze reaches the model, read by `ask`, and later by eval, train
and evidence. An arm changes steps before they are encoded, says whether residuals are injected, and may add words.

Arms that need another clip's gaze, a salience image or weights of their own join with the commands that have them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gazeqwen.errors import ConfigError
from gazeqwen.types import Fixations, GazeEvents, Step

LAG_S = 5.0
_MARKER_RADIUS = 0.045
_MARKER_RGB = (255, 0, 0)


@dataclass(frozen=True)
class Arm:
    """One way for gaze to reach the model.

    Attributes:
        inject: residuals from the resampler are added.
        prepare: changes a step before it is encoded.
        gaze_in_prompt: gaze coordinates are written into the question.
        gaze_lag_s: the recording's gaze is moved later by this much before steps are made of it.
        scanpath: changes the clip's fixations under compat="official", which reads those and not the steps' gaze.
    """

    name: str
    title: str
    inject: bool
    prepare: Callable[[Step], Step] = lambda step: step
    gaze_in_prompt: bool = False
    gaze_lag_s: float = 0.0
    scanpath: Callable[[Fixations], Fixations] = lambda fixations: fixations


def _null(step: Step) -> Step:
    return step.without_gaze()


def _no_scanpath(_fixations: Fixations) -> Fixations:
    return Fixations.empty()


def _centred_scanpath(fixations: Fixations) -> Fixations:
    return replace(fixations, xy_norm=np.full_like(fixations.xy_norm, 0.5))


def _center(step: Step) -> Step:
    """One valid event at the frame's middle, whatever the wearer did."""
    stop_s = step.span_s[1]
    one = np.ones(1)
    return replace(
        step,
        gaze=GazeEvents(
            t_s=one * stop_s,
            xy_norm=np.full((1, 2), 0.5),
            duration_s=one * (stop_s - step.span_s[0]),
            age_s=np.zeros(1),
            valid=np.ones(1, dtype=bool),
            is_fixation=np.ones(1, dtype=bool),
            frame_t_s=one * step.frame_times_s[-1],
        ),
    )


def _marker(step: Step) -> Step:
    """A red ring on Qwen's two frames at the event nearest in time to each; frames without a valid event stay clean."""
    valid = np.flatnonzero(step.gaze.valid)
    if valid.size == 0:
        return step
    frames = step.frames.copy()
    height, width = frames.shape[1:3]
    rows, columns = np.mgrid[0:height, 0:width]
    radius = _MARKER_RADIUS * max(width, height)
    for frame, time_s in zip(frames, step.frame_times_s, strict=True):
        nearest = valid[np.argmin(np.abs(step.gaze.frame_t_s[valid] - time_s))]
        x, y = step.gaze.xy_norm[nearest] * (width, height)
        distance = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
        frame[np.abs(distance - radius) <= max(1.0, radius / 5)] = _MARKER_RGB
    return replace(step, frames=frames)


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("inject", "residuals from the wearer's gaze (default)", inject=True),
        Arm("none", "no gaze, nothing injected: the plain backbone", inject=False),
        Arm("null", "residuals from null gaze", inject=True, prepare=_null, scanpath=_no_scanpath),
        Arm(
            "center",
            "residuals from gaze fixed at the middle of the frame",
            inject=True,
            prepare=_center,
            scanpath=_centred_scanpath,
        ),
        Arm("lagged", f"residuals from the wearer's own gaze {LAG_S:g} s late", inject=True, gaze_lag_s=LAG_S),
        Arm("text", "gaze coordinates in the prompt, nothing injected", inject=False, gaze_in_prompt=True),
        Arm("marker", "gaze drawn as a ring on the frames, nothing injected", inject=False, prepare=_marker),
    )
}


def get_arm(arm: Arm | str) -> Arm:
    """The arm of this name; an Arm is itself. Raises ConfigError that lists the arms."""
    if isinstance(arm, Arm):
        return arm
    if arm not in ARMS:
        raise ConfigError(f"unknown arm {arm!r}; arms are {', '.join(ARMS)}")
    return ARMS[arm]
