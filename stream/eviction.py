"""What a stream keeps when its budget is full: a hard limit on its tokens, and the policies by name (`POLICIES`).

    recent    whole steps: the first ones (sinks) and the newest
    uniform   as `gaze`, but the tokens that stay of an older step are spread evenly over its grid: the control
    gaze      the newest steps whole; of each older one the n tokens nearest its gaze

The conversation's opening always stays. Survivors keep their positions and have seen what is gone (DESIGN 6). A policy
looks at what is held and at nothing else, so a stream that is full holds the same whatever way it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.state import Span, StepRecord
from gazeqwen.types import GazeEvents

OLD_SHARE = 0.5  # of the room for video tokens that steps held in part may take; beyond it the oldest of them leaves
TURN_SHARE = 0.25  # of the budget that remembered turns may take; beyond it the oldest leaves
SHORTEST_EVENT_S = 0.1  # what a gaze event without duration, a single sample, counts for: a short fixation


@dataclass(frozen=True)
class Budget:
    """What a stream may hold; at most one is given. It is never passed, whatever comes in at once.

    Attributes:
        steps: as much as so many whole steps and the conversation's opening take; one besides the sinks is enough, and
            the marks around a break of the video then come on top.
        tokens: all tokens, text among them.
        bytes: of keys and values.
    """

    steps: int | None = None
    tokens: int | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        given = {f"budget_{name}": value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: pass one of them")
        for name, value in given.items():
            if value < 1:
                raise ConfigError(f"{name}: at least 1, or None for all, got {value}")

    def __bool__(self) -> bool:
        return any(value is not None for value in vars(self).values())

    def limit_tokens(self, *, opening: int, step: int, bytes_per_token: int) -> int:
        """The limit in tokens for steps of `step` tokens after an opening of `opening`."""
        if self.steps is not None:
            return opening + self.steps * step
        if self.tokens is not None:
            return self.tokens
        assert self.bytes is not None
        return self.bytes // bytes_per_token


class Policy(Protocol):
    """Which tokens of the steps stay. `sink_steps` of the first steps always do."""

    @property
    def sink_steps(self) -> int: ...

    def keep(self, held: Sequence[Span], room: int) -> Mapping[int, np.ndarray]:
        """Step id -> the cells that stay (none: the step leaves), for the steps that change.

        Args:
            held: the steps in the cache that are no sinks, oldest first.
            room: video tokens that they may take afterwards, >= 0.
        """
        ...


@dataclass(frozen=True)
class Recent:
    """Whole steps leave, oldest first."""

    sink_steps: int = 0

    def __post_init__(self) -> None:
        _require_counts(sink_steps=self.sink_steps)

    def keep(self, held: Sequence[Span], room: int) -> Mapping[int, np.ndarray]:
        gone: dict[int, np.ndarray] = {}
        tokens = sum(span.tokens for span in held)
        for span in held:
            if tokens <= room:
                break
            gone[_id(span)] = _NONE
            tokens -= span.tokens
        return gone


@dataclass(frozen=True)
class _Thinning:
    """The oldest whole steps are thinned to `tokens`, one after the other; thinned ones take OLD_SHARE of the room at
    most, and leave oldest first."""

    tokens: int = 8
    sink_steps: int = 0

    def __post_init__(self) -> None:
        _require_counts(sink_steps=self.sink_steps)
        if self.tokens < 1:
            raise ConfigError(f"tokens: at least 1 of each older step, got {self.tokens}")

    def chosen(self, record: StepRecord) -> np.ndarray:
        """(<= tokens,) ascending cells of a whole step that stay."""
        raise NotImplementedError

    def keep(self, held: Sequence[Span], room: int) -> Mapping[int, np.ndarray]:
        changed: dict[int, np.ndarray] = {}
        old = [(_id(span), span.tokens) for span in held if span.cells is not None]
        whole = [span for span in held if span.cells is None]
        tokens = sum(span.tokens for span in held)
        old_tokens = sum(size for _, size in old)
        while tokens > room and (whole or old):
            if whole:
                span = whole.pop(0)
                assert span.step is not None
                cells = self.chosen(span.step)
                changed[_id(span)] = cells
                old.append((_id(span), len(cells)))
                old_tokens += len(cells)
                tokens -= span.tokens - len(cells)
            while old and (old_tokens > OLD_SHARE * room or (tokens > room and not whole)):
                gone, size = old.pop(0)
                changed[gone] = _NONE
                old_tokens -= size
                tokens -= size
        return changed


@dataclass(frozen=True)
class Uniform(_Thinning):
    """Of older steps `tokens` stay, spread evenly over the grid."""

    def chosen(self, record: StepRecord) -> np.ndarray:
        return even_cells(record.h, record.w, self.tokens)


@dataclass(frozen=True)
class Gaze(_Thinning):
    """Of older steps `tokens` stay, nearest the step's gaze events (`gaze_cells`), whatever the arm does with gaze. A
    step without valid gaze is thinned as `Uniform` does it: nothing is claimed about where its wearer looked."""

    def chosen(self, record: StepRecord) -> np.ndarray:
        if not record.gaze.any_valid:
            return even_cells(record.h, record.w, self.tokens)
        return gaze_cells(record.gaze, record.h, record.w, self.tokens)


POLICIES: Mapping[str, Callable[[], Policy]] = {"recent": Recent, "uniform": Uniform, "gaze": Gaze}
_NONE = np.zeros(0, dtype=np.int64)
_R2_STEPS = np.array([0.7548776662466927, 0.5698402909980532])  # 1/g and 1/g^2, g^3 = g + 1


def get_policy(policy: Policy | str) -> Policy:
    """A policy by name with its defaults, or as given. Raises ConfigError for an unknown name."""
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise ConfigError(f"unknown policy {policy!r}; policies are {', '.join(POLICIES)}")
    return POLICIES[policy]()


def even_cells(h: int, w: int, n: int) -> np.ndarray:
    """(min(n, h * w),) ascending cells spread evenly over the grid, the middle first: the cells that the R2 sequence
    visits (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences"), in its order until there are n."""
    points = (0.5 + np.arange(32 * h * w)[:, None] * _R2_STEPS) % 1
    cells = (points * (h, w)).astype(np.int64) @ (w, 1)
    _, first = np.unique(cells, return_index=True)
    visited = cells[np.sort(first)]
    return np.sort(np.concatenate([visited, np.setdiff1d(np.arange(h * w), visited)])[:n])


def gaze_cells(gaze: GazeEvents, h: int, w: int, n: int) -> np.ndarray:
    """(min(n, h * w),) ascending cells nearest the valid gaze events.

    A cell's distance to an event is that of its centre, in tokens, squared, over the event's duration (a sample counts
    for SHORTEST_EVENT_S); it takes the smallest over the events. So of two events apart each gets tokens in proportion
    to its duration. Of equal cells the first in raster order stay.

    Raises:
        InputError: no event is valid.
    """
    if not gaze.any_valid:
        raise InputError("gaze_cells", expected="a valid gaze event", found="none")
    xy = gaze.xy_norm[gaze.valid] * (w, h)
    weight = np.maximum(gaze.duration_s[gaze.valid], SHORTEST_EVENT_S)
    y, x = np.divmod(np.arange(h * w), w)
    squared = (x + 0.5 - xy[:, :1]) ** 2 + (y + 0.5 - xy[:, 1:]) ** 2  # (events, cells)
    nearest = (squared / weight[:, None]).min(axis=0)
    return np.sort(np.argsort(nearest, kind="stable")[:n])


def _id(span: Span) -> int:
    assert span.step is not None
    return span.step.id


def _require_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 0:
            raise ConfigError(f"{name}: 0 or more, got {value}")
