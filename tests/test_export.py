"""The official files: what StreamGaze's own scorer makes of them is what `gazeqwen report` says."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.export import export
from benchmarks.streamgaze.official_scorer import TITLES, score_file, score_results
from benchmarks.streamgaze.records import read_run
from benchmarks.streamgaze.report import json_report
from benchmarks.streamgaze.tasks import TASKS
from benchmarks.streamgaze.work import sample_row
from gazeqwen.cli import main
from gazeqwen.errors import InputError
from tests.conftest import shared_dir
from tests.made_runs import Row, failed_row, guesses, row_of, write_run

OBJECTS = ("A mug", "A jar", "A pan", "A box", "A cup")


def make_questions(folder: Path, *, seed: int = 0) -> Path:
    """QA files of all ten tasks in the release's form, without videos: what an export needs of a data folder."""
    rng = random.Random(seed)
    (folder / "qa").mkdir(parents=True, exist_ok=True)
    for task in TASKS.values():
        entries = []
        for video in range(5):
            for entry in range(1 + video % 2):
                asked = [_alert(rng) if task.proactive else _question(rng, task.key) for _ in range(1 + entry)]
                entries.append({"video_path": f"clip-{video}.mp4", "response_time": "[0 - 1]", "questions": asked})
        _save(folder, task.key, entries)
    return folder


def _question(rng: random.Random, key: str) -> dict[str, Any]:
    count = rng.choice((2, 4, 4, 4, 5))
    return {
        "question": "Which object?",
        "time_stamp": f"00:{rng.randrange(60):02d}",
        "answer": "ABCDE"[rng.randrange(count)],
        "options": [f"{letter}. {name}" for letter, name in zip("ABCDE"[:count], OBJECTS, strict=False)],
        "task_type": key,
    }


def _alert(rng: random.Random) -> dict[str, Any]:
    times = sorted(rng.sample(range(60), 4))
    points = [{"realtime": f"00:{t:02d}", "type": rng.randrange(2)} for t in times]
    return {"question": "Alert me when I gaze at the mug.", "time_stamp": "00:00", "test_info": points}


def _save(folder: Path, key: str, entries: list[dict[str, Any]]) -> None:
    (folder / "qa" / f"{key}.json").write_text(json.dumps(entries), encoding="utf-8")


def _load(folder: Path, key: str) -> list[dict[str, Any]]:
    return json.loads((folder / "qa" / f"{key}.json").read_text(encoding="utf-8"))


def samples_of(data: Path) -> list[Row]:
    return [sample_row(sample) for sample in Dataset.open(data).samples()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_questions(tmp_path / "data")


def exported(data: Path, run: Path, out: Path, *flags: str) -> Path:
    assert main(["export", "streamgaze", str(run), "--out", str(out), *flags]) == 0
    return out / "results" / "Qwen25VL" / "results"


def scores(folder: Path) -> dict[str, tuple[int, int]]:
    """(right, counted) of each file, by the scorer's rules as the reference notes give them; written from those notes
    and not from `official_scorer`, so that a shared mistake would show."""
    found = {}
    for file in sorted(folder.iterdir()):
        entries = json.loads(file.read_text(encoding="utf-8"))
        right = counted = 0
        if entries and entries[0]["questions"] and "test_info" in entries[0]["questions"][0]:
            for point in (p for e in entries for q in e["questions"] for p in q.get("test_info", [])):
                wanted = None if point["type"] is None else "YES" if point["type"] == 1 else "NO"
                counted += wanted is not None
                right += wanted is not None and wanted in str(point.get("response", "")).upper()
        else:
            for entry in entries:
                assert len(entry["questions"]) == len(entry["model_predictions"])
                for question, given in zip(entry["questions"], entry["model_predictions"], strict=True):
                    wanted, said = (_letter(v) for v in (question["answer"], given["model_prediction"]))
                    counted += bool(wanted)
                    right += bool(wanted) and wanted == said
        found[file.name.removesuffix("_output.json")] = (right, counted)
    return found


def _letter(text: object) -> str:
    shown = "" if text is None else str(text).strip().upper()
    found = re.search(r"\b[ABCD]\b", shown)
    return found[0] if found else shown


def expected(report: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {TASKS[name].key: (row["correct"], row["n"]) for name, row in report["tasks"].items()}


def messy_rows(samples: list[Row]) -> list[Row]:
    """Some right, some wrong, some failed, some unparsed, some not there."""
    rng, rows = random.Random(3), []
    for sample, row in zip(samples, guesses(samples), strict=True):
        kind = rng.random()
        if kind < 0.1:
            rows.append(failed_row(sample))
        elif kind < 0.2:
            rows.append(row_of(sample, "", text="I can't tell", scoring="generate"))
        elif kind < 0.9:
            rows.append(row)
    return rows


def test_a_run_of_all_ten_tasks_scores_the_same_there_and_here(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, guesses(samples), data_folder=data)
    folder = exported(data, run, tmp_path / "out")
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        f"{task.key}_output.json" for task in TASKS.values()
    )
    report = json_report(read_run(run))
    assert scores(folder) == expected(report)
    (ours,) = score_results(tmp_path / "out" / "results")
    assert ours.label == "Qwen25VL_results" and ours.missing == ()
    assert ours.average == pytest.approx(report["macro"]["accuracy"], abs=1e-9)
    (fixed,) = score_results(tmp_path / "out" / "results", mode="fixed")
    assert {key: (s.correct, s.total) for key, s in fixed.tasks.items() if s} == expected(report)


def test_failed_missing_and_unparsed_answers_stay_in_the_denominator(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, messy_rows(samples), data_folder=data)
    folder = exported(data, run, tmp_path / "out")
    report = json_report(read_run(run))
    assert report["failures"] and not report["complete"]
    assert scores(folder) == expected(report)
    told = capsys.readouterr().err
    row = report["tasks"]["GTA"]
    assert f"GTA: {row['missing'] + row['failures']} of {row['n']} samples are blank" in told


def test_tasks_that_were_not_run_are_written_blank_and_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = samples_of(data)
    samples = [sample for sample in every if sample["task"] in ("SR", "OAA")]
    run = write_run(tmp_path / "run", samples, [row_of(s, s["answer"]) for s in samples], data_folder=data)
    found = scores(exported(data, run, tmp_path / "out"))
    sizes = {task.key: sum(sample["task"] == name for sample in every) for name, task in TASKS.items()}
    assert found == {
        key: (size if key in (TASKS["SR"].key, TASKS["OAA"].key) else 0, size) for key, size in sizes.items()
    }
    assert capsys.readouterr().err.count("are blank and count as wrong") == 8


def test_entries_stay_as_they_are_and_what_we_know_besides_is_beside(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    rows = [row | {"logprobs": {"A": -0.5}, "latency_ms": {"vit": 500.0, "answer": 1000.0}} for row in guesses(samples)]
    folder = exported(data, write_run(tmp_path / "run", samples, rows, data_folder=data), tmp_path / "out")
    before = _load(data, TASKS["OAR"].key)
    after = json.loads((folder / f"{TASKS['OAR'].key}_output.json").read_text())
    for entry, original in zip(after, before, strict=True):
        given = entry.pop("model_predictions")
        assert entry == original
        for prediction, question in zip(given, original["questions"], strict=True):
            assert (prediction["question"], prediction["time_stamp"]) == (question["question"], question["time_stamp"])
            assert prediction["model_response_time_sec"] == 1.5
            assert prediction["model_response_time_formatted"] == "0:01"
            assert prediction["gazeqwen"]["logprobs"] == {"A": -0.5}
    points = json.loads((folder / f"{TASKS['GTA'].key}_output.json").read_text())[0]["questions"][0]["test_info"]
    assert {"realtime", "type", "response", "response_time_sec", "cost", "gazeqwen"} == set(points[0])
    assert all(point["response"] in ("Yes", "No") for point in points)


def test_quirks_of_the_scorer_are_written_around(tmp_path: Path, data: Path) -> None:
    """A first entry without points, an answer given as text, an old output as input, questions that are none."""
    alerts = _load(data, TASKS["GTA"].key)
    alerts.insert(0, {"video_path": "clip-0.mp4", "questions": []})
    alerts[1]["questions"][0]["test_info"][0]["response"] = "Yes yes no"
    alerts[2]["questions"].insert(0, {"question": "?", "time_stamp": "00:01"})
    _save(data, TASKS["GTA"].key, alerts)
    choices = _load(data, TASKS["SR"].key)
    question = choices[0]["questions"][0]
    question["answer"] = question["options"]["ABCDE".index(question["answer"])][3:]  # "A mug": the scorer reads A
    choices[1]["model_predictions"] = []
    choices.append({"video_path": "clip-0.mp4", "questions": "none"})
    choices.append({"video_path": "clip-0.mp4", "questions": ["what?", question]})
    _save(data, TASKS["SR"].key, choices)
    samples = samples_of(data)
    rows = [row_of(sample, sample["answer"]) for sample in samples]
    rows[3] = failed_row(samples[3])
    run = write_run(tmp_path / "run", samples, rows, data_folder=data)
    folder = exported(data, run, tmp_path / "out")
    assert scores(folder) == expected(json_report(read_run(run)))
    first = json.loads((folder / f"{TASKS['SR'].key}_output.json").read_text())[0]["questions"][0]
    assert first["answer"] in "ABCDE" and first["answer_as_given"] == question["answer"]


def test_marked_frames_go_where_the_scorer_expects_them(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, guesses(samples), data_folder=data, arm="marker")
    exported(data, run, tmp_path / "out")
    (score,) = score_results(tmp_path / "out" / "results")
    assert score.label == "Qwen25VL_results_viz" and score.missing == ()


def test_another_base_is_written_and_an_unknown_one_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, guesses(samples), data_folder=data)
    exported(data, run, tmp_path / "out", "--as-base", "ViSpeak")
    assert capsys.readouterr().err == ""
    exported(data, run, tmp_path / "out", "--as-base", "GazeQwen")
    assert "does not look at 'GazeQwen'" in capsys.readouterr().err
    assert [score.base for score in score_results(tmp_path / "out" / "results")] == ["ViSpeak"]
    about = json.loads((tmp_path / "out/results/ViSpeak/made_by_gazeqwen.results.json").read_text())
    assert about["identity"]["arm"] == "inject" and about["run"] == "run"


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, messy_rows(samples), data_folder=data)
    first = {file.name: file.read_bytes() for file in exported(data, run, tmp_path / "out").iterdir()}
    again = {file.name: file.read_bytes() for file in exported(data, run, tmp_path / "out").iterdir()}
    assert first == again and len(first) == 10


def test_a_task_without_questions_has_no_file_and_is_said(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "qa" / f"{TASKS['FAP'].key}.json").unlink()
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, guesses(samples), data_folder=data)
    assert len(list(exported(data, run, tmp_path / "out").iterdir())) == 9
    assert "FAP: no questions" in capsys.readouterr().err


def test_an_earlier_export_leaves_nothing_that_would_be_scored_as_this_one(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    runs = [
        write_run(tmp_path / arm, samples, guesses(samples), data_folder=data, arm=arm) for arm in ("none", "marker")
    ]
    for run in runs:
        exported(data, run, tmp_path / "out")
    about = sorted((tmp_path / "out/results/Qwen25VL").glob("*.json"))
    assert [json.loads(file.read_text())["identity"]["arm"] for file in about] == ["none", "marker"]
    (data / "qa" / f"{TASKS['FAP'].key}.json").unlink()
    left = samples_of(data)
    run = write_run(tmp_path / "nine", left, guesses(left), data_folder=data)
    assert TASKS["FAP"].key not in scores(exported(data, run, tmp_path / "out"))


def test_other_data_than_the_runs_is_refused(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, guesses(samples), data_folder=tmp_path / "gone")
    other = make_questions(tmp_path / "other", seed=1)
    for flags, why in (
        (["--data", other], "QA files without"),
        ([], "gone: expected"),
        (["--data", tmp_path / "run"], "QA files"),
    ):
        assert main(["export", "streamgaze", str(run), "--out", str(tmp_path / "out"), *map(str, flags)]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1 and why in shown.err
    assert not (tmp_path / "out").exists()
    assert main(["export", "streamgaze", str(run), "--out", str(tmp_path / "out"), "--data", str(data)]) == 0


def test_a_folder_that_can_not_be_written_is_one_line(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    run = read_run(write_run(tmp_path / "run", samples, guesses(samples)))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder that can be written"):
        export(run, Dataset.open(data), tmp_path / "file")


def test_no_torch(tmp_path: Path, data: Path) -> None:
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, guesses(samples), data_folder=data)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from gazeqwen.cli import main; "
        f"sys.exit(main(['export', 'streamgaze', {str(run)!r}, '--out', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- the two modes of our scorer (golden 08 holds the strict one) ------------------------------------------------------


def choices(*asked: tuple[str, str | None], options: int = 4) -> list[dict[str, Any]]:
    """An entry of (answer, what was said) pairs; None for no prediction."""
    shown = [f"{letter}. {name}" for letter, name in zip("ABCDE"[:options], OBJECTS, strict=False)]
    given = [{"model_prediction": said} for _, said in asked if said is not None]
    return [{"questions": [{"answer": answer, "options": shown} for answer, _ in asked], "model_predictions": given}]


def points(*tested: tuple[int | None, str | None]) -> list[dict[str, Any]]:
    """An entry of (type, response) pairs."""
    return [{"questions": [{"test_info": [{"type": kind, "response": said} for kind, said in tested]}]}]


@pytest.mark.parametrize(
    ("entries", "strict", "fixed"),
    [
        pytest.param(choices(("A", "A"), ("B", None)), (1, 1), (1, 2), id="no prediction"),
        pytest.param(choices(("C", "I see a knife, so C")), (0, 1), (1, 1), id="article"),
        pytest.param(choices(("E", "E."), options=5), (0, 1), (1, 1), id="beyond D"),
        pytest.param(choices(("", "A"), ("B", "B")), (1, 1), (1, 1), id="no answer known"),
        pytest.param(points((1, "Eyes on it")), (1, 1), (0, 1), id="yes within a word"),
        pytest.param(points((0, "yes, no")), (1, 1), (0, 1), id="both"),
        pytest.param(points((0, None)), (1, 1), (0, 1), id="null holds NO of None"),
        pytest.param(points((2, "No"), (None, "No")), (1, 1), (0, 0), id="unlabelled points"),
        pytest.param([{"questions": []}, *points((1, "Yes"))], (0, 0), (1, 1), id="the first entry decides"),
    ],
)
def test_where_the_fixed_rules_differ(
    tmp_path: Path, entries: list[dict[str, Any]], strict: tuple[int, int], fixed: tuple[int, int]
) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(entries))
    found = {mode: score_file(file, mode=mode) for mode in ("strict", "fixed")}
    assert [(found[mode].correct, found[mode].total) for mode in ("strict", "fixed")] == [strict, fixed]


@pytest.mark.parametrize("content", ["{}x", '{"a": 1}', "[1]", '[{"questions": 3}]', "\udcff", "[[[["])
def test_a_damaged_file_is_nothing_to_the_strict_rules_and_an_error_to_ours(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content.encode("utf-8", errors="surrogateescape"))
    assert score_file(file) == score_file(tmp_path / "absent.json")
    assert (score_file(file).accuracy, score_file(file).total) == (0.0, 0)
    with pytest.raises(InputError, match=r"x\.json: expected a list of entries"):
        score_file(file, mode="fixed")


def test_an_empty_file_pulls_down_the_strict_average_only(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "Qwen25VL" / "results"
    folder.mkdir(parents=True)
    (folder / "past_scene_recall_output.json").write_text("[]")
    right = [{"questions": [{"test_info": [{"type": 1, "response": "Yes"}]}]}]
    (folder / "proactive_gaze_triggered_alert_output.json").write_text(json.dumps(right))
    assert [score_results(tmp_path / "results", mode=mode)[0].average for mode in ("strict", "fixed")] == [50, 100]
    with pytest.raises(InputError, match="folder of model folders"):
        score_results(tmp_path / "absent")


def _scorer() -> Path:
    """The benchmark's own evaluate_results.py: GAZEQWEN_STREAMGAZE_SCORER, or anywhere in the shared folder."""
    pytest.importorskip("pandas", reason="the benchmark's own scorer needs pandas")
    if named := os.environ.get("GAZEQWEN_STREAMGAZE_SCORER"):
        return Path(named)
    found = sorted(shared_dir().rglob("evaluate_results.py"))
    if not found:
        pytest.skip(
            "evaluate_results.py absent: set GAZEQWEN_STREAMGAZE_SCORER to the benchmark's own file to run this"
        )
    return found[0]


def test_the_benchmarks_own_scorer_accepts_it(tmp_path: Path, data: Path) -> None:
    scorer = _scorer()
    samples = samples_of(data)
    run = write_run(tmp_path / "run", samples, messy_rows(samples), data_folder=data)
    exported(data, run, tmp_path / "out")
    shutil.copyfile(scorer, tmp_path / "out" / "evaluate_results.py")
    subprocess.run([sys.executable, "evaluate_results.py"], cwd=tmp_path / "out", check=True, capture_output=True)
    report = json_report(read_run(run))
    with (tmp_path / "out" / "results" / "evaluation_detailed.csv").open(newline="") as file:
        table = {row["Task"]: (int(row["Correct"]), int(row["Total"])) for row in csv.DictReader(file)}
    assert table == {TITLES[key]: counts for key, counts in expected(report).items()}
    with (tmp_path / "out" / "results" / "evaluation_averages.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["Model"] == "Qwen25VL_results"
    assert float(row["Average"]) == pytest.approx(report["macro"]["accuracy"], abs=1e-9)
