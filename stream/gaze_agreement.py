"""Does gaze move with the picture? The evidence by which `gaze check` judges the clock and the axes of a gaze file.

While a wearer fixates something that stands still, the vestibulo-ocular reflex turns the eyes against the head, so in
image coordinates gaze moves exactly as the scene does at the gaze point. A saccade breaks that for some 50 ms, pursuit
of a moving thing for its duration; everything else of a recording obeys it, if and only if clock and axes are right:

* gaze read with y upside down moves up where the scene moves down;
* gaze stamped L seconds late agrees with the scene of L seconds before.

Method (ours; nothing was found to copy): displacement of gaze over windows of about 100 ms against the displacement of
the scene at the gaze point over the same window, at lags of -1.5 ... 1.5 s, for each candidate of the axes. The loss of
a window is the squared distance of the two, cut at `CUT_WIDTHS`, which makes saccades count alike for all candidates;
the loss of "gaze stands still in the image" is the yardstick, `explained = 1 - loss / loss_still`. A candidate is
preferred over another only if it explains clearly more AND a paired t statistic over half-second blocks agrees.

Sign: `lag_s` > 0 means that gaze is stamped late; adding `-lag_s` to its times mends it.

Constants were set on rendered scenes of seeds 1000-1039 (`gazeqwen.tiny.scene`), true pairs against gaze paired with
another seed's video: explained 0.41 at least and 0.13 at most. The 40 clips of `benchmarks.gaze_check_suite`, seeds
0-39, took no part. On real recordings, with parallax and unsteady trackers, the figures are unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gazeqwen.types import GazeSamples
from stream.scene_motion import SceneMotion

Axes = Literal["upright", "flipped_y", "flipped_x", "half_turn", "quarter_turn_right", "quarter_turn_left"]

LAGS_S = np.arange(-60, 61) * 0.025
WINDOW_S = 0.1
CUT_WIDTHS = 0.015  # frame widths: about 1.5 degrees on a wide scene camera
MOVING_WIDTHS = 0.006  # a window with less scene motion says nothing
BLOCK_S = 0.5
MIN_WINDOWS = 40
MIN_BLOCKS = 8
MIN_EXPLAINED = 0.2
MIN_GAIN = 0.12
MIN_T = 3.0
MIN_OFFSET_S = 0.15
MAX_FRAME_INTERVAL_S = 0.11


@dataclass(frozen=True)
class Agreement:
    """How well gaze follows the scene, and under which axes and clock best.

    Attributes:
        judged: False when the recording can't tell; `reason` says why. The numbers below are then only what was found.
        windows: informative windows (the scene moved).
        axes: the best candidate; `lag_s` its lag (> 0: gaze stamped late).
        explained: share of gaze motion that the scene explains there; `explained_as_read` for upright at lag 0.
        axes_gain, axes_t: advantage over the rival axes at their own best lag: upright, or else flipped y.
        lag_gain, lag_t: advantage over the rival lag with the same axes: lag 0, or, if the best lag is within
            `MIN_OFFSET_S` of 0, the best one farther than that from it.
    """

    judged: bool
    reason: str
    windows: int = 0
    axes: Axes = "upright"
    lag_s: float = 0.0
    explained: float = float("nan")
    explained_as_read: float = float("nan")
    axes_gain: float = 0.0
    axes_t: float = 0.0
    lag_gain: float = 0.0
    lag_t: float = 0.0

    @property
    def axes_clear(self) -> bool:
        """The best axes are clearly better than their rival."""
        return self.judged and self.axes_gain >= MIN_GAIN and self.axes_t >= MIN_T

    @property
    def clock_clear(self) -> bool:
        """The best lag is clearly better than its rival."""
        return self.judged and self.lag_gain >= MIN_GAIN and self.lag_t >= MIN_T

    @property
    def wrong_axes(self) -> bool:
        """Other axes than those read fit, clearly."""
        return self.axes != "upright" and self.axes_clear

    @property
    def wrong_clock(self) -> bool:
        """Another clock than the one read fits, clearly."""
        return abs(self.lag_s) >= MIN_OFFSET_S and self.clock_clear


def compare_with_motion(samples: GazeSamples, motion: SceneMotion | None) -> Agreement:
    """Judges clock and axes of `samples` (any coordinates near [0, 1]) by the motion of the video they belong to.

    The turned and mirrored candidates are tried only where neither upright nor flipped y is clearly right.
    """
    if motion is None or len(motion.t_s) < 2:
        return Agreement(False, "the video has fewer than two usable frames")
    interval_s = float(np.median(np.diff(motion.t_s)))
    if interval_s > MAX_FRAME_INTERVAL_S:
        return Agreement(False, f"the frames are {1000 * interval_s:.0f} ms apart, too far to follow the scene")
    if int(samples.valid.sum()) < 2:
        return Agreement(False, "no valid gaze")
    if motion.textured_share < 0.3:
        return Agreement(False, "the picture has too little texture to follow")
    stride = max(1, round(WINDOW_S / interval_s))
    rows = _moving_windows(motion, stride)
    if len(rows) < MIN_WINDOWS:
        return Agreement(
            False,
            f"not enough head motion to judge ({len(rows)} moving windows of {1000 * WINDOW_S:.0f} ms, "
            f"{MIN_WINDOWS} needed)",
            windows=len(rows),
        )
    at_frames = _gaze_at(samples, motion.t_s[:, None] + LAGS_S)
    times = motion.t_s[rows]
    first: tuple[Axes, ...] = ("upright", "flipped_y")
    trials: dict[Axes, _Trial] = {axes: _trial(at_frames, motion, rows, stride, axes) for axes in first}
    verdict = _verdict(trials, times)
    if not verdict.axes_clear:
        others: tuple[Axes, ...] = ("flipped_x", "half_turn", "quarter_turn_right", "quarter_turn_left")
        trials |= {axes: _trial(at_frames, motion, rows, stride, axes) for axes in others}
        verdict = _verdict(trials, times)
    return verdict


@dataclass(frozen=True, eq=False)
class _Trial:
    """Losses (W windows, L lags) of one candidate of the axes, NaN where gaze is missing; `still`: the yardstick."""

    loss: np.ndarray
    still: np.ndarray
    explained: np.ndarray

    @property
    def best(self) -> int:
        return int(self.explained.argmax())

    @property
    def best_explained(self) -> float:
        return float(self.explained.max())


def _moving_windows(motion: SceneMotion, stride: int) -> np.ndarray:
    """First frames of the windows of `stride` pairs that can be trusted and in which the scene moves."""
    if len(motion.trusted) < stride:
        return np.zeros(0, dtype=np.int64)
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(motion.overall, axis=0)])
    moved = np.hypot(*(path[stride:] - path[:-stride]).T)
    trusted = np.convolve(motion.trusted, np.ones(stride), "valid") > stride - 0.5
    # A pause in the frames (variable rate, cut) is no window.
    even = motion.t_s[stride:] - motion.t_s[:-stride] < 2 * WINDOW_S
    return np.flatnonzero(trusted & even & (moved >= MOVING_WIDTHS))


def _gaze_at(samples: GazeSamples, query_t_s: np.ndarray) -> np.ndarray:
    """(..., 2) gaze at any times: valid samples averaged over 20 ms, then interpolated; NaN in gaps and outside."""
    t, xy = samples.t_s[samples.valid], samples.xy_norm[samples.valid]
    total = np.concatenate([np.zeros((1, 2)), np.cumsum(xy, axis=0)])
    low, high = np.searchsorted(t, t - 0.01, "left"), np.searchsorted(t, t + 0.01, "right")
    smooth = (total[high] - total[low]) / (high - low)[:, None]
    after = np.searchsorted(t, query_t_s, "right")
    inside = (after > 0) & (after < t.size)
    after = np.clip(after, 1, t.size - 1)
    gap = t[after] - t[after - 1]
    part = ((query_t_s - t[after - 1]) / gap)[..., None]
    out = smooth[after - 1] * (1 - part) + smooth[after] * part
    out[~(inside & (gap <= max(0.03, 2.5 / samples.rate_hz)))] = np.nan
    return out


def turn(xy_norm: np.ndarray, axes: Axes) -> np.ndarray:
    """Coordinates as they would be, had they been read with these axes undone."""
    x, y = xy_norm[..., 0], xy_norm[..., 1]
    turned = {
        "upright": (x, y),
        "flipped_y": (x, 1 - y),
        "flipped_x": (1 - x, y),
        "half_turn": (1 - x, 1 - y),
        "quarter_turn_right": (1 - y, x),
        "quarter_turn_left": (y, 1 - x),
    }[axes]
    return np.stack(turned, axis=-1)


def _trial(at_frames: np.ndarray, motion: SceneMotion, rows: np.ndarray, stride: int, axes: Axes) -> _Trial:
    """`at_frames`: (F, L, 2) gaze at the frames' times plus each lag."""
    xy = turn(at_frames, axes)
    of_gaze = (xy[rows + stride] - xy[rows]) * np.array([1.0, motion.aspect])
    of_scene = np.zeros_like(of_gaze)
    for step in range(stride):
        of_scene += motion.at((rows + step)[:, None], xy[rows + step])
    loss = np.minimum(((of_gaze - of_scene) ** 2).sum(axis=-1), CUT_WIDTHS**2)
    still = np.minimum((of_gaze**2).sum(axis=-1), CUT_WIDTHS**2)
    known = np.isfinite(loss)
    yardstick = np.where(known, still, 0).sum(axis=0)
    explained = 1 - np.where(known, loss, 0).sum(axis=0) / np.maximum(yardstick, 1e-12)
    enough = (known.sum(axis=0) >= max(MIN_WINDOWS, 0.4 * len(rows))) & (yardstick > 1e-9)
    return _Trial(loss, still, np.where(enough, explained, -1.0))


def _paired_t(worse: np.ndarray, better: np.ndarray, times_s: np.ndarray) -> tuple[float, int]:
    """t statistic of the loss differences summed over half-second blocks, and the number of blocks."""
    difference = worse - better
    known = np.isfinite(difference)
    block = ((times_s[known] - times_s[0]) / BLOCK_S).astype(np.int64)
    sums = np.bincount(block, difference[known])[np.bincount(block) > 0]
    if sums.size < 2:
        return 0.0, int(sums.size)
    return float(sums.mean() / (sums.std(ddof=1) / np.sqrt(sums.size) + 1e-12)), int(sums.size)


def _verdict(trials: dict[Axes, _Trial], times_s: np.ndarray) -> Agreement:
    zero = int(np.abs(LAGS_S).argmin())
    axes = max(trials, key=lambda name: trials[name].best_explained)
    best, at = trials[axes], trials[axes].best
    if best.best_explained <= -1:
        return Agreement(False, "too little valid gaze while the head moves", windows=len(times_s))
    other = trials["upright" if axes != "upright" else "flipped_y"]
    lag_s = _refined_lag(best)
    far = np.where(np.abs(LAGS_S - LAGS_S[at]) >= MIN_OFFSET_S, best.explained, -1.0)
    rival = zero if abs(lag_s) >= MIN_OFFSET_S else int(far.argmax())
    support_t, blocks = _paired_t(best.still[:, at], best.loss[:, at], times_s)

    def lead(trial: _Trial, lag: int) -> tuple[float, float]:
        """Gain and t over a rival; one that explains less than "gaze stands still" is replaced by that."""
        if trial.explained[lag] <= 0:
            return best.best_explained, support_t
        gain = best.best_explained - float(trial.explained[lag])
        return gain, _paired_t(trial.loss[:, lag], best.loss[:, at], times_s)[0]

    (axes_gain, axes_t), (lag_gain, lag_t) = lead(other, other.best), lead(best, rival)
    reason = ""
    if blocks < MIN_BLOCKS:
        seconds, needed = blocks * BLOCK_S, MIN_BLOCKS * BLOCK_S
        reason = f"not enough head motion to judge ({seconds:g} s with motion, {needed:g} s needed)"
    elif best.best_explained < MIN_EXPLAINED or support_t < MIN_T:
        reason = (
            f"gaze does not follow the scene at any lag within {LAGS_S[-1]:g} s, with any axes "
            f"(explains {max(0.0, best.best_explained):.0%} at best)"
        )
    return Agreement(
        judged=not reason,
        reason=reason,
        windows=len(times_s),
        axes=axes,
        lag_s=lag_s,
        explained=best.best_explained,
        explained_as_read=float(trials["upright"].explained[zero]),
        axes_gain=axes_gain,
        axes_t=axes_t,
        lag_gain=lag_gain,
        lag_t=lag_t,
    )


def _refined_lag(trial: _Trial) -> float:
    """The lag of the maximum, refined by the parabola through its neighbours."""
    at, score = trial.best, trial.explained
    lag_s = float(LAGS_S[at])
    if 0 < at < len(score) - 1 and min(score[at - 1], score[at + 1]) > -1:
        bend = score[at - 1] - 2 * score[at] + score[at + 1]
        if bend < 0:
            lag_s += 0.5 * (score[at - 1] - score[at + 1]) / bend * float(LAGS_S[1] - LAGS_S[0])
    return float(lag_s)
