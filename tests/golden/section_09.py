"""Golden section 09: StreamGaze's fixation scan, on whatever tracks and thresholds the section's files hold."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError
from stream.fixations import streamgaze_fixations

SECTION = "09"
FUNCTION = "stream.fixations.streamgaze_fixations"
CENTRE_TOLERANCE = 1e-6
COLUMNS = ["t", "x", "y"]
# e.g. float32_gap0.01_dur2
VARIANT = re.compile(r"(?P<dtype>float32|float64)_gap(?P<gap>[0-9.eE+-]+)_dur(?P<duration>[0-9.eE+-]+)")
FIELDS = ("start_time", "end_time", "center_x", "center_y", "duration")


def check(folder: Path) -> tuple[float, float]:
    """(largest error of a centre, tolerance) over every run and variant; infinite when a start, end, duration or the
    number of fixations differs at all.

    Raises:
        InputError: the section is absent, a file is damaged, or a track belongs to no run.
    """
    files = sorted(path for path in folder.glob(f"{SECTION}_*") if path.is_file())
    tables = [path for path in files if path.suffix == ".json"]
    if not tables:
        raise InputError(folder, expected=f"a file {SECTION}_*.json", found="none", fix="check the golden folder")
    worst, used = 0.0, set(tables)
    for table in tables:
        for run in _runs(table):
            track = folder / run["track"]
            used.add(track)
            worst = max(worst, _run_error(table, run, _track(track)))
    idle = [path.name for path in files if path not in used]
    if idle:
        raise InputError(folder, expected="only files that a run names", found=", ".join(idle))
    return worst, CENTRE_TOLERANCE


def _run_error(table: Path, run: dict[str, Any], track: np.ndarray) -> float:
    if run.get("n_samples", len(track)) != len(track):
        raise InputError(table, expected=f"{run['n_samples']} rows in {run['track']}", found=f"{len(track)} rows")
    worst = 0.0
    for variant, expected in run["fixations"].items():
        named = VARIANT.fullmatch(variant)
        try:
            if named is None:
                raise ValueError(variant)
            gap_s, min_duration_s = float(named["gap"]), float(named["duration"])
            radius_norm = float(run["radius_thresh"])
            theirs = np.array([[float(row[name]) for name in FIELDS] for row in expected]).reshape(-1, len(FIELDS))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                table,
                expected="variants such as float32_gap0.01_dur2 with numbers for " + ", ".join(FIELDS),
                found=f"{variant} of {run['track']}: {error!r}",
            ) from error
        if not np.isfinite(theirs).all():
            raise InputError(table, expected="finite numbers", found=f"a non-finite one in {variant} of {run['track']}")
        ours = streamgaze_fixations(
            track[:, 0],
            track[:, 1:],
            radius_norm=radius_norm,
            min_duration_s=min_duration_s,
            gap_s=gap_s,
            dtype=named["dtype"],
        )
        times = np.stack([ours.start_s, ours.stop_s, ours.duration_s], axis=1)
        if times.shape != (len(theirs), 3) or (times != theirs[:, [0, 1, 4]]).any():
            return math.inf
        worst = max(worst, float(np.abs(ours.xy_norm - theirs[:, 2:4]).max(initial=0.0)))
    return worst


def _runs(table: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(table, expected="a JSON file", found=str(error)) from error
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not runs:
        raise InputError(table, expected="a non-empty list 'runs'", found=type(runs).__name__)
    for run in runs:
        whole = isinstance(run, dict) and isinstance(run.get("track"), str) and isinstance(run.get("fixations"), dict)
        if not whole or not run["fixations"] or not all(isinstance(rows, list) for rows in run["fixations"].values()):
            raise InputError(table, expected="runs with 'track' and lists under 'fixations'", found=str(run)[:80])
    return runs


def _track(path: Path) -> np.ndarray:
    """(N, 3) float64: seconds, x, y."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(path, expected="a gaze track in CSV", found=str(error)) from error
    if not lines or lines[0].split(",") != COLUMNS:
        raise InputError(path, expected=f"the header {','.join(COLUMNS)}", found=repr(lines[0] if lines else "")[:80])
    try:
        rows = [[float(cell) for cell in line.split(",")] for line in lines[1:]]
        track = np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))
    except ValueError as error:
        raise InputError(path, expected=f"{len(COLUMNS)} numbers a row", found=str(error)) from error
    return track
