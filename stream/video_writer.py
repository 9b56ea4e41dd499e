"""Video files written: H.264 in mp4 or mov, the only encoder of the project (libx264 through PyAV).

A clip appears under its name complete or not at all: it grows under a hidden name beside the target, which replaces
the target when the last frame is in. Times are kept to the microsecond, and there are no B-frames, so that decoding
order is display order and what a player, a browser or `stream.video` reads back are the times that went in.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import av
import av.error
import numpy as np

from gazeqwen.errors import InputError

TICKS_PER_S = 1_000_000  # finer than TIME_TOLERANCE_S of the reader, so that a frame written at t is on display at t
NOMINAL_RATE_HZ = 30  # told to the encoder's rate control where frames come with their own times
LAST_TIME_S = 1e8  # three years: times counted from 1970 are not times of a recording
SUFFIXES = (".mp4", ".mov")


class VideoWriter:
    """Context manager that encodes RGB frames to `path`; missing parent folders are made.

    Args:
        path: an .mp4 or .mov, replaced when the block ends without an exception and left as it was otherwise.
        fps: constant rate; frame k is shown at k / fps. Without it every `write` brings its own `time_s`.
        size_px: (width, height) of the images. H.264 in yuv420p needs even sizes: an odd one is stored with its last
            column or row repeated (`stored_size_px`), so pixel coordinates stay and normalised ones move by < 1 pixel.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        preset: x264's speed against size.

    Raises:
        InputError: a suffix, rate, size, crf or preset that can't be encoded; a folder that can't be written; an image
            of another size or type; times that do not ascend; no frame at all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | None = None,
        size_px: tuple[int, int],
        crf: int = 23,
        preset: str = "veryfast",
    ) -> None:
        self.path, self.size_px, self.fps = Path(path), size_px, fps
        width_px, height_px = size_px
        if self.path.suffix.lower() not in SUFFIXES:
            raise InputError(path, expected="a name that ends in .mp4 or .mov", found=self.path.suffix or "no suffix")
        if self.path.is_dir():
            raise InputError(path, expected="a file to write", found="a folder")
        if fps is not None and not 0.001 <= fps <= 1000:
            raise InputError("fps", expected="a rate of 0.001 to 1000", found=str(fps))
        if width_px < 1 or height_px < 1:
            raise InputError("size_px", expected="a width and height of at least 1 pixel", found=str(size_px))
        if not 0 <= crf <= 51:
            raise InputError("crf", expected="0 (lossless) to 51", found=str(crf))
        self.stored_size_px = (width_px + width_px % 2, height_px + height_px % 2)
        self._options = {"crf": str(crf), "preset": preset, "bf": "0"}
        rate = None if fps is None else Fraction(fps).limit_denominator(100_000)
        self._rate = rate or Fraction(NOMINAL_RATE_HZ)
        self._tick = Fraction(1, TICKS_PER_S) if rate is None else 1 / rate
        self._frames = 0
        self._container: Any = None
        self._waiting: av.VideoFrame | None = None  # encoded when the next one's time says how long it lasts
        self._last_ticks: int | None = None  # how long the newest finished frame lasts
        self._durations: dict[int, int] = {}  # ticks by PTS of frames inside the encoder

    def __enter__(self) -> VideoWriter:
        self._partial = self.path.with_name(f".{self.path.stem}-{uuid4().hex[:8]}.partial{self.path.suffix}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            options = {"movflags": "+faststart", "movie_timescale": str(TICKS_PER_S)}
            self._container = av.open(str(self._partial.absolute()), "w", options=options)
            self._stream: Any = self._container.add_stream("libx264", rate=self._rate, options=self._options)
            self._stream.width, self._stream.height = self.stored_size_px
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = self._tick
            self._stream.codec_context.open()
        except (av.error.FFmpegError, OSError) as error:
            self._discard()
            raise self._unwritable(error) from error
        return self

    def write(self, image: np.ndarray, time_s: float | None = None) -> None:
        """Adds one (H, W, 3) uint8 RGB frame; `time_s` (seconds, ascending) exactly where `fps` was not given."""
        width_px, height_px = self.size_px
        if image.shape != (height_px, width_px, 3) or image.dtype != np.uint8:
            found = f"{image.dtype} {image.shape}"
            raise InputError(self.path, expected=f"uint8 images of shape ({height_px}, {width_px}, 3)", found=found)
        if (time_s is None) == (self.fps is None):
            found = "neither" if time_s is None else "both"
            raise InputError(self.path, expected="either fps or a time_s with each frame", found=found)
        if time_s is not None and not 0 <= time_s <= LAST_TIME_S:
            raise InputError(self.path, expected=f"frame times of 0 to {LAST_TIME_S:.0f} s", found=str(time_s))
        pts = self._frames if time_s is None else round(time_s * TICKS_PER_S)
        if self._waiting is not None and pts <= (self._waiting.pts or 0):
            before_s = float((self._waiting.pts or 0) * self._tick)
            raise InputError(self.path, expected="ascending frame times", found=f"{time_s} s after {before_s:.6f} s")
        (stored_width, stored_height) = self.stored_size_px
        padded = np.pad(image, ((0, stored_height - height_px), (0, stored_width - width_px), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
        frame.pts, frame.time_base = pts, self._tick
        self._encode_waiting(next_pts=pts)
        self._waiting = frame
        self._frames += 1

    def _encode_waiting(self, *, next_pts: int | None) -> None:
        frame = self._waiting
        if frame is None or frame.pts is None:
            return
        if next_pts is not None:
            self._last_ticks = next_pts - frame.pts
        # the last frame lasts as long as the one before it, an only frame 1 / rate
        self._durations[frame.pts] = self._last_ticks or round(1 / (self._rate * self._tick))
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                packet.duration = self._durations.pop(packet.pts)
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise self._unwritable(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            if not self._frames:
                raise InputError(self.path, expected="at least one frame", found="none")
            self._encode_waiting(next_pts=None)
            self._mux(None)
            container, self._container = self._container, None
            container.close()
            self._partial.replace(self.path)
        except (av.error.FFmpegError, OSError) as failure:
            raise self._unwritable(failure) from failure
        finally:
            self._discard()

    def _discard(self) -> None:
        """Closes and removes the partial file, if there still is one; what `path` holds is not touched."""
        container, self._container = self._container, None
        with suppress(av.error.FFmpegError, OSError):  # the clip is given up: its trailer does not matter
            if container is not None:
                container.close()
        with suppress(OSError):  # not there, or its folder could not be made: nothing to remove
            self._partial.unlink()

    def _unwritable(self, error: Exception) -> InputError:
        found = getattr(error, "strerror", None) or str(error)
        return InputError(self.path, expected="a video that can be encoded and written there", found=found)


def write_clip(
    path: str | Path,
    images: Iterable[np.ndarray],
    *,
    fps: float | None = None,
    times_s: Iterable[float] | None = None,
    crf: int = 23,
    preset: str = "veryfast",
) -> Path:
    """Writes (H, W, 3) uint8 RGB images as one clip and returns its path; the first image sets the size.

    Args and errors as `VideoWriter`; exactly one of `fps` and `times_s` (as many as images, seconds, ascending).
    """
    if (fps is None) == (times_s is None):
        found = "neither" if fps is None else "both"
        raise InputError(path, expected="either fps or times_s", found=found)
    frames = iter(images)
    first = next(frames, None)
    if first is None:
        raise InputError(path, expected="at least one image", found="none")
    if first.ndim != 3:
        raise InputError(path, expected="images of shape (H, W, 3)", found=str(first.shape))
    size_px = (first.shape[1], first.shape[0])
    with VideoWriter(path, fps=fps, size_px=size_px, crf=crf, preset=preset) as writer:
        if times_s is None:
            for image in chain([first], frames):
                writer.write(image)
            return writer.path
        times = iter(times_s)
        for image in chain([first], frames):
            time_s = next(times, None)
            if time_s is None:
                raise InputError(path, expected="a time for each image", found="fewer times than images")
            writer.write(image, float(time_s))
        if next(times, None) is not None:
            raise InputError(path, expected="an image for each time", found="more times than images")
    return writer.path
