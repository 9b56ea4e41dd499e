"""`gazeqwen train` as it is typed: a run, its dry run, `--overfit`, and one line for whatever is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gazeqwen import GazeQwen
from gazeqwen.cli import main
from gazeqwen.train.card import Facts, card_text
from tests.made_training import MadeSource, made_config


@pytest.fixture
def made_data(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of the reader of StreamGaze-format folders; gives what it was asked for."""
    asked: list[Any] = []

    def open_source(data: Path, **options: Any) -> MadeSource:
        asked.append((data, options))
        return MadeSource(3 if len(asked) % 2 else 2, name="video" if len(asked) % 2 else "other", n_steps=2)

    monkeypatch.setattr("benchmarks.streamgaze.training.open_source", open_source)
    return asked


def arguments(tmp_path: Path, *more: str) -> list[str]:
    path = tmp_path / "mine.yaml"
    path.write_text("steps: 2\nbatch_videos: 2\ntrackers: []\neval_arms: [inject, null]\nlog_every: 1\n")
    out = f"out={tmp_path / 'run'}"
    return ["train", "--config", str(path), "--set", out, "--set", "data.train=DIR", *more]


def test_a_run_ends_with_a_model(tmp_path: Path, made_data: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--set", "data.split=s.json", "--set", "data.cache=C", "--set", "data.tasks=[OTP]"]
    assert main(arguments(tmp_path, *more)) == 0
    said = capsys.readouterr()
    assert [(data, options["split"]) for data, options in made_data] == [
        (Path("DIR"), (Path("s.json"), "train")),
        (Path("DIR"), (Path("s.json"), "validation")),
    ]
    assert made_data[0][1]["cache"] == Path("C") and made_data[0][1]["tasks"] == ("OTP",)
    folder = tmp_path / "run" / "model"
    assert said.out.startswith(f"model       {folder}\nsteps       2, the weights of step 2\ninject")
    assert "step 1/2 loss" in said.err and "validation at 2: null" in said.err
    assert all(len(line) <= 80 for line in said.out.splitlines()[1:])
    assert GazeQwen.from_pretrained(folder).config.trained.startswith("stage one on 9 questions of 3 videos")
    assert yaml.safe_load((folder / "train_config.yaml").read_text())["eval_arms"] == ["inject", "null"]

    assert main([*arguments(tmp_path, *more), "--json"]) == 0  # done already: nothing is trained again
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert found["step"] == 2 and set(found["validation"]) == {"inject", "null"} and "loss" not in again.err


def test_dry_runs(tmp_path: Path, made_data: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(tmp_path), "--dry-run"]) == 0
    assert "9 questions on 3 videos" in capsys.readouterr().out
    assert main([*arguments(tmp_path), "--dry-run", "meta", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "tiny"
    assert not (tmp_path / "run").exists()


def test_overfit_says_whether_it_worked_by_its_exit_code(
    tmp_path: Path, made_data: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(tmp_path, "--set", "optimizer.lr=3e-3"), "--overfit", "2"]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 questions right after")
    monkeypatch.setattr("gazeqwen.train.overfit.MOST_STEPS", 1)
    assert main([*arguments(tmp_path), "--overfit", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["learned"] is False


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "stepz=1"], "unknown keys ['stepz']; known keys are ['accumulation', 'arm'"),
        (["--set", "data.train="], "data.train: expected a folder of training data, found none; --set data.train=DIR"),
        (["--set", "data.validation=V", "--set", "data.split=s"], "either validation (another folder) or split"),
        (["--set", "model.path=/nowhere"], "/nowhere"),
        (["--dry-run", "--overfit", "8"], "not allowed with argument"),
        (["--overfit", "0"], "expected a whole number of at least 1"),
    ],
)
def test_what_is_wrong_is_one_line(
    tmp_path: Path, made_data: list[Any], capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    try:
        code = main(arguments(tmp_path, *more))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2 and not captured.out
    assert said in captured.err and len(captured.err.strip().splitlines()) == 1


def test_flags_of_eval_from_a_file(tmp_path: Path) -> None:
    from gazeqwen.arguments import build_parser
    from gazeqwen.arguments_file import with_file
    from gazeqwen.errors import InputError

    shipped = Path(__file__).resolve().parents[1] / "configs" / "repro_7b_eval.yaml"
    argv = ["eval", "streamgaze", "--config", str(shipped), "--data", "D", "--out", "R", "--arm", "none"]
    parsed = build_parser().parse_args(with_file(argv))
    assert parsed.model == "runs/repro_7b_joint/model" and parsed.arm == "none" and parsed.data == Path("D")
    path = tmp_path / "flags.yaml"
    path.write_text("arm: null\nmax_frames: 300\ndry_run: true\nno_cache: false\ntasks: [SR, OTP]\n")
    flags = with_file(["eval", "streamgaze", "--data", "D", "--config", str(path), "--out", "R"])
    assert flags[2:] == [
        "--arm", "null", "--max-frames", "300", "--dry-run", "--tasks", "SR", "OTP", "--data", "D", "--out", "R",
    ]  # fmt: skip
    assert with_file(["ask", "--config", "x"]) == ["ask", "--config", "x"]
    path.write_text("- a\n")
    with pytest.raises(InputError, match=r"flags\.yaml: expected flags and their values"):
        with_file(["eval", "streamgaze", "--config", str(path)])


# -- the card ----------------------------------------------------------------------------------------------------------

FACTS = Facts(
    steps=9,
    best_step=6,
    questions=20,
    trainable={"resampler.latents": 1024, "lora": 2048},
    training=("a", "b"),
    validation=("c",),
    results={
        "inject": {"accuracy": {"OTP": 0.5, "SR": 0.25}, "n": {"OTP": 8, "SR": 4}, "macro": 0.375, "text_nll": None},
        "null": {"accuracy": {"OTP": 0.25}, "n": {"OTP": 8}, "macro": 0.25, "text_nll": 1.5},
    },
    base="Qwen/Qwen2.5-VL-7B-Instruct",
    vjepa="vjepa.safetensors",
    command=("gazeqwen", "train", "--set", "out=my run"),
    earlier=("z",),
)


def test_the_cards_header_is_what_the_hub_reads(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    config = made_config(tmp_path / "mine", train="joint", null_gaze=0.1)
    card = ModelCard(card_text(config, FACTS))
    data: Any = card.data
    assert data.base_model == "Qwen/Qwen2.5-VL-7B-Instruct" and data.library_name == "gazeqwen"
    found = {result.dataset_config: result.metric_value for result in data.eval_results or []}
    assert found == {"OTP": 50.0, "SR": 25.0}
    assert "| OTP | 8 | 50.0 | 25.0 |\n| SR | 4 | 25.0 |  |\n| macro | | 37.5 | 25.0 |" in card.text
    for said in ("Trained on 20 questions of 2 videos, validated on 1", "gazeqwen train --set 'out=my run'",
                 "trained on 1 videos", "## Privacy of gaze", "vjepa.safetensors", "null gaze in 10 %"):  # fmt: skip
        assert said in card.text.replace("\n", " ") or said in card.text


def test_the_cards_code_runs_up_to_the_video(tmp_path: Path) -> None:
    for settings in ({}, {"arm": "null"}):
        code = card_text(made_config(tmp_path / "mine", **settings), FACTS).split("```python\n")[1].split("```")[0]
        assert len(code.strip().splitlines()) == 6
        compile(code, "card", "exec")
    bare = card_text(made_config(tmp_path / "mine"), Facts(**{**FACTS.__dict__, "results": {}}))
    assert "nothing was measured" in bare
