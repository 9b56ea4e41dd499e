"""The Qwen2.5-VL adapter: steps are encoded and decoded the same whole or in parts; the cache keeps its promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from gazeqwen.backbone import Backbone, cache_bytes, cache_length, evict_cache, fork_cache, new_cache
from gazeqwen.errors import ConfigError, GazeQwenError, InputError
from tests.tiny_models import KINDS, N_LAYERS, VOCAB, Kind, Prompts, prompts, small_backbone

PROMPT = prompts([[3, (2, 2, 3), 2, (1, 2, 2), 6]])
LENGTH = PROMPT.ids.shape[1]
PATCH = 3 * 2 * 14 * 14


@cache
def backbone_of(kind: Kind) -> Backbone:
    return small_backbone(kind)


@torch.no_grad()
def decode(
    backbone: Backbone,
    span: slice = slice(None),
    *,
    kv: DynamicCache | None = None,
    mask: Tensor | None = None,
    batch: Prompts = PROMPT,
) -> Tensor:
    """Logits of a run of the prompt's tokens."""
    embeds = batch.embeds(backbone)[:, span]
    return backbone.logits(backbone.decode(embeds, batch.positions[:, :, span], cache=kv, attention_mask=mask))


def filled(backbone: Backbone, length: int) -> DynamicCache:
    kv = new_cache(backbone)
    decode(backbone, slice(length), kv=kv)
    return kv


def contents(kv: DynamicCache) -> list[Tensor]:
    """Copies of all keys and values."""
    layers: list = kv.layers
    return [tensor.clone() for layer in layers for tensor in (layer.keys, layer.values)]


def same_bits(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


# -- parts and sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_found_in_every_form(kind: Kind) -> None:
    backbone = backbone_of(kind)
    assert (backbone.n_layers, backbone.hidden_size) == (N_LAYERS, 64)
    assert (backbone.patch_size, backbone.merge_size, backbone.temporal_patch_size) == (14, 2, 2)
    assert backbone.tokens_per_second == 2.0
    assert backbone.dtype == {"bf16": torch.bfloat16, "fp64": torch.float64}.get(kind, torch.float32)
    assert [type(layer).__name__ for layer in backbone.layers] == ["Qwen2_5_VLDecoderLayer"] * N_LAYERS
    assert backbone.embed_ids(PROMPT.ids).shape == (1, LENGTH, 64)
    seen: list[nn.Module] = []
    handles = [layer.register_forward_hook(lambda module, *_: seen.append(module)) for layer in backbone.layers]
    try:
        decode(backbone)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == list(backbone.layers)  # these are the modules that run, in this order


@pytest.mark.parametrize("kind", KINDS)
def test_kv_bytes_per_token_is_what_the_cache_holds(kind: Kind) -> None:
    backbone = backbone_of(kind)
    kv = new_cache(backbone)
    assert (cache_length(kv), cache_bytes(kv)) == (0, 0)
    decode(backbone, slice(7), kv=kv)
    assert cache_length(kv) == 7 and cache_bytes(kv) == 7 * backbone.kv_bytes_per_token > 0
    decode(backbone, slice(7, 8), kv=kv)
    assert cache_bytes(kv) == 8 * backbone.kv_bytes_per_token


def test_lora_and_quantisation_change_what_is_said() -> None:
    """The adapter runs what is wrapped, not the bare model beneath."""
    plain = decode(backbone_of("plain"))
    for kind in ("lora", "nf4", "int8"):
        assert (decode(backbone_of(kind)) - plain).abs().max() > 1e-4, kind


@pytest.mark.parametrize("kind", KINDS)
def test_decode_and_logits_equal_the_models_own_forward(kind: Kind) -> None:
    backbone = backbone_of(kind)
    with torch.no_grad():
        own = backbone.vlm(inputs_embeds=PROMPT.embeds(backbone), position_ids=PROMPT.positions, use_cache=False).logits
    found = decode(backbone)
    assert found.dtype == torch.float32 and found.shape == (1, LENGTH, VOCAB)
    torch.testing.assert_close(found, own.float(), rtol=0, atol=1e-6)


# -- the vision tower ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(3, 4, 6), (2, 10, 14)])  # the second is larger than one attention window
def test_many_steps_in_one_call_equal_one_call_each(kind: Kind, grid: tuple[int, int, int]) -> None:
    backbone, (steps, gh, gw) = backbone_of(kind), grid
    pixels = torch.randn(steps * gh * gw, PATCH)
    with torch.no_grad():
        together = backbone.encode_visual(pixels, grid)
        alone = [backbone.encode_visual(part, (1, gh, gw)) for part in pixels.chunk(steps)]
    assert together.shape == (steps, gh * gw // 4, 64) and together.dtype == backbone.dtype
    # int8 quantises a call's activations together where they hold outliers; bf16 has 8 bits.
    tolerance = {"bf16": 2e-2, "int8": 2e-2}.get(kind, 1e-5)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=tolerance)


@pytest.mark.parametrize("cell", [(0, 0), (1, 6), (4, 2), (4, 6)])
def test_tokens_are_in_raster_order(cell: tuple[int, int]) -> None:
    """A changed cell changes its own token most, and in the other step nothing: (5, 7) tokens span four windows."""
    backbone, (h, w) = backbone_of("plain"), (5, 7)
    pixels = torch.randn(2 * 4 * h * w, PATCH)
    changed = pixels.clone()
    first = h * w * 4 + (cell[0] * w + cell[1]) * 4  # patches of a cell follow each other, in raster order of cells
    changed[first : first + 4] += 3.0
    with torch.no_grad():
        difference = backbone.encode_visual(changed, (2, 2 * h, 2 * w)) - backbone.encode_visual(
            pixels, (2, 2 * h, 2 * w)
        )
    distance = difference.norm(dim=-1)
    assert distance[0].max() < 1e-5
    assert int(distance[1].argmax()) == cell[0] * w + cell[1]


@pytest.mark.parametrize(
    "count, grid", [(30, (2, 4, 4)), (40, (2, 4, 4)), (0, (1, 2, 2)), (24, (2, 3, 4)), (20, (1, 4, 5))]
)
def test_patches_that_do_not_fill_the_grid_are_refused(count: int, grid: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=rf"encode_visual: expected .* found {count} patches") as raised:
        backbone_of("plain").encode_visual(torch.zeros(count, PATCH), grid)
    assert "\n" not in str(raised.value)


# -- decoding in parts -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, LENGTH - 1), max_size=6))
def test_appending_equals_one_forward(cuts: set[int]) -> None:
    backbone, edges = backbone_of("plain"), [0, *sorted(cuts), LENGTH]
    kv = new_cache(backbone)
    said = [decode(backbone, slice(a, b), kv=kv) for a, b in itertools.pairwise(edges)]
    assert cache_length(kv) == LENGTH
    torch.testing.assert_close(torch.cat(said, dim=1), decode(backbone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "nf4", "fp64"])
def test_appending_equals_one_forward_in_other_forms(kind: Kind) -> None:
    backbone, kv = backbone_of(kind), new_cache(backbone_of(kind))
    said = [decode(backbone, slice(a, b), kv=kv) for a, b in ((0, 5), (5, 6), (6, LENGTH))]
    torch.testing.assert_close(torch.cat(said, dim=1), decode(backbone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch_equals_each_alone(side: str) -> None:
    backbone = backbone_of("plain")
    batch = prompts([[3, (2, 2, 3), 4], [5], [2, (1, 1, 3), 1, (2, 2, 2), 6]], side=side)  # type: ignore[arg-type]
    together = decode(backbone, batch=batch, mask=batch.mask)
    for row in range(3):
        own = batch.mask[row].bool()
        hidden = backbone.decode(batch.embeds(backbone)[row : row + 1, own], batch.positions[:, row : row + 1, own])
        torch.testing.assert_close(together[row, own], backbone.logits(hidden)[0], rtol=0, atol=1e-5)


def causal(length: int, past: int = 0) -> Tensor:
    return torch.ones(length, past + length, dtype=torch.bool).tril(past)[None, None]


@pytest.mark.parametrize("kind", ["plain", "bf16", "fp64"])
@pytest.mark.parametrize("form", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_a_causal_4d_mask_of_any_dtype_equals_no_mask(kind: Kind, form: torch.dtype) -> None:
    backbone = backbone_of(kind)
    mask = causal(LENGTH)
    given_mask = (
        torch.zeros(mask.shape, dtype=form).masked_fill(~mask, -1e9) if form.is_floating_point else mask.to(form)
    )
    tolerance = 5e-2 if kind == "bf16" else 1e-5
    torch.testing.assert_close(decode(backbone, mask=given_mask), decode(backbone), rtol=0, atol=tolerance)
    kv = filled(backbone, 4)
    given_mask = given_mask[:, :, 4:]
    torch.testing.assert_close(
        decode(backbone, slice(4, None), kv=kv, mask=given_mask), decode(backbone)[:, 4:], rtol=0, atol=tolerance
    )


def test_a_boolean_4d_mask_keeps_continuations_apart() -> None:
    """Two continuations side by side, each seeing the past and itself only, equal each on a fork of its own."""
    backbone, past = backbone_of("plain"), LENGTH - 6
    parent = filled(backbone, past)
    expected = []
    for span in (slice(past, past + 2), slice(past + 2, past + 6)):
        expected.append(decode(backbone, span, kv=fork_cache(parent)))
    owner = torch.tensor([0, 0, 1, 1, 1, 1])
    own = (owner[:, None] == owner) & causal(6)[0, 0]
    mask = torch.cat([torch.ones(6, past, dtype=torch.bool), own], dim=1)[None, None]
    found = decode(backbone, slice(past, None), kv=fork_cache(parent), mask=mask)
    torch.testing.assert_close(found, torch.cat(expected, dim=1), rtol=0, atol=1e-5)
    assert (found - decode(backbone, slice(past, None), kv=parent)).abs().max() > 1e-3  # the mask did something


def test_positions_and_masks_of_the_wrong_shape_are_refused() -> None:
    backbone, kv = backbone_of("plain"), filled(backbone_of("plain"), 4)
    embeds, positions = PROMPT.embeds(backbone)[:, 4:8], PROMPT.positions[:, :, 4:8]
    calls: list[Callable[[], Tensor]] = [
        lambda: backbone.decode(embeds, positions[0], cache=kv),
        lambda: backbone.decode(embeds, positions[:, :, :3], cache=kv),
        lambda: backbone.decode(embeds, positions[:2], cache=kv),
        lambda: backbone.decode(embeds, positions[:, [0, 0]], cache=kv),
        lambda: backbone.decode(embeds, torch.cat([positions[:1], positions]), cache=kv),
        lambda: backbone.decode(embeds, positions, cache=kv, attention_mask=torch.ones(1, 4)),
        lambda: backbone.decode(embeds, positions, cache=kv, attention_mask=torch.ones(2, 8)),
        lambda: backbone.decode(embeds, positions, cache=kv, attention_mask=torch.ones(1, 4, 8)),
        lambda: backbone.decode(embeds, positions, cache=kv, attention_mask=causal(4)),
        lambda: backbone.decode(embeds, positions, attention_mask=causal(4, past=4)),
    ]
    before = contents(kv)
    for call in calls:
        with pytest.raises(InputError, match=r"^decode: expected .*shape.*, found") as raised:
            call()
        assert "\n" not in str(raised.value)
    assert same_bits(contents(kv), before)


# -- fork and evict --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 9])
def test_a_fork_leaves_its_parent_bit_identical(length: int) -> None:
    backbone = backbone_of("plain")
    kv = filled(backbone, length) if length else new_cache(backbone)
    before = contents(kv) if length else []
    expected = decode(backbone, slice(length, None), kv=filled(backbone, length) if length else new_cache(backbone))
    first, second = fork_cache(kv), fork_cache(kv)
    if length:
        held = [layer.keys.data_ptr() for layer in kv.layers]  # type: ignore[union-attr]
        assert [layer.keys.data_ptr() for layer in first.layers] == held  # type: ignore[union-attr]  # nothing copied
    assert torch.equal(decode(backbone, slice(length, None), kv=first), expected)
    if length:
        evict_cache(second, torch.tensor([0, 2, 5]))
        assert cache_length(second) == 3
    decode(backbone, slice(length, length + 3), kv=second)
    assert cache_length(kv) == length and cache_length(first) == LENGTH
    assert cache_length(second) == (6 if length else 3)
    if length:
        assert same_bits(contents(kv), before)
    # The parent goes on as if nobody had asked, and the forks do not notice that.
    asked = contents(first)
    assert torch.equal(decode(backbone, slice(length, None), kv=kv), expected)
    evict_cache(kv, torch.arange(2))
    assert same_bits(contents(first), asked)


def test_a_fork_of_a_fork_is_independent() -> None:
    backbone = backbone_of("plain")
    kv = filled(backbone, 6)
    child = fork_cache(kv)
    decode(backbone, slice(6, 9), kv=child)
    grandchild = fork_cache(child)
    expected = decode(backbone)[:, 9:]
    torch.testing.assert_close(decode(backbone, slice(9, None), kv=grandchild), expected, rtol=0, atol=1e-5)
    assert (cache_length(kv), cache_length(child), cache_length(grandchild)) == (6, 9, LENGTH)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_evicted_equals_masked(data: st.DataObject) -> None:
    """What follows sees the survivors at their old positions: the same as a full cache with the others hidden."""
    backbone, past = backbone_of("plain"), LENGTH - 6
    keep = sorted(data.draw(st.sets(st.integers(0, past - 1), min_size=1)))
    split = data.draw(st.integers(past + 1, LENGTH))
    evicted, full = filled(backbone, past), filled(backbone, past)
    before = contents(evicted)
    evict_cache(evicted, torch.tensor(keep))
    assert cache_length(evicted) == len(keep)
    assert same_bits(contents(evicted), [tensor[:, :, keep] for tensor in before])
    assert cache_bytes(evicted) == len(keep) * backbone.kv_bytes_per_token
    hidden = torch.zeros(1, past, dtype=torch.int64)
    hidden[:, keep] = 1
    for start, stop in ((past, split), (split, LENGTH)):
        if start < stop:
            mask = torch.cat([hidden, torch.ones(1, stop - past, dtype=torch.int64)], dim=1)
            expected = decode(backbone, slice(start, stop), kv=full, mask=mask)
            found = decode(backbone, slice(start, stop), kv=evicted)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_evicting_something_matters_and_evicting_nothing_does_not() -> None:
    backbone, past = backbone_of("plain"), LENGTH - 4
    expected = decode(backbone, slice(past, None), kv=filled(backbone, past))
    kept = filled(backbone, past)
    evict_cache(kept, torch.arange(past))
    assert torch.equal(decode(backbone, slice(past, None), kv=kept), expected)
    cut = filled(backbone, past)
    evict_cache(cut, torch.arange(3, past))
    assert (decode(backbone, slice(past, None), kv=cut) - expected).abs().max() > 1e-4


def test_an_emptied_cache_is_used_as_a_new_one() -> None:
    backbone = backbone_of("plain")
    kv = filled(backbone, 5)
    evict_cache(kv, torch.arange(0))
    evict_cache(kv, torch.arange(0))
    assert (cache_length(kv), cache_bytes(kv)) == (0, 0)
    assert torch.equal(decode(backbone, kv=kv), decode(backbone, kv=new_cache(backbone)))
    fresh = new_cache(backbone)
    evict_cache(fresh, torch.arange(0))
    assert cache_length(fresh) == 0


# -- refusals --------------------------------------------------------------------------------------------------------


def another_architecture() -> nn.Module:
    config = Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    config.num_attention_heads = config.num_key_value_heads = 1
    return Qwen2ForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (another_architecture, "found Qwen2ForCausalLM .*'qwen2'"),
        (lambda: nn.Linear(2, 2), "found Linear .*None"),
        (lambda: small_backbone().vlm.model, "Qwen2_5_VLModel.* no language model head"),
    ],
    ids=["qwen2", "no config", "no head"],
)
def test_another_model_is_refused(make: Callable[[], nn.Module], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as raised:
        Backbone(make())
    assert "\n" not in str(raised.value)


def test_a_cache_under_gradient_checkpointing_is_refused() -> None:
    """transformers drops it there, with a warning: the past would be missing from attention."""
    backbone = small_backbone()
    kv = filled(backbone, 4)
    before = contents(kv)
    backbone.bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    decode(backbone, slice(4, None), kv=fork_cache(kv))  # in eval mode nothing is dropped
    backbone.vlm.train()
    with pytest.raises(GazeQwenError, match="gradient checkpointing ignores the KV cache"):
        decode(backbone, slice(4, None), kv=kv)
    assert same_bits(contents(kv), before)
    decode(backbone)
