"""The protocol `stream`: one pass over each video, every question on a fork at its time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.streamgaze.feature_cache import CachedFeatures, FeatureCache
from benchmarks.streamgaze.protocols import (
    SAMPLE_ERRORS,
    Cost,
    ModelProtocol,
    Row,
    Wording,
    has_gaze,
    reason_of,
)
from benchmarks.streamgaze.tasks import Sample
from gazeqwen.errors import ConfigError
from stream.recording import Recording
from stream.session import StreamSession


class Stream(ModelProtocol):
    """One decode and one prefill a video, however many questions it has; each is answered on a fork at its own time.

    Frames: the model's own rate (`config.fps`, two a second), true times in M-RoPE; V-JEPA at its own rate. Gaze: of
    each step's own span, at its true times. Nothing later than the question's time reaches it: the stream has only been
    read up to there, and what lies between the last whole step and the question is a step on the fork.

    What a question may see is the dataset's window (past and proactive: everything up to its time; present: the last 60
    s). Under `window="evict"` older steps are evicted on the fork; the steps that stay have seen them when they came
    in, so this is not what a model that started 60 s ago would say (each row counts `evicted_steps`). `window="refill"`
    prefills the window afresh. The stream holds at most `max_frames` frames, two to a step; over it the oldest steps
    leave, for past questions too, and are counted the same way. With nothing evicted a past question's answer is that
    of a fresh prefill of [0, t].

    Wording: multiple choice in the published GazeQwen's words, read by `scoring`; a test point in ours
    (`gazeqwen.prompts.yes_no_prompt`: is it so now?), answered by Yes or No.

    A row's latency is the time since the question before it, its own fork and answer included.

    Not comparable with StreamGaze's table or GazeQwen's: other frames, other prompts, no cut clips, and proactive
    points seen by one stream instead of one clip each. All sample times of the dataset cut the stream into forwards,
    whatever is left to ask or asked for, so that a resumed or shared run computes what an unbroken one does.
    """

    def __init__(self, *arguments: Any, cache: FeatureCache | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cache = cache
        if self.model.official:
            raise ConfigError(
                "a converted checkpoint (compat='official') sees a clip as a whole, with times of its own: "
                "use --protocol official or streamgaze"
            )
        self._times: dict[str, list[float]] = {}
        for sample in self.dataset.samples():
            self._times.setdefault(sample.video, []).append(sample.t_s)

    def notes(self) -> list[str]:
        return super().notes() + ([] if self._cache is None else self._cache.notes)

    def counts(self) -> dict[str, Any]:
        return {} if self._cache is None else {"cache": self._cache.counts()}

    def wording(self, sample: Sample) -> Wording:
        return Wording(sample.question, sample.options)

    def answer(self, video: str, samples: Sequence[Sample]) -> Iterator[Row]:
        own, recording = self.recordings(video)
        config = self.model.config
        due: dict[float, list[Sample]] = {}
        for sample in samples:
            due.setdefault(min(sample.t_s, own.end_s), []).append(sample)
        cached = None if self._cache is None else self._cache.source(recording, self.arm)
        steps = (cached or recording).steps_for(
            sorted({*due, *(min(time_s, own.end_s) for time_s in self._times.get(video, ()))}),
            config.fps,
            vjepa_fps=config.features.fps,
            gaze_lag_s=self.arm.gaze_lag_s,
        )
        session = self._session(recording, cached)
        spent: dict[str, float] = {}
        for cut in session.follow(steps):
            for sample in due.pop(cut.t_s, ()):
                row = self._one(session, sample, cut.t_s, own)
                if clock := row["latency_ms"]:
                    row["latency_ms"] = {part: ms - spent.get(part, 0.0) for part, ms in clock.items()}
                    spent = {**session.state.latency_ms, "decode": clock["decode"]}
                yield row
            if not due:
                return

    def _session(self, recording: Recording, cached: CachedFeatures | None) -> StreamSession:
        windows_s = [window_s for window_s in self.dataset.windows.values() if window_s is not None]
        refill = self.settings.window == "refill" and windows_s
        return self.session(
            recording,
            recording.fixations,
            frozen=cached,
            window="refill" if refill else "evict",
            window_s=max(windows_s) if refill else None,
            budget_steps=self.settings.held_frames // 2,
        )

    def _one(self, session: StreamSession, sample: Sample, at_s: float, own: Recording) -> Row:
        window_s = self.window_s(sample)
        try:
            row = self.ask(session, sample, at_s=at_s, window_s=window_s)
        except SAMPLE_ERRORS as error:
            return self.failed(sample, reason_of(error))
        row["has_gaze"] = has_gaze(own, 0.0 if window_s is None else at_s - window_s, at_s)
        if at_s < sample.t_s:
            row["warnings"].append(f"asked at {sample.t_s:g} s, and the video ends at {at_s:g} s")
        return row

    def cost(self, video: str, samples: Sequence[Sample], *, duration_s: float, fps: float) -> Cost:
        config = self.model.config
        last_s = min(max(sample.t_s for sample in samples), duration_s)
        encoded = int(last_s * min(config.fps, fps)) + 1
        decoded = int(last_s * min(max(config.fps, config.features.fps), fps)) + 1
        steps = (encoded // 2 + len(samples)) if self.arm.video else 0  # every question has a step of its own at most
        vjepa = steps if self.arm.uses_features else 0
        held = min(steps, self.settings.held_frames // 2 + 1)
        return Cost(decoded, 2 * steps, steps, held, vjepa, len(samples))
