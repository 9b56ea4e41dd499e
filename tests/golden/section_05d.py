"""Golden section 05d: the table of smart_resize. Exact, and an error where the reference raises one."""

from __future__ import annotations

import math
from pathlib import Path

from gazeqwen.errors import InputError
from gazeqwen.preprocess import smart_resize
from tests.golden.io import load, max_error

SECTION = "05d"
FUNCTION = "gazeqwen.preprocess.smart_resize"


def check(folder: Path) -> tuple[float, float]:
    worst = 0.0
    for golden in load(folder, SECTION):
        table = golden["table"]
        if not table:
            raise InputError(golden.path, expected="rows in the table", found="none")
        for height, width, factor, min_pixels, max_pixels, theirs in table:
            try:
                ours = smart_resize(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
            except InputError:
                ours = None
            if ours is None or not isinstance(theirs, list):  # the reference's error is text or null
                worst = worst if ours is None and not isinstance(theirs, list) else math.inf
            else:
                worst = max(worst, max_error(ours, theirs))
    return worst, 0.0
