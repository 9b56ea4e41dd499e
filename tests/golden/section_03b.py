"""Golden section 03b: the V-JEPA 2.1 encoder cut to another depth; files as in 03."""

from __future__ import annotations

from pathlib import Path

from tests.golden.io import load
from tests.golden.section_03 import FUNCTION as FUNCTION
from tests.golden.section_03 import TOLERANCE, encoder_error

SECTION = "03b"


def check(folder: Path) -> tuple[float, float]:
    """As 03."""
    return max(encoder_error(golden) for golden in load(folder, SECTION)), TOLERANCE
