"""HoloAssist gaze: world-frame rays of a HoloLens 2, or the pixel CSV that StreamGaze's first step makes of them.

Source: the HoloAssist export layout and StreamGaze's projection (step 0). A session's `Export_py` folder holds
tab-separated files without headers, their clock in ticks of 100 ns:

* `Eyes/Eyes_sync.txt`: time (s), tick, ray origin xyz, ray direction xyz (world, metres), valid;
* `Video/Pose_sync.txt`: time (s), tick, camera-to-world pose as 16 numbers row by row;
* `Video/Intrinsics.txt`: 3 x 3 matrix ..., width, height (spelled in two more ways in the data set's own listing);
* `Video/VideoMp4Timing.txt`: ticks of the video's start and end.

Projection: P = origin + 0.5 m x unit direction, into the pose's frame, axes to camera (right, down, forward), pinhole
without distortion; behind the camera is no gaze. The 0.5 m stand for a depth that is not recorded: gaze at 2 m is then
off by the parallax between eyes and camera. Where we differ: every sample keeps its own time (StreamGaze keeps the one
nearest to each frame), a sample takes the nearest pose only if that is within `POSE_TOLERANCE_S`, and a damaged pose is
not used. No real session was at hand: tests build one from the formula's inverse.

The pixel CSV is `frame_idx,timestamp_sec,u,v,valid,in_frame` in 896 x 504 px; its times are frame / nominal rate, so
`frame_times_s` replaces them where given.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import asof
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish, require_offset, require_size
from stream.trackers.egoexolearn import frame_times
from stream.trackers.rows import Table, find_file, head_bytes, header_of, read_bytes, read_table, text_lines

NAME = "holoassist"
CSV_COLUMNS = ("frame_idx", "timestamp_sec", "u", "v", "valid", "in_frame")
CSV_SIZE_PX = (896, 504)
EYES_FILES = ("Eyes_sync.txt", "Eyes/Eyes_sync.txt", "Export_py/Eyes/Eyes_sync.txt")
EYES_COLUMNS = ("time", "tick", "ox", "oy", "oz", "dx", "dy", "dz", "valid")
POSE_COLUMNS = ("time", "tick", *(f"m{i}" for i in range(16)))
INTRINSICS_FILES = ("Intrinsics.txt", "Instrinsics.txt", "Instrinsincs.txt")
TICKS_PER_S = 10**7
EYE_DISTANCE_M = 0.5
# One and a half frames at 30 fps: poses come one a frame.
POSE_TOLERANCE_S = 0.05
# World coordinates beyond this are damage.
MAX_METRES = 1e5
# Camera axes (right, down, forward) from the pose's own (forward, left, up).
CAMERA_FROM_POSE = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
TRUE_WORDS, FALSE_WORDS = frozenset({"true", "1", "1.0"}), frozenset({"false", "0", "0.0"})


def sniff(path: Path) -> bool:
    """The pixel CSV's columns, or nine numbers of which the second is a tick count of our times."""
    found = find_file(path, *EYES_FILES)
    if found is None:
        return False
    return set(CSV_COLUMNS) <= set(header_of(found)) or _is_eyes(found)


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """A pixel CSV, an Eyes_sync.txt with its neighbours, or a session or Export_py folder.

    Args:
        options: `calibration` names another folder for the files of `Video/`.

    Raises:
        InputError: a file is missing or not what it should be, or the clock has no tie to the video.
    """
    found = find_file(path, *EYES_FILES)
    if found is None:
        raise InputError(
            path, expected="a HoloAssist session", found="no Eyes/Eyes_sync.txt", fix="pass its Export_py folder"
        )
    return _read_world(found, options) if _is_eyes(found) else _read_pixels(found, options)


def project(points_m: np.ndarray, poses: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(N, 3) world points seen by cameras at (N, 4, 4) rigid camera-to-world poses -> (N, 2) px, NaN behind them."""
    rotation, position_m = poses[:, :3, :3], poses[:, :3, 3]
    # a rigid pose's inverse, applied: R^-1 (P - position)
    local_m = np.linalg.solve(rotation, (points_m - position_m)[:, :, None])[:, :, 0]
    right, down, forward = CAMERA_FROM_POSE @ local_m.T
    pixels = np.full((len(points_m), 2), np.nan)
    ahead = forward > 1e-6
    pixels[ahead, 0] = intrinsics[0, 0] * right[ahead] / forward[ahead] + intrinsics[0, 2]
    pixels[ahead, 1] = intrinsics[1, 1] * down[ahead] / forward[ahead] + intrinsics[1, 2]
    return pixels


def _is_eyes(path: Path) -> bool:
    first = next((line for line in text_lines(head_bytes(path)) if line.strip()), "")
    fields = first.rstrip("\t ").split("\t")
    return len(fields) == len(EYES_COLUMNS) and fields[1].strip().isdigit() and len(fields[1].strip()) >= 16


def _read_pixels(path: Path, options: ReadOptions) -> GazeRecording:
    table = read_table(path)
    u, bad_u = table.floats("u")
    v, bad_v = table.floats("v")
    unreadable = bad_u | bad_v
    times_s = frame_times(path, options)
    if times_s is None:
        t_s, bad_t = table.floats("timestamp_sec")
        unreadable |= bad_t
        note = "times are the file's: frame number / nominal frame rate"
    else:
        frame = table.ids("frame_idx")
        inside = (frame >= 0) & (frame < times_s.size)
        t_s = np.where(inside, times_s[np.where(inside, frame, 0)], np.nan)
        note = "times are those of the video's frames; rows of frames it does not have count as rows_bad_time"
    words = [text.lower() for text in table.texts("valid")]
    unreadable |= np.array([word not in TRUE_WORDS | FALSE_WORDS for word in words], dtype=bool)
    return finish(
        path,
        NAME,
        options,
        t_s=t_s,
        xy=np.stack([u, v], axis=1),
        y_origin="top",
        size_px=require_size(path, options, CSV_SIZE_PX),
        unreadable=unreadable,
        valid=np.array([word in TRUE_WORDS for word in words], dtype=bool),
        notes=[note],
    )


def _read_world(path: Path, options: ReadOptions) -> GazeRecording:
    folders = [path.parent.parent / "Video"]
    if options.calibration is not None:
        folders.insert(0, Path(options.calibration))
    intrinsics, size_px = _intrinsics(_neighbour(path, folders, *INTRINSICS_FILES))
    eyes = read_table(path, delimiter="\t", header=EYES_COLUMNS)
    zero_tick, clock = _zero_tick(path, folders, eyes, options)
    t_s, unreadable = eyes.seconds_since("tick", zero_tick=zero_tick, ticks_per_s=TICKS_PER_S)
    columns = {}
    for name in EYES_COLUMNS[2:]:
        columns[name], bad = eyes.floats(name)
        unreadable |= bad
    points_m = _points([columns[name] for name in ("ox", "oy", "oz")], [columns[name] for name in ("dx", "dy", "dz")])
    pose_t_s, poses, poses_read = _poses(_neighbour(path, folders, "Pose_sync.txt"), zero_tick)
    usable = ~unreadable & np.isfinite(t_s) & np.isfinite(points_m).all(axis=1) & (columns["valid"] == 1)
    rows = np.flatnonzero(usable)
    pose_rows = asof(pose_t_s, t_s[rows], tolerance_s=POSE_TOLERANCE_S, method="nearest", on_missing="mark")
    matched, pose_rows = rows[pose_rows >= 0], pose_rows[pose_rows >= 0]
    pixels = np.full((len(eyes), 2), np.nan)
    pixels[matched] = project(points_m[matched], poses[pose_rows], intrinsics)
    behind = int(np.isnan(pixels[matched, 0]).sum())
    return finish(
        path,
        NAME,
        options,
        t_s=t_s,
        xy=pixels,
        y_origin="top",
        size_px=size_px,
        unreadable=unreadable,
        valid=usable,
        clock=clock,
        counts={
            "samples_without_pose": len(rows) - len(matched),
            "samples_behind_camera": behind,
            "poses_read": poses_read,
            "poses_unusable": poses_read - len(poses),
        },
        notes=[
            f"rays end at an assumed {EYE_DISTANCE_M} m, pinhole without lens distortion",
            f"each sample takes the nearest camera pose within {POSE_TOLERANCE_S} s",
        ],
    )


def _neighbour(path: Path, folders: list[Path], *names: str) -> Path:
    for folder in folders:
        found = find_file(folder, *names) if folder.is_dir() else None
        if found is not None:
            return found
    raise InputError(
        path,
        expected=f"{names[0]} in its Video folder, to project the rays",
        found="no such file in " + ", ".join(str(folder) for folder in folders),
        fix="pass calibration= (--calibration) the folder that has it",
    )


def _zero_tick(path: Path, folders: list[Path], eyes: Table, options: ReadOptions) -> tuple[int, str]:
    """Tick of time zero, and what it is: the video's start, else the first sample (then offset_s is required)."""
    timing = next((found for folder in folders if (found := find_file(folder / "VideoMp4Timing.txt"))), None)
    if timing is None:
        require_offset(
            path,
            options,
            found="no Video/VideoMp4Timing.txt beside it",
            fix="pass offset_s= (--offset-s): the video time in seconds of its first row",
        )
        return eyes.first_tick("tick") or 0, "first gaze row + offset_s"
    first = next((line.strip() for line in text_lines(read_bytes(timing)) if line.strip()), "")
    if not (first.isascii() and first.isdigit() and len(first) <= 19):
        raise InputError(timing, expected="the video's start in ticks on its first line", found=repr(first[:40]))
    return int(first), "first_frame"


def _intrinsics(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """(3, 3) camera matrix, (width, height) px."""
    try:
        values = [float(text) for text in " ".join(text_lines(read_bytes(path))).split()]
    except ValueError:
        values = []
    if len(values) >= 11 and all(math.isfinite(value) and abs(value) < 1e6 for value in values):
        matrix, (width, height) = np.array(values[:9]).reshape(3, 3), values[-2:]
        if matrix[0, 0] > 0 and matrix[1, 1] > 0 and width >= 1 and height >= 1:
            return matrix, (int(width), int(height))
    raise InputError(
        path, expected="a 3 x 3 camera matrix, then ... width and height, in numbers", found=f"{len(values)} usable"
    )


def _points(origins_m: list[np.ndarray], directions: list[np.ndarray]) -> np.ndarray:
    """(N, 3) where the rays are at the assumed distance; NaN for rays without length or out of bounds."""
    origin_m, direction = np.stack(origins_m, axis=1), np.stack(directions, axis=1)
    sane = np.all((np.abs(origin_m) < MAX_METRES) & (np.abs(direction) < MAX_METRES), axis=1)
    length = np.linalg.norm(np.where(sane[:, None], direction, 0.0), axis=1)
    sane &= length > 1e-6
    out = np.full(origin_m.shape, np.nan)
    out[sane] = origin_m[sane] + EYE_DISTANCE_M * direction[sane] / length[sane, None]
    return out


def _poses(path: Path, zero_tick: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(P,) seconds ascending, (P, 4, 4) rigid poses, rows read. A pose that is no rigid motion is not used."""
    table = read_table(path, delimiter="\t", header=POSE_COLUMNS)
    t_s, unreadable = table.seconds_since("tick", zero_tick=zero_tick, ticks_per_s=TICKS_PER_S)
    values = np.stack([table.floats(name)[0] for name in POSE_COLUMNS[2:]], axis=1)
    sane = ~unreadable & np.isfinite(t_s) & (np.abs(values) < MAX_METRES).all(axis=1)
    poses = np.where(sane[:, None], values, 0.0).reshape(-1, 4, 4)
    turn = poses[:, :3, :3]
    sane &= np.all(np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)) < 0.01, axis=(1, 2))
    sane &= np.all(np.abs(poses[:, 3] - np.array([0.0, 0.0, 0.0, 1.0])) < 1e-3, axis=1)
    rows = np.flatnonzero(sane)
    rows = rows[np.argsort(t_s[rows], kind="stable")]
    return t_s[rows], poses[rows], len(table)


FORMAT = TrackerFormat(
    NAME, "HoloAssist (session folder, or projected CSV)", sniff, read, needs="offset_s without VideoMp4Timing.txt"
)
