"""What a visual token of the tiny world should say: sums of fixed vectors, one for each thing that a cell can show.

The embedded model is trained in two halves that meet here. Its language model reads these sums in place of images, its
vision tower learns to make them from pixels (`benchmarks.tiny.vision_training`). Nothing here is trained.

    World, times ─► step_symbols ─► StepSymbols ─► content(table, ...) ─► (S, P, D) targets

A cell is a merged visual token: 28 px of the frame, 6 x 4 of them on 168 x 112 pixels. What a step shows is what its
last frame shows. A cell's object is the one to be seen there whose centre is nearest to the cell's and closer than
21 px: the cell that holds the centre has it, and at times a neighbour. Without one it shows background. The hand comes
on top where its tip is closer than 24 px.

S steps, P cells of a step, n objects of a world, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.tiny.world import World
from gazeqwen.tiny.world_events import DIRECTIONS, FLASHES, STATES, STEP_S
from gazeqwen.tiny.world_sprites import COLOURS, NOUNS

CELL_PX = 28
OBJECT_PX, HAND_PX = 21.0, 24.0  # how near a cell's centre is
SEED, DIM, STD = 20260322, 128, 0.1  # rows of a length of about 1.1
ATTRIBUTE = 0.7  # weight of what is said about an object beside its noun
ROWS: Mapping[str, tuple[str, ...]] = {
    "noun": NOUNS,
    "colour": tuple(COLOURS),
    "state": STATES,
    "direction": DIRECTIONS,  # of a jolt
    "flash": FLASHES,
    "hand": ("hand",),
    "background": ("background",),
    "selection": ("dwell", "recency"),
}


@dataclass(frozen=True, eq=False)
class SymbolTable:
    """Fixed vectors by group and name, of `ROWS`.

    Attributes:
        groups: for each group (names, D) float32.
    """

    groups: Mapping[str, Tensor]

    @classmethod
    def make(cls, *, dim: int = DIM, seed: int = SEED) -> SymbolTable:
        """The table of this seed: normal, of standard deviation 0.1.

        Raises:
            ConfigError: `dim` below 1.
        """
        if dim < 1:
            raise ConfigError(f"symbols: expected a dim of 1 or more, found {dim!r}")
        made = np.random.default_rng(seed).normal(0, STD, (sum(map(len, ROWS.values())), dim))
        parts = torch.from_numpy(made.astype(np.float32)).split([len(names) for names in ROWS.values()])
        return cls(dict(zip(ROWS, parts, strict=True)))

    @property
    def dim(self) -> int:
        return self.groups["noun"].shape[1]

    def __getitem__(self, group: str) -> Tensor:
        """(names, D) of a group."""
        return self.groups[group]

    def row(self, group: str, name: str) -> Tensor:
        """(D,) of one symbol; "red" is a colour and a flash.

        Raises:
            ConfigError: there is none of this group and name.
        """
        if name not in ROWS.get(group, ()):
            raise ConfigError(f"symbols: expected a group and name of {dict(ROWS)}, found {group!r}, {name!r}")
        return self.groups[group][ROWS[group].index(name)]


@cache
def symbol_table() -> SymbolTable:
    """The one that the embedded model is made with. Leave its tensors as they are."""
    return SymbolTable.make()


@dataclass(frozen=True, eq=False)
class StepSymbols:
    """What the steps of one world show and hold.

    Attributes:
        noun, colour: (n,) int64, of the objects: indices into NOUNS and COLOURS.
        thing: (S, P) int64, the object that a cell shows in the last frame, -1 for none. Cells row by row.
        hand: (S, P) bool, in the last frame.
        state: (S, n) int64 at the step's last frame, an index into STATES.
        visible: (S, n) bool, to be seen in the last frame.
        dwell_s: (S, n) float32, seconds of the span in which the log's looks rest on the object.
        age_s: (S, n) float32, seconds from the last moment of those to the span's end; infinite without any.
        brief: (S, n) int64, the last jolt or flash in the span: an index into DIRECTIONS, or into FLASHES plus 4; -1
            for none.
    """

    noun: np.ndarray
    colour: np.ndarray
    thing: np.ndarray
    hand: np.ndarray
    state: np.ndarray
    visible: np.ndarray
    dwell_s: np.ndarray
    age_s: np.ndarray
    brief: np.ndarray

    def of_cells(self, values: np.ndarray) -> np.ndarray:
        """(S, P) of what is known of objects, (n,) or (S, n), for the one that each cell shows; anything where none."""
        rows = np.broadcast_to(values, (len(self.thing), len(self.noun)))
        return np.take_along_axis(rows, np.maximum(self.thing, 0), axis=1)


def cell_centres(size_px: tuple[int, int]) -> np.ndarray:
    """(P, 2) pixels, x and y, row by row.

    Raises:
        InputError: a side is no multiple of 28 pixels.
    """
    width, height = size_px
    if width % CELL_PX or height % CELL_PX or min(size_px) < CELL_PX:
        raise InputError("symbols", expected=f"frames of a multiple of {CELL_PX} pixels", found=f"{width} x {height}")
    x, y = (CELL_PX * (np.arange(side // CELL_PX) + 0.5) for side in size_px)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


def step_symbols(world: World, frame_times_s: np.ndarray, spans_s: np.ndarray) -> StepSymbols:
    """Of steps of a world.

    Args:
        frame_times_s: (S, 2) seconds of each step's frames, the same twice where it has but one; only the second is
            looked at.
        spans_s: (S, 2) seconds, start and stop of what each step stands for.

    Raises:
        InputError: other shapes, or frames that no grid of cells fits.
    """
    times, spans = np.asarray(frame_times_s, dtype=np.float64), np.asarray(spans_s, dtype=np.float64)
    if times.ndim != 2 or times.shape[1] != 2 or spans.shape != times.shape:
        found = f"{times.shape} and {spans.shape}"
        raise InputError("symbols", expected="frame times and spans of shape (S, 2)", found=found)
    script, centres = world.script, cell_centres(world.size_px)
    width, middle = world.size_px[0], np.array(world.size_px) / 2
    rows = np.clip(np.rint(times / STEP_S).astype(int), 0, len(script.t_s) - 1)  # as World.frame
    last = rows[:, 1]  # near the end of a step's span; a mean of both frames is blurred where head or object moves
    visible = world.visible[last]
    at = (script.place[last] - script.camera[last][:, None]) * width + middle
    far = np.hypot(*np.moveaxis(centres[:, None] - at[:, None], -1, 0))  # (S, P, n)
    far[np.broadcast_to(~visible[:, None], far.shape)] = np.inf
    thing = np.where(far.min(axis=2) < OBJECT_PX, far.argmin(axis=2), -1)
    tip = script.hand[last] * width + middle
    hand = np.hypot(*np.moveaxis(centres - tip[:, None], -1, 0)) < HAND_PX
    dwell_s, age_s = _looked_at(world, spans)
    colours = list(COLOURS)
    return StepSymbols(
        noun=np.array([NOUNS.index(name) for name in world.names]),
        colour=np.array([colours.index(name) for name in world.colours]),
        thing=thing,
        hand=hand,
        state=script.state[last].astype(np.int64),
        visible=visible,
        dwell_s=dwell_s,
        age_s=age_s,
        brief=_briefs(world, spans),
    )


def _looked_at(world: World, spans_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(dwell_s, age_s) of StepSymbols."""
    shape = (len(spans_s), len(world.names))
    dwell, age = np.zeros(shape, dtype=np.float32), np.full(shape, np.inf, dtype=np.float32)
    starts, stops = spans_s.T
    for look in world.log.episodes:
        if look.gazed is None:
            continue
        thing, last = world.names.index(look.gazed), np.minimum(look.stop_s, stops)
        rests = last - np.maximum(look.start_s, starts)
        dwell[:, thing] += np.maximum(rests, 0)
        age[:, thing] = np.where(rests > 0, np.minimum(age[:, thing], stops - last), age[:, thing])
    return dwell, age


def _briefs(world: World, spans_s: np.ndarray) -> np.ndarray:
    brief = np.full((len(spans_s), len(world.names)), -1)
    for event in sorted(world.script.spans, key=lambda event: event.start_s):
        within = (event.start_s < spans_s[:, 1]) & (event.stop_s > spans_s[:, 0])
        brief[within, event.thing] = event.value + (len(DIRECTIONS) if event.kind == "flash" else 0)
    return brief


def cell_content(
    table: SymbolTable, noun: Tensor, colour: Tensor, state: Tensor, hand: Tensor, brief: Tensor | None = None
) -> Tensor:
    """(..., D): noun + 0.7 colour + 0.7 state of the object in a cell, or background; then the hand.

    Args:
        noun, colour, state: (...) int64; a noun below 0 is background, whatever the others are.
        hand: (...) bool.
        brief: (...) int64 as of StepSymbols: adds 0.7 of the object's jolt or flash.
    """

    def looked_up(group: Tensor, index: Tensor) -> Tensor:
        return group[index.clamp(min=0)]

    shown = looked_up(table["noun"], noun)
    shown = shown + ATTRIBUTE * (looked_up(table["colour"], colour) + looked_up(table["state"], state))
    if brief is not None:
        events = torch.cat([table["direction"], table["flash"]])
        shown = shown + ATTRIBUTE * (brief >= 0)[..., None] * looked_up(events, brief)
    content = torch.where((noun >= 0)[..., None], shown, table["background"][0])
    return content + hand[..., None] * table["hand"][0]


def content(table: SymbolTable, symbols: StepSymbols, *, brief: bool = False) -> Tensor:
    """(S, P, D) what the cells of these steps show. `brief`: with jolts and flashes, which may lie between frames."""
    there = symbols.thing >= 0
    noun, colour, state, event = (
        torch.from_numpy(np.where(there, symbols.of_cells(values), -1))
        for values in (symbols.noun, symbols.colour, symbols.state, symbols.brief)
    )
    return cell_content(table, noun, colour, state, torch.from_numpy(symbols.hand), event if brief else None)
