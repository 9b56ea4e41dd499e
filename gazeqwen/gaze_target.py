"""Where *other visible people* look: Gaze-LLE (arXiv 2412.09586) on images with head boxes.

It does not estimate the wearer's gaze, and nothing here reaches the wearer's scanpath. An image is encoded once by a
frozen DINOv2; `gaze_target_decoder` then answers for any number of heads. Official weights load strictly
(`gaze_target_weights`).

    estimator = GazeTargetEstimator.from_pretrained("gazelle_dinov2_vitb14_inout.pt", "facebook/dinov2-base")
    (targets,) = estimator([image], [[(0.41, 0.10, 0.52, 0.27)]])
    targets.peak_xy_norm, targets.inout_probability

Shapes: H heads of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazeqwen.errors import InputError
from gazeqwen.gaze_target_decoder import (
    HEATMAP_SIDE,
    Box,
    GazeDecoder,
    GazeDecoderConfig,
    head_masks,
    position_table,
    require_box,
    training_target,
)
from gazeqwen.gaze_target_weights import fit_dinov2, load_dinov2, load_gaze_decoder
from gazeqwen.preprocess import as_frames
from gazeqwen.vjepa import IMAGENET_MEAN, IMAGENET_STD

__all__ = [
    "HEATMAP_SIDE",
    "Box",
    "GazeDecoder",
    "GazeDecoderConfig",
    "GazeTargetEstimator",
    "GazeTargets",
    "fit_dinov2",
    "head_masks",
    "load_dinov2",
    "load_gaze_decoder",
    "position_table",
    "prepare_image",
    "require_box",
    "training_target",
]

IMAGES_AT_ONCE = 8  # in the backbone: 1024 tokens each
HEADS_AT_ONCE = 32  # in the decoder: about 0.4 GB of activations in float32


@dataclass(frozen=True, eq=False)
class GazeTargets:
    """Where the heads of one image look, in the order in which they were given.

    Attributes:
        heatmap: (H, 64, 64) float32 in [0, 1], rows from the top. Its height is no probability.
        inout_probability: (H,) float32, that the target is in the frame; None where the weights have no in/out head.
    """

    heatmap: np.ndarray
    inout_probability: np.ndarray | None

    def __len__(self) -> int:
        return len(self.heatmap)

    @property
    def peak_xy_norm(self) -> np.ndarray:
        """(H, 2) float64: the centre of the highest cell (of equal ones the first, from the top left).

        The published L2 metrics take the cell's upper left corner instead (benchmarks/gaze_target).
        """
        cell = self.heatmap.reshape(len(self), HEATMAP_SIDE**2).argmax(axis=1)
        return (np.stack([cell % HEATMAP_SIDE, cell // HEATMAP_SIDE], axis=1) + 0.5) / HEATMAP_SIDE

    @property
    def peak_value(self) -> np.ndarray:
        """(H,) the height of the highest cell."""
        return self.heatmap.max(axis=(1, 2), initial=0.0)

    @classmethod
    def none(cls, *, inout: bool) -> GazeTargets:
        """Of an image without heads."""
        side = HEATMAP_SIDE
        return cls(np.zeros((0, side, side), np.float32), np.zeros(0, np.float32) if inout else None)


class GazeTargetEstimator:
    """A DINOv2 and a gaze decoder, frozen. Keeps nothing between calls.

    Args:
        backbone: a `Dinov2Model` that `fit_dinov2` has fitted to the decoder's grid.
        decoder: the decoder; its device is where everything runs.
        small_head_fix: as `head_masks`. On by default: small heads are the rule in egocentric video.
        origin: what the weights are, in words, for reports.
    """

    def __init__(
        self, backbone: nn.Module, decoder: GazeDecoder, *, small_head_fix: bool = True, origin: str = "not named"
    ) -> None:
        shape: Any = backbone.config
        if shape.hidden_size != decoder.config.feature_dim:
            raise InputError(
                "backbone", expected=f"features of width {decoder.config.feature_dim}", found=str(shape.hidden_size)
            )
        self.backbone, self.decoder = backbone, decoder.eval()
        self.small_head_fix, self.origin = small_head_fix, origin
        h, w = decoder.config.grid_hw
        self.input_hw_px = (h * shape.patch_size, w * shape.patch_size)

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        backbone: str | Path,
        *,
        small_head_fix: bool = True,
        ln_eps: float = 1e-5,
        device: str | None = None,
        local_files_only: bool = False,
    ) -> GazeTargetEstimator:
        """From a released decoder file and a DINOv2 folder or hub id; float32.

        Raises:
            InputError: one of them can't be read, is not exactly what it should be, they don't fit each other, or no
                such device.
        """
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.zeros(1, device=where)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise InputError("device", expected="cpu, cuda, cuda:1, ...", found=repr(where)) from error
        decoder = load_gaze_decoder(weights, ln_eps=ln_eps)
        dinov2 = load_dinov2(
            backbone,
            grid_hw=decoder.config.grid_hw,
            feature_dim=decoder.config.feature_dim,
            local_files_only=local_files_only,
        )
        origin = f"{Path(weights).name} on {backbone}"
        return cls(dinov2.to(where), decoder.to(where), small_head_fix=small_head_fix, origin=origin)

    @property
    def has_inout(self) -> bool:
        """Whether the weights tell a target in the frame from one outside."""
        return bool(self.decoder.config.inout_dim)

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray]) -> Tensor:
        """(B, C, h, w) features of images, each (H, W, 3) uint8 RGB of any size.

        Raises:
            InputError: as `prepare_image`.
        """
        grid_hw, device = self.decoder.config.grid_hw, self.decoder.pos_embed.device
        parts = [torch.empty(0, self.decoder.config.feature_dim, *grid_hw, device=device)]
        for start in range(0, len(images), IMAGES_AT_ONCE):
            chunk = images[start : start + IMAGES_AT_ONCE]
            pixels = torch.stack([prepare_image(image, self.input_hw_px) for image in chunk]).to(device)
            tokens = self.backbone(pixel_values=pixels).last_hidden_state[:, 1:]  # without the class token
            parts.append(tokens.transpose(1, 2).unflatten(2, grid_hw))
        return torch.cat(parts)

    @torch.no_grad()
    def decode(self, features: Tensor, heads: Sequence[Sequence[Box | None]]) -> list[GazeTargets]:
        """Where the heads look in images that `encode` has seen; one entry an image.

        Args:
            features: (B, C, h, w).
            heads: per image its head boxes (x_min, y_min, x_max, y_max), normalised. None in place of a box asks
                without a head, which the published model allows in scenes with one person.

        Raises:
            InputError: a box that `head_masks` refuses, or another number of images.
        """
        if len(heads) != len(features):
            raise InputError("heads", expected=f"boxes for {len(features)} images", found=f"for {len(heads)}")
        boxes = [box for own in heads for box in own]
        if not boxes:
            return [GazeTargets.none(inout=self.has_inout) for _ in heads]
        masks = head_masks(boxes, self.decoder.config.grid_hw, small_head_fix=self.small_head_fix)
        rows = torch.tensor([row for row, own in enumerate(heads) for _ in own])
        heatmaps, inouts = [], []
        for start in range(0, len(boxes), HEADS_AT_ONCE):
            part = slice(start, start + HEADS_AT_ONCE)
            first, last = int(rows[part][0]), int(rows[part][-1]) + 1
            heatmap, inout = self.decoder(
                features[first:last], masks[part].to(features.device), (rows[part] - first).to(features.device)
            )
            heatmaps.append(heatmap.float().cpu())
            inouts.append(heatmap.new_zeros(0) if inout is None else inout.float().cpu())
        heatmap, inout = torch.cat(heatmaps).numpy(), torch.cat(inouts).cpu().numpy()
        ends = np.cumsum([len(own) for own in heads])
        return [
            GazeTargets(heatmap[end - len(own) : end], inout[end - len(own) : end] if self.has_inout else None)
            for own, end in zip(heads, ends, strict=True)
        ]

    def __call__(self, images: Sequence[np.ndarray], heads: Sequence[Sequence[Box | None]]) -> list[GazeTargets]:
        """Where the heads of these images look: `encode` and `decode`. Images without heads are not encoded.

        Raises:
            InputError: as `encode` and `decode`; another number of images than of lists of heads.
        """
        if len(heads) != len(images):
            raise InputError("heads", expected=f"boxes for {len(images)} images", found=f"for {len(heads)}")
        wanted = [row for row, own in enumerate(heads) if len(own)]
        answers = dict(
            zip(
                wanted,
                self.decode(self.encode([images[row] for row in wanted]), [heads[row] for row in wanted]),
                strict=True,
            )
        )
        none = GazeTargets.none(inout=self.has_inout)
        return [answers.get(row, none) for row in range(len(heads))]


def prepare_image(image: np.ndarray, size_hw_px: tuple[int, int]) -> Tensor:
    """(3, h, w) float32: ImageNet-normalised, then resized (bilinear, antialiased) whatever the aspect ratio was, in
    this order, as released. Normalised coordinates stay what they are.

    Raises:
        InputError: no (H, W, 3) uint8 image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise InputError("image", expected="an (H, W, 3) uint8 RGB image", found=f"{image.shape} {image.dtype}")
    pixels = as_frames(image[None])[0].permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = ((pixels - mean) / std)[None]
    return F.interpolate(normalised, size_hw_px, mode="bilinear", antialias=True)[0]
