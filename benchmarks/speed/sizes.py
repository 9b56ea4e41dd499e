"""Sizes at 7B: floating-point operations and parameters, counted on the meta device, where nothing is computed.

Everything counts matrix products only, 2 per multiply-add, as `torch.utils.flop_counter` does. The counter is exact on
the meta device for the resampler, the decoder (attention as the full square: it does not know that half is masked) and
V-JEPA. Qwen's vision tower reads its window sizes from data, which meta tensors do not have, so it has a formula, like
the decoder; the tests hold both formulas to the counter at small sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.speed.results import Result
from gazeqwen.backbone import Backbone
from gazeqwen.config import FeatureConfig, GazeEncodingConfig, ResamplerConfig
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.resampler import GazeResampler, OfficialResampler
from gazeqwen.vjepa import VJEPA21, encoder_flops

# What Qwen/Qwen2.5-VL-7B-Instruct publishes in its config.json.
QWEN_7B: dict[str, Any] = {
    "text_config": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "tie_word_embeddings": False,
}


@dataclass(frozen=True)
class Clip:
    """What is counted: S steps of side x side video tokens, E gaze events each, and the text around them."""

    steps: int = 60
    side: int = 8
    events: int = 3
    text_tokens: int = 32

    @property
    def tokens(self) -> int:
        return self.steps * self.side**2 + self.text_tokens


def counted_flops(run: Callable[[], object]) -> int:
    """Operations of `run`; not under `no_grad`, where the counter's own hooks fail. CPU `sdpa` is not counted."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def meta_backbone(config: Qwen2_5_VLConfig) -> Backbone:
    """A backbone without memory or numbers."""
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return Backbone(Qwen2_5_VLForConditionalGeneration(config).eval())


def prefill_flops(backbone: Backbone, tokens: int) -> int:
    """Counted: the decoder over `tokens` tokens, and the head at the last one. The backbone is on the meta device."""

    def run() -> torch.Tensor:
        embeds = torch.empty(1, tokens, backbone.hidden_size, device="meta")
        hidden = backbone.decode(embeds, torch.zeros(3, 1, tokens, dtype=torch.int64, device="meta"))
        return backbone.logits(hidden[:, -1])

    return counted_flops(run)


def decoder_formula(text: Any, tokens: int, *, causal: bool = False) -> int:
    """As `prefill_flops`, from the text config. `causal` leaves out the masked half of attention."""
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    queries, keys = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    linear = 2 * text.hidden_size * (queries + keys) + 3 * text.hidden_size * text.intermediate_size
    attention = 2 * queries * ((tokens + 1) / 2 if causal else tokens)
    return int(2 * (tokens * text.num_hidden_layers * (linear + attention) + text.hidden_size * text.vocab_size))


def vision_tower_formula(vision: Any, steps: int, rows: int, columns: int) -> int:
    """Qwen's vision tower and merger over `steps` temporal patches of rows x columns ViT patches."""
    window = vision.window_size // vision.patch_size
    hidden, patches = vision.hidden_size, rows * columns
    merged = hidden * vision.spatial_merge_size**2  # channels of the patches that become one token, side by side
    seen_in_windows = _sum_of_squares(rows, window) * _sum_of_squares(columns, window)  # pairs (query, key)
    full = len(vision.fullatt_block_indexes)
    pairs = full * patches**2 + (vision.depth - full) * seen_in_windows
    linear = vision.depth * (4 * hidden**2 + 3 * hidden * vision.intermediate_size)
    embedding = 3 * vision.temporal_patch_size * vision.patch_size**2 * hidden
    merger = patches // vision.spatial_merge_size**2 * (merged**2 + merged * vision.out_hidden_size)
    return 2 * steps * (patches * (embedding + linear) + 2 * pairs * hidden + merger)


def _sum_of_squares(length: int, window: int) -> int:
    """Over the pieces of `length` cut into windows; the last piece may be shorter (Qwen drops its padding)."""
    whole, rest = divmod(length, window)
    return whole * window**2 + rest**2


def resampler_flops(resampler: GazeResampler, features: FeatureConfig, clip: Clip) -> int:
    """Counted: gaze encoding and resampler, all steps and layers in one call. The resampler is on the meta device."""
    grid = (clip.side, clip.side)
    tokens = torch.empty(clip.steps, features.tubelets_per_step, *grid, resampler.feature_dim, device="meta")
    per_event = torch.empty(clip.steps, clip.events, device="meta")
    gaze = GazeBatch(torch.empty(clip.steps, clip.events, 2, device="meta"), per_event, per_event, per_event.bool())
    return counted_flops(lambda: resampler(tokens, gaze))


def vjepa_flops(features: FeatureConfig) -> int:
    """Counted on the meta device: one step, that is one window of frames."""
    with torch.device("meta"):
        encoder = VJEPA21(features.vjepa)
    side = features.size_px
    return counted_flops(lambda: encoder(torch.empty(1, 3, features.window_frames, side, side, device="meta")))


def resampler_7b(config: ResamplerConfig) -> GazeResampler:
    """On the meta device, at the sizes of V-JEPA B and the 7B decoder."""
    text = QWEN_7B["text_config"]
    with torch.device("meta"):
        return GazeResampler(
            config,
            GazeEncodingConfig(),
            feature_dim=FeatureConfig().vjepa.dim,
            hidden_dim=text["hidden_size"],
            n_layers=text["num_hidden_layers"],
        )


def resampler_flops_7b(name: str, config: ResamplerConfig, clip: Clip | None = None) -> Result:
    """The resampler's operations over the decoder's prefill of the same steps. The vision tower is not in the prefill.

    Returns:
        `parts`: `prefill` and, of it, `prefill_causal` (without the masked half of attention), `vision_tower`, `vjepa`,
        all in FLOP for the clip, and the clip's sizes.
    """
    clip, features = clip or Clip(), FeatureConfig()
    resampler = resampler_flops(resampler_7b(config), features, clip)
    costs = _clip_costs(clip, features)
    return Result(
        name,
        resampler,
        "FLOP",
        resampler / costs["prefill"],
        {"resampler": resampler, **costs},
        note=f"{_layers_of(config)}; prefill: decoder of the 7B over all tokens, without the vision tower",
    )


def vjepa_flops_7b(name: str, clip: Clip | None = None) -> Result:
    """V-JEPA B's operations for the same steps over the 7B prefill: the larger part of what gaze costs."""
    clip, features = clip or Clip(), FeatureConfig()
    costs = _clip_costs(clip, features)
    per_step = {
        "vjepa_per_step": costs["vjepa"] / clip.steps,
        "vjepa_formula_per_step": encoder_flops(features.vjepa, features.window_frames, features.size_px),
        "prefill_per_step": costs["prefill"] / clip.steps,
    }
    return Result(
        name,
        costs["vjepa"],
        "FLOP",
        costs["vjepa"] / costs["prefill"],
        {**costs, **per_step},
        note=f"V-JEPA B, one window of {features.window_frames} frames of {features.size_px} pixels a step",
    )


def parameters_7b(name: str, config: ResamplerConfig) -> Result:
    """Trainable parameters of the GazeResampler at 7B; `parts` splits them and holds the published module's count."""
    resampler = resampler_7b(config)
    total = sum(parameter.numel() for parameter in resampler.parameters())
    head = resampler.to_hidden.weight.numel()
    with torch.device("meta"):
        official = OfficialResampler(
            replace(config, kind="official", heads=1, layers=(6, 13, 20, 27), allow_last_layer=True),
            feature_dim=resampler.feature_dim,
            hidden_dim=resampler.to_hidden.out_features,
            n_layers=QWEN_7B["text_config"]["num_hidden_layers"],
        )
    published = sum(parameter.numel() for parameter in official.parameters())
    parts = {"output_projection": head, "trunk": total - head, "published_module": published}
    return Result(name, total, "params", None, parts, note=_layers_of(config))


def _clip_costs(clip: Clip, features: FeatureConfig) -> dict[str, float]:
    config: Any = Qwen2_5_VLConfig(**QWEN_7B)
    patches = clip.side * config.vision_config.spatial_merge_size
    return {
        "prefill": prefill_flops(meta_backbone(config), clip.tokens),
        "prefill_causal": decoder_formula(config.get_text_config(), clip.tokens, causal=True),
        "vision_tower": vision_tower_formula(config.vision_config, clip.steps, patches, patches),
        "vjepa": clip.steps * vjepa_flops(features),
        "steps": clip.steps,
        "video_tokens": clip.tokens - clip.text_tokens,
        "text_tokens": clip.text_tokens,
    }


def _layers_of(config: ResamplerConfig) -> str:
    n_layers = QWEN_7B["text_config"]["num_hidden_layers"]
    how = "learned: a gate for each of" if config.layers == "learned" else "at"
    chosen = config.layer_indices(n_layers)
    return f"residuals {how} {len(chosen)} of {n_layers} layers"
