"""EGTEA Gaze+: SMI BeGaze text exports, in the two layouts the data set comes in.

Source: the data set's parser as StreamGaze carries it. A `##` header, a line beginning "Time", then white-space
separated rows:

* 7 fields: time (us), SMP, trial, x, y, frame number, event;
* 26 fields: time (us) first, x and y at 5 and 6, frame as hh:mm:ss:ff (24 frames a second) and event last.

Pixels of a 1280 x 960 frame, origin top-left. MSG rows are not samples. Where we differ: the "Time" line is looked for
instead of skipping 34 lines; samples of one frame are all kept instead of averaged (their mean lies between objects);
untracked rows, which BeGaze writes as (0, 0), and blinks are samples without gaze; points beyond the frame stay there.

Clock: the frame number is what ties a row to the video; frame f spans [f / 24, (f + 1) / 24) s, or the video's own
times with `frame_times_s`. The device time orders samples finer than that. If one offset brings every device time into
its own row's frame, that clock is used and the true sampling intervals survive; otherwise (drift, dropped frames, a
damaged row) the samples of each frame are spread evenly over it in device order. The notes say which. No real file was
at hand: both layouts were made by hand from the parser.

The export's "Fixation" labels are not turned into device fixations: at 30 Hz a saccade can fall between two samples, so
a run of labelled samples may span several objects.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gazeqwen.errors import InputError
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish, require_size
from stream.trackers.egoexolearn import frame_times
from stream.trackers.rows import Table, head_bytes, read_bytes, table_from_lines, text_lines

NAME = "egtea"
FPS = 24
FRAME_SIZE_PX = (1280, 960)
LAYOUTS = {
    7: ("time", "kind", "trial", "x", "y", "frame", "event"),
    26: ("time", "kind", "trial", "c3", "c4", "x", "y", *(f"c{i}" for i in range(7, 24)), "timecode", "event"),
}
WITHOUT_GAZE = frozenset({"blink", "untracked", "-"})


def _is_header(line: str) -> bool:
    return line.startswith("Time") and "Type" in line


def sniff(path: Path) -> bool:
    """A ## header followed by the "Time ... Type" line."""
    lines = [line for line in text_lines(head_bytes(path)) if line.strip()]
    return bool(lines) and lines[0].startswith("##") and any(map(_is_header, lines))


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """One BeGaze export.

    Raises:
        InputError: no "Time" line, no row of a known layout, or unusable options.
    """
    table = _rows(path)
    unreadable = table.ragged
    x, bad_x = table.floats("x")
    y, bad_y = table.floats("y")
    unreadable |= bad_x | bad_y
    frame = table.ids("frame") if "frame" in table.header else _timecode_frames(table)
    device_s, _ = table.seconds_since("time", zero_tick=table.first_tick("time") or 0, ticks_per_s=10**6)
    start_s, stop_s = _frame_spans(path, frame, options)
    t_s, note = _times(frame, device_s, start_s=start_s, stop_s=stop_s)
    tracked = np.array([text.lower() not in WITHOUT_GAZE for text in table.texts("event")], dtype=bool)
    return finish(
        path,
        NAME,
        options,
        t_s=t_s,
        xy=np.stack([x, y], axis=1),
        y_origin="top",
        size_px=require_size(path, options, FRAME_SIZE_PX),
        unreadable=unreadable,
        valid=tracked & ~((x == 0) & (y == 0)),
        notes=[note],
    )


def _rows(path: Path) -> Table:
    lines = text_lines(read_bytes(path))
    header = next((i for i, line in enumerate(lines) if _is_header(line)), None)
    if header is None:
        raise InputError(path, expected='a BeGaze export with a line beginning "Time ... Type"', found="no such line")
    fields = [line.split() for line in lines[header + 1 :]]
    fields = [row for row in fields if row and row[1:2] != ["MSG"]]
    widths = [len(row) for row in fields]
    width = max(LAYOUTS, key=widths.count)
    if not widths.count(width):
        raise InputError(
            path,
            expected="rows of 7 or 26 fields (EGTEA Gaze+)",
            found=f"{widths[0]} fields" if widths else "no row",
            fix="export from BeGaze as EGTEA did, or convert to a plain CSV",
        )
    return table_from_lines(path, LAYOUTS[width], ["\t".join(row) for row in fields], "\t")


def _timecode_frames(table: Table) -> np.ndarray:
    """(N,) frame numbers of hh:mm:ss:ff, -1 where unreadable."""
    frames = np.full(len(table), -1, dtype=np.int64)
    for i, text in enumerate(table.texts("timecode")):
        parts = text.split(":")
        if len(parts) == 4 and all(part.isascii() and part.isdigit() and len(part) <= 4 for part in parts):
            hours, minutes, seconds, frame = map(int, parts)
            frames[i] = (3600 * hours + 60 * minutes + seconds) * FPS + frame
    return frames


def _frame_spans(path: Path, frame: np.ndarray, options: ReadOptions) -> tuple[np.ndarray, np.ndarray]:
    """(N,) when each row's frame begins and ends; NaN for no frame, or one the video does not have."""
    times_s = frame_times(path, options)
    known = frame >= 0
    if times_s is None:
        start_s, stop_s = frame / FPS, (frame + 1.0) / FPS
    else:
        known &= frame < times_s.size
        index = np.where(known, frame, 0)
        last = np.median(np.diff(times_s)) if times_s.size > 1 else 1 / FPS
        start_s, stop_s = times_s[index], np.append(times_s[1:], times_s[-1] + last)[index]
    return np.where(known, start_s, np.nan), np.where(known, stop_s, np.nan)


def _times(
    frame: np.ndarray, device_s: np.ndarray, *, start_s: np.ndarray, stop_s: np.ndarray
) -> tuple[np.ndarray, str]:
    """(N,) seconds, each within its row's frame and NaN without one; and a note on how they were found."""
    known = np.isfinite(start_s)
    if known.any() and (np.abs(device_s[known]) < 1e9).all():
        # one offset puts every sample inside its frame iff the intervals [start, stop) - device time share a point
        low, high = np.max((start_s - device_s)[known]), np.min((stop_s - device_s)[known])
        if low < high:
            return np.where(known, device_s + (low + high) / 2, np.nan), (
                f"device time used: one offset brings it into every row's frame (known to {(high - low) / 2:.4f} s)"
            )
    order = np.lexsort((device_s, frame))
    _, first, count = np.unique(frame[order], return_index=True, return_counts=True)
    rank = np.empty(frame.size)
    rank[order] = (np.arange(frame.size) - np.repeat(first, count)) / np.repeat(count, count)
    return start_s + rank * (stop_s - start_s), (
        "samples of a frame are spread evenly over it: no single offset fits device time to the frame numbers"
    )


FORMAT = TrackerFormat(NAME, "EGTEA Gaze+ (BeGaze text)", sniff, read)
