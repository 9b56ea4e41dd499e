"""Shapes and text on frames, for every overlay of the project: anti-aliased by signed distance in numpy, on the few
pixels they touch; text is Pillow's built-in font, so nothing has to be installed.

Images are (H, W, 3) uint8 RGB and are changed in place; places are pixels (x, y), pixel centres at +0.5. What lies
outside the image is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
RED, WHITE, BLACK, YELLOW = (235, 45, 60), (255, 255, 255), (20, 20, 20), (255, 205, 40)


def _blend(image: np.ndarray, low: np.ndarray, cover: np.ndarray, colour: Colour) -> None:
    """Mixes `colour` into the pixels from `low` (x, y) on, by `cover` (h, w) in [0, 1]."""
    part = image[low[1] : low[1] + cover.shape[0], low[0] : low[0] + cover.shape[1]]
    weight = cover[..., None]
    part[...] = (part * (1 - weight) + np.array(colour) * weight + 0.5).astype(np.uint8)


def _pixels(image: np.ndarray, corner_a: np.ndarray, corner_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels of a box, cut to the image: its first pixel (x, y), and pixel centres u (1, w), v (h, 1)."""
    size = np.array([image.shape[1], image.shape[0]])
    low = np.clip(np.floor(np.minimum(corner_a, corner_b)), 0, size).astype(int)
    high = np.clip(np.ceil(np.maximum(corner_a, corner_b)) + 1, low, size).astype(int)
    return low, np.arange(low[0], high[0])[None, :] + 0.5, np.arange(low[1], high[1])[:, None] + 0.5


def disc(image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour, *, opacity: float = 1.0) -> None:
    """A filled circle."""
    low, u, v = _pixels(image, centre - radius - 1, centre + radius + 1)
    distance = np.hypot(u - centre[0], v - centre[1]) - radius
    _blend(image, low, opacity * np.clip(0.5 - distance, 0, 1), colour)


def ring(
    image: np.ndarray,
    centre: np.ndarray,
    radius: float,
    width: float,
    colour: Colour,
    *,
    opacity: float = 1.0,
) -> None:
    """A circle of this line width."""
    low, u, v = _pixels(image, centre - radius - width, centre + radius + width)
    distance = np.abs(np.hypot(u - centre[0], v - centre[1]) - radius) - width / 2
    _blend(image, low, opacity * np.clip(0.5 - distance, 0, 1), colour)


def line(image: np.ndarray, a: np.ndarray, b: np.ndarray, half_width: float, colour: Colour, *, opacity: float) -> None:
    """A straight line with round ends."""
    low, u, v = _pixels(image, np.minimum(a, b) - half_width - 1, np.maximum(a, b) + half_width + 1)
    along = b - a
    part = np.clip(((u - a[0]) * along[0] + (v - a[1]) * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(u - a[0] - part * along[0], v - a[1] - part * along[1]) - half_width
    _blend(image, low, opacity * np.clip(0.5 - distance, 0, 1), colour)


def unit_px(image: np.ndarray) -> float:
    """Pixels that are to overlays what one pixel is at 240 lines."""
    return max(1.0, min(image.shape[:2]) / 240)


def darken_bar(image: np.ndarray) -> None:
    """Makes the bar at the bottom for `write_text`. Called before the marks: one at the lower edge stays visible."""
    bar_px = _text_and_bar_px(image)[1]
    image[-bar_px:] = (image[-bar_px:] * 0.42).astype(np.uint8)


def write_text(
    image: np.ndarray, caption: str, labels: Sequence[tuple[np.ndarray, str, Colour]], *, alarm: bool
) -> np.ndarray:
    """A copy of the image with the caption in the bar at the bottom (yellow for an alarm), and labels at their places,
    outlined to be legible anywhere and kept inside the image."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    text_px, bar_px = _text_and_bar_px(image)
    font, outline_px = _font(text_px), max(1, round(text_px / 11))
    draw.text(
        (0.5 * text_px, height - bar_px / 2),
        caption,
        font=font,
        fill=YELLOW if alarm else WHITE,
        anchor="lm",
        stroke_width=outline_px,
        stroke_fill=BLACK,
    )
    for place, text, colour in labels:
        length = draw.textlength(text, font=font)
        x = float(np.clip(place[0], 2, max(2.0, width - length - 2)))
        y = float(np.clip(place[1], 2, max(2.0, height - bar_px - text_px - 2)))
        draw.text((x, y), text, font=font, fill=colour, stroke_width=outline_px, stroke_fill=BLACK)
    return np.array(picture)


def _text_and_bar_px(image: np.ndarray) -> tuple[int, int]:
    text_px = max(9, round(11 * unit_px(image)))
    return text_px, round(1.6 * text_px)


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
