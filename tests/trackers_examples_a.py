"""Small valid recordings of six formats, written by hand from their documentation (40 rows each).

EXAMPLES: format -> function(folder) -> the path to read. OPTIONS: format -> what reading it needs beyond the path.
ROWS: format -> function(path) -> number of data rows, counted without the readers. Those with samples show the same
gaze: sample i at T_S[i] seconds from the first frame, at (X_NORM[i], Y_NORM[i]) from the top-left, none in INVALID.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROW_COUNT = 40
FIRST_S = 0.1
T_S = FIRST_S + np.arange(ROW_COUNT) / 50.0
X_NORM = np.linspace(0.25, 0.75, ROW_COUNT)
Y_NORM = np.linspace(0.5, 0.125, ROW_COUNT)
UTC_NS = 1_760_676_789_000_000_123
PUPIL_CLOCK_S = 4321.25
INVALID = (7, 8)  # rows without gaze: a blink, low confidence, "nan", as the format has it


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tick_ns(t_s: float) -> int:
    return UTC_NS + round(t_s * 1e9)


def pupil_cloud(folder: Path) -> Path:
    """A Neon export: 1600 x 1200 px, 30 frames a second, two fixations."""
    ids = "sec,rec"
    header = (
        "section id,recording id,timestamp [ns],gaze x [px],gaze y [px],worn,fixation id,blink id,azimuth [deg],"
        "elevation [deg]"
    )
    rows = [
        f"{ids},{tick_ns(T_S[i])},{X_NORM[i] * 1600:.3f},{Y_NORM[i] * 1200:.3f},{0 if i == INVALID[1] else 1},"
        f"{1 if i < 20 else 2},{5 if i == INVALID[0] else ''},-1.5,2.25"
        for i in range(ROW_COUNT)
    ]
    _write(folder / "gaze.csv", [header, *rows])
    frames = [f"{ids},{tick_ns(k / 30)}" for k in range(30)]
    _write(folder / "world_timestamps.csv", ["section id,recording id,timestamp [ns]", *frames])
    _write(
        folder / "fixations.csv",
        [
            "section id,recording id,fixation id,start timestamp [ns],end timestamp [ns],duration [ms],fixation x [px],"
            "fixation y [px],azimuth [deg],elevation [deg]",
            f"{ids},1,{tick_ns(0.1)},{tick_ns(0.4)},300,600,550,0,0",
            f"{ids},2,{tick_ns(0.5)},{tick_ns(0.8)},300,1000,300,0,0",
        ],
    )
    (folder / "info.json").write_text(json.dumps({"module_serial_number": "123456"}))
    return folder


def neon_native(folder: Path) -> Path:
    """A phone's folder in two parts, without its videos: worn, one blink, one fixation and one saccade."""
    times = np.array([tick_ns(t) for t in T_S], dtype="<i8")
    points = np.stack([X_NORM * 1600, Y_NORM * 1200], axis=1).astype("<f4")
    worn = np.full(ROW_COUNT, 255, dtype="u1")
    worn[INVALID[1]] = 0
    for part, rows in (("ps1", slice(0, 25)), ("ps2", slice(25, ROW_COUNT))):
        times[rows].tofile(folder / f"gaze {part}.time")
        points[rows].tofile(folder / f"gaze {part}.raw")
        worn[rows].tofile(folder / f"worn {part}.raw")
    np.array([tick_ns(k / 30) for k in range(30)], dtype="<i8").tofile(folder / "Neon Scene Camera v1 ps1.time")
    event = [("event_type", "<i4"), ("start_timestamp_ns", "<i8"), ("end_timestamp_ns", "<i8")]
    names = "start_gaze_x start_gaze_y end_gaze_x end_gaze_y mean_gaze_x mean_gaze_y amplitude_pixels"
    rest = [(name, "<f4") for name in f"{names} amplitude_angle_deg mean_velocity max_velocity".split()]
    fixations = np.zeros(2, dtype=event + rest)
    fixations[0] = (1, tick_ns(0.1), tick_ns(0.4), 0, 0, 0, 0, 600, 550, 0, 0, 0, 0)
    fixations[1] = (0, tick_ns(0.4), tick_ns(0.45), 0, 0, 0, 0, 700, 400, 0, 0, 0, 0)
    blink = np.array([(1, tick_ns(T_S[INVALID[0]] - 0.001), tick_ns(T_S[INVALID[0]] + 0.001))], dtype=event)
    for name, rows in (("fixations", fixations), ("blinks", blink)):
        rows.tofile(folder / f"{name} ps1.raw")
        rows["end_timestamp_ns"].astype("<i8").tofile(folder / f"{name} ps1.time")
        (folder / f"{name}.dtype").write_text(repr([(n, rows.dtype[n].name) for n in rows.dtype.names or ()]))
    (folder / "gaze.dtype").write_text('[\n("x", "float32"),\n("y", "float32"),\n]\n')
    (folder / "worn.dtype").write_text('[\n("worn", "uint8"),\n]\n')
    info = {"app_version": "2.9.40", "gaze_offset": [0.0, 0.0], "module_serial_number": "123456"}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def pupil_core(folder: Path) -> Path:
    """A Pupil Player export: bottom-left origin, Pupil clock, two rows of low confidence, one fixation."""
    header = (
        "gaze_timestamp,world_index,confidence,norm_pos_x,norm_pos_y,base_data,gaze_point_3d_x,gaze_point_3d_y,"
        "gaze_point_3d_z"
    )
    rows = [
        f"{PUPIL_CLOCK_S + T_S[i]:.6f},{i // 2},{0.5 if i in INVALID else 0.98},{X_NORM[i]:.9f},{1 - Y_NORM[i]:.9f},"
        f"{PUPIL_CLOCK_S + T_S[i]:.6f}-0 {PUPIL_CLOCK_S + T_S[i]:.6f}-1,1.0,2.0,300.0"
        for i in range(ROW_COUNT)
    ]
    _write(folder / "gaze_positions.csv", [header, *rows])
    frames = [f"{PUPIL_CLOCK_S + k / 30:.6f},{k * 3000}" for k in range(30)]
    _write(folder / "world_timestamps.csv", ["# timestamps [seconds],pts", *frames])
    _write(
        folder / "fixations.csv",
        [
            "id,start_timestamp,duration,start_frame_index,end_frame_index,norm_pos_x,norm_pos_y,dispersion,confidence",
            f"1,{PUPIL_CLOCK_S + 0.1},300.0,3,12,0.375,0.55,0.8,0.99",
        ],
    )
    return folder


def streamgaze(folder: Path) -> Path:
    """The header form with both names of every time, ten fixations."""
    rows = []
    for k in range(10):
        start, stop = 1.5 * k, 1.5 * k + 1.0 + 1 / 3
        rows.append(
            f"{start},{stop},{0.1 + 0.05 * k},{0.9 - 0.05 * k},{stop - start},{start},{stop},{k},{stop - start}"
        )
    header = (
        "start_time,end_time,center_x,center_y,duration,start_time_seconds,end_time_seconds,fixation_id,"
        "duration_seconds"
    )
    return _write(folder / "clip_fixation_filtered.csv", [header, *rows])


def glassestools(folder: Path) -> Path:
    """The common folder of glassesTools: ms that start at 50, 1920 x 1080 px."""
    header = "timestamp\tframe_idx\tgaze_pos_vid_x\tgaze_pos_vid_y\tgaze_pos_3d_x\tgaze_pos_3d_y\tgaze_pos_3d_z"
    rows = []
    for i in range(ROW_COUNT):
        x, y = ("nan", "nan") if i in INVALID else (f"{X_NORM[i] * 1920:.8f}", f"{Y_NORM[i] * 1080:.8f}")
        rows.append(f"{50 + T_S[i] * 1000:.8f}\t{i // 2}\t{x}\t{y}\t1.0\t2.0\t300.0")
    _write(folder / "gazeData.tsv", [header, *rows])
    _write(folder / "frameTimestamps.tsv", ["frame_idx\ttimestamp", *[f"{k}\t{50 + k * 40:.1f}" for k in range(30)]])
    (folder / "calibration.xml").write_text(
        '<?xml version="1.0"?>\n<opencv_storage>\n<resolution type_id="opencv-matrix">\n  <rows>2</rows>\n'
        "  <cols>1</cols>\n  <dt>d</dt>\n  <data>\n    1920. 1080.</data></resolution>\n</opencv_storage>\n"
    )
    return folder


def plain_csv(folder: Path) -> Path:
    rows = [f"{T_S[i]:.6f},{X_NORM[i]:.9f},{Y_NORM[i]:.9f},{0 if i in INVALID else 1},0.9" for i in range(ROW_COUNT)]
    return _write(folder / "gaze.csv", ["t_s,x_norm,y_norm,valid,confidence", *rows])


def count_lines(file: Path) -> int:
    """Non-blank lines after the first one."""
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").split(b"\n")
    return sum(bool(line.decode("utf-8", "replace").strip()) for line in lines) - 1


def count_neon(folder: Path) -> int:
    """Rows of the longer of the time and raw files."""
    return max(sum(f.stat().st_size for f in folder.glob(f"gaze ps*{end}")) // 8 for end in (".time", ".raw"))


EXAMPLES: dict[str, Callable[[Path], Path]] = {
    "pupil_cloud": pupil_cloud,
    "neon_native": neon_native,
    "pupil_core": pupil_core,
    "streamgaze": streamgaze,
    "glassestools": glassestools,
    "plain_csv": plain_csv,
}
OPTIONS: dict[str, dict] = {}
ROWS: dict[str, Callable[[Path], int]] = {
    "pupil_cloud": lambda folder: count_lines(folder / "gaze.csv"),
    "neon_native": count_neon,
    "pupil_core": lambda folder: count_lines(folder / "gaze_positions.csv"),
    "streamgaze": count_lines,
    "glassestools": lambda folder: count_lines(folder / "gazeData.tsv"),
    "plain_csv": count_lines,
}
