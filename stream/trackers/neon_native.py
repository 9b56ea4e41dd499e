"""Neon native recording folder (*.raw, *.time, *.dtype, as on the phone), through pupil-labs-neon-recording.

Source: that library (MIT, extra `neon`), which joins the parts of a recording, prefers the 200 Hz gaze that Cloud
computes and adds the wearer's gaze offset to fixations of older apps. Pixels of the 1600 x 1200 scene frame, origin
top-left; UTC nanoseconds. Time zero is the first value of "Neon Scene Camera v1 ps1.time".

Around the library: its `scene` needs the mp4, which a gaze reader does not, so the scene times are read here (int64,
little-endian). Where a .time and a .raw file differ in length it drops the surplus in silence: those rows are counted
as `rows_unpaired`, and a part other than the last that is short is an error, because later rows would get wrong times.
Fixations of apps before 2.9.31 lack the wearer's gaze offset; release 2.1.6 of the library adds it in x and subtracts
it in y, and on our recording only adding both brings the centres onto their samples (13 px in y otherwise). So centres
that lie off their own samples as a whole are moved onto them, with a note.
As for Cloud exports, a sample is invalid while the glasses are not worn or the device reports a blink.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gazeqwen.errors import MissingExtraError
from gazeqwen.types import Fixations, asof
from stream.trackers.base import (
    MAX_TIME_S,
    GazeRecording,
    InputError,
    ReadOptions,
    TrackerFormat,
    finish,
    finish_fixations,
    read_bytes,
    require_offset,
    require_size,
)

SCENE_SIZE_PX = (1600, 1200)
SCENE = "Neon Scene Camera v1"
WORN_TOLERANCE_S = 0.1
CENTRE_TOLERANCE_PX = 3.0  # beyond rounding and the choice of samples
ROW_BYTES = 8  # of gaze *.raw (two float32) and of *.time (int64)


def sniff(path: Path) -> bool:
    """A folder with info.json and gaze in Neon's raw form."""
    try:
        return (path / "info.json").is_file() and (
            (path / "gaze_200hz.raw").is_file() or any(path.glob("gaze ps*.raw"))
        )
    except OSError:
        return False


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """Reads the folder. Needs the extra `neon`; `offset_s` where the scene camera's times are missing."""
    neon = _library()
    folder = path if path.is_dir() else path.parent
    rows = _gaze_rows(folder)
    recording = neon.open(folder)
    gaze = _columns(neon, recording, "gaze", "time", "point")
    if gaze is None or gaze[1].dtype != np.float32:
        raise InputError(
            folder,
            expected="readable gaze: x and y as float32 in *.raw, int64 in *.time",
            found="damage, or another gaze.dtype",
            fix="copy it again",
        )
    ticks, points = gaze
    scene = _ticks(folder, SCENE)
    if scene.size:
        zero, clock = int(scene[0]), f"first_frame ({SCENE} ps1.time)"
    else:
        require_offset(
            folder,
            options,
            found=f"no '{SCENE} ps1.time' in it",
            fix="copy it from the phone, or pass offset_s= (seconds between the first video frame and the first gaze "
            "sample)",
        )
        zero, clock = (int(ticks[0]) if ticks.size else 0), "first gaze sample + offset_s"
    t_s = _seconds(ticks, zero)
    size_px = require_size(folder, options, SCENE_SIZE_PX)
    notes: list[str] = []
    valid = _worn(neon, recording, t_s, zero, notes) & ~_in_blink(neon, recording, t_s, zero, notes)
    points = _float64(points)
    fixations = _fixations(neon, recording, zero, size_px, options, notes, gaze=(t_s, points, valid))
    return finish(
        folder,
        FORMAT.name,
        options,
        t_s=t_s,
        xy=points,
        y_origin="top",
        size_px=size_px,
        valid=valid,
        fixations=fixations,
        scene_times_s=_seconds(scene, zero) if scene.size else None,
        clock=clock,
        notes=notes,
        counts={"rows_unpaired": rows - ticks.size},
    )


def _library() -> ModuleType:
    try:
        from pupil_labs import neon_recording
    except ImportError as error:
        raise MissingExtraError("reading a Neon native folder", "neon", str(error)) from error
    return neon_recording


def _columns(neon: ModuleType, recording: Any, stream: str, *names: str) -> list[np.ndarray] | None:
    """Columns of one of the library's streams; None where it has no such stream or can't read it.

    Its SensorError stands for both; the others come from a .dtype file that does not fit the columns it names.
    """
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # it adds the gaze offset to whatever the file holds
            series = getattr(recording, stream)
            columns = [np.array(getattr(series, name)) for name in names]
    except (neon.NeonRecording.SensorError, ValueError, TypeError, KeyError):
        return None
    times_are_int64 = all(
        column.dtype == np.int64 for name, column in zip(names, columns, strict=True) if "time" in name
    )
    return columns if times_are_int64 else None


def _parts(folder: Path, name: str, suffix: str) -> list[Path]:
    """The files of a stream's parts in recording order."""
    pattern = re.compile(rf"{re.escape(name)} ps(\d+){re.escape(suffix)}")
    found = [(int(match[1]), file) for file in folder.iterdir() if (match := pattern.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _ticks(folder: Path, name: str) -> np.ndarray:
    """(F,) int64 ns of all parts of a .time stream; a last half-written value is left out."""
    data = [read_bytes(file) for file in _parts(folder, name, ".time")]
    return np.concatenate(
        [np.frombuffer(part[: len(part) // 8 * 8], dtype="<i8") for part in data] or [np.zeros(0, "<i8")]
    )


def _gaze_rows(folder: Path) -> int:
    """Rows of the gaze files that the library will read: of each part the longer of its two files.

    Raises InputError for half rows and for a part before the last whose two files differ.
    """
    raw, time = folder / "gaze_200hz.raw", folder / "gaze_200hz.time"
    pairs = [(file, file.with_suffix(".time")) for file in _parts(folder, "gaze", ".raw")]
    if raw.is_file() and time.is_file():
        pairs = [(raw, time)]
    pairs = [(raw, time) for raw, time in pairs if time.is_file()]
    if not pairs:
        raise InputError(folder, expected="'gaze ps1.raw' with 'gaze ps1.time'", found="no such pair")
    total = 0
    for index, (raw, time) in enumerate(pairs):
        for file in (raw, time):
            size = file.stat().st_size
            if size % ROW_BYTES:
                raise InputError(
                    file,
                    expected=f"rows of {ROW_BYTES} bytes",
                    found=f"{size} bytes",
                    fix="copy it from the phone again",
                )
        rows, times = raw.stat().st_size // ROW_BYTES, time.stat().st_size // ROW_BYTES
        if rows != times and index < len(pairs) - 1:
            raise InputError(raw, expected=f"{times} rows, as in its .time", found=f"{rows}", fix="copy it again")
        total += max(rows, times)
    return total


def _float64(values: np.ndarray) -> np.ndarray:
    """Widened; a damaged row may hold a signalling NaN, which numpy would warn about."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def _seconds(ticks: np.ndarray, zero: int) -> np.ndarray:
    """Seconds from `zero` of int64 ns, subtracted as integers; NaN for damaged ones beyond MAX_TIME_S."""
    near = np.abs(ticks.astype(np.float64) - float(zero)) <= MAX_TIME_S * 1e9 / 2
    return np.where(near, (np.where(near, ticks, zero) - np.int64(zero)) / 1e9, np.nan)


def _worn(neon: ModuleType, recording: Any, t_s: np.ndarray, zero: int, notes: list[str]) -> np.ndarray:
    """(N,) False where the nearest worn sample says so; True, with a note, where there is none."""
    worn = _columns(neon, recording, "worn", "time", "worn")
    if worn is None:
        notes.append("no readable 'worn' stream: every sample is taken as worn")
        return np.ones(t_s.size, dtype=bool)
    times, flags = _seconds(worn[0], zero), worn[1] > 0
    order = np.argsort(times, kind="stable")
    order = order[np.isfinite(times[order])]
    out = np.ones(t_s.size, dtype=bool)
    known = np.isfinite(t_s)
    rows = asof(times[order], t_s[known], tolerance_s=WORN_TOLERANCE_S, method="nearest", on_missing="mark")
    if order.size:
        out[known] = np.where(rows >= 0, flags[order][rows], True)
    return out


def _in_blink(neon: ModuleType, recording: Any, t_s: np.ndarray, zero: int, notes: list[str]) -> np.ndarray:
    """(N,) True inside one of the device's blinks."""
    blinks = _columns(neon, recording, "blinks", "start_time", "stop_time")
    if blinks is None:
        notes.append("no readable 'blinks' stream: no sample is taken as a blink")
        return np.zeros(t_s.size, dtype=bool)
    start, stop = (_seconds(ticks, zero) for ticks in blinks)
    keep = np.isfinite(start) & np.isfinite(stop)
    order = np.argsort(start[keep], kind="stable")
    start, stop = start[keep][order], stop[keep][order]
    if not start.size:
        return np.zeros(t_s.size, dtype=bool)
    latest_stop = np.maximum.accumulate(stop)
    index = np.searchsorted(start, t_s, side="right") - 1  # NaN sorts last; its comparison below is False
    return (index >= 0) & (t_s <= latest_stop[np.maximum(index, 0)])


def _fixations(
    neon: ModuleType,
    recording: Any,
    zero: int,
    size_px: tuple[int, int],
    options: ReadOptions,
    notes: list[str],
    *,
    gaze: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Fixations | None:
    fixations = _columns(neon, recording, "fixations", "start_time", "stop_time", "mean_gaze_point")
    if fixations is None:
        notes.append("no readable 'fixations' stream")
        return None
    start_s, stop_s = (_seconds(ticks, zero) for ticks in fixations[:2])
    centres = _float64(fixations[2])
    shift_px = _offset_of_centres(start_s, stop_s, centres, gaze)
    if np.abs(shift_px).max() > CENTRE_TOLERANCE_PX:
        notes.append(
            f"fixation centres lay ({shift_px[0]:+.1f}, {shift_px[1]:+.1f}) px off their own samples and were moved"
        )
        centres = centres + shift_px
    return finish_fixations(
        Path("fixations ps1.raw"),
        options,
        start_s=start_s,
        stop_s=stop_s,
        xy=centres,
        y_origin="top",
        size_px=size_px,
    )


def _offset_of_centres(
    start_s: np.ndarray, stop_s: np.ndarray, centres_px: np.ndarray, gaze: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """(2,) px: median over fixations of their samples' mean minus the stored centre; zeros for fewer than three."""
    t_s, points_px, valid = gaze
    usable = valid & np.isfinite(points_px).all(axis=1) & (np.abs(points_px) < 1e6).all(axis=1)
    found = []
    for first, last, centre in zip(start_s, stop_s, centres_px, strict=True):
        inside = usable & (t_s >= first) & (t_s <= last)
        if inside.any() and np.isfinite(centre).all() and (np.abs(centre) < 1e6).all():
            found.append(points_px[inside].mean(axis=0) - centre)
    return np.median(found, axis=0) if len(found) >= 3 else np.zeros(2)


FORMAT = TrackerFormat(
    name="neon_native",
    title="Neon native recording folder",
    sniff=sniff,
    read=read,
    needs="the extra 'neon'",
)
