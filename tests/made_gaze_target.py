"""A tiny random DINOv2 and gaze decoder, in memory and as files: nothing is downloaded for a test."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Dinov2Config, Dinov2Model

from gazeqwen.gaze_target import GazeDecoder, GazeDecoderConfig, GazeTargetEstimator, fit_dinov2

WIDTH = 24
GRID = 4


def decoder(*, inout: bool = True, seed: int = 0) -> GazeDecoder:
    """Every parameter drawn anew with a good spread, so that heads and places matter to the result."""
    config = GazeDecoderConfig(
        feature_dim=WIDTH, dim=16, grid_hw=(GRID, GRID), heads=2, mlp_dim=32, inout_dim=8 if inout else 0
    )
    made = GazeDecoder(config)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(0, 1.0 if "token" in name else 0.25, generator=source)
    return made.eval()


def dinov2(*, width: int = WIDTH, stored_grid: int = 5) -> Dinov2Model:
    """As from a checkpoint: positions for another grid than the decoder's."""
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2, image_size=14 * stored_grid
    )
    return Dinov2Model(config).eval()


def estimator(*, inout: bool = True, small_head_fix: bool = True) -> GazeTargetEstimator:
    return GazeTargetEstimator(
        fit_dinov2(dinov2(), (GRID, GRID)), decoder(inout=inout), small_head_fix=small_head_fix, origin="random"
    )


def write_weights(folder: Path, *, inout: bool = True) -> tuple[Path, Path]:
    """(decoder file, backbone folder) as a user has them. The decoder has 8 attention heads, as released ones do."""
    made = decoder(inout=inout)
    torch.save(made.state_dict(), folder / "gazelle.pt")
    dinov2().save_pretrained(folder / "dinov2")
    return folder / "gazelle.pt", folder / "dinov2"
