"""The one place that knows transformers' Qwen2.5-VL: its parts by name, encoding a step, decoding with our own
positions, and the operations on its KV cache (append, fork, evict).

Works with transformers 4.57 and 5.x, with PEFT around the model and with bitsandbytes inside it. The differences that
matter are all here: where the decoder lives, what the vision tower returns, and that only `position_ids` passed by us
are trusted (three generations of transformers build three different ones; see gazeqwen/positions.py).

Shapes: B batch, L tokens of a chunk, S steps, P merged visual tokens of a step, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from gazeqwen.errors import ConfigError, InputError


class Backbone:
    """A view of a `Qwen2_5_VLForConditionalGeneration` (bare, quantised or inside a PeftModel), without own state.

    Raises:
        ConfigError: the model is not a Qwen2.5-VL with its language model head.
    """

    def __init__(self, vlm: nn.Module) -> None:
        self.vlm = vlm
        # Of the class: on an instance, 4.57.1 answers with the text config's.
        model_type = getattr(type(getattr(self.bare, "config", None)), "model_type", None)
        if model_type != "qwen2_5_vl":
            raise ConfigError(
                f"backbone: expected a qwen2_5_vl model, found {type(self.bare).__name__} (model_type {model_type!r})"
            )
        if self.bare.get_output_embeddings() is None:
            raise ConfigError(
                f"backbone: expected Qwen2_5_VLForConditionalGeneration, found {type(self.bare).__name__}, "
                "which has no language model head"
            )

    @property
    def bare(self) -> Any:
        """The transformers model, whatever is wrapped around it."""
        return self.vlm.get_base_model() if hasattr(self.vlm, "get_base_model") else self.vlm  # type: ignore[operator]

    @property
    def config(self) -> Any:
        return self.bare.config

    @property
    def text_config(self) -> Any:
        return self.config.get_text_config()

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.bare.get_decoder()

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers, first to last."""
        return self.decoder.layers

    @property
    def visual(self) -> Any:
        """The vision tower with its merger."""
        return self.bare.model.visual

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        return int(self.text_config.hidden_size)

    @property
    def merge_size(self) -> int:
        """ViT patches per merged token and axis (2)."""
        return int(self.config.vision_config.spatial_merge_size)

    @property
    def patch_size(self) -> int:
        return int(self.config.vision_config.patch_size)

    @property
    def temporal_patch_size(self) -> int:
        return int(self.config.vision_config.temporal_patch_size)

    @property
    def tokens_per_second(self) -> float:
        """Temporal positions a second (2 in all published sizes)."""
        return float(getattr(self.config.vision_config, "tokens_per_second", 2))

    @property
    def embed_tokens(self) -> nn.Module:
        return self.bare.get_input_embeddings()

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype  # type: ignore[return-value]

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes one token holds in the cache: keys and values of all layers in the model's dtype."""
        config = self.text_config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * torch.finfo(self.dtype).bits // 8

    def encode_visual(self, pixel_values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """Merged visual tokens (S, P, D) of S steps with one patch grid, in raster order.

        The tower's attention never crosses temporal patches, so one call for many steps equals one call each.

        Args:
            pixel_values: (S * gh * gw, C) from `preprocess.video_patches`.
            grid: (S, gh, gw) in ViT patches; gh and gw are multiples of `merge_size`.

        Raises:
            InputError: the number of patches and the grid disagree, or the grid does not merge.
        """
        steps, gh, gw = grid
        if len(pixel_values) != steps * gh * gw or gh % self.merge_size or gw % self.merge_size:
            raise InputError(
                "encode_visual",
                expected=f"S * gh * gw patches, gh and gw multiples of {self.merge_size}",
                found=f"{len(pixel_values)} patches for the grid {(steps, gh, gw)}",
            )
        tower = self.visual
        weight = next(tower.parameters())
        dtype = weight.dtype if weight.dtype.is_floating_point else self.dtype
        grid_thw = torch.tensor([[steps, gh, gw]], device=weight.device)
        output = tower(pixel_values.to(device=weight.device, dtype=dtype), grid_thw=grid_thw)
        merged = output if isinstance(output, Tensor) else output.pooler_output  # 4.57 returns the tensor itself
        return merged.view(steps, (gh // self.merge_size) * (gw // self.merge_size), -1)

    def embed_ids(self, ids: Tensor) -> Tensor:
        """(..., D) input embeddings of token ids."""
        return self.embed_tokens(ids.to(self.device))

    def decode(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor,
        *,
        cache: DynamicCache | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states (B, L, D) of a chunk, after the final norm.

        Args:
            inputs_embeds: (B, L, D).
            position_ids: (3, B, L) temporal, height, width positions.
            cache: grows by the chunk when given.
            attention_mask: (B, cached + L) of 0/1, or (B or 1, 1, L, cached + L) additive or boolean (True = may
                attend).

        Raises:
            InputError: shapes disagree (transformers takes a mask that is too short without a word).
            ConfigError: a cache is given in training mode with gradient checkpointing on, which drops it.
        """
        batch, length = inputs_embeds.shape[:2]
        if position_ids.shape != (3, *inputs_embeds.shape[:2]):
            raise InputError(
                "decode",
                expected=f"position ids of shape {(3, *inputs_embeds.shape[:2])}",
                found=str(tuple(position_ids.shape)),
            )
        decoder = self.decoder
        if cache is not None and decoder.training and decoder.gradient_checkpointing:
            raise ConfigError(
                "decode: gradient checkpointing ignores the KV cache in training mode; call eval() or pass no cache"
            )
        if attention_mask is not None:
            total = length + (0 if cache is None else cache_length(cache))
            allowed = [(batch, total), (batch, 1, length, total), (1, 1, length, total)]
            if tuple(attention_mask.shape) not in allowed:
                raise InputError(
                    "decode",
                    expected=f"an attention mask of shape {allowed[0]} or {allowed[1]}",
                    found=str(tuple(attention_mask.shape)),
                )
            if attention_mask.ndim == 4:
                # One dtype for all: an additive mask must match the queries, and 4.57 and 5.x disagree on boolean ones.
                if not attention_mask.dtype.is_floating_point:
                    blocked = torch.finfo(inputs_embeds.dtype).min
                    additive = torch.zeros_like(attention_mask, dtype=inputs_embeds.dtype)
                    attention_mask = additive.masked_fill(~attention_mask.bool(), blocked)
                attention_mask = attention_mask.to(inputs_embeds.dtype)
        output = decoder(
            inputs_embeds=inputs_embeds,
            position_ids=position_ids.to(inputs_embeds.device),
            attention_mask=None if attention_mask is None else attention_mask.to(inputs_embeds.device),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Vocabulary logits in float32 for hidden states (..., D)."""
        return self.bare.get_output_embeddings()(hidden).float()


def new_cache(backbone: Backbone) -> DynamicCache:
    """An empty cache for this backbone."""
    return DynamicCache(config=backbone.text_config)


def cache_length(cache: DynamicCache) -> int:
    """Tokens held (physical length; positions are counted elsewhere, by MRope)."""
    return int(cache.get_seq_length())


def fork_cache(cache: DynamicCache) -> DynamicCache:
    """A cache that can grow and shrink without the original noticing, at no cost.

    DynamicLayer grows by concatenation into new tensors and `evict_cache` replaces them, so the old ones are shared.
    """
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def evict_cache(cache: DynamicCache, keep: Tensor) -> None:
    """Keeps only these rows (1-D ascending int64 indices).

    Survivors keep their rotary positions: keys are not re-rotated (`gazeqwen.relocate` does that, rarely).
    """
    layers: list[Any] = cache.layers
    for layer in layers:
        if getattr(layer, "is_initialized", True) and layer.keys is not None and layer.keys.numel():
            index = keep.to(layer.keys.device)
            layer.keys = layer.keys.index_select(-2, index)
            layer.values = layer.values.index_select(-2, index)


def rotation(backbone: Backbone, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, head_dim), in the model's dtype, of the rotary angles that the decoder gives keys at these
    positions (3, N), each channel by its own axis: as its attention computes them."""
    probe = torch.zeros(1, dtype=backbone.dtype, device=backbone.device)
    cos, sin = backbone.decoder.rotary_emb(probe, positions[:, None].to(backbone.device))
    if cos.ndim == 4:  # (3, 1, N, head_dim): 4.57 chooses the axis in attention
        config = backbone.text_config
        sections = (getattr(config, "rope_parameters", None) or config.rope_scaling)["mrope_section"] * 2
        cos, sin = (
            torch.cat([part[i % 3] for i, part in enumerate(angle.split(sections, dim=-1))], dim=-1)
            for angle in (cos, sin)
        )
    return cos[0], sin[0]


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of keys and values held."""
    total = 0
    for layer in cache.layers:
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
            total += tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else 0
    return total
