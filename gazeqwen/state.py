"""What one stream holds: its KV cache, its place in M-RoPE, which token is which, V-JEPA's window.

The weights hold none of it.
A state is forked for every question, so asking leaves it bit-identical; steps, or some tokens of them, can be evicted
from it, and so can remembered turns.

Shapes: N tokens held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import DynamicCache

from gazeqwen.arms import Arm
from gazeqwen.backbone import cache_bytes, cache_length, evict_cache, fork_cache
from gazeqwen.errors import InputError
from gazeqwen.injection import TokenMap
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
    gaze_late: bool = False

    @classmethod
    def of(cls, step: Step, *, id: int, h: int, w: int) -> StepRecord:
        return cls(id, step.frame_times_s, step.span_s, step.gaze, h, w, step.repeated, step.partial, step.gaze_late)


@dataclass(frozen=True, eq=False)
class Span:
    """A run of tokens in the cache, in physical order: one step's video tokens, or text.

    Attributes:
        cells: (tokens,) ascending cells of the step's grid in raster order that are held; None for all of them.
        turn: number of the turn that the text is, or that the marks around it belong to; a break between two video
            segments is a turn of its two marks alone. None for what can't leave: what stands before the first video
            segment, its opening mark, and the mark that ended the last one until the next one begins.
    """

    tokens: int
    step: StepRecord | None = None
    cells: np.ndarray | None = None
    turn: int | None = None

    @property
    def held(self) -> np.ndarray:
        """(tokens,) the step's cells that are held."""
        return np.arange(self.tokens) if self.cells is None else self.cells


@dataclass
class StreamState:
    """One stream. Make it with `GazeQwen.start`; grow it with `append`; `fork` it to ask.

    Attributes:
        arm: how gaze reaches the model in this stream.
        cache, rope: keys and values, and where the next token goes.
        positions: (3, N) int64, the M-RoPE ids that the cache's keys are rotated to.
        spans: physical layout of the cache.
        window: V-JEPA's last frames, or None when the arm injects nothing or the model has no extractor.
        segment_start_s: the time that the open video segment counts from (its first frame's), None between segments.
        newest_s: end of the newest step's span: a question must not come before it.
        fixations: the recording's scanpath, needed under compat="official" only.
        steps_appended: running number, the id, of the next step; evicted_tokens: video and text tokens that left.
        turns: texts that ended a video segment so far.
        latency_ms: time spent so far, by part.
    """

    arm: Arm
    cache: DynamicCache
    rope: MRope
    window: RollingWindow | None
    positions: torch.Tensor = field(default_factory=lambda: torch.zeros(3, 0, dtype=torch.int64))
    spans: list[Span] = field(default_factory=list)
    segment_start_s: float | None = None
    newest_s: float = float("-inf")
    fixations: Fixations | None = None
    steps_appended: int = 0
    evicted_tokens: int = 0
    turns: int = 0
    latency_ms: dict[str, float] = field(default_factory=dict)

    def fork(self) -> StreamState:
        """A stream that goes its own way from here; this one stays bit for bit as it is. Copies no keys or values."""
        return replace(
            self,
            cache=fork_cache(self.cache),
            rope=self.rope.copy(),
            window=None if self.window is None else self.window.copy(),
            spans=list(self.spans),
            latency_ms=dict(self.latency_ms),
        )

    def become(self, other: StreamState) -> None:
        """Takes over all that `other`, a fork of this stream, holds; `other` must not be used afterwards."""
        vars(self).update(vars(other))

    @property
    def steps(self) -> list[StepRecord]:
        """Steps held, oldest first."""
        return [span.step for span in self.spans if span.step is not None]

    @property
    def evicted(self) -> list[int]:
        """Ids of the steps that left, ascending: all but those held, so nothing is kept of them."""
        held = {record.id for record in self.steps}
        return [id for id in range(self.steps_appended) if id not in held]

    @property
    def evicted_steps(self) -> int:
        """How many steps left."""
        return self.steps_appended - len(self.steps)

    @property
    def turns_held(self) -> int:
        """Turns and breaks of which something is held; since the video's end, at least that."""
        held = {span.turn for span in self.spans if span.turn is not None}
        return len(held | {self.turns - 1}) if self.turns and self.segment_start_s is None else len(held)

    @property
    def thinned_steps(self) -> int:
        """Steps of which only some tokens are held."""
        return sum(span.cells is not None for span in self.spans)

    @property
    def tokens(self) -> int:
        """Tokens in the cache."""
        return cache_length(self.cache)

    @property
    def bytes(self) -> int:
        """Bytes of keys and values."""
        return cache_bytes(self.cache)

    def token_map(self) -> TokenMap:
        """Where the video tokens stand in the cache and what they show: `position` is the physical row, `step` the
        step's id."""
        columns: list[list[np.ndarray]] = [[np.zeros(0, dtype=np.int64)] for _ in range(4)]
        start = 0
        for span in self.spans:
            if span.step is not None:
                cells = span.held
                values = np.arange(start, start + span.tokens), np.full(span.tokens, span.step.id)
                for column, value in zip(columns, (*values, *divmod(cells, span.step.w)), strict=True):
                    column.append(value)
            start += span.tokens
        position, step, y, x = (torch.from_numpy(np.concatenate(column)) for column in columns)
        return TokenMap(torch.zeros_like(position), position, step, y, x)

    def rows_of(self, step_ids: Collection[int]) -> torch.Tensor:
        """Physical rows of these steps' tokens, ascending.

        Raises:
            InputError: a step is not in the cache (never appended, or already evicted).
        """
        self._require_held(step_ids)
        tokens = self.token_map()
        return tokens.position[torch.isin(tokens.step, torch.tensor(list(step_ids), dtype=torch.int64))]

    def evict(self, step_ids: Collection[int]) -> None:
        """Removes whole steps from the cache. Survivors keep their positions and what they saw of the evicted ones.

        Raises:
            InputError: as `rows_of`.
        """
        self.thin(dict.fromkeys(step_ids, ()))

    def thin(self, cells: Mapping[int, Sequence[int] | np.ndarray]) -> None:
        """Of each of these steps only these cells of its grid stay; with none the step leaves. As `evict` otherwise.

        Args:
            cells: step id -> cells in raster order, among those held.

        Raises:
            InputError: as `rows_of`, or a cell is not held.
        """
        self._require_held(cells)
        kept: list[tuple[Span, np.ndarray]] = []
        for span in self.spans:
            rows = np.arange(span.tokens)
            if span.step is not None and span.step.id in cells:
                wanted = np.unique(np.asarray(cells[span.step.id], dtype=np.int64))
                if not np.isin(wanted, span.held).all():
                    raise InputError(
                        f"step {span.step.id}", expected="cells that are held", found=str(wanted.tolist())[:80]
                    )
                rows = np.flatnonzero(np.isin(span.held, wanted))
                whole = len(wanted) == span.step.h * span.step.w
                span = replace(span, tokens=len(wanted), cells=None if whole else wanted)
            kept.append((span, rows))
        self._keep(kept)

    def bind_marks(self) -> None:
        """A video segment has just been opened: its mark, and the one that ended the segment before, leave with the
        newest turn between them. So what is held always reads as segments, each opened once and ended once."""
        texts = [i for i, span in enumerate(self.spans) if span.step is None and span.turn is None]
        for i in texts[2:]:  # the first two are the conversation's opening
            self.spans[i] = replace(self.spans[i], turn=self.turns - 1)

    def forget(self, turns: Collection[int]) -> None:
        """Removes the text of these turns, `Span.turn`, and the marks of video segments that the last turn between them
        leaves with nothing to part. Survivors keep their positions and what they saw of it.

        Raises:
            InputError: not the oldest ones: older ones are held.
        """
        newer = [span.turn for span in self.spans if span.turn is not None and span.turn not in turns]
        if turns and newer and max(turns) > min(newer):
            raise InputError("turns", expected=f"ones before {min(newer)}", found=str(sorted(turns)))
        gone = [span.turn in turns if span.turn is not None else False for span in self.spans]
        self._keep([(span, np.arange(0 if left else span.tokens)) for span, left in zip(self.spans, gone, strict=True)])

    def _keep(self, kept: Sequence[tuple[Span, np.ndarray]]) -> None:
        """Each span as it will be, with the rows of it (counted from its first) that stay; spans of none leave."""
        starts = np.cumsum([0, *(span.tokens for span in self.spans)])
        rows = [start + rows for start, (_, rows) in zip(starts[:-1], kept, strict=True)]
        index = torch.from_numpy(np.concatenate(rows)) if rows else torch.zeros(0, dtype=torch.int64)
        if len(index) == self.tokens:
            return
        self.evicted_tokens += self.tokens - len(index)
        evict_cache(self.cache, index)
        self.positions = self.positions[:, index]
        self.spans = [span for span, rows in kept if len(rows)]

    def _require_held(self, step_ids: Collection[int]) -> None:
        held = [record.id for record in self.steps]
        if wanted := set(step_ids) - set(held):
            raise InputError(
                "steps", expected=f"ids among the steps held {held[:3]}..{held[-1:]}", found=str(sorted(wanted))
            )
