"""`gazeqwen demo`: what it writes can be read again, its text fits a terminal, and a second run replaces the first."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from gazeqwen.errors import InputError
from gazeqwen.tiny.scene import render
from stream.demo import run_demo, write_gaze_csv
from stream.gaze_check import check
from stream.recording import open_recording
from stream.video import iter_frames, probe

SIZE_PX = (160, 120)
DURATION_S = 6.0
FILES = {"clip.mp4", "gaze.csv", "annotated.mp4", "answers.json"}


def demo(out: Path, seed: int = 7) -> tuple[dict[str, Any], str]:
    lines: list[str] = []
    summary = run_demo(out, seed=seed, say=lines.append, duration_s=DURATION_S, size_px=SIZE_PX)
    return summary, "\n".join(lines)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    out = tmp_path_factory.mktemp("demo") / "made" / "by the demo"
    return (out, *demo(out))


def test_it_leaves_a_clip_its_gaze_an_annotated_video_and_the_answers(ran: tuple[Path, dict[str, Any], str]) -> None:
    out, summary, _ = ran
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("clip.mp4", "annotated.mp4"):
        info = probe(out / name)
        assert (info.width_px, info.height_px) == SIZE_PX and info.duration_s == pytest.approx(DURATION_S)
    clip, drawn = (next(iter_frames(out / name, start_s=1.0)).image for name in ("clip.mp4", "annotated.mp4"))
    assert abs(clip.astype(int) - drawn.astype(int)).max() > 100
    assert json.loads((out / "answers.json").read_text()) == json.loads(json.dumps(summary))


def test_its_gaze_belongs_to_its_clip(ran: tuple[Path, dict[str, Any], str]) -> None:
    out, summary, _ = ran
    recording = open_recording(out / "clip.mp4", out / "gaze.csv")
    assert recording.gaze is not None
    assert summary["suspicions"] == sorted(check(recording.path, recording.gaze).kinds) == []
    assert recording.samples.rate_hz == pytest.approx(200, rel=0.01)


def test_each_question_is_answered_with_gaze_and_without(ran: tuple[Path, dict[str, Any], str]) -> None:
    _, summary, _ = ran
    assert len(summary["questions"]) == 3
    for asked in summary["questions"]:
        with_gaze, without = asked["with_gaze"], asked["without_gaze"]
        assert (with_gaze["arm"], without["arm"]) == ("inject", "none")
        assert with_gaze["question"] == without["question"] and with_gaze["t_s"] == without["t_s"]
        assert with_gaze["frame_times_s"] == without["frame_times_s"]
        assert asked["truth"] in with_gaze["option_logprobs"]
        for answer in (with_gaze, without):
            assert sum(map(math.exp, answer["option_logprobs"].values())) == pytest.approx(1, abs=1e-5)
        assert without["gaze_times_s"] == [] and max(with_gaze["gaze_times_s"], default=0.0) <= with_gaze["t_s"]
    assert any(asked["with_gaze"]["gaze_times_s"] for asked in summary["questions"])


def test_untrained_weights_are_named_and_answer_alike(ran: tuple[Path, dict[str, Any], str]) -> None:
    _, summary, text = ran
    if summary["trained"] != "untrained":
        pytest.skip("the embedded weights are trained: this holds for untrained ones")
    assert "the answers mean nothing" in text
    for asked in summary["questions"]:
        with_gaze, without = asked["with_gaze"]["option_logprobs"], asked["without_gaze"]["option_logprobs"]
        assert with_gaze == without  # the resampler begins at zero


def test_its_text_fits_80_columns_and_shows_every_answer(ran: tuple[Path, dict[str, Any], str]) -> None:
    out, summary, text = ran
    assert [line for line in text.replace(str(out), "demo_out").splitlines() if len(line) > 80] == []
    for asked in summary["questions"]:
        assert f"true: {asked['truth']}" in text
        assert all(option in text for option in asked["with_gaze"]["option_logprobs"])


def test_it_runs_again_in_the_same_folder_and_touches_nothing_else(
    ran: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = (tmp_path / "clip.mp4", tmp_path / "gaze.csv")
    first[0].write_text("from before")
    first[1].write_text("from before")
    summary, _ = demo(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    out, before, _ = ran
    assert (tmp_path / "gaze.csv").read_bytes() == (out / "gaze.csv").read_bytes()
    for one, other in zip(summary["questions"], before["questions"], strict=True):
        assert one["with_gaze"]["option_logprobs"] == pytest.approx(other["with_gaze"]["option_logprobs"], abs=1e-5)


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="a folder to write to"):
        demo(tmp_path / "out")


def test_the_gaze_file_is_the_scenes_gaze(tmp_path: Path) -> None:
    gaze = render(3, duration_s=4.0, size_px=SIZE_PX).gaze
    video_free = open_gaze(write_gaze_csv(tmp_path / "gaze.csv", gaze))
    assert len(video_free) == len(gaze) and (~gaze.valid).any()
    assert video_free.valid.tolist() == gaze.valid.tolist()
    assert video_free.t_s == pytest.approx(gaze.t_s, abs=1e-6)
    assert video_free.xy_norm[gaze.valid] == pytest.approx(gaze.xy_norm[gaze.valid], abs=1e-6)


def open_gaze(path: Path) -> Any:
    from stream.trackers import read_gaze

    return read_gaze(path).samples
