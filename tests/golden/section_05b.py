"""Golden section 05b: Qwen2-VL's image preprocessing, both official backends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from gazeqwen.preprocess import image_patches
from tests.golden.io import load, max_error
from tests.golden.section_05 import config_of, geometry_of

SECTION = "05b"
FUNCTION = "gazeqwen.preprocess.image_patches"
TOLERANCE = 1e-6
BACKENDS: tuple[tuple[Literal["torch", "pil"], str], ...] = (("torch", "pixel_values"), ("pil", "pixel_values_pil"))


def check(folder: Path) -> tuple[float, float]:
    worst = 0.0
    for golden in load(folder, SECTION):
        for call in golden.cases():
            image = golden.tensor(call["image"]).permute(1, 2, 0)
            for backend, key in BACKENDS:
                config = config_of(call, golden)
                patches, grid = image_patches(image, config=config, backend=backend, **geometry_of(golden))
                worst = max(worst, max_error(patches, golden.tensor(call[key])))
                worst = worst if list(grid) == call["grid_thw"] else math.inf
    return worst, TOLERANCE
