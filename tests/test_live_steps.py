"""Frames and gaze pushed as they arrive: the steps of the recording, and every fault named and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import GazeEvents, GazeSamples, Step
from stream import StreamSession, open_recording
from stream.live_steps import LAG_WINDOW_S, StepBuilder
from stream.recording import Recording
from stream.steps import Break, CausalIVT, Cut, FrameSelection, build_steps, once_each
from stream.video import Frame, iter_frames
from stream.video_writer import write_clip
from tests.made_steps import OPTIONS, QUESTION, moved_tiny

RATE = 10.0


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Seven seconds of noise at 10 fps; gaze at 50 Hz from before the first frame: jumps, a blink, a look outside."""
    folder = tmp_path_factory.mktemp("live")
    rng = np.random.default_rng(3)
    images = (rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1) for _ in range(70))
    clip = write_clip(folder / "clip.mp4", images, fps=RATE)
    rows = ["t_s,x_norm,y_norm,valid"]
    for time_s in np.arange(-10, 350) / 50 + 0.003:
        look = int(max(time_s, 0) * 1.7)
        x = 1.2 if 4.1 < time_s < 4.4 else 0.1 + 0.07 * look
        rows.append(f"{time_s:.4f},{x:.3f},{0.9 - 0.06 * look:.3f},{int(not 2.2 < time_s < 2.45)}")
    (folder / "gaze.csv").write_text("\n".join(rows) + "\n")
    return open_recording(clip, folder / "gaze.csv", y_origin="top", gaze_offset_s=0.0)


@pytest.fixture(scope="module")
def frames(recording: Recording) -> list[Frame]:
    return list(iter_frames(recording.path))


def assert_same_gaze(ours: GazeEvents, theirs: GazeEvents) -> None:
    for name, value in vars(theirs).items():
        np.testing.assert_allclose(getattr(ours, name), value, atol=1e-9, err_msg=name)


def assert_same(ours: Iterable[Step], theirs: Iterable[Step]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.vjepa_frames, b.vjepa_frames)
        np.testing.assert_allclose(a.frame_times_s, b.frame_times_s, atol=1e-9)
        np.testing.assert_allclose(a.vjepa_times_s, b.vjepa_times_s, atol=1e-9)
        np.testing.assert_allclose(a.span_s, b.span_s, atol=1e-9)
        assert_same_gaze(a.gaze, b.gaze)
        assert (a.repeated, a.partial, a.gaze_late) == (b.repeated, b.partial, b.gaze_late)


def builder_of(recording: Recording, **options: Any) -> StepBuilder:
    return StepBuilder(detector_parameters=recording.parameters, **options)


def events_of(
    recording: Recording, frames: list[Frame], *, clock_s: float = 0.0, gaze_delay_s: float = 0.0
) -> list[tuple[float, Any]]:
    """(arrival, what) in order of arrival; the source's clock is `clock_s` ahead of the recording's."""
    found: list[tuple[float, Any]] = [
        (frame.time_s, ("frame", frame.image, frame.time_s + clock_s)) for frame in frames
    ]
    samples = recording.samples
    for t, xy, valid in zip(samples.t_s.tolist(), samples.xy_norm, samples.valid.tolist(), strict=True):
        found.append((t + gaze_delay_s, ("gaze", t + clock_s, xy, valid)))
    return sorted(found, key=lambda event: event[0])


def pushed(builder: StepBuilder, events: Iterable[tuple[float, Any]]) -> list[Any]:
    out: list[Any] = []
    for now_s, (kind, *rest) in events:
        if kind == "frame":
            out += builder.push_frame(rest[0], rest[1], now_s=100 + now_s)
        else:
            out += builder.push_gaze(rest[0], rest[1], rest[2], now_s=100 + now_s)
    return out


# -- streamed == offline -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fps", [(2.0, 8.0), (1.0, 4.0), (3.0, 7.0), (20.0, 30.0)])
@pytest.mark.parametrize(("clock_s", "delay_s"), [(0.0, 0.0), (1024.0, 0.08)])
def test_live_steps_are_the_recordings(
    recording: Recording, frames: list[Frame], fps: tuple[float, float], clock_s: float, delay_s: float
) -> None:
    builder = builder_of(recording, fps=fps[0], vjepa_fps=fps[1])
    steps = pushed(builder, events_of(recording, frames, clock_s=clock_s, gaze_delay_s=delay_s))
    steps += builder.finish(end_s=recording.end_s + clock_s)
    expected = list(recording.steps(fps[0], vjepa_fps=fps[1]))
    assert len(expected) > 3
    assert_same(steps, expected)
    counts = asdict(builder.counts)
    assert counts.pop("frames") == 70 and counts.pop("gaze_samples") == len(recording.samples)
    assert counts.pop("gaze_unused") == 10  # before the first frame
    assert not any(counts.values())
    with pytest.raises(InputError, match="start a new builder"):
        builder.push_frame(frames[0].image, 99.0, now_s=200.0)
    assert builder.finish() == []


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_uneven_frames_are_selected_as_offline(data: st.DataObject) -> None:
    """Times at random, against `build_steps` on the selection of a file's reader."""
    gaps = data.draw(st.lists(st.floats(0.01, 0.4), min_size=5, max_size=60))
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    end_s = float(times[-1]) + 0.1
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    images = [image + k for k in range(len(times))]
    rates = data.draw(st.sampled_from([(2.0, 8.0), (1.0, 3.0)]))
    asked, for_qwen = FrameSelection(times, *rates).until(end_s)
    ends = np.append(times[1:], end_s)
    shown = [int(np.searchsorted(times, t, side="right")) - 1 for t in asked]
    nothing = GazeSamples.build([], np.zeros((0, 2)))
    expected = list(
        build_steps(
            once_each(
                (Frame(float(times[k]), float(ends[k] - times[k]), images[k]), bool(q))
                for k, q in zip(shown, for_qwen, strict=True)
            ),
            nothing,
            CausalIVT(nothing, {"frame_aspect": 1.5}),
            until_s=end_s,
        )
    )
    builder = StepBuilder(fps=rates[0], vjepa_fps=rates[1], gaze_wait_ms=None)
    steps: list[Any] = []
    for time_s, picture in zip(times.tolist(), images, strict=True):
        steps += builder.push_frame(picture, time_s, now_s=time_s)
    assert_same(steps + builder.finish(end_s=end_s), expected)


@pytest.mark.parametrize("at_s", [0.04, 0.32, 1.07, 2.33, 3.5, 4.28, 6.95])
def test_a_cut_is_the_clip_that_ends_there(recording: Recording, frames: list[Frame], at_s: float) -> None:
    builder = builder_of(recording)
    seen = [event for event in events_of(recording, frames) if event[0] <= at_s]
    items = [*pushed(builder, seen), *builder.cut(now_s=100 + at_s)]
    cut = items.pop()
    assert isinstance(cut, Cut) and cut.t_s == pytest.approx(at_s)
    steps = [*items, *([] if cut.tail is None else [cut.tail])]
    expected = list(recording.steps(2.0, until_s=at_s))
    late = [step.gaze_late for step in items]
    assert_same([_punctual(step) for step in steps], expected)
    assert sum(late) == builder.counts.gaze_late_steps <= 1  # the one that waited
    # and nobody notices that it was asked
    rest = [event for event in events_of(recording, frames) if event[0] > at_s]
    steps = [*items, *pushed(builder, rest), *builder.finish(end_s=recording.end_s)]
    assert_same([_punctual(step) for step in steps], recording.steps(2.0))


def _punctual(step: Step) -> Step:
    return replace(step, gaze_late=False)


def test_a_session_takes_all_that_a_builder_gives(recording: Recording, frames: list[Frame]) -> None:
    model = moved_tiny()
    config = model.config
    builder = builder_of(recording, fps=config.fps, vjepa_fps=config.features.fps)
    live = StreamSession(model)
    seen = [event for event in events_of(recording, frames) if event[0] <= 3.33]
    for event in seen:
        live.extend(pushed(builder, [event]))
    live.extend(builder.cut(now_s=103.33))
    answer = live.choose(QUESTION, OPTIONS)
    offline = StreamSession.of(model, recording, until_s=3.33).choose(QUESTION, OPTIONS)
    assert answer.t_s == pytest.approx(3.33)
    ours, theirs = (np.array(list(a.option_logprobs.values())) for a in (answer, offline))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(answer.gaze_times_s, offline.gaze_times_s)
    assert live.report(builder.counts).source == builder.counts
    assert live.report(builder.counts).to_dict()["source"]["frames"] == builder.counts.frames


# -- faults ------------------------------------------------------------------------------------------------------------

PICTURE = np.zeros((8, 12, 3), dtype=np.uint8)


def plain(**options: Any) -> StepBuilder:
    return StepBuilder(**{"fps": 2.0, "vjepa_fps": 4.0, "gaze_wait_ms": None, **options})


def run(builder: StepBuilder, times: Iterable[float], *, late_s: float = 0.0) -> list[Any]:
    return [item for t in times for item in builder.push_frame(PICTURE, t, now_s=1000 + t + late_s)]


def every(start: float, stop: float, step: float = 0.1) -> list[float]:
    return [round(float(t), 6) for t in np.arange(start, stop - 1e-9, step)]


def test_frames_twice_or_too_late_are_dropped_and_counted() -> None:
    clean, noisy = plain(), plain()
    times = every(0, 5)
    mixed = [x for t in times for x in ([t, t] if t == 1.0 else [t, t - 0.35] if t == 2.0 else [t])]
    ours, theirs = run(noisy, mixed), run(clean, times)
    assert_same(ours, theirs)
    assert (noisy.counts.frames_duplicate, noisy.counts.frames_out_of_order) == (1, 1)
    assert noisy.push_frame(PICTURE, float("nan"), now_s=1006.0) == [] and noisy.counts.frames_bad_time == 1


@pytest.mark.parametrize("stop", [3.0, 3.3, 3.55])
def test_no_step_spans_a_gap(stop: float) -> None:
    builder = plain()
    steps = [*run(builder, [*every(0, stop), *every(13.2, 17)]), *builder.finish()]
    assert builder.counts.gaps == 1 and builder.counts.clock_jumps == 0
    assert all(isinstance(step, Step) for step in steps)
    for step in steps:
        assert not (step.span_s[0] < stop and step.span_s[1] > 13.0)
        assert np.diff(step.vjepa_times_s).max(initial=0.0) < 1.0
    before = [step for step in steps if step.span_s[1] < 13.0]
    assert before[-1].span_s[1] == pytest.approx(every(0, stop)[-1] + 0.1)  # nothing that was seen is lost
    assert builder.counts.steps_cut_short == sum(step.repeated for step in before) <= 1
    after = steps[len(before)]
    assert after.frame_times_s[0] == pytest.approx(13.2) and not any(step.partial for step in before)
    assert all(b.span_s[1] > a.span_s[1] for a, b in pairwise(steps))


@pytest.mark.parametrize("stop", [3.0, 3.3, 3.55])
def test_a_question_during_a_stall_is_not_shown_an_old_frame_as_the_present(stop: float) -> None:
    asked, quiet = plain(), plain()
    times = every(0, stop)
    items = run(asked, times)
    newest_s = times[-1]
    (soon,) = asked.cut(now_s=1000 + newest_s + 1.9)
    assert isinstance(soon, Cut) and soon.tail is not None and soon.tail.span_s[1] == soon.t_s
    assert soon.t_s == pytest.approx(newest_s + 1.9) and asked.counts.cuts_stalled == 0
    late_s = newest_s + 9.0
    (cut,) = asked.cut(now_s=1000 + late_s)
    assert isinstance(cut, Cut) and cut.t_s == pytest.approx(late_s) and asked.counts.cuts_stalled == 1
    assert cut.tail is not None and cut.tail.partial and cut.tail.span_s[1] == pytest.approx(newest_s + 0.1)
    model = moved_tiny()
    session = StreamSession(model, arm="none")
    session.extend([*items, cut])
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.t_s == pytest.approx(late_s) and answer.span_s[1] == pytest.approx(newest_s + 0.1)
    assert session.choose(QUESTION, OPTIONS, window_s=5.0).steps == 0  # nothing was seen in these seconds
    rest = every(newest_s + 10.0, newest_s + 13.0)
    found: list[Any] = [*items, *run(asked, rest), *asked.finish()]
    expected: list[Any] = [*run(quiet, times), *run(quiet, rest), *quiet.finish()]
    assert_same(found, expected)


def test_a_burst_after_a_stall_is_no_fault() -> None:
    clean, stalled = plain(), plain()
    times = every(0, 8)
    expected = run(clean, times)
    found: list[Any] = []
    for t in times:  # the network holds everything from 2 to 6 s back, then delivers it at once
        now_s = 1006.0 + 1e-3 * t if 2 <= t < 6 else 1000 + t
        found += stalled.push_frame(PICTURE, t, now_s=now_s)
    assert_same(found, expected)
    assert stalled.counts == clean.counts


@pytest.mark.parametrize("jump_s", [-3600.0, -1.5, 3600.0, 2.5])
def test_a_clock_jump_begins_a_new_segment(jump_s: float) -> None:
    builder = plain()
    items: list[Any] = []
    for t in every(0, 6):
        items += builder.push_frame(PICTURE, t + (jump_s if t >= 3.25 else 0.0), now_s=1000 + t)
    items += builder.finish()
    assert builder.counts.clock_jumps == 1 and builder.counts.gaps == 0
    (at,) = [k for k, item in enumerate(items) if isinstance(item, Break)]
    assert items[at].t_s == pytest.approx(3.2)
    steps = [item for item in items if isinstance(item, Step)]
    assert steps[at].frame_times_s[0] == pytest.approx(3.3)  # the stream's own time went on by what passed
    assert steps[at - 1].span_s[1] < 3.3 and steps[-1].span_s[1] == pytest.approx(6.0, abs=0.01)
    model = moved_tiny()
    session = StreamSession(model, arm="none")
    session.extend(items)
    assert session.report().turns_held == 1 and session.report().steps_held == len(steps) - steps[-1].partial
    assert session.choose(QUESTION, OPTIONS).steps == len(steps)


@pytest.mark.parametrize(("late_s", "gaps"), [(1.6, 0), (5.0, 1)])
def test_a_late_first_frame_is_no_clock_jump(late_s: float, gaps: int) -> None:
    """It comes late, the frames behind it are lost, and the next one comes in time."""
    builder = plain()
    items = builder.push_frame(PICTURE, 0.0, now_s=1000 + late_s)
    items += run(builder, every(late_s + 0.1, late_s + 4.0))
    assert (builder.counts.clock_jumps, builder.counts.gaps) == (0, gaps)
    (cut,) = builder.cut(now_s=1000 + late_s + 4.0)
    assert isinstance(cut, Cut) and cut.t_s == pytest.approx(late_s + 4.0)
    assert all(isinstance(item, Step) for item in items)
    for t in every(late_s + 4.0, late_s + 8.0):  # a jump is one all the same, when it comes after that
        builder.push_frame(PICTURE, t + 3600.0, now_s=1000 + t)
    assert builder.counts.clock_jumps == 1


def test_a_clock_that_was_set_a_little_is_found_again() -> None:
    """Less than a jump: what has passed since the newest frame is 0.9 s too long, until the delay before is old."""
    builder = plain()
    run(builder, every(0, 10, 0.25))
    asked: list[float] = []
    for t in every(10, 10 + LAG_WINDOW_S + 20, 0.25):
        builder.push_frame(PICTURE, t - 0.9, now_s=1000 + t)
        if t in (20.0, 310.0, 320.0):
            *_, cut = builder.cut(now_s=1000 + t + 0.1)
            assert isinstance(cut, Cut)
            asked.append(cut.t_s - (t - 0.9))
    assert asked == pytest.approx([1.0, 0.1, 0.1]) and builder.counts.clock_jumps == 0
    assert len(builder._lags) < 10


def test_late_gaze_is_waited_for_then_marked() -> None:
    builder = plain(gaze_wait_ms=200.0)
    out: list[Any] = []
    for t in every(0, 1.5):  # the first step is complete with the frame of 0.6 s
        out += builder.push_frame(PICTURE, t, now_s=10 + t)
        if t < 0.35:
            out += builder.push_gaze(t + 0.01, (0.5, 0.5), now_s=10 + t)
        assert len(out) == (0 if t < 0.79 else 1)  # 200 ms later it goes on
    assert out[0].gaze_late and out[0].gaze.sample_t_s.max() == pytest.approx(0.31)
    assert builder.push_gaze(0.4, (0.1, 0.1), now_s=11.5) == [] and builder.counts.gaze_late == 1
    punctual = plain(gaze_wait_ms=200.0)
    run(punctual, every(0, 0.7))
    (step,) = punctual.push_gaze([0.3, 0.61], [(0.5, 0.5), (0.1, 0.1)], now_s=1000.75)
    assert not step.gaze_late and len(step.gaze.sample_t_s) == 1  # 0.61 is the next one's
    waiting = plain(gaze_wait_ms=200.0)
    run(waiting, every(0, 0.7))
    assert waiting.poll(now_s=1000.79) == []
    (step,) = waiting.poll(now_s=1000.81)
    assert step.gaze_late and waiting.counts.gaze_late_steps == 1 and not step.gaze.any_valid
    assert run(plain(), every(0, 0.7))[0].gaze_late is False  # no tracker, nothing to wait for


@pytest.mark.parametrize(("gaze_until_s", "late"), [(0.0, True), (1.0, True), (1.3, False), (1.35, False)])
def test_the_last_step_is_marked_where_its_gaze_stays_away(gaze_until_s: float, late: bool) -> None:
    """At a question and at the stream's end nothing waits: what usually is on its way is not missed, more is."""
    builder = plain(gaze_wait_ms=200.0)
    items: list[Any] = []
    for t in every(0, 1.35):
        items += builder.push_frame(PICTURE, t, now_s=10 + t)
        if t < gaze_until_s:
            items += builder.push_gaze([t, t + 0.05], [(0.5, 0.5)] * 2, now_s=10.05 + t)
    *items_then, cut = [*items, *builder.cut(now_s=11.35)]
    assert isinstance(cut, Cut) and cut.tail is not None and cut.tail.gaze_late is late
    counted = builder.counts.gaze_late_steps
    assert counted == sum(step.gaze_late for step in items_then)
    session = StreamSession(moved_tiny(), arm="none")
    session.extend([*items_then, cut])
    marked = [step.gaze_late for step in [*items_then, cut.tail]]
    warning = f"{sum(marked)} steps went on before their gaze had arrived"
    assert (warning in session.choose(QUESTION, OPTIONS).warnings) is any(marked)
    (last,) = builder.finish(end_s=1.4)
    assert isinstance(last, Step) and last.partial and last.gaze_late is late
    assert builder.counts.gaze_late_steps == counted + late
    without = plain()
    steps: list[Any] = [*run(without, every(0, 1.35)), *without.finish()]
    assert not any(step.gaze_late for step in steps)


def test_odd_gaze_is_counted() -> None:
    builder = plain(gaze_wait_ms=0.0)
    builder.push_frame(PICTURE, 0.0, now_s=10.0)
    builder.push_gaze([float("nan"), 0.1, 0.1, 900.0], [(0.5, 0.5)] * 4, [True, False, True, True], now_s=10.2)
    builder.push_gaze([0.2, 0.15], [(float("nan"), 0.5), (0.3, 0.4)], now_s=10.25)  # out of order: sorted
    steps = [*run(builder, []), *[s for t in every(0.1, 0.8) for s in builder.push_frame(PICTURE, t, now_s=10 + t)]]
    counts = builder.counts
    assert (counts.gaze_bad_time, counts.gaze_duplicate, counts.gaze_off_clock) == (1, 1, 1)
    assert steps[0].gaze.sample_t_s.tolist() == [0.1, 0.15, 0.2]
    assert steps[0].gaze.sample_valid.tolist() == [True, True, False]
    with pytest.raises(InputError, match="as many times"):
        builder.push_gaze([0.1, 0.2], [(0.5, 0.5)], now_s=11.0)


def test_gaze_without_video_is_bounded() -> None:
    builder = plain()
    builder.push_frame(PICTURE, 0.0, now_s=0.0)
    t = np.arange(1, 2001) / 20
    for part in np.split(t, 40):
        builder.push_gaze(part, np.full((len(part), 2), 0.5), now_s=float(part[-1]))
    assert len(builder._gaze) <= 30 * 20 + 1 and builder.counts.gaze_unused == 2000 - len(builder._gaze)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_comes_steps_ascend_and_every_frame_is_accounted_for(data: st.DataObject) -> None:
    builder = plain(gaze_wait_ms=data.draw(st.sampled_from([None, 0.0, 300.0])))
    session_end = -np.inf
    now_s, clock_s = 0.0, 5.0
    for _ in range(data.draw(st.integers(1, 60))):
        now_s += data.draw(st.floats(0, 3))
        clock_s = data.draw(st.one_of(st.just(now_s), st.floats(-50, 50), st.just(clock_s)))
        kind = data.draw(st.sampled_from(["frame", "frame", "gaze", "cut"]))
        items: list[Any] = []
        if kind == "frame":
            items = builder.push_frame(PICTURE, clock_s, now_s=now_s)  # type: ignore[assignment]
        elif kind == "gaze":
            xy = data.draw(st.tuples(st.floats(-1, 2), st.floats(allow_nan=True)))
            items = builder.push_gaze(clock_s, xy, now_s=now_s)  # type: ignore[assignment]
        elif builder.counts.frames:
            items = builder.cut(now_s=now_s)  # type: ignore[assignment]
        for item in items:
            if isinstance(item, Step):
                assert not item.partial and session_end <= item.span_s[0] + 1e-5 and item.span_s[0] < item.span_s[1]
                assert (np.diff(item.vjepa_times_s) > 0).all()
                assert (item.gaze.sample_t_s <= item.span_s[1]).all()
                session_end = item.span_s[1]
            elif isinstance(item, Cut):
                assert item.t_s >= session_end
                assert item.tail is None or session_end < item.tail.span_s[1] <= item.t_s + 1e-6
    builder.finish()


def test_a_frame_of_another_kind_is_refused_and_forgotten() -> None:
    builder = plain()
    run(builder, every(0, 0.4))
    for image in (np.zeros((8, 13, 3), np.uint8), np.zeros((8, 12), np.uint8), np.zeros((8, 12, 3))):
        with pytest.raises(InputError, match="frame: expected uint8"):
            builder.push_frame(image, 0.4, now_s=1000.4)
    assert builder.counts.frames == 4
    assert len(run(builder, every(0.4, 0.8))) == 1


BAD: list[Callable[[], Any]] = [
    lambda: StepBuilder(fps=0.0),
    lambda: StepBuilder(vjepa_fps=float("nan")),
    lambda: StepBuilder(gaze_wait_ms=-1.0),
    lambda: StepBuilder(clock_jump_s=0.0),
    lambda: StepBuilder(fps=0.4, max_gap_s=2.0),
]


@pytest.mark.parametrize("call", BAD)
def test_settings_out_of_range_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        call()


def test_a_question_before_any_frame() -> None:
    with pytest.raises(InputError, match="at least one frame"):
        StepBuilder().cut(now_s=1.0)
    assert StepBuilder().finish() == []
