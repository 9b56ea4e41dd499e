"""The foveal field of view around gaze: its radius, what lies in it, and the two pictures a captioner is shown.

Source: StreamGaze 07b8a44, `pipeline/step2_egtea_gaze_object_internvl.py` (13 degrees of a 90 degree frame) and
`pipeline/preprocess/internvl_processor.py` (`crop_gaze_fov`, `mask_gaze_fov`). There "in the field of view" is a square
crop of side 2 r and "outside" is the frame with a circle of radius r blacked out, so the corners between them are in
both pictures. Under the rules `streamgaze` the region is that square; under `causal` it is the circle.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gazeqwen.errors import InputError

RADIUS_DEG = 13.0
HFOV_DEG = 90.0
Shape = Literal["square", "circle"]


def radius_px(width_px: int, *, hfov_deg: float = HFOV_DEG, radius_deg: float = RADIUS_DEG) -> int:
    """The radius in whole pixels of a frame `width_px` wide that spans `hfov_deg` degrees.

    Raises:
        InputError: a width or angle that is not positive, or a field of view of 180 degrees and more.
    """
    if width_px < 1 or not 0 < hfov_deg < 180 or not radius_deg > 0:
        raise InputError(
            "field of view",
            expected="a positive width and radius, and a horizontal field of view of 0 to 180 degrees",
            found=f"{width_px} px, {radius_deg:g} and {hfov_deg:g} degrees",
            fix="set hfov_deg in recordings.json",
        )
    return int(radius_deg * (width_px / hfov_deg))


def crop_square(image: np.ndarray, xy_norm: tuple[float, float], radius_px: int) -> np.ndarray:
    """The square of side 2 `radius_px` around gaze, cut at the frame's edges: (h, w, 3), at least one pixel."""
    height, width = image.shape[:2]
    x, y = _pixel(xy_norm, width, height)
    top, left = min(max(0, y - radius_px), height - 1), min(max(0, x - radius_px), width - 1)
    return image[top : max(top + 1, min(height, y + radius_px)), left : max(left + 1, min(width, x + radius_px))]


def mask_circle(image: np.ndarray, xy_norm: tuple[float, float], radius_px: int) -> np.ndarray:
    """A copy of the frame with the circle around gaze black. OpenCV's circle may differ in pixels of its border."""
    height, width = image.shape[:2]
    x, y = _pixel(xy_norm, width, height)
    inside = (np.arange(width) - x) ** 2 + (np.arange(height)[:, None] - y) ** 2 <= radius_px**2
    masked = image.copy()
    masked[inside] = 0
    return masked


def in_region(
    box_norm: np.ndarray, xy_norm: tuple[float, float], *, size_px: tuple[int, int], radius_px: int, shape: Shape
) -> bool:
    """Whether some of a box (x0, y0, x1, y1) lies in the square or circle around gaze. `size_px`: (width, height)."""
    dx, dy = gap_px(box_norm, xy_norm, size_px=size_px)
    return max(dx, dy) < radius_px if shape == "square" else dx * dx + dy * dy <= radius_px * radius_px


def gap_px(box_norm: np.ndarray, xy_norm: tuple[float, float], *, size_px: tuple[int, int]) -> tuple[float, float]:
    """Horizontal and vertical distance in pixels from gaze to a box; (0, 0) inside it."""
    x0, y0, x1, y1 = (float(v) for v in box_norm)
    x, y = xy_norm
    return max(x0 - x, 0.0, x - x1) * size_px[0], max(y0 - y, 0.0, y - y1) * size_px[1]


def _pixel(xy_norm: tuple[float, float], width: int, height: int) -> tuple[int, int]:
    return int(xy_norm[0] * width), int(xy_norm[1] * height)
