"""A StreamGaze folder, read: both QA forms, every place of videos and gaze, every kind of problem, `data validate`."""

from __future__ import annotations

import copy
import csv
import json
import math
import shutil
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze import validate as validation
from benchmarks.streamgaze.dataset import Dataset, read_episodes
from benchmarks.streamgaze.layout import stem_of, video_name
from benchmarks.streamgaze.qa_files import answer_letter, read_qa_files, task_of_file
from benchmarks.streamgaze.tasks import TASKS, Sample, format_time, parse_time_s
from gazeqwen.cli import main
from gazeqwen.errors import ConfigError, GazeQwenError, InputError
from stream.video import write_clip
from tests.conftest import shared_dir

HEADER = "fixation_id,center_x,center_y,start_time_seconds,end_time_seconds,duration\n"
FIXATIONS = HEADER + "0,0.5,0.4,0.0,1.5,1.5\n"
LATE = HEADER + "0,0.5,0.4,0.5,1.5,1.0\n"
DAMAGED = HEADER + "0,?,?,?,?,?\n"
SAMPLES = "t_s,x_norm,y_norm\n" + "".join(f"{k / 10:.1f},0.5,0.5\n" for k in range(20))
KEY = TASKS["OI-E"].key


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds, 10 frames a second."""
    images = [np.full((16, 16, 3), 10 * k, dtype=np.uint8) for k in range(20)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", images, fps=10.0, preset="ultrafast")


def choice(**changes: Any) -> dict[str, Any]:
    made = {
        "question": "Which object is the user currently gazing at?",
        "time_stamp": "00:01",
        "answer": "C",
        "options": ["A. box", "B. spices", "C. knife", "D. jar"],
        "task_type": KEY,
        **changes,
    }
    return {key: value for key, value in made.items() if value is not ...}


def alert(**changes: Any) -> dict[str, Any]:
    made = {
        "question": "Monitor my gaze and alert me when I gaze on the <plate>.",
        "time_stamp": "00:00",
        "first_appearance": "00:01",
        "target_object": "plate",
        "test_info": [{"realtime": "00:00", "type": 0, "input_video_clip": [0, 9]}, {"realtime": "00:01", "type": 1}],
        **changes,
    }
    return {key: value for key, value in made.items() if value is not ...}


def entry(*questions: Any, video: str = "P01.mp4", **changes: Any) -> dict[str, Any]:
    made = {"video_path": video, "response_time": "[09:00 - 10:00]", "questions": list(questions), **changes}
    return {key: value for key, value in made.items() if value is not ...}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    return path


def put(source: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)
    return path


def folder_of(
    root: Path, *entries: Any, key: str = KEY, clip: Path | None = None, gaze: str | None = FIXATIONS
) -> Path:
    """One QA file, with P01.mp4 and its fixations where `clip` is given."""
    write(root / "qa" / f"{key}.json", list(entries))
    if clip is not None:
        put(clip, root / "videos" / "original_video" / "P01.mp4")
    if gaze is not None:
        write(root / "P01_fixation_filtered.csv", gaze)
    return root


def only(dataset: Dataset) -> Sample:
    (sample,) = dataset.samples()
    return sample


def reasons(folder: Path) -> list[str]:
    found = validation.validate(Dataset.open(folder))
    return [problem["reason"] for problem in found["problems"]]


# -- the release's form ------------------------------------------------------------------------------------------------


def test_the_real_demo_file_is_one_sample_of_a_video_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_dir("fixtures", "streamgaze_gazeqwen_demo")
    dataset = Dataset.open(folder)
    sample = only(dataset)
    assert (sample.task, sample.video, sample.t_s, sample.answer) == ("OI-E", "OP03-R01-PastaSalad.mp4", 276.0, "C")
    assert sample.options == ("A. box", "B. spices", "C. knife", "D. jar")
    assert sample.question == "Which object is the user currently gazing at?"
    problem = dataset.problem_of(sample)
    assert problem is not None and problem.reason == "missing video" and problem.video == sample.video
    assert dataset.unusable == () and dataset.windows == {"past": None, "present": 60.0, "proactive": None}
    with pytest.raises(InputError, match="OP03-R01-PastaSalad"):
        dataset.recording(sample.video)
    gaze = dataset.gaze_path(sample.video)
    assert gaze is not None and gaze.name == "OP03-R01-PastaSalad_fixation_filtered.csv"

    assert main(["data", "validate", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "missing video: 1" in out and "sample_qa.json, entry 0, question 0 (OP03-R01-PastaSalad.mp4)" in out
    assert main(["data", "validate", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"]["OI-E"] == {
        "questions": 1, "points": 0, "samples": 1, "videos": 1, "with_gaze": 1, "cannot_run": 1,
    }  # fmt: skip


def test_samples_come_by_task_in_registry_order_and_by_file_within(tmp_path: Path) -> None:
    for number, task in enumerate(reversed(TASKS.values())):
        question = alert() if task.proactive else choice(task_type=task.key)
        rows = [entry(question, video=f"v{number}-{k}.mp4") for k in (1, 0)]
        write(tmp_path / "qa" / f"{task.key}.json", rows)
    dataset = Dataset.open(tmp_path)
    samples = dataset.samples()
    assert list(dict.fromkeys(sample.task for sample in samples)) == list(TASKS)
    assert [(s.video, s.entry, s.index, s.point) for s in dataset.samples(["SR"])] == [
        ("v9-1.mp4", 0, 0, None),
        ("v9-0.mp4", 1, 0, None),
    ]
    assert [s.point for s in dataset.samples(["gta"])] == [0, 1, 0, 1]
    assert len({s.id for s in samples}) == len(samples) == 8 * 2 + 2 * 2 * 2
    assert dataset.samples(["OAA", "SR"]) == dataset.samples(["SR"]) + dataset.samples(["OAA"])
    with pytest.raises(ConfigError, match="unknown task"):
        dataset.samples(["nonsense"])


def test_points_keep_their_times_answers_and_unknown_keys(tmp_path: Path) -> None:
    key = TASKS["GTA"].key
    dataset = Dataset.open(folder_of(tmp_path, entry(alert(time_stamp="00:00.5")), key=key))
    no, yes = dataset.samples()
    assert [(s.t_s, s.answer, s.point, s.asked_s, s.options) for s in (no, yes)] == [
        (0.0, "No", 0, 0.5, ()),
        (1.0, "Yes", 1, 0.5, ()),
    ]
    assert no.extra == {"first_appearance": "00:01", "target_object": "plate", "input_video_clip": [0, 9]}
    assert yes.extra == {"first_appearance": "00:01", "target_object": "plate"}
    assert math.isnan(Dataset.open(folder_of(tmp_path, entry(alert(time_stamp=...)), key=key)).samples()[0].asked_s)


def test_entries_are_the_raw_json_and_the_callers_own(tmp_path: Path) -> None:
    rows = [entry(choice(object="knife"), choice(time_stamp="bad"), video="a.mp4", mark={"x": [1]}), entry(choice())]
    dataset = Dataset.open(folder_of(tmp_path, *rows))
    assert dataset.entries("OI-E") == rows and dataset.entries("SR") == []
    dataset.entries("OI-E")[0]["questions"].clear()
    assert dataset.entries("OI-E") == rows
    assert [(s.entry, s.index, dict(s.extra)) for s in dataset.samples()] == [(0, 0, {"object": "knife"}), (1, 0, {})]
    for sample in dataset.samples():
        raw = dataset.entries(sample.task)[sample.entry]["questions"][sample.index]
        assert raw["question"] == sample.question


def test_an_evidence_span_is_never_the_window(tmp_path: Path) -> None:
    with_span = Dataset.open(folder_of(tmp_path / "a", entry(choice())))
    without = Dataset.open(folder_of(tmp_path / "b", entry(choice(), response_time=...)))
    assert with_span.samples() == without.samples()


# -- the raw generators' form and its variants -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "task"),
    [
        ("egtea_past_next_after_group_tasks", {"task_type": "Scanpath_Next_After_Group"}, "OTP"),
        ("egtea_past_never_gazed_tasks", {"task_type": "Scanpath_Never_Gazed"}, "NFI"),
        ("past_transition_pattern_tasks", {"task_type": "Scanpath_Transition_Pattern"}, "GSM"),
        ("whatever", {"task_type": "Scene_Reconstruction"}, "SR"),
        ("whatever", {"task_type": "Object_Attribute"}, "OAR"),
        ("whatever", {"task_type": "Future_Action_Prediction"}, "FAP"),
        ("egtea_present_ident_tasks", {"task_type": "Object_Identification"}, "OI-E"),
        ("egtea_present_ident_tasks_hard", {"task_type": "Object_Identification"}, "OI-H"),
        ("my_hard_ones", {"task_type": "Object_Identification"}, "OI-H"),
        ("my_easy_ones", {"task_type": "Object_Identification"}, "OI-E"),
        ("whatever", {"task_type": "Object_Identification", "difficulty": "Hard"}, "OI-H"),
        ("egtea_present_ident_tasks", {"task_type": "Object_Identification", "difficulty": "hard"}, "OI-H"),
        ("egtea_present_attr_tasks", {"task_type": ...}, "OAR"),
        ("past_scene_recall", {"task_type": ...}, "SR"),
        ("egtea_past_scene_recall", {"task_type": ...}, "SR"),
        ("whatever", {"task_type": "present_object_identification_hard"}, "OI-H"),
        ("whatever", {"task_type": "scene_recall"}, "SR"),
        ("whatever", {"task_type": "FAP"}, "FAP"),
        # the official evaluation goes by the file alone
        ("past_gaze_sequence_matching", {"task_type": "Scanpath_Next_After_Group"}, "GSM"),
    ],
)
def test_the_task_is_found(tmp_path: Path, file: str, changes: dict[str, Any], task: str) -> None:
    write(tmp_path / "qa" / f"{file}.json", [entry(choice(**changes))])
    dataset = Dataset.open(tmp_path)
    assert only(dataset).task == task
    assert len(dataset.entries(task)) == 1
    assert bool(dataset.notes) == (file == "past_gaze_sequence_matching")


def test_identification_of_unknown_difficulty_is_a_problem_not_a_guess(tmp_path: Path) -> None:
    write(tmp_path / "qa" / "whatever.json", [entry(choice(task_type="Object_Identification"))])
    dataset = Dataset.open(tmp_path)
    assert dataset.samples() == ()
    assert [problem.reason for problem in dataset.unusable] == ["unknown task"]


def test_raw_entries_name_the_video_otherwise(tmp_path: Path) -> None:
    raw = [
        {"video": "/data/egtea/P01.avi", "questions": [choice(time_stamp="1:02:03")]},
        entry(choice(), video_path="C:\\data\\P02.mp4"),
        entry(choice(), video_path="/holo/R007-1/Export_py/Video_pitchshift.mp4"),
        entry(choice(), video_path="/holo/R008-2/Export_py/Video_pitchshift.mp4"),
    ]
    dataset = Dataset.open(folder_of(tmp_path, *raw))
    assert [s.video for s in dataset.samples()] == ["P01.avi", "P02.mp4", "R007-1.mp4", "R008-2.mp4"]
    assert dataset.samples()[0].t_s == 3723.0


def test_several_raw_files_of_a_task_are_one_list_whose_ids_stay(tmp_path: Path) -> None:
    question = choice(task_type="Object_Attribute")
    names = ("egoexo_present_attr_tasks", "holoassist_present_attr_tasks")
    for name in names:
        write(tmp_path / "qa" / f"{name}.json", [entry(question, video=f"{name[:4]}.mp4")])
    both = Dataset.open(tmp_path)
    assert [(s.video, s.entry) for s in both.samples()] == [("egoe.mp4", 0), ("holo.mp4", 1)]
    assert [e["video_path"] for e in both.entries("OAR")] == ["egoe.mp4", "holo.mp4"]
    (tmp_path / "qa" / f"{names[0]}.json").unlink()
    assert only(Dataset.open(tmp_path)).id == both.samples()[1].id


def test_a_file_that_mixes_tasks_is_parted_by_task(tmp_path: Path) -> None:
    easy = choice(task_type="present_object_identification_easy")
    recall = choice(task_type="past_scene_recall", answer="A")
    write(tmp_path / "mixed.json", [entry(easy, recall, easy | {"time_stamp": "00:02"}), entry(recall)])
    dataset = Dataset.open(tmp_path)
    assert [(s.task, s.entry, s.index) for s in dataset.samples()] == [
        ("SR", 0, 0),
        ("SR", 1, 0),
        ("OI-E", 0, 0),
        ("OI-E", 0, 1),
    ]
    assert [len(e["questions"]) for e in dataset.entries("OI-E")] == [2]
    assert [e["questions"] for e in dataset.entries("SR")] == [[recall], [recall]]


@pytest.mark.parametrize("count", [2, 3, 5, 26])
def test_other_numbers_of_options_are_samples_with_a_note(tmp_path: Path, clip: Path, count: int) -> None:
    options = [f"object {k}" for k in range(count)]
    folder = folder_of(tmp_path, entry(choice(options=options, answer=chr(64 + count))), clip=clip)
    sample = only(Dataset.open(folder))
    assert sample.options[-1] == f"{chr(64 + count)}. object {count - 1}" and sample.answer == chr(64 + count)
    found = validation.validate(Dataset.open(folder))
    assert found["ok"] and any("other than 4 options" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("C", "C"), (" c ", "C"), ("(C)", "C"), ("C.", "C"), ("C. knife", "C"), ("knife", "C"), ("KNIFE ", "C")],
)
@pytest.mark.parametrize("lettered", [True, False])
def test_answers_are_letters_or_texts(tmp_path: Path, answer: str, letter: str, lettered: bool) -> None:
    options = choice()["options"] if lettered else ["box", "spices", "knife", "jar"]
    dataset = Dataset.open(folder_of(tmp_path, entry(choice(answer=answer, options=options))))
    assert only(dataset).answer == letter
    assert only(dataset).options == ("A. box", "B. spices", "C. knife", "D. jar")


@pytest.mark.parametrize("answer", ["E", "spoon", "D. knife", "", None, 2, ["C"], "AB"])
def test_answers_that_name_no_option_are_no_samples(tmp_path: Path, answer: object) -> None:
    dataset = Dataset.open(folder_of(tmp_path, entry(choice(answer=answer))))
    assert dataset.samples() == () and [p.reason for p in dataset.unusable] == ["answer is no option"]


def test_an_answer_text_that_two_options_share_is_no_answer() -> None:
    with pytest.raises(ValueError, match="several"):
        answer_letter("knife", ["A. knife", "B. knife"])
    assert answer_letter("B", ["A. B", "B. A"]) == "B"  # a letter is a letter, as for the official scorer


# -- every kind of problem, by its own broken entry --------------------------------------------------------------------

BROKEN: list[tuple[str, Any]] = [
    ("entry is no object", "text"),
    ("entry without questions", entry(questions=[])),
    ("entry without questions", entry(questions=...)),
    ("question is no object", entry("text")),
    ("no video named", entry(choice(), video_path=...)),
    ("no video named", entry(choice(), video_path=7)),
    ("bad timestamp", entry(choice(time_stamp="4:72"))),
    ("bad timestamp", entry(choice(time_stamp=...))),
    ("bad timestamp", entry(choice(time_stamp="-1"))),
    ("bad timestamp", entry(choice(time_stamp="01:02:03:04"))),
    ("bad timestamp", entry(choice(time_stamp=float("inf")))),
    ("option count", entry(choice(options=["A. box"]))),
    ("option count", entry(choice(options=...))),
    ("option count", entry(choice(options=[str(k) for k in range(27)]))),
    ("option is no text", entry(choice(options=["A. box", None, "C. x", "D. y"]))),
    ("option letters out of order", entry(choice(options=["A. box", "C. x", "B. y", "D. z"]))),
    ("answer is no option", entry(choice(answer="spoon"))),
]
BROKEN_ALERTS: list[tuple[str, Any]] = [
    ("no test points", entry(alert(test_info=...))),
    ("no test points", entry(alert(test_info=[]))),
    ("test point is no object", entry(alert(test_info=[3]))),
    ("type is not 0 or 1", entry(alert(test_info=[{"realtime": "00:01", "type": None}]))),
    ("type is not 0 or 1", entry(alert(test_info=[{"realtime": "00:01", "type": "1"}]))),
    ("type is not 0 or 1", entry(alert(test_info=[{"realtime": "00:01", "type": 2}]))),
    ("bad timestamp", entry(alert(test_info=[{"realtime": "soon", "type": 1}]))),
]


@pytest.mark.parametrize(
    ("reason", "broken", "key"),
    [(*case, KEY) for case in BROKEN] + [(*case, TASKS["GTA"].key) for case in BROKEN_ALERTS],
)
def test_what_cannot_be_scored_is_a_problem_with_its_place_and_is_counted(
    tmp_path: Path, clip: Path, reason: str, broken: Any, key: str
) -> None:
    good = entry(alert() if key != KEY else choice())
    folder = folder_of(tmp_path, good, broken, good, key=key, clip=clip)
    dataset = Dataset.open(folder)
    assert {s.video for s in dataset.samples()} == {"P01.mp4"} and len(dataset.samples()) == (2 if key == KEY else 4)
    (problem,) = dataset.unusable
    assert dataset.problems == (problem,)
    assert (problem.reason, problem.file, problem.entry, problem.sample) == (reason, f"qa/{key}.json", 1, "")
    assert problem.place.startswith(f"qa/{key}.json, entry 1") and problem.task == task_of_file(f"{key}.json").name  # type: ignore[union-attr]
    assert problem.found and "\n" not in problem.found
    # The rows of the samples still fit the raw entries.
    for sample in dataset.samples():
        assert dataset.entries(sample.task)[sample.entry]["questions"][sample.index]["question"] == sample.question
    found = validation.validate(dataset)
    assert (found["ok"], found["unusable"], len(found["problems"])) == (False, 1, 1)


def test_one_bad_point_costs_only_itself(tmp_path: Path) -> None:
    points = [{"realtime": "00:01", "type": 1}, {"realtime": "x", "type": 1}, {"realtime": "00:02", "type": 0}]
    dataset = Dataset.open(folder_of(tmp_path, entry(alert(test_info=points)), key=TASKS["OAA"].key))
    assert [(s.point, s.answer) for s in dataset.samples()] == [(0, "Yes"), (2, "No")]
    assert [p.point for p in dataset.unusable] == [1]


def test_a_question_without_text_stays_in_the_denominator(tmp_path: Path, clip: Path) -> None:
    for text in ("", " ", None, 4):
        dataset = Dataset.open(folder_of(tmp_path, entry(choice(question=text)), clip=clip))
        problem = dataset.problem_of(only(dataset))
        assert problem is not None and problem.reason == "no question text" and dataset.unusable == ()


def test_a_missing_video_costs_none_of_its_samples(tmp_path: Path, clip: Path) -> None:
    rows = [entry(choice()), entry(choice(), choice(time_stamp="00:02"), video="gone.mp4")]
    dataset = Dataset.open(folder_of(tmp_path, *rows, clip=clip))
    assert len(dataset.samples()) == 3 and dataset.unusable == ()
    assert [dataset.problem_of(s) is None for s in dataset.samples()] == [True, False, False]
    assert [(p.reason, p.entry, p.question) for p in dataset.problems] == [
        ("missing video", 1, 0),
        ("missing video", 1, 1),
    ]


@pytest.mark.parametrize("text", ["{", "[", "", "\x00", '{"a": 1}', "null", "[1, 2"])
def test_a_file_that_is_named_by_a_task_must_be_one(tmp_path: Path, text: str) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    write(folder / "qa" / "past_scene_recall.json", text)
    dataset = Dataset.open(folder)
    (problem,) = dataset.unusable
    assert problem.file == "qa/past_scene_recall.json" and problem.task == "SR" and len(dataset.samples()) == 1


def test_other_json_beside_is_named_not_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    write(folder / "qa" / "task_summary.json", {"total": 3})
    dataset = Dataset.open(folder)
    assert dataset.notes == ("qa/task_summary.json holds no questions",) and dataset.unusable == ()


@pytest.mark.parametrize(
    ("reason", "task", "question", "gaze"),
    [
        ("time after the video's end", "OI-E", choice(time_stamp="00:03"), FIXATIONS),
        ("no gaze", "OI-E", choice(), None),
        ("no gaze in what the question may see", "OI-E", choice(time_stamp="0.4"), LATE),
        ("no gaze in what the question may see", "OI-E", choice(), DAMAGED),
        ("unreadable gaze", "OI-E", choice(), ""),
        ("unreadable gaze", "OAA", alert(), ""),
        ("", "OAA", alert(), None),
        ("", "OAA", alert(), LATE),
        ("", "OI-E", choice(time_stamp="00:02"), FIXATIONS),
        ("", "OI-E", choice(time_stamp="0:00.75"), LATE),
    ],
)
def test_validate_opens_videos_and_gaze(
    tmp_path: Path, clip: Path, reason: str, task: str, question: dict[str, Any], gaze: str | None
) -> None:
    folder = folder_of(tmp_path, entry(question), key=TASKS[task].key, clip=clip, gaze=gaze)
    assert set(reasons(folder)) == ({reason} if reason else set())


def test_validate_names_a_video_that_cannot_be_read(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()), entry(choice(time_stamp="00:02")))
    write(folder / "videos" / "P01.mp4", "no video at all")
    assert reasons(folder) == ["unreadable video", "unreadable video"]
    assert Dataset.open(folder).problems == ()  # nothing is opened before


def test_a_window_of_the_manifest_decides_what_gaze_counts(tmp_path: Path, clip: Path) -> None:
    gaze = "t_s,x_norm,y_norm\n0.1,0.5,0.5\n0.2,0.5,0.5\n"
    folder = folder_of(tmp_path, entry(choice(time_stamp="00:02")), clip=clip, gaze=None)
    write(folder / "gaze" / "P01.csv", gaze)
    assert reasons(folder) == []
    write(folder / "manifest.json", {"gazeqwen_data": 1, "windows": {"present": 1.0}})
    assert reasons(folder) == ["no gaze in what the question may see"]


def test_validate_prints_in_80_columns_and_groups_long_lists(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [entry(choice(), video=f"gone {k}.mp4") for k in range(7)] + [entry(choice(answer="E"))]
    folder = folder_of(tmp_path, entry(choice()), *rows, clip=clip)
    assert main(["data", "validate", str(folder)]) == 1
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    assert "missing video: 7" in out and "gone 2.mp4" in out and "gone 3.mp4" not in out and "and 4 more" in out
    assert "answer is no option: 1" in out and "8 problems: 7 of samples" in out
    assert main(["data", "validate", str(folder), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert len(found["problems"]) == 8 and found["unusable"] == 1
    clean = folder_of(tmp_path / "clean", entry(choice()), clip=clip)
    assert main(["data", "validate", str(clean)]) == 0
    assert "all of it can be run" in capsys.readouterr().out


def test_a_folder_without_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "none", tmp_path):
        assert main(["data", "validate", str(folder)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    file = write(tmp_path / "x.json", {"a": 1})
    with pytest.raises(InputError, match="none with questions among 1"):
        Dataset.open(tmp_path)
    with pytest.raises(InputError, match="a file"):
        Dataset.open(file)


def test_the_same_question_in_two_files_is_refused(tmp_path: Path) -> None:
    row = entry(choice(task_type="Object_Attribute"))
    write(tmp_path / "qa" / "present_object_attribute_recognition.json", [row])
    write(tmp_path / "qa" / "egtea_present_attr_tasks.json", [row])
    with pytest.raises(InputError, match="each question in one QA file"):
        Dataset.open(tmp_path)


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["qa", "dataset/qa", "dataset", "."])
def test_qa_files_are_found_where_people_have_them(tmp_path: Path, place: str) -> None:
    write(tmp_path / place / f"{KEY}.json", [entry(choice())])
    assert only(Dataset.open(tmp_path)).task == "OI-E"


@pytest.mark.parametrize(
    "place",
    [
        "videos/original_video/P01.mp4",
        "videos/P01.mp4",
        "dataset/videos/original_video/P01.mp4",
        "videos/videos_egtea_original/P01.mp4",
        "videos/videos_egoexolearn_original/part 1/deep/P01.mp4",
        "dataset/videos/videos_holoassist_original/P01/Export_py/Video_pitchshift.mp4",
        "videos/original_video/P01.mov",
        "videos/P01.avi",
        "P01.MP4",
    ],
)
def test_videos_are_found_flat_split_and_in_other_containers(tmp_path: Path, clip: Path, place: str) -> None:
    folder = folder_of(tmp_path, entry(choice()), gaze=None)
    path = put(clip, folder / place)
    dataset = Dataset.open(folder)
    assert dataset.problems == () and dataset.video_path("P01.mp4") == path
    assert dataset.recording("P01.mp4").end_s == pytest.approx(2.0)


def test_a_video_with_gaze_drawn_on_it_is_never_the_original(tmp_path: Path, clip: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    put(clip, folder / "videos" / "gaze_viz_video" / "P01.mp4")
    put(clip, folder / "videos" / "videos_egtea_viz" / "P01.mp4")
    dataset = Dataset.open(folder)
    assert [p.reason for p in dataset.problems] == ["missing video"] and "gaze drawn" in dataset.problems[0].found
    original = put(clip, folder / "videos" / "videos_egtea_original" / "P01.mp4")
    assert Dataset.open(folder).video_path("P01.mp4") == original


def test_a_flat_copy_goes_first_and_different_equals_are_refused(tmp_path: Path, clip: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    first = put(clip, folder / "videos" / "videos_a_original" / "P01.mp4")
    put(clip, folder / "videos" / "videos_b_original" / "P01.mp4")
    assert Dataset.open(folder).video_path("P01.mp4") == first  # the same file twice
    write(folder / "videos" / "videos_b_original" / "P01.mp4", "another one")
    assert "different ones" in Dataset.open(folder).problems[0].found
    flat = put(clip, folder / "videos" / "original_video" / "P01.mp4")
    assert Dataset.open(folder).video_path("P01.mp4") == flat
    put(clip, folder / "videos" / "original_video" / "P01.mkv")
    assert Dataset.open(folder).video_path("P01.mp4") == flat


FIXATION_PLACES = [
    "P01_fixation_filtered.csv",
    "dataset/P01_fixation_filtered.csv",
    "P01/P01_fixation_filtered.csv",
    "metadata/P01/P01_fixation_filtered.csv",
    "final_data/egtea/metadata/P01/P01_fixation_filtered.csv",
    "videos/original_video/P01_fixation_filtered.csv",
    "final_data/egtea/metadata/P01/P01_fixation_dataset.csv",
    "gaze/P01.csv",
]


@pytest.mark.parametrize("row", range(len(FIXATION_PLACES)))
def test_fixations_are_found_in_all_places_in_their_order(tmp_path: Path, clip: Path, row: int) -> None:
    folder = folder_of(tmp_path, entry(choice()), clip=clip, gaze=None)
    for place in FIXATION_PLACES[row:]:
        write(folder / place, FIXATIONS)
    dataset = Dataset.open(folder)
    assert dataset.gaze_path("P01.mp4") == folder / FIXATION_PLACES[row]
    recording = dataset.recording("P01.mp4")
    assert recording.detector == "file" and len(recording.fixations) == 1 and len(recording.samples) == 0
    assert dataset.gaze_path("P01.mp4", gaze_input="samples") is None
    assert dataset.recording("P01.mp4", gaze_input="samples").gaze is None


@pytest.mark.parametrize(
    "place",
    [
        "gaze/P01_gaze.csv",
        "gaze/P01.csv",
        "gaze/P01/gaze.csv",
        "videos/original_video/P01_gaze.csv",
        "raw_gaze/P01.txt",
    ],
)
def test_raw_gaze_goes_before_fixations(tmp_path: Path, clip: Path, place: str) -> None:
    folder = folder_of(tmp_path, entry(choice()), clip=clip)
    if place.endswith("/gaze.csv"):  # a Pupil Cloud recording's folder
        header = "section id,recording id,timestamp [ns],gaze x [px],gaze y [px],worn,fixation id,blink id"
        rows = [f"s,r,{1_000_000_000 + k * 100_000_000},8,8,1.0,," for k in range(20)]
        write(folder / place, "\n".join([header, *rows]))
        info = {"start_time": 1_000_000_000}
        write(folder / "gaze" / "P01" / "info.json", info)
        write(
            folder / "gaze" / "P01" / "world_timestamps.csv", "section id,recording id,timestamp [ns]\ns,r,1000000000\n"
        )
    else:
        write(folder / place, SAMPLES)
    dataset = Dataset.open(folder)
    found = dataset.gaze_path("P01.mp4")
    assert found is not None and found == (folder / place if "P01/" not in place else folder / "gaze" / "P01")
    assert len(dataset.recording("P01.mp4").samples) == 20
    assert dataset.recording("P01.mp4", gaze_input="fixations").detector == "file"
    assert dataset.recording("P01.mp4", gaze_input="samples").detector == "ivt"


def test_gaze_of_an_unknown_format_is_said_not_passed_over(tmp_path: Path, clip: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()), clip=clip)
    write(folder / "gaze" / "P01.csv", "when,where\n1,2\n")
    assert reasons(folder) == ["unreadable gaze"]
    write(folder / "gaze" / "P01_gaze.csv", SAMPLES)  # one that is known goes first
    assert reasons(folder) == []


def test_names_in_any_script_and_paths_with_spaces(tmp_path: Path, clip: Path) -> None:
    root = tmp_path / "my data: ünï" / "a b"
    name = "кухня Ägypten 料理.mp4"
    decomposed = unicodedata.normalize("NFD", name)
    write(root / "qa" / f"{KEY}.json", [entry(choice(question="¿Qué?"), video=name)])
    put(clip, root / "videos" / "original_video" / decomposed)
    write(root / f"{Path(decomposed).stem}_fixation_filtered.csv", FIXATIONS)
    dataset = Dataset.open(root)
    assert only(dataset).video == name and only(dataset).question == "¿Qué?"
    assert len(dataset.recording(name).fixations) == 1
    assert main(["data", "validate", str(root)]) == 0


def test_links_are_followed_and_circles_end(tmp_path: Path, clip: Path) -> None:
    elsewhere = put(clip, tmp_path / "disk" / "P01.mp4").parent
    folder = folder_of(tmp_path / "data", entry(choice()))
    (folder / "videos").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    assert Dataset.open(folder).problems == ()


def test_ids_do_not_depend_on_the_folder(tmp_path: Path, clip: Path) -> None:
    rows = [entry(choice(), choice(time_stamp="00:02")), entry(choice(), video="P02.mp4")]
    one = Dataset.open(folder_of(tmp_path / "one", *rows, clip=clip))
    other = folder_of(tmp_path / "elsewhere" / "two", *rows, gaze=None)
    (other / "dataset").mkdir()
    (other / "qa").rename(other / "dataset" / "qa")
    two = Dataset.open(other)
    assert one.samples() == two.samples()
    assert one.name == two.name == "streamgaze"


def test_hashes_name_contents_not_places(tmp_path: Path, clip: Path) -> None:
    one = Dataset.open(folder_of(tmp_path / "one", entry(choice()), entry(choice(), video="gone.mp4"), clip=clip))
    two = Dataset.open(folder_of(tmp_path / "two", entry(choice()), entry(choice(), video="gone.mp4"), clip=clip))
    assert one.hashes() == two.hashes()
    assert set(one.hashes()["qa"]) == {f"qa/{KEY}.json"} and set(one.hashes()["gaze"]) == {"P01_fixation_filtered.csv"}
    assert one.hashes()["videos"] == {"P01.mp4": clip.stat().st_size, "gone.mp4": None}
    write(tmp_path / "two" / "P01_fixation_filtered.csv", LATE)
    assert one.hashes()["gaze"] != Dataset.open(tmp_path / "two").hashes()["gaze"]


# -- manifest and metadata ---------------------------------------------------------------------------------------------


def test_a_manifest_names_rules_windows_and_worlds(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    manifest = {
        "gazeqwen_data": 1,
        "name": "mine",
        "rules": "causal",
        "windows": {"present": 15, "proactive": 30.0},
        "videos": {"P01.mp4": {"world_seed": 12}},
    }
    write(folder / "manifest.json", manifest)
    dataset = Dataset.open(folder)
    assert (dataset.name, dataset.rules) == ("mine", "causal")
    assert dataset.windows == {"past": None, "present": 15.0, "proactive": 30.0}
    assert dataset.world_seed("P01.mp4") == 12 and dataset.world_seed("other.mp4") is None
    assert "manifest.json" in dataset.hashes()["qa"]


@pytest.mark.parametrize(
    "manifest",
    [
        {"gazeqwen_data": 2},
        {"gazeqwen_data": "1"},
        {"gazeqwen_data": 1, "windows": {"present": 0}},
        {"gazeqwen_data": 1, "windows": {"present": "15"}},
        {"gazeqwen_data": 1, "windows": {"future": 15}},
        {"gazeqwen_data": 1, "windows": 15},
        {"gazeqwen_data": 1, "rules": "none"},
        {"gazeqwen_data": 1, "videos": ["P01.mp4"]},
        '{"gazeqwen_data": 1,',
    ],
)
def test_a_manifest_that_means_nothing_is_refused_in_one_line(tmp_path: Path, manifest: Any) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    write(folder / "manifest.json", manifest)
    with pytest.raises(InputError, match="manifest") as caught:
        Dataset.open(folder)
    assert "\n" not in str(caught.value)


def test_a_manifest_of_another_program_is_left_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()))
    write(folder / "manifest.json", {"version": 7})
    assert Dataset.open(folder).rules == "streamgaze"


def test_episodes_are_context_with_literals_read_and_not_evaluated(tmp_path: Path, clip: Path) -> None:
    folder = folder_of(tmp_path, entry(choice()), clip=clip)
    header = ("episode_start_time", "representative_object", "other_objects_outside_fov", "captions", "video_name")
    rows = [
        ("0.5", "knife", "['jar', \"chef's box\"]", "a,\nlong 'caption'", "P01"),
        ("1.5", "jar", "[__import__('os').getpid()]", "", "P01_fixation_merged_filtered_v2.csv"),
        ("1.5", "jar", "[", "", "P02"),
    ]
    path = folder / "metadata" / "egtea.csv"
    path.parent.mkdir()
    with path.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([header, *rows])
    write(folder / "metadata" / "notes.csv", "a,b\n1,2\n")
    dataset = Dataset.open(folder)
    first, second = dataset.episodes("P01.mp4")
    assert first["other_objects_outside_fov"] == ["jar", "chef's box"] and first["captions"] == "a,\nlong 'caption'"
    assert second["other_objects_outside_fov"] == "[__import__('os').getpid()]"
    assert dataset.episodes("P02.mp4")[0]["other_objects_outside_fov"] == "["
    assert len(read_episodes(path)) == 3
    assert validation.validate(dataset)["episodes"] == 3
    path.unlink()
    assert Dataset.open(folder).recording("P01.mp4").detector == "file"  # metadata is no gaze


# -- properties --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 99 * 3600 * 1000))
def test_times_survive_writing_to_the_millisecond(milliseconds: int) -> None:
    assert round(parse_time_s(format_time(milliseconds / 1000)) * 1000) == milliseconds


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TIMES = st.one_of(
    st.text(alphabet="0123456789:. -eE_", max_size=9), st.floats(allow_nan=True), st.integers(-5, 5), JSON
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), proactive=st.booleans())
def test_any_json_gives_samples_and_problems_for_each_row_and_no_other_error(
    data: st.DataObject, proactive: bool
) -> None:
    made = alert() if proactive else choice()
    for key in data.draw(st.lists(st.sampled_from([*made, "difficulty"]), max_size=2)):
        made[key] = data.draw(TIMES if key == "time_stamp" else JSON)
    if (
        proactive
        and isinstance(made["test_info"], list)
        and made["test_info"]
        and isinstance(made["test_info"][0], dict)
    ):
        made["test_info"][0]["realtime"] = data.draw(TIMES)
    row = entry(made)
    for key in data.draw(st.lists(st.sampled_from(list(row)), max_size=1)):
        row[key] = data.draw(JSON)
    rows = [row, data.draw(JSON), entry(alert() if proactive else choice())]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"{TASKS['GTA' if proactive else 'OI-E'].key}.json", rows)
        content = read_qa_files([(path, path.name)])
    samples = [sample for of_task in content.samples.values() for sample in of_task]
    assert all(isinstance(sample.video, str) and math.isfinite(sample.t_s) and sample.t_s >= 0 for sample in samples)
    assert all(sample.answer in ("Yes", "No") if proactive else sample.answer in "ABCD" for sample in samples)
    # every row ends as a sample or as a problem
    reached = {content.places[sample.id].entry for sample in samples} | {problem.entry for problem in content.problems}
    assert reached == {0, 1, 2}
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        raw = content.entries[sample.task][sample.entry]["questions"][sample.index]
        assert sample.question == (raw["question"] if isinstance(raw["question"], str) else "")


@given(
    st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=8, unique_by=lambda t: t.strip().casefold())
)
def test_an_options_text_names_it_with_letters_and_without(texts: list[str]) -> None:
    shown = [f"{chr(65 + row)}. {text}" for row, text in enumerate(texts)]
    for row, option in enumerate(shown):
        assert answer_letter(chr(65 + row), shown) == chr(65 + row)
        assert answer_letter(option, shown) == chr(65 + row)


@given(st.text(max_size=30))
def test_any_video_path_has_a_name_without_folders(path: str) -> None:
    name = video_name(path)
    assert "/" not in name and "\\" not in name
    assert stem_of(name) == stem_of(unicodedata.normalize("NFC", name))


def test_reading_is_the_same_twice_and_does_not_touch_the_files(tmp_path: Path, clip: Path) -> None:
    rows = [entry(choice()), entry(choice(answer="?"))]
    folder = folder_of(tmp_path, *copy.deepcopy(rows), clip=clip)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    one, two = Dataset.open(folder), Dataset.open(folder)
    validation.validate(one)
    assert one.samples() == two.samples() and one.problems == two.problems
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert issubclass(InputError, GazeQwenError)
