"""What the frozen weights make of steps, and what the decoder takes: the two ends of `GazeQwen.encode`.

Shapes: S steps, P = h * w merged video tokens of a step, K tubelets, D hidden size, Dv size of V-JEPA's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gazeqwen.errors import InputError
from gazeqwen.resampler import Residuals


@dataclass(frozen=True, eq=False)
class Frozen:
    """Everything that frozen weights make of steps: the same for every question, gaze and training run.

    Attributes:
        visual: (S, P, D) video tokens.
        features: (S, K, h, w, Dv) V-JEPA features on the video tokens' grid; None for arms that use none.
        h, w: rows and columns of a step's video tokens.
    """

    visual: Tensor
    features: Tensor | None
    h: int
    w: int

    def __len__(self) -> int:
        return len(self.visual)

    def __getitem__(self, rows: slice) -> Frozen:
        """Some of the steps; no copy."""
        return Frozen(self.visual[rows], None if self.features is None else self.features[rows], self.h, self.w)

    @property
    def bytes(self) -> int:
        """Bytes of the tensors."""
        return self.visual.nbytes + (0 if self.features is None else self.features.nbytes)

    @classmethod
    def cat(cls, parts: Sequence[Frozen]) -> Frozen:
        """Runs of steps one after the other; a single one is itself.

        Raises:
            InputError: none, or frames of several sizes.
        """
        if len(parts) == 1:
            return parts[0]
        sizes = {(part.h, part.w) for part in parts}
        if len(sizes) != 1:
            raise InputError("steps", expected="video tokens of one grid", found=f"{sorted(sizes)}")
        ((h, w),) = sizes
        features = [part.features for part in parts if part.features is not None]
        return cls(torch.cat([part.visual for part in parts]), torch.cat(features) if features else None, h, w)


@dataclass(frozen=True)
class EncodedSteps:
    """Steps as the decoder takes them: `visual` (S, P, D), their grid, and residuals when the arm injects."""

    visual: Tensor
    h: int
    w: int
    residuals: Residuals | None
