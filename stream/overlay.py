"""Gaze drawn on frames: the dot the tracker saw, its trail, the fixation around it, and a line of text.

One drawing for the command line, the demo and the app. Shapes are anti-aliased by their signed distance in numpy, on
the few pixels they touch; text is Pillow's built-in font, so nothing has to be installed. Frames are uint8 RGB and are
never changed in place. A frame without gaze says so ("no gaze"): no dot is drawn from an older sample than the
tolerance allows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeSamples, asof
from stream.video import iter_frames, probe
from stream.video_writer import VideoWriter

GAZE_TOLERANCE_S = 0.05
TRAIL_S = 0.3
RED, WHITE, BLACK, YELLOW = (235, 45, 60), (255, 255, 255), (20, 20, 20), (255, 205, 40)
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
    unit = max(1.0, float(size.min()) / 240)
    if now_s is None:
        now_s = float(samples.t_s[-1]) if len(samples) else 0.0
    row = int(asof(samples.t_s, now_s, tolerance_s=tolerance_s, on_missing="mark")[0])
    seen = row >= 0 and bool(samples.valid[row])
    text_px = max(9, round(11 * unit))
    bar_px = round(1.6 * text_px)
    # The bar lies under the marks: a dot at the frame's lower edge stays visible.
    out[-bar_px:] = (out[-bar_px:] * 0.42).astype(np.uint8)
    labels = []
    if fixation is not None:
        for start_s, xy_norm in zip(fixation.start_s, fixation.xy_norm, strict=True):
            centre, spent_s = xy_norm * size, max(0.0, now_s - float(start_s))
            radius = (11 + 15 * min(1.0, spent_s / FULL_RING_S)) * unit
            _ring(out, centre, radius, 4.0 * unit, BLACK, opacity=0.5)
            _ring(out, centre, radius, 2.0 * unit, YELLOW)
            if ((centre >= 0) & (centre < size)).all():
                labels.append((centre + np.array([radius + 3 * unit, -radius]), f"{1000 * spent_s:.0f} ms"))
    if seen:
        trail = samples.between(now_s - TRAIL_S, float(samples.t_s[row]))
        _trail(out, trail, size, now_s=now_s, unit=unit)
        centre = samples.xy_norm[row] * size
        _disc(out, centre, 6.5 * unit, BLACK, opacity=0.6)
        _disc(out, centre, 5.5 * unit, WHITE)
        _disc(out, centre, 4.0 * unit, RED)
    state = _state_text(samples, row if seen else -1)
    line = "   ".join(part for part in (text, f"{now_s:.2f} s", state) if part)
    return _write(out, line, labels, text_px=text_px, bar_px=bar_px, alarm=not seen)


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


def _blend(image: np.ndarray, low: np.ndarray, cover: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Mixes `colour` into the pixels from `low` (x, y) on, by `cover` (h, w) in [0, 1]."""
    part = image[low[1] : low[1] + cover.shape[0], low[0] : low[0] + cover.shape[1]]
    weight = cover[..., None]
    part[...] = (part * (1 - weight) + np.array(colour) * weight + 0.5).astype(np.uint8)


def _grid(image: np.ndarray, corner_a: np.ndarray, corner_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels of a box, cut to the image: its first pixel (x, y), and pixel centres u (1, w), v (h, 1)."""
    size = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(np.minimum(corner_a, corner_b)), 0, size).astype(int)
    high = np.clip(np.ceil(np.maximum(corner_a, corner_b)) + 1, low, size).astype(int)
    return low, np.arange(low[0], high[0])[None, :] + 0.5, np.arange(low[1], high[1])[:, None] + 0.5


def _disc(
    image: np.ndarray, centre: np.ndarray, radius: float, colour: tuple[int, int, int], *, opacity: float = 1.0
) -> None:
    low, u, v = _grid(image, centre - radius - 1, centre + radius + 1)
    distance = np.hypot(u - centre[0], v - centre[1]) - radius
    _blend(image, low, opacity * np.clip(0.5 - distance, 0, 1), colour)


def _ring(
    image: np.ndarray,
    centre: np.ndarray,
    radius: float,
    width: float,
    colour: tuple[int, int, int],
    *,
    opacity: float = 1.0,
) -> None:
    low, u, v = _grid(image, centre - radius - width, centre + radius + width)
    distance = np.abs(np.hypot(u - centre[0], v - centre[1]) - radius) - width / 2
    _blend(image, low, opacity * np.clip(0.5 - distance, 0, 1), colour)


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
        _line(image, points[i], points[j], 1.4 * unit, RED, opacity=float(np.clip(0.15 + 0.7 * fade, 0, 1)))


def _line(
    image: np.ndarray, a: np.ndarray, b: np.ndarray, half_width: float, colour: tuple[int, int, int], *, opacity: float
) -> None:
    low, u, v = _grid(image, np.minimum(a, b) - half_width - 1, np.maximum(a, b) + half_width + 1)
    along = b - a
    part = np.clip(((u - a[0]) * along[0] + (v - a[1]) * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(u - a[0] - part * along[0], v - a[1] - part * along[1]) - half_width
    _blend(image, low, opacity * np.clip(0.5 - distance, 0, 1), colour)


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _write(
    image: np.ndarray, line: str, labels: list[tuple[np.ndarray, str]], *, text_px: int, bar_px: int, alarm: bool
) -> np.ndarray:
    """The text line in the bar at the bottom, and labels beside their rings, outlined to be legible anywhere."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    font, outline_px = _font(text_px), max(1, round(text_px / 11))
    colour = YELLOW if alarm else WHITE
    draw.text(
        (0.5 * text_px, height - bar_px / 2),
        line,
        font=font,
        fill=colour,
        anchor="lm",
        stroke_width=outline_px,
        stroke_fill=BLACK,
    )
    for place, text in labels:
        length = draw.textlength(text, font=font)
        x = float(np.clip(place[0], 2, max(2.0, width - length - 2)))
        y = float(np.clip(place[1], 2, max(2.0, height - bar_px - text_px - 2)))
        draw.text((x, y), text, font=font, fill=YELLOW, stroke_width=outline_px, stroke_fill=BLACK)
    return np.array(picture)
