"""Golden section 07c: the metrics of GazeFollow and VideoAttentionTarget, in/out AP, and the training target."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmarks.gaze_target.metrics import average_precision, gazefollow_auc, gazefollow_l2, vat_auc, vat_l2
from gazeqwen.gaze_target import training_target
from tests.golden.io import load, max_error

SECTION = "07c"
FUNCTION = "benchmarks.gaze_target.metrics.gazefollow_auc"
TOLERANCE = 1e-9  # of the metrics
TARGET_TOLERANCE = 1e-6  # of the training target, which is float32


def check(folder: Path) -> tuple[float, float]:
    """Every metric of every call; infinite when a training target is off by more than its own tolerance."""
    worst = 0.0
    for golden in load(folder, SECTION):
        for call in golden.cases():
            heatmap = golden.tensor(call["heatmap"]).numpy()
            points, vat_point = np.stack([call["gazex"], call["gazey"]], axis=1), tuple(call["vat_point"])
            average, minimum = gazefollow_l2(heatmap, points)
            ours = {
                "gazefollow_auc": gazefollow_auc(heatmap, points, image_hw_px=tuple(call["image_hw"])),
                "avg_l2": average,
                "min_l2": minimum,
                "vat_auc": vat_auc(heatmap, vat_point),
                "vat_l2": vat_l2(heatmap, vat_point),
            }
            worst = max(worst, *(max_error(value, call[name]) for name, value in ours.items()))
            target = training_target((float(points[0, 0]), float(points[0, 1])))
            if max_error(target, golden.tensor(call["train_target"])) > TARGET_TOLERANCE:
                return math.inf, TOLERANCE
        table = golden["inout_ap"]
        worst = max(worst, max_error(average_precision(table["gt"], table["pred"]), table["average_precision"]))
    return worst, TOLERANCE
