"""Gaze targets over time, smoothed per person by a named rule. Causal: a result uses that frame and earlier ones only.

Heatmaps and in/out probabilities are averaged, never coordinates: between two places a person looks at in turn lies one
that was not looked at, and an averaged heatmap keeps both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.gaze_target import GazeTargets

EMA_TIME_CONSTANT_S = 0.2  # about a short fixation: an older look has 37 % of its weight left after this time
RESTART_S = 1.0  # a person unseen for longer starts anew


class Smoother(Protocol):
    """State of one video. People are told apart by their ids."""

    def update(self, t_s: float, track_ids: Sequence[str | None], targets: GazeTargets) -> GazeTargets:
        """The smoothed targets of a frame; `t_s` ascends from call to call."""
        ...


class NoSmoothing:
    """Every frame by itself."""

    def update(self, t_s: float, track_ids: Sequence[str | None], targets: GazeTargets) -> GazeTargets:
        return targets


class EmaSmoothing:
    """An exponential moving average in time: the past's weight falls by e in `time_constant_s`, whatever the rate."""

    def __init__(self, *, time_constant_s: float = EMA_TIME_CONSTANT_S, restart_s: float = RESTART_S) -> None:
        self._time_constant_s, self._restart_s = time_constant_s, restart_s
        self._kept: dict[str | None, tuple[float, np.ndarray, float]] = {}  # id: when, heatmap, in/out probability

    def update(self, t_s: float, track_ids: Sequence[str | None], targets: GazeTargets) -> GazeTargets:
        self._kept = {name: kept for name, kept in self._kept.items() if t_s - kept[0] <= self._restart_s}
        heatmap = targets.heatmap.copy()
        inout = None if targets.inout_probability is None else targets.inout_probability.copy()
        for row, name in enumerate(track_ids):
            before = self._kept.get(name)
            if before is not None:
                past = math.exp(-(t_s - before[0]) / self._time_constant_s)
                heatmap[row] = past * before[1] + (1 - past) * heatmap[row]
                if inout is not None:
                    inout[row] = past * before[2] + (1 - past) * inout[row]
            self._kept[name] = (t_s, heatmap[row], math.nan if inout is None else float(inout[row]))
        return GazeTargets(heatmap, inout)


SMOOTHINGS = {"none": NoSmoothing, "ema": EmaSmoothing}


def build_smoother(name: str) -> Smoother:
    """A new smoother by its name. Raises InputError for a name that is none."""
    if name not in SMOOTHINGS:
        raise InputError("smoothing", expected=f"one of {', '.join(SMOOTHINGS)}", found=repr(name))
    return SMOOTHINGS[name]()
