"""Pre-training of the tiny model's V-JEPA: its clips, that it learns, that a killed run goes on, the probe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.tiny import vjepa_training
from benchmarks.tiny.vjepa_training import (
    CHECKPOINT,
    FEATURES,
    VALUES,
    MaskedPrediction,
    ProbeSettings,
    VJEPATraining,
    clip_pool,
    draw_clips,
    draw_masks,
    encode_patches,
    make_probe_set,
    patches_of,
    probe_table,
    train_vjepa,
)
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.tiny.world import World
from gazeqwen.tiny.world_events import STEP_S
from gazeqwen.vjepa import RollingWindow, VJEPA21Features
from gazeqwen.vjepa_encoder import VJEPA21
from gazeqwen.vjepa_weights import load_official
from stream.world_recording import WorldRecording

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is of torch 2.9 or newer")

TOY = VJEPATraining(
    first_seed=50,
    worlds=2,
    clips_per_world=4,
    duration_s=8.0,
    steps=6,
    batch=4,
    warmup_steps=2,
    checkpoint_every=2,
    log_every=1,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs here find the clips."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def trained(work: Path) -> Path:
    return train_vjepa(TOY, work / "whole", work=work)


def rows_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_clips_are_what_a_stream_shows_the_encoder() -> None:
    world = World.make(50, duration_s=5.0)
    window, compared = RollingWindow(FEATURES), 0
    for step in WorldRecording(world, gaze=None).steps(2.0, vjepa_fps=FEATURES.fps):
        held = window.push(step.vjepa_frames, step.vjepa_times_s)
        if len(step.vjepa_times_s) == FEATURES.window_frames:
            clips = draw_clips(world, [round(step.vjepa_times_s[-1] * FEATURES.fps)])
            assert torch.equal(torch.from_numpy(clips[0]), held)
            compared += 1
    assert compared == 4


def test_clips_are_kept_and_a_damaged_file_is_made_again(work: Path, trained: Path) -> None:
    (path,) = work.glob("clips-*.npy")
    before = np.load(path)
    assert before.shape == (8, 8, 96, 96, 3) and not (before[0] == before[1]).all()
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(clip_pool(TOY, work), before)
    assert [found.name for found in work.glob("clips-*")] == [path.name]


def test_masks_hide_the_same_number_everywhere_and_tubes_are_constant_in_time() -> None:
    seen, hidden = draw_masks(16, (4, 6, 6), torch.Generator().manual_seed(0), mask_share=0.75, tube_share=0.5)
    assert seen.shape == (16, 36) and (hidden.sum(dim=1) == 108).all()
    assert not hidden.gather(1, seen).any() and (seen.diff(dim=1) > 0).all()
    constant = (hidden.view(16, 4, 36) == hidden.view(16, 4, 36)[:, :1]).flatten(1).all(dim=1)
    assert 0 < constant.sum() < 16


def test_all_tokens_encode_as_the_features_of_a_stream(work: Path, trained: Path) -> None:
    clips = torch.from_numpy(np.array(clip_pool(TOY, work)[:2]))
    encoder = load_official(trained, FEATURES.vjepa)
    with torch.no_grad():
        ours = encode_patches(encoder, patches_of(clips, FEATURES.vjepa), (4, 6, 6))
        some = encode_patches(encoder, patches_of(clips, FEATURES.vjepa), (4, 6, 6), torch.arange(144).expand(2, -1))
    theirs = VJEPA21Features(encoder, FEATURES).encode(clips).flatten(1, 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(some, theirs, rtol=1e-4, atol=1e-5)


def test_the_loss_falls(tmp_path: Path, work: Path) -> None:
    train_vjepa(replace(TOY, steps=12), tmp_path, work=work)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 13))
    for part in ("loss", "pixel"):
        values = [row[part] for row in rows]
        assert np.isfinite(values).all() and np.mean(values[-4:]) < np.mean(values[:4])
    assert all(row["latent"] > 0 and row["spread"] > 0 for row in rows)


def test_the_teacher_gets_no_gradient_and_follows_the_student(work: Path) -> None:
    model = MaskedPrediction(TOY)
    masks = draw_masks(2, model.grid, torch.Generator().manual_seed(0), mask_share=0.75, tube_share=0.0)
    model(torch.from_numpy(np.array(clip_pool(TOY, work)[:2])), *masks).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    learnt = [name for name, p in model.student.named_parameters() if p.grad is not None]
    assert {name.split(".")[0] for name in learnt} == {"patch_embed", "video_mod_embed", "blocks", "norms_block"}
    assert not any(name.startswith("teacher") for name in model.trained())

    before = model.teacher.patch_embed.proj.weight.clone()
    with torch.no_grad():
        model.student.patch_embed.proj.weight += 1
    model.follow(10_000)
    moved = model.teacher.patch_embed.proj.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
def test_either_loss_alone(tmp_path: Path, work: Path, weights: tuple[float, float]) -> None:
    settings = replace(TOY, steps=1, latent_weight=weights[0], pixel_weight=weights[1])
    train_vjepa(settings, tmp_path, work=work)
    (row,) = rows_of(tmp_path)
    assert (row["latent"] > 0, row["pixel"] > 0) == (weights[0] > 0, weights[1] > 0)


def test_a_loss_that_is_not_finite_keeps_the_checkpoint(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vjepa_training._batch

    def broken(*arguments: Any) -> tuple[Tensor, ...]:
        clips, *masks = whole(*arguments)
        return clips.float() * (np.nan if arguments[-1] == 2 else 1.0), *masks

    monkeypatch.setattr(vjepa_training, "_batch", broken)
    with pytest.raises(InputError, match="expected a finite loss and gradient, found nan and nan at step 2"):
        train_vjepa(TOY, tmp_path, work=work)
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        assert file.metadata()["step"] == "2"


def test_an_out_that_cannot_be_written_is_one_line(tmp_path: Path, work: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected room to write") as caught:
        train_vjepa(TOY, tmp_path / "file", work=work)
    assert "\n" not in str(caught.value)


def test_saved_weights_load_strictly(trained: Path) -> None:
    VJEPA21(FEATURES.vjepa).load_state_dict(load_file(trained), strict=True)
    assert load_official(trained).config == FEATURES.vjepa  # its header records the shape


def test_a_killed_run_goes_on_to_the_same_weights(
    tmp_path: Path, work: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = vjepa_training._batch

    def killed(settings: VJEPATraining, pool: np.ndarray, grid: tuple[int, int, int], step: int) -> object:
        if step == 5:
            raise KeyboardInterrupt
        return whole(settings, pool, grid, step)

    monkeypatch.setattr(vjepa_training, "_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        train_vjepa(TOY, tmp_path, work=work)
    monkeypatch.setattr(vjepa_training, "_batch", whole)
    assert same(load_file(train_vjepa(TOY, tmp_path, work=work)), load_file(trained))
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 2, 3, 4, 5, 5, 6]
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "metrics.jsonl", "vjepa.safetensors"]


def test_a_run_out_of_time_stops_and_goes_on(tmp_path: Path, work: Path, trained: Path) -> None:
    first = load_file(train_vjepa(replace(TOY, max_minutes=1e-9), tmp_path, work=work))
    assert not same(first, load_file(trained))
    assert same(load_file(train_vjepa(TOY, tmp_path, work=work)), load_file(trained))


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


LOST = {"momentum": "momentum_buffer.student.blocks.0.mlp.fc1.weight"}
FOUND = {
    "momentum": "expected the optimizer's momentum_buffer of .*, found none",
    "average": r"exp_avg of predictor.hidden, found one of shape \(2,\)",
}


@pytest.mark.parametrize("damage", ["cut", "text", "header", "teacher", "momentum", "average"])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path: Path, work: Path, trained: Path, damage: str) -> None:
    path = tmp_path / CHECKPOINT
    whole = (trained.parent / CHECKPOINT).read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "text":
        path.write_text("no checkpoint", encoding="utf-8")
    else:
        tensors = load_file(trained.parent / CHECKPOINT)
        if damage == "average":
            tensors["exp_avg.predictor.hidden"] = torch.zeros(2)
        else:
            del tensors[LOST.get(damage, "model.teacher.img_mod_embed")]
        header = {} if damage == "header" else {"step": "6", "settings": json.dumps(TOY.makes)}
        save_file(tensors, path, metadata=header)
    with pytest.raises(InputError, match=FOUND.get(damage)) as caught:
        train_vjepa(TOY, tmp_path, work=work)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, work: Path, trained: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes((trained.parent / CHECKPOINT).read_bytes())
    with pytest.raises(InputError, match="others: learning_rate;"):
        train_vjepa(replace(TOY, learning_rate=1e-3), tmp_path, work=work)


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"steps": 0}, {"mask_share": 1.5}, {"latent_weight": 0.0, "pixel_weight": 0.0}, {"batch": 0}):
        with pytest.raises(ConfigError):
            replace(TOY, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 32"):
        MaskedPrediction(replace(TOY, predictor_dim=40))
    with pytest.raises(ConfigError):
        ProbeSettings(worlds=1)


PROBED = ProbeSettings(first_seed=70, worlds=4, clips_per_world=6, duration_s=16.0, test_share=0.5)


def test_the_probes_truth_is_the_scripts() -> None:
    data = make_probe_set(PROBED)
    assert data.clips.shape == (24, 8, 96, 96, 3) and set(data.labels) == set(VALUES)
    assert (data.test == (data.clip >= 12)).all() and ((data.xy_norm[:, -1] >= 0) & (data.xy_norm[:, -1] < 1)).all()
    touched = data.labels["touch"]
    assert (touched == 1).any() and (touched == 0).any()
    rng = np.random.default_rng(PROBED.seed)
    for index in range(PROBED.worlds):
        world = World.make(70 + index, duration_s=PROBED.duration_s)
        ends = vjepa_training.draw_ends(world, PROBED.clips_per_world, rng, FEATURES, events=2 / 3)
        for place, end in enumerate(ends.tolist()):
            rows = np.round(np.arange(end - 7, end + 1) / FEATURES.fps / STEP_S).astype(int)
            here = data.clip == index * PROBED.clips_per_world + place
            things = [VALUES["noun"].index(name) for name in world.names]
            for row in np.flatnonzero(here):
                thing = things.index(data.labels["noun"][row])
                flashes = set(world.script.flash[rows, thing].tolist())
                if data.labels["flash"][row] >= 0:
                    assert data.labels["flash"][row] - 1 in flashes
                moved = (world.script.place - world.script.home)[rows, thing]
                if data.labels["motion"][row] > 0:
                    assert np.abs(moved).max() > 0.02
                assert data.labels["state"][row] == world.script.state[rows[-1], thing]
                if touched[row] == 1:
                    assert world.script.grip[rows[-1]]


def test_the_probe_table_has_a_row_a_task(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vjepa_training, "RIDGES", (1e-2,))
    table = probe_table(trained, PROBED)
    assert {"noun", "colour", "state", "touch"} <= set(table)
    for task, row in table.items():
        assert row["classes"] == len(VALUES[task]) and min(row["n_train"], row["n_test"]) > 0
        for name in ("random", "trained", "random_step", "trained_step"):
            assert all(0 <= row[name][kind] <= 100 for kind in ("accuracy", "balanced"))
        assert 0 <= row["majority"] <= 100
    assert json.loads(json.dumps(table)) == table
