"""What a trainer learns from: videos as steps with questions at times, whoever read them.

    source: VideoSource          N videos, by index; the same index gives the same video
      └─ load(index, model) ──►  TrainingVideo: whole steps, what frozen weights make of them, and its questions
                                   └─ Ask: a question, the steps it sees, its own partial step, what to say

Shapes: S whole steps of a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from gazeqwen.arms import Arm
from gazeqwen.errors import InputError
from gazeqwen.types import Question, Step

if TYPE_CHECKING:
    from gazeqwen.frozen import Frozen
    from gazeqwen.model import GazeQwen

# How a question is put and its answer read. "letters", "likelihood" and "yes_no" are the ways of `GazeQwen.score`;
# "text" says the answer in words, as `GazeQwen.generate` does.
Form = Literal["letters", "likelihood", "yes_no", "text"]


@dataclass(frozen=True, eq=False)
class Ask:
    """One question of a video.

    Attributes:
        question: its words, time, options (`prompts.YES_NO` for a proactive point) and the caller's id.
        answer: index into the options; -1 where there are none.
        target: the answer in words; for questions with options the right one's text.
        stop: whole steps [first, stop) of the video come before it.
        first: older steps are hidden (a window); they have been seen by the steps that stay, as under eviction.
        tail: the partial step between the newest whole step and the question, if there is one.
        tail_frozen: what frozen weights make of it; None where there is none.
        task: for accuracy by task; any name.
        proactive: a point of an alert, asked by "yes_no" only.
    """

    question: Question
    answer: int
    target: str
    stop: int
    first: int = 0
    tail: Step | None = None
    tail_frozen: Frozen | None = None
    task: str = ""
    proactive: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.stop:
            raise InputError("Ask", expected="0 <= first <= stop", found=f"first={self.first} stop={self.stop}")
        if self.question.options and not 0 <= self.answer < len(self.question.options):
            raise InputError(
                "Ask", expected=f"an answer of 0..{len(self.question.options) - 1}", found=str(self.answer)
            )
        if not self.question.options and not self.target.strip():
            raise InputError("Ask", expected="options, or a target in words", found="neither")

    def forms(self) -> tuple[Form, ...]:
        """The ways this question can be put."""
        if self.proactive:
            return ("yes_no",)
        return ("letters", "likelihood", "text") if self.question.options else ("text",)


@dataclass(frozen=True, eq=False)
class TrainingVideo:
    """One video: `steps` (S, placeholders allowed), `frozen` of them, and questions in order of time.

    `id` names the recording: train and validation must not share one.
    """

    id: str
    steps: Sequence[Step]
    frozen: Frozen | None
    asks: Sequence[Ask]

    def __post_init__(self) -> None:
        if self.frozen is not None and len(self.frozen) != len(self.steps):
            raise InputError(
                self.id, expected=f"frozen features of {len(self.steps)} steps", found=str(len(self.frozen))
            )
        late = [ask for ask in self.asks if ask.stop > len(self.steps)]
        if late:
            raise InputError(
                self.id, expected=f"questions about its {len(self.steps)} steps", found=f"one about {late[0].stop}"
            )

    def only(self, rows: Sequence[int]) -> TrainingVideo:
        """With these questions, and no step after the last one that they see."""
        asks = [self.asks[row] for row in rows]
        stop = max((ask.stop for ask in asks), default=0)
        return replace(
            self, steps=self.steps[:stop], frozen=None if self.frozen is None else self.frozen[:stop], asks=asks
        )


class VideoSource(Protocol):
    """A set of videos, in an order that does not change."""

    @property
    def ids(self) -> Sequence[str]:
        """Of the videos: the recordings' names."""
        ...

    @property
    def counts(self) -> Sequence[int]:
        """Questions of each video: what a plan needs to know without reading any."""
        ...

    def load(self, index: int, model: GazeQwen, arm: Arm) -> TrainingVideo:
        """The video, with what the model's frozen weights make of it for this arm (from a cache where there is one)."""
        ...
