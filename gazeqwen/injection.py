"""Residuals into decoder layers by forward hooks, owned by a context manager.

    hidden ──► decoder layer l ──► (+) ──► decoder layer l+1 ...      only at video tokens, only for layers in the plan
                                    ▲
              residual[l][step, patch]   one row per (layer, video token), from the resampler

Tokens are addressed by a `TokenMap` (batch row, position -> step, y, x), never by "the contiguous block of video
tokens": batches with padding, several videos in one prompt, and chunks on a KV cache all work the same way. Positions
count from the first token forwarded inside the context, so `generate` places everything in its prefill and nothing
while decoding; without a cache every forward starts at the first token again. A residual that finds no place raises
InjectionError, in the forward or when the context closes.

Hooks sit on the shared model, so they leave alone what another thread forwards without gradients: another stream's
tokens. (With gradients it may be autograd's own thread, re-running a checkpointed layer.)

The published code (phamtrongthang123/gazeqwen, hooks.py) returns the hidden states unchanged in all these cases.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gazeqwen.errors import InjectionError


class VideoTokens(NamedTuple):
    """One block of video tokens: a temporal patch (step) in the sequence, T-major, raster order inside the step."""

    batch: int
    start: int
    step: int
    h: int
    w: int


@dataclass(frozen=True)
class TokenMap:
    """Where every video token of a forward stands: N tokens over B sequences of L positions.

    Attributes:
        batch, position: (N,) int64, row and column of the hidden states, counted from the first forwarded token.
        step, y, x: (N,) which step and merged-grid cell a token shows.
    """

    batch: Tensor
    position: Tensor
    step: Tensor
    y: Tensor
    x: Tensor

    @classmethod
    def from_blocks(cls, blocks: Sequence[VideoTokens]) -> TokenMap:
        """From blocks of whole steps, in the order of their residual rows."""
        parts: list[list[Tensor]] = [[], [], [], [], []]
        for block in blocks:
            n = block.h * block.w
            cell = torch.arange(n)
            for column, values in zip(
                parts,
                (
                    torch.full((n,), block.batch),
                    cell + block.start,
                    torch.full((n,), block.step),
                    cell // block.w,
                    cell % block.w,
                ),
                strict=True,
            ):
                column.append(values)
        return cls(*(torch.cat(column) if column else torch.zeros(0, dtype=torch.int64) for column in parts))

    @classmethod
    def from_input_ids(
        cls, input_ids: Tensor, video_token_id: int, grids: Sequence[Sequence[tuple[int, int, int]]]
    ) -> TokenMap:
        """From token ids (B, L) and, per sequence, the merged grids (T, h, w) of its videos in order.

        Raises:
            InjectionError: a sequence holds more or fewer video tokens than its grids say.
        """
        batch, position, step, y, x = [], [], [], [], []
        if len(grids) != len(input_ids):
            raise InjectionError(f"token map: {len(input_ids)} sequences, but grids for {len(grids)}")
        for row, (ids, videos) in enumerate(zip(input_ids, grids, strict=True)):
            places = torch.nonzero(ids == video_token_id).flatten()
            want = sum(t * h * w for t, h, w in videos)
            if len(places) != want:
                raise InjectionError(
                    f"token map: sequence {row} has {len(places)} video tokens, its grids {list(videos)} say {want}"
                )
            batch.append(torch.full((want,), row))
            position.append(places.cpu())
            first_step = 0
            for t, h, w in videos:
                cell = torch.arange(t * h * w)
                step.append(cell // (h * w) + first_step)
                y.append(cell % (h * w) // w)
                x.append(cell % w)
                first_step += t
        return cls(
            *(torch.cat(part) if part else torch.zeros(0, dtype=torch.int64) for part in (batch, position, step, y, x))
        )

    def __len__(self) -> int:
        return int(self.position.numel())


@dataclass(frozen=True)
class ResidualPlan:
    """What is added where: for each layer, (N, D) rows in the order of the token map.

    Attributes:
        tokens: N video tokens.
        rows: layer index (0-based) -> (N, D) residuals, any float dtype.
        batch_size: B of the forward; another B raises (beam search and num_return_sequences are not supported).
    """

    tokens: TokenMap
    rows: Mapping[int, Tensor]
    batch_size: int = 1

    def __post_init__(self) -> None:
        for layer, rows in self.rows.items():
            if rows.ndim != 2 or len(rows) != len(self.tokens):
                raise InjectionError(
                    f"plan: layer {layer} has residuals of shape {tuple(rows.shape)}, expected one row for each of "
                    f"{len(self.tokens)} video tokens"
                )
        if len(self.tokens):
            if int(torch.minimum(self.tokens.batch, self.tokens.position).min()) < 0:
                raise InjectionError("plan: a token at a negative sequence or position")
            flat = self.tokens.batch * (int(self.tokens.position.max()) + 1) + self.tokens.position
            if flat.unique().numel() != flat.numel():
                raise InjectionError("plan: two residuals for the same token")
            if int(self.tokens.batch.max()) >= self.batch_size:
                raise InjectionError(
                    f"plan: a token in sequence {int(self.tokens.batch.max())} of a batch of {self.batch_size}"
                )


@dataclass
class InjectionReport:
    """How many residual rows each layer received; `sum(placed.values())` is 0 only for an empty plan."""

    placed: dict[int, int] = field(default_factory=dict)


@contextmanager
def inject(
    layers: Sequence[nn.Module], plan: ResidualPlan, *, allow_last_layer: bool = False
) -> Iterator[InjectionReport]:
    """Adds the plan's residuals to the outputs of decoder layers while the context is open.

    Forward and backward both belong inside it when gradient checkpointing is on: transformers 4.57 re-runs the layers
    with their hooks in backward (and then needs `use_reentrant=False`), 5.x without them.

    Args:
        layers: the decoder's layers, e.g. `Backbone.layers` (found through PEFT and quantised modules alike).
        plan: residuals and their tokens. Positions count from the first token forwarded in the context: with a KV
            cache, from its length at the first call.
        allow_last_layer: let the last layer have residuals, as the published checkpoint does; they change nothing.

    Yields:
        An InjectionReport, complete when the context closes.

    Raises:
        InjectionError: a layer does not exist or is the last one; batch sizes differ; the hidden size differs; the
            cache was cut inside the context, so that positions are lost; reentrant gradient checkpointing would lose
            the residuals' gradient; or, on closing, a residual was never placed (its token was never forwarded).
    """
    last = len(layers) - 1
    for layer in plan.rows:
        if not 0 <= layer <= last:
            raise InjectionError(f"layer {layer} does not exist: the decoder has layers 0..{last}")
        if layer == last and not allow_last_layer:
            raise InjectionError(
                f"layer {last} is the last one: a residual on its output at video tokens never reaches the text "
                f"(measured 0.0); inject at layers <= {last - 1}"
            )
    report = InjectionReport(placed=dict.fromkeys(plan.rows, 0))
    hooks = [_LayerHook(layer, plan) for layer in plan.rows] if len(plan.tokens) else []
    handles = []
    try:
        for hook in hooks:
            handles.append(layers[hook.layer].register_forward_pre_hook(hook.before, with_kwargs=True))
            handles.append(layers[hook.layer].register_forward_hook(hook.after))
        yield report
    finally:
        for handle in handles:
            handle.remove()
        for hook in hooks:
            report.placed[hook.layer] = int(hook.placed.sum())
    for hook in hooks:  # only reached when the body did not raise: its own error is the better message
        missing = int((~hook.placed).sum())
        if missing:
            raise InjectionError(
                f"layer {hook.layer}: {missing} of {len(plan.tokens)} residuals had no place; "
                f"{hook.forwarded} tokens were forwarded, the plan reaches position {int(plan.tokens.position.max())}"
            )


class _LayerHook:
    """One layer's part of a plan. Stateless between calls but for bookkeeping, so a re-run in backward is harmless."""

    def __init__(self, layer: int, plan: ResidualPlan) -> None:
        self.layer, self.plan = layer, plan
        self.placed = torch.zeros(len(plan.tokens), dtype=torch.bool)
        self.base: int | None = None
        self.start = 0
        self.forwarded = 0
        self._thread = threading.get_ident()
        self._cache: Any = None
        self._cache_end = 0  # length the cache should have when the next chunk comes
        self._was_cut = False
        self._device_index: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor | slice]] = {}

    def before(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_foreign():
            return
        cache = kwargs.get("past_key_values", kwargs.get("past_key_value"))
        length = 0 if cache is None else int(cache.get_seq_length(self.layer))
        if self.base is None:
            self.base = length
        self.start = length - self.base
        self._was_cut = cache is not None and cache is self._cache and length != self._cache_end
        self._cache = cache

    def after(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if self._is_foreign():
            return None
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        batch, length, dim = hidden.shape
        if self.start < 0:
            raise InjectionError(f"layer {self.layer}: the cache became shorter inside the context")
        if batch != self.plan.batch_size:
            raise InjectionError(
                f"layer {self.layer}: the plan is for a batch of {self.plan.batch_size}, the forward has {batch} "
                "(beam search and num_return_sequences > 1 are not supported)"
            )
        self.forwarded = max(self.forwarded, self.start + length)
        self._cache_end = (self.base or 0) + self.start + length
        chosen, place = self._index(length, hidden.device)
        if chosen.numel() == 0:
            return None
        rows = self.plan.rows[self.layer]
        if rows.shape[1] != dim:
            raise InjectionError(
                f"layer {self.layer}: residuals have {rows.shape[1]} channels, the hidden states {dim}"
            )
        if rows.requires_grad and not torch.is_grad_enabled() and getattr(module, "gradient_checkpointing", False):
            raise InjectionError(
                f"layer {self.layer}: reentrant gradient checkpointing loses the residuals' gradient; call "
                "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
            )
        if self._was_cut:
            raise InjectionError(
                f"layer {self.layer}: the cache does not end where the last chunk did, so positions are lost "
                "(evicted or cropped inside the context, or not written because of gradient checkpointing)"
            )
        flat = hidden.reshape(batch * length, dim)
        picked = rows if len(chosen) == len(rows) else rows[chosen.to(rows.device)]
        # The sum is taken in fp32 at least: bf16 has 8 bits, and the residual is small beside the stream.
        picked = picked.to(hidden.device, torch.promote_types(hidden.dtype, torch.float32))
        if isinstance(place, slice):  # one run of tokens: no gather and scatter, a third of the time
            flat = flat.clone()
            flat[place].add_(picked)
        else:
            flat = flat.index_copy(0, place, flat.index_select(0, place).add(picked).to(hidden.dtype))
        changed = flat.view(batch, length, dim)
        self.placed[chosen] = True
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def _is_foreign(self) -> bool:
        return threading.get_ident() != self._thread and not torch.is_grad_enabled()

    def _index(self, length: int, device: torch.device) -> tuple[Tensor, Tensor | slice]:
        """(rows of the plan that fall in this chunk, their places in the flattened hidden states)."""
        key = (self.start, length, device)
        if key not in self._device_index:
            offset = self.plan.tokens.position - self.start
            chosen = torch.nonzero((offset >= 0) & (offset < length)).flatten()
            place = self.plan.tokens.batch[chosen] * length + offset[chosen]
            is_run = len(place) > 0 and bool((place[1:] - place[:-1] == 1).all())
            run = slice(int(place[0]), int(place[0]) + len(place)) if is_run else place.to(device)
            self._device_index = {key: (chosen, run)}
        return self._device_index[key]
