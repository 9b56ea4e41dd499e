"""Golden section 05c: video preprocessing at the default size limits: some rows, and mean and std of all values."""

from __future__ import annotations

import math
from pathlib import Path

from gazeqwen.preprocess import video_patches
from tests.golden.io import load, max_error
from tests.golden.section_05 import config_of, geometry_of

SECTION = "05c"
FUNCTION = "gazeqwen.preprocess.video_patches"
TOLERANCE = 1e-6


def check(folder: Path) -> tuple[float, float]:
    worst = 0.0
    for golden in load(folder, SECTION):
        frames = golden.tensor("video").permute(0, 2, 3, 1)
        patches, grid = video_patches(frames, config=config_of(golden.record, golden), **geometry_of(golden))
        if list(grid) != golden["grid_thw"] or len(patches) != golden["n_patches"]:
            return math.inf, TOLERANCE
        values = patches.double()
        worst = max(
            worst,
            max_error(patches[golden.tensor("rows")], golden.tensor("pixel_rows")),
            max_error(values.mean(), golden["mean"]),
            max_error(values.std(), golden["std"]),
        )
    return worst, TOLERANCE
