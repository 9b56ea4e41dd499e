"""gazeqwen.tiny.symbols: what cells show, against the painted pixels and a computation of its own; sums of rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.tiny.symbols import ROWS, SymbolTable, cell_centres, content, step_symbols, symbol_table
from gazeqwen.tiny.world import World
from gazeqwen.tiny.world_events import DIRECTIONS, FLASHES, STATES
from gazeqwen.tiny.world_sprites import COLOURS, NOUNS

SEEDS = (5, 6, 7)
TIMES_S = np.arange(0.3, 18.0, 1.0)
PAIRS = np.stack([TIMES_S, TIMES_S + 0.5], axis=1)
SPANS = np.stack([TIMES_S - 0.3, TIMES_S + 0.7], axis=1)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [World.make(seed, duration_s=20.0) for seed in SEEDS]


def test_the_table_is_fixed() -> None:
    table = symbol_table()
    assert {name: tuple(rows.shape) for name, rows in table.groups.items()} == {
        "noun": (16, 128), "colour": (10, 128), "state": (4, 128), "direction": (4, 128), "flash": (4, 128),
        "hand": (1, 128), "background": (1, 128), "selection": (2, 128),
    }  # fmt: skip
    rows = torch.cat(list(table.groups.values()))
    assert rows.dtype == torch.float32 and rows.std().item() == pytest.approx(0.1, rel=0.05)
    # Weights are trained for these very numbers.
    torch.testing.assert_close(rows[0, :3], torch.tensor(FIRST), rtol=0, atol=1e-6)
    again = SymbolTable.make(seed=1)
    assert not torch.equal(again["noun"], table["noun"]) and torch.equal(
        again["hand"], SymbolTable.make(seed=1)["hand"]
    )
    assert torch.equal(table.row("flash", "blue"), table["flash"][FLASHES.index("blue")])
    assert torch.equal(table.row("selection", "recency"), table["selection"][1])
    assert ROWS["state"] == STATES and table.dim == 128 and SymbolTable.make(dim=32).dim == 32
    cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T - torch.eye(len(rows))
    assert cosines.abs().max() < 0.4


FIRST = (-0.0571028, 0.0430347, -0.1314207)


def test_cells_by_a_computation_of_its_own(worlds: list[World]) -> None:
    shown = hands = 0
    for world in worlds:
        symbols, script = step_symbols(world, PAIRS, SPANS), world.script
        for step, pair in enumerate(PAIRS):
            row = round(float(pair[1]) / 0.005)
            at = {}
            for thing in range(len(world.names)):
                if world.visible[row, thing]:
                    x, y = (script.place[row, thing, axis] - script.camera[row, axis] for axis in (0, 1))
                    at[thing] = (84 + 168 * x, 56 + 168 * y)
            tip_x, tip_y = (script.hand[row, axis] * 168 for axis in (0, 1))
            for cell in range(24):
                x, y = 14 + 28 * (cell % 6), 14 + 28 * (cell // 6)
                far = {thing: math.dist((x, y), place) for thing, place in at.items()}
                nearest = min(far, key=far.__getitem__, default=-1)
                expected = nearest if nearest >= 0 and far[nearest] < 21 else -1
                assert symbols.thing[step, cell] == expected
                hand = math.dist((x, y), (84 + tip_x, 56 + tip_y)) < 24
                assert symbols.hand[step, cell] == hand
                shown, hands = shown + (expected >= 0), hands + hand
            assert symbols.state[step].tolist() == script.state[row].tolist()
    assert shown > 200 and hands > 50


def test_cells_hold_the_objects_pixels(worlds: list[World]) -> None:
    """The colour at the centre of cells that show an object is more often its own than another object's."""
    right = total = 0
    palette = np.array(list(COLOURS.values()), dtype=float)
    for world in worlds:
        symbols = step_symbols(world, np.stack([TIMES_S, TIMES_S], axis=1), SPANS)
        for step, t in enumerate(TIMES_S):
            frame = world.frame(float(t)).astype(float)
            for cell in np.flatnonzero((symbols.thing[step] >= 0) & ~symbols.hand[step]):
                x, y = 28 * (cell % 6), 28 * (cell // 6)
                pixels = frame[y : y + 28, x : x + 28].reshape(-1, 1, 3)
                near = (np.linalg.norm(pixels - palette, axis=-1) < 45).mean(axis=0)
                mine = symbols.colour[symbols.thing[step, cell]]
                others = [c for c in symbols.colour if c != mine]
                right, total = right + (near[mine] > near[others].mean()), total + 1
    assert total > 150 and right > 0.8 * total


def test_looks_and_briefs_of_spans(worlds: list[World]) -> None:
    met = 0
    for world in worlds:
        symbols = step_symbols(world, PAIRS, SPANS)
        fine = np.arange(0, 20, 0.001)
        on = {name: np.zeros(len(fine), dtype=bool) for name in world.names}
        for look in world.log.episodes:
            if look.gazed is not None:
                on[look.gazed] |= (fine >= look.start_s) & (fine < look.stop_s)
        for step, (start, stop) in enumerate(SPANS):
            within = (fine >= start) & (fine < stop)
            for thing, name in enumerate(world.names):
                rests = fine[within & on[name]]
                assert symbols.dwell_s[step, thing] == pytest.approx(0.001 * len(rests), abs=5e-3)
                if len(rests) > 5:
                    assert symbols.age_s[step, thing] == pytest.approx(stop - rests[-1], abs=5e-3)
                elif not len(rests):
                    assert symbols.dwell_s[step, thing] < 2e-3
                briefs = [s for s in world.script.spans if s.thing == thing and s.start_s < stop and s.stop_s > start]
                if not briefs:
                    assert symbols.brief[step, thing] == -1
                else:
                    code = symbols.brief[step, thing]
                    kind, names = ("motion", DIRECTIONS) if code < 4 else ("flash", FLASHES)
                    assert (briefs[-1].kind, briefs[-1].value) == (kind, names.index(names[code % 4]))
                    met += 1
        assert np.isinf(symbols.age_s[symbols.dwell_s == 0]).all()
    assert met > 10


def test_content_is_a_sum_of_rows(worlds: list[World]) -> None:
    table = symbol_table()
    for world in worlds:
        symbols = step_symbols(world, PAIRS, SPANS)
        plain, full = content(table, symbols), content(table, symbols, brief=True)
        assert plain.shape == (len(PAIRS), 24, 128)
        for step in range(len(PAIRS)):
            for cell in range(24):
                thing = int(symbols.thing[step, cell])
                if thing < 0:
                    expected = table.row("background", "background")
                else:
                    state = STATES[symbols.state[step, thing]]
                    expected = table.row("noun", world.names[thing]) + 0.7 * table.row("colour", world.colours[thing])
                    expected = expected + 0.7 * table.row("state", state)
                if symbols.hand[step, cell]:
                    expected = expected + table.row("hand", "hand")
                torch.testing.assert_close(plain[step, cell], expected)
                if thing >= 0 and (code := int(symbols.brief[step, thing])) >= 0:
                    expected = expected + 0.7 * table["direction" if code < 4 else "flash"][code % 4]
                torch.testing.assert_close(full[step, cell], expected)


def test_wrong_input_is_one_line(worlds: list[World]) -> None:
    with pytest.raises(InputError, match=r"shape \(S, 2\)"):
        step_symbols(worlds[0], TIMES_S, SPANS)
    with pytest.raises(InputError, match="multiple of 28"):
        cell_centres((160, 112))
    with pytest.raises(ConfigError, match="'noun', 'spade'"):
        symbol_table().row("noun", "spade")
    assert cell_centres((168, 112))[[0, 5, 6, 23]].tolist() == [[14, 14], [154, 14], [14, 42], [154, 98]]
    assert len(NOUNS) == 16
    empty = step_symbols(worlds[0], np.empty((0, 2)), np.empty((0, 2)))
    assert content(symbol_table(), empty).shape == (0, 24, 128)
