"""The metrics of GazeFollow and VideoAttentionTarget as Gaze-LLE's code computes them (golden 07c), without sklearn.

Heatmaps are (64, 64), points (x, y) normalised, origin top-left. Two habits of that code are kept, or numbers could not
be compared: a predicted point is its cell's upper left corner (column / 64, row / 64), not its centre, and "average L2"
is the distance to the mean of the annotations, not a mean of distances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from gazeqwen.errors import InputError

SIDE = 64
REACH = 9  # cells around the looked-at one that count as right in VideoAttentionTarget's AUC


def gazefollow_auc(heatmap: np.ndarray, gaze_xy_norm: Any, *, image_hw_px: tuple[int, int]) -> float:
    """Area under the ROC curve over the pixels of the original image; positive are the annotators' pixels.

    Args:
        heatmap: (64, 64), resized bilinearly (without antialiasing) to the image.
        gaze_xy_norm: (K, 2), one point an annotator; one with a negative x saw the target outside and is left out.

    Raises:
        InputError: no annotator is left.
    """
    height, width = image_hw_px
    points = _points(gaze_xy_norm)
    inside = points[points[:, 0] >= 0]
    columns = np.clip((inside[:, 0] * width).astype(int), 0, width - 1)
    rows = np.clip((inside[:, 1] * height).astype(int), 0, height - 1)
    positive = np.zeros((height, width), dtype=bool)
    positive[rows, columns] = True
    planes = torch.from_numpy(np.ascontiguousarray(heatmap))[None, None]
    return roc_auc(positive, F.interpolate(planes, (height, width), mode="bilinear")[0, 0].numpy())


def gazefollow_l2(heatmap: np.ndarray, gaze_xy_norm: Any) -> tuple[float, float]:
    """(average, minimum) L2, normalised: from the peak to the mean annotation, and to the nearest one. Annotators with
    negative coordinates take part, as in the released code."""
    points = _points(gaze_xy_norm)
    peak = peak_corner(heatmap)
    average = np.linalg.norm(peak - points.mean(axis=0))
    return float(average), float(np.linalg.norm(peak - points, axis=1).min())


def vat_auc(heatmap: np.ndarray, gaze_xy_norm: tuple[float, float]) -> float:
    """Area under the ROC curve over the heatmap's cells; positive are up to 19 x 19 cells around the target.

    The last row and column are never positive, because the released code cuts the region off at 63.

    Raises:
        InputError: the target is outside the frame by more than the region reaches.
    """
    positive = np.zeros((SIDE, SIDE), dtype=bool)
    columns, rows = (
        slice(max(int(SIDE * value - REACH), 0), max(min(int(SIDE * value + REACH + 1), SIDE - 1), 0))
        for value in _points([gaze_xy_norm])[0]
    )
    positive[rows, columns] = True
    return roc_auc(positive, heatmap)


def vat_l2(heatmap: np.ndarray, gaze_xy_norm: tuple[float, float]) -> float:
    """From the peak to the annotation, normalised."""
    return float(np.linalg.norm(peak_corner(heatmap) - _points([gaze_xy_norm])[0]))


def peak_corner(heatmap: np.ndarray) -> np.ndarray:
    """(2,) the upper left corner of the highest cell, x and y normalised; of equal cells the first."""
    cell = int(np.argmax(heatmap))
    return np.array([cell % SIDE, cell // SIDE]) / SIDE


def roc_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive scores higher than a negative, ties counted half: sklearn's roc_auc_score.

    Raises:
        InputError: there are no positives, or no negatives.
    """
    ours, others = scores[positive], np.sort(scores[~positive])
    if not (ours.size and others.size):
        raise InputError("AUC", expected="positives and negatives", found=f"{ours.size} and {others.size}")
    below, up_to = (np.searchsorted(others, ours, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / others.size)


def average_precision(positive: Sequence[bool] | np.ndarray, scores: Sequence[float] | np.ndarray) -> float:
    """Mean over positives of the precision among scores at least as high: sklearn's average_precision_score.

    Raises:
        InputError: there are no positives.
    """
    truth, values = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if not truth.any():
        raise InputError("AP", expected="at least one positive", found="none")
    descending = np.argsort(-values, kind="stable")
    truth, values = truth[descending], values[descending]
    last_of_ties = np.append(values[1:] != values[:-1], True)
    hits = np.cumsum(truth)[last_of_ties]
    precision = hits / (np.flatnonzero(last_of_ties) + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def _points(gaze_xy_norm: Any) -> np.ndarray:
    """(K, 2) finite float64. Raises InputError for anything else."""
    points = np.asarray(gaze_xy_norm, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or not np.isfinite(points).all():
        raise InputError("gaze annotations", expected="(K, 2) finite numbers, K >= 1", found=str(points.tolist())[:60])
    return points
