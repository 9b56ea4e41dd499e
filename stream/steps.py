"""Frames and gaze become steps, causally: one function for files now and for live streams later.

A step stands for the time from the end of the step before it to the end of its own last frame, where a frame ends when
the next source frame replaces it. So gaze recorded while a frame is on display belongs to that frame's step, a step is
complete one source frame (33 ms at 30 fps) after its last frame, and it never holds anything later than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeEvents, GazeSamples, Step, asof
from stream.fixations import IVT, Fixation, to_fixations
from stream.video import TIME_TOLERANCE_S, Frame

FRAMES_PER_STEP = 2


class FixationSource(Protocol):
    """The fixations that overlap (start_s, stop_s], as far as they are known at stop_s. Asked in the order of time."""

    def during(self, start_s: float, stop_s: float) -> Fixations: ...


class StoredFixations:
    """Fixations of a file or device: known once they have begun, an open one clipped to stop_s (DESIGN 4)."""

    def __init__(self, fixations: Fixations) -> None:
        self.fixations = fixations

    def during(self, start_s: float, stop_s: float) -> Fixations:
        return self.fixations.until(stop_s).overlapping(start_s, stop_s)


class CausalIVT:
    """Our I-VT detector fed with the samples up to stop_s: the same fixations as on a live stream.

    Args:
        samples: the whole recording; only those at or before `stop_s` are looked at.
        parameters: of `IVT`, frame_aspect among them.
    """

    def __init__(self, samples: GazeSamples, parameters: Mapping[str, Any]) -> None:
        self._samples = samples
        self._detector = IVT(**parameters)
        self._closed: list[Fixation] = []
        self._next = 0

    def during(self, start_s: float, stop_s: float) -> Fixations:
        samples = self._samples
        stop = int(np.searchsorted(samples.t_s, stop_s, side="right"))
        for row in range(self._next, stop):
            self._closed += self._detector.push(float(samples.t_s[row]), samples.xy_norm[row], bool(samples.valid[row]))
        self._next = max(self._next, stop)
        self._closed = [fixation for fixation in self._closed if fixation.stop_s > start_s]
        current = self._detector.open_fixation(stop_s)
        if current is not None and current.stop_s <= start_s:
            current = None  # not closed yet, but long over
        known = [*self._closed, *([] if current is None else [current])]
        found = to_fixations(known, detector="ivt", parameters=self._detector.parameters)
        return replace(found.overlapping(start_s, stop_s), open_fixations=int(current is not None))


def gaze_events(
    samples: GazeSamples, fixations: Fixations, *, span_s: tuple[float, float], frame_times_s: np.ndarray
) -> GazeEvents:
    """The gaze of one span (start, stop]: its fixations, and one sample for each decoded frame that has none.

    A frame's sample is the one nearest to it: at 200 Hz a second of saccades and pursuit is 200 samples, and a frame
    shows it once. Samples of a fixation whose centre is outside the frame speak for themselves.

    Args:
        samples: nothing later than `span_s[1]` is read of them.
        fixations: those that overlap the span, as known at its end.
        span_s: (start, stop].
        frame_times_s: (M,) the step's decoded frames: an event's coordinates refer to the nearest one.
    """
    start_s, stop_s = span_s
    here = samples.between(start_s, stop_s, now_s=stop_s)
    begin, end = np.maximum(fixations.start_s, start_s), np.minimum(fixations.stop_s, stop_s)
    of_fixation = (here.t_s >= fixations.start_s[:, None]) & (here.t_s <= fixations.stop_s[:, None])  # (F, samples)
    nearest = asof(here.t_s, frame_times_s, tolerance_s=np.inf, method="nearest", on_missing="mark")
    rows = np.unique(nearest[nearest >= 0])
    covered = np.asarray(of_fixation[_in_frame(fixations.xy_norm)].any(axis=0))
    rows = rows[~covered[rows]]
    order = np.argsort(np.concatenate([end, here.t_s[rows]]), kind="stable")
    t_s = np.concatenate([end, here.t_s[rows]])[order]
    xy = np.concatenate([fixations.xy_norm, here.xy_norm[rows]])[order]
    duration_s = np.concatenate([end - begin, np.zeros(rows.size)])[order]
    of_event = np.concatenate([of_fixation, np.arange(len(here)) == rows[:, None]])[order]
    valid = _in_frame(xy)
    frames = frame_times_s[asof(frame_times_s, t_s, tolerance_s=np.inf, method="nearest")] if len(t_s) else t_s
    return GazeEvents(
        t_s=t_s,
        xy_norm=np.where(valid[:, None], xy, np.nan),
        duration_s=duration_s,
        age_s=np.maximum(stop_s - t_s, 0.0),
        valid=valid,
        is_fixation=order < len(fixations),
        frame_t_s=frames,
        sample_t_s=here.t_s,
        sample_valid=here.valid,
        sample_used=of_event[valid].any(axis=0) & here.valid,
        open_fixations=fixations.open_fixations,
    )


def _in_frame(xy_norm: np.ndarray) -> np.ndarray:
    """(K,) within [0, 1] on both axes; False for NaN."""
    with np.errstate(invalid="ignore"):
        return np.asarray(((xy_norm >= 0) & (xy_norm <= 1)).all(axis=1))


def build_steps(
    frames: Iterable[tuple[Frame, bool]],
    samples: GazeSamples,
    fixations: FixationSource,
    *,
    until_s: float,
) -> Iterator[Step]:
    """Steps from frames in order; the last one is `partial` when the frames at or before `until_s` don't fill a step.

    A partial step is made of Qwen's remaining frame, or where there is none of the newest frame that was decoded: what
    the wearer saw last before the question, with its gaze.

    Args:
        frames: (frame, is one of Qwen's) in ascending time; the others are for V-JEPA only. No frame after `until_s`.
        until_s: the time of the question, or the end of the video.
    """
    pending: list[Frame] = []
    chosen: list[Frame] = []
    start_s: float | None = None
    for frame, for_qwen in frames:
        if frame.time_s > until_s + TIME_TOLERANCE_S:
            raise InputError(
                "frames", expected=f"none after the question's time {until_s:.6f} s", found=f"{frame.time_s:.6f} s"
            )
        if start_s is None:
            start_s = frame.time_s - TIME_TOLERANCE_S  # gaze at the first frame's own time belongs to it
        pending.append(frame)
        if not for_qwen:
            continue
        chosen.append(frame)
        if len(chosen) == FRAMES_PER_STEP:
            stop_s = frame.time_s + frame.duration_s
            partial = stop_s > until_s + TIME_TOLERANCE_S
            yield _step(chosen, pending, (start_s, min(stop_s, until_s)), samples, fixations, partial=partial)
            pending, chosen, start_s = [], [], stop_s
    if pending and start_s is not None and until_s > start_s:
        yield _step(chosen or pending[-1:], pending, (start_s, until_s), samples, fixations, partial=True)


def _step(
    chosen: Sequence[Frame],
    pending: Sequence[Frame],
    span_s: tuple[float, float],
    samples: GazeSamples,
    fixations: FixationSource,
    *,
    partial: bool,
) -> Step:
    pair = [chosen[0], chosen[-1]]
    vjepa_times_s = np.array([frame.time_s for frame in pending])
    return Step(
        frames=np.stack([frame.image for frame in pair]),
        frame_times_s=np.array([frame.time_s for frame in pair]),
        span_s=span_s,
        vjepa_frames=np.stack([frame.image for frame in pending]),
        vjepa_times_s=vjepa_times_s,
        gaze=gaze_events(samples, fixations.during(*span_s), span_s=span_s, frame_times_s=vjepa_times_s),
        repeated=len(chosen) < FRAMES_PER_STEP,
        partial=partial,
    )
