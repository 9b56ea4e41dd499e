"""Golden section 04b: the published model's V-JEPA input, from frames to the normalised clip."""

from __future__ import annotations

import math
from pathlib import Path

from gazeqwen.vjepa import official_frame_indices, official_inputs
from tests.golden.io import load, max_error

SECTION = "04b"
FUNCTION = "gazeqwen.vjepa.official_inputs"
TOLERANCE = 1e-5


def check(folder: Path) -> tuple[float, float]:
    worst = 0.0
    for golden in load(folder, SECTION):
        for call in golden.cases():
            frames = golden.tensor(call["frames"])
            ours = official_inputs(frames, call["input_size"])
            worst = max(worst, max_error(ours, golden.tensor(call["encoder_input"])))
            if "indices" in call and official_frame_indices(len(frames)) != call["indices"]:
                worst = math.inf
    return worst, TOLERANCE
