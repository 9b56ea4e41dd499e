"""The captioner: what is shown, what is understood of an answer, loading a local model. Annotations files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.streamgaze.pipeline import vlm
from benchmarks.streamgaze.pipeline.annotations import read_annotations
from benchmarks.streamgaze.pipeline.captioner import (
    CaptionError,
    Pictures,
    VlmCaptioner,
    parse_inside,
    parse_outside,
)
from gazeqwen.config import PreprocessConfig
from gazeqwen.errors import InputError
from gazeqwen.positions import position_ids
from gazeqwen.preprocess import image_patches
from gazeqwen.prompts import ASSISTANT, PREFIX, VISION_END, VISION_START
from gazeqwen.tiny.model import build_tiny_vlm, tiny_tokenizer

IMAGE = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
KINDS = ("video", "image")
SMALL = PreprocessConfig(min_pixels=28 * 28, max_pixels=4 * 28 * 28)


@dataclass
class Scripted:
    """A model that says what it is told to, and keeps what it was asked."""

    answers: list[str]
    asked: list[tuple[int, str]] = field(default_factory=list)

    def say(self, images: Sequence[np.ndarray], text: str) -> str:
        self.asked.append((len(images), text))
        return self.answers[len(self.asked) - 1]


INSIDE = '{"gazed": "Red_Mug", "others": ["jar", "red mug", "jar"], "attributes": {"color": "RED", "shape": "odd"}}'
OUTSIDE = '```json\n{"objects": ["pan", "jar", "Pan"]}\n```'


def test_two_answers_become_names_and_known_attributes() -> None:
    speaker = Scripted([INSIDE, OUTSIDE])
    named = VlmCaptioner(speaker, "x")(Pictures([IMAGE] * 2, [IMAGE] * 2, "they cook", ("spoon", "pan")))
    assert (named.gazed, named.in_fov, named.outside_fov) == ("red mug", ("jar",), ("pan",))
    assert named.attributes == {"color": "red"}
    assert [n for n, _ in speaker.asked] == [2, 2]
    assert all("they cook" in text and "spoon, pan" in text for _, text in speaker.asked)
    bare = Scripted([INSIDE, OUTSIDE])
    VlmCaptioner(bare, "x")(Pictures([IMAGE], [IMAGE]))
    assert "meanwhile" not in bare.asked[0][1] and "these names" not in bare.asked[0][1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a mug",
        'Here it is: {"gazed": "mug"}',
        '{"gazed": "mug"',
        '["mug"]',
        "{}",
        '{"gazed": ""}',
        '{"gazed": 3}',
        '{"gazed": null}',
        '{"gazed": "' + "mug " * 40 + '"}',
        '{"gazed": "mug", "others": "jar"}',
        '{"gazed": "mug", "others": ["jar", 3]}',
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_an_error(text: str) -> None:
    with pytest.raises(CaptionError) as error:
        parse_inside(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("text", ["pan", "{}", '{"objects": "pan"}', '{"objects": [""]}', '{"objects": [["pan"]]}'])
def test_so_is_one_about_the_outside(text: str) -> None:
    with pytest.raises(CaptionError):
        parse_outside(text)


def test_nothing_outside_is_an_answer() -> None:
    assert parse_outside('{"objects": []}') == ()


# -- a local model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm")
    build_tiny_vlm().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_qwen_folder_loads_without_torchvision_and_its_words_are_the_model_s_own(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token must be the argmax of one whole forward of transformers' own model."""
    monkeypatch.setattr(vlm, "MAX_NEW_TOKENS", 4)
    speaker = vlm.load_speaker(tiny_folder, device="cpu")
    assert isinstance(speaker, vlm.QwenSpeaker)
    speaker.preprocess = SMALL
    said = speaker.say([IMAGE, IMAGE[:28]], "what is this?")
    tokenizer, model = tiny_tokenizer(), build_tiny_vlm()
    pad: dict[str, Any] = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in KINDS}
    patches, grids = zip(*(image_patches(image, config=SMALL) for image in (IMAGE, IMAGE[:28])), strict=True)
    pads = "".join(f"{VISION_START}{'<|image_pad|>' * (h * w // 4)}{VISION_END}" for _, h, w in grids)
    ids = tokenizer.encode(PREFIX + pads + "what is this?" + ASSISTANT, add_special_tokens=False)
    told: list[int] = []
    for _ in range(4):
        whole = torch.tensor([ids + told])
        positions, _, _ = position_ids(
            whole,
            torch.ones_like(whole),
            image_grid_thw=list(grids),
            **pad,
            tokens_per_second=2,
        )
        with torch.no_grad():
            logits = model(
                input_ids=whole,
                pixel_values=torch.cat(patches),
                image_grid_thw=torch.tensor(grids),
                position_ids=positions,
            ).logits
        told.append(int(logits[0, -1].argmax()))
    assert said == tokenizer.decode(told, skip_special_tokens=True)


def test_a_random_model_s_answer_is_a_counted_failure_not_a_caption(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm, "MAX_NEW_TOKENS", 3)
    captioner = VlmCaptioner.from_folder(tiny_folder, device="cpu")
    captioner.speaker.preprocess = SMALL  # type: ignore[attr-defined]
    with pytest.raises(CaptionError):
        captioner(Pictures([IMAGE], [IMAGE]))


def test_another_configuration_is_another_captioner(tiny_folder: Path, tmp_path: Path) -> None:
    from benchmarks.streamgaze.pipeline.captioner import folder_key

    key = folder_key(tiny_folder)
    assert key == folder_key(tiny_folder) and len(key) == 16
    (tmp_path / "config.json").write_text("{}")
    assert folder_key(tmp_path) != key


@pytest.mark.parametrize("content", [None, "", "{", '{"model_type": "bert"}', '{"model_type": "no_such_model"}', "{}"])
def test_a_folder_that_holds_no_such_model_is_one_line(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "model"
    if content is not None:
        folder.mkdir()
        (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match="model: expected") as error:
        VlmCaptioner.from_folder(folder)
    assert "\n" not in str(error.value)


# -- annotations -------------------------------------------------------------------------------------------------------


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


ATTRIBUTE = {"object": "jar", "attribute": "Color", "value": "red", "start_s": 0, "stop_s": 9}


def test_annotations_are_read_with_plain_names(tmp_path: Path) -> None:
    still = {"object": " Red_Mug ", "start_s": 1, "stop_s": 2, "box_norm": [0.1, 0.1, 0.3, 0.3]}
    keyframes = [{"t_s": 0, "box_norm": [0, 0, 1, 1]}, {"t_s": 2, "box_norm": [0.5, 0, 1.5, 1]}]
    found = read_annotations(
        write(
            tmp_path / "a.json",
            {
                "objects": [still, {"object": "jar", "keyframes": keyframes, "score": 0.9}],
                "captions": [{"start_s": 0, "stop_s": 3, "text": "cooking"}],
                "actions": [
                    {"start_s": 5, "stop_s": 6, "label": "b", "object": "Jar"},
                    {"start_s": 1, "stop_s": 2, "label": "a", "object": "jar"},
                ],
                "attributes": [{**ATTRIBUTE, "choices": ["blue", "red"]}],
            },
        )
    )
    assert [[name for name, _ in boxes] for boxes in found.boxes_at([1.5, 0.5])] == [["red mug", "jar"], ["jar"]]
    assert [action.label for action in found.actions] == ["a", "b"] and found.actions[0].object == "jar"
    assert found.attributes[0].choices == ("red", "blue") and found.attributes[0].attribute == "color"
    assert found.caption_of(2.9, 4.0) == "cooking" and found.caption_of(3.0, 4.0) == "" and found.has_objects
    assert not read_annotations(write(tmp_path / "b.json", {"captions": []})).has_objects


BOX = [0.1, 0.1, 0.2, 0.2]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "expected annotations in JSON"),
        ("[]", "some of objects, captions"),
        ({"things": []}, "some of objects, captions"),
        ({"objects": {}}, "a list of objects under 'objects'"),
        ({"objects": [{"object": "mug"}]}, r"objects\[0\]: expected 'box_norm'|objects\[0\]: expected 'start_s'"),
        ({"objects": [{"object": "", "start_s": 0, "stop_s": 1, "box_norm": BOX}]}, "'object': a text"),
        ({"objects": [{"object": "mug", "start_s": 2, "stop_s": 1, "box_norm": BOX}]}, "0 <= start_s < stop_s"),
        ({"objects": [{"object": "mug", "start_s": "0", "stop_s": 1, "box_norm": BOX}]}, "'start_s': seconds"),
        ({"objects": [{"object": "mug", "start_s": 0, "stop_s": 1, "box_norm": BOX[::-1]}]}, "x0 < x1"),
        ({"objects": [{"object": "mug", "start_s": 0, "stop_s": 1, "box_norm": [10, 10, 99, 99]}]}, "as shares"),
        ({"objects": [{"object": "mug", "keyframes": []}]}, "'keyframes': a list"),
        ({"objects": [{"object": "m", "keyframes": [{"t_s": 1, "box_norm": BOX}] * 2}]}, "ascending times"),
        ({"actions": [{"start_s": 0, "stop_s": 1, "label": "x"}]}, r"actions\[0\]: expected 'object'"),
        ({"attributes": [{**ATTRIBUTE, "choices": "blue"}]}, "'choices'"),
    ],
)  # fmt: skip
def test_a_bad_annotations_file_is_one_line_with_the_place(tmp_path: Path, content: object, found: str) -> None:
    with pytest.raises(InputError, match=found) as error:
        read_annotations(write(tmp_path / "clip.annotations.json", content))
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)
