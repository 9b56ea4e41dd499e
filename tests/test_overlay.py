"""The overlay: what is drawn is what the tracker said, where and when it said it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeSamples
from stream.overlay import GAZE_TOLERANCE_S, RED, TRAIL_S, YELLOW, draw_gaze, write_overlay
from stream.video import iter_frames, probe
from stream.video_writer import write_clip

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)


def near(image: np.ndarray, colour: tuple[int, int, int], *, tolerance: int = 12) -> np.ndarray:
    """(H, W) pixels of about this colour, the text bar left out."""
    close = np.asarray((np.abs(image.astype(int) - np.array(colour)) <= tolerance).all(axis=-1))
    close[-18:] = False
    return close


def bar_changed(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image[-18:].astype(int) - colour) <= 30).all(axis=-1).any())


def one_sample(x: float, y: float, *, t_s: float = 1.0, valid: bool = True) -> GazeSamples:
    return GazeSamples.build([t_s], [[x, y]], valid=[valid])


@settings(max_examples=30, deadline=None)
@given(x=st.floats(0.05, 0.95), y=st.floats(0.05, 0.75))
def test_the_dot_is_where_gaze_is(x: float, y: float) -> None:
    before = GREY.copy()
    image = draw_gaze(before, one_sample(x, y))
    np.testing.assert_array_equal(before, GREY)
    rows, columns = np.nonzero(near(image, RED))
    assert abs(rows.mean() + 0.5 - y * 120) < 0.6
    assert abs(columns.mean() + 0.5 - x * 160) < 0.6


@settings(max_examples=30, deadline=None)
@given(x=st.floats(-1e6, 1e6), y=st.floats(-1e6, 1e6), height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_gaze_on_any_size_is_drawn_or_cut(x: float, y: float, height: int, width: int) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    fixation = Fixations.build([0.5], [2.0], [[x, y]])
    assert draw_gaze(image, one_sample(x, y), fixation).shape == image.shape


@pytest.mark.parametrize(
    "samples",
    [
        one_sample(0.5, 0.5, valid=False),
        one_sample(0.5, 0.5, t_s=1.0 - GAZE_TOLERANCE_S - 0.01),
        GazeSamples.build([], []),
    ],
    ids=["invalid", "stale", "empty"],
)
def test_no_gaze_is_said_and_not_drawn(samples: GazeSamples) -> None:
    image = draw_gaze(GREY, samples, now_s=1.0)
    np.testing.assert_array_equal(image[:-18], GREY[:-18])
    assert bar_changed(image, YELLOW)
    assert not bar_changed(draw_gaze(GREY, one_sample(0.5, 0.5), now_s=1.0), YELLOW)


def test_an_invalid_newest_sample_is_not_replaced_by_an_older_one() -> None:
    samples = GazeSamples.build([0.98, 1.0], [[0.3, 0.3], [0.5, 0.5]], valid=[True, False])
    assert not near(draw_gaze(GREY, samples), RED).any()


def test_nothing_later_than_now_is_drawn() -> None:
    samples = GazeSamples.build([1.0, 1.02], [[0.2, 0.3], [0.8, 0.3]])
    columns = np.nonzero(near(draw_gaze(GREY, samples, now_s=1.01), RED))[1]
    assert columns.max() < 60


def test_the_ring_is_round_the_centre_and_grows_with_time() -> None:
    samples = one_sample(0.9, 0.1, t_s=0.2)
    short = draw_gaze(GREY, samples, Fixations.build([0.0], [3.0], [[0.5, 0.4]]), now_s=0.2)
    long = draw_gaze(GREY, one_sample(0.9, 0.1, t_s=0.9), Fixations.build([0.0], [3.0], [[0.5, 0.4]]), now_s=0.9)
    none = draw_gaze(GREY, samples, now_s=0.2)
    assert not near(none, YELLOW).any()

    def reach(image: np.ndarray) -> float:  # to the left, where no label is
        columns = np.nonzero(near(image, YELLOW)[48])[0]
        return 80 - float(columns.min())

    assert 8 < reach(short) < reach(long) < 40


def test_the_trail_shows_where_gaze_came_from_and_a_gap_stays_a_gap() -> None:
    t_s = np.array([0.80, 0.82, 0.84, 0.86])
    xy = np.array([[0.2, 0.3], [0.4, 0.3], [0.6, 0.3], [0.8, 0.3]])
    whole = draw_gaze(GREY, GazeSamples.build(t_s, xy))
    assert (whole[36, 32:125] != GREY[36, 32:125]).any(axis=-1).all()
    broken = draw_gaze(GREY, GazeSamples.build(t_s, xy, valid=[True, False, True, True]))
    np.testing.assert_array_equal(broken[36, 35:93], GREY[36, 35:93])
    late = draw_gaze(GREY, GazeSamples.build(t_s - np.array([1, 1, 1, 0]) * TRAIL_S, xy))
    np.testing.assert_array_equal(late[36, 32:110], GREY[36, 32:110])


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8 RGB"):
        draw_gaze(image, GazeSamples.build([], []))


def test_the_overlay_video_keeps_times_and_marks_every_frame(tmp_path: Path) -> None:
    times_s = [0.0, 0.04, 0.1, 0.13, 0.2, 0.3, 0.34]
    video = write_clip(tmp_path / "in.mp4", [GREY] * len(times_s), times_s=times_s)
    # Gaze begins at 0.09 s, is invalid at 0.2 s, and ends before 0.3 s: two frames have a dot.
    gaze = GazeSamples.build([0.09, 0.12, 0.2], [[0.25, 0.5], [0.75, 0.5], [0.5, 0.5]], valid=[True, True, False])
    seen: list[float] = []
    out = tmp_path / "new" / "out.mp4"
    tally = write_overlay(video, gaze, Fixations.empty(), out, progress=lambda now_s, _: seen.append(now_s))
    assert tally == {"frames": 7, "frames_without_gaze": 5}
    np.testing.assert_allclose(seen, times_s, atol=1e-5)
    frames = list(iter_frames(out))
    np.testing.assert_allclose([frame.time_s for frame in frames], times_s, atol=1e-5)
    places = [np.nonzero(near(frame.image, RED, tolerance=60))[1] for frame in frames]
    assert [columns.size > 0 for columns in places] == [False, False, True, True, False, False, False]
    assert abs(places[2].mean() - 40) < 3
    assert 118 <= places[3].max() <= 126  # its trail leads back to the first place


def test_small_frames_are_enlarged_and_gaze_is_drawn_at_the_new_size(tmp_path: Path) -> None:
    columns = np.arange(48, dtype=np.uint8) * 4
    frame = np.broadcast_to(columns[None, :, None], (32, 48, 3)).copy()
    video = write_clip(tmp_path / "in.mp4", [frame] * 3, fps=10)
    gaze = GazeSamples.build(np.arange(3) / 10, [[0.25, 0.5]] * 3)
    write_overlay(video, gaze, Fixations.empty(), tmp_path / "out.mp4", enlarge=4)
    info = probe(tmp_path / "out.mp4")
    assert (info.width_px, info.height_px) == (192, 128)
    image = next(iter_frames(tmp_path / "out.mp4")).image
    red = np.nonzero(near(image, RED, tolerance=60))
    assert abs(red[0].mean() - 64) < 3 and abs(red[1].mean() - 48) < 3
    plain = image[10, :, 0].astype(int)
    assert np.abs(plain - np.repeat(columns, 4)).mean() < 8


def test_the_video_itself_is_never_overwritten(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "in.mp4", [GREY] * 3, fps=10)
    before = video.read_bytes()
    with pytest.raises(InputError, match="the video itself"):
        write_overlay(video, GazeSamples.build([], []), Fixations.empty(), video)
    assert video.read_bytes() == before


def test_a_damaged_video_leaves_no_overlay(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "in.mp4", [np.roll(GREY, k, axis=0) // (k + 1) for k in range(30)], fps=10)
    assert probe(whole).width_px == 160
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(InputError):
        write_overlay(cut, GazeSamples.build([], []), Fixations.empty(), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
