"""What is made trainable, and quantised backbones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gazeqwen import GazeQwen
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.loop import Trainer
from gazeqwen.train.result import write_result
from gazeqwen.train.setup import build, prepare, training_videos
from gazeqwen.train.state import read_metrics
from tests.made_steps import example, made_steps, official_tiny
from tests.made_training import MadeSource, made_config, weights_of


def config_of(tmp_path: Path, **settings: Any) -> TrainConfig:
    return made_config(tmp_path / "out", **settings)


def test_a_joint_start_answers_as_the_backbone(tmp_path: Path) -> None:
    plain, prepared = GazeQwen.from_pretrained("tiny"), build(config_of(tmp_path, train="joint"))
    batch = [example(made_steps(2))]
    with torch.no_grad():
        assert torch.equal(prepared.model(batch).logits, plain(batch, arm="none").logits)
    lora = [name for name in prepared.parameters() if ".lora_" in name]
    assert len(lora) == 2 * 2 * plain.backbone.n_layers and not any("visual" in name for name in lora)
    assert all("q_proj" in name or "v_proj" in name for name in lora)


def test_seeds_make_the_start(tmp_path: Path) -> None:
    started = [weights_of(build(config_of(tmp_path, seed=seed, train="joint")).parameters()) for seed in (0, 0, 1)]
    assert all(torch.equal(started[0][name], started[1][name]) for name in started[0])
    assert not torch.equal(started[0]["resampler.latents"], started[2]["resampler.latents"])
    assert any(not torch.equal(started[0][name], started[2][name]) for name in started[0] if "lora_A" in name)


def test_a_resampler_goes_on_or_starts_anew(tmp_path: Path) -> None:
    folder = GazeQwen.from_pretrained("tiny").save_pretrained(tmp_path / "model")
    held = GazeQwen.from_pretrained(folder).resampler.state_dict()
    kept = build(
        config_of(tmp_path, model={"path": str(folder), "fresh_resampler": False})
    ).model.resampler.state_dict()
    anew = build(config_of(tmp_path, model={"path": str(folder)})).model.resampler.state_dict()
    assert all(torch.equal(held[name], kept[name]) for name in held)
    assert not torch.equal(held["latents"], anew["latents"])


def test_overrides_make_another_resampler(tmp_path: Path) -> None:
    overrides = {"resampler": {"latents": 3, "layers": "learned"}}
    model = build(config_of(tmp_path, model={"overrides": overrides})).model
    assert model.config.resampler.latents == 3 and model.resampler.layers == (0, 1, 2, 3)


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compat='official' weights are for inference"):
        prepare(official_tiny(), config_of(tmp_path))
    adapted = build(config_of(tmp_path, train="joint")).model
    with pytest.raises(ConfigError, match="arm 'null' is trained on a backbone without an adapter"):
        prepare(adapted, config_of(tmp_path, arm="null"))
    model = GazeQwen.from_pretrained("tiny")
    model.arm_weights = "null"
    with pytest.raises(ConfigError, match="holds the weights of arm 'null'"):
        prepare(model, config_of(tmp_path))


def test_results_that_are_damaged(tmp_path: Path) -> None:
    assert training_videos(tmp_path) == ()
    (tmp_path / "results.json").write_text('{"videos": 1}')
    with pytest.raises(InputError, match=r"results\.json: expected results\.json of a training run"):
        training_videos(tmp_path)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_backbone_trains_after_a_validation_and_is_saved(tmp_path: Path, quantization: str) -> None:
    config = config_of(tmp_path, model={"quantization": quantization}, train="joint", steps=3, eval_every=1)
    trainer = Trainer(config, build(config), MadeSource(2, n_steps=2), MadeSource(1, name="other", n_steps=2))
    outcome = trainer.run()
    rows = [row for row in read_metrics(tmp_path / "out") if row["event"] == "step"]
    assert all(row["grad_norm"] > 0 for row in rows)
    expected = weights_of(trainer.parameters)
    model = GazeQwen.from_pretrained(write_result(trainer, outcome))  # the backbone as it was before it was quantised
    held = model.trainable_parameters()
    assert all(torch.equal(held[name], weight) for name, weight in expected.items())
    assert not getattr(model.backbone.bare, "is_quantized", False)


def test_nf4_weights_that_a_cpu_kernel_repacked_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, model={"quantization": "nf4"})
    model = GazeQwen.from_pretrained("tiny", quantization="nf4")
    layers = [module for module in model.modules() if type(module).__name__ == "Linear4bit"]
    for module in layers:
        module.support_avx512bf16_for_cpu = True  # type: ignore[assignment]  # as on a CPU that has it
    prepare(model, config)
    assert layers and not any(module.support_avx512bf16_for_cpu for module in layers)
    layers[0].weight.quant_state = SimpleNamespace(packing_format_for_cpu=True)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="load the model anew"):
        prepare(model, config)


def test_the_adapter_loads_in_plain_peft_and_merged_equals_unmerged(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = config_of(tmp_path, train="joint", steps=2, optimizer={"lr": 0.05, "warmup_steps": 0})
    trainer = Trainer(config, build(config), MadeSource(2, n_steps=2))
    folder = write_result(trainer, trainer.run())
    ours = GazeQwen.from_pretrained(folder)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "backbone", dtype=torch.float32).eval()
    ids = torch.tensor([[5, 9, 300, 17, 42]])
    with torch.no_grad():
        bare = plain(input_ids=ids).logits
        adapted: Any = PeftModel.from_pretrained(plain, str(folder / "lora")).eval()
        unmerged = adapted(input_ids=ids).logits
        assert torch.allclose(unmerged, ours.vlm(input_ids=ids).logits, atol=1e-5)
        assert (unmerged - bare).abs().max() > 1e-3
        assert torch.allclose(adapted.merge_and_unload()(input_ids=ids).logits, unmerged, atol=1e-5)
