"""The streamgaze speed suite: its rows and bounds, its counting, and that it notices two sides that don't do the same.

No test asserts a time: what is measured depends on the machine, how it is measured and reported does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.speed import __main__ as cli
from benchmarks.speed import processes, streamgaze, streamgaze_long, streamgaze_resume, streamgaze_stream
from benchmarks.speed.core import Measurement, Options
from benchmarks.speed.results import Result, as_json, table_row
from benchmarks.speed.streamgaze import QUICK_VIDEO, STREAMGAZE, VIDEO
from benchmarks.speed.streamgaze_data import Videos, made_questions, make_data
from benchmarks.speed.streamgaze_prefill import InMemory
from benchmarks.speed.streamgaze_projection import Seen, projected_7b
from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.errors import InputError

QUICK = Options(1, True, torch.device("cpu"))
FORM = {"name", "value", "unit", "ratio", "parts", "repeats", "note", "bound", "ok"}
SIDES = ("stream", "per_question")
NAMES = [m.name for m in STREAMGAZE if m.name != "peak_memory" or processes.STATUS.is_file()]  # Linux tells it
Rows = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, str]:
    """Rows of a quick run of the whole suite by name, and what it printed."""
    out = tmp_path_factory.mktemp("speed") / "speed.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamgaze_long, "QUICK_MINUTES", (0.1, 0.1))  # one interpreter instead of two
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        only = [word for name in NAMES for word in ("--only", name)]
        assert cli.main(["streamgaze", "--quick", "--check", "--repeats", "1", "--json", str(out), *only]) == 0
    content = json.loads(out.read_text())
    assert content["suite"] == "streamgaze" and content["failed"] == {}
    return {row["name"]: row for row in content["results"]}, "\n".join(printed)


# --- the suite -------------------------------------------------------------------------------------------------------


def test_every_bound_is_stated() -> None:
    assert {m.name: None if m.bound is None else str(m.bound) for m in STREAMGAZE} == {
        "stream_vs_per_question": "ratio >= 10",
        "stream_vs_prefill_only": "ratio >= 2",
        "resume_overhead": "ratio <= 1.02",
        "cost_growth": None,
        "peak_memory": "ratio <= 1.05",
    }


def test_rows_have_the_suites_form_and_times_are_not_judged_when_quick(measured: tuple[Rows, str]) -> None:
    rows, printed = measured
    assert list(rows) == NAMES
    for row in rows.values():
        assert set(row) == FORM and row["ok"] is None
        assert row["value"] > 0 and row["ratio"] > 0 and row["note"]
        assert all(isinstance(part, float) for part in row["parts"].values())
    lines = printed.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for row in rows.values():  # what a row is made of stands on the screen, too
        assert all(part in printed for part in row["parts"])


@pytest.mark.parametrize("measurement", STREAMGAZE, ids=lambda measurement: measurement.name)
def test_rows_fit_eighty_columns(measurement: Measurement) -> None:
    row = as_json(Result(measurement.name, 1.2345678e14, "MB", 0.00012345678), measurement.bound, judged=True)
    assert len(table_row({**row, "ok": False})) <= 80


def test_parts_add_up_to_each_side_and_both_have_theirs(measured: tuple[Rows, str]) -> None:
    row = measured[0]["stream_vs_per_question"]
    parts, questions = row["parts"], QUICK_VIDEO.questions
    every = {"decode", "vit", "vjepa", "resampler", "prefill", "answer", "other"}
    sides = {side: {name: value for name, value in parts.items() if name.startswith(f"{side}_")} for side in SIDES}
    sides["per_question"].pop("per_question_q_per_s")
    assert {name.removeprefix("stream_") for name in sides["stream"]} == every
    assert {name.removeprefix("per_question_") for name in sides["per_question"]} == {*every, "cut"}
    assert all(value > 0 for side in sides.values() for value in side.values())
    assert sum(sides["stream"].values()) == pytest.approx(questions / row["value"])
    assert sum(sides["per_question"].values()) == pytest.approx(questions / parts["per_question_q_per_s"])
    without = sum(sides["per_question"].values()) - parts["per_question_cut"]
    assert parts["ratio_without_cut"] == pytest.approx(without / sum(sides["stream"].values()))


def test_steps_are_counted_as_each_side_encodes_them(measured: tuple[Rows, str]) -> None:
    parts = measured[0]["stream_vs_per_question"]["parts"]
    # Questions at 1, 2, 4, 5 and 6 s, a step a second: six whole steps and one of each question's own.
    assert parts["steps_stream"] == 6 + 5
    # The ones at 2 and 4 s are present questions, which see three seconds.
    assert parts["steps_per_question"] == (1 + 2 + 3 + 5 + 6) + 5


def test_nothing_is_encoded_by_the_stronger_baseline(measured: tuple[Rows, str]) -> None:
    parts = measured[0]["stream_vs_prefill_only"]["parts"]
    for side in ("stream", "prefill_only"):
        names = {name.removeprefix(f"{side}_") for name in parts if name.startswith(f"{side}_")} - {"from_file"}
        assert names == {"resampler", "prefill", "answer", "other"}
    assert parts["ratio_encoded_free"] == pytest.approx(parts["prefill_only"] / parts["stream_from_file"])
    assert parts["ratio_encoded_free"] < parts["ratio_encoded_once"]


def test_a_resumed_run_is_taken_apart(measured: tuple[Rows, str]) -> None:
    row = measured[0]["resume_overhead"]
    parts = row["parts"]
    assert row["ratio"] == pytest.approx(1 + row["value"] / parts["whole"])
    assert parts["ratio_with_replay"] == pytest.approx((parts["stopped"] + parts["resumed"]) / parts["whole"])
    assert 0 < parts["scan"] < parts["resumed"]


def test_a_run_of_its_own_process_gives_cost_and_memory(measured: tuple[Rows, str]) -> None:
    rows = measured[0]
    cost = rows["cost_growth"]["parts"]
    seconds = [value for name, value in cost.items() if name.startswith("seconds_")]
    assert sum(seconds) == pytest.approx(5 * rows["cost_growth"]["value"])
    assert rows["cost_growth"]["ratio"] == 1.0  # the same run twice
    if "peak_memory" not in NAMES:
        pytest.skip(f"no {processes.STATUS} here")
    memory = rows["peak_memory"]["parts"]
    assert memory["peak_mb_0.1_min"] > memory["loaded_mb_0.1_min"] > 50
    assert rows["peak_memory"]["ratio"] == 1.0


def test_growth_and_memory_compare_the_lengths_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(minutes: float, quick: bool, device: str) -> dict[str, float]:
        memory = {"loaded_mb": 400.0, "peak_mb": 500.0 + minutes}
        return {"questions": 30.0, "seconds": 30 * minutes + 15, "answer": 15.0, "other": 1.0, **memory}

    monkeypatch.setattr(streamgaze_long, "_run", run)
    whole = Options(7, False, torch.device("cpu"))
    growth = streamgaze_long.cost_growth("cost_growth", whole)
    assert growth.value == 20.5 and growth.ratio == pytest.approx(20.5 / 1.5)
    assert growth.parts["per_question_5_min"] == 5.5
    assert growth.parts["answer_20_min"] == 0.5 and growth.parts["seconds_answer_20_min"] == 15.0
    assert [growth.parts[f"per_video_minute_{minutes}_min"] for minutes in (1, 5, 20)] == [30.0, 30.0, 30.0]
    memory = streamgaze_long.peak_memory("peak_memory", whole)
    assert memory.ratio == pytest.approx(520 / 505) and memory.parts["added_mb_20_min"] == 120.0


# --- what is measured ------------------------------------------------------------------------------------------------


def test_questions_are_thirty_of_all_tasks_over_the_whole_video() -> None:
    made = list(made_questions(VIDEO))
    times = [point.t_s for question in made for point in question.points]
    times += [question.t_s for question in made if not question.points]
    assert sorted(times) == [4.0 * (k + 1) for k in range(30)]
    asked = {task: sum(len(q.points) or 1 for q in made if q.task == task) for task in TASKS}
    assert set(asked.values()) == {3}


def test_made_data_is_a_folder_that_can_be_run(tmp_path: Path) -> None:
    dataset = Dataset.open(make_data(tmp_path, Videos(7.0, count=2, questions=7, fps=4.0, present_s=3.0)))
    assert not dataset.problems and not dataset.notes
    assert len(dataset.samples()) == 14 and dataset.videos == ("clip-0.mp4", "clip-1.mp4")
    assert dataset.windows == {"past": None, "present": 3.0, "proactive": None}
    recording = dataset.recording("clip-1.mp4")
    assert recording.end_s == 7.0 and recording.detector == "file" and len(recording.fixations) > 3


def test_clips_of_another_window_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = streamgaze_stream.span_of

    def shorter(*arguments: Any) -> tuple[float, float]:
        start_s, stop_s = exact(*arguments)
        return start_s + 1.0 if stop_s > 3 else start_s, stop_s

    monkeypatch.setattr(streamgaze_stream, "span_of", shorter)
    with pytest.raises(InputError, match="the frames of the pass"):
        streamgaze.stream_vs_per_question("stream_vs_per_question", QUICK)


def test_a_baseline_that_prefills_less_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = InMemory.rows
    monkeypatch.setattr(InMemory, "rows", lambda self, sample: (exact(self, sample)[0] + 1, exact(self, sample)[1]))
    with pytest.raises(InputError, match="log-probabilities equal within 1e-05"):
        streamgaze.stream_vs_prefill_only("stream_vs_prefill_only", QUICK)


def test_a_resumed_run_with_other_predictions_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"whole": "A", "resumed": "B"}
    monkeypatch.setattr(
        streamgaze_resume,
        "read_run",
        lambda out: SimpleNamespace(predictions={"x": {"prediction": said[out.name.split("-")[0]]}}),
    )
    monkeypatch.setattr(streamgaze_resume, "QUICK_RUN", Videos(5.0, count=1, questions=3, fps=4.0))
    with pytest.raises(InputError, match="the same predictions"):
        streamgaze_resume.resume_overhead("resume_overhead", QUICK)


def test_memory_is_not_measured_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "STATUS", tmp_path / "status")
    assert cli.main(["streamgaze", "--quick", "--only", "peak_memory"]) == 2
    assert "peak_memory: not measured" in capsys.readouterr().err


def test_a_run_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamgaze_long, "_SCRIPT", "raise SystemExit('no such model')")
    monkeypatch.setattr(streamgaze_long, "QUICK_MINUTES", (0.11,))
    with pytest.raises(InputError, match="no such model"):
        streamgaze_long.cost_growth("cost_growth", QUICK)


# --- the projection --------------------------------------------------------------------------------------------------


def test_one_question_at_the_end_costs_the_same_either_way() -> None:
    projected = projected_7b(60, [Seen(60, 60)])
    assert projected["per_question"] == pytest.approx(1.0, rel=1e-9)
    assert projected["prefill_only"] == pytest.approx(1.0, rel=1e-9)
    assert projected["prefill_only_once"] == pytest.approx(1.0, rel=1e-9)


def test_questions_share_a_pass_and_a_narrow_window_is_cheaper_to_prefill_again() -> None:
    every = [Seen(steps, steps) for steps in range(4, 121, 4)]
    windowed = [Seen(seen.held, min(seen.held, 20)) for seen in every]
    whole, narrow = projected_7b(120, every), projected_7b(120, windowed)
    # Two sides of 30 questions that each see half of the video on average: fifteen passes, less the steps of their own.
    assert 10 < whole["per_question"] < 15
    assert all(narrow[name] < value for name, value in whole.items())
    assert whole["prefill_only_free"] < whole["prefill_only_once"] < whole["prefill_only"]
