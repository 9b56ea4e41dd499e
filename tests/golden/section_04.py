"""Golden section 04: the published model's resampling of V-JEPA features to the video tokens."""

from __future__ import annotations

from pathlib import Path

import torch

from gazeqwen.vjepa import official_features
from tests.golden.io import load, max_error

SECTION = "04"
FUNCTION = "gazeqwen.vjepa.official_features"
TOLERANCE = 1e-5


def check(folder: Path) -> tuple[float, float]:
    worst = 0.0
    for golden in load(folder, SECTION):
        for call in golden.cases():
            encoded = golden.tensor(call.get("enc", "enc"))
            steps = official_features(encoded, call["T"], llm_h=call["llm_H"], llm_w=call["llm_W"])
            worst = max(worst, max_error(torch.stack(steps), golden.tensor(call["out"])))
    return worst, TOLERANCE
