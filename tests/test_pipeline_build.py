"""`gazeqwen data build` from files to files: determinism, resuming, failures, causality, both sets of rules."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.pipeline import build as pipeline
from benchmarks.streamgaze.pipeline.captioner import CaptionError, Named, Pictures
from benchmarks.streamgaze.pipeline.recording_log import log_recording
from benchmarks.streamgaze.pipeline.recordings import find_recordings
from benchmarks.streamgaze.validate import validate
from gazeqwen.cli import main
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.event_log import EventLog, MadeQuestion
from gazeqwen.question_rules import make_questions, solve
from stream.recording import open_recording
from stream.video import write_clip
from tests.pipeline_recordings import Made, annotations_of, gaze_text, make_recording

build = pipeline.build


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """Three recordings of 12 seconds, in a folder of their own that no test writes to."""
    folder = tmp_path_factory.mktemp("recordings")
    return [make_recording(folder, f"clip{seed}", seed=seed, duration_s=12.0) for seed in range(3)]


@pytest.fixture
def folder(three: list[Made], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(three[0].video.parent, tmp_path / "in"))


@pytest.fixture(scope="module")
def built(three: list[Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    build(three[0].video.parent, out)
    return out


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# -- the result --------------------------------------------------------------------------------------------------------


def test_what_is_built_can_be_run_whole(built: Path, three: list[Made]) -> None:
    dataset = Dataset.open(built)
    found = validate(dataset)
    assert found["ok"] and not found["problems"] and dataset.rules == "causal" and dataset.name == "own-recordings"
    asked = Counter(sample.task for sample in dataset.samples())
    assert {"OI-E", "OTP", "GSM", "OAR", "FAP", "GTA"} <= set(asked)
    for made in three:
        ours, theirs = dataset.recording(made.video.name), open_recording(made.video, made.gaze)
        assert np.allclose(ours.samples.t_s, theirs.samples.t_s, atol=1e-6)
        assert (ours.samples.valid == theirs.samples.valid).all()
        assert np.allclose(ours.samples.xy_norm, theirs.samples.xy_norm, atol=1e-6, equal_nan=True)
        stored = dataset.recording(made.video.name, gaze_input="fixations").fixations
        assert len(stored) == len(theirs.fixations) > 10
        assert (built / "videos" / "original_video" / made.video.name).samefile(made.video)
    assert not any(path.is_symlink() for path in built.rglob("*"))


def test_it_is_mostly_right_about_what_was_looked_at(built: Path, three: list[Made]) -> None:
    """The scene knows; boxes and a noisy tracker must find the same object in most questions."""
    scenes = {made.video.name: made.scene for made in three}
    asked = Dataset.open(built).samples(["OI-E", "OI-H"])
    right = [
        scenes[sample.video].looked_at(sample.t_s) == sample.options["ABCD".index(sample.answer)][3:]
        for sample in asked
    ]
    assert len(right) >= 6 and np.mean(right) >= 0.8


def test_the_same_recordings_elsewhere_give_the_same_bytes(built: Path, folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built)


def test_another_seed_asks_other_questions_of_the_same_logs(built: Path, folder: Path, tmp_path: Path) -> None:
    build(folder, tmp_path / "other", seed=1)
    ours, theirs = contents(tmp_path / "other"), contents(built)
    same = {name for name in theirs if ours[name] == theirs[name]}
    assert {name for name in theirs if name.startswith((".build/clip", "gaze/", "videos/"))} <= same
    assert "qa/past_gaze_sequence_matching.json" not in same


# -- stopping and going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "count"),
    [("log_recording", 2), ("place_video", 1), ("write_atomically", 2), ("write_atomically", 6), ("write_qa_files", 1)],
)
def test_a_build_that_was_stopped_goes_on_to_the_same_bytes(
    built: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, count: int
) -> None:
    out, original, calls = tmp_path / "set", getattr(pipeline, step), Counter[str]()

    def stopped(*arguments: Any, **more: Any) -> Any:
        calls[step] += 1
        if calls[step] == count:
            raise KeyboardInterrupt
        return original(*arguments, **more)

    monkeypatch.setattr(pipeline, step, stopped)
    with pytest.raises(KeyboardInterrupt):
        build(folder, out)
    monkeypatch.setattr(pipeline, step, original)
    finished = {path.stem for path in (out / ".build").glob("clip*.json")}
    again: list[str] = []

    def counted(source: Any, **more: Any) -> Any:
        again.append(source.stem)
        return log_recording(source, **more)

    monkeypatch.setattr(pipeline, "log_recording", counted)
    report = build(folder, out)
    assert set(again) == {"clip0", "clip1", "clip2"} - finished and len(report.reused) == len(finished)
    assert contents(out) == contents(built)
    assert build(folder, out).reused == ("clip0.mp4", "clip1.mp4", "clip2.mp4")
    assert contents(out) == contents(built)


@pytest.mark.soak
def test_a_build_killed_at_random_moments_goes_on_to_the_same_bytes(built: Path, folder: Path, tmp_path: Path) -> None:
    out, rng = tmp_path / "set", np.random.default_rng(0)
    command = [sys.executable, "-m", "gazeqwen", "data", "build", str(folder), "--out", str(out)]
    for wait_s in rng.uniform(2.0, 12.0, 6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
        process.kill()
        process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert contents(out) == contents(built)


def test_what_a_killed_build_left_behind_is_removed(built: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(built, out)
    (out / "gaze" / f".clip0_gaze.csv.{'0' * 32}").write_text("half")
    build(folder, out)
    assert contents(out) == contents(built)


def test_only_a_recording_that_changed_is_made_again(built: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(built, out)
    annotations = folder / "clip1.annotations.json"
    content = json.loads(annotations.read_text())
    annotations.write_text(json.dumps({**content, "actions": []}))
    assert build(folder, out).reused == ("clip0.mp4", "clip2.mp4")
    (out / ".build" / "clip2.json").write_text("{damaged")
    assert build(folder, out).reused == ("clip0.mp4", "clip1.mp4")


# -- what can't be used ------------------------------------------------------------------------------------------------


def test_a_recording_that_cannot_be_read_is_left_out_and_said(
    built: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = folder / "clip0.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (folder / "clip2.annotations.json").write_text("{}")
    (folder / "lone.mp4").write_bytes((folder / "clip1.mp4").read_bytes())
    out = tmp_path / "set"
    code = main(["data", "build", str(folder), "--out", str(out), "--json"])
    printed, said = capsys.readouterr()
    found = json.loads(printed)
    assert code == 1 and set(found["failed"]) == {"clip0.mp4", "clip2.mp4", "lone.mp4"}
    lines = [line for line in said.splitlines() if line.startswith("left out: ")]
    assert len(lines) == 3 and any("lone.mp4: expected one gaze file" in line for line in lines)
    assert list(found["manifest"]["videos"]) == ["clip1.mp4"] and found["validate"]["ok"]
    assert not any(sample.video != "clip1.mp4" for sample in Dataset.open(out).samples())
    shutil.copytree(built.parent / "set", tmp_path / "reference")  # mended, it goes on where it was
    for name in ("clip0.mp4", "clip2.annotations.json"):
        shutil.copy(next(path for path in _originals(built) if path.name == name), folder / name)
    (folder / "lone.mp4").unlink()
    assert build(folder, out).reused == ("clip1.mp4",)
    assert contents(out) == contents(tmp_path / "reference")


def _originals(built: Path) -> list[Path]:
    source = next(path for path in built.parent.parent.glob("recordings*") if path.is_dir())
    return list(source.iterdir())


def test_nothing_usable_is_exit_code_1_and_no_data_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*_gaze.csv"):
        path.unlink()
    assert main(["data", "build", str(folder), "--out", str(tmp_path / "set")]) == 1
    assert "no recording could be used (3 left out)" in capsys.readouterr().out
    assert not (tmp_path / "set" / "qa").exists()


def test_the_table_fits_80_columns(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "build", str(folder), "--out", str(tmp_path / "set"), "--per-video", "2"]) == 0
    printed = capsys.readouterr().out
    assert "3 recordings" in printed and "all of it can be run" in printed
    shown = [line for line in printed.splitlines() if str(tmp_path) not in line]
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--captioner", "no/such/folder"], "no/such/folder: expected a folder with a vision-language model"),
        (["--rules", "streamgaze", "--per-video", "2"], "per_video"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["data", "build", str(folder), "--out", str(tmp_path / "set"), *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_folder_of_something_else_or_of_other_arguments_is_not_written_to(
    built: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected seed 5, found a build made with seed 0"):
        build(folder, built, seed=5)
    with pytest.raises(InputError, match="expected rules streamgaze, found a build made with rules causal"):
        build(folder, built, rules="streamgaze")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="other files"):
        build(folder, other)
    with pytest.raises(InputError, match="another folder than the recordings'"):
        build(folder, folder)
    with pytest.raises(ConfigError, match="per_video"):
        build(folder, tmp_path / "x", rules="streamgaze", per_video=3)


def test_where_links_are_not_possible_the_video_is_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, os.strerror(18))  # EXDEV

    monkeypatch.setattr(os, "link", refuse)
    target = tmp_path / "out" / "clip0.mp4"
    pipeline.place_video(folder / "clip0.mp4", target)
    assert target.read_bytes() == (folder / "clip0.mp4").read_bytes() and not target.samefile(folder / "clip0.mp4")
    assert [path.name for path in target.parent.iterdir()] == ["clip0.mp4"]


# -- which files belong together ---------------------------------------------------------------------------------------


def test_raw_gaze_goes_before_fixations_and_two_are_one_too_many(folder: Path) -> None:
    fixations = "start_time_seconds,end_time_seconds,center_x,center_y\n0.1,2.5,0.5,0.5\n"
    (folder / "clip0_fixation_filtered.csv").write_text(fixations)
    (folder / "clip1_gaze.csv").rename(folder / "clip1_fixation_dataset.csv")
    (folder / "clip2.csv").write_text((folder / "clip2_gaze.csv").read_text())
    first, second, third = find_recordings(folder)[0]
    assert first.gaze_file().name == "clip0_gaze.csv"
    assert second.gaze_file().name == "clip1_fixation_dataset.csv"
    with pytest.raises(InputError, match=r"one gaze file beside it, found clip2\.csv, clip2_gaze\.csv"):
        third.gaze_file()


def test_recordings_json_names_files_and_facts(folder: Path) -> None:
    (folder / "clip0_gaze.csv").rename(folder / "track.csv")
    table = {
        "defaults": {"dataset": "HoloAssist", "min_fixation_s": 0.2},
        "words": ["Rolling_Pin"],
        "recordings": [
            {"video": "clip0.mp4", "gaze": "track.csv", "hfov_deg": 70, "gaze_options": {"gaze_offset_s": 0.5}},
            {"video": "clip1.mp4", "min_fixation_s": 0.1},
        ],
    }
    (folder / "recordings.json").write_text(json.dumps(table))
    (first, second), words = find_recordings(folder)
    assert words == ("rolling pin",) and first.gaze_file() == folder / "track.csv" and first.hfov_deg == 70
    assert (first.dataset, first.min_fixation_s, second.min_fixation_s) == ("HoloAssist", 0.2, 0.1)
    assert first.annotations == folder / "clip0.annotations.json"
    plain = log_recording(replace(first, gaze_options={}, min_fixation_s=None), rules="causal")
    moved = log_recording(first, rules="causal")
    assert moved.recording.samples.t_s[0] == pytest.approx(plain.recording.samples.t_s[0] + 0.5)
    assert moved.counts["left_out_short"] > plain.counts["left_out_short"] == 0
    assert first.digest() != second.digest() != replace(second, hfov_deg=80.0).digest()


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("{", "expected JSON"),
        ([], "defaults, words and recordings"),
        ({"videos": []}, "defaults, words and recordings"),
        ({"words": "jar"}, "'words': a list of texts"),
        ({"recordings": {}}, "'recordings': a list"),
        ({"recordings": [{"gaze": "x"}]}, "'video' in each recording"),
        ({"recordings": [{"video": "a.mp4", "size": 3}]}, "found size"),
        ({"recordings": [{"video": "a.mp4", "hfov_deg": 400}]}, "'hfov_deg'"),
        ({"recordings": [{"video": "a.mp4", "dataset": "x"}]}, "'dataset': one of EGTEA"),
        ({"recordings": [{"video": "a.mp4"}, {"video": "b/a.mov"}]}, "one video of each name"),
        ({"recordings": []}, "found no video"),
    ],
)
def test_a_bad_recordings_json_is_one_line(tmp_path: Path, table: Any, found: str) -> None:
    (tmp_path / "recordings.json").write_text(table if isinstance(table, str) else json.dumps(table))
    with pytest.raises(InputError, match=found) as error:
        find_recordings(tmp_path)
    assert "\n" not in str(error.value)


def test_no_folder_and_an_empty_one_are_said(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none", "nothing at this path"), (tmp_path, "no video")):
        with pytest.raises(InputError, match=found):
            find_recordings(path)


# -- nothing of the future ---------------------------------------------------------------------------------------------


DETECTOR_S = 0.1  # ivt bridges up to 75 ms without gaze: what happened within them is known after them


def altered(made: Made, folder: Path, t_s: float) -> None:
    """The recording's files with all gaze and annotations after `t_s` changed."""
    gaze, scene = made.scene.gaze, made.scene
    rng = np.random.default_rng(round(t_s * 1000))
    later = gaze.t_s > t_s
    xy = np.where(later[:, None], rng.uniform(0, 1, (len(gaze), 2)), gaze.xy_norm)
    (folder / made.gaze.name).write_text(
        gaze_text(gaze.t_s, xy, np.where(later, rng.random(len(gaze)) > 0.3, gaze.valid))
    )
    content = annotations_of(scene)
    for item in content["objects"]:
        rows = item["keyframes"]
        boxes = np.array([row["box_norm"] for row in rows])
        at_t = [float(np.interp(t_s, [row["t_s"] for row in rows], column)) for column in boxes.T]
        known = [row for row in rows if row["t_s"] < t_s]
        moved = [
            {"t_s": row["t_s"], "box_norm": [v + 0.31 for v in row["box_norm"]]}
            for row in rows
            if row["t_s"] > t_s + 0.05
        ]
        item["keyframes"] = [*known, {"t_s": t_s, "box_norm": at_t}, *moved]
    content["actions"] = [
        a if a["start_s"] <= t_s else {**a, "label": f"drop it {a['label']}"} for a in content["actions"]
    ]
    for row in content["attributes"]:
        row["stop_s"] = t_s + 0.01
    (folder / made.annotations.name).write_text(json.dumps(content))


def log_of(folder: Path, name: str) -> EventLog:
    source = next(source for source in find_recordings(folder)[0] if source.video.name == name)
    return log_recording(source, rules="causal").log


def right(question: MadeQuestion, log: EventLog) -> bool:
    """Whether a symbolic reader of the log gives the stated answer, points included."""
    if question.points:
        scores = [solve(log, question, t_s=point.t_s) for point in question.points]
        return all((yes > no) == point.yes for (no, yes), point in zip(scores, question.points, strict=True))
    scores = solve(log, question)
    return scores[question.answer or 0] == max(scores)


def test_an_answer_stays_right_whatever_happens_after_the_question(three: list[Made], folder: Path) -> None:
    made = three[0]
    true = log_of(folder, made.video.name)
    questions = [q for q in make_questions(true, rules="causal", seed=3, per_task=3) if q.task != "FAP"]
    assert len({question.task for question in questions}) >= 6
    for question in questions:
        last_s = max([question.t_s, *(point.t_s for point in question.points)])
        altered(made, folder, last_s + DETECTOR_S)
        assert right(question, true) and right(question, log_of(folder, made.video.name)), question


def test_which_questions_are_asked_by_a_time_depends_on_nothing_after_it(three: list[Made], folder: Path) -> None:
    """Exact, for the tasks without test points and without a label in the future."""
    made, tasks = three[1], ("SR", "OTP", "GSM", "NFI", "OI-E", "OI-H", "OAR")
    true, compared = log_of(folder, made.video.name), 0
    for cut_s in (4.0, 7.0, 10.0):
        altered(made, folder, cut_s)
        changed = log_of(folder, made.video.name)
        assert changed.episodes != true.episodes
        for seed in range(3):
            ours, theirs = (
                [q for q in make_questions(log, rules="causal", seed=seed, tasks=tasks) if q.t_s <= cut_s - 0.2]
                for log in (true, changed)
            )
            assert ours == theirs
            compared += len(ours)
    assert compared >= 30


# -- a captioner -------------------------------------------------------------------------------------------------------


@dataclass
class ByBrightness:
    """A captioner that names what it is shown by how bright it is, and fails on the rest."""

    key: str = "brightness"
    calls: int = 0

    def __call__(self, pictures: Pictures) -> Named:
        self.calls += 1
        assert len(pictures.crops) == len(pictures.masked) >= 1
        assert all((masked == 0).all(axis=-1).any() for masked in pictures.masked)
        if self.calls % 5 == 0:
            raise CaptionError("no JSON in 'hello'")
        level = int(pictures.crops[0].mean() // 12)
        others = ("bowl", "jar", "pan", "cup")
        return Named(f"thing{level}", (others[level % 4],), others[level % 4 + 1 :], {"color": "red"})


def test_without_boxes_a_captioner_names_and_its_failures_are_counted(folder: Path, tmp_path: Path) -> None:
    for path in folder.glob("*.annotations.json"):
        path.unlink()
    out = tmp_path / "set"
    failed: list[str] = []
    assert build(folder, out, failed=failed.append).manifest is None
    assert len(failed) == 3 and "pass --captioner FOLDER" in failed[0]
    shutil.rmtree(out)
    captioner = ByBrightness()
    manifest = build(folder, out, captioner=captioner).manifest
    assert manifest is not None and manifest["captioner"] == "brightness"
    counts = Counter[str]()
    for facts in manifest["videos"].values():
        counts.update(facts["counts"])
        assert facts["objects_from"] == "captioner"
    assert counts["captions_failed"] == captioner.calls // 5 > 0
    assert 0.8 * counts["fixations"] < captioner.calls <= counts["fixations"]  # gaze beyond the frame is not shown
    assert validate(Dataset.open(out))["ok"] and manifest["questions"]["OI-E"] > 0
    assert manifest["questions"]["OAA"] == 0  # nobody knows when a thing was out of the frame
    assert build(folder, out, captioner=captioner).reused == ("clip0.mp4", "clip1.mp4", "clip2.mp4")
    with pytest.raises(InputError, match="captioner None"):
        build(folder, out)


# -- the reference's rules ---------------------------------------------------------------------------------------------

STAY_S, GAP_S = 3.0, 2.5


def make_segments(folder: Path, name: str, *, seed: int, segments: int = 8) -> None:
    """Segments of 5.5 s, each of one colour, with four objects; gaze rests 3 s on one of them, then roams."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    length_s, fps, names = (
        STAY_S + GAP_S,
        10,
        ["mug", "jar", "pan", "cup", "bowl", "fork", "lid", "whisk", "sieve", "tray", "handle"],
    )
    places = [(0.2, 0.25), (0.8, 0.25), (0.2, 0.75), (0.8, 0.75)]
    colours = rng.permutation(np.array([(r, g, b) for r in (40, 220) for g in (40, 220) for b in (40, 220)]))
    t = np.arange(0, segments * length_s, 1 / fps)
    images, xy = [], np.zeros((t.size, 2))
    annotations: dict[str, list[Any]] = {"objects": [], "actions": [], "attributes": []}
    for number in range(segments):
        start = number * length_s
        shown = rng.permutation(names)[:4]
        for item, (x, y) in zip(shown, places, strict=True):
            span = {"object": str(item), "start_s": start, "stop_s": start + length_s}
            annotations["objects"].append({**span, "box_norm": [x - 0.08, y - 0.1, x + 0.08, y + 0.1]})
            values = ["red", "blue", "green", "white"]
            annotations["attributes"].append(
                {**span, "attribute": "color", "value": values[number % 4], "choices": values}
            )
        target = places[rng.integers(4)]
        inside = (t >= start) & (t < start + length_s)
        rest = t[inside] - start < STAY_S
        roaming = rng.uniform(0, 1, (int(inside.sum()), 2))
        roaming[1::2] = 1 - roaming[::2][: len(roaming[1::2])]
        xy[inside] = np.where(rest[:, None], target, roaming)
        picture = np.full((72, 96, 3), colours[number % len(colours)], dtype=np.uint8)
        images += [picture] * int(inside.sum())
        action = {"start_s": start + 0.5, "stop_s": start + 1.0, "object": str(shown[0])}
        if number % 3 == 2:  # the reference's sequences are broken by actions
            annotations["actions"].append({**action, "label": f"wash the {shown[0]}"})
    write_clip(folder / f"{name}.mp4", images, fps=fps, preset="ultrafast")
    (folder / f"{name}.csv").write_text(gaze_text(t, xy, np.ones(t.size, dtype=bool)))
    (folder / f"{name}.annotations.json").write_text(json.dumps(annotations))


def test_the_reference_s_rules_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        make_segments(tmp_path / "in", f"part{seed}", seed=seed)
    (tmp_path / "in" / "recordings.json").write_text(json.dumps({"defaults": {"dataset": "EGTEA"}}))
    out = tmp_path / "set"
    assert main(["data", "build", str(tmp_path / "in"), "--out", str(out), "--rules", "streamgaze"]) == 0
    assert "rules streamgaze" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    asked = {task for task, count in manifest["questions"].items() if count}
    assert {"OTP", "GSM", "NFI", "SR", "OI-E", "OI-H", "OAR", "GTA", "OAA"} <= asked
    dataset = Dataset.open(out)
    samples = dataset.samples()
    assert all(sample.t_s == int(sample.t_s) for sample in samples)
    stored = dataset.recording("part0.mp4", gaze_input="fixations").fixations
    assert len(stored) >= 6 and (stored.duration_s >= 2.0).all()
    assert not any("handle" in option for s in samples if s.task == "OTP" for option in s.options)  # "hand" is in it
    (tmp_path / "in" / "part1.mp4").unlink()  # the words of the other one are gone, its own log is not
    build(tmp_path / "in", tmp_path / "again", rules="streamgaze")
    assert contents(tmp_path / "again")[".build/part0.json"] == contents(out)[".build/part0.json"]


def test_the_least_duration_can_be_the_one_of_the_reference_s_code(tmp_path: Path) -> None:
    make_segments(tmp_path, "part", seed=0, segments=3)
    (source,) = (replace(source, dataset="EGTEA") for source in find_recordings(tmp_path)[0])
    assert len(log_recording(source, rules="streamgaze").fixations) == 3
    strict = log_recording(replace(source, min_fixation_s=3.5), rules="streamgaze")
    assert len(strict.fixations) == 0 and strict.counts["left_out_short"] == 3
