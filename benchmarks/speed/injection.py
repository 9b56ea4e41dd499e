"""What injection costs: a decoder forward with hooks and ready residuals against the same forward without.

Random weights and embeddings: neither changes the cost. Computing the residuals is not part of it (that is the
resampler's cost, counted in sizes.py); opening and closing the hooks and placing every row is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.speed.results import Result, interleaved
from gazeqwen.backbone import Backbone
from gazeqwen.config import ResamplerConfig
from gazeqwen.errors import InputError
from gazeqwen.injection import ResidualPlan, TokenMap, VideoTokens, inject
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm

TEXT_TOKENS = 16  # before the video and after it


@dataclass(frozen=True)
class Shape:
    """A decoder and its input: S steps of side x side video tokens between two texts. `hidden` 0 is the tiny model."""

    hidden: int
    layers: int = 0
    heads: int = 0
    key_value_heads: int = 0
    intermediate: int = 0
    steps: int = 16
    side: int = 8
    dtype: torch.dtype = torch.float32
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)

    @property
    def video_tokens(self) -> int:
        return self.steps * self.side**2


TINY = Shape(hidden=0, resampler=TINY_CONFIG.resampler)
# Wide enough for the products to dominate, as they do in every published size.
WIDE = Shape(hidden=1024, layers=4, heads=8, key_value_heads=8, intermediate=2816)
# A slice of the 7B's decoder, 8 of its 28 layers: a GPU needs this width to be busy.
WIDE_GPU = Shape(hidden=3584, layers=8, heads=28, key_value_heads=4, intermediate=18944, steps=60, dtype=torch.bfloat16)


def injection_overhead(name: str, shape: Shape, repeats: int, *, device: torch.device) -> Result:
    """Seconds of a forward with residuals at the resampler's default layers; `ratio` is over the plain forward.

    Returns:
        `parts`: median seconds `plain`, `hooks` and `hooks_learned` (residuals at every layer but the last), quartiles
        of the ratio, `ratio_learned`, and the number of `video_tokens`, `layers` and injected layers.

    Raises:
        InputError: no repeats, or the residuals did not change the forward.
    """
    backbone = Backbone(_build(shape).to(device=device, dtype=shape.dtype))
    generator = torch.Generator().manual_seed(0)
    length = shape.video_tokens + 2 * TEXT_TOKENS
    embeds = torch.randn(1, length, backbone.hidden_size, generator=generator).to(device, shape.dtype)
    positions = torch.arange(length, device=device).expand(3, 1, length)
    chosen = shape.resampler.layer_indices(backbone.n_layers)
    every = tuple(range(backbone.n_layers - 1))
    rows = {
        layer: torch.randn(shape.video_tokens, backbone.hidden_size, generator=generator).to(device) * 0.01
        for layer in every
    }
    area = shape.side**2
    tokens = TokenMap.from_blocks(
        [VideoTokens(0, TEXT_TOKENS + area * s, s, shape.side, shape.side) for s in range(shape.steps)]
    )

    def plain() -> torch.Tensor:
        return backbone.decode(embeds, positions)

    def hooks(layers: tuple[int, ...] = chosen) -> torch.Tensor:
        plan = ResidualPlan(tokens, {layer: rows[layer] for layer in layers})
        with inject(backbone.layers, plan):
            return backbone.decode(embeds, positions)

    with torch.inference_mode():
        if torch.equal(plain(), hooks()):
            raise InputError(name, expected="residuals that change the forward", found="the plain forward's output")
        seconds = interleaved(
            {"plain": plain, "hooks": hooks, "hooks_learned": lambda: hooks(every)}, repeats, device=device
        )
    learned = Result.of_pairs(name, seconds, cost="hooks_learned", reference="plain")
    sizes = {"video_tokens": shape.video_tokens, "layers": backbone.n_layers, "injected_layers": len(chosen)}
    return Result.of_pairs(
        name,
        seconds,
        cost="hooks",
        reference="plain",
        parts={"ratio_learned": learned.ratio or 0.0, **sizes},
        note=f"one forward, hidden size {backbone.hidden_size}, {str(shape.dtype).removeprefix('torch.')}, residuals "
        "ready; hooks_learned injects at every layer but the last",
    )


def _build(shape: Shape) -> nn.Module:
    if shape.hidden == 0:
        return build_tiny_vlm()
    quarter = shape.hidden // shape.heads // 8  # of the pairs of a head: 1 part time, 1.5 rows, 1.5 columns, as Qwen
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 64,  # not used here
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "mrope", "mrope_section": [quarter, quarter * 3 // 2, quarter * 3 // 2]},
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        vision_config={"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32},
        image_token_id=2,
        video_token_id=3,
        vision_start_token_id=4,
        vision_end_token_id=5,
    )
    config._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)  # a float32 copy of the GPU's slice would need 8 GB for nothing
    try:
        return Qwen2_5_VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(default)
