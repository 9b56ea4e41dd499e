"""Settings of a training run: frozen dataclasses, from YAML and `key.sub=value`, checked before anything is loaded."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml

from gazeqwen.arms import Arm, get_arm
from gazeqwen.config import GazeQwenConfig, _Config, _need
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import plain_json
from gazeqwen.yaml_files import read_yaml

# The linear layers of the language model that LoRA may change. The published run: r"q_proj|v_proj".
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# Settings that say where and how fast, not what: a run may go on with others.
FREE_KEYS = ("out", "trackers", "max_keep", "save_every", "accumulation", "log_every", "data.cache", "model.device")
_COUNTED_BY = {"letters": "choice", "likelihood": "choice", "text": "answer"}
_OVERRIDES = ("resampler", "gaze_encoding", "preprocess", "fps")


class _Settings(_Config):
    """`_Config` that also reads lists of settings, and numbers as YAML 1.1 misses them (`3e-4` is text there)."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        if isinstance(values, Mapping):
            hints = typing.get_type_hints(cls)
            values = {name: _revived(hints.get(name), value) for name, value in values.items()}
        return super().from_dict(values)


def _revived(hint: Any, value: Any) -> Any:
    inner = typing.get_args(hint)
    if isinstance(value, list) and inner and is_dataclass(inner[0]):
        return tuple(inner[0].from_dict(item) for item in value)  # type: ignore[union-attr]
    is_for_numbers = hint is float or float in inner or hint is Any
    if is_for_numbers and isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.IGNORECASE):
        return float(value)
    if typing.get_origin(hint) is Mapping and isinstance(value, Mapping):
        return {name: _revived(inner[1], item) for name, item in value.items()}
    return value


@dataclass(frozen=True)
class ModelSettings(_Settings):
    """What is trained.

    Attributes:
        path: as `GazeQwen.from_pretrained`: "tiny", a saved folder, or a plain Qwen2.5-VL (folder or hub id).
        base, vjepa: backbone and V-JEPA weights over what the model's config.json names; empty: those.
        quantization: of the frozen backbone.
        dtype: of the backbone; None: bfloat16 on a GPU, float32 on a CPU. What is trained is always float32.
        device: None: the process's own GPU where there is one.
        fresh_resampler: it starts anew from the seed, whatever the model brought; None: in stage one and joint
            training. false trains a resampler on, e.g. on own recordings.
        overrides: of config.json: resampler, gaze_encoding, preprocess, fps.
    """

    path: str = "tiny"
    base: str = ""
    vjepa: str = ""
    quantization: Literal["nf4", "int8"] | None = None
    dtype: Literal["float32", "bfloat16", "float64"] | None = None
    device: str | None = None
    fresh_resampler: bool | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        odd = sorted(set(self.overrides) - set(_OVERRIDES))
        _need(not odd, f"model.overrides: unknown keys {odd}; known keys are {sorted(_OVERRIDES)}")


@dataclass(frozen=True)
class LoraSettings(_Settings):
    """The adapter (PEFT). `targets`: a regular expression for the names of linear layers of the language model."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "q_proj|v_proj"

    def __post_init__(self) -> None:
        _need(self.rank >= 1 and self.alpha > 0, f"lora: rank >= 1 and alpha > 0, got {self.rank}, {self.alpha}")
        _need(0 <= self.dropout < 1, f"lora.dropout: in [0, 1), got {self.dropout}")
        try:
            hit = [name for name in LORA_TARGETS if re.fullmatch(self.targets, name)]
        except re.error as error:
            raise ConfigError(f"lora.targets: a regular expression, got {self.targets!r} ({error})") from error
        _need(bool(hit), f"lora.targets {self.targets!r} matches none of {', '.join(LORA_TARGETS)}")

    @property
    def pattern(self) -> str:
        """PEFT's `target_modules`: linear layers below the language model's decoder layers, and nowhere else."""
        names = "|".join(name for name in LORA_TARGETS if re.fullmatch(self.targets, name))
        return rf".*language_model\.layers\.\d+\.(self_attn|mlp)\.({names})"


@dataclass(frozen=True)
class DataSettings(_Settings):
    """Folders in StreamGaze's form (`gazeqwen data validate` reads the same).

    Attributes:
        train: the training videos; with `split` the folder of all.
        validation: a folder of other videos; empty: those that `split` names, or none.
        split: JSON file {"train": [...], "validation": [...], "test": [...]} of video names.
        tasks: only these; empty: all.
        cache: folder of frozen features, made in the first epoch; empty: they are computed again each time.
        gaze_input: "samples" or "fixations"; None: samples where a recording has them.
    """

    train: str = ""
    validation: str = ""
    split: str = ""
    tasks: tuple[str, ...] = ()
    cache: str = ""
    gaze_input: Literal["samples", "fixations"] | None = None


@dataclass(frozen=True)
class NamedSettings(_Settings):
    """An augmentation by name (`gazeqwen.train.augment.AUGMENTATIONS`)."""

    name: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossSettings(_Settings):
    """A loss by name (`gazeqwen.train.losses.LOSSES`) and what it counts for."""

    name: str = ""
    weight: float = 1.0
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerSettings(_Settings):
    """AdamW and its schedule. `weight_decay` acts on the resampler's matrices, `lora_weight_decay` on the adapter's;
    biases, norms and other vectors have none (as the published run).

    Attributes:
        lr: peak, of the resampler. `lora_lr`: of the adapter; None: the same.
        schedule: "linear" and "cosine" rise over `warmup_steps` and fall to `final_lr` x lr; "onecycle" is
            torch's OneCycleLR: lr/25 to lr over `warmup_steps`, down to lr/25e4, beta1 cycling 0.95, 0.85, 0.95.
        clip_norm: of all gradients together; 0: none.
    """

    lr: float = 1e-3
    lora_lr: float | None = None
    weight_decay: float = 0.01
    lora_weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["linear", "cosine", "onecycle"] = "cosine"
    warmup_steps: int = 20
    final_lr: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        rates = (self.lr, *(() if self.lora_lr is None else (self.lora_lr,)))
        _need(all(0 < rate < math.inf for rate in rates), f"optimizer.lr, lora_lr: finite, > 0, got {rates}")
        _need(min(self.weight_decay, self.lora_weight_decay, self.clip_norm, self.warmup_steps) >= 0, "optimizer: >= 0")
        _need(all(0 <= beta < 1 for beta in self.betas), f"optimizer.betas: in [0, 1), got {self.betas}")
        _need(0 <= self.final_lr <= 1, f"optimizer.final_lr: a share of lr in [0, 1], got {self.final_lr}")


@dataclass(frozen=True)
class TrainConfig(_Settings):
    """A training run. Its YAML has these keys.

    Attributes:
        out: the run's folder; an unfinished run of the same settings goes on there.
        train: "resampler" (stage one, backbone frozen), "lora" (stage two: an adapter, and the resampler where the arm
            injects, from the stage-one folder `init_from`), or "joint" (both at once, as the published run did).
        init_from: the model of stage one ("lora" only); `model.path` is then not read.
        arm: what it is trained for. Other arms than inject are written to arms/NAME of the model's folder.
        forms: how questions are put, with what weight: letters, likelihood, text. Proactive points are always yes_no,
            questions without options always text.
        losses, augment: by name.
        null_gaze: share of training videos whose gaze is taken away, so that the weights work without.
        batch_videos: videos of a step, over all processes: a run does not depend on how many share them.
        questions_per_video: at most so many of a video in a step, drawn anew each time; 0: all.
        accumulation: forwards in which a process goes through its share of a step: more need less memory.
        steps: of the optimiser; 0: `epochs` passes over the training videos.
        precision: "bf16" runs the forward under autocast.
        eval_every: steps between validations; 0: once an epoch. `eval_videos`: only the first so many; 0: all.
        eval_arms: arms asked at validation with the weights being trained; empty: the trained one.
        patience: validations without a better one after which the run stops; 0: never.
        save_every: steps between checkpoints; 0: with each validation. `max_keep`: newest ones kept, the best besides.
        log_every: steps between log lines where there is no terminal.
        trackers: of accelerate, e.g. [tensorboard]; None: tensorboard where it is installed; []: none.
    """

    out: str = "runs/train"
    train: Literal["resampler", "lora", "joint"] = "resampler"
    init_from: str = ""
    arm: str = "inject"
    seed: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    data: DataSettings = field(default_factory=DataSettings)
    forms: Mapping[str, float] = field(default_factory=lambda: {"letters": 1.0})
    losses: tuple[LossSettings, ...] = (LossSettings("choice"), LossSettings("answer"))
    augment: tuple[NamedSettings, ...] = ()
    null_gaze: float = 0.0
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    batch_videos: int = 4
    questions_per_video: int = 0
    accumulation: int = 1
    steps: int = 0
    epochs: float = 3.0
    precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    eval_every: int = 0
    eval_videos: int = 0
    eval_arms: tuple[str, ...] = ()
    patience: int = 0
    save_every: int = 0
    max_keep: int = 2
    log_every: int = 10
    trackers: tuple[str, ...] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        if isinstance(values, Mapping):  # the arm `null` without quotes is YAML's nothing
            values = dict(values)
            if "arm" in values and values["arm"] is None:
                values["arm"] = "null"
            if isinstance(arms := values.get("eval_arms"), list):
                values["eval_arms"] = ["null" if name is None else name for name in arms]
        return super().from_dict(values)

    def __post_init__(self) -> None:
        arm = get_arm(self.arm)
        _need(
            not arm.solver and not arm.gaze_in_prompt and not arm.salience and (arm.name == "inject" or _own(arm)),
            f"arm {arm.name!r} is not trained; trained arms are inject, null, marker-trained, no-features, skip-only, "
            "blind",
        )
        _need(arm.inject or self.train == "lora", f"train={self.train!r}: arm {arm.name!r} has no resampler, use lora")
        if self.train == "lora" and arm.inject:
            _need(bool(self.init_from), "train=lora starts from stage one: set init_from to its folder, or use joint")
        _need(not self.init_from or self.train == "lora", f"init_from goes with train=lora, got train={self.train!r}")
        odd = sorted(set(self.forms) - {"letters", "likelihood", "text"})
        _need(not odd, f"forms: unknown names {odd}; known are letters, likelihood, text (yes_no is no choice)")
        weights = [weight for weight in self.forms.values() if isinstance(weight, (int, float)) and weight >= 0]
        _need(len(weights) == len(self.forms) and sum(weights) > 0, f"forms: weights >= 0, got {dict(self.forms)}")
        _need(bool(self.losses), "losses: at least one")
        _need(all(math.isfinite(loss.weight) for loss in self.losses), "losses: finite weights")
        named = {loss.name for loss in self.losses}
        if named <= set(_COUNTED_BY.values()):  # another one may count any form
            lost = sorted(form for form, by in _COUNTED_BY.items() if self.forms.get(form, 0.0) and by not in named)
            _need(not lost, f"forms {', '.join(lost)}: no loss of {', '.join(sorted(named))} counts them")
        _need(
            not (arm.changes_frames and (self.augment or self.null_gaze)),
            f"augment, null_gaze: arm {arm.name!r} draws gaze on the frames, where they do nothing: leave them out",
        )
        for name in ("batch_videos", "accumulation", "max_keep", "log_every"):
            _need(getattr(self, name) >= 1, f"{name}: >= 1, got {getattr(self, name)}")
        for name in ("questions_per_video", "steps", "eval_every", "eval_videos", "patience", "save_every", "seed"):
            _need(getattr(self, name) >= 0, f"{name}: >= 0, got {getattr(self, name)}")
        _need(self.steps > 0 or self.epochs > 0, f"steps or epochs: > 0, got {self.steps}, {self.epochs}")
        _need(0 <= self.null_gaze <= 1, f"null_gaze: in [0, 1], got {self.null_gaze}")
        for name in self.eval_arms:
            asked = get_arm(name)
            fits = not asked.solver and not asked.salience and asked.weights != "own" and self.arm == "inject"
            _need(name == self.arm or fits, f"eval_arms: {name!r} does not answer with weights of arm {self.arm!r}")

    @property
    def trains_lora(self) -> bool:
        return self.train != "resampler"

    @property
    def trains_resampler(self) -> bool:
        return get_arm(self.arm).inject

    @property
    def scoring(self) -> Literal["letters", "likelihood"]:
        """How questions with options are scored at validation, and by whoever loads the result."""
        return "letters" if self.forms.get("letters", 0.0) > self.forms.get("likelihood", 0.0) else "likelihood"

    def identity(self) -> dict[str, Any]:
        """The settings that make the run what it is: everything but `FREE_KEYS`."""
        flat = flatten(self.to_dict())
        free = tuple(key for key in FREE_KEYS if key != "accumulation" or not self.lora.dropout)  # it decides the draws
        return {name: value for name, value in flat.items() if not name.startswith(free)}


def _own(arm: Arm) -> bool:
    return arm.weights != "model"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists stay, in plain JSON types."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = plain_json(value)
    return found


def load_config(path: Path | None, settings: Sequence[str] = ()) -> TrainConfig:
    """A YAML file (None: the defaults) with `key.sub=value` on top; values are YAML too (`optimizer.lr=1e-3`).

    Raises:
        InputError: the file can't be read or is no mapping; a setting is no `key=value`.
        ConfigError: an unknown key (the known ones are listed), a wrong type, or settings that contradict each other.
    """
    values: Any = {}
    if path is not None:
        values = read_yaml(path)
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise InputError(path, expected="keys and values", found=type(values).__name__)
    for text in settings:
        _set(values, text)
    try:
        return TrainConfig.from_dict(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path is not None else str(error)) from error


def _set(values: dict[str, Any], text: str) -> None:
    key, equals, shown = text.partition("=")
    if not (equals and all(key.split("."))):
        raise InputError("--set", expected="KEY=VALUE or KEY.SUB=VALUE", found=repr(text))
    try:
        value = yaml.safe_load(shown) if shown else ""
    except yaml.YAMLError as error:
        raise InputError(f"--set {key}", expected="a YAML value", found=repr(shown)) from error
    *above, last = key.split(".")
    for name in above:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {key}", expected=f"{name} with keys below it", found=repr(inner))
        values = inner
    values[last] = value


def dump_config(config: TrainConfig) -> str:
    """The resolved settings as YAML that `load_config` reads back."""
    return yaml.safe_dump(plain_json(config.to_dict()), sort_keys=False, allow_unicode=True)


def apply_overrides(config: GazeQwenConfig, overrides: Mapping[str, Any]) -> GazeQwenConfig:
    """config.json's settings with those of `ModelSettings.overrides` on top.

    Raises:
        ConfigError: an unknown key or a wrong value, or the model is a published one (compat="official").
    """
    if not overrides:
        return config
    if config.compat == "official":
        raise ConfigError("model.overrides: a published checkpoint (compat='official') keeps its settings")
    values = config.to_dict()
    for name, value in overrides.items():
        values[name] = values[name] | dict(value) if isinstance(value, Mapping) else value
    return GazeQwenConfig.from_dict(plain_json(values))
