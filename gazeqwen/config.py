"""Every setting that a saved model records: frozen dataclasses, checked when made, written to config.json and back.

Sizes of the backbone (layers, hidden size, patch size) are not here: they come from the backbone's own config.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Self

from gazeqwen.errors import ConfigError


def _need(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


class _Config:
    """`to_dict` / `from_dict` for the dataclasses below; an unknown key is an error that lists the known ones."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Builds the config from `to_dict`'s output (or JSON). Raises ConfigError for unknown keys or wrong types."""
        if not isinstance(values, Mapping):
            raise ConfigError(f"{cls.__name__}: expected a mapping, found {type(values).__name__}")
        hints = typing.get_type_hints(cls)
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        _need(not unknown, f"{cls.__name__}: unknown keys {unknown}; known keys are {sorted(known)}")
        revived = {}
        for name, value in values.items():
            hint = hints[name]
            if is_dataclass(hint) and isinstance(value, Mapping):
                value = hint.from_dict(value)  # type: ignore[union-attr]
            elif isinstance(value, list):
                value = tuple(value)
            _need(_fits(hint, value), f"{cls.__name__}.{name}: expected {_shown(hint)}, found {value!r}")
            revived[name] = value
        return cls(**revived)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value has the annotated type; a whole number passes for a float, True does not pass for 1."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return any(_fits(option, value) for option in options)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in options)
    if origin is tuple:
        inner = options[:1] * len(value) if isinstance(value, tuple) and options[-1] is Ellipsis else options
        return (
            isinstance(value, tuple)
            and len(value) == len(inner)
            and all(_fits(option, item) for option, item in zip(inner, value, strict=True))
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "").replace("collections.abc.", "")


@dataclass(frozen=True)
class PreprocessConfig(_Config):
    """Frames to Qwen patches. Limits are pixels of one frame; defaults are Qwen's own, 128 and 768 tokens."""

    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        _need(
            0 < self.min_pixels <= self.max_pixels,
            f"preprocess: 0 < min_pixels <= max_pixels, got {self.min_pixels}, {self.max_pixels}",
        )


@dataclass(frozen=True)
class VJEPAConfig(_Config):
    """Shape of a V-JEPA 2.1 encoder. `hierarchical_layers` are the four blocks whose outputs have a LayerNorm."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    hierarchical_layers: tuple[int, ...] = (2, 5, 8, 11)
    patch_size: int = 16
    tubelet_size: int = 2
    pretrained_grid: int = 16

    def __post_init__(self) -> None:
        sizes = (self.dim, self.depth, self.heads, self.mlp_dim, self.patch_size, self.tubelet_size)
        _need(min(sizes) >= 1, f"vjepa: sizes of at least 1, got {sizes}")
        _need(self.dim % self.heads == 0, f"vjepa: dim {self.dim} must be divisible by heads {self.heads}")
        _need(
            len(self.hierarchical_layers) == 4 and max(self.hierarchical_layers) == self.depth - 1,
            f"vjepa: four hierarchical_layers, the last of them {self.depth - 1}, got {self.hierarchical_layers}",
        )


VJEPA_SIZES: dict[str, VJEPAConfig] = {
    "B": VJEPAConfig(),
    "L": VJEPAConfig(dim=1024, depth=24, heads=16, mlp_dim=4096, hierarchical_layers=(5, 11, 17, 23)),
    "g": VJEPAConfig(dim=1408, depth=40, heads=22, mlp_dim=6144, hierarchical_layers=(9, 19, 29, 39)),
    "G": VJEPAConfig(dim=1664, depth=48, heads=26, mlp_dim=8192, hierarchical_layers=(11, 23, 37, 47)),
}


@dataclass(frozen=True)
class FeatureConfig(_Config):
    """Rolling causal features of a step: the newest `tubelets_per_step` tubelets of a window that ends with the step.

    Attributes:
        extractor: `vjepa21` (own encoder, official weights), `vjepa2_hf` (V-JEPA 2.0 by transformers).
        vjepa: the encoder's shape (used by `vjepa21`).
        hf_id: model id or folder for `vjepa2_hf`; empty otherwise.
        window_frames: frames the encoder sees at once; the start of a stream repeats its first frame.
        size_px: frames are resized to a square of this side (aspect not kept, as in the published model).
        fps: frames a second taken from the video for the encoder.
        tubelets_per_step: how many of the newest temporal tokens a step keeps.
    """

    extractor: Literal["vjepa21", "vjepa2_hf"] = "vjepa21"
    vjepa: VJEPAConfig = field(default_factory=VJEPAConfig)
    hf_id: str = ""
    window_frames: int = 16
    size_px: int = 384
    fps: float = 8.0
    tubelets_per_step: int = 4

    def __post_init__(self) -> None:
        _need(
            self.extractor in ("vjepa21", "vjepa2_hf"),
            f"features.extractor: vjepa21 or vjepa2_hf, got {self.extractor!r}",
        )
        _need(
            self.window_frames >= 2 and self.window_frames % 2 == 0,
            f"features.window_frames: even and >= 2, got {self.window_frames}",
        )
        _need(
            self.size_px >= 32 and self.size_px % 16 == 0,
            f"features.size_px: a multiple of 16, >= 32, got {self.size_px}",
        )
        _need(self.fps > 0, f"features.fps: > 0, got {self.fps}")
        _need(
            1 <= self.tubelets_per_step <= self.window_frames // 2,
            f"features.tubelets_per_step: 1 to {self.window_frames // 2} (window_frames / 2), "
            f"got {self.tubelets_per_step}",
        )


@dataclass(frozen=True)
class GazeEncodingConfig(_Config):
    """How gaze becomes numbers for the video tokens (DESIGN 5).

    Attributes:
        name: `local` (per-token offsets to every gaze event), `broadcast` (for comparison: the published cosine vector
            of a step's events, the same for all its tokens, in our resampler), or `official` (of published weights).
        frequencies: Fourier frequencies per axis of the offset, in cycles per frame: 1, 2, 4, ... (`local`).
        sigmas: widths of the Gaussian of the offset, in frame widths (`local`).
        recency_s: events fade with exp(-age / recency_s) when several are pooled (`local`).
        newest_s: the same, shorter, for a second set of Gaussians that says where gaze is at the step's end, and so in
            which order a step's objects were looked at (`local`). None: no such set; a file that does not say so was
            saved before there was one.
    """

    name: Literal["local", "broadcast", "official"] = "local"
    frequencies: int = 4
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2)
    recency_s: float = 0.5
    newest_s: float | None = 0.125

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """As of every setting; without `newest_s` it is None."""
        return super().from_dict({"newest_s": None, **values} if isinstance(values, Mapping) else values)

    def __post_init__(self) -> None:
        names = ("local", "broadcast", "official")
        _need(self.name in names, f"gaze_encoding.name: {', '.join(names)}, got {self.name!r}")
        _need(self.frequencies >= 1, f"gaze_encoding.frequencies: >= 1, got {self.frequencies}")
        _need(
            bool(self.sigmas) and all(s > 0 for s in self.sigmas), f"gaze_encoding.sigmas: positive, got {self.sigmas}"
        )
        _need(self.recency_s > 0, f"gaze_encoding.recency_s: > 0, got {self.recency_s}")
        _need(self.newest_s is None or self.newest_s > 0, f"gaze_encoding.newest_s: > 0, got {self.newest_s}")


@dataclass(frozen=True)
class ResamplerConfig(_Config):
    """The GazeResampler, the published module under `kind="official"`, or one vector at gaze under `kind="skip"`.

    Attributes:
        layers: decoder layers whose output gets a residual: depth fractions in (0, 1), "learned" (one gate per layer
            0..n-2 on a shared head), or absolute indices (ints, kind="official" and tests).
        allow_last_layer: evidence only: the last layer's output at video tokens can't reach the text.
        skip: the direct path from a token's gaze and newest features to its residual (`kind="gaze"`); False: evidence
            only, all goes through the latents.
    """

    kind: Literal["gaze", "official", "skip"] = "gaze"
    dim: int = 256
    latents: int = 32
    blocks: int = 2
    heads: int = 4
    layers: tuple[float, ...] | tuple[int, ...] | Literal["learned"] = (0.25, 0.5, 0.75)
    allow_last_layer: bool = False
    skip: bool = True

    def __post_init__(self) -> None:
        _need(self.kind in ("gaze", "official", "skip"), f"resampler.kind: gaze, official or skip, got {self.kind!r}")
        _need(
            self.heads >= 1 and self.dim >= 4 and self.dim % self.heads == 0 and self.dim % 4 == 0,
            f"resampler.dim {self.dim}: divisible by heads {self.heads} and by 4",
        )
        _need(
            min(self.latents, self.blocks) >= 1,
            f"resampler: latents and blocks >= 1, got {self.latents}, {self.blocks}",
        )
        if isinstance(self.layers, str):
            _need(self.layers == "learned", f"resampler.layers: 'learned' or numbers, got {self.layers!r}")
        else:
            _need(bool(self.layers), "resampler.layers: at least one layer")
            _need(
                all(isinstance(layer, int) or 0 < layer < 1 for layer in self.layers),
                f"resampler.layers: fractions lie in (0, 1) and indices are integers, got {self.layers}",
            )

    def layer_indices(self, n_layers: int) -> tuple[int, ...]:
        """Decoder layers (0-based, ascending) of a backbone with `n_layers`.

        Raises:
            ConfigError: an index does not exist, or it is the last layer without `allow_last_layer`.
        """
        if isinstance(self.layers, str):
            chosen = tuple(range(n_layers - 1))
        else:
            chosen = tuple(
                layer if isinstance(layer, int) else min(max(round(layer * n_layers) - 1, 0), n_layers - 2)
                for layer in self.layers
            )
            chosen = tuple(sorted(set(chosen)))
        _need(
            bool(chosen) and chosen[0] >= 0 and chosen[-1] < n_layers,
            f"resampler.layers {chosen}: the backbone has layers 0..{n_layers - 1}",
        )
        _need(
            self.allow_last_layer or chosen[-1] < n_layers - 1,
            f"resampler.layers {chosen}: layer {n_layers - 1} is the last one; a residual on its output at video "
            f"tokens never reaches the text (measured 0.0). Use layers <= {n_layers - 2}, or allow_last_layer=True for "
            "evidence",
        )
        return chosen


@dataclass(frozen=True)
class FixationConfig(_Config):
    """The fixation detector a model was trained with, by name and with all parameters; others warn at inference."""

    detector: str = "ivt"
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GazeQwenConfig(_Config):
    """config.json of a saved GazeQwen.

    Attributes:
        name: what answers say they came from.
        base: Qwen2.5-VL folder or hub id; empty when the backbone's weights are in the model's own folder.
        vjepa_weights: safetensors file (relative to the model's folder) or a path; empty when inside model.safetensors.
        compat: None, or "official" for the published placement, times and features.
        trained: what the weights are, in words; "untrained" makes every answer say so.
        fps: Qwen's frames a second the model expects (two frames a step).
        scoring: how the model was trained to answer questions with options (`GazeQwen.score`): the default of
            `gazeqwen eval` under the protocol `stream`.
        lora: a LoRA adapter lies in `lora/`.
    """

    name: str = "gazeqwen"
    base: str = ""
    vjepa_weights: str = ""
    compat: Literal["official"] | None = None
    trained: str = "untrained"
    fps: float = 2.0
    scoring: Literal["letters", "likelihood"] = "letters"
    lora: bool = False
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    gaze_encoding: GazeEncodingConfig = field(default_factory=GazeEncodingConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    fixations: FixationConfig = field(default_factory=FixationConfig)
    version: int = 1

    def __post_init__(self) -> None:
        _need(self.compat in (None, "official"), f"compat: None or 'official', got {self.compat!r}")
        _need(self.fps > 0, f"fps: > 0, got {self.fps}")
        _need(self.scoring in ("letters", "likelihood"), f"scoring: letters or likelihood, got {self.scoring!r}")
        _need(self.version == 1, f"config version {self.version}: this release reads version 1; upgrade gazeqwen")
        official = self.resampler.kind == "official"
        _need(official == (self.compat == "official"), "compat='official' and resampler.kind='official' go together")
        _need(
            official == (self.gaze_encoding.name == "official") or not official,
            "resampler.kind='official' needs gaze_encoding.name='official'",
        )
