"""Drawing a world's frames: a painted wall and worktop, sprites on it, the shutter, the hand. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gazeqwen.tiny.scene_painting import smooth_noise
from gazeqwen.tiny.world_events import FLASHES, HATCHES, PLANE, ROWS_Y, STATES
from gazeqwen.tiny.world_script import Script
from gazeqwen.tiny.world_sprites import hand_sprite, object_sprite

EDGE_Y = (ROWS_Y[0] + ROWS_Y[1]) / 2  # where the wall meets the worktop
NICHE_WIDTHS = 0.12  # half size of the cupboard that the shutter closes
MARGIN_WIDTHS = 0.2  # painted beyond the plane, for a swaying head


@dataclass(frozen=True)
class Stamp:
    """A sprite cut to what it covers, with a border of one empty pixel, and its anchor from the cut's corner.

    Channels come first here, in what it is laid on and in the painted plane: three times as fast as channels last.
    """

    pixels: np.ndarray
    anchor_px: np.ndarray

    @classmethod
    def cut(cls, sprite: np.ndarray, anchor_px: np.ndarray) -> Stamp:
        rows, columns = (np.flatnonzero(sprite[..., 3].any(axis=axis)) for axis in (1, 0))
        part = sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        pixels = np.ascontiguousarray(np.pad(part, ((1, 1), (1, 1), (0, 0))).transpose(2, 0, 1))
        return cls(pixels, np.asarray(anchor_px) - [columns[0], rows[0]])

    def lay(self, image: np.ndarray, at_px: np.ndarray) -> None:
        """Over `image` (3, H, W) float32 with the anchor at a position between pixels."""
        corner = at_px - self.anchor_px
        x, y = int(np.floor(corner[0])), int(np.floor(corner[1]))
        a, b = np.float32(corner[0] - x), np.float32(corner[1] - y)
        height, width = self.pixels.shape[1] - 1, self.pixels.shape[2] - 1
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, image.shape[2]), min(y + height, image.shape[1])
        if x0 >= x1 or y0 >= y1:
            return
        near = self.pixels[:, y0 - y : y1 - y + 1, x0 - x : x1 - x + 1]
        wide = near[..., :-1] * a
        wide += near[..., 1:] * (1 - a)
        part = wide[:, :-1] * b
        part += wide[:, 1:] * (1 - b)
        under = image[:, y0:y1, x0:x1]
        under *= 1 - part[3]
        under += part[:3]


def paint_plane(rng: np.random.Generator, hatch_xy: np.ndarray, *, width_px: int) -> np.ndarray:
    """(3, Hp, Wp) float32 in [0, 255]: tiled wall over a wooden worktop, and open cupboards."""
    size = np.array(PLANE) + 2 * MARGIN_WIDTHS
    shape = (round(size[1] * width_px), round(size[0] * width_px))
    y, x = ((np.arange(n) + 0.5) / width_px - MARGIN_WIDTHS for n in shape)
    tile = 0.1
    column, row = np.floor(x / tile).astype(int), np.floor(y / tile).astype(int)
    tiles = rng.normal(0, 5, (np.ptp(row) + 1, np.ptp(column) + 1))[row - row.min()][:, column - column.min()]
    grout = np.minimum((x % tile)[None, :], (y % tile)[:, None]) < 0.007
    wall = np.array([206, 214, 212]) + rng.uniform(-22, 12, 3) + tiles[..., None] - 26.0 * grout[..., None]
    grain = 9 * smooth_noise(rng, shape, (70, 8)) + 6 * smooth_noise(rng, shape, (30, 40))
    wood = np.array([172, 132, 92]) + rng.uniform(-18, 18) + rng.uniform(-8, 8, 3) + grain[..., None]
    below = np.clip((y - EDGE_Y) * width_px, 0, 1)[:, None, None]
    image = wall * (1 - below) + wood * below
    image *= 1 - 0.3 * np.exp(-(((y - EDGE_Y) / 0.02) ** 2))[:, None, None]
    image *= 1 + 0.06 * smooth_noise(rng, shape, (3, 5))[..., None]  # uneven light
    for centre in hatch_xy:
        far = np.maximum(np.abs(x - centre[0])[None, :], np.abs(y - centre[1])[:, None])
        image[far < NICHE_WIDTHS + 0.012] = (120, 96, 70)
        image[far < NICHE_WIDTHS] = (92, 84, 78)
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.float32).transpose(2, 0, 1))


def _shutter(width_px: int) -> np.ndarray:
    """(h, w, 4) the closed shutter's slats."""
    side = round(2 * NICHE_WIDTHS * width_px)
    slat = np.arange(side) * 7 // side
    light = 150 + 22 * (slat % 2) - 35 * (np.diff(slat, prepend=-1) != 0)
    sprite = np.ones((side, side, 4), dtype=np.float32)
    sprite[..., :3] = light[:, None, None] * np.array([1.0, 0.97, 0.9])
    return sprite


class Painter:
    """Draws single frames of one world. Sprites are kept, but no frame depends on what was drawn before."""

    def __init__(
        self,
        rng: np.random.Generator,
        script: Script,
        names: Sequence[str],
        colours: Sequence[str],
        size_px: tuple[int, int],
    ) -> None:
        self._script, self._names, self._colours, self._size_px = script, names, colours, size_px
        width = size_px[0]
        self._plane = paint_plane(rng, script.hatch_xy, width_px=width)
        skin = np.array([224.0, 172.0, 140.0]) * rng.uniform(0.55, 1.05)
        self._hands = [Stamp.cut(*hand_sprite(grip=grip, skin=skin, width_px=width)) for grip in (False, True)]
        slats = _shutter(width)
        self._slats = [Stamp.cut(slats[up:], np.zeros(2)) for up in range(len(slats))]
        self._stamps: dict[tuple[int, int, int], Stamp] = {}

    def draw(self, row: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB at this row of the script."""
        script, width = self._script, self._size_px[0]
        corner = script.camera[row] - script.half  # of the frame, on the plane
        image = self._ground((corner + MARGIN_WIDTHS) * width)
        inside = [i for i in range(HATCHES) if self._in_niche(row, i)]
        self._draw_things(image, row, inside, corner)
        for hatch in range(HATCHES):
            up = round(len(self._slats) * script.shutter[row, hatch])  # it goes up into the wall
            if up < len(self._slats):
                self._slats[up].lay(image, (script.hatch_xy[hatch] - NICHE_WIDTHS - corner) * width)
        rest = [int(i) for i in np.flatnonzero(script.shown[row]) if i not in inside]
        self._draw_things(image, row, rest, corner)
        self._hands[int(script.grip[row])].lay(image, (script.hand[row] + script.half) * width)
        image += 0.5
        frame = np.empty((*image.shape[1:], 3), dtype=np.uint8)
        for channel, plane in enumerate(image):  # several times as fast as a transposed copy
            frame[..., channel] = plane
        return frame

    def _in_niche(self, row: int, hatch: int) -> bool:
        """Whether the object that began in this cupboard is still there, seen or not."""
        return bool(np.abs(self._script.place[row, hatch] - self._script.hatch_xy[hatch]).max() < 0.1)

    def _ground(self, corner_px: np.ndarray) -> np.ndarray:
        width, height = self._size_px
        x, y = (int(np.floor(value)) for value in corner_px)
        a, b = (np.float32(value - np.floor(value)) for value in corner_px)
        part = self._plane[:, y : y + height + 1, x : x + width + 1]
        across = part[..., :-1] * (1 - a)
        across += part[..., 1:] * a
        image = across[:, :-1] * (1 - b)
        image += across[:, 1:] * b
        return image

    def _draw_things(self, image: np.ndarray, row: int, things: list[int], corner: np.ndarray) -> None:
        script, width = self._script, self._size_px[0]
        for thing in things:
            key = (thing, int(script.state[row, thing]), int(script.flash[row, thing]))
            if key not in self._stamps:
                sprite = object_sprite(
                    self._names[thing],
                    self._colours[thing],
                    state=STATES[key[1]],
                    flash=None if key[2] < 0 else FLASHES[key[2]],
                    radius_px=script.radius[thing] * width,
                )
                self._stamps[key] = Stamp.cut(sprite, np.array(sprite.shape[:2]) / 2)
            self._stamps[key].lay(image, (script.place[row, thing] - corner) * width)
