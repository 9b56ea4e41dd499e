"""Rolling causal V-JEPA features of a stream, and the published GazeQwen's way to take them.

The encoder (`vjepa_encoder`) looks both ways in time, so a stream gives it a window that ends with the newest frame and
keeps the newest tubelets: a step's features never see a later frame. V-JEPA 2.0 comes from `transformers` by the same
`FeatureExtractor` protocol. `official_*` are the published GazeQwen's own steps, for `compat="official"`.

Shapes: B batch, S steps, W frames of a window, K newest tubelets, t gh gw grid of tubelets and patches, N = t*gh*gw, D.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from gazeqwen.config import FeatureConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.preprocess import as_frames
from gazeqwen.types import Step
from gazeqwen.vjepa_encoder import VJEPA21, encoder_flops
from gazeqwen.vjepa_weights import convert_vjepa, load_official, official_state_dict

__all__ = [
    "VJEPA21",
    "FeatureExtractor",
    "HFVJEPA2Features",
    "RollingWindow",
    "VJEPA21Features",
    "build_extractor",
    "convert_vjepa",
    "encoder_flops",
    "load_official",
    "official_features",
    "official_frame_indices",
    "official_inputs",
    "official_state_dict",
    "step_features",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHUNK_TOKENS = 18_432  # tokens encoded at once: four windows of 16 frames at 384 px, about 0.5 GB in fp32 for size B
GROUP_STEPS = 64  # windows held at once by step_features: 450 MB of uint8 at 16 frames and 384 px
OFFICIAL_FRAMES = 16


class FeatureExtractor(Protocol):
    """What turns windows of frames into features. `dim` is D."""

    dim: int
    config: FeatureConfig

    def encode(self, windows: Tensor) -> Tensor:
        """(S, W, size, size, 3) uint8 -> (S, K, gh, gw, D): the newest K tubelets of each window, oldest first."""
        ...


class _WindowFeatures(nn.Module):
    """Checks, normalises and chunks the windows for a frozen encoder; `_tokens` is the encoder's own call."""

    def __init__(self, encoder: nn.Module, config: FeatureConfig, *, dim: int, patch: int, tubelet: int) -> None:
        super().__init__()
        if config.size_px % patch or config.window_frames % tubelet:
            raise ConfigError(
                f"features: size_px {config.size_px} must be a multiple of the patch {patch}, "
                f"window_frames {config.window_frames} of the tubelet {tubelet}"
            )
        if config.tubelets_per_step > config.window_frames // tubelet:
            raise ConfigError(f"features.tubelets_per_step: at most {config.window_frames // tubelet}")
        self.encoder = encoder.eval().requires_grad_(False)
        self.config, self.dim = config, dim
        self._grid = (config.window_frames // tubelet, config.size_px // patch, config.size_px // patch)

    def encode(self, windows: Tensor) -> Tensor:
        """As `FeatureExtractor.encode`; no gradients; on the encoder's device, in its dtype."""
        config = self.config
        shape = (config.window_frames, config.size_px, config.size_px, 3)
        if windows.dtype != torch.uint8 or tuple(windows.shape[1:]) != shape:
            raise InputError("windows", expected=f"uint8 (S, {shape})", found=f"{windows.dtype} {tuple(windows.shape)}")
        weight = next(self.encoder.parameters())
        chunk = max(1, CHUNK_TOKENS // math.prod(self._grid))
        parts = [torch.empty(0, config.tubelets_per_step, *self._grid[1:], self.dim).to(weight)]
        with torch.no_grad():
            for start in range(0, len(windows), chunk):
                part = windows[start : start + chunk].to(weight.device)
                video = _normalised(part.permute(0, 4, 1, 2, 3).float() / 255).to(weight.dtype)
                maps = self._tokens(video).unflatten(1, self._grid)
                parts.append(maps[:, -config.tubelets_per_step :])
        return torch.cat(parts)

    def _tokens(self, video: Tensor) -> Tensor:
        """(B, 3, W, size, size) normalised -> (B, N, D)."""
        raise NotImplementedError


class VJEPA21Features(_WindowFeatures):
    """Rolling features of our own V-JEPA 2.1 encoder."""

    def __init__(self, encoder: VJEPA21, config: FeatureConfig) -> None:
        shape = encoder.config
        super().__init__(encoder, config, dim=shape.dim, patch=shape.patch_size, tubelet=shape.tubelet_size)

    def _tokens(self, video: Tensor) -> Tensor:
        return self.encoder(video)


class HFVJEPA2Features(_WindowFeatures):
    """Rolling features of a V-JEPA 2.0 model of `transformers` (`VJEPA2Model`); its predictor is left out.

    That model takes its rotary positions from its config's `crop_size`, whatever it is given: at any other size rows
    and columns would be numbered wrongly in silence, so another `size_px` is an error here.
    """

    def __init__(self, model: Any, config: FeatureConfig) -> None:
        shape = model.config
        if shape.crop_size != config.size_px:
            raise ConfigError(f"features.size_px {config.size_px}: this V-JEPA 2.0 works at {shape.crop_size} only")
        super().__init__(
            model.encoder, config, dim=shape.hidden_size, patch=shape.patch_size, tubelet=shape.tubelet_size
        )

    def _tokens(self, video: Tensor) -> Tensor:
        return self.encoder(pixel_values_videos=video.transpose(1, 2)).last_hidden_state


def build_extractor(config: FeatureConfig, weights: str | Path | None = None) -> VJEPA21Features | HFVJEPA2Features:
    """The extractor that `config` names.

    Args:
        weights: for `vjepa21` a file for `load_official`, or None for random weights (a state dict follows, or none is
            wanted); for `vjepa2_hf` a local folder, or None for `config.hf_id`.

    Raises:
        InputError: the weights can't be read or do not fit.
    """
    if config.extractor == "vjepa21":
        encoder = VJEPA21(config.vjepa) if weights is None else load_official(weights, config.vjepa)
        return VJEPA21Features(encoder, config)
    from transformers import VJEPA2Model

    source = str(weights or config.hf_id)
    try:
        model = VJEPA2Model.from_pretrained(source, attn_implementation="sdpa")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            source or "features.hf_id", expected="a V-JEPA 2.0 model of transformers", found=str(error)
        ) from error
    return HFVJEPA2Features(model, config)


class RollingWindow:
    """The newest `window_frames` frames of one stream, resized: all that a stream keeps for V-JEPA.

    Frames are squashed to a square by bilinear interpolation without antialias, as in the published model, and kept as
    uint8 (a quarter of the memory, about one grey level off at most). Before the window is full its start repeats the
    stream's first frame. Stored tensors are never written to: `copy` costs nothing and a fork can't touch its parent.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self._size, self._capacity = config.size_px, config.window_frames
        self._frames: Tensor | None = None  # of the newest times
        self._times_s = np.zeros(0)

    def __len__(self) -> int:
        return 0 if self._frames is None else len(self._frames)

    @property
    def times_s(self) -> np.ndarray:
        """(<= window_frames,) times of the newest frames, those passed over among them: with a step's own frames they
        decide what its features are made of."""
        return self._times_s

    @property
    def bytes(self) -> int:
        """Bytes of the frames held."""
        return 0 if self._frames is None else self._frames.nbytes

    def to_tensors(self) -> dict[str, Tensor]:
        """All of it: `window.times_s` (T,) float64 and, unless they were passed over, `window.frames` (<= T, ...)."""
        frames = {} if self._frames is None else {"window.frames": self._frames}
        return {"window.times_s": torch.from_numpy(self._times_s), **frames}

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `to_tensors` gave."""
        self._times_s, self._frames = tensors["window.times_s"].numpy(), tensors.get("window.frames")

    def copy(self) -> RollingWindow:
        """An independent window with the same content."""
        return copy.copy(self)

    def restore(self, other: RollingWindow) -> None:
        """Takes over what `other`, a copy that has gone ahead, holds."""
        self._frames, self._times_s = other._frames, other._times_s

    def pass_over(self, times_s: Sequence[float] | np.ndarray) -> None:
        """Moves on by frames whose features are known without encoding them. `push` needs frames again: it raises until
        as many as the window holds have been pushed.

        Raises:
            InputError: as `push`, for the times.
        """
        self._times_s = self._after(times_s)
        self._frames = None

    def _after(self, times_s: Sequence[float] | np.ndarray) -> np.ndarray:
        """The newest times once these have come in."""
        times = np.asarray(times_s, dtype=np.float64).reshape(-1)
        newest_s = self._times_s[-1] if self._times_s.size else -math.inf
        if not (times.size and np.isfinite(times).all() and (np.diff(times, prepend=newest_s) > 0).all()):
            raise InputError(
                "V-JEPA frame times",
                expected=f"ascending times after {newest_s:g} s",
                found=", ".join(f"{t:g}" for t in times[:6]) or "none",
            )
        return np.concatenate([self._times_s, times])[-self._capacity :]

    def push(self, vjepa_frames: Tensor | np.ndarray, times_s: Sequence[float] | np.ndarray) -> Tensor:
        """Adds a span's frames.

        Args:
            vjepa_frames: (M, H, W, 3) uint8, M >= 1.
            times_s: (M,) their times in seconds, ascending and later than every earlier one.

        Returns:
            (window_frames, size_px, size_px, 3) uint8, ending with the newest frame.

        Raises:
            InputError: wrong shape or dtype, times that do not ascend, or the window would hold frames that were passed
                over; the window is then unchanged.
        """
        ahead = self.copy()
        ahead.take(vjepa_frames, times_s)
        kept = ahead._frames
        if kept is None or len(kept) < len(ahead._times_s):
            raise InputError(
                "V-JEPA window",
                expected=f"the {len(ahead._times_s)} newest frames",
                found=f"{len(ahead)}: the others were passed over",
                fix="push the frames from the window's oldest time on",
            )
        self.restore(ahead)
        missing = self._capacity - len(kept)
        return torch.cat([kept[:1].expand(missing, -1, -1, -1), kept]) if missing else kept

    def take(self, vjepa_frames: Tensor | np.ndarray, times_s: Sequence[float] | np.ndarray) -> None:
        """Adds a span's frames without looking at the window, so frames passed over before them don't matter.

        Raises:
            InputError: wrong shape or dtype, or times that do not ascend; the window is then unchanged.
        """
        frames = as_frames(vjepa_frames, "V-JEPA frames")
        times = self._after(times_s)
        if np.size(times_s) != len(frames):
            raise InputError(
                "V-JEPA frame times",
                expected=f"{len(frames)} ascending times, one a frame",
                found=str(np.size(times_s)),
            )
        planes = frames[-self._capacity :].permute(0, 3, 1, 2)
        kept = F.interpolate(planes, (self._size, self._size), mode="bilinear").permute(0, 2, 3, 1)
        if self._frames is not None:
            kept = torch.cat([self._frames, kept])[-self._capacity :]
        self._frames, self._times_s = kept.contiguous(), times


def step_features(extractor: FeatureExtractor, steps: Sequence[Step], window: RollingWindow) -> Tensor:
    """Features (S, K, gh, gw, D) of consecutive steps of one stream, equal to taking them one at a time.

    Pushes every step's V-JEPA frames into `window` in order and encodes up to 64 windows per call of the extractor. If
    one step is refused, `window` is as before.

    Raises:
        InputError: no steps, or as `RollingWindow.push`.
    """
    if not steps:
        raise InputError("step_features", expected="at least one step", found="none")
    ahead, parts = window.copy(), []
    for start in range(0, len(steps), GROUP_STEPS):
        group = steps[start : start + GROUP_STEPS]
        parts.append(extractor.encode(torch.stack([ahead.push(s.vjepa_frames, s.vjepa_times_s) for s in group])))
    window.restore(ahead)
    return torch.cat(parts)


# --- the published GazeQwen's features -------------------------------------------------------------------------------


def official_frame_indices(n: int) -> list[int]:
    """Which of `n` frames the published model encodes: 16, spread and truncated in float32; the last one repeats."""
    if n < 1:
        raise InputError("frames", expected="at least one", found=str(n))
    if n < OFFICIAL_FRAMES:
        return [min(i, n - 1) for i in range(OFFICIAL_FRAMES)]
    return torch.linspace(0, n - 1, OFFICIAL_FRAMES).long().tolist()


def official_inputs(frames: Tensor, size: int = 384) -> Tensor:
    """(N, 3, h, w) float frames in 0..255 -> the encoder's input (1, 3, 16, size, size).

    The published model feeds frames that Qwen's preprocessing has resized already (`preprocess.resize_frames`).
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.is_floating_point():
        raise InputError(
            "frames", expected="float (N, 3, h, w) in 0..255", found=f"{frames.dtype} {tuple(frames.shape)}"
        )
    chosen = (frames[official_frame_indices(len(frames))] / 255).clamp(0, 1)
    resized = F.interpolate(chosen, (size, size), mode="bilinear", align_corners=False)
    return _normalised(resized.transpose(0, 1)[None])


def official_features(
    encoded: Tensor, n_steps: int, *, llm_h: int, llm_w: int, grid: tuple[int, int, int] | None = None
) -> list[Tensor]:
    """The encoder's output resampled to the video tokens: first in time (trilinear), then in space (bilinear).

    Args:
        encoded: (1, t*gh*gw, D).
        n_steps: temporal steps of the video; llm_h, llm_w: its merged grid.
        grid: (t, gh, gw); None takes 8 tubelets and a square, as 16 frames give.

    Returns:
        One (llm_h*llm_w, D) per step, row-major.

    Raises:
        InputError: the tokens do not make that grid.
    """
    tubelets = OFFICIAL_FRAMES // 2
    side = math.isqrt(encoded.shape[1] // tubelets)
    t, gh, gw = grid or (tubelets, side, side)
    if encoded.ndim != 3 or len(encoded) != 1 or encoded.shape[1] != t * gh * gw or min(n_steps, llm_h, llm_w) < 1:
        raise InputError(
            "V-JEPA output",
            expected=f"(1, {t * gh * gw}, D) and at least one step, row and column",
            found=f"{tuple(encoded.shape)} for {n_steps} steps of {llm_h} x {llm_w}",
        )
    maps = encoded[0].T.reshape(1, -1, t, gh, gw)
    if n_steps != t:
        maps = F.interpolate(maps, (n_steps, gh, gw), mode="trilinear", align_corners=False)
    steps = maps[0].transpose(0, 1)
    if (llm_h, llm_w) != (gh, gw):
        steps = F.interpolate(steps, (llm_h, llm_w), mode="bilinear", align_corners=False)
    return list(steps.flatten(2).transpose(1, 2).contiguous())


def _normalised(video: Tensor) -> Tensor:
    """(B, 3, T, H, W) in 0..1, ImageNet-normalised."""
    mean, std = (video.new_tensor(values).view(1, 3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (video - mean) / std
