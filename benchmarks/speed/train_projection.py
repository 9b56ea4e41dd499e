"""What the two training loops take at 7B, in floating-point operations: projected, nothing is run.

Matrix products only, as in sizes.py: vision tower, V-JEPA B and the 7B's decoder (attention without its masked half). A
backward counts as much as its forward: weights are frozen, so that only activations have gradients. Decoding, reading
the cache, the resampler and memory traffic are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import Qwen2_5_VLConfig

from benchmarks.speed.sizes import QWEN_7B, Clip, decoder_formula, vision_tower_formula
from benchmarks.speed.streamgaze_projection import QUESTION_TOKENS
from gazeqwen.config import FeatureConfig
from gazeqwen.vjepa import encoder_flops

EPOCHS = 3  # of the published run


def projected_7b_training(stops: Sequence[int]) -> dict[str, float]:
    """Operations of the published loop over ours, for questions of one video at 64 tokens a step.

    Args:
        stops: whole steps before each question; each has a partial step of its own.

    Returns:
        `ratio`: each question's clip encoded and run alone, over one packed row from cached features; `ratio_3_epochs`:
        ours also encodes everything once in three epochs; `two_frames`: the published loop shows each question two
        frames only; `shared`: one forward a question over one packed row, both from cached features; `lm_share`: the
        decoder's share of the published loop.
    """
    config: Any = Qwen2_5_VLConfig(**QWEN_7B)
    clip, features, text = Clip(), FeatureConfig(), config.get_text_config()
    patches, area = clip.side * config.vision_config.spatial_merge_size, clip.side**2
    encode = vision_tower_formula(config.vision_config, 1, patches, patches)
    encode += encoder_flops(features.vjepa, features.window_frames, features.size_px)

    def learned(tokens: int) -> int:
        """Forward and backward of a row."""
        return 2 * decoder_formula(text, tokens, causal=True)

    own = area + QUESTION_TOKENS
    alone = sum(learned(stop * area + own) for stop in stops)
    prefix = max(stops) * area
    packed = learned(prefix) + sum(learned(stop * area + own) - learned(stop * area) for stop in stops)
    encoded = encode * sum(stop + 1 for stop in stops)
    once = encode * (max(stops) + len(stops))
    return {
        "ratio": (encoded + alone) / packed,
        "ratio_3_epochs": (encoded + alone) / (packed + once / EPOCHS),
        "two_frames": len(stops) * (encode + learned(own)) / packed,
        "shared": alone / packed,
        "lm_share": alone / (encoded + alone),
    }
