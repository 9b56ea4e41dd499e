"""A session on disk: it comes back bit for bit, on its own weights only, and a bad file is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gazeqwen import GazeQwen
from gazeqwen.digest import model_digest
from gazeqwen.errors import ConfigError, InputError
from stream import StreamSession
from stream import snapshot as snapshots
from stream.eviction import Gaze, Recent
from stream.steps import Cut
from tests.made_steps import OPTIONS, QUESTION, held, made_steps, moved_tiny, official_tiny, same_bits, with_residuals
from tests.test_session import part_of


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


@pytest.fixture(scope="module")
def saved(model: GazeQwen, tmp_path_factory: pytest.TempPathFactory) -> Path:
    session = StreamSession(model)
    session.extend(made_steps(2))
    return session.snapshot(tmp_path_factory.mktemp("saved") / "session.safetensors")


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "gaze": {"budget_tokens": 110, "policy": Gaze(tokens=3, sink_steps=1), "position_limit": 64},
    "window": {"window_s": 3.0, "budget_bytes": 300_000},
    "none": {"arm": "none", "budget_steps": 3},
    "text": {"arm": "text"},
    "blind": {"arm": "blind"},
}


@pytest.mark.parametrize("name", CASES)
def test_a_restored_session_answers_and_goes_on_bit_for_bit(model: GazeQwen, tmp_path: Path, name: str) -> None:
    steps = made_steps(30)
    detector = {"detector": "ivt", "parameters": {"max_gap_s": np.float64(0.075)}}
    session = StreamSession(model, detector=detector, **CASES[name])
    session.extend(steps[:12])
    if name in ("plain", "text"):
        list(session.ask("What?", max_new_tokens=3, remember=True))
    session.extend([replace(steps[12].without_gaze(), gaze_late=True), *steps[13:20]])
    session.at(Cut(20.7, part_of(steps[20])))
    path = session.snapshot(tmp_path / "s.safetensors")
    other = StreamSession.restore(path, model)
    for step in ((), steps[20:21], steps[21:29], [part_of(steps[29])]):
        session.extend(step)
        other.extend(step)
        assert same_bits(held(session.state), held(other.state))
        assert torch.equal(session.state.positions, other.state.positions)
        answer, again = session.choose(QUESTION, OPTIONS), other.choose(QUESTION, OPTIONS)
        assert again.to_dict() == replace(answer, latency_ms=again.latency_ms).to_dict()
        assert other.answer("What?", max_new_tokens=4).text == session.answer("What?", max_new_tokens=4).text
        assert other.report() == session.report()
    if name == "gaze":
        assert session.report().relocations > 0 and session.report().steps_thinned > 0
    assert [p.name for p in tmp_path.iterdir()] == ["s.safetensors"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_session_that_has_seen_nothing_comes_back(model: GazeQwen, tmp_path: Path) -> None:
    path = StreamSession(model, budget_steps=2).snapshot(tmp_path / "new")
    other = StreamSession.restore(path, model)
    with pytest.raises(InputError, match="at least one step"):
        other.choose(QUESTION, OPTIONS)
    other.extend(made_steps(4))
    assert other.report().steps_held == 2 and other.report().seconds_seen == pytest.approx(4.0)


def test_other_weights_are_refused(model: GazeQwen, saved: Path) -> None:
    others = [with_residuals(GazeQwen.from_pretrained("tiny"), seed=2), GazeQwen.from_pretrained("tiny", seed=3)]
    for other in others:
        assert model_digest(other) != model_digest(model)
        with pytest.raises(InputError, match="expected a snapshot made with these weights") as caught:
            StreamSession.restore(saved, other)
        assert "\n" not in str(caught.value)
    same = with_residuals(GazeQwen.from_pretrained("tiny"))
    assert StreamSession.restore(saved, same).report().steps_held == 2


def refused(path: Path, model: GazeQwen) -> str:
    with pytest.raises(InputError) as caught:
        StreamSession.restore(path, model)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def test_what_is_no_snapshot_is_one_line(model: GazeQwen, saved: Path, tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent", model)
    refused(tmp_path, model)
    path = tmp_path / "x"
    for content in (b"", b"{}", saved.read_bytes()[:5000], b"\x80\x04\x95pickle"):
        path.write_bytes(content)
        refused(path, model)
    save_file({"a": torch.zeros(2)}, path)
    refused(path, model)
    whole = bytearray(saved.read_bytes())
    whole[-1000] ^= 1
    path.write_bytes(whole)
    assert "its content has changed" in refused(path, model)


@settings(max_examples=25, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(saved: Path, tmp_path_factory: pytest.TempPathFactory, at: float, bit: int) -> None:
    whole = bytearray(saved.read_bytes())
    whole[int(at * len(whole))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "x"
    path.write_bytes(whole)
    refused(path, moved_tiny())


FORGED: list[Callable[[dict[str, Any], dict[str, Any]], Any]] = [
    lambda told, tensors: told.pop("state"),
    lambda told, tensors: told["state"].pop("spans"),
    lambda told, tensors: told["state"]["spans"].pop(),
    lambda told, tensors: told.update(seen="often"),
    lambda told, tensors: told["options"].update(arm="no such arm"),
    lambda told, tensors: told["options"].update(colour="red"),
    lambda told, tensors: told["state"]["rope"].update(next=None, tokens_per_second="two"),
    lambda told, tensors: told["state"]["gaze"].clear(),
    lambda told, tensors: tensors.pop("keys.2"),
    lambda told, tensors: tensors.update({"values.1": tensors["values.1"].half()}),
    lambda told, tensors: tensors.update({"positions": tensors["positions"][:, 1:].clone()}),
    lambda told, tensors: tensors.pop("gaze.t_s"),
    lambda told, tensors: told.update(format=2),
]


@pytest.mark.parametrize("forge", FORGED)
def test_a_made_up_file_is_one_line(
    model: GazeQwen, saved: Path, tmp_path: Path, forge: Callable[[dict[str, Any], dict[str, Any]], Any]
) -> None:
    """With a right checksum, so that reading gets as far as it can."""
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        told = json.loads(file.metadata()["session"])
    tensors = load_file(saved)
    forge(told, tensors)
    text = json.dumps(told)
    path = tmp_path / "forged"
    save_file(tensors, path, metadata={"session": text, "sha256": snapshots._digest(text, tensors)})
    refused(path, model)


def test_a_failed_write_leaves_the_old_file(model: GazeQwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = StreamSession(model)
    session.extend(made_steps(2))
    path = session.snapshot(tmp_path / "s")
    before = path.read_bytes()
    session.extend(made_steps(1, start_s=2.0))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots, "save_file", full)
    with pytest.raises(InputError, match="No space left"):
        session.snapshot(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s"]
    monkeypatch.undo()
    with pytest.raises(InputError, match="can be written"):
        session.snapshot(tmp_path / "no" / "folder" / "s")
    session.snapshot(path)
    assert StreamSession.restore(path, model).report().steps_seen == 3


class Own(Recent):
    """A policy of the caller's own."""


def test_sessions_that_hold_more_than_a_snapshot_say_so(model: GazeQwen, tmp_path: Path) -> None:
    sessions = [
        StreamSession(model, window="refill", window_s=2.0),
        StreamSession(official_tiny(), arm="none"),
        StreamSession(model, budget_steps=3, policy=Own()),
    ]
    for session in sessions:
        with pytest.raises(ConfigError, match="snapshot"):
            session.snapshot(tmp_path / "s")
    assert not list(tmp_path.iterdir())
