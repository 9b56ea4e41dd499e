"""The seven readers of trackers_examples_b: counts, clocks, origins, missing gaze, refusals and damage."""

from __future__ import annotations

import gzip
import json
import math
import random
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gazeqwen.errors import GazeQwenError, InputError, MissingExtraError
from stream.trackers import aria, ego4d, egoexolearn, egtea, holoassist, tobii_g2, tobii_g3
from stream.trackers.base import GazeRecording, ReadOptions
from tests.conftest import shared_dir
from tests.trackers_examples_b import EXAMPLES, MORE, OPTIONS, ROWS, _path

FORMATS = {
    module.FORMAT.name: module.FORMAT for module in (tobii_g2, tobii_g3, aria, ego4d, egtea, egoexolearn, holoassist)
}
LAYOUTS = [*EXAMPLES.items(), *MORE.items()]
LAYOUT_IDS = [*EXAMPLES, *(f"{name}_2" for name in MORE)]


def linear_projector(first_frame_us: int | None = None) -> aria.AriaProjector:
    """A camera 1000 x 800 stored sideways, linear in the angles, that sees 0.35 rad to each side."""

    def project(yaw: float, pitch: float, depth_m: float) -> tuple[float, float] | None:
        assert depth_m in (1.0, 1.5), "the example's depth, or the stated default"
        return (500 + 1000 * yaw, 400 + 800 * pitch) if abs(yaw) < 0.35 else None

    return aria.AriaProjector(project, (1000, 800), first_frame_us)


def read(name: str, path: Path, **options: object) -> GazeRecording:
    chosen = ReadOptions(**{**OPTIONS[name], **options})  # pyright: ignore[reportArgumentType]
    if name == "aria":
        return aria.read_with_projector(path, chosen, linear_projector())
    return FORMATS[name].read(path, chosen)


def assert_rows_conserved(recording: GazeRecording) -> None:
    counts = recording.samples.counts
    others = sum(value for key, value in counts.items() if key.startswith("rows_") and key != "rows_read")
    assert counts["rows_read"] == len(recording.samples) + others, counts


# -- all formats ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=LAYOUT_IDS)
def test_every_row_becomes_a_sample_and_missing_gaze_is_nan(name, make, tmp_path) -> None:
    recording = read(name, make(tmp_path))
    samples = recording.samples
    assert (len(samples), samples.counts["rows_read"]) == (ROWS, ROWS)
    assert_rows_conserved(recording)
    assert (np.diff(samples.t_s) > 0).all()
    assert np.isnan(samples.xy_norm[~samples.valid]).all()
    assert samples.in_frame[samples.valid].all()
    assert name == "egtea" or not samples.valid.all()
    assert recording.format == samples.source == name


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=LAYOUT_IDS)
def test_recognised_by_content_by_no_other_reader_and_not_by_its_name(name, make, tmp_path) -> None:
    path = make(tmp_path)
    assert [other for other, item in FORMATS.items() if item.sniff(path)] == [name]
    if path.is_file():
        renamed = path.rename(tmp_path / "renamed.bin")
        assert FORMATS[name].sniff(renamed)
        renamed.write_bytes(b"nothing of the kind\n")
        assert not FORMATS[name].sniff(renamed)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=LAYOUT_IDS)
def test_offset_moves_every_time_and_nothing_else(name, make, tmp_path) -> None:
    path = make(tmp_path)
    base, moved = read(name, path, offset_s=1.0).samples, read(name, path, offset_s=3.5).samples
    np.testing.assert_allclose(moved.t_s - base.t_s, 2.5, atol=1e-9)
    np.testing.assert_array_equal(moved.xy_norm, base.xy_norm)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=LAYOUT_IDS)
def test_nothing_there_is_one_line_that_names_the_path(name, make, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    blank = tmp_path / "blank"
    blank.write_bytes(b"")
    for path in (empty, blank, tmp_path / "absent"):
        assert not FORMATS[name].sniff(path)
        with pytest.raises(InputError) as raised:
            read(name, path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)


def damage(data: bytes, rng: random.Random) -> bytes:
    """One of: flipped bytes, a cut, a lost or doubled line, a number replaced."""
    kind = rng.randrange(5)
    if kind == 0 and data:
        out = bytearray(data)
        for _ in range(rng.choice([1, 3, 20])):
            out[rng.randrange(len(out))] = rng.randrange(256)
        return bytes(out)
    if kind == 1:
        return data[: rng.randrange(len(data) + 1)]
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    if kind == 2:
        lines.insert(i, lines[rng.randrange(len(lines))])
    elif kind == 3:
        del lines[i]
    else:
        fields = lines[i].split(b"\t") if b"\t" in lines[i] else lines[i].split(b",")
        glue = b"\t" if b"\t" in lines[i] else b","
        fields[rng.randrange(len(fields))] = rng.choice(
            [b"nan", b"inf", b"-1e308", b"", b"x", b"1e400", b"9" * 40, b"0", b"-1"]
        )
        lines[i] = glue.join(fields)
    return b"\n".join(lines)


@pytest.mark.parametrize(("name", "make"), LAYOUTS, ids=LAYOUT_IDS)
def test_damaged_files_give_a_value_or_our_error(name, make, tmp_path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    example = make(whole)
    files = [path for path in whole.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    rng = random.Random(f"{name} {len(files)}")
    values = 0
    for _ in range(200):
        victim = rng.choice(files)
        data = contents[victim]
        if victim.suffix == ".gz" and rng.random() < 0.6:
            victim.write_bytes(gzip.compress(damage(gzip.decompress(data), rng), compresslevel=1))
        else:
            victim.write_bytes(damage(data, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            FORMATS[name].sniff(example)
            try:
                recording = read(name, example)
            except GazeQwenError as error:
                assert "\n" not in str(error)
            else:
                values += 1
                assert_rows_conserved(recording)
                assert np.isfinite(recording.samples.t_s).all()
        victim.write_bytes(data)
    assert values > 20, "most damage leaves something to read"


# -- Tobii ------------------------------------------------------------------------------------------------------------


def test_tobii_g3_fixture() -> None:
    folder = shared_dir("fixtures", "tobii_g3_eyedentify3d")
    with gzip.open(folder / "gazedata.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    seen = [line for line in lines if line["data"]]
    samples = tobii_g3.read(folder, ReadOptions()).samples
    assert (len(samples), int(samples.valid.sum())) == (6547, 6135) == (len(lines), len(seen))
    assert samples.rate_hz == pytest.approx(99.9, abs=0.1)
    assert (samples.t_s[0], samples.t_s[-1]) == (0.006684, 65.585314)
    np.testing.assert_array_equal(samples.xy_norm[samples.valid], [line["data"]["gaze2d"] for line in seen])


def test_tobii_g3_plain_text_reads_like_gzip(tmp_path) -> None:
    packed = EXAMPLES["tobii_g3"](tmp_path)
    plain = tmp_path / "gazedata"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    a, b = read("tobii_g3", packed).samples, read("tobii_g3", plain).samples
    np.testing.assert_array_equal(a.t_s, b.t_s)
    np.testing.assert_array_equal(a.xy_norm, b.xy_norm)


def test_tobii_g3_truncated_gzip_keeps_what_precedes_and_says_so(tmp_path) -> None:
    path = EXAMPLES["tobii_g3"](tmp_path)
    whole = read("tobii_g3", path).samples
    path.write_bytes(path.read_bytes()[:-120])
    cut = read("tobii_g3", path)
    n = len(cut.samples)
    assert 0 < n < ROWS
    np.testing.assert_array_equal(cut.samples.t_s, whole.t_s[:n])
    assert any("ends early" in note for note in cut.notes)


def test_tobii_g2_fixture_and_how_its_clock_is_tied() -> None:
    root = shared_dir("fixtures", "tobii_g2_glassesviewer")
    file = root / "segments" / "1" / "livedata.json.gz"
    with gzip.open(file, "rt") as stream:
        lines = [json.loads(line) for line in stream]
    vts = np.array([(line["ts"], line["vts"]) for line in lines if "vts" in line])
    pts = np.array([(line["ts"], line["pts"]) for line in lines if "pts" in line])
    assert set(vts[:, 0] - vts[:, 1]) == {485478112}  # one clock, no drift: what the reader relies on
    pts_lead_us = pts[:, 0] - pts[:, 1] / 0.09
    assert (len(vts), len(pts)) == (44, 45) and np.ptp(pts_lead_us) < 11
    gaze = [line for line in lines if "gp" in line]
    recording = tobii_g2.read(root, ReadOptions())
    samples = recording.samples
    assert (len(samples), int(samples.valid.sum())) == (1424, 1331) == (len(gaze), sum(g["s"] == 0 for g in gaze))
    recorded = json.loads((root / "recording.json").read_text())
    assert (recorded["rec_et_samples"], recorded["rec_et_valid_samples"]) == (1424, 1331)
    np.testing.assert_allclose(samples.t_s, [(g["ts"] - 485478112) / 1e6 for g in gaze], atol=1e-9)
    assert int((samples.t_s < 0).sum()) == 26
    assert samples.rate_hz == pytest.approx(50.0, abs=0.1)
    np.testing.assert_array_equal(samples.xy_norm[0], [0.5234, 0.4100])
    for path in (file, file.parent):
        np.testing.assert_array_equal(tobii_g2.read(path, ReadOptions()).samples.t_s, samples.t_s)


def test_tobii_g2_times_count_from_the_video_and_without_vts_it_asks(tmp_path) -> None:
    path = EXAMPLES["tobii_g2"](tmp_path)
    samples = read("tobii_g2", path).samples
    np.testing.assert_allclose(samples.t_s, -0.1 + 0.02 * np.arange(ROWS), atol=1e-9)
    assert not samples.valid[9::10].any()
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    path.write_bytes(gzip.compress("\n".join(line for line in lines if '"vts"' not in line).encode()))
    with pytest.raises(InputError, match="offset_s"):
        read("tobii_g2", path)
    np.testing.assert_allclose(read("tobii_g2", path, offset_s=-0.1).samples.t_s, samples.t_s, atol=1e-9)


def test_tobii_g2_after_a_clock_step_the_newest_vts_counts_and_the_note_says_so(tmp_path) -> None:
    gaze = [{"ts": 100_000 * i, "s": 0, "gp": [0.5, 0.5]} for i in range(10)]
    sync = [{"ts": 0, "s": 0, "vts": 0}, {"ts": 500_000, "s": 0, "vts": 400_000}]
    path = tmp_path / "livedata.json"
    path.write_text("\n".join(json.dumps(line) for line in gaze + sync))
    recording = tobii_g2.read(path, ReadOptions())
    np.testing.assert_allclose(recording.samples.t_s, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], atol=1e-9)
    assert recording.samples.counts["rows_duplicate_time"] == 1
    assert any("agree badly" in note for note in recording.notes)


def test_tobii_g2_several_segments_are_not_chosen_from(tmp_path) -> None:
    for segment in ("1", "2"):
        folder = tmp_path / "segments" / segment
        folder.mkdir(parents=True)
        EXAMPLES["tobii_g2"](folder)
    with pytest.raises(InputError, match="2 segments"):
        read("tobii_g2", tmp_path)
    assert len(read("tobii_g2", tmp_path / "segments" / "2").samples) == ROWS


def test_tobii_lines_that_are_no_json_are_counted(tmp_path) -> None:
    for name in ("tobii_g2", "tobii_g3"):
        path = EXAMPLES[name](tmp_path)
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        path.write_text("\n".join([*lines, '{"type":"gaze","timest', "[1, 2]"]))
        counts = read(name, path).samples.counts
        assert (counts["rows_read"], counts["rows_unreadable"]) == (ROWS + 2, 2)


# -- Aria -------------------------------------------------------------------------------------------------------------


def test_aria_fixture_lands_where_the_official_tools_put_it() -> None:
    """The fixture's derived points were made with projectaria-tools: its inverse serves as projector here."""
    root = shared_dir("fixtures", "aria_gen1_aea")
    file = root / "mps" / "eye_gaze" / "general_eye_gaze.csv"
    derived = np.genfromtxt(root / "derived_gaze_px.csv", delimiter=",", skip_header=1)
    yaws = [-0.36566, -0.205619, -0.095982, -0.003813]
    side = 1408

    def project(yaw: float, pitch: float, depth_m: float) -> tuple[float, float]:
        assert depth_m == 1.0  # the fixture's depth_m is empty
        _, x, y = derived[yaws.index(yaw)] * side
        return y, side - 1 - x  # the stored image is the upright one turned left

    projector = aria.AriaProjector(project, (side, side), first_frame_us=86435306 - 50060)
    for path in (root, file.parent, file):
        samples = aria.read_with_projector(path, ReadOptions(), projector).samples
        np.testing.assert_allclose(samples.t_s, derived[:, 0], atol=1e-5)
        np.testing.assert_allclose(samples.xy_norm, derived[:, 1:], atol=1e-9)
        assert samples.counts["samples_without_depth"] == 4
    with pytest.raises(InputError, match=r"calibration=.*\.vrs"):
        aria.read(file, ReadOptions())


def test_aria_turns_stored_pixels_as_rot90_turns_the_image(tmp_path) -> None:
    path = EXAMPLES["aria"](tmp_path)
    samples = read("aria", path).samples
    row = 25
    yaw, pitch = 0.02 * row - 0.4, 0.01 * row - 0.2
    stored = np.zeros((800, 1000))
    stored[round(400 + 800 * pitch), round(500 + 1000 * yaw)] = 1
    y, x = np.argwhere(np.rot90(stored, k=-1) == 1)[0]
    np.testing.assert_allclose(samples.xy_norm[row] * [800, 1000], [x, y], atol=1e-6)
    assert samples.frame_size_px == (800, 1000)


def test_aria_clock_needs_a_frame_time_or_an_offset(tmp_path) -> None:
    path = EXAMPLES["aria"](tmp_path)
    tied = aria.read_with_projector(path, ReadOptions(), linear_projector(86435306 - 250_000)).samples
    np.testing.assert_allclose(tied.t_s, 0.25 + 0.1 * np.arange(ROWS), atol=1e-9)
    with pytest.raises(InputError, match="offset_s"):
        aria.read_with_projector(path, ReadOptions(), linear_projector())
    moved = aria.read_with_projector(path, ReadOptions(offset_s=0.25), linear_projector()).samples
    np.testing.assert_allclose(moved.t_s, tied.t_s, atol=1e-9)


def test_aria_counts_rays_outside_the_view_and_without_depth(tmp_path) -> None:
    samples = read("aria", EXAMPLES["aria"](tmp_path)).samples
    outside = [i for i in range(ROWS) if i != 3 and abs(0.02 * i - 0.4) >= 0.35]
    assert samples.counts["samples_outside_view"] == len(outside)
    assert not samples.valid[[*outside, 3]].any()
    assert int(samples.valid.sum()) == ROWS - len(outside) - 1
    assert samples.counts["samples_without_depth"] == ROWS // 2


def test_aria_refuses_two_ray_files_and_unusable_calibrations(tmp_path, monkeypatch) -> None:
    path = EXAMPLES["aria"](tmp_path)
    (tmp_path / "online_calibration.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="pupil frame"):
        aria.read(path, ReadOptions(calibration=tmp_path / "online_calibration.jsonl"))
    with pytest.raises(InputError, match="no such file"):
        aria.read(path, ReadOptions(calibration=tmp_path / "absent.vrs"))
    monkeypatch.setitem(sys.modules, "projectaria_tools", None)
    (tmp_path / "recording.vrs").write_bytes(b"VRS")
    with pytest.raises(MissingExtraError, match=r"gazeqwen\[aria\]"):
        aria.read(path, ReadOptions(calibration=tmp_path / "recording.vrs"))
    path.write_text("tracking_timestamp_us,left_yaw_rads_cpf,right_yaw_rads_cpf,pitch_rads_cpf\n1,0,0,0\n")
    assert aria.sniff(path)
    with pytest.raises(InputError, match="one ray per eye"):
        aria.read(path, ReadOptions())


def install_fake_projectaria(monkeypatch, *, camera: object, first_ns: int = 0, opens: bool = True) -> None:
    """projectaria-tools' modules with the names and arguments of 2.3, and a camera that answers with its inputs."""

    class EyeGaze:
        yaw = pitch = depth = 0.0

    device = SimpleNamespace(get_camera_calib=lambda label: camera if label == "camera-rgb" else None)

    def first_time(stream: str, domain: str) -> int:
        assert (stream, domain) == ("214-1", "device")
        return first_ns

    def reproject(gaze: EyeGaze, label: str, calibration: object, view: object, depth_m: float):
        assert (label, calibration, view) == ("camera-rgb", device, camera)
        return None if gaze.yaw > 0.3 else np.array([100 + 10 * gaze.yaw, 50 + 10 * depth_m])

    provider = SimpleNamespace(get_device_calibration=lambda: device, get_first_time_ns=first_time)

    def from_json(path: str) -> object:
        if "{" not in Path(path).read_text():
            raise RuntimeError("parse error at line 1")
        return device

    core = {
        "calibration": {"device_calibration_from_json": from_json},
        "data_provider": {"create_vrs_data_provider": lambda path: provider if opens else None},
        "mps": {"EyeGaze": EyeGaze},
        "mps.utils": {"get_gaze_vector_reprojection": reproject},
        "sensor_data": {"TimeDomain": SimpleNamespace(DEVICE_TIME="device")},
        "stream_id": {"StreamId": str},
    }
    root = ModuleType("projectaria_tools")
    parent = ModuleType("projectaria_tools.core")
    monkeypatch.setitem(sys.modules, root.__name__, root)
    monkeypatch.setitem(sys.modules, parent.__name__, parent)
    for name, content in core.items():
        module = ModuleType(f"projectaria_tools.core.{name}")
        vars(module).update(content)
        setattr(parent, name, module)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_aria_calibration_from_a_recording_or_a_json(tmp_path, monkeypatch) -> None:
    path = EXAMPLES["aria"](tmp_path)
    vrs, plain, broken = (tmp_path / name for name in ("a.vrs", "a.json", "b.json"))
    for file, text in ((vrs, "VRS"), (plain, "{}"), (broken, "nothing")):
        file.write_text(text)
    camera = SimpleNamespace(get_image_size=lambda: np.array([200, 100]))
    install_fake_projectaria(monkeypatch, camera=camera, first_ns=86_435_000_999)
    samples = aria.read(path, ReadOptions(calibration=vrs)).samples
    np.testing.assert_allclose(samples.t_s, 306e-6 + 0.1 * np.arange(ROWS), atol=1e-9)
    # u = 100 + 10 yaw, v = 50 + 10 depth, turned upright in a 100 x 200 frame
    yaw, depth_m = 0.02 * 10 - 0.4, 1.5
    np.testing.assert_allclose(samples.xy_norm[10], [(99 - 50 - 10 * depth_m) / 100, (100 + 10 * yaw) / 200])
    assert samples.counts["samples_outside_view"] == sum(0.02 * i - 0.4 > 0.3 for i in range(ROWS))
    with pytest.raises(InputError, match="offset_s"):
        aria.read(path, ReadOptions(calibration=plain))
    moved = aria.read(path, ReadOptions(calibration=plain, offset_s=306e-6)).samples
    np.testing.assert_array_equal(moved.xy_norm, samples.xy_norm)
    with pytest.raises(InputError, match="parse error"):
        aria.read(path, ReadOptions(calibration=broken))
    install_fake_projectaria(monkeypatch, camera=camera, opens=False)
    with pytest.raises(InputError, match="does not open"):
        aria.read(path, ReadOptions(calibration=vrs))
    install_fake_projectaria(monkeypatch, camera=None)
    with pytest.raises(InputError, match="camera-rgb"):
        aria.read(path, ReadOptions(calibration=vrs))


# -- Ego4D ------------------------------------------------------------------------------------------------------------


def test_ego4d_asks_for_the_origin_and_says_how_to_find_out(tmp_path) -> None:
    path = EXAMPLES["ego4d"](tmp_path)
    with pytest.raises(InputError, match=r"gaze check VIDEO --gaze 0a1b2c.csv --y-origin bottom"):
        ego4d.read(path, ReadOptions())
    bottom, top = (ego4d.read(path, ReadOptions(y_origin=origin)).samples for origin in ("bottom", "top"))
    np.testing.assert_allclose(top.xy_norm[0], _path(0), atol=1e-12)
    np.testing.assert_allclose(bottom.xy_norm[:, 1], 1 - top.xy_norm[:, 1])
    np.testing.assert_array_equal(bottom.xy_norm[:, 0], top.xy_norm[:, 0])


def test_ego4d_confidence_decides_what_is_gaze(tmp_path) -> None:
    path = EXAMPLES["ego4d"](tmp_path)
    samples = read("ego4d", path).samples
    low = np.arange(ROWS) % 9 == 8
    np.testing.assert_array_equal(samples.valid, ~low & (np.arange(ROWS) != 4))
    assert samples.confidence is not None and samples.confidence[8] == 0
    assert int(read("ego4d", path, min_confidence=0.0).samples.valid.sum()) == ROWS - 1


# -- EGTEA ------------------------------------------------------------------------------------------------------------


def test_egtea_samples_of_a_frame_stay_apart_and_in_their_frame(tmp_path) -> None:
    path = EXAMPLES["egtea"](tmp_path)
    recording = read("egtea", path)
    samples = recording.samples
    rows = [line.split("\t") for line in path.read_text().split("\n") if "\tSMP\t" in line]
    frames = np.array([int(row[5]) for row in rows])
    assert len(set(frames)) < ROWS  # some frame holds two samples
    assert ((samples.t_s >= frames / 24 - 1e-9) & (samples.t_s < (frames + 1) / 24)).all()
    np.testing.assert_allclose(np.diff(samples.t_s), 1 / 30, atol=2e-6)  # the device's own intervals
    assert "device time used" in recording.notes[0]
    np.testing.assert_allclose(samples.xy_norm[1], _path(1), atol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(~samples.valid), [5, 10, 21, 32])


def test_egtea_drifting_device_time_is_spread_over_each_frame(tmp_path) -> None:
    recording = read("egtea", MORE["egtea"](tmp_path))
    expected = 61 + np.arange(ROWS) / 48
    np.testing.assert_allclose(recording.samples.t_s, expected, atol=1e-9)
    assert "spread evenly" in recording.notes[0]


def test_egtea_frame_numbers_follow_the_videos_own_times(tmp_path) -> None:
    path = EXAMPLES["egtea"](tmp_path)
    times_s = np.cumsum(np.full(24, 0.05))
    samples = read("egtea", path, frame_times_s=times_s).samples
    counts = samples.counts
    beyond = sum(int(line.split("\t")[5]) >= 24 for line in path.read_text().split("\n") if "\tSMP\t" in line)
    assert (counts["rows_bad_time"], len(samples)) == (beyond, ROWS - beyond)
    assert samples.t_s[0] == 0.05 and 1.2 <= samples.t_s[-1] < 1.25
    with pytest.raises(InputError, match="ascending"):
        read("egtea", path, frame_times_s=times_s[::-1])


def test_egtea_rows_of_another_width_are_counted_not_shifted(tmp_path) -> None:
    path = EXAMPLES["egtea"](tmp_path)
    whole = read("egtea", path).samples
    lines = path.read_text().split("\n")
    lines[20] = "\t".join(lines[20].split("\t")[:-2])
    path.write_text("\n".join(lines))
    cut = read("egtea", path).samples
    assert (cut.counts["rows_read"], cut.counts["rows_unreadable"], len(cut)) == (ROWS, 1, ROWS - 1)
    np.testing.assert_array_equal(cut.xy_norm, np.delete(whole.xy_norm, 20 - 14, axis=0))


# -- EgoExoLearn ------------------------------------------------------------------------------------------------------


def test_egoexolearn_row_is_a_frame(tmp_path) -> None:
    path = EXAMPLES["egoexolearn"](tmp_path)
    samples = read("egoexolearn", path).samples
    np.testing.assert_allclose(samples.t_s, np.arange(ROWS) / 30)
    np.testing.assert_array_equal(np.flatnonzero(~samples.valid), np.arange(5, ROWS, 6))
    times_s = np.arange(ROWS) / 29.97 + 0.2
    np.testing.assert_array_equal(read("egoexolearn", path, frame_times_s=times_s).samples.t_s, times_s)
    with pytest.raises(InputError, match=r"39 frames.*40 rows"):
        read("egoexolearn", path, frame_times_s=times_s[1:])


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 2)), np.zeros((4, 3), dtype=complex), np.array([[{}, 1, 2]], dtype=object), np.zeros(3)],
    ids=["two columns", "complex", "pickled", "flat"],
)
def test_egoexolearn_refuses_other_arrays(array, tmp_path) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy"):
        read("egoexolearn", tmp_path / "a.npy")


# -- HoloAssist -------------------------------------------------------------------------------------------------------


def test_holoassist_pixels_over_the_published_frame_size(tmp_path) -> None:
    path = EXAMPLES["holoassist"](tmp_path)
    samples = read("holoassist", path).samples
    np.testing.assert_allclose(samples.xy_norm[0], _path(0), atol=1e-12)
    np.testing.assert_array_equal(np.flatnonzero(~samples.valid), sorted([*range(6, ROWS, 7), 11]))
    times_s = np.arange(30) * 0.041
    counted = read("holoassist", path, frame_times_s=times_s).samples
    np.testing.assert_array_equal(counted.t_s, times_s)
    assert counted.counts["rows_bad_time"] == ROWS - 30


def test_holoassist_rays_land_on_the_pixels_they_were_made_from(tmp_path) -> None:
    export = MORE["holoassist"](tmp_path)
    expected = np.array([_path(i) for i in range(ROWS)])
    for path in (export, tmp_path, export / "Eyes" / "Eyes_sync.txt"):
        samples = read("holoassist", path).samples
        np.testing.assert_allclose(samples.t_s, np.arange(ROWS) / 30 - 0.2, atol=2e-7)
        np.testing.assert_allclose(samples.xy_norm[samples.valid], expected[samples.valid], atol=1e-9)
        np.testing.assert_array_equal(np.flatnonzero(~samples.valid), np.arange(6, ROWS, 7))
        assert samples.frame_size_px == (896, 504)


def test_holoassist_projection_equals_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn * np.linalg.det(turn), rng.normal(size=3)
    axes = np.linalg.inv(np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]]))
    intrinsics = np.array([[700.0, 0, 440], [0, 710, 250], [0, 0, 1]])
    points_m = rng.normal(size=(50, 3)) * 2
    got = holoassist.project(points_m, np.tile(pose, (50, 1, 1)), intrinsics)
    behind = 0
    for point_m, pixel in zip(points_m, got, strict=True):
        x, y, z, _ = axes @ np.linalg.inv(pose) @ [*point_m, 1.0]
        if z <= 0:
            behind += 1
            assert np.isnan(pixel).all()
        else:
            np.testing.assert_allclose(pixel, [700 * x / z + 440, 710 * y / z + 250], rtol=1e-9)
    assert 5 < behind < 45


def test_holoassist_samples_without_a_near_pose_are_invalid_and_counted(tmp_path) -> None:
    export = MORE["holoassist"](tmp_path)
    pose_file = export / "Video" / "Pose_sync.txt"
    lines = pose_file.read_text().split("\n")
    lines[20] = lines[20].replace("\t0.0\t0.0\t0.0\t1.0", "\t0.0\t0.0\t0.0\t0.0")  # no rigid motion
    pose_file.write_text("\n".join(lines[10:]))
    samples = read("holoassist", export).samples
    # the first pose left is row 10's: rows 9 (0.033 s before) takes it, rows 0-8 have none within 0.05 s
    assert samples.counts["samples_without_pose"] == sum(i % 7 != 6 for i in range(9))
    assert not samples.valid[:9].any() and samples.valid[9]
    assert samples.counts["poses_unusable"] == 1
    assert len(samples) == ROWS


def test_holoassist_without_timing_asks_for_the_offset(tmp_path) -> None:
    export = MORE["holoassist"](tmp_path)
    tied = read("holoassist", export).samples
    (export / "Video" / "VideoMp4Timing.txt").unlink()
    with pytest.raises(InputError, match="offset_s"):
        read("holoassist", export)
    np.testing.assert_allclose(read("holoassist", export, offset_s=-0.2).samples.t_s, tied.t_s, atol=1e-7)


def test_holoassist_calibration_folder_takes_the_place_of_video(tmp_path) -> None:
    export = MORE["holoassist"](tmp_path)
    whole = read("holoassist", export).samples
    shutil.move(export / "Video", tmp_path / "cam_info")
    with pytest.raises(InputError, match=r"Intrinsics\.txt.*calibration="):
        read("holoassist", export)
    moved = tmp_path / "cam_info"
    (moved / "Intrinsics.txt").rename(moved / "Instrinsincs.txt")  # the data set's own spelling
    samples = read("holoassist", export, calibration=moved).samples
    np.testing.assert_array_equal(samples.xy_norm, whole.xy_norm)
    (moved / "Instrinsincs.txt").write_text("700\t0\tnan")
    with pytest.raises(InputError, match="camera matrix"):
        read("holoassist", export, calibration=moved)


def test_holoassist_depth_assumption_is_stated(tmp_path) -> None:
    notes = read("holoassist", MORE["holoassist"](tmp_path)).notes
    assert any("0.5 m" in note for note in notes)
    assert math.isclose(holoassist.EYE_DISTANCE_M, 0.5)
