"""How the picture moves between consecutive frames: globally, and on a coarse grid of cells. numpy only, no OpenCV.

Phase correlation (Kuglin and Hines 1975) finds the whole-pixel shift of the frame; one step of Lucas-Kanade (1981), in
its symmetric form (gradients of the mean of both frames), then finds what is left in each cell, pulled towards the
global shift where a cell has too little texture to tell. Enough for head motion at video rate on frames of about 160
pixels; not an optical flow for small moving things.

Shapes: F frames, P = F - 1 pairs, R C grid rows and columns. Displacements are in frame widths (x right, y down), so
that both axes have one scale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

CELL_PX = 20
MIN_TEXTURE = 2.0  # root mean square of the grey gradients, grey levels a pixel
MIN_MATCH = 0.6  # correlation of the two frames after the shift


@dataclass(frozen=True, eq=False)
class SceneMotion:
    """Motion of the picture.

    Attributes:
        t_s: (F,) frame times, seconds.
        cells: (P, R, C, 2) displacement of each cell from frame i to i + 1, frame widths.
        trusted: (P,) both frames have texture and match after the shift (no cut, no blackout).
        textured_share: share of frames with enough texture to follow.
        aspect: frame height / width.
    """

    t_s: np.ndarray
    cells: np.ndarray
    trusted: np.ndarray
    textured_share: float
    aspect: float

    @property
    def overall(self) -> np.ndarray:
        """(P, 2) median over the cells."""
        return np.median(self.cells, axis=(1, 2))

    def at(self, pair: np.ndarray, xy_norm: np.ndarray) -> np.ndarray:
        """Displacement (..., 2) at normalised places (..., 2) in pairs (...): bilinear in the grid, edges repeated."""
        rows, columns = self.cells.shape[1:3]
        u = np.clip(xy_norm[..., 0] * columns - 0.5, 0, columns - 1)
        v = np.clip(xy_norm[..., 1] * rows - 0.5, 0, rows - 1)
        u, v = np.nan_to_num(u), np.nan_to_num(v)
        left, top = np.minimum(u.astype(int), columns - 2), np.minimum(v.astype(int), rows - 2)
        a, b = (u - left)[..., None], (v - top)[..., None]
        upper = self.cells[pair, top, left] * (1 - a) + self.cells[pair, top, left + 1] * a
        lower = self.cells[pair, top + 1, left] * (1 - a) + self.cells[pair, top + 1, left + 1] * a
        return upper * (1 - b) + lower * b


def to_grey(image: np.ndarray, *, width_px: int = 160) -> np.ndarray:
    """(H, W, 3) uint8 -> (h, w) float32, w about `width_px` by averaging whole blocks of pixels (never enlarged)."""
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    block = max(1, round(grey.shape[1] / width_px))
    height, width = (side // block * block for side in grey.shape)
    return grey[:height, :width].reshape(height // block, block, width // block, block).mean(axis=(1, 3))


def estimate_motion(frames: Iterable[tuple[float, np.ndarray]]) -> SceneMotion | None:
    """Motion of a clip given as (time_s, (H, W, 3) uint8) in order; None with fewer than two frames of 40 pixels.

    Holds two frames at a time.
    """
    times: list[float] = []
    cells: list[np.ndarray] = []
    trusted: list[bool] = []
    textured: list[bool] = []
    last: np.ndarray | None = None
    aspect = 1.0
    window = np.zeros((0, 0), dtype=np.float32)
    spectrum = last_spectrum = np.zeros(0)
    for time_s, image in frames:
        grey = to_grey(image)
        if min(grey.shape) < 2 * CELL_PX:
            return None
        if window.shape != grey.shape:
            window = np.outer(np.hanning(grey.shape[0]), np.hanning(grey.shape[1])).astype(np.float32)
            aspect, last = image.shape[0] / image.shape[1], None
            times, cells, trusted, textured = [], [], [], []
        spectrum = np.fft.rfft2((grey - grey.mean()) * window)
        gradient = np.sqrt(np.mean(np.diff(grey, axis=0) ** 2) + np.mean(np.diff(grey, axis=1) ** 2))
        times.append(float(time_s))
        textured.append(bool(gradient >= MIN_TEXTURE))
        if last is not None:
            shift = _whole_pixel_shift(last_spectrum, spectrum, grey.shape)
            field, match = _refine(last, grey, shift)
            cells.append(field / grey.shape[1])
            trusted.append(textured[-1] and textured[-2] and match >= MIN_MATCH)
        last, last_spectrum = grey, spectrum
    if len(times) < 2:
        return None
    return SceneMotion(np.array(times), np.array(cells), np.array(trusted), float(np.mean(textured)), aspect)


def _whole_pixel_shift(before: np.ndarray, after: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    """(dx, dy) by which the content moved, from the two spectra: the peak of their phase correlation.

    The exponent 0.7 keeps some weight on strong frequencies, as plain whitening follows compression noise.
    """
    cross = after * np.conj(before)
    surface = np.fft.irfft2(cross / (np.abs(cross) ** 0.7 + 1e-6), s=shape)
    row, column = np.unravel_index(int(surface.argmax()), shape)
    dy, dx = int(row), int(column)
    return dx - shape[1] * (dx > shape[1] // 2), dy - shape[0] * (dy > shape[0] // 2)


def _refine(before: np.ndarray, after: np.ndarray, shift: tuple[int, int]) -> tuple[np.ndarray, float]:
    """(R, C, 2) displacement in pixels of each cell, and how well the frames match after the whole-pixel shift."""
    dx, dy = shift
    height, width = before.shape
    rows, columns = height // CELL_PX, width // CELL_PX
    field = np.broadcast_to(np.array([dx, dy], dtype=np.float32), (rows, columns, 2)).copy()
    if abs(dx) > width // 3 or abs(dy) > height // 3:
        return field, 0.0
    y0, y1, x0, x1 = max(0, -dy), min(height, height - dy), max(0, -dx), min(width, width - dx)
    a, b = before[y0:y1, x0:x1], after[y0 + dy : y1 + dy, x0 + dx : x1 + dx]
    difference = b - a
    difference -= difference.mean()
    spread = float(a.std() * b.std())
    match = float(np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else 0.0
    mean = (a + b) / 2
    gx, gy = np.zeros_like(mean), np.zeros_like(mean)
    gx[:, 1:-1], gy[1:-1] = (mean[:, 2:] - mean[:, :-2]) / 2, (mean[2:] - mean[:-2]) / 2
    products = np.zeros((5, height, width), dtype=np.float32)
    for plane, product in enumerate((gx * gx, gx * gy, gy * gy, gx * difference, gy * difference)):
        products[plane, y0:y1, x0:x1] = product
    sums = products[:, : rows * CELL_PX, : columns * CELL_PX].reshape(5, rows, CELL_PX, columns, CELL_PX).sum((2, 4))
    whole = sums.sum(axis=(1, 2))
    # A cell is seen together with its eight neighbours, at half weight.
    padded = np.pad(sums, ((0, 0), (1, 1), (1, 1)))
    around = sum(padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    xx, xy, yy, xt, yt = 0.5 * sums + 0.5 * np.asarray(around)
    ux, uy = _solve(whole[0], whole[1], whole[2], whole[3], whole[4])
    # Ridge towards the global residual: the weight of a tenth of a typical cell's texture.
    ridge = 0.1 * (whole[0] + whole[2]) / (rows * columns) * 2.5 + 1e-3
    field[..., 0] += ux
    field[..., 1] += uy
    vx, vy = _solve(xx + ridge, xy, yy + ridge, xt + xx * ux + xy * uy, yt + xy * ux + yy * uy)
    field[..., 0] += np.clip(vx, -1.5, 1.5)
    field[..., 1] += np.clip(vy, -1.5, 1.5)
    return field, match


def _solve(
    xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, xt: np.ndarray, yt: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The Lucas-Kanade normal equations: displacement (u, v) that explains the temporal differences; clipped to 1.5."""
    determinant = xx * yy - xy * xy
    safe = np.where(np.abs(determinant) > 1e-6, determinant, np.inf)
    u, v = -(yy * xt - xy * yt) / safe, -(xx * yt - xy * xt) / safe
    return np.clip(u, -1.5, 1.5), np.clip(v, -1.5, 1.5)
