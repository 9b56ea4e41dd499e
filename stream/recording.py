"""A recording: a video file and, when there is one, its gaze file, on one clock. `open_recording` is the way in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeSamples, Step, blank_frames
from stream.fixations import choose, detect
from stream.steps import (
    CausalIVT,
    Cut,
    FixationSource,
    FrameSelection,
    StoredFixations,
    build_steps,
    once_each,
    steps_and_cuts,
)
from stream.trackers import read_gaze, recognise
from stream.trackers.base import FrameSizeNeeded, GazeRecording
from stream.video import TIME_TOLERANCE_S, Backend, Frame, VideoInfo, frame_times, probe, read_at
from stream.video_source import size_within

# Formats whose rows are numbered by frame, and the rate of the video they were made for (docs/gaze_formats.md).
COUNTS_FRAMES_AT_FPS = {"egtea": 24.0, "holoassist": 24.46}


class FrameSource(Protocol):
    """Where a recording's frames come from: a file, or something that draws them."""

    def probe(self) -> VideoInfo: ...

    def times_s(self) -> np.ndarray:
        """As `stream.video.frame_times`."""
        ...

    def read_at(self, times_s: np.ndarray, *, max_pixels: int | None) -> Iterator[tuple[int, Frame]]:
        """As `stream.video.read_at`."""
        ...


@dataclass(frozen=True)
class VideoFile:
    """Frames decoded from a file."""

    path: Path
    backend: Backend = "pyav"

    def probe(self) -> VideoInfo:
        return probe(self.path)

    def times_s(self) -> np.ndarray:
        return frame_times(self.path)

    def read_at(self, times_s: np.ndarray, *, max_pixels: int | None) -> Iterator[tuple[int, Frame]]:
        return read_at(self.path, times_s, max_pixels=max_pixels, backend=self.backend)


class Recording:
    """A video with its gaze. Nothing is decoded before `steps` is iterated; the recording can be read again and again.

    Attributes:
        info: the video's size, rate and duration.
        gaze: what the tracker's file said, or None.
        samples, fixations: its samples (empty without a file) and the whole recording's fixations.
        detector, parameters: what made the fixations; `device` and `file` ones come from the file itself.

    Args:
        frames: where they come from; default: the file `video`.
    """

    def __init__(
        self,
        video: Path,
        gaze: GazeRecording | None,
        *,
        detector: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        backend: Backend = "pyav",
        frames: FrameSource | None = None,
    ) -> None:
        self.path, self.gaze = Path(video), gaze
        self.backend: Backend = backend
        self._frames: FrameSource = frames or VideoFile(self.path, backend)
        self.info: VideoInfo = self._frames.probe()
        self.samples = GazeSamples.build([], np.zeros((0, 2))) if gaze is None else gaze.samples
        stored = None if gaze is None else gaze.fixations
        if detector is None:
            only_fixations = stored is not None and len(self.samples) == 0
            detector = "file" if only_fixations else choose(self.samples, stored)
        self.detector = detector
        given = dict(parameters or {})
        if detector == "ivt":
            # The video is at hand, so distances are isotropic whatever the tracker's file says of its frame.
            given.setdefault("frame_aspect", self.info.width_px / self.info.height_px)
        if detector == "file":
            if stored is None:
                raise InputError(
                    self.path, expected="a gaze file that holds fixations", found="none", fix="use another detector"
                )
            self.fixations: Fixations = stored
        else:
            self.fixations = detect(self.samples, detector=detector, device=stored, **given)
        self.parameters: dict[str, Any] = dict(self.fixations.parameters)

    @property
    def end_s(self) -> float:
        """The end of the last frame."""
        return self.info.duration_s

    @cached_property
    def _frame_times_s(self) -> np.ndarray:
        """Times of all frames; none where the file is damaged: decoding then says so, after what is readable."""
        try:
            return self._frames.times_s()
        except InputError:
            return np.zeros(0)

    def fixation_source(self, *, lag_s: float = 0.0) -> FixationSource:
        """What is known of the fixations at any time; causal even where the whole recording's were found beforehand."""
        if self.detector == "ivt":
            return CausalIVT(self.samples.shifted(lag_s), self.parameters)
        return StoredFixations(self.fixations.shifted(lag_s))

    def steps(
        self,
        fps: float = 2.0,
        *,
        vjepa_fps: float = 8.0,
        until_s: float | None = None,
        gaze_lag_s: float = 0.0,
        max_pixels: int | None = None,
    ) -> Iterator[Step]:
        """Steps of two frames at `fps` up to `until_s`, the last one partial when its frames don't fill it.

        Frames are the ones nearest to k / fps; where the file has fewer a second than asked, each is used once.

        Args:
            fps: Qwen's frames a second, two to a step.
            vjepa_fps: frames a second for V-JEPA, Qwen's own among them.
            until_s: the question's time; default the end of the last frame. Nothing later is read.
            gaze_lag_s: gaze is moved this much later (the `lagged` arm).
            max_pixels: frames with more are averaged down while decoding.

        Raises:
            InputError: rates or `until_s` out of range; a damaged file, after the readable steps.
        """
        until_s = self.end_s if until_s is None else float(until_s)
        self._check([until_s], fps, vjepa_fps, gaze_lag_s)
        selection = FrameSelection(self._frame_times_s, fps, vjepa_fps)
        asked, for_qwen = selection.until(min(until_s, self.end_s))
        frames = ((frame, bool(for_qwen[row])) for row, frame in self._read(asked, max_pixels=max_pixels))
        return build_steps(
            once_each(frames),
            self.samples.shifted(gaze_lag_s),
            self.fixation_source(lag_s=gaze_lag_s),
            until_s=until_s,
        )

    def steps_for(
        self,
        times_s: Sequence[float] | np.ndarray,
        fps: float = 2.0,
        *,
        vjepa_fps: float = 8.0,
        gaze_lag_s: float = 0.0,
        max_pixels: int | None = None,
        decode_from_s: float = 0.0,
        with_gaze: bool = True,
    ) -> Iterator[Step | Cut]:
        """The steps of many questions in one pass: whole steps in order, and at each question's time a `Cut`.

        For every time the whole steps before its Cut, then its tail, equal `steps(until_s=time)` bit for bit. The video
        is read up to the last time, and no further.

        Args:
            times_s: the questions' times, ascending; equal ones have a Cut each.
            fps, vjepa_fps, gaze_lag_s, max_pixels: as `steps`.
            decode_from_s: steps with a frame before this time are placeholders (`Step.placeholder`), for which nothing
                is decoded; their times and gaze are the true ones. `np.inf` decodes nothing at all.
            with_gaze: False leaves it out, for a look ahead at the frames.

        Raises:
            InputError: as `steps`; times that do not ascend; `decode_from_s` for a file whose frame times can't be read
                without decoding.
        """
        times = np.asarray(times_s, dtype=np.float64).reshape(-1)
        if (np.diff(times) < 0).any():
            raise InputError("times_s", expected="ascending seconds", found="a time before the one before it")
        self._check(times.tolist(), fps, vjepa_fps, gaze_lag_s)
        if decode_from_s > 0 and not self.frame_times_known:
            raise InputError(
                self.path, expected="frame times that can be read without decoding", found="a damaged file"
            )
        return steps_and_cuts(
            partial(self._read, max_pixels=max_pixels, decode_from_s=decode_from_s),
            FrameSelection(self._frame_times_s, fps, vjepa_fps),
            self.samples.shifted(gaze_lag_s) if with_gaze else GazeSamples.build([], []),
            self.fixation_source(lag_s=gaze_lag_s) if with_gaze else StoredFixations(Fixations.empty()),
            times_s=times.tolist(),
            end_s=self.end_s,
        )

    def with_frames(self, step: Step, *, max_pixels: int | None = None) -> Step:
        """A placeholder with the frames it stands for.

        Raises:
            InputError: the file has no frames at its times.
        """
        times_s = np.union1d(step.frame_times_s, step.vjepa_times_s)
        images = dict(zip(times_s.tolist(), self.images_at(times_s, max_pixels=max_pixels), strict=True))
        return replace(
            step,
            frames=np.stack([images[time_s] for time_s in step.frame_times_s.tolist()]),
            vjepa_frames=np.stack([images[time_s] for time_s in step.vjepa_times_s.tolist()]),
            placeholder=False,
        )

    def images_at(self, times_s: np.ndarray, *, max_pixels: int | None = None) -> list[np.ndarray]:
        """The frames of exactly these times, ascending.

        Raises:
            InputError: there are none.
        """
        images = []
        for row, frame in self._read(times_s, max_pixels=max_pixels):
            if frame.time_s != times_s[row]:
                raise InputError(
                    self.path, expected=f"a frame at {times_s[row]:.6f} s", found=f"one at {frame.time_s:.6f} s"
                )
            images.append(frame.image)
        return images

    @property
    def frame_times_known(self) -> bool:
        """All frames' times can be read without decoding: the file is not damaged."""
        return self._frame_times_s.size > 0

    def _check(self, times_s: Sequence[float], fps: float, vjepa_fps: float, gaze_lag_s: float) -> None:
        for time_s in times_s:
            if not 0 <= time_s <= self.end_s + TIME_TOLERANCE_S:
                raise InputError(
                    self.path,
                    expected=f"a time within the video (0 to {self.end_s:.3f} s)",
                    found=f"{time_s:g} s",
                    fix="change --at",
                )
        if not 0 <= gaze_lag_s < np.inf:
            raise InputError("gaze_lag_s", expected="seconds >= 0: earlier gaze only", found=str(gaze_lag_s))
        for name, value in (("fps", fps), ("vjepa_fps", vjepa_fps)):
            if not (np.isfinite(value) and 0 < value <= 1000):
                raise InputError(name, expected="frames a second above 0, at most 1000", found=str(value))

    def _read(
        self, asked_s: np.ndarray, *, max_pixels: int | None = None, decode_from_s: float = 0.0
    ) -> Iterator[tuple[int, Frame]]:
        """(row, the frame on display at that time); before `decode_from_s` with a blank image."""
        known = self._frame_times_s
        first = int(np.searchsorted(asked_s, decode_from_s, side="left")) if known.size else 0
        if first:
            blank = blank_frames((*self._frame_size_px(max_pixels), 3))
            ends = np.append(known[1:], self.end_s)
            for row, time_s in enumerate(asked_s[:first].tolist()):
                yield row, Frame(time_s, float(ends[np.searchsorted(known, time_s)]) - time_s, blank)
        if first == len(asked_s):
            return
        for row, frame in self._frames.read_at(asked_s[first:], max_pixels=max_pixels):
            if known.size and frame.time_s == known[-1]:  # from the packet, as without decoding
                frame = replace(frame, duration_s=self.end_s - frame.time_s)
            yield first + row, frame

    def _frame_size_px(self, max_pixels: int | None) -> tuple[int, int]:
        """(height, width) of decoded frames."""
        height, width = self.info.height_px, self.info.width_px
        if self.info.rotation_deg in (90, 270):  # frames are scaled as stored, then turned
            return size_within(height, width, max_pixels)
        width, height = size_within(width, height, max_pixels)
        return height, width


def open_recording(
    video: str | Path,
    gaze: str | Path | None = None,
    *,
    format: str | None = None,
    y_origin: Any = None,
    gaze_offset_s: float | None = None,
    detector: str | None = None,
    detector_parameters: Mapping[str, Any] | None = None,
    backend: Backend = "pyav",
    **reader_options: Any,
) -> Recording:
    """Opens a video and, when given, its gaze on the video's clock.

    Args:
        video: any file that FFmpeg reads.
        gaze: the tracker's file or folder; None for a video without gaze.
        format: the tracker's format; recognised by content when None (`stream.trackers.FORMATS`).
        y_origin: "top" or "bottom", where the file does not say.
        gaze_offset_s: added to every gaze time.
        detector: "device", "file", "ivt" or "streamgaze"; default: what the file brings, else ivt.
        reader_options: further arguments of `stream.trackers.read_gaze` (frame_size_px, calibration, columns, ...);
            its `offset_s` is `gaze_offset_s` here.

    Raises:
        InputError, MissingExtraError: as `probe` and `read_gaze`.
    """
    found = None
    if "offset_s" in reader_options:
        raise InputError("open_recording", expected="gaze_offset_s=", found="offset_s=", fix="rename the argument")
    if gaze is not None:
        options = {**_frame_clock(video, gaze, format, reader_options), **reader_options}
        read = partial(read_gaze, gaze, format=format, y_origin=y_origin, offset_s=gaze_offset_s)
        try:
            found = read(**options)
        except FrameSizeNeeded:  # only now: a device that knows its own frame must not be overruled by a scaled video
            info = probe(video)
            found = read(**{**options, "frame_size_px": (info.width_px, info.height_px)})
    return Recording(Path(video), found, detector=detector, parameters=detector_parameters, backend=backend)


def _frame_clock(
    video: str | Path, gaze: str | Path, format: str | None, reader_options: Mapping[str, Any]
) -> dict[str, Any]:
    """The video's own frame times for formats that count frames, if this video has the rate they count at."""
    if reader_options.get("columns") or reader_options.get("frame_times_s") is not None:
        return {}  # named columns are plain CSV; given times are the caller's
    nominal = COUNTS_FRAMES_AT_FPS.get(format or recognise(Path(gaze)).name)
    if nominal is None or not abs(probe(video).fps / nominal - 1) < 0.01:
        return {}
    return {"frame_times_s": frame_times(video)}
