"""What a question sees: a fork of the stream with the partial step on it, and without what its window hides.

Questions of one moment and window share the work; each answer's latencies hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gazeqwen import prompts
from gazeqwen.arms import salience_frames
from gazeqwen.frozen import Frozen
from gazeqwen.state import StepRecord, StreamState
from gazeqwen.types import GazeEvents, Step
from gazeqwen.vjepa import RollingWindow
from stream.memory import Memory


@dataclass(frozen=True, eq=False)
class View:
    """What a question sees: a state of its own, the steps it may name as seen, whether the window was refilled."""

    state: StreamState
    records: list[StepRecord]
    refilled: bool


@dataclass(frozen=True, eq=False)
class _Tail:
    """The partial step once it is encoded, with V-JEPA's state after it and the time it took."""

    frozen: Frozen
    window: RollingWindow | None
    latency_ms: Mapping[str, float]


class Views:
    """The views of one stream.

    Attributes:
        tail: the partial step, or None.
        size_px: (width, height) of the newest frames.

    Args:
        memory: the stream's.
        held: steps that compat="official" encodes as a whole at the question; the session's own list.
        refill: windows are prefilled afresh.
    """

    def __init__(self, memory: Memory, *, held: list[Step], refill: bool) -> None:
        self.tail: Step | None = None
        self.size_px: tuple[int, int] | None = None
        self._memory, self._held, self._refill = memory, held, refill
        self._tail_made: _Tail | None = None
        self._seen: tuple[tuple[float, float | None], View] | None = None  # by (time, window_s)

    def set_tail(self, tail: Step | None) -> None:
        """Another partial step, or none, from now on."""
        self.tail, self._tail_made = tail, None
        self.changed()

    def changed(self) -> None:
        """The stream is about to change. Its cache is then not kept alive by a view while the next one grows."""
        self._seen = None

    def at(self, at_s: float, window_s: float | None, *, decode_ms: float) -> View:
        """The view of a question at this time that may look back this far (None: to what is held).

        Args:
            decode_ms: spent on decoding so far, for the answer's latencies.
        """
        asked = (at_s, window_s)
        if self._seen is None or self._seen[0] != asked:
            self.changed()
            self._seen = (asked, self._see(at_s, window_s, decode_ms))
        shared = self._seen[1]
        return replace(shared, state=shared.state.fork())

    def _see(self, at_s: float, window_s: float | None, decode_ms: float) -> View:
        state = self._memory.state
        oldest_s = -np.inf if window_s is None else at_s - window_s
        hidden = [record.id for record in state.steps if record.span_s[1] <= oldest_s]
        refilled = self._refill and window_s is not None and bool(hidden or state.evicted_steps or state.thinned_steps)
        fork = self._memory.refilled(oldest_s) if refilled else state.fork()
        fork.latency_ms.setdefault("decode", decode_ms)
        if state.arm.video:
            tail = self.tail if self.tail is not None and self.tail.span_s[1] > oldest_s else None
            if self._memory.model.official:
                held = [step for step in self._held if step.span_s[1] > oldest_s]
                if steps := [*held, *([] if tail is None else [tail])]:
                    self._memory.model.append(fork, steps)
            elif tail is not None:
                self._append_tail(fork, tail)
        fork.evict([record.id for record in fork.steps if record.span_s[1] <= oldest_s])
        records = fork.steps
        if state.arm.salience and records:
            self._show_salience(fork, records, at_s)
        return View(fork, records, refilled)

    def _append_tail(self, fork: StreamState, tail: Step) -> None:
        state = self._memory.state
        if self._tail_made is None:
            window = None if state.window is None else state.window.copy()
            clock: dict[str, float] = {}
            self._tail_made = _Tail(self._memory.source([tail], window, clock), window, clock)
        made = self._tail_made
        for part, ms in made.latency_ms.items():
            fork.latency_ms[part] = fork.latency_ms.get(part, 0.0) + ms
        self._memory.model.append(fork, [tail], frozen=made.frozen, window=made.window)

    def _show_salience(self, fork: StreamState, records: Sequence[StepRecord], at_s: float) -> None:
        """The arm `heatmap`: after the video, a picture of where the wearer looked. It is no frame of the video."""
        assert self.size_px is not None
        picture = salience_frames(records, self.size_px, at_s)
        self._memory.model.append_text(fork, prompts.SALIENCE)
        now_s = np.array([fork.newest_s])
        step = Step(
            frames=picture,
            frame_times_s=now_s.repeat(2),
            span_s=(fork.newest_s, max(at_s, fork.newest_s + 1e-6)),
            vjepa_frames=picture[:1],
            vjepa_times_s=now_s,
            gaze=GazeEvents.none(),
            repeated=True,
            partial=True,
        )
        self._memory.model.append(fork, [step])
