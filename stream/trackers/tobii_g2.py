"""Tobii Pro Glasses 2: `segments/N/livedata.json.gz`, one JSON object a line, several kinds mixed.

Source: a real recording (fixture tobii_g2_glassesviewer); GlassesViewer (Niehorster, Hessels & Benjamins 2020), which
reads the same lines. Used here: ``{"ts": us, "s": status, "gp": [x, y]}``, gaze normalised to the scene frame, origin
top-left, status 0 when valid (invalid lines hold [0, 0]), and ``{"ts": us, "vts": us}``, which says what the scene
video's time was at `ts`.

Clock, measured on the fixture: all 44 `vts` lines give the same ts - vts to the microsecond, the first has vts = 0, and
the 45 `pts` lines (90 kHz transport-stream time) agree with them within 11 us. So a gaze line's video time is its `ts`
less the ts - vts of the newest `vts` line before it; lines before the first `vts` (26 of 1,424) get negative times,
since the tracker starts before the video. `pts` alone can't tie the clock: its zero is that of the live stream (the
fixture's video starts at pts 679998). Not measured: whether the first stored frame has time exactly 0 (the fixture has
no video). Unlike GlassesViewer, whose zero is the later start of scene and eye video, ours is the scene video.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish, require_offset
from stream.trackers.rows import find_file, number, read_json_lines
from stream.trackers.tobii_g3 import head_objects, pair

NAME = "tobii_g2"
FILES = tuple(
    folder + name for name in ("livedata.json.gz", "livedata.json") for folder in ("", "segments/*/", "*/segments/*/")
)
KINDS = frozenset({"gp", "gp3", "gd", "pc", "pd", "vts", "pts", "evts", "ac", "gy"})
# Beyond one frame at 25 fps the reader says so; in an undamaged file all lines agree to the microsecond.
CLOCK_SPREAD_S = 0.04


def sniff(path: Path) -> bool:
    """Lines with ts, s and one of the known kinds."""
    found = find_file(path, *FILES)
    return found is not None and any(
        "ts" in item and "s" in item and not KINDS.isdisjoint(item) for item in head_objects(found)
    )


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """A livedata.json(.gz), its segment folder, or a recording folder with one segment.

    A line that is no JSON object counts as unreadable: it may have been gaze. Lines of other kinds are not rows.

    Raises:
        InputError: nothing to read, several segments (each has its own video), no gaze line, or no `vts` line and no
            `offset_s`.
    """
    found = _segment(path)
    lines = read_json_lines(found)
    rows = [item for item in lines.objects if item is None or "gp" in item]
    if all(item is None for item in rows):
        raise InputError(
            found, expected='gaze lines ("gp")', found=f"none in {len(lines)} lines", fix="check the recording"
        )
    n = len(rows)
    ts_us = np.full(n, np.nan)
    xy_norm = np.full((n, 2), np.nan)
    valid = np.zeros(n, dtype=bool)
    unreadable = np.zeros(n, dtype=bool)
    for i, item in enumerate(rows):
        point = None if item is None else pair(item["gp"])
        if item is None or point is None:
            unreadable[i] = True
            continue
        ts_us[i], xy_norm[i], valid[i] = number(item.get("ts")), point, number(item.get("s")) == 0
    notes: list[str] = []
    clock = "first_frame"
    sync_us = _video_sync(lines.objects)
    if len(sync_us):
        newest = np.clip(np.searchsorted(sync_us[:, 0], ts_us, side="right") - 1, 0, None)
        lead_us = sync_us[:, 0] - sync_us[:, 1]
        t_s = (ts_us - lead_us[newest]) / 1e6
        spread_s = float(np.ptp(lead_us)) / 1e6
        notes.append(f"clock tied to the scene video by {len(sync_us)} vts lines, which agree within {spread_s:.6f} s")
        if spread_s > CLOCK_SPREAD_S:
            notes.append("they agree badly: look at an overlay (`gazeqwen gaze check`) before trusting the times")
    else:
        require_offset(
            found,
            options,
            found="no vts line",
            fix="pass offset_s= (--offset-s): the video time in seconds of the file's first gaze line",
        )
        finite = ts_us[np.isfinite(ts_us)]
        t_s = (ts_us - (finite[0] if finite.size else 0.0)) / 1e6
        clock = "first gaze line + offset_s"
        notes.append("no vts line: times count from the first gaze line, moved by offset_s")
    if lines.truncated:
        notes.append("the gzip stream ends early or is damaged: gaze up to there was read")
    return finish(
        found,
        NAME,
        options,
        t_s=t_s,
        xy=xy_norm,
        y_origin="top",
        unreadable=unreadable,
        valid=valid,
        clock=clock,
        notes=notes,
    )


def _segment(path: Path) -> Path:
    """The one livedata file meant by a file, a segment folder, a recording folder or a folder of one recording."""
    found = find_file(path, *FILES)
    if found is None:
        raise InputError(
            path,
            expected="a Tobii Glasses 2 recording",
            found="no livedata.json.gz",
            fix="pass that file or its segments/N folder",
        )
    if found == path or found.parent == path:
        return found
    others = sorted({item.parent for name in FILES for item in path.glob(name)} - {found.parent})
    if others:
        raise InputError(
            path,
            expected="one segment",
            found=f"{1 + len(others)} segments, each with its own video",
            fix=f"pass one of them, e.g. {found.parent.relative_to(path)}",
        )
    return found


def _video_sync(objects: list[dict[str, Any] | None]) -> np.ndarray:
    """(V, 2) ts and vts of the valid vts lines, microseconds, ordered by ts."""
    pairs = [
        (number(item.get("ts")), number(item.get("vts")))
        for item in objects
        if item is not None and "vts" in item and number(item.get("s")) == 0
    ]
    sync_us = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    # Above 2**53 a float is no exact microsecond: such a line is damage.
    sync_us = sync_us[(np.abs(sync_us) <= 2.0**53).all(axis=1)]
    return sync_us[np.argsort(sync_us[:, 0], kind="stable")]


FORMAT = TrackerFormat(
    NAME, "Tobii Pro Glasses 2 (livedata.json.gz)", sniff, read, needs="offset_s where the file has no vts line"
)
