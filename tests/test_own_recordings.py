"""docs/own_recordings.md, command by command, on clips of a few seconds: from recordings to weights that answer."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from gazeqwen import GazeQwen
from gazeqwen.cli import main
from tests.pipeline_recordings import make_recording

ROOT = Path(__file__).resolve().parents[1]
TOY = ("steps=2", "batch_videos=2", "questions_per_video=4", "eval_every=2", "trackers=[]")


def commands() -> list[list[str]]:
    """The gazeqwen commands of the page's blocks, in order."""
    text = (ROOT / "docs" / "own_recordings.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "gazeqwen"]


def test_the_page_works_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate("abce"):
        make_recording(tmp_path / "recordings", name, seed=seed, duration_s=7.0)
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    done = []
    for words in commands():
        toy = [word for setting in TOY for word in ("--set", setting)] if words[0] == "train" else []
        assert main([*words, *toy]) == 0, f"{words}: {capsys.readouterr().err}"
        shown = capsys.readouterr().out
        assert shown and all(len(line) <= 80 for line in shown.splitlines()), words
        done.append(" ".join(words[:2] if words[0] in ("data", "eval") else words[:1]))
        if "--dry-run" in words:
            assert not Path("runs").exists() or {path.name for path in Path("runs").iterdir()} == {"cache"}
    assert done == ["data build", "data split"] + ["train"] * 2 + ["eval streamgaze"] * 2 + ["compare", "ask"]
    trained, begun = GazeQwen.from_pretrained("runs/mine/model"), GazeQwen.from_pretrained("tiny")
    learned = trained.resampler.state_dict()
    assert any(not torch.equal(tensor, learned[name]) for name, tensor in begun.resampler.state_dict().items())
    card = Path("runs/mine/model/README.md").read_text(encoding="utf-8")
    assert "questions of 2 videos" in card
