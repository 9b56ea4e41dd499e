"""Plain CSV: `t_s,x_norm,y_norm` (or `x_norm_upright,y_norm_upright`), optionally `valid` and `confidence`.

Those names define everything: seconds from the first video frame, [0, 1] of the upright frame, origin top-left. Any
other table is read by naming its columns (`columns={"t": ..., "x": ..., "y": ...}`), and what their names do not say is
asked for: `time_unit` and `offset_s` for a renamed time, `xy_unit` and `y_origin` for renamed coordinates. A default
name that is wrong (pixels under `x_norm`) is overruled by naming the column and its unit together. Delimited by comma,
semicolon or tab, as the header is. A table without a header line is refused: which column is which would be a guess.
Values outside [0, 1] are kept; they are outside the frame, which `gazeqwen gaze check` shows.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from gazeqwen.types import GazeSamples
from stream.trackers.base import (
    GazeRecording,
    InputError,
    ReadOptions,
    Table,
    TrackerFormat,
    YOrigin,
    finish,
    head_bytes,
    parse_header,
    read_table,
    require_offset,
    require_size,
    text_lines,
)

ROLES = {
    "t": ("t_s",),
    "x": ("x_norm", "x_norm_upright"),
    "y": ("y_norm", "y_norm_upright"),
    "valid": ("valid",),
    "confidence": ("confidence",),
}
REQUIRED = ("t", "x", "y")
TICKS_PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
FLAGS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
HEADER_FIX = "write a header, e.g. t_s,x_norm,y_norm, as its first line"


def first_line(path: Path) -> tuple[tuple[str, ...], str]:
    """The fields of the first non-blank line and its delimiter."""
    line = next((line for line in text_lines(head_bytes(path)) if line.strip()), "")
    delimiter = max(",;\t", key=line.count)
    return parse_header(line, delimiter), delimiter


def is_headerless(path: Path) -> bool:
    """The first line is a row of two or more numbers."""
    fields, _ = first_line(path)
    try:
        return len([float(text) for text in fields if text]) > 1
    except ValueError:
        return False


def sniff(path: Path) -> bool:
    """A header with the default names."""
    header, _ = first_line(path)
    return all(any(name in header for name in ROLES[role]) for role in REQUIRED)


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """Reads a plain table; see the module for what has to be said about renamed columns."""
    _, delimiter = first_line(path)
    table = read_table(path, delimiter=delimiter)
    names = _names(table, options)
    t_s, unreadable = _times(table, names["t"], options)
    x, bad_x = table.floats(names["x"])
    y, bad_y = table.floats(names["y"])
    unreadable = unreadable | bad_x | bad_y
    valid = confidence = None
    if "valid" in names:
        flags = [FLAGS.get(text.casefold()) for text in table.texts(names["valid"])]
        unreadable = unreadable | np.array([flag is None for flag in flags], dtype=bool)
        valid = np.array([bool(flag) for flag in flags], dtype=bool)
    if "confidence" in names:
        confidence, bad = table.floats(names["confidence"])
        unreadable = unreadable | bad
    recording = finish(
        path,
        FORMAT.name,
        options,
        t_s=t_s,
        xy=np.stack([x, y], axis=1),
        y_origin=_y_origin(names),
        unreadable=unreadable,
        size_px=_size_px(path, names, options),
        valid=valid,
        confidence=confidence,
    )
    return replace(recording, columns=names)


def gaze_csv(samples: GazeSamples) -> str:
    """The text of a file of this format, microseconds and millionths of the frame; missing gaze has no coordinates."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("t_s", "x_norm", "y_norm", "valid"))
    for t_s, (x, y), valid in zip(samples.t_s, samples.xy_norm, samples.valid, strict=True):
        writer.writerow((f"{t_s:.6f}", *((f"{x:.6f}", f"{y:.6f}", 1) if valid else ("", "", 0))))
    return text.getvalue()


def _names(table: Table, options: ReadOptions) -> dict[str, str]:
    """role -> column of the table: the caller's, else the default ones it has."""
    unknown = sorted(set(options.columns) - set(ROLES))
    if unknown:
        raise InputError("columns", expected="roles " + ", ".join(ROLES), found=unknown[0])
    names: dict[str, str] = {}
    for role, defaults in ROLES.items():
        name = options.columns.get(role) or next((name for name in defaults if table.has(name)), None)
        if name is None and role in REQUIRED:
            if is_headerless(table.path):
                raise InputError(
                    table.path, expected="a header line", found="numbers in the first line", fix=HEADER_FIX
                )
            shown = ", ".join(table.header[:12])[:300]
            raise InputError(
                table.path,
                expected=f"a column '{defaults[0]}'",
                found=f"columns {shown}",
                fix=f"name it with columns={{'{role}': ...}}",
            )
        if name is not None:
            table.index(name)
            names[role] = name
    return names


def _times(table: Table, name: str, options: ReadOptions) -> tuple[np.ndarray, np.ndarray]:
    """(N,) seconds; (N,) unreadable."""
    if name in ROLES["t"]:
        unit = options.time_unit or "s"
        if unit not in TICKS_PER_S or (unit != "s" and "t" not in options.columns):
            raise InputError(
                "time_unit",
                expected=f"'s', as the column name {name} says",
                found=str(unit),
                fix=f"if the name is wrong, give both: columns={{'t': '{name}'}} and time_unit=",
            )
        values, unreadable = table.floats(name)
        return values / TICKS_PER_S[unit], unreadable
    if options.time_unit not in TICKS_PER_S:
        raise InputError(
            table.path,
            expected=f"the unit of column '{name}'",
            found="none given" if options.time_unit is None else repr(options.time_unit),
            fix="pass time_unit= s, ms, us or ns",
        )
    require_offset(
        table.path,
        options,
        found=f"a time column '{name}' of unknown zero",
        fix="pass offset_s= (added to every time; 0 when it counts from the first video frame)",
    )
    values, unreadable = table.floats(name)
    return values / TICKS_PER_S[options.time_unit], unreadable


def _own_coordinates(names: dict[str, str]) -> bool:
    return names["x"] in ROLES["x"] and names["y"] in ROLES["y"]


def _y_origin(names: dict[str, str]) -> YOrigin | None:
    return "top" if _own_coordinates(names) else None


def _size_px(path: Path, names: dict[str, str], options: ReadOptions) -> tuple[int, int] | None:
    """The frame's size when the coordinates are pixels, None when they are normalised."""
    if _own_coordinates(names) and options.xy_unit in (None, "norm"):
        return None
    if _own_coordinates(names) and not {"x", "y"} <= set(options.columns):
        raise InputError(
            "xy_unit",
            expected=f"'norm', as the column name {names['x']} says",
            found=str(options.xy_unit),
            fix=f"if the name is wrong, give both: columns={{'x': '{names['x']}', 'y': '{names['y']}'}} and xy_unit=",
        )
    if options.xy_unit not in ("norm", "px"):
        raise InputError(
            path,
            expected=f"the unit of columns '{names['x']}' and '{names['y']}'",
            found="none given" if options.xy_unit is None else repr(options.xy_unit),
            fix="pass xy_unit= norm or px",
        )
    return require_size(path, options) if options.xy_unit == "px" else None


FORMAT = TrackerFormat(
    name="plain_csv",
    title="plain CSV (t_s, x_norm, y_norm)",
    sniff=sniff,
    read=read,
    needs="columns=, time_unit=, offset_s=, xy_unit=, y_origin= for other column names",
)
