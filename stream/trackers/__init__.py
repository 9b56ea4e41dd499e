"""Gaze recordings: one small reader per format, recognised by content.

`read_gaze` is the one way in. A format is a module of this package that exposes `FORMAT`; the registry is their list.
Formats, their units, origins and clocks: docs/gaze_formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from gazeqwen.errors import InputError
from stream.trackers import (
    aria,
    ego4d,
    egoexolearn,
    egtea,
    glassestools,
    holoassist,
    neon_native,
    plain_csv,
    pupil_cloud,
    pupil_core,
    streamgaze,
    tobii_g2,
    tobii_g3,
)
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, YOrigin

_MODULES = (
    pupil_cloud,
    neon_native,
    pupil_core,
    tobii_g2,
    tobii_g3,
    aria,
    ego4d,
    egtea,
    egoexolearn,
    holoassist,
    streamgaze,
    glassestools,
    plain_csv,
)
FORMATS: dict[str, TrackerFormat] = {module.FORMAT.name: module.FORMAT for module in _MODULES}
CALIBRATED = (aria.FORMAT.name, holoassist.FORMAT.name)

__all__ = ["FORMATS", "GazeRecording", "ReadOptions", "TrackerFormat", "read_gaze", "recognise"]


def recognise(path: Path) -> TrackerFormat:
    """The one format whose content this is.

    Raises:
        InputError: the path does not exist, or none or several formats match; names what `format=` takes.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, expected="a gaze file or a recording folder", found="nothing at this path")
    matches = [entry for entry in FORMATS.values() if entry.sniff(path)]
    if len(matches) == 1:
        return matches[0]
    names = ", ".join(entry.name for entry in (matches or FORMATS.values()))
    fix = f"pass format=, one of: {names}"
    if matches:
        found = "content that fits several"
    elif path.is_file():
        found = "an unknown header or first line" if path.stat().st_size else "an empty file"
        fix = f"name the columns of a table, columns={{'t': ..., 'x': ..., 'y': ...}}, or {fix}"
        if plain_csv.is_headerless(path):
            found = "numbers without a header line"
            fix = f"{plain_csv.HEADER_FIX}, or pass format=, one of: {names}"
    else:
        found = "none of their files in this folder"
    raise InputError(path, expected="one known gaze format", found=found, fix=fix)


def read_gaze(
    path: Path | str,
    *,
    format: str | None = None,
    y_origin: YOrigin | None = None,
    offset_s: float | None = None,
    frame_size_px: tuple[int, int] | None = None,
    frame_times_s: np.ndarray | None = None,
    min_confidence: float | None = None,
    columns: Mapping[str, str] | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    xy_unit: Literal["norm", "px"] | None = None,
    calibration: Path | str | None = None,
) -> GazeRecording:
    """Reads a gaze recording, file or folder, into seconds from the first scene frame and top-left [0, 1] coordinates.

    Args:
        path: the file, or the recording's folder.
        format: a key of `FORMATS`; None recognises it by content, or takes plain_csv when `columns` are named.
        columns, time_unit, xy_unit: plain_csv only. calibration: aria and holoassist only. The rest: `ReadOptions`.

    Raises:
        InputError: the file can't be read as this format, or does not say something that only the caller can know.
        MissingExtraError: the format needs an optional dependency.
    """
    path = Path(path)
    plain_options = {"columns": columns, "time_unit": time_unit, "xy_unit": xy_unit}
    if format is None and columns:
        format = plain_csv.FORMAT.name  # the only format whose columns are named by the caller
    if format is None:
        entry = recognise(path)
    elif format in FORMATS:
        entry = FORMATS[format]
        if not path.exists():
            raise InputError(path, expected="a gaze file or a recording folder", found="nothing at this path")
    else:
        raise InputError("format", expected="one of " + ", ".join(FORMATS), found=repr(format))
    for name, value in {**plain_options, "calibration": calibration}.items():
        takers = CALIBRATED if name == "calibration" else (plain_csv.FORMAT.name,)
        if value and entry.name not in takers:
            raise InputError(
                path, expected=f"{name}= with format {' or '.join(takers)} only", found=f"format {entry.name}"
            )
    options = ReadOptions(
        y_origin=y_origin,
        offset_s=offset_s,
        frame_size_px=frame_size_px,
        frame_times_s=None if frame_times_s is None else np.asarray(frame_times_s, dtype=np.float64).reshape(-1),
        min_confidence=min_confidence,
        columns=dict(columns or {}),
        time_unit=time_unit,
        xy_unit=xy_unit,
        calibration=None if calibration is None else Path(calibration),
    )
    return entry.read(path, options)
