"""A stream's tokens at new positions: keys as a prefill there would have them, no drift, a stream without an end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import ARMS
from gazeqwen.backbone import new_cache, rotation
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.positions import MRope
from gazeqwen.relocate import relocate, shorten
from gazeqwen.state import StreamState
from gazeqwen.types import Step
from stream import StreamSession
from stream.eviction import Gaze, Policy, Recent, Uniform
from tests.made_steps import OPTIONS, QUESTION, answer_logits, example, held, made_steps, moved_tiny, same_bits


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def keys(state: StreamState) -> list[Tensor]:
    return [layer.keys for layer in state.cache.layers]  # type: ignore[union-attr]


def start_at(model: GazeQwen, position: int) -> StreamState:
    """A stream whose first token has this position."""
    state = StreamState(
        arm=ARMS["inject"],
        cache=new_cache(model.backbone),
        rope=MRope(tokens_per_second=model.backbone.tokens_per_second, next=position),
        window=model.new_window(),
    )
    with torch.no_grad():
        model._append_text(state, prompts.PREFIX)
    return state


def turned(state: StreamState, positions: Tensor, model: GazeQwen) -> list[Tensor]:
    """The keys at other positions in float64, by plain loops over axes and frequencies."""
    config = model.backbone.text_config
    sections = (getattr(config, "rope_parameters", None) or config.rope_scaling)["mrope_section"]
    axis = [a for a, size in enumerate(sections) for _ in range(size)]
    inverse = model.backbone.decoder.rotary_emb.inv_freq.double()
    angle = torch.stack([(positions - state.positions)[a].double() * f for a, f in zip(axis, inverse, strict=True)], 1)
    found = []
    for layer in keys(state):
        pair = torch.complex(*(half.contiguous() for half in layer.double().chunk(2, dim=-1)))
        pair = pair * torch.polar(torch.ones_like(angle), angle)
        found.append(torch.cat([pair.real, pair.imag], dim=-1).float())
    return found


def fresh_keys(model: GazeQwen, steps: list[Step], state: StreamState) -> Tensor:
    """First-layer keys of a prefill of what `state` holds at the state's own positions: they rest on nothing else."""
    with torch.no_grad():
        row = model._sequence(example(steps), ARMS["inject"], 0)
        start = row.encoded[0][2]
        embeds, at = row.embeds, []
        for span in state.spans:
            first = start + span.step.id * 18 if span.step is not None else len([x for x in at if x < start])
            at += [first + int(cell) for cell in span.held]
        kv = new_cache(model.backbone)
        model.backbone.decode(embeds[at][None], state.positions[:, None], cache=kv)
    return kv.layers[0].keys  # type: ignore[union-attr, return-value]


def near(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0.0)


def test_a_stream_moved_down_is_the_one_that_started_there(model: GazeQwen) -> None:
    """M-RoPE sees distances only: all tokens moved by one number are a fresh prefill, in every layer and answer."""
    steps = made_steps(5)
    low = model.start()
    model.append(low, steps)
    for position in (7, 900, 30_000):
        high = start_at(model, position)
        model.append(high, steps)
        assert high.rope.next == low.rope.next + position
        fork = high.fork()
        before = held(fork)
        relocate(model.backbone, high, below=100)
        assert torch.equal(high.positions, low.positions) and high.rope.next == low.rope.next
        # At 30,000 the model's own angles are rounded to 0.002: what a float32 prefill there has lost already.
        atol = 1e-5 if position < 1000 else 5e-3
        for ours, theirs in zip(keys(high), keys(low), strict=True):
            near(ours, theirs, atol)
        near(answer_logits(model, high, QUESTION), answer_logits(model, low, QUESTION), 10 * atol)
        assert same_bits(before, held(fork))
        model.append(high, made_steps(1, start_s=5.0))
        longer = low.fork()
        model.append(longer, made_steps(1, start_s=5.0))
        assert torch.equal(high.positions, longer.positions)


@pytest.mark.parametrize("policy", [Recent(), Recent(sink_steps=1), Uniform(tokens=4), Gaze(tokens=4)])
def test_keys_are_those_of_a_prefill_at_the_new_positions(model: GazeQwen, policy: Policy) -> None:
    steps = made_steps(16)
    session = StreamSession(model, budget_steps=4, policy=policy)
    session.extend(steps)
    state = session.state.fork()
    below = 24 + session.state.spans[0].tokens
    relocate(model.backbone, state, below=below)
    assert int(state.positions.max()) < state.rope.next <= below < session.state.rope.next
    near(keys(state)[0], fresh_keys(model, steps, state))
    for ours, theirs in zip(keys(state), turned(session.state, state.positions, model), strict=True):
        near(ours, theirs)
    opening = slice(0, session.state.spans[0].tokens + 1)
    for ours, theirs in zip(keys(state), keys(session.state), strict=True):
        assert torch.equal(ours[:, :, opening], theirs[:, :, opening])
    # the video goes on two positions a second later
    before = int(state.positions[0].max())
    model.append(state, made_steps(1, start_s=16.0))
    assert int(state.positions[0].max()) - before in (1, 2, 3)
    if policy == Recent():
        assert int(state.positions[0].max()) - before == 2


def test_half_precision_rounds_once() -> None:
    half = GazeQwen.from_pretrained("tiny", dtype=torch.bfloat16)
    session = StreamSession(half, budget_steps=4, policy=Recent(sink_steps=1))
    session.extend(made_steps(40))
    state = session.state.fork()
    relocate(half.backbone, state, below=40)
    exact = turned(session.state, state.positions, half)
    moved = (state.positions != session.state.positions).any(dim=0)
    assert moved.any()
    for ours, theirs in zip(keys(state), exact, strict=True):
        error = (ours.float() - theirs)[:, :, moved].norm() / theirs[:, :, moved].norm()
        assert error < 6e-3  # bfloat16 has 8 bits: cosines, sines and result are each rounded to 2 to 4 in a thousand


@pytest.mark.parametrize("policy", [Recent(sink_steps=1), Gaze(tokens=4)])
def test_a_long_session_stays_below_its_limit_without_drift(model: GazeQwen, policy: Policy) -> None:
    steps = made_steps(150)
    session = StreamSession(model, budget_steps=4, policy=policy, position_limit=96)
    single = StreamSession(model, budget_steps=4, policy=policy, position_limit=96)
    session.extend(steps)
    for step in steps:
        single.append(step)
        report = single.report()
        assert report.next_position <= report.position_limit == 96
        assert int(single.state.positions.max()) < report.next_position
    assert 5 <= session.report().relocations == single.report().relocations < 40
    assert torch.equal(session.state.positions, single.state.positions)
    near(keys(single.state)[0], fresh_keys(model, steps, single.state))
    for ours, theirs in zip(keys(session.state), keys(single.state), strict=True):
        near(ours, theirs)
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.steps >= 4 and all(np.isfinite(list(answer.option_logprobs.values())))


def test_hours_between_two_steps_begin_a_new_segment(model: GazeQwen) -> None:
    session = StreamSession(model, budget_steps=4, position_limit=200)
    session.extend(made_steps(3))
    session.extend(made_steps(3, start_s=36_000.0))
    report = session.report()
    assert report.next_position < 200 and report.turns_held == 1
    assert report.steps_held == 3  # the two words around the break take the fourth's room
    assert session.state.tokens <= (report.limit_tokens or 0)
    assert session.choose(QUESTION, OPTIONS).span_s[1] == 36_003.0
    plain = StreamSession(model)
    plain.extend(made_steps(3))
    plain.extend(made_steps(3, start_s=36_000.0))
    assert plain.report().relocations == 1 and plain.report().position_limit == 32_768


def test_what_does_not_fit_is_refused_and_changes_nothing(model: GazeQwen) -> None:
    state = model.start()
    model.append(state, made_steps(3))
    before = held(state)
    with pytest.raises(InputError, match="positions"):
        relocate(model.backbone, state, below=5)
    assert same_bits(before, held(state))
    relocate(model.backbone, state, below=1000)  # where it is already
    assert same_bits(before, held(state))
    wide = StreamSession(model, position_limit=64)
    with pytest.raises(InputError, match="position_limit: expected at least"):
        wide.append(made_steps(1, size_px=(28, 28 * 40))[0])
    assert wide.state.tokens < 20
    for limit in (0, 31, 10**6):
        with pytest.raises(ConfigError, match="position_limit"):
            StreamSession(model, position_limit=limit)


def test_after_everything_is_evicted_the_segment_goes_on(model: GazeQwen) -> None:
    state = model.start()
    model.append(state, made_steps(3))
    state.evict([0, 1, 2])
    relocate(model.backbone, state, below=100)
    assert state.rope.next == state.tokens
    model.append(state, made_steps(1, start_s=3.0))
    assert int(state.positions[0, -1]) == state.tokens - 18


def test_four_dimensional_angles_are_composed_per_axis(model: GazeQwen, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 4.57 leaves the choice of axis to attention."""
    positions = torch.randint(0, 500, (3, 7))
    expected = rotation(model.backbone, positions)
    rotary = model.backbone.decoder.rotary_emb

    def uncomposed(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        angle = ids[..., None].float() * rotary.inv_freq
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    monkeypatch.setattr(rotary, "forward", uncomposed)
    for ours, theirs in zip(rotation(model.backbone, positions), expected, strict=True):
        assert torch.equal(ours, theirs)


@given(st.lists(st.floats(0, 1e4), max_size=8), st.floats(0, 100))
def test_shortened_times_keep_what_fits(gaps: list[float], longest: float) -> None:
    times = 3.0 + np.cumsum([0.0, *gaps])
    found = shorten(times, longest)
    assert found[0] == times[0] and len(found) == len(times)
    np.testing.assert_allclose(np.diff(found), np.minimum(np.diff(times), longest), atol=1e-6)
    assert shorten([], 1.0).size == 0


def test_a_fork_made_before_keeps_its_positions(model: GazeQwen) -> None:
    session = StreamSession(model, budget_steps=4, position_limit=64)
    session.extend(made_steps(8))
    fork = session.state.fork()
    before, logits = held(fork), answer_logits(model, fork, QUESTION)
    session.extend([replace(step) for step in made_steps(60, start_s=8.0)])
    assert session.report().relocations > 0
    assert same_bits(before, held(fork)) and torch.equal(answer_logits(model, fork, QUESTION), logits)
