"""glassesTools' common output folder: gazeData.tsv and frameTimestamps.tsv, so that its importers' trackers work here.

Source: glassesTools (github.com/dcnieho/glassesTools, MIT), modules naming and gaze_headref. Tab-separated;
`timestamp` in ms on the recording's clock, `gaze_pos_vid_x/y` in pixels of worldCamera.mp4, origin top-left, "nan"
where there is no gaze (`vid_gaze_pos_x/y` before its version 1.11). frameTimestamps.tsv has the time of every frame in
the same ms: its first row is time zero. The frame's size is in calibration.xml (OpenCV storage, node `resolution`).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from stream.trackers.base import (
    GazeRecording,
    InputError,
    ReadOptions,
    TrackerFormat,
    find_file,
    finish,
    header_of,
    plausible_s,
    read_bytes,
    read_table,
    require_offset,
    require_size,
)

POSITIONS = (("gaze_pos_vid_x", "gaze_pos_vid_y"), ("vid_gaze_pos_x", "vid_gaze_pos_y"))
RESOLUTION = re.compile(rb"<resolution\b.*?<data>\s*([0-9.eE+]+)\s+([0-9.eE+]+)", re.DOTALL)


def sniff(path: Path) -> bool:
    """gazeData.tsv, or a folder with it, with a timestamp and a video position."""
    file = find_file(path, "gazeData.tsv")
    names = set(header_of(file, "\t")) if file else set()
    return "timestamp" in names and any(set(pair) <= names for pair in POSITIONS)


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """Reads the folder (or its gazeData.tsv). Without frameTimestamps.tsv, `offset_s` is added to its own clock."""
    file = find_file(path, "gazeData.tsv")
    if file is None:
        raise InputError(path, expected="a folder with gazeData.tsv", found="none in it")
    table = read_table(file, delimiter="\t")
    x_name, y_name = next((pair for pair in POSITIONS if table.has(*pair)), POSITIONS[0])
    size_px = require_size(file, options, _frame_size_px(file.parent / "calibration.xml"))
    t_ms, bad = table.floats("timestamp")
    x, bad_x = table.floats(x_name)
    y, bad_y = table.floats(y_name)
    frames_s = _frame_times_s(file.parent / "frameTimestamps.tsv")
    if frames_s is None:
        require_offset(
            file,
            options,
            found="no frameTimestamps.tsv beside it",
            fix="put the folder's frameTimestamps.tsv beside it, or pass offset_s= (added to gazeData's own times)",
        )
    zero_s = 0.0 if frames_s is None else float(frames_s[0])
    return finish(
        file,
        FORMAT.name,
        options,
        t_s=plausible_s(t_ms / 1000.0) - zero_s,
        xy=np.stack([x, y], axis=1),
        y_origin="top",
        unreadable=bad | bad_x | bad_y,
        size_px=size_px,
        scene_times_s=None if frames_s is None else frames_s - zero_s,
        clock="first_frame (first row of frameTimestamps.tsv)" if frames_s is not None else "gazeData.tsv + offset_s",
    )


def _frame_times_s(file: Path) -> np.ndarray | None:
    """(F,) times of the scene frames, seconds on the recording's clock; None without the file."""
    if not file.is_file():
        return None
    times_ms, _ = read_table(file, delimiter="\t").floats("timestamp")
    times = plausible_s(times_ms / 1000.0)
    times = times[np.isfinite(times)]
    if not times.size:
        raise InputError(file, expected="a timestamp in ms per frame", found="no readable row")
    return times


def _frame_size_px(calibration: Path) -> tuple[int, int] | None:
    if not calibration.is_file():
        return None
    match = RESOLUTION.search(read_bytes(calibration))
    try:
        return (int(float(match[1])), int(float(match[2]))) if match else None
    except (ValueError, OverflowError):
        return None


FORMAT = TrackerFormat(
    name="glassestools",
    title="glassesTools output folder",
    sniff=sniff,
    read=read,
    needs="frameTimestamps.tsv beside gazeData.tsv, or offset_s=; calibration.xml, or frame_size_px=",
)
