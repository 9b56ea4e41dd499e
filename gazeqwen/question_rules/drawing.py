"""Draws that depend on a seed and on what the question is about, never on what else is in the log."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from gazeqwen.event_log import MadeQuestion


def rng_for(*key: Hashable) -> random.Random:
    """The same generator for the same key on every machine (strings are seeded by their SHA-512)."""
    return random.Random("|".join(str(part) for part in key))


def shuffled_options(rng: random.Random, right: str, wrong: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """The options in an order in which each place is equally likely to be the right one's, and that place."""
    options = [right, *wrong]
    rng.shuffle(options)
    return tuple(options), options.index(right)


@dataclass(frozen=True)
class Candidate:
    """A question that can be made at `t_s` about the event `key`; `make` gives None where it can't after all."""

    t_s: float
    key: Hashable
    make: Callable[[], MadeQuestion | None]


def spread(candidates: Iterable[Candidate], count: int, *, duration_s: float, rng: random.Random) -> list[MadeQuestion]:
    """Up to `count` questions about distinct events, spread over the first `duration_s`.

    `count` moments are drawn, one in each equal part of it; each waits for the first question that can be
    made from then on. So whether a question is taken depends on nothing after it. A moment that finds none is lost.
    """
    moments = [duration_s * (part + rng.random()) / count for part in range(count)]
    waiting = sorted(candidates, key=lambda candidate: candidate.t_s)
    taken: list[MadeQuestion] = []
    used: set[Hashable] = set()
    position = 0
    for moment in moments:
        while position < len(waiting):
            candidate = waiting[position]
            position += 1
            if candidate.t_s < moment or candidate.key in used:
                continue
            question = candidate.make()
            if question is not None:
                taken.append(question)
                used.add(candidate.key)
                break
    return taken


def sample(rng: random.Random, pool: Sequence[str], count: int) -> list[str] | None:
    """`count` of the pool without repeats, or None when it is too small."""
    return rng.sample(pool, count) if len(pool) >= count else None
