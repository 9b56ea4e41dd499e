"""`ivt`: fixations by a causal velocity threshold, sample by sample or over a whole recording with identical results.

Sources, and of each constant (none was tuned on our recordings):

* Salvucci & Goldberg 2000 (ETRA, "Identifying fixations and saccades in eye-tracking protocols"): the I-VT rule.
* Olsen 2012 (Tobii white paper, "The Tobii I-VT fixation filter"): velocity over a 20 ms window, gaps bridged up to
  75 ms, neighbours merged up to 75 ms apart, fixations under 60 ms discarded. Its 30 deg/s and 0.5 deg are for a head
  that rests before a screen and are not used here.
* Hooge, Niehorster, Nyström, Andersson & Hessels 2022 (Behavior Research Methods 54, 2765-2776): rules that merge and
  select matter more than the classifier; fixations of at least 60 ms; saccades are selected by amplitude (there 1 deg,
  for good data); always report the values, hence `Fixations.parameters`.
* Pupil Labs' exporter `pl-rec-export`, for head-mounted trackers: 900 px/s, micro-saccades up to 1.5 deg merged, at
  least 60 ms. 70 deg/s is the angular threshold that our tracker notes give for the same kind of detector. Where the
  field of view is unknown: 900 px/s of Neon's 1600 px width, and 1.5 deg at its 15.5 px/deg.

Where it differs: it is causal. A sample is judged by its displacement over the past window alone, so both ends of a
fixation come out up to one window late; no median or smoothing, which would delay every sample and whose length in
samples means something else at every rate. The window is a time, so uneven timestamps are no special case.

It does NOT subtract head motion: that needs optical flow of the video, planned with the extra `flow`. Until then a
turning head moves gaze over a still object, which splits its fixation; and pursuit slower than the threshold counts as
fixation, as in every I-VT.

Agreement with a device's own fixations: `stream/fixations.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gazeqwen.errors import ConfigError, FutureDataError, InputError
from gazeqwen.types import Fixations, GazeSamples

# Slack on comparing two timestamps: trackers write microseconds, and 20 ms must hold four samples of 5 ms.
CLOCK_TICK_S = 1e-6


class Fixation(NamedTuple):
    """One fixation of `IVT`: first and last sample's time (s), mean of its samples (normalised), how many there are."""

    start_s: float
    stop_s: float
    x_norm: float
    y_norm: float
    samples: int


def require_number(name: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf) -> None:
    """Raises ConfigError unless `value` is a finite number within its bound."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > above and value >= at_least):
        bound = f" above {above:g}" if math.isfinite(above) else f" of at least {at_least:g}"
        raise ConfigError(f"{name}: expected a number{bound}, found {value!r}")


def degrees_per_frame_width(*, focal_px: float, width_px: float) -> float:
    """Degrees of gaze per frame width, for `IVT`, from a camera's focal length: exact at the image centre (Neon: 103).

    `IVT` takes angle as linear in pixels. Off the axis of a pinhole image that overstates angle, by half at 35 deg.
    """
    require_number("focal_px", focal_px, above=0.0)
    require_number("width_px", width_px, above=0.0)
    return math.degrees(width_px / focal_px)


class IVT:
    """Causal velocity-threshold detector. Feed samples with `push` as they come; it returns what has just closed.

    A valid sample is slow when its velocity, measured against the newest valid sample at least `velocity_window_s`
    older, is at most the threshold (and when no sample since the last long gap is that old). Consecutive slow samples
    make a fixation. A slow sample that follows fast ones continues the fixation before them when it comes within
    `merge_gap_s` of its end and the saccade between is no larger than the merge distance: from the fixation's position
    one window before its last sample (so not yet in flight) to the new sample. More than `max_gap_s` without a valid
    sample ends a fixation; less is bridged, if the straight line across it is slow. Fixations shorter than
    `min_duration_s` are dropped.

    Latency: `open_fixation` has none; `push` returns a fixation with the next slow sample elsewhere, at the latest with
    the first sample more than max(`merge_gap_s`, `max_gap_s`) after its end. A tracker slower than 1 / `max_gap_s`
    (13.3 Hz) never yields a fixation: every interval is a gap, and `counts` says so.

    Args:
        frame_aspect: frame width / height, so that distances are the same in x and y.
        degrees_per_frame_width: the camera's field of view, where known; thresholds are then in degrees.
        velocity_deg_s, merge_deg: with a known field of view (defaults 70 deg/s and 1.5 deg).
        velocity_widths_s, merge_widths: without one, in frame widths (defaults 0.5625 a second and 0.0145).

    Raises:
        ConfigError: a parameter is out of range, or belongs to the other unit and would do nothing.
    """

    def __init__(
        self,
        *,
        frame_aspect: float,
        degrees_per_frame_width: float | None = None,
        velocity_deg_s: float | None = None,
        merge_deg: float | None = None,
        velocity_widths_s: float | None = None,
        merge_widths: float | None = None,
        velocity_window_s: float = 0.020,
        min_duration_s: float = 0.060,
        max_gap_s: float = 0.075,
        merge_gap_s: float = 0.075,
    ) -> None:
        if degrees_per_frame_width is None:
            in_vain = {"velocity_deg_s": velocity_deg_s, "merge_deg": merge_deg}
            velocity = velocity_widths_s = 0.5625 if velocity_widths_s is None else velocity_widths_s
            merge = merge_widths = 0.0145 if merge_widths is None else merge_widths
        else:
            in_vain = {"velocity_widths_s": velocity_widths_s, "merge_widths": merge_widths}
            velocity = velocity_deg_s = 70.0 if velocity_deg_s is None else velocity_deg_s
            merge = merge_deg = 1.5 if merge_deg is None else merge_deg
        unused = [name for name, value in in_vain.items() if value is not None]
        if unused:
            why = (
                "without degrees_per_frame_width"
                if degrees_per_frame_width is None
                else "beside degrees_per_frame_width"
            )
            raise ConfigError(f"ivt: {' and '.join(unused)} would have no effect {why}")
        self.parameters: dict[str, float | None] = {
            "frame_aspect": frame_aspect,
            "degrees_per_frame_width": degrees_per_frame_width,
            "velocity_deg_s": velocity_deg_s,
            "merge_deg": merge_deg,
            "velocity_widths_s": velocity_widths_s,
            "merge_widths": merge_widths,
            "velocity_window_s": velocity_window_s,
            "min_duration_s": min_duration_s,
            "max_gap_s": max_gap_s,
            "merge_gap_s": merge_gap_s,
        }
        for name, value in self.parameters.items():
            if name.startswith("merge"):
                require_number(name, 0.0 if value is None else value, at_least=0.0)
            elif value is not None or name in ("frame_aspect", "velocity_window_s", "min_duration_s", "max_gap_s"):
                require_number(name, value, above=0.0)
        scale = 1.0 if degrees_per_frame_width is None else degrees_per_frame_width
        self._scale_x, self._scale_y = scale, scale / frame_aspect
        self._velocity, self._merge = velocity, merge
        self._window_s, self._min_duration_s = velocity_window_s, min_duration_s
        self._max_gap_s, self._merge_gap_s = max_gap_s, merge_gap_s
        self.counts = {"samples": 0, "samples_invalid": 0, "samples_duplicate_time": 0, "gaps": 0}
        self._now_s = -math.inf
        # (t, x, y) in the thresholds' unit, trimmed to what one window back needs: all valid samples since the last
        # long gap, and those of the fixation in progress.
        self._recent: deque[tuple[float, float, float]] = deque()
        self._members: deque[tuple[float, float, float]] = deque()
        self._interrupted = False
        self._start_s = self._sum_x = self._sum_y = 0.0
        self._samples = 0

    def push(self, t_s: float, xy_norm: tuple[float, float] | list[float] | np.ndarray, valid: bool) -> list[Fixation]:
        """One sample; returns the fixations that it closes, in order (none or one).

        Coordinates that are not finite count as invalid. A second valid sample of the same time is left out and counted
        (`counts`), as `GazeSamples.build` does.

        Raises:
            InputError: `t_s` is not finite or lies before the sample pushed last.
        """
        t, x_norm, y_norm = float(t_s), float(xy_norm[0]), float(xy_norm[1])
        if not (math.isfinite(t) and t >= self._now_s):
            raise InputError(
                "gaze sample time",
                expected=f"finite seconds, not before {self._now_s:g}",
                found=f"{t:g}",
                fix="push samples in time order",
            )
        self._now_s = t
        self.counts["samples"] += 1
        closed = self._close_by_time(t)
        if not (valid and math.isfinite(x_norm) and math.isfinite(y_norm)):
            self.counts["samples_invalid"] += 1
            return closed
        if self._recent and t == self._recent[-1][0]:
            self.counts["samples_duplicate_time"] += 1
            return closed
        sample = (t, x_norm * self._scale_x, y_norm * self._scale_y)
        self._append(self._recent, sample)
        if self._is_fast():
            self._interrupted = True
            return closed
        if self._interrupted and self._members and math.dist(sample[1:], self._members[0][1:]) > self._merge:
            closed += self._end()
        self._interrupted = False
        if not self._members:
            self._start_s, self._sum_x, self._sum_y, self._samples = t, 0.0, 0.0, 0
        self._append(self._members, sample)
        self._sum_x += x_norm
        self._sum_y += y_norm
        self._samples += 1
        return closed

    def open_fixation(self, now_s: float) -> Fixation | None:
        """The fixation that `push` has not returned yet, as far as it is known at `now_s`; None without one.

        What was returned and this one together are what `ivt_fixations` finds in the samples so far. It may have ended:
        `stop_s` is its last slow sample, and a later one may still continue it.

        Raises:
            FutureDataError: samples later than `now_s` have been pushed.
        """
        if not now_s >= self._now_s:
            raise FutureDataError(f"gaze up to {self._now_s:.6f} s is known, but the question's time is {now_s:.6f} s")
        if not self._members or self._members[-1][0] - self._start_s < self._min_duration_s:
            return None
        return Fixation(
            self._start_s,
            self._members[-1][0],
            self._sum_x / self._samples,
            self._sum_y / self._samples,
            self._samples,
        )

    def flush(self) -> list[Fixation]:
        """The end of the stream, or of one part of it: closes what is open. Later samples start afresh."""
        closed = self._end()
        self._recent.clear()
        return closed

    def _end(self) -> list[Fixation]:
        last = self.open_fixation(math.inf)
        self._members.clear()
        self._interrupted = False
        return [] if last is None else [last]

    def _close_by_time(self, t: float) -> list[Fixation]:
        if self._recent and t - self._recent[-1][0] > self._max_gap_s:
            self.counts["gaps"] += 1
            return self.flush()
        if self._interrupted and self._members and t - self._members[-1][0] > self._merge_gap_s:
            return self._end()
        return []

    def _append(self, kept: deque[tuple[float, float, float]], sample: tuple[float, float, float]) -> None:
        """Adds a sample; the first one kept is then the newest at least a window older, or the oldest there is."""
        kept.append(sample)
        while len(kept) > 2 and sample[0] - kept[1][0] >= self._window_s - CLOCK_TICK_S:
            kept.popleft()

    def _is_fast(self) -> bool:
        (t0, x0, y0), (t, x, y) = self._recent[0], self._recent[-1]
        return t - t0 >= self._window_s - CLOCK_TICK_S and math.hypot(x - x0, y - y0) > self._velocity * (t - t0)


def to_fixations(
    rows: Iterable[Fixation],
    *,
    detector: str,
    parameters: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
) -> Fixations:
    """`Fixation` rows as the table the rest of the project reads."""
    table = list(rows)
    return Fixations.build(
        [row.start_s for row in table],
        [row.stop_s for row in table],
        np.array([(row.x_norm, row.y_norm) for row in table]).reshape(-1, 2),
        detector=detector,
        parameters=parameters,
        counts=counts,
    )


def ivt_fixations(samples: GazeSamples, *, frame_aspect: float | None = None, **parameters: Any) -> Fixations:
    """`IVT` over a recording: the samples one by one, so what it finds is what was found live.

    Args:
        frame_aspect: frame width / height; None takes it from `samples.frame_size_px`.
        parameters: those of `IVT`.

    Raises:
        InputError: the aspect ratio is neither given nor in the samples.
        ConfigError: as `IVT`.
    """
    if frame_aspect is None:
        if samples.frame_size_px is None:
            raise InputError(
                f"gaze ({samples.source})",
                expected="the frame's aspect ratio, so that velocity is the same in x and y",
                found="gaze without a frame size",
                fix="pass frame_aspect=width/height",
            )
        frame_aspect = samples.frame_size_px[0] / samples.frame_size_px[1]
    detector = IVT(frame_aspect=frame_aspect, **parameters)
    closed: list[Fixation] = []
    for t, xy, valid in zip(samples.t_s.tolist(), samples.xy_norm.tolist(), samples.valid.tolist(), strict=True):
        closed += detector.push(t, xy, valid)
    closed += detector.flush()
    return to_fixations(closed, detector="ivt", parameters=detector.parameters, counts=detector.counts)
