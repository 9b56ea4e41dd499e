"""Naming what was looked at where nobody annotated objects: a callable, and one that asks a local model.

Source of the two pictures and of what is asked for: StreamGaze 07b8a44, `pipeline/preprocess/internvl_processor.py`
(InternVL3.5-38B, two calls a fixation, sampled at temperature 0.3). Here: the same two calls, our own wording, greedy
decoding so that a build can be repeated, and an answer that is not the JSON asked for is an error that is counted; the
reference goes on with a row without objects. Its list of names already used never reaches its model (it is copied while
still empty); under `causal` ours does.

Any folder that transformers loads as an image-text-to-text model will do. Qwen2.5-VL needs no torchvision (its images
go through gazeqwen.preprocess); other models need what their own processors need, which for several is torchvision.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.streamgaze.pipeline.annotations import object_name
from gazeqwen.errors import GazeQwenError, InputError

ATTRIBUTE_CHOICES: Mapping[str, tuple[str, ...]] = {
    "color": ("black", "blue", "brown", "gray", "green", "orange", "pink", "purple", "red", "white", "yellow"),
    "material": ("ceramic", "cloth", "glass", "metal", "paper", "plastic", "stone", "wood"),
    "shape": ("flat", "irregular", "rectangular", "round", "tall"),
}
MAX_NAME = 60
MAX_NEW_TOKENS = 512
INSIDE = (
    "These pictures are cut out around the point that a person looks at; the point is in the middle. "
    'Answer with one JSON object and nothing else: {"gazed": "noun", "others": ["noun", ...], '
    '"attributes": {"color": "...", "material": "...", "shape": "..."}}. '
    '"gazed" is the object in the middle, "others" are further objects, "attributes" are those of the gazed object. '
    "Name each object by a plain noun, without colour or place."
)
OUTSIDE = (
    "The black disc hides what a person looks at. Answer with one JSON object and nothing else: "
    '{"objects": ["noun", ...]}: all objects that can be seen outside the disc. '
    "Name each by a plain noun, without colour or place."
)


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a captioner is given for one fixation.

    Attributes:
        crops: (h, w, 3) uint8 RGB squares around gaze, in order of time.
        masked: (H, W, 3) uint8 RGB frames of the same moments with the field of view black.
        context: what is written about the time, "" without captions.
        known: names given in this recording so far.
    """

    crops: Sequence[np.ndarray]
    masked: Sequence[np.ndarray]
    context: str = ""
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Named:
    """What a captioner says: `in_fov` without the gazed object; attributes out of `ATTRIBUTE_CHOICES`."""

    gazed: str
    in_fov: tuple[str, ...] = ()
    outside_fov: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


class CaptionError(GazeQwenError):
    """A captioner's answer that can't be used. The fixation is then unknown, counted, and no question rests on it."""


class Captioner(Protocol):
    """Pictures of a fixation to names. `key` says which captioner it is: another one makes other questions."""

    @property
    def key(self) -> str: ...

    def __call__(self, pictures: Pictures) -> Named:
        """Raises CaptionError for an answer that can't be used."""
        ...


class Speaker(Protocol):
    """A loaded model: images and a request to text."""

    def say(self, images: Sequence[np.ndarray], text: str) -> str: ...


@dataclass
class VlmCaptioner:
    """Two requests to a vision-language model for each fixation."""

    speaker: Speaker
    key: str

    @classmethod
    def from_folder(cls, folder: str | Path, *, device: str | None = None) -> VlmCaptioner:
        """The model of a local folder (`AutoModelForImageTextToText`), nothing downloaded.

        Raises:
            InputError: no such folder, no such model in it, or something that its processor needs is missing.
        """
        path = Path(folder)
        if not (path / "config.json").is_file():
            found = "no config.json in it" if path.is_dir() else "no such folder"
            raise InputError(
                folder,
                expected="a folder with a vision-language model (config.json, weights, tokenizer)",
                found=found,
                fix="download the model first and pass its folder",
            )
        from benchmarks.streamgaze.pipeline.vlm import load_speaker

        return cls(load_speaker(path, device=device), folder_key(path))

    def __call__(self, pictures: Pictures) -> Named:
        more = f"\nWhat happens meanwhile: {pictures.context}" if pictures.context else ""
        more += f"\nUse these names where they fit: {', '.join(pictures.known)}." if pictures.known else ""
        inside = parse_inside(self.speaker.say(pictures.crops, INSIDE + more))
        seen = parse_outside(self.speaker.say(pictures.masked, OUTSIDE + more))
        taken = {inside.gazed, *inside.in_fov}
        return Named(inside.gazed, inside.in_fov, tuple(name for name in seen if name not in taken), inside.attributes)


def folder_key(path: Path) -> str:
    """Sixteen hex digits of a model folder: its configuration's content, names and sizes of its other files."""
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    parts = [(file.name, file.stat().st_size) for file in files]
    config = (path / "config.json").read_bytes()
    return hashlib.sha256(config + json.dumps(parts).encode()).hexdigest()[:16]


def parse_inside(text: str) -> Named:
    """The answer to `INSIDE`.

    Raises:
        CaptionError: no JSON object, or one without a usable "gazed".
    """
    answer = _json_object(text)
    gazed = _name(answer.get("gazed"))
    if not gazed:
        raise CaptionError(f'no "gazed" object in {_short(text)}')
    attributes = answer.get("attributes")
    values = attributes.items() if isinstance(attributes, dict) else ()
    known = {
        name: value.strip().lower()
        for name, value in values
        if isinstance(value, str) and value.strip().lower() in ATTRIBUTE_CHOICES.get(name, ())
    }
    others = tuple(name for name in _names(answer.get("others", []), text) if name != gazed)
    return Named(gazed, others, attributes=known)


def parse_outside(text: str) -> tuple[str, ...]:
    """The answer to `OUTSIDE`.

    Raises:
        CaptionError: no JSON object, or one without a list "objects".
    """
    answer = _json_object(text)
    if "objects" not in answer:
        raise CaptionError(f'no "objects" in {_short(text)}')
    return _names(answer["objects"], text)


def _json_object(text: str) -> dict[str, Any]:
    """The one JSON object of an answer, bare or in a code fence; nothing else may be said."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, flags=re.DOTALL)
    try:
        answer = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"no JSON in {_short(text)}") from error
    if not isinstance(answer, dict):
        raise CaptionError(f"no JSON object in {_short(text)}")
    return answer


def _names(values: Any, text: str) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise CaptionError(f"no list of names in {_short(text)}")
    names = [_name(value) for value in values]
    if not all(names):
        raise CaptionError(f"a name that is none in {_short(text)}")
    return tuple(dict.fromkeys(names))


def _name(value: Any) -> str:
    """A usable object name, else ""."""
    name = object_name(value) if isinstance(value, str) else ""
    return name if len(name) <= MAX_NAME else ""


def _short(text: str) -> str:
    shown = " ".join(text.split())
    return repr(shown[:80] + ("..." if len(shown) > 80 else ""))
