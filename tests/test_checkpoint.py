"""Saving and loading: bit for bit, strictly, and with one line for what is absent, damaged or doesn't fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants as hub
from safetensors.torch import load_file, save_file
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.checkpoint import BACKBONE, CONFIG, LORA, WEIGHTS
from gazeqwen.config import GazeQwenConfig
from gazeqwen.errors import ConfigError, GazeQwenError, InputError
from gazeqwen.injection import ResidualPlan, TokenMap, VideoTokens, inject
from gazeqwen.official import LORA_TARGETS, official_frame_times, scanpath_tensor
from gazeqwen.positions import MRope
from gazeqwen.preprocess import resize_frames, video_patches
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm
from gazeqwen.types import Fixations, Step
from gazeqwen.vjepa import official_features, official_inputs
from stream.ivt import IVT
from stream.session import StreamSession
from tests.made_steps import (
    OPTIONS,
    QUESTION,
    answer_logits,
    example,
    made_steps,
    moved_tiny,
    official_tiny,
    with_residuals,
)


def tensors(model: GazeQwen) -> dict[str, Tensor]:
    return dict(model.state_dict())


def assert_same(a: GazeQwen, b: GazeQwen, *, arm: str = "inject") -> None:
    """Every tensor and every answer, bit for bit."""
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    item = example(made_steps(2))
    with torch.no_grad():
        assert torch.equal(a([item], arm=arm).logits, b([item], arm=arm).logits)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moved_tiny().save_pretrained(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A saved model that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


# -- bit for bit -------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_is_the_same_model(saved: Path) -> None:
    loaded = GazeQwen.from_pretrained(saved)
    assert loaded.config == moved_tiny().config
    assert_same(loaded, moved_tiny())
    text = "Which green jar? é 日 <|im_end|>\n"
    assert loaded.tokenizer.encode(text) == moved_tiny().tokenizer.encode(text)
    assert sorted(path.name for path in saved.iterdir()) == sorted([BACKBONE, CONFIG, WEIGHTS])
    assert GazeQwenConfig.from_dict(json.loads((saved / CONFIG).read_text())) == TINY_CONFIG


def test_tiny_is_the_same_every_time_and_another_with_another_seed() -> None:
    state = torch.get_rng_state()
    first, second = GazeQwen.from_pretrained("tiny"), GazeQwen.from_pretrained("tiny")
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, second)
    other = GazeQwen.from_pretrained("tiny", seed=3)
    assert not torch.equal(other.backbone.embed_tokens.weight, first.backbone.embed_tokens.weight)  # type: ignore[arg-type]


def test_tiny_records_the_detector_that_stream_uses() -> None:
    fixations, parameters = TINY_CONFIG.fixations, IVT(frame_aspect=4 / 3).parameters
    assert fixations.detector == "ivt"
    # all but what comes from the video, or is None because distances are in frame widths
    assert fixations.parameters == {k: v for k, v in parameters.items() if v is not None and k != "frame_aspect"}


def with_lora(model: GazeQwen, *, seed: int = 0) -> GazeQwen:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    adapter = LoraConfig(r=3, lora_alpha=5, target_modules=LORA_TARGETS, init_lora_weights=False)
    wrapped = get_peft_model(model.vlm, adapter)  # type: ignore[arg-type]
    return GazeQwen(model.config, vlm=wrapped.eval(), tokenizer=model.tokenizer, extractor=model.extractor)


def test_lora_is_saved_beside_its_own_backbone(tmp_path: Path) -> None:
    plain = GazeQwen.from_pretrained("tiny")
    item = replace(example(made_steps(1)), content=("The jar is green. ",))  # pixels have other limits outside "tiny"
    with torch.no_grad():
        before = plain([item], arm="none").logits
    adapted = with_residuals(with_lora(plain))
    folder = adapted.save_pretrained(tmp_path / "out")
    loaded = GazeQwen.from_pretrained(folder)
    assert loaded.config.lora
    assert_same(loaded, adapted)
    with torch.no_grad():
        assert not torch.equal(loaded([item], arm="none").logits, before)
    # the backbone's folder is a plain Qwen2.5-VL without the adapter
    base = GazeQwen.from_pretrained(folder / BACKBONE)
    with torch.no_grad():
        assert torch.equal(base([item], arm="none").logits, before)


def test_a_named_base_is_not_copied_and_is_found_again(saved: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(saved / BACKBONE, tmp_path / "qwen"))
    model = GazeQwen.from_pretrained(saved)
    model.config = replace(model.config, base=str(base))
    out = model.save_pretrained(tmp_path / "light")
    assert sorted(path.name for path in out.iterdir()) == [CONFIG, WEIGHTS]
    assert_same(GazeQwen.from_pretrained(out), moved_tiny())
    moved = Path(shutil.move(base, tmp_path / "elsewhere"))
    with pytest.raises(InputError):
        GazeQwen.from_pretrained(out, local_files_only=True)
    assert_same(GazeQwen.from_pretrained(out, base=str(moved)), moved_tiny())


def test_a_plain_backbone_answers_as_itself(saved: Path, tmp_path: Path) -> None:
    plain = GazeQwen.from_pretrained(saved / BACKBONE)
    item = example(made_steps(1))
    assert plain.extractor is None and "no gaze training" in plain.config.trained
    with torch.no_grad():
        # other limits of pixels than the tiny model's: the frames are made larger
        logits = plain([item], arm="none").logits
        assert logits.shape == (1, len(plain.tokenizer))
        text_only = replace(item, content=())
        assert torch.equal(plain([text_only], arm="none").logits, moved_tiny()([text_only], arm="none").logits)
    with pytest.raises(ConfigError, match="pass vjepa=FILE"):
        plain([item])


def test_vjepa_from_a_file_inside_the_folder_or_given(saved: Path, tmp_path: Path) -> None:
    model = GazeQwen.from_pretrained(saved)
    folder = Path(shutil.copytree(saved, tmp_path / "model"))
    weights = load_file(folder / WEIGHTS)
    inside = {name.removeprefix("vjepa."): t for name, t in weights.items() if name.startswith("vjepa.")}
    save_file(inside, folder / "vjepa.safetensors")
    save_file({name: t for name, t in weights.items() if not name.startswith("vjepa.")}, folder / WEIGHTS)
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(settings | {"vjepa_weights": "vjepa.safetensors"}))
    named = GazeQwen.from_pretrained(folder)
    assert_same(named, model)
    # saved elsewhere, the file is still found
    assert_same(GazeQwen.from_pretrained(named.save_pretrained(tmp_path / "again")), model)
    # given, it is taken instead of what the model holds
    other = {name: tensor + 1 for name, tensor in inside.items()}
    save_file(other, tmp_path / "other.safetensors")
    for where in (saved, folder):
        given = GazeQwen.from_pretrained(where, vjepa=tmp_path / "other.safetensors")
        assert torch.equal(given.extractor.encoder.video_mod_embed, other["video_mod_embed"])  # type: ignore[union-attr]
    (folder / "vjepa.safetensors").unlink()
    with pytest.raises(InputError, match=r"vjepa.safetensors.*pass vjepa=FILE"):
        GazeQwen.from_pretrained(folder)
    with pytest.raises(ConfigError, match="built in"):
        GazeQwen.from_pretrained("tiny", vjepa=tmp_path / "other.safetensors")


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_models_answer_and_refuse_to_be_saved(quantization: str, saved: Path, tmp_path: Path) -> None:
    steps = made_steps(2)
    full = moved_tiny()
    state = full.start()
    full.append(state, steps)
    for source in ("tiny", saved):
        model = GazeQwen.from_pretrained(source, quantization=quantization)
        assert {type(layer.mlp.up_proj).__name__ for layer in model.backbone.layers} == {  # type: ignore[union-attr]
            "Linear4bit" if quantization == "nf4" else "Linear8bitLt"
        }
        assert {type(m).__name__ for m in model.backbone.visual.modules() if "Linear" in type(m).__name__} == {"Linear"}
        assert {p.dtype for p in model.resampler.parameters()} == {torch.float32}
    assert (answer_logits(model, state, QUESTION) - answer_logits(full, state, QUESTION)).abs().max() > 0
    session = StreamSession(model)
    session.extend(steps)
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.letter in ("A", "B", "C")
    own = model.start()
    model.append(own, steps)
    distance = (model.score(own, QUESTION, OPTIONS) - full.score(state, QUESTION, OPTIONS)).abs().max()
    assert 0 < distance < 0.5
    with pytest.raises(ConfigError, match="quantised"):
        model.save_pretrained(tmp_path / "no")
    assert list(tmp_path.iterdir()) == []


# -- where a model is saved --------------------------------------------------------------------------------------------


def test_a_saved_model_is_replaced_and_nothing_else(copy: Path, tmp_path: Path) -> None:
    fresh = GazeQwen.from_pretrained("tiny")
    assert_same(GazeQwen.from_pretrained(fresh.save_pretrained(copy)), fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    for occupied in (copy / BACKBONE, tmp_path / "notes", tmp_path / "file"):
        if occupied.name == "notes":
            occupied.mkdir()
            (occupied / "diary.txt").write_text("mine")
        elif occupied.name == "file":
            occupied.write_text("mine")
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        with pytest.raises(InputError, match="new or empty folder"):
            fresh.save_pretrained(occupied)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    (copy / "optimizer.pt").write_text("mine")
    with pytest.raises(InputError, match=r"optimizer\.pt in it"):
        fresh.save_pretrained(copy)
    with pytest.raises(InputError, match="can be written"):
        fresh.save_pretrained(tmp_path / "file" / "below")


def test_a_failure_while_saving_leaves_the_old_model(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GazeQwen.from_pretrained("tiny")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", full_disk)
    with pytest.raises(InputError, match="No space left"):
        model.save_pretrained(copy)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert_same(GazeQwen.from_pretrained(copy), moved_tiny())


# -- what is refused, in one line --------------------------------------------------------------------------------------


def edit_config(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / CONFIG).read_text())
        change(settings)
        (folder / CONFIG).write_text(json.dumps(settings))

    return edit


def edit_weights(change: Callable[[dict[str, Tensor]], object], file: str = WEIGHTS) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        weights = load_file(folder / file)
        change(weights)
        save_file(weights, folder / file)

    return edit


def cut_short(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:1000])


BACKBONE_WEIGHTS = f"{BACKBONE}/model.safetensors"
EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / CONFIG).unlink(), "config.json"),
        (lambda f: (f / CONFIG).write_text("{"), "JSON config"),
        (lambda f: (f / CONFIG).write_text("[]"), "JSON object"),
        (edit_config(lambda c: c.update(colour="red")), "colour"),
        (edit_config(lambda c: c["resampler"].update(latents=2.5)), "latents"),
        (edit_config(lambda c: c["resampler"].update(layers=[0, 4])), "last one"),
        (edit_config(lambda c: c.update(version=2)), "version 2"),
        (edit_config(lambda c: c.update(lora=True)), "PEFT adapter"),
        (edit_config(lambda c: c["resampler"].update(latents=8)), "of another shape"),
        (lambda f: (f / WEIGHTS).unlink(), "no such file"),
        (cut_short(WEIGHTS), "safetensors file"),
        (lambda f: (f / WEIGHTS).write_text("hello"), "safetensors file"),
        (edit_weights(lambda w: w.pop("resampler.latents")), "1 missing, e.g. resampler.latents"),
        (edit_weights(lambda w: w.update(extra=torch.zeros(1))), "1 left over, e.g. extra"),
        (edit_weights(lambda w: w.pop("vjepa.patch_embed.proj.weight")), "1 missing"),
        (edit_weights(lambda w: w.update({"resampler.latents": torch.zeros(2, 2)})), "1 of another shape"),
        (lambda f: shutil.rmtree(f / BACKBONE), "Qwen2.5-VL folder"),
        (lambda f: (f / BACKBONE / CONFIG).unlink(), BACKBONE),
        (lambda f: (f / BACKBONE / CONFIG).write_text("{"), BACKBONE),
        (lambda f: (f / BACKBONE_WEIGHTS).unlink(), BACKBONE),
        (cut_short(BACKBONE_WEIGHTS), BACKBONE),
        (edit_weights(lambda w: w.pop(EMBEDDING), BACKBONE_WEIGHTS), "missing"),
        (edit_weights(lambda w: w.update(extra=torch.zeros(1)), BACKBONE_WEIGHTS), "1 left over, e.g. extra"),
        (edit_weights(lambda w: w.update({EMBEDDING: torch.zeros(3, 160)}), BACKBONE_WEIGHTS), BACKBONE),
        (lambda f: [p.unlink() for p in (f / BACKBONE).glob("*token*")], "tokenizer"),
        (lambda f: (f / BACKBONE / "tokenizer.json").write_text("{"), "tokenizer"),
        (lambda f: (f / BACKBONE / "tokenizer.json").write_text('{"version": "1.0"}'), "tokenizer"),
    ],
)
def test_a_damaged_model_gives_one_line(damage: Callable[[Path], object], words: str, copy: Path) -> None:
    damage(copy)
    with pytest.raises(GazeQwenError) as caught:
        GazeQwen.from_pretrained(copy)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(copy) in str(caught.value) or words == "last one"


def test_damaged_adapters_give_one_line(tmp_path: Path) -> None:
    folder = with_lora(GazeQwen.from_pretrained("tiny")).save_pretrained(tmp_path / "good")
    adapter = f"{LORA}/adapter_model.safetensors"
    damages: list[Callable[[Path], object]] = [
        cut_short(adapter),
        lambda f: (f / LORA / "adapter_config.json").write_text("{"),
        lambda f: (f / LORA / "adapter_config.json").write_text('{"peft_type": "NONE_SUCH"}'),
        edit_weights(lambda w: w.pop(min(w)), adapter),
        edit_weights(lambda w: w.update({"base_model.model.odd.lora_A.weight": torch.zeros(1)}), adapter),
        edit_weights(lambda w: w.update({min(w): torch.zeros(2, 2)}), adapter),
    ]
    for number, damage in enumerate(damages):
        broken = Path(shutil.copytree(folder, tmp_path / str(number)))
        damage(broken)
        with pytest.raises(InputError) as caught:
            GazeQwen.from_pretrained(broken)
        assert LORA in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("local_files_only", [True, False])
def test_an_absent_hub_id_gives_one_line(
    local_files_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"someone/nothing: expected weights .* not in the local hub cache") as caught:
        GazeQwen.from_pretrained("someone/nothing", local_files_only=local_files_only)
    assert "docs/models.md" in str(caught.value)


def test_names_and_arguments_that_mean_nothing(saved: Path, tmp_path: Path) -> None:
    for name in (tmp_path / "absent", "nothing", "a/b/c", "./x", tmp_path, saved / CONFIG):
        with pytest.raises(InputError):
            GazeQwen.from_pretrained(name)
    for options in ({"quantization": "int4"}, {"dtype": "float33"}, {"dtype": torch.int8}, {"device": "abacus"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            GazeQwen.from_pretrained("tiny", **options)


# -- compat="official" -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> GazeQwen:
    """The published module and rules at tiny size, saved and loaded again."""
    folder = official_tiny().save_pretrained(tmp_path_factory.mktemp("official") / "model")
    loaded = GazeQwen.from_pretrained(folder)
    assert_same(loaded, official_tiny())
    return loaded


SCANPATH = Fixations.build([0.1, 1.4, 2.2], [0.9, 2.1, 9.0], [[0.2, 0.3], [0.7, 0.6], [0.9, 0.9]])


def official_by_hand(model: GazeQwen, steps: list[Step], fixations: Fixations, text: str) -> Tensor:
    """(V,) logits by one forward, put together from the parts as the published evaluation does."""
    backbone = model.backbone
    frames = np.concatenate([step.frames for step in steps])
    patches, (t, gh, gw) = video_patches(frames, config=model.config.preprocess)
    h, w = gh // 2, gw // 2
    with torch.no_grad():
        visual = backbone.encode_visual(patches, (t, gh, gw))
        resized = resize_frames(frames, config=model.config.preprocess).permute(0, 3, 1, 2).float()
        encoded = model.extractor.encoder(official_inputs(resized, 64))  # type: ignore[union-attr]
        features = official_features(encoded, t, llm_h=h, llm_w=w)
        end_s = steps[-1].span_s[1]
        residuals = model.resampler(features, scanpath_tensor(fixations, 0.0, end_s), official_frame_times(0.0, t, 1.0))
        before = model._ids(prompts.PREFIX + prompts.VISION_START)
        after = model._ids(prompts.VISION_END + text + prompts.ASSISTANT)
        embeds = torch.cat([backbone.embed_ids(before), visual.flatten(0, 1), backbone.embed_ids(after)])
        rope = MRope(tokens_per_second=2)
        positions = torch.cat(
            [rope.text(len(before)), rope.video(t, h, w, seconds_per_step=1.0), rope.text(len(after))], dim=1
        )
        blocks = [VideoTokens(0, len(before) + step * h * w, step, h, w) for step in range(t)]
        rows = {layer: residuals.for_layer(layer).flatten(0, 1) for layer in residuals.layers}
        plan = ResidualPlan(TokenMap.from_blocks(blocks), rows)
        with inject(backbone.layers, plan, allow_last_layer=True):
            hidden = backbone.decode(embeds[None], positions[:, None])
        return backbone.logits(hidden[0, -1])


def test_an_official_session_equals_the_published_evaluation_by_hand(official: GazeQwen) -> None:
    steps = made_steps(3)
    text = prompts.choice_prompt(QUESTION, OPTIONS)
    by_hand = official_by_hand(official, steps, SCANPATH, text)
    session = StreamSession(official, fixations=SCANPATH)
    session.extend(steps[:2])
    session.append(steps[2])
    answer = session.choose(QUESTION, OPTIONS)
    expected = torch.log_softmax(by_hand[prompts.letter_ids(official.tokenizer, 3)], dim=0)
    assert list(answer.option_logprobs) == list(OPTIONS)
    torch.testing.assert_close(torch.tensor(list(answer.option_logprobs.values())), expected, atol=1e-5, rtol=0)
    with torch.no_grad():
        whole = official([replace(example(steps), fixations=SCANPATH)]).logits[0]
    torch.testing.assert_close(whole, by_hand, atol=1e-5, rtol=0)
    other = Fixations.build([0.1, 1.4], [0.9, 2.1], [[0.9, 0.1], [0.1, 0.9]])
    assert (official_by_hand(official, steps, other, text) - by_hand).abs().max() > 1e-4
    none = official_by_hand(official, steps, Fixations.empty(), text)  # no scanpath: no residual
    with torch.no_grad():
        torch.testing.assert_close(official([example(steps)], arm="none").logits[0], none, atol=1e-5, rtol=0)


def test_an_official_window_is_the_clip_of_that_window(official: GazeQwen) -> None:
    steps = made_steps(4)
    session = StreamSession(official, window_s=2.0, fixations=SCANPATH)
    session.extend(steps)
    alone = StreamSession(official, fixations=SCANPATH)
    alone.extend(steps[2:])
    windowed, short = session.choose(QUESTION, OPTIONS), alone.choose(QUESTION, OPTIONS)
    assert windowed.option_logprobs == short.option_logprobs
    assert windowed.steps == 2
    with pytest.raises(ConfigError, match="fixations="):
        StreamSession(official)


def test_a_second_official_append_is_refused(official: GazeQwen) -> None:
    steps = made_steps(2)
    state = official.start(fixations=SCANPATH)
    official.append(state, steps[:1])
    with pytest.raises(ConfigError, match="as a whole"):
        official.append(state, steps[1:])
    assert state.steps_appended == 1


@pytest.mark.parametrize("damage", [{"vision_config": 5}, {"text_config": {"hidden_size": "wide"}}])
def test_a_backbone_config_with_values_of_the_wrong_kind_is_one_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    build_tiny_vlm().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for name, value in damage.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        GazeQwen.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
