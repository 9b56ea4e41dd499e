"""`gazeqwen gaze-target`: where other visible people look, in a picture or over a video, as JSON and drawn.

    heads of a frame (file, by hand, or a detector) + frame --> GazeTargetEstimator --> smoothing per person --> report

Causal: a frame's result uses that frame, the boxes at or before it, and earlier results of the same person; pushing
frames one at a time gives what pushing them together gives. The wearer's own gaze has no part in it.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gazeqwen.errors import InputError
from gazeqwen.gaze_target import Box, GazeTargetEstimator, require_box
from gazeqwen.staged import staged
from stream.head_boxes import HeadBox, HeadFile, read_head_boxes
from stream.target_overlay import draw_targets
from stream.target_report import FrameTargets, build_report
from stream.target_smoothing import build_smoother
from stream.video import Frame, iter_frames, probe
from stream.video_writer import VideoWriter

REPORT, DRAWN_VIDEO, DRAWN_PICTURE = "targets.json", "overlay.mp4", "overlay.png"
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
FRAMES_AT_ONCE = 8

# The heads of a frame, by its time and its (H, W, 3) image; None where nothing is known about it.
HeadSource = Callable[[float, np.ndarray], tuple[HeadBox, ...] | None]


class TargetStream:
    """Gaze targets of one video, as its frames come in. `smoothing` is a name of `target_smoothing.SMOOTHINGS`.

    Raises:
        InputError: no such smoothing.
    """

    def __init__(self, estimator: GazeTargetEstimator, *, smoothing: str = "none") -> None:
        self._estimator, self._smoother = estimator, build_smoother(smoothing)
        self._newest_s = -math.inf

    def push(self, frames: Sequence[tuple[float, np.ndarray, tuple[HeadBox, ...] | None]]) -> list[FrameTargets]:
        """The results of some next frames, each (time in seconds, (H, W, 3) uint8 RGB, its heads or None).

        Raises:
            InputError: times that do not ascend, an image or a box that is none.
        """
        for t_s, _, _ in frames:
            if not t_s > self._newest_s:
                raise InputError("frame times", expected=f"a time after {self._newest_s:g} s", found=f"{t_s:g} s")
            self._newest_s = t_s
        boxes = [[head.box_xyxy_norm for head in heads or ()] for _, _, heads in frames]
        answers = self._estimator([image for _, image, _ in frames], boxes)
        return [
            FrameTargets(t_s, heads, self._smoother.update(t_s, [head.track_id for head in heads or ()], targets))
            for (t_s, _, heads), targets in zip(frames, answers, strict=True)
        ]


@dataclass(frozen=True)
class Heads:
    """Where the heads come from: `at` gives a frame's, `about` says it in the report."""

    at: HeadSource
    about: dict[str, Any]
    file: HeadFile | None = None

    @classmethod
    def given(cls, *, file: Path | None = None, boxes: Sequence[Box] = ()) -> Heads:
        """From a file, or boxes by hand that hold for every frame, or neither: then the whole scene is asked about.

        Raises:
            InputError: as `read_head_boxes` and `require_box`; both are given.
        """
        if file is not None and boxes:
            raise InputError("heads", expected="a file or boxes", found="both")
        if file is not None:
            read = read_head_boxes(file)
            return cls(
                lambda t_s, _: read.at(t_s), {"source": "file", "path": str(file), "tracked": read.tracked}, read
            )
        if boxes:
            heads = tuple(HeadBox(require_box(box, f"head box {n}"), str(n)) for n, box in enumerate(boxes, 1))
            return cls(lambda *_: heads, {"source": "by hand", "path": None, "tracked": False})
        return cls(lambda *_: (HeadBox(None),), {"source": "none", "path": None, "tracked": False})


def read_picture(path: str | Path) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB of a picture, upright; None for a file that is none (a video, perhaps).

    Raises:
        InputError: no such file, a damaged picture, or one of several.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise InputError(path, expected="a video or a picture", found=found, fix="check the path")
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            if getattr(picture, "is_animated", False) and picture.format != "MPO":  # an MPO's second image is a preview
                raise InputError(path, expected="one picture or a video", found="a file of several pictures")
            return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
    except UnidentifiedImageError:
        return None
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(path, expected="a readable picture", found=str(error)[:100]) from error


def require_heads_in(heads: Heads, path: Path, *, end_s: float | None) -> None:
    """Whether a file of heads can belong to a video that ends at `end_s`, or to a picture (None).

    Raises:
        InputError: several entries for a picture; all entries after the video's end.
    """
    if heads.file is None:
        return
    times_s = heads.file.times_s
    if end_s is None and len(times_s) != 1:
        raise InputError(heads.file.path, expected=f"one entry, for the picture {path.name}", found=f"{len(times_s)}")
    if end_s is not None and times_s[0] >= end_s:
        raise InputError(
            heads.file.path,
            expected=f"t_s within the video, 0 to {end_s:.2f} s",
            found=f"none before {times_s[0]:.2f} s",
            fix="t_s is counted from the video's first frame",
        )


def picture_targets(
    path: Path, image: np.ndarray, estimator: GazeTargetEstimator, heads: Heads, *, out: Path | None = None
) -> dict[str, Any]:
    """Where the people in a picture look; the report, as `video_targets`.

    Args:
        image: of `read_picture`.
        out: a folder for targets.json and overlay.png.

    Raises:
        InputError: as `require_heads_in`, or `out` can't be written.
    """
    require_heads_in(heads, path, end_s=None)
    t_s = 0.0 if heads.file is None else float(heads.file.times_s[0])
    (found,) = TargetStream(estimator).push([(0.0, image, heads.at(t_s, image))])
    size_px = (image.shape[1], image.shape[0])
    report = build_report(
        path, "picture", [found.to_dict()], size_px=size_px, estimator=estimator, heads=heads.about, smoothing="none"
    )
    if out is not None:
        drawn = io.BytesIO()
        Image.fromarray(draw_targets(image, found.heads, found.targets)).save(drawn, format="PNG")
        _write(out / DRAWN_PICTURE, drawn.getvalue())
        _write_report(out, report, DRAWN_PICTURE)
    return report


def video_targets(
    path: Path,
    estimator: GazeTargetEstimator,
    heads: Heads,
    *,
    smoothing: str = "none",
    fps: float | None = None,
    out: Path | None = None,
    progress: Callable[[float], object] = lambda _: None,
) -> dict[str, Any]:
    """Where the people in a video look, frame by frame.

    Args:
        smoothing: a name of `target_smoothing.SMOOTHINGS`.
        fps: frames a second that are looked at; None looks at every one. In the drawn video the frames between show the
            newest result.
        out: a folder for targets.json and overlay.mp4; None writes nothing.
        progress: called with the time that is reached, seconds.

    Returns:
        The report, plain JSON: what was asked, counts, `people`, and `targets`, one entry a frame that was looked at.

    Raises:
        InputError: the video can't be read, no such smoothing, heads that can't belong to it, `out` can't be written.
    """
    info = probe(path)
    require_heads_in(heads, path, end_s=info.duration_s)
    if out is not None and (out / DRAWN_VIDEO).resolve() == path.resolve():
        raise InputError(out / DRAWN_VIDEO, expected="another file than the video", found="it", fix="change --out")
    stream = TargetStream(estimator, smoothing=smoothing)
    frames = iter_frames(path)
    first = next(frames)
    size_px = (first.image.shape[1], first.image.shape[0])
    rows: list[dict[str, Any]] = []  # without heatmaps: those of an hour would fill the memory
    newest: FrameTargets | None = None
    with ExitStack() as opened:
        writer = None
        if out is not None:
            writer = opened.enter_context(VideoWriter(out / DRAWN_VIDEO, size_px=size_px))
        marked = _looked_at(chain([first], frames), fps)
        while chunk := list(islice(marked, FRAMES_AT_ONCE)):
            wanted = [frame for frame, looked_at in chunk if looked_at]
            new = iter(stream.push([(f.time_s, f.image, heads.at(f.time_s, f.image)) for f in wanted]))
            for frame, looked_at in chunk:
                if looked_at:
                    newest = next(new)
                    rows.append(newest.to_dict())
                if writer is not None and newest is not None:  # the first frame is always looked at
                    image = draw_targets(frame.image, newest.heads, newest.targets, t_s=frame.time_s)
                    writer.write(image, time_s=frame.time_s)
                progress(frame.time_s)
    report = build_report(
        path, "video", rows, size_px=size_px, estimator=estimator, heads=heads.about, smoothing=smoothing
    )
    if out is not None:
        _write_report(out, report, DRAWN_VIDEO)
    return report


def _looked_at(frames: Iterator[Frame], fps: float | None) -> Iterator[tuple[Frame, bool]]:
    """Every frame, and whether it is the first of its 1 / fps seconds."""
    last = -1
    for frame in frames:
        turn = last + 1 if fps is None else math.floor(frame.time_s * fps + 1e-6)
        yield frame, turn > last
        last = max(last, turn)


def _write_report(out: Path, report: dict[str, Any], drawn: str) -> None:
    report["written"] = [str(out / REPORT), str(out / drawn)]
    _write(out / REPORT, (json.dumps(report, allow_nan=False) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """The whole file or none of it. Raises InputError when it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged(path) as staging:
            staging.write_bytes(content)
    except OSError as error:
        raise InputError(path, expected="a file that can be written", found=error.strerror or str(error)) from error
