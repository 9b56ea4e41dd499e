"""What every gaze reader shares: options, the result, damage-proof row readers, and the one way into house units.

A reader turns one file format into `GazeSamples`: seconds since the first scene frame, coordinates in [0, 1] of the
upright frame with the origin top-left. Three rules hold for all of them and are tested for all of them:

* Nothing is guessed. Where a file does not say its y origin, its clock's tie to the video or its frame size, reading it
  without the option that says so is an `InputError` naming that option.
* Every row is accounted for: ``rows_read == len(samples) + sum(every other count named rows_*)``.
* A damaged file gives a value with counts, or a `GazeQwenError`; never another exception.

The row readers are in `rows.py`; they are importable from here too, so that a reader has one place to import from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeSamples
from stream.trackers.rows import (
    HEAD_BYTES,
    MAX_FILE_BYTES,
    JsonLines,
    Table,
    find_file,
    gunzip,
    head_bytes,
    header_of,
    number,
    parse_header,
    parse_object,
    read_bytes,
    read_json,
    read_json_lines,
    read_table,
    split_row,
    table_from_lines,
    text_lines,
)

__all__ = [
    "HEAD_BYTES",
    "MAX_COORDINATE_NORM",
    "MAX_FILE_BYTES",
    "MAX_TIME_S",
    "FrameSizeNeeded",
    "GazeRecording",
    "InputError",
    "JsonLines",
    "ReadOptions",
    "Table",
    "TrackerFormat",
    "YOrigin",
    "find_file",
    "finish",
    "finish_fixations",
    "gunzip",
    "head_bytes",
    "header_of",
    "number",
    "offset_of",
    "parse_header",
    "parse_object",
    "plausible_s",
    "read_bytes",
    "read_json",
    "read_json_lines",
    "read_table",
    "require_offset",
    "require_size",
    "require_y_origin",
    "split_row",
    "table_from_lines",
    "text_lines",
    "to_norm",
]

YOrigin = Literal["top", "bottom"]

# Numbers beyond these are damage, not gaze: 300 years of recording, a million frame widths.
MAX_TIME_S = 1e10
MAX_COORDINATE_NORM = 1e6


@dataclass(frozen=True)
class ReadOptions:
    """What the caller knows and the file may not. Every reader honours all of those that apply to its format.

    Attributes:
        y_origin: overrides, or supplies, where y = 0 lies.
        offset_s: added to every time; required where nothing ties the file's clock to the first video frame.
        frame_size_px: (width, height) that pixel coordinates refer to.
        frame_times_s: (F,) times of the scene video's frames, seconds, for formats that count frames.
        min_confidence: samples below it are invalid; None takes the format's own default.
        columns: plain CSV, role (t, x, y, valid, confidence) -> column name.
        time_unit, xy_unit: plain CSV, the units of those columns.
        calibration: Aria calibration file or HoloAssist folder with intrinsics.
    """

    y_origin: YOrigin | None = None
    offset_s: float | None = None
    frame_size_px: tuple[int, int] | None = None
    frame_times_s: np.ndarray | None = None
    min_confidence: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    xy_unit: Literal["norm", "px"] | None = None
    calibration: Path | None = None


@dataclass(frozen=True)
class GazeRecording:
    """One file, read.

    Attributes:
        samples: empty for a file that holds fixations only.
        fixations: the device's own (`detector="device"`) or the file's (`detector="file"`), None where it has none.
        path, format: what was read, as what.
        scene_times_s: (F,) times of the scene frames on the same clock, where the recording stores them.
        clock: what time zero is, in words.
        notes: what the reader had to decide, one sentence each.
        columns: plain CSV, role -> the column that was read.
    """

    samples: GazeSamples
    fixations: Fixations | None
    path: Path
    format: str
    scene_times_s: np.ndarray | None = None
    clock: str = "first_frame"
    notes: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrackerFormat:
    """One entry of the registry.

    Attributes:
        name: what `format=` takes.
        title: for people.
        sniff: True when the path's content is this format; looks at no more than the head of a few files, never raises.
        read: the reader. Raises GazeQwenError only.
        needs: options or extras without which reading fails, in words; empty when the file says everything.
    """

    name: str
    title: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path, ReadOptions], GazeRecording]
    needs: str = ""


# -- into house units -------------------------------------------------------------------------------------------------


class FrameSizeNeeded(InputError):
    """Pixel coordinates of a file that does not say of which frame. `open_recording` answers with the video's size."""


def require_size(path: Path, options: ReadOptions, known: tuple[int, int] | None = None) -> tuple[int, int]:
    """(width, height) px: the caller's, else the format's. InputError when neither is known or it is not positive."""
    size = options.frame_size_px or known
    if size is None:
        raise FrameSizeNeeded(
            path,
            expected="the size of the frame its pixel coordinates refer to",
            found="no size in the file",
            fix="pass frame_size_px=(width, height), on the command line --frame-size WIDTHxHEIGHT",
        )
    if len(size) != 2 or not all(0 < side < 1_000_000 for side in size):
        raise InputError(path, expected="frame_size_px of two positive numbers", found=str(size))
    return int(size[0]), int(size[1])


def require_y_origin(path: Path, options: ReadOptions, known: YOrigin | None, *, how: str = "") -> YOrigin:
    """Where y = 0 lies: the caller's word, else the format's. InputError when neither is known; `how`: how to tell."""
    origin = options.y_origin or known
    if origin is None:
        raise InputError(
            path,
            expected="y_origin='top' or 'bottom'",
            found="a file that does not say where y = 0 lies",
            fix=how or "read it both ways with `gazeqwen gaze check` and keep the one whose dot follows the gaze",
        )
    if origin not in ("top", "bottom"):
        raise InputError(path, expected="y_origin='top' or 'bottom'", found=repr(origin))
    return origin


def require_offset(path: Path, options: ReadOptions, *, found: str, fix: str) -> float:
    """`offset_s`, or InputError saying that the clock has no known tie to the first frame and what to do."""
    if options.offset_s is None:
        raise InputError(path, expected="a clock tied to the first video frame", found=found, fix=fix)
    return offset_of(path, options)


def offset_of(path: Path, options: ReadOptions) -> float:
    """`offset_s`, 0 where not given. InputError unless finite."""
    offset = 0.0 if options.offset_s is None else float(options.offset_s)
    if not abs(offset) <= MAX_TIME_S:
        raise InputError(path, expected="offset_s in finite seconds", found=str(options.offset_s))
    return offset


def to_norm(xy: np.ndarray, *, y_origin: YOrigin, size_px: tuple[int, int] | None = None) -> np.ndarray:
    """(N, 2) coordinates, pixels when `size_px` is given -> (N, 2) normalised, top-left; NaN where damaged."""
    out = np.array(xy, dtype=np.float64).reshape(-1, 2)
    if size_px is not None:
        out /= np.asarray(size_px, dtype=np.float64)
    out[~(np.abs(out) <= MAX_COORDINATE_NORM)] = np.nan
    if y_origin == "bottom":
        out[:, 1] = 1.0 - out[:, 1]
    return out


def plausible_s(t_s: np.ndarray) -> np.ndarray:
    """A flat copy with NaN where a number is too large to be a time in seconds, so that arithmetic can't overflow."""
    out = np.array(t_s, dtype=np.float64).reshape(-1)
    out[~(np.abs(out) <= MAX_TIME_S)] = np.nan
    return out


def finish(
    path: Path,
    format_name: str,
    options: ReadOptions,
    *,
    t_s: np.ndarray,
    xy: np.ndarray,
    y_origin: YOrigin | None,
    unreadable: np.ndarray | None = None,
    size_px: tuple[int, int] | None = None,
    valid: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    min_confidence: float | None = None,
    fixation_id: np.ndarray | None = None,
    fixations: Fixations | None = None,
    scene_times_s: np.ndarray | None = None,
    clock: str = "first_frame",
    notes: Sequence[str] = (),
    counts: Mapping[str, int] | None = None,
    frame_size_px: tuple[int, int] | None = None,
) -> GazeRecording:
    """The last step of every reader: (N,) rows in the file's own terms -> a recording in house units, rows counted.

    Args:
        t_s: (N,) seconds from the first frame, before `options.offset_s`, which is added here.
        xy: (N, 2) as in the file; NaN is missing gaze.
        y_origin: the format's own, None where only the caller can know.
        unreadable: (N,) rows that could not be parsed: left out and counted.
        size_px: (width, height) to divide pixels by; None when `xy` is normalised already. Resolved by `require_size`.
        valid: (N,) what the device says about each sample.
        confidence: (N,); a sample below the threshold is invalid. Outside [0, 1] it is unknown (NaN), which no
            threshold lets pass; without a threshold it decides nothing.
        min_confidence: the format's default threshold; `options.min_confidence` goes first.
        fixations: built with `finish_fixations`, which applies the same offset and flip.
        counts: further counts; those named rows_* are rows of the file that `t_s` does not hold and are added to
            rows_read.
        frame_size_px: (width, height) of the scene frame where the file says it though `xy` is normalised.

    Raises:
        InputError: no row is readable, the y origin is unknown, or an option is not a usable number.
    """
    n = np.asarray(t_s).size
    bad = np.zeros(n, dtype=bool) if unreadable is None else np.asarray(unreadable, dtype=bool)
    origin = require_y_origin(path, options, y_origin)
    threshold = options.min_confidence if options.min_confidence is not None else min_confidence
    ok = np.ones(n, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    if confidence is not None:
        confidence = np.array(confidence, dtype=np.float64)
        confidence[~((confidence >= 0) & (confidence <= 1))] = np.nan
        if threshold is not None:
            ok = ok & (confidence >= threshold)
    if n and bad.all():
        raise InputError(path, expected=f"rows of {format_name}", found=f"{n} rows, none of them readable")
    tally = dict(counts or {})
    elsewhere = sum(v for name, v in tally.items() if name.startswith("rows_"))
    tally = {"rows_read": n + elsewhere, "rows_unreadable": tally.pop("rows_unreadable", 0) + int(bad.sum()), **tally}
    keep = ~bad
    samples = GazeSamples.build(
        (plausible_s(t_s) + offset_of(path, options))[keep],
        to_norm(xy, y_origin=origin, size_px=size_px)[keep],
        valid=ok[keep],
        confidence=None if confidence is None else confidence[keep],
        fixation_id=None if fixation_id is None else np.asarray(fixation_id)[keep],
        source=format_name,
        counts=tally,
        frame_size_px=size_px or frame_size_px,
    )
    if scene_times_s is not None:
        scene_times_s = np.asarray(scene_times_s, dtype=np.float64) + offset_of(path, options)
    return GazeRecording(samples, fixations, path, format_name, scene_times_s, clock, tuple(notes))


def finish_fixations(
    path: Path,
    options: ReadOptions,
    *,
    start_s: np.ndarray,
    stop_s: np.ndarray,
    xy: np.ndarray,
    y_origin: YOrigin | None,
    unreadable: np.ndarray | None = None,
    size_px: tuple[int, int] | None = None,
    ids: np.ndarray | None = None,
    detector: str = "device",
    parameters: Mapping[str, Any] | None = None,
) -> Fixations:
    """(F,) fixations in the file's own terms -> house units, as `finish` does for samples.

    Left out and counted: rows_unreadable, rows_bad_time (not finite, or stop before start), rows_no_position.
    """
    n = np.asarray(start_s).size
    bad = np.zeros(n, dtype=bool) if unreadable is None else np.asarray(unreadable, dtype=bool)
    offset = offset_of(path, options)
    start, stop = plausible_s(start_s) + offset, plausible_s(stop_s) + offset
    centre = to_norm(xy, y_origin=require_y_origin(path, options, y_origin), size_px=size_px)
    bad_time = ~bad & ~(stop >= start)
    no_position = ~bad & ~bad_time & ~np.isfinite(centre).all(axis=1)
    keep = ~(bad | bad_time | no_position)
    names = np.arange(n) if ids is None else np.asarray(ids, dtype=np.int64)
    return Fixations.build(
        start[keep],
        stop[keep],
        centre[keep],
        ids=names[keep],
        detector=detector,
        parameters=parameters,
        counts={
            "rows_read": n,
            "rows_unreadable": int(bad.sum()),
            "rows_bad_time": int(bad_time.sum()),
            "rows_no_position": int(no_position.sum()),
        },
    )
