"""Which videos, questions and forms a step holds: a function of the seed and the step's number, and of nothing else.

So a run that was killed goes on at any step as if it had never stopped, and any number of processes share one order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train.examples import Ask, Form, TrainingVideo

# What a generator's second number stands for, so that no two uses share one.
_ORDER, _DRAW, _PROCESS = 1, 2, 3


@dataclass(frozen=True)
class Drawn:
    """A video of a step: its index in the source, and which time (from 0) it is that it comes."""

    index: int
    epoch: int


class Sampler:
    """Videos in a new order each epoch, one epoch after the other without a gap: every step is full.

    Args:
        counts: questions of each video; those without any are passed over.
        batch_videos: videos of a step.

    Raises:
        InputError: no video has a question.
    """

    def __init__(self, counts: Sequence[int], *, batch_videos: int, seed: int) -> None:
        self.usable = np.flatnonzero(np.asarray(counts) > 0)
        if not len(self.usable):
            raise InputError("training data", expected="videos with questions", found="none")
        self.batch_videos, self.seed = batch_videos, seed

    def steps(self, epochs: float) -> int:
        """Steps that `epochs` passes take, the last one filled up."""
        return max(1, int(np.ceil(epochs * len(self.usable) / self.batch_videos)))

    def at(self, step: int) -> list[Drawn]:
        """The videos of step 0, 1, ..."""
        n = len(self.usable)
        places = range(step * self.batch_videos, (step + 1) * self.batch_videos)
        orders = {epoch: self._order(epoch) for epoch in {place // n for place in places}}
        return [Drawn(int(orders[place // n][place % n]), place // n) for place in places]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.usable)


def share_of_process(drawn: Sequence[Drawn], *, rank: int, processes: int, accumulation: int) -> list[list[Drawn]]:
    """The forwards of one process: its share of a step's videos, cut into `accumulation` parts.

    Raises:
        ConfigError: the videos do not divide evenly: every process must go through as many forwards.
    """
    if len(drawn) % (processes * accumulation):
        raise ConfigError(
            f"batch_videos={len(drawn)} can't be shared by {processes} processes in accumulation={accumulation} "
            f"forwards each: use a multiple of {processes * accumulation}"
        )
    own = drawn[rank::processes]
    size = len(own) // accumulation
    return [list(own[first : first + size]) for first in range(0, len(own), size)]


def draw_questions(
    video: TrainingVideo, drawn: Drawn, *, forms: Mapping[str, float], limit: int, seed: int
) -> tuple[TrainingVideo, list[Form]]:
    """At most `limit` of the video's questions (0: all), in order of time, and how each is put."""
    rng = np.random.default_rng([seed, _DRAW, drawn.epoch, drawn.index])
    if limit and limit < len(video.asks):
        video = video.only(sorted(rng.choice(len(video.asks), limit, replace=False).tolist()))
    return video, [_form(ask, forms, rng) for ask in video.asks]


def _form(ask: Ask, forms: Mapping[str, float], rng: np.random.Generator) -> Form:
    """One of the question's own forms by weight; a question that has none of those is put as it can be."""
    own: list[Form] = [form for form in ask.forms() if forms.get(form, 0.0) > 0] or list(ask.forms()[:1])
    weights = np.array([forms.get(form, 1.0) for form in own])
    return own[int(rng.choice(len(own), p=weights / weights.sum()))]


def n_questions(counts: Sequence[int], drawn: Sequence[Drawn], limit: int) -> int:
    """Questions of a step over all processes."""
    return sum(min(counts[one.index], limit) if limit else counts[one.index] for one in drawn)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Python's, numpy's and torch's generators (dropout draws from torch's) as a function of the step."""
    import random

    import torch

    number = int(np.random.default_rng([seed, _PROCESS, step, rank]).integers(2**31))
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
