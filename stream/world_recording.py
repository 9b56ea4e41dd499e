"""A tiny world as a recording: frames are drawn when they are asked for, and only those. No file, no codec; the file
that mini-StreamGaze and the demo have of it is written by `write_world_video`.

Steps equal those of the world's mini-StreamGaze files (`gazeqwen data mini`): times, spans and gaze bit for bit, since
numbers are rounded as those files round them; images but for what H.264 loses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.tiny.world import World
from gazeqwen.types import Fixations, GazeSamples
from stream.recording import Recording
from stream.trackers.base import GazeRecording
from stream.video import TIME_TOLERANCE_S, Frame, VideoInfo, write_clip
from stream.video_source import size_within

DECIMALS = 6  # of mini-StreamGaze's gaze and fixation files
CRF, PRESET = 20, "veryfast"  # of its videos


class WorldFrames:
    """The frames of a world, as `stream.recording.FrameSource`."""

    def __init__(self, world: World, path: Path) -> None:
        self._world, self._path, self._times_s = world, path, world.frame_times_s

    def probe(self) -> VideoInfo:
        """What the header of the world's video would say."""
        width, height = self._world.size_px
        count = len(self._times_s)
        return VideoInfo(
            path=self._path,
            width_px=width,
            height_px=height,
            rotation_deg=0,
            fps=self._world.fps,
            frames=count,
            duration_s=count / self._world.fps,
            first_pts_s=0.0,
            codec="world",
        )

    def times_s(self) -> np.ndarray:
        """(F,) seconds."""
        return self._times_s

    def read_at(self, times_s: np.ndarray, *, max_pixels: int | None) -> Iterator[tuple[int, Frame]]:
        """For each time the frame on display then, drawn once however many times share it.

        Raises:
            InputError: `max_pixels` below the frame's: a world is made at the size that is wanted.
        """
        size = self._world.size_px
        if size_within(*size, max_pixels) != size:
            raise InputError(
                self._path,
                expected=f"max_pixels of {size[0] * size[1]} or more",
                found=str(max_pixels),
                fix="make the world with a smaller size_px",
            )
        ends_s = np.append(self._times_s[1:], len(self._times_s) / self._world.fps)
        rows = np.searchsorted(self._times_s, times_s + TIME_TOLERANCE_S, side="right") - 1
        frame: Frame | None = None
        for row, at in enumerate(rows.tolist()):
            time_s = float(self._times_s[at])
            if frame is None or frame.time_s != time_s:
                frame = Frame(time_s, float(ends_s[at]) - time_s, self._world.frame(time_s))
            yield row, frame


class WorldRecording(Recording):
    """`Recording` of a world.

    Args:
        world: as made.
        gaze: what is taken of it, as `gaze_input` of a data set: the tracker's "samples" (fixations are then found in
            them, as in a file), its stored "fixations", or None for a video without gaze.
        name: the video's, and so the recording's; default that of the world's mini-StreamGaze file.
    """

    def __init__(
        self, world: World, *, gaze: Literal["samples", "fixations"] | None = "samples", name: str | None = None
    ) -> None:
        path = Path(name or world_name(world.seed))
        found = None
        if gaze == "samples":
            found = GazeRecording(_stored_samples(world.gaze), None, path, "plain_csv")
        elif gaze == "fixations":
            found = GazeRecording(GazeSamples.build([], []), _stored_fixations(world.fixations), path, "streamgaze")
        super().__init__(path, found, frames=WorldFrames(world, path))
        self.world = world


def world_name(seed: int) -> str:
    """The file name of this world's video in mini-StreamGaze."""
    return f"mini-{seed:08d}.mp4"


def write_world_video(path: str | Path, world: World, *, progress: Callable[[int], Any] | None = None) -> Path:
    """Writes all frames of a world as H.264. `progress` is called with 1 after each frame. Raises as `VideoWriter`."""

    def images() -> Iterator[np.ndarray]:
        for _, image in world.frames():
            yield image
            if progress is not None:
                progress(1)

    return write_clip(path, images(), fps=world.fps, crf=CRF, preset=PRESET)


def _stored_samples(samples: GazeSamples) -> GazeSamples:
    """As written and read as plain CSV: six decimals, no confidence."""
    return GazeSamples.build(
        np.round(samples.t_s, DECIMALS),
        np.round(samples.xy_norm, DECIMALS),
        valid=samples.valid,
        source="plain_csv",
    )


def _stored_fixations(fixations: Fixations) -> Fixations:
    """As written and read as StreamGaze's fixation table."""
    return replace(
        fixations,
        start_s=np.round(fixations.start_s, DECIMALS),
        stop_s=np.round(fixations.stop_s, DECIMALS),
        xy_norm=np.round(fixations.xy_norm, DECIMALS),
        detector="file",
        parameters={"source": "streamgaze"},
    )
