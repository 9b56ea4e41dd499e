"""V-JEPA 2.1's encoder.

Source: facebookresearch's V-JEPA 2.1 encoder (written anew, no code taken; arithmetic held by golden 03 and 03b), with
state-dict names that let the official checkpoints load strictly (`vjepa_weights`).

Where we differ from the official code: cos and sin are computed once per grid, not in every block; an odd number of
frames and sides that are no multiple of the patch raise (upstream drops the rest silently); a grid side of ONE patch is
at position 0 (upstream divides 0 by 0).

Shapes: B batch, t gh gw grid of tubelets and patches, N = t*gh*gw, D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazeqwen.config import VJEPAConfig
from gazeqwen.errors import InputError

ROPE_BASE = 10_000.0
LAYER_NORM_EPS = 1e-6
ROPE_TABLES_KEPT = 8


class PatchEmbed(nn.Module):
    """Non-overlapping patches of `frames` frames."""

    def __init__(self, config: VJEPAConfig, frames: int) -> None:
        super().__init__()
        kernel = (frames, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.dim, kernel, stride=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, N, D), tubelet-major, then row, then column."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with rotary positions on three axes; head dims left over by the axes are not rotated."""

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))


class MLP(nn.Module):
    """Two layers with an exact GELU, under the names that ViTs give them."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.mlp = MLP(config.dim, config.mlp_dim)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class VJEPA21(nn.Module):
    """The V-JEPA 2.1 encoder, without its predictor. Any grid, square or not; one frame is an image."""

    def __init__(self, config: VJEPAConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config, config.tubelet_size)
        self.patch_embed_img = PatchEmbed(config, 1)
        self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norms_block = nn.ModuleList(
            nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS) for _ in config.hierarchical_layers
        )
        self._tables: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def forward(self, x: Tensor, layers: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """Features of normalised frames.

        Args:
            x: (B, 3, T, H, W), ImageNet-normalised. T is 1 (an image) or a multiple of the tubelet.
            layers: blocks to return, each one of `config.hierarchical_layers`; None for the last block alone.

        Returns:
            (B, N, D), or a list of such maps in the order of `layers`; each after its own LayerNorm.

        Raises:
            InputError: a shape that does not divide into patches, or a block without a LayerNorm.
        """
        config = self.config
        hierarchy = list(config.hierarchical_layers)
        wanted = [hierarchy[-1]] if layers is None else list(layers)
        if not wanted or not set(wanted) <= set(hierarchy):
            raise InputError("layers", expected=f"some of the blocks with a norm, {hierarchy}", found=str(wanted))
        patch, tubelet = config.patch_size, config.tubelet_size
        if x.ndim != 5 or x.shape[1] != 3 or 0 in x.shape or x.shape[3] % patch or x.shape[4] % patch:
            raise InputError(
                "V-JEPA input", expected=f"(B, 3, T, H, W), sides a multiple of {patch}", found=str(tuple(x.shape))
            )
        frames = x.shape[2]
        if frames > 1 and frames % tubelet:
            raise InputError("V-JEPA input", expected=f"1 frame or a multiple of {tubelet}", found=f"{frames} frames")
        if frames == 1:
            grid, h = (1, x.shape[3] // patch, x.shape[4] // patch), self.patch_embed_img(x) + self.img_mod_embed
        else:
            grid = (frames // tubelet, x.shape[3] // patch, x.shape[4] // patch)
            h = self.patch_embed(x) + self.video_mod_embed
        cos, sin = self._rope(grid, h)
        maps: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: max(wanted) + 1]):
            h = block(h, cos, sin)
            if index in wanted:
                maps[index] = self.norms_block[hierarchy.index(index)](h)
        return maps[wanted[0]] if layers is None else [maps[index] for index in wanted]

    def _rope(self, grid: tuple[int, int, int], like: Tensor) -> tuple[Tensor, Tensor]:
        """(N, rotated/2) cos and sin. Rows and columns are stretched to the pre-training grid, time is not."""
        key = (grid, like.device, like.dtype)
        tables = self._tables.get(key)
        if tables is None:
            with torch.inference_mode(False), torch.device(like.device):  # usable in training whoever asked first
                last = self.config.pretrained_grid - 1
                rows, columns = (torch.arange(n) * (last / (n - 1) if n > 1 else 0.0) for n in grid[1:])
                axes = torch.meshgrid(torch.arange(grid[0]).float(), rows, columns, indexing="ij")
                pairs = self.config.dim // self.config.heads // 3 // 2
                omega = 1.0 / ROPE_BASE ** (torch.arange(pairs) / pairs)
                angles = torch.cat([axis.reshape(-1, 1) * omega for axis in axes], dim=1)
                tables = angles.cos().to(like.dtype), angles.sin().to(like.dtype)
            if len(self._tables) >= ROPE_TABLES_KEPT:
                self._tables.clear()
            self._tables[key] = tables
        return tables


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (2j, 2j+1) of the leading head dims of x (B, heads, N, head_dim)."""
    rotated = 2 * cos.shape[-1]
    even, odd = x[..., :rotated:2], x[..., 1:rotated:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., rotated:]), dim=-1)


def encoder_flops(config: VJEPAConfig, frames: int, size_px: int) -> int:
    """Floating-point operations (2 per multiply-add) of one forward of `frames` square frames: matrix products only."""
    tubelet = 1 if frames == 1 else config.tubelet_size
    tokens = frames // tubelet * (size_px // config.patch_size) ** 2
    linear = 4 * config.dim**2 + 2 * config.dim * config.mlp_dim
    attention = 2 * tokens * config.dim
    patches = 3 * tubelet * config.patch_size**2 * config.dim
    return 2 * tokens * (config.depth * (linear + attention) + patches)
