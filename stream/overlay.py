"""Gaze drawn on frames: the dot the tracker saw, its trail, the fixation around it, and a line of text.

One drawing for the command line, the demo and the app (shapes: `drawing.py`). Frames are uint8 RGB and are never
changed in place. A frame without gaze says so ("no gaze"): no dot is drawn from an older sample than the tolerance
allows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeSamples, asof
from stream.drawing import BLACK, RED, WHITE, YELLOW, darken_bar, disc, line, ring, unit_px, write_text
from stream.video import iter_frames, probe
from stream.video_writer import VideoWriter

GAZE_TOLERANCE_S = 0.05
TRAIL_S = 0.3
FULL_RING_S = 1.0  # a fixation of this length or more has the largest ring


def draw_gaze(
    image: np.ndarray,
    samples: GazeSamples,
    fixation: Fixations | None = None,
    *,
    now_s: float | None = None,
    tolerance_s: float = GAZE_TOLERANCE_S,
    text: str = "",
) -> np.ndarray:
    """A copy of `image` with gaze on it.

    Args:
        image: (H, W, 3) uint8 RGB.
        samples: the gaze up to now; the newest at or before `now_s` is the dot, those of the last 0.3 s its trail.
        fixation: those current at `now_s` (usually one): a ring at the centre that grows with the time spent so far,
            and that time in milliseconds.
        now_s: the frame's time; None takes the last sample's.
        tolerance_s: a sample older than this is no gaze of this frame.
        text: put before the time and the gaze in the line at the bottom.

    Raises:
        InputError: the image is not (H, W, 3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("draw_gaze", expected="an (H, W, 3) uint8 RGB image", found=f"{image.shape} {image.dtype}")
    out = image.copy()
    size = np.array([image.shape[1], image.shape[0]])
    unit = unit_px(image)
    if now_s is None:
        now_s = float(samples.t_s[-1]) if len(samples) else 0.0
    row = int(asof(samples.t_s, now_s, tolerance_s=tolerance_s, on_missing="mark")[0])
    seen = row >= 0 and bool(samples.valid[row])
    darken_bar(out)
    labels = []
    if fixation is not None:
        for start_s, xy_norm in zip(fixation.start_s, fixation.xy_norm, strict=True):
            centre, spent_s = xy_norm * size, max(0.0, now_s - float(start_s))
            radius = (11 + 15 * min(1.0, spent_s / FULL_RING_S)) * unit
            ring(out, centre, radius, 4.0 * unit, BLACK, opacity=0.5)
            ring(out, centre, radius, 2.0 * unit, YELLOW)
            if ((centre >= 0) & (centre < size)).all():
                labels.append((centre + np.array([radius + 3 * unit, -radius]), f"{1000 * spent_s:.0f} ms", YELLOW))
    if seen:
        trail = samples.between(now_s - TRAIL_S, float(samples.t_s[row]))
        _trail(out, trail, size, now_s=now_s, unit=unit)
        centre = samples.xy_norm[row] * size
        disc(out, centre, 6.5 * unit, BLACK, opacity=0.6)
        disc(out, centre, 5.5 * unit, WHITE)
        disc(out, centre, 4.0 * unit, RED)
    state = _state_text(samples, row if seen else -1)
    caption = "   ".join(part for part in (text, f"{now_s:.2f} s", state) if part)
    return write_text(out, caption, labels, alarm=not seen)


def write_overlay(
    video_path: str | Path,
    gaze: GazeSamples,
    fixations: Fixations,
    out_path: str | Path,
    *,
    progress: Callable[[float, float], None] | None = None,
    tolerance_s: float = GAZE_TOLERANCE_S,
    max_pixels: int | None = 1280 * 720,
    enlarge: int = 1,
) -> dict[str, int]:
    """Writes the video with its gaze on every frame; the frames keep their times.

    Args:
        progress: called after each frame with (its time, the duration), seconds.
        max_pixels: larger frames are scaled down to it; None keeps them.
        enlarge: each pixel becomes a square of so many, before anything is drawn: for frames too small to look at.

    Returns:
        `frames` written and `frames_without_gaze` among them.

    Raises:
        InputError: the video can't be read, or `out_path` can't be written.
    """
    info = probe(video_path)
    if Path(out_path).resolve() == Path(video_path).resolve():
        raise InputError(out_path, expected="another file than the video", found="the video itself", fix="change --out")
    frames = iter_frames(video_path, max_pixels=max_pixels)
    first = next(frames)
    height_px, width_px = first.image.shape[:2]
    written = without = 0
    with VideoWriter(out_path, size_px=(width_px * enlarge, height_px * enlarge)) as writer:
        for frame in chain([first], frames):
            row = int(asof(gaze.t_s, frame.time_s, tolerance_s=tolerance_s, on_missing="mark")[0])
            current = fixations.take((fixations.start_s <= frame.time_s) & (fixations.stop_s > frame.time_s))
            near = gaze.between(frame.time_s - TRAIL_S - tolerance_s, frame.time_s)
            large = frame.image.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
            image = draw_gaze(large, near, current, now_s=frame.time_s, tolerance_s=tolerance_s)
            writer.write(image, time_s=frame.time_s)
            written += 1
            without += row < 0 or not gaze.valid[row]
            if progress is not None:
                progress(frame.time_s, info.duration_s)
    return {"frames": written, "frames_without_gaze": int(without)}


def _state_text(samples: GazeSamples, row: int) -> str:
    if row < 0:
        return "no gaze"
    x, y = samples.xy_norm[row]
    outside = "" if samples.in_frame[row] else "  off frame"
    return f"gaze {x:.2f}, {y:.2f}{outside}"


def _trail(image: np.ndarray, samples: GazeSamples, size: np.ndarray, *, now_s: float, unit: float) -> None:
    """Lines between neighbouring valid samples, fainter with age; a gap stays a gap."""
    points = samples.xy_norm * size
    # At 200 Hz neighbours lie closer than a pixel: about 60 a second are enough for a smooth line.
    stride = max(1, round(samples.rate_hz / 60)) if len(samples) > 1 else 1
    rows = np.arange(len(samples) - 1, -1, -stride)[::-1]
    for i, j in pairwise(rows):
        if not samples.valid[i : j + 1].all():
            continue
        fade = 1 - (now_s - samples.t_s[i]) / TRAIL_S
        line(image, points[i], points[j], 1.4 * unit, RED, opacity=float(np.clip(0.15 + 0.7 * fade, 0, 1)))
