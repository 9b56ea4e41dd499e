"""Golden section 04c: which frames the published model encodes, by number of frames. Exact."""

from __future__ import annotations

from pathlib import Path

from gazeqwen.errors import InputError
from gazeqwen.vjepa import official_frame_indices
from tests.golden.io import load, max_error

SECTION = "04c"
FUNCTION = "gazeqwen.vjepa.official_frame_indices"


def check(folder: Path) -> tuple[float, float]:
    worst = 0.0
    for golden in load(folder, SECTION):
        table = golden["indices_by_n_frames"]
        if not table:
            raise InputError(golden.path, expected="indices for some number of frames", found="none")
        worst = max(worst, *(max_error(official_frame_indices(int(n)), theirs) for n, theirs in table.items()))
    return worst, 0.0
