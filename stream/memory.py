"""What a stream keeps: its state on the model, never above its budget, and what refilling a window needs.

A step that doesn't fit makes room first: the policy evicts for exactly that step, then it goes in. So the budget is
never passed, a full stream holds the same number of tokens at every step, and steps that come in many at once give what
they give one at a time. Their frozen weights' part is computed together all the same.

Positions are bounded too: before a step would use the last eighth of them, everything held is laid in the lower half
(`gazeqwen.relocate`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

from gazeqwen import prompts
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import Frozen
from gazeqwen.model import GazeQwen
from gazeqwen.relocate import relocate
from gazeqwen.state import Span, StreamState
from gazeqwen.types import Step
from gazeqwen.vjepa import RollingWindow
from stream.eviction import TURN_SHARE, Budget, Gaze, Policy

MOST_POSITIONS = 32_768  # what Qwen2.5-VL was trained with; its config allows more
LEAST_POSITIONS = 64
RESERVED_SHARE = 8  # one part of so many of the positions is left to a question and its answer
CHUNK_STEPS = 8  # more are no faster, and a forward of 16 takes 5 % more memory at its peak

_COUNTERS = ("thinned_without_gaze", "gaze_late_steps", "relocations", "limit_tokens")

# (steps, V-JEPA's state before them, milliseconds by part) -> what `GazeQwen.frozen` makes of them. Moves the state on,
# and adds its own time: to "cache" where it reads instead of computing.
FrozenSource = Callable[[Sequence[Step], RollingWindow | None, dict[str, float]], Frozen]


class Memory:
    """One stream's state and its limits.

    Args:
        state: of a stream that has just begun.
        source: of the frozen weights' part; None for the model's own.
        budget, policy: what is kept (`stream.eviction`).
        position_limit: positions the stream and a question on it may use; None for the model's, at most MOST_POSITIONS.
        refill_s: the seconds of steps to keep for `refilled`; 0 for none.

    Raises:
        ConfigError: a position limit out of range.
    """

    def __init__(
        self,
        model: GazeQwen,
        state: StreamState,
        *,
        source: FrozenSource | None,
        budget: Budget,
        policy: Policy,
        position_limit: int | None,
        refill_s: float,
    ) -> None:
        most = int(model.backbone.text_config.max_position_embeddings)
        limit = min(most, MOST_POSITIONS) if position_limit is None else position_limit
        if not min(LEAST_POSITIONS, most) <= limit <= most:
            raise ConfigError(f"position_limit: {LEAST_POSITIONS} to the model's {most}, got {limit}")
        self.position_limit = limit
        self.model, self.state, self.budget, self.policy = model, state, budget, policy
        self.source: FrozenSource = source or self._encode
        self.kept: deque[tuple[Step, Frozen]] = deque()
        self._ends_s: tuple[float, ...] = ()  # of the video segments that ended between steps kept
        self.thinned_without_gaze = self.gaze_late_steps = self.relocations = 0
        self.limit_tokens: int | None = None  # known once the first step's size is
        self._refill_s = refill_s
        self._opening = self._length(prompts.PREFIX + prompts.VISION_START)
        self._marks = self._length(prompts.VISION_END + prompts.VISION_START)  # around a break

    def counts(self) -> dict[str, int | None]:
        """The counters, in plain JSON types."""
        return {name: getattr(self, name) for name in _COUNTERS}

    def set_counts(self, counts: Mapping[str, int | None]) -> None:
        """What `counts` told."""
        for name in _COUNTERS:
            setattr(self, name, counts[name])

    # -- what comes in -------------------------------------------------------------------------------------------------

    def take(self, steps: Sequence[Step]) -> None:
        """Whole steps in order, at most CHUNK_STEPS: all of them, or after an error none.

        Raises:
            InputError: as `GazeQwen.append`; the budget is too small for the sinks and one step, or the position limit
                for the step's grid.
        """
        with self._all_or_nothing():
            frozen = self._take(steps)
            kept = [(step.without_frames(), frozen[s : s + 1]) for s, step in enumerate(steps) if self._refill_s]
        self.gaze_late_steps += sum(step.gaze_late for step in steps)
        if self._refill_s:
            self.kept += kept
            while self.kept[0][0].span_s[1] <= steps[-1].span_s[1] - self._refill_s:
                self.kept.popleft()
            self._ends_s = tuple(end_s for end_s in self._ends_s if end_s >= self.kept[0][0].span_s[1])

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """After an error inside the stream is as it was before: what it held then stands beside it meanwhile."""
        before, counts, ends_s = self.state.fork(), self.counts(), self._ends_s
        try:
            yield
        except BaseException:
            self.state.become(before)
            self._ends_s = ends_s
            self.set_counts(counts)
            raise

    def _take(self, steps: Sequence[Step]) -> Frozen:
        """Puts the steps in; returns what the frozen weights made of them."""
        state = self.state
        window = None if state.window is None else state.window.copy()
        frozen = self.source(steps, window, state.latency_ms)
        size = frozen.h * frozen.w
        self._set_limit(size)
        self._require_positions(max(frozen.h, frozen.w))
        done = 0
        while done < len(steps):
            count = self._ready(steps[done:], frozen)
            part = slice(done, done + count)
            self.model.grow(state, steps[part], frozen=frozen[part], window=window)
            done += count
        return frozen

    def _ready(self, steps: Sequence[Step], frozen: Frozen) -> int:
        """How many of the steps go in next, at least one, once room and positions are made for them."""
        size, usable = frozen.h * frozen.w, self._usable_positions
        count = self._fitting(size, len(steps))
        if not count:
            self._make_room(video=size, text=self._segment_tokens())
            count = 1
        while count > 1 and self._positions_after(steps[:count], frozen) > usable:
            count -= 1
        if count == 1 and self._positions_after(steps[:1], frozen) > usable:
            self._relocate()
            if self._positions_after(steps[:1], frozen) > usable:  # the time that has passed alone is too long
                self._end_segment(before=size)
        return count

    @property
    def _usable_positions(self) -> int:
        return self.position_limit - self.position_limit // RESERVED_SHARE

    def _positions_after(self, steps: Sequence[Step], frozen: Frozen) -> int:
        """The stream's next position once these steps are in."""
        rope, start_s = self.state.rope.copy(), self.state.segment_start_s
        if start_s is None:
            rope.text(self._segment_tokens())
            rope.begin_video()
            start_s = float(steps[0].frame_times_s[0])
        for step in steps:
            rope.step(float(step.frame_times_s[0]) - start_s, frozen.h, frozen.w)
        return rope.next

    def _relocate(self) -> None:
        """Lays what is held in the lower half. Where text alone takes more, the oldest turns leave."""
        turns = sorted({span.turn for span in self.state.spans if span.turn is not None})
        while True:
            try:
                relocate(self.model.backbone, self.state, below=self.position_limit // 2)
                break
            except InputError:
                if not turns:
                    raise
                self.state.forget([turns.pop(0)])
        self.relocations += 1

    def require_turn(self, text: str, *, answer: int) -> None:
        """Raises InputError where a turn of this text and this many tokens of answer may be more than is kept."""
        around = self._length(prompts.VISION_END + text + prompts.ASSISTANT + prompts.NEXT_TURN + prompts.VISION_START)
        most = self._usable_positions - self.position_limit // 2
        if self.limit_tokens is not None:
            step = max((record.h * record.w for record in self.state.steps), default=0)
            most = min(most, int(TURN_SHARE * self.limit_tokens), self.limit_tokens - self._least(step) + self._marks)
        if around + answer > most:
            raise InputError(
                "remember",
                expected=f"a turn of at most {most} tokens, by the budget and the positions",
                found=f"up to {around + answer}",
                fix="ask shorter, lower max_new_tokens or raise the budget",
            )

    def say(self, text: str) -> None:
        """A turn that stays, after what is held; the next step opens a video segment of its own. Older turns leave
        where they would take more than TURN_SHARE of the budget together."""
        closing = prompts.VISION_END if self.state.segment_start_s is not None else ""
        tokens = self._length(closing + text)
        with self._all_or_nothing():
            if self.limit_tokens is not None:
                self._make_room(text=tokens)
            if self.state.rope.next + tokens > self._usable_positions:
                self._relocate()
            self.model.grow_text(self.state, text)

    def break_video(self) -> None:
        """Ends the open video segment, if there is one: the next step opens one of its own, whose time counts from
        there."""
        with self._all_or_nothing():
            self._end_segment()

    def _end_segment(self, *, before: int = 0) -> None:
        """`break_video`; room is made for so many video tokens too that are about to come in."""
        if self.state.segment_start_s is None:
            return
        if self.limit_tokens is not None and self.state.tokens + self._marks + before > self.limit_tokens:
            self._make_room(video=before, text=self._marks)
        self.model.grow_text(self.state, "")
        if self._refill_s:
            self._ends_s += (self.state.newest_s,)

    def _encode(self, steps: Sequence[Step], window: RollingWindow | None, latency_ms: dict[str, float]) -> Frozen:
        return self.model.frozen(steps, arm=self.state.arm, window=window, latency_ms=latency_ms)

    # -- the budget ----------------------------------------------------------------------------------------------------

    def _least(self, step: int) -> int:
        """Tokens that must fit whatever comes: opening, sinks, one step of this many, and the marks around a break."""
        sinks = [record.h * record.w for record in self.state.steps if record.id < self.policy.sink_steps]
        return self._opening + sum(sinks) + (self.policy.sink_steps - len(sinks) + 1) * step + self._marks

    def _require_positions(self, side: int) -> None:
        """Raises InputError where steps of `side` positions laid close together may not fit the lower half, or a break
        and the next step not what is usable of the upper one."""
        lower, upper = self._opening + self._marks + side, self._marks + side
        least = max(2 * lower, -(-2 * RESERVED_SHARE * upper // (RESERVED_SHARE - 2)))
        if self.position_limit < least:
            raise InputError(
                "position_limit",
                expected=f"at least {least} for frames of this size",
                found=str(self.position_limit),
            )

    def _set_limit(self, step: int) -> None:
        if not self.budget:
            return
        least, sinks = self._least(step), self.policy.sink_steps
        limit = self.budget.limit_tokens(
            opening=self._opening, step=step, bytes_per_token=self.model.backbone.kv_bytes_per_token
        )
        if (self.budget.steps or 0) > sinks:
            limit = max(limit, least)
        if limit < least:
            raise InputError(
                "budget",
                expected=f"at least {least} tokens: the conversation's opening, {sinks} sink steps and one step of "
                f"{step}, and the marks around a break of the video",
                found=str(limit),
                fix="raise the budget, or take smaller frames",
            )
        self.limit_tokens = limit

    def _fitting(self, size: int, wanted: int) -> int:
        """How many steps of this size go in as things are."""
        if self.limit_tokens is None:
            return wanted
        free = self.limit_tokens - self.state.tokens - self._segment_tokens()
        return min(wanted, max(free, 0) // size)

    def _make_room(self, *, video: int = 0, text: int = 0) -> None:
        """Evicts until so many more tokens fit: turns over their share, then by the policy."""
        assert self.limit_tokens is not None
        turns: dict[int, int] = {}
        steps: list[Span] = []
        fixed = video + text
        for span in self.state.spans:
            if span.turn is not None:
                turns[span.turn] = turns.get(span.turn, 0) + span.tokens
            elif span.step is not None and span.step.id >= self.policy.sink_steps:
                steps.append(span)
            else:
                fixed += span.tokens
        gone = []
        for turn in sorted(turns):
            held = sum(turns.values())
            if held + text <= TURN_SHARE * self.limit_tokens and held + fixed <= self.limit_tokens:
                break
            gone.append(turn)
            del turns[turn]
        room = self.limit_tokens - fixed - sum(turns.values())
        if room < 0:
            raise InputError("budget", expected=f"room for {fixed} tokens", found=str(self.limit_tokens))
        self.state.forget(gone)
        changed = self.policy.keep(steps, room)
        if isinstance(self.policy, Gaze):
            of = {span.step.id: span for span in steps if span.step is not None}
            self.thinned_without_gaze += sum(
                len(cells) > 0 and not of[id].step.gaze.any_valid  # type: ignore[union-attr]
                for id, cells in changed.items()
            )
        self.state.thin(changed)

    def _segment_tokens(self) -> int:
        """Tokens that open a video segment, where the next step needs one."""
        return self._length(prompts.VISION_START) if self.state.segment_start_s is None else 0

    def _length(self, text: str) -> int:
        return len(self.model._ids(text))

    # -- what goes out -------------------------------------------------------------------------------------------------

    def refilled(self, oldest_s: float) -> StreamState:
        """A stream that begins with the first step that ends after `oldest_s`, from what was kept, with the breaks of
        the video between its steps."""
        fresh = self.model.start(arm=self.state.arm, fixations=self.state.fixations)
        fresh.latency_ms = dict(self.state.latency_ms)
        kept = [(step, frozen) for step, frozen in self.kept if step.span_s[1] > oldest_s]
        ends_s = [-math.inf, *self._ends_s, math.inf]
        for segment in ([k for k in kept if a < k[0].span_s[1] <= b] for a, b in pairwise(ends_s)):
            self.model.grow_text(fresh, "")
            for first in range(0, len(segment), CHUNK_STEPS):
                steps, parts = zip(*segment[first : first + CHUNK_STEPS], strict=True)
                self.model.grow(fresh, steps, frozen=Frozen.cat(parts))
        return fresh

    def warnings(self, seen: StreamState, *, refilled: bool) -> Iterator[str]:
        """What a question's state no longer shows of the steps that its own had seen.

        Args:
            seen: what the question was read from.
            refilled: it began with the window.
        """
        state, features = self.state, self.model.config.features
        no_longer_held = 0 if refilled else state.evicted_steps
        if hidden := seen.evicted_steps - no_longer_held:
            yield f"the steps kept have seen {hidden} older ones that the window hides"
        if no_longer_held:
            yield f"the steps kept have seen {no_longer_held} older ones that are no longer held"
        if thinned := seen.thinned_steps:
            yield f"of {thinned} older steps only some tokens are held"
            if isinstance(self.policy, Gaze) and not state.arm.gaze_reaches:
                yield f"arm {state.arm.name!r} tells the model no gaze, but policy 'gaze' chose those tokens by it"
        if refilled and state.window is not None:
            before_s = features.window_frames / features.fps
            yield f"V-JEPA features of the window's first {before_s:g} s saw frames before it"
