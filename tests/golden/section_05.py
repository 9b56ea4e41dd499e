"""Golden section 05: Qwen2.5-VL's video preprocessing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gazeqwen.config import PreprocessConfig
from gazeqwen.preprocess import resize_frames, video_patches
from tests.golden.io import Golden, load, max_error

SECTION = "05"
FUNCTION = "gazeqwen.preprocess.video_patches"
TOLERANCE = 1e-6


def check(folder: Path) -> tuple[float, float]:
    """Patches of every call; infinite when a grid or a resized size differs."""
    worst = 0.0
    for golden in load(folder, SECTION):
        for call in golden.cases():
            frames = golden.tensor(call["video"]).permute(0, 2, 3, 1)
            config = config_of(call, golden)
            patches, grid = video_patches(frames, config=config, **geometry_of(golden))
            worst = max(worst, max_error(patches, golden.tensor(call["pixel_values_videos"])))
            factor = math.prod(
                geometry_of(golden).get(name, usual) for name, usual in (("patch_size", 14), ("merge_size", 2))
            )
            size = list(resize_frames(frames, config=config, factor=factor).shape[1:3])
            if list(grid) != call["grid_thw"] or size != call.get("resized", size):
                worst = math.inf
    return worst, TOLERANCE


def config_of(limits: dict[str, Any], golden: Golden) -> PreprocessConfig:
    """The case's pixel limits, with the file's normalisation where it names one."""
    named = golden.record.get("defaults", {})
    means = {
        ours: tuple(named[theirs]) for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in named
    }
    return PreprocessConfig(min_pixels=limits["min_pixels"], max_pixels=limits["max_pixels"], **means)


def geometry_of(golden: Golden) -> dict[str, int]:
    """The vision tower's sizes where the file names them; the library's own otherwise."""
    named = golden.record.get("defaults", {})
    names = (("patch_size", "patch_size"), ("merge_size", "merge_size"), ("temporal", "temporal_patch_size"))
    return {ours: named[theirs] for ours, theirs in names if theirs in named}
