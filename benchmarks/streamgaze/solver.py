"""The arms `oracle` and `oracle-no-gaze`: a symbolic solver on the small world's event log. What the tasks allow, as no
model can be asked: where objects and hands are is taken as known, where gaze was is read from the recording's noisy
gaze (or guessed without). On real videos there is no such log, so these arms are refused there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.streamgaze.protocols import SAMPLE_ERRORS, Protocol, Row, has_gaze, labels, reason_of
from benchmarks.streamgaze.qa_writer import made_question
from benchmarks.streamgaze.tasks import Sample
from benchmarks.streamgaze.work import Settings
from gazeqwen.errors import ConfigError
from gazeqwen.question_rules import solve
from gazeqwen.tiny.world import World


class Solver(Protocol):
    """Answers from `World.estimate` and `question_rules.solve`; decodes nothing.

    The log is cut at each question's time by the solver, and gaze by the estimate. `logprobs` are the solver's scores,
    normalised as if they were logits: they rank the options and mean nothing else. A task's window is not applied:
    what an answer rests on lies within it by the rules that made the question.

    Raises:
        ConfigError: the data has no small worlds.
    """

    def __init__(self, dataset: Any, settings: Settings) -> None:
        super().__init__(dataset, settings)
        unknown = [video for video in dataset.videos if dataset.world_seed(video) is None]
        if unknown:
            raise ConfigError(
                f"arm {settings.arm!r} solves the small world's event log, and {unknown[0]} is no video of it: "
                "use the data of `gazeqwen data mini`"
            )

    def identity(self) -> dict[str, Any]:
        return {
            "scoring": self.settings.resolved_scoring(),
            "model": {"id": "solver", "name": self.arm.name, "trained": "not a model: a symbolic solver"},
        }

    def answer(self, video: str, samples: Sequence[Sample]) -> Iterator[Row]:
        seed = self.dataset.world_seed(video)
        assert seed is not None
        world = World.make(seed, duration_s=self.dataset.manifest.videos[video].get("duration_s"))
        recording = self.dataset.recording(video, gaze_input="samples")
        gaze = recording.samples if self.arm.gaze_reaches else None
        for sample in samples:
            try:
                log = world.estimate(gaze, until_s=sample.t_s)
                question = made_question(sample)
                scores = np.array(solve(log, question, t_s=sample.t_s), dtype=np.float64)
                named = labels(sample) if sample.options else ("No", "Yes")
                logprobs = scores - np.logaddexp.reduce(scores)
                row = self.row(
                    sample,
                    scoring=self.settings.resolved_scoring(),
                    prediction=named[int(np.argmax(scores))],
                    logprobs=dict(zip(named, logprobs.tolist(), strict=True)),
                    span_s=[0.0, sample.t_s],
                    has_gaze=has_gaze(recording, *self._seen_s(sample)),
                )
            except SAMPLE_ERRORS as error:
                row = self.failed(sample, reason_of(error))
            yield row

    def _seen_s(self, sample: Sample) -> tuple[float, float]:
        window_s = self.window_s(sample)
        return (0.0 if window_s is None else max(0.0, sample.t_s - window_s)), sample.t_s
