"""`gaze check`: mistakes are found, right files pass, and what can't be judged is said instead of guessed.

Rendered clips use seeds 1000 and up; seeds 0-39 belong to the soak test and have never been used to set a constant.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gaze_check_suite import SuiteResult, run, write_gaze_csv
from gazeqwen.errors import InputError
from gazeqwen.tiny.scene import STEP_S, Scene, render, to_image
from gazeqwen.types import Fixations, GazeSamples
from stream.gaze_agreement import compare_with_motion, turn
from stream.gaze_check import CheckReport, check, gap_lengths, motion_of, unit_suspicions
from stream.scene_motion import SceneMotion, estimate_motion
from stream.trackers import GazeRecording, read_gaze
from stream.video_writer import write_clip

SIZE_PX = (160, 120)


@dataclass(frozen=True)
class Clip:
    scene: Scene
    video: Path
    motion: SceneMotion
    folder: Path

    def check(self, samples: GazeSamples, **options) -> CheckReport:
        return check(self.video, recording_of(samples), motion=self.motion, **options)


def recording_of(samples: GazeSamples, fixations: Fixations | None = None) -> GazeRecording:
    return GazeRecording(samples, fixations, Path("gaze.csv"), "plain_csv")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("clip")
    scene = render(1050, size_px=SIZE_PX)
    video = write_clip(folder / "clip.mp4", (image for _, image in scene.frames()), fps=scene.fps)
    motion = motion_of(video)
    assert motion is not None
    return Clip(scene, video, motion, folder)


def turned(samples: GazeSamples, axes) -> GazeSamples:
    return GazeSamples.build(samples.t_s, turn(samples.xy_norm, axes), valid=samples.valid)


# --- motion of the picture -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (0.4, 0.3), (-7.6, 5.2), (12.0, 0.0)])
def test_motion_of_a_shifted_picture_is_the_shift(shift: tuple[float, float]) -> None:
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft2(rng.normal(size=(160, 200)))
    fy, fx = np.fft.fftfreq(160)[:, None], np.fft.rfftfreq(200)[None]
    spectrum *= np.exp(-150 * (fx**2 + fy**2))  # smooth enough to shift by parts of a pixel

    def view(dx: float, dy: float) -> np.ndarray:
        plane = np.fft.irfft2(spectrum * np.exp(-2j * np.pi * (fx * dx + fy * dy)), s=(160, 200))[20:140, 20:180]
        grey = np.clip(128 + 45 * plane / plane.std(), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)

    motion = estimate_motion([(0.0, view(0, 0)), (0.1, view(*shift))])
    assert motion is not None
    assert motion.trusted.all()
    np.testing.assert_allclose(motion.overall[0] * 160, shift, atol=0.15)
    np.testing.assert_allclose(motion.cells[0, 1:-1, 1:-1] * 160, np.broadcast_to(shift, (4, 6, 2)), atol=0.5)


def test_motion_of_a_rendered_clip_is_that_of_its_camera(clip: Clip) -> None:
    """Roll and zoom included: what is at a grid cell's centre in one frame is found in the next."""
    cameras = clip.scene.camera[np.round(clip.scene.frame_times_s / STEP_S).astype(int)]
    place = np.array([[0.3, 0.3], [0.7, 0.4], [0.5, 0.6]])
    errors = []
    for i in range(0, 290, 7):
        (x, y, roll, _), offset = cameras[i], (place - 0.5) * [1, 0.75] / cameras[i][3]
        cos, sin = np.cos(roll), np.sin(roll)
        world = np.stack(
            [x + cos * offset[:, 0] - sin * offset[:, 1], y + sin * offset[:, 0] + cos * offset[:, 1]], axis=1
        )
        truth = to_image(world, np.broadcast_to(cameras[i + 1], (3, 4))) - to_image(
            world, np.broadcast_to(cameras[i], (3, 4))
        )
        errors.append(np.hypot(*(clip.motion.at(np.full(3, i), place) - truth).T) * SIZE_PX[0])
    assert np.median(errors) < 0.25  # pixels of 160


def test_a_cut_is_not_motion() -> None:
    a, b = render(1051, size_px=SIZE_PX).frame(0.0), render(1052, size_px=SIZE_PX).frame(5.0)[::-1]
    motion = estimate_motion([(0.0, a), (0.03, a), (0.06, np.ascontiguousarray(b)), (0.09, np.zeros_like(a))])
    assert motion is not None
    assert motion.trusted.tolist() == [True, False, False]


# --- the mistakes ----------------------------------------------------------------------------------------------------


def test_eight_clips_through_files() -> None:
    result = run(range(1000, 1008))
    assert result.found == dict.fromkeys(result.found, 8), result.to_text()
    assert result.worst_offset_error_s < 0.05


@pytest.mark.soak
def test_forty_unseen_clips_through_files() -> None:
    result = run(range(40))
    assert result.passed, result.to_text()


def test_the_suite_counts_a_miss_as_a_miss() -> None:
    full = {"clean": 40, "flipped_y": 40, "wrong_units": 40, "clock_offset": 40}
    assert SuiteResult(clips=40, found=full).passed
    assert SuiteResult(clips=40, found={**full, "clean": 38, "flipped_y": 36}).passed
    assert not SuiteResult(clips=40, found={**full, "clean": 37}).passed
    assert not SuiteResult(clips=40, found={**full, "clock_offset": 35}).passed


def test_a_right_file_passes(clip: Clip) -> None:
    report = clip.check(clip.scene.gaze)
    assert report.suspicions == ()
    assert report.agreement.judged
    assert abs(report.agreement.lag_s) < 0.03
    assert "nothing suspicious" in report.to_text()


@pytest.mark.parametrize("late_s", [0.5, -0.5, 1.2, -0.3])
def test_the_suggested_offset_mends_the_file_it_was_suggested_for(clip: Clip, late_s: float) -> None:
    path = write_gaze_csv(clip.folder / f"late{late_s}.csv", clip.scene.gaze.shifted(late_s))
    (suspicion,) = check(clip.video, read_gaze(path), motion=clip.motion).suspicions
    assert suspicion.kind == "clock_offset"
    option, value = suspicion.flag.split()
    assert option == "--gaze-offset-s"
    assert float(value) == pytest.approx(-late_s, abs=0.04)
    mended = check(
        clip.video, read_gaze(path, offset_s=float(value)), applied_offset_s=float(value), motion=clip.motion
    )
    assert mended.suspicions == ()


def test_a_suggested_offset_includes_the_one_applied(clip: Clip) -> None:
    """Read with a wrong offset of 0.5 s: the whole option that would be right is 0."""
    (suspicion,) = clip.check(clip.scene.gaze.shifted(0.5), applied_offset_s=0.5).suspicions
    assert float(suspicion.flag.split()[1]) == pytest.approx(0.0, abs=0.04)


def test_the_suggested_origin_mends_the_file_it_was_suggested_for(clip: Clip) -> None:
    path = write_gaze_csv(clip.folder / "flipped.csv", turned(clip.scene.gaze, "flipped_y"))
    (suspicion,) = check(clip.video, read_gaze(path), motion=clip.motion).suspicions
    assert (suspicion.kind, suspicion.flag) == ("flipped_y", "--y-origin bottom")
    assert check(clip.video, read_gaze(path, y_origin="bottom"), motion=clip.motion).suspicions == ()


@pytest.mark.parametrize(
    ("format_name", "applied", "suggested"),
    [
        ("pupil_core", None, "top"),
        ("pupil_core", "top", "bottom"),
        ("ego4d", "bottom", "top"),
        ("egtea", None, "bottom"),
    ],
)
def test_the_suggested_origin_is_the_other_one(clip: Clip, format_name: str, applied, suggested: str) -> None:
    recording = replace(recording_of(turned(clip.scene.gaze, "flipped_y")), format=format_name)
    report = check(clip.video, recording, applied_y_origin=applied, motion=clip.motion)
    assert [suspicion.flag for suspicion in report.suspicions] == [f"--y-origin {suggested}"]


def test_two_mistakes_at_once_are_both_found(clip: Clip) -> None:
    report = clip.check(turned(clip.scene.gaze, "flipped_y").shifted(-0.4))
    assert report.kinds == {"flipped_y", "clock_offset"}


@pytest.mark.parametrize("axes", ["flipped_x", "half_turn", "quarter_turn_right", "quarter_turn_left"])
def test_turned_gaze_is_found_and_offers_no_option(clip: Clip, axes) -> None:
    (suspicion,) = clip.check(turned(clip.scene.gaze, axes)).suspicions
    assert (suspicion.kind, suspicion.flag) == ("rotated", "")


# --- units -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "guess"),
    [((160, 120), "pixels of this 160x120"), ((1600, 1200), "larger frame"), ((100, 100), "pixels|per cent")],
)
def test_unnormalised_coordinates_are_found(clip: Clip, scale: tuple[float, float], guess: str) -> None:
    samples = clip.scene.gaze
    report = clip.check(GazeSamples.build(samples.t_s, samples.xy_norm * scale, valid=samples.valid))
    assert report.kinds == {"wrong_units"}
    assert any(word in report.suspicions[0].reason for word in guess.split("|"))
    assert not report.agreement.judged


def test_units_by_their_numbers() -> None:
    rng = np.random.default_rng(3)
    t_s, xy = np.arange(200) / 100, rng.uniform(0, 1, (200, 2))

    def kinds(t_s: np.ndarray, xy: np.ndarray) -> list[str]:
        return [s.flag for s in unit_suspicions(GazeSamples.build(t_s, xy), (1920, 1080))]

    assert kinds(t_s, xy) == []
    assert kinds(t_s, xy * 1.6 - 0.3) == []  # much gaze beyond the edge
    assert kinds(t_s, np.where(rng.random((200, 1)) < 0.1, 50.0, xy)) == []  # a tracker with wild samples
    assert kinds(t_s, np.full((200, 2), 0.5)) == []
    assert kinds(t_s, xy / [1920, 1080]) == ["--xy-unit norm"]
    assert kinds(t_s, xy * 80 - 40) == [""]  # angles
    assert kinds(t_s, xy * 100) == [""]  # per cent
    assert kinds(t_s, xy * [1920, 1080]) == ["--xy-unit px --frame-size 1920x1080"]
    assert kinds(t_s * 1e3, xy) == ["--time-unit ms"]
    assert kinds(t_s * 1e9, xy) == ["--time-unit ns"]
    assert kinds(t_s / 1e3, xy) == ["--time-unit s"]
    assert kinds(t_s * 20, xy) == []  # 5 Hz is slow, not wrong


# --- what can't be judged --------------------------------------------------------------------------------------------


def test_a_camera_on_a_tripod_can_not_be_judged(tmp_path: Path) -> None:
    scene = render(1053, size_px=SIZE_PX, head_motion=0.0, duration_s=5.0)
    video = write_clip(tmp_path / "still.mp4", (image for _, image in scene.frames()), fps=30)
    report = check(video, recording_of(turned(scene.gaze, "flipped_y")))
    assert report.suspicions == ()
    assert "not enough head motion to judge" in report.to_text().replace("\n" + " " * 14, " ")


def test_another_clips_gaze_raises_no_suspicion(clip: Clip) -> None:
    for seed in range(1060, 1068):
        agreement = compare_with_motion(render(seed, size_px=(16, 12)).gaze, clip.motion)
        assert not agreement.judged
        assert "does not follow the scene" in agreement.reason


def test_little_motion_leaves_doubts_rather_than_a_clean_bill() -> None:
    scene = render(1002, size_px=SIZE_PX, head_motion=0.1)
    motion = estimate_motion(scene.frames())
    agreement = compare_with_motion(turned(scene.gaze, "flipped_y"), motion)
    assert not agreement.wrong_axes
    assert not agreement.axes_clear


@pytest.mark.parametrize("case", ["empty", "all invalid", "one sample", "far future", "longer than the video"])
def test_odd_gaze_gives_a_report(clip: Clip, case: str) -> None:
    gaze = clip.scene.gaze
    samples = {
        "empty": GazeSamples.build([], []),
        "all invalid": GazeSamples.build(gaze.t_s, gaze.xy_norm, valid=np.zeros(len(gaze), dtype=bool)),
        "one sample": gaze.take(np.array([5])),
        "far future": gaze.shifted(1.7e9),
        "longer than the video": GazeSamples.build(
            np.concatenate([gaze.t_s, gaze.t_s + 20]), np.tile(gaze.xy_norm, (2, 1)), valid=np.tile(gaze.valid, 2)
        ),
    }[case]
    report = clip.check(samples)
    assert report.agreement.judged == (case == "longer than the video")
    assert report.kinds == ({"clock_offset"} if case == "far future" else set())
    assert all(len(line) <= 80 for line in report.to_text().splitlines())
    json.dumps(report.to_dict(), allow_nan=False)


def test_clocks_that_share_no_time_are_reported_with_an_offset_that_makes_them(clip: Clip) -> None:
    unix = clip.scene.gaze.shifted(1.7e9)
    (suspicion,) = clip.check(unix).suspicions
    offset_s = float(suspicion.flag.split()[1])
    mended = clip.check(unix.shifted(offset_s), applied_offset_s=offset_s)
    assert mended.overlap_of_video > 0.98
    assert mended.suspicions == ()


def test_a_file_of_fixations_only_is_reported_by_its_fixations(clip: Clip) -> None:
    fixations = replace(clip.scene.fixations, detector="file")
    report = check(clip.video, recording_of(GazeSamples.build([], []), fixations))
    assert (report.fixations, report.detector) == (len(fixations), "device")
    assert report.overlap_of_gaze == pytest.approx(1.0)
    assert not report.agreement.judged


def test_one_frame_and_blank_frames_can_not_be_judged(tmp_path: Path, clip: Clip) -> None:
    frame = clip.scene.frame(0.0)
    one = write_clip(tmp_path / "one.mp4", [frame], fps=30)
    assert "fewer than two" in check(one, recording_of(clip.scene.gaze)).agreement.reason
    blank = write_clip(tmp_path / "blank.mp4", [np.full_like(frame, 90)] * 60, fps=30)
    assert "texture" in check(blank, recording_of(clip.scene.gaze)).agreement.reason
    slow = write_clip(tmp_path / "slow.mp4", [frame] * 10, fps=2)
    assert "500 ms apart" in check(slow, recording_of(clip.scene.gaze)).agreement.reason
    tiny = write_clip(tmp_path / "tiny.mp4", [frame[:16, :16]] * 10, fps=30)
    assert check(tiny, recording_of(clip.scene.gaze)).suspicions == ()


def test_a_missing_video_is_one_line(tmp_path: Path, clip: Clip) -> None:
    with pytest.raises(InputError, match=r"none\.mp4"):
        check(tmp_path / "none.mp4", recording_of(clip.scene.gaze))


# --- the counts ------------------------------------------------------------------------------------------------------


def test_counts_and_shares_are_those_of_the_file(clip: Clip) -> None:
    n = 500
    t_s = np.arange(n) / 100
    xy = np.full((n, 2), 0.5)
    xy[:50] = 1.3  # off the frame
    valid = np.ones(n, dtype=bool)
    valid[100:130] = False  # 0.31 s between its valid neighbours
    valid[200:205] = False  # 60 ms: no gap
    path = write_gaze_csv(clip.folder / "counts.csv", GazeSamples.build(t_s, xy, valid=valid))
    path.write_text(path.read_text() + "what,0.5,0.5,1\n")
    report = check(clip.video, read_gaze(path), motion=clip.motion)
    assert (report.samples, round(report.rate_hz)) == (n, 100)
    assert report.valid_share == pytest.approx(465 / n)
    assert report.off_frame_share == pytest.approx(50 / n)
    assert (report.gaps, report.gap_max_s) == (1, pytest.approx(0.31))
    assert (report.counts["rows_read"], report.counts["rows_unreadable"]) == (n + 1, 1)
    assert report.overlap_s == pytest.approx(4.99)
    assert report.overlap_of_video == pytest.approx(0.499, abs=0.002)
    assert report.overlap_of_gaze == pytest.approx(1.0)
    text = report.to_text()
    assert all(word in text for word in ("100.0 Hz", "93.0%", "10.0%", "longest 0.31 s", "rows_unreadable 1"))


def test_gaps_at_the_ends_count_too() -> None:
    samples = GazeSamples.build(np.arange(10.0), np.zeros((10, 2)), valid=[False] * 3 + [True] * 4 + [False] * 3)
    np.testing.assert_allclose(gap_lengths(samples, limit_s=1.5), [3.0, 3.0])
    nothing = GazeSamples.build([0.0, 4.0], np.zeros((2, 2)), valid=[False, False])
    np.testing.assert_allclose(gap_lengths(nothing, limit_s=0.1), [4.0])


def shared_aria() -> Path:
    from tests.conftest import shared_dir

    return shared_dir("fixtures", "aria_gen1_aea")


def test_the_real_aria_clip_is_too_short_to_judge() -> None:
    folder = shared_aria()
    table = folder / "derived_gaze_px.csv"
    report = check(folder / "derived_rgb_upright.mp4", read_gaze(table))
    assert report.samples == 4
    assert not report.agreement.judged
    assert report.suspicions == ()
    assert "can't judge" in report.to_text()
