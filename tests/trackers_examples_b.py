"""One small file per format, made here: what a reader of `read_gaze` is tried and damaged with.

EXAMPLES: format -> function that writes the example into a folder and returns the path to read. OPTIONS: format -> the
keyword arguments reading it needs. Every example has at least one sample without gaze. MORE holds the second layout of
formats that have two. Aria's example is refused by `read_gaze` without the extra `aria`; AriaProjector takes its place
in test_trackers_b.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

START_TICK = 637_612_345_678_901_234
ROWS = 40


def _path(i: int) -> tuple[float, float]:
    """A gaze point that moves over the frame, normalised."""
    return 0.5 + 0.3 * np.sin(0.2 * i), 0.5 + 0.2 * np.cos(0.3 * i)


def tobii_g2(folder: Path) -> Path:
    """Gaze every 20 ms from 0.1 s before the video; status 1 and [0, 0] on every tenth line; vts twice a second."""
    lines: list[dict[str, Any]] = [{"ts": 1_000_000, "s": 0, "pts": 5000, "pv": 4}]
    for i in range(ROWS):
        x, y = _path(i)
        lost = i % 10 == 9
        ts = 1_000_000 + 20_000 * i
        lines.append(
            {"ts": ts, "s": int(lost), "gidx": i, "l": 9000, "gp": [0.0, 0.0] if lost else [round(x, 4), round(y, 4)]}
        )
        lines.append({"ts": ts, "s": 0, "gidx": i, "gp3": [1.0, 2.0, 3.0]})
        if i in (5, 30):
            lines.append({"ts": ts, "s": 0, "vts": ts - 1_100_000})
    path = folder / "livedata.json.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode(), mtime=0))
    return path


def tobii_g3(folder: Path) -> Path:
    """Gaze at 100 Hz, every eighth line without data, one line of another type."""
    lines: list[dict[str, Any]] = [{"type": "syncport", "timestamp": 0.001, "data": {"direction": "out", "value": 1}}]
    for i in range(ROWS):
        x, y = _path(i)
        data = {} if i % 8 == 7 else {"gaze2d": [round(x, 4), round(y, 4)], "gaze3d": [1.0, 2.0, 900.0]}
        lines.append({"type": "gaze", "timestamp": round(0.01 * i + 0.006, 6), "data": data})
    path = folder / "gazedata.gz"
    path.write_bytes(gzip.compress("\n".join(json.dumps(line) for line in lines).encode(), mtime=0))
    return path


def aria(folder: Path) -> Path:
    """Angles at 10 Hz, depth in the first half only, one row without angles."""
    rows = ["tracking_timestamp_us,yaw_rads_cpf,pitch_rads_cpf,yaw_low_rads_cpf,depth_m,session_uid"]
    for i in range(ROWS):
        yaw, pitch = (0.02 * i - 0.4, 0.01 * i - 0.2) if i != 3 else ("", "")
        rows.append(f"{86435306 + 100_000 * i},{yaw},{pitch},-0.4,{1.5 if i < ROWS // 2 else ''},e7e91580")
    path = folder / "general_eye_gaze.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def ego4d(folder: Path) -> Path:
    """Gaze at 250 Hz; confidence 0 on every ninth row; one row without coordinates."""
    rows = [
        "component_idx,component_timestamp_s,canonical_timestamp_s,world_index,confidence,norm_pos_x,norm_pos_y,base_data"
    ]
    for i in range(ROWS):
        x, y = _path(i) if i != 4 else ("", "")
        rows.append(f"0,{0.004 * i},{0.004 * i},{10583 + i // 8}.0,{0.0 if i % 9 == 8 else 1.0},{x},{y},")
    path = folder / "0a1b2c.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def _begaze_header(columns: str, lines_before: int) -> list[str]:
    head = ["## [BeGaze]", "## Version:\tBeGaze 3.4.52", "## Sample Rate:\t30", "## Number of Samples:\t40"]
    return [*head, *["## "] * (lines_before - len(head)), columns]


def egtea(folder: Path) -> Path:
    """Seven fields, 30 Hz on 24 fps; a message line; every eleventh row untracked at (0, 0), one blink."""
    rows = _begaze_header("Time\tType\tTrial\tB POR X [px]\tB POR Y [px]\tFrame\tB Event Info", 12)
    for i in range(ROWS):
        device_us = 7_000_000 + round(1e6 * i / 30)
        x, y = _path(i)
        event = "Saccade" if i % 7 == 6 else "Fixation"
        if i % 11 == 10:
            x, y, event = 0.0, 0.0, "-"
        if i == 5:
            event = "Blink"
            rows.append(f"{device_us}\tMSG\t1\t# Message: hello")
        frame = int((device_us - 6_995_000) / 1e6 * 24)  # the first sample lies 5 ms into the first frame
        rows.append(f"{device_us}\tSMP\t1\t{1280 * x:.2f}\t{960 * y:.2f}\t{frame}\t{event}")
    path = folder / "OP01-R01.txt"
    path.write_text("\n".join(rows) + "\n")
    return path


def egtea_26(folder: Path) -> Path:
    """26 fields with hh:mm:ss:ff; device time drifts away from the frames."""
    rows = _begaze_header("Time\tType\tTrial\tL Raw X [px]\tL Raw Y [px]\tB POR X [px]\tB POR Y [px]\tFrame", 33)
    for i in range(ROWS):
        x, y = _path(i)
        frame = 24 * 61 + i // 2
        code = f"00:01:{frame // 24 - 60:02d}:{frame % 24:02d}"
        middle = "\t".join("0.00" for _ in range(17))
        rows.append(
            f"{5_000_000 + 30_000 * i}\tSMP\t1\t1.0\t2.0\t{1280 * x:.2f}\t{960 * y:.2f}\t{middle}\t{code}\tFixation"
        )
    path = folder / "P01-R01.txt"
    path.write_text("\n".join(rows) + "\n")
    return path


def egoexolearn(folder: Path) -> Path:
    """Float32 rows, every sixth invalid at (0, 0)."""
    rows = np.array([[*_path(i), 1.0] if i % 6 != 5 else [0.0, 0.0, 0.0] for i in range(ROWS)], dtype=np.float32)
    path = folder / "gaze.npy"
    np.save(path, rows)
    return path


def holoassist(folder: Path) -> Path:
    """The projected CSV: every seventh row invalid, one behind the camera."""
    rows = ["frame_idx,timestamp_sec,u,v,valid,in_frame"]
    for i in range(ROWS):
        x, y = _path(i)
        u, v = (896 * x, 504 * y) if i != 11 else ("", "")
        rows.append(f"{i},{i / 24.46},{u},{v},{i % 7 != 6},{i != 11}")
    path = folder / "R007_gaze_2d.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def holoassist_poses() -> np.ndarray:
    """(ROWS, 4, 4) camera-to-world: turning about the vertical while walking."""
    poses = np.tile(np.eye(4), (ROWS, 1, 1))
    for i in range(ROWS):
        turn = 0.03 * i
        poses[i, :2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        poses[i, :3, 3] = [0.02 * i, -0.01 * i, 1.6]
    return poses


def holoassist_world(folder: Path) -> Path:
    """A session whose rays were made from pixels `_path(i)` by the projection's inverse; every seventh invalid.

    Pose and gaze share ticks, 1/30 s apart, from 0.2 s before the video. Returns the Export_py folder.
    """
    export = folder / "Export_py"
    video, eyes = export / "Video", export / "Eyes"
    video.mkdir(parents=True)
    eyes.mkdir()
    fx, fy, cx, cy = 690.0, 695.0, 440.0, 255.0
    (video / "Intrinsics.txt").write_text("\t".join(map(str, [fx, 0, cx, 0, fy, cy, 0, 0, 1, 896, 504])))
    (video / "VideoMp4Timing.txt").write_text(f"{START_TICK + 2_000_000}\n{START_TICK + 20_000_000}\n")
    pose_rows, eye_rows = [], []
    for i, pose in enumerate(holoassist_poses()):
        tick = START_TICK + i * 10**7 // 30
        x, y = _path(i)
        # pose axes are forward, left, up: a pixel's ray is (1, -(u - cx) / fx, -(v - cy) / fy)
        ray = np.array([1.0, (cx - 896 * x) / fx, (cy - 504 * y) / fy])
        point_m = pose[:3, :3] @ (0.5 * ray) + pose[:3, 3]
        origin_m = pose[:3, :3] @ np.array([0.01, 0.03, -0.02]) + pose[:3, 3]
        aim = point_m - origin_m
        origin_m = point_m - 0.5 * aim / np.linalg.norm(aim)  # exactly the assumed distance from the point
        numbers = [i / 30, tick, *origin_m, *(2.0 * aim), int(i % 7 != 6)]
        eye_rows.append("\t".join(map(str, numbers)))
        pose_rows.append("\t".join(map(str, [i / 30, tick, *pose.reshape(-1)])))
    (eyes / "Eyes_sync.txt").write_text("\n".join(eye_rows) + "\n")
    (video / "Pose_sync.txt").write_text("\n".join(pose_rows) + "\n")
    return export


EXAMPLES: dict[str, Callable[[Path], Path]] = {
    "tobii_g2": tobii_g2,
    "tobii_g3": tobii_g3,
    "aria": aria,
    "ego4d": ego4d,
    "egtea": egtea,
    "egoexolearn": egoexolearn,
    "holoassist": holoassist,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "tobii_g2": {},
    "tobii_g3": {},
    "aria": {"offset_s": 0.05},
    "ego4d": {"y_origin": "bottom"},
    "egtea": {},
    "egoexolearn": {},
    "holoassist": {},
}
MORE: dict[str, Callable[[Path], Path]] = {"egtea": egtea_26, "holoassist": holoassist_world}
