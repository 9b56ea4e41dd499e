"""Types and time: nothing later than the asked time is ever returned, and every row is accounted for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import FutureDataError, InputError
from gazeqwen.types import Answer, AsofMethod, Fixations, GazeEvents, GazeSamples, Question, Step, asof
from tests.made_steps import made_steps

# Times on a coarse grid, so that equal ones are common, and anywhere.
TIME = st.one_of(st.integers(-20, 20).map(lambda n: n / 4), st.floats(-1e6, 1e6).map(lambda t: round(t, 3)))
TIMES = st.lists(TIME, max_size=40)
METHODS: tuple[AsofMethod, ...] = ("backward", "forward", "nearest")
ODD = st.sampled_from([math.nan, math.inf, -math.inf])


# -- asof --------------------------------------------------------------------------------------------------------------


def row_by_hand(source: list[float], query: float, method: str, tolerance_s: float) -> int:
    """The rule of `asof` by looking at every row."""
    gaps = [abs(query - t) for t in source]
    allowed = [
        row
        for row, t in enumerate(source)
        if gaps[row] <= tolerance_s
        and not (method == "backward" and t > query)
        and not (method == "forward" and t < query)
    ]
    if not allowed:
        return -1
    closest = min(gaps[row] for row in allowed)
    best = min(source[row] for row in allowed if gaps[row] == closest)  # the earlier one in a tie
    same = [row for row in allowed if source[row] == best]
    return same[0] if method == "forward" else same[-1]


@settings(max_examples=300, deadline=None)
@given(
    source=TIMES.map(sorted),
    queries=TIMES,
    method=st.sampled_from(METHODS),
    tolerance_s=st.sampled_from([0.0, 0.25, 1.0, math.inf]),
)
def test_asof_is_the_rule_row_by_row(
    source: list[float], queries: list[float], method: AsofMethod, tolerance_s: float
) -> None:
    rows = asof(np.array(source), queries, tolerance_s=tolerance_s, method=method, on_missing="mark")
    assert rows.dtype == np.int64
    assert rows.tolist() == [row_by_hand(source, query, method, tolerance_s) for query in queries]


@settings(max_examples=200, deadline=None)
@given(source=TIMES.map(sorted), queries=TIMES, method=st.sampled_from(METHODS), now_s=TIME)
def test_asof_returns_nothing_later_than_now(
    source: list[float], queries: list[float], method: AsofMethod, now_s: float
) -> None:
    if any(query > now_s for query in queries):
        with pytest.raises(FutureDataError, match="question's time"):
            asof(np.array(source), queries, tolerance_s=math.inf, method=method, on_missing="mark", now_s=now_s)
        return
    rows = asof(np.array(source), queries, tolerance_s=math.inf, method=method, on_missing="mark", now_s=now_s)
    assert all(source[row] <= now_s for row in rows if row >= 0)
    past = [t for t in source if t <= now_s]
    same = asof(np.array(past), queries, tolerance_s=math.inf, method=method, on_missing="mark")
    assert rows.tolist() == same.tolist()


@settings(max_examples=60, deadline=None)
@given(source=TIMES, odd=ODD, where=st.integers(0, 40), method=st.sampled_from(METHODS))
def test_asof_refuses_what_is_no_ascending_time(
    source: list[float], odd: float, where: int, method: AsofMethod
) -> None:
    with_odd = [*source[:where], odd, *source[where:]]
    with pytest.raises(InputError, match="finite source times"):
        asof(np.array(with_odd), [0.0], tolerance_s=1.0, method=method)
    with pytest.raises(InputError, match="finite query times"):
        asof(np.array(sorted(source)), [0.0, odd], tolerance_s=1.0, method=method)
    if sorted(source) != source:
        with pytest.raises(InputError, match="ascending"):
            asof(np.array(source), [0.0], tolerance_s=1.0, method=method)


def test_asof_names_what_it_did_not_find_and_refuses_bad_settings() -> None:
    source = np.arange(3.0)
    with pytest.raises(InputError, match=r"none for 6 of 7 times \(3\.000.*, \.\.\. s\)"):
        asof(source, [0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], tolerance_s=0.5)
    with pytest.raises(InputError, match="tolerance_s >= 0"):
        asof(source, [0.0], tolerance_s=math.nan)
    with pytest.raises(InputError, match="tolerance_s >= 0"):
        asof(source, [0.0], tolerance_s=-1.0)
    with pytest.raises(InputError, match="method"):
        asof(source, [0.0], tolerance_s=1.0, method="later")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        asof(source, [0.0], tolerance_s=1.0, now_s=math.nan)
    assert asof(source, 1.2, tolerance_s=0.5).tolist() == [1]


# -- gaze samples ------------------------------------------------------------------------------------------------------

COORDINATE = st.one_of(st.floats(-0.5, 1.5), ODD)
ROW = st.tuples(st.one_of(TIME, ODD), COORDINATE, COORDINATE, st.booleans(), st.floats(0, 1), st.integers(-1, 5))


def built(rows: list[tuple]) -> GazeSamples:
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    t, x, y, valid, confidence, ids = columns
    return GazeSamples.build(
        t, np.column_stack([x, y]) if rows else [], valid=valid, confidence=confidence, fixation_id=ids
    )


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROW, max_size=30), shuffle=st.randoms(use_true_random=False))
def test_every_row_is_a_sample_or_counted_and_order_does_not_matter(rows: list[tuple], shuffle) -> None:
    samples = built(rows)
    assert len(samples) + samples.counts["rows_bad_time"] + samples.counts["rows_duplicate_time"] == len(rows)
    assert (np.diff(samples.t_s) > 0).all() and np.isfinite(samples.t_s).all()
    assert np.isfinite(samples.xy_norm[samples.valid]).all() and np.isnan(samples.xy_norm[~samples.valid]).all()
    assert not (samples.in_frame & ~samples.valid).any()
    inside = samples.xy_norm[samples.in_frame]
    assert ((inside >= 0) & (inside <= 1)).all()
    by_time: dict[float, list[tuple]] = {}
    for row in rows:
        if math.isfinite(row[0]):
            by_time.setdefault(row[0], []).append(row)
    for k, t in enumerate(samples.t_s):
        same = by_time.pop(float(t))
        good = [row for row in same if row[3] and math.isfinite(row[1]) and math.isfinite(row[2])]
        kept = (good or same)[0]  # the first valid one, else the first
        assert samples.valid[k] == bool(good)
        assert samples.confidence is not None and samples.confidence[k] == kept[4]
        assert samples.fixation_id is not None and samples.fixation_id[k] == kept[5]
        if good:
            assert samples.xy_norm[k].tolist() == [kept[1], kept[2]]
    assert by_time == {}
    moved = list(rows)
    shuffle.shuffle(moved)
    again = built(moved)
    assert again.t_s.tolist() == samples.t_s.tolist() and again.valid.tolist() == samples.valid.tolist()
    assert again.counts == samples.counts


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(ROW, max_size=30), start_s=TIME, stop_s=TIME, now_s=TIME)
def test_no_sample_later_than_the_asked_time(rows: list[tuple], start_s: float, stop_s: float, now_s: float) -> None:
    samples = built(rows)
    until = samples.until(now_s)
    assert until.t_s.tolist() == [t for t in samples.t_s if t <= now_s]
    between = samples.between(start_s, stop_s)
    assert between.t_s.tolist() == [t for t in samples.t_s if start_s < t <= stop_s]
    assert between.counts == samples.counts
    if stop_s > now_s:
        with pytest.raises(FutureDataError):
            samples.between(start_s, stop_s, now_s=now_s)
    else:
        assert samples.between(start_s, stop_s, now_s=now_s).t_s.tolist() == between.t_s.tolist()


def test_a_limit_that_is_no_number_lets_nothing_pass() -> None:
    samples = GazeSamples.build([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]])
    fixations = Fixations.build([0.0], [1.0], [[0.5, 0.5]])
    calls: list[Callable[[], object]] = [
        lambda: samples.until(math.nan),
        lambda: samples.until(math.inf),
        lambda: samples.between(0.0, math.nan),
        lambda: samples.between(math.nan, 1.0),
        lambda: samples.between(0.0, 1.0, now_s=math.nan),
        lambda: samples.shifted(math.nan),
        lambda: fixations.until(math.nan),
        lambda: fixations.overlapping(0.0, math.nan),
        lambda: fixations.shifted(math.nan),
    ]
    for call in calls:
        with pytest.raises(InputError):
            call()


def test_gaze_of_the_wrong_shape_or_kind_is_refused() -> None:
    for t, xy in (([0.0], [0.1, 0.2, 0.3]), ([0.0], [0.1, 0.2]), ([0.0, 1.0, 2.0], [[1, 2, 3], [4, 5, 6]])):
        with pytest.raises(InputError, match=r"shape \(N, 2\)"):
            GazeSamples.build(t, xy)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one length"):
        GazeSamples.build([0.0, 1.0], [[0.1, 0.2]])
    with pytest.raises(InputError, match="numbers in t_s"):
        GazeSamples.build(["now"], [[0.1, 0.2]])  # type: ignore[list-item]
    with pytest.raises(InputError, match="numbers in fixation_id"):
        GazeSamples.build([0.0], [[0.1, 0.2]], fixation_id=np.array([math.nan]))


def test_rate_and_clock() -> None:
    samples = GazeSamples.build(np.arange(5) / 50, np.full((5, 2), 0.5))
    assert samples.rate_hz == pytest.approx(50)
    assert math.isnan(samples.take(np.array([0])).rate_hz)
    assert samples.shifted(2.0).t_s.tolist() == (samples.t_s + 2.0).tolist()
    assert samples.in_frame.all()


def test_building_does_not_write_to_the_callers_arrays() -> None:
    xy = np.array([[0.5, math.nan], [0.1, 0.2]])
    GazeSamples.build([1.0, 0.0], xy)
    assert xy[0, 0] == 0.5


# -- fixations ---------------------------------------------------------------------------------------------------------

FIXATION = st.tuples(TIME, st.floats(0, 10), st.floats(0, 1), st.floats(0, 1))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(FIXATION, max_size=20), now_s=TIME, start_s=TIME, stop_s=TIME)
def test_fixations_known_at_a_time_hold_nothing_later(
    rows: list[tuple], now_s: float, start_s: float, stop_s: float
) -> None:
    fixations = Fixations.build(
        [r[0] for r in rows], [r[0] + r[1] for r in rows], np.array([r[2:] for r in rows]).reshape(-1, 2)
    )
    assert (np.diff(fixations.start_s) >= 0).all()
    known = fixations.until(now_s)
    assert (known.start_s <= now_s).all() and (known.stop_s <= now_s).all() and (known.duration_s >= 0).all()
    assert len(known) == sum(r[0] <= now_s for r in rows)
    assert known.open_fixations == sum(r[0] <= now_s < r[0] + r[1] for r in rows)
    assert set(known.ids) <= set(fixations.ids)
    for row, name in enumerate(known.ids):  # a clipped one keeps its centre
        assert known.xy_norm[row].tolist() == fixations.xy_norm[list(fixations.ids).index(name)].tolist()
    overlapping = fixations.overlapping(start_s, stop_s)
    assert len(overlapping) == sum(r[0] <= stop_s and r[0] + r[1] > start_s for r in rows)


def test_bad_fixations_are_refused() -> None:
    for start, stop, xy, words in (
        ([1.0], [0.5], [[0.1, 0.1]], "1 reversed"),
        ([math.nan], [1.0], [[0.1, 0.1]], "non-finite"),
        ([0.0], [1.0], [[math.nan, 0.1]], "non-finite"),
        ([0.0, 1.0], [1.0], [[0.1, 0.1]], "one length"),
        ([0.0], [1.0], [0.1, 0.1, 0.1], "shape"),
    ):
        with pytest.raises(InputError, match=words):
            Fixations.build(start, stop, xy)  # type: ignore[arg-type]
    assert len(Fixations.empty().until(0.0)) == 0


# -- steps, questions, answers -----------------------------------------------------------------------------------------


def test_a_step_holds_two_frames_in_order_within_its_span() -> None:
    good = made_steps(1)[0]
    given: dict = vars(good)
    for change in (
        {"frames": good.frames[:1]},
        {"frames": good.frames.astype(np.float32)},
        {"vjepa_times_s": good.vjepa_times_s[:1]},
        {"vjepa_frames": good.vjepa_frames[:0], "vjepa_times_s": good.vjepa_times_s[:0]},
        {"frame_times_s": good.frame_times_s[::-1]},
        {"span_s": (0.0, 0.4)},
        {"frame_times_s": np.array([math.nan, 0.5])},
    ):
        with pytest.raises(InputError):
            Step(**{**given, **change})
    assert len(good.without_gaze().gaze) == 0 and len(good.gaze) > 0
    assert not GazeEvents.none().any_valid


def test_questions_are_checked() -> None:
    for text, t_s, options in (
        (" ", 0.0, ()),
        ("Which?", math.nan, ()),
        ("Which?", math.inf, ()),
        ("Which?", 0.0, ("one",)),
        ("Which?", 0.0, tuple(map(str, range(27)))),
    ):
        with pytest.raises(InputError):
            Question(text, t_s, options)
    assert Question("Which?", 1.0).options == ()


def test_an_answer_becomes_plain_json() -> None:
    answer = Answer(
        text="jar",
        letter="B",
        option_logprobs={"box": np.float32(-2.0), "jar": -0.1},  # type: ignore[dict-item]
        frame_times_s=(0.0, 0.5),
        gaze_times_s=(np.float64(0.1),),
        gaze_valid_fraction=math.nan,
        fixations=({"start_s": 0.0, "stop_s": 0.5, "x_norm": 0.5, "y_norm": 0.25},),
        span_s=(0.0, 1.0),
        latency_ms={"vit": 1.0},
        model="tiny",
        arm="inject",
        detector={"parameters": {"widths": np.int64(3)}},
    )
    plain = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert plain["answer"] == "jar" and "text" not in plain
    assert plain["gaze_valid_fraction"] is None and plain["t_s"] is None
    assert plain["option_logprobs"] == {"box": -2.0, "jar": -0.1}
    assert plain["detector"] == {"parameters": {"widths": 3}}
