"""The gaze decoder of Gaze-LLE: scene features and a head box in, where that person looks out.

Source: Gaze-LLE (arXiv 2412.09586; its released code at c845713), written anew from its description. A frozen image
backbone encodes the scene once; this module, 2.8 to 2.9 M parameters, answers for any number of heads in it:

    features (B, C, h, w) -- 1x1 conv + pos_embed --> scene (B, D, h, w)
                                                        |  once per image; then, for each head,
    head box --> mask (h, w) * head_token -- added ---> (P, h*w, D) --> [inout token +] 3 pre-norm blocks
                                                        |                          |
                        transposed conv, 1x1 conv, sigmoid --> heatmap    MLP, sigmoid --> in-frame probability

Where we differ: parameters have the released names and are loaded strictly; masks can't be empty unless that is asked
for (`head_masks`); training's drop path is not here.

Shapes: B images, P heads of all images together, C feature size, D decoder size, h w patch grid (32 x 32 at 448 px).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.vjepa_encoder import MLP

HEATMAP_SIDE = 64  # rows and columns of every heatmap, whatever the grid
TARGET_SIGMA, TARGET_REACH = 3.0, 9  # cells: the Gaussian a heatmap is trained towards, and where it is cut off

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class GazeDecoderConfig:
    """The decoder's shape. The defaults are the released ViT-B model with its in/out head.

    Attributes:
        feature_dim: C, the backbone's width: 768 for ViT-B, 1024 for ViT-L.
        dim: D.
        grid_hw: (h, w) of the features.
        layers, heads, mlp_dim: of the transformer blocks.
        inout_dim: hidden size of the in/out head; 0 builds none.
        ln_eps: of LayerNorm. The weights do not hold it: 1e-5 is what the released ones were made with (timm 1.0.12);
            weights trained under a newer timm (1.0.31) want 1e-6.
    """

    feature_dim: int = 768
    dim: int = 256
    grid_hw: tuple[int, int] = (32, 32)
    layers: int = 3
    heads: int = 8
    mlp_dim: int = 1024
    inout_dim: int = 128
    ln_eps: float = 1e-5

    def __post_init__(self) -> None:
        sizes = (self.feature_dim, self.dim, *self.grid_hw, self.layers, self.heads, self.mlp_dim)
        if min(sizes) < 1 or self.inout_dim < 0:
            raise ConfigError(f"gaze decoder: sizes must be at least 1, found {self}")
        if self.dim % 4 or self.dim % self.heads:
            raise ConfigError(f"gaze decoder: dim {self.dim} must be a multiple of 4 and of heads {self.heads}")
        if not 0 < self.ln_eps < 1:
            raise ConfigError(f"gaze decoder: ln_eps must lie between 0 and 1, found {self.ln_eps}")


class Attention(nn.Module):
    """Self-attention; the joint projection has no bias, the output one has."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        p, n, d = x.shape
        q, k, v = self.qkv(x).view(p, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(p, n, d))


class Block(nn.Module):
    """A pre-norm transformer block. No norm follows the last one."""

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.ln_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.ln_eps)
        self.mlp = MLP(config.dim, config.mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GazeDecoder(nn.Module):
    """The decoder, with random weights and the sin/cos table in `pos_embed`; a checkpoint replaces both."""

    pos_embed: Tensor

    def __init__(self, config: GazeDecoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.register_buffer("pos_embed", position_table(dim, config.grid_hw))
        self.linear = nn.Conv2d(config.feature_dim, dim, 1)
        self.head_token = nn.Embedding(1, dim)
        self.transformer = nn.Sequential(*(Block(config) for _ in range(config.layers)))
        self.heatmap_head = nn.Sequential(
            nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2), nn.Conv2d(dim, 1, 1, bias=False), nn.Sigmoid()
        )
        if config.inout_dim:
            self.inout_token = nn.Embedding(1, dim)
            self.inout_head = nn.Sequential(
                nn.Linear(dim, config.inout_dim),
                nn.ReLU(),
                nn.Dropout(0.1),
                nn.Linear(config.inout_dim, 1),
                nn.Sigmoid(),
            )

    def forward(self, features: Tensor, masks: Tensor, image_rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where every head looks.

        Args:
            features: (B, C, h, w), each image once, however many heads it has.
            masks: (P, h, w) of `head_masks`.
            image_rows: (P,) integers, the image of each head.

        Returns:
            Heatmaps (P, 64, 64) in [0, 1], which sum to nothing in particular: their peak is a place, its height no
            probability. And (P,) the probability that the target is in the frame, None without the in/out head.

        Raises:
            InputError: features of another size than the weights are for.
        """
        config = self.config
        expected = (config.feature_dim, *config.grid_hw)
        if features.ndim != 4 or tuple(features.shape[1:]) != expected:
            found = str(tuple(features.shape))
            raise InputError("scene features", expected=f"shape (images, {', '.join(map(str, expected))})", found=found)
        scene = self.linear(features) + self.pos_embed
        x = scene[image_rows] + masks.to(scene)[:, None] * self.head_token.weight[0, :, None, None]
        x = x.flatten(2).transpose(1, 2)  # (P, h*w, D)
        if config.inout_dim:
            x = torch.cat((self.inout_token.weight.expand(len(x), 1, -1), x), dim=1)
        x = self.transformer(x)
        inout = None
        if config.inout_dim:
            inout, x = self.inout_head(x[:, 0])[:, 0], x[:, 1:]
        heatmap = self.heatmap_head(x.transpose(1, 2).unflatten(2, config.grid_hw))
        if heatmap.shape[-2:] != (HEATMAP_SIDE, HEATMAP_SIDE):
            heatmap = F.interpolate(heatmap, (HEATMAP_SIDE, HEATMAP_SIDE), mode="bilinear", antialias=True)
        return heatmap[:, 0], inout


def position_table(dim: int, grid_hw: tuple[int, int]) -> Tensor:
    """(dim, h, w) sines and cosines: the first half of the channels varies along the width, the second along the
    height; even channels are sines, odd ones cosines, wavelengths from 2 pi to 2 pi * 10,000 cells."""
    half = dim // 2
    frequency = torch.exp(torch.arange(0, half, 2) * -(math.log(10_000.0) / half))
    table = torch.zeros(dim, *grid_hw)
    for offset, cells, axis in ((0, grid_hw[1], 1), (half, grid_hw[0], 2)):
        angles = frequency[:, None] * torch.arange(cells)  # (half / 2, cells)
        table[offset : offset + half : 2] = angles.sin().unsqueeze(axis)
        table[offset + 1 : offset + half : 2] = angles.cos().unsqueeze(axis)
    return table


def head_masks(boxes: Sequence[Box | None], grid_hw: tuple[int, int], *, small_head_fix: bool = True) -> Tensor:
    """(P, h, w) ones inside each head's box, zeros elsewhere; None (no head known) is all zeros.

    A box covers the cells from round(min * cells) up to round(max * cells), halves to even. In the released code a head
    under about a cell is then empty, which tells the decoder nothing, and so is one that begins outside the frame,
    because negative numbers count from the end of a slice.

    Args:
        boxes: (x_min, y_min, x_max, y_max), normalised, origin top-left.
        small_head_fix: clip boxes to the frame and give every head at least the cell under its centre. False: the
            released masks, empty ones among them, for comparison with published numbers.

    Raises:
        InputError: a box that is no box; with the fix, also one that is reversed or outside the frame.
    """
    masks = torch.zeros(len(boxes), *grid_hw)
    for row, box in enumerate(boxes):
        if box is None:
            continue
        x_min, y_min, x_max, y_max = require_box(box) if small_head_fix else _four_numbers(box, "head box")
        spans = []
        for low, high, cells in ((y_min, y_max, grid_hw[0]), (x_min, x_max, grid_hw[1])):
            if small_head_fix:
                low, high = max(low, 0.0), min(high, 1.0)
            first, stop = round(low * cells), round(high * cells)
            if small_head_fix and stop <= first:
                first = min(int((low + high) / 2 * cells), cells - 1)
                stop = first + 1
            spans.append(slice(first, stop))
        masks[row, spans[0], spans[1]] = 1.0
    return masks


def require_box(box: Sequence[float], source: str = "head box") -> Box:
    """The box, if it is one: four finite numbers, minima below maxima, part of it inside the frame.

    Raises:
        InputError: it is none; `source` says whose.
    """
    x_min, y_min, x_max, y_max = _four_numbers(box, source)
    shown = f"[{x_min:g}, {y_min:g}, {x_max:g}, {y_max:g}]"
    if not (x_min < x_max and y_min < y_max):
        raise InputError(source, expected="x_min < x_max and y_min < y_max", found=shown)
    if x_max <= 0 or y_max <= 0 or x_min >= 1 or y_min >= 1:
        raise InputError(source, expected="a box in the frame, 0 to 1 on both axes", found=shown)
    return x_min, y_min, x_max, y_max


def _four_numbers(box: Sequence[float], source: str) -> Box:
    try:
        x_min, y_min, x_max, y_max = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(source, expected="four numbers x_min, y_min, x_max, y_max", found=repr(box)[:60]) from error
    if not all(math.isfinite(value) for value in (x_min, y_min, x_max, y_max)):
        raise InputError(source, expected="four finite numbers", found=repr(box)[:60])
    return x_min, y_min, x_max, y_max


def training_target(xy_norm: tuple[float, float]) -> np.ndarray:
    """(64, 64) float32, what a heatmap is trained towards: a Gaussian around the looked-at cell, 3 cells wide (sigma),
    0 more than 9 cells away on either axis, its greatest cell scaled to 1. A point just outside (1.0 is: cells end at
    63) leaves the part that reaches in; one further out, zeros.

    Raises:
        InputError: coordinates that are no numbers.
    """
    x, y, *_ = _four_numbers((*xy_norm, 0, 0), "gaze point")
    axes = []
    for value in (y, x):
        distance = np.arange(HEATMAP_SIDE) - int(value * HEATMAP_SIDE)
        bump = np.exp(-(distance**2) / (2 * TARGET_SIGMA**2))
        axes.append(np.where(np.abs(distance) <= TARGET_REACH, bump, 0.0))
    target = np.outer(*axes)
    return (target / max(target.max(), np.finfo(np.float64).tiny)).astype(np.float32)
