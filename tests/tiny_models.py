"""Small seeded Qwen2.5-VLs in every form the package supports, and prompts for them with known token addresses.

Smaller than `gazeqwen.tiny` (0.4 M parameters, built in milliseconds) and with grouped-query attention, so that a test
may build a fresh one. `prompts` lays out a padded batch and finds the address of each video token by plain loops: the
independent check of `TokenMap`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gazeqwen.backbone import Backbone
from gazeqwen.positions import position_ids

Kind = Literal["plain", "lora", "nf4", "int8", "bf16", "fp64"]
KINDS: tuple[Kind, ...] = ("plain", "lora", "nf4", "int8", "bf16", "fp64")
N_LAYERS = 4
VOCAB = 64
PAD, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = 0, 1, 2, 3, 4, 5
FIRST_WORD = 8  # ids below are special
LORA_TARGETS = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
VideoGrid = tuple[int, int, int]  # steps, rows and columns of merged tokens


def small_config() -> Qwen2_5_VLConfig:
    """4 decoder layers of 64 (4 query heads on 2 key-value heads), a ViT of 2 blocks of 64.

    All widths are multiples of 64: bitsandbytes' nf4 kernel for CPUs with AVX-512 takes no others.
    """
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "tie_word_embeddings": False,  # tied, a random model repeats its last token
            "bos_token_id": PAD,
            "eos_token_id": IM_END,
            "pad_token_id": PAD,
            # Three times the usual: attention and logits of a random model this small are otherwise near uniform.
            "initializer_range": 0.06,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        image_token_id=IMAGE_PAD,
        video_token_id=VIDEO_PAD,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )


def small_vlm(*, seed: int = 0, dtype: torch.dtype = torch.float32) -> Qwen2_5_VLForConditionalGeneration:
    """A fresh model with seeded random weights, frozen, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = small_config()
        config._attn_implementation = "sdpa"
        vlm = Qwen2_5_VLForConditionalGeneration(config)
    return vlm.to(dtype).requires_grad_(False).eval()  # type: ignore[call-arg]  # as nn.Module.to


def small_backbone(kind: Kind = "plain", *, seed: int = 0) -> Backbone:
    """A fresh backbone: float32, with LoRA (both matrices random), nf4 or int8 by bitsandbytes, bfloat16 or float64."""
    dtypes = {"bf16": torch.bfloat16, "fp64": torch.float64}
    vlm: nn.Module = small_vlm(seed=seed, dtype=dtypes.get(kind, torch.float32))
    if kind == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vlm = get_peft_model(vlm, LoraConfig(r=4, target_modules=LORA_TARGETS, init_lora_weights=False)).eval()  # type: ignore[arg-type]
    elif kind in ("nf4", "int8"):
        vlm = _quantised(vlm, kind)
    return Backbone(vlm)


def _quantised(vlm: nn.Module, kind: str) -> nn.Module:
    """The model as `from_pretrained` loads it with bitsandbytes on the CPU."""
    config = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        if kind == "nf4"
        else BitsAndBytesConfig(load_in_8bit=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        vlm.save_pretrained(folder)  # type: ignore[operator]
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, quantization_config=config, dtype=torch.float32, device_map="cpu"
        )
    return loaded.requires_grad_(False).eval()


@dataclass(frozen=True)
class Prompts:
    """A padded batch: ids and mask (B, L), positions (3, B, L), per row the merged grids of its videos, and `places`.

    Attributes:
        places: (row, column, step, y, x) of every video token, in the order of the rows and their tokens.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    grids: tuple[tuple[VideoGrid, ...], ...]
    places: tuple[tuple[int, int, int, int, int], ...]

    def embeds(self, backbone: Backbone) -> Tensor:
        """(B, L, D) input embeddings; at video tokens, noise that depends on its place in the row's video only."""
        embeds = backbone.embed_ids(self.ids).detach().clone()
        for row in range(len(self.ids)):
            noise = torch.Generator().manual_seed(row)
            for column in torch.nonzero(self.ids[row] == VIDEO_PAD).flatten():
                values = torch.randn(embeds.shape[-1], generator=noise) * 0.1
                embeds[row, column] = values.to(embeds.dtype)
        return embeds


def prompts(rows: Sequence[Sequence[int | VideoGrid]], *, side: Literal["left", "right"] = "left") -> Prompts:
    """Lays out a batch: per row, numbers of text tokens and merged video grids in order, e.g. `[3, (2, 2, 3), 4]`."""
    words = torch.Generator().manual_seed(7)
    sequences: list[list[int]] = []
    cells: list[list[tuple[int, int, int, int]]] = []  # column without padding, step, y, x
    for row in rows:
        ids: list[int] = []
        at: list[tuple[int, int, int, int]] = []
        first_step = 0
        for part in row:
            if isinstance(part, int):
                ids += torch.randint(FIRST_WORD, VOCAB, (part,), generator=words).tolist()
                continue
            steps, height, width = part
            ids.append(VISION_START)
            for step in range(steps):
                for y in range(height):
                    for x in range(width):
                        at.append((len(ids), first_step + step, y, x))
                        ids.append(VIDEO_PAD)
            ids.append(VISION_END)
            first_step += steps
        sequences.append(ids)
        cells.append(at)
    longest = max(map(len, sequences))
    before = [longest - len(ids) if side == "left" else 0 for ids in sequences]
    table = torch.full((len(rows), longest), PAD)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for row, ids in enumerate(sequences):
        table[row, before[row] : before[row] + len(ids)] = torch.tensor(ids)
        mask[row, before[row] : before[row] + len(ids)] = 1
    grids = tuple(tuple(part for part in row if not isinstance(part, int)) for row in rows)
    positions, _, _ = position_ids(
        table,
        mask,
        video_grid_thw=[(t, 2 * h, 2 * w) for row in grids for t, h, w in row],
        video_token_id=VIDEO_PAD,
        image_token_id=IMAGE_PAD,
        tokens_per_second=2,
    )
    places = tuple((row, before[row] + column, *rest) for row, at in enumerate(cells) for column, *rest in at)
    return Prompts(table, mask, positions, grids, places)  # type: ignore[arg-type]  # five ints each
