"""decord as an optional decoder for `stream.video` (`backend="decord"`): the same frames, at the same times.

decord 0.6.0 (the last release) gives frames by number and no timestamps to rely on, so the times are read from the
packets through PyAV. Used only where its frames were measured equal to PyAV's: constant-rate, unrotated mp4 and mkv,
one frame after the other. On the mpegts and mirrored files tried here, and after skipping over open GOPs, it returned
other pictures and no error; on a damaged one it once aborted the process (a C++ bad_alloc), which nothing here can
catch. It is here for those who compare with work that used decord, not for speed.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import Interpolation

from gazeqwen.errors import InputError, MissingExtraError
from stream.video_source import Picture, PyavSource, size_within

CONTAINERS = frozenset({"mp4", "matroska"})


def import_decord() -> ModuleType:
    """The module; MissingExtraError where it is absent or does not load."""
    try:
        import decord
    except (ImportError, OSError) as error:  # OSError: its shared library does not fit this machine
        raise MissingExtraError("the decord backend", "decord", str(error)) from error
    return decord


class DecordSource:
    """A `Source` whose frames come from decord, which converts every frame up to the last wanted one to RGB.

    Frames over `max_pixels` are area-averaged from RGB (PyAV's from YUV), and so differ by a few levels.

    Raises:
        InputError: as PyavSource; a file that decord does not read alike; a damaged file.
    """

    def __init__(self, decord: ModuleType, path: Path, *, max_pixels: int | None = None) -> None:
        self.path, self._max_pixels, self._decord = path, max_pixels, decord
        self._timing = PyavSource(path)
        try:
            self.frame_s, self.promised_s = self._timing.frame_s, self._timing.promised_s
            self.end_tolerance_s = self._timing.end_tolerance_s
            self._times_s, self._last_end_s = self._read_times()
            self._reader = self._open_reader()
        except BaseException:
            self._timing.close()
            raise
        self._position = 0  # of decord, which is left behind where frames are passed over
        self._row, self.first = 0, self._at(0)

    def close(self) -> None:
        self._timing.close()

    def next(self) -> Picture | None:
        self._row += 1
        return self._at(self._row) if self._row < self._times_s.size else None

    def skip_towards(self, wanted_s: float, ahead: Picture) -> Picture:
        """`ahead`: every frame is decoded, in `image`."""
        return ahead

    def image(self, picture: Picture) -> np.ndarray:
        """(H, W, 3) uint8 RGB, within max_pixels."""
        try:
            # one by one: after a seek or skip_frames over an open GOP's keyframe decord returns neighbouring frames
            for _ in range(self._position, picture.data):
                self._reader.next()
            rgb = self._reader.next().asnumpy()
            self._position = picture.data + 1
        except self._decord.DECORDError as error:
            raise self._refused(f"frame {picture.data}: {error}") from error
        height_px, width_px = rgb.shape[:2]
        width_out, height_out = size_within(width_px, height_px, self._max_pixels)
        if (width_out, height_out) == (width_px, height_px):
            return rgb
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        return frame.reformat(width_out, height_out, interpolation=Interpolation.AREA).to_ndarray()

    def too_short(self, wanted_s: float, end_s: float) -> InputError:
        return self._timing.too_short(wanted_s, end_s)

    def _at(self, row: int) -> Picture:
        last = row + 1 == self._times_s.size
        return Picture(float(self._times_s[row]), self._last_end_s if last else float(self._times_s[row + 1]), row)

    def _read_times(self) -> tuple[np.ndarray, float]:
        """((N,) seconds of each frame, end of the last one), from the packets; refuses what is not constant-rate."""
        formats = self._timing.container.format.name
        if not CONTAINERS & set(formats.split(",")):
            raise self._refused(f"a {formats} file")
        if self._timing.orientation.turned:
            raise self._refused(f"a file to be turned or mirrored ({self._timing.orientation.rotation_deg} degrees)")
        packets = sorted(self._timing.packets())
        pts = np.array([first for first, _ in packets], dtype=np.int64)
        gaps = np.diff(pts)
        if not pts.size or pts[0] != self._timing.first_pts or (gaps.size and gaps.max() - gaps.min() > 1):
            raise self._refused("a variable frame rate")
        times_s = np.array([self._timing.time_s(int(p)) for p in pts])
        return times_s, float(times_s[-1]) + (packets[-1][1] * self._timing.tick_s or self.frame_s)

    def _open_reader(self) -> Any:
        try:
            reader = self._decord.VideoReader(str(self.path), num_threads=1)
        except self._decord.DECORDError as error:
            raise self._refused(str(error)) from error
        if len(reader) != self._times_s.size:
            raise self._refused(f"{len(reader)} frames by decord, {self._times_s.size} by timestamps")
        return reader

    def _refused(self, found: str) -> InputError:
        expected = "a complete, constant-rate, unrotated mp4 or mkv for the decord backend"
        return InputError(self.path, expected=expected, found=found, fix="use backend='pyav'")
