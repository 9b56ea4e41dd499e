"""A world as a recording gives the steps of its mini-StreamGaze files, and draws only the frames it is asked for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze.dataset import Dataset, GazeInput
from benchmarks.streamgaze.mini import write_mini
from gazeqwen.errors import InputError
from gazeqwen.tiny.world import World
from gazeqwen.types import GazeEvents, Step
from stream.borrowed_gaze import BorrowedGaze
from stream.recording import Recording
from stream.steps import Cut
from stream.world_recording import WorldRecording, world_name

SEED, SECONDS = 11, 6.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("mini") / "set"
    write_mini(folder, videos=1, seed=SEED, per_video=1, duration_s=SECONDS)
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def world() -> World:
    return World.make(SEED, duration_s=SECONDS)


def same_but_frames(ours: Step, theirs: Step) -> None:
    for name in ("frame_times_s", "vjepa_times_s"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert (ours.span_s, ours.repeated, ours.partial) == (theirs.span_s, theirs.repeated, theirs.partial)
    assert ours.frames.shape == theirs.frames.shape
    assert ours.vjepa_frames.shape == theirs.vjepa_frames.shape
    for field in fields(GazeEvents):
        np.testing.assert_array_equal(getattr(ours.gaze, field.name), getattr(theirs.gaze, field.name))


def off(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Mean difference in grey levels."""
    return float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(ours, theirs, strict=True)]))


@pytest.mark.parametrize("gaze", ["samples", "fixations"])
@pytest.mark.parametrize("lag_s", [0.0, 1.5])
def test_steps_are_those_of_the_encoded_file(data: Dataset, world: World, gaze: GazeInput, lag_s: float) -> None:
    ours, theirs = WorldRecording(world, gaze=gaze), data.recording(data.videos[0], gaze_input=gaze)
    assert (ours.end_s, ours.detector, ours.parameters) == (theirs.end_s, theirs.detector, theirs.parameters)
    for name in ("t_s", "xy_norm", "valid"):
        np.testing.assert_array_equal(getattr(ours.samples, name), getattr(theirs.samples, name))
    for name in ("start_s", "stop_s", "xy_norm", "ids"):
        np.testing.assert_array_equal(getattr(ours.fixations, name), getattr(theirs.fixations, name))
    pairs = list(zip(ours.steps(gaze_lag_s=lag_s), theirs.steps(gaze_lag_s=lag_s), strict=True))
    count = len(pairs)
    assert count == SECONDS + 1  # the last one partial
    assert any(step.gaze.any_valid for step, _ in pairs)
    for step, read in pairs:
        same_but_frames(step, read)
    images, decoded = ([image for pair in pairs for image in pair[side].vjepa_frames] for side in (0, 1))
    # What H.264 loses is less than what a head moves in an eighth of a second.
    assert off(images, decoded) < 8
    assert off(images, decoded) < 0.8 * off(images[1:], decoded[:-1])
    for step, _ in pairs:
        at = [step.vjepa_times_s.tolist().index(time_s) for time_s in step.frame_times_s.tolist()]
        np.testing.assert_array_equal(step.frames, step.vjepa_frames[at])


@given(times_s=st.lists(st.floats(0.0, SECONDS), min_size=1, max_size=6).map(sorted))
@settings(max_examples=12, deadline=None)
def test_questions_at_any_times_see_the_same_steps(data: Dataset, world: World, times_s: list[float]) -> None:
    ours, theirs = (
        list(recording.steps_for(times_s, decode_from_s=np.inf))
        for recording in (WorldRecording(world), data.recording(data.videos[0]))
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert type(mine) is type(other)
        if isinstance(mine, Cut) and isinstance(other, Cut):
            assert mine.t_s == other.t_s
            mine, other = mine.tail, other.tail
            assert (mine is None) == (other is None)
        if isinstance(mine, Step) and isinstance(other, Step):
            same_but_frames(mine, other)


def test_what_the_file_says_of_itself_is_what_the_world_says(data: Dataset, world: World) -> None:
    ours, theirs = WorldRecording(world), data.recording(data.videos[0])
    assert ours.path.name == theirs.path.name == data.videos[0] == world_name(SEED)
    for name in ("width_px", "height_px", "rotation_deg", "fps", "frames", "duration_s", "first_pts_s"):
        assert getattr(ours.info, name) == getattr(theirs.info, name)


def test_without_gaze_there_is_none(world: World) -> None:
    recording = WorldRecording(world, gaze=None)
    assert (len(recording.samples), len(recording.fixations), recording.gaze) == (0, 0, None)
    assert not any(step.gaze.any_valid for step in recording.steps(until_s=2.0))


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    times_s: list[float] = []
    frame = World.frame
    monkeypatch.setattr(World, "frame", lambda world, time_s: times_s.append(time_s) or frame(world, time_s))
    return times_s


def test_only_frames_that_are_asked_for_are_drawn_each_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = drawn(monkeypatch)
    recording = WorldRecording(world)
    list(recording.steps_for([1.3, 2.6], decode_from_s=np.inf))
    assert times_s == []
    list(recording.steps_for([4.0]))
    assert len(times_s) == len(set(times_s)) == 33  # 8 a second of the world's 24
    assert max(times_s) <= 4.0


def test_a_placeholder_gets_the_frames_it_stands_for(world: World) -> None:
    recording = WorldRecording(world)
    whole = next(iter(recording.steps()))
    again = recording.with_frames(whole.without_frames())
    np.testing.assert_array_equal(again.frames, whole.frames)
    np.testing.assert_array_equal(again.vjepa_frames, whole.vjepa_frames)
    np.testing.assert_array_equal(whole.frames[0], world.frame(0.0))


def test_another_worlds_gaze_can_be_borrowed(world: World) -> None:
    own, donor = WorldRecording(world), WorldRecording(World.make(12, duration_s=SECONDS))
    borrowed: Recording = BorrowedGaze(own, donor)
    for ours, lent, plain in zip(borrowed.steps(), donor.steps(), own.steps(), strict=True):
        np.testing.assert_array_equal(ours.gaze.xy_norm, lent.gaze.xy_norm)
        np.testing.assert_array_equal(ours.frames, plain.frames)


def test_frames_are_never_shrunk_in_silence(world: World) -> None:
    with pytest.raises(InputError, match="make the world with a smaller size_px"):
        list(WorldRecording(world).steps(max_pixels=100))
    count = sum(1 for _ in WorldRecording(world).steps(max_pixels=168 * 112))
    assert count == SECONDS + 1


@pytest.mark.parametrize("until_s", [-0.1, SECONDS + 1])
def test_times_outside_the_world_are_refused(world: World, until_s: float) -> None:
    with pytest.raises(InputError, match=world_name(SEED)):
        list(WorldRecording(world).steps(until_s=until_s))


def test_the_name_can_be_chosen(world: World) -> None:
    assert WorldRecording(world, name="kitchen").path == Path("kitchen")
