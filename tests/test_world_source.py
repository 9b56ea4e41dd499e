"""Worlds as training videos: the same as their mini-StreamGaze files, made once, kept, and made again when damaged."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.mini import write_mini
from benchmarks.streamgaze.qa_writer import entry_of, write_qa_files
from benchmarks.streamgaze.tasks import TASKS
from benchmarks.streamgaze.training import asked_of, encoder, open_source, training_video
from benchmarks.streamgaze.work import by_video
from benchmarks.tiny import world_source
from benchmarks.tiny.other_tracker import OtherTracker
from benchmarks.tiny.step_arrays import arrays_of, steps_of
from benchmarks.tiny.world_source import WorldSource
from gazeqwen import GazeQwen
from gazeqwen.arms import get_arm
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.question_rules import make_questions
from gazeqwen.tiny.world import World
from gazeqwen.tiny.world_parameters import WorldParameters
from gazeqwen.train.examples import TrainingVideo
from gazeqwen.types import GazeEvents, Step
from stream.world_recording import WorldRecording, world_name
from tests.made_steps import made_steps, moved_tiny

SEED, SECONDS, PER_TASK = 21, 7.0, 2


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def source(**changes: object) -> WorldSource:
    options = {"per_task": PER_TASK, "duration_s": SECONDS, **changes}
    return WorldSource(range(SEED, SEED + 2), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made() -> WorldSource:
    return source()


def same_step(ours: Step | None, theirs: Step | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours is None or theirs is None:
        return
    assert (ours.span_s, ours.repeated, ours.partial, ours.placeholder) == (
        theirs.span_s, theirs.repeated, theirs.partial, theirs.placeholder
    )  # fmt: skip
    assert (ours.frames.shape, ours.vjepa_frames.shape) == (theirs.frames.shape, theirs.vjepa_frames.shape)
    np.testing.assert_array_equal(ours.frame_times_s, theirs.frame_times_s)
    np.testing.assert_array_equal(ours.vjepa_times_s, theirs.vjepa_times_s)
    for field in fields(GazeEvents):
        np.testing.assert_array_equal(getattr(ours.gaze, field.name), getattr(theirs.gaze, field.name))


def same_plan(ours: TrainingVideo, theirs: TrainingVideo) -> None:
    """The same steps and questions; the questions' ids are the source's own."""
    assert ours.id == theirs.id
    for step, other in zip(ours.steps, theirs.steps, strict=True):
        same_step(step, other)
    for ask, other in zip(ours.asks, theirs.asks, strict=True):
        assert replace(ask.question, id="") == replace(other.question, id="")
        for name in ("answer", "target", "stop", "first", "task", "proactive"):
            assert getattr(ask, name) == getattr(other, name)
        same_step(ask.tail, other.tail)


def features(video: TrainingVideo) -> list[torch.Tensor]:
    """All frozen tensors in order."""
    parts = [video.frozen, *(ask.tail_frozen for ask in video.asks)]
    tensors = [part for frozen in parts if frozen is not None for part in (frozen.visual, frozen.features)]
    return [tensor for tensor in tensors if tensor is not None]


def test_steps_survive_as_arrays_bit_for_bit() -> None:
    steps = [step.without_frames() for step in made_steps(3, seed=4)]
    steps += [steps[0].without_gaze(), replace(steps[1], partial=True, repeated=True)]
    for step, again in zip(steps, steps_of(arrays_of(steps)), strict=True):
        same_step(again, step)
    assert steps_of(arrays_of([])) == []


@pytest.mark.parametrize("arm", ["inject", "shuffled", "lagged"])
def test_a_world_is_its_mini_files(
    made: WorldSource, model: GazeQwen, tmp_path_factory: pytest.TempPathFactory, arm: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mini-for-world-source"
    write_mini(folder, videos=2, seed=SEED, per_video=PER_TASK, duration_s=SECONDS)
    files = open_source(folder)
    assert (made.ids, made.counts) == (files.ids, files.counts)
    ours, theirs = made.load(1, model, arm), files.load(1, model, arm)
    same_plan(ours, theirs)
    for mine, other in zip(features(ours), features(theirs), strict=True):  # H.264 stands between them
        assert mine.shape == other.shape
        assert torch.cosine_similarity(mine.flatten(1), other.flatten(1)).mean() > 0.97


def test_features_are_those_of_encoding_step_by_step(made: WorldSource, model: GazeQwen) -> None:
    arm = get_arm("inject")
    asked = made.asked(SEED)
    times_s = sorted({item.question.t_s for item in asked})
    recording = WorldRecording(World.make(SEED, duration_s=SECONDS))
    expected = training_video(
        made.ids[0], asked, recording.steps_for(times_s), encode=encoder(model, arm), window=model.start_window(arm)
    )
    found = made.load(0, model, arm)
    same_plan(found, expected)
    assert any(ask.tail is not None for ask in found.asks)
    for ours, theirs in zip(features(found), features(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)  # float16


def test_arms_share_frames_and_differ_in_gaze(made: WorldSource, model: GazeQwen) -> None:
    videos = {arm: made.load(0, model, arm) for arm in ("inject", "null", "none", "no-features", "lagged", "marker")}
    visual = {arm: video.frozen.visual for arm, video in videos.items() if video.frozen is not None}
    for arm in ("null", "none", "no-features", "lagged"):
        assert torch.equal(visual[arm], visual["inject"])
    assert not torch.equal(visual["marker"], visual["inject"])  # drawn on the frames
    taking = {arm for arm, video in videos.items() if video.frozen is not None and video.frozen.features is not None}
    assert taking == {"inject", "null", "lagged"}
    assert videos["lagged"].steps[5].gaze.t_s.tolist() != videos["inject"].steps[5].gaze.t_s.tolist()
    assert not videos["lagged"].steps[2].gaze.any_valid  # nothing is 5 s old yet
    blind = made.load(0, model, "blind")
    assert blind.frozen is None and len(blind.asks) == made.counts[0]


def test_what_was_made_is_read_and_nothing_drawn_again(
    made: WorldSource, model: GazeQwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source(cache=tmp_path).load(0, model, "inject")
    counts = source(cache=tmp_path).counts

    def again(*_: object, **__: object) -> None:
        raise AssertionError("a world was made")

    monkeypatch.setattr(World, "make", again)
    monkeypatch.setattr(GazeQwen, "frozen", again)
    later = source(cache=tmp_path)
    assert later.counts == counts
    for video in (later.load(0, model, "inject"), made.load(0, model, "inject")):  # from the folder, from memory
        same_plan(video, first)
        assert [a.question.id for a in video.asks] == [a.question.id for a in first.asks]
        for ours, theirs in zip(features(video), features(first), strict=True):
            assert torch.equal(ours, theirs)
    with pytest.raises(AssertionError, match="a world was made"):
        source(cache=tmp_path, per_task=1).load(0, model, "inject")
    with pytest.raises(AssertionError, match="a world was made"):
        source(cache=tmp_path, parameters=WorldParameters(noise_widths=0.05)).load(0, model, "inject")
    assert later.damaged_files == 0


def test_a_changed_model_makes_its_own_features(model: GazeQwen, tmp_path: Path) -> None:
    first = source(cache=tmp_path).load(0, model, "none").frozen
    other = GazeQwen.from_pretrained("tiny")
    with torch.no_grad():
        next(other.backbone.visual.parameters()).mul_(2)
    second = source(cache=tmp_path).load(0, other, "none").frozen
    assert first is not None and second is not None and not torch.equal(first.visual, second.visual)


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_file_is_made_again_and_counted(
    made: WorldSource, model: GazeQwen, tmp_path: Path, damage: str
) -> None:
    expected = made.load(0, model, "inject")
    source(cache=tmp_path).load(0, model, "inject")
    files = sorted(tmp_path.rglob("*.safetensors"))
    for path in files:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes({"cut": data[:-9], "bit": data, "empty": b""}[damage])
    again = source(cache=tmp_path)
    video = again.load(0, model, "inject")
    assert again.damaged_files == len(files) == 2
    same_plan(video, expected)
    assert all(torch.equal(a, b) for a, b in zip(features(video), features(expected), strict=True))
    healthy = source(cache=tmp_path)
    healthy.load(0, model, "inject")
    assert healthy.damaged_files == 0


def test_a_full_disk_is_one_line(model: GazeQwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device") as error:
        source(cache=tmp_path).load(0, model, "blind")
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*.tmp"))


def test_changed_code_finds_no_old_worlds(model: GazeQwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source(cache=tmp_path).load(0, model, "blind")
    monkeypatch.setattr(world_source, "world_digest", lambda: "another")
    source(cache=tmp_path).load(0, model, "blind")
    assert len(list(tmp_path.rglob("*-plan-*.safetensors"))) == 2


@pytest.mark.parametrize("seeds", [[], [3, 4, 3]])
def test_seeds_must_be_some_and_different(seeds: list[int]) -> None:
    with pytest.raises(ConfigError, match="each once"):
        WorldSource(seeds)


def test_tasks_can_be_chosen(made: WorldSource) -> None:
    few = source(tasks=("OI-E", "GTA"))
    asked = [ask for ask in made.asked(SEED) if ask.task in ("OI-E", "GTA")]
    plain = [replace(item.question, id="") for item in few.asked(SEED)]
    assert plain == [replace(item.question, id="") for item in asked]
    assert {item.task for item in few.asked(SEED)} <= {"OI-E", "GTA"}


def test_all_ten_tasks_are_asked_as_the_files_would(tmp_path: Path) -> None:
    name, worlds = world_name(SEED), WorldSource([SEED], per_task=3, duration_s=40.0)
    made = make_questions(worlds.recording(SEED).world.log, rules="causal", seed=SEED, per_task=3)
    write_qa_files(tmp_path / "qa", [entry_of(item, name, rules="causal", category="MINI") for item in made])
    samples = by_video(Dataset.open(tmp_path).samples())[name]
    asked = worlds.asked(SEED)
    assert worlds.counts == (len(asked),)
    assert {item.task for item in asked} == set(TASKS)
    for item, sample in zip(asked, samples, strict=True):
        expected = asked_of(sample, window_s={"present": 15.0}.get(TASKS[sample.task].group), end_s=40.0)
        assert replace(item.question, id="") == replace(expected.question, id="")
        assert (item.answer, item.task, item.window_s) == (expected.answer, expected.task, expected.window_s)
        assert item.question.options[item.answer] == sample.answer or not TASKS[item.task].proactive


# -- other trackers ----------------------------------------------------------------------------------------------------


def gaze_of(video: TrainingVideo) -> list[GazeEvents]:
    return [step.gaze for step in video.steps]


def test_another_tracker_changes_gaze_and_nothing_else(made: WorldSource, model: GazeQwen) -> None:
    own = made.load(0, model, "inject")
    for tracker in (OtherTracker(error=0.0), OtherTracker(delay_s=0.3), OtherTracker(looks_from_s=0.5)):
        other = source(tracker=tracker).load(0, model, "inject")
        assert [ask.question for ask in other.asks] == [ask.question for ask in own.asks]
        for mine, theirs in zip(features(own), features(other), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        for step, same in zip(own.steps, other.steps, strict=True):
            np.testing.assert_array_equal(step.frame_times_s, same.frame_times_s)
        different = [
            not np.array_equal(a.xy_norm, b.xy_norm, equal_nan=True)
            for a, b in zip(gaze_of(own), gaze_of(other), strict=True)
        ]
        assert any(different), tracker


def test_without_error_gaze_is_nearer_to_the_truth_and_with_a_delay_later() -> None:
    recording = WorldRecording(World.make(SEED, duration_s=20.0))
    own = recording.samples
    exact, late = (OtherTracker(**{name: value}).watch(recording) for name, value in (("error", 0.0), ("delay_s", 0.3)))
    twice = OtherTracker(error=2.0).watch(recording)
    known = own.valid
    off, off_twice = ((samples.xy_norm - exact.samples.xy_norm)[known] for samples in (own, twice.samples))
    np.testing.assert_allclose(off_twice, 2 * off, atol=3e-6)  # six decimals of a file
    assert 0.02 < np.abs(off).mean() < 0.2
    within = own.t_s + 0.3 < recording.end_s  # what comes after the last frame is never asked for
    np.testing.assert_allclose(late.samples.t_s, own.t_s[within] + 0.3)
    np.testing.assert_array_equal(late.samples.xy_norm, own.xy_norm[within])
    assert late.end_s == recording.end_s and late.fixations.start_s[0] >= recording.fixations.start_s[0] + 0.3 - 1e-9


def test_a_sparse_tracker_stores_fixations_of_long_looks_only() -> None:
    world = World.make(SEED, duration_s=60.0)
    sparse = OtherTracker(looks_from_s=2.0).watch(WorldRecording(world))
    assert len(sparse.samples) == 0 and sparse.detector == "file"
    looks = [e for e in world.log.episodes if e.gazed is not None and e.stop_s - e.start_s >= 2.0]
    assert 0 < len(sparse.fixations) < len(world.fixations)
    for start_s, stop_s in zip(sparse.fixations.start_s, sparse.fixations.stop_s, strict=True):
        middle_s = (start_s + stop_s) / 2
        assert any(look.start_s - 0.1 <= middle_s <= look.stop_s + 0.1 for look in looks)


def test_a_tracker_of_impossible_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        OtherTracker(delay_s=-0.1)


def test_exact_features_are_kept_as_they_are_computed(model: GazeQwen, tmp_path: Path) -> None:
    exact = source(exact=True, cache=tmp_path).load(0, model, "inject")
    rounded = source(cache=tmp_path).load(0, model, "inject")
    for mine, half in zip(features(exact), features(rounded), strict=True):
        assert torch.equal(mine.half().float(), half) and not torch.equal(mine, half)
