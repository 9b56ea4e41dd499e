"""A run's folder: whole checkpoints or none, what is kept, and a log that a kill may cut short."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest
import torch

from gazeqwen.errors import InputError
from gazeqwen.train.state import (
    Checkpoints,
    MetricsLog,
    Progress,
    read_metrics,
    restore_tensors,
    training_tensors,
)


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"weight.a": torch.full((4,), value)}


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, max_keep=2)
    assert checkpoints.steps() == []
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(Progress(step, best_step=2 if step > 1 else 1, best=0.5), tensors(step), "steps: 1\n")
    assert checkpoints.steps() == [2, 4, 5]
    progress, found = checkpoints.load(5)
    assert progress == Progress(5, best_step=2, best=0.5) and torch.equal(found["weight.a"], torch.full((4,), 5.0))
    assert sorted(path.name for path in checkpoints.path(5).iterdir()) == [
        "config.yaml",
        "state.json",
        "training.safetensors",
    ]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, max_keep=1)
    checkpoints.save(Progress(1), tensors(), "")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=r"00000002: expected room for a checkpoint, found .*; free some") as error:
            checkpoints.save(Progress(2), {"weight.a": torch.zeros(10_000)}, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert checkpoints.steps() == [1] and torch.equal(checkpoints.load(1)[1]["weight.a"], torch.ones(4))
    assert [path.name for path in checkpoints.folder.iterdir()] == ["00000001"]
    checkpoints.save(Progress(2), tensors(2), "")
    assert checkpoints.steps() == [2]


def test_a_disk_that_is_full_when_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, max_keep=1)
    checkpoints.save(Progress(1), tensors(), "")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gazeqwen.train.state.os.fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        checkpoints.save(Progress(2), tensors(), "")
    assert checkpoints.steps() == [1] and checkpoints.load(1)[0].step == 1


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, max_keep=1)
    checkpoints.save(Progress(1), tensors(), "")
    half = checkpoints.folder / ".00000002"
    half.mkdir()
    (half / "state.json").write_text("{")
    assert checkpoints.steps() == [1]
    checkpoints.clear_unfinished()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["00000001"]


@pytest.mark.parametrize("name", ["training.safetensors", "state.json"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 40, None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, name: str, content: bytes | None) -> None:
    checkpoints = Checkpoints(tmp_path, max_keep=1)
    path = checkpoints.save(Progress(1), tensors(), "") / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: expected a checkpoint's .*; delete that folder"):
        checkpoints.load(1)


def test_weights_and_moments_come_back_bit_for_bit() -> None:
    def made() -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
        torch.manual_seed(0)
        held = {"a": torch.nn.Parameter(torch.randn(3, 2)), "b": torch.nn.Parameter(torch.randn(2))}
        return held, torch.optim.AdamW(held.values(), lr=0.1)

    def step(held: dict[str, torch.nn.Parameter], optimizer: torch.optim.AdamW) -> None:
        optimizer.zero_grad()
        (held["a"].sum() ** 2 + (held["b"] ** 3).sum()).backward()
        optimizer.step()

    one, optimizer = made()
    step(one, optimizer)
    saved = {name: tensor.clone() for name, tensor in training_tensors(one, optimizer).items()}
    step(one, optimizer)
    two, other = made()
    restore_tensors(saved, two, other, source=Path("x"))
    step(two, other)
    assert all(torch.equal(one[name], two[name]) for name in one)
    three, _ = made()
    restore_tensors(saved, three, None, source=Path("x"))
    assert torch.equal(three["a"], saved["weight.a"])
    for odd in (
        {"weight.a": saved["weight.a"]},
        saved | {"weight.c": saved["weight.a"]},
        saved | {"weight.b": torch.ones(5)},
    ):
        with pytest.raises(InputError, match="the tensors that this run trains"):
            restore_tensors(odd, two, other, source=Path("x"))


def test_the_log_is_cut_where_a_kill_cut_it_and_counts_a_step_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (1, 2, 3):
        log.write({"event": "step", "step": step, "loss": float(step)})
    log.close()
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"event": "step", "st')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3]
    log = MetricsLog(tmp_path)
    log.write({"event": "step", "step": 3, "loss": 30.0})
    log.write({"event": "validation", "step": 3, "score": float("nan")})
    log.close()
    assert len(path.read_text().splitlines()) == 5
    assert [(row["event"], row.get("loss")) for row in read_metrics(tmp_path)] == [
        ("step", 1.0),
        ("step", 2.0),
        ("step", 30.0),
        ("validation", None),
    ]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_log_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1}\n')
    with pytest.raises(InputError, match="found line 1"):
        read_metrics(tmp_path)
