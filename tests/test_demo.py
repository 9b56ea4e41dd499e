"""`gazeqwen demo`: what it writes can be read again, its three columns differ in their gaze alone, its text fits a
terminal and says what the weights are, and a second run replaces the first."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import stream.demo
from gazeqwen.errors import InputError
from gazeqwen.question_rules import make_questions
from gazeqwen.tiny.world import USER_SEEDS, World
from gazeqwen.weight_files import ARMS as ARMS_FOLDER
from gazeqwen.weight_files import WEIGHTS
from stream.demo import ARMS, EARLIEST_S, ENLARGED, QUESTIONS, TASKS, choose_questions, run_demo
from stream.recording import Recording, open_recording
from stream.steps import Cut
from stream.trackers import read_gaze
from stream.trackers.plain_csv import gaze_csv
from stream.video import iter_frames, probe
from stream.world_recording import WorldRecording
from tests.made_steps import moved_tiny

SIZE_PX = (168, 112)
DURATION_S = 8.0
SEED = 0
FILES = {"clip.mp4", "gaze.csv", "annotated.mp4", "attention.png", "answers.json"}
STAND_IN = "small synthetic world: a stand-in of the tests, random weights that gaze moves"
Ran = tuple[Path, dict[str, Any], str]


def demo(out: Path, seed: int = SEED, **options: Any) -> tuple[dict[str, Any], str]:
    lines: list[str] = []
    summary = run_demo(out, seed=seed, say=lines.append, duration_s=DURATION_S, **options)
    return summary, "\n".join(lines)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose config calls it trained, with weights of its own for `null`."""
    model = moved_tiny()
    usual = model.config
    try:
        model.config = replace(usual, trained=STAND_IN)
        folder = model.save_pretrained(tmp_path_factory.mktemp("stand-in") / "model")
    finally:
        model.config = usual
    (folder / ARMS_FOLDER / "null").mkdir(parents=True, exist_ok=True)  # there where the embedded model ships them
    own = {name: tensor + 0.05 for name, tensor in load_file(folder / WEIGHTS).items() if name.startswith("resampler.")}
    save_file(own, folder / ARMS_FOLDER / "null" / WEIGHTS)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """With the embedded weights, whatever they are."""
    out = tmp_path_factory.mktemp("demo") / "made" / "by the demo"
    return (out, *demo(out))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Ran:
    """With the stand-in for trained weights."""
    out = tmp_path_factory.mktemp("moved")
    return (out, *demo(out, model=stand_in))


# -- the files ---------------------------------------------------------------------------------------------------------


def test_it_leaves_a_clip_its_gaze_an_annotated_video_a_picture_and_the_answers(ran: Ran) -> None:
    out, summary, _ = ran
    assert {path.name for path in out.iterdir()} == FILES
    for name, times in (("clip.mp4", 1), ("annotated.mp4", ENLARGED)):
        info = probe(out / name)
        assert (info.width_px, info.height_px) == (times * SIZE_PX[0], times * SIZE_PX[1])
        assert info.duration_s == pytest.approx(DURATION_S) and info.codec == "h264"
    clip, drawn = (next(iter_frames(out / name, start_s=1.0)).image for name in ("clip.mp4", "annotated.mp4"))
    large = clip.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
    changed = abs(large.astype(int) - drawn.astype(int)).max(axis=-1) > 60
    assert changed.any() and changed.mean() < 0.2
    assert json.loads((out / "answers.json").read_text()) == json.loads(json.dumps(summary))


def test_its_clip_and_gaze_are_those_of_the_world_as_the_model_was_taught_it(ran: Ran) -> None:
    out, summary, _ = ran
    world = World.make(SEED, duration_s=DURATION_S)
    frame = next(iter_frames(out / "clip.mp4", start_s=2.0)).image
    assert abs(frame.astype(int) - world.frame(2.0).astype(int)).mean() < 4  # but for what H.264 loses
    assert (out / "gaze.csv").read_text() == gaze_csv(world.gaze)
    recording = open_recording(out / "clip.mp4", out / "gaze.csv")
    assert recording.detector == "ivt" and summary["suspicions"] == []
    for from_file, drawn in zip(recording.steps(), WorldRecording(world).steps(), strict=True):
        np.testing.assert_array_equal(from_file.gaze.xy_norm, drawn.gaze.xy_norm)
        np.testing.assert_array_equal(from_file.frame_times_s, drawn.frame_times_s)


def test_the_gaze_file_is_the_worlds_gaze(tmp_path: Path) -> None:
    gaze = World.make(3, duration_s=5.0).gaze
    path = tmp_path / "gaze.csv"
    path.write_text(gaze_csv(gaze))
    read = read_gaze(path).samples
    assert len(read) == len(gaze) and (~gaze.valid).any()
    assert read.valid.tolist() == gaze.valid.tolist()
    assert read.t_s == pytest.approx(gaze.t_s, abs=1e-6)
    assert read.xy_norm[gaze.valid] == pytest.approx(gaze.xy_norm[gaze.valid], abs=1e-6)


# -- the questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(25))
def test_questions_are_of_different_tasks_and_spread_over_the_clip(seed: int) -> None:
    log = World.make(seed, duration_s=10.0).log
    asked = choose_questions(log, seed)
    tasks, times_s = [one.task for one in asked], [one.question.t_s for one in asked]
    assert 2 <= len(asked) <= QUESTIONS and len(set(tasks)) == len(tasks) and set(tasks) <= set(TASKS)
    assert times_s == sorted(times_s) and times_s[0] >= EARLIEST_S and times_s[-1] <= 10.0
    made = make_questions(log, rules="causal", seed=seed)
    for one in asked:
        options = one.question.options
        assert one.truth in options and one.alert == (options == ("Yes", "No")) == (one.task in ("GTA", "OAA"))
        of_text = [item for item in made if item.task == one.task and item.question == one.question.text]
        if one.alert:
            points = {point.t_s: "Yes" if point.yes else "No" for item in of_text for point in item.points}
            assert points[one.question.t_s] == one.truth
        else:
            same = [item for item in of_text if item.t_s == one.question.t_s]
            assert [item.options[item.answer or 0] for item in same] == [one.truth]
    # no task is passed over while a later one in the list is taken
    possible = [t for t in TASKS if any(late(item) for item in made if item.task == t)]
    assert set(tasks) == set(possible[:QUESTIONS])
    assert choose_questions(log, seed) == asked


def late(made: Any) -> bool:
    return any(t_s >= EARLIEST_S for t_s in ([point.t_s for point in made.points] or [made.t_s]))


def test_all_arms_see_the_same_steps_and_each_its_own_gaze(moved: Ran) -> None:
    _, summary, _ = moved
    assert summary["arms"] == {"with gaze": "inject", "no gaze": "null", "shuffled": "shuffled"}
    assert len(summary["questions"]) == QUESTIONS
    own = World.make(SEED, duration_s=DURATION_S).gaze
    donor = World.make(summary["shuffled_seed"], duration_s=DURATION_S).gaze
    for asked in summary["questions"]:
        given = [asked["answers"][name] for name in ARMS]
        assert [answer["arm"] for answer in given] == ["inject", "null", "shuffled"]
        for answer in given:
            assert sum(map(math.exp, answer["option_logprobs"].values())) == pytest.approx(1, abs=1e-5)
            assert list(answer["option_logprobs"]) == asked["options"] and asked["truth"] in asked["options"]
            assert answer["t_s"] == asked["t_s"] and max(answer["frame_times_s"]) <= asked["t_s"]
            assert answer["frame_times_s"] == given[0]["frame_times_s"]
            assert max(answer["gaze_times_s"], default=0.0) <= asked["t_s"]
        with_gaze, without, shuffled = given
        assert without["gaze_times_s"] == [] and without["fixations"] == []
        for answer, gaze in ((with_gaze, own), (shuffled, donor)):
            assert set(answer["gaze_times_s"]) <= set(np.round(gaze.t_s[gaze.valid], 6))
            assert len(answer["gaze_times_s"]) > 20
        assert with_gaze["gaze_times_s"] != shuffled["gaze_times_s"]
        assert with_gaze["fixations"] != shuffled["fixations"]
        probabilities = [tuple(answer["option_logprobs"].values()) for answer in given]
        assert len(set(probabilities)) == 3  # gaze reaches this model's answers, and `null` has weights of its own


def test_shuffled_steps_are_the_same_steps_with_the_other_worlds_gaze(
    tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {}
    decoded: list[int] = []
    answers, read = stream.demo._answers, Recording._read

    def kept(model: Any, arm: str, asked: Any, recording: Any, items: Any) -> Any:
        seen[arm] = list(items)
        return answers(model, arm, asked, recording, items)

    def counted(self: Recording, *arguments: Any, **options: Any) -> Any:
        decoded.append(not np.isinf(options.get("decode_from_s", 0.0)))
        return read(self, *arguments, **options)

    monkeypatch.setattr(stream.demo, "_answers", kept)
    monkeypatch.setattr(Recording, "_read", counted)
    summary, _ = demo(tmp_path, model=stand_in)
    assert sum(decoded) == 1  # the video is decoded for the model once
    assert seen["inject"] == seen["null"] != seen["shuffled"]
    donor = WorldRecording(World.make(summary["shuffled_seed"], duration_s=DURATION_S))
    times_s = [item.t_s for item in seen["inject"] if isinstance(item, Cut)]
    lent = donor.steps_for(times_s, decode_from_s=np.inf)
    for own, other, gaze in zip(seen["inject"], seen["shuffled"], lent, strict=True):
        steps: list[Any] = [item.tail if isinstance(item, Cut) else item for item in (own, other, gaze)]
        if steps[0] is None:
            assert steps[1] is None
            continue
        np.testing.assert_array_equal(steps[0].frames, steps[1].frames)
        assert steps[0].frames.any() and steps[0].span_s == steps[1].span_s
        np.testing.assert_array_equal(steps[1].gaze.xy_norm, steps[2].gaze.xy_norm)
        np.testing.assert_array_equal(steps[1].gaze.t_s, steps[2].gaze.t_s)


def test_without_weights_of_its_own_for_null_the_plain_backbone_has_no_gaze(ran: Ran) -> None:
    _, summary, text = ran
    if summary["trained"] != "untrained":
        pytest.skip("the embedded weights are trained: this holds for untrained ones")
    assert summary["arms"]["no gaze"] == "none" and "arm none" in text
    assert "the answers mean nothing" in text
    for asked in summary["questions"]:
        own, none, shuffled = (asked["answers"][name]["option_logprobs"] for name in ARMS)
        assert own == none == shuffled  # the resampler begins at zero


def test_options_are_compared_as_the_model_was_trained_to(tmp_path: Path, stand_in: Path) -> None:
    found = {}
    for scoring in ("letters", "likelihood"):
        model = Path(shutil.copytree(stand_in, tmp_path / f"model-{scoring}"))
        config = json.loads((model / "config.json").read_text()) | {"scoring": scoring}
        (model / "config.json").write_text(json.dumps(config))
        found[scoring], _ = demo(tmp_path / scoring, model=model)
    for one, other in zip(found["letters"]["questions"], found["likelihood"]["questions"], strict=True):
        same = one["answers"]["with gaze"]["option_logprobs"] == other["answers"]["with gaze"]["option_logprobs"]
        assert same == (one["task"] == "GTA")


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["ran", "moved"])
def test_its_text_fits_80_columns_and_shows_every_answer(which: str, request: pytest.FixtureRequest) -> None:
    out, summary, text = request.getfixturevalue(which)
    lines = text.replace(str(out), "demo_out").splitlines()
    assert [line for line in lines if len(line) > 80] == []
    words = " ".join(text.split())
    assert summary["trained"] in words
    for asked in summary["questions"]:
        assert f"at {asked['t_s']:.1f} s, {asked['task']}: {asked['question']}" in words
        first = next(
            i for i, line in enumerate(lines) if line.startswith(f"   at {asked['t_s']:.1f} s, {asked['task']}")
        )
        rows = lines[next(i for i in range(first, len(lines)) if ARMS[0] in lines[i]) + 1 :]
        given = [asked["answers"][name] for name in ARMS]
        for option, row in zip(asked["options"], rows, strict=False):
            mark, name, *numbers = row[3:4], *row[5:].split()
            assert (mark == ">") == (option == asked["truth"]) and name == option
            shares = (math.exp(answer["option_logprobs"][option]) for answer in given)
            marks = ("*" if answer["answer"] == option else "" for answer in given)
            assert numbers == [f"{share:.2f}{star}" for share, star in zip(shares, marks, strict=True)]
        verdicts = ["right" if answer["answer"] == asked["truth"] else "wrong" for answer in given]
        assert rows[len(asked["options"])].split() == verdicts
    right = ", ".join(f"{name} {summary['right'][name]}" for name in ARMS)
    assert f"Right of {len(summary['questions'])}: {right}; guessing gets {summary['right_by_chance']:.1f}" in words
    for name in ARMS:
        asked_all = summary["questions"]
        assert summary["right"][name] == sum(a["answers"][name]["answer"] == a["truth"] for a in asked_all)


def test_it_says_what_it_does_not_show_whatever_the_weights(ran: Ran, moved: Ran) -> None:
    for _, summary, text in (ran, moved):
        words = " ".join(text.split())
        assert "proves nothing" in words and "docs/embedded_model.md" in words
        assert text.index("5. What this does not show") > text.index("attention.png")
        assert len(summary["does_not_show"]) >= 4 and all(f"- {line}" in words for line in summary["does_not_show"])
    _, summary, text = moved
    assert STAND_IN in " ".join(text.split())
    assert "untrained" not in text and "mean nothing" not in text and "random weights." not in text


def test_a_clip_without_questions_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.demo, "make_questions", lambda *_, **__: [])
    summary, text = demo(tmp_path)
    assert summary["questions"] == [] and "try another --seed" in text and "proves" not in text
    assert {path.name for path in tmp_path.iterdir()} == FILES


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture_shows_steps_with_gaze_and_what_was_truly_looked_at(moved: Ran) -> None:
    out, summary, text = moved
    attention = summary["attention"]
    assert attention["grid"] == [4, 6]  # 168 x 112 pixels in cells of 28
    assert attention["latents"] == moved_tiny().config.resampler.latents
    assert len(attention["shown"]) == 4 and "4 x 6 cells" in text
    log = World.make(SEED, duration_s=DURATION_S).log
    for shown in attention["shown"]:
        assert np.shape(shown["mean"]) == (4, 6) and np.mean(shown["mean"]) == pytest.approx(1, abs=1e-4)
        middle_s = sum(shown["span_s"]) / 2
        now = [e.gazed for e in log.episodes if e.start_s <= middle_s < e.stop_s and e.gazed]
        assert set(now) <= set(shown["looked_at"])
    with Image.open(out / "attention.png") as image:
        assert image.format == "PNG" and image.width > 1000 and image.height > 1000
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


# -- again, and refused ------------------------------------------------------------------------------------------------


def test_it_runs_again_in_the_same_folder_and_touches_nothing_else(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for name in FILES:
        (tmp_path / name).write_text("from before")
    summary, text = demo(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    out, before, text_before = ran
    for name in ("clip.mp4", "gaze.csv", "attention.png"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name
    # x264's threads may share the same frames out otherwise when these are larger: the same picture, not the same bytes
    drawn, drawn_before = (next(iter_frames(folder / "annotated.mp4", start_s=3.0)).image for folder in (tmp_path, out))
    assert abs(drawn.astype(int) - drawn_before.astype(int)).mean() < 2
    for one, other in zip(summary["questions"], before["questions"], strict=True):
        for name in ARMS:
            assert one["answers"][name]["option_logprobs"] == other["answers"][name]["option_logprobs"]
    said = [text.replace(str(tmp_path), "OUT"), text_before.replace(str(out), "OUT")]
    assert said[0].splitlines()[:-1] == said[1].splitlines()[:-1]  # the last one has the seconds


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="a folder to write to"):
        demo(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("seed", [USER_SEEDS, 40_000_000])
def test_the_seeds_of_training_and_tests_are_refused(tmp_path: Path, seed: int) -> None:
    with pytest.raises(InputError, match=rf"--seed: expected a seed below 1,000,000 .* found {seed}; pass another"):
        demo(tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()


def test_the_last_of_the_users_seeds_borrows_from_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make: Callable[..., World] = World.make
    made: list[int] = []

    def counted(seed: int, **options: Any) -> World:
        made.append(seed)
        return make(seed, **options)

    monkeypatch.setattr(World, "make", counted)
    summary, _ = demo(tmp_path, seed=USER_SEEDS - 1)
    assert made == [USER_SEEDS - 1, 0] and summary["shuffled_seed"] == 0
