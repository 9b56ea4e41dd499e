"""One open video file that moves forward by timestamp: the machinery under `stream.video`, which is what to import.

PyAV (FFmpeg) demuxes and decodes; nothing is converted to RGB unless asked for. `Source` is what a decoder has to
provide to be a backend of `stream.video`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import av.container
import av.error
import av.stream
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from gazeqwen.errors import InputError

TIME_TOLERANCE_S = 1e-6  # a frame whose PTS is this little after a wanted time still counts as on display
UNKNOWN_GOP_S = (
    10.0  # until a second keyframe is seen, a group of pictures is taken to last this long (x264: 250 frames)
)
MIN_SEEK_S = 2.0  # a jump shorter than this is decoded through: a seek empties the decoder
TAIL_S = 5.0  # the end of a file is read this far back, so that reordered last frames are all seen
STREAM_FORMATS = ("mpegts", "mpeg")  # their packets carry no size: only the decoder can tell that one is incomplete
CUT_SHORT_TOLERANCE_S = 0.1  # header durations are rounded; a file that ends this much too early was cut


class Picture(NamedTuple):
    """A frame before its conversion to RGB: `data` is the backend's handle, `end_s` its end if nothing follows."""

    time_s: float
    end_s: float
    data: Any


class Source(Protocol):
    """An open video that moves forward only; what a backend provides. `first` is its first frame, `next` the others."""

    first: Picture

    @property
    def frame_s(self) -> float:
        """One over the average rate, 0 where it is unknown."""
        ...

    @property
    def promised_s(self) -> float | None:
        """The video's end by its header on the recording's clock, None where the header does not say."""
        ...

    @property
    def end_tolerance_s(self) -> float:
        """A file that ends at most this much before `promised_s` is complete."""
        ...

    def next(self) -> Picture | None: ...
    def skip_towards(self, wanted_s: float, ahead: Picture) -> Picture:
        """The frame to go on from: `ahead`, or a later one at or before `wanted_s`."""
        ...

    def image(self, picture: Picture) -> np.ndarray: ...
    def too_short(self, wanted_s: float, end_s: float) -> InputError: ...
    def close(self) -> None: ...


class Orientation(NamedTuple):
    """How stored pixels become upright: swap the axes, then flip. Covers quarter turns and mirroring."""

    swap: bool
    flip_x: bool
    flip_y: bool
    rotation_deg: int  # clockwise

    @classmethod
    def of(cls, path: Path, frame: av.VideoFrame) -> Orientation:
        """From the display matrix (ISO 14496-12): x' = a x + c y, y' = b x + d y, 16.16 fixed point."""
        side_data = frame.side_data.get("DISPLAYMATRIX")
        if side_data is None:
            return cls(False, False, False, 0)
        a, b, _, c, d = struct.unpack_from("=5i", bytes(side_data))
        angle_deg = math.degrees(math.atan2(b, a))
        if abs(angle_deg - 90 * round(angle_deg / 90)) > 1:
            raise InputError(path, expected="a display rotation by quarter turns", found=f"{angle_deg:.1f} degrees")
        swap = abs(b) > abs(a)
        return cls(swap, (c if swap else a) < 0, (b if swap else d) < 0, round(angle_deg / 90) % 4 * 90)

    @property
    def turned(self) -> bool:
        return self.swap or self.flip_x or self.flip_y

    def upright(self, image: np.ndarray) -> np.ndarray:
        image = image.swapaxes(0, 1) if self.swap else image
        return np.ascontiguousarray(image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


def size_within(width_px: int, height_px: int, max_pixels: int | None) -> tuple[int, int]:
    if max_pixels is None or width_px * height_px <= max_pixels:
        return width_px, height_px
    scale = math.sqrt(max_pixels / (width_px * height_px))
    height = max(1, int(height_px * scale))
    return max(1, min(int(width_px * scale), max_pixels // height)), height


class PyavSource:
    """A `Source` that decodes with PyAV. Opening decodes the first frame, which sets the clock's zero."""

    def __init__(self, path: Path, *, max_pixels: int | None = None) -> None:
        self.path, self._max_pixels, self._reformatter = path, max_pixels, VideoReformatter()
        self._first_pts: int | None = None
        self._newest_s = self._longest_frame_s = 0.0
        self._may_seek, self._gop_s = True, 0.0
        self._last_key_s: float | None = None
        self._landing_pts: int | None = None
        self.container = self._open()
        try:
            self.stream = self._video_stream()
            time_base, rate = self.stream.time_base, self.stream.average_rate or self.stream.guessed_rate
            self.tick_s = float(time_base) if time_base else 0.0
            self.frame_s = 1.0 / float(rate) if rate else 0.0
            self._pictures = self._decode()
            first = self.next()
            if first is None:
                raise InputError(path, expected="a video", found="no decodable frame", fix="is the file complete?")
            self.first: Picture = first
            self._size_px = (first.data.width, first.data.height)
            self.orientation = Orientation.of(path, first.data)
        except BaseException:
            self.container.close()
            raise

    def close(self) -> None:
        self.container.close()

    def _open(self) -> av.container.InputContainer:
        name = str(self.path.absolute())  # FFmpeg takes the "a" of a relative "a:b.mp4" for a protocol
        try:
            try:
                return av.open(name)
            except UnicodeDecodeError:  # tags in another encoding; from PyAV 19 on they are never in the way
                return av.open(name, metadata_errors="replace")
        except av.error.FFmpegError as error:
            fix = "is the file complete? (an mp4 whose recording was cut off has no index)"
            found = f"something else ({error.strerror or error})"
            raise InputError(self.path, expected="a video file", found=found, fix=fix) from error

    def _video_stream(self) -> Any:
        cover_art = av.stream.Disposition.attached_pic
        videos = [s for s in self.container.streams.video if not s.disposition & cover_art]
        if not videos or videos[0].codec_context is None:
            kinds = ", ".join(sorted({s.type for s in self.container.streams})) or "nothing"
            raise InputError(self.path, expected="a file with a decodable video stream", found=f"only {kinds} streams")
        videos[0].thread_type = "SLICE"  # frame threads hang when a loop is left early (PyAV #1849, #1861)
        if self.container.format.name in STREAM_FORMATS:
            videos[0].codec_context.options = {"err_detect": "explode"}  # an error, not a picture half made up
        return videos[0]

    @property
    def first_pts(self) -> int:
        assert self._first_pts is not None
        return self._first_pts

    @property
    def upright_size_px(self) -> tuple[int, int]:
        width_px, height_px = self._size_px
        return (height_px, width_px) if self.orientation.swap else (width_px, height_px)

    def time_s(self, pts: int) -> float:
        base = self.stream.time_base  # integers first, so that the division is the only rounding
        return (pts - self.first_pts) * base.numerator / base.denominator

    def next(self) -> Picture | None:
        """The next frame in presentation order, None at the end."""
        return next(self._pictures, None)

    def _decode(self, *, after_seek: bool = False) -> Generator[Picture, None, None]:
        """Frames in order. After a seek: from the first keyframe, without those that lean on frames before it."""
        newest_pts: int | None = None
        lead_in = not after_seek  # a file cut in mid-stream opens with packets that lean on what is not there
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                raise self.damaged(error) from error
            if packet is None:
                return
            if after_seek and self._landing_pts is None:
                if not packet.is_keyframe or packet.pts is None:
                    continue
                self._landing_pts = packet.pts
            lead_in = lead_in and not packet.is_keyframe
            if packet.is_corrupt and not lead_in:
                raise self.damaged("an incomplete packet")
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if lead_in:
                    continue
                raise self.damaged(error) from error
            if packet.is_keyframe and packet.pts is not None and self._first_pts is not None:
                self._note_keyframe(self.time_s(packet.pts))
            for frame in frames:
                if after_seek and frame.pts is not None and frame.pts < (self._landing_pts or 0):
                    continue
                yield self._picture(frame, newest_pts)
                newest_pts = frame.pts

    def _picture(self, frame: av.VideoFrame, newest_pts: int | None) -> Picture:
        if frame.pts is None or not self.tick_s:
            found = "frames without one"
            raise InputError(
                self.path, expected="a timestamp on each frame", found=found, fix="put it into an mp4 or mkv"
            )
        if newest_pts is not None and frame.pts < newest_pts:
            found = f"{self.time_s(frame.pts):.3f} s after {self.time_s(newest_pts):.3f} s"
            raise InputError(self.path, expected="ascending timestamps", found=found, fix="re-encode the file")
        if self._first_pts is None:
            self._first_pts, self._last_key_s = frame.pts, 0.0
        elif (frame.width, frame.height) != self._size_px:
            found = f"{frame.width}x{frame.height} after {self._size_px[0]}x{self._size_px[1]}"
            raise InputError(
                self.path, expected="frames of one size", found=found, fix="re-encode the file to one size"
            )
        time_s = self.time_s(frame.pts)
        own_s = (frame.duration or 0) * self.tick_s or self.frame_s
        self._newest_s, self._longest_frame_s = time_s, max(self._longest_frame_s, own_s)
        return Picture(time_s, time_s + own_s, frame)

    def image(self, picture: Picture) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright, within max_pixels."""
        frame: av.VideoFrame = picture.data
        width_px, height_px = size_within(frame.width, frame.height, self._max_pixels)
        shrunk = (width_px, height_px) != (frame.width, frame.height)
        flags = Interpolation.AREA if shrunk else None  # unscaled: the conversion that `to_ndarray` does
        rgb = self._reformatter.reformat(frame, width_px, height_px, "rgb24", interpolation=flags)
        return self.orientation.upright(rgb.to_ndarray())

    def _note_keyframe(self, time_s: float) -> None:
        if self._last_key_s is not None:
            self._gop_s = max(self._gop_s, time_s - self._last_key_s)
        self._last_key_s = time_s

    def skip_towards(self, wanted_s: float, ahead: Picture) -> Picture:
        """The frame to go on from: `ahead`, or a later keyframe at or before `wanted_s` if that is over a GOP away.

        A landing counts only where the keyframe itself comes out of the decoder, at or before `wanted_s`. After any
        other the file is read from its start, and never seeks again.
        """
        gop_s = max(self._gop_s, ahead.time_s - (self._last_key_s or 0.0))
        if not self._may_seek or wanted_s - ahead.time_s <= max(gop_s, MIN_SEEK_S if self._gop_s else UNKNOWN_GOP_S):
            return ahead
        landed = self._seek(wanted_s)
        if landed is None or landed.data.pts != self._landing_pts or landed.time_s > wanted_s + TIME_TOLERANCE_S:
            self.container.close()
            self.container, self._may_seek = self._open(), False
            self.stream = self._video_stream()
            self._pictures = self._decode()
            landed = self.next()
        elif landed.time_s <= ahead.time_s:  # in vain: there is no keyframe between the two
            self._gop_s = max(self._gop_s, wanted_s - landed.time_s)
        while landed is not None and landed.time_s < ahead.time_s:
            landed = self.next()
        return landed or ahead

    def _seek(self, time_s: float) -> Picture | None:
        self._pictures.close()
        self._last_key_s = self._landing_pts = None
        try:
            self.container.seek(self.first_pts + math.floor(time_s / self.tick_s), stream=self.stream)
        except av.error.FFmpegError:
            return None
        self._pictures = self._decode(after_seek=True)
        return self.next()

    @property
    def promised_s(self) -> float | None:
        stream, container = self.stream, self.container
        if stream.duration:
            return self.time_s((stream.start_time or 0) + stream.duration)
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))  # Matroska, per track
        if tag:
            seconds = 3600.0 * int(tag[1]) + 60.0 * int(tag[2]) + float(tag[3])
        elif container.duration and len(container.streams) == 1:
            seconds = container.duration / av.time_base
        else:
            return None
        return seconds - self.first_pts * self.tick_s

    @property
    def end_tolerance_s(self) -> float:
        """Headers count in decoding order, which at a variable rate differs by up to two frames."""
        return max(CUT_SHORT_TOLERANCE_S, 2 * self._longest_frame_s)

    def find_duration_s(self) -> float:
        """End of the last frame from the last packets' timestamps, or the header's where the file ends before it."""
        promised_s = self.promised_s
        found_s = self._last_packet_end_s(max(0.0, (promised_s or 0.0) - TAIL_S))
        if found_s is None:  # no packet there: a shorter file, or one that can't seek
            found_s = self._last_packet_end_s(0.0) or self.first.end_s
        if promised_s is not None and promised_s > found_s + self.end_tolerance_s:
            return promised_s
        return found_s

    def _last_packet_end_s(self, from_s: float) -> float | None:
        try:
            # only the last frame's own duration counts: with B-frames a packet's is a gap in decoding order
            last = max(self.packets(from_s), default=None)
        except InputError:  # damage is reported by reading, not by probing
            return None
        return None if last is None else self.time_s(last[0]) + (last[1] * self.tick_s or self.frame_s)

    def packets(self, from_s: float = 0.0, *, from_start: bool = False) -> Iterator[tuple[int, int]]:
        """(PTS, duration) in ticks of what will be shown, from the keyframe at or before `from_s`. Ends decoding.

        `from_start` opens the file again instead of seeking: a seek in mpegts may land after its target.
        """
        self._pictures.close()
        try:
            if from_start:
                self.container.close()
                self.container = self._open()
                self.stream = self._video_stream()
            else:
                self.container.seek(self.first_pts + math.floor(from_s / self.tick_s), stream=self.stream)
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    raise self.damaged("an incomplete packet")
                if packet.pts is not None and not packet.is_discard:
                    yield packet.pts, packet.duration or 0
        except av.error.FFmpegError as error:
            raise self.damaged(error) from error

    def damaged(self, what: av.error.FFmpegError | str) -> InputError:
        reason = what if isinstance(what, str) else what.strerror or "an FFmpeg error"
        # up to the newest frame's start: how long that one lasts is no longer known
        found = f"{reason} after {self._newest_s:.3f} readable seconds"
        fix = "ask for earlier times or get a complete copy of the file"
        return InputError(self.path, expected="readable video data", found=found, fix=fix)

    def too_short(self, wanted_s: float, end_s: float) -> InputError:
        promised_s = self.promised_s
        cut = promised_s is not None and promised_s > end_s + self.end_tolerance_s
        found = f"{end_s:.3f} readable seconds" + (f" where the header promises {promised_s:.3f}" if cut else "")
        fix = "get a complete copy of the file" if cut else "ask for earlier times"
        return InputError(self.path, expected=f"video up to {wanted_s:.3f} s", found=found, fix=fix)
