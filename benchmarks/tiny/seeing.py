"""Worlds through the vision tower: what the language model is tuned on once both halves have been trained apart.

The tower is frozen here and each step is seen once: 128 numbers for each of 24 cells, kept as float16, a file a world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from benchmarks.tiny.files import world_digest, write_bytes
from benchmarks.tiny.symbol_rows import SymbolRow
from benchmarks.tiny.symbol_worlds import SymbolWorld
from gazeqwen.backbone import Backbone
from gazeqwen.digest import add_tensors
from gazeqwen.preprocess import video_patches
from gazeqwen.tiny.model import TINY_CONFIG
from gazeqwen.tiny.world import World

CHUNK_STEPS = 64


class SeenWorlds:
    """Visual tokens of worlds, for rows of lessons about them.

    Args:
        worlds: of `make_symbol_world`.
        backbone: its vision tower makes the tokens.
        folder: keeps what was seen, by the tower's weights and the worlds' code.

    Raises:
        InputError: the folder can't be written.
    """

    def __init__(self, worlds: Sequence[SymbolWorld], backbone: Backbone, folder: Path) -> None:
        made_by = hashlib.sha256(world_digest(questions=False).encode())
        add_tensors(made_by, backbone.visual.state_dict())
        kept = folder / made_by.hexdigest()[:16]
        self._seen = {world.seed: _kept(world, backbone, kept / f"{world.seed}.safetensors") for world in worlds}

    def __call__(self, row: SymbolRow) -> Tensor:
        """(V, D) float32 of the row's visual tokens."""
        made = torch.empty(len(row.world_of), next(iter(self._seen.values())).shape[-1])
        for index, world in enumerate(row.worlds):
            mine = row.world_of == index
            made[torch.from_numpy(mine)] = self._seen[world.seed][row.step_of[mine], row.cell_of[mine]].float()
        return made


def _kept(world: SymbolWorld, backbone: Backbone, path: Path) -> Tensor:
    """What was seen of a world, from its file; a damaged or absent one is made anew."""
    try:
        return load_file(path)["visual"]
    except (OSError, SafetensorError, KeyError):
        seen = _seen(world, backbone)
        write_bytes(path, save({"visual": seen}))
        return seen


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
