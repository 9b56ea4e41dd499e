"""Video files read by timestamp, decoded forward once. Writing (`VideoWriter`, `write_clip`) is in video_writer.py.

Built on PyAV (FFmpeg). The recording's clock zero is the first video frame: every `time_s` here is a frame's
presentation timestamp (PTS) minus the first decoded frame's. Frames are picked by PTS, never by frame number or nominal
rate, so variable rates, B-frames, edit lists and files that start late need no special case. Images are upright RGB:
the display matrix (quarter turns and mirroring) is applied. Non-square pixels are left as stored.

Differs from the usual readers in what it refuses: a file that is damaged, cut short or without timestamps never gives
fewer frames silently. What is readable is yielded first, then an InputError says how many seconds that was. A recording
cut in mid-stream starts, and its clock too, at its first decodable frame. Not noticed: wrong bits inside a packet of
the right size, which FFmpeg conceals, and a missing end where neither the header nor a wanted time says it is missing
(an mpegts read to its end).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from gazeqwen.errors import InputError
from stream.video_source import TIME_TOLERANCE_S, Picture, PyavSource, Source
from stream.video_writer import VideoWriter, write_clip

__all__ = [
    "TIME_TOLERANCE_S",
    "Backend",
    "Frame",
    "VideoInfo",
    "VideoWriter",
    "frame_times",
    "iter_frames",
    "probe",
    "read_at",
    "wanted_times",
    "write_clip",
]

Backend = Literal["pyav", "decord"]


@dataclass(frozen=True)
class VideoInfo:
    """What `probe` finds out without decoding more than one frame.

    Attributes:
        path: the file.
        width_px, height_px: size of the upright frame, after rotation.
        rotation_deg: clockwise turn that makes the stored pixels upright: 0, 90, 180 or 270.
        fps: average frame rate; NaN where the container knows none.
        frames: the header's frame count (it may count frames that an edit list hides), None where it has none.
        duration_s: from the first frame to the end of the last. Where the file ends before its header says, this is
            what the header promises, so that reading up to it raises instead of passing for a shorter video.
        first_pts_s: container time of the first frame, which is time 0 of the recording.
        codec: FFmpeg's name of the codec.
    """

    path: Path
    width_px: int
    height_px: int
    rotation_deg: int
    fps: float
    frames: int | None
    duration_s: float
    first_pts_s: float
    codec: str


@dataclass(frozen=True)
class Frame:
    """One upright frame: `image` (H, W, 3) uint8 RGB, on display from `time_s` for `duration_s` seconds.

    `duration_s` is the next frame's PTS minus its own; for the last frame the duration the file stores, else 1 / rate.
    """

    time_s: float
    duration_s: float
    image: np.ndarray


def probe(path: str | Path) -> VideoInfo:
    """Size, rate, rotation, duration and clock offset of a video; decodes one frame and reads a few seconds' packets.

    Raises:
        InputError: missing, empty or a folder; not a video; no video stream; no decodable frame; no timestamps.
    """
    with closing(PyavSource(_existing_file(path))) as source:
        stream, (width_px, height_px) = source.stream, source.upright_size_px
        return VideoInfo(
            path=source.path,
            width_px=width_px,
            height_px=height_px,
            rotation_deg=source.orientation.rotation_deg,
            fps=1.0 / source.frame_s if source.frame_s else float("nan"),
            frames=stream.frames or None,
            first_pts_s=source.first_pts * source.tick_s,
            codec=stream.codec_context.name,
            duration_s=source.find_duration_s(),
        )


def frame_times(path: str | Path) -> np.ndarray:
    """(F,) all frames' times, ascending seconds on the recording's clock; reads packets, decodes one frame.

    Raises:
        InputError: as `probe`; a damaged packet.
    """
    with closing(PyavSource(_existing_file(path))) as source:
        first, base = source.first_pts, source.stream.time_base
        ticks = sorted(pts for pts, _ in source.packets(from_start=True) if pts >= first)
    # rounded once, as `Frame.time_s` is: a frame's time is the same number from both
    return (np.array(ticks, dtype=np.int64) - first) * base.numerator / base.denominator


def iter_frames(
    path: str | Path,
    *,
    start_s: float = 0.0,
    stop_s: float | None = None,
    max_pixels: int | None = None,
    backend: Backend = "pyav",
) -> Iterator[Frame]:
    """Every frame with `start_s <= time_s < stop_s` (to the end without `stop_s`), in order.

    Args:
        path: a video file. It is closed when the iterator ends or is dropped.
        start_s, stop_s: seconds on the recording's clock.
        max_pixels: frames with more pixels are area-averaged down to at most this many, aspect kept.
        backend: `pyav`, or `decord` (optional extra; constant-rate, unrotated mp4 and mkv only, the same frames).

    Raises:
        InputError: as `probe`; a bad range; `stop_s` more than a frame after the end; damage or a file that ends before
            its header says, after the readable frames were yielded.
        MissingExtraError: `backend="decord"` without decord.
    """
    if not (math.isfinite(start_s) and start_s >= 0):
        raise InputError("start_s", expected="seconds >= 0", found=str(start_s))
    if stop_s is not None and not (math.isfinite(stop_s) and stop_s > start_s):
        raise InputError("stop_s", expected=f"seconds after start_s={start_s:g}", found=str(stop_s))
    return _iter_frames(_opener(path, max_pixels, backend), start_s, stop_s)


def read_at(
    path: str | Path,
    times_s: np.ndarray | Sequence[float],
    *,
    max_pixels: int | None = None,
    backend: Backend = "pyav",
) -> Iterator[tuple[int, Frame]]:
    """For each wanted time the frame on display then: (row of `times_s`, newest frame with PTS <= that time).

    One forward pass; each source frame is converted to RGB at most once, and rows that share it share its array. Longer
    gaps between wanted times are crossed by a seek, whose frames equal those of sequential decoding.

    Args:
        path, max_pixels, backend: as `iter_frames`.
        times_s: (N,) seconds on the recording's clock, ascending. TIME_TOLERANCE_S is granted at frame borders.

    Raises:
        InputError: as `probe`; times not finite or not ascending; a time before the first frame or after the end of
            the last one (earlier rows are yielded first); damage before a wanted time.
        MissingExtraError: `backend="decord"` without decord.
    """
    wanted = np.asarray(times_s, dtype=np.float64)
    if wanted.ndim != 1 or not np.isfinite(wanted).all() or (np.diff(wanted) < 0).any():
        raise InputError("times_s", expected="finite seconds in ascending order", found="other values or shape")
    if wanted.size and wanted[0] < -TIME_TOLERANCE_S:
        raise InputError(path, expected="times at or after the first frame (0 s)", found=f"{wanted[0]:.6f} s")
    return _read_at(_opener(path, max_pixels, backend), wanted)


def wanted_times(
    info_or_duration: VideoInfo | float, fps: float, *, start_s: float = 0.0, stop_s: float | None = None
) -> np.ndarray:
    """(N,) seconds `start_s + k / fps`, k = 0, 1, ..., before `stop_s` (default: the end). Not accumulated: no drift.

    Raises:
        InputError: `fps` is not positive, or the range is empty, negative or reaches past the end.
    """
    duration_s = info_or_duration.duration_s if isinstance(info_or_duration, VideoInfo) else float(info_or_duration)
    end_s = duration_s if stop_s is None else stop_s
    if not (math.isfinite(fps) and fps > 0):
        raise InputError("fps", expected="a rate above 0", found=str(fps))
    if not 0 <= start_s < end_s <= duration_s + TIME_TOLERANCE_S:
        raise InputError(
            "time range", expected=f"0 <= start < stop <= {duration_s:.3f} s", found=f"{start_s} to {end_s}"
        )
    count = max(1, math.ceil((end_s - start_s - TIME_TOLERANCE_S) * fps))
    return start_s + np.arange(count, dtype=np.float64) / fps


def _iter_frames(opener: Callable[[], Source], start_s: float, stop_s: float | None) -> Iterator[Frame]:
    with closing(opener()) as source:
        ahead: Picture | None = source.skip_towards(start_s, source.first)
        end_s = 0.0
        while ahead is not None:
            picture, ahead = ahead, source.next()
            end_s = picture.end_s if ahead is None else ahead.time_s
            if stop_s is not None and picture.time_s >= stop_s - TIME_TOLERANCE_S:
                return
            if picture.time_s >= start_s - TIME_TOLERANCE_S:
                yield Frame(picture.time_s, end_s - picture.time_s, source.image(picture))
        if stop_s is None:
            promised_s = source.promised_s or 0.0
            asked_s = promised_s if promised_s > end_s + source.end_tolerance_s else start_s
        else:
            asked_s = max(start_s, stop_s - source.frame_s)  # less than a frame past the end, no frame is missing
        if asked_s > end_s + TIME_TOLERANCE_S:
            raise source.too_short(asked_s if stop_s is None else stop_s, end_s)


def _read_at(opener: Callable[[], Source], wanted_s: np.ndarray) -> Iterator[tuple[int, Frame]]:
    if not wanted_s.size:
        return
    with closing(opener()) as source:
        row, end_s = 0, 0.0
        ahead: Picture | None = source.skip_towards(float(wanted_s[0]), source.first)
        while ahead is not None:
            picture, ahead = ahead, source.next()
            end_s = picture.end_s if ahead is None else ahead.time_s
            # a frame is on display up to the next one's start, the last one up to and with its end
            border_s = end_s + TIME_TOLERANCE_S if ahead is None else end_s - TIME_TOLERANCE_S
            frame: Frame | None = None
            while row < wanted_s.size and wanted_s[row] < border_s:
                frame = frame or Frame(picture.time_s, end_s - picture.time_s, source.image(picture))
                yield row, frame
                row += 1
            if row == wanted_s.size:
                return
            if ahead is not None:
                ahead = source.skip_towards(float(wanted_s[row]), ahead)
        raise source.too_short(float(wanted_s[row]), end_s)


def _opener(path: str | Path, max_pixels: int | None, backend: str) -> Callable[[], Source]:
    """Checks the arguments now, opens the file later: an iterator that never starts holds nothing open."""
    file = _existing_file(path)
    if max_pixels is not None and max_pixels < 1:
        raise InputError("max_pixels", expected="a number of pixels >= 1", found=str(max_pixels))
    if backend == "decord":
        from stream.video_decord import DecordSource, import_decord

        decord = import_decord()
        return lambda: DecordSource(decord, file, max_pixels=max_pixels)
    if backend != "pyav":
        raise InputError("backend", expected="pyav or decord", found=repr(backend))
    return lambda: PyavSource(file, max_pixels=max_pixels)


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    try:
        found = "a folder" if path.is_dir() else "no such file" if not path.exists() else ""
        if path.is_file() and path.stat().st_size == 0:
            found = "an empty file (0 bytes)"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        found = str(error)
    if found:
        raise InputError(path, expected="a video file", found=found, fix="check the path")
    return path
