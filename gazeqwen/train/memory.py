"""What a training forward needs in memory, counted on the meta device: shapes without numbers, at any size, anywhere.

    peak = weights + V-JEPA (fp32) + 12 bytes a trained number (gradient and AdamW's two moments)
         + what backward keeps + one layer's worth of working space + 1 GiB (the GPU's context, fragments)

"What backward keeps" is the sum of the tensors that autograd saves in one forward of the real `PackedForward`, each
storage once, without parameters. Attention counts as the kernels of a GPU keep it: queries, keys, values and output,
not the matrix of weights. With gradient checkpointing a layer keeps its input only, and one layer at a time the rest.
It is an estimate: what a kernel works in is not in it, and no GPU was measured against it here.

Shapes: S steps, P video tokens of a step, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import Qwen2_5_VLForConditionalGeneration

from gazeqwen.config import GazeQwenConfig
from gazeqwen.frozen import Frozen
from gazeqwen.model import GazeQwen
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.examples import Ask, Form, TrainingVideo
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.setup import prepare, training_mode
from gazeqwen.vjepa import VJEPA21

BYTES_A_TRAINED_NUMBER = 12
CONTEXT_BYTES = 2**30


@dataclass(frozen=True)
class Kept:
    """Bytes that backward keeps of one forward.

    Attributes:
        layers: in the decoder layers together; `largest` in the one that keeps most; `inputs` of the layers that keep
            anything.
        outside: in the resampler, the residuals, the embeddings and the logits.
        tokens: of the packed row.
    """

    layers: int
    largest: int
    inputs: int
    outside: int
    tokens: int

    def total(self, *, checkpointing: bool) -> int:
        return self.outside + (self.inputs + self.largest if checkpointing else self.layers)


class _FusedAttention(torch.autograd.Function):
    """Keeps what flash attention keeps. For shapes only."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out)
        return out


class _Fused(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def meta_model(backbone: Any, config: GazeQwenConfig, settings: TrainConfig, *, dtype: torch.dtype) -> GazeQwen:
    """A model of these sizes, prepared for training, whose tensors have shapes and no numbers.

    Args:
        backbone: the Qwen2.5-VL's configuration.
        config: config.json's settings; features of another extractor than V-JEPA 2.1 are not known here.
    """
    from gazeqwen.tiny import tiny_tokenizer

    backbone._attn_implementation = "sdpa"
    with torch.device("meta"):
        vlm: Any = Qwen2_5_VLForConditionalGeneration(backbone)
        vlm.to(dtype)
        extractor = _Shapes(VJEPA21(config.features.vjepa), config.features.vjepa.dim)
        made = GazeQwen(replace(config, lora=False), vlm=vlm, tokenizer=tiny_tokenizer(), extractor=extractor)
        fresh = replace(settings.model, fresh_resampler=True)
        model = prepare(made, replace(settings, model=fresh, gradient_checkpointing=False)).model
    return model.to("meta")


class _Shapes(nn.Module):
    """V-JEPA to count."""

    def __init__(self, encoder: nn.Module, dim: int) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, dim


def kept_for_backward(packed: PackedForward, videos: Sequence[TrainingVideo], forms: Sequence[Sequence[Form]]) -> Kept:
    """Of one forward of a `meta_model`; the videos' frozen parts are taken for their shapes."""
    model = packed.model
    held = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    alive: list[Tensor] = []  # so that no storage is counted under the address of one that is gone
    seen: dict[int, int] = {}
    per_layer: list[int] = []
    rows: list[int] = []
    hooks = []
    for layer in model.backbone.layers:
        hooks.append(layer.register_forward_pre_hook(lambda _m, args: per_layer.append(-sum(seen.values()))))
        hooks.append(layer.register_forward_hook(lambda _m, args, out: _closed(per_layer, seen, rows, out)))

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in held:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    training_mode(model, True)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _Fused():
            packed([_on_meta(video) for video in videos], forms)
    finally:
        for hook in hooks:
            hook.remove()
    layers = sum(per_layer)
    dtype_bytes = torch.finfo(model.backbone.dtype).bits // 8
    one = rows[0] * model.backbone.hidden_size * dtype_bytes
    kept = sum(bytes_ > 0 for bytes_ in per_layer)
    return Kept(layers, max(per_layer), kept * one, sum(seen.values()) - layers, rows[0])


def _closed(per_layer: list[int], seen: dict[int, int], rows: list[int], out: Any) -> None:
    per_layer[-1] += sum(seen.values())
    hidden = out if isinstance(out, Tensor) else out[0]
    rows.append(int(hidden.shape[-2]))


def _on_meta(video: TrainingVideo) -> TrainingVideo:
    asks = [replace(ask, tail_frozen=_shape_of(ask.tail_frozen)) for ask in video.asks]
    return replace(video, frozen=_shape_of(video.frozen), asks=asks)


def _shape_of(frozen: Frozen | None) -> Frozen | None:
    if frozen is None:
        return None
    features = None if frozen.features is None else frozen.features.to("meta")
    return replace(frozen, visual=frozen.visual.to("meta"), features=features)


@contextmanager
def no_storage() -> Iterator[None]:
    """New tensors have shapes only."""
    with torch.device("meta"):
        yield


def made_up_video(model: GazeQwen, *, steps: int, tokens: int, questions: int) -> TrainingVideo:
    """`steps` steps of `tokens` video tokens with four-option questions spread over them, to count with."""
    import numpy as np

    from gazeqwen.types import GazeEvents, Question, Step, blank_frames

    h = max(d for d in range(1, int(tokens**0.5) + 1) if tokens % d == 0)
    one = np.ones(1)
    made = []
    for k in range(steps):
        gaze = GazeEvents(
            t_s=one * (k + 0.5), xy_norm=np.full((1, 2), 0.5), duration_s=one * 0.3, age_s=one * 0.5,
            valid=np.ones(1, bool), is_fixation=np.ones(1, bool), frame_t_s=one * (k + 0.5),
        )  # fmt: skip
        frames, at = blank_frames((2, 28, 28, 3)), np.array([k, k + 0.5])
        made.append(Step(frames, at, (float(k), float(k + 1)), frames, at, gaze, placeholder=True))
    config = model.config.features
    with no_storage():
        visual = torch.empty(steps, tokens, model.backbone.hidden_size, dtype=model.backbone.dtype)
        features = torch.empty(steps, config.tubelets_per_step, h, tokens // h, model._feature_dim)
    words = "Which object was I looking at before I turned to the one in front of me?"
    options = ("the chopping board", "the green jar", "the frying pan", "a box of tea")
    asks = []
    for k in range(questions):
        stop = max(1, round((k + 1) * steps / questions))
        asks.append(Ask(Question(words, float(stop), options), 0, options[0], stop=stop))
    return TrainingVideo("made-up", made, Frozen(visual, features, h, tokens // h), asks)


def peak_bytes(*, weights: float, vjepa: float, trained: int, kept: Kept, checkpointing: bool) -> dict[str, float]:
    """The sum in the module's docstring, by part."""
    parts = {
        "weights": weights,
        "vjepa": vjepa,
        "gradients_and_moments": float(BYTES_A_TRAINED_NUMBER * trained),
        "kept_for_backward": float(kept.total(checkpointing=checkpointing)),
        "working_space": float(kept.largest),
        "context": float(CONTEXT_BYTES),
    }
    return {**parts, "peak": sum(parts.values())}
