"""How long `GazeQwen.from_pretrained("tiny")` takes after the imports, each time in a fresh interpreter."""

from __future__ import annotations

import os
from statistics import median

from benchmarks.speed.processes import printed_by
from benchmarks.speed.results import Result
from gazeqwen.errors import InputError

TIME_LIMIT_S = 300
_SCRIPT = """
import json, time
start_s = time.perf_counter()
from gazeqwen import GazeQwen
named_s = time.perf_counter()
import gazeqwen.checkpoint, gazeqwen.tiny
imported_s = time.perf_counter()
model = GazeQwen.from_pretrained("tiny")
loaded_s = time.perf_counter()
print(json.dumps({"load": loaded_s - imported_s, "imports": named_s - start_s, "later_imports": imported_s - named_s}))
"""


def from_pretrained_tiny(name: str, repeats: int) -> Result:
    """Median seconds of the call, everything it needs being imported.

    Returns:
        `parts`: `load`, `imports` (of the name `GazeQwen`, with torch) and `later_imports` (transformers' model code
        and what else the call itself would import): a cold start is the sum of the three.

    Raises:
        InputError: no repeats, or the interpreter failed.
    """
    if repeats < 1:
        raise InputError("repeats", expected="at least 1", found=str(repeats))
    runs = [_fresh() for _ in range(repeats)]
    parts = {part: median(run[part] for run in runs) for part in ("load", "imports", "later_imports")}
    return Result(name, parts["load"], "s", None, parts, repeats, note="a fresh interpreter each time, offline")


def _fresh() -> dict[str, float]:
    return printed_by(
        _SCRIPT,
        source="from_pretrained_tiny_s",
        expected="a model that loads",
        limit_s=TIME_LIMIT_S,
        environment=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
