"""Turns that stay: the stream after them is the interleaved conversation, and they are evicted like the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import ARMS
from gazeqwen.batch import Example
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.injection import inject
from gazeqwen.types import Question, Step
from stream import StreamSession
from stream.eviction import TURN_SHARE, Gaze
from tests.made_steps import OPTIONS, QUESTION, answer_logits, held, made_steps, moved_tiny, official_tiny, same_bits

FIRST = "What is that?"


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def remember(session: StreamSession, question: str = FIRST, tokens: int = 6) -> str:
    """What was said, as it stands in the conversation."""
    said = "".join(session.ask(question, max_new_tokens=tokens, remember=True))
    return prompts.open_prompt(question) + prompts.ASSISTANT + said + prompts.NEXT_TURN


def conversation(model: GazeQwen, content: tuple[Any, ...], *, hidden: list[int] | None = None) -> Tensor:
    """The answer's logits after the interleaved sequence in one forward; the question can't attend to `hidden` rows."""
    with torch.no_grad():
        row = model._sequence(Example(content, Question(QUESTION, 99.0, OPTIONS)), ARMS["inject"], 0)
        length = len(row.embeds)
        closing = "" if isinstance(content[-1], str) else prompts.VISION_END
        asked = len(model._ids(closing + prompts.choice_prompt(QUESTION, OPTIONS) + prompts.ASSISTANT))
        allowed = torch.ones(length, length).tril().bool()
        allowed[length - asked :, hidden or []] = False
        plan = model.plan(row.encoded)
        assert plan is not None
        with inject(model.backbone.layers, plan):
            out = model.backbone.decode(row.embeds[None], row.positions[:, None], attention_mask=allowed[None, None])
        return model.backbone.logits(out[0, row.answer])


def logits(model: GazeQwen, session: StreamSession) -> Tensor:
    return answer_logits(model, session.state, prompts.choice_prompt(QUESTION, OPTIONS))


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0.0)


def test_the_stream_goes_on_as_the_interleaved_conversation(model: GazeQwen) -> None:
    steps = made_steps(7)
    session = StreamSession(model)
    session.extend(steps[:3])
    first = remember(session)
    near(logits(model, session), conversation(model, (steps[:3], first)))  # before any new video
    session.extend(steps[3:5])
    second = remember(session, "And now?")
    session.extend(steps[5:])
    near(logits(model, session), conversation(model, (steps[:3], first, steps[3:5], second, steps[5:])))
    plain = StreamSession(model)
    plain.extend(steps)
    assert (logits(model, plain) - logits(model, session)).abs().max() > 1e-3
    assert session.report().turns_held == 2 and session.choose(QUESTION, OPTIONS).steps == 7


def test_nothing_stays_before_the_last_piece(model: GazeQwen) -> None:
    steps = made_steps(4)
    session = StreamSession(model)
    session.extend(steps[:2])
    before = held(session.state)
    for tokens in (1, 4):
        pieces = session.ask(FIRST, max_new_tokens=tokens, remember=True)
        next(pieces, None)
        assert same_bits(before, held(session.state)) or tokens == 1
        if tokens == 4:
            del pieces
            assert same_bits(before, held(session.state))
    expected = "".join(session.ask(FIRST, max_new_tokens=6))
    assert same_bits(before, held(session.state))
    fork = session.state.fork()
    pieces = session.ask(FIRST, max_new_tokens=6, remember=True)
    session.append(steps[2])  # the world goes on while it speaks
    assert "".join(pieces) == expected
    assert same_bits(before, held(fork))
    turn = prompts.open_prompt(FIRST) + prompts.ASSISTANT + expected + prompts.NEXT_TURN
    session.append(steps[3])
    near(logits(model, session), conversation(model, (steps[:3], turn, steps[3:])))


def test_the_partial_step_does_not_stay(model: GazeQwen) -> None:
    from tests.test_session import part_of

    steps = made_steps(4)
    session = StreamSession(model)
    session.extend([*steps[:2], part_of(steps[2])])
    seen = "".join(session.ask(FIRST, max_new_tokens=6))
    turn = remember(session)
    assert seen in turn and [record.id for record in session.state.steps] == [0, 1]
    session.extend(steps[2:])
    near(logits(model, session), conversation(model, (steps[:2], turn, steps[2:])))


@pytest.mark.parametrize("policy", ["recent", Gaze(tokens=4)])
def test_turns_and_steps_are_evicted_and_equal_a_mask(model: GazeQwen, policy: Any) -> None:
    """Everything goes in, then much of it leaves: the question sees what a mask over the whole conversation shows."""
    steps = made_steps(8)
    session = StreamSession(model, budget_tokens=2000, policy=policy)
    session.extend(steps[:4])
    turns = [remember(session)]
    session.extend(steps[4:6])
    turns.append(remember(session, "And now?"))
    session.extend(steps[6:])
    whole = conversation(model, (steps[:4], turns[0], steps[4:6], turns[1], steps[6:]))
    near(logits(model, session), whole)
    layout, row = [], 0
    for span in session.state.spans:
        layout.append((span, row))
        row += span.tokens
    memory = session._memory
    memory.limit_tokens = memory.state.tokens - 40
    memory._make_room(video=18)
    assert memory.state.tokens <= memory.limit_tokens - 18
    kept = {span.step.id: set(span.held.tolist()) for span in memory.state.spans if span.step is not None}
    texts = {span.turn for span in memory.state.spans if span.step is None}
    hidden: list[int] = []
    for span, first in layout:
        if span.step is not None:
            hidden += [first + int(cell) for cell in span.held if cell not in kept.get(span.step.id, ())]
        elif span.turn not in texts:
            hidden += range(first, first + span.tokens)
    assert hidden and 0 not in texts  # the older turn left
    content = (steps[:4], turns[0], steps[4:6], turns[1], steps[6:])
    near(logits(model, session), conversation(model, content, hidden=hidden))


def test_a_long_dialogue_stays_within_the_budget(model: GazeQwen) -> None:
    session = StreamSession(model, budget_tokens=320, policy=Gaze(tokens=4), position_limit=600)
    for turn in range(12):
        session.extend(made_steps(5, start_s=5.0 * turn))
        remember(session, f"{turn}?", tokens=3)
        report = session.report()
        spoken = sum(span.tokens for span in session.state.spans if span.turn is not None)
        assert report.tokens_held <= 320 and spoken <= TURN_SHARE * 320 + 1
        assert report.next_position <= 600
    report = session.report()
    assert report.turns_evicted > 0 and 0 < report.turns_held < 12
    assert report.turns_held + report.turns_evicted == 12
    held_ids = [record.id for record in session.state.steps]
    assert held_ids == sorted(held_ids) and held_ids[-1] == 59


def test_turns_leave_where_positions_run_out(model: GazeQwen) -> None:
    session = StreamSession(model, position_limit=200)
    for turn in range(10):
        session.extend(made_steps(2, start_s=2.0 * turn))
        remember(session, f"{turn}?", tokens=2)
        assert session.report().next_position <= 200
    report = session.report()
    assert report.turns_evicted > 0 and report.steps_held == 20 and report.relocations > 0
    with pytest.raises(InputError, match="a turn of at most 75 tokens"):
        session.ask(FIRST, remember=True, max_new_tokens=90)
    assert session.choose(QUESTION, OPTIONS).steps == 20


def test_turns_survive_a_window_and_new_positions(model: GazeQwen) -> None:
    steps: list[Step] = made_steps(60)
    session = StreamSession(model, budget_steps=8, position_limit=140, window_s=2.0)
    session.extend(steps[:3])
    remember(session, "?", tokens=1)
    session.extend(steps[3:])
    report = session.report()
    assert report.relocations > 0 and report.turns_held == 1
    assert session.choose(QUESTION, OPTIONS).steps == 2
    forgotten = session.state.fork()
    forgotten.forget([0])
    view = session.state.fork()
    for fork in (view, forgotten):
        fork.evict([record.id for record in fork.steps][:-2])
    text = prompts.choice_prompt(QUESTION, OPTIONS)
    assert (answer_logits(model, view, text) - answer_logits(model, forgotten, text)).abs().max() > 1e-5


def test_turns_leave_and_the_marks_of_the_video_stay_in_pairs(model: GazeQwen) -> None:
    """Two turns after one segment, the older one leaves, then the other: before the next segment begins and after."""
    steps = made_steps(5)
    session = StreamSession(model)
    session.extend(steps[:3])
    end = session.state.tokens  # the row of the mark that ends the segment
    turns = [remember(session), remember(session, "And now?")]
    first, both = (len(model._ids(text)) for text in (turns[0], "".join(turns)))
    text = prompts.choice_prompt(QUESTION, OPTIONS)

    def without(*gone: list[int]) -> Tensor:
        fork = session.state.fork()
        for turns in gone:
            fork.forget(turns)
        return answer_logits(model, fork, text)

    content = (steps[:3], "".join(turns))
    near(without([0]), conversation(model, content, hidden=[*range(end + 1, end + 1 + first)]))
    near(without([0], [1]), conversation(model, content, hidden=[*range(end + 1, end + 1 + both)]))
    session.extend(steps[3:])
    content = (*content, steps[3:])
    near(without([0]), conversation(model, content, hidden=[*range(end + 1, end + 1 + first)]))
    near(without([0, 1]), conversation(model, content, hidden=[*range(end, end + 2 + both)]))
    with pytest.raises(InputError, match="turns: expected ones before 0"):
        session.state.forget([1])
    assert session.state.turns_held == 2


def test_a_turn_leaves_for_the_next_one_and_the_video_stays_ended(model: GazeQwen) -> None:
    session = StreamSession(model, budget_tokens=160)
    session.extend(made_steps(3))
    turns = [remember(session, f"{turn}?", tokens=2) for turn in range(6)]
    texts = [span for span in session.state.spans[2:] if span.step is None]
    assert [(span.tokens, span.turn) for span in texts[:1]] == [(1, None)]
    assert [(span.tokens, span.turn) for span in texts[1:]] == [(len(model._ids(turns[5])), 5)]
    report = session.report()
    assert (report.turns_held, report.turns_evicted) == (1, 5)
    session.extend(made_steps(2, start_s=3.0))
    texts = [span for span in session.state.spans[2:] if span.step is None]
    assert [span.turn for span in texts] == [5, 5, 5] and [span.tokens for span in texts[::2]] == [1, 1]


def test_a_turn_too_long_for_the_budget_is_refused_before_it_is_answered(model: GazeQwen) -> None:
    session = StreamSession(model, budget_tokens=120)
    session.extend(made_steps(2))
    before = held(session.state)
    with pytest.raises(InputError, match=r"remember: expected a turn of at most 30 tokens.*found up to \d+"):
        session.ask(FIRST, remember=True, max_new_tokens=64)
    assert same_bits(before, held(session.state))
    assert isinstance("".join(session.ask(FIRST, max_new_tokens=2)), str)


BAD: list[Callable[[GazeQwen], StreamSession]] = [
    lambda model: StreamSession(model, window="refill", window_s=2.0),
    lambda model: StreamSession(official_tiny(), arm="none"),
    lambda model: StreamSession(model, arm="blind"),
]


@pytest.mark.parametrize("make", BAD)
def test_streams_that_cannot_hold_a_turn_say_so(model: GazeQwen, make: Callable[[GazeQwen], StreamSession]) -> None:
    session = make(model)
    session.extend(made_steps(2))
    with pytest.raises(ConfigError, match="remember=True"):
        session.ask(FIRST, remember=True)
