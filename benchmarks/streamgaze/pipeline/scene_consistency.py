"""Whether the picture stays the same during a fixation: hue-saturation histograms, correlated. Numpy only.

Source: StreamGaze 07b8a44, `pipeline/step1.5_filtering_fixation.py` (OpenCV); equal to it on golden 09b, the conversion
to HSV bit for bit. A fixation shorter than 1.5 s is kept without a look; black ones are dropped; else it is kept where
the least correlation of consecutive samples reaches the threshold.

Kept from the reference because its numbers are defined by it: fewer than two readable samples count as consistent. The
reference also passes a video that can't be opened at all for consistent; here reading it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from gazeqwen.errors import ConfigError, InputError

THRESHOLDS: Mapping[str, float] = {"EGTEA": 0.9, "Ego4D": 0.9, "EgoExoLearn": 0.9, "HoloAssist": 0.5}
MIN_CHECKED_S = 1.5
BLACK_SAMPLES, BLACK_GREY = 5, 10.0
HUE_BINS, SATURATION_BINS = 50, 60
# OpenCV divides by multiplying with these tables, in 1/4096.
_SATURATION_SCALE = np.array([0, *np.rint((255 << 12) / np.arange(1, 256))], dtype=np.int32)
_HUE_SCALE = np.array([0, *np.rint((180 << 12) / (6.0 * np.arange(1, 256)))], dtype=np.int32)
_HUE_BIN = np.minimum(np.floor(np.arange(256) * (HUE_BINS / 180.0)), HUE_BINS - 1).astype(np.int64)
_SATURATION_BIN = np.floor(np.arange(256) * (SATURATION_BINS / 256.0)).astype(np.int64)

Reason = Literal["too_short", "black_scene", "scene_change", "passed"]


@dataclass(frozen=True, eq=False)
class FrameColours:
    """What is kept of a frame: `histogram` (50, 60) float32 from 0 to 1, hue by saturation; its mean grey, 0 to 255."""

    histogram: np.ndarray
    mean_grey: float


@dataclass(frozen=True)
class SceneCheck:
    """The verdict on one stretch of video; `correlations` is empty where none was computed."""

    kept: bool
    reason: Reason
    min_correlation: float
    correlations: tuple[float, ...] = ()


def threshold(dataset: str) -> float:
    """The correlation that StreamGaze asks for in a dataset of `THRESHOLDS`.

    Raises:
        ConfigError: another name.
    """
    if dataset not in THRESHOLDS:
        raise ConfigError(f"dataset {dataset!r} is unknown: choose one of {', '.join(THRESHOLDS)}")
    return THRESHOLDS[dataset]


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
    """OpenCV's 8-bit conversion, exactly: (..., 3) uint8 RGB to HSV, hue 0..179, others 0..255.

    Raises:
        InputError: another type or shape.
    """
    red, green, blue = _channels(image)
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    saturation = (spread * _SATURATION_SCALE[value] + (1 << 11)) >> 12
    sixth = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = (sixth * _HUE_SCALE[spread] + (1 << 11)) >> 12
    hue = np.where(hue < 0, hue + 180, hue)
    return np.stack([hue, saturation, value], axis=-1).astype(np.uint8)


def mean_grey(image: np.ndarray) -> float:
    """The mean of OpenCV's 8-bit grey of a (..., 3) uint8 RGB image."""
    red, green, blue = _channels(image)
    return float(((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15).mean())


def hue_saturation_histogram(hsv: np.ndarray) -> np.ndarray:
    """(50, 60) float32 counts of hue [0, 180) by saturation [0, 256), stretched to 0..1."""
    bins = _HUE_BIN[hsv[..., 0]] * SATURATION_BINS + _SATURATION_BIN[hsv[..., 1]]
    counts = np.bincount(bins.reshape(-1), minlength=HUE_BINS * SATURATION_BINS).astype(np.float64)
    stretched = (counts - counts.min()) / max(counts.max() - counts.min(), 1.0)
    return stretched.astype(np.float32).reshape(HUE_BINS, SATURATION_BINS)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two histograms over all bins (OpenCV's HISTCMP_CORREL)."""
    x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    x, y = x - x.mean(), y - y.mean()
    norm = float((x @ x) * (y @ y))
    return float(x @ y / np.sqrt(norm)) if norm > np.finfo(np.float64).eps else 1.0


def colours(image: np.ndarray) -> FrameColours:
    """What `check_scene` needs of a (H, W, 3) uint8 RGB frame."""
    return FrameColours(hue_saturation_histogram(rgb_to_hsv(image)), mean_grey(image))


def sample_times(start_s: float, stop_s: float, count: int | None = None) -> np.ndarray:
    """The moments at which a stretch is compared: `count`, by default two a second and at least five, evenly spaced."""
    return np.linspace(start_s, stop_s, max(5, int(2 * (stop_s - start_s))) if count is None else count)


def wanted_times(start_s: float, stop_s: float) -> np.ndarray:
    """All moments that `check_scene` will ask for; none for a stretch that it keeps without a look."""
    if stop_s - start_s < MIN_CHECKED_S:
        return np.zeros(0)
    return np.union1d(sample_times(start_s, stop_s), sample_times(start_s, stop_s, BLACK_SAMPLES))


def correlations(frames: list[FrameColours]) -> tuple[float, ...]:
    """Of each frame with the next."""
    return tuple(correlation(a.histogram, b.histogram) for a, b in pairwise(frames))


def check_scene(
    start_s: float, stop_s: float, look: Callable[[float], FrameColours | None], *, threshold: float
) -> SceneCheck:
    """Whether gaze rested on one view from `start_s` to `stop_s`.

    Args:
        look: the frame on display at a time in seconds, None where the video has none.
        threshold: least correlation of consecutive samples.
    """
    if stop_s - start_s < MIN_CHECKED_S:
        return SceneCheck(True, "too_short", 1.0)
    black = [frame for t in sample_times(start_s, stop_s, BLACK_SAMPLES) if (frame := look(float(t))) is not None]
    if sum(frame.mean_grey < BLACK_GREY for frame in black) >= BLACK_SAMPLES // 2 + 1:
        return SceneCheck(False, "black_scene", 0.0)
    found = correlations([frame for t in sample_times(start_s, stop_s) if (frame := look(float(t))) is not None])
    least = min(found, default=1.0)
    return SceneCheck(least >= threshold, "passed" if least >= threshold else "scene_change", least, found)


def similar(start_s: float, stop_s: float, look: Callable[[float], FrameColours | None], *, threshold: float) -> bool:
    """Whether five samples of a stretch are one scene; the reference drops the second of two such episodes."""
    times = sample_times(start_s, stop_s, 5)
    found = correlations([frame for t in times if (frame := look(float(t))) is not None])
    return min(found, default=1.0) >= threshold


def _channels(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if image.dtype != np.uint8 or image.ndim < 1 or image.shape[-1] != 3:
        raise InputError("image", expected="uint8 RGB of shape (..., 3)", found=f"{image.dtype} {image.shape}")
    wide = image.astype(np.int32)
    return wide[..., 0], wide[..., 1], wide[..., 2]
