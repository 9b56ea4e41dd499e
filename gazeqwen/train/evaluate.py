"""Validation while training: every question of every video, scored as it would be by `gazeqwen eval`, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from gazeqwen.model import GazeQwen
from gazeqwen.train.examples import Ask, Form, VideoSource
from gazeqwen.train.forward import PackedForward, Scored


@dataclass
class Tally:
    """Right answers by task, and what free text cost.

    Attributes:
        right, asked: by task, of questions with options (proactive points included).
        nll, tokens: of free-text answers.
    """

    right: dict[str, int] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    nll: float = 0.0
    tokens: int = 0

    def add(self, ask: Ask, scored: Scored) -> None:
        if scored.logprobs is None:
            self.nll += float(scored.nll)  # type: ignore[arg-type]
            self.tokens += scored.n_tokens
            return
        self.asked[ask.task] = self.asked.get(ask.task, 0) + 1
        self.right[ask.task] = self.right.get(ask.task, 0) + int(is_right(ask, scored))

    def merge(self, other: Tally) -> None:
        for task, n in other.asked.items():
            self.asked[task] = self.asked.get(task, 0) + n
            self.right[task] = self.right.get(task, 0) + other.right[task]
        self.nll, self.tokens = self.nll + other.nll, self.tokens + other.tokens

    def result(self) -> dict[str, Any]:
        """{"accuracy": by task, "n": by task, "macro": mean over tasks or None, "text_nll": per token or None}."""
        accuracy = {task: self.right[task] / self.asked[task] for task in sorted(self.asked)}
        return {
            "accuracy": accuracy,
            "n": {task: self.asked[task] for task in sorted(self.asked)},
            "macro": sum(accuracy.values()) / len(accuracy) if accuracy else None,
            "text_nll": self.nll / self.tokens if self.tokens else None,
        }


def is_right(ask: Ask, scored: Scored) -> bool:
    """Whether the likeliest option is the answer; the first one counts where several are equally likely."""
    return scored.logprobs is not None and int(scored.logprobs.argmax()) == ask.answer


def score_of(result: Mapping[str, Any]) -> float:
    """What the best checkpoint is chosen by: accuracy, macro over tasks; without options, minus the text's nll."""
    if result["macro"] is not None:
        return float(result["macro"])
    return -float(result["text_nll"])


def form_of(ask: Ask, scoring: Form) -> Form:
    """How a question is put at validation."""
    return scoring if scoring in ask.forms() else ask.forms()[0]


def evaluated(source: VideoSource, limit: int) -> list[int]:
    """Indices of the videos that a validation asks: the first `limit` with questions; 0: all."""
    return [index for index, n in enumerate(source.counts) if n][: limit or None]


@torch.no_grad()
def evaluate(
    source: VideoSource,
    model: GazeQwen,
    arms: Mapping[str, PackedForward],
    *,
    scoring: Form,
    accelerator: Accelerator,
    limit: int = 0,
    autocast: Any,
) -> dict[str, dict[str, Any]]:
    """`Tally.result` of each arm over the videos, shared by all processes, each of which gets the whole.

    Args:
        arms: the forward of each.
        scoring: of questions with options.
        limit: as `evaluated`.
        autocast: called for a context of the forward.
    """
    videos = evaluated(source, limit)
    rank, processes = accelerator.process_index, accelerator.num_processes
    found = {}
    for name, packed in arms.items():
        tally = Tally()
        # Under FSDP all processes must run as many forwards: those with a video less do one over again, uncounted.
        for first in range(0, len(videos), processes):
            place = first + rank
            video = source.load(videos[min(place, len(videos) - 1)], model, packed.arm)
            with autocast():
                scored = packed([video], [[form_of(ask, scoring) for ask in video.asks]])
            if place < len(videos):
                for ask, one in zip(video.asks, scored, strict=True):
                    tally.add(ask, one)
        whole = Tally()
        for part in _gathered(tally, accelerator):
            whole.merge(part)
        found[name] = whole.result()
    return found


def _gathered(tally: Tally, accelerator: Accelerator) -> Sequence[Tally]:
    return gather_object([tally]) if accelerator.num_processes > 1 else [tally]
