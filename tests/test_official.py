"""The published checkpoint: conversion is exact or refused, its LoRA arrives through PEFT, its rules of time hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from benchmarks.speed.resampler import Width, published_loop, seeded_inputs, seeded_module
from gazeqwen.config import GazeQwenConfig, VJEPAConfig
from gazeqwen.errors import InputError
from gazeqwen.official import LORA_TARGETS, convert_official, official_frame_times, pick_fps, scanpath_tensor
from gazeqwen.resampler import OfficialResampler
from gazeqwen.types import Fixations
from tests.conftest import shared_dir
from tests.golden import section_01c

SIZES = Width(steps=2, patches=4, dim=8, latents=3, feature_dim=8, hidden_dim=32)
VJEPA = VJEPAConfig(dim=8, heads=1, mlp_dim=8)
RANK, ALPHA = 2, 8.0
OUTPUTS = {"q": 32, "v": 16}


def checkpoint() -> dict[str, Any]:
    """A small checkpoint in the published format, with random numbers everywhere."""
    lora = {}
    for layer in range(SIZES.n_layers):
        for projection, outputs in OUTPUTS.items():
            name = f"model.layers.{layer}.self_attn.{projection}_proj.lora_"
            lora[name + "A"], lora[name + "B"] = torch.randn(RANK, SIZES.hidden_dim), torch.randn(outputs, RANK)
    return {
        "state_dict": dict(seeded_module(SIZES).state_dict()),
        "config": {
            "d_vjepa": 8,
            "d_llm": 32,
            "n_latents": 3,
            "d_latent": 8,
            "n_blocks": 2,
            "n_layers": 28,
            "version": "gazelens",
        },
        "lora_state_dict": lora,
        "lora_config": {"rank": RANK, "alpha": ALPHA},
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "best_model.pt"
    torch.save(content, path)
    return path


def convert(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return convert_official(source, base="base/id", vjepa="vjepa.pt", out=out, **{"vjepa_config": VJEPA, **options})


def test_golden_01c() -> None:
    error, tolerance = section_01c.check(shared_dir("golden"))
    assert error <= tolerance


def test_converted_folder_gives_the_same_residuals(tmp_path: Path) -> None:
    report = convert(write(tmp_path, checkpoint()), tmp_path / "out")
    out = tmp_path / "out"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        "config.json",
        "lora/adapter_config.json",
        "lora/adapter_model.safetensors",
        "model.safetensors",
    ]
    config = GazeQwenConfig.from_dict(json.loads((out / "config.json").read_text()))
    assert (config.compat, config.base, config.lora, config.vjepa_weights) == ("official", "base/id", True, "vjepa.pt")
    assert config.resampler.layers == (6, 13, 20, 27) and config.gaze_encoding.name == "official"
    module = OfficialResampler(config.resampler, feature_dim=config.features.vjepa.dim, hidden_dim=32, n_layers=28)
    state = load_file(out / "model.safetensors")
    module.load_state_dict({name.removeprefix("resampler."): t for name, t in state.items()}, strict=True)
    given = seeded_inputs(SIZES, torch.device("cpu"))
    residuals = module(*given)
    loop = published_loop(seeded_module(SIZES), *given)
    for row, layer in enumerate((6, 13, 20, 27)):
        torch.testing.assert_close(residuals.for_layer(layer), loop[row], rtol=0, atol=1e-5)
    assert report["tensors"] == 141 and report["lora_tensors"] == 112 and report["layout"] == "published"
    assert report["lora_parameters"] == 28 * RANK * (2 * 32 + 32 + 16) and not report["last_layer_output_is_zero"]
    assert json.loads(json.dumps(report)) == report
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_lora_delta_through_peft_is_the_published_formula(tmp_path: Path) -> None:
    content = checkpoint()
    convert(write(tmp_path, content), tmp_path / "out")
    x = torch.randn(5, 32)
    for projection in ("model.layers.3.self_attn.v_proj", "model.layers.27.self_attn.q_proj"):
        a, b = (content["lora_state_dict"][f"{projection}.lora_{side}"] for side in "AB")
        delta = section_01c.lora_output(tmp_path / "out" / "lora", projection, x)
        torch.testing.assert_close(delta, (x @ a.T @ b.T) * (ALPHA / RANK), rtol=1e-6, atol=1e-5)


def test_peft_places_the_adapter_on_a_real_qwen_language_model_only(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 28,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 32,
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 32}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    content = checkpoint()
    convert(write(tmp_path, content), tmp_path / "out")
    adapted = PeftModel.from_pretrained(Qwen2_5_VLForConditionalGeneration(config), str(tmp_path / "out" / "lora"))
    found = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    assert len(found) == 112 and not any("visual" in name for name in found)
    for name, tensor in content["lora_state_dict"].items():
        layer, side = name.removeprefix("model.layers.").rsplit(".", 1)
        placed = found[f"base_model.model.model.language_model.layers.{layer}.{side}.default.weight"]
        assert torch.equal(placed, tensor)


def test_the_lora_target_matches_no_vision_module() -> None:
    for name, wanted in {
        "model.language_model.layers.3.self_attn.q_proj": True,
        "model.language_model.layers.27.self_attn.v_proj": True,
        "model.language_model.layers.3.self_attn.k_proj": False,
        "model.visual.layers.3.self_attn.q_proj": False,
        "model.language_model.layers.3.self_attn.q_proj.base_layer": False,
    }.items():
        assert bool(re.fullmatch(LORA_TARGETS, name)) == wanted


Change = Callable[[dict[str, Any]], Any]


def changed(entry: str, name: Any, value: Any) -> Change:
    return lambda c: c[entry].update({name: value})


REFUSED: dict[str, tuple[Change, str]] = {
    "extra tensor": (changed("state_dict", "proj_gazes.0.weight", torch.zeros(2)), "proj_gazes.0.weight"),
    "missing tensor": (lambda c: c["state_dict"].pop("k_projs.2.1.bias"), "k_projs.2.1.bias"),
    "wrong shape": (changed("state_dict", "latents.1", torch.zeros(4, 8)), r"latents.1 of shape \(3, 8\)"),
    "not a number": (changed("state_dict", "amplitude", torch.full((28,), float("nan"))), "amplitude"),
    "no tensor": (changed("state_dict", "amplitude", "x"), "str in state_dict"),
    "integers": (changed("state_dict", "amplitude", torch.ones(28, dtype=torch.int64)), "amplitude"),
    "state is a list": (lambda c: c.update(state_dict=[torch.zeros(2)]), "mapping"),
    "no config": (lambda c: c.pop("config"), "'state_dict' and 'config'"),
    "other version": (changed("config", "version", "other"), "'other'"),
    "size absent": (lambda c: c["config"].pop("n_latents"), "n_latents"),
    "size zero": (changed("config", "d_latent", 0), "d_latent"),
    "size huge": (changed("config", "n_blocks", 10**9), "n_blocks"),
    "many blocks": (changed("config", "n_blocks", 10**6), "1000000 blocks"),
    "unknown setting": (changed("config", "n_heads", 4), "n_heads"),
    "few layers": (changed("config", "n_layers", 12), "n_layers > 27"),
    "odd width": (changed("config", "d_latent", 6), "divisible by 4"),
    "unknown entry": (lambda c: c.update(surprise=1), "surprise"),
    "lora on another module": (
        changed("lora_state_dict", "visual.blocks.0.attn.q_proj.lora_A", torch.zeros(2, 2)),
        "visual.blocks.0",
    ),
    "lora tensor missing": (lambda c: c["lora_state_dict"].pop("model.layers.9.self_attn.v_proj.lora_B"), "layers.9"),
    "lora of another rank": (
        changed("lora_state_dict", "model.layers.9.self_attn.v_proj.lora_B", torch.zeros(16, 3)),
        r"\(outputs, 2\), found \(16, 3\)",
    ),
    "lora of another width": (
        changed("lora_state_dict", "model.layers.9.self_attn.v_proj.lora_A", torch.zeros(2, 31)),
        r"\(2, 32\), found \(2, 31\)",
    ),
    "lora without config": (lambda c: c.pop("lora_config"), "lora_config"),
    "alpha absent": (lambda c: c["lora_config"].pop("alpha"), "lora_config"),
    "lora name twice": (
        changed("lora_state_dict", "model.language_model.layers.9.self_attn.v_proj.lora_A", torch.zeros(2, 32)),
        "once",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_checkpoint_that_is_not_the_published_one_is_refused_whole(
    tmp_path: Path, change: Change, message: str
) -> None:
    content = checkpoint()
    change(content)
    source = write(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        convert(source, tmp_path / "out")
    assert str(source) in str(error.value) and "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["best_model.pt"]


def test_training_state_is_left_out_and_named(tmp_path: Path) -> None:
    content = checkpoint() | {"epoch": 3, "val_acc": 0.5, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}
    assert convert(write(tmp_path, content), tmp_path / "out")["left_out"] == ["epoch", "optimizer", "val_acc"]


def test_without_lora_no_adapter_is_written(tmp_path: Path) -> None:
    content = checkpoint()
    del content["lora_state_dict"], content["lora_config"]
    report = convert(write(tmp_path, content), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not config["lora"] and not (tmp_path / "out" / "lora").exists()
    assert report["lora_tensors"] == 0 and "the checkpoint has no LoRA" in report["notes"]


def test_a_zero_last_module_is_reported_and_kept(tmp_path: Path) -> None:
    content = checkpoint()
    content["state_dict"]["proj_outs.3.weight"] = torch.zeros(32, 8)
    report = convert(write(tmp_path, content), tmp_path / "out")
    assert report["last_layer_output_is_zero"]
    assert "resampler.proj_outs.3.weight" in load_file(tmp_path / "out" / "model.safetensors")


def flat_checkpoint() -> dict[str, Any]:
    content, state = checkpoint(), {}
    for name, tensor in content["state_dict"].items():
        if name == "amplitude":
            state[name] = tensor
        elif re.match(r"[a-z_]+\.0", name):
            flat = name.replace(".0", "", 1)
            state[flat.replace("proj_ins", "proj_in").replace("proj_outs", "proj_out")] = tensor
    return content | {"state_dict": state}


def test_the_flat_layout_is_refused_unless_copying_is_asked_for(tmp_path: Path) -> None:
    content = flat_checkpoint()
    assert {"latents", "proj_in.weight", "q_projs.1.bias", "ff_blocks.0.3.weight"} <= set(content["state_dict"])
    source = write(tmp_path, content)
    with pytest.raises(InputError, match="older flat layout"):
        convert(source, tmp_path / "out")
    report = convert(source, tmp_path / "out", flat="copy")
    assert "guess" in report["notes"][0]
    assert "guess" in json.loads((tmp_path / "out" / "config.json").read_text())["trained"]
    state = load_file(tmp_path / "out" / "model.safetensors")
    for m in range(4):
        assert torch.equal(state[f"resampler.ff_blocks.{m}.1.1.weight"], content["state_dict"]["ff_blocks.1.1.weight"])
        assert torch.equal(state[f"resampler.latents.{m}"], content["state_dict"]["latents"])


def test_a_flat_layout_with_a_module_that_no_longer_exists_is_refused(tmp_path: Path) -> None:
    content = flat_checkpoint()
    content["state_dict"]["proj_gaze.weight"] = torch.zeros(8, 2)
    with pytest.raises(InputError, match=r"proj_gaze\.weight"):
        convert(write(tmp_path, content), tmp_path / "out", flat="copy")


def test_an_existing_folder_is_used_only_when_empty(tmp_path: Path) -> None:
    source, out = write(tmp_path, checkpoint()), tmp_path / "out"
    out.mkdir()
    convert(source, out)
    kept = (out / "config.json").read_bytes()
    with pytest.raises(InputError, match="empty folder"):
        convert(source, out)
    assert (out / "config.json").read_bytes() == kept


def test_vjepa_is_recorded_and_its_width_must_be_known(tmp_path: Path) -> None:
    source, weights = write(tmp_path, checkpoint()), tmp_path / "vjepa.pt"
    with pytest.raises(InputError, match="no such file"):
        convert_official(source, base="b", vjepa=weights, out=tmp_path / "out", vjepa_config=VJEPA)
    with pytest.raises(InputError, match="vjepa_config"):
        convert_official(source, base="b", vjepa="later", out=tmp_path / "out")
    weights.write_bytes(b"")
    convert_official(source, base="b", vjepa=weights, out=tmp_path / "out", vjepa_config=VJEPA)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vjepa_weights"] == str(weights.resolve())


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil-was-here"),))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path, checkpoint() | {"val_acc": _Evil()})
    with pytest.raises(InputError, match="tensors only"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "evil-was-here").exists()


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        convert(tmp_path / "absent.pt", tmp_path / "out")
    for content in (b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02]q\x00.", b"\x80\x02X\x01\x00"):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.pt"):
            convert(tmp_path / "x.pt", tmp_path / "out")
    with pytest.raises(InputError, match="list"):
        convert(write(tmp_path, [1, 2]), tmp_path / "out")


@pytest.fixture(scope="module")
def published_bytes(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One checkpoint in both of torch's formats: a zip file, and bare pickles before 1.6."""
    folder, content = tmp_path_factory.mktemp("published"), checkpoint()
    torch.save(content, folder / "bare.pt", _use_new_zipfile_serialization=False)
    return [write(folder, content).read_bytes(), (folder / "bare.pt").read_bytes()]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_damaged_file_never_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, published_bytes: list[bytes], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(data.draw(st.sampled_from(published_bytes)))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:  # the first 20 kB hold the names and sizes
        places = st.integers(0, data.draw(st.sampled_from([20_000, len(content) - 1])))
        for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=10)):
            content[place] = value
    source = folder / "x.pt"
    source.write_bytes(content)
    try:
        convert(source, folder / "out")
    except InputError as error:
        assert "x.pt" in str(error)
        assert not (folder / "out").exists()
    else:  # a changed byte inside a tensor can't be told from another number
        assert len(load_file(folder / "out" / "model.safetensors")) == 141


# -- rules of time -----------------------------------------------------------------------------------------------------


def test_published_rates_and_step_times() -> None:
    wanted = {0.1: 1.0, 30: 1.0, 30.001: 0.5, 60: 0.5, 60.001: 0.2, 300: 0.2, 300.5: 0.1}
    assert {duration: pick_fps(duration) for duration in wanted} == wanted
    assert official_frame_times(216.0, 3, 0.5).tolist() == [216.0, 220.0, 224.0]
    assert official_frame_times(0.0, 0, 1.0).shape == (0,)


def test_scanpath_keeps_middles_in_the_closed_interval_by_id() -> None:
    fixations = Fixations.build(
        [0.0, 9.0, 3.0, 11.0],
        [4.0, 11.0, 5.0, 13.0],
        [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]],
        ids=[3, 1, 2, 0],
    )
    kept = scanpath_tensor(fixations, 2.0, 10.0)  # middles 2, 10, 4, 12
    want = torch.tensor([[0.3, 0.4, 10.0, 2.0], [0.5, 0.6, 4.0, 2.0], [0.1, 0.2, 2.0, 4.0]])
    assert kept.dtype == torch.float32 and torch.equal(kept, want)
    assert len(scanpath_tensor(fixations, 2.1, 9.9)) == 1
    assert scanpath_tensor(Fixations.empty(), 0.0, 10.0).shape == (0, 4)


def test_scanpath_ends_are_compared_in_float32() -> None:
    fixations = Fixations.build([0.0], [0.2], np.full((1, 2), 0.5))
    assert len(scanpath_tensor(fixations, 0.1 + 1e-10, 1.0)) == 1
