"""Painting the procedural world of `scene.py` and looking at it: arrays only, positions in frame widths or pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORLD_SIZE = (3.2, 2.1)  # frame widths, x and y
EDGE_Y = 0.85  # where the wall meets the worktop


@dataclass(frozen=True)
class SceneObject:
    """Something to look at: `xy_world` its centre and `half_size` in frame widths."""

    name: str
    shape: str
    colour: tuple[int, int, int]
    xy_world: tuple[float, float]
    half_size: tuple[float, float]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Smooth noise in [-1, 1]: a coarse random grid of `cells`, interpolated to `shape`."""
    grid = rng.uniform(-1, 1, (cells[0] + 1, cells[1] + 1))
    rows = np.linspace(0, cells[0], shape[0])
    columns = np.linspace(0, cells[1], shape[1])
    wide = np.stack([np.interp(columns, np.arange(cells[1] + 1), line) for line in grid])
    low = np.minimum(rows.astype(int), cells[0] - 1)
    part = (rows - low)[:, None]
    return wide[low] * (1 - part) + wide[low + 1] * part


def _cover(distance_px: np.ndarray) -> np.ndarray:
    """Share of a pixel inside a shape, from its signed distance (anti-aliasing)."""
    return np.clip(0.5 - distance_px, 0, 1)[..., None]


def paint(rng: np.random.Generator, objects: tuple[SceneObject, ...], *, px_per_width: int) -> np.ndarray:
    """(Hw, Ww, 3) float32 in [0, 255]: tiled wall, wooden worktop, objects with shadow, light and a label."""
    shape = (round(WORLD_SIZE[1] * px_per_width), round(WORLD_SIZE[0] * px_per_width))
    y, x = ((np.arange(n) + 0.5) / px_per_width for n in shape)
    tile = 0.16
    column, row = np.floor(x / tile).astype(int), np.floor(y / tile).astype(int)
    tiles = rng.normal(0, 9, (row.max() + 1, column.max() + 1))[row][:, column]
    grout = np.minimum((x % tile)[None, :], (y % tile)[:, None]) < 0.008
    wall_colour = np.array([205, 212, 205]) + rng.uniform(-25, 15, 3)
    wall = wall_colour + (tiles + 6 * smooth_noise(rng, shape, (40, 60)))[..., None] - 45.0 * grout[..., None]
    grain = (
        13 * smooth_noise(rng, shape, (130, 14))
        + 8 * smooth_noise(rng, shape, (50, 60))
        + 6 * smooth_noise(rng, shape, (200, 260))
    )
    plank = np.abs((x + 0.05 * smooth_noise(rng, shape, (4, 2))[:, :]) % 0.7) < 0.008
    wood = (
        np.array([168, 124, 82])
        + rng.uniform(-22, 22)
        + rng.uniform(-9, 9, 3)
        + grain[..., None]
        - 40.0 * plank[..., None]
    )
    below = np.clip((y - EDGE_Y) * px_per_width, 0, 1)[:, None, None]
    image = wall * (1 - below) + wood * below
    image *= (
        1 - 0.25 * np.exp(-(((y - EDGE_Y) / 0.05) ** 2))[:, None, None] * below
    )  # where the wall keeps the light out
    for item in objects:
        _paint_object(rng, image, item, px_per_width=px_per_width)
    return np.clip(image, 0, 255).astype(np.float32)


def _paint_object(rng: np.random.Generator, image: np.ndarray, item: SceneObject, *, px_per_width: int) -> None:
    centre, half = np.array(item.xy_world) * px_per_width, np.array(item.half_size) * px_per_width
    low = np.maximum((centre - 1.4 * half - 4).astype(int), 0)
    high = (centre + 1.4 * half + 4).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    v, u = np.mgrid[low[1] : high[1], low[0] : high[0]] + 0.5
    du, dv = (u - centre[0]) / half[0], (v - centre[1]) / half[1]

    def distance(du: np.ndarray, dv: np.ndarray) -> np.ndarray:
        size = np.hypot(du, dv) if item.shape == "ellipse" else (du**6 + dv**6) ** (1 / 6)
        return (size - 1) * half.min()

    shadow = np.clip(1 - distance((du - 0.15) / 1.1, (dv - 0.2) / 1.1) / (0.15 * half.min()), 0, 1)[..., None]
    part *= 1 - 0.35 * np.minimum(shadow, 1)
    light = 1.0 - 0.22 * du + 0.12 * rng.uniform(0.8, 1.2) * np.cos(3 * dv)
    colour = np.array(item.colour) * np.clip(light, 0.5, 1.35)[..., None]
    if item.shape == "box":  # a label band
        colour = np.where(
            (np.abs(dv - 0.1) < 0.28)[..., None], 0.35 * colour + 0.65 * np.array([245, 240, 225]), colour
        )
    else:  # an inner rim
        colour = np.where((np.abs(np.hypot(du, dv) - 0.72) < 0.06)[..., None], 0.75 * colour, colour)
    cover = _cover(distance(du, dv))
    part[...] = part * (1 - cover) + colour * cover


def draw_hand(image: np.ndarray, tip_px: np.ndarray, width_px: int) -> None:
    """A forearm from below the frame to `tip_px`, and the sponge it holds; drawn into `image` (float32)."""
    radius, elbow = 0.055 * width_px, np.array([tip_px[0] + 0.25 * width_px, image.shape[0] + 0.4 * width_px])
    v, u = np.ogrid[: image.shape[0], : image.shape[1]]
    u, v = u + 0.5 - tip_px[0], v + 0.5 - tip_px[1]
    arm = elbow - tip_px
    along = np.clip((u * arm[0] + v * arm[1]) / (arm @ arm), 0, 1)
    across = np.hypot(u - along * arm[0], v - along * arm[1]) - radius * (1 + 0.5 * along)
    skin = np.array([214, 160, 130]) * np.clip(1.05 - 0.4 * (across / radius + 1), 0.55, 1.1)[..., None]
    sponge = np.maximum(np.abs(u + 0.02 * width_px) - 0.05 * width_px, np.abs(v + 0.03 * width_px) - 0.032 * width_px)
    pores = 12.0 * np.sin(0.9 * u) * np.sin(1.1 * v)
    for cover, colour in ((_cover(across), skin), (_cover(sponge), np.array([236, 120, 160]) + pores[..., None])):
        image[...] = image * (1 - cover) + np.clip(colour, 0, 255) * cover


def sample(canvas: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear look-up at pixel positions, edges repeated."""
    height, width = canvas.shape[:2]
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    column, row = x.astype(np.int64), y.astype(np.int64)
    a, b = (x - column)[..., None].astype(np.float32), (y - row)[..., None].astype(np.float32)
    flat, first = canvas.reshape(-1, 3), row * width + column
    top = flat[first] * (1 - a) + flat[first + 1] * a
    return top * (1 - b) + (flat[first + width] * (1 - a) + flat[first + width + 1] * a) * b
