"""Weights that an arm was trained with: strict, never another arm's in their place, kept when the model is saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from gazeqwen import GazeQwen
from gazeqwen.arms import ARMS as REGISTRY
from gazeqwen.checkpoint import load_arm
from gazeqwen.errors import ConfigError, GazeQwenError
from gazeqwen.official import LORA_TARGETS
from gazeqwen.resampler import SkipResampler
from gazeqwen.weight_files import ARMS, LORA, WEIGHTS
from tests.made_steps import example, made_steps, moved_tiny

OWN = {"null", "no-features", "skip-only", "marker-trained", "blind"}


def vector_of(model: GazeQwen) -> Tensor:
    return torch.linspace(-1, 1, model.backbone.hidden_size)


def write_adapter(model: GazeQwen, folder: Path, *, seed: int) -> None:
    """A LoRA adapter with random matrices; the model is left without it."""
    torch.manual_seed(seed)
    adapter = LoraConfig(r=2, target_modules=LORA_TARGETS, init_lora_weights=False)
    wrapped: Any = get_peft_model(model.vlm, adapter)  # type: ignore[arg-type]
    wrapped.save_pretrained(folder)
    wrapped.unload()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with weights for every arm that may have its own."""
    folder = moved_tiny().save_pretrained(tmp_path_factory.mktemp("trained") / "model")
    usual = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name.startswith("resampler.")}
    for name in ("null", "no-features"):
        (folder / ARMS / name).mkdir(parents=True)
        save_file({key: tensor + len(name) for key, tensor in usual.items()}, folder / ARMS / name / WEIGHTS)
    (folder / ARMS / "skip-only").mkdir()
    model = GazeQwen.from_pretrained(folder)
    save_file({"resampler.vector": vector_of(model)}, folder / ARMS / "skip-only" / WEIGHTS)
    write_adapter(model, folder / ARMS / "marker-trained" / LORA, seed=1)
    write_adapter(model, folder / ARMS / "blind" / LORA, seed=2)
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "model"))


def logits(model: GazeQwen, arm: str) -> Tensor:
    with torch.no_grad():
        return model([example(made_steps(1))], arm=arm).logits


def test_every_arm_answers_with_its_own_weights_and_says_so(trained: Path) -> None:
    usual = GazeQwen.from_pretrained(trained)
    for name in OWN:
        model = GazeQwen.from_pretrained(trained)
        assert load_arm(model, trained, name) is model and model.arm_weights == name
        assert model.notes == (f"arm {name!r} answers with weights trained for it (arms/{name})",)
        assert model.start(arm=name).arm.name == name
        arm = name if name != "skip-only" else "none"  # the usual model has no such resampler to compare with
        differs = not torch.equal(logits(model, name), logits(usual, arm))
        assert differs, name
        with pytest.raises(ConfigError, match=f"those of '{name}'"):
            model.start(arm="inject")
    model = load_arm(GazeQwen.from_pretrained(trained), None, "skip-only")
    assert isinstance(model.resampler, SkipResampler) and torch.equal(model.resampler.vector, vector_of(model))


def test_arms_on_the_models_weights_change_nothing(trained: Path) -> None:
    model = GazeQwen.from_pretrained(trained)
    for name in set(REGISTRY) - OWN - {"oracle", "oracle-no-gaze"}:
        assert load_arm(model, trained, name) is model
    assert model.notes == () and model.arm_weights == "" and torch.equal(logits(model, "inject"), _usual())
    with pytest.raises(ConfigError, match="solver"):
        load_arm(model, trained, "oracle")


def _usual() -> Tensor:
    return logits(moved_tiny(), "inject")


def test_an_arms_adapter_takes_the_place_of_the_models(trained: Path, tmp_path: Path) -> None:
    plain = GazeQwen.from_pretrained(trained)
    with_own = Path(shutil.copytree(trained, tmp_path / "lora"))
    write_adapter(plain, with_own / LORA, seed=3)
    config = (with_own / "config.json").read_text().replace('"lora": false', '"lora": true')
    (with_own / "config.json").write_text(config)
    adapted = GazeQwen.from_pretrained(with_own)
    alone = load_arm(plain, trained, "marker-trained")
    assert not torch.equal(logits(adapted, "none"), logits(moved_tiny(), "none"))
    over = load_arm(adapted, with_own, "marker-trained")
    assert torch.equal(logits(over, "marker-trained"), logits(alone, "marker-trained"))
    # an arm without an adapter runs without
    bare = load_arm(GazeQwen.from_pretrained(with_own), with_own, "null")
    assert not bare.config.lora and torch.equal(
        logits(bare, "null"), logits(load_arm(GazeQwen.from_pretrained(trained), None, "null"), "null")
    )


@pytest.mark.parametrize("name", sorted(n for n in OWN if REGISTRY[n].weights == "own"))
def test_an_arm_that_needs_its_own_weights_names_the_folder_that_is_missing(name: str, copy: Path) -> None:
    shutil.rmtree(copy / ARMS / name)
    model = GazeQwen.from_pretrained(copy)
    with pytest.raises(ConfigError) as refusal:
        load_arm(model, copy, name)
    said = str(refusal.value)
    assert str(copy / ARMS / name) in said and "gazeqwen train" in said and "\n" not in said
    with pytest.raises(ConfigError, match=f"arm '{name}' does not answer with the weights that this model holds"):
        model.start(arm=name)
    with pytest.raises(ConfigError, match="and 'tiny' comes without"):
        load_arm(GazeQwen.from_pretrained("tiny"), "tiny", name)


@pytest.mark.parametrize("name", ["null", "blind"])
def test_an_arm_that_may_do_without_says_which_weights_answer(name: str) -> None:
    model = load_arm(GazeQwen.from_pretrained("tiny"), "tiny", name)
    (note,) = model.notes
    assert note == f"arm {name!r} answers with the model's usual weights: it comes without any trained for this arm"
    assert model.arm_weights == "" and model.start(arm=name).arm.name == name


def edited(name: str, change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / ARMS / name / WEIGHTS
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return edit


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("null", edited("null", lambda t: t.pop("resampler.latents")), "1 missing, e.g. resampler.latents"),
        ("null", edited("null", lambda t: t.update(x=torch.zeros(1))), "1 left over, e.g. x"),
        ("skip-only", edited("skip-only", lambda t: t.update({"resampler.vector": torch.zeros(3)})), "another shape"),
        (
            "skip-only",
            lambda f: (f / ARMS / "skip-only" / WEIGHTS).unlink(),
            "expected model.safetensors, found nothing",
        ),
        ("no-features", lambda f: (f / ARMS / "no-features" / WEIGHTS).write_bytes(b"x"), "a safetensors file"),
        ("blind", lambda f: shutil.rmtree(f / ARMS / "blind" / LORA), "expected lora/ and no model.safetensors"),
        (
            "marker-trained",
            lambda f: shutil.copy(f / ARMS / "null" / WEIGHTS, f / ARMS / "marker-trained"),
            "found lora, model.safetensors",
        ),
        (
            "marker-trained",
            lambda f: (f / ARMS / "marker-trained" / LORA / "adapter_config.json").unlink(),
            r"a PEFT adapter",
        ),
    ],
)
def test_damaged_arms_give_one_line(name: str, damage: Callable[[Path], object], words: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(GazeQwenError) as refusal:
        load_arm(GazeQwen.from_pretrained(copy), copy, name)
    said = str(refusal.value)
    assert words in said and str(copy / ARMS / name) in said and "\n" not in said


def test_saving_keeps_the_arms_and_never_passes_one_off_as_the_model(copy: Path, tmp_path: Path) -> None:
    model = GazeQwen.from_pretrained(copy)
    out = model.save_pretrained(tmp_path / "out")
    files = sorted(path.relative_to(copy) for path in copy.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    of_arms = [file for file in files if file.parts[0] == ARMS]
    assert len(of_arms) >= 7 and all((copy / file).read_bytes() == (out / file).read_bytes() for file in of_arms)
    model.save_pretrained(copy)  # in its own place
    assert torch.equal(
        logits(load_arm(GazeQwen.from_pretrained(copy), None, "null"), "null"),
        logits(load_arm(GazeQwen.from_pretrained(out), None, "null"), "null"),
    )
    with pytest.raises(ConfigError, match="holds the weights of arm 'null'"):
        load_arm(GazeQwen.from_pretrained(copy), None, "null").save_pretrained(tmp_path / "other")
    shutil.rmtree(copy / ARMS)
    with pytest.raises(GazeQwenError, match="no such folder any more"):
        model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_published_checkpoint_takes_no_arms_weights(copy: Path) -> None:
    model = GazeQwen.from_pretrained(copy)
    model.config = replace(
        model.config,
        compat="official",
        resampler=replace(model.config.resampler, kind="official"),
        gaze_encoding=replace(model.config.gaze_encoding, name="official"),
    )
    with pytest.raises(ConfigError, match="takes no arm's weights"):
        load_arm(model, copy, "null")
