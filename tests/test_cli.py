"""The `gazeqwen` command as its users meet it: 80 columns, JSON that is only JSON, one-line errors with exit code 2."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gazeqwen.cli import main
from gazeqwen.tiny.scene import render
from stream.trackers.plain_csv import gaze_csv
from stream.video import iter_frames, probe, write_clip
from tests.conftest import shared_dir

SIZE_PX = (160, 120)
DURATION_S = 10.0
WIDTH = 80
OPTIONS = ("knife", "jar", "box", "spices")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`gazeqwen ...` in this process; file descriptors are captured, so that what libraries in C print counts too."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return Result(code, *capfd.readouterr())

    return call


@dataclass(frozen=True)
class Files:
    folder: Path
    video: Path
    gaze: Path

    def rewritten(
        self, name: str, change: Callable[[list[str]], list[str]], *, header: list[str] | None = None
    ) -> Path:
        """The gaze file with each row [t_s, x_norm, y_norm, valid] changed; rows without coordinates too."""
        rows = list(csv.reader(self.gaze.read_text().splitlines()))
        path = self.folder / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header or rows[0], *(change(row) for row in rows[1:])])
        return path


def scaled(text: str, factor: float, shift: float = 0.0) -> str:
    return f"{float(text) * factor + shift:.6f}" if text else ""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("recording with ünicode")
    scene = render(7, duration_s=DURATION_S, size_px=SIZE_PX)
    video = write_clip(folder / "clip 日本.mp4", (image for _, image in scene.frames()), fps=scene.fps)
    gaze = folder / "gaze é.csv"
    gaze.write_text(gaze_csv(scene.gaze), encoding="utf-8")
    return Files(folder, video, gaze)


def assert_one_line(result: Result, *parts: str) -> None:
    assert (result.code, result.out) == (2, ""), result
    assert result.err.count("\n") == 1 and result.err.endswith("\n"), result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err, result.err


def assert_narrow(text: str) -> None:
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


# --- ask -------------------------------------------------------------------------------------------------------------


def test_ask_prints_the_answer_and_what_it_rests_on_in_80_columns(run: Run, files: Files) -> None:
    result = run("ask", files.video, "--gaze", files.gaze, "-q", "Which object?", "--options", *OPTIONS, "--at", 3.3)
    assert result.code == 0
    assert_narrow(result.out)
    lines = result.out.splitlines()
    letter, answer = lines[0].split(". ")
    assert OPTIONS["ABCD".index(letter)] == answer
    shares = {line.split("%")[1].strip(): float(line.split("%")[0]) for line in lines[1:5]}
    assert set(shares) == set(OPTIONS) and max(shares, key=lambda option: shares[option]) == answer
    assert sum(shares.values()) == pytest.approx(100, abs=0.3)
    told = " ".join(" ".join(lines[5:]).split())
    for part in ("tiny (untrained), arm inject, asked at 3.30 s", "7 frames in 4 steps, 0.00 to 3.30 s", "samples ("):
        assert part in told
    assert "fixations reached the model" in told and "decode" in told
    assert "warning: untrained weights" in result.err


def test_ask_json_is_one_object_and_nothing_else(run: Run, files: Files) -> None:
    result = run("ask", files.video, "--gaze", files.gaze, "-q", "¿qué?", "--options", *OPTIONS, "--at", 3.3, "--json")
    assert result.code == 0 and result.out.count("\n") == 1
    answer = result.json
    assert answer["answer"] in OPTIONS and answer["letter"] == "ABCD"[OPTIONS.index(answer["answer"])]
    logprobs = answer["option_logprobs"]
    assert tuple(logprobs) == OPTIONS and max(logprobs, key=logprobs.get) == answer["answer"]
    assert sum(math.exp(value) for value in logprobs.values()) == pytest.approx(1, abs=1e-5)
    assert answer["frame_times_s"] == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3], abs=1e-3)
    assert answer["gaze_times_s"] and max(answer["gaze_times_s"]) <= 3.3
    assert 0 < answer["gaze_valid_fraction"] <= 1
    assert all(set(fixation) == {"start_s", "stop_s", "x_norm", "y_norm"} for fixation in answer["fixations"])
    assert answer["fixations"] and max(fixation["stop_s"] for fixation in answer["fixations"]) <= 3.3
    assert set(answer["latency_ms"]) == {"decode", "vit", "vjepa", "resampler", "prefill", "answer"}
    assert (answer["model"], answer["arm"], answer["trained"]) == ("tiny", "inject", "untrained")
    assert any("untrained" in warning for warning in answer["warnings"])
    assert "warning: untrained" in result.err


def test_ask_without_gaze_says_so_and_writes_null_for_what_is_unknown(run: Run, files: Files) -> None:
    result = run("ask", files.video, "-q", "What?", "--at", 0.6, "--max-new-tokens", 3, "--json")
    assert result.code == 0
    answer = result.json
    assert answer["gaze_valid_fraction"] is None and answer["letter"] is None and answer["option_logprobs"] == {}
    assert answer["gaze_times_s"] == answer["fixations"] == []
    assert "no valid gaze" in result.err
    text = run("ask", files.video, "-q", "What?", "--at", 0.6, "--max-new-tokens", 3)
    assert "no samples in what the model saw" in text.out


def test_ask_asks_at_the_end_of_the_last_frame_by_default(run: Run, tmp_path: Path) -> None:
    scene = render(3, duration_s=1.1, size_px=SIZE_PX)
    video = write_clip(tmp_path / "short.mp4", (image for _, image in scene.frames()), fps=10.0)
    answer = run("ask", video, "-q", "What?", "--options", "a", "b", "--json").json
    assert answer["t_s"] == pytest.approx(probe(video).duration_s) and answer["span_s"][1] == answer["t_s"]


def test_ask_uses_no_gaze_later_than_the_question(run: Run, files: Files) -> None:
    later = files.rewritten(
        "later.csv", lambda row: [*row[:1], *(("0.9", "0.9", "1") if float(row[0]) > 2 else row[1:])]
    )
    arguments = ("-q", "Which?", "--options", "a", "b", "--at", 2, "--json")
    one, other = (run("ask", files.video, "--gaze", gaze, *arguments).json for gaze in (files.gaze, later))
    for key in ("option_logprobs", "gaze_times_s", "fixations"):
        assert one[key] == other[key]


@pytest.mark.parametrize("arm", ["none", "null", "center", "lagged", "text", "marker"])
def test_ask_knows_every_arm(run: Run, files: Files, arm: str) -> None:
    answer = run(
        "ask", files.video, "--gaze", files.gaze, "-q", "x", "--options", "a", "b", "--at", 1, "--arm", arm, "--json"
    )
    assert answer.json["arm"] == arm


def test_ask_scores_by_likelihood_and_over_a_window(run: Run, files: Files) -> None:
    arguments = ("ask", files.video, "--gaze", files.gaze, "-q", "x", "--options", "a", "bowl", "--at", 4, "--json")
    plain, likely, window = (
        run(*arguments, *more).json for more in ((), ("--scoring", "likelihood"), ("--window-s", 1))
    )
    assert likely["option_logprobs"] != plain["option_logprobs"]
    assert (plain["steps"], window["steps"]) == (5, 2) and window["span_s"][0] > 2.5


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_ask_quantised_prints_no_librarys_chatter(run: Run, files: Files, quantization: str) -> None:
    result = run(
        "ask", files.video, "-q", "x", "--options", "a", "b", "--at", 0.5, "--json", "--quantization", quantization
    )
    assert result.code == 0 and set(result.json["option_logprobs"]) == {"a", "b"}
    ours = [line for line in result.err.splitlines() if line.startswith("warning: ")]
    others = [line for line in result.err.splitlines() if line not in ours and "kernels" not in line]
    assert others == []


def test_ask_on_a_real_clip_names_the_frames_and_the_gaze_it_used(run: Run) -> None:
    folder = shared_dir("fixtures", "aria_gen1_aea")
    video, gaze = folder / "derived_rgb_upright.mp4", folder / "derived_gaze_px.csv"
    result = run("ask", video, "--gaze", gaze, "--fps", 20, "-q", "What is it?", "--options", "knife", "jar", "--json")
    answer = result.json
    assert (len(answer["frame_times_s"]), answer["steps"]) == (8, 4)
    written = [float(row[0]) for row in csv.reader(gaze.read_text().splitlines()[1:])]
    assert answer["gaze_times_s"] == pytest.approx(written) and answer["gaze_valid_fraction"] == 1.0


# --- gaze check ------------------------------------------------------------------------------------------------------


def test_gaze_check_reports_and_draws(run: Run, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a long path may be wider than the terminal
    overlay = Path("new folder") / "o ü.mp4"
    result = run("gaze", "check", files.video, "--gaze", files.gaze, "--out", overlay)
    assert (result.code, result.err) == (0, "")
    assert_narrow(result.out)
    assert "nothing suspicious" in result.out and "300 frames" in result.out
    assert probe(overlay).duration_s == pytest.approx(DURATION_S)
    assert len(list(iter_frames(overlay))) == 300


def test_gaze_check_json_is_one_object(run: Run, files: Files) -> None:
    report = run("gaze", "check", files.video, "--gaze", files.gaze, "--json").json
    assert report["suspicions"] == [] and report["samples"] == 2000 and report["gaze_format"] == "plain_csv"
    empty = files.rewritten("invalid.csv", lambda row: [row[0], "", "", "0"])
    report = run("gaze", "check", files.video, "--gaze", empty, "--json").json
    assert report["valid_share"] == 0 and report["fixation_median_s"] is None


def wrong_px(row: list[str]) -> list[str]:
    return [row[0], scaled(row[1], SIZE_PX[0]), scaled(row[2], SIZE_PX[1]), row[3]]


def wrong_ms(row: list[str]) -> list[str]:
    return [scaled(row[0], 1000), *row[1:]]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("wrong_units", wrong_px),
        ("wrong_units", wrong_ms),
        ("wrong_units", lambda row: wrong_px(wrong_ms(row))),
        ("flipped_y", lambda row: [*row[:2], scaled(row[2], -1, 1), row[3]]),
        ("clock_offset", lambda row: [scaled(row[0], 1, 0.4), *row[1:]]),
        ("clock_offset", lambda row: [scaled(row[0], 1, 5000), *row[1:]]),
    ],
    ids=["pixels", "milliseconds", "both", "flipped", "late", "apart"],
)
def test_a_suspicions_remedy_works_when_it_is_copied_from_the_screen(
    run: Run, files: Files, kind: str, change: Callable[[list[str]], list[str]]
) -> None:
    wrong = files.rewritten("wrong.csv", change)
    check = ("gaze", "check", files.video, "--gaze", wrong)
    told = run(*check)
    assert f"SUSPICION     {kind}" in told.out
    assert_narrow(told.out)
    remedy = [word for line in told.out.splitlines() if line.strip().startswith("--") for word in line.split()]
    assert remedy
    mended = run(*check, *remedy)
    assert mended.code == 0 and "SUSPICION" not in mended.out and "nothing suspicious" in mended.out
    assert run(*check, *remedy, "--json").json["overlap_of_video"] > 0.9


def test_renamed_columns_are_read_by_following_the_errors(run: Run, files: Files) -> None:
    renamed = files.rewritten("renamed.csv", wrong_px, header=["frame time", "gx", "gy", "ok"])
    check = ["gaze", "check", files.video, "--gaze", renamed]
    for asked, *answer in (
        ("--columns t=NAME,x=NAME,y=NAME", "--columns", "t=frame time,x=gx,y=gy,valid=ok"),
        ("--time-unit s, ms, us or ns", "--time-unit", "s"),
        ("--gaze-offset-s", "--gaze-offset-s", "0"),
        ("--xy-unit norm or px", "--xy-unit", "px"),
        ("--y-origin 'top' or 'bottom'", "--y-origin", "top"),
    ):
        assert_one_line(run(*check), asked)
        check += answer
    result = run(*check)
    assert result.code == 0 and "nothing suspicious" in result.out


def test_fixations_without_samples_are_checked_drawn_and_answered_from(run: Run, files: Files, tmp_path: Path) -> None:
    gaze = tmp_path / "fixations.csv"
    gaze.write_text(
        "fixation_id,start_time_seconds,end_time_seconds,center_x,center_y,duration_seconds\n"
        "0,0.5,1.0,0.4,0.5,0.5\n1,2.0,2.4,0.6,0.5,0.4\n"
    )
    checked = run("gaze", "check", files.video, "--gaze", gaze, "--out", tmp_path / "o.mp4")
    assert checked.code == 0 and "2, median 450 ms (file)" in checked.out
    answer = run("ask", files.video, "--gaze", gaze, "-q", "x", "--options", "a", "b", "--at", 3, "--json").json
    assert [(f["x_norm"], f["y_norm"]) for f in answer["fixations"]] == [(0.4, 0.5), (0.6, 0.5)]
    assert "2 by file" in run("info", gaze).out


# --- info ------------------------------------------------------------------------------------------------------------


def test_info_describes_machine_video_and_gaze(run: Run, files: Files) -> None:
    for arguments, parts in (
        ((), ("torch", "transformers", "extras", "gpu")),
        ((files.video,), ("160 x 120 px", "30.000 frames a second", "10.000 s", "h264")),
        ((files.gaze,), ("plain_csv", "2000", "200.0 Hz", "read 2000")),
    ):
        result = run("info", *arguments)
        assert result.code == 0
        assert_narrow(result.out.replace(str(files.folder), ""))
        for part in parts:
            assert part in result.out
        assert isinstance(run("info", *arguments, "--json").json, dict)


def test_info_names_what_a_gaze_file_does_not_say(run: Run, files: Files) -> None:
    renamed = files.rewritten("named.csv", lambda row: row, header=["time", "gx", "gy", "valid"])
    said = ("--columns", "t=time,x=gx,y=gy", "--time-unit", "s", "--xy-unit", "norm")
    told = " ".join(run("info", renamed, *said).out.split())
    assert "not known" in told and "--gaze-offset-s" in told and "--y-origin" in told
    told = run("info", renamed, *said, "--gaze-offset-s", 0, "--y-origin", "top").out
    assert "not known" not in told and "2000" in told


@pytest.mark.parametrize(
    "parts",
    [
        ("neon_native_demo",),
        ("pupil_invisible_eyedentify3d", "gaze.csv"),
        ("tobii_g2_glassesviewer",),
        ("tobii_g3_eyedentify3d",),
        ("streamgaze_gazeqwen_demo", "OP03-R01-PastaSalad_fixation_filtered.csv"),
    ],
    ids=lambda parts: parts[0],
)
def test_info_summarises_real_recordings(run: Run, parts: tuple[str, ...]) -> None:
    if parts[0] == "neon_native_demo":
        pytest.importorskip("pupil_labs.neon_recording", reason="the extra 'neon' is not installed")
    folder = shared_dir("fixtures")
    result = run("info", folder.joinpath(*parts))
    assert result.code == 0 and "rows" in result.out
    assert_narrow(result.out.replace(str(folder), ""))


# --- bad input -------------------------------------------------------------------------------------------------------

ASK = ("ask", "{video}", "--gaze", "{gaze}", "-q", "x")
BAD = {
    "no command": ((), "COMMAND"),
    "unknown command": (("foo",), "invalid choice"),
    "no question": (ASK[:-2], "--question"),
    "abbreviated flag": ((*ASK[:-2], "--quest", "x"), "--question"),
    "no such video": (("ask", "nothere.mp4", "-q", "x"), "nothere.mp4"),
    "folder as video": (("ask", "{folder}", "-q", "x"), "found a folder"),
    "text as video": (("ask", "{text}.mp4", "-q", "x"), "text.mp4"),
    "empty video": (("ask", "{empty}.mp4", "-q", "x"), "0 bytes"),
    "no such gaze": (("ask", "{video}", "--gaze", "no.csv", "-q", "x"), "no.csv"),
    "empty gaze": (("ask", "{video}", "--gaze", "{empty}.csv", "-q", "x"), "an empty file"),
    "binary gaze": (("ask", "{video}", "--gaze", "{video}", "-q", "x"), "--format"),
    "folder as gaze": (("ask", "{video}", "--gaze", "{folder}", "-q", "x"), "none of their files"),
    "ego4d without origin": (("ask", "{video}", "--gaze", "{ego4d}", "-q", "x"), "--y-origin"),
    "pixels under norm names": ((*ASK, "--xy-unit", "px"), "--columns x=x_norm,y=y_norm"),
    "px of another format": (("ask", "{video}", "--gaze", "{ego4d}", "-q", "x", "--xy-unit", "px"), "--xy-unit"),
    "unknown format": ((*ASK, "--format", "foo"), "--format: expected one of"),
    "gaze flag without gaze": (("ask", "{video}", "-q", "x", "--y-origin", "top"), "--gaze"),
    "calibration of a plain csv": ((*ASK, "--calibration", "foo"), "--calibration"),
    "huge offset": ((*ASK, "--gaze-offset-s", "1e300"), "offset_s"),
    "infinite offset": ((*ASK, "--gaze-offset-s", "inf"), "expected seconds"),
    "size without pixels": ((*ASK, "--frame-size", "0x5"), "WIDTHxHEIGHT"),
    "confidence above 1": ((*ASK, "--min-confidence", "2"), "0 to 1"),
    "role twice": ((*ASK, "--columns", "t=1,t=2"), "once"),
    "unknown role": ((*ASK, "--columns", "q=1"), "roles"),
    "unknown column": ((*ASK, "--columns", "x=nope"), "'nope'"),
    "negative time": ((*ASK, "--at", "-1"), "0 to 10.000 s"),
    "time after the end": ((*ASK, "--at", "10.5"), "change --at"),
    "time not a number": ((*ASK, "--at", "nan"), "expected seconds"),
    "time in words": ((*ASK, "--at", "noon"), "'noon'"),
    "fps 0": ((*ASK, "--fps", "0"), "above 0"),
    "fps 1e9": ((*ASK, "--fps", "1e9"), "--fps: expected"),
    "fps nan": ((*ASK, "--fps", "nan"), "above 0"),
    "no window": ((*ASK, "--window-s", "0"), "above 0"),
    "one option": ((*ASK, "--options", "a"), "2 to 26"),
    "27 options": ((*ASK, "--options", *map(str, range(27))), "found 27"),
    "empty question": ((*ASK[:-1], "  "), "--question"),
    "question not UTF-8": ((*ASK[:-1], "\udcff"), "UTF-8"),
    "unknown arm": ((*ASK, "--arm", "foo"), "inject, none"),
    "unknown detector": ((*ASK, "--detector", "foo"), "'foo'"),
    "absent device fixations": ((*ASK, "--detector", "device"), "fixations"),
    "absent file fixations": ((*ASK, "--detector", "file"), "fixations"),
    "unknown detector parameter": ((*ASK, "--detector-parameters", "foo=1"), "no parameter foo"),
    "unknown model": ((*ASK, "--model", "nonsense"), "nonsense"),
    "hub model offline": ((*ASK, "--model", "gazeqwen-test/none", "--offline"), "local hub cache"),
    "folder without a model": ((*ASK, "--model", "{folder}"), "config.json"),
    "model config no JSON": ((*ASK, "--model", "{broken}"), "config.json"),
    "unknown device": ((*ASK, "--device", "foo"), "--device"),
    "device without data": ((*ASK, "--device", "meta"), "--device"),
    "no tokens": ((*ASK, "--max-new-tokens", "0"), "at least 1"),
    "overlay over the video": (
        ("gaze", "check", "{video}", "--gaze", "{gaze}", "--out", "{video}"),
        "the video itself",
    ),
    "overlay of another kind": (("gaze", "check", "{video}", "--gaze", "{gaze}", "--out", "{folder}/o.txt"), ".mp4"),
    "overlay below a file": (("gaze", "check", "{video}", "--gaze", "{gaze}", "--out", "{gaze}/o.mp4"), "written"),
    "check without gaze": (("gaze", "check", "{video}"), "--gaze"),
    "info of nothing": (("info", "nothere"), "nothing at this path"),
    "info of two things": (("info", "{video}", "--model", "tiny"), "not both"),
    "info of a text": (("info", "{text}.mp4"), "text.mp4"),
    "gaze flag for a video": (("info", "{video}", "--time-unit", "s"), "found a video"),
    "gaze flag for nothing": (("info", "--time-unit", "s"), "--time-unit"),
    "info of an unknown model": (("info", "--model", "foo/bar"), "Qwen/Qwen2.5-VL-7B-Instruct"),
    "info of a broken model": (("info", "--model", "{broken}"), "config.json"),
    "info of no model": (("info", "--model", ""), "empty name"),
    "convert nothing": (("convert", "vjepa", "nothere.pt", "--out", "{folder}/x.safetensors"), "nothere.pt"),
    "convert a text": (("convert", "vjepa", "{text}.mp4", "--out", "{folder}/x.safetensors"), "text.mp4"),
    "convert no checkpoint": (
        ("convert", "official", "{text}.mp4", "--base", "b", "--vjepa", "{text}.mp4", "--out", "{folder}/o"),
        "text.mp4",
    ),
    "demo into a file": (("demo", "--out", "{gaze}"), "found a file"),
    "demo seed": (("demo", "--seed", "-1"), "at least 0"),
    "app": (("app",), "not part of this release"),
    "app with flags": (("app", "--port", "3"), "--port"),
}


@pytest.fixture(scope="module")
def places(files: Files) -> dict[str, str]:
    """What the commands of BAD name in braces."""
    folder = files.folder / "bad"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken" / "config.json").write_text("{")
    for suffix in (".mp4", ".csv"):
        (folder / f"empty{suffix}").touch()
    (folder / "text.mp4").write_text("hello\n")
    (folder / "ego4d.csv").write_text(
        "component_idx,component_timestamp_s,canonical_timestamp_s,norm_pos_x,norm_pos_y,confidence\n"
        "0,0.0,0.0,0.5,0.5,0.9\n0,0.1,0.1,0.5,0.5,0.9\n"
    )
    return {
        "video": str(files.video),
        "gaze": str(files.gaze),
        "folder": str(folder),
        "ego4d": str(folder / "ego4d.csv"),
        **{name: str(folder / name) for name in ("broken", "empty", "text")},
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_says_what_to_do(run: Run, places: dict[str, str], case: str) -> None:
    arguments, part = BAD[case]
    assert_one_line(run(*(argument.format(**places) for argument in arguments)), part)


def test_a_model_that_can_not_be_had_is_said_before_the_hub_is_waited_for(run: Run, files: Files) -> None:
    result = run("ask", files.video, "-q", "x", "--model", "gazeqwen-test/none")  # conftest sets HF_HUB_OFFLINE
    assert_one_line(result, "gazeqwen-test/none")


def test_help_and_version(run: Run) -> None:
    for arguments in (
        (),
        ("ask",),
        ("gaze",),
        ("gaze", "check"),
        ("info",),
        ("convert",),
        ("convert", "official"),
        ("convert", "vjepa"),
        ("demo",),
        ("app",),
    ):
        result = run(*arguments, "--help")
        assert (result.code, result.err) == (0, "") and "usage: gazeqwen" in result.out
        assert_narrow(result.out)
    assert run("--version").out.startswith("gazeqwen ")


# --- as a process ----------------------------------------------------------------------------------------------------


def process(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gazeqwen", *arguments]
    return subprocess.run(command, capture_output=options.pop("capture_output", True), timeout=120, **options)


def test_python_m_gazeqwen_and_paths_that_are_no_utf8(tmp_path: Path) -> None:
    found = process("info", os.fsencode(tmp_path) + b"/\xff.csv")
    assert (found.returncode, found.stdout) == (2, b"") and found.stderr.count(b"\n") == 1


def test_a_reader_that_leaves_gets_no_traceback(files: Files) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        left = process("info", str(files.gaze), capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert left.returncode == 141 and left.stderr == b""


def test_a_closed_stdout_is_no_error() -> None:
    script = 'exec "$0" -m gazeqwen info >&-'
    closed = subprocess.run(["/bin/sh", "-c", script, sys.executable], stderr=subprocess.PIPE, timeout=120)
    assert closed.returncode == 0 and b"Traceback" not in closed.stderr
