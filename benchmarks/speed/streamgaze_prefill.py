"""The stronger baseline: what the frozen weights make of the video is in memory, and each question prefills its window.

Nothing is read, decoded or encoded again; the resampler runs again with the prefill, as it is trained and its output
(every injected layer) is larger than the features. Each question's steps go through the decoder in one forward, which
is the fastest way here. The same answers come out: a past question's log-probabilities are held to the stream's.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import cast

from benchmarks.speed.streamgaze_stream import Clock, add, span_of
from benchmarks.streamgaze.protocols import Row, labels
from benchmarks.streamgaze.stream_protocol import Stream
from benchmarks.streamgaze.tasks import Sample
from gazeqwen import prompts
from gazeqwen.frozen import Frozen
from gazeqwen.types import Step
from gazeqwen.vjepa import RollingWindow
from stream.session import CHUNK_STEPS
from stream.steps import Cut

# To a forward: of 8 to 300 the fastest for 60 and 120 steps, within the scatter; 300 at once take twice as long.
FORWARD_STEPS = 32


class InMemory:
    """A video's steps, cuts and frozen features, made beforehand, and two ways to answer its questions from them."""

    def __init__(self, protocol: Stream, samples: Sequence[Sample]) -> None:
        self._protocol = protocol
        model, arm = protocol.model, protocol.arm
        _, self._recording = protocol.recordings(samples[0].video)
        self.spans = {sample.id: span_of(protocol, self._recording, sample) for sample in samples}
        times_s = sorted({stop_s for _, stop_s in self.spans.values()})
        config = model.config
        self._items = list(
            self._recording.steps_for(times_s, config.fps, vjepa_fps=config.features.fps, gaze_lag_s=arm.gaze_lag_s)
        )
        self.steps = [item for item in self._items if isinstance(item, Step)]
        self._rows = {id(step): row for row, step in enumerate(self.steps)}
        self._tails: dict[float, tuple[Step, Frozen] | None] = {}
        parts: list[Frozen] = []
        window, chunk = model.new_window(), list[Step]()
        for item in self._items:
            if isinstance(item, Step):
                chunk.append(item)
            if chunk and (isinstance(item, Cut) or len(chunk) == CHUNK_STEPS):
                parts.append(model.frozen(chunk, arm=arm, window=window))
                chunk = []
            if isinstance(item, Cut):
                tail = item.tail
                made = None if tail is None else model.frozen([tail], arm=arm, window=window.copy())
                self._tails[item.t_s] = None if tail is None or made is None else (tail, made)
        self._whole = Frozen.cat(parts)

    def __call__(self, steps: Sequence[Step], window: RollingWindow | None, latency_ms: dict[str, float]) -> Frozen:
        """As a session's `frozen=`."""
        if steps[0].partial:
            held = next(made for made in self._tails.values() if made is not None and made[0] is steps[0])
            return held[1]
        first = self._rows[id(steps[0])]
        return self._whole[first : first + len(steps)]

    def streamed(self, samples: Sequence[Sample], clock: Clock | None = None) -> dict[str, Row]:
        """One pass as the protocol makes it, from memory."""
        began = perf_counter()
        protocol, due = self._protocol, {self.spans[sample.id][1]: sample for sample in samples}
        budget = protocol.settings.held_frames // 2
        session = protocol.session(self._recording, self._recording.fixations, frozen=self, budget_steps=budget)
        rows, answers = {}, dict[str, float]()
        for cut in session.follow(iter(self._items)):
            sample = due[cut.t_s]
            before = dict(session.state.latency_ms)
            row = protocol.ask(session, sample, at_s=cut.t_s, window_s=protocol.window_s(sample))
            add(answers, {part: ms - before.get(part, 0.0) for part, ms in row["latency_ms"].items()})
            rows[sample.id] = row
        if clock is not None:
            add(answers, session.state.latency_ms)
            clock.add({part: ms for part, ms in answers.items() if part != "decode"}, perf_counter() - began)
        return rows

    def prefilled(self, samples: Sequence[Sample], clock: Clock | None = None) -> dict[str, dict[str, float]]:
        """Each question's window prefilled afresh; log-probabilities by id and label."""
        latency_ms: dict[str, float] = {}
        began = perf_counter()
        found = {sample.id: self._one(sample, latency_ms) for sample in samples}
        if clock is not None:
            clock.add(latency_ms, perf_counter() - began)
        return found

    def _one(self, sample: Sample, latency_ms: dict[str, float]) -> dict[str, float]:
        model, words = self._protocol.model, self._protocol.wording(sample)
        first, stop = self.rows(sample)
        steps, parts = self.steps[first:stop], [self._whole[first:stop]] if stop > first else []
        tail = self._tails[self.spans[sample.id][1]]
        if tail is not None:
            steps, parts = [*steps, tail[0]], [*parts, tail[1]]
        state = model.start(arm=self._protocol.arm)
        frozen = Frozen.cat(parts)
        for begin in range(0, len(steps), FORWARD_STEPS):
            end = begin + FORWARD_STEPS
            model.append(state, steps[begin:end], frozen=frozen[begin:end])
        options = words.options or prompts.YES_NO
        scoring = cast("prompts.Scoring", self._protocol.settings.scoring if words.options else "yes_no")
        logprobs = model.score(state, words.question, options, scoring=scoring, prompt=words.prompt).tolist()
        add(latency_ms, state.latency_ms)
        return dict(zip(labels(sample), logprobs, strict=True))

    def rows(self, sample: Sample) -> tuple[int, int]:
        """Rows of `steps` that the sample sees, first and stop: whole steps that end within its window."""
        start_s, stop_s = self.spans[sample.id]
        hidden = start_s if start_s > 0 else float("-inf")
        seen = [row for row, step in enumerate(self.steps) if hidden < step.span_s[1] <= stop_s]
        return (seen[0], seen[-1] + 1) if seen else (0, 0)
