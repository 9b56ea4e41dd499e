"""The wearer's head, and so the camera: it follows gaze shifts late, leaves small ones to the eye, and sways."""

from __future__ import annotations

import numpy as np

from gazeqwen.tiny.world_events import PLANE, STEP_S
from gazeqwen.tiny.world_parameters import WorldParameters


class Head:
    """A critically damped follower, moved on as gaze becomes known.

    Attributes:
        camera: (T, 2) the frame's centre on the plane; right up to the row that `follow` was last called with.
    """

    def __init__(self, rng: np.random.Generator, p: WorldParameters, *, t_s: np.ndarray, half: np.ndarray) -> None:
        self._lag, self._rate = round(rng.uniform(*p.head_lag_s) / STEP_S), float(rng.uniform(*p.head_rate))
        self._free = p.eye_only_widths
        hz, phase = rng.uniform(0.15, 1.0, (2, 4, 1)), rng.uniform(0, 2 * np.pi, (2, 4, 1))
        # Slower waves are larger.
        self._sway = (p.sway_widths * (np.sin(2 * np.pi * hz * t_s + phase) * 0.3 / hz).mean(axis=1)).T
        middle = np.array(PLANE) / 2
        turn = np.array([middle[0] - half[0] + 0.06, 0.08])  # up and down it keeps both rows of objects in the frame
        low, high = middle - turn, middle + turn
        self._low, self._high = low.tolist(), high.tolist()
        self.start = np.clip([rng.uniform(0.55, 0.95), 0.48], low, high)
        self.camera, self._done = np.tile(self.start, (t_s.size, 1)), 0
        self._now = (float(self.start[0]), float(self.start[1]), 0.0, 0.0)

    def follow(self, gaze: np.ndarray, miss: np.ndarray, until: int) -> None:
        """The camera up to row `until`; it aims at `gaze` + `miss` (T, 2) on the plane, which are known up to there."""
        first, until = self._done, min(until, len(gaze))
        if until <= first:
            return
        x, y, vx, vy = self._now
        rate, drag, free = STEP_S * self._rate**2, 1 - 2 * STEP_S * self._rate, self._free
        (low_x, low_y), (high_x, high_y) = self._low, self._high
        path = []
        # Plain floats: a step depends on the one before, and arrays of two cost ten times as much.
        rows = np.maximum(np.arange(first, until) - self._lag, 0)
        for gx, gy in (gaze[rows] + miss[rows]).tolist():
            wish = gx - x
            vx *= drag
            if wish > free:
                vx += rate * (wish - free)
            elif wish < -free:
                vx += rate * (wish + free)
            x += STEP_S * vx
            x = low_x if x < low_x else high_x if x > high_x else x
            wish = gy - y
            vy *= drag
            if wish > free:
                vy += rate * (wish - free)
            elif wish < -free:
                vy += rate * (wish + free)
            y += STEP_S * vy
            y = low_y if y < low_y else high_y if y > high_y else y
            path.append((x, y))
        self.camera[first:until] = np.array(path) + self._sway[first:until]
        self._now, self._done = (x, y, vx, vy), until
