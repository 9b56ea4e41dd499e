"""Worlds through the vision tower: what the language model is tuned on once both halves have been trained apart.

The tower is frozen here and each step is seen once: 24 numbers of 128 for a cell, kept as float16.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.tiny.symbol_rows import SymbolRow
from benchmarks.tiny.symbol_worlds import SymbolWorld
from gazeqwen.backbone import Backbone
from gazeqwen.preprocess import video_patches
from gazeqwen.tiny.model import TINY_CONFIG
from gazeqwen.tiny.world import World

CHUNK_STEPS = 64


class SeenWorlds:
    """Visual tokens of worlds, for rows of lessons about them.

    Args:
        worlds: of `make_symbol_world`.
        backbone: its vision tower makes the tokens.
    """

    def __init__(self, worlds: Sequence[SymbolWorld], backbone: Backbone) -> None:
        self._seen = {world.seed: _seen(world, backbone) for world in worlds}

    def __call__(self, row: SymbolRow) -> Tensor:
        """(V, D) float32 of the row's visual tokens."""
        made = torch.empty(len(row.world_of), next(iter(self._seen.values())).shape[-1])
        for index, world in enumerate(row.worlds):
            mine = row.world_of == index
            made[torch.from_numpy(mine)] = self._seen[world.seed][row.step_of[mine], row.cell_of[mine]].float()
        return made


@torch.no_grad()
def _seen(world: SymbolWorld, backbone: Backbone) -> Tensor:
    """(S + T, P, D) float16."""
    made, parts = World.make(world.seed, duration_s=world.duration_s), []
    for at in range(0, len(world.frame_times_s), CHUNK_STEPS):
        times_s = world.frame_times_s[at : at + CHUNK_STEPS].reshape(-1)
        drawn = {time_s: made.frame(time_s) for time_s in dict.fromkeys(times_s.tolist())}
        patches, grid = video_patches(
            np.stack([drawn[time_s] for time_s in times_s.tolist()]),
            config=TINY_CONFIG.preprocess,
            patch_size=backbone.patch_size,
            merge_size=backbone.merge_size,
            temporal=backbone.temporal_patch_size,
        )
        parts.append(backbone.encode_visual(patches, grid).half())
    return torch.cat(parts)
