"""Residuals reach exactly the tokens they were made for, in every setting in which the model runs, or raise.

One matrix: six kinds of backbone (PEFT, quantised, bf16, ...), four layouts (padding on either side, batches, two
videos in a prompt) and four ways to run (forward, gradient checkpointing, chunks on a cache, `generate`). Where a
residual belongs comes from plain loops (`tests.tiny_models.prompts`), what a layer put out from hooks of our own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from gazeqwen.backbone import Backbone, cache_length, evict_cache, fork_cache, new_cache
from gazeqwen.errors import InjectionError
from gazeqwen.injection import InjectionReport, ResidualPlan, TokenMap, VideoTokens, inject
from tests.tiny_models import KINDS, N_LAYERS, VIDEO_PAD, Kind, Prompts, prompts, small_backbone

BEFORE_5 = int(transformers.__version__.split(".")[0]) < 5
LAYOUTS: dict[str, Prompts] = {
    "single": prompts([[3, (2, 2, 3), 4]]),
    "two_videos": prompts([[2, (1, 2, 3), 2, (2, 2, 2), 3]]),
    "left_padded": prompts([[3, (2, 2, 3), 4], [5, (1, 2, 2), 2], [2, (1, 1, 3), 1, (2, 2, 2), 6]], side="left"),
    "right_padded": prompts([[3, (2, 2, 3), 4], [5, (1, 2, 2), 2], [2, (1, 1, 3), 1, (2, 2, 2), 6]], side="right"),
}
GENERATED = 5
NON_REENTRANT = {"use_reentrant": False}


@cache
def backbone_of(kind: Kind, *, training: bool = False) -> Backbone:
    """In training mode, one that was never in another: bitsandbytes repacks nf4 weights on the CPU to evaluate."""
    backbone = small_backbone(kind)
    backbone.vlm.train(training)  # no dropout, so nothing else changes
    return backbone


def token_map(batch: Prompts) -> TokenMap:
    return TokenMap.from_input_ids(batch.ids, VIDEO_PAD, batch.grids)


def random_plan(batch: Prompts, layers: tuple[int, ...] = (1,), *, scale: float = 0.3) -> ResidualPlan:
    generator = torch.Generator().manual_seed(11)
    rows = {layer: torch.randn(len(batch.places), 64, generator=generator) * scale for layer in layers}
    return ResidualPlan(token_map(batch), rows, len(batch.ids))


def hooks_on(backbone: Backbone) -> int:
    """Hooks of this package on any module (transformers 5 leaves some of its own)."""
    hooks = [
        hook
        for module in backbone.vlm.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    return sum(str(getattr(hook, "__module__", "")).startswith("gazeqwen.") for hook in hooks)


@dataclass
class Inputs:
    """What went into each decoder layer, and the positions the decoder was given: one entry per forward."""

    layers: list[list[Tensor]] = field(default_factory=lambda: [[] for _ in range(N_LAYERS)])
    positions: list[Tensor] = field(default_factory=list)

    def whole(self, layer: int) -> Tensor:
        return torch.cat(self.layers[layer], dim=1)


@contextmanager
def recorded(backbone: Backbone) -> Iterator[Inputs]:
    """Records every layer's input: a residual on the output of layer l shows in the input of l + 1."""
    inputs = Inputs()

    def record(at: int, hidden: Tensor) -> None:
        inputs.layers[at].append(hidden.detach().clone())

    handles = [
        layer.register_forward_pre_hook(lambda _, args, at=at: record(at, args[0]))  # type: ignore[misc]
        for at, layer in enumerate(backbone.layers)
    ]
    handles.append(
        backbone.decoder.register_forward_pre_hook(
            lambda _, __, kwargs: inputs.positions.append(kwargs["position_ids"][-3:]), with_kwargs=True
        )
    )
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def checkpointing(backbone: Backbone, *, reentrant: bool = False) -> Iterator[None]:
    """Gradient checkpointing, for a backbone in training mode."""
    assert backbone.vlm.training
    backbone.bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    try:
        yield
    finally:
        backbone.bare.gradient_checkpointing_disable()


# -- the ways to run: each gives everything the model said, as one tensor --------------------------------------------


@contextmanager
def maybe(backbone: Backbone, plan: ResidualPlan | None) -> Iterator[InjectionReport | None]:
    if plan is None:
        yield None
    else:
        with inject(backbone.layers, plan) as report:
            yield report


def forward(backbone: Backbone, batch: Prompts, plan: ResidualPlan | None) -> Tensor:
    with torch.no_grad(), maybe(backbone, plan):
        return backbone.logits(backbone.decode(batch.embeds(backbone), batch.positions, attention_mask=batch.mask))


def checkpointed(backbone: Backbone, batch: Prompts, plan: ResidualPlan | None) -> Tensor:
    with checkpointing(backbone), maybe(backbone, plan):
        embeds = batch.embeds(backbone).requires_grad_()
        logits = backbone.logits(backbone.decode(embeds, batch.positions, attention_mask=batch.mask))
        logits.square().sum().backward()
        assert embeds.grad is not None
        return torch.cat([logits.detach().flatten(), embeds.grad.flatten().float()])


def chunked(
    backbone: Backbone, batch: Prompts, plan: ResidualPlan | None, cuts: tuple[int, ...] = (2, 5, 6, 12)
) -> Tensor:
    """One context over all chunks; the default cuts fall inside the text, inside steps and on a single token."""
    embeds, length = batch.embeds(backbone), batch.ids.shape[1]
    edges = [0, *(cut for cut in cuts if 0 < cut < length), length]
    kv, said = new_cache(backbone), []
    with torch.no_grad(), maybe(backbone, plan):
        for start, stop in pairwise(edges):
            hidden = backbone.decode(
                embeds[:, start:stop],
                batch.positions[:, :, start:stop],
                cache=kv,
                attention_mask=batch.mask[:, :stop],
            )
            said.append(backbone.logits(hidden))
    return torch.cat(said, dim=1)


def generated(backbone: Backbone, batch: Prompts, plan: ResidualPlan | None, **options: object) -> Tensor:
    """Scores (B, new, V) and tokens (B, new, 1) of greedy `generate` from embeddings, as one tensor (B, new, V + 1)."""
    with torch.no_grad(), maybe(backbone, plan):
        output = backbone.bare.generate(
            inputs_embeds=batch.embeds(backbone),
            attention_mask=batch.mask,
            do_sample=False,
            min_new_tokens=GENERATED,
            max_new_tokens=GENERATED,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
    logits = torch.stack(output.logits, dim=1).float()
    return torch.cat([logits, output.sequences[:, :, None].float()], dim=-1)


WAYS: dict[str, Callable[[Backbone, Prompts, ResidualPlan | None], Tensor]] = {
    "forward": forward,
    "checkpointed": checkpointed,
    "chunked": chunked,
    "generate": generated,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_setting(kind: Kind, layout: str, way: str) -> None:
    """Zero residuals equal the backbone bit for bit; others arrive at their tokens, whole, and nowhere else."""
    backbone, batch, run = backbone_of(kind, training=way == "checkpointed"), LAYOUTS[layout], WAYS[way]
    with recorded(backbone) as without:
        plain = run(backbone, batch, None)
    zero = random_plan(batch, (0, 1, N_LAYERS - 2), scale=0.0)
    assert torch.equal(run(backbone, batch, zero), plain)

    plan = random_plan(batch, (1,))
    with recorded(backbone) as with_plan:
        changed = run(backbone, batch, plan)
    # The same bits, as all kernels saw the same shapes. `generate` and re-runs in backward add columns: not looked at.
    length, wide = batch.ids.shape[1], torch.float64 if kind == "fp64" else torch.float32
    for layer in (0, 1):
        assert torch.equal(with_plan.whole(layer)[:, :length], without.whole(layer)[:, :length])
    expected = without.whole(2)[:, :length].clone()
    for (row, column, *_), residual in zip(batch.places, plan.rows[1], strict=True):
        expected[row, column] = (expected[row, column].to(wide) + residual.to(wide)).to(expected.dtype)
    assert torch.equal(with_plan.whole(2)[:, :length], expected)
    if way in ("forward", "chunked"):
        for row in range(len(batch.ids)):
            first = next(column for r, column, *_ in batch.places if r == row)
            assert torch.equal(changed[row, :first], plain[row, :first])
            last = int(batch.mask[row].nonzero().max())
            assert (changed[row, last] - plain[row, last]).abs().max() > 1e-4
    assert hooks_on(backbone) == 0


@pytest.mark.parametrize("layer", range(N_LAYERS - 1))
def test_each_layer_gets_its_own_rows(layer: int) -> None:
    """Of a plan for all layers, the input of layer l + 1 holds the residual of layer l beside what l itself made."""
    backbone, batch = backbone_of("plain"), LAYOUTS["left_padded"]
    plan = random_plan(batch, tuple(range(N_LAYERS - 1)))
    with recorded(backbone) as inputs:
        forward(backbone, batch, plan)
    made: list[Tensor] = []
    handle = backbone.layers[layer].register_forward_hook(
        lambda _, __, output: made.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]
    )  # registered first, so it runs before the context's hook and sees the layer's own output
    try:
        forward(backbone, batch, plan)
    finally:
        handle.remove()
    expected = made[0].clone()
    for index, (row, column, *_) in enumerate(batch.places):
        expected[row, column] += plan.rows[layer][index]
    assert torch.equal(inputs.layers[layer + 1][0], expected)


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_token_map_equals_plain_loops(layout: str) -> None:
    batch = LAYOUTS[layout]
    tokens = token_map(batch)
    found = list(zip(*(getattr(tokens, f).tolist() for f in ("batch", "position", "step", "y", "x")), strict=True))
    assert found == list(batch.places)
    blocks = []  # the same map from one block per step
    for row, column, step, y, x in batch.places:
        if y == x == 0:
            h = max(p[3] for p in batch.places if (p[0], p[2]) == (row, step)) + 1
            w = max(p[4] for p in batch.places if (p[0], p[2]) == (row, step)) + 1
            blocks.append(VideoTokens(row, column, step, h, w))
    again = TokenMap.from_blocks(blocks)
    for name in ("batch", "position", "step", "y", "x"):
        assert torch.equal(getattr(again, name), getattr(tokens, name)), name
    assert len(again) == len(batch.places)


def test_rows_follow_the_map_whatever_its_order() -> None:
    """A plan whose rows and tokens are shuffled together does the same: nothing relies on a contiguous block."""
    backbone, batch = backbone_of("plain"), LAYOUTS["left_padded"]
    plan = random_plan(batch, (0, 2))
    order = torch.randperm(len(plan.tokens))
    tokens = TokenMap(*(getattr(plan.tokens, name)[order] for name in ("batch", "position", "step", "y", "x")))
    shuffled = ResidualPlan(tokens, {layer: rows[order] for layer, rows in plan.rows.items()}, plan.batch_size)
    assert torch.equal(forward(backbone, batch, shuffled), forward(backbone, batch, plan))


def test_batched_equals_one_by_one() -> None:
    backbone = backbone_of("plain")
    layouts = [[3, (2, 2, 3), 4], [2, (1, 1, 3), 1, (2, 2, 2), 6]]
    for side in ("left", "right"):
        batch = prompts(layouts, side=side)
        plan = random_plan(batch, (0, 1))
        together = forward(backbone, batch, plan)
        for row in range(2):
            own = batch.mask[row].bool()
            offset = int(own.nonzero().min())
            mine = plan.tokens.batch == row
            alone = replace(
                batch,
                ids=batch.ids[row : row + 1, own],
                mask=batch.mask[row : row + 1, own],
                positions=batch.positions[:, row : row + 1, own],
            )
            tokens = TokenMap(
                torch.zeros_like(plan.tokens.batch[mine]),
                plan.tokens.position[mine] - offset,
                plan.tokens.step[mine],
                plan.tokens.y[mine],
                plan.tokens.x[mine],
            )
            rows = {layer: residuals[mine] for layer, residuals in plan.rows.items()}
            embeds = batch.embeds(backbone)[row : row + 1, own]
            with torch.no_grad(), inject(backbone.layers, ResidualPlan(tokens, rows)):
                said = backbone.logits(backbone.decode(embeds, alone.positions))
            torch.testing.assert_close(together[row, own], said[0], rtol=0, atol=1e-5)


# -- cached chunks ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 20), max_size=6), layout=st.sampled_from(["single", "two_videos", "left_padded"]))
def test_any_chunking_equals_one_forward(cuts: set[int], layout: str) -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS[layout]
    plan = random_plan(batch, (0, 2))
    real = batch.mask.bool()
    found = chunked(backbone, batch, plan, tuple(sorted(cuts)))[real]
    torch.testing.assert_close(found, forward(backbone, batch, plan)[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("evicted", [False, True])
def test_a_context_on_a_filled_cache_counts_from_its_own_first_token(evicted: bool) -> None:
    """Positions in the plan are those of the chunk, whatever the cache holds and has lost."""
    backbone, batch = backbone_of("plain"), LAYOUTS["two_videos"]
    embeds, start = batch.embeds(backbone), 4
    plan = random_plan(batch, (1,))
    later = plan.tokens.position >= start
    tokens = TokenMap(
        plan.tokens.batch[later],
        plan.tokens.position[later] - start,
        plan.tokens.step[later],
        plan.tokens.y[later],
        plan.tokens.x[later],
    )
    kv = new_cache(backbone)
    with torch.no_grad():
        backbone.decode(embeds[:, :start], batch.positions[..., :start], cache=kv)
        if evicted:
            evict_cache(kv, torch.tensor([0, 3]))
        with recorded(backbone) as without:
            backbone.decode(embeds[:, start:], batch.positions[..., start:], cache=fork_cache(kv))
        with recorded(backbone) as inputs, inject(backbone.layers, ResidualPlan(tokens, {1: plan.rows[1][later]})) as r:
            backbone.decode(embeds[:, start:], batch.positions[..., start:], cache=kv)
    expected = without.whole(2).clone()
    for index, (_, column, *_) in enumerate(batch.places):
        if column >= start:
            expected[0, column - start] += plan.rows[1][index]
    assert torch.equal(inputs.whole(2), expected)
    assert r.placed == {1: len(tokens)} and cache_length(kv) == batch.ids.shape[1] - (2 if evicted else 0)


def test_without_a_cache_every_forward_places_again() -> None:
    """What `generate(use_cache=False)` and a second pass over the same prompt need."""
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    plan = random_plan(batch)
    once = forward(backbone, batch, plan)
    with torch.no_grad(), inject(backbone.layers, plan):
        for _ in range(2):
            again = backbone.logits(backbone.decode(batch.embeds(backbone), batch.positions))
            assert torch.equal(again, once)
    cached, whole = (generated(backbone, batch, plan, use_cache=use) for use in (True, False))
    torch.testing.assert_close(cached, whole, rtol=0, atol=1e-5)


def test_nested_contexts_add_up() -> None:
    backbone, batch = backbone_of("fp64"), LAYOUTS["left_padded"]
    plan = random_plan(batch, (0, 1))
    double = ResidualPlan(plan.tokens, {layer: 2 * rows for layer, rows in plan.rows.items()}, plan.batch_size)
    with torch.no_grad(), inject(backbone.layers, plan):
        nested = forward(backbone, batch, plan)
    torch.testing.assert_close(nested, forward(backbone, batch, double), rtol=0, atol=1e-6)


# -- generate --------------------------------------------------------------------------------------------------------


def own_greedy(backbone: Backbone, batch: Prompts, plan: ResidualPlan | None, positions: list[Tensor]) -> Tensor:
    """Tokens (B, n) of a loop of our own: the plan in the prefill only, decoding outside the context."""
    kv, mask, tokens = new_cache(backbone), batch.mask, []
    with torch.no_grad():
        with maybe(backbone, plan):
            hidden = backbone.decode(batch.embeds(backbone), positions[0], cache=kv, attention_mask=mask)
        for number in range(1, GENERATED + 1):
            logits = backbone.logits(hidden[:, -1])
            logits[:, backbone.config.get_text_config().eos_token_id] = -torch.inf  # as min_new_tokens does
            tokens.append(logits.argmax(-1))
            if number == GENERATED:
                break
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
            hidden = backbone.decode(
                backbone.embed_ids(tokens[-1][:, None]), positions[number], cache=kv, attention_mask=mask
            )
    return torch.stack(tokens, dim=1)


@pytest.mark.parametrize("layout", ["single", "two_videos", "left_padded"])
@pytest.mark.parametrize("kind", ["plain", "lora"])
def test_generate_equals_our_own_loop(kind: Kind, layout: str) -> None:
    """At the positions `generate` uses (text-like ones: it got embeddings only); the plan changes what is said."""
    backbone, batch = backbone_of(kind), LAYOUTS[layout]
    plan = random_plan(batch, (0, 1), scale=2.0)
    with recorded(backbone) as inputs:
        said = generated(backbone, batch, plan)
    assert len(inputs.positions) == GENERATED
    assert torch.equal(said[:, :, -1].long(), own_greedy(backbone, batch, plan, inputs.positions))
    assert not torch.equal(said[:, :, -1], generated(backbone, batch, None)[:, :, -1])


@pytest.mark.skipif(BEFORE_5, reason="generate takes three-axis position_ids from transformers 5 on")
@pytest.mark.parametrize("layout", ["single", "left_padded"])
def test_generate_with_our_positions_equals_our_own_loop(layout: str) -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS[layout]
    plan = random_plan(batch, (0, 1), scale=2.0)
    after = batch.positions[..., -1:]  # every prompt ends in text
    positions = [batch.positions, *(after + number for number in range(1, GENERATED))]
    said = generated(backbone, batch, plan, position_ids=batch.positions)
    assert torch.equal(said[:, :, -1].long(), own_greedy(backbone, batch, plan, positions))


# -- gradients -------------------------------------------------------------------------------------------------------


def loss_and_gradients(backbone: Backbone, batch: Prompts, *, inside: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """A shared trunk feeds two layers, as the resampler does; returns the loss and every trainable's gradient."""
    generator = torch.Generator().manual_seed(3)
    seeds = torch.randn(len(batch.places), 8, generator=generator)
    trunk = nn.Linear(8, 64)
    with torch.no_grad():
        trunk.weight.copy_(torch.randn(64, 8, generator=generator) * 0.1)
        trunk.bias.zero_()
    scale = nn.Parameter(torch.tensor([1.0, 0.5]))
    base = trunk(seeds).tanh()
    plan = ResidualPlan(token_map(batch), {0: base * scale[0], 2: base * scale[1]}, len(batch.ids))
    last = [int(row.nonzero().max()) for row in batch.mask]
    backbone.vlm.zero_grad(set_to_none=True)
    with inject(backbone.layers, plan):
        hidden = backbone.decode(batch.embeds(backbone), batch.positions, attention_mask=batch.mask)
        loss = backbone.logits(hidden[torch.arange(len(last)), last]).square().sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    named = {"weight": trunk.weight, "bias": trunk.bias, "scale": scale}
    named |= {name: p for name, p in backbone.vlm.named_parameters() if p.requires_grad}
    return loss.detach(), {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


@pytest.mark.parametrize("layout", ["single", "left_padded"])
@pytest.mark.parametrize("kind", ["plain", "lora", "nf4", "int8"])
def test_gradients_do_not_depend_on_checkpointing(kind: Kind, layout: str) -> None:
    backbone, batch = backbone_of(kind, training=True), LAYOUTS[layout]
    loss, expected = loss_and_gradients(backbone, batch)
    assert {"weight", "bias", "scale"} <= expected.keys() and all(g.abs().max() > 0 for g in expected.values())
    with checkpointing(backbone):
        same_loss, found = loss_and_gradients(backbone, batch)
    assert torch.equal(same_loss, loss) and found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    assert hooks_on(backbone) == 0


def test_gradients_equal_finite_differences() -> None:
    backbone, batch = backbone_of("fp64"), LAYOUTS["left_padded"]
    last = [int(row.nonzero().max()) for row in batch.mask]

    def loss(rows: Tensor) -> Tensor:
        with inject(backbone.layers, ResidualPlan(token_map(batch), {1: rows}, len(batch.ids))):
            hidden = backbone.decode(batch.embeds(backbone), batch.positions, attention_mask=batch.mask)
        return backbone.bare.lm_head(hidden[torch.arange(len(last)), last]).square().sum()

    rows = (torch.randn(len(batch.places), 64, dtype=torch.float64) * 0.1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(rows), rows)
    with torch.no_grad():
        for _ in range(3):
            way = torch.randn_like(rows)
            # Norms and rotary angles are float32 inside, so the step must not be smaller.
            slope = (loss(rows + 3e-3 * way) - loss(rows - 3e-3 * way)) / 6e-3
            torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-2, atol=1e-3)


def test_backward_after_closing_is_right_or_raises() -> None:
    """With checkpointing 4.57 re-runs the layers without the closed hooks. A sum over one run of tokens saves nothing
    for backward, so the gradient is right all the same; with scattered tokens torch notices that the re-run differs.
    """
    for layout in ("single", "left_padded"):
        backbone, batch = backbone_of("plain", training=True), LAYOUTS[layout]
        _, expected = loss_and_gradients(backbone, batch, inside=False)
        with checkpointing(backbone):
            if BEFORE_5 and layout == "left_padded":
                with pytest.raises(CheckpointError):
                    loss_and_gradients(backbone, batch, inside=False)
            else:
                _, found = loss_and_gradients(backbone, batch, inside=False)
                torch.testing.assert_close(found, expected)
    assert hooks_on(backbone) == 0


def test_reentrant_checkpointing_is_right_or_raises() -> None:
    """4.57's own default would give the residuals no gradient, silently where the embeddings need one."""
    backbone, batch = backbone_of("plain", training=True), LAYOUTS["single"]
    _, expected = loss_and_gradients(backbone, batch)
    with checkpointing(backbone, reentrant=True):
        if BEFORE_5:
            with pytest.raises(InjectionError, match="use_reentrant"):
                loss_and_gradients(backbone, batch)
            assert torch.equal(forward(backbone, batch, random_plan(batch, scale=0.0)), forward(backbone, batch, None))
        else:
            torch.testing.assert_close(loss_and_gradients(backbone, batch)[1], expected)
    assert hooks_on(backbone) == 0


# -- precision -------------------------------------------------------------------------------------------------------


def test_bf16_sum_is_taken_in_fp32() -> None:
    """Rounded once, after the sum: rounding the residual first gives other numbers, so this test can tell."""
    backbone, batch = backbone_of("bf16"), LAYOUTS["single"]
    plan = random_plan(batch, scale=0.05)
    with recorded(backbone) as without:
        forward(backbone, batch, None)
    with recorded(backbone) as inputs:
        forward(backbone, batch, plan)
    columns = [column for _, column, *_ in batch.places]
    before, after = without.whole(2)[0, columns], inputs.whole(2)[0, columns]
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, (before.float() + plan.rows[1]).bfloat16())
    assert not torch.equal(after, before + plan.rows[1].bfloat16())


def test_a_float64_model_keeps_its_precision() -> None:
    backbone, batch = backbone_of("fp64"), LAYOUTS["single"]
    plan = random_plan(batch, scale=1e-9)
    with recorded(backbone) as without:
        forward(backbone, batch, None)
    with recorded(backbone) as inputs:
        forward(backbone, batch, plan)
    columns = [column for _, column, *_ in batch.places]
    difference = (inputs.whole(2) - without.whole(2))[0, columns]
    torch.testing.assert_close(difference, plan.rows[1].double(), rtol=1e-4, atol=1e-14)


# -- refusals --------------------------------------------------------------------------------------------------------


@contextmanager
def refused(backbone: Backbone, match: str) -> Iterator[None]:
    """The body raises InjectionError in one line, and leaves no hook behind."""
    with pytest.raises(InjectionError, match=match) as raised:
        yield
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 250
    assert hooks_on(backbone) == 0


def with_rows(plan: ResidualPlan, layer: int, rows: Tensor | None = None) -> ResidualPlan:
    return ResidualPlan(plan.tokens, {layer: plan.rows[1] if rows is None else rows}, plan.batch_size)


@pytest.mark.parametrize("layer", [-1, N_LAYERS, 27])
def test_a_layer_that_does_not_exist_is_refused(layer: int) -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    with refused(backbone, rf"layer {layer} does not exist.*0\.\.{N_LAYERS - 1}"):
        forward(backbone, batch, with_rows(random_plan(batch), layer))


def test_the_last_layer_is_refused_with_the_reason_and_when_allowed_changes_no_text() -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["left_padded"]
    plan = with_rows(random_plan(batch), N_LAYERS - 1)
    with refused(backbone, f"never reaches the text.*layers <= {N_LAYERS - 2}"):
        forward(backbone, batch, plan)
    plain = forward(backbone, batch, None)
    with inject(backbone.layers, plan, allow_last_layer=True) as report:
        said = forward(backbone, batch, None)
    assert report.placed == {N_LAYERS - 1: len(batch.places)}
    is_video = batch.ids == VIDEO_PAD
    assert torch.equal(said[~is_video], plain[~is_video]) and not torch.equal(said[is_video], plain[is_video])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_another_batch_size_is_refused(batch_size: int) -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["left_padded"]
    plan = random_plan(LAYOUTS["single"])
    plan = ResidualPlan(plan.tokens, plan.rows, batch_size)
    with refused(backbone, f"plan is for a batch of {batch_size}, the forward has 3"):
        forward(backbone, batch, plan)


@pytest.mark.parametrize(
    "options", [{"num_return_sequences": 2, "num_beams": 2}, {"num_beams": 3}], ids=["returns", "beams"]
)
def test_several_sequences_of_one_prompt_are_refused(options: dict[str, int]) -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    with refused(backbone, "num_return_sequences > 1 are not supported"):
        generated(backbone, batch, random_plan(batch), **options)


def test_another_hidden_size_is_refused() -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    with refused(backbone, "residuals have 63 channels, the hidden states 64"):
        forward(backbone, batch, with_rows(random_plan(batch), 1, torch.zeros(len(batch.places), 63)))


@pytest.mark.parametrize("forwarded", [0, 5, 10])
def test_a_token_that_is_never_forwarded_is_reported(forwarded: int) -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    missing = sum(column >= forwarded for _, column, *_ in batch.places)
    embeds = batch.embeds(backbone)
    with (
        refused(backbone, f"{missing} of 12 residuals had no place; {forwarded} tokens were forwarded.*position 15"),
        inject(backbone.layers, random_plan(batch)) as report,
    ):
        if forwarded:
            backbone.decode(embeds[:, :forwarded], batch.positions[..., :forwarded])
    assert report.placed == {1: 12 - missing}


def test_an_error_in_the_body_is_not_hidden_by_a_missing_token() -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    with pytest.raises(KeyError, match="mine"), inject(backbone.layers, random_plan(batch, (0, 1))):
        raise KeyError("mine")
    assert hooks_on(backbone) == 0

    # And an error inside the forward, from a hook that runs before ours.
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    handle = backbone.layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            forward(backbone, batch, random_plan(batch, (0, 1)))
    finally:
        handle.remove()
    assert hooks_on(backbone) == 0
    assert torch.isfinite(forward(backbone, batch, random_plan(batch))).all()


@pytest.mark.parametrize("change", ["evicted", "cropped_and_repeated", "emptied"])
def test_a_cache_that_is_cut_inside_the_context_is_refused(change: str) -> None:
    """Positions count tokens; when some of the counted ones leave the cache, the next chunk's cannot be known."""
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    embeds, positions, kv = batch.embeds(backbone), batch.positions, new_cache(backbone)
    backbone.decode(embeds[:, :2], positions[..., :2], cache=kv)
    tokens = replace(token_map(batch), position=token_map(batch).position - 2)
    with (
        refused(backbone, "positions are lost|became shorter"),
        inject(backbone.layers, ResidualPlan(tokens, {1: torch.zeros(12, 64)})),
    ):
        backbone.decode(embeds[:, 2:8], positions[..., 2:8], cache=kv)
        if change == "evicted":
            evict_cache(kv, torch.tensor([0, 1, 5, 6, 7]))
        elif change == "cropped_and_repeated":
            evict_cache(kv, torch.arange(6))
        else:
            evict_cache(kv, torch.arange(0))
        backbone.decode(embeds[:, 8:], positions[..., 8:], cache=kv)


def test_two_forks_of_one_cache_take_the_same_plan() -> None:
    """Another cache object is another sequence, not a cut one."""
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    embeds, kv = batch.embeds(backbone), new_cache(backbone)
    backbone.decode(embeds[:, :2], batch.positions[..., :2], cache=kv)
    tokens = replace(token_map(batch), position=token_map(batch).position - 2)
    rows = random_plan(batch).rows
    with torch.no_grad(), inject(backbone.layers, ResidualPlan(tokens, rows)):
        first, second = (
            backbone.decode(embeds[:, 2:], batch.positions[..., 2:], cache=fork_cache(kv)) for _ in range(2)
        )
    assert torch.equal(first, second)


def test_plans_that_contradict_themselves_are_refused() -> None:
    tokens = TokenMap.from_blocks([VideoTokens(0, 4, 0, 2, 2)])
    same = TokenMap.from_blocks([VideoTokens(1, 4, 0, 1, 3), VideoTokens(1, 6, 1, 1, 2)])
    second = replace(tokens, batch=tokens.batch + 1)
    before = replace(tokens, position=tokens.position - 5)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("two residuals for the same token", lambda: ResidualPlan(same, {0: torch.zeros(5, 8)}, 2)),
        ("sequence 1 of a batch of 1", lambda: ResidualPlan(second, {0: torch.zeros(4, 8)}, 1)),
        (r"shape \(3, 8\)", lambda: ResidualPlan(tokens, {0: torch.zeros(3, 8)})),
        (r"shape \(2, 2, 8\)", lambda: ResidualPlan(tokens, {0: torch.zeros(2, 2, 8)})),
        ("negative", lambda: ResidualPlan(before, {0: torch.zeros(4, 8)})),
        ("negative", lambda: ResidualPlan(replace(tokens, batch=tokens.batch - 1), {0: torch.zeros(4, 8)})),
    ]
    for match, make in cases:
        with pytest.raises(InjectionError, match=match) as raised:
            make()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("grids", "match"),
    [
        ([[(1, 2, 3)]], r"sequence 0 has 12 video tokens.*say 6"),
        ([[(2, 2, 3), (1, 1, 1)]], r"sequence 0 has 12 video tokens.*say 13"),
        ([[]], r"sequence 0 has 12 video tokens.*say 0"),
        ([[(2, 2, 3)], [(2, 2, 3)]], "1 sequences, but grids for 2"),
    ],
)
def test_grids_that_do_not_fit_the_tokens_are_refused(grids: list[list[tuple[int, int, int]]], match: str) -> None:
    with pytest.raises(InjectionError, match=match) as raised:
        TokenMap.from_input_ids(LAYOUTS["single"].ids, VIDEO_PAD, grids)
    assert "\n" not in str(raised.value)


def test_an_empty_plan_places_nothing_and_hooks_nothing() -> None:
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    empty = ResidualPlan(TokenMap.from_blocks([]), {1: torch.zeros(0, 64)})
    text = prompts([[6]])
    assert len(TokenMap.from_input_ids(text.ids, VIDEO_PAD, text.grids)) == 0
    with inject(backbone.layers, empty) as report:
        assert hooks_on(backbone) == 0
        forward(backbone, batch, None)
    assert report.placed == {1: 0}
    with inject(backbone.layers, random_plan(batch, (0, 1))) as report:
        assert hooks_on(backbone) == 4  # two on each of its layers: the count does see them
        forward(backbone, batch, None)
    assert report.placed == {0: 12, 1: 12} and hooks_on(backbone) == 0


# -- streams on one model --------------------------------------------------------------------------------------------


def test_a_stream_on_another_thread_is_left_alone() -> None:
    """Sessions share the model: while one injects, another's forward neither gets its residuals nor counts as its."""
    backbone, batch = backbone_of("plain"), LAYOUTS["single"]
    plan, embeds = random_plan(batch), batch.embeds(backbone)
    plain, expected = forward(backbone, batch, None), forward(backbone, batch, plan)
    other: list[Tensor] = []

    def another_stream() -> None:
        with torch.no_grad():
            other.append(backbone.logits(backbone.decode(embeds, batch.positions)))

    def its_own_plan() -> None:
        other.append(forward(backbone, LAYOUTS["left_padded"], random_plan(LAYOUTS["left_padded"])))

    with torch.no_grad(), inject(backbone.layers, plan):
        for work in (another_stream, its_own_plan):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        said = backbone.logits(backbone.decode(embeds, batch.positions))
    assert torch.equal(other[0], plain)
    assert torch.equal(other[1], forward(backbone, LAYOUTS["left_padded"], random_plan(LAYOUTS["left_padded"])))
    assert torch.equal(said, expected)
