"""Frames and gaze become steps, causally: the rules, for files here, and for live streams in `stream.live_steps`.

A step stands for the time from the end of the step before it to the end of its own last frame, where a frame ends when
the next source frame replaces it. So gaze recorded while a frame is on display belongs to that frame's step, a step is
complete one source frame (33 ms at 30 fps) after its last frame, and it never holds anything later than that.

`build_steps` makes the steps of one question; `steps_and_cuts` those of many in one pass over the video, each the same
as if the video had been read for it alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeEvents, GazeSamples, Step, asof, blank_frames
from stream.fixations import IVT, Fixation, to_fixations
from stream.video import TIME_TOLERANCE_S, Frame

FRAMES_PER_STEP = 2
# A step ends this long before its last frame does: the rounding of a frame's end (1e-12 s) can then never let gaze of a
# moment after the question into a step that the question sees, nor keep a finished step from it.
SPAN_MARGIN_S = 1e-9


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
        samples: the whole recording; only those at or before `stop_s` are looked at. A live stream replaces them
            (`samples`) by what has come in; those before the last `stop_s` have been used up and may be left out.
        parameters: of `IVT`, frame_aspect among them.
    """

    def __init__(self, samples: GazeSamples, parameters: Mapping[str, Any]) -> None:
        self.samples = samples
        self._detector = IVT(**parameters)
        self._closed: list[Fixation] = []
        self._fed_s = -np.inf

    def during(self, start_s: float, stop_s: float) -> Fixations:
        samples = self.samples
        first, stop = (int(np.searchsorted(samples.t_s, edge, side="right")) for edge in (self._fed_s, stop_s))
        for row in range(first, stop):
            self._closed += self._detector.push(float(samples.t_s[row]), samples.xy_norm[row], bool(samples.valid[row]))
        self._fed_s = max(self._fed_s, stop_s)
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


@dataclass(frozen=True, eq=False)
class Cut:
    """A question's place in a stream of steps: it sees the whole steps that came before, then `tail`.

    Attributes:
        t_s: the question's time.
        tail: the partial step of what the wearer saw since the newest whole step, None where that is nothing.
    """

    t_s: float
    tail: Step | None


@dataclass(frozen=True)
class Break:
    """A place in a stream of steps where the source's clock jumped: the video goes on in a segment of its own.

    Attributes:
        t_s: the last moment before it.
    """

    t_s: float


@dataclass(frozen=True)
class FrameSelection:
    """Which frames of a video Qwen and V-JEPA get: those nearest to k / fps.

    Attributes:
        frame_times_s: (F,) all frames' times; none where they can't be known before decoding: then frames are the ones
            on display.
    """

    frame_times_s: np.ndarray
    fps: float
    vjepa_fps: float

    def until(self, until_s: float, *, after_s: float = -np.inf) -> tuple[np.ndarray, np.ndarray]:
        """For a question at `until_s`: (N,) unique ascending times to read after `after_s`, and (N,) which are Qwen's.

        The frame on display at the question's time is among them: its gaze is the newest there is.
        """
        qwen, vjepa = (
            np.arange(
                max(0, int(np.floor(after_s * rate))) if np.isfinite(after_s) else 0,
                int(np.floor(until_s * rate + 1e-6)) + 1,
            )
            / rate
            for rate in (self.fps, self.vjepa_fps)
        )
        times = np.union1d(np.union1d(qwen, vjepa), [until_s])
        is_qwen = np.isin(times, qwen)
        # Nearest, not as-of: at 29.97 fps the frame of second 1 has PTS 1.001, and the one before it would fall into
        # the temporal position of second 0.5. A nearest frame after `until_s` gives way to the one on display then.
        first = int(np.searchsorted(self.frame_times_s, after_s, side="left"))
        known = self.frame_times_s[first : self._seen(until_s)]
        rows = asof(known, times, tolerance_s=np.inf, method="nearest", on_missing="mark")
        asked, of = np.unique(known[rows] if known.size else times, return_inverse=True)
        for_qwen = np.zeros(asked.size, dtype=bool)
        np.logical_or.at(for_qwen, of, is_qwen)
        return asked[asked > after_s], for_qwen[asked > after_s]

    def newest(self, until_s: float) -> float:
        """The last of the times that `until` gives."""
        return float(self.frame_times_s[self._seen(until_s) - 1]) if self.frame_times_s.size else until_s

    def _seen(self, until_s: float) -> int:
        return int(np.searchsorted(self.frame_times_s, until_s + TIME_TOLERANCE_S, side="right"))


@dataclass
class Draft:
    """The frames of a step whose gaze has not been looked at yet."""

    chosen: Sequence[Frame]
    pending: Sequence[Frame]
    start_s: float
    stop_s: float

    def step(self, samples: GazeSamples, fixations: FixationSource, *, stop_s: float, partial: bool) -> Step:
        pair = [self.chosen[0], self.chosen[-1]]
        span_s = (self.start_s, stop_s)
        vjepa_times_s = np.array([frame.time_s for frame in self.pending])
        placeholder = any(_is_blank(frame) for frame in self.pending)
        stack = _blank_stack if placeholder else _stack
        return Step(
            frames=stack(pair),
            frame_times_s=np.array([frame.time_s for frame in pair]),
            span_s=span_s,
            vjepa_frames=stack(self.pending),
            vjepa_times_s=vjepa_times_s,
            gaze=gaze_events(samples, fixations.during(*span_s), span_s=span_s, frame_times_s=vjepa_times_s),
            repeated=len(self.chosen) < FRAMES_PER_STEP,
            partial=partial,
            placeholder=placeholder,
        )


def _stack(frames: Sequence[Frame]) -> np.ndarray:
    return np.stack([frame.image for frame in frames])


def _blank_stack(frames: Sequence[Frame]) -> np.ndarray:
    return blank_frames((len(frames), *frames[0].image.shape))


def _is_blank(frame: Frame) -> bool:
    """Made by `blank_frames`: no decoded image has all its rows in one place."""
    return frame.image.strides[0] == 0


@dataclass
class Assembler:
    """Frames in order to drafts of steps. `start_s`: the end of the step before the first one, None at the start."""

    start_s: float | None = None
    pending: list[Frame] = field(default_factory=list)
    chosen: list[Frame] = field(default_factory=list)

    def push(self, frame: Frame, for_qwen: bool) -> Draft | None:
        """The draft that this frame completes."""
        if self.start_s is None:
            self.start_s = frame.time_s - TIME_TOLERANCE_S  # gaze at the first frame's own time belongs to it
        self.pending.append(frame)
        if for_qwen:
            self.chosen.append(frame)
        if len(self.chosen) < FRAMES_PER_STEP:
            return None
        draft = Draft(self.chosen, self.pending, self.start_s, frame.time_s + frame.duration_s - SPAN_MARGIN_S)
        self.pending, self.chosen, self.start_s = [], [], draft.stop_s
        return draft

    def rest(self, until_s: float) -> Draft | None:
        """What is left for a question at this time: Qwen's remaining frame, or where there is none the newest one."""
        if not self.pending or self.start_s is None or until_s <= self.start_s + 2 * SPAN_MARGIN_S:
            return None
        return Draft(self.chosen or self.pending[-1:], self.pending, self.start_s, until_s)


def build_steps(
    frames: Iterable[tuple[Frame, bool]],
    samples: GazeSamples,
    fixations: FixationSource,
    *,
    until_s: float,
    start_s: float | None = None,
) -> Iterator[Step]:
    """Steps from frames in order; the last one is `partial` when the frames at or before `until_s` don't fill a step.

    A partial step is made of Qwen's remaining frame, or where there is none of the newest frame that was decoded: what
    the wearer saw last before the question, with its gaze.

    Args:
        frames: (frame, is one of Qwen's) in ascending time; the others are for V-JEPA only. No frame after `until_s`.
        until_s: the time of the question, or the end of the video.
        start_s: the end of the step before these frames; None at the start of the video.
    """
    assembler = Assembler(start_s)
    for frame, for_qwen in frames:
        if frame.time_s > until_s + TIME_TOLERANCE_S:
            raise InputError(
                "frames", expected=f"none after the question's time {until_s:.6f} s", found=f"{frame.time_s:.6f} s"
            )
        draft = assembler.push(frame, for_qwen)
        if draft is not None:
            stop_s = min(draft.stop_s, until_s)
            yield draft.step(samples, fixations, stop_s=stop_s, partial=draft.stop_s > until_s)
    rest = assembler.rest(until_s)
    if rest is not None:
        yield rest.step(samples, fixations, stop_s=until_s, partial=True)


def once_each(frames: Iterable[tuple[Frame, bool]]) -> Iterator[tuple[Frame, bool]]:
    """Frames in order, one that comes several times as one that is Qwen's if any of them is."""
    held: Frame | None = None
    held_for_qwen = False
    for frame, for_qwen in frames:
        if held is not None and frame.time_s == held.time_s:
            held_for_qwen |= for_qwen
            continue
        if held is not None:
            yield held, held_for_qwen
        held, held_for_qwen = frame, for_qwen
    if held is not None:
        yield held, held_for_qwen


def steps_and_cuts(
    read: Callable[[np.ndarray], Iterator[tuple[int, Frame]]],
    selection: FrameSelection,
    samples: GazeSamples,
    fixations: FixationSource,
    *,
    times_s: Sequence[float],
    end_s: float,
) -> Iterator[Step | Cut]:
    """Whole steps in order, and at each question's time a `Cut`; nothing after the last one.

    For every time the whole steps before its Cut, and its tail, are what `build_steps` makes of the frames and gaze up
    to that time: bit for bit, and from the same reads, so that a video which is damaged later answers as well.

    Args:
        read: (N,) ascending times -> (row, the frame on display then), in order.
        times_s: ascending; a time given twice has two Cuts.
        end_s: the video's end: no frame is asked for after it.
    """
    within_s = [min(t_s, end_s) for t_s in times_s]
    if not within_s:
        return
    wanted, for_qwen = selection.until(within_s[-1])
    newest = [selection.newest(t_s) for t_s in within_s]
    asked = np.union1d(wanted, newest)
    in_stream, is_qwen = np.isin(asked, wanted), np.isin(asked, wanted[for_qwen])
    line = _Line(samples, fixations)
    cuts = deque(zip(times_s, within_s, newest, strict=True))
    for row, frame in read(asked):
        line.see(float(asked[row]), frame, in_stream=bool(in_stream[row]), for_qwen=bool(is_qwen[row]))
        yield from line.finished(cuts[0][0])
        while cuts and cuts[0][2] <= asked[row]:
            t_s, upto_s, _ = cuts.popleft()
            line.settle(t_s)
            yield from line.finished(t_s)
            yield line.cut(t_s, selection.until(upto_s, after_s=line.newest_frame_s))
            if cuts:
                yield from line.finished(cuts[0][0])
        if not cuts:
            return


class _Line:
    """The state of `steps_and_cuts`: the stream of whole steps, and the frames since the newest one of them."""

    def __init__(self, samples: GazeSamples, fixations: FixationSource) -> None:
        self._samples, self._fixations = samples, fixations
        self._assembler = Assembler()
        self._seen: dict[float, Frame] = {}  # by the time they were asked for
        self._held: tuple[Frame, bool] | None = None  # the newest frame, which a later row may make one of Qwen's
        self._pushed_s = self.newest_frame_s = -np.inf  # newest frame of the assembler; last frame of the newest step
        self._start_s: float | None = None
        self._ready: deque[Draft] = deque()
        self._last: Cut | None = None

    def see(self, asked_s: float, frame: Frame, *, in_stream: bool, for_qwen: bool) -> None:
        if self._held is not None and frame.time_s != self._held[0].time_s:
            self._push()
        self._seen[asked_s] = frame
        if in_stream and frame.time_s > self._pushed_s:
            self._held = (frame, for_qwen or (self._held is not None and self._held[1]))

    def settle(self, t_s: float) -> None:
        """The newest frame has its place if it is over by then."""
        if self._held is not None and self._held[0].time_s + self._held[0].duration_s - SPAN_MARGIN_S <= t_s:
            self._push()

    def _push(self) -> None:
        assert self._held is not None
        frame, for_qwen = self._held
        self._held, self._pushed_s = None, frame.time_s
        draft = self._assembler.push(frame, for_qwen)
        if draft is not None:
            self._ready.append(draft)

    def finished(self, until_s: float) -> Iterator[Step]:
        """The steps that end at or before this time."""
        while self._ready and self._ready[0].stop_s <= until_s:
            draft = self._ready.popleft()
            self._start_s, self.newest_frame_s = draft.stop_s, draft.chosen[-1].time_s
            self._seen = {asked: frame for asked, frame in self._seen.items() if frame.time_s > self.newest_frame_s}
            yield draft.step(self._samples, self._fixations, stop_s=draft.stop_s, partial=False)

    def cut(self, t_s: float, selected: tuple[np.ndarray, np.ndarray]) -> Cut:
        if self._last is not None and self._last.t_s == t_s:
            return self._last
        frames = [
            (self._seen[asked], for_qwen)
            for asked, for_qwen in zip(selected[0].tolist(), selected[1].tolist(), strict=True)
            if asked in self._seen
        ]
        tails = build_steps(once_each(frames), self._samples, self._fixations, until_s=t_s, start_s=self._start_s)
        self._last = Cut(t_s, next(tails, None))
        return self._last
