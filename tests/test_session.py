"""StreamSession: append, then ask; asking changes nothing, and an answer says what it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import salience_frames
from gazeqwen.config import FixationConfig
from gazeqwen.errors import ConfigError, FutureDataError, InputError
from gazeqwen.frozen import Frozen
from gazeqwen.types import Answer, Fixations, GazeEvents, GazeSamples, Step
from gazeqwen.vjepa import RollingWindow
from stream import StreamSession, open_recording
from stream import recording as recordings
from stream.eviction import Gaze
from stream.recording import Recording
from stream.session import CHUNK_STEPS
from stream.steps import Break, Cut
from stream.trackers.base import GazeRecording
from stream.video import Frame
from stream.video_writer import write_clip
from tests.made_steps import OPTIONS, QUESTION, SQUARE, example, held, made_steps, moved_tiny, official_tiny, same_bits


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def session_of(model: GazeQwen, steps: list[Step], **options: object) -> StreamSession:
    session = StreamSession(model, **options)  # type: ignore[arg-type]
    session.extend(steps)
    return session


def scores(answer: Answer) -> torch.Tensor:
    return torch.tensor(list(answer.option_logprobs.values()))


def assert_near(a: Answer, b: Answer) -> None:
    torch.testing.assert_close(scores(a), scores(b), atol=1e-5, rtol=0.0)


def part_of(step: Step) -> Step:
    """The step as it was half a second earlier: one frame, repeated."""
    middle_s = step.span_s[1] - 0.5
    first = step.vjepa_times_s < middle_s
    return replace(
        step,
        frames=step.frames[[0, 0]],
        frame_times_s=step.frame_times_s[[0, 0]],
        span_s=(step.span_s[0], middle_s),
        vjepa_frames=step.vjepa_frames[first],
        vjepa_times_s=step.vjepa_times_s[first],
        repeated=True,
        partial=True,
    ).without_gaze()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Five seconds of noise at 10 fps, gaze that jumps every second, and a blink."""
    folder = tmp_path_factory.mktemp("recording")
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1) for _ in range(50))
    clip = write_clip(folder / "clip.mp4", images, fps=10)
    t = np.arange(250) / 50 + 0.003
    rows = ["t_s,x_norm,y_norm,valid"]
    for time_s in t:
        look = int(time_s)
        valid = not 2.2 < time_s < 2.4
        rows.append(f"{time_s:.4f},{0.15 + 0.15 * look:.3f},{0.8 - 0.15 * look:.3f},{int(valid)}")
    (folder / "gaze.csv").write_text("\n".join(rows) + "\n")
    return open_recording(clip, folder / "gaze.csv", y_origin="top", gaze_offset_s=0.0)


# -- streamed == offline -----------------------------------------------------------------------------------------------


def test_one_at_a_time_extended_and_forward_agree(model: GazeQwen) -> None:
    steps = made_steps(CHUNK_STEPS + 2)
    one_by_one, extended = StreamSession(model), StreamSession(model)
    for step in steps:
        one_by_one.append(step)
    seen: list[int] = []
    extended.extend(iter(steps), progress=seen.append)
    assert seen == [CHUNK_STEPS, 2]
    streamed, offline = one_by_one.choose(QUESTION, OPTIONS), extended.choose(QUESTION, OPTIONS)
    assert_near(streamed, offline)
    with torch.no_grad():
        logits = model([example(steps)]).logits[0]
    expected = torch.log_softmax(logits[prompts.letter_ids(model.tokenizer, 3)], dim=0)
    torch.testing.assert_close(scores(offline), expected, atol=1e-5, rtol=0.0)
    assert streamed.letter == "ABC"[int(expected.argmax())] == offline.letter
    assert streamed.text == OPTIONS["ABC".index(streamed.letter or "")]


def test_a_recording_seen_live_answers_as_the_clip_that_ends_there(model: GazeQwen, recording: Recording) -> None:
    live = StreamSession(model, fixations=recording.fixations)
    whole = list(recording.steps(model.config.fps, vjepa_fps=model.config.features.fps))
    for step in whole[:3]:
        live.append(step)
    *_, tail = recording.steps(model.config.fps, vjepa_fps=model.config.features.fps, until_s=3.2)
    assert tail.partial
    live.append(tail)
    assert_near(
        live.choose(QUESTION, OPTIONS), StreamSession.of(model, recording, until_s=3.2).choose(QUESTION, OPTIONS)
    )
    live.append(whole[3])  # the partial step gives way
    straight = session_of(model, whole[:4])
    assert same_bits(held(live.state), held(_one_by_one(model, whole[:4]).state))
    assert_near(live.choose(QUESTION, OPTIONS), straight.choose(QUESTION, OPTIONS))


def _one_by_one(model: GazeQwen, steps: list[Step]) -> StreamSession:
    session = StreamSession(model)
    for step in steps:
        session.append(step)
    return session


def test_of_is_the_models_own_stream(model: GazeQwen, recording: Recording) -> None:
    session = model.stream()
    assert isinstance(session, StreamSession)
    session.extend(recording.steps(fps=2, vjepa_fps=model.config.features.fps))
    assert_near(session.choose(QUESTION, OPTIONS), StreamSession.of(model, recording).choose(QUESTION, OPTIONS))


def test_two_sessions_on_one_model_do_not_meet(model: GazeQwen) -> None:
    ours, theirs = made_steps(3), made_steps(3, seed=7, size_px=SQUARE)
    a, b = StreamSession(model), StreamSession(model)
    for x, y in zip(ours, theirs, strict=True):
        a.append(x)
        b.append(y)
        b.choose(QUESTION, OPTIONS)
    alone = _one_by_one(model, ours)
    assert same_bits(held(a.state), held(alone.state))
    assert (scores(a.choose(QUESTION, OPTIONS)) - scores(b.choose(QUESTION, OPTIONS))).abs().max() > 1e-3


# -- asking changes nothing --------------------------------------------------------------------------------------------


def test_asking_in_every_way_changes_nothing(model: GazeQwen) -> None:
    steps = made_steps(4)
    session = session_of(model, steps[:2])
    session.append(part_of(steps[2]))
    before = held(session.state)
    first = session.choose(QUESTION, OPTIONS)
    session.choose(QUESTION, OPTIONS, scoring="likelihood", at_s=9.0)
    session.yes_no(QUESTION)
    session.answer(QUESTION, max_new_tokens=3)
    next(session.ask(QUESTION, max_new_tokens=3), None)
    session.window_s = 1.0
    session.choose(QUESTION, OPTIONS)
    session.window_s = None
    assert same_bits(before, held(session.state))
    assert session.choose(QUESTION, OPTIONS).option_logprobs == first.option_logprobs
    session.extend(steps[2:])
    assert_near(session.choose(QUESTION, OPTIONS), session_of(model, steps).choose(QUESTION, OPTIONS))


def test_refused_steps_change_nothing(model: GazeQwen) -> None:
    steps = made_steps(4)
    session = session_of(model, steps[:2])
    session.append(part_of(steps[2]))
    before, answer = held(session.state), session.choose(QUESTION, OPTIONS)
    bad: list[Callable[[], None]] = [
        lambda: session.append(steps[0]),
        lambda: session.append(steps[1]),
        lambda: session.append(part_of(steps[1])),
        lambda: session.extend([part_of(steps[2]), steps[2]]),
        lambda: session.extend([steps[3], steps[2]]),
        lambda: session.extend([steps[2], part_of(steps[1])]),
        lambda: session.extend([steps[2], *made_steps(1, start_s=3.0, size_px=SQUARE)]),
    ]
    for call in bad:
        with pytest.raises(InputError):
            call()
        assert same_bits(before, held(session.state))
        assert session.choose(QUESTION, OPTIONS).option_logprobs == answer.option_logprobs
    session.extend([])
    session.append(steps[2])
    assert session.newest_s == 3.0


class Broken(RuntimeError):
    """What a part of the model raises in a test."""


def breaking(call: Callable[..., Any], *, at_call: int) -> Callable[..., Any]:
    """`call`, whose call of this number does its work and then raises."""
    calls = iter(range(1, 10_000))

    def broken(*arguments: Any, **named: Any) -> Any:
        result = call(*arguments, **named)
        if next(calls) == at_call:
            raise Broken
        return result

    return broken


FAILING: dict[str, tuple[Callable[[GazeQwen], Any], str, int]] = {
    "vision tower": (lambda model: model.backbone, "encode_visual", 1),
    "feature extractor": (lambda model: model.extractor, "encode", 1),
    "resampler": (lambda model: model.resampler, "forward", 2),
    "a layer of a later forward": (lambda model: model.backbone.layers[2], "forward", 3),
    "the last forward": (lambda model: model.backbone, "decode", 5),
}
KEPT: dict[str, dict[str, Any]] = {
    "all": {},
    "a budget": {"budget_steps": 4, "position_limit": 64},
    "thinned": {"budget_tokens": 100, "policy": Gaze(tokens=3, sink_steps=1), "position_limit": 64},
    "a window": {"window": "refill", "window_s": 4.0, "budget_steps": 2},
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("failing", FAILING)
def test_an_error_halfway_leaves_the_session_as_it_was(
    model: GazeQwen, kept: str, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever raises, whenever: the same steps given again answer as if nothing had happened."""
    steps = made_steps(16)
    steps[9] = replace(steps[9], gaze_late=True)
    session, straight = (session_of(model, steps[:8], **KEPT[kept]) for _ in range(2))
    session.append(part_of(steps[8]))
    before, report, answer = held(session.state), session.report(), session.choose(QUESTION, OPTIONS)
    part, name, at_call = FAILING[failing]
    calls = at_call if kept in ("a budget", "thinned") else 1  # without a budget a chunk is one forward
    with monkeypatch.context() as patch:
        patch.setattr(part(model), name, breaking(getattr(part(model), name), at_call=calls))
        with pytest.raises(Broken):
            session.extend(steps[8:])
    assert same_bits(before, held(session.state)) and session.report() == report and session.newest_s == 8.0
    again = session.choose(QUESTION, OPTIONS)
    assert again.to_dict() == replace(answer, latency_ms=again.latency_ms).to_dict()
    for one in (session, straight):
        one.extend(steps[8:])
    assert session.report() == straight.report() and session.report().gaze_late_steps == 1
    for ours, theirs in zip(held(session.state), held(straight.state), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0.0)
    assert_near(session.choose(QUESTION, OPTIONS), straight.choose(QUESTION, OPTIONS))


def test_an_error_in_a_break_or_a_turn_leaves_the_session_as_it_was(
    model: GazeQwen, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(model, made_steps(8), budget_tokens=170)
    before, report = held(session.state), session.report()
    pieces = session.ask("What?", max_new_tokens=3, remember=True)
    next(pieces)
    for call in (lambda: list(pieces), lambda: session.extend([Break(8.0)])):
        with monkeypatch.context() as patch:
            patch.setattr(model, "_after_video", lambda state: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                call()
        assert same_bits(before, held(session.state)) and session.report() == report
    session.extend([Break(8.0), *made_steps(1, start_s=8.0)])
    assert session.report().turns_held == 1


def test_a_piece_by_piece_answer_is_about_the_moment_it_was_asked(model: GazeQwen) -> None:
    steps = made_steps(3)
    session = session_of(model, steps[:2])
    whole = session.answer(QUESTION, max_new_tokens=8)
    pieces = session.ask(QUESTION, max_new_tokens=8)
    session.append(steps[2])
    assert "".join(pieces).strip() == whole.text
    assert whole.letter is None and whole.option_logprobs == {}


# -- time --------------------------------------------------------------------------------------------------------------


def test_questions_before_what_is_known_are_refused(model: GazeQwen) -> None:
    session = StreamSession(model)
    with pytest.raises(InputError, match="at least one step"):
        session.choose(QUESTION, OPTIONS)
    steps = made_steps(2)
    session.append(steps[0])
    session.append(part_of(steps[1]))
    for at_s in (0.0, 0.9, 1.4):
        for ask in (session.answer, session.yes_no):
            with pytest.raises(FutureDataError, match=r"already holds what came up to 1\.500"):
                ask(QUESTION, at_s=at_s)
    assert session.choose(QUESTION, OPTIONS).t_s == 1.5
    assert session.choose(QUESTION, OPTIONS, at_s=1.7).t_s == 1.7
    with pytest.raises(InputError, match="question time"):
        session.choose(QUESTION, OPTIONS, at_s=float("nan"))


def test_a_window_hides_older_steps_and_says_so(model: GazeQwen) -> None:
    steps = made_steps(5)
    session = session_of(model, steps, window_s=2.0)
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.steps == 2 and answer.span_s == (3.0, 5.0) and min(answer.frame_times_s) == 3.0
    assert any("have seen 3 older ones" in warning for warning in answer.warnings)
    state = model.start()
    model.append(state, steps)
    fork = state.fork()
    fork.evict([0, 1, 2])
    expected = model.score(fork, QUESTION, OPTIONS)
    torch.testing.assert_close(scores(answer), expected, atol=1e-5, rtol=0.0)
    assert (scores(answer) - model.score(state, QUESTION, OPTIONS)).abs().max() > 1e-4
    assert session.choose(QUESTION, OPTIONS, at_s=6.5).steps == 1  # the step until 5 s is still within 2 s
    nothing = session.choose(QUESTION, OPTIONS, at_s=60.0)
    assert nothing.steps == 0 and nothing.frame_times_s == () and nothing.span_s == (60.0, 60.0)
    assert len(session.state.steps) == 5
    for window_s in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="window_s"):
            StreamSession(model, window_s=window_s)


# -- what an answer says -----------------------------------------------------------------------------------------------


def test_an_answer_names_its_evidence(model: GazeQwen, recording: Recording) -> None:
    session = StreamSession.of(model, recording, until_s=3.2)
    answer = session.choose(QUESTION, OPTIONS)
    assert float(scores(answer).exp().sum()) == pytest.approx(1)
    assert answer.text == max(answer.option_logprobs, key=lambda option: answer.option_logprobs[option])
    assert answer.question == QUESTION and answer.t_s == 3.2 and answer.model == "tiny" and answer.arm == "inject"
    assert answer.frame_times_s == pytest.approx((0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0))
    assert answer.span_s == (0.0, 3.2) and answer.steps == 4 and answer.steps_without_gaze == 0
    samples = recording.samples.until(3.2)
    assert answer.gaze_valid_fraction == pytest.approx(samples.valid.mean()) and answer.gaze_valid_fraction < 1
    assert set(answer.gaze_times_s) <= set(samples.t_s[samples.valid])
    assert len(answer.gaze_times_s) > 0.9 * samples.valid.sum()
    known = recording.fixations.until(3.2)
    assert [round(f["x_norm"], 2) for f in answer.fixations] == np.round(known.xy_norm[:, 0], 2).tolist()
    # one entry each, though some lie in two steps; an open one ends at its newest sample
    for found, start_s, stop_s in zip(answer.fixations, known.start_s, known.stop_s, strict=True):
        assert found["start_s"] == pytest.approx(start_s, abs=1e-6) and found["stop_s"] == pytest.approx(
            stop_s, abs=0.021
        )
    assert answer.open_fixations == 1
    assert answer.detector == {"detector": "ivt", "parameters": recording.parameters}
    assert all(answer.latency_ms[part] > 0 for part in ("decode", "vit", "vjepa", "resampler", "prefill", "answer"))
    assert answer.warnings == ("untrained weights: the answer means nothing",)
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False))["answer"] == answer.text


def test_an_answer_without_gaze_claims_none(model: GazeQwen, recording: Recording) -> None:
    for arm in ("none", "null", "center"):
        answer = StreamSession.of(model, recording, until_s=2.0, arm=arm).choose(QUESTION, OPTIONS)
        assert answer.arm == arm and answer.gaze_times_s == () and answer.fixations == ()
    blind = session_of(model, [step.without_gaze() for step in made_steps(2)]).choose(QUESTION, OPTIONS)
    assert blind.steps_without_gaze == 2 and np.isnan(blind.gaze_valid_fraction)
    assert "no valid gaze in anything the model saw" in blind.warnings
    lagged = StreamSession.of(model, recording, until_s=3.0, arm="lagged").choose(QUESTION, OPTIONS)
    assert lagged.steps_without_gaze == lagged.steps


def test_other_fixations_than_the_models_are_named(model: GazeQwen) -> None:
    wanted = FixationConfig("ivt", {"velocity_widths_s": 0.5, "max_gap_s": 0.075})
    other = GazeQwen(
        replace(model.config, fixations=wanted, trained="for this test"),
        vlm=model.vlm,
        tokenizer=model.tokenizer,
        extractor=model.extractor,
    )
    steps = made_steps(1)

    def warnings(detector: dict | None, arm: str = "inject") -> tuple[str, ...]:
        return session_of(other, steps, detector=detector, arm=arm).choose(QUESTION, OPTIONS).warnings

    assert warnings({"detector": "ivt", "parameters": {**wanted.parameters, "frame_aspect": 1.5}}) == ()
    assert warnings({"detector": "device", "parameters": {}}) == (
        "fixations by 'device', but the model was made for 'ivt'",
    )
    changed = {"detector": "ivt", "parameters": {**wanted.parameters, "max_gap_s": 0.1}}
    assert warnings(changed) == ("fixation parameters differ from the model's: max_gap_s",)
    assert warnings(changed, "none") == ()
    other.notes = ("half of it is made up",)
    assert warnings(None) == ("half of it is made up",)


def test_yes_or_no(model: GazeQwen) -> None:
    session = session_of(model, made_steps(2))
    answer = session.yes_no("Is the jar green?")
    expected = model.score(session.state, "Is the jar green?", prompts.YES_NO, scoring="yes_no")
    assert list(answer.option_logprobs) == ["Yes", "No"] and answer.letter is None
    torch.testing.assert_close(scores(answer), expected, atol=1e-5, rtol=0.0)
    assert answer.text == ("Yes" if expected[0] > expected[1] else "No")
    assert answer.question == "Is the jar green?" and answer.steps == 2


def test_options_are_checked_and_equal_ones_kept_apart(model: GazeQwen) -> None:
    session = session_of(model, made_steps(1))
    for options in ((), ("one",), tuple(map(str, range(27))), ("a", " ")):
        with pytest.raises(InputError, match="options"):
            session.choose(QUESTION, options)
    with pytest.raises(ConfigError, match="scoring"):
        session.choose(QUESTION, OPTIONS, scoring="coin")  # type: ignore[arg-type]
    assert list(session.choose(QUESTION, ("box", "jar", "box")).option_logprobs) == ["A. box", "jar", "C. box"]
    assert list(session.choose(QUESTION, ("A. box", "B. jar")).option_logprobs) == ["box", "jar"]
    with pytest.raises(InputError, match="question"):
        session.choose("  ", OPTIONS)


def test_a_damaged_recording_ends_the_stream_with_its_error(model: GazeQwen, tmp_path: Path) -> None:
    steps = made_steps(2)

    def broken():
        yield from steps
        raise InputError("clip.mp4", expected="readable video data", found="damage")

    session = StreamSession(model)
    with pytest.raises(InputError, match="damage"):
        session.extend(broken())


def test_the_lagged_arm_asks_for_lagged_steps(model: GazeQwen) -> None:
    with pytest.raises(ConfigError, match="5 s late"):
        StreamSession(model, arm="lagged")
    assert StreamSession(model, arm="lagged", gaze_lag_s=5.0).arm.name == "lagged"
    with pytest.raises(ConfigError, match="0 s late"):
        StreamSession(model, gaze_lag_s=5.0)


# -- many questions in one pass ----------------------------------------------------------------------------------------


def passed(session: StreamSession, recording: Recording, times_s: list[float]) -> list[Answer]:
    """An answer at each time, in one pass."""
    features = session.model.config.features
    return [
        session.choose(QUESTION, OPTIONS)
        for _ in session.follow(recording.steps_for(times_s, session.model.config.fps, vjepa_fps=features.fps))
    ]


def test_a_question_at_a_cut_is_the_clip_that_ends_there(model: GazeQwen, recording: Recording) -> None:
    times_s = [0.0, 1.2, 2.4, 2.4, 2.6, 5.0]
    answers = passed(StreamSession(model), recording, times_s)
    assert [answer.t_s for answer in answers] == times_s
    for answer in answers:
        alone = StreamSession.of(model, recording, until_s=answer.t_s).choose(QUESTION, OPTIONS)
        assert_near(answer, alone)
        assert (answer.frame_times_s, answer.gaze_times_s, answer.fixations, answer.steps) == (
            alone.frame_times_s,
            alone.gaze_times_s,
            alone.fixations,
            alone.steps,
        )
        assert answer.evicted_steps == 0
    assert answers[2].option_logprobs == answers[3].option_logprobs


def test_what_is_left_to_ask_changes_no_bit_of_an_answer(model: GazeQwen, recording: Recording) -> None:
    times_s = [1.2, 2.4, 4.7]
    answers = passed(StreamSession(model), recording, times_s)
    session = StreamSession(model)
    steps = recording.steps_for(times_s, model.config.fps, vjepa_fps=model.config.features.fps)
    late = [session.choose(QUESTION, OPTIONS) for cut in session.follow(steps) if cut.t_s == 4.7]
    assert late[0].option_logprobs == answers[2].option_logprobs


@settings(max_examples=4, deadline=None)
@given(cut_s=st.floats(0.4, 3.2))
def test_no_answer_sees_what_comes_after_it(recording: Recording, cut_s: float) -> None:
    model, times_s = moved_tiny(), [cut_s / 2, cut_s, 3.5]
    samples = recording.samples
    later = samples.t_s[:, None] > cut_s
    other = GazeSamples.build(samples.t_s, np.where(later, 1 - samples.xy_norm, samples.xy_norm), valid=samples.valid)
    changed = Recording(recording.path, GazeRecording(other, None, recording.path, "made"))
    read_at = recordings.read_at

    def other_frames(*arguments, **options):
        for row, frame in read_at(*arguments, **options):
            image = frame.image if frame.time_s <= cut_s + 1e-6 else 255 - frame.image
            yield row, Frame(frame.time_s, frame.duration_s, image)

    ours = passed(StreamSession(model), recording, times_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recordings, "read_at", other_frames)
        theirs = passed(StreamSession(model), changed, times_s)
    for a, b in zip(ours[:2], theirs[:2], strict=True):
        assert a.option_logprobs == b.option_logprobs and a.gaze_times_s == b.gaze_times_s
    assert ours[2].option_logprobs != theirs[2].option_logprobs


def test_cuts_out_of_place_are_refused(model: GazeQwen) -> None:
    steps = made_steps(3)
    session = session_of(model, steps[:2])
    with pytest.raises(FutureDataError, match=r"1\.500"):
        session.at(Cut(1.5, None))
    with pytest.raises(InputError, match="partial step after 2"):
        session.at(Cut(2.5, steps[2]))
    with pytest.raises(InputError, match="partial step after 2"):
        session.at(Cut(2.2, part_of(steps[2])))
    session.at(Cut(2.7, part_of(steps[2])))
    assert session.choose(QUESTION, OPTIONS).t_s == 2.7
    assert session.choose(QUESTION, OPTIONS, at_s=2.9).t_s == 2.9
    session.append(steps[2])
    assert session.choose(QUESTION, OPTIONS).t_s == 3.0


def test_questions_of_one_moment_share_their_work(model: GazeQwen, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = made_steps(4)
    session = session_of(model, steps[:3])
    session.at(Cut(3.5, part_of(steps[3])))
    encoded: list[int] = []
    frozen = model.frozen
    monkeypatch.setattr(
        model, "frozen", lambda steps, **options: (encoded.append(len(steps)), frozen(steps, **options))[1]
    )
    first, again = session.choose(QUESTION, OPTIONS), session.choose(QUESTION, OPTIONS)
    windowed = session.choose(QUESTION, OPTIONS, window_s=2.0)
    assert encoded == [1]
    assert first.option_logprobs == again.option_logprobs != windowed.option_logprobs
    assert again.latency_ms["vit"] == first.latency_ms["vit"] == windowed.latency_ms["vit"] > 0


# -- windows and budgets -----------------------------------------------------------------------------------------------


def test_a_question_has_a_window_of_its_own(model: GazeQwen) -> None:
    steps = made_steps(5)
    session = session_of(model, steps)
    whole, windowed = session.choose(QUESTION, OPTIONS), session.choose(QUESTION, OPTIONS, window_s=2.0)
    assert (whole.steps, whole.evicted_steps) == (5, 0) and (windowed.steps, windowed.evicted_steps) == (2, 3)
    assert_near(windowed, session_of(model, steps, window_s=2.0).choose(QUESTION, OPTIONS))
    narrow = session_of(model, steps, window_s=2.0)
    assert_near(narrow.choose(QUESTION, OPTIONS, window_s=None), whole)
    assert (
        narrow.yes_no(QUESTION, window_s=1.0).steps
        == narrow.answer(QUESTION, window_s=1.0, max_new_tokens=1).steps
        == 1
    )
    with pytest.raises(ConfigError, match="window_s"):
        session.choose(QUESTION, OPTIONS, window_s=0.0)


def test_a_refilled_window_is_a_stream_that_starts_there(model: GazeQwen) -> None:
    steps = made_steps(6)
    for arm in ("none", "inject"):
        refilled = session_of(model, steps[:5], window_s=3.0, window="refill", arm=arm)
        refilled.at(Cut(5.5, part_of(steps[5])))
        answer = refilled.choose(QUESTION, OPTIONS)
        whole = model.frozen(steps[:5], arm=arm)
        window = model.new_window() if arm == "inject" else None
        for step in steps[:5]:
            if window is None:
                break
            window.push(step.vjepa_frames, step.vjepa_times_s)
        tail = model.frozen([part_of(steps[5])], arm=arm, window=window)
        state = model.start(arm=arm)
        model.append(state, [*steps[2:5], part_of(steps[5])], frozen=Frozen.cat([whole[2:5], tail]))
        torch.testing.assert_close(scores(answer), model.score(state, QUESTION, OPTIONS), atol=1e-5, rtol=0.0)
        assert answer.steps == 4 and answer.span_s == (2.0, 5.5) and answer.evicted_steps == 0
        fresh = session_of(model, [*steps[2:5], part_of(steps[5])], arm=arm).choose(QUESTION, OPTIONS, at_s=5.5)
        evicted = session_of(model, steps[:5], arm=arm)
        evicted.at(Cut(5.5, part_of(steps[5])))
        survivors = evicted.choose(QUESTION, OPTIONS, window_s=3.0)
        assert survivors.frame_times_s == answer.frame_times_s
        assert (scores(survivors) - scores(answer)).abs().max() > 1e-5
        if arm == "none":  # V-JEPA's history is all that a refilled window keeps of the past
            assert_near(answer, fresh)
            assert not any("V-JEPA" in warning for warning in answer.warnings)
        else:
            assert (scores(answer) - scores(fresh)).abs().max() > 1e-5
            assert "V-JEPA features of the window's first 1 s saw frames before it" in answer.warnings


def test_a_refilled_window_has_its_breaks(model: GazeQwen) -> None:
    """Also one at its very end, and the break that a pause longer than the positions left makes by itself."""
    steps = [*made_steps(14), *made_steps(3, start_s=300.0)]
    items = [*steps[:3], Break(3.0), *steps[3:11], Break(11.0), Break(11.0), *steps[11:], Break(303.0)]
    options: dict[str, Any] = {"arm": "none", "position_limit": 200}
    for window_s, first, inside in ((301.0, 2, items[2:]), (293.0, 10, items[11:]), (292.0, 11, items[14:])):
        refilled = StreamSession(model, window="refill", window_s=301.0, **options)
        refilled.extend(items)
        refilled.at(Cut(303.0, None))
        straight = StreamSession(model, **options)
        straight.extend(inside)
        answer = refilled.choose(QUESTION, OPTIONS, window_s=window_s)
        assert answer.steps == len(steps) - first
        assert_near(answer, straight.choose(QUESTION, OPTIONS))
    assert len(refilled._memory._ends_s) <= 4


def test_a_window_is_refilled_where_steps_are_held_in_part(model: GazeQwen) -> None:
    steps = made_steps(5)
    session = session_of(
        model, steps, window_s=60.0, window="refill", budget_tokens=90, policy=Gaze(tokens=4), arm="none"
    )
    assert session.state.thinned_steps == 2 and not session.state.evicted
    answer = session.choose(QUESTION, OPTIONS)
    assert_near(answer, session_of(model, steps, arm="none").choose(QUESTION, OPTIONS))
    assert answer.steps == 5 and not any("only some tokens" in warning for warning in answer.warnings)
    thinned = session.choose(QUESTION, OPTIONS, window_s=None)
    assert "of 2 older steps only some tokens are held" in thinned.warnings


def test_only_the_first_seconds_of_a_refilled_window_know_what_came_before(model: GazeQwen) -> None:
    steps, features = made_steps(6), model.config.features
    reach = (
        -(-features.window_frames // len(steps[0].vjepa_times_s)) - 1
    )  # steps whose window reaches into the one before
    whole, fresh = model.frozen(steps), model.frozen(steps[2:])
    assert whole.features is not None and fresh.features is not None
    torch.testing.assert_close(whole.visual[2:], fresh.visual, atol=1e-5, rtol=0.0)
    differ = (whole.features[2:] - fresh.features).abs().amax(dim=(1, 2, 3, 4)) > 1e-4
    assert differ.tolist() == [True] * reach + [False] * (4 - reach)


def test_refilling_keeps_what_its_window_needs(model: GazeQwen) -> None:
    with pytest.raises(ConfigError, match="needs window_s"):
        StreamSession(model, window="refill")
    with pytest.raises(ConfigError, match="'evict' or 'refill'"):
        StreamSession(model, window="fresh")  # type: ignore[arg-type]
    session = session_of(model, made_steps(8), window_s=3.0, window="refill")
    assert [step.span_s[1] for step, _ in session._memory.kept] == [6.0, 7.0, 8.0]
    assert all(step.placeholder for step, _ in session._memory.kept)
    with pytest.raises(ConfigError, match="at most 3 s"):
        session.choose(QUESTION, OPTIONS, window_s=4.0)
    assert session.choose(QUESTION, OPTIONS, window_s=None).steps == 8
    assert session.choose(QUESTION, OPTIONS, window_s=2.0).steps == 2
    early = session_of(model, made_steps(2), window_s=3.0, window="refill")
    assert_near(early.choose(QUESTION, OPTIONS), session_of(model, made_steps(2)).choose(QUESTION, OPTIONS))


def test_a_budget_bounds_what_the_stream_holds(model: GazeQwen) -> None:
    steps = made_steps(CHUNK_STEPS + 6)
    session = StreamSession(model, budget_steps=4)
    tokens = []
    for step in steps[:8]:
        session.append(step)
        tokens.append(session.state.tokens)
    assert tokens[3:] == [tokens[3]] * 5 and [record.id for record in session.state.steps] == [4, 5, 6, 7]
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.steps == 4 and answer.evicted_steps == 4 and answer.span_s == (4.0, 8.0)
    assert any("have seen 4 older ones that are no longer held" in warning for warning in answer.warnings)
    windowed = session.choose(QUESTION, OPTIONS, window_s=2.0)
    assert windowed.steps == 2 and windowed.evicted_steps == 6
    by_hand = model.start()
    for k, step in enumerate(steps[:8]):
        by_hand.evict([k - 4] if k >= 4 else [])  # before the step that needs the room comes in
        model.append(by_hand, [step])
    torch.testing.assert_close(scores(answer), model.score(by_hand, QUESTION, OPTIONS), atol=1e-5, rtol=0.0)
    extended = session_of(model, steps, budget_steps=4)
    assert len(extended.state.steps) == 4 and extended.state.tokens == tokens[3]
    refilled = session_of(model, steps, budget_steps=2, window_s=5.0, window="refill").choose(QUESTION, OPTIONS)
    assert refilled.steps == 5 and refilled.evicted_steps == 0
    with pytest.raises(ConfigError, match="budget_steps"):
        StreamSession(model, budget_steps=0)


# -- where the frozen weights' part comes from -------------------------------------------------------------------------


def test_frozen_features_from_elsewhere_change_no_bit(model: GazeQwen) -> None:
    asked: list[int] = []

    def source(steps, window: RollingWindow | None, latency_ms: dict[str, float]) -> Frozen:
        asked.append(len(steps))
        latency_ms["cache"] = latency_ms.get("cache", 0.0) + 5.0
        return model.frozen(steps, window=window)

    steps = made_steps(CHUNK_STEPS + 2)
    plain, ours = session_of(model, steps[:-1]), session_of(model, steps[:-1], frozen=source)
    for session in (plain, ours):
        session.at(Cut(CHUNK_STEPS + 1.5, part_of(steps[-1])))
    a, b = plain.choose(QUESTION, OPTIONS), ours.choose(QUESTION, OPTIONS)
    assert a.option_logprobs == b.option_logprobs and asked == [CHUNK_STEPS, 1, 1]
    assert same_bits(held(plain.state), held(ours.state))
    assert b.latency_ms["cache"] == 15.0 and b.latency_ms["vit"] == 0 and "cache" not in a.latency_ms


# -- prompts and arms --------------------------------------------------------------------------------------------------


def test_a_whole_clip_model_keeps_its_own_way(model: GazeQwen) -> None:
    official, steps = official_tiny(), made_steps(5)
    scanpath = Fixations.build([0.2, 1.4], [0.8, 4.2], [[0.2, 0.3], [0.7, 0.6]])
    session = session_of(official, steps[:4], fixations=scanpath, budget_steps=3)
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.steps == 3 and answer.span_s == (1.0, 4.0) and answer.evicted_steps == 0
    assert_near(answer, session_of(official, steps[1:4], fixations=scanpath).choose(QUESTION, OPTIONS))
    window = session_of(official, steps, fixations=scanpath).choose(QUESTION, OPTIONS, window_s=2.0)
    assert_near(window, session_of(official, steps[3:], fixations=scanpath).choose(QUESTION, OPTIONS))
    with pytest.raises(ConfigError, match="as a whole"):
        StreamSession(official, fixations=scanpath, frozen=lambda *_: model.frozen(steps))


def test_a_prompt_is_said_as_it_stands(model: GazeQwen) -> None:
    session = session_of(model, made_steps(2))
    prompt = prompts.choice_prompt(QUESTION, OPTIONS)
    usual = session.choose(QUESTION, OPTIONS)
    assert session.choose("anything", OPTIONS, prompt=prompt).option_logprobs == usual.option_logprobs
    other = session.choose(QUESTION, OPTIONS, prompt="Green jar?")
    assert other.option_logprobs != usual.option_logprobs and other.question == QUESTION
    asked = prompts.yes_no_prompt("Is it green?")
    assert session.yes_no("x", prompt=asked).option_logprobs == session.yes_no("Is it green?").option_logprobs
    said = session.answer("x", prompt=prompts.open_prompt(QUESTION), max_new_tokens=4)
    assert said.text == session.answer(QUESTION, max_new_tokens=4).text
    text = session_of(model, made_steps(2), arm="text")
    x, y = made_steps(2)[0].gaze.xy_norm[0]
    told = model.question_text(text.state, "not said", OPTIONS, "letters", prompt)
    assert told.startswith("The wearer's gaze") and f"({x:.2f}, {y:.2f})" in told and told.endswith(f"\n{prompt}")


def test_the_blind_arm_takes_no_video_and_keeps_time(model: GazeQwen) -> None:
    steps = made_steps(3)
    session = session_of(model, [*steps[:2], part_of(steps[2])], arm="blind")
    answer = session.choose(QUESTION, OPTIONS)
    assert answer.t_s == 2.5 and session.newest_s == 2.0
    assert answer.steps == 0 and answer.frame_times_s == () and answer.latency_ms["vit"] == 0
    state = model.start(arm="blind")
    torch.testing.assert_close(scores(answer), model.score(state, QUESTION, OPTIONS), atol=0.0, rtol=0.0)
    assert session_of(model, steps[:1], arm="blind").choose(QUESTION, OPTIONS).option_logprobs == answer.option_logprobs
    with pytest.raises(FutureDataError):
        session.choose(QUESTION, OPTIONS, at_s=1.0)
    with pytest.raises(InputError, match="at least one step"):
        StreamSession(model, arm="blind").choose(QUESTION, OPTIONS)


def test_the_heatmap_arm_shows_where_the_wearer_looked(model: GazeQwen) -> None:
    steps = made_steps(3)
    session = session_of(model, steps[:2], arm="heatmap")
    session.at(Cut(2.5, replace(part_of(steps[2]), gaze=GazeEvents.none())))
    before = held(session.state)
    answer = session.choose(QUESTION, OPTIONS)
    plain = session_of(model, [*steps[:2], part_of(steps[2])], arm="none").choose(QUESTION, OPTIONS)
    assert answer.frame_times_s == plain.frame_times_s and answer.steps == 3
    assert (scores(answer) - scores(plain)).abs().max() > 1e-4
    state = model.start(arm="heatmap")
    model.append(state, [*steps[:2], part_of(steps[2])])
    picture = salience_frames(state.steps, (168, 84), 2.5)
    model.append_text(state, prompts.SALIENCE)
    model.append(state, [replace(steps[2], frames=picture, span_s=(2.5, 3.0), frame_times_s=np.array([2.5, 2.5]))])
    torch.testing.assert_close(scores(answer), model.score(state, QUESTION, OPTIONS), atol=1e-5, rtol=0.0)
    moved = [replace(step, gaze=replace(step.gaze, xy_norm=1 - step.gaze.xy_norm)) for step in steps[:2]]
    other = session_of(model, moved, arm="heatmap")
    other.at(Cut(2.5, part_of(steps[2])))
    assert other.choose(QUESTION, OPTIONS).option_logprobs != answer.option_logprobs
    assert same_bits(before, held(session.state))
    assert {f["start_s"] for f in answer.fixations}


def test_arms_that_zero_features_need_no_extractor(model: GazeQwen) -> None:
    without = GazeQwen(model.config, vlm=model.vlm, tokenizer=model.tokenizer, extractor=None)
    without.resampler.load_state_dict(model.resampler.state_dict())
    without.arm_weights = "no-features"
    steps = made_steps(2)
    answer = session_of(without, steps, arm="no-features").choose(QUESTION, OPTIONS)
    assert answer.latency_ms["vjepa"] == 0
    ours = model.frozen(steps)
    assert ours.features is not None
    zeroed = Frozen(ours.visual, torch.zeros_like(ours.features), ours.h, ours.w)
    state = model.start()
    model.append(state, steps, frozen=zeroed)
    torch.testing.assert_close(scores(answer), model.score(state, QUESTION, OPTIONS), atol=1e-5, rtol=0.0)
    with pytest.raises(ConfigError, match="needs V-JEPA features"):
        without.frozen(steps)
