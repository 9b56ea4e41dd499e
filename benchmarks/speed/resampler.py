"""The published resampler as upstream runs it, one call per injected layer and step, against `OfficialResampler`, which
does all of them at once. Same weights, same inputs, outputs compared in the same run.

`published_residual` is our own writing of the published formula (reference: phamtrongthang123/gazeqwen, model.py,
`GazeLens`), term by term and without any rearrangement; the tests use it too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gazeqwen.config import ResamplerConfig
from gazeqwen.errors import InputError
from gazeqwen.gaze_encoding import official_gaze_encoding
from gazeqwen.resampler import OfficialResampler

TOLERANCE = 1e-5
BOUND = 4.0  # loop / ours at width "tiny" on a CPU


@dataclass(frozen=True)
class Width:
    """Sizes of one comparison: P patches of T steps, d_latent, latents, feature and hidden channels."""

    steps: int
    patches: int
    dim: int
    latents: int
    feature_dim: int
    hidden_dim: int
    layers: tuple[int, ...] = (6, 13, 20, 27)
    n_layers: int = 28


WIDTHS: dict[str, Width] = {
    "tiny": Width(steps=16, patches=16, dim=64, latents=8, feature_dim=64, hidden_dim=128),
    "7b": Width(steps=4, patches=64, dim=256, latents=32, feature_dim=768, hidden_dim=3584),
}


def resampler_vs_loop(
    repeats: int, *, width: Literal["tiny", "7b"] = "tiny", device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Seconds for the residuals of all steps at all injected layers of one clip, the published loop against ours.

    Args:
        repeats: pairs of runs; the order within a pair alternates, and the ratio is the median of the pairs' ratios.
        width: "tiny", where calls dominate, or "7b", the published sizes, where products do.
        device: where both run.

    Returns:
        `name`, `value` (median seconds, ours), `unit`, `ratio` (loop / ours), `bound` (None at "7b"), `parts` (median
        seconds `loop` and `ours`; at "7b" also `output_projection_share`: how much of ours goes when D is 1),
        `repeats`, `sizes`, `max_difference`.

    Raises:
        InputError: no repeats, an unknown width, or results that differ by more than 1e-5.
    """
    if repeats < 1:
        raise InputError("repeats", expected="at least 1", found=str(repeats))
    if width not in WIDTHS:
        raise InputError("width", expected=" or ".join(WIDTHS), found=repr(width))
    sizes, target = WIDTHS[width], torch.device(device)
    module = seeded_module(sizes).to(target)
    narrow = seeded_module(sizes, hidden_dim=1).to(target)
    features, scanpath, times_s = seeded_inputs(sizes, target)

    def loop() -> Tensor:
        return published_loop(module, features, scanpath, times_s)

    def batched(resampler: OfficialResampler = module) -> Tensor:
        residuals = resampler(features, scanpath, times_s)
        return torch.stack([residuals.for_layer(layer) for layer in resampler.layers])

    parts: dict[str, list[float]] = {"loop": [], "ours": [], "narrow": []}
    with torch.inference_mode():
        difference = float((loop() - batched()).abs().max())  # the first run of each, also the warm-up
        if not difference <= TOLERANCE:
            raise InputError("resampler_vs_loop", expected=f"equal within {TOLERANCE}", found=f"{difference:.2e}")
        batched(narrow)
        for repeat in range(repeats):
            pair: list[tuple[str, Callable[[], Tensor]]] = [("loop", loop), ("ours", batched)]
            for name, run in pair if repeat % 2 == 0 else pair[::-1]:
                parts[name].append(_seconds(run, target))
            parts["narrow"].append(_seconds(lambda: batched(narrow), target))
    shares = {}
    if width == "7b":  # at the tiny width it is smaller than the noise
        rest = median(narrow_s / ours_s for narrow_s, ours_s in zip(parts["narrow"], parts["ours"], strict=True))
        shares["output_projection_share"] = 1 - rest
    return {
        "name": f"resampler_vs_loop_{width}",
        "value": median(parts["ours"]),
        "unit": "s",
        "ratio": median(loop_s / ours_s for loop_s, ours_s in zip(parts["loop"], parts["ours"], strict=True)),
        "bound": BOUND if width == "tiny" else None,
        "parts": {"loop": median(parts["loop"]), "ours": median(parts["ours"]), **shares},
        "repeats": repeats,
        "sizes": f"T={sizes.steps} P={sizes.patches} d={sizes.dim} latents={sizes.latents} D={sizes.hidden_dim}",
        "max_difference": difference,
    }


def published_loop(module: OfficialResampler, features: Tensor, scanpath: Tensor, times_s: list[float]) -> Tensor:
    """(layers, T, P, D): one call per injected layer and step, as upstream's hooks make them."""
    return torch.stack(
        [
            torch.stack(
                [
                    published_residual(module, features[t], scanpath, times_s[t], layer=layer)
                    for t in range(len(features))
                ]
            )
            for layer in module.layers
        ]
    )


def published_residual(
    module: OfficialResampler, features: Tensor, scanpath: Tensor, time_s: float, *, layer: int
) -> Tensor:
    """(P, D) at one layer: the published formula for one step's features (P, feature_dim) and the module's weights."""
    m = module.layers.index(layer) if layer in module.layers else 0
    if len(scanpath) == 0:
        return features.new_zeros(len(features), module.hidden_dim)
    gaze, _ = official_gaze_encoding(scanpath, [time_s], module.dim)
    x = _at(module.proj_ins, m)(features)
    latents: Tensor = module.latents[m]
    for b in range(len(_at(module.q_projs, m))):
        rows = torch.cat([x, latents])
        per_key = torch.cat([gaze.expand(len(x), -1), torch.zeros_like(latents)])
        keys = _at(module.k_projs, m, b)(rows) + _at(module.g_projs, m, b)(per_key)
        attention = torch.softmax(_at(module.q_projs, m, b)(latents) @ keys.T / module.dim**0.5, dim=-1)
        mixed = latents + attention @ _at(module.v_projs, m, b)(rows)
        latents = _at(module.block_norms, m, b)(mixed + _at(module.ff_blocks, m, b)(mixed))
    read = torch.softmax(x @ latents.T / module.dim**0.5, dim=-1) @ latents
    return module.amplitude[layer] * F.linear(read, _at(module.proj_outs, m).weight)  # type: ignore[arg-type]


def _at(modules: nn.ModuleList, *indices: int) -> Any:
    found: Any = modules
    for index in indices:
        found = found[index]
    return found


def seeded_module(sizes: Width, *, hidden_dim: int | None = None, seed: int = 0) -> OfficialResampler:
    """A module of these sizes with random numbers in every parameter: the published start has a zero output."""
    config = ResamplerConfig(
        kind="official", dim=sizes.dim, latents=sizes.latents, heads=1, layers=sizes.layers, allow_last_layer=True
    )
    module = OfficialResampler(
        config,
        feature_dim=sizes.feature_dim,
        hidden_dim=sizes.hidden_dim if hidden_dim is None else hidden_dim,
        n_layers=sizes.n_layers,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            width = parameter.shape[-1] if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / width**0.5)
    return module.eval()


def seeded_inputs(sizes: Width, device: torch.device, *, seed: int = 1) -> tuple[Tensor, Tensor, list[float]]:
    """Features (T, P, c), a scanpath with a fixation at most steps, and the steps' times, one a second."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(sizes.steps, sizes.patches, sizes.feature_dim, generator=generator)
    mid_s = torch.arange(sizes.steps) + 0.3 * torch.randn(sizes.steps, generator=generator)
    scanpath = torch.cat(
        [torch.rand(sizes.steps, 2, generator=generator), mid_s[:, None], torch.full((sizes.steps, 1), 0.6)], dim=1
    )
    return features.to(device), scanpath.to(device), [float(t) for t in range(sizes.steps)]


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start_s = perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - start_s
