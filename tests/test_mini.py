"""mini-StreamGaze: what is written is what was made, the same each time and after any interruption, and can be run."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.streamgaze import mini
from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.mini import fixation_csv, write_mini
from benchmarks.streamgaze.qa_writer import entry_of, made_question, write_qa_files
from benchmarks.streamgaze.tasks import TASKS, format_time, parse_time_s
from benchmarks.streamgaze.validate import validate
from gazeqwen.cli import main
from gazeqwen.errors import ConfigError, GazeQwenError, InputError
from gazeqwen.event_log import AlertPoint, MadeQuestion
from gazeqwen.question_rules import make_questions
from gazeqwen.tiny.world import World
from gazeqwen.types import Fixations, GazeSamples, plain_json
from stream.trackers import read_gaze
from stream.trackers.plain_csv import gaze_csv
from stream.video import frame_times, probe

SECONDS, VIDEOS, SEED, PER_VIDEO = 6.0, 2, 11, 2


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too, by the hash of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@functools.cache
def world(seed: int, duration_s: float) -> World:
    return World.make(seed, duration_s=duration_s)


def write(folder: Path, **changes: Any) -> dict[str, Any]:
    given = {"videos": VIDEOS, "seed": SEED, "per_video": PER_VIDEO, "duration_s": SECONDS, **changes}
    return write_mini(folder, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini") / "set of two"
    write(folder)
    return folder


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same worlds and questions without pictures: for what has nothing to do with them."""

    class Cheap:
        @staticmethod
        def make(seed: int, *, duration_s: float) -> World:
            return world(seed, duration_s)

    def write_world_video(path: Path, _: World) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode() * 9)
        return path

    monkeypatch.setattr(mini, "World", Cheap)
    monkeypatch.setattr(mini, "write_world_video", write_world_video)


# -- what is written is what was made ----------------------------------------------------------------------------------


def test_samples_read_back_are_the_made_questions(made: Path) -> None:
    dataset = Dataset.open(made)
    assert (dataset.name, dataset.rules, dataset.problems, dataset.notes) == ("mini-streamgaze", "causal", (), ())
    assert dataset.windows == {"past": None, "present": 15.0, "proactive": None}
    assert [dataset.world_seed(video) for video in dataset.videos] == [SEED, SEED + 1]
    expected = [
        (video, question)
        for task in TASKS
        for video in dataset.videos
        for question in make_questions(
            world(dataset.world_seed(video) or 0, SECONDS).log,
            rules="causal",
            seed=dataset.world_seed(video) or 0,
            per_task=PER_VIDEO,
        )
        if question.task == task
    ]
    samples = iter(dataset.samples())
    for video, question in expected:
        for point in question.points or (None,):
            sample = next(samples)
            t_s, asked = (question.t_s, question.t_s) if point is None else (point.t_s, question.t_s)
            assert (sample.video, sample.task, sample.question) == (video, question.task, question.question)
            assert abs(sample.t_s - t_s) < 0.0006 and abs(sample.asked_s - asked) < 0.0006
            assert sample.t_s <= SECONDS
            assert tuple(option[3:] for option in sample.options) == question.options
            assert sample.extra == plain_json(question.facts)
            if point is None:
                assert question.answer is not None and sample.answer == "ABCD"[question.answer]
            else:
                assert sample.answer == ("Yes" if point.yes else "No")
            again = made_question(sample)
            assert (again.options, again.answer, again.facts) == (
                question.options, question.answer, plain_json(question.facts)
            )  # fmt: skip
    assert next(samples, None) is None and len(expected) > 2 * VIDEOS


def test_all_ten_files_exist_and_everything_can_be_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(path.name for path in (made / "qa").iterdir()) == sorted(
        f"{task.key}.json" for task in TASKS.values()
    )
    for path in (made / "qa").iterdir():
        for row in json.loads(path.read_text(encoding="utf-8")):
            (question,) = row["questions"]
            assert question["task_type"] == path.stem and row["response_time"].startswith("[")
            if "options" in question:
                assert [option[:3] for option in question["options"]] == ["A. ", "B. ", "C. ", "D. "]
    assert main(["data", "validate", str(made)]) == 0
    assert "all of it can be run" in capsys.readouterr().out


def test_video_and_gaze_read_back_are_the_worlds(made: Path) -> None:
    dataset = Dataset.open(made)
    video = dataset.videos[0]
    truth = world(SEED, SECONDS)
    path = dataset.video_path(video)
    info = probe(path)
    assert info.codec == "h264" and (info.width_px, info.height_px) == truth.size_px
    assert frame_times(path) == pytest.approx(truth.frame_times_s, abs=1e-4)
    recording = dataset.recording(video)
    assert recording.samples.t_s == pytest.approx(truth.gaze.t_s, abs=1e-6)
    assert (recording.samples.valid == truth.gaze.valid).all() and 0 < recording.samples.valid.mean() < 1
    valid = truth.gaze.valid
    assert recording.samples.xy_norm[valid] == pytest.approx(truth.gaze.xy_norm[valid], abs=1e-6)
    fixations = dataset.recording(video, gaze_input="fixations").fixations
    assert fixations.detector == "file" and len(fixations) == len(truth.fixations) > 3
    assert fixations.start_s == pytest.approx(truth.fixations.start_s, abs=1e-6)
    assert fixations.xy_norm == pytest.approx(truth.fixations.xy_norm, abs=1e-6)
    shown = next(iter(recording.steps(2.0))).frames[0].astype(float)
    assert np.abs(shown - truth.frame(0.0)).mean() < 8  # compressed, but that picture


def test_the_manifest_counts_what_there_is(made: Path) -> None:
    manifest, dataset = json.loads((made / "manifest.json").read_text(encoding="utf-8")), Dataset.open(made)
    for task, counts in dataset.counts().items():
        row = manifest["tasks"][task]
        assert (row["questions"], row["points"]) == (counts["questions"], counts["points"])
        assert row["yes"] == sum(sample.answer == "Yes" for sample in dataset.samples([task]))
        assert 0 <= row["oracle"] <= counts["samples"] and 0 <= row["oracle-no-gaze"] <= counts["samples"]
        if TASKS[task].proactive:
            assert 2 * row["yes"] == row["points"]  # causal points are balanced
    assert sum(row["oracle"] for row in manifest["tasks"].values()) > sum(
        row["oracle-no-gaze"] for row in manifest["tasks"].values()
    )
    for video, facts in manifest["videos"].items():
        assert facts["bytes"] == dataset.video_path(video).stat().st_size
        assert facts["duration_s"] == pytest.approx(probe(dataset.video_path(video)).duration_s, abs=0.05)


def test_whole_seconds_under_streamgaze_rules(tmp_path: Path, cheap: None) -> None:
    write(tmp_path / "set", rules="streamgaze", per_video=None, duration_s=20.0)
    dataset = Dataset.open(tmp_path / "set")
    assert dataset.rules == "streamgaze" and dataset.samples()
    for task in TASKS:
        for row in dataset.entries(task):
            for question in row["questions"]:
                times = [question["time_stamp"], *(point["realtime"] for point in question.get("test_info", ()))]
                assert all("." not in text for text in [*times, row["response_time"]])
    found = json.loads((tmp_path / "set" / "manifest.json").read_text(encoding="utf-8"))
    assert found["made_with"]["per_video"] is None


# -- the same again ----------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_bytes_and_a_finished_set_is_left_alone(made: Path, tmp_path: Path) -> None:
    ticks: list[int] = []
    write(tmp_path / "again", progress=ticks.append)
    assert ticks == [1] * VIDEOS
    assert tree(tmp_path / "again") == tree(made)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert write(made) == json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_a_set_is_the_start_of_a_longer_one(tmp_path: Path, cheap: None) -> None:
    write(tmp_path / "two", videos=2)
    write(tmp_path / "three", videos=3)
    write(tmp_path / "later", videos=1, seed=SEED + 1)
    two, three = Dataset.open(tmp_path / "two"), Dataset.open(tmp_path / "three")
    of_two = {sample.id for sample in two.samples() if sample.video == two.videos[0]}
    assert of_two and of_two <= {sample.id for sample in three.samples()}
    files = tree(tmp_path / "three")
    for name, digest in tree(tmp_path / "two").items():
        if not name.startswith(("qa/", "manifest")):
            assert files[name] == digest
    for name, digest in tree(tmp_path / "later").items():
        if not name.startswith(("qa/", "manifest")):
            assert files[name] == digest


class Stop(Exception):
    pass


def test_stopped_at_any_write_it_goes_on_to_the_same_set(
    tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "whole", duration_s=5.0)
    whole = tree(tmp_path / "whole")
    calls, stop_at = 0, 0
    functions = {
        "write_atomically": mini.write_atomically,
        "write_world_video": mini.write_world_video,
        "rmtree": mini.shutil.rmtree,
    }

    def stopping(name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Stop
            return functions[name](*arguments, **named)

        return call

    monkeypatch.setattr(mini, "write_atomically", stopping("write_atomically"))
    monkeypatch.setattr("benchmarks.streamgaze.qa_writer.write_atomically", stopping("write_atomically"))
    monkeypatch.setattr(mini, "write_world_video", stopping("write_world_video"))
    monkeypatch.setattr(mini.shutil, "rmtree", stopping("rmtree"))
    folder, stops = tmp_path / "stopped", 0
    while True:  # each attempt gets one write further than the one before it did
        calls, stop_at = 0, stops + 1
        try:
            write(folder, duration_s=5.0)
        except Stop:
            stops += 1
            if not (folder / "qa").is_dir():
                with pytest.raises(GazeQwenError):
                    Dataset.open(folder)  # a part is never taken for the whole
            continue
        break
    assert stops > 5
    assert tree(folder) == whole


def test_what_a_killed_encoder_left_is_removed(tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole")

    def killed(path: Path, images: Any, **_: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / f".{path.stem}-0123abcd.partial.mp4").write_bytes(b"half a video")
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(mini, "write_world_video", killed)
        with pytest.raises(Stop):
            write(tmp_path / "killed")
    assert any(tmp_path.rglob(".*.partial.mp4"))
    write(tmp_path / "killed")
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


@pytest.mark.soak
def test_a_killed_encoder_leaves_nothing_behind(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    code = (
        "from benchmarks.streamgaze.mini import write_mini; "
        f"write_mini({str(folder)!r}, videos={VIDEOS}, seed={SEED}, per_video={PER_VIDEO}, duration_s={SECONDS})"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment)
    deadline = time.monotonic() + 60
    while not any(folder.rglob(".*.partial.mp4")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert any(folder.rglob(".*.partial.mp4"))  # it was in the middle of one
    write(folder)
    assert tree(folder) == tree(made)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_other_arguments_in_the_same_folder_are_refused(tmp_path: Path, cheap: None) -> None:
    folder = tmp_path / "set"
    write(folder)
    before = tree(folder)
    for changes in ({"seed": 12}, {"videos": 3}, {"per_video": 3}, {"rules": "streamgaze", "per_video": None}):
        with pytest.raises(InputError, match="made with") as caught:
            write(folder, **changes)
        assert "\n" not in str(caught.value)
    assert tree(folder) == before
    (folder / ".mini").mkdir()
    (folder / "manifest.json").unlink()
    (folder / ".mini" / "settings.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="made with"):
        write(folder)


def test_folders_with_other_things_are_left_alone(tmp_path: Path, cheap: None) -> None:
    (tmp_path / "holiday.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="other files"):
        write(tmp_path)
    with pytest.raises(InputError, match="a file"):
        write(tmp_path / "holiday.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_finished_set_with_a_damaged_video_says_so(tmp_path: Path, cheap: None) -> None:
    write(tmp_path / "set")
    video = next((tmp_path / "set" / "videos").rglob("*.mp4"))
    video.write_bytes(b"short")
    with pytest.raises(InputError, match=video.name):
        write(tmp_path / "set")
    video.unlink()
    with pytest.raises(InputError, match="no such file"):
        write(tmp_path / "set")


def test_impossible_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for changes in ({"videos": 0}, {"rules": "streamgaze"}, {"seed": -1}):
        with pytest.raises(ConfigError):
            write(tmp_path / "set", **changes)
    assert not (tmp_path / "set" / "qa").exists()


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_prints_80_columns_or_one_json_object(
    tmp_path: Path, cheap: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mini.World, "make", staticmethod(lambda seed, *, duration_s: world(seed, SECONDS)))
    assert main(["data", "mini", "set", "--videos", "2", "--seed", "11", "--per-video", "2"]) == 0
    out, err = capsys.readouterr()
    assert all(len(line) <= 80 for line in out.splitlines()) and err == ""
    assert out.splitlines()[0] == "set" and all(f"\n{task:<6}" in out for task in TASKS)
    assert main(["data", "mini", "set", "--videos", "2", "--seed", "11", "--per-video", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made_with"]["seed"] == 11
    assert Dataset.open("set").manifest.raw["made_with"]["duration_s"] is None


@pytest.mark.parametrize("seed", [1_000_000, 999_999, 30_000_000])
def test_seeds_of_training_and_test_worlds_are_not_the_users(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "mini", str(tmp_path / "set"), "--videos", "2", "--seed", str(seed)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "1,000,000" in err and not (tmp_path / "set").exists()


def test_the_library_makes_the_other_blocks_too(tmp_path: Path, cheap: None) -> None:
    write(tmp_path / "set", seed=30_000_000, videos=1)
    assert Dataset.open(tmp_path / "set").world_seed("mini-30000000.mp4") == 30_000_000


# -- the forms ---------------------------------------------------------------------------------------------------------


def test_tables_are_read_back_as_written() -> None:
    gaze = GazeSamples.build([0.0, 0.01, 0.02], [[0.1, 0.2], [np.nan, np.nan], [1.2, -0.1]], valid=[True, False, True])
    fixations = Fixations.build([0.0, 1.5], [0.4, 2.25], [[0.5, 0.25], [0.1, 0.9]])
    assert gaze_csv(gaze) == (
        "t_s,x_norm,y_norm,valid\n0.000000,0.100000,0.200000,1\n0.010000,,,0\n0.020000,1.200000,-0.100000,1\n"
    )
    assert fixation_csv(fixations).splitlines()[2] == (
        "1.500000,2.250000,0.100000,0.900000,0.750000,1.500000,2.250000,1,0.750000"
    )


def test_fixation_tables_are_recognised_as_streamgazes_own(tmp_path: Path) -> None:
    path = tmp_path / "x_fixation_filtered.csv"
    path.write_text(fixation_csv(Fixations.build([0.0], [0.4], [[0.5, 0.25]])), encoding="utf-8")
    found = read_gaze(path)
    assert found.format == "streamgaze" and found.fixations is not None
    assert found.fixations.stop_s == pytest.approx([0.4]) and found.fixations.counts["rows_unreadable"] == 0


def test_questions_that_do_not_fit_the_form_are_refused() -> None:
    fine = MadeQuestion("SR", "What?", 3.0, ("a", "b", "c", "d"), 1)
    assert entry_of(fine, "v.mp4", rules="causal", category="X")["questions"][0]["answer"] == "B"
    for broken in (
        MadeQuestion("SR", "What?", 3.0, ("a", "b"), None),
        MadeQuestion("SR", "What?", 3.0, ("a", "b"), 2),
        MadeQuestion("GTA", "When?", 3.0),
        MadeQuestion("SR", "What?", 3.0, ("a", "b"), 0, facts={"answer": "a"}),
    ):
        with pytest.raises(ConfigError):
            entry_of(broken, "v.mp4", rules="causal", category="X")


def test_a_written_alert_is_read_back(tmp_path: Path) -> None:
    alert = MadeQuestion(
        "OAA", "Watch.", 1.25, evidence_s=(1.25, 9.0), points=(AlertPoint(2.5, False), AlertPoint(4.125, True))
    )
    files = write_qa_files(tmp_path / "qa", [entry_of(alert, "v.mp4", rules="causal", category="X")])
    assert len(files) == 10
    samples = Dataset.open(tmp_path).samples()
    assert [(s.t_s, s.answer, s.asked_s) for s in samples] == [(2.5, "No", 1.25), (4.125, "Yes", 1.25)]
    assert made_question(samples[1]).points == (AlertPoint(4.125, True),)
    assert parse_time_s(format_time(4.125)) == 4.125
    assert validate(Dataset.open(tmp_path))["tasks"]["OAA"]["cannot_run"] == 2
