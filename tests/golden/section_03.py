"""Golden section 03: the V-JEPA 2.1 encoder, official weights names, any depth and grid."""

from __future__ import annotations

from pathlib import Path

import torch

from gazeqwen.config import VJEPAConfig
from gazeqwen.vjepa import VJEPA21
from tests.golden.io import Golden, load, max_error

SECTION = "03"
FUNCTION = "gazeqwen.vjepa.VJEPA21"
TOLERANCE = 1e-5


def check(folder: Path) -> tuple[float, float]:
    """Final output and every hierarchical layer of every call."""
    return max(encoder_error(golden) for golden in load(folder, SECTION)), TOLERANCE


def encoder_error(golden: Golden) -> float:
    """Largest error over one file's calls."""
    config = VJEPAConfig(
        dim=golden["embed_dim"],
        depth=golden["depth"],
        heads=golden["num_heads"],
        mlp_dim=golden["mlp_hidden"],
        hierarchical_layers=tuple(golden["hierarchical_layers"]),
        patch_size=golden["patch_size"],
        tubelet_size=golden["tubelet_size"],
    )
    encoder = VJEPA21(config).eval()
    encoder.load_state_dict(golden.state_dict(), strict=True)
    worst = 0.0
    with torch.no_grad():
        for call in golden.cases():
            x = golden.tensor(call["x"])
            worst = max(worst, max_error(encoder(x), golden.tensor(call["y"])))
            if call.get("layers"):
                maps = encoder(x, layers=config.hierarchical_layers)
                pairs = zip(maps, call["layers"], strict=True)
                worst = max(worst, *(max_error(ours, golden.tensor(name)) for ours, name in pairs))
    return worst
