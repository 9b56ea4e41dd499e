"""Frames and gaze as they arrive become steps: `StepBuilder`, pushed by whatever reads a camera and a tracker.

Steps are those that `Recording.steps` makes of the same frames and gaze (`stream.steps` has the rules and the parts).
Nothing here looks at a clock: every call says what time it is (`now_s`, monotonic seconds). What goes wrong is named
and counted (`StreamCounts`), never guessed at:

    duplicate           a frame with the time of the one before it: dropped
    out of order        a frame from before the newest one, by less than `clock_jump_s`: dropped
    gap                 more than `max_gap_s` without a frame: what was pending becomes a step of its own, its last
                        frame repeated if there is one only; the next frame begins a new step. No step spans the gap
    stall               a question more than `max_gap_s` after the newest frame: that frame is not shown as the present.
                        What the question sees ends as if the next frame had come when it was due, before its `Cut`'s
                        time
    clock jump          the source's clock goes back by more than `clock_jump_s`, or runs ahead of the time that has
                        passed by more than that: as a gap, then a `Break`; the stream's own time goes on by what
                        passed. Running ahead is told from a late frame by the least delay of the last LAG_WINDOW_S,
                        once frames have come for `clock_jump_s`: a late first frame is no jump
    late gaze           a step waits up to `gaze_wait_ms` for gaze up to its end, then goes on without it, marked
                        (`Step.gaze_late`); a sample that comes later still is dropped. Nothing waits at a question or
                        at the stream's end: the step there is marked if its newest gaze is more than `gaze_wait_ms`
                        before its end, which is more than a tracker's usual delay
    gaze off the clock  a sample from the future: dropped

The stream's time is 0 at the first frame and never goes back.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import GazeSamples, Step
from stream.ivt import require_number
from stream.steps import SPAN_MARGIN_S, Assembler, Break, CausalIVT, Cut, Draft
from stream.video import Frame

LAG_WINDOW_S = 300.0  # of frames' delays decide the least one, so a clock that drifts or was set is found again
GAZE_KEPT_S = 30.0  # of gaze is kept while no step takes it
MOST_EARLY_SAMPLES = 10_000  # kept from before the first frame


@dataclass(frozen=True)
class StreamCounts:
    """What a builder got and what it did with it. Every frame is used, passed over by the rate, or in one of these.

    Attributes:
        frames, gaze_samples: pushed.
        frames_duplicate, frames_out_of_order, frames_bad_time: dropped.
        gaps, clock_jumps: as the module says; steps_cut_short: made of what was pending then.
        cuts_stalled: questions during a stall.
        gaze_late_steps: went on without waiting any longer; tails of questions not counted, as they are no steps of the
            stream.
        gaze_late, gaze_off_clock, gaze_duplicate, gaze_bad_time: samples dropped.
        gaze_unused: samples of times without video, which no step took.
    """

    frames: int = 0
    frames_duplicate: int = 0
    frames_out_of_order: int = 0
    frames_bad_time: int = 0
    gaps: int = 0
    clock_jumps: int = 0
    steps_cut_short: int = 0
    cuts_stalled: int = 0
    gaze_samples: int = 0
    gaze_late_steps: int = 0
    gaze_late: int = 0
    gaze_off_clock: int = 0
    gaze_duplicate: int = 0
    gaze_bad_time: int = 0
    gaze_unused: int = 0


@dataclass
class _Newest:
    """The newest frame, on display until the next one comes."""

    time_s: float
    image: np.ndarray
    arrived_s: float


class StepBuilder:
    """One live stream's frames and gaze, in; its steps, out.

    Every method returns what is ready: steps in order, and a `Break` where the clock jumped; `cut` ends with a `Cut`.
    `StreamSession.extend` takes all of it.

    Args:
        fps, vjepa_fps: frames a second for Qwen and for V-JEPA (`model.config.fps`, `model.config.features.fps`).
        gaze_wait_ms: longest that a step waits for its gaze; None where there is no tracker.
        max_gap_s: longest time between two frames that a step may span, and that a frame counts as what is seen now.
        clock_jump_s: smallest jump that is taken for one.
        detector_parameters: of the fixation detector `ivt`.

    Raises:
        ConfigError: a value out of range.
    """

    def __init__(
        self,
        *,
        fps: float = 2.0,
        vjepa_fps: float = 8.0,
        gaze_wait_ms: float | None = 150.0,
        max_gap_s: float = 2.0,
        clock_jump_s: float = 1.0,
        detector_parameters: Mapping[str, Any] | None = None,
    ) -> None:
        for name, value in (("fps", fps), ("vjepa_fps", vjepa_fps), ("clock_jump_s", clock_jump_s)):
            require_number(name, value, above=0.0)
        require_number("gaze_wait_ms", gaze_wait_ms or 0.0, at_least=0.0)
        if not (math.isfinite(max_gap_s) and max_gap_s > 1 / fps):
            raise ConfigError(f"max_gap_s: seconds above {1 / fps:g}, the time between Qwen's frames, got {max_gap_s}")
        self.max_gap_s, self.clock_jump_s = max_gap_s, clock_jump_s
        self._wait_s = None if gaze_wait_ms is None else gaze_wait_ms / 1000
        self._parameters = dict(detector_parameters or {})
        self._counts = dict.fromkeys(vars(StreamCounts()), 0)
        self._rates = (fps, vjepa_fps)
        self._due = [0, 0]  # number of the next grid time k / rate of each
        self._assembler = Assembler()
        self._newest: _Newest | None = None
        self._finished = False
        self._interval_s = 1 / vjepa_fps  # between the newest two frames
        self._offset_s = 0.0  # source's time minus the stream's
        self._lags: deque[tuple[float, float]] = deque()  # (arrival, lag behind the source's clock), both ascending
        self._lags_since_s = math.inf  # arrival of the first frame that the lags are known from
        self._waiting: deque[tuple[Draft, float] | Break] = deque()  # a draft with the time it goes on at
        self._fixations: CausalIVT | None = None  # made for the first frame's shape
        self._early: deque[tuple[float, float, float, bool]] = deque(maxlen=MOST_EARLY_SAMPLES)
        self._gaze: list[tuple[float, float, float, bool]] = []  # (t_s, x, y, valid), ascending, of no step yet
        self._gaze_newest_s = self._emitted_s = -math.inf

    @property
    def counts(self) -> StreamCounts:
        """What has come in so far, and what became of it."""
        return StreamCounts(**self._counts)

    # -- what comes in -------------------------------------------------------------------------------------------------

    def push_frame(self, image: np.ndarray, t_s: float, *, now_s: float) -> list[Step | Break]:
        """One frame.

        Args:
            image: (H, W, 3) uint8 RGB, upright; kept, so it must not be written to afterwards.
            t_s: its time on the source's clock.
            now_s: the time now.

        Raises:
            InputError: no such image, or of another size than before; it is then as if it had not come. Or the stream
                has been finished.
        """
        shape = self._newest.image.shape if self._newest is not None else None
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.shape != (shape or image.shape):
            raise InputError(
                "frame",
                expected=f"uint8 {shape or '(H, W, 3)'}",
                found=f"{image.dtype} {image.shape}",
                fix="start a new session for frames of another size",
            )
        if self._finished:
            raise InputError("frame", expected="none after finish()", found="one", fix="start a new builder")
        self._counts["frames"] += 1
        if not math.isfinite(t_s):
            self._counts["frames_bad_time"] += 1
        elif self._newest is None:
            self._begin(image, float(t_s), now_s)
        else:
            self._next_frame(self._newest, image, float(t_s), now_s)
        return self.poll(now_s=now_s)

    def push_gaze(
        self,
        t_s: float | Sequence[float] | np.ndarray,
        xy_norm: Sequence[Any] | np.ndarray,
        valid: bool | Sequence[bool] | np.ndarray = True,
        *,
        now_s: float,
    ) -> list[Step | Break]:
        """One gaze sample or several, of frames' clock: `t_s` (N,), `xy_norm` (N, 2), `valid` (N,) or one for all. A
        sample that saw nothing belongs here too: it says that the tracker is not late.

        Raises:
            InputError: the lengths differ.
        """
        t = np.atleast_1d(np.asarray(t_s, dtype=np.float64))
        xy = np.asarray(xy_norm, dtype=np.float64).reshape(-1, 2)
        ok = np.broadcast_to(np.asarray(valid, dtype=bool), t.shape) if np.ndim(valid) == 0 else np.asarray(valid)
        if not len(t) == len(xy) == len(ok):
            raise InputError(
                "gaze", expected="as many times as points and flags", found=f"{len(t)}, {len(xy)}, {len(ok)}"
            )
        for sample in zip(t.tolist(), xy[:, 0].tolist(), xy[:, 1].tolist(), ok.tolist(), strict=True):
            self._counts["gaze_samples"] += 1
            if not math.isfinite(sample[0]):
                self._counts["gaze_bad_time"] += 1
            elif self._newest is None:
                self._counts["gaze_unused"] += len(self._early) == MOST_EARLY_SAMPLES
                self._early.append(sample)
            else:
                self._take_gaze(sample, now_s)
        return self.poll(now_s=now_s)

    def poll(self, *, now_s: float) -> list[Step | Break]:
        """What has become ready by the passing of time. To be called while nothing comes in."""
        ready: list[Step | Break] = []
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, Break):
                ready.append(item)
            else:
                draft, goes_on_s = item
                here = self._wait_s is None or self._gaze_newest_s >= draft.stop_s
                if not here and now_s < goes_on_s:
                    break
                ready.append(self._step(draft, late=not here))
            self._waiting.popleft()
        return ready

    # -- what goes out -------------------------------------------------------------------------------------------------

    def cut(self, *, now_s: float) -> list[Step | Break | Cut]:
        """For a question now: steps that still wait for their gaze go on without it, then the `Cut` with what the
        wearer has seen since as its tail. The stream goes on as if nobody had asked, but for those steps.

        Where no frame has come for more than `max_gap_s`, the tail ends before the Cut's time, when the next one was
        due: nothing is known of the time since.

        Raises:
            InputError: no frame has come in.
        """
        if self._newest is None:
            raise InputError("cut", expected="at least one frame before a question", found="none")
        ready: list[Step | Break | Cut] = [*self.poll(now_s=math.inf)]
        newest_s = self._newest.time_s
        until_s = stop_s = max(self._stream_time(now_s), newest_s)
        if until_s - newest_s > self.max_gap_s:
            self._counts["cuts_stalled"] += 1
            stop_s = min(newest_s + self._interval_s, until_s)
        ahead = Assembler(self._assembler.start_s, list(self._assembler.pending), list(self._assembler.chosen))
        for_qwen, _ = self._claimed(newest_s, stop_s, last=True)
        draft = ahead.push(Frame(newest_s, stop_s - newest_s, self._newest.image), for_qwen) or ahead.rest(stop_s)
        tail = None
        if draft is not None:
            samples = self._samples()
            source = copy.deepcopy(self._source(samples))
            step = draft.step(samples, source, stop_s=stop_s, partial=True)
            tail = replace(step, gaze_late=self._behind(stop_s))
        return [*ready, Cut(until_s, tail)]

    def finish(self, *, end_s: float | None = None) -> list[Step | Break]:
        """The end of the stream: everything that is left, the last step partial where its frames don't fill it.

        Args:
            end_s: on the source's clock, the end of the last frame; default: as long after it as it came after the one
                before.
        """
        if self._newest is None:
            return []
        newest_s = self._newest.time_s
        stop_s = newest_s + self._interval_s if end_s is None else max(end_s - self._offset_s, newest_s + 1e-6)
        self._settle(stop_s, -math.inf, last=True)
        rest = self._assembler.rest(stop_s)
        ready: list[Step | Break] = []
        for item in self._waiting:
            ready.append(item if isinstance(item, Break) else self._step(item[0], late=self._behind(item[0].stop_s)))
        self._waiting.clear()
        if rest is not None:
            ready.append(self._step(rest, late=self._behind(stop_s), partial=True))
        self._newest, self._finished = None, True
        return ready

    # -- frames --------------------------------------------------------------------------------------------------------

    def _begin(self, image: np.ndarray, t_s: float, now_s: float) -> None:
        self._offset_s = t_s
        self._take_lag(now_s, now_s - t_s)
        self._newest = _Newest(0.0, image, now_s)
        parameters = {"frame_aspect": image.shape[1] / image.shape[0], **self._parameters}
        self._fixations = CausalIVT(GazeSamples.build([], np.zeros((0, 2))), parameters)
        while self._early:
            self._take_gaze(self._early.popleft(), now_s)

    def _next_frame(self, newest: _Newest, image: np.ndarray, t_s: float, now_s: float) -> None:
        time_s, lag_s = t_s - self._offset_s, now_s - t_s
        passed_s = time_s - newest.time_s
        # Behind a slow network frames come late and then in a burst; none comes sooner than at the best of times.
        known = now_s - self._lags_since_s >= self.clock_jump_s
        jumped = passed_s < -self.clock_jump_s or (known and lag_s < self._least_lag_s - self.clock_jump_s)
        if not jumped and passed_s <= 0:
            self._counts["frames_duplicate" if passed_s == 0 else "frames_out_of_order"] += 1
            return
        if jumped:
            self._counts["clock_jumps"] += 1
            self._cut_short(now_s)
            self._waiting.append(Break(newest.time_s))
            time_s = newest.time_s + max(now_s - newest.arrived_s, self._interval_s)
            self._offset_s = t_s - time_s
            self._lags.clear()
            self._restart(time_s)
        elif passed_s > self.max_gap_s:
            self._counts["gaps"] += 1
            self._cut_short(now_s)
            self._restart(time_s)
        else:
            self._settle(time_s, now_s)
            self._interval_s = passed_s
        self._take_lag(now_s, lag_s)
        self._newest = _Newest(time_s, image, now_s)

    def _claimed(self, time_s: float, next_s: float, *, last: bool) -> tuple[bool, list[int]]:
        """Whether a frame is Qwen's, and the grid numbers of both rates after those that it is nearest to.

        Args:
            next_s: the next frame's time; the earlier frame takes a tie, as in `asof`.
            last: no frame follows: it stands for all up to `next_s`.
        """
        due, slack_s = list(self._due), 1e-6 if last else 0.0
        for which, rate in enumerate(self._rates):
            while (at_s := due[which] / rate) <= next_s + slack_s / rate:
                if not (last or at_s <= time_s or at_s - time_s <= next_s - at_s):
                    break
                due[which] += 1
        return due[0] > self._due[0], due

    def _settle(self, next_s: float, now_s: float, *, last: bool = False) -> None:
        """The newest frame has its place, now that the time of the next one is known."""
        assert self._newest is not None
        for_qwen, due = self._claimed(self._newest.time_s, next_s, last=last)
        if last or due != self._due:
            frame = Frame(self._newest.time_s, next_s - self._newest.time_s, self._newest.image)
            if (draft := self._assembler.push(frame, for_qwen)) is not None:
                self._wait(draft, now_s)
        self._due = due

    def _cut_short(self, now_s: float) -> None:
        """What is pending becomes a step that ends as if the next frame had come when it was due."""
        assert self._newest is not None
        stop_s = self._newest.time_s + self._interval_s
        self._settle(stop_s, now_s, last=True)
        if (rest := self._assembler.rest(stop_s - SPAN_MARGIN_S)) is not None:
            self._counts["steps_cut_short"] += 1
            self._wait(rest, now_s)

    def _restart(self, time_s: float) -> None:
        """The frame at this time is one of Qwen's and of V-JEPA's, and begins a step."""
        self._assembler = Assembler()
        self._due = [math.floor(time_s * rate) for rate in self._rates]

    def _wait(self, draft: Draft, now_s: float) -> None:
        self._waiting.append((draft, now_s + (self._wait_s or 0.0)))

    def _step(self, draft: Draft, *, late: bool, partial: bool = False) -> Step:
        samples = self._samples()
        self._counts["gaze_unused"] += bisect_right(self._gaze, draft.start_s, key=_time)
        step = draft.step(samples, self._source(samples), stop_s=draft.stop_s, partial=partial)
        self._emitted_s = draft.stop_s
        del self._gaze[: bisect_right(self._gaze, draft.stop_s, key=_time)]
        self._counts["gaze_late_steps"] += late
        return replace(step, gaze_late=late)

    def _behind(self, stop_s: float) -> bool:
        """Whether gaze up to this time is not just on its way."""
        return self._wait_s is not None and self._gaze_newest_s < stop_s - self._wait_s

    def _take_lag(self, now_s: float, lag_s: float) -> None:
        """A frame's delay. Those that a later, smaller one has made needless are dropped: the first is the least."""
        while self._lags and self._lags[0][0] < now_s - LAG_WINDOW_S:
            self._lags.popleft()
        if not self._lags:
            self._lags_since_s = now_s
        while self._lags and self._lags[-1][1] >= lag_s:
            self._lags.pop()
        self._lags.append((now_s, lag_s))

    @property
    def _least_lag_s(self) -> float:
        return self._lags[0][1]

    def _stream_time(self, now_s: float) -> float:
        return now_s - self._least_lag_s - self._offset_s

    # -- gaze ----------------------------------------------------------------------------------------------------------

    def _take_gaze(self, sample: tuple[float, float, float, bool], now_s: float) -> None:
        time_s = sample[0] - self._offset_s
        if time_s > self._stream_time(now_s) + self.clock_jump_s:
            self._counts["gaze_off_clock"] += 1
        elif time_s <= self._emitted_s:
            self._counts["gaze_late"] += 1
        else:
            self._gaze_newest_s = max(self._gaze_newest_s, time_s)
            at = bisect_left(self._gaze, time_s, key=_time)
            if at < len(self._gaze) and self._gaze[at][0] == time_s:
                self._counts["gaze_duplicate"] += 1
                if sample[3] and not self._gaze[at][3]:
                    self._gaze[at] = (time_s, *sample[1:])
            else:
                self._gaze.insert(at, (time_s, *sample[1:]))
            old = bisect_left(self._gaze, self._gaze_newest_s - GAZE_KEPT_S, key=_time)
            self._counts["gaze_unused"] += old
            del self._gaze[:old]

    def _samples(self) -> GazeSamples:
        t, x, y, valid = zip(*self._gaze, strict=True) if self._gaze else ((), (), (), ())
        return GazeSamples.build(t, np.stack([x, y], axis=1), valid=valid)

    def _source(self, samples: GazeSamples) -> CausalIVT:
        assert self._fixations is not None
        self._fixations.samples = samples
        return self._fixations


def _time(sample: tuple[float, float, float, bool]) -> float:
    return sample[0]
