"""StreamGaze fixation CSV (`<video>_fixation_filtered.csv`, `_fixation_dataset.csv`): fixations, no samples.

Source: StreamGaze's pipeline (arXiv 2512.01707, steps 1 and 1.5) and GazeQwen's demo data. Seconds from the video's
first frame as floats, centres normalised, origin top-left. Two header forms exist: each time under one name, or under
both of `start_time` and `start_time_seconds` (copies of each other); ids as `fixation_id`, `segment_id`, or none.
A blank end is start + duration. Rows without a centre or with an end before the start are counted, not read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stream.trackers.base import (
    GazeRecording,
    ReadOptions,
    TrackerFormat,
    finish,
    finish_fixations,
    header_of,
    plausible_s,
    read_table,
)

ALIASES = {
    "start": ("start_time_seconds", "start_time"),
    "stop": ("end_time_seconds", "end_time"),
    "duration": ("duration_seconds", "duration"),
    "id": ("fixation_id", "segment_id"),
}


def _column(header: tuple[str, ...], role: str) -> str | None:
    return next((name for name in ALIASES[role] if name in header), None)


def sniff(path: Path) -> bool:
    """A CSV header with a centre, a start and an end (or a duration)."""
    header = header_of(path)
    return (
        {"center_x", "center_y"} <= set(header)
        and _column(header, "start") is not None
        and (_column(header, "stop") is not None or _column(header, "duration") is not None)
    )


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """Reads one fixation CSV. `samples` is empty; `fixations.counts` accounts for the rows."""
    table = read_table(path)
    start, bad = table.floats(_column(table.header, "start") or ALIASES["start"][0])
    x, bad_x = table.floats("center_x")
    y, bad_y = table.floats("center_y")
    bad = bad | bad_x | bad_y
    stop_name, duration_name = _column(table.header, "stop"), _column(table.header, "duration")
    stop = np.full(len(table), np.nan)
    if stop_name or not duration_name:
        stop, bad_stop = table.floats(stop_name or ALIASES["stop"][0])
        bad = bad | bad_stop
    if duration_name:
        duration, bad_duration = table.floats(duration_name)
        start, duration = plausible_s(start), plausible_s(duration)
        blank = np.isnan(stop) & np.isfinite(start) & np.isfinite(duration)
        bad = bad | (np.isnan(stop) & bad_duration)
        stop[blank] = start[blank] + duration[blank]
    id_name = _column(table.header, "id")
    in_time = np.argsort(np.argsort(start, kind="stable"))  # without ids upstream numbers rows by their start
    fixations = finish_fixations(
        path,
        options,
        start_s=start,
        stop_s=stop,
        xy=np.stack([x, y], axis=1),
        y_origin="top",
        unreadable=bad,
        ids=table.ids(id_name) if id_name else in_time,
        detector="file",
        parameters={"source": "streamgaze"},
    )
    empty = np.zeros(0)
    return finish(path, FORMAT.name, options, t_s=empty, xy=np.zeros((0, 2)), y_origin="top", fixations=fixations)


FORMAT = TrackerFormat(name="streamgaze", title="StreamGaze fixation CSV", sniff=sniff, read=read)
