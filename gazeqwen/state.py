"""What one stream holds: its KV cache, its place in M-RoPE, which token is which, V-JEPA's window.

The weights hold none of it.
A state is forked for every question, so asking leaves it bit-identical; whole steps can be evicted from it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import DynamicCache

from gazeqwen.arms import Arm
from gazeqwen.backbone import cache_bytes, cache_length, evict_cache, fork_cache
from gazeqwen.errors import InputError
from gazeqwen.positions import MRope
from gazeqwen.types import Fixations, GazeEvents, Step
from gazeqwen.vjepa import RollingWindow


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What is remembered of a step once its frames are in the cache: everything an answer names as evidence."""

    id: int
    frame_times_s: np.ndarray
    span_s: tuple[float, float]
    gaze: GazeEvents
    h: int
    w: int
    repeated: bool
    partial: bool

    @classmethod
    def of(cls, step: Step, *, id: int, h: int, w: int) -> StepRecord:
        return cls(id, step.frame_times_s, step.span_s, step.gaze, h, w, step.repeated, step.partial)


@dataclass(frozen=True)
class Span:
    """A run of tokens in the cache, in physical order: one step's video tokens, or text."""

    tokens: int
    step: StepRecord | None = None


@dataclass
class StreamState:
    """One stream. Make it with `GazeQwen.start`; grow it with `append`; `fork` it to ask.

    Attributes:
        arm: how gaze reaches the model in this stream.
        cache, rope: keys and values, and where the next token goes.
        spans: physical layout of the cache.
        window: V-JEPA's last frames, or None when the arm injects nothing or the model has no extractor.
        segment_start_s: first frame's time of the open video segment, None between segments.
        newest_s: end of the newest step's span: a question must not come before it.
        fixations: the recording's scanpath, needed under compat="official" only.
        steps_appended: running number of the next step; evicted: ids of steps that left.
        latency_ms: time spent so far, by part.
    """

    arm: Arm
    cache: DynamicCache
    rope: MRope
    window: RollingWindow | None
    spans: list[Span] = field(default_factory=list)
    segment_start_s: float | None = None
    newest_s: float = float("-inf")
    fixations: Fixations | None = None
    steps_appended: int = 0
    evicted: list[int] = field(default_factory=list)
    latency_ms: dict[str, float] = field(default_factory=dict)

    def fork(self) -> StreamState:
        """A stream that goes its own way from here; this one stays bit for bit as it is. Copies no keys or values."""
        return replace(
            self,
            cache=fork_cache(self.cache),
            rope=self.rope.copy(),
            window=None if self.window is None else self.window.copy(),
            spans=list(self.spans),
            evicted=list(self.evicted),
            latency_ms=dict(self.latency_ms),
        )

    @property
    def steps(self) -> list[StepRecord]:
        """Steps held, oldest first."""
        return [span.step for span in self.spans if span.step is not None]

    @property
    def tokens(self) -> int:
        """Tokens in the cache."""
        return cache_length(self.cache)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return cache_bytes(self.cache)

    def rows_of(self, step_ids: Collection[int]) -> torch.Tensor:
        """Physical rows of these steps' tokens, ascending.

        Raises:
            InputError: a step is not in the cache (never appended, or already evicted).
        """
        wanted = set(step_ids)
        rows, start = [torch.zeros(0, dtype=torch.int64)], 0
        for span in self.spans:
            if span.step is not None and span.step.id in wanted:
                rows.append(torch.arange(start, start + span.tokens))
                wanted.discard(span.step.id)
            start += span.tokens
        if wanted:
            held = [record.id for record in self.steps]
            raise InputError(
                "steps", expected=f"ids among the steps held {held[:3]}..{held[-1:]}", found=str(sorted(wanted))
            )
        return torch.cat(rows)

    def evict(self, step_ids: Collection[int]) -> None:
        """Removes whole steps from the cache. Survivors keep their positions and what they saw of the evicted ones."""
        gone = self.rows_of(step_ids)
        if not gone.numel():
            return
        keep = torch.ones(self.tokens, dtype=torch.bool)
        keep[gone] = False
        evict_cache(self.cache, torch.nonzero(keep).flatten())
        ids = set(step_ids)
        self.spans = [span for span in self.spans if span.step is None or span.step.id not in ids]
        self.evicted += sorted(ids)
