"""The registry and the six readers of trackers_examples_a: the same gaze from each, real files, every refusal."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gazeqwen.errors import InputError, MissingExtraError
from stream.trackers import FORMATS, GazeRecording, read_gaze, recognise
from tests import trackers_examples_a as examples
from tests.conftest import shared_dir
from tests.trackers_examples_a import EXAMPLES, INVALID, ROW_COUNT, T_S, X_NORM, Y_NORM, tick_ns

SAMPLED = [name for name in EXAMPLES if name != "streamgaze"]


def example(name: str, folder: Path, **options) -> GazeRecording:
    return read_gaze(EXAMPLES[name](folder), **options)


def edit(path: Path, change) -> None:
    path.write_text("\n".join(change(path.read_text().split("\n"))))


# -- the same gaze from every format ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLED)
def test_every_format_gives_the_same_gaze_in_house_units(name: str, tmp_path: Path) -> None:
    samples = example(name, tmp_path).samples
    expected = np.stack([X_NORM, Y_NORM], axis=1)
    expected[list(INVALID)] = np.nan
    np.testing.assert_allclose(samples.t_s, T_S, atol=1e-6)
    np.testing.assert_allclose(samples.xy_norm, expected, atol=2e-6)
    assert np.flatnonzero(~samples.valid).tolist() == list(INVALID)
    assert samples.source == name


@pytest.mark.parametrize("name", SAMPLED)
def test_offset_moves_samples_fixations_and_scene_frames_together(name: str, tmp_path: Path) -> None:
    path = EXAMPLES[name](tmp_path)
    still, moved = read_gaze(path), read_gaze(path, offset_s=-2.5)
    np.testing.assert_allclose(moved.samples.t_s, still.samples.t_s - 2.5, atol=1e-12)
    if still.fixations is not None and moved.fixations is not None:
        np.testing.assert_allclose(moved.fixations.start_s, still.fixations.start_s - 2.5, atol=1e-12)
    if still.scene_times_s is not None and moved.scene_times_s is not None:
        np.testing.assert_allclose(moved.scene_times_s, still.scene_times_s - 2.5, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLED)
def test_y_origin_overrides_the_formats_own_for_samples_and_fixations(name: str, tmp_path: Path) -> None:
    path = EXAMPLES[name](tmp_path)
    top, bottom = read_gaze(path, y_origin="top"), read_gaze(path, y_origin="bottom")
    np.testing.assert_allclose(top.samples.xy_norm[:, 1], 1 - bottom.samples.xy_norm[:, 1], atol=1e-12)
    assert np.array_equal(top.samples.xy_norm[:, 0], bottom.samples.xy_norm[:, 0], equal_nan=True)
    if top.fixations is not None and bottom.fixations is not None:
        np.testing.assert_allclose(top.fixations.xy_norm[:, 1], 1 - bottom.fixations.xy_norm[:, 1], atol=1e-12)


@pytest.mark.parametrize("name", ["pupil_cloud", "neon_native", "pupil_core", "glassestools"])
def test_scene_frames_share_the_clock_and_begin_at_zero(name: str, tmp_path: Path) -> None:
    recording = example(name, tmp_path)
    assert recording.scene_times_s is not None
    spacing = 0.04 if name == "glassestools" else 1 / 30
    np.testing.assert_allclose(recording.scene_times_s, np.arange(30) * spacing, atol=2e-6)
    assert recording.clock.startswith("first_frame")


@pytest.mark.parametrize("name", ["pupil_cloud", "neon_native", "pupil_core"])
def test_device_fixations_are_in_house_units(name: str, tmp_path: Path) -> None:
    fixations = example(name, tmp_path).fixations
    assert fixations is not None and fixations.detector == "device"
    np.testing.assert_allclose(
        [fixations.start_s[0], fixations.stop_s[0], *fixations.xy_norm[0]],
        [0.1, 0.4, 600 / 1600, 1 - 0.55 if name == "pupil_core" else 550 / 1200],
        atol=2e-6,
    )


DAMAGEABLE = {
    "pupil_cloud": ("gaze.csv", ","),
    "pupil_core": ("gaze_positions.csv", ","),
    "glassestools": ("gazeData.tsv", "\t"),
    "plain_csv": ("gaze.csv", ","),
}


@pytest.mark.parametrize("name", DAMAGEABLE)
@pytest.mark.parametrize("damage", ['"', "1,2,3,4", "\x00", "1.5.2", "\ufffd"])
def test_a_damaged_row_costs_that_row_only(name: str, damage: str, tmp_path: Path) -> None:
    """Whichever row it is, first and last included; a stray quote does not swallow its neighbours."""
    path = EXAMPLES[name](tmp_path)
    file, delimiter = tmp_path / DAMAGEABLE[name][0], DAMAGEABLE[name][1]
    whole, lines = read_gaze(path).samples, file.read_text().split("\n")
    time_column = {"pupil_cloud": 2}.get(name, 0)
    for row in range(ROW_COUNT):
        fields = lines[1 + row].split(delimiter)
        fields[time_column] = damage + fields[time_column]
        file.write_text("\n".join([*lines[: 1 + row], delimiter.join(fields), *lines[2 + row :]]))
        samples = read_gaze(path).samples
        kept = np.arange(ROW_COUNT) != row
        assert samples.counts["rows_unreadable"] == 1, (row, fields)
        np.testing.assert_array_equal(samples.t_s, whole.t_s[kept])
        np.testing.assert_array_equal(samples.xy_norm, whole.xy_norm[kept])


def test_blank_coordinates_are_missing_gaze_and_a_blank_time_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "gaze.csv"
    file.write_text("t_s,x_norm,y_norm\n0.0,0.5,0.5\n0.1,,\n,0.5,0.5\n0.1,0.25,0.5\n0.2,nan,0.5\n")
    samples = read_gaze(file).samples
    assert samples.t_s.tolist() == [0.0, 0.1, 0.2]
    assert samples.valid.tolist() == [True, True, False], "of two rows at 0.1 s the one with gaze is kept"
    assert samples.counts == {"rows_read": 5, "rows_unreadable": 0, "rows_bad_time": 1, "rows_duplicate_time": 1}


# -- registry ---------------------------------------------------------------------------------------------------------


def test_registry_names_are_the_module_names() -> None:
    assert len(FORMATS) == 13
    assert all(entry.name == name == entry.read.__module__.rsplit(".", 1)[1] for name, entry in FORMATS.items())


@pytest.mark.parametrize("name", SAMPLED)
def test_content_decides_not_the_file_name(name: str, tmp_path: Path) -> None:
    path = EXAMPLES[name](tmp_path)
    if path.is_dir():
        path = next((path / file for file, _ in [DAMAGEABLE.get(name, ("", ""))] if file), path)
    if path.is_file():
        path = path.rename(path.with_name("renamed.bin"))
    assert recognise(path).name == name


def test_unknown_missing_and_ambiguous_paths_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nothing at this path"):
        read_gaze(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="nothing at this path"):
        read_gaze(tmp_path / "absent.csv", format="plain_csv")
    with pytest.raises(InputError, match=r"none of their files.*format=.*pupil_cloud.*plain_csv"):
        read_gaze(tmp_path)
    (tmp_path / "notes.txt").write_text("just words\n")
    with pytest.raises(InputError, match="unknown header"):
        read_gaze(tmp_path / "notes.txt")
    file = examples.plain_csv(tmp_path)
    with pytest.raises(InputError, match="expected one of pupil_cloud"):
        read_gaze(file, format="plain")
    monkeypatch.setitem(FORMATS, "twin", FORMATS["plain_csv"].__class__("twin", "", lambda _: True, lambda p, o: None))  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"fits several; pass format=, one of: plain_csv, twin"):
        read_gaze(file)


@pytest.mark.parametrize("option", [{"time_unit": "s"}, {"xy_unit": "px"}, {"calibration": "x.vrs"}])
def test_an_option_that_would_do_nothing_is_refused(option: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=next(iter(option))):
        example("pupil_core", tmp_path, **option)


@pytest.mark.parametrize("offset_s", [math.nan, math.inf, 1e300])
def test_an_offset_that_is_no_time_is_refused(offset_s: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="offset_s"):
        example("plain_csv", tmp_path, offset_s=offset_s)


# -- Pupil Cloud ------------------------------------------------------------------------------------------------------


def test_invisible_fixture_read_as_its_rows_say() -> None:
    folder = shared_dir("fixtures", "pupil_invisible_eyedentify3d")
    samples = read_gaze(folder, offset_s=0.25, frame_size_px=(1088, 1080)).samples
    with (folder / "gaze.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    ticks = [int(row["timestamp [ns]"]) for row in rows]
    assert len(samples) == len(rows) == samples.counts["rows_read"] == 5338
    assert samples.t_s[0] == 0.25 and samples.t_s[-1] == pytest.approx((ticks[-1] - ticks[0]) / 1e9 + 0.25, abs=1e-9)
    assert samples.rate_hz == pytest.approx(1e9 / np.median(np.diff(ticks)), rel=1e-6) and 190 < samples.rate_hz < 260
    blinking = np.array([row["blink id"] != "" for row in rows])
    np.testing.assert_array_equal(samples.valid, ~blinking)
    expected = np.array([[float(row["gaze x [px]"]) / 1088, float(row["gaze y [px]"]) / 1080] for row in rows])
    np.testing.assert_allclose(samples.xy_norm[~blinking], expected[~blinking], rtol=1e-12)


@pytest.mark.parametrize("which", ["folder", "file"])
def test_cloud_without_world_timestamps_asks_for_the_offset(which: str, tmp_path: Path) -> None:
    path = examples.pupil_cloud(tmp_path)
    (path / "world_timestamps.csv").unlink()
    path = path / "gaze.csv" if which == "file" else path
    with pytest.raises(InputError, match=r"world_timestamps.csv beside it, or pass offset_s="):
        read_gaze(path)
    recording = read_gaze(path, offset_s=0.1)
    np.testing.assert_allclose(recording.samples.t_s, T_S, atol=1e-8)
    assert recording.clock == "first gaze sample + offset_s" and recording.scene_times_s is None
    assert recording.fixations is not None and recording.fixations.start_s[0] == pytest.approx(0.1, abs=1e-8)


def test_cloud_frame_size_comes_from_what_lies_beside_it(tmp_path: Path) -> None:
    path = examples.pupil_cloud(tmp_path)
    (path / "info.json").unlink()
    with pytest.raises(InputError, match="frame_size_px="):
        read_gaze(path)
    assert read_gaze(path, frame_size_px=(800, 600)).samples.xy_norm[0, 0] == pytest.approx(0.5)
    camera = path / "scene_camera.json"
    for centre, size in (([805.2, 590.1], (1600, 1200)), ([541.0, 548.0], (1088, 1080))):
        camera.write_text(json.dumps({"camera_matrix": [[900, 0, centre[0]], [0, 900, centre[1]], [0, 0, 1]]}))
        assert read_gaze(path).samples.frame_size_px == size
    camera.write_text(json.dumps({"camera_matrix": [[900, 0, 3000], [0, 900, 20], [0, 0, 1]]}))
    with pytest.raises(InputError, match="frame_size_px="):
        read_gaze(path)
    (path / "info.json").write_text(json.dumps({"scene_camera_serial_number": "abc"}))
    assert read_gaze(path).samples.frame_size_px == (1088, 1080)


def test_cloud_frame_size_from_the_only_video(tmp_path: Path) -> None:
    import av

    path = examples.pupil_cloud(tmp_path)
    (path / "info.json").unlink()
    with av.open(str(path / "scene.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((120, 160, 3), dtype=np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert read_gaze(path).samples.frame_size_px == (160, 120)
    (path / "scene.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="frame_size_px="):
        read_gaze(path)


def test_cloud_fixation_ids_reach_the_samples_and_their_own_table(tmp_path: Path) -> None:
    recording = example("pupil_cloud", tmp_path)
    assert recording.samples.fixation_id is not None and recording.fixations is not None
    assert recording.samples.fixation_id.tolist() == [1] * 20 + [2] * 20
    assert recording.fixations.ids.tolist() == [1, 2]


def test_cloud_fixations_without_centres_are_left_out_with_a_note(tmp_path: Path) -> None:
    path = examples.pupil_cloud(tmp_path)
    edit(path / "fixations.csv", lambda lines: [lines[0].replace("fixation x [px]", "x"), *lines[1:]])
    recording = read_gaze(path)
    assert recording.fixations is None and any("fixation x [px]" in note for note in recording.notes)


# -- Neon native ------------------------------------------------------------------------------------------------------


def test_neon_fixture_equals_its_raw_bytes() -> None:
    folder = shared_dir("fixtures", "neon_native_demo")
    recording = read_gaze(folder)
    samples = recording.samples
    ticks = np.fromfile(folder / "gaze_200hz.time", dtype="<i8")
    points = np.fromfile(folder / "gaze_200hz.raw", dtype="<f4").reshape(-1, 2)
    zero = np.fromfile(folder / "Neon Scene Camera v1 ps1.time", dtype="<i8")[0]
    assert len(samples) == len(ticks) == samples.counts["rows_read"] == 1788
    np.testing.assert_array_equal(samples.t_s, (ticks - zero) / 1e9)
    assert (len(samples) - 1) / (samples.t_s[-1] - samples.t_s[0]) == pytest.approx(199.4, abs=0.05)
    blinks = np.fromfile(folder / "blinks ps1.raw", dtype=[("kind", "<i4"), ("start", "<i8"), ("stop", "<i8")])
    inside = ((ticks[:, None] >= blinks["start"]) & (ticks[:, None] <= blinks["stop"])).any(axis=1)
    worn = np.fromfile(folder / "worn_200hz.raw", dtype="u1") > 0
    np.testing.assert_array_equal(samples.valid, worn & ~inside)
    np.testing.assert_array_equal(samples.xy_norm[samples.valid], (points / np.array([1600.0, 1200.0]))[samples.valid])
    assert samples.in_frame.sum() > 1500
    fields = [("kind", "<i4"), ("start", "<i8"), ("stop", "<i8"), ("points", "<f4", 6), ("rest", "<f4", 4)]
    events = np.fromfile(folder / "fixations ps1.raw", dtype=fields)
    fixed = events[events["kind"] == 1]
    assert recording.fixations is not None and len(recording.fixations.start_s) == len(fixed) == 23
    np.testing.assert_array_equal(recording.fixations.start_s, (fixed["start"] - zero) / 1e9)
    # An app older than 2.9.31 stores fixations without the wearer's gaze offset: added, they lie on their samples.
    offset = np.array(json.loads((folder / "info.json").read_text())["gaze_offset"])
    expected = (fixed["points"][:, 4:6] + offset) / [1600, 1200]
    np.testing.assert_allclose(recording.fixations.xy_norm, expected, atol=1.0 / 1200)
    assert any("off their own samples" in note for note in recording.notes)


def test_neon_parts_are_joined_and_a_short_middle_part_is_refused(tmp_path: Path) -> None:
    path = examples.neon_native(tmp_path)
    first = path / "gaze ps1.raw"
    whole = first.read_bytes()
    first.write_bytes(whole[:-8])
    with pytest.raises(InputError, match=r"gaze ps1.raw: expected 25 rows"):
        read_gaze(path)
    first.write_bytes(whole[:-3])
    with pytest.raises(InputError, match="rows of 8 bytes, found 197 bytes"):
        read_gaze(path)


def test_neon_rows_without_a_partner_at_the_end_are_counted(tmp_path: Path) -> None:
    path = examples.neon_native(tmp_path)
    last = path / "gaze ps2.time"
    last.write_bytes(last.read_bytes()[:-16])
    samples = read_gaze(path).samples
    assert len(samples) == ROW_COUNT - 2
    assert samples.counts["rows_unpaired"] == 2 and samples.counts["rows_read"] == ROW_COUNT


def test_neon_without_scene_times_asks_and_without_other_streams_says_so(tmp_path: Path) -> None:
    path = examples.neon_native(tmp_path)
    for name in (
        "Neon Scene Camera v1 ps1.time",
        "worn ps1.raw",
        "worn ps2.raw",
        "blinks ps1.raw",
        "fixations ps1.raw",
    ):
        (path / name).unlink()
    with pytest.raises(InputError, match="offset_s="):
        read_gaze(path)
    recording = read_gaze(path, offset_s=0.1)
    np.testing.assert_allclose(recording.samples.t_s, T_S, atol=1e-8)
    assert recording.samples.valid.all() and recording.fixations is None
    for stream in ("worn", "blinks", "fixations"):
        assert any(stream in note for note in recording.notes)


def test_neon_without_the_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = examples.neon_native(tmp_path)
    monkeypatch.setitem(sys.modules, "pupil_labs", None)
    monkeypatch.setitem(sys.modules, "pupil_labs.neon_recording", None)
    with pytest.raises(MissingExtraError, match=r"gazeqwen\[neon\]"):
        read_gaze(path)


# -- Pupil Core -------------------------------------------------------------------------------------------------------


def test_core_threshold_is_the_callers(tmp_path: Path) -> None:
    path = examples.pupil_core(tmp_path)
    assert read_gaze(path, min_confidence=0.5).samples.valid.all()
    assert not read_gaze(path, min_confidence=0.99).samples.valid.any()
    confidence = read_gaze(path).samples.confidence
    assert confidence is not None and set(confidence.tolist()) == {0.5, 0.98}


def test_core_recording_folder_with_one_export_and_the_recordings_own_times(tmp_path: Path) -> None:
    export = tmp_path / "exports" / "000"
    export.mkdir(parents=True)
    examples.pupil_core(export)
    assert len(read_gaze(tmp_path).samples) == ROW_COUNT
    (export / "world_timestamps.csv").unlink()
    with pytest.raises(InputError, match="offset_s="):
        read_gaze(tmp_path)
    np.save(tmp_path / "world_timestamps.npy", examples.PUPIL_CLOCK_S + np.arange(30) / 30)
    np.testing.assert_allclose(read_gaze(tmp_path).samples.t_s, T_S, atol=1e-6)
    (tmp_path / "world_timestamps.npy").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(InputError, match="numpy file"):
        read_gaze(tmp_path)
    second = tmp_path / "exports" / "001"
    second.mkdir()
    examples.pupil_core(second)
    with pytest.raises(InputError, match="2 exports"):
        read_gaze(tmp_path)


# -- StreamGaze -------------------------------------------------------------------------------------------------------


def test_streamgaze_fixture_read_as_its_rows_say() -> None:
    folder = shared_dir("fixtures", "streamgaze_gazeqwen_demo")
    file = next(folder.glob("*.csv"))
    recording = read_gaze(file)
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    fixations = recording.fixations
    assert len(recording.samples) == 0 and fixations is not None and fixations.detector == "file"
    assert len(fixations.start_s) == len(rows) == fixations.counts["rows_read"] == 35
    for name, column in (("start_time", fixations.start_s), ("end_time", fixations.stop_s)):
        assert column.tolist() == [float(row[name]) for row in rows]
    assert fixations.xy_norm.tolist() == [[float(row["center_x"]), float(row["center_y"])] for row in rows]
    assert fixations.ids.tolist() == [int(row["fixation_id"]) for row in rows]


@pytest.mark.parametrize(
    "header",
    [
        "fixation_id,center_x,center_y,start_time_seconds,end_time_seconds,duration",
        "segment_id,center_x,center_y,start_time_seconds,end_time_seconds,duration_seconds",
        "other,center_x,center_y,start_time,end_time,duration",
    ],
)
def test_streamgaze_header_forms_mean_the_same(header: str, tmp_path: Path) -> None:
    file = tmp_path / "clip.csv"
    file.write_text(header + "\n7,0.5,0.25,1.5,2.0,0.5\n8,0.1,0.9,3,,0.25\n")
    fixations = read_gaze(file).fixations
    assert fixations is not None
    assert fixations.start_s.tolist() == [1.5, 3.0]
    assert fixations.stop_s.tolist() == [2.0, 3.25], "a blank end is start + duration"
    assert fixations.ids.tolist() == ([0, 1] if header.startswith("other") else [7, 8])


def test_streamgaze_malformed_rows_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "clip.csv"
    file.write_text(
        "start_time,end_time,center_x,center_y,duration\n1,2,0.5,0.5,1\n2,1,0.5,0.5,1\n3,4,,0.5,1\n0:05,6,0.5,0.5,1\n7,8\n"
    )
    fixations = read_gaze(file).fixations
    assert fixations is not None and fixations.start_s.tolist() == [1.0]
    assert fixations.counts == {"rows_read": 5, "rows_unreadable": 2, "rows_bad_time": 1, "rows_no_position": 1}


# -- glassesTools -----------------------------------------------------------------------------------------------------


def test_glassestools_without_its_other_files_asks(tmp_path: Path) -> None:
    path = examples.glassestools(tmp_path)
    (path / "frameTimestamps.tsv").unlink()
    with pytest.raises(InputError, match=r"frameTimestamps.tsv.*offset_s="):
        read_gaze(path)
    np.testing.assert_allclose(read_gaze(path, offset_s=-0.05).samples.t_s, T_S, atol=1e-9)
    (path / "calibration.xml").unlink()
    with pytest.raises(InputError, match="frame_size_px="):
        read_gaze(path, offset_s=-0.05)
    assert read_gaze(path, offset_s=0.0, frame_size_px=(1920, 1080)).samples.frame_size_px == (1920, 1080)


def test_glassestools_older_column_names(tmp_path: Path) -> None:
    path = examples.glassestools(tmp_path)
    now = read_gaze(path).samples
    edit(path / "gazeData.tsv", lambda lines: [lines[0].replace("gaze_pos_vid", "vid_gaze_pos"), *lines[1:]])
    np.testing.assert_array_equal(read_gaze(path).samples.xy_norm, now.xy_norm)


# -- plain CSV --------------------------------------------------------------------------------------------------------


def test_aria_derived_fixture_is_a_plain_csv() -> None:
    file = shared_dir("fixtures", "aria_gen1_aea") / "derived_gaze_px.csv"
    samples = read_gaze(file).samples
    rows = [[float(text) for text in line.split(",")] for line in file.read_text().split()[1:]]
    assert np.column_stack([samples.t_s, samples.xy_norm]).tolist() == rows
    assert len(rows) == samples.counts["rows_read"] == 4 and samples.rate_hz == pytest.approx(10.0)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_plain_with_named_columns_is_read_once_everything_is_said(delimiter: str, tmp_path: Path) -> None:
    file = tmp_path / "gaze.txt"
    rows = [["frame", "time", "gx", "gy", "ok"], ["0", "1000", "320", "120", "true"], ["1", "1040", "640", "480", "0"]]
    file.write_text("\n".join(delimiter.join(row) for row in rows))
    said: dict = {"columns": {"t": "time", "x": "gx", "y": "gy", "valid": "ok"}}
    for asked, answer in (
        ("time_unit", "ms"),
        ("offset_s", -1.0),
        ("xy_unit", "px"),
        ("frame_size_px", (640, 480)),
        ("y_origin", "bottom"),
    ):
        with pytest.raises(InputError, match=asked):
            read_gaze(file, **said)
        said[asked] = answer
    samples = read_gaze(file, **said).samples
    np.testing.assert_allclose(samples.t_s, [0.0, 0.04], atol=1e-12)
    assert samples.xy_norm[0].tolist() == [0.5, 0.75] and samples.valid.tolist() == [True, False]


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_plain_time_units(unit, per_second: float, tmp_path: Path) -> None:
    file = tmp_path / "gaze.csv"
    file.write_text(f"clock,x_norm,y_norm\n{1.25 * per_second},0.5,0.5\n")
    assert read_gaze(file, columns={"t": "clock"}, time_unit=unit, offset_s=0.5).samples.t_s.tolist() == [1.75]


def test_plain_refuses_a_table_without_a_header_and_columns_it_does_not_have(tmp_path: Path) -> None:
    file = tmp_path / "gaze.csv"
    file.write_text("0.0,0.5,0.5\n0.1,0.5,0.5\n")
    for name in (None, "plain_csv"):
        with pytest.raises(InputError, match=r"header.*t_s,x_norm,y_norm"):
            read_gaze(file, format=name)
    file.write_text("t_s,a,b\n0.0,0.5,0.5\n")
    with pytest.raises(InputError, match="'x_norm'"):
        read_gaze(file, format="plain_csv")
    with pytest.raises(InputError, match="'gx'"):
        read_gaze(file, columns={"x": "gx"})
    with pytest.raises(InputError, match="roles t, x, y, valid, confidence"):
        read_gaze(file, columns={"z": "a"})


def test_plain_default_names_contradict_other_units(tmp_path: Path) -> None:
    file = examples.plain_csv(tmp_path)
    with pytest.raises(InputError, match="t_s"):
        read_gaze(file, time_unit="ms")
    with pytest.raises(InputError, match="x_norm"):
        read_gaze(file, xy_unit="px")


def test_plain_values_beyond_the_frame_are_kept_and_not_guessed_to_be_pixels(tmp_path: Path) -> None:
    file = tmp_path / "gaze.csv"
    file.write_text("t_s,x_norm,y_norm\n0,640,360\n0.1,0,0\n")
    samples = read_gaze(file).samples
    assert samples.xy_norm.tolist() == [[640, 360], [0, 0]]
    assert samples.valid.all() and samples.in_frame.tolist() == [False, True]


def test_example_clock_is_finer_than_a_float_of_utc_nanoseconds() -> None:
    assert float(tick_ns(0.0)) != tick_ns(0.0), "the examples would not notice a reader that subtracts floats"


def test_a_damaged_first_frame_time_does_not_move_time_zero(tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    path = examples.pupil_cloud(tmp_path / "cloud")
    world = (path if path.is_dir() else path.parent) / "world_timestamps.csv"
    first = read_gaze(path).samples.t_s[0]
    edit(world, lambda lines: [lines[0], "x" + lines[1][::-1], *lines[2:]])
    with pytest.raises(InputError, match="time zero"):
        read_gaze(path)
    assert read_gaze(path, offset_s=1 / 30).samples.t_s[0] == pytest.approx(first, abs=1e-3)
