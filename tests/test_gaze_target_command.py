"""`gazeqwen gaze-target` end to end: a video and a picture, 80 columns, JSON, and one line for every bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gazeqwen.cli import main
from stream.gaze_targets import read_picture
from stream.head_boxes import read_head_boxes
from stream.target_report import report_rows
from stream.video import iter_frames, probe
from tests.made_gaze_target import FRAMES, SIZE_PX, entries, frames, write_boxes, write_recording, write_weights

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaze target ü")
    write_recording(folder)
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], folder: Path) -> Run:
    """`gazeqwen gaze-target PATH ...` with the tiny weights."""

    def call(path: object, *arguments: object, weights: object = None, backbone: object = None) -> tuple[int, str, str]:
        capfd.readouterr()
        words = ["--weights", weights or folder / "gazelle.pt", "--backbone", backbone or folder / "dinov2"]
        try:
            code = main([str(word) for word in ("gaze-target", path, *words, *arguments)])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_a_video_end_to_end(run: Run, folder: Path, tmp_path: Path) -> None:
    arguments = (
        "--boxes",
        folder / "boxes.json",
        "--smoothing",
        "ema",
        "--out",
        tmp_path / "out",
        "--json",
        "--offline",
    )
    code, out, err = run(folder / "clip.mp4", *arguments)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert out.count("\n") == 1 and report == json.loads((tmp_path / "out" / "targets.json").read_text())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["overlay.mp4", "targets.json"]
    assert (report["kind"], report["frames"], report["smoothing"]) == ("video", FRAMES, "ema")
    assert report["heads"] == {"source": "file", "path": str(folder / "boxes.json"), "tracked": True}
    assert report["frames_without_entry"] == report["frames_without_heads"] == 0 and report["size_px"] == list(SIZE_PX)
    assert [(p["track_id"], p["frames"]) for p in report["people"]] == [("1", FRAMES), ("2", FRAMES - 3)]
    assert [len(row["heads"]) for row in report["targets"]] == [1] * 3 + [2] * 9
    drawn, source = probe(tmp_path / "out" / "overlay.mp4"), probe(folder / "clip.mp4")
    assert (drawn.width_px, drawn.height_px, drawn.frames) == (source.width_px, source.height_px, FRAMES)
    times = [frame.time_s for frame in iter_frames(tmp_path / "out" / "overlay.mp4")]
    assert times == pytest.approx([row["t_s"] for row in report["targets"]], abs=1e-6)


def test_text_fits_80_columns_and_says_what_is_weak(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write_boxes(folder / "some.json", [*entries(3, names=("anna", 7)), {"t_s": 0.3, "heads": []}])
    code, out, err = run("clip.mp4", "--boxes", "some.json", "--out", "out", backbone="dinov2")
    assert code == 0 and max(map(len, out.splitlines())) <= 80, out
    told = " ".join(out.split())
    assert "frames 12, 3 without known heads, 6 with nobody" in told and "person anna 3 frames, looking inside" in told
    assert "warning: 3 of 12 frames have no head boxes within 0.5 s before them" in err
    code, out, err = run("clip.mp4")
    assert code == 0 and "scene 12 frames" in " ".join(out.split())
    assert "warning: no head boxes: asked about the scene as a whole" in err


def test_a_picture_end_to_end(run: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = run(folder / "picture.png", "--box=0.1,0.1,0.3,0.4", "--out", tmp_path, "--json")
    by_hand = json.loads(out)
    assert (code, err, by_hand["kind"]) == (0, "", "picture")
    with Image.open(tmp_path / "overlay.png") as drawn:
        assert drawn.size == SIZE_PX
    code, out, _ = run(folder / "picture.png", "--boxes", folder / "picture.json", "--json")
    assert code == 0 and json.loads(out)["targets"] == by_hand["targets"]
    picture = read_picture(folder / "picture.png")
    assert picture is not None and (picture == frames(1)[0]).all()


def test_a_picture_is_taken_upright(tmp_path: Path) -> None:
    turned = Image.fromarray(frames(1)[0])
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    picture = read_picture(tmp_path / "turned.png")
    assert picture is not None and (picture == np.rot90(frames(1)[0], -1)).all()


def test_weights_without_in_out_head_are_told(run: Run, tmp_path: Path, folder: Path) -> None:
    weights, backbone = write_weights(tmp_path, inout=False)
    code, out, err = run(folder / "picture.png", "--box=0.1,0.1,0.3,0.4", "--json", weights=weights, backbone=backbone)
    report = json.loads(out)
    assert code == 0 and not report["has_inout"] and report["people"][0]["frames_in"] is None
    assert report["targets"][0]["heads"][0]["inout_probability"] is None
    assert "warning: these weights have no in/out head" in err
    assert ("person 1", "1 frame; last at") in [(name, text[:16]) for name, text in report_rows(report)]


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("absent.mp4", (), "absent.mp4: expected a video or a picture, found no such file"),
        ("dinov2", (), "expected a video or a picture, found a folder"),
        ("gazelle.pt", (), "gazelle.pt: expected"),
        ("clip.mp4", ("--boxes", "absent.json"), "absent.json: expected a JSON file of head boxes"),
        ("clip.mp4", ("--boxes", "clip.mp4"), "no JSON"),
        (
            "clip.mp4",
            ("--boxes", "late.json"),
            "late.json: expected t_s within the video, 0 to 1.20 s, found none before",
        ),
        ("picture.png", ("--boxes", "boxes.json"), "expected one entry, for the picture picture.png, found 12"),
        ("picture.png", ("--smoothing", "ema"), "--smoothing: expected a video, found the picture"),
        ("picture.png", ("--fps", "2"), "--fps: expected a video, found the picture"),
        ("clip.mp4", ("--box", "0.1,0.1,0.3"), "expected X1,Y1,X2,Y2"),
        ("clip.mp4", ("--box", "0.3,0.1,0.1,0.4"), "head box 1: expected x_min < x_max"),
        ("clip.mp4", ("--box", "0.1,0.1,0.3,0.4", "--boxes", "boxes.json"), "not allowed with"),
        ("clip.mp4", ("--smoothing", "kalman"), "invalid choice: 'kalman'"),
        ("clip.mp4", ("--out", "boxes.json"), "boxes.json: expected a folder to write to, found a file"),
        ("clip.mp4", ("--device", "abacus"), "--device: expected cpu"),
        ("cut.png", (), "cut.png: expected a readable picture"),
        ("several.png", (), "several.png: expected one picture or a video"),
        ("empty.mp4", (), "empty.mp4: expected a video file, found an empty file"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(folder)
    write_boxes(folder / "late.json", [{"t_s": 5.0, "heads": []}])
    (folder / "cut.png").write_bytes((folder / "picture.png").read_bytes()[:200])
    (folder / "empty.mp4").write_bytes(b"")
    one, other = (Image.fromarray(frame) for frame in frames(2))
    one.save(folder / "several.png", save_all=True, append_images=[other])
    code, out, err = run(path, *arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err


def test_bad_weights_are_one_line(run: Run, folder: Path, tmp_path: Path) -> None:
    for options, said in (
        ({"weights": tmp_path / "absent.pt"}, "absent.pt: expected Gaze-LLE weights"),
        ({"weights": folder / "clip.mp4"}, "clip.mp4: expected a torch file"),
        ({"backbone": tmp_path / "absent"}, "absent: expected a DINOv2 folder or a hub id"),
        ({"backbone": folder}, f"{folder}: expected a model folder with config.json"),
    ):
        code, out, err = run(folder / "picture.png", **options)
        assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err


def test_a_video_that_breaks_off_leaves_nothing_behind(run: Run, folder: Path, tmp_path: Path) -> None:
    data = (folder / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 3 // 4])
    code, out, err = run(tmp_path / "cut.mp4", "--box=0.1,0.1,0.3,0.4", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_the_overlay_never_replaces_the_video(run: Run, folder: Path, tmp_path: Path) -> None:
    clip = tmp_path / "overlay.mp4"
    clip.write_bytes((folder / "clip.mp4").read_bytes())
    code, _, err = run(clip, "--out", tmp_path)
    assert code == 2 and "expected another file than the video" in err
    assert clip.read_bytes() == (folder / "clip.mp4").read_bytes()


def test_the_documented_form_of_head_boxes_is_read(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "gaze_target.md").read_text(encoding="utf-8")
    (tmp_path / "heads.json").write_text(page.split("```json\n")[1].split("```")[0])
    held = read_head_boxes(tmp_path / "heads.json")
    assert [[head.track_id for head in own] for own in held.heads] == [["anna", "ben"], []] and not held.tracked
