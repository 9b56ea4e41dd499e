"""Dry runs: counts, memory by shapes against what autograd really keeps, and the 7B size without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gazeqwen.info import model_config
from gazeqwen.train import memory
from gazeqwen.train.config import load_config
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.loop import Trainer
from gazeqwen.train.plan import meta_plan, plan, plan_text
from gazeqwen.train.setup import build, training_mode
from tests.made_training import MadeSource, made_config, weights_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
B7 = "Qwen/Qwen2.5-VL-7B-Instruct"


def test_a_dry_run_counts_and_changes_nothing(tmp_path: Path) -> None:
    config = made_config(
        tmp_path / "a",
        steps=0,
        epochs=3,
        batch_videos=2,
        questions_per_video=3,
        data={"cache": "c"},
        eval_arms=["null"],
    )
    trainer = Trainer(config, build(config), MadeSource(5), MadeSource(2, name="other"))
    before = weights_of(trainer.parameters)
    found = plan(trainer)
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.parameters.items())
    assert not (tmp_path / "a").exists() and all(p.grad is None for p in trainer.parameters.values())
    assert (found["questions"], found["videos"], found["steps"], found["questions_a_step"]) == (20, 5, 8, 6)
    assert (found["validation_questions"], found["validation_videos"]) == (8, 2) and found["epochs"] == 3.2
    assert found["frames"] == 2 * 3 * 5
    frozen = trainer.load(trainer.sampler.at(0)[0])[0].frozen
    a_video = frozen.visual.numel() * 4 + frozen.features.numel() * 4  # type: ignore[union-attr]
    assert found["cache_bytes"] == a_video * 7
    assert sum(found["trainable"].values()) == sum(p.numel() for p in trainer.model.resampler.parameters())
    assert found["hours"] > 0 and found["hours"] == pytest.approx(sum(found["hours_by_part"].values()))
    text = plan_text(found)
    assert max(map(len, text.splitlines())) <= 80 and "20 questions on 5 videos" in text


@pytest.mark.parametrize(("settings", "within"), [({}, 0.25), ({"train": "joint"}, 0.25)])
def test_shapes_say_what_backward_keeps(tmp_path: Path, settings: dict[str, Any], within: float) -> None:
    """Against the tensors that the same forward really saves on this CPU."""
    config = made_config(tmp_path / "a", **settings)
    trainer = Trainer(config, build(config), MadeSource(2, n_steps=4))
    videos, forms = zip(*(trainer.load(one) for one in trainer.sampler.at(0)), strict=True)
    held = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}
    alive: list[torch.Tensor] = []
    real: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in held:
            real[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    training_mode(trainer.model, True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.packed(videos, forms)
    model = trainer.model
    shapes = memory.meta_model(model.backbone.config, model.config, config, dtype=torch.float32)
    kept = memory.kept_for_backward(PackedForward(shapes, "inject"), videos, forms)
    assert kept.total(checkpointing=False) == pytest.approx(sum(real.values()), rel=within)
    assert kept.total(checkpointing=True) < 0.8 * kept.total(checkpointing=False)


def test_the_7b_by_its_shapes() -> None:
    """Against numbers counted otherwise: the adapter of the published run, and 7B's own parameters."""
    config, _, _ = model_config(B7)
    found = meta_plan(load_config(CONFIGS / "repro_7b_joint.yaml"))
    text = config.get_text_config()
    q = 8 * (text.hidden_size + text.hidden_size)
    v = 8 * (text.hidden_size + text.hidden_size // text.num_attention_heads * text.num_key_value_heads)
    assert found["trainable"]["lora"] == 28 * (q + v) == 2_523_136
    resampler = sum(n for name, n in found["trainable"].items() if name != "lora")
    assert 1_000_000 < resampler < 5_000_000
    assert found["parameters"]["backbone"] == pytest.approx(8.29e9, rel=0.01) and found["layers"] == [6, 13, 20]
    assert found["gradient_checkpointing"] and [row["tokens_a_step"] for row in found["memory"]] == [64, 64]
    minute, five = found["memory"]
    assert minute["weights"] == pytest.approx(2 * 8.29e9, rel=0.02) and minute["gradients_and_moments"] == 12 * (
        2_523_136 + resampler
    )
    tokens = 60 * 64
    assert tokens < minute["row_tokens"] < tokens + 4 * 120
    assert minute["peak"] < 40 * 2**30 < 80 * 2**30 and minute["peak"] < five["peak"]
    # A row five times as long keeps about five times as much.
    assert five["kept_for_backward"] / minute["kept_for_backward"] == pytest.approx(5, rel=0.25)
    assert max(map(len, plan_text(found).splitlines())) <= 80


def test_nf4_and_stage_one_need_less() -> None:
    joint, one = (load_config(CONFIGS / f"repro_7b_{name}.yaml") for name in ("joint", "stage1"))
    four = load_config(CONFIGS / "repro_7b_joint.yaml", ["model.quantization=nf4"])
    plans = [meta_plan(config) for config in (joint, one, four)]
    parts = [found["memory"][0] for found in plans]
    assert parts[2]["weights"] < 0.5 * parts[0]["weights"]
    assert parts[1]["kept_for_backward"] < parts[0]["kept_for_backward"]
    assert "lora" not in plans[1]["trainable"]


def test_every_repro_config_is_counted_without_weights_at_tiny_size() -> None:
    for name in ("stage1", "stage2", "joint"):
        config = load_config(CONFIGS / f"repro_7b_{name}.yaml", ["model.path=tiny", "model.overrides={}"])
        found = meta_plan(config)
        assert found["model"] == "tiny" and sum(found["trainable"].values()) > 90_000
