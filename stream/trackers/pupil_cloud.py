"""Pupil Cloud and Neon Player exports of Neon and Pupil Invisible: gaze.csv, with world_timestamps.csv beside it.

Source: Pupil Labs' export documentation (docs.pupil-labs.com, "Recording format"). gaze.csv holds pixels of the
distorted scene frame, origin top-left, and UTC nanoseconds. Time zero is the first row of world_timestamps.csv, which
has one row per video frame; without it nothing ties the gaze to the video, and `offset_s` is asked for.

Decided here: a sample is invalid when the glasses are not worn (`worn` 0) or when the device reports a blink (`blink
id` set), because the gaze estimate of a closed eye drifts to the frame's lower edge. An export without those columns
has only valid samples. fixations.csv beside gaze.csv is read as the device's fixations.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from gazeqwen.types import Fixations
from stream.trackers.base import (
    GazeRecording,
    InputError,
    ReadOptions,
    Table,
    TrackerFormat,
    find_file,
    finish,
    finish_fixations,
    header_of,
    read_json,
    read_table,
    require_offset,
    require_size,
)

NS = 1_000_000_000
TIME = "timestamp [ns]"
GAZE = (TIME, "gaze x [px]", "gaze y [px]")
FIXATION = ("start timestamp [ns]", "end timestamp [ns]", "fixation x [px]", "fixation y [px]")
NEON_SIZE_PX = (1600, 1200)
INVISIBLE_SIZE_PX = (1088, 1080)


def sniff(path: Path) -> bool:
    """gaze.csv with Cloud's column names, or a folder with one."""
    file = find_file(path, "gaze.csv")
    return file is not None and set(GAZE) <= set(header_of(file))


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """Reads gaze.csv (or the folder that holds it). Needs world_timestamps.csv beside it, or `offset_s`."""
    file = find_file(path, "gaze.csv")
    if file is None:
        raise InputError(path, expected="a folder with gaze.csv", found="none in it")
    folder = file.parent
    table = read_table(file)
    size_px = require_size(file, options, _frame_size_px(folder))
    zero, scene_times_s, clock = _zero(file, table, options)
    t_s, bad_time = table.seconds_since(TIME, zero_tick=zero, ticks_per_s=NS)
    x, bad_x = table.floats(GAZE[1])
    y, bad_y = table.floats(GAZE[2])
    not_worn, blinking = np.zeros(len(table), dtype=bool), np.zeros(len(table), dtype=bool)
    if table.has("worn"):
        not_worn = table.floats("worn")[0] == 0
    if table.has("blink id"):
        blinking = np.array([bool(text) for text in table.texts("blink id")], dtype=bool)
    fixations, notes = _fixations(folder / "fixations.csv", zero, size_px, options)
    return finish(
        file,
        FORMAT.name,
        options,
        t_s=t_s,
        xy=np.stack([x, y], axis=1),
        y_origin="top",
        unreadable=bad_time | bad_x | bad_y,
        size_px=size_px,
        valid=~(not_worn | blinking),
        fixation_id=table.ids("fixation id") if table.has("fixation id") else None,
        fixations=fixations,
        scene_times_s=scene_times_s,
        clock=clock,
        notes=(f"{int(blinking.sum())} rows in a blink, {int(not_worn.sum())} not worn: invalid", *notes),
    )


def _zero(file: Path, table: Table, options: ReadOptions) -> tuple[int, np.ndarray | None, str]:
    """UTC ns of time zero, the scene frames' times from it, and the clock in words."""
    world_file = file.parent / "world_timestamps.csv"
    if world_file.is_file():
        world = read_table(world_file)
        zero = world.first_tick(TIME)
        if zero is None:
            raise InputError(world_file, expected="a UTC nanosecond timestamp per frame", found="no readable row")
        times, bad = world.seconds_since(TIME, zero_tick=zero, ticks_per_s=NS)
        if options.offset_s is None and (
            bad[0] or not np.isfinite(times[0])
        ):  # later rows would move time zero silently
            raise InputError(
                world_file,
                expected="a readable first row: it is time zero",
                found="a damaged or empty one",
                fix="export it again, or pass offset_s= (seconds, counted from the first readable row)",
            )
        return zero, times[~bad & np.isfinite(times)], "first_frame (first row of world_timestamps.csv)"
    first = table.first_tick(TIME)
    require_offset(
        file,
        options,
        found="no world_timestamps.csv beside it",
        fix="put the export's world_timestamps.csv beside it, or pass offset_s= (seconds between the first video frame "
        "and the first gaze sample)",
    )
    return first or 0, None, "first gaze sample + offset_s"


def _fixations(
    file: Path, zero: int, size_px: tuple[int, int], options: ReadOptions
) -> tuple[Fixations | None, tuple[str, ...]]:
    """Device fixations of fixations.csv; a note instead where older exports have no centres in it."""
    if not file.is_file():
        return None, ()
    table = read_table(file)
    missing = [name for name in FIXATION if name not in table.header]
    if missing:
        return None, (f"fixations.csv has no column {missing[0]!r}: its fixations were not read",)
    start, bad_start = table.seconds_since(FIXATION[0], zero_tick=zero, ticks_per_s=NS)
    stop, bad_stop = table.seconds_since(FIXATION[1], zero_tick=zero, ticks_per_s=NS)
    x, bad_x = table.floats(FIXATION[2])
    y, bad_y = table.floats(FIXATION[3])
    fixations = finish_fixations(
        file,
        options,
        start_s=start,
        stop_s=stop,
        xy=np.stack([x, y], axis=1),
        y_origin="top",
        unreadable=bad_start | bad_stop | bad_x | bad_y,
        size_px=size_px,
        ids=table.ids("fixation id") if table.has("fixation id") else None,
    )
    return fixations, ()


def _frame_size_px(folder: Path) -> tuple[int, int] | None:
    """(width, height) of the scene frame from what lies beside gaze.csv, None when nothing there says it.

    info.json tells the device (a Neon has a module, an Invisible a detachable scene camera) and so the camera;
    scene_camera.json by its principal point, which lies within a tenth of the frame's centre; a single video by itself.
    """
    info = folder / "info.json"
    if info.is_file():
        fields = read_json(info)
        if fields.get("module_serial_number"):
            return NEON_SIZE_PX
        if fields.get("scene_camera_serial_number") or fields.get("glasses_serial_number"):
            return INVISIBLE_SIZE_PX
    camera = folder / "scene_camera.json"
    if camera.is_file():
        size = _size_of_camera(read_json(camera).get("camera_matrix"))
        if size is not None:
            return size
    videos = sorted(folder.glob("*.mp4"))
    return _video_size_px(videos[0]) if len(videos) == 1 else None


def _size_of_camera(matrix: object) -> tuple[int, int] | None:
    """The one of the two cameras that make Cloud exports whose centre is near the matrix' principal point."""
    try:
        centre = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    if centre.shape != (3, 3):
        return None
    for size in (NEON_SIZE_PX, INVISIBLE_SIZE_PX):
        half = np.asarray(size) / 2
        if (np.abs(centre[:2, 2] - half) <= 0.2 * half).all():
            return size
    return None


def _video_size_px(video: Path) -> tuple[int, int] | None:
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            return (stream.width, stream.height) if stream.width and stream.height else None
    except (FFmpegError, IndexError):
        return None


FORMAT = TrackerFormat(
    name="pupil_cloud",
    title="Pupil Cloud / Neon Player export (Neon, Invisible)",
    sniff=sniff,
    read=read,
    needs="world_timestamps.csv beside gaze.csv, or offset_s=; info.json or the video, or frame_size_px=",
)
