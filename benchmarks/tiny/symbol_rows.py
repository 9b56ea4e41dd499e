"""Lessons about symbol worlds in one row of tokens: B worlds, each seen once and asked N lessons at different moments.

    ┌ world 0: head, cells of steps ┬ world 1: ... ┐┌ group of lessons ┐┌ longer ones ┐ ...
    └──────── B prefixes of P ──────┴──────────────┘└─ B x n blocks of Q: tail, words ─┘

The layout is `gazeqwen.packed`'s: a block sees its world's prefix up to its own moment, and itself. Here all worlds
have as many blocks of a length, so that one product of matrices serves a group, and cells that show nothing are left
out but for a few: both make pre-training several times as fast. Positions are those of the whole grid.

Shapes: L tokens of the row, V of them visual, h heads, d their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.tiny.lessons import Lesson
from benchmarks.tiny.symbol_worlds import SymbolWorld
from gazeqwen.tiny.symbols import SymbolTable, cell_content

COLUMNS, GRID_ROWS = 6, 4
CELLS = COLUMNS * GRID_ROWS
TOKENS_PER_SECOND = 2
HIDDEN = -1e4
DWELL_FULL_S = 0.5  # a look that fills half a second of a step is shown at full strength
RECENT_S = 0.3


@dataclass(frozen=True)
class Placed:
    """A lesson put after whole steps [first, stop) of a world and its partial step `tail`, a row of the world's."""

    lesson: Lesson
    stop: int
    first: int = 0
    tail: int | None = None


@dataclass(frozen=True, eq=False)
class Group:
    """n blocks of Q tokens for each world. `prefix`: (B, 1, n * Q, P), `own`: (1, 1, Q, Q), added to the scores."""

    n: int
    length: int
    prefix: Tensor
    own: Tensor


@dataclass(frozen=True, eq=False)
class SharedPrefixes:
    """The structure of a row, as `gazeqwen.packed` asks for it."""

    worlds: int
    length: int
    groups: tuple[Group, ...]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """(h, L, d) each -> (h, L, d)."""
        heads, _, size = query.shape
        scale = size**-0.5 if scaling is None else scaling
        b, p = self.worlds, self.length
        sizes = [b * p, *(b * group.n * group.length for group in self.groups)]
        queries, keys, values = (part.split(sizes, dim=1) for part in (query, key, value))

        def blocks(rows: Tensor, n: int) -> Tensor:  # (h, n * Q, d) -> (n, h, Q, d)
            return rows.reshape(heads, n, -1, size).transpose(0, 1)

        k, v = blocks(keys[0], b), blocks(values[0], b)
        seen = F.scaled_dot_product_attention(blocks(queries[0], b), k, v, is_causal=True, scale=scale)
        out = [seen.transpose(0, 1).reshape(heads, -1, size)]
        for group, gq, gk, gv in zip(self.groups, queries[1:], keys[1:], values[1:], strict=True):
            n, q = group.n, group.length
            gq = gq * scale
            there = blocks(gq, b) @ k.transpose(-1, -2) + group.prefix  # (B, h, n * Q, P)
            own = blocks(gq, b * n) @ blocks(gk, b * n).transpose(-1, -2) + group.own  # (B * n, h, Q, Q)
            own = own.view(b, n, heads, q, q).transpose(1, 2).reshape(b, heads, n * q, q)
            weights = torch.cat([there, own], dim=-1).softmax(dim=-1)
            of_own = weights[..., p:].reshape(b, heads, n, q, q).transpose(1, 2).reshape(b * n, heads, q, q)
            answered = (of_own @ blocks(gv, b * n)).view(b, n, heads, q, size).transpose(1, 2)
            answered = answered.reshape(b, heads, n * q, size) + weights[..., :p] @ v
            out.append(answered.transpose(0, 1).reshape(heads, -1, size))
        return torch.cat(out, dim=1)


@dataclass(frozen=True, eq=False)
class Cells:
    """What V visual tokens show: arguments of `cell_content`, and (V,) float32 strengths of the selection symbols."""

    noun: Tensor
    colour: Tensor
    state: Tensor
    hand: Tensor
    brief: Tensor
    dwell: Tensor
    recency: Tensor

    def content(self, table: SymbolTable) -> Tensor:
        """(V, D) without selection."""
        return cell_content(table, self.noun, self.colour, self.state, self.hand, self.brief)

    def selection(self, table: SymbolTable) -> Tensor:
        """(V, D)."""
        dwell, recency = table["selection"]
        return self.dwell[:, None] * dwell + self.recency[:, None] * recency


@dataclass(frozen=True, eq=False)
class SymbolRow:
    """A row ready for the decoder.

    Attributes:
        ids: (L,); anything at visual tokens. `positions`: (3, L).
        visual: (V,) rows of the visual tokens. `cells`: what they show.
        read: (T,) rows whose logits are judged, `tokens`: (T,) what should come next, `weights`: (T,).
        lessons: each with the row of its first word, in no order.
        worlds: B of them; world_of, step_of, cell_of: (V,) where a visual token comes from: one of them, its step, its
            cell.
    """

    ids: Tensor
    positions: Tensor
    packing: SharedPrefixes
    visual: Tensor
    cells: Cells
    read: Tensor
    tokens: Tensor
    weights: Tensor
    early: Tensor
    lessons: tuple[tuple[Placed, int], ...]
    worlds: tuple[SymbolWorld, ...]
    world_of: np.ndarray
    step_of: np.ndarray
    cell_of: np.ndarray


class _Kept:
    """Which cells of a world's steps are shown: those that show something, and `background` others of each step."""

    def __init__(self, world: SymbolWorld, rng: np.random.Generator, background: int | None) -> None:
        self._some = (world.symbols.thing >= 0) | world.symbols.hand
        self._rng, self._background = rng, background

    def of(self, step: int) -> np.ndarray:
        if self._background is None:
            return np.arange(CELLS)
        kept = self._some[step].copy()
        kept[self._rng.integers(0, CELLS, self._background)] = True
        return np.flatnonzero(kept)


def symbol_row(
    worlds: Sequence[SymbolWorld],
    placed: Sequence[Sequence[Placed]],
    *,
    head: Sequence[int],
    rng: np.random.Generator,
    background: int | None = 1,
) -> SymbolRow:
    """Lays out worlds and lessons.

    Args:
        placed: N lessons for each world.
        head: token ids before the first visual token.
        background: cells that show nothing to keep in each step; None keeps the whole grid.
    """
    b, n_all, h = len(worlds), len(placed[0]), len(head)
    kept = [_Kept(world, rng, background) for world in worlds]
    shown = []
    for world, of_world, lessons in zip(worlds, kept, placed, strict=True):
        cells = [of_world.of(step) for step in range(max(item.stop for item in lessons))]
        steps = np.repeat(np.arange(len(cells)), [len(part) for part in cells])
        shown.append((steps, np.concatenate(cells) if cells else np.zeros(0, dtype=int)))
        assert len(world.seconds) >= len(cells)
    temporal = [np.trunc(np.round(world.seconds, 2) * TOKENS_PER_SECOND).astype(int) for world in worlds]
    p = h + max(len(steps) for steps, _ in shown)
    visual: list[np.ndarray] = []
    origin: list[tuple[int, np.ndarray, np.ndarray]] = []

    ids, positions = np.zeros((b, p), dtype=np.int64), np.ones((3, b, p), dtype=np.int64)
    step_at = np.full((b, p), np.iinfo(np.int64).max)  # padding is later than everything
    ids[:, :h], positions[:, :, :h], step_at[:, :h] = head, np.arange(h), -1
    for row, (steps, cells) in enumerate(shown):
        place = slice(h, h + len(steps))
        step_at[row, place] = steps
        positions[:, row, place] = h + np.stack([temporal[row][steps], cells // COLUMNS, cells % COLUMNS])
        visual.append(row * p + h + np.arange(len(steps)))
        origin.append((row, steps, cells))

    nothing = np.zeros(0, dtype=int)
    tails = [[nothing if item.tail is None else kept[row].of(item.tail) for item in placed[row]] for row in range(b)]
    lengths = np.array([[len(tails[r][j]) + len(placed[r][j].lesson.ids) for j in range(n_all)] for r in range(b)])
    order = np.argsort(lengths, axis=1, kind="stable")
    longest = np.take_along_axis(lengths, order, axis=1).max(axis=0)  # (N,) of all worlds, by place in the order
    all_ids, all_positions, groups, start = [ids.reshape(-1)], [positions.reshape(3, -1)], [], b * p
    read: list[int] = []
    tokens: list[int] = []
    weights: list[float] = []
    early: list[int] = []
    found: list[tuple[Placed, int]] = []
    for first, stop in _runs(longest):
        n, q = stop - first, int(longest[stop - 1])
        block_ids = np.zeros((b, n, q), dtype=np.int64)
        block_positions = np.ones((3, b, n, q), dtype=np.int64)
        sees = np.zeros((b, n, q, p), dtype=bool)
        for row in range(b):
            for column, j in enumerate(order[row, first:stop]):
                item, tail = placed[row][j], tails[row][j]
                at, words = start + (row * n + column) * q, len(item.lesson.ids)
                after = h if item.stop == 0 else max(h + temporal[row][item.stop - 1], h + COLUMNS - 1) + 1
                if item.tail is not None:
                    when = h + temporal[row][item.tail]
                    block_positions[:, row, column, : len(tail)] = np.stack(
                        [np.full(len(tail), when), h + tail // COLUMNS, h + tail % COLUMNS]
                    )
                    visual.append(at + np.arange(len(tail)))
                    origin.append((row, np.full(len(tail), item.tail), tail))
                    after = max(after, when + 1, h + COLUMNS)
                block_ids[row, column, len(tail) : len(tail) + words] = item.lesson.ids
                block_positions[:, row, column, len(tail) :] = after + np.arange(q - len(tail))
                before = step_at[row] < item.stop
                sees[row, column] = before & ((step_at[row] < 0) | (step_at[row] >= item.first))
                sees[row, column, : len(tail)] = before
                for target in item.lesson.targets:
                    read.append(at + len(tail) + target.place)
                    tokens.append(target.token)
                    weights.append(target.weight)
                    early.append(-1 if target.early is None else target.early)
                found.append((item, at + len(tail)))
        triangle = np.tril(np.ones((q, q), dtype=bool))
        groups.append(Group(n, q, _added(sees.reshape(b, 1, n * q, p)), _added(triangle[None, None])))
        all_ids.append(block_ids.reshape(-1))
        all_positions.append(block_positions.reshape(3, -1))
        start += b * n * q
    world_of = np.concatenate([np.full(len(steps), row) for row, steps, _ in origin])
    step_of, cell_of = (np.concatenate([part[k] for part in origin]) for k in (1, 2))
    return SymbolRow(
        ids=torch.from_numpy(np.concatenate(all_ids)),
        positions=torch.from_numpy(np.concatenate(all_positions, axis=1)),
        packing=SharedPrefixes(b, p, tuple(groups)),
        visual=torch.from_numpy(np.concatenate(visual)),
        cells=_cells(worlds, world_of, step_of, cell_of),
        read=torch.tensor(read),
        tokens=torch.tensor(tokens),
        weights=torch.tensor(weights),
        early=torch.tensor(early),
        lessons=tuple(found),
        worlds=tuple(worlds),
        world_of=world_of,
        step_of=step_of,
        cell_of=cell_of,
    )


def _runs(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Borders of groups in ascending lengths: a new one where a block is a fifth longer than its group's shortest."""
    cuts = [0]
    for j in range(1, len(lengths)):
        if lengths[j] > 1.2 * lengths[cuts[-1]] + 2 and j - cuts[-1] >= 2:
            cuts.append(j)
    return list(zip(cuts, [*cuts[1:], len(lengths)], strict=True))


def _added(sees: np.ndarray) -> Tensor:
    return torch.zeros(sees.shape).masked_fill_(~torch.from_numpy(sees), HIDDEN)


def _cells(worlds: Sequence[SymbolWorld], world_of: np.ndarray, step_of: np.ndarray, cell_of: np.ndarray) -> Cells:
    made: dict[str, np.ndarray] = {
        name: np.zeros(len(world_of), dtype=np.int64) for name in ("noun", "colour", "state", "brief")
    }
    made["hand"] = np.zeros(len(world_of), dtype=bool)
    made |= {name: np.zeros(len(world_of), dtype=np.float32) for name in ("dwell", "recency")}
    for row, world in enumerate(worlds):
        mine, symbols = world_of == row, world.symbols
        step, cell = step_of[mine], cell_of[mine]
        thing = symbols.thing[step, cell]
        there, index = thing >= 0, np.maximum(thing, 0)
        made["noun"][mine] = np.where(there, symbols.noun[index], -1)
        made["colour"][mine], made["state"][mine] = symbols.colour[index], symbols.state[step, index]
        made["brief"][mine] = np.where(there, symbols.brief[step, index], -1)
        made["hand"][mine] = symbols.hand[step, cell]
        made["dwell"][mine] = there * np.minimum(symbols.dwell_s[step, index] / DWELL_FULL_S, 1)
        made["recency"][mine] = there * np.exp(-symbols.age_s[step, index] / RECENT_S)
    return Cells(**{name: torch.from_numpy(array) for name, array in made.items()})
