"""The two published evaluations, `official` (GazeQwen's) and `streamgaze`: a clip and a call of its own per sample.

Nothing is cut by ffmpeg: frames are read by time, and never from after the question, so upstream's fallback to the
whole video (an empty or failed cut) has no counterpart here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.streamgaze.official_rules import (
    official_frame_count,
    official_frame_rows,
    official_window,
    spread,
)
from benchmarks.streamgaze.protocols import (
    SAMPLE_ERRORS,
    Cost,
    ModelProtocol,
    Row,
    Wording,
    has_gaze,
    reason_of,
)
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.wording import Form, gazeqwen_point_question, streamgaze_prompt
from gazeqwen.errors import InputError
from gazeqwen.official import official_frame_times, pick_fps
from gazeqwen.types import Fixations, GazeEvents, Step
from stream.recording import Recording
from stream.steps import build_steps
from stream.video import Frame, frame_times, read_at

_TOLERANCE_S = 1e-6


@dataclass(frozen=True)
class Clock:
    """Nominal times: when the steps end on them, and when their frames were really taken."""

    end_s: float
    shown_s: tuple[float, ...]


class ClipProtocol(ModelProtocol):
    """One session per sample, made of a few frames of the sample's clip. The video is read again for each sample.

    Which frames a clip shows depends on how many it has, so a video whose packets can't all be read fails all its
    samples here (under `stream` those before the damage are answered).
    """

    def answer(self, video: str, samples: Sequence[Sample]) -> Iterator[Row]:
        own, recording = self.recordings(video)
        times_s = frame_times(recording.path)
        for sample in samples:
            try:
                row = self._one(own, recording, times_s, sample)
            except SAMPLE_ERRORS as error:
                row = self.failed(sample, reason_of(error))
            yield row

    def _one(self, own: Recording, recording: Recording, times_s: np.ndarray, sample: Sample) -> Row:
        clip_s = self.clip_s(sample, own.end_s)
        session = self.session(recording, known_fixations(recording, self.arm.gaze_lag_s, *clip_s))
        steps, clock = self.steps(recording, times_s, *clip_s)
        session.extend(steps)
        row = self.ask(session, sample, at_s=clip_s[1] if clock is None else clock.end_s)
        row |= {"has_gaze": has_gaze(own, *clip_s), "span_s": list(clip_s)}
        if clock is not None:
            row["frame_times_s"] = list(clock.shown_s) if self.arm.video else []
        if clip_s[1] < sample.t_s:
            row["warnings"].append(f"asked at {sample.t_s:g} s, and the video ends at {own.end_s:g} s")
        return row

    def clip_s(self, sample: Sample, end_s: float) -> tuple[float, float]:
        """(start, end) of the clip: the sample's window, which ends at its time or with the video."""
        stop_s, window_s = min(sample.t_s, end_s), self.window_s(sample)
        return (0.0 if window_s is None else max(0.0, stop_s - window_s)), stop_s

    @abstractmethod
    def steps(
        self, recording: Recording, times_s: np.ndarray, start_s: float, stop_s: float
    ) -> tuple[Iterable[Step], Clock | None]:
        """The clip's steps, and the clock they are on where that is not the recording's."""

    def frames_of(self, duration_s: float, fps: float) -> int:
        """How many frames a clip of this length shows."""
        return official_frame_count(max(2, round(duration_s * fps)), fps, pick_fps(duration_s), self.most_frames)

    most_frames: int | None = None

    def cost(self, video: str, samples: Sequence[Sample], *, duration_s: float, fps: float) -> Cost:
        total = Cost()
        for sample in samples:
            start_s, stop_s = self.clip_s(sample, duration_s)
            shown = self.frames_of(stop_s - start_s, fps) if self.arm.video else 0
            steps = shown // 2
            vjepa = self.vjepa_frames() * steps if self.arm.inject else 0
            total += Cost(max(shown, vjepa), shown, steps, steps, steps if vjepa else 0, 1)
        return total

    def vjepa_frames(self) -> int:
        """Frames that V-JEPA takes for a step, at most."""
        return 2


class Official(ClipProtocol):
    """GazeQwen's published evaluation (phamtrongthang123/gazeqwen at c3195b1, eval.py), sample by sample.

    Clip, frame budget of 8 and choice of frames are `official_rules`'; a step is two frames. Multiple choice is asked
    in its words and answered by the likeliest letter; a test point is the multiple choice "A. Yes", "B. No" of its
    shared dataset's wording, or of its stand-alone script's (`proactive_wording`: there a tie is a No). Steps are one
    second apart in M-RoPE, as there, whatever lies between their frames.

    Gaze: step k is looked up at the published nominal time start + 2 k / fps, whatever its frames' true times are. For
    a converted checkpoint (compat="official") the model does so itself. Any other model gets the fixations that are
    active at that moment, both ends included, as the step's gaze, and the step's own two frames for V-JEPA. Arms that
    say or draw gaze instead of injecting residuals have no published counterpart: for them each frame's gaze is looked
    up at the frame's true time. The published stand-alone script's zeroed gaze is not reproduced.

    Differs from upstream: letters are compared in float32 and among those offered; failures count as wrong; frames are
    those an ideal cut would show (`official_rules`); fixations are the recording's own, from raw samples where
    `gaze_input` takes them; a window that the data's manifest shortens is shortened here too.
    """

    most_frames = 8

    def wording(self, sample: Sample) -> Wording:
        if sample.options:
            return Wording(sample.question, sample.options)
        wording = self.settings.proactive_wording
        question = gazeqwen_point_question(sample.question, task=sample.task, wording=wording)
        return Wording(question, ("A. Yes", "B. No"))

    def best(self, logprobs: Mapping[str, float]) -> str:
        if self.settings.proactive_wording == "standalone" and set(logprobs) == {"Yes", "No"}:
            return "Yes" if logprobs["Yes"] > logprobs["No"] else "No"
        return super().best(logprobs)

    def clip_s(self, sample: Sample, end_s: float) -> tuple[float, float]:
        start_s, stop_s = super().clip_s(sample, end_s)
        given = sample.extra.get("input_video_clip")
        if given is None or not TASKS[sample.task].proactive:
            return start_s, stop_s
        try:
            first_s, last_s = (float(part) for part in given)
        except (TypeError, ValueError) as error:
            raise InputError("input_video_clip", expected="[start, end] in seconds", found=repr(given)[:60]) from error
        first_s, last_s = official_window(sample.task, stop_s, (first_s, last_s))
        return max(start_s, min(first_s, stop_s)), min(last_s, stop_s)

    def steps(
        self, recording: Recording, times_s: np.ndarray, start_s: float, stop_s: float
    ) -> tuple[list[Step], Clock]:
        rows = official_frame_rows(times_s, start_s, stop_s, self.most_frames)
        frames = [frame for _, frame in read_at(recording.path, times_s[rows], backend=recording.backend)]
        pairs = [(first, second) for first, second in zip(frames[::2], frames[1::2], strict=False)]
        pairs = pairs or [(frames[0], frames[0])]
        count = len(pairs)
        looked_s = official_frame_times(start_s, count, pick_fps(stop_s - start_s)).numpy()
        if self.model.official:  # the model derives its own times from the clip's ends
            edges_s = np.linspace(start_s, stop_s, count + 1)
        else:
            edges_s = start_s + np.arange(count + 1, dtype=np.float64)
        fixations = known_fixations(recording, self.arm.gaze_lag_s, start_s, stop_s).until(stop_s)
        steps = [
            self._step(pair, (float(edges_s[k]), float(edges_s[k + 1])), float(looked_s[k]), fixations)
            for k, pair in enumerate(pairs)
        ]
        return steps, Clock(steps[-1].span_s[1], tuple(float(time_s) for time_s in times_s[rows]))

    def _step(
        self, pair: tuple[Frame, Frame], span_s: tuple[float, float], looked_s: float, fixations: Fixations
    ) -> Step:
        """A step on the nominal clock: `span_s` there, with the gaze of the moments that count."""
        begin_s, end_s = span_s
        shown_s = np.array([begin_s, (begin_s + end_s) / 2])
        if self.arm.inject:
            moments = [(looked_s, end_s)]
        else:
            moments = [(pair[0].time_s, float(shown_s[0])), (pair[1].time_s, float(shown_s[1]))]
        images = np.stack([frame.image for frame in pair])
        repeated = pair[0] is pair[1]
        return Step(
            frames=images,
            frame_times_s=shown_s,
            span_s=span_s,
            vjepa_frames=images[:1] if repeated else images,
            vjepa_times_s=shown_s[:1] if repeated else shown_s,
            gaze=_active(fixations, moments, shown_s, end_s, mark_missing=not self.arm.inject),
            repeated=repeated,
        )


def known_fixations(recording: Recording, lag_s: float, start_s: float, stop_s: float) -> Fixations:
    """The scanpath as it is known at `stop_s`: our own detector's from the samples up to there; stored ones as they are
    (the published rules leave out what begins later, and don't cut what is open)."""
    if recording.detector == "ivt":
        return recording.fixation_source(lag_s=lag_s).during(start_s - _TOLERANCE_S, stop_s)
    return recording.fixations.shifted(lag_s)


def _active(
    fixations: Fixations,
    moments: Sequence[tuple[float, float]],
    shown_s: np.ndarray,
    end_s: float,
    *,
    mark_missing: bool,
) -> GazeEvents:
    """The fixations active at each of `moments` (true time, time on the step's nominal clock), ends included; with
    `mark_missing` a moment that has none is missing gaze, so that `marker` leaves its frame clean."""
    rows, at_s = [], []
    for true_s, nominal_s in moments:
        active = np.flatnonzero((fixations.start_s <= true_s) & (fixations.stop_s >= true_s))
        found = active.tolist() or ([-1] if mark_missing else [])
        rows += found
        at_s += [nominal_s] * len(found)
    picked, t_s = np.array(rows, dtype=np.int64), np.array(at_s, dtype=np.float64)
    xy = np.vstack([fixations.xy_norm, [[np.nan, np.nan]]])[picked]  # the last row is missing gaze
    valid = np.asarray(((xy >= 0) & (xy <= 1)).all(axis=1))
    nearest = np.abs(t_s[:, None] - shown_s[None]).argmin(axis=1) if len(t_s) else np.zeros(0, dtype=np.int64)
    return GazeEvents(
        t_s=t_s,
        xy_norm=np.where(valid[:, None], xy, np.nan),
        duration_s=np.append(fixations.duration_s, 0.0)[picked],
        age_s=np.maximum(end_s - t_s, 0.0),
        valid=valid,
        is_fixation=picked >= 0,
        frame_t_s=shown_s[nearest],
        open_fixations=fixations.open_fixations,
    )


class StreamGaze(ClipProtocol):
    """StreamGaze's own evaluation with its Qwen2.5-VL wrapper (daeunni/StreamGaze at 07b8a44, src/model/Qwen25VL.py).

    Clip: [0, t] for past tasks, the last 60 s for present ones, [0, realtime] for each test point, which is a call of
    its own. Frames: 1, 0.5, 0.2 or 0.1 a second for clips up to 30, 60, 300 s and longer ones, at least 4, even, spread
    from the clip's first frame to its last (qwen_vl_utils). Prompts are StreamGaze's, byte for byte; its sentence about
    the dot and the circle stands there only where the arm draws them (upstream's scripts always say it). The answer is
    generated, 128 tokens at most, and read by StreamGaze's parser (`wording.parse_choice`, "strict"; a test point whose
    answer holds both words, which upstream counts as right, names none here, but does under `report --strict`).

    Gaze: every event of the time since the frames before, at true times. V-JEPA sees, before each step's last frame, as
    many frames as its rolling window holds at its own rate.

    Differs from upstream: greedy instead of sampling at temperature 0.7; true times in M-RoPE (there every step is a
    second); frames keep the model's own pixel limit (qwen_vl_utils lowers it for clips of more than about 57 frames);
    decoded frames instead of ffmpeg's re-encoded ones; failures are counted as such; a question at 0 s sees one frame
    instead of the whole video; a window that the data's manifest shortens is shortened here too.
    """

    parser: Form = "strict"

    def wording(self, sample: Sample) -> Wording:
        prompt = streamgaze_prompt(sample.question, sample.options, gaze_drawn=self.arm.changes_frames)
        return Wording(sample.question, sample.options, prompt)

    def vjepa_frames(self) -> int:
        return self.model.config.features.window_frames

    def steps(
        self, recording: Recording, times_s: np.ndarray, start_s: float, stop_s: float
    ) -> tuple[Iterator[Step], None]:
        rows = clip_rows(times_s, start_s, stop_s)
        everything = self._with_vjepa(times_s, rows, start_s)
        frames = read_at(recording.path, times_s[everything], backend=recording.backend)
        marked = np.isin(everything, rows)
        lag_s = self.arm.gaze_lag_s
        return (
            build_steps(
                ((frame, bool(marked[k])) for k, frame in frames),
                recording.samples.shifted(lag_s),
                recording.fixation_source(lag_s=lag_s),
                until_s=stop_s,
            ),
            None,
        )

    def _with_vjepa(self, times_s: np.ndarray, rows: np.ndarray, start_s: float) -> np.ndarray:
        """`rows` and those of the frames that V-JEPA's window needs before each step's last frame."""
        if not self.arm.uses_features or self.model.official:
            return rows
        features = self.model.config.features
        ends_s = times_s[rows[1::2] if len(rows) > 1 else rows]
        back_s = np.arange(features.window_frames) / features.fps
        wanted_s = (ends_s[:, None] - back_s[None]).ravel()
        wanted_s = wanted_s[wanted_s >= max(start_s, float(times_s[rows[0]])) - _TOLERANCE_S]
        found = np.searchsorted(times_s, wanted_s + _TOLERANCE_S, side="right") - 1
        return np.unique(np.concatenate([rows, found]))


def clip_rows(times_s: np.ndarray, start_s: float, stop_s: float) -> np.ndarray:
    """(n,) rows of the frames that StreamGaze's wrapper shows of [start_s, stop_s): see `StreamGaze`.

    Raises:
        InputError: no frame lies there.
    """
    first, stop = (int(np.searchsorted(times_s, edge - _TOLERANCE_S)) for edge in (start_s, stop_s))
    if stop <= first:  # a question at the very start: the frame on display
        stop = int(np.searchsorted(times_s, stop_s + _TOLERANCE_S))
    total = stop - first
    if total < 1:
        raise InputError(
            "clip", expected=f"frames between {start_s:g} and {stop_s:g} s", found=f"none of {len(times_s)}"
        )
    if total == 1 or stop_s <= start_s:
        return np.array([stop - 1])
    duration_s = stop_s - start_s
    return first + spread(total, official_frame_count(total, total / duration_s, pick_fps(duration_s), None))
