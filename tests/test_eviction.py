"""What a stream keeps under a budget: a hard limit, policies by name, and survivors that are as they were."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gazeqwen import GazeQwen
from gazeqwen.arms import ARMS
from gazeqwen.backbone import cache_length
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.injection import inject
from gazeqwen.state import Span, StepRecord
from gazeqwen.state_tensors import pack_state
from gazeqwen.types import GazeEvents, Step
from stream import StreamSession
from stream.eviction import OLD_SHARE, Gaze, Policy, Recent, Uniform, even_cells, gaze_cells
from stream.steps import Break
from tests.made_steps import (
    OPTIONS,
    QUESTION,
    SQUARE,
    WIDE,
    answer_logits,
    example,
    held,
    made_steps,
    moved_tiny,
    official_tiny,
    same_bits,
)

SIZE = 18  # video tokens of a made step


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def opening(model: GazeQwen) -> int:
    state = model.start(arm="none")
    model.append(state, made_steps(1))
    return state.tokens - SIZE


def one_by_one(session: StreamSession, steps: list[Step]) -> StreamSession:
    for step in steps:
        session.append(step)
    return session


def layout(session: StreamSession) -> dict[int, list[int]]:
    """Step id -> the cells held."""
    return {span.step.id: span.held.tolist() for span in session.state.spans if span.step is not None}


def events(*rows: tuple[float, float, float], valid: bool = True) -> GazeEvents:
    """(x, y, duration) each."""
    xy, duration = np.array([row[:2] for row in rows]).reshape(-1, 2), np.array([row[2] for row in rows])
    n, t = len(rows), np.zeros(len(rows))
    flags = np.full(n, valid)
    return GazeEvents(t, xy, duration, t, flags, flags, t)


def step_span(id: int, *, h: int = 3, w: int = 6, gaze: GazeEvents | None = None, cells: Any = None) -> Span:
    gaze = events((0.5, 0.5, 0.2)) if gaze is None else gaze
    record = StepRecord(id, np.zeros(2), (float(id), id + 1.0), gaze, h, w, repeated=False, partial=False)
    return Span(h * w if cells is None else len(cells), record, cells)


# -- which cells ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(data=st.data(), h=st.integers(1, 9), w=st.integers(1, 9), n=st.integers(1, 90))
def test_chosen_cells_are_distinct_and_the_nearest(data: st.DataObject, h: int, w: int, n: int) -> None:
    spread = even_cells(h, w, n)
    assert len(set(spread.tolist())) == min(n, h * w) and (np.diff(spread) > 0).all()
    assert spread.min() >= 0 and spread.max() < h * w
    inside = st.floats(0, 1)
    looks = data.draw(st.lists(st.tuples(inside, inside, st.floats(0, 2)), min_size=1, max_size=3))
    near = gaze_cells(events(*looks), h, w, n)
    assert len(set(near.tolist())) == min(n, h * w) and (np.diff(near) > 0).all()

    def cost(cell: int) -> float:  # the rule, by plain loops
        y, x = divmod(cell, w)
        return min(((x + 0.5 - a * w) ** 2 + (y + 0.5 - b * h) ** 2) / max(d, 0.1) for a, b, d in looks)

    costs = np.array([cost(cell) for cell in range(h * w)])
    left = np.setdiff1d(np.arange(h * w), near)
    if left.size:
        assert costs[near].max() <= costs[left].min() + 1e-9


def test_longer_looks_keep_more_tokens() -> None:
    cells = gaze_cells(events((0.25, 0.5, 0.9), (0.75, 0.5, 0.3)), 10, 20, 24)
    left = int((cells % 20 < 10).sum())
    assert left == pytest.approx(18, abs=2)  # three quarters
    assert gaze_cells(events((0.04, 0.9, 0.0)), 4, 4, 1).tolist() == [12]
    missing = replace(events((0.9, 0.9, 5.0), (0.1, 0.1, 0.1)), valid=np.array([False, True]))
    assert gaze_cells(missing, 4, 4, 1).tolist() == [0]
    with pytest.raises(InputError, match="valid gaze event"):
        gaze_cells(events((0.5, 0.5, 1.0), valid=False), 4, 4, 1)


@settings(deadline=None, max_examples=40)
@given(
    policy=st.one_of(st.builds(Recent), *(st.builds(kind, tokens=st.integers(1, 20)) for kind in (Uniform, Gaze))),
    n=st.integers(0, 12),
    room=st.integers(0, 250),
    arrivals=st.integers(0, 6),
)
def test_a_policy_fits_the_room_and_only_takes_away(policy: Policy, n: int, room: int, arrivals: int) -> None:
    spans = [step_span(k) for k in range(n)]
    for late in range(arrivals + 1):
        before = {span.step.id: set(span.held.tolist()) for span in spans if span.step is not None}
        changed = policy.keep(spans, room)
        after = [
            replace(span, tokens=len(cells), cells=cells) if (cells := changed.get(span.step.id)) is not None else span  # type: ignore[union-attr]
            for span in spans
        ]
        after = [span for span in after if span.tokens]
        assert sum(span.tokens for span in after) <= room
        assert all(set(span.held.tolist()) <= before[span.step.id] for span in after)  # type: ignore[union-attr]
        if sum(span.tokens for span in spans) <= room:
            assert not changed
        whole = [span.step.id for span in after if span.cells is None]  # type: ignore[union-attr]
        assert whole == sorted(before)[len(before) - len(whole) :]  # the newest ones
        thinned = sum(span.tokens for span in after if span.cells is not None)
        assert thinned <= max(OLD_SHARE * room, 0) or not changed
        spans = [replace(span, cells=None) if span.tokens == SIZE else span for span in after]
        spans.append(step_span(n + late))


# -- in the stream ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Recent(), Recent(sink_steps=2), Uniform(tokens=4), Gaze(tokens=4, sink_steps=1)])
def test_evicted_equals_masked_whatever_stays(model: GazeQwen, policy: Policy) -> None:
    """Ten questions of a stream that evicts, against one forward in which each step and question attends to what the
    stream held when it came."""
    steps = made_steps(14)
    session = StreamSession(model, budget_tokens=opening(model) + 4 * SIZE + 10, policy=policy)
    holds: list[dict[int, list[int]]] = []  # by step: what was held while it went in
    for count, step in enumerate(steps, 1):
        session.append(step)
        holds.append(layout(session))
        if count >= 5:
            text = model.question_text(session.state, QUESTION, OPTIONS, "letters")
            streamed = answer_logits(model, session.state, text)
            torch.testing.assert_close(streamed, masked(model, steps[:count], holds), atol=1e-5, rtol=0.0)
    assert session.report().evicted_tokens > 0
    plain = model.start()
    model.append(plain, steps)
    assert (streamed - answer_logits(model, plain, text)).abs().max() > 1e-3


def masked(model: GazeQwen, steps: list[Step], holds: list[dict[int, list[int]]]) -> Tensor:
    with torch.no_grad():
        row = model._sequence(example(steps), ARMS["inject"], 0)
        ((part, _, start),) = row.encoded
        length, size = len(row.embeds), part.h * part.w
        allowed = torch.ones(length, length).tril().bool()
        for step, kept in enumerate([*holds, holds[-1]]):  # the last rows are the question's
            rows = slice(start + step * size, start + (step + 1) * size if step < len(steps) else length)
            for older in range(min(step, len(steps))):
                hidden = np.setdiff1d(np.arange(size), kept.get(older, []))
                allowed[rows, start + older * size + torch.from_numpy(hidden)] = False
        plan = model.plan(row.encoded)
        assert plan is not None
        with inject(model.backbone.layers, plan):
            hidden = model.backbone.decode(row.embeds[None], row.positions[:, None], attention_mask=allowed[None, None])
        return model.backbone.logits(hidden[0, row.answer])


@pytest.mark.parametrize("policy", [Recent(sink_steps=1), Gaze(tokens=5)])
def test_many_at_once_are_as_one_at_a_time(model: GazeQwen, policy: Policy) -> None:
    steps = made_steps(21)
    single = one_by_one(StreamSession(model, budget_steps=4, policy=policy), steps)
    grouped = StreamSession(model, budget_steps=4, policy=policy)
    grouped.extend(steps)
    assert layout(single) == layout(grouped)
    for ours, theirs in zip(held(single.state), held(grouped.state), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    "options",
    [{"budget_steps": 3}, {"budget_tokens": 97}, {"budget_bytes": 200_000}, {"budget_tokens": 90, "policy": "gaze"}],
)
def test_no_forward_passes_the_limit(model: GazeQwen, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = StreamSession(model, **options)
    peaks: list[int] = []
    decode = model.backbone.decode

    def watched(embeds: Tensor, *arguments: Any, **named: Any) -> Tensor:
        peaks.append(cache_length(named["cache"]) + embeds.shape[1])
        return decode(embeds, *arguments, **named)

    monkeypatch.setattr(model.backbone, "decode", watched)
    session.extend(made_steps(30))
    report = session.report()
    assert report.limit_tokens is not None and max(peaks) <= report.limit_tokens
    assert report.kv_bytes == report.tokens_held * model.backbone.kv_bytes_per_token
    if "budget_bytes" in options:
        assert report.kv_bytes <= options["budget_bytes"] < report.kv_bytes + SIZE * model.backbone.kv_bytes_per_token
    held_tokens = []
    for step in made_steps(12, start_s=30.0):
        session.append(step)
        held_tokens.append(session.state.tokens)
    if options.get("policy") != "gaze":
        assert len(set(held_tokens)) == 1


def test_the_map_says_which_token_is_which(model: GazeQwen) -> None:
    """Thinned rows hold what the untouched stream holds for those cells; positions stay."""
    steps = made_steps(3)
    state, whole = model.start(arm="none"), model.start(arm="none")
    for one in (state, whole):
        model.append(one, steps)
    state.thin({0: [2, 7, 16], 1: ()})
    tokens, before = state.token_map(), whole.token_map()
    assert [record.id for record in state.steps] == [0, 2] and state.evicted == [1]
    assert state.evicted_tokens == SIZE - 3 + SIZE and state.thinned_steps == 1
    assert tokens.step.tolist() == [0] * 3 + [2] * SIZE
    assert (tokens.y * 6 + tokens.x).tolist() == [2, 7, 16, *range(SIZE)]
    at = [
        int(((before.step == s) & (before.y == y) & (before.x == x)).nonzero())
        for s, y, x in zip(tokens.step, tokens.y, tokens.x, strict=True)
    ]
    rows = before.position[at]
    for layer, full in zip(state.cache.layers, whole.cache.layers, strict=True):
        assert torch.equal(layer.keys[:, :, tokens.position], full.keys[:, :, rows])  # type: ignore[index, union-attr]
    assert torch.equal(state.positions[:, tokens.position], whole.positions[:, rows])
    assert state.rows_of([2]).tolist() == tokens.position[3:].tolist()
    state.thin({0: [7]})
    assert layout_of(state) == {0: [7], 2: list(range(SIZE))}
    before_bits = held(state)
    for cells in ({0: [2]}, {2: [18]}, {1: [0]}):
        with pytest.raises(InputError):
            state.thin(cells)
        assert same_bits(before_bits, held(state))
    state.thin({2: range(SIZE)})
    assert state.spans[-1].cells is None
    fork = state.fork()
    fork.thin({2: [0]})
    assert same_bits(before_bits, held(state))


def layout_of(state: Any) -> dict[int, list[int]]:
    return {span.step.id: span.held.tolist() for span in state.spans if span.step is not None}


def test_gaze_keeps_what_was_looked_at_and_counts_what_it_cannot_know(model: GazeQwen) -> None:
    steps = [replace(step, gaze=events((0.9, 0.9, 0.3))) for step in made_steps(12)]
    steps[3] = steps[3].without_gaze()
    session = StreamSession(model, budget_tokens=opening(model) + 80, policy=Gaze(tokens=3))
    session.extend(steps)
    kept = layout(session)
    old = {id: cells for id, cells in kept.items() if len(cells) < SIZE}
    assert len(old) >= 4 and max(old) < min(id for id, cells in kept.items() if len(cells) == SIZE)
    assert {tuple(cells) for id, cells in old.items() if id != 3} == {(11, 16, 17)}
    if 3 in old:
        assert old[3] == even_cells(3, 6, 3).tolist()
    report = session.report()
    assert report.thinned_without_gaze == 1 and report.steps_thinned == len(old) == session.state.thinned_steps
    answer = session.choose(QUESTION, OPTIONS)
    assert f"of {len(old)} older steps only some tokens are held" in answer.warnings
    plain = StreamSession(model, budget_steps=3, policy="gaze", arm="none")
    plain.extend(steps)
    assert any("tells the model no gaze" in warning for warning in plain.choose(QUESTION, OPTIONS).warnings)


def test_sinks_and_the_opening_never_leave(model: GazeQwen) -> None:
    session = StreamSession(model, budget_steps=4, policy=Recent(sink_steps=2))
    session.extend(made_steps(9))
    assert list(layout(session)) == [0, 1, 7, 8]
    with pytest.raises(InputError, match="2 sink steps and one step of 18"):
        StreamSession(model, budget_steps=2, policy=Recent(sink_steps=2)).append(made_steps(1)[0])
    assert session.state.spans[0].step is None and session.state.spans[1].turn is None


def test_what_has_left_takes_no_memory(model: GazeQwen) -> None:
    session = StreamSession(model, budget_steps=4, policy=Recent(sink_steps=1), arm="none")
    session.extend(made_steps(16))
    sizes = [len(json.dumps(pack_state(session.state)[1]))]
    session.extend(made_steps(48, start_s=16.0))
    sizes.append(len(json.dumps(pack_state(session.state)[1])))
    assert session.state.evicted == [*range(1, 61)] and session.state.evicted_steps == 60
    assert sizes[1] < sizes[0] + 60  # digits of times alone
    fork = session.state.fork()
    fork.evict([0, 62])
    assert fork.evicted == [*range(61), 62] and session.state.evicted_steps == 60


def test_a_report_adds_up(model: GazeQwen) -> None:
    session = StreamSession(model)
    assert session.report().seconds_seen == 0 and session.report().steps_seen == 0
    session = StreamSession(model, budget_steps=4)
    steps = made_steps(9)
    session.extend([replace(steps[0], gaze_late=True), *steps[1:]])
    report = session.report()
    assert (report.steps_seen, report.steps_held, report.evicted_steps) == (9, 4, 5)
    assert report.seconds_seen == pytest.approx(9.0, abs=1e-3)
    assert report.tokens_held + report.evicted_tokens == opening(model) + 9 * SIZE
    assert report.gaze_late_steps == 1 and report.other_bytes > 0
    assert report.to_dict()["tokens_held"] == report.tokens_held
    refilling = StreamSession(model, window="refill", window_s=4.0)
    refilling.extend(steps)
    assert refilling.report().other_bytes > report.other_bytes
    late = StreamSession(model)
    late.append(replace(steps[0], gaze_late=True))
    assert "1 steps went on before their gaze had arrived" in late.choose(QUESTION, OPTIONS).warnings
    official = StreamSession(official_tiny(), budget_steps=2, arm="none")
    official.extend(steps)
    assert official.report().steps_seen == 9 and official.report().other_bytes > 0


def well_formed(session: StreamSession) -> bool:
    """Video segments are opened once and ended once, steps are in them and turns between them. Marks are the texts of
    one token."""
    inside = True
    for span in session.state.spans[2:]:
        mark = span.step is None and span.tokens == 1
        if not mark and inside != (span.step is not None):
            return False
        inside ^= mark
    return inside == (session.state.segment_start_s is not None)


def goes_on(session: StreamSession, *, size_px: tuple[int, int] = WIDE, rounds: int = 14) -> None:
    """A stream of steps, breaks of the video, pauses and remembered turns, whatever of them the session takes."""
    rng = np.random.default_rng(1)
    start_s = 0.0
    for turn in range(rounds):
        steps = made_steps(int(rng.integers(1, 4)), start_s=start_s, size_px=size_px)
        start_s = steps[-1].span_s[1] + float(rng.choice([0.0, 100.0]))
        session.extend([*steps, Break(steps[-1].span_s[1])][: len(steps) + turn % 2])
        if turn % 3:
            pieces: Iterator[str] = iter(())
            with contextlib.suppress(InputError):  # a turn that doesn't fit is refused before it is answered
                pieces = session.ask(f"{turn}?", max_new_tokens=2, remember=True)
            assert isinstance("".join(pieces), str)
        assert well_formed(session)
        limit = session.report().limit_tokens
        assert limit is not None and session.state.tokens <= limit
        assert session.report().next_position <= session.report().position_limit * 7 / 8 + 1  # a mark on top


@pytest.mark.parametrize("policy", [Recent(), Recent(sink_steps=2), Uniform(tokens=5), Gaze(tokens=4, sink_steps=1)])
def test_the_least_budget_takes_a_stream_without_end(model: GazeQwen, policy: Any) -> None:
    least = opening(model) + (policy.sink_steps + 1) * SIZE + 2
    for options in ({"budget_tokens": least}, {"budget_steps": policy.sink_steps + 1}):
        session = StreamSession(model, policy=policy, position_limit=64, **options)
        goes_on(session)
        assert session.report().limit_tokens == least and session.report().relocations > 0
    goes_on(StreamSession(model, policy=policy, position_limit=64, budget_tokens=least + 60))
    refused = StreamSession(model, budget_tokens=least - 1, policy=policy)
    with pytest.raises(InputError, match=rf"budget: expected at least {least} tokens: .*break of the video, found"):
        refused.append(made_steps(1)[0])


def test_a_turn_that_the_sinks_leave_no_room_for_is_refused(model: GazeQwen) -> None:
    """A quarter of the budget would take it, but then the next step had no room."""
    policy = Recent(sink_steps=8)
    session = StreamSession(model, budget_tokens=opening(model) + 9 * SIZE + 2 + 20, policy=policy)
    session.extend(made_steps(3))
    with pytest.raises(InputError, match="a turn of at most 22 tokens"):
        session.ask("What is that?", max_new_tokens=20, remember=True)
    session.extend(made_steps(9, start_s=3.0))
    with pytest.raises(InputError, match="a turn of at most 22 tokens"):
        session.ask("What is that?", max_new_tokens=20, remember=True)


def test_the_least_positions_take_a_stream_without_end(model: GazeQwen) -> None:
    long = (28, 28 * 60)  # 1 x 60 video tokens
    least = -(-8 * (2 + 60) // 3)
    assert least > 2 * (opening(model) + 2 + 60)
    session = StreamSession(model, budget_steps=2, position_limit=least)
    goes_on(session, size_px=long, rounds=8)
    refused = StreamSession(model, position_limit=least - 1)
    with pytest.raises(InputError, match=f"position_limit: expected at least {least} for"):
        refused.append(made_steps(1, size_px=long)[0])


def test_frames_of_another_size_stay_within_the_limit(model: GazeQwen) -> None:
    session = StreamSession(model, budget_tokens=110)
    session.extend(made_steps(6))
    session.append(made_steps(1, start_s=6.0, size_px=SQUARE)[0])
    assert session.state.tokens <= 110 and session.state.steps[-1].h == 4


BAD: list[tuple[Callable[[GazeQwen], object], str]] = [
    (lambda model: StreamSession(model, budget_tokens=0), "budget_tokens: at least 1"),
    (lambda model: StreamSession(model, budget_tokens=9, budget_steps=9), "pass one of them"),
    (lambda model: StreamSession(model, policy="gaze"), "pass budget_tokens="),
    (lambda model: StreamSession(model, policy="newest", budget_steps=2), "recent, uniform, gaze"),
    (lambda model: Gaze(tokens=0), "tokens: at least 1"),
    (lambda model: Recent(sink_steps=-1), "sink_steps"),
    (lambda model: StreamSession(official_tiny(), budget_tokens=100, arm="none"), "compat='official'"),
    (lambda model: StreamSession(official_tiny(), budget_steps=2, policy="gaze", arm="none"), "compat='official'"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_contradictions_are_named(model: GazeQwen, call: Callable[[GazeQwen], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(model)


def test_a_budget_that_holds_no_step_says_what_it_needs(model: GazeQwen) -> None:
    session = StreamSession(model, budget_tokens=20)
    before = held(session.state)
    with pytest.raises(InputError, match=r"budget: expected at least \d+ tokens.*found 20; raise the budget"):
        session.append(made_steps(1)[0])
    assert same_bits(before, held(session.state))
