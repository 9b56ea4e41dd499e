"""Training data: what a question is trained on is what the protocol `stream` asks, from files and from worlds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.streamgaze.protocols import build_protocol
from benchmarks.streamgaze.split import PARTS, make_split, read_split, split_data
from benchmarks.streamgaze.tasks import TASKS
from benchmarks.streamgaze.training import StreamGazeVideos, open_source
from benchmarks.streamgaze.work import Settings
from gazeqwen import GazeQwen
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train.examples import Ask, Form, TrainingVideo
from gazeqwen.train.forward import PackedForward
from stream import recording as recordings
from tests.made_steps import moved_tiny, official_tiny
from tests.streamgaze_data import make_dataset

WINDOW_S = 3.0
ARMS = ("inject", "lagged", "shuffled", "marker", "blind")  # the others change nothing before `GazeQwen.encode`


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return make_dataset(folder, videos=3, seconds=7.0, points=2, windows={"present": WINDOW_S})


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return moved_tiny()


def forms(asks: Sequence[Ask], scoring: Form = "letters") -> list[Form]:
    return ["yes_no" if ask.proactive else scoring for ask in asks]


def scores(model: GazeQwen, video: TrainingVideo, arm: str, scoring: Form = "letters") -> list[torch.Tensor]:
    with torch.no_grad():
        scored = PackedForward(model, arm)([video], [forms(video.asks, scoring)])
    return [one.logprobs for one in scored if one.logprobs is not None]


# -- the protocol `stream` ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_scores_are_those_of_the_protocol_stream(data: Path, model: GazeQwen, arm: str) -> None:
    source = open_source(data)
    video = source.load(1, model, arm)
    protocol = build_protocol(source.dataset, Settings(arm=arm), model, {}, None)
    samples = [sample for sample in source.dataset.samples() if sample.video == video.id]
    rows = {row["id"]: row for row in protocol.answer(video.id, samples)}
    assert sorted(rows) == sorted(ask.question.id for ask in video.asks)
    for ask, found in zip(video.asks, scores(model, video, arm), strict=True):
        expected = list(rows[ask.question.id]["logprobs"].values())
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        hidden = rows[ask.question.id]["evicted_steps"]
        assert ask.first == (hidden if arm != "blind" else ask.first)
        named = list(rows[ask.question.id]["logprobs"])
        assert named[ask.answer] == rows[ask.question.id]["answer"]


def test_likelihoods_are_those_of_the_protocol_stream(data: Path, model: GazeQwen) -> None:
    source = open_source(data, tasks=["OTP"])
    video = source.load(0, model, "inject")
    protocol = build_protocol(source.dataset, Settings(scoring="likelihood", tasks=("OTP",)), model, {}, None)
    samples = [sample for sample in source.dataset.samples(["OTP"]) if sample.video == video.id]
    rows = {row["id"]: row for row in protocol.answer(video.id, samples)}
    for ask, found in zip(video.asks, scores(model, video, "inject", "likelihood"), strict=True):
        np.testing.assert_allclose(found.numpy(), list(rows[ask.question.id]["logprobs"].values()), atol=1e-5)


def test_what_a_question_sees(data: Path, model: GazeQwen) -> None:
    source = open_source(data)
    video = source.load(2, model, "inject")
    times = [ask.question.t_s for ask in video.asks]
    assert times == sorted(times)
    assert len(video.asks) == source.counts[2] == 12  # eight questions and two alerts of two points
    assert video.frozen is not None and len(video.frozen) == len(video.steps)
    assert all(step.placeholder and not step.partial for step in video.steps)
    shortened = 0
    for ask in video.asks:
        t_s = ask.question.t_s
        assert all(step.span_s[1] <= t_s for step in video.steps[: ask.stop])
        assert all(step.span_s[1] > t_s for step in video.steps[ask.stop :])
        windowed = TASKS[ask.task].group == "present"
        outside = [step.span_s[1] <= t_s - WINDOW_S for step in video.steps[: ask.stop]]
        assert ask.first == (sum(outside) if windowed else 0)
        shortened += ask.first > 0
        assert (ask.tail is None) == (ask.tail_frozen is None)
        if ask.tail is not None:
            assert ask.tail.partial and ask.tail.placeholder and ask.tail.span_s[1] <= t_s + 1e-6
        assert ask.proactive == TASKS[ask.task].proactive
        assert ask.target == ask.question.options[ask.answer]
        assert not any(option.startswith(("A.", "B.")) for option in ask.question.options)
    assert shortened


def test_a_budget_hides_the_oldest_steps(data: Path, model: GazeQwen) -> None:
    asks = open_source(data, max_frames=4).load(0, model, "none").asks
    assert any(ask.stop > 2 for ask in asks)
    assert all(ask.stop - ask.first <= 2 for ask in asks)


def test_fewer_tasks_change_nothing_about_the_others(data: Path, model: GazeQwen) -> None:
    few = open_source(data, tasks=["SR", "GTA"])
    assert few.counts == (3, 3, 3)
    all_of_it = {ask.question.id: ask for ask in open_source(data).load(0, model, "none").asks}
    for ask in few.load(0, model, "none").asks:
        other = all_of_it[ask.question.id]
        assert (ask.question, ask.answer, ask.stop, ask.first) == (
            other.question,
            other.answer,
            other.stop,
            other.first,
        )


def test_after_the_videos_end_it_is_asked_there(tmp_path: Path, model: GazeQwen) -> None:
    folder = make_dataset(tmp_path, videos=1, seconds=5.0, points=1)
    path = folder / "qa" / "past_scene_recall.json"
    entries = json.loads(path.read_text())
    entries[0]["questions"][0]["time_stamp"] = "00:30"
    path.write_text(json.dumps(entries))
    asks = open_source(folder, tasks=["SR"]).load(0, model, "none").asks
    assert [ask.question.t_s for ask in asks] == [5.0]


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_a_second_epoch_decodes_nothing_and_changes_no_bit(
    data: Path, model: GazeQwen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(data, cache=tmp_path)
    first = source.load(0, model, "inject")

    def decoding(*_: object, **__: object) -> None:
        raise AssertionError("frames were read")

    monkeypatch.setattr(recordings, "read_at", decoding)
    for again in (source, open_source(data, cache=tmp_path)):
        for arm in ("inject", "shuffled", "none"):  # they share frames
            video = again.load(0, model, arm)
            assert video.frozen is not None and first.frozen is not None
            assert torch.equal(video.frozen.visual, first.frozen.visual)
            assert (video.frozen.features is None) == (arm == "none")
            for ask, before in zip(video.asks, first.asks, strict=True):
                if ask.tail_frozen is not None and before.tail_frozen is not None:
                    assert torch.equal(ask.tail_frozen.visual, before.tail_frozen.visual)
    assert again.cache_counts()["steps_computed"] == 0


def test_the_cache_is_the_benchmarks_own(data: Path, model: GazeQwen, tmp_path: Path) -> None:
    source = open_source(data, cache=tmp_path)
    source.load(0, model, "inject")
    protocol = build_protocol(source.dataset, Settings(), model, {}, tmp_path)
    samples = [sample for sample in source.dataset.samples() if sample.video == source.ids[0]]
    assert len(list(protocol.answer(source.ids[0], samples))) == len(samples)
    counts = protocol.counts()["cache"]
    assert counts["steps_computed"] == 0 and counts["steps_read"] > 0


def test_a_damaged_cache_file_is_made_again(data: Path, model: GazeQwen, tmp_path: Path) -> None:
    source = open_source(data, cache=tmp_path)
    first = source.load(0, model, "inject").frozen
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3] + b"bad")
    source = open_source(data, cache=tmp_path)
    again = source.load(0, model, "inject").frozen
    assert first is not None and again is not None and torch.equal(first.visual, again.visual)
    assert source.cache_counts()["damaged_files"] > 0


def test_an_arm_without_video_decodes_nothing(data: Path, model: GazeQwen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "read_at", None)
    video = open_source(data).load(0, model, "blind")
    assert video.frozen is None and video.steps


# -- what can't be used ------------------------------------------------------------------------------------------------


def test_a_missing_video_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, videos=2, seconds=4.0)
    (folder / "videos" / "original_video" / "clip-1.mp4").unlink()
    with pytest.raises(InputError, match=r"past_scene_recall.json.*16 of 32.*clip-1.mp4: missing video"):
        open_source(folder)


def test_a_damaged_video_is_an_error_that_names_it(data: Path, tmp_path: Path, model: GazeQwen) -> None:
    folder = make_dataset(tmp_path, videos=1, seconds=4.0)
    (folder / "videos" / "original_video" / "clip-0.mp4").write_bytes(b"not a video")
    source = open_source(folder)
    with pytest.raises(InputError, match=r"clip-0\.mp4") as error:
        source.load(0, model, "inject")
    assert "\n" not in str(error.value)


def test_solvers_and_published_checkpoints_have_no_training_data(data: Path, model: GazeQwen) -> None:
    source = open_source(data)
    with pytest.raises(ConfigError, match="solver"):
        source.load(0, model, "oracle")
    with pytest.raises(ConfigError, match="official"):
        source.load(0, official_tiny(), "inject")


def test_videos_without_gaze_are_told(tmp_path: Path, model: GazeQwen) -> None:
    folder = make_dataset(tmp_path, videos=2, seconds=4.0, gaze=False, fixations=False)
    source = open_source(folder)
    assert source.notes[-1] == "2 of 2 videos have no gaze"
    assert not any(step.gaze.any_valid for step in source.load(0, model, "none").steps)


# -- splits ------------------------------------------------------------------------------------------------------------


def _split(folder: Path, parts: object) -> tuple[Path, str]:
    path = folder / "split.json"
    path.write_text(json.dumps(parts))
    return path, "train"


def test_a_split_chooses_videos(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    told = split_data(data, path, seed=3)
    parts = read_split(path)
    assert (told["train"], told["validation"], told["test"], told["left_out"]) == (1, 1, 1, [])
    found: list[str] = []
    for part in PARTS:
        source = open_source(data, split=(path, part))
        assert source.ids == parts[part]
        found += source.ids
    assert sorted(found) == ["clip-0.mp4", "clip-1.mp4", "clip-2.mp4"]
    with pytest.raises(InputError, match="expected a new file"):
        split_data(data, path, seed=3)


def test_the_published_rule() -> None:
    names = [f"{k:03d}.mp4" for k in range(285)]
    expected = sorted(names)
    random.Random(42).shuffle(expected)
    split = make_split(reversed(names), seed=42)
    assert [len(split[part]) for part in PARTS] == [199, 42, 44]
    assert [name for part in PARTS for name in split[part]] == expected
    assert split != make_split(names, seed=43)


@pytest.mark.parametrize("n", range(3, 9))
def test_no_part_is_empty(n: int) -> None:
    split = make_split(map(str, range(n)), seed=0)
    assert all(split.values()) and sum(map(len, split.values())) == n


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"train": ["a.mp4"], "test": ["b.mp4", "a.mp4"]}, r"each video once, found 'a.mp4' in train and in test"),
        ({"train": ["a.mp4", "a.mp4"]}, "each video once"),
        ({"training": ["a.mp4"]}, "lists of video names"),
        ({"train": "a.mp4"}, "lists of video names"),
        ([], "lists of video names"),
        ({"train": []}, "expected videos in 'train', found none"),
        ({"train": ["clip-0.mp4", "other.mp4"]}, r"1 others in 'train', 'other.mp4' first"),
    ],
)
def test_a_split_that_can_not_be_used_is_refused(data: Path, tmp_path: Path, parts: object, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        open_source(data, split=_split(tmp_path, parts))
    assert str(tmp_path / "split.json") in str(error.value)


def test_two_videos_are_too_few_and_no_file_is_no_split(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 or more videos"):
        make_split(["a", "b", "b"], seed=0)
    with pytest.raises(InputError, match=r"none.json: .*gazeqwen data split"):
        open_source(data, split=(tmp_path / "none.json", "train"))
    with pytest.raises(InputError, match="a part of train, validation, test"):
        open_source(data, split=(_split(tmp_path, {"train": ["clip-0.mp4"]})[0], "dev"))


def test_a_video_that_is_not_there_is_left_out_of_a_split_and_named(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", videos=4, seconds=4.0, points=1)
    (folder / "videos" / "original_video" / "clip-2.mp4").unlink()
    told = split_data(folder, tmp_path / "split.json", seed=0)
    assert told["left_out"] == ["clip-2.mp4"]
    assert isinstance(open_source(folder, split=(tmp_path / "split.json", "train")), StreamGazeVideos)
