"""Frames and gaze become steps: causally, by timestamp, and the same for a prefix as for the whole video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import FutureDataError, InputError
from gazeqwen.positions import MRope
from gazeqwen.types import Fixations, GazeSamples, Step
from stream import open_recording
from stream import recording as recordings
from stream.fixations import detect
from stream.recording import Recording
from stream.steps import CausalIVT, Cut, StoredFixations, build_steps, gaze_events
from stream.trackers.base import GazeRecording
from stream.video import Frame
from stream.video_writer import write_clip
from tests.conftest import shared_dir

NTSC = 30000 / 1001


def picture(k: int) -> np.ndarray:
    """A 32 x 48 frame that can be told from its neighbours after encoding."""
    image = np.full((32, 48, 3), 20, dtype=np.uint8)
    image[:, : 2 * (k % 24)] = 220
    return image


def looking(duration_s: float, *, hz: float = 100.0, seed: int = 0) -> GazeSamples:
    """Looks of a quarter to three quarters of a second at random points, with a blink now and then."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(duration_s * hz)) / hz + 0.0013
    xy, valid, at = np.zeros((t.size, 2)), np.ones(t.size, dtype=bool), 0.0
    while at < duration_s:
        length = rng.uniform(0.25, 0.75)
        here = (t >= at) & (t < at + length)
        xy[here] = rng.uniform(0.1, 0.9, 2) + rng.normal(0, 0.0005, (int(here.sum()), 2))
        if rng.random() < 0.3:
            valid &= ~((t >= at) & (t < at + 0.12))
        at += length
    return GazeSamples.build(t, xy, valid=valid)


def recording_of(
    folder: Path,
    *,
    seconds: float = 4.0,
    fps: float | None = 30.0,
    times_s: Sequence[float] | None = None,
    samples: GazeSamples | None = None,
    fixations: Fixations | None = None,
) -> Recording:
    count = len(times_s) if times_s is not None else round(seconds * (fps or 0))
    clip = write_clip(
        folder / "clip.mp4",
        (picture(k) for k in range(count)),
        fps=None if times_s is not None else fps,
        times_s=times_s,
    )
    gaze = None if samples is None else GazeRecording(samples, fixations, clip, "made")
    return Recording(clip, gaze)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording_of(tmp_path_factory.mktemp("clip"), samples=looking(4.5))


def assert_same_step(a: Step, b: Step) -> None:
    for name, ours in vars(a).items():
        theirs = getattr(b, name)
        if name == "gaze":
            for field, column in vars(ours).items():
                np.testing.assert_array_equal(column, getattr(theirs, field), err_msg=field)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


# -- causality ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(until_s=st.one_of(st.floats(0, 4.0), st.integers(0, 120).map(lambda k: k / 30)))
def test_steps_until_a_time_hold_nothing_later_and_begin_those_of_the_whole(
    recording: Recording, until_s: float
) -> None:
    whole = list(recording.steps())
    steps = list(recording.steps(until_s=until_s))
    slack = 1e-6
    for step in steps:
        assert step.span_s[1] <= until_s + slack
        for times in (step.frame_times_s, step.vjepa_times_s, step.gaze.sample_t_s, step.gaze.t_s, step.gaze.frame_t_s):
            assert (times <= until_s + slack).all()
        assert (step.gaze.age_s >= 0).all()
    finished = [step for step in steps if not step.partial]
    assert len(steps) - len(finished) <= 1 and not any(step.partial for step in steps[:-1])
    for ours, theirs in zip(finished, whole, strict=False):
        assert_same_step(ours, theirs)
    # a question sees every step whose last frame has been on display
    assert len(finished) == sum(not step.partial and step.span_s[1] <= until_s + slack for step in whole)
    # and everything up to its own time
    assert steps and steps[-1].span_s[1] == pytest.approx(until_s, abs=1e-6)


def test_a_question_within_the_tolerance_of_a_frame_is_answered(recording: Recording) -> None:
    border_s = recording._frame_times_s[46]
    for until_s in (border_s - 3e-7, border_s - 1e-10, border_s, border_s + 3e-7):
        *_, last = recording.steps(until_s=until_s)
        assert last.span_s[1] == pytest.approx(until_s, abs=2e-9) and (last.gaze.sample_t_s <= until_s).all()


def test_gaze_at_a_frames_border_is_not_seen_before_it(tmp_path: Path) -> None:
    border_s = 46 / 30
    times_s = [np.nextafter(border_s, 0), np.nextafter(border_s, 9)]
    samples = GazeSamples.build(times_s, np.full((2, 2), 0.5))
    recording = recording_of(tmp_path, samples=samples)
    for until_s in (times_s[0], border_s):
        seen = np.concatenate([step.gaze.sample_t_s for step in recording.steps(until_s=until_s)])
        assert (seen <= until_s).all()


# -- many questions in one pass ----------------------------------------------------------------------------------------

VARIABLE = [0.0, 0.1, 0.13, 0.52, 0.9, 1.02, 1.05, 1.5, 1.95, 2.2, 2.21, 2.9, 3.3]
DEVICE = Fixations.build(
    np.arange(0, 4, 0.4), np.arange(0, 4, 0.4) + 0.3, np.linspace(0.1, 0.9, 20).reshape(10, 2), detector="device"
)
CLIPS: dict[str, dict] = {
    "30 fps": {},
    "29.97 fps, device": {"fps": NTSC, "fixations": DEVICE},
    "variable": {"times_s": VARIABLE},
    "5 fps, device": {"fps": 5.0, "fixations": DEVICE},
}


@pytest.fixture(scope="module", params=CLIPS)
def any_recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording_of(tmp_path_factory.mktemp("clip"), samples=looking(4.5), **CLIPS[request.param])


def times_of(recording: Recording) -> st.SearchStrategy[list[float]]:
    """Ascending question times: anywhere, on frames, a hair beside them, at both ends, twice."""
    borders = st.sampled_from(recording._frame_times_s.tolist())
    anywhere = st.floats(0, recording.end_s)
    beside = st.tuples(borders, st.sampled_from([-1e-6, -1e-7, -1e-10, 1e-10, 1e-7, 1e-6])).map(sum)
    ends = st.sampled_from([0.0, recording.end_s])
    one = st.one_of(anywhere, borders, beside, ends).map(lambda t: min(max(t, 0.0), recording.end_s))
    return st.lists(one, min_size=1, max_size=4).map(lambda found: sorted([*found, *found[:1]]))


def assert_cuts_are_the_steps_until_then(
    recording: Recording, times_s: Sequence[float], items: Iterator[Step | Cut], **options: Any
) -> None:
    whole: list[Step] = []
    left = list(times_s)
    for item in items:
        if isinstance(item, Step):
            whole.append(item)
            continue
        assert item.t_s == left.pop(0)
        expected = list(recording.steps(until_s=item.t_s, **options))
        found = [*whole, *([] if item.tail is None else [item.tail])]
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_step(ours, theirs)
    assert left == []


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_one_pass_for_many_questions_equals_a_pass_each(any_recording: Recording, data: st.DataObject) -> None:
    times_s = data.draw(times_of(any_recording))
    options: dict[str, Any] = data.draw(
        st.sampled_from(
            [{}, {"fps": 7.0, "vjepa_fps": 4.0}, {"fps": 40.0, "vjepa_fps": 60.0}, {"fps": 1.0, "gaze_lag_s": 0.5}]
        )
    )
    items = any_recording.steps_for(times_s, **options)
    assert_cuts_are_the_steps_until_then(any_recording, times_s, items, **options)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_placeholders_are_the_steps_without_their_frames(any_recording: Recording, data: st.DataObject) -> None:
    times_s = data.draw(times_of(any_recording))
    from_s = data.draw(st.one_of(st.just(np.inf), st.floats(0, 4)))
    decoded = any_recording.steps_for(times_s)
    for ours, theirs in zip(any_recording.steps_for(times_s, decode_from_s=from_s), decoded, strict=True):
        a, b = (item.tail if isinstance(item, Cut) else item for item in (ours, theirs))
        assert type(ours) is type(theirs) and (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.placeholder == (b.vjepa_times_s[0] < from_s)
            assert_same_step(a, b.without_frames() if a.placeholder else b)
            if a.placeholder:
                assert_same_step(any_recording.with_frames(a), b)


def test_placeholders_decode_nothing(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoding(*_: object, **__: object) -> None:
        raise AssertionError("frames were read")

    monkeypatch.setattr(recordings, "read_at", decoding)
    items = list(recording.steps_for([1.2, 3.9], decode_from_s=np.inf))
    assert len([item for item in items if isinstance(item, Step)]) == 4
    with pytest.raises(AssertionError, match="frames were read"):
        next(recording.steps_for([1.2]))


@settings(max_examples=10, deadline=None)
@given(cut_s=st.floats(0.3, 3.5), more=st.lists(st.floats(0, 4), max_size=3))
def test_what_comes_after_a_question_changes_nothing_of_it(
    any_recording: Recording, cut_s: float, more: list[float]
) -> None:
    recording, times_s = any_recording, sorted([cut_s, *(min(t, any_recording.end_s) for t in more)])
    samples, fixations = recording.samples, recording.fixations
    later = samples.t_s > cut_s
    gaze = GazeRecording(
        GazeSamples.build(samples.t_s, np.where(later[:, None], 1 - samples.xy_norm, samples.xy_norm)),
        Fixations.build(
            fixations.start_s,
            fixations.stop_s,
            np.where((fixations.start_s > cut_s)[:, None], 1 - fixations.xy_norm, fixations.xy_norm),
            detector="device",
        )
        if recording.detector == "device"
        else None,
        recording.path,
        "made",
    )
    plain = GazeRecording(
        GazeSamples.build(samples.t_s, samples.xy_norm), gaze.fixations and fixations, recording.path, ""
    )
    changed = Recording(recording.path, gaze)
    read_at = recordings.read_at

    def other_frames(*arguments, **options):
        for row, frame in read_at(*arguments, **options):
            yield (
                row,
                frame if frame.time_s <= cut_s + 1e-6 else Frame(frame.time_s, frame.duration_s, 255 - frame.image),
            )

    ours = list(Recording(recording.path, plain).steps_for(times_s))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "read_at", other_frames)
        theirs = list(changed.steps_for(times_s))
    seen = 0
    for a, b in zip(ours, theirs, strict=True):
        step_a, step_b = (item.tail if isinstance(item, Cut) else item for item in (a, b))
        if (a.t_s if isinstance(a, Cut) else a.span_s[1]) <= cut_s and step_a is not None and step_b is not None:
            assert_same_step(step_a, step_b)
            seen += 1
    assert seen


def test_a_video_that_is_damaged_later_answers_what_comes_before(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_at = recordings.read_at

    def damaged(*arguments, **options):
        for row, frame in read_at(*arguments, **options):
            if frame.time_s > 2.31:
                raise InputError("clip.mp4", expected="readable video data", found="damage")
            yield row, frame

    monkeypatch.setattr(recordings, "read_at", damaged)
    assert_cuts_are_the_steps_until_then(recording, [1.0, 2.3], recording.steps_for([1.0, 2.3]))
    items = recording.steps_for([1.0, 2.3, 3.0])
    *_, last = (next(items) for _ in range(4))
    assert isinstance(last, Cut) and last.t_s == 2.3
    with pytest.raises(InputError, match="damage"):
        next(items)


@pytest.mark.parametrize("bad", [{"times_s": [2.0, 1.0]}, {"times_s": [4.2]}, {"times_s": [-1.0]}, {"fps": 0.0}])
def test_bad_passes_are_refused_when_asked_for(recording: Recording, bad: dict) -> None:
    with pytest.raises(InputError):
        recording.steps_for(**{"times_s": [1.0], **bad})
    assert list(recording.steps_for([])) == []


def test_a_partial_step_repeats_a_single_frame(recording: Recording) -> None:
    *_, last = recording.steps(until_s=1.2)
    assert last.partial and last.repeated
    assert last.frame_times_s.tolist() == [1.0, 1.0] and np.array_equal(*last.frames)
    assert last.span_s == (pytest.approx(0.5 + 1 / 30), 1.2)
    assert last.vjepa_times_s[-1] == pytest.approx(1.2, abs=0.04) and last.vjepa_times_s[0] > 0.5
    assert last.gaze.sample_t_s[-1] == pytest.approx(1.1913)


def test_two_frames_are_partial_until_the_second_has_been_replaced(recording: Recording) -> None:
    for until_s, partial in ((1.5, True), (1.52, True), (1.5 + 1 / 30, False)):
        *_, last = recording.steps(until_s=until_s)
        assert last.frame_times_s.tolist() == [1.0, 1.5] and not last.repeated
        assert last.partial == partial
        assert last.span_s[1] == pytest.approx(min(until_s, 1.5 + 1 / 30))


def test_what_came_after_the_last_pair_is_a_partial_step_of_the_newest_frame(recording: Recording) -> None:
    *_, pair, last = recording.steps(until_s=1.92)
    assert pair.frame_times_s.tolist() == [1.0, 1.5] and not pair.partial
    assert last.partial and last.repeated and last.frame_times_s.tolist() == [pytest.approx(1.9)] * 2
    assert last.span_s == (pair.span_s[1], 1.92) and last.gaze.sample_t_s.size > 0
    assert last.gaze.sample_t_s[0] > pair.span_s[1] and 1.92 - last.gaze.sample_t_s[-1] < 0.05


def test_one_fixation_does_not_hide_the_rest_of_the_step() -> None:
    t_s = np.arange(0, 1, 0.005)
    samples = GazeSamples.build(t_s, np.column_stack([np.where(t_s < 0.02, 0.2, 0.8), np.full(t_s.size, 0.5)]))
    brief = Fixations.build([-0.5], [0.02], [[0.2, 0.5]])
    gaze = gaze_events(samples, brief, span_s=(0.0, 1.0), frame_times_s=np.arange(8) / 8)
    assert gaze.is_fixation.tolist() == [True] + [False] * 7
    assert gaze.xy_norm[1:, 0].tolist() == [0.8] * 7 and (np.diff(gaze.t_s) > 0).all()
    off_frame = Fixations.build([0.0], [1.0], [[1.5, 0.5]])
    gaze = gaze_events(samples, off_frame, span_s=(0.0, 1.0), frame_times_s=np.arange(8) / 8)
    assert gaze.any_valid and gaze.valid.sum() == 8 and not gaze.valid[gaze.is_fixation].any()


def test_spans_follow_each_other_and_every_sample_is_in_one_step(recording: Recording) -> None:
    steps = list(recording.steps())
    assert steps[0].span_s[0] == pytest.approx(0, abs=1e-5)
    for before, after in pairwise(steps):
        assert after.span_s[0] == before.span_s[1]
    seen = np.concatenate([step.gaze.sample_t_s for step in steps])
    assert seen.tolist() == [t for t in recording.samples.t_s if t <= steps[-1].span_s[1]]
    for step in steps:
        assert set(step.frame_times_s) <= set(step.vjepa_times_s)
        assert (np.diff(step.vjepa_times_s) > 0).all()


def test_causal_fixations_are_those_of_the_whole_recording_as_known_then(recording: Recording) -> None:
    assert recording.detector == "ivt"
    whole = recording.fixations
    source = recording.fixation_source()
    open_ones = 0
    for start_s in np.arange(0, 4.0, 0.25):
        now_s = start_s + 0.25
        found = source.during(start_s, now_s)
        assert (found.start_s <= now_s).all() and (found.stop_s <= now_s).all()
        upto = detect(recording.samples.until(now_s), detector="ivt", **recording.parameters).overlapping(
            start_s, now_s
        )
        closed = [i for i in range(len(upto)) if upto.stop_s[i] < now_s - 0.2]
        for row in closed:  # long over: as the offline detector finds it in the whole recording
            match = np.flatnonzero(np.isclose(found.start_s, upto.start_s[row], atol=1e-9))
            assert match.size == 1
            np.testing.assert_allclose(found.xy_norm[match[0]], upto.xy_norm[row], atol=1e-9)
            same = np.flatnonzero(np.isclose(whole.start_s, upto.start_s[row], atol=1e-9))
            assert same.size == 1 and np.isclose(whole.stop_s[same[0]], found.stop_s[match[0]], atol=1e-9)
        open_ones += found.open_fixations
    assert len(whole) >= 5 and open_ones > 0
    end = CausalIVT(recording.samples, recording.parameters).during(-1.0, 10.0)
    np.testing.assert_allclose(end.start_s, whole.start_s)
    np.testing.assert_allclose(end.xy_norm, whole.xy_norm)


def test_later_gaze_changes_no_step_before_it(recording: Recording, tmp_path: Path) -> None:
    samples = recording.samples
    other = GazeSamples.build(
        samples.t_s, np.where(samples.t_s[:, None] > 2.0, 1 - samples.xy_norm, samples.xy_norm), valid=samples.valid
    )
    changed = Recording(recording.path, GazeRecording(other, None, recording.path, "made"))
    pairs = list(zip(recording.steps(), changed.steps(), strict=True))
    early = [pair for pair in pairs if pair[0].span_s[1] <= 2.0]
    assert len(early) == 2
    for ours, theirs in early:
        assert_same_step(ours, theirs)
    assert not np.array_equal(pairs[-1][0].gaze.xy_norm, pairs[-1][1].gaze.xy_norm)


def test_gaze_that_is_late_arrives_late_and_gaze_from_the_future_is_refused(recording: Recording) -> None:
    lagged = list(recording.steps(gaze_lag_s=1.0))
    assert lagged[0].gaze.sample_t_s.size == 0
    moved = [step.gaze.sample_t_s - 1.0 for step in lagged]
    ours = [step.gaze.sample_t_s for step in recording.steps()]
    np.testing.assert_allclose(moved[2], ours[1])
    for lag_s in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="gaze_lag_s"):
            recording.steps(gaze_lag_s=lag_s)


def test_frames_after_the_question_are_refused() -> None:
    frames = [(Frame(k / 2, 0.1, picture(k)), True) for k in range(4)]
    none = StoredFixations(Fixations.empty())
    samples = GazeSamples.build([], [])
    with pytest.raises(InputError, match="question's time"):
        list(build_steps(frames, samples, none, until_s=1.2))
    steps = list(build_steps(frames[:3], samples, none, until_s=1.2))
    assert [step.partial for step in steps] == [False, True]
    assert list(build_steps([], samples, none, until_s=1.0)) == []


@pytest.mark.parametrize(
    "bad", [{"until_s": -0.1}, {"until_s": 4.1}, {"until_s": float("nan")}, {"fps": 0.0}, {"vjepa_fps": float("inf")}]
)
def test_times_and_rates_out_of_range_are_refused(recording: Recording, bad: dict) -> None:
    with pytest.raises(InputError):
        recording.steps(**bad)


# -- the gaze of a step ------------------------------------------------------------------------------------------------

SAMPLES = GazeSamples.build(
    np.arange(1, 11) / 10,
    [[0.1, 0.1]] * 3 + [[0.5, 0.5]] * 4 + [[1.5, 0.5], [0.9, 0.9], [0.9, 0.9]],
    valid=[True, False, *[True] * 8],
)


def test_fixations_of_a_span_are_cut_to_it_and_never_averaged() -> None:
    fixations = Fixations.build([-0.3, 0.4, 0.9], [0.2, 0.7, 2.0], [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]])
    known = StoredFixations(fixations).during(0.0, 1.0)
    gaze = gaze_events(SAMPLES, known, span_s=(0.0, 1.0), frame_times_s=np.array([0.0, 0.5]))
    assert gaze.xy_norm.tolist() == [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]
    np.testing.assert_allclose(gaze.t_s, [0.2, 0.7, 1.0])
    np.testing.assert_allclose(gaze.duration_s, [0.2, 0.3, 0.1])
    np.testing.assert_allclose(gaze.age_s, [0.8, 0.3, 0.0])
    assert gaze.frame_t_s.tolist() == [0.0, 0.5, 0.5]
    assert gaze.is_fixation.all() and gaze.valid.all() and gaze.open_fixations == 1
    assert gaze.sample_valid.tolist() == SAMPLES.valid.tolist()
    # inside a fixation and valid: not 0.2 (a blink), 0.3 (a saccade) or 0.8
    assert gaze.sample_t_s[gaze.sample_used].tolist() == pytest.approx([0.1, 0.4, 0.5, 0.6, 0.7, 0.9, 1.0])


def test_a_fixation_outside_the_frame_is_an_event_that_is_not_valid() -> None:
    fixations = Fixations.build([0.1, 0.5], [0.3, 0.9], [[0.1, 0.1], [1.5, 0.5]])
    gaze = gaze_events(SAMPLES, fixations, span_s=(0.0, 1.0), frame_times_s=np.array([0.0]))
    assert gaze.valid.tolist() == [True, False] and np.isnan(gaze.xy_norm[1]).all()
    assert gaze.sample_t_s[gaze.sample_used].tolist() == pytest.approx([0.1, 0.3])


def test_without_fixations_one_sample_a_frame() -> None:
    none = Fixations.empty()
    gaze = gaze_events(SAMPLES, none, span_s=(0.0, 1.0), frame_times_s=np.array([0.0, 0.21, 0.81, 0.82]))
    assert gaze.t_s.tolist() == pytest.approx([0.1, 0.2, 0.8])  # 0.81 and 0.82 share theirs
    assert gaze.valid.tolist() == [True, False, False]  # a blink, and a look past the frame
    assert gaze.sample_t_s[gaze.sample_used].tolist() == pytest.approx([0.1])
    assert not gaze.is_fixation.any() and not gaze.duration_s.any()
    empty = gaze_events(GazeSamples.build([], []), none, span_s=(0.0, 1.0), frame_times_s=np.array([0.0]))
    assert len(empty) == 0 and not empty.any_valid


@settings(max_examples=100, deadline=None)
@given(
    t=st.lists(st.floats(-1, 3), max_size=20),
    spans=st.lists(st.tuples(st.floats(-1, 3), st.floats(0, 1)), max_size=5),
    stop_s=st.floats(0.1, 2.5),
)
def test_no_event_is_later_than_its_span(t: list[float], spans: list[tuple[float, float]], stop_s: float) -> None:
    samples = GazeSamples.build(t, np.full((len(t), 2), 0.5))
    fixations = Fixations.build([s for s, _ in spans], [s + d for s, d in spans], np.full((len(spans), 2), 0.5))
    known = StoredFixations(fixations).during(0.0, stop_s)
    gaze = gaze_events(samples, known, span_s=(0.0, stop_s), frame_times_s=np.array([0.0, stop_s / 2]))
    assert (gaze.t_s <= stop_s).all() and (gaze.sample_t_s <= stop_s).all() and (gaze.sample_t_s > 0).all()
    assert (gaze.age_s >= 0).all() and (gaze.duration_s >= 0).all() and (gaze.duration_s <= stop_s).all()
    with pytest.raises(FutureDataError):
        samples.between(0.0, stop_s + 1e-3, now_s=stop_s)


# -- which frames ------------------------------------------------------------------------------------------------------


def temporal_positions(steps: Sequence[Step]) -> list[int]:
    rope = MRope(tokens_per_second=2)
    rope.begin_video()
    first_s = float(steps[0].frame_times_s[0])
    ids = torch.stack([rope.step(float(step.frame_times_s[0]) - first_s, 1, 1)[:, 0] for step in steps])
    return ids[:, 0].tolist()


def test_at_2997_fps_the_temporal_positions_are_qwens(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, seconds=5.0, fps=NTSC)
    steps = [step for step in recording.steps() if not step.partial]
    assert temporal_positions(steps) == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(steps[1].frame_times_s, [1.001, 1.5015], atol=1e-4)


def test_a_source_slower_than_asked_gives_each_frame_once(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, seconds=2.0, fps=5.0)
    steps = list(recording.steps(fps=30.0, vjepa_fps=60.0))
    times = np.concatenate([step.frame_times_s for step in steps])
    np.testing.assert_allclose(times, np.arange(10) / 5, atol=1e-6)
    assert [len(step.vjepa_times_s) for step in steps] == [2] * 5


def test_a_variable_rate_is_read_by_timestamp(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.13, 0.52, 0.9, 1.02, 1.05, 1.5, 1.95, 2.2]
    recording = recording_of(tmp_path, times_s=times, samples=looking(3.0))
    steps = list(recording.steps(vjepa_fps=4.0))
    seen = np.concatenate([step.frame_times_s for step in steps])
    assert all(np.isclose(times, t, atol=1e-5).any() for t in seen)
    wanted = np.arange(0, recording.end_s, 0.5)
    chosen = [min(times, key=lambda t: abs(t - w)) for w in wanted]
    np.testing.assert_allclose(sorted(set(np.round(seen, 4)))[: len(set(chosen))], sorted(set(chosen)), atol=1e-4)
    for until_s in (0.6, 1.3, 2.0):
        cut = list(recording.steps(vjepa_fps=4.0, until_s=until_s))
        assert max(step.frame_times_s[-1] for step in cut) <= until_s
        for ours, theirs in zip([s for s in cut if not s.partial], steps, strict=False):
            assert_same_step(ours, theirs)


def test_a_video_without_gaze_has_steps_without_gaze(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, seconds=2.0)
    steps = list(recording.steps())
    assert len(recording.samples) == 0 and len(recording.fixations) == 0
    assert steps and all(len(step.gaze) == 0 and step.gaze.sample_t_s.size == 0 for step in steps)


def test_frames_are_those_of_the_file(recording: Recording) -> None:
    for step in recording.steps():
        for frame, time_s in zip(step.frames, step.frame_times_s, strict=True):
            expected = picture(round(time_s * 30)).astype(int)
            assert np.abs(frame.astype(int) - expected).mean() < 12
        assert np.array_equal(
            step.vjepa_frames[np.isin(step.vjepa_times_s, step.frame_times_s)], step.frames[: 1 if step.repeated else 2]
        )
    small = next(iter(recording.steps(max_pixels=400)))
    assert small.frames.shape[1] * small.frames.shape[2] <= 400


def test_stored_fixations_of_a_device_are_clipped_and_counted(tmp_path: Path) -> None:
    device = Fixations.build([0.2, 1.3], [0.9, 3.0], [[0.2, 0.2], [0.7, 0.7]], detector="device")
    recording = recording_of(tmp_path, seconds=3.0, samples=looking(3.0), fixations=device)
    assert recording.detector == "device"
    *_, last = recording.steps(until_s=1.45)
    assert last.gaze.open_fixations == 1
    fixed = last.gaze.is_fixation
    assert last.gaze.t_s[fixed].tolist() == pytest.approx([0.9, 1.45])
    assert last.gaze.xy_norm[fixed].tolist() == [[0.2, 0.2], [0.7, 0.7]]
    between = last.gaze.t_s[~fixed]
    assert between.size and (between > 0.9).all() and (between < 1.3).all()


def test_the_aria_recording_at_its_own_rate() -> None:
    folder = shared_dir("fixtures", "aria_gen1_aea")
    recording = open_recording(folder / "derived_rgb_upright.mp4", folder / "derived_gaze_px.csv")
    steps = list(recording.steps(fps=20))
    assert len(steps) == 4 and not any(step.partial or step.repeated for step in steps)
    times = np.concatenate([step.frame_times_s for step in steps])
    assert times.size == 8 and (np.diff(times) > 0.04).all()
    assert [step.gaze.sample_t_s.tolist() for step in steps] == [
        [pytest.approx(t)] for t in (0.05006, 0.15006, 0.25006, 0.35006)
    ]
    assert all(step.gaze.sample_used.all() for step in steps)
