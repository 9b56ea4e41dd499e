"""A tiny random DINOv2 and gaze decoder, in memory and as files: nothing is downloaded for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from gazeqwen.gaze_target import Box, GazeDecoder, GazeDecoderConfig, GazeTargetEstimator, fit_dinov2
from stream.video_writer import write_clip

WIDTH = 24
GRID = 4
BOXES: list[Box] = [(0.05, 0.1, 0.4, 0.45), (0.5, 0.1, 0.95, 0.6), (0.3, 0.55, 0.7, 0.95)]
SIZE_PX = (96, 72)
FPS = 10.0
FRAMES = 12


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
    """(decoder file, backbone folder) as a user has them. Read without `heads=`, the decoder has 8 of them."""
    made = decoder(inout=inout)
    torch.save(made.state_dict(), folder / "gazelle.pt")
    dinov2().save_pretrained(folder / "dinov2")
    return folder / "gazelle.pt", folder / "dinov2"


def frames(count: int = FRAMES, *, seed: int = 0) -> list[np.ndarray]:
    """A drifting pattern, so that no two frames are alike."""
    width, height = SIZE_PX
    random = np.random.default_rng(seed)
    pattern = random.integers(0, 256, (height // 12, width // 12, 3)).repeat(12, axis=0).repeat(12, axis=1)
    return [np.roll(pattern, 5 * k, axis=1).astype(np.uint8) for k in range(count)]


def moving(start_x: float, k: int) -> Box:
    """A head that drifts to the right by a tenth of its width a frame."""
    return (start_x + 0.02 * k, 0.2, start_x + 0.2 + 0.02 * k, 0.5)


def entries(count: int = FRAMES, *, names: tuple[Any, ...] = ()) -> list[dict[str, Any]]:
    """Two people; the second comes at the fourth frame."""
    return [
        {
            "t_s": round(k / FPS, 3),
            "heads": [
                {"box_xyxy_norm": moving(x, k), **({"track_id": names[n]} if names else {})}
                for n, x in enumerate((0.05, 0.5))
                if n == 0 or k >= 3
            ],
        }
        for k in range(count)
    ]


def write_boxes(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps({"frames": rows}), encoding="utf-8")
    return path


def write_recording(folder: Path) -> None:
    """A video, a picture, their head boxes, and weights."""
    write_weights(folder)
    write_clip(folder / "clip.mp4", frames(), fps=FPS)
    Image.fromarray(frames(1)[0]).save(folder / "picture.png")
    write_boxes(folder / "boxes.json", entries())
    write_boxes(folder / "named.json", entries(names=("anna", 7)))
    write_boxes(folder / "picture.json", [{"heads": [{"box_xyxy_norm": [0.1, 0.1, 0.3, 0.4]}]}])


def images(count: int, *, seed: int = 0) -> list[np.ndarray]:
    """Pictures of several sizes."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (30 + 7 * k, 60 - 5 * k, 3), dtype=np.uint8) for k in range(count)]
