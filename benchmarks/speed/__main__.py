"""Speed suites: a table on the screen and the same numbers as JSON.

    python -m benchmarks.speed SUITE [--json FILE] [--only NAME]... [--repeats 7] [--device cpu] [--quick] [--check]

SUITE is core, streamgaze or train.

Exit code: 0 when everything could be measured, 2 when something could not or the command is wrong; with --check, 1 when
a bound is missed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.speed.core import CORE, Measurement, Options
from benchmarks.speed.results import as_json, machine, table_head, table_row, write_json
from benchmarks.speed.streamgaze import STREAMGAZE
from benchmarks.speed.train import TRAIN
from gazeqwen.errors import GazeQwenError

SUITES: dict[str, tuple[Measurement, ...]] = {"core": CORE, "streamgaze": STREAMGAZE, "train": TRAIN}
SHOWS_PARTS = ("streamgaze", "train")  # suites of whole runs: what they are made of stands below each row


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("suite", choices=sorted(SUITES), help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--only", action="append", metavar="NAME", help="measure this one; may be repeated")
    parser.add_argument("--repeats", type=int, help="interleaved pairs of long runs (default 7; quick: 2)")
    parser.add_argument("--device", help="cpu or cuda[:N] (default: cuda where there is one)")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, for tests; times are not judged")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bound is missed")
    options = parser.parse_args(arguments)

    repeats = options.repeats if options.repeats is not None else 2 if options.quick else 7
    if repeats < 1:
        parser.error(f"--repeats: at least 1, got {repeats}")
    names = [measurement.name for measurement in SUITES[options.suite]]
    unknown = sorted(set(options.only or ()) - set(names))
    if unknown:
        parser.error(f"--only: no {', '.join(unknown)} in {options.suite}; there are {', '.join(names)}")
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json: no folder {options.json.parent}")  # known before minutes of measuring, not after
    device = _device(parser, options.device)

    chosen = [
        measurement
        for measurement in SUITES[options.suite]
        if (measurement.name in options.only if options.only else device.type == "cuda" or not measurement.cuda)
    ]
    if device.type != "cuda" and any(measurement.cuda for measurement in chosen):
        parser.error(f"--only: {', '.join(m.name for m in chosen if m.cuda)} needs a GPU (--device cuda)")

    rows, failed, load = [], {}, _load()
    settings = Options(repeats, options.quick, device)
    print(table_head())
    for measurement in chosen:
        try:
            result = measurement.run(measurement.name, settings)
            row = as_json(result, measurement.bound, judged=not (measurement.timed and options.quick))
        except GazeQwenError as error:
            failed[measurement.name] = str(error)
            print(f"{measurement.name}: not measured: {error}", file=sys.stderr)
            continue
        rows.append(row)
        print(table_row(row), flush=True)
        if options.suite in SHOWS_PARTS:
            print("\n".join(_part_lines(row["parts"])), flush=True)
    try:
        if options.json is not None:
            told = machine(device) | {"load_at_start": load, "load_at_end": _load()}
            about = {"suite": options.suite, "quick": options.quick, "machine": told}
            write_json(options.json, {"results": rows, "failed": failed, **about})
    except GazeQwenError as error:
        print(error, file=sys.stderr)
        return 2
    if failed:
        return 2
    return int(options.check and any(row["ok"] is False for row in rows))


def _load() -> float | None:
    """Processes that wanted to run in the last minute: with more of them than processors, times scatter. None where the
    system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _part_lines(parts: Mapping[str, float]) -> list[str]:
    """Two parts a line, in 80 columns."""
    cells = [f"{name:<29}{value:>8.4g}" for name, value in parts.items()]
    return ["  " + "  ".join(cells[k : k + 2]) for k in range(0, len(cells), 2)]


def _device(parser: argparse.ArgumentParser, name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        parser.error(f"--device: cpu or cuda[:N], got {name!r}")
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        parser.error(f"--device: cpu or an available cuda device, got {name!r}")
    return device


if __name__ == "__main__":
    sys.exit(main())
