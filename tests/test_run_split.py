"""Runs of one part of a split, and the refusal of videos that the model was trained on."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streamgaze import run
from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.plan import plan
from benchmarks.streamgaze.records import MANIFEST, SAMPLES, read_run
from benchmarks.streamgaze.report import json_report, text_table
from benchmarks.streamgaze.tasks import TASKS as REGISTRY
from benchmarks.streamgaze.work import Settings
from gazeqwen import GazeQwen
from gazeqwen.arguments import build_parser
from gazeqwen.cli import main
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train.setup import training_videos
from tests.made_steps import moved_tiny
from tests.streamgaze_data import make_dataset
from tests.test_run import assert_same

PARTS = {"train": ["clip-0.mp4", "clip-3.mp4"], "validation": ["clip-1.mp4"], "test": ["clip-4.mp4", "clip-2.mp4"]}
TASKS = ("OI-E", "GTA")
Rows = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), videos=5, seconds=3.0, points=1)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("split") / "split.json", PARTS)


@pytest.fixture(scope="module")
def of_test(data: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the test part."""
    out = tmp_path_factory.mktemp("of_test") / "run"
    run.run(data, out, Settings(tasks=TASKS, split=(split, "test")), model=moved_tiny())
    return out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that says it was trained on the train part."""
    folder = moved_tiny().save_pretrained(tmp_path_factory.mktemp("trained") / "model")
    (folder / "results.json").write_text(json.dumps({"videos": {"train": PARTS["train"], "validation": []}}))
    return folder


def write_split(path: Path, parts: Mapping[str, Sequence[str]]) -> Path:
    path.write_text(json.dumps(parts))
    return path


def folder_of(data: Path, videos: Sequence[str], folder: Path) -> Path:
    """A copy of the data with the questions of some videos only. Rows stay where they are: they are part of an id."""
    shutil.copytree(data, folder)
    for file in (folder / "qa").iterdir():
        entries = json.loads(file.read_text())
        file.write_text(json.dumps([e if e["video_path"] in videos else e | {"questions": []} for e in entries]))
    return folder


def rows(out: Path) -> Rows:
    return read_run(out).predictions


# -- one part ----------------------------------------------------------------------------------------------------------


def test_a_part_is_run_as_a_folder_of_its_own_would_be(data: Path, split: Path, tmp_path: Path) -> None:
    """With the arm `shuffled`: videos lend gaze within the part."""
    alone = folder_of(data, PARTS["test"], tmp_path / "alone")
    run.run(alone, tmp_path / "a", Settings(tasks=TASKS, arm="shuffled"), model=moved_tiny())
    run.run(data, tmp_path / "b", Settings(tasks=TASKS, arm="shuffled", split=(split, "test")), model=moved_tiny())
    assert {row["video"] for row in rows(tmp_path / "b").values()} == set(PARTS["test"])
    assert len(rows(tmp_path / "b")) == 2 * (1 + 1)
    assert_same(rows(tmp_path / "a"), rows(tmp_path / "b"))
    ids = [[line["id"] for line in read_run(tmp_path / name).samples] for name in "ab"]
    assert ids[0] == ids[1]


def test_shards_and_a_second_call_find_the_same_part(data: Path, split: Path, of_test: Path, tmp_path: Path) -> None:
    settings = Settings(tasks=TASKS, split=(split, "test"))
    for index in range(2):
        left = run.run(data, tmp_path / "run", settings, model=moved_tiny(), shard=(index, 2))
        assert left.answered == len(rows(of_test)) / 2
    assert_same(rows(tmp_path / "run"), rows(of_test))
    again = run.run(data, tmp_path / "run", settings, model=moved_tiny())
    assert (again.answered, again.missing) == (0, 0)


def test_the_limit_counts_within_the_part(data: Path, split: Path, tmp_path: Path) -> None:
    run.run(data, tmp_path / "run", Settings(tasks=TASKS, split=(split, "test"), limit=1), model=moved_tiny())
    assert [line["video"] for line in read_run(tmp_path / "run").samples] == ["clip-2.mp4"] * 2


def test_the_part_is_what_makes_the_run_the_same_not_the_file(
    data: Path, split: Path, of_test: Path, tmp_path: Path
) -> None:
    def go_on(path: Path | None, part: str = "test") -> run.Summary:
        chosen = None if path is None else (path, part)
        return run.run(data, of_test, Settings(tasks=TASKS, split=chosen), model=moved_tiny())

    before = {file: file.read_bytes() for file in of_test.iterdir()}
    other_train = {**PARTS, "train": ["clip-0.mp4"], "test": PARTS["test"][::-1]}
    assert go_on(write_split(tmp_path / "same.json", other_train)).answered == 0
    swapped = write_split(tmp_path / "swapped.json", {"test": ["clip-2.mp4", "clip-3.mp4"]})
    for path, part, said in ((swapped, "test", "split: sha256"), (split, "train", "split: part"), (None, "", "split")):
        with pytest.raises(InputError, match=rf"manifest\.json: expected {said} = .*as the run was started"):
            go_on(path, part)
    assert {file: file.read_bytes() for file in of_test.iterdir()} == before


def test_manifest_and_report_say_which_part(of_test: Path, split: Path) -> None:
    manifest = json.loads((of_test / MANIFEST).read_text())
    assert manifest["split_file"] == str(split)
    assert {key: manifest["identity"]["split"][key] for key in ("part", "videos")} == {"part": "test", "videos": 2}
    assert json_report(read_run(of_test))["setup"]["split"]["part"] == "test"
    text = text_table(read_run(of_test))
    assert "part test of a split" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    reasons = json_report(read_run(of_test), reference=True)["reference"]["not_comparable"]
    assert "part test of a split: 2 of the data's videos." in reasons


@pytest.mark.parametrize(
    ("text", "file", "part"),
    [
        ("s.json", "s.json", "test"),
        ("a/s.json:validation", "a/s.json", "validation"),
        ("s.json:tset", "s.json", "tset"),
        ("C:\\a\\s.json", "C:\\a\\s.json", "test"),
        ("C:\\a\\s.json:train", "C:\\a\\s.json", "train"),
        ("run:2/s.json", "run:2/s.json", "test"),
    ],
)
def test_the_flag_names_a_file_and_a_part(text: str, file: str, part: str) -> None:
    arguments = ["eval", "streamgaze", "--data", "D", "--out", "R", "--split", text]
    assert build_parser().parse_args(arguments).split == (Path(file), part)


@pytest.mark.parametrize(
    ("parts", "part", "said"),
    [
        (PARTS, ":tset", "expected a part of train, validation, test, found 'tset'"),
        ({"train": ["clip-0.mp4"]}, "", "expected videos in 'test', found none"),
        ({"test": ["clip-9.mp4", "clip-1.mp4"]}, "", "found 1 others in 'test', 'clip-9.mp4' first"),
        ({"train": ["a"], "test": ["a"]}, "", "expected each video once, found 'a' in train and in test"),
        (None, ":train", "expected a JSON file of video names by part"),
    ],
)
def test_a_split_that_cannot_be_used_is_one_line(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parts: Mapping[str, Sequence[str]] | None,
    part: str,
    said: str,
) -> None:
    path = tmp_path / "s.json"
    if parts is not None:
        write_split(path, parts)
    out = tmp_path / "run"
    for more in ([], ["--dry-run"]):
        words = ["eval", "streamgaze", "--data", str(data), "--out", str(out), "--split", f"{path}{part}", *more]
        assert main(words) == 2
        shown = capsys.readouterr()
        assert said in shown.err and str(path) in shown.err and len(shown.err.strip().splitlines()) == 1
    assert not out.exists()


def test_a_part_without_questions_of_the_tasks(data: Path, split: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(data, tmp_path / "bare")
    file = bare / "qa" / f"{REGISTRY['OI-E'].key}.json"
    file.write_text(
        json.dumps([entry for entry in json.loads(file.read_text()) if entry["video_path"] == "clip-0.mp4"])
    )
    dataset = Dataset.open(bare)
    assert {sample.video for sample in dataset.samples(("OI-E",))} == {"clip-0.mp4"}
    with pytest.raises(InputError, match=r"tasks OI-E: expected at least one question .* none in 'test' of the split"):
        run.run(dataset, tmp_path / "run", Settings(tasks=("OI-E",), split=(split, "test")))


# -- videos that the model was trained on ------------------------------------------------------------------------------


def refuse_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(*_args: Any, **_more: Any) -> GazeQwen:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(GazeQwen, "from_pretrained", from_pretrained)


def test_training_videos_are_refused_before_weights_are_loaded(
    data: Path,
    split: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refuse_loading(monkeypatch)
    said = "videos that the model was not trained on, found 2 that it was, e.g. clip-0.mp4; run others: --split FILE"
    chosen = Settings(tasks=TASKS, arm="blind")
    for shard in ((0, 4), (3, 4)):  # whichever videos this process has
        with pytest.raises(InputError, match=said):
            run.run(data, tmp_path / "run", chosen, model=trained, shard=shard)
    with pytest.raises(InputError, match=said):
        plan(Dataset.open(data), chosen, model=trained)
    with pytest.raises(InputError, match=said):
        run.run(data, tmp_path / "run", Settings(tasks=TASKS, split=(split, "train")), model=str(trained))
    words = ["eval", "streamgaze", "--data", str(data), "--out", str(tmp_path / "run"), "--model", str(trained)]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert said in shown.err and str(trained) in shown.err and len(shown.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_solver_asks_no_model(data: Path, trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="solves the small world's event log"):  # and not: was trained on
        run.run(data, tmp_path / "run", Settings(tasks=TASKS, arm="oracle"), model=trained)


def test_a_model_at_hand_is_refused_as_far_as_it_knows_where_it_came_from(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    run.run(data, tmp_path / "unknown", Settings(tasks=TASKS, limit=1), model=GazeQwen.from_pretrained(folder))
    (folder / "arms" / "null").mkdir(parents=True)
    shutil.copy(folder / "model.safetensors", folder / "arms" / "null")
    with pytest.raises(InputError, match=r"model: expected videos that the model was not trained on, found 1"):
        run.run(data, tmp_path / "known", Settings(tasks=TASKS, limit=1), model=GazeQwen.from_pretrained(folder))


def test_a_damaged_list_of_training_videos_is_an_error(data: Path, trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    (folder / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json: expected results\.json of a training run"):
        run.run(data, tmp_path / "run", Settings(tasks=TASKS), model=folder)


def test_a_finished_run_of_a_trained_model_loads_no_torch(
    data: Path, split: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run.run(data, out, Settings(tasks=("OI-E",), split=(split, "validation")), model=trained)
    code = (
        "import sys; from gazeqwen.cli import main\n"
        f"code = main(['eval', 'streamgaze', '--data', {str(data)!r}, '--out', {str(out)!r}, '--no-cache', "
        f"'--tasks', 'OI-E', '--model', {str(trained)!r}, '--split', {f'{split}:validation'!r}])\n"
        "assert code == 0, code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 samples have a row, 0 failed, 0 without gaze; 0 now" in done.stdout


def test_train_then_eval_with_one_split(
    data: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An arm's run, as typed: what it writes is known to `eval`, and the test part of the same file is not refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("steps: 1\nbatch_videos: 2\nquestions_per_video: 2\ntrackers: []\narm: 'null'\n")
    settings = ["out=run", f"data.train={data}", f"data.split={split}", "data.tasks=[OI-E]"]
    assert main(["train", "--config", "c.yaml", *(w for s in settings for w in ("--set", s))]) == 0
    assert training_videos(tmp_path / "run" / "model") == tuple(PARTS["train"])
    words = ["eval", "streamgaze", "--data", str(data), "--model", "run/model", "--arm", "null", "--tasks", "OI-E"]
    words += ["--out", "of_test", "--no-cache"]
    capsys.readouterr()
    assert main(words) == 2
    assert "found 2 that it was, e.g. clip-0.mp4" in capsys.readouterr().err
    assert main([*words, "--split", str(split)]) == 0
    assert "part test of a split" in " ".join(capsys.readouterr().out.split())
    assert {line["video"] for line in map(json.loads, (tmp_path / "of_test" / SAMPLES).open())} == set(PARTS["test"])
