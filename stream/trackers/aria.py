"""Project Aria, first generation: MPS `general_eye_gaze.csv`, yaw and pitch of one gaze ray per eye-camera frame.

Source: a real file (fixture aria_gen1_aea) and projectaria-tools 2.3. The angles are radians in the central pupil frame
(CPF), so a point on the image exists only with the recording's calibration: its .vrs file, or the device calibration as
JSON. Without one the file is refused. Second-generation files, and first-generation ones of the two-ray model, have
`left_yaw_rads_cpf` and are refused too: their rays start at the eyes, not at the CPF.

Projection: `get_gaze_vector_reprojection` at `depth_m`, or 1 m where that is empty (as in the fixture). Aria stores RGB
frames turned a quarter left: the upright frame is the stored one rotated clockwise, (u, v) -> (H - 1 - v, u).

Clock: microseconds of device time. A .vrs has the device time of its first RGB frame, which is zero; with any other
calibration `offset_s` is required, the video time of the file's first row.

projectaria-tools (extra `aria`) is not in the test environment, where a projector made in the test takes its place. Run
once with 2.3.0 and the fixture's recording.vrs, the four rows gave the points and times of derived_gaze_px.csv to all
its five digits, from the .vrs and from the calibration JSON written out of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazeqwen.errors import InputError, MissingExtraError
from stream.trackers.base import GazeRecording, ReadOptions, TrackerFormat, finish, require_offset
from stream.trackers.rows import find_file, header_of, read_table

NAME = "aria"
FILES = (
    "general_eye_gaze.csv",
    "eye_gaze/general_eye_gaze.csv",
    "mps/eye_gaze/general_eye_gaze.csv",
    "mps_*/eye_gaze/general_eye_gaze.csv",
)
TIME, YAW, PITCH, DEPTH = "tracking_timestamp_us", "yaw_rads_cpf", "pitch_rads_cpf", "depth_m"
TWO_RAYS = "left_yaw_rads_cpf"
RGB_STREAM, RGB_LABEL = "214-1", "camera-rgb"
DEFAULT_DEPTH_M = 1.0


@dataclass(frozen=True)
class AriaProjector:
    """Where a gaze ray lands on the RGB image as it is stored (turned left).

    Attributes:
        project: (yaw rad, pitch rad, depth m) -> (u, v) px, None outside the camera's view.
        stored_size_px: (width, height) of the stored image.
        first_frame_us: device time of the first RGB frame, None where the calibration file has no frames.
    """

    project: Callable[[float, float, float], tuple[float, float] | None]
    stored_size_px: tuple[int, int]
    first_frame_us: int | None = None


def sniff(path: Path) -> bool:
    """Columns of an MPS gaze file of any generation: those we can't read are refused with the reason."""
    found = find_file(path, *FILES)
    if found is None:
        return False
    header = header_of(found)
    return TIME in header and any(name.endswith("_rads_cpf") for name in header)


def read(path: Path, options: ReadOptions) -> GazeRecording:
    """A general_eye_gaze.csv, or an MPS folder that holds it.

    Raises:
        InputError: no calibration, another generation's file, or a clock without a tie to the video.
        MissingExtraError: projectaria-tools is not installed.
    """
    found = _gaze_file(path)
    if options.calibration is None:
        raise InputError(
            found,
            expected="a calibration to turn gaze angles into image points",
            found="none given",
            fix="pass calibration= (--calibration) the recording's .vrs file or its device calibration as .json",
        )
    return read_with_projector(found, options, load_projector(Path(options.calibration)))


def read_with_projector(path: Path, options: ReadOptions, projector: AriaProjector) -> GazeRecording:
    """What `read` does once the calibration is loaded."""
    found = _gaze_file(path)
    table = read_table(found)
    first_us = projector.first_frame_us
    if first_us is None:
        require_offset(
            found,
            options,
            found="device time, and a calibration file without frames",
            fix="pass the .vrs as calibration, or offset_s= (--offset-s): the video time in seconds of the first row",
        )
    zero_us = (table.first_tick(TIME) or 0) if first_us is None else first_us
    t_s, unreadable = table.seconds_since(TIME, zero_tick=zero_us, ticks_per_s=10**6)
    (yaw, bad_yaw), (pitch, bad_pitch) = table.floats(YAW), table.floats(PITCH)
    unreadable |= bad_yaw | bad_pitch
    depth_m = table.floats(DEPTH)[0] if table.has(DEPTH) else np.full(len(table), np.nan)
    has_depth = (depth_m > 0) & (depth_m < 1e4)
    rays = ~unreadable & np.isfinite(yaw) & np.isfinite(pitch)
    width, height = projector.stored_size_px
    pixels = np.full((len(table), 2), np.nan)
    for i in np.flatnonzero(rays & (np.abs(yaw) < math.pi / 2) & (np.abs(pitch) < math.pi / 2)):
        point = projector.project(yaw[i], pitch[i], depth_m[i] if has_depth[i] else DEFAULT_DEPTH_M)
        if point is not None:
            pixels[i] = height - 1 - point[1], point[0]
    return finish(
        found,
        NAME,
        options,
        t_s=t_s,
        xy=pixels,
        y_origin="top",
        size_px=(height, width),
        unreadable=unreadable,
        clock="first gaze row + offset_s" if first_us is None else "first_frame",
        counts={
            "samples_outside_view": int((rays & np.isnan(pixels[:, 0])).sum()),
            "samples_without_depth": int((~unreadable & ~has_depth).sum()),
        },
        notes=[f"rays without depth end at an assumed {DEFAULT_DEPTH_M:g} m", "image points are of the upright frame"],
    )


def load_projector(calibration: Path) -> AriaProjector:
    """The RGB camera of a .vrs recording, or of a device calibration JSON.

    Raises:
        MissingExtraError: projectaria-tools is not installed.
        InputError: the file is neither, or has no RGB camera.
    """
    suffix = calibration.suffix.lower()
    if not calibration.is_file() or suffix not in (".vrs", ".json"):
        if not calibration.is_file():
            found = "no such file"
        else:
            found = "MPS online calibration, which lacks the pupil frame" if suffix == ".jsonl" else f"'{suffix}'"
        raise InputError(
            calibration,
            expected="a .vrs recording or a device calibration .json",
            found=found,
            fix="pass the recording's own .vrs, or the device calibration stored in it",
        )
    try:
        # An optional dependency of 1.5 GB with its own: imported where it is used.
        from projectaria_tools.core import calibration as aria_calibration  # pyright: ignore[reportMissingImports]
        from projectaria_tools.core import data_provider, mps  # pyright: ignore[reportMissingImports]
        from projectaria_tools.core.mps.utils import (  # pyright: ignore[reportMissingImports]
            get_gaze_vector_reprojection,
        )
        from projectaria_tools.core.sensor_data import TimeDomain  # pyright: ignore[reportMissingImports]
        from projectaria_tools.core.stream_id import StreamId  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("projecting Aria gaze", "aria", str(error)) from error
    first_frame_us = None
    try:
        if suffix == ".vrs":
            provider = data_provider.create_vrs_data_provider(str(calibration))
            if provider is None:
                raise InputError(calibration, expected="a readable .vrs recording", found="a file that does not open")
            device = provider.get_device_calibration()
            first_frame_us = provider.get_first_time_ns(StreamId(RGB_STREAM), TimeDomain.DEVICE_TIME) // 1000
        else:
            device = aria_calibration.device_calibration_from_json(str(calibration))
        camera = None if device is None else device.get_camera_calib(RGB_LABEL)
    except InputError:
        raise
    except (RuntimeError, ValueError, LookupError, OSError) as error:  # what the C++ bindings raise for a bad file
        raise InputError(calibration, expected="a readable Aria calibration", found=str(error)[:200]) from error
    if device is None or camera is None:
        raise InputError(calibration, expected=f"a calibration of {RGB_LABEL}", found="none in the file")
    width, height = (int(side) for side in camera.get_image_size())

    def project(yaw: float, pitch: float, depth_m: float) -> tuple[float, float] | None:
        gaze = mps.EyeGaze()
        gaze.yaw, gaze.pitch, gaze.depth = float(yaw), float(pitch), float(depth_m)
        point = get_gaze_vector_reprojection(gaze, RGB_LABEL, device, camera, float(depth_m))
        return None if point is None else (float(point[0]), float(point[1]))

    return AriaProjector(project, (width, height), first_frame_us)


def _gaze_file(path: Path) -> Path:
    """The CSV meant by `path`, refused with the reason where its rays can't be projected."""
    found = find_file(path, *FILES)
    if found is None:
        raise InputError(
            path, expected="Aria MPS gaze", found="no general_eye_gaze.csv", fix="pass the MPS eye_gaze folder"
        )
    header = header_of(found)
    if TWO_RAYS in header or not {TIME, YAW, PITCH} <= set(header):
        raise InputError(
            found,
            expected=f"first-generation MPS gaze ({TIME}, {YAW}, {PITCH})",
            found="one ray per eye, from the eye's own position (second generation, or the two-ray model)"
            if TWO_RAYS in header
            else "other columns: " + ", ".join(header[:8])[:200],
            fix="project it with projectaria-tools and pass a plain CSV of image points",
        )
    return found


FORMAT = TrackerFormat(
    NAME, "Project Aria Gen1 MPS (general_eye_gaze.csv)", sniff, read, needs="calibration and the extra 'aria'"
)
