"""The lmms-eval plug-in, as far as it goes without lmms-eval (tests/lmms_eval_run.py runs it under lmms-eval)."""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from benchmarks.lmms_eval_plugin import (
    MODEL_CLASS,
    TEMPLATES,
    answer,
    doc_to_messages,
    main,
    manifests,
    mean_accuracy,
    process_results,
    write_tasks,
)
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen import GazeQwen
from gazeqwen.errors import InputError
from stream.recording import open_recording
from stream.video import frame_times
from tests.streamgaze_data import make_dataset


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lmms")
    data = make_dataset(
        folder / "data", videos=2, seconds=6.0, windows={"past": None, "present": 2.0, "proactive": None}
    )
    write_tasks(data, folder / "tasks")
    return folder / "tasks"


def rows(tasks: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (tasks / f"{TASKS[name].key}.jsonl").read_text().splitlines()]


def test_every_task_has_a_file_that_names_its_samples(tasks: Path) -> None:
    group = (tasks / "streamgaze.yaml").read_text()
    for task in TASKS.values():
        file = tasks / f"{task.name.lower().replace('-', '_')}.yaml"
        text = file.read_text()
        assert f"{tasks.resolve().as_posix()}/{task.key}.jsonl" in text
        name = re.search(r"^task: (\S+)", text, re.MULTILINE)
        assert name and f"  - {name[1]}\n" in group
        assert rows(tasks, task.name)
    assert "cluster_key: video" in (tasks / "_base.yaml").read_text()


def test_clips_end_with_the_question_and_begin_with_its_window(tasks: Path) -> None:
    for name in ("OI-E", "SR", "GTA"):
        for row in rows(tasks, name):
            source = frame_times(row["recording"])
            shown = source[(source >= row["start_s"] - 1e-6) & (source <= row["t_s"] + 1e-6)]
            assert len(frame_times(row["clip"])) == len(shown)
            if name == "OI-E":
                assert row["start_s"] == max(0.0, row["t_s"] - 2.0)


def test_scores_carry_the_video_they_are_clustered_by(tasks: Path) -> None:
    row = rows(tasks, "SR")[0]
    right = process_results(row, [f"The best option is {row['answer']}."])["accuracy"]
    wrong = process_results(row, ["no idea"])["accuracy"]
    assert (right["score"], wrong["score"]) == (1.0, 0.0)
    assert right["video"] == row["video"]
    point = rows(tasks, "GTA")[0]
    other = {"Yes": "No", "No": "Yes"}[point["answer"]]
    assert process_results(point, [point["answer"]])["accuracy"]["score"] == 1.0
    assert process_results(point, [other])["accuracy"]["score"] == 0.0
    assert mean_accuracy([right, wrong]) == 50.0


def test_an_answer_is_the_session_s_own(tasks: Path) -> None:
    from stream.session import StreamSession

    model = GazeQwen.from_pretrained("tiny")
    row = rows(tasks, "OI-E")[0]
    said = answer(model, row, doc_to_messages(row), arm="inject", tokens=8)
    recording = open_recording(row["recording"], row["gaze"])
    session = StreamSession.of(model, recording, until_s=row["t_s"], window_s=row["t_s"] - row["start_s"])
    expected = session.answer(row["prompt"], at_s=row["t_s"], prompt=row["prompt"], max_new_tokens=8)
    assert said == expected.text


def test_other_tasks_are_watched_without_gaze_and_images_are_refused(tasks: Path) -> None:
    model = GazeQwen.from_pretrained("tiny")
    row = rows(tasks, "OI-E")[0]
    messages = doc_to_messages(row)
    assert isinstance(answer(model, {"question": "of another task"}, messages, arm="inject", tokens=2), str)
    image = [{"role": "user", "content": [{"type": "image", "url": "x.png"}, {"type": "text", "text": "What?"}]}]
    with pytest.raises(InputError, match="one video"):
        answer(model, {}, image, arm="inject", tokens=2)


def test_data_with_an_entry_that_cannot_be_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "data", videos=2, seconds=4.0)
    next((data / "videos").rglob("*.mp4")).unlink()
    assert main(["--data", str(data), "--out", str(tmp_path / "tasks")]) == 2
    assert "data validate" in capsys.readouterr().err
    assert not (tmp_path / "tasks").exists()


def test_a_question_after_the_end_of_its_video_is_refused_not_asked_at_the_end(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", videos=1, seconds=4.0)
    file = data / "qa" / f"{TASKS['SR'].key}.json"
    entries = json.loads(file.read_text())
    entries[0]["questions"][0]["time_stamp"] = "00:09"
    file.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"question at 9 s.*ends at 4"):
        write_tasks(data, tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


def test_the_entry_point_names_the_plug_in() -> None:
    found = [point for point in entry_points(group="lmms_eval.models") if point.name == "gazeqwen"]
    assert found and found[0].load() is manifests
    assert (TEMPLATES / "_base.yaml").is_file()
    module, _, _ = MODEL_CLASS.rpartition(".")
    assert importlib.util.find_spec(module) is not None


@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed (its own venv)")
def test_lmms_eval_knows_the_model() -> None:
    from lmms_eval.models import get_model

    assert get_model("gazeqwen").__name__ == "GazeQwenChat"
