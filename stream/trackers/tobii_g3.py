"""Tobii Pro Glasses 3: `gazedata.gz`, one JSON object a line.

Source: a real recording (fixture tobii_g3_eyedentify3d). A line is
``{"type": "gaze", "timestamp": s, "data": {"gaze2d": [x, y], ...}}``; `gaze2d` is normalised to the scene frame, origin
top-left. `data` is empty where the eyes were not seen (412 of the fixture's 6,547 lines), which is a sample without
gaze, not a lost row.

Clock: seconds since the recording began, which is the first frame of `scenevideo.mp4`. That is how the device documents
its files; the fixture has no video to measure it on, so `offset_s` corrects it where an overlay shows a lag.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish
from stream.trackers.rows import find_file, gunzip, head_bytes, number, parse_object, read_json_lines, text_lines

NAME = "tobii_g3"
FILES = ("gazedata.gz", "gazedata")


def head_objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects among the first lines of a plain or gzip file. For sniffing: never raises."""
    head = head_bytes(path)
    if head[:2] == b"\x1f\x8b":
        head = gunzip(head)[0]
    parsed = (parse_object(line) for line in text_lines(head)[:100])
    return [item for item in parsed if item is not None]


def pair(value: object) -> tuple[float, float] | None:
    """[x, y] of a JSON line as floats, NaN where an element is no number; None unless it is a list of two."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    return number(value[0]), number(value[1])


def sniff(path: Path) -> bool:
    """A gaze line near the top of the file, or of the recording folder's gazedata."""
    found = find_file(path, *FILES)
    return found is not None and any(
        item.get("type") == "gaze" and "timestamp" in item and "data" in item for item in head_objects(found)
    )


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """A `gazedata.gz` (or the same uncompressed), or the recording folder that holds it.

    Lines of another type (sync port, events) are not rows. A line that is no JSON object counts as unreadable: it may
    have been gaze.

    Raises:
        InputError: no gaze data at the path, or no gaze line in the file.
    """
    found = find_file(path, *FILES)
    if found is None:
        raise InputError(path, expected="a Tobii Glasses 3 recording", found="no gazedata.gz", fix="pass that file")
    lines = read_json_lines(found)
    rows = [item for item in lines.objects if item is None or item.get("type") == "gaze"]
    if all(item is None for item in rows):
        raise InputError(
            found, expected='lines of "type": "gaze"', found=f"none in {len(lines)} lines", fix="check the file"
        )
    t_s = np.full(len(rows), np.nan)
    xy_norm = np.full((len(rows), 2), np.nan)
    unreadable = np.zeros(len(rows), dtype=bool)
    for i, item in enumerate(rows):
        data = None if item is None else item.get("data")
        if item is None or not isinstance(data, dict):
            unreadable[i] = True
            continue
        t_s[i] = number(item.get("timestamp"))
        if data.get("gaze2d") is not None:
            point = pair(data["gaze2d"])
            unreadable[i] = point is None
            xy_norm[i] = point or (np.nan, np.nan)
    notes = ["time zero is the start of the recording, taken as the first frame of scenevideo.mp4"]
    if lines.truncated:
        notes.append("the gzip stream ends early or is damaged: gaze up to there was read")
    return finish(found, NAME, options, t_s=t_s, xy=xy_norm, y_origin="top", unreadable=unreadable, notes=notes)


FORMAT = TrackerFormat(NAME, "Tobii Pro Glasses 3 (gazedata.gz)", sniff, read)
