"""Golden section 01b: the published positional encoding of the active fixations."""

from __future__ import annotations

import math
from pathlib import Path

from gazeqwen.gaze_encoding import official_gaze_encoding
from tests.golden.io import load, max_error

SECTION = "01b"
FUNCTION = "gazeqwen.gaze_encoding.official_gaze_encoding"
TOLERANCE = 1e-6


def check(folder: Path) -> tuple[float, float]:
    """Every call; infinite when one has an active fixation and the other none."""
    worst = 0.0
    for golden in load(folder, SECTION):
        for call in golden.cases():
            scanpath, dim = golden.tensor(call["scanpath"]), call["d_model"]
            encoding, active = official_gaze_encoding(scanpath, [call["frame_time"]], dim)
            if bool(active[0]) != (call["out"] is not None) or not (active[0] or bool((encoding == 0).all())):
                worst = math.inf
            elif call["out"] is not None:
                worst = max(worst, max_error(encoding[0], golden.tensor(call["out"])))
    return worst, TOLERANCE
