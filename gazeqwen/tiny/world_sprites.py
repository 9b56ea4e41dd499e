"""How the world's objects look: sixteen nouns as sixteen silhouettes, their states, and the hand.

A sprite is (h, w, 4) float32, colour times cover in [0, 255] and cover in [0, 1]. Shapes are given on [-1, 1] squared,
y down, of the disc that an object is measured by; one list of parts a noun, painted in order. `None` stands for the
object's own colour; other parts have a colour of their own or are a darker or lighter shade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

Rgb = tuple[int, int, int]
Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]
Part = tuple[Mask, Rgb | float | None]  # a float scales the object's colour
COLOURS: dict[str, Rgb] = {
    "red": (205, 45, 45), "green": (60, 165, 70), "blue": (50, 95, 210), "yellow": (245, 210, 50),
    "orange": (245, 135, 30), "purple": (135, 65, 170), "pink": (245, 150, 190), "white": (245, 245, 240),
    "black": (50, 50, 56), "brown": (120, 72, 40),
}  # fmt: skip
DARK, LIGHT, GREEN, STEEL = (40, 40, 44), (246, 242, 228), (60, 130, 50), (175, 180, 188)
EXTENT = 1.45  # half size of a sprite in radii: room for flashes and outlines
FINE = 4  # samples a pixel and axis


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Mask:
    return lambda u, v: ((u - cx) / rx) ** 2 + ((v - cy) / ry) ** 2 <= 1


def box(left: float, top: float, right: float, bottom: float) -> Mask:
    return lambda u, v: (u >= left) & (u <= right) & (v >= top) & (v <= bottom)


def line(x0: float, y0: float, x1: float, y1: float, half: float, half_end: float | None = None) -> Mask:
    """A stroke with round ends, `half` wide on each side, `half_end` at its second end."""
    dx, dy, grow = x1 - x0, y1 - y0, (half if half_end is None else half_end) - half

    def mask(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(u - x0 - along * dx, v - y0 - along * dy) <= half + grow * along

    return mask


def ring(cx: float, cy: float, inner: float, outer: float) -> Mask:
    return lambda u, v: (np.hypot(u - cx, v - cy) >= inner) & (np.hypot(u - cx, v - cy) <= outer)


def both(*masks: Mask) -> Mask:
    return lambda u, v: np.logical_and.reduce([mask(u, v) for mask in masks])


def polygon(*corners: tuple[float, float]) -> Mask:
    """Convex, corners clockwise on the screen."""

    def mask(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        sides = zip(corners, corners[1:] + corners[:1], strict=True)
        return np.logical_and.reduce([(bx - ax) * (v - ay) - (by - ay) * (u - ax) >= 0 for (ax, ay), (bx, by) in sides])

    return mask


PARTS: dict[str, tuple[Part, ...]] = {
    "apple": (
        (line(0.0, -0.3, 0.12, -0.95, 0.08), DARK),
        (ellipse(0.42, -0.75, 0.32, 0.15), GREEN),
        (ellipse(-0.3, 0.2, 0.6, 0.72), None),
        (ellipse(0.3, 0.2, 0.6, 0.72), None),
        (ellipse(-0.45, -0.1, 0.14, 0.2), 1.5),
    ),
    "book": (
        (box(-0.78, -0.95, 0.78, 0.95), None),
        (box(-0.78, -0.95, -0.5, 0.95), 0.6),
        (box(-0.3, -0.6, 0.58, -0.36), LIGHT),
        (box(-0.3, -0.15, 0.4, 0.03), LIGHT),
    ),
    "bottle": (
        (box(-0.17, -0.85, 0.17, 0.0), None),
        (ellipse(0.0, -0.1, 0.42, 0.36), None),
        (box(-0.42, -0.1, 0.42, 0.98), None),
        (box(-0.22, -1.0, 0.22, -0.78), DARK),
        (box(-0.42, 0.25, 0.42, 0.65), LIGHT),
    ),
    "bowl": (
        (both(ellipse(0, -0.3, 0.98, 1.05), box(-1, -0.3, 1, 1)), None),
        (box(-0.4, 0.66, 0.4, 0.88), 0.7),
        (ellipse(0, -0.3, 0.98, 0.26), 0.6),
    ),
    "box": (
        (box(-0.9, -0.8, 0.9, 0.9), None),
        (box(-0.9, -0.8, 0.9, -0.4), 0.7),
        (box(-0.16, -0.8, 0.16, 0.9), LIGHT),
    ),
    "carrot": (
        (line(0, -0.4, -0.45, -0.95, 0.12), GREEN),
        (line(0, -0.4, 0.0, -1.0, 0.12), GREEN),
        (line(0, -0.4, 0.45, -0.95, 0.12), GREEN),
        (line(0, -0.25, 0, 0.92, 0.46, 0.08), None),
        (box(-0.4, 0.0, 0.0, 0.09), 0.65),
        (box(0.0, 0.32, 0.28, 0.41), 0.65),
    ),
    "cheese": (
        (polygon((-0.98, 0.1), (0.65, -0.75), (0.98, 0.1)), 1.25),
        (box(-0.98, 0.1, 0.98, 0.8), None),
        (ellipse(-0.5, 0.45, 0.2, 0.18), 0.5),
        (ellipse(0.15, 0.3, 0.15, 0.13), 0.5),
        (ellipse(0.6, 0.55, 0.18, 0.16), 0.5),
    ),
    "fork": (
        (line(0, 0.0, 0, 0.88, 0.15), None),
        (both(ellipse(0, -0.35, 0.6, 0.55), box(-1, -0.35, 1, 1)), None),
        (box(-0.6, -0.98, -0.36, -0.2), None),
        (box(-0.12, -0.98, 0.12, -0.2), None),
        (box(0.36, -0.98, 0.6, -0.2), None),
    ),
    "jar": (
        (box(-0.68, -0.5, 0.68, 0.95), None),
        (box(-0.76, -0.9, 0.76, -0.5), STEEL),
        (ellipse(0, 0.25, 0.44, 0.4), LIGHT),
    ),
    "kettle": (
        (both(ring(-0.1, -0.25, 0.5, 0.7), box(-1, -1, 1, -0.2)), DARK),
        (polygon((0.3, 0.05), (0.82, -0.4), (1.0, -0.25), (0.5, 0.6)), None),
        (ellipse(-0.1, 0.32, 0.75, 0.62), None),
        (box(-0.75, 0.72, 0.55, 0.94), 0.6),
        (ellipse(-0.1, -0.3, 0.2, 0.15), DARK),
    ),
    "key": (
        (ring(0, -0.5, 0.2, 0.5), None),
        (box(-0.14, -0.1, 0.14, 0.98), None),
        (box(0.0, 0.42, 0.48, 0.6), None),
        (box(0.0, 0.78, 0.48, 0.98), None),
    ),
    "mug": (
        (ring(0.42, 0.05, 0.3, 0.54), None),
        (box(-0.85, -0.75, 0.45, 0.88), None),
        (ellipse(-0.2, -0.75, 0.65, 0.18), 0.55),
    ),
    "pan": (
        (line(0.1, -0.2, 0.85, -0.85, 0.14), DARK),
        (ellipse(-0.28, 0.24, 0.7, 0.7), None),
        (ellipse(-0.28, 0.24, 0.5, 0.5), 0.6),
    ),
    "phone": (
        (box(-0.54, -0.98, 0.54, 0.98), None),
        (box(-0.4, -0.72, 0.4, 0.62), (70, 85, 105)),
        (ellipse(0, 0.8, 0.12, 0.12), LIGHT),
    ),
    "plate": (
        (ellipse(0, 0, 0.98, 0.98), None),
        (ring(0, 0, 0.58, 0.68), 0.65),
    ),
    "spoon": (
        (line(0, -0.2, 0, 0.88, 0.14), None),
        (ellipse(0, -0.52, 0.46, 0.48), None),
        (ellipse(0, -0.5, 0.26, 0.3), 0.6),
    ),
}  # fmt: skip
NOUNS = tuple(PARTS)
MUD, WATER, GLOSS = (88, 62, 30), (90, 190, 250), (235, 250, 255)
SPLASHES = ((-0.35, -0.1, 0.22), (0.25, 0.35, 0.27), (0.05, -0.45, 0.15), (-0.2, 0.65, 0.19), (0.5, 0.0, 0.12))
DROPS = ((-0.35, 0.05), (0.3, -0.15), (0.0, 0.5), (0.55, 0.55), (-0.55, 0.75))
STATE_PARTS: dict[str, tuple[Part, ...]] = {
    "clean": (),
    "dirty": tuple((ellipse(x, y, s, 0.8 * s), MUD) for x, y, s in SPLASHES),
    "wet": tuple(
        part
        for x, y in DROPS
        for part in (
            (ellipse(x, y, 0.17, 0.2), WATER),
            (polygon((x, y - 0.42), (x + 0.12, y - 0.1), (x - 0.12, y - 0.1)), WATER),
            (ellipse(x - 0.05, y + 0.02, 0.06, 0.08), GLOSS),
        )
    ),
    "covered": (
        (both(ellipse(0, -0.45, 0.68, 0.62), box(-1, -1.2, 1, -0.45)), (208, 212, 216)),
        (box(-0.8, -0.5, 0.8, -0.34), (120, 124, 130)),
        (ellipse(0, -1.1, 0.16, 0.14), (95, 98, 104)),
    ),
}
FLASH_COLOURS: dict[str, Rgb] = {
    "red": (255, 0, 0), "green": (0, 235, 0), "blue": (0, 40, 255), "yellow": (255, 240, 0),
}  # fmt: skip
FLASH = ring(0, 0, 1.08, 1.4)


def _shrink(colour: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Fine samples to a sprite."""
    full = np.concatenate([colour * cover[..., None], cover[..., None]], axis=-1).astype(np.float32)
    # The sums of a mean over the fine axes, in its order, six times as fast.
    total = full[::FINE, ::FINE].copy()
    for row in range(FINE):
        for column in range(FINE):
            if row or column:
                total += full[row::FINE, column::FINE]
    return total / np.float32(FINE**2)


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    """A mask with a border of `by` fine samples around it."""
    (height, width), padded = mask.shape, np.pad(mask, by)
    out = mask.copy()
    for dy in (0, by, 2 * by):
        for dx in (0, by, 2 * by):
            out |= padded[dy : dy + height, dx : dx + width]
    return out


def object_sprite(noun: str, colour: str, *, state: str, flash: str | None, radius_px: float) -> np.ndarray:
    """An object, outlined so that it stands out from any ground."""
    half = int(np.ceil(EXTENT * radius_px)) + 1
    at = ((np.arange(2 * half * FINE) + 0.5) / FINE - half) / radius_px
    u, v = at[None, :], at[:, None]
    own = np.array(COLOURS[colour], dtype=np.float32)
    rgb = np.zeros((at.size, at.size, 3), dtype=np.float32)
    cover = np.zeros((at.size, at.size), dtype=bool)

    def lay(parts: Sequence[Part]) -> None:
        for mask, paint in parts:
            where = mask(u, v)
            if isinstance(paint, tuple):
                rgb[where] = paint
            else:  # lit from the left, so that a shade is not mistaken for another object's colour
                shade = (1.0 if paint is None else paint) * (1.08 - 0.22 * u)
                rgb[where] = np.clip(own * np.broadcast_to(shade, cover.shape)[where][:, None], 0, 255)
            cover[...] |= where

    lay(PARTS[noun])
    edge = _grown(cover, 3) & ~cover
    rgb[edge] = 25 if own.mean() > 90 else 225
    cover |= edge
    lay(STATE_PARTS[state])
    if flash is not None:
        lay([(FLASH, FLASH_COLOURS[flash])])
    return _shrink(rgb, cover.astype(np.float32))


def hand_sprite(*, grip: bool, skin: np.ndarray, width_px: int) -> tuple[np.ndarray, np.ndarray]:
    """(sprite, (2,) pixel of its tip): a right hand and forearm from below; closed where it holds something."""
    paints, tip_px = _hand_paints(grip), np.array([-HAND_BOX[0], -HAND_BOX[1]]) * width_px
    palette = np.zeros((2 + len(paints), 3), dtype=np.float32)
    palette[1] = np.clip(0.45 * skin, 0, 255)  # outlines
    for row, (_, paint) in enumerate(paints):
        shade = 1.0 if paint is None else paint
        palette[2 + row] = shade if isinstance(shade, tuple) else np.clip(skin * shade, 0, 255)
    layers = _hand_layers(grip, width_px)
    return _shrink(palette[layers], (layers > 0).astype(np.float32)), tip_px


def _hand_paints(grip: bool) -> list[Part]:
    sleeve = [(line(0.14, 0.36, 0.32, 0.84, 0.062, 0.085), (70, 85, 120))]
    arm = [(line(0.045, 0.13, 0.16, 0.42, 0.042, 0.05), 0.93), (ellipse(0.035, 0.105, 0.058, 0.062), None)]
    if grip:
        fingers = [(line(x0, 0.08, x1, 0.035, 0.0165), shade) for x0, x1, shade in GRIP_FINGERS]
        fingers += [(line(-0.015, 0.12, -0.042, 0.055, 0.017), 1.05)]
    else:
        fingers = [(line(0.02 + 0.5 * x1, 0.09, x1, y1, 0.0145), shade) for x1, y1, shade in OPEN_FINGERS]
        fingers += [(line(-0.015, 0.12, -0.078, 0.075, 0.0165), 1.05)]
    return [*arm, *fingers, *sleeve]


@lru_cache(maxsize=4)
def _hand_layers(grip: bool, width_px: int) -> np.ndarray:
    """(y, x) uint8 of fine samples: what is on top, 0 nothing, 1 an outline, 2 and up a part. No world changes it."""
    left, top, right, bottom = HAND_BOX
    x = (np.arange(int((right - left) * width_px) * FINE) + 0.5) / FINE / width_px + left
    y = (np.arange(int((bottom - top) * width_px) * FINE) + 0.5) / FINE / width_px + top
    layers = np.zeros((y.size, x.size), dtype=np.uint8)
    for row, (mask, _) in enumerate(_hand_paints(grip)):
        where = mask(x[None, :], y[:, None])
        layers[_grown(where, 3) & ~where] = 1
        layers[where] = 2 + row
    layers.flags.writeable = False
    return layers


HAND_BOX = (-0.12, -0.05, 0.42, 0.86)  # left, top, right, bottom around the tip, in frame widths
GRIP_FINGERS = ((0.01, 0.005, 1.0), (0.035, 0.03, 0.97), (0.06, 0.055, 0.94), (0.08, 0.078, 0.9))
OPEN_FINGERS = ((-0.02, 0.0, 1.0), (0.025, -0.02, 0.98), (0.065, -0.01, 0.95), (0.1, 0.02, 0.92))
