"""Golden section 07b: the Gaze-LLE decoder without in/out head; LayerNorm's eps and the stored pos_embed matter."""

from __future__ import annotations

from pathlib import Path

from tests.golden.io import load
from tests.golden.section_07 import TOLERANCE, decoder_error

SECTION = "07b"
FUNCTION = "gazeqwen.gaze_target.load_gaze_decoder"


def check(folder: Path) -> tuple[float, float]:
    """As section 07."""
    return max(decoder_error(golden) for golden in load(folder, SECTION)), TOLERANCE
