"""Gaze targets drawn on a frame: each person's head, what they look at, and how sure that is, in a colour of their own.

A target below the in/out threshold is not drawn as a place: the head is outlined thinly and labelled "outside". A frame
about which nothing is known says so. The frame is never changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image

from gazeqwen.gaze_target import GazeTargets
from stream.drawing import BLACK, WHITE, Colour, darken_bar, disc, line, ring, unit_px, write_text
from stream.head_boxes import HeadBox

IN_FRAME = 0.5  # in/out probability from which a target counts as in the frame
TINT = 0.45  # opacity of a heatmap's highest possible value
COLOURS: tuple[Colour, ...] = (
    (255, 205, 40),
    (70, 200, 250),
    (250, 110, 190),
    (120, 230, 110),
    (255, 140, 60),
    (185, 145, 255),
)


def draw_targets(
    image: np.ndarray, heads: Sequence[HeadBox] | None, targets: GazeTargets, *, t_s: float | None = None
) -> np.ndarray:
    """A copy of `image` with its people's targets on it.

    Args:
        image: (H, W, 3) uint8 RGB.
        heads: in the order of `targets`; None where nothing is known about the frame's heads.
        t_s: the frame's time, for the line at the bottom; None for a picture.
    """
    out = image.copy()
    height, width = image.shape[:2]
    size, unit = np.array([width, height]), unit_px(image)
    known = () if heads is None else heads
    inside = np.ones(len(targets), dtype=bool)
    if targets.inout_probability is not None:
        inside = targets.inout_probability >= IN_FRAME
    colours = [COLOURS[_turn(head, row) % len(COLOURS)] for row, head in enumerate(known)]
    for row in np.flatnonzero(inside):
        _tint(out, targets.heatmap[row], colours[row])
    darken_bar(out)
    labels = []
    for row, head in enumerate(known):
        target = targets.peak_xy_norm[row] * size
        place = target
        if head.box_xyxy_norm is not None:
            box = np.clip(np.array(head.box_xyxy_norm), 0, 1).reshape(2, 2) * size
            place = box[0] + np.array([0, -13 * unit])
            if inside[row]:
                line(out, box.mean(axis=0), target, 1.6 * unit, BLACK, opacity=0.5)
                line(out, box.mean(axis=0), target, 0.9 * unit, colours[row], opacity=1.0)
            _outline(out, box, (1.2 if inside[row] else 0.6) * unit, colours[row])
        if inside[row]:
            disc(out, target, 4.5 * unit, BLACK, opacity=0.6)
            disc(out, target, 3.5 * unit, colours[row])
            ring(out, target, 7.5 * unit, 1.5 * unit, WHITE, opacity=0.8)
        labels.append((place, _label(head, targets, row, inside=bool(inside[row])), colours[row]))
    told = "heads not known" if heads is None else "1 head" if len(heads) == 1 else f"{len(heads)} heads"
    caption = "   ".join(([] if t_s is None else [f"{t_s:.2f} s"]) + [told])
    return write_text(out, caption, labels, alarm=heads is None)


def _turn(head: HeadBox, row: int) -> int:
    """Which colour: by id, so that a person keeps it."""
    name = head.track_id
    if name is None:
        return row
    return int(name) if name.isascii() and name.isdigit() and len(name) < 9 else sum(name.encode())


def _label(head: HeadBox, targets: GazeTargets, row: int, *, inside: bool) -> str:
    parts = [head.track_id] if head.track_id is not None else []
    if targets.inout_probability is not None:
        parts.append(f"{'' if inside else 'outside, '}in {targets.inout_probability[row]:.2f}")
    return " ".join(parts)


def _tint(image: np.ndarray, heatmap: np.ndarray, colour: Colour) -> None:
    """Mixes the colour into the image by the heatmap, stretched over it."""
    height, width = image.shape[:2]
    stretched = Image.fromarray(heatmap).resize((width, height), Image.Resampling.BILINEAR)
    weight = TINT * np.clip(np.asarray(stretched), 0, 1)[..., None]
    image[...] = (image * (1 - weight) + np.array(colour) * weight + 0.5).astype(np.uint8)


def _outline(image: np.ndarray, box: np.ndarray, half_width: float, colour: Colour) -> None:
    """A rectangle between the corners box[0] and box[1] (x, y), pixels."""
    (left, top), (right, bottom) = box
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]])
    for a, b in pairwise(corners):
        line(image, a, b, half_width, colour, opacity=1.0)
