"""The train speed suite: its rows and parts, that both sides compute the same, and that it notices when they don't.

No test asserts a time: what is measured depends on the machine, how it is measured and reported does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch

from benchmarks.speed import __main__ as cli
from benchmarks.speed import processes, train, train_batches
from benchmarks.speed.core import Options
from benchmarks.speed.results import Result, as_json, table_row
from benchmarks.speed.streamgaze_data import Videos, make_data
from benchmarks.speed.train import QUICK_VIDEO, TRAIN, VIDEO, require_same, score
from benchmarks.speed.train_projection import projected_7b_training
from benchmarks.speed.train_sides import LOSS, Ours, Parts, Published, forms_of
from gazeqwen.errors import InputError
from gazeqwen.train.examples import TrainingVideo
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.losses import build_loss

CPU = torch.device("cpu")
FORM = {"name", "value", "unit", "ratio", "parts", "repeats", "note", "bound", "ok"}
WEIGHT = "resampler.to_hidden.weight"
QUICK = Options(1, True, CPU)
NAMES = [m.name for m in TRAIN if m.name != "train_memory" or processes.STATUS.is_file()]  # Linux tells it
Rows = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, str]:
    """Rows of a quick run of the whole suite by name, and what it printed."""
    out = tmp_path_factory.mktemp("speed") / "speed.json"
    train_batches._measured.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_batches, "in_own_process", train_batches.measure)  # an interpreter takes seconds to start
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: printed.append(" ".join(map(str, words))))
        only = [word for name in NAMES for word in ("--only", name)]
        command = ["train", "--quick", "--check", "--repeats", "2", "--device", "cpu", "--json", str(out)]
        assert cli.main([*command, *only]) == 0
    train_batches._measured.cache_clear()
    content = json.loads(out.read_text())
    assert content["suite"] == "train" and content["failed"] == {}
    return {row["name"]: row for row in content["results"]}, "\n".join(printed)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ours, Published, TrainingVideo]:
    """Both sides on the quick video, and what ours makes of it."""
    folder = tmp_path_factory.mktemp("sides")
    data = make_data(folder / "data", QUICK_VIDEO)
    ours = Ours(data, folder, 1, CPU)
    return ours, Published(data, folder, CPU), ours.video(0)


# --- the suite -------------------------------------------------------------------------------------------------------


def test_every_bound_is_stated() -> None:
    assert {m.name: None if m.bound is None else str(m.bound) for m in TRAIN} == {
        "cached_vs_published_loop": "ratio >= 10",
        "shared_prefix_vs_separate": None,
        "train_batches": None,
        "train_memory": None,
    }


def test_rows_have_the_suites_form_and_fit_the_screen(measured: tuple[Rows, str]) -> None:
    rows, printed = measured
    assert list(rows) == NAMES
    for row in rows.values():
        assert set(row) == FORM and row["ok"] is None  # times are not judged when quick
        assert row["value"] > 0 and row["ratio"] > 0 and row["note"]
        assert all(part in printed for part in row["parts"])
    assert all(len(line) <= 80 for line in printed.splitlines())
    for measurement in TRAIN:
        row = as_json(Result(measurement.name, 1.2345678e14, "MB", 0.00012345678), measurement.bound, judged=True)
        assert len(table_row({**row, "ok": False})) <= 80


def test_parts_add_up_to_each_side_and_both_have_theirs(measured: tuple[Rows, str]) -> None:
    row = measured[0]["cached_vs_published_loop"]
    parts, questions = row["parts"], QUICK_VIDEO.questions
    shared = {"packing", "resampler", "decoder", "backward"}
    ours = {name.removeprefix("ours_"): value for name, value in parts.items() if name.startswith("ours_")}
    theirs = {
        name.removeprefix("published_"): value
        for name, value in parts.items()
        if name.startswith("published_") and name != "published_q_per_s"
    }
    assert set(ours) == {*shared, "cache", "optimizer", "other"}
    assert set(theirs) == {*shared, "decode", "vit", "vjepa"}  # five questions don't fill a step of eight
    assert sum(ours.values()) == pytest.approx(questions / row["value"])
    assert sum(theirs.values()) == pytest.approx(questions / parts["published_q_per_s"])
    assert row["ratio"] == pytest.approx(sum(theirs.values()) / sum(ours.values()))
    first = sum(theirs.values()) / (sum(ours.values()) + parts["fill_cache"])
    assert parts["ratio_first_epoch"] == pytest.approx(first)
    assert parts["ratio_to_two_frames"] == pytest.approx(row["value"] / parts["two_frames_q_per_s"])


def test_tokens_of_a_shared_prefix_are_put_through_once(
    measured: tuple[Rows, str], sides: tuple[Ours, Published, TrainingVideo]
) -> None:
    row, (_, _, video) = measured[0]["shared_prefix_vs_separate"], sides
    area = 16  # video tokens of a step at 112 x 112
    again = area * (sum(ask.stop for ask in video.asks) - max(ask.stop for ask in video.asks))
    more = row["parts"]["separate_tokens"] - row["parts"]["shared_tokens"]
    assert again < more < again + 20 * len(video.asks)  # and the opening's words, less padding
    forward, backward = row["parts"]["shared_forward"], row["parts"]["shared_backward"]
    assert forward + backward == pytest.approx(len(video.asks) / row["value"])


def test_batches_go_over_the_same_questions(measured: tuple[Rows, str]) -> None:
    speed, memory = (measured[0][name]["parts"] for name in ("train_batches", "train_memory"))
    one, two = (speed[f"q_per_s_{size}_videos"] * speed[f"step_s_{size}_videos"] for size in (1, 2))
    assert (one, two) == (pytest.approx(5), pytest.approx(10))
    assert memory["peak_mb_2_videos"] > memory["added_mb_2_videos"] >= 0


# --- what is compared ------------------------------------------------------------------------------------------------


def test_every_question_of_the_full_run_sees_its_whole_past() -> None:
    """A present question sees 60 s back: in a longer video its clip would begin later than the shared prefix."""
    assert VIDEO.length_s <= VIDEO.present_s and QUICK_VIDEO.length_s <= QUICK_VIDEO.present_s


def test_a_question_has_the_same_loss_and_gradient_on_both_sides(sides: tuple[Ours, Published, TrainingVideo]) -> None:
    ours, theirs, video = sides
    clips = [theirs.clip(asked) for asked in theirs.asked]
    assert [clip.asks[0].question.id for clip in clips] == [ask.question.id for ask in video.asks]
    assert [clip.asks[0].stop for clip in clips] == [ask.stop for ask in video.asks]
    loss = build_loss(LOSS)
    whole, n = loss(ours.packed([video], [forms_of(video)]), video.asks)
    assert n == len(clips) == 5
    alone = [loss(theirs.packed([clip], [forms_of(clip)]), clip.asks)[0] for clip in clips]
    summed = torch.stack(alone).sum()
    torch.testing.assert_close(whole, summed, rtol=0, atol=1e-5)
    whole.backward()
    summed.backward()
    gradients = [packed.model.trainable_parameters()[WEIGHT].grad for packed in (ours.packed, theirs.packed)]
    assert gradients[0] is not None and float(gradients[0].abs().max()) > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_other_features_are_noticed(sides: tuple[Ours, Published, TrainingVideo]) -> None:
    """V-JEPA's features in another order, and nothing else, are more than is allowed."""
    ours, theirs, video = sides
    last = video.only([len(video.asks) - 1])
    require_same("x", last, score(ours.packed, last), score(theirs.packed, theirs.clip(theirs.asked[-1])))
    assert last.frozen is not None and last.frozen.features is not None
    last.frozen.features.copy_(last.frozen.features.flip(0))
    with pytest.raises(InputError, match="log-probabilities equal within"):
        require_same("x", last, score(ours.packed, last), score(theirs.packed, theirs.clip(theirs.asked[-1])))


@pytest.mark.parametrize("name", ["cached_vs_published_loop", "shared_prefix_vs_separate"])
def test_sides_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    exact = train.score

    def other(packed: PackedForward, video: TrainingVideo) -> list[torch.Tensor]:
        found = exact(packed, video)
        return found if len(found) == 1 else [-row for row in found]

    monkeypatch.setattr(train, "score", other)
    with pytest.raises(InputError, match="log-probabilities equal within"):
        getattr(train, name)(name, QUICK)


def test_two_frames_are_the_clips_first_and_last(sides: tuple[Ours, Published, TrainingVideo], tmp_path: Path) -> None:
    data = sides[0].source.dataset.root
    theirs = Published(data, tmp_path, CPU, two_frames=True)
    for asked in theirs.asked:
        clip = theirs.clip(asked)
        (step,) = clip.steps
        assert clip.asks[0].stop == 1 and clip.asks[0].tail is None
        assert step.frame_times_s.tolist() == [0.0, asked.question.t_s - 1 / QUICK_VIDEO.fps]
        assert step.vjepa_times_s.tolist() == step.frame_times_s.tolist()


def test_the_published_loop_steps_its_optimiser_every_eight_questions(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", Videos(9.0, questions=9, fps=4.0))
    theirs = Published(data, tmp_path, CPU)
    theirs.timed()
    weight = theirs.model.trainable_parameters()[WEIGHT]
    before = weight.detach().clone()
    theirs.learn(theirs.asked[:7])
    assert torch.equal(before, weight)
    theirs.learn(theirs.asked[7:])
    assert not torch.equal(before, weight)
    assert theirs.parts.seconds["optimizer"] > 0


def test_parts_count_what_is_inside_once() -> None:
    parts = Parts()

    class Thing:
        def work(self) -> int:
            sleep(0.02)
            return 3

    thing = Thing()
    parts.watch(thing, "work", "inner")
    with parts.part("outer"):
        sleep(0.01)
        assert thing.work() == 3
    assert parts.seconds["inner"] >= 0.02 and 0.01 <= parts.seconds["outer"] < 0.02 + parts.seconds["inner"]
    assert parts.total() == sum(parts.seconds.values())
    with pytest.raises(ZeroDivisionError), parts.part("outer"):
        raise ZeroDivisionError
    assert parts.named("side", runs=2)["side_inner"] == parts.seconds["inner"] / 2


# --- memory ----------------------------------------------------------------------------------------------------------


def test_memory_and_speed_compare_the_sizes_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        size: {"questions": 80.0, "steps": 16 / size, "seconds": 8.0, "loaded_mb": 400.0, "peak_mb": 500.0 + size}
        for size in train_batches.BATCHES
    }
    monkeypatch.setattr(train_batches, "_runs", lambda options: found)
    whole = Options(7, False, CPU)
    speed = train_batches.train_batches("train_batches", whole)
    assert speed.value == 10.0 and speed.ratio == 1.0 and speed.parts["step_s_4_videos"] == 2.0
    if processes.STATUS.is_file():
        memory = train_batches.train_memory("train_memory", whole)
        assert memory.ratio == pytest.approx(516 / 501) and memory.parts["added_mb_16_videos"] == 116.0


def test_memory_is_not_measured_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "STATUS", tmp_path / "status")
    assert cli.main(["train", "--quick", "--device", "cpu", "--only", "train_memory"]) == 2
    assert "train_memory: not measured" in capsys.readouterr().err
    assert train_batches.peak_mb(CPU) == 0.0


def test_a_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(train_batches, "_SCRIPT", "raise SystemExit('no such model')")
    with pytest.raises(InputError, match="no such model"):
        train_batches.in_own_process(tmp_path, tmp_path, 1, CPU)


@pytest.mark.soak
def test_a_process_of_its_own_measures(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", QUICK_VIDEO)
    found = train_batches.in_own_process(data, tmp_path, 1, CPU)
    assert found["questions"] == 5 and found["steps"] == 1
    assert found["peak_mb"] > found["loaded_mb"] > 50 or not processes.STATUS.is_file()


# --- the projection --------------------------------------------------------------------------------------------------


def test_one_question_shares_nothing_at_7b() -> None:
    found = projected_7b_training([60])
    assert found["shared"] == pytest.approx(1.0, rel=1e-9)
    assert found["ratio"] * found["lm_share"] == pytest.approx(1.0, rel=1e-9)
    assert found["ratio_3_epochs"] < found["ratio"]


def test_sharing_gains_with_questions_and_with_length() -> None:
    every = [2 * (k + 1) for k in range(30)]
    found = projected_7b_training(every)
    assert 1 < projected_7b_training(every[::3])["shared"] < found["shared"] < found["ratio"]
    assert found["shared"] < projected_7b_training([2 * stop for stop in every])["shared"] < 15.5
    # Two frames are a step's tokens and a question's, whatever the video's length.
    assert projected_7b_training([2 * stop for stop in every])["two_frames"] < found["two_frames"]
