"""What a session has seen, holds and has lost, as numbers to print: `StreamSession.report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gazeqwen.types import Step
from stream.live_steps import StreamCounts
from stream.memory import Memory


@dataclass(frozen=True)
class SessionReport:
    """The state of a stream.

    Attributes:
        seconds_seen: from the first step's start to the newest one's end.
        steps_seen, steps_held, steps_thinned: whole steps; thinned ones are held in part, and counted as held.
        tokens_held, limit_tokens: in the cache, and what it may hold (None without a budget or before the first step).
        kv_bytes: of keys and values.
        other_bytes: of all else that grows or is large: V-JEPA's window, features kept for refilling, frames kept.
        evicted_steps, evicted_tokens: what has left; tokens of thinned steps and of turns among the latter.
        turns_held, turns_evicted: remembered turns and breaks between video segments.
        thinned_without_gaze: steps that policy "gaze" thinned evenly, having no valid gaze.
        next_position, position_limit: M-RoPE positions in use, and how many there are.
        relocations: times that everything held was laid at lower positions.
        gaze_late_steps: steps that went on before their gaze had arrived.
        source: gaps, clock jumps, dropped frames and samples, where a `StepBuilder` made the steps and its counts were
            given.
    """

    seconds_seen: float
    steps_seen: int
    steps_held: int
    steps_thinned: int
    tokens_held: int
    limit_tokens: int | None
    kv_bytes: int
    other_bytes: int
    evicted_steps: int
    evicted_tokens: int
    turns_held: int
    turns_evicted: int
    thinned_without_gaze: int
    next_position: int
    position_limit: int
    relocations: int
    gaze_late_steps: int
    source: StreamCounts | None = None

    @classmethod
    def of(
        cls,
        memory: Memory,
        *,
        steps_seen: int,
        seconds_seen: float,
        frames_held: Sequence[Step],
        source: StreamCounts | None,
    ) -> SessionReport:
        """The report of a memory.

        Args:
            steps_seen, seconds_seen, source: as the attributes.
            frames_held: steps that are kept with their frames.
        """
        state = memory.state
        window = 0 if state.window is None else state.window.bytes
        return cls(
            seconds_seen=seconds_seen,
            steps_seen=steps_seen,
            steps_held=len(state.steps),
            steps_thinned=state.thinned_steps,
            tokens_held=state.tokens,
            limit_tokens=memory.limit_tokens,
            kv_bytes=state.bytes,
            other_bytes=window
            + sum(frozen.bytes for _, frozen in memory.kept)
            + sum(step.frames.nbytes + step.vjepa_frames.nbytes for step in frames_held),
            evicted_steps=state.evicted_steps,
            evicted_tokens=state.evicted_tokens,
            turns_held=state.turns_held,
            turns_evicted=state.turns - state.turns_held,
            thinned_without_gaze=memory.thinned_without_gaze,
            next_position=state.rope.next,
            position_limit=memory.position_limit,
            relocations=memory.relocations,
            gaze_late_steps=memory.gaze_late_steps,
            source=source,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)
