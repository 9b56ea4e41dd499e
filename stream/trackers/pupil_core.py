"""Pupil Core: an export of Pupil Player (exports/000/gaze_positions.csv).

Source: Pupil Core documentation, "Raw data exporter". `norm_pos_*` are normalised with the origin BOTTOM-left, so y is
flipped. Times are seconds on the Pupil clock, whose epoch is arbitrary; zero is the first row of world_timestamps.csv
(header `# timestamps [seconds],pts`) beside it or, for exports without one, world_timestamps.npy of the recording.
Samples below a confidence of 0.6, the threshold that documentation recommends, are invalid. fixations.csv, made by
Pupil Player's detector, is read as device fixations (durations in ms).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gazeqwen.types import Fixations
from stream.trackers.base import (
    GazeRecording,
    InputError,
    ReadOptions,
    TrackerFormat,
    finish,
    finish_fixations,
    header_of,
    plausible_s,
    read_table,
    require_offset,
)

MIN_CONFIDENCE = 0.6
TIME_NAMES = ("gaze_timestamp", "timestamp")  # the second one in exports before Pupil v1.8
WORLD_TIME_NAMES = ("# timestamps [seconds]", "timestamps [seconds]")
FIXATION = ("id", "start_timestamp", "duration", "norm_pos_x", "norm_pos_y")


def _exports(path: Path) -> list[Path]:
    """gaze_positions.csv at, in, or in the exports of `path`."""
    if path.is_file():
        return [path]
    direct = path / "gaze_positions.csv"
    return [direct] if direct.is_file() else sorted(path.glob("exports/*/gaze_positions.csv"))


def sniff(path: Path) -> bool:
    """A header with norm_pos_* and Pupil's time column; Ego4D's copy of it has canonical_timestamp_s as well."""
    files = _exports(path)
    names = set(header_of(files[0])) if files else set()
    return (
        {"norm_pos_x", "norm_pos_y", "confidence"} <= names
        and any(name in names for name in TIME_NAMES)
        and "canonical_timestamp_s" not in names
    )


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """Reads gaze_positions.csv: the file, its export folder, or a recording folder with exactly one export."""
    files = _exports(path)
    if len(files) != 1:
        found = f"{len(files)} exports" if files else "no gaze_positions.csv"
        raise InputError(
            path, expected="one Pupil Player export", found=found, fix="name the gaze_positions.csv to read"
        )
    file = files[0]
    table = read_table(file)
    world_s = _world_times_s(file)
    if world_s is None:
        require_offset(
            file,
            options,
            found="no world_timestamps.csv beside it",
            fix="export the world video too, or pass offset_s= (seconds between the first video frame and the first "
            "gaze sample)",
        )
    t_s, bad = table.floats(next((name for name in TIME_NAMES if table.has(name)), TIME_NAMES[0]))
    t_s = plausible_s(t_s)
    if world_s is not None:
        zero, clock = float(world_s[0]), "first_frame (first row of world_timestamps)"
    else:
        finite = t_s[np.isfinite(t_s)]
        zero, clock = (float(finite[0]) if finite.size else 0.0), "first gaze sample + offset_s"
    x, bad_x = table.floats("norm_pos_x")
    y, bad_y = table.floats("norm_pos_y")
    confidence, bad_confidence = table.floats("confidence")
    return finish(
        file,
        FORMAT.name,
        options,
        t_s=t_s - zero,
        xy=np.stack([x, y], axis=1),
        y_origin="bottom",
        unreadable=bad | bad_x | bad_y | bad_confidence,
        confidence=confidence,
        min_confidence=MIN_CONFIDENCE,
        fixations=_fixations(file.parent / "fixations.csv", zero, options),
        scene_times_s=None if world_s is None else world_s - zero,
        clock=clock,
    )


def _world_times_s(file: Path) -> np.ndarray | None:
    """(F,) the world frames' times, seconds on the Pupil clock; None where the export has none."""
    csv_file = file.parent / "world_timestamps.csv"
    if csv_file.is_file():
        table = read_table(csv_file)
        name = next((name for name in WORLD_TIME_NAMES if table.has(name)), WORLD_TIME_NAMES[0])
        times, _ = table.floats(name)
        source = csv_file
    else:
        candidates = [file.parent / "world_timestamps.npy", file.parent.parent.parent / "world_timestamps.npy"]
        source = next((candidate for candidate in candidates if candidate.is_file()), None)
        if source is None:
            return None
        try:
            times = np.asarray(np.load(source, allow_pickle=False), dtype=np.float64).reshape(-1)
        except (ValueError, TypeError, OSError, EOFError, SyntaxError) as error:
            raise InputError(source, expected="a numpy file of times in seconds", found=type(error).__name__) from error
    times = plausible_s(times)
    first = times[0] if times.size else np.nan
    times = times[np.isfinite(times)]
    if not times.size:
        raise InputError(source, expected="a time in seconds per world frame", found="no readable row")
    if not np.isfinite(first):  # a later row would move time zero silently
        raise InputError(
            source, expected="a readable first row: it is time zero", found="a damaged one", fix="export again"
        )
    return times


def _fixations(file: Path, zero: float, options: ReadOptions) -> Fixations | None:
    if not file.is_file() or not set(FIXATION) <= set(header_of(file)):
        return None
    table = read_table(file)
    (start, bad), (duration_ms, bad_duration), (x, bad_x), (y, bad_y) = (table.floats(name) for name in FIXATION[1:])
    start = plausible_s(start) - zero
    return finish_fixations(
        file,
        options,
        start_s=start,
        stop_s=start + plausible_s(duration_ms / 1000.0),
        xy=np.stack([x, y], axis=1),
        y_origin="bottom",
        unreadable=bad | bad_duration | bad_x | bad_y,
        ids=table.ids(FIXATION[0]),
    )


FORMAT = TrackerFormat(
    name="pupil_core",
    title="Pupil Core export (Pupil Player)",
    sniff=sniff,
    read=read,
    needs="world_timestamps.csv beside gaze_positions.csv, or offset_s=",
)
