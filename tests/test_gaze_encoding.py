"""Gaze encodings: what changes them, what must not, and the published one's golden numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazeqwen.config import GazeEncodingConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.gaze_encoding import (
    BroadcastGazeEncoding,
    GazeBatch,
    LocalGazeEncoding,
    build_gaze_encoding,
    official_gaze_encoding,
)
from gazeqwen.types import GazeEvents
from tests.conftest import shared_dir
from tests.golden import section_01b

CONFIG = GazeEncodingConfig()
ENCODE = LocalGazeEncoding(CONFIG)
Event = tuple[float, float, float, float, bool]  # x, y, age, duration, valid

unit = st.floats(0, 1, width=32)
event = st.tuples(unit, unit, st.floats(0, 3, width=32), st.floats(0, 1, width=32), st.booleans())
events = st.lists(event, min_size=1, max_size=6)


def gaze_events(rows: list[Event]) -> GazeEvents:
    table = np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4)
    valid = np.array([row[4] for row in rows], dtype=bool)
    xy = np.where(valid[:, None], table[:, :2], np.nan)
    ones = np.ones(len(rows))
    return GazeEvents(
        t_s=10 - table[:, 2],
        xy_norm=xy,
        duration_s=table[:, 3],
        age_s=table[:, 2],
        valid=valid,
        is_fixation=ones > 0,
        frame_t_s=ones,
    )


def encode(*steps: list[Event], h: int = 3, w: int = 4) -> Tensor:
    return ENCODE(GazeBatch.from_events([gaze_events(rows) for rows in steps]), h, w)


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


@given(events)
def test_the_broadcast_encoding_is_the_published_vector_of_each_event_averaged(rows: list[Event]) -> None:
    encoding = BroadcastGazeEncoding(GazeEncodingConfig(name="broadcast"), channels=16)
    found = encoding(GazeBatch.from_events([gaze_events(rows)]), 2, 3)
    assert found.shape == (1, 6, encoding.dim) and (found == found[:, :1]).all()
    known = [row for row in rows if row[4]]
    assert float(found[0, 0, -1]) == float(bool(known))
    if not known:
        assert (found == 0).all()
        return
    each = [official_gaze_encoding(torch.tensor([[x, y, 0.0, 1.0]]), [0.0], 16)[0][0] for x, y, *_ in known]
    torch.testing.assert_close(found[0, 0, :-1], torch.stack(each).mean(dim=0), rtol=0, atol=1e-5)


def test_encodings_are_chosen_by_name() -> None:
    assert isinstance(build_gaze_encoding(CONFIG), LocalGazeEncoding)
    assert isinstance(build_gaze_encoding(GazeEncodingConfig(name="broadcast")), BroadcastGazeEncoding)
    with pytest.raises(ConfigError, match="local"):
        build_gaze_encoding(GazeEncodingConfig(name="official"))
    with pytest.raises(ConfigError, match="broadcast"):
        BroadcastGazeEncoding(CONFIG)


def test_from_events_pads_and_keeps_no_invalid_number() -> None:
    gaze = GazeBatch.from_events(
        [gaze_events([(0.2, 0.3, 0.1, 0.4, True), (0.9, 0.9, 0.2, 0.3, False)]), GazeEvents.none()]
    )
    assert gaze.valid.tolist() == [[True, False], [False, False]]
    assert gaze.xy_norm.shape == (2, 2, 2) and gaze.xy_norm.dtype == torch.float32
    same(gaze.xy_norm[0, 0], torch.tensor([0.2, 0.3]))
    for column in (gaze.xy_norm, gaze.age_s, gaze.duration_s):
        assert (column[~gaze.valid] == 0).all()


def test_select_takes_steps_in_the_order_asked_for() -> None:
    gaze = GazeBatch.from_events([gaze_events([(x, 0.5, 0, 0, True)]) for x in (0.1, 0.2, 0.3)])
    for chosen, want in (
        (slice(1, 3), [0.2, 0.3]),
        ([2, 0], [0.3, 0.1]),
        (torch.tensor([True, False, True]), [0.1, 0.3]),
    ):
        part = gaze.select(chosen)
        assert len(part) == 2
        same(part.xy_norm[:, 0, 0], torch.tensor(want))
    assert len(gaze.select([])) == 0


@settings(max_examples=60, deadline=None)
@given(events, st.randoms(use_true_random=False))
def test_the_order_of_events_changes_nothing(rows: list[Event], random: object) -> None:
    mixed = list(rows)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    same(encode(rows), encode(mixed))


@settings(max_examples=60, deadline=None)
@given(events, events)
def test_invalid_events_and_padding_change_nothing(rows: list[Event], other: list[Event]) -> None:
    invalid = [(x, y, age, duration, False) for x, y, age, duration, _ in other]
    alone = encode(rows)
    same(alone, encode(rows + invalid))
    same(alone[0], encode(rows, rows + other)[0])  # the longer neighbour pads the first row


@settings(max_examples=60, deadline=None)
@given(st.lists(events, min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 5))
def test_a_step_is_encoded_alike_alone_and_in_a_batch(steps: list[list[Event]], h: int, w: int) -> None:
    batch = encode(*steps, h=h, w=w)
    assert batch.shape == (len(steps), h * w, ENCODE.dim) and bool(batch.isfinite().all())
    for row, rows in enumerate(steps):
        same(batch[row], encode(rows, h=h, w=w)[0])


def test_two_fixations_are_not_their_midpoint() -> None:
    two = encode([(0.15, 0.5, 0.1, 0.3, True), (0.85, 0.5, 0.1, 0.3, True)], h=4, w=8)
    middle = encode([(0.5, 0.5, 0.1, 0.3, True)], h=4, w=8)
    apart = (two - middle).abs().amax(dim=-1)
    assert float(apart.min()) > 0.1  # every token can tell
    bells = slice(4 * CONFIG.frequencies + 2, 4 * CONFIG.frequencies + 2 + len(CONFIG.sigmas))
    looked_at = [1 * 8 + 1, 1 * 8 + 6]  # the tokens of row 1 whose cells hold x = 0.15 and 0.85
    between = 1 * 8 + 4
    assert (two[0, looked_at, bells] > two[0, between, bells]).all()


def test_the_second_set_of_gaussians_says_which_look_was_the_last() -> None:
    """Two looks as long as each other: the first set hardly tells them apart, the second does."""
    two = encode([(0.15, 0.5, 0.6, 0.3, True), (0.85, 0.5, 0.05, 0.3, True)], h=4, w=8)[0]
    first = 4 * CONFIG.frequencies + 2
    sigmas = len(CONFIG.sigmas)
    earlier, later = 1 * 8 + 1, 1 * 8 + 6
    pooled, newest = two[:, first : first + sigmas], two[:, first + sigmas : first + 2 * sigmas]
    assert (newest[later] > 20 * newest[earlier]).all() and (pooled[later] < 5 * pooled[earlier]).all()


def test_weights_saved_before_there_was_a_second_set_still_fit() -> None:
    told = {name: value for name, value in CONFIG.to_dict().items() if name != "newest_s"}
    old = GazeEncodingConfig.from_dict(told)
    assert old.newest_s is None and GazeEncodingConfig.from_dict(CONFIG.to_dict()) == CONFIG
    gaze = GazeBatch.from_events([gaze_events([(0.2, 0.4, 0.1, 0.3, True), (0.7, 0.4, 0.5, 0.2, True)])])
    without, new = LocalGazeEncoding(old)(gaze, 3, 4), ENCODE(gaze, 3, 4)
    stop = 4 * CONFIG.frequencies + 2 + len(CONFIG.sigmas)
    same(without, torch.cat([new[..., :stop], new[..., stop + len(CONFIG.sigmas) :]], dim=-1))
    with pytest.raises(ConfigError, match="newest_s"):
        GazeEncodingConfig(newest_s=0.0)


def test_which_x_goes_with_which_y_is_kept() -> None:
    corners = [(0.1, 0.1), (0.9, 0.9)], [(0.1, 0.9), (0.9, 0.1)]
    a, b = (encode([(x, y, 0.0, 0.2, True) for x, y in pair], h=4, w=4) for pair in corners)
    assert float((a - b).abs().max()) > 0.3


@settings(max_examples=60, deadline=None)
@given(unit, unit, st.integers(1, 6), st.integers(1, 6))
def test_the_token_that_was_looked_at_stands_out(x: float, y: float, h: int, w: int) -> None:
    encoded = encode([(x, y, 0.0, 0.3, True)], h=h, w=w)[0]
    widest = encoded[:, 4 * CONFIG.frequencies + 2 + len(CONFIG.sigmas) - 1]
    cell = min(int(y * h), h - 1) * w + min(int(x * w), w - 1)
    assert float(widest[cell]) >= float(widest.max()) - 1e-6


def test_no_valid_event_is_all_zeros_and_any_other_has_the_flag() -> None:
    encoded = encode([(0.5, 0.5, 0.1, 0.2, False)], [], [(0.5, 0.5, 0.1, 0.2, True)])
    assert (encoded[:2] == 0).all()
    assert (encoded[2, :, -1] == 1).all()
    nothing = ENCODE(GazeBatch.from_events([GazeEvents.none()] * 2), 2, 2)
    assert nothing.shape == (2, 4, ENCODE.dim) and (nothing == 0).all()
    assert ENCODE(GazeBatch.from_events([]), 2, 2).shape == (0, 4, ENCODE.dim)


@pytest.mark.parametrize("column", [2, 3], ids=["recent", "long"])
def test_recent_and_long_events_weigh_more(column: int) -> None:
    left, right = [0.2, 0.5, 0.2, 0.2, True], [0.8, 0.5, 0.2, 0.2, True]
    right[column] = 1.5 if column == 2 else 0.02  # older, or shorter
    both, only_left, only_right = (
        encode(rows)[..., :-3]
        for rows in ([tuple(left), tuple(right)], [tuple(left)], [tuple(right)])  # type: ignore[list-item]
    )
    assert float((both - only_left).norm()) < 0.5 * float((both - only_right).norm())


def test_age_and_duration_can_be_read_back() -> None:
    base = encode([(0.3, 0.3, 0.1, 0.2, True)])
    for changed in ((0.3, 0.3, 0.6, 0.2, True), (0.3, 0.3, 0.1, 0.9, True)):
        difference = (encode([changed]) - base).abs().amax(dim=(0, 1))
        assert float(difference[-3:-1].max()) > 0.1 and float(difference[:-3].max()) < 1e-6


def test_events_long_past_stay_finite() -> None:
    encoded = encode([(0.2, 0.2, 1e6, 0.0, True), (0.8, 0.8, 1e6, 0.0, True)])
    assert bool(encoded.isfinite().all()) and (encoded[..., -1] == 1).all()


def test_local_encoding_refuses_the_other_name() -> None:
    with pytest.raises(ConfigError, match="local"):
        LocalGazeEncoding(GazeEncodingConfig(name="official"))


# -- published encoding ------------------------------------------------------------------------------------------------


def test_golden_01b() -> None:
    error, tolerance = section_01b.check(shared_dir("golden"))
    assert error <= tolerance


SCANPATH = torch.tensor([[0.25, 0.75, 10.0, 2.0], [0.5, 0.5, 10.5, 0.4], [0.0, 0.0, 20.0, 0.0]])


def test_official_encoding_of_the_origin_and_its_halves() -> None:
    origin, active = official_gaze_encoding(SCANPATH, [20.0], 16)
    assert active.tolist() == [True]
    assert torch.equal(origin[0], torch.tensor([0.0, 1.0] * 8))  # a zero duration is active at its own instant
    moved = official_gaze_encoding(torch.tensor([[0.0, 0.6, 20.0, 1.0]]), [20.0], 16)[0]
    assert torch.equal(moved[0, :8], origin[0, :8]) and not torch.equal(moved[0, 8:], origin[0, 8:])
    assert float(moved[0, 8]) == pytest.approx(np.sin(0.6), abs=1e-6)  # raw coordinate, no 2 pi


def test_official_encoding_is_the_mean_of_what_is_active() -> None:
    each = [official_gaze_encoding(SCANPATH[i : i + 1], [10.4], 32)[0] for i in range(2)]
    both, active = official_gaze_encoding(SCANPATH, [10.4, 15.0], 32)
    same(both[0], (each[0][0] + each[1][0]) / 2)
    assert active.tolist() == [True, False] and (both[1] == 0).all()


def test_official_interval_is_closed_and_compared_in_float32() -> None:
    scanpath = torch.tensor([[0.5, 0.5, 0.5, 1.0]])
    times = [0.0, 1.0, 1.0 + 1e-9, 1.001, -1e-3]
    assert official_gaze_encoding(scanpath, times, 8)[1].tolist() == [True, True, True, False, False]
    assert official_gaze_encoding(scanpath, torch.tensor(times, dtype=torch.float64), 8)[1].tolist()[2]


def test_official_durations_are_at_least_a_microsecond() -> None:
    scanpath = torch.tensor([[0.5, 0.5, 0.0, -3.0]])
    assert official_gaze_encoding(scanpath, [-4e-7, 0.0, 4e-7, 6e-7], 8)[1].tolist() == [True, True, True, False]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 25, width=32), min_size=1, max_size=8))
def test_official_times_together_equal_one_by_one(times: list[float]) -> None:
    together, active = official_gaze_encoding(SCANPATH, times, 16)
    for t, (row, flag) in enumerate(zip(together, active, strict=True)):
        alone, alone_active = official_gaze_encoding(SCANPATH, [times[t]], 16)
        same(row, alone[0])
        assert bool(flag) == bool(alone_active[0])


def test_official_encoding_of_no_fixations_and_bad_input() -> None:
    encoding, active = official_gaze_encoding(torch.zeros(0, 4), [1.0, 2.0], 8)
    assert encoding.shape == (2, 8) and (encoding == 0).all() and not active.any()
    with pytest.raises(ConfigError, match="divisible by 4"):
        official_gaze_encoding(SCANPATH, [1.0], 6)
    with pytest.raises(InputError, match="shape"):
        official_gaze_encoding(SCANPATH[:, :3], [1.0], 8)
