"""Golden section 01: the published resampler, any sizes, layers and gaze."""

from __future__ import annotations

from pathlib import Path

import torch

from gazeqwen.config import ResamplerConfig
from gazeqwen.errors import InputError
from gazeqwen.resampler import OfficialResampler
from tests.golden.io import Golden, load, max_error

SECTION = "01"
FUNCTION = "gazeqwen.resampler.OfficialResampler"
TOLERANCE = 1e-5


def check(folder: Path) -> tuple[float, float]:
    """The residual of every call: one step at one layer, listed or not."""
    return max(module_error(golden) for golden in load(folder, SECTION)), TOLERANCE


def module_error(golden: Golden) -> float:
    """Largest error over one file's calls."""
    sizes = golden["config"]
    config = ResamplerConfig(
        kind="official",
        dim=sizes["d_latent"],
        latents=sizes["n_latents"],
        blocks=sizes["n_blocks"],
        heads=1,
        layers=tuple(golden["active_layers"]),
        allow_last_layer=True,
    )
    module = OfficialResampler(
        config, feature_dim=sizes["d_vjepa"], hidden_dim=sizes["d_llm"], n_layers=sizes["n_layers"]
    )
    module.load_state_dict(golden.state_dict(), strict=True)
    worst = 0.0
    with torch.no_grad():
        for call in golden.cases():
            layer, name = call["layer_index"], f"scanpath.{call['scanpath']}"
            if name not in golden.tensors and call["scanpath"] != "none":
                raise InputError(golden.path, expected=f"the tensor {name}", found="no such tensor")
            scanpath = golden.tensors.get(name, torch.zeros(0, 4))
            features = golden.tensor(call["features"])[None]
            residuals = module(features, scanpath, [call["frame_time"]], layers=[layer])
            worst = max(worst, max_error(residuals.for_layer(layer)[0], golden.tensor(call["out"])))
    return worst
