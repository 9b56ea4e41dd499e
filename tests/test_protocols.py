"""What each protocol shows a model and asks it: windows, frames, moments of gaze, words, and every arm."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stream.recording
from benchmarks.streamgaze import official_rules, protocols
from benchmarks.streamgaze.clip_protocols import Official, StreamGaze, clip_rows
from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.mini import write_mini
from benchmarks.streamgaze.protocols import ModelProtocol, Row, answered, build_protocol
from benchmarks.streamgaze.records import read_run
from benchmarks.streamgaze.run import run
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.work import Settings
from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import ARMS
from gazeqwen.errors import ConfigError
from stream.session import StreamSession
from stream.video import frame_times
from tests.made_steps import moved_tiny, official_tiny
from tests.streamgaze_data import FPS, make_dataset
from tests.test_checkpoint import official_by_hand

PRESENT_S = 3.0
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = make_dataset(
        tmp_path_factory.mktemp("data"), videos=2, seconds=7.0, points=2, windows={"present": PRESENT_S}
    )
    return Dataset.open(folder)


def protocol_of(data: Dataset, name: str, *, model: GazeQwen | None = None, **options: Any) -> Any:
    return build_protocol(data, Settings(protocol=name, **options), model or moved_tiny(), {}, None)


def row_of(data: Dataset, name: str, sample: Sample, **options: Any) -> Row:
    (row,) = answered(protocol_of(data, name, **options), sample.video, [sample])
    assert row["status"] == "ok", row["reason"]
    return row


def sample_of(data: Dataset, task: str, video: int = 0) -> Sample:
    return next(sample for sample in data.samples((task,)) if sample.video == f"clip-{video}.mp4")


def values(row: Row) -> list[float]:
    return list(row["logprobs"].values())


# -- all tasks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["stream", "official", "streamgaze"])
def test_all_ten_tasks_run_and_see_their_windows(
    data: Dataset, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "MAX_NEW_TOKENS", 4)  # what an untrained model says is long
    run(data, tmp_path / "run", Settings(protocol=protocol), model=moved_tiny())
    found = read_run(tmp_path / "run")
    assert not found.missing
    rows = found.predictions.values()
    assert {row["task"] for row in rows} == set(TASKS)
    for row in rows:
        assert row["status"] == "ok"
        assert row["has_gaze"]
        assert row["scoring"] == ("generate" if protocol == "streamgaze" else "letters")
        labels = prompts.YES_NO if TASKS[row["task"]].proactive else prompts.letters(4)
        if protocol == "streamgaze":
            assert row["prediction"] in ("", *labels)
            assert row["logprobs"] == {}
        else:
            assert tuple(row["logprobs"]) == labels
        start_s = row["t_s"] - PRESENT_S if TASKS[row["task"]].group == "present" else 0.0
        # A step of a stream is evicted as a whole, when its end lies before the window.
        assert min(row["frame_times_s"]) >= start_s - (1.0 if protocol == "stream" else 0.0)
        assert max(row["frame_times_s"]) <= row["t_s"]
        assert max(row["gaze_times_s"], default=0.0) <= row["t_s"]
        if protocol != "stream":
            assert row["span_s"] == [max(start_s, 0.0), row["t_s"]]


# -- stream ------------------------------------------------------------------------------------------------------------


def test_a_past_question_on_the_stream_is_that_of_a_fresh_prefill(data: Dataset) -> None:
    for task in ("SR", "GSM"):
        sample = sample_of(data, task)
        fresh = StreamSession.of(moved_tiny(), data.recording(sample.video), until_s=sample.t_s)
        alone = fresh.choose(sample.question, sample.options)
        row = row_of(data, "stream", sample)
        torch.testing.assert_close(torch.tensor(values(row)), torch.tensor([*alone.option_logprobs.values()]), **CLOSE)
        assert row["frame_times_s"] == list(alone.frame_times_s)
        assert row["evicted_steps"] == 0


def test_one_decode_a_video_and_nothing_after_the_last_question(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[float]] = []
    read_at = stream.recording.read_at

    def counted(path: Any, times_s: Any, **options: Any) -> Any:
        passes.append([])
        for row, frame in read_at(path, times_s, **options):
            passes[-1].append(frame.time_s)
            yield row, frame

    monkeypatch.setattr(stream.recording, "read_at", counted)
    video = [sample for sample in data.samples() if sample.video == "clip-0.mp4"]
    rows = list(answered(protocol_of(data, "stream"), "clip-0.mp4", video))
    assert len(rows) == len(video) == 12
    assert len(passes) == 1
    clocks = [row["latency_ms"] for row in rows]  # each the time since the row before
    assert min(ms for clock in clocks for ms in clock.values()) >= 0
    assert sorted(clocks, key=lambda clock: clock["decode"])[-1]["decode"] < sum(clock["decode"] for clock in clocks)
    assert sum(clock["decode"] == 0 for clock in clocks) == len(rows) - len({row["t_s"] for row in rows})
    last_s = max(sample.t_s for sample in video)
    assert last_s - 0.5 < passes[0][-1] <= last_s + 1 / FPS
    early = min(video, key=lambda sample: sample.t_s)
    list(answered(protocol_of(data, "stream"), "clip-0.mp4", [early]))
    assert passes[1][-1] <= early.t_s + 1.0  # the step under way at most


def test_hidden_steps_are_counted_and_refilling_differs(data: Dataset) -> None:
    sample = sample_of(data, "OI-H")
    evicted, refilled = (row_of(data, "stream", sample, window=window) for window in ("evict", "refill"))
    assert evicted["frame_times_s"] == refilled["frame_times_s"]
    assert (evicted["evicted_steps"] > 0, refilled["evicted_steps"]) == (True, 0)
    assert values(evicted) != values(refilled)
    past = sample_of(data, "NFI")
    assert values(row_of(data, "stream", past, window="refill")) == values(row_of(data, "stream", past))


def test_the_stream_holds_no_more_frames_than_it_may(data: Dataset) -> None:
    sample = sample_of(data, "SR", video=1)
    free, held = row_of(data, "stream", sample), row_of(data, "stream", sample, max_frames=4)
    assert len(free["frame_times_s"]) > 6
    assert len(held["frame_times_s"]) <= 4 + 1  # and what comes after the last whole step
    assert held["evicted_steps"] == free["steps"] - held["steps"] > 0


def test_cached_features_change_nothing(data: Dataset, tmp_path: Path) -> None:
    chosen = Settings(tasks=("OTP", "OAR"))
    rows = []
    for name, cache_folder in (("none", None), ("first", tmp_path / "cache"), ("second", tmp_path / "cache")):
        run(data, tmp_path / name, chosen, model=moved_tiny(), cache=cache_folder)
        rows.append(read_run(tmp_path / name).predictions)
    sessions = (tmp_path / "second" / "sessions.jsonl").read_text().splitlines()
    assert json.loads(sessions[-1])["cache"]["steps_computed"] == 0
    for found in rows[1:]:
        for name, row in found.items():
            assert {**row, "latency_ms": 0} == {**rows[0][name], "latency_ms": 0}


def test_a_converted_checkpoint_is_not_streamed(data: Dataset) -> None:
    with pytest.raises(ConfigError, match="--protocol official"):
        protocol_of(data, "stream", model=official_tiny())


# -- official ----------------------------------------------------------------------------------------------------------


def test_official_shows_the_published_frames_and_asks_in_its_words(data: Dataset) -> None:
    protocol = protocol_of(data, "official")
    for task in ("SR", "OAR", "OAA"):
        sample = sample_of(data, task)
        times_s = frame_times(data.video_path(sample.video))
        (row,) = answered(protocol, sample.video, [sample])
        start_s = max(0.0, sample.t_s - PRESENT_S) if task == "OAR" else 0.0
        shown = times_s[official_rules.official_frame_rows(times_s, start_s, sample.t_s)]
        assert row["frame_times_s"] == shown.tolist()
        assert len(shown) <= 8
        words = protocol.wording(sample)
        assert words.prompt is None  # the session's own words are the published ones
        if task == "OAA":
            assert words.question.endswith("should the alert be triggered?")
            assert words.options == ("A. Yes", "B. No")


def test_official_looks_gaze_up_at_nominal_times(data: Dataset) -> None:
    """Whatever its frames show: step k of a clip up to 30 s has the fixations active at start + 2 k."""
    protocol = protocol_of(data, "official", gaze_input="fixations")
    assert isinstance(protocol, Official)
    recording = data.recording("clip-1.mp4", gaze_input="fixations")
    fixations = recording.fixations
    steps, clock = protocol.steps(recording, frame_times(recording.path), 1.0, 7.0)
    assert [step.frame_times_s[0] for step in steps] == [1.0, 2.0, 3.0]  # a second a step in M-RoPE
    assert clock.end_s == 4.0
    assert clock.shown_s[-1] == pytest.approx(7.0 - 1 / FPS)
    for k, step in enumerate(steps):
        nominal_s = 1.0 + 2 * k
        active = (fixations.start_s <= nominal_s) & (fixations.stop_s >= nominal_s)
        assert step.gaze.xy_norm.tolist() == fixations.xy_norm[active].tolist()
    drawn, _ = protocol_of(data, "official", gaze_input="fixations", arm="marker").steps(
        recording, frame_times(recording.path), 1.0, 7.0
    )
    last_s = 7.0 - 1 / FPS  # an arm that draws takes the gaze of the frame that it draws on
    active = (fixations.start_s <= last_s) & (fixations.stop_s >= last_s)
    on_last = drawn[-1].gaze.frame_t_s == drawn[-1].frame_times_s[1]
    assert drawn[-1].gaze.xy_norm[on_last].tolist() == fixations.xy_norm[active].tolist()


def test_official_draws_no_marker_on_a_frame_without_gaze(data: Dataset) -> None:
    protocol = protocol_of(data, "official", gaze_input="fixations", arm="marker")
    recording = data.recording("clip-1.mp4", gaze_input="fixations")
    times_s, source = frame_times(recording.path), recording.fixations
    shown_s = protocol.steps(recording, times_s, 1.0, 7.0)[1].shown_s
    for alone in shown_s[:2]:  # of the first step's two frames only this one has gaze, in a fixation of any length
        only = source.take(np.arange(len(source)) == 0)
        recording.fixations = replace(only, start_s=np.array([alone - 0.01]), stop_s=np.array([alone + 0.6]))
        step = protocol.steps(recording, times_s, 1.0, 7.0)[0][0]
        changed = (ARMS["marker"].prepare(step).frames != step.frames).any(axis=(1, 2, 3))
        active = [alone - 0.01 <= time_s <= alone + 0.6 for time_s in shown_s[:2]]
        assert changed.tolist() == active
        assert sum(active) == 1


def test_official_on_a_converted_checkpoint_is_the_published_evaluation(data: Dataset) -> None:
    sample = sample_of(data, "NFI", video=1)
    row = row_of(data, "official", sample, model=official_tiny(), gaze_input="fixations")
    recording = data.recording(sample.video, gaze_input="fixations")
    protocol = protocol_of(data, "official", model=official_tiny(), gaze_input="fixations")
    steps, _ = protocol.steps(recording, frame_times(recording.path), 0.0, sample.t_s)
    text = prompts.choice_prompt(sample.question, sample.options)
    logits = official_by_hand(official_tiny(), steps, recording.fixations, text)
    expected = torch.log_softmax(logits[prompts.letter_ids(official_tiny().tokenizer, 4)], dim=0)
    torch.testing.assert_close(torch.tensor(values(row)), expected, **CLOSE)
    assert steps[0].frame_times_s[0] == 0.0
    assert steps[-1].span_s[1] == sample.t_s
    assert values(row) != values(row_of(data, "official", sample, model=official_tiny(), arm="none"))


def test_standalone_wording_and_its_tie(data: Dataset) -> None:
    shared, alone = (protocol_of(data, "official", proactive_wording=wording) for wording in ("shared", "standalone"))
    sample = sample_of(data, "GTA")
    assert "monitoring a user's gaze" in alone.wording(sample).question
    tie = {"Yes": np.log(0.5), "No": np.log(0.5)}
    assert (shared.best(tie), alone.best(tie)) == ("Yes", "No")
    assert alone.best({"Yes": -0.1, "No": -2.0}) == "Yes"
    assert alone.best({"A": -1.0, "B": -1.0}) == "A"
    assert row_of(data, "official", sample, proactive_wording="standalone")["prediction"] in prompts.YES_NO


def test_a_points_own_clip_is_taken_and_never_reaches_past_it(data: Dataset) -> None:
    sample = sample_of(data, "OAA")
    for given, clip_s in (([1, 2], [1.0, 2.0]), ([1, 99], [1.0, sample.t_s]), ([2, 2], [2.0, min(3.0, sample.t_s)])):
        changed = replace(sample, extra={"input_video_clip": given})
        row = row_of(data, "official", changed)
        assert row["span_s"] == clip_s
        assert max(row["frame_times_s"]) <= clip_s[1]
    (row,) = answered(protocol_of(data, "official"), sample.video, [replace(sample, extra={"input_video_clip": "all"})])
    assert row["status"] == "failed"
    assert "input_video_clip" in row["reason"]


# -- streamgaze --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start_s", "stop_s", "fps", "count", "first_s", "last_s"),
    [
        (0.0, 30.0, 1.0, 30, 0.0, 29.75),  # up to 30 s: one a second, from the first frame to the last before the end
        (40.0, 100.0, 0.5, 30, 40.0, 99.75),
        (0.0, 300.0, 0.2, 60, 0.0, 299.75),
        (0.0, 400.0, 0.1, 40, 0.0, 399.75),
        (0.0, 2.0, 1.0, 4, 0.0, 1.75),  # four at least
        (0.0, 0.5, 1.0, 2, 0.0, 0.25),  # as many as there are, and even
    ],
)
def test_streamgaze_spreads_its_wrappers_frames(
    start_s: float, stop_s: float, fps: float, count: int, first_s: float, last_s: float
) -> None:
    times_s = np.arange(0, 500, 0.25)
    shown = times_s[clip_rows(times_s, start_s, stop_s)]
    assert len(shown) == count
    assert (shown[0], shown[-1]) == (first_s, last_s)
    assert (np.diff(shown) > 0).all()


def test_streamgaze_asks_in_its_own_words_and_names_the_overlay_only_where_it_is_drawn(data: Dataset) -> None:
    for arm, told in (("inject", False), ("marker", True)):
        protocol = protocol_of(data, "streamgaze", arm=arm)
        for task in ("OTP", "OAA"):
            prompt = protocol.wording(sample_of(data, task)).prompt
            assert ("green dot" in prompt) == told
            assert ("Answer only with" in prompt) == (task == "OAA")


def test_vjepa_sees_only_what_its_window_needs(data: Dataset) -> None:
    protocol = protocol_of(data, "streamgaze")
    assert isinstance(protocol, StreamGaze)
    features = protocol.model.config.features
    recording = data.recording("clip-1.mp4")
    steps = list(protocol.steps(recording, frame_times(recording.path), 0.0, 7.0)[0])
    assert len(steps) == 3
    before_s = -1.0
    for step in steps:
        end_s = float(step.frame_times_s[-1])
        span_s = features.window_frames / features.fps
        assert step.vjepa_times_s[-1] == end_s
        extra = step.vjepa_times_s[~np.isin(step.vjepa_times_s, step.frame_times_s)]
        assert (extra > max(end_s - span_s, before_s)).all()
        assert len(step.vjepa_times_s) >= min(features.window_frames, (end_s - max(before_s, 0)) * FPS)
        before_s = end_s
    plain = list(protocol_of(data, "streamgaze", arm="none").steps(recording, frame_times(recording.path), 0.0, 7.0)[0])
    for with_vjepa, without in zip(steps, plain, strict=True):
        assert np.array_equal(with_vjepa.frames, without.frames)
        assert len(without.vjepa_times_s) == 2


def test_streamgaze_reads_letters_when_asked_to(data: Dataset) -> None:
    row = row_of(data, "streamgaze", sample_of(data, "OAA"), scoring="letters")
    assert tuple(row["logprobs"]) == prompts.YES_NO
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "MAX_NEW_TOKENS", 4)
        row = row_of(data, "stream", sample_of(data, "OAA"), scoring="generate")
    assert row["logprobs"] == {}
    assert row["prediction"] in ("", *prompts.YES_NO)


def test_generated_answers_are_read_by_the_protocol_s_own_parser(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = sample_of(data, "OI-E")
    monkeypatch.setattr(GazeQwen, "generate", lambda *_, **__: iter(["It's a C"]))
    assert row_of(data, "streamgaze", sample)["prediction"] == "A"  # its script takes the article for a letter
    assert row_of(data, "stream", sample, scoring="generate")["prediction"] == "C"


# -- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["stream", "official", "streamgaze"])
def test_a_question_at_the_start_and_one_after_the_end(data: Dataset, protocol: str) -> None:
    sample = sample_of(data, "SR")
    for t_s, last_s in ((0.0, 0.0), (99.0, 7.0 - 1 / FPS)):
        asked = replace(sample, t_s=t_s)
        row = row_of(data, protocol, asked, scoring="letters")
        assert max(row["frame_times_s"]) == pytest.approx(last_s)
        assert any("the video ends at 7 s" in warning for warning in row["warnings"]) == (t_s > 7)


def test_a_recording_without_gaze_is_answered_and_counted(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", videos=1, seconds=5.0, points=1, gaze=False, fixations=False)
    for protocol in ("stream", "official", "streamgaze"):
        chosen = Settings(protocol=protocol, scoring="letters", tasks=("OI-E", "GTA"))
        run(folder, tmp_path / protocol, chosen, model=moved_tiny())
        for row in read_run(tmp_path / protocol).predictions.values():
            assert row["status"] == "ok"
            assert row["has_gaze"] is False
            assert row["gaze_times_s"] == []


# -- arms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["stream", "official", "streamgaze"])
def test_every_arm_of_a_model_answers(data: Dataset, protocol: str) -> None:
    samples = [sample_of(data, "OAR"), *([sample_of(data, "GTA")] if protocol == "stream" else [])]
    for sample in (replace(sample, t_s=6.5) for sample in samples):  # late enough for gaze that comes 5 s late
        found: dict[str, list[float]] = {}
        for arm in (arm for arm in ARMS.values() if not arm.solver and arm.weights != "own"):
            row = row_of(data, protocol, sample, arm=arm.name, scoring="letters")
            assert row["arm"] == arm.name
            assert bool(row["frame_times_s"]) == arm.video
            assert row["has_gaze"]  # the recording's, whatever the arm makes of it
            found[arm.name] = values(row)
        # Every arm is an experiment of its own: no two say the same.
        assert len(set(map(tuple, found.values()))) == len(found)


@pytest.mark.parametrize("protocol", ["official", "streamgaze"])
def test_a_converted_checkpoint_answers_for_the_heatmap_arm(data: Dataset, protocol: str) -> None:
    sample = sample_of(data, "OAR")
    shown, plain = (
        row_of(data, protocol, sample, arm=arm, model=official_tiny(), scoring="letters") for arm in ("heatmap", "none")
    )
    assert shown["frame_times_s"] == plain["frame_times_s"]
    assert values(shown) != values(plain)


def test_a_model_without_vjepa_is_refused_before_there_is_a_run(data: Dataset, tmp_path: Path) -> None:
    tiny = moved_tiny()
    without = GazeQwen(tiny.config, vlm=tiny.vlm, tokenizer=tiny.tokenizer, extractor=None)
    with pytest.raises(ConfigError, match="no V-JEPA weights"):
        run(data, tmp_path / "run", Settings(tasks=("OTP",)), model=without)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("way", [("stream", "letters"), ("stream", "likelihood"), ("streamgaze", "generate")])
def test_numbers_that_are_none_are_no_answer(data: Dataset, way: tuple[str, str], monkeypatch: Any) -> None:
    """NaN compares as nothing: the first option would be taken, and sometimes be right."""
    protocol = protocol_of(data, way[0], scoring=way[1])
    logits = protocol.model.backbone.logits
    monkeypatch.setattr(protocol.model.backbone, "logits", lambda hidden: logits(hidden) * float("nan"))
    for task in ("OTP", "GTA"):
        (row,) = answered(protocol, "clip-0.mp4", [sample_of(data, task)])
        assert row["status"] == "failed"
        assert "finite logits" in row["reason"]
        assert not row["correct"]


def test_a_fingerprint_is_of_what_the_model_holds_and_not_of_where_it_lay() -> None:
    model = moved_tiny()

    def other(tokenizer: Any = model.tokenizer, **changes: Any) -> str:
        config = replace(model.config, **changes)
        made = GazeQwen(config, vlm=model.vlm, tokenizer=tokenizer, extractor=model.extractor)
        made.resampler.load_state_dict(model.resampler.state_dict())
        return protocols.fingerprint(made)

    assert other() == other(base="/mnt/a/qwen", vjepa_weights="/mnt/a/vjepa.pt") == protocols.fingerprint(model)
    assert other(fps=1.0) != other()
    taught = copy.deepcopy(model.tokenizer)
    taught.add_tokens(["gaze-word"])
    assert other(taught) != other()


def test_arms_with_weights_of_their_own_say_so(data: Dataset, tmp_path: Path) -> None:
    for arm in (arm.name for arm in ARMS.values() if arm.weights == "own"):
        with pytest.raises(ConfigError, match=arm):
            run(data, tmp_path / arm, Settings(arm=arm, tasks=("OTP",)), model="tiny")
        assert not (tmp_path / arm).exists()


def test_solvers_answer_on_the_small_world_and_nowhere_else(data: Dataset, tmp_path: Path) -> None:
    write_mini(tmp_path / "mini", videos=1, seed=3, duration_s=30.0)
    mini = Dataset.open(tmp_path / "mini")
    right = {}
    for arm in ("oracle", "oracle-no-gaze"):
        run(mini, tmp_path / arm, Settings(arm=arm))
        found = read_run(tmp_path / arm)
        assert not found.missing
        rows = found.predictions.values()
        assert all(row["status"] == "ok" and row["scoring"] == "solver" for row in rows)
        right[arm] = sum(row["correct"] for row in rows) / len(rows)
        assert found.manifest["identity"]["model"]["id"] == "solver"
    assert right["oracle"] >= max(0.5, right["oracle-no-gaze"])
    with pytest.raises(ConfigError, match="gazeqwen data mini"):
        run(data, tmp_path / "real", Settings(arm="oracle"))


def test_every_model_protocol_is_one(data: Dataset) -> None:
    for name in ("stream", "official", "streamgaze"):
        assert isinstance(protocol_of(data, name), ModelProtocol)
