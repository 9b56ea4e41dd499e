"""Builds the embedded default's parts: configuration, tokenizer, seeded Qwen2.5-VL. No file beyond tokenizer.json."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gazeqwen.config import (
    FeatureConfig,
    FixationConfig,
    GazeEncodingConfig,
    GazeQwenConfig,
    PreprocessConfig,
    ResamplerConfig,
    VJEPAConfig,
)

SEED = 20260321
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_TOKENIZER_FILE = Path(__file__).with_name("tokenizer.json")

TINY_CONFIG = GazeQwenConfig(
    name="tiny",
    trained="untrained",
    fps=2.0,
    preprocess=PreprocessConfig(min_pixels=16 * 28 * 28, max_pixels=64 * 28 * 28),
    features=FeatureConfig(
        vjepa=VJEPAConfig(dim=96, depth=4, heads=3, mlp_dim=384, hierarchical_layers=(0, 1, 2, 3)),
        window_frames=8,
        size_px=96,
        fps=8.0,
        tubelets_per_step=4,
    ),
    gaze_encoding=GazeEncodingConfig(),
    resampler=ResamplerConfig(dim=64, latents=16, blocks=1, heads=4, layers=(0.25, 0.5)),
    # stream.ivt's defaults, which this package can't import; a test holds them equal.
    fixations=FixationConfig(
        detector="ivt",
        parameters={
            "velocity_widths_s": 0.5625,
            "merge_widths": 0.0145,
            "velocity_window_s": 0.020,
            "min_duration_s": 0.060,
            "max_gap_s": 0.075,
            "merge_gap_s": 0.075,
        },
    ),
)


@cache
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about a thousand tokens with Qwen's special tokens; `tiny.vocabulary` made tokenizer.json."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(_TOKENIZER_FILE),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def tiny_vlm_config(tokenizer: Any) -> Qwen2_5_VLConfig:
    """A Qwen2.5-VL of about two million parameters: 5 decoder layers of 128, a ViT of 4 blocks of 96.

    Widths of the decoder are multiples of 64, which bitsandbytes' 4-bit kernels ask for on some CPUs. Half of the
    rotary dimensions turn with time, up to a wavelength of 350 ids (three minutes): with the released sections, a third
    of them and a hundred times as slow, a small head tells neither steps nor rows apart.
    """
    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [8, 4, 4]},
            "tie_word_embeddings": True,
            "bos_token_id": token["<|endoftext|>"],
            "eos_token_id": token["<|im_end|>"],
        },
        vision_config={
            "depth": 4,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 4,
            "out_hidden_size": 128,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
        },
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_tiny_vlm(*, seed: int = SEED) -> Qwen2_5_VLForConditionalGeneration:
    """The tiny Qwen2.5-VL with seeded random weights, in eval mode, float32, sdpa."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_vlm_config(tiny_tokenizer())
        config._attn_implementation = "sdpa"
        return Qwen2_5_VLForConditionalGeneration(config).eval()
