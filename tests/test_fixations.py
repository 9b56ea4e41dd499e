"""Fixation detectors: exact to StreamGaze, causal and equal online and offline, chosen by name, agreement measured."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import ConfigError, FutureDataError, InputError
from gazeqwen.types import Fixations, GazeSamples
from stream.fixations import (
    DETECTORS,
    IVT,
    choose,
    degrees_per_frame_width,
    detect,
    event_f1,
    ivt_fixations,
    streamgaze_fixations,
    streamgaze_preset,
    to_fixations,
)
from tests.conftest import shared_dir
from tests.golden import section_09

ASPECT = 4 / 3


def steady(start_s: float, stop_s: float, x: float, y: float, *, rate_hz: float = 200.0) -> list[tuple]:
    """Valid samples on one spot, stop included."""
    count = round((stop_s - start_s) * rate_hz) + 1
    return [(start_s + k / rate_hz, x, y, True) for k in range(count)]


def recording(rows: list[tuple]) -> GazeSamples:
    table = np.array([row[:3] for row in rows], dtype=np.float64).reshape(-1, 3)
    valid = np.array([row[3] for row in rows], dtype=bool)
    return GazeSamples.build(table[:, 0], table[:, 1:], valid=valid, frame_size_px=(1600, 1200))


def assert_same(one: Fixations, other: Fixations) -> None:
    np.testing.assert_array_equal(one.start_s, other.start_s)
    np.testing.assert_array_equal(one.stop_s, other.stop_s)
    np.testing.assert_array_equal(one.xy_norm, other.xy_norm)


@st.composite
def gaze_rows(draw: st.DrawFn) -> list[tuple]:
    """Runs of steady or jumping gaze at uneven intervals, with invalid, NaN, off-frame and duplicate samples."""
    rows: list[tuple] = []
    t = draw(st.floats(-5.0, 1e5))
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.floats(-0.2, 1.2)), draw(st.floats(-0.2, 1.2))
        spread = draw(st.sampled_from([0.0, 0.001, 0.02, 0.3]))
        interval = draw(st.sampled_from([0.002, 0.005, 0.0333, 0.06, 0.12]))
        rng = np.random.default_rng(draw(st.integers(0, 2**31)))
        bad = draw(st.sampled_from([0.0, 0.1, 0.9]))
        for _ in range(draw(st.integers(1, 40))):
            t += float(rng.choice([0.0, interval * rng.uniform(0.3, 1.7)], p=[0.03, 0.97]))
            dx, dy = rng.normal(0.0, spread, 2) if spread else (0.0, 0.0)
            lost = rng.random() < bad
            hidden = lost and rng.random() < 0.5
            rows.append((t, math.nan if hidden else x + dx, y + dy, not lost))
    return rows


# --- streamgaze -------------------------------------------------------------------------------------------------------


def anchor_scan(t: np.ndarray, xy: np.ndarray, radius: float, tau: float, gap: float) -> list[tuple[int, int]]:
    """The rule as streamgaze.md 4.2 writes it, one sample after the other: rows [first, end) of each fixation."""
    found, first = [], 0
    for i in range(1, len(t)):
        if math.dist(xy[i], xy[first]) > radius and t[i] - t[i - 1] > gap:
            found.append((first, i))
            first = i
    return [(a, b) for a, b in [*found, (first, len(t))] if len(t) and t[b - 1] - t[a] >= tau]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 400),
    walk=st.sampled_from([0.002, 0.02, 0.2]),
    radius=st.sampled_from([0.0, 0.05, 0.15, 2.0]),
    tau=st.sampled_from([0.0, 0.1, 2.0]),
    gap=st.sampled_from([0.0, 0.01, 0.05]),
)
def test_streamgaze_equals_the_rule_sample_by_sample(
    seed: int, n: int, walk: float, radius: float, tau: float, gap: float
) -> None:
    rng = np.random.default_rng(seed)
    t = np.cumsum(rng.choice([0.005, 0.04, 0.3], n, p=[0.3, 0.65, 0.05]))
    xy = np.cumsum(rng.normal(0, walk, (n, 2)), axis=0)
    xy[rng.random(n) < 0.1] = 0.0
    found = streamgaze_fixations(t, xy, radius_norm=radius, min_duration_s=tau, gap_s=gap, dtype="float64")
    expected = anchor_scan(t, xy, radius, tau, gap)
    assert found.start_s.tolist() == [t[a] for a, _ in expected]
    assert found.stop_s.tolist() == [t[b - 1] for _, b in expected]
    np.testing.assert_allclose(
        found.xy_norm, [xy[a:b].mean(axis=0) for a, b in expected] or np.zeros((0, 2)), atol=1e-12
    )


def test_streamgaze_anchors_on_the_first_sample_and_keeps_flicks() -> None:
    t = np.arange(60) / 24
    drift = np.stack([np.linspace(0.1, 0.4, 60), np.full(60, 0.5)], axis=1)  # never 0.15 from its own running mean
    assert len(streamgaze_fixations(t, drift, radius_norm=0.15, min_duration_s=1.0)) == 2
    still = np.full((60, 2), 0.5)
    still[30] = 0.9
    cut = streamgaze_fixations(t, still, radius_norm=0.15, min_duration_s=1.0)
    kept = streamgaze_fixations(t, still, radius_norm=0.15, min_duration_s=1.0, gap_s=0.05)
    assert len(cut) == 2 and len(kept) == 1
    assert kept.xy_norm[0, 0] == pytest.approx(0.5 + 0.4 / 60, abs=1e-6), "a tolerated flick is part of the mean"


def test_streamgaze_centres_are_float32_means_by_default() -> None:
    xy = np.random.default_rng(0).uniform(0.40, 0.45, (100, 2))
    found = streamgaze_fixations(np.arange(100) / 24, xy, radius_norm=0.5)
    assert (found.xy_norm == found.xy_norm.astype(np.float32)).all() and (found.xy_norm[0] != xy.mean(axis=0)).any()


def test_streamgaze_on_samples_scans_missing_gaze_as_the_dataset_stores_it() -> None:
    lost = [(t, math.nan, math.nan, False) for t in (np.arange(72, 144) / 24).tolist()]
    rows = [*steady(0.0, 2.96, 0.5, 0.5, rate_hz=24.0), *lost]
    zeros = detect(recording(rows), detector="streamgaze", dataset="EGTEA")
    centre = detect(recording(rows), detector="streamgaze", dataset="HoloAssist", frame_width_px=896)
    assert zeros.xy_norm.tolist() == [[0.5, 0.5], [0.0, 0.0]]
    assert centre.xy_norm.tolist() == [[0.5, 0.5]] and centre.stop_s[0] == rows[-1][0]
    assert zeros.counts["samples_invalid"] == 72
    assert zeros.parameters["radius_norm"] == 0.15 and centre.parameters["radius_norm"] == 96 / 896


def test_streamgaze_refuses_what_it_cannot_mean() -> None:
    fast = recording(steady(0.0, 3.0, 0.5, 0.5))
    with pytest.raises(InputError, match="200 samples a second"):
        detect(fast, detector="streamgaze", radius_norm=0.1)
    with pytest.raises(ConfigError, match="EgoExoLearn is 96 px: pass frame_width_px"):
        streamgaze_preset("EgoExoLearn")
    with pytest.raises(ConfigError, match="EGTEA, Ego4D, EgoExoLearn, HoloAssist"):
        streamgaze_preset("GTEA")
    wrong: tuple[dict[str, Any], ...] = (
        {},
        {"dataset": "EGTEA", "radius_norm": 0.1},
        {"radius_norm": 0.1, "frame_width_px": 640},
    )
    for parameters in wrong:
        with pytest.raises(ConfigError):
            detect(fast, detector="streamgaze", **parameters)
    with pytest.raises(InputError, match="finite points"):
        streamgaze_fixations(np.arange(3.0), np.full((3, 2), np.nan), radius_norm=0.1)
    with pytest.raises(InputError, match="descending"):
        streamgaze_fixations(np.array([1.0, 0.0]), np.zeros((2, 2)), radius_norm=0.1)
    with pytest.raises(ConfigError, match="float16"):
        streamgaze_fixations(np.zeros(1), np.zeros((1, 2)), radius_norm=0.1, dtype="float16")


# --- ivt --------------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(rows=gaze_rows(), angular=st.booleans())
def test_ivt_is_causal_and_the_same_online_and_offline(rows: list[tuple], angular: bool) -> None:
    """At every prefix: what was returned, and the open one, are exactly what the samples so far give offline; what was
    returned never changes, whatever comes later."""
    parameters = {"degrees_per_frame_width": 100.0} if angular else {}
    whole = ivt_fixations(recording(rows), **parameters)
    online, closed = IVT(frame_aspect=1600 / 1200, **parameters), []
    times = [row[0] for row in rows]
    for k, (t, x, y, valid) in enumerate(rows):
        closed += online.push(t, (x, y), valid)
        if k + 1 < len(rows) and times[k + 1] == t:
            continue  # the offline table keeps one of several rows of one time: compare after the last of them
        still_open = online.open_fixation(t)
        known = to_fixations([*closed, *([still_open] if still_open else [])], detector="ivt", parameters={})
        assert_same(known, ivt_fixations(recording(rows[: k + 1]), **parameters))
        head = whole.take(np.arange(len(closed)))
        assert_same(to_fixations(closed, detector="ivt", parameters={}), head)
    closed += online.flush()
    assert_same(to_fixations(closed, detector="ivt", parameters={}), whole)
    assert online.flush() == []


@settings(max_examples=80, deadline=None)
@given(rows=gaze_rows(), min_duration_s=st.sampled_from([0.03, 0.06, 0.1]))
def test_ivt_fixations_are_ordered_disjoint_long_and_hold_no_long_gap(rows: list[tuple], min_duration_s: float) -> None:
    samples = recording(rows)
    found = ivt_fixations(samples, min_duration_s=min_duration_s, max_gap_s=0.075)
    assert (found.duration_s >= min_duration_s).all()
    assert (found.start_s[1:] > found.stop_s[:-1]).all()
    seen_t, seen_xy = samples.t_s[samples.valid], samples.xy_norm[samples.valid]
    for start, stop, centre in zip(found.start_s, found.stop_s, found.xy_norm, strict=True):
        assert start in seen_t and stop in seen_t
        inside = (seen_t >= start) & (seen_t <= stop)
        assert np.diff(seen_t[inside]).max() <= 0.075
        low, high = seen_xy[inside].min(axis=0), seen_xy[inside].max(axis=0)
        assert (centre >= low - 1e-9).all() and (centre <= high + 1e-9).all()


@pytest.mark.parametrize("rate_hz", [24.0, 30.0, 60.0, 200.0, 1000.0])
def test_ivt_finds_the_fixations_of_a_simple_recording_at_any_rate(rate_hz: float) -> None:
    rows = steady(0.0, 0.5, 0.2, 0.5, rate_hz=rate_hz)
    landing_s = rows[-1][0] + 1 / rate_hz
    rows += steady(landing_s, 1.0, 0.7, 0.3, rate_hz=rate_hz)
    found = detect(recording(rows))
    late = 0.020 + 1 / rate_hz  # the window sees the jump that long
    assert len(found) == 2
    np.testing.assert_allclose(found.start_s, [0.0, landing_s], atol=late + 1e-6)
    np.testing.assert_allclose(found.stop_s, [0.5, 1.0], atol=1 / rate_hz)
    np.testing.assert_allclose(found.xy_norm, [[0.2, 0.5], [0.7, 0.3]], atol=1e-9)


@pytest.mark.parametrize(("lost_s", "expected"), [(0.06, 1), (0.2, 2)])
def test_ivt_bridges_short_losses_only_and_an_absent_row_is_like_an_invalid_one(lost_s: float, expected: int) -> None:
    later = 0.3 + lost_s
    rows = [*steady(0.0, 0.3, 0.5, 0.5), *steady(later, later + 0.3, 0.5, 0.5)]
    lost = [(t, math.nan, math.nan, False) for t in np.arange(0.305, later - 0.001, 0.005).tolist()]
    absent, invalid = detect(recording(rows)), detect(recording(sorted([*rows, *lost])))
    assert len(absent) == expected
    assert_same(absent, invalid)
    assert invalid.counts["samples_invalid"] == len(lost) and invalid.counts["gaps"] == expected - 1


@pytest.mark.parametrize(("jump_deg", "expected"), [(1.0, 1), (4.0, 2)])
def test_ivt_merges_across_small_saccades_only(jump_deg: float, expected: int) -> None:
    """The jump passes the velocity threshold either way; only its size decides."""
    x = 0.5 + jump_deg / 100.0
    rows = [*steady(0.0, 0.3, 0.5, 0.5), *steady(0.305, 0.6, x, 0.5)]
    fine = detect(recording(rows), degrees_per_frame_width=100.0, velocity_deg_s=30.0)
    unmerged = detect(recording(rows), degrees_per_frame_width=100.0, velocity_deg_s=30.0, merge_deg=0.0)
    assert (len(fine), len(unmerged)) == (expected, 2)
    slow_return = [*steady(0.0, 0.3, 0.5, 0.5), *steady(0.305, 0.4, 0.9, 0.5), *steady(0.405, 0.6, 0.5, 0.5)]
    assert len(detect(recording(slow_return), merge_gap_s=0.075)) == 3, "a visit elsewhere is no flick"


def test_ivt_measures_a_saccade_from_before_its_take_off() -> None:
    """2.4 deg in 30 ms: the last slow sample is already in flight, from where only 1.2 deg would be left."""
    ramp = [(0.3 + k * 0.005, 0.5 + k * 0.004, 0.5, True) for k in range(1, 6)]
    rows = [*steady(0.0, 0.3, 0.5, 0.5), *ramp, *steady(0.33, 0.6, 0.524, 0.5)]
    assert len(detect(recording(rows), degrees_per_frame_width=100.0)) == 2


@pytest.mark.parametrize(("away_s", "expected"), [(0.05, 1), (0.1, 2)])
def test_ivt_merges_over_a_short_excursion_only(away_s: float, expected: int) -> None:
    """Gaze circles fast and comes back to the very same spot."""
    turn = np.arange(0.005, away_s, 0.005)
    circle = [(0.3 + a, 0.6 - 0.1 * math.cos(a / 0.008), 0.5 + 0.1 * math.sin(a / 0.008), True) for a in turn.tolist()]
    back_s = 0.3 + away_s
    rows = [*steady(0.0, 0.3, 0.5, 0.5), *circle, *steady(back_s, back_s + 0.3, 0.5, 0.5)]
    assert len(detect(recording(rows), merge_gap_s=0.085)) == expected


def test_ivt_ignores_a_spike_but_not_a_short_fixation() -> None:
    spike = steady(0.0, 0.5, 0.5, 0.5)
    spike[50] = (spike[50][0], 0.9, 0.9, True)
    found = detect(recording(spike))
    assert len(found) == 1 and found.stop_s[0] == 0.5
    np.testing.assert_allclose(found.xy_norm, [[0.5, 0.5]], atol=1e-9)
    glance = [*steady(0.0, 0.3, 0.2, 0.5), *steady(0.305, 0.345, 0.8, 0.5), *steady(0.35, 0.7, 0.2, 0.2)]
    assert len(detect(recording(glance))) == 2, "40 ms elsewhere is shorter than min_duration_s"


def test_ivt_velocity_is_isotropic_in_the_frame() -> None:
    """One speed in frame widths a second, along x, y or the diagonal, gives one answer."""
    t = np.arange(0.0, 0.5, 0.005)
    for speed, still in ((0.54, True), (0.58, False)):
        for angle in (0.0, 0.7, math.pi / 2):
            path = np.stack([speed * t * math.cos(angle), speed * t * math.sin(angle) * ASPECT], axis=1)
            samples = GazeSamples.build(t, path, frame_size_px=(1600, 1200))
            assert bool(len(detect(samples))) is still


def test_ivt_needs_the_aspect_and_refuses_parameters_without_effect() -> None:
    samples = GazeSamples.build([0.0], [[0.5, 0.5]], source="g3")
    with pytest.raises(InputError, match=r"g3.*frame_aspect=width/height"):
        detect(samples)
    with pytest.raises(ConfigError, match="velocity_deg_s would have no effect"):
        detect(samples, frame_aspect=ASPECT, velocity_deg_s=70.0)
    with pytest.raises(ConfigError, match="merge_widths would have no effect"):
        detect(samples, frame_aspect=ASPECT, degrees_per_frame_width=90.0, merge_widths=0.1)
    for wrong in (
        {"frame_aspect": 0.0},
        {"min_duration_s": math.nan},
        {"velocity_widths_s": "fast"},
        {"merge_gap_s": -1},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            detect(samples, **{"frame_aspect": ASPECT, **wrong})


def test_ivt_refuses_time_that_runs_backwards_and_questions_about_the_past() -> None:
    online = IVT(frame_aspect=ASPECT)
    online.push(1.0, (0.5, 0.5), True)
    with pytest.raises(InputError, match="not before 1"):
        online.push(0.9, (0.5, 0.5), True)
    with pytest.raises(InputError, match="finite seconds"):
        online.push(math.nan, (0.5, 0.5), True)
    with pytest.raises(FutureDataError):
        online.open_fixation(0.9)


def test_ivt_reports_a_stalled_stream_as_open_and_closes_it_by_time_alone() -> None:
    online = IVT(frame_aspect=ASPECT)
    for t, x, y, valid in steady(0.0, 0.5, 0.5, 0.5):
        assert online.push(t, (x, y), valid) == []
    held = online.open_fixation(3.0)
    assert held is not None and (held.start_s, held.stop_s) == (0.0, 0.5)
    assert online.push(0.6, (math.nan, math.nan), False) == [held]
    assert online.open_fixation(0.6) is None


def test_ivt_on_empty_single_or_wholly_invalid_gaze_finds_nothing_and_says_how_much_it_saw() -> None:
    assert len(detect(recording([]))) == 0
    assert len(detect(recording([(0.0, 0.5, 0.5, True)]))) == 0
    nothing = detect(recording([(k / 200, 0.5, 0.5, False) for k in range(100)]))
    assert len(nothing) == 0 and nothing.counts["samples_invalid"] == 100
    slow_tracker = detect(recording(steady(0.0, 3.0, 0.5, 0.5, rate_hz=10.0)))
    assert len(slow_tracker) == 0 and slow_tracker.counts["gaps"] == 30


def test_degrees_per_frame_width_of_the_neon_camera() -> None:
    assert degrees_per_frame_width(focal_px=888.4, width_px=1600) == pytest.approx(103.2, abs=0.1)
    with pytest.raises(ConfigError, match="focal_px"):
        degrees_per_frame_width(focal_px=0.0, width_px=1600)


# --- by name ----------------------------------------------------------------------------------------------------------


def test_detect_records_what_it_takes_to_repeat_it() -> None:
    rows = [*steady(0.0, 2.5, 0.2, 0.2, rate_hz=30.0), *steady(2.6, 5.0, 0.8, 0.8, rate_hz=30.0)]
    samples = recording(rows)
    calls: tuple[dict[str, Any], ...] = (
        {"detector": "ivt", "min_duration_s": 0.1, "degrees_per_frame_width": 90.0},
        {"detector": "ivt"},
        {"detector": "streamgaze", "dataset": "EGTEA"},
    )
    for call in calls:
        found = detect(samples, **call)
        assert len(found) == 2 and found.detector == call["detector"]
        assert set(found.parameters) <= set(DETECTORS[call["detector"]].parameters)
        again = detect(samples, detector=found.detector, **found.parameters)
        assert_same(found, again)
        assert again.parameters == found.parameters


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    samples = recording([])
    with pytest.raises(ConfigError, match="device, ivt, streamgaze"):
        detect(samples, detector="idt")
    with pytest.raises(ConfigError, match=r"no parameter dispersion.*min_duration_s"):
        detect(samples, detector="ivt", dispersion=1.0)
    with pytest.raises(ConfigError, match="takes none"):
        detect(samples, detector="device", device=Fixations.empty(), min_duration_s=1.0)


def test_the_device_is_preferred_where_the_file_has_its_fixations() -> None:
    samples = recording(steady(0.0, 0.5, 0.5, 0.5))
    table = Fixations.build([0.1], [0.4], [[0.3, 0.3]], ids=[7])
    named = GazeSamples.build(
        [0.0, 0.1, 0.2, 0.3, 0.4],
        [[0.1, 0.1], [0.2, 0.4], [0.4, 0.2], [0.9, 0.9], [0.5, 0.5]],
        fixation_id=[-1, 4, 4, 9, 9],
        valid=[True, True, True, True, False],
    )
    assert choose(samples, table) == "device" and choose(named, None) == "device"
    assert choose(samples, None) == choose(samples, Fixations.empty()) == "ivt"
    assert_same(detect(samples, detector="device", device=table), table)
    runs = detect(named, detector="device")
    assert runs.ids.tolist() == [4, 9] and runs.detector == "device"
    assert runs.start_s.tolist() == [0.1, 0.3] and runs.stop_s.tolist() == [0.2, 0.3]
    np.testing.assert_allclose(runs.xy_norm, [[0.3, 0.3], [0.9, 0.9]])
    with pytest.raises(InputError, match="tracker's own fixations"):
        detect(samples, detector="device")


# --- agreement --------------------------------------------------------------------------------------------------------


def events(*spans: tuple[float, float]) -> Fixations:
    return Fixations.build([a for a, _ in spans], [b for _, b in spans], np.zeros((len(spans), 2)))


def test_event_f1_matches_one_to_one() -> None:
    theirs = events((0.0, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 6.0))
    assert event_f1(theirs, theirs) == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "matched": 4}
    halves = events((0.0, 0.5), (0.5, 1.0))
    assert event_f1(halves, events((0.0, 1.0)))["matched"] == 1, "one event cannot be found twice"
    assert event_f1(events((0.0, 0.49)), events((0.0, 1.0)))["f1"] == 0.0
    some = event_f1(events((0.1, 1.0), (2.6, 3.0)), theirs)
    assert (some["precision"], some["recall"], some["matched"]) == (0.5, 0.25, 1)
    assert some["f1"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    better_second = event_f1(events((0.0, 0.6), (0.05, 1.0)), events((0.0, 1.0)), iou=0.5)
    assert better_second["matched"] == 1
    assert event_f1(events(), events())["f1"] == 1.0
    assert event_f1(events(), theirs)["f1"] == event_f1(theirs, events())["f1"] == 0.0
    with pytest.raises(ConfigError, match="iou"):
        event_f1(theirs, theirs, iou=0.0)


def neon_demo() -> tuple[GazeSamples, Fixations]:
    folder = shared_dir("fixtures", "neon_native_demo")
    layout = np.dtype(ast.literal_eval((folder / "fixations.dtype").read_text()))
    rows = np.frombuffer((folder / "fixations ps1.raw").read_bytes(), dtype=layout)
    rows = rows[rows["event_type"] == 1]  # 0 is a saccade: pupil_labs.neon_recording.timeseries
    t_ns = np.fromfile(folder / "gaze ps1.time", dtype="<i8")
    size_px = np.array([1600.0, 1200.0])
    samples = GazeSamples.build(
        (t_ns - t_ns[0]) / 1e9,
        np.fromfile(folder / "gaze ps1.raw", dtype="<f4").reshape(-1, 2) / size_px,
        frame_size_px=(1600, 1200),
    )
    device = Fixations.build(
        (rows["start_timestamp_ns"] - t_ns[0]) / 1e9,
        (rows["end_timestamp_ns"] - t_ns[0]) / 1e9,
        np.stack([rows["mean_gaze_x"], rows["mean_gaze_y"]], axis=1) / size_px,
        detector="device",
    )
    return samples, device


def test_agreement_with_the_neon_device_is_computed_on_real_gaze() -> None:
    """Not a target: the number stands in the docstring of stream/fixations.py and is printed here."""
    samples, device = neon_demo()
    ours = detect(samples, degrees_per_frame_width=degrees_per_frame_width(focal_px=888.41, width_px=1600))
    score = event_f1(ours, device)
    print(f"ivt {len(ours)}, device {len(device)}, {score}")
    assert len(device) == 23 and event_f1(device, device)["f1"] == 1.0
    assert 0 < score["matched"] <= min(len(ours), len(device))
    assert score["precision"] == score["matched"] / len(ours) and score["recall"] == score["matched"] / 23
    assert ours.counts["samples"] == len(samples) == 1788


# --- golden section 09 ------------------------------------------------------------------------------------------------


def write_section(folder: Path) -> tuple[Path, Path]:
    """A section with other names, thresholds and times than the shared one, its numbers from `anchor_scan`."""
    rng = np.random.default_rng(3)
    t = np.arange(200) / 30
    xy = np.repeat(rng.uniform(0, 1, (5, 2)), 40, axis=0) + rng.normal(0, 0.01, (200, 2))
    track, table = folder / "09_other.csv", folder / "09_other.json"
    track.write_text(
        "t,x,y\n" + "".join(f"{a!r},{b!r},{c!r}\n" for a, (b, c) in zip(t.tolist(), xy.tolist(), strict=True))
    )
    rows = [
        {
            "start_time": t[a],
            "end_time": t[b - 1],
            "center_x": xy[a:b, 0].mean(),
            "center_y": xy[a:b, 1].mean(),
            "duration": t[b - 1] - t[a],
        }
        for a, b in anchor_scan(t, xy, 0.07, 0.75, 0.02)
    ]
    assert len(rows) == 5
    run = {"track": track.name, "radius_thresh": 0.07, "n_samples": 200, "fixations": {"float64_gap0.02_dur0.75": rows}}
    table.write_text(json.dumps({"runs": [run]}))
    return track, table


def test_golden_section_09_reads_any_thresholds_and_notices_every_difference(tmp_path: Path) -> None:
    _, table = write_section(tmp_path)
    error, tolerance = section_09.check(tmp_path)
    assert error <= 1e-12 and tolerance == 1e-6
    content = json.loads(table.read_text())
    rows = content["runs"][0]["fixations"]["float64_gap0.02_dur0.75"]
    for name, shift in (("center_y", 1e-3), ("start_time", 1e-9), ("end_time", 1e-9), ("duration", 1e-9)):
        rows[1][name] += shift
        table.write_text(json.dumps(content))
        assert section_09.check(tmp_path)[0] >= 1e-3, name
        rows[1][name] -= shift
    del rows[0]
    table.write_text(json.dumps(content))
    assert section_09.check(tmp_path)[0] == math.inf


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda track, table: table.unlink(), "09_"),
        (lambda track, table: track.unlink(), "gaze track"),
        (lambda track, table: table.write_text(table.read_text()[:200]), "JSON"),
        (lambda track, table: table.write_text('{"runs": []}'), "non-empty list"),
        (lambda track, table: table.write_text(table.read_text().replace("float64_gap", "float16_gap")), "variants"),
        (lambda track, table: table.write_text(table.read_text().replace("center_x", "centre_x")), "variants"),
        (lambda track, table: table.write_text(table.read_text().replace('"radius_thresh"', '"r"')), "variants"),
        (lambda track, table: track.write_text(track.read_text() + "1.0,2.0\n"), "3 numbers"),
        (lambda track, table: track.write_text(track.read_text() + "9.0,x,2.0\n"), "3 numbers"),
        (lambda track, table: track.write_text(track.read_text() + "9.0,0.1,0.2\n"), "200 rows"),
        (lambda track, table: track.write_text("a,b,c\n"), "header"),
        (lambda track, table: (track.parent / "09_idle.csv").write_text("t,x,y\n"), "09_idle.csv"),
    ],
)  # fmt: skip
def test_golden_section_09_refuses_damaged_files(tmp_path: Path, damage, message: str) -> None:
    damage(*write_section(tmp_path))
    with pytest.raises(InputError, match=message):
        section_09.check(tmp_path)


def test_golden_section_09_on_the_shared_numbers() -> None:
    error, tolerance = section_09.check(shared_dir("golden"))
    assert error <= tolerance
