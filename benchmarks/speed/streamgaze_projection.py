"""What the same video and questions take at 7B, in floating-point operations: projected, nothing is run.

Matrix products only, as in sizes.py: vision tower, V-JEPA B and the 7B's decoder (attention without its masked half).
Decoding, cutting, the resampler (below 1 % of the prefill, sizes.py) and memory traffic are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5_VLConfig

from benchmarks.speed.sizes import QWEN_7B, Clip, decoder_formula, vision_tower_formula
from gazeqwen.config import FeatureConfig
from gazeqwen.vjepa import encoder_flops

QUESTION_TOKENS = 100  # of a question with four options


@dataclass(frozen=True)
class Seen:
    """A question: `held` whole steps are in the stream's cache at its time, `window` of them it may see, and a partial
    one of its own."""

    held: int
    window: int


def projected_7b(steps: int, questions: Sequence[Seen]) -> dict[str, float]:
    """How many times the operations of one pass over `steps` whole steps each other way takes, at 64 tokens a step.

    Returns:
        `per_question`: everything again for each question; `prefill_only`: the prefill again, all features being there
        on both sides; `prefill_only_once`: the prefill again, features being made once on both sides;
        `prefill_only_free`: the prefill again, and only the pass makes features.
    """
    config: Any = Qwen2_5_VLConfig(**QWEN_7B)
    clip, features, text = Clip(), FeatureConfig(), config.get_text_config()
    patches = clip.side * config.vision_config.spatial_merge_size
    encode = vision_tower_formula(config.vision_config, 1, patches, patches)
    encode += encoder_flops(features.vjepa, features.window_frames, features.size_px)

    def decoder(after: int, more: float) -> int:
        """`more` steps, or that share of one, behind `after` others."""
        before, area = after * clip.side**2, clip.side**2
        whole = decoder_formula(text, before + round(more * area), causal=True)
        return whole - (decoder_formula(text, before, causal=True) if before else 0)

    asking = QUESTION_TOKENS / clip.side**2
    answers = sum(decoder(seen.window + 1, asking) for seen in questions)
    prefills = sum(decoder(0, seen.window + 1) for seen in questions)
    ours = decoder(0, steps) + sum(decoder(seen.held, 1) for seen in questions) + answers
    encoded_ours = encode * (steps + len(questions))
    encoded_theirs = encode * sum(seen.window + 1 for seen in questions)
    return {
        "per_question": (encoded_theirs + prefills + answers) / (encoded_ours + ours),
        "prefill_only": (prefills + answers) / ours,
        "prefill_only_once": (encoded_ours + prefills + answers) / (encoded_ours + ours),
        "prefill_only_free": (prefills + answers) / (encoded_ours + ours),
    }
