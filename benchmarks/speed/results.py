"""The form of every speed result, and how times are taken: interleaved repeats, medians, paired ratios.

A result is {"name", "value", "unit", "ratio", "parts", "repeats"} plus "note" (what was measured, in words), "bound"
and "ok". `ratio` is what a bound limits where two things are compared: a speed-up where the bound is >=, our cost over
the reference's where it is <= (an overhead of 5 % is 1.05); None for counts and plain seconds, which are `value`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch

from gazeqwen.errors import InputError
from gazeqwen.staged import staged

NAME_WIDTH = 27  # the table is at most 80 columns wide


@dataclass(frozen=True)
class Bound:
    """What a result has to keep: its `ratio` or `value` at least `low`, at most `high`; `below` excludes `high`."""

    of: Literal["ratio", "value"]
    low: float | None = None
    high: float | None = None
    below: bool = False

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{_short(self.low)} to {_short(self.high)}"
        if self.low is not None:
            return f"{self.of} >= {_short(self.low)}"
        return f"{self.of} {'<' if self.below else '<='} {_short(self.high or 0.0)}"

    def holds(self, result: Result) -> bool:
        """Whether `result` keeps it.

        Raises:
            InputError: it limits the ratio of a result that has none.
        """
        number = result.ratio if self.of == "ratio" else result.value
        if number is None:
            raise InputError(result.name, expected=f"a {self.of}, which has a bound", found="none")
        above = self.low is None or number >= self.low
        return above and (self.high is None or (number < self.high if self.below else number <= self.high))


@dataclass(frozen=True)
class Result:
    """One measurement. `value` in `unit`; `parts` holds what it is made of, name -> number; `note` says of what."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    repeats: int = 1
    note: str = ""

    @classmethod
    def of_pairs(
        cls,
        name: str,
        seconds: Mapping[str, Sequence[float]],
        *,
        cost: str,
        reference: str,
        parts: Mapping[str, float] | None = None,
        note: str = "",
    ) -> Result:
        """The cost of `cost` over that of `reference`: median seconds, and the median of the paired ratios.

        `parts` gains the median seconds of everything that was timed and the middle half of the ratios.
        """
        ratios = sorted(ours / theirs for ours, theirs in zip(seconds[cost], seconds[reference], strict=True))
        quarter = len(ratios) // 4
        spread = {"ratio_q1": ratios[quarter], "ratio_q3": ratios[len(ratios) - 1 - quarter]}
        medians = {part: median(times) for part, times in seconds.items()}
        return cls(
            name, medians[cost], "s", median(ratios), medians | spread | dict(parts or {}), len(ratios), note=note
        )


def interleaved(
    runs: Mapping[str, Callable[[], object]], repeats: int, *, device: torch.device, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run, `repeats` times: every round does each once, in an order that turns round every time.

    Raises:
        InputError: fewer than one repeat.
    """
    if repeats < 1:
        raise InputError("repeats", expected="at least 1", found=str(repeats))
    for _ in range(warm_up):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs) if repeat % 2 == 0 else list(runs)[::-1]:
            _wait(device)
            start_s = perf_counter()
            runs[name]()
            _wait(device)
            seconds[name].append(perf_counter() - start_s)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were taken on."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processors": os.cpu_count(),
        "platform": platform.machine(),
        "python": platform.python_version(),
    }


def as_json(result: Result, bound: Bound | None, *, judged: bool) -> dict[str, Any]:
    """The result as the JSON file holds it. `ok` is None where there is no bound or it is not `judged`."""
    ok = bound.holds(result) if bound is not None and judged else None
    return asdict(result) | {"bound": None if bound is None else str(bound), "ok": ok}


def table_head() -> str:
    return f"{'name':<{NAME_WIDTH}} {'value':>9} {'unit':<6} {'ratio':>8}  {'bound':<14} ok"


def table_row(row: Mapping[str, Any]) -> str:
    """One line for a result of `as_json`."""
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.4g}"
    verdict = {True: "ok", False: "FAIL", None: "-"}[row["ok"]]
    return (
        f"{row['name']:<{NAME_WIDTH}} {row['value']:>9.4g} {row['unit']:<6} {ratio:>8}  {row['bound'] or '-':<14} "
        f"{verdict}"
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the file in one go: it is the old one or the new one, never half of it.

    Raises:
        InputError: the path can't be written.
    """
    try:
        with staged(path) as staging:
            staging.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(path, expected="a path that can be written", found=error.strerror or str(error)) from error


def _short(number: float) -> str:
    """1.05, 0.01, 1M."""
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number:g}"
