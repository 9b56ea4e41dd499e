"""The procedural egocentric scene: gaze, camera, frames and answers must fit together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import ConfigError
from gazeqwen.tiny.scene import CARRIED, STEP_S, Scene, render, to_image

SIZE_PX = (96, 72)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render(2000, size_px=SIZE_PX)


def to_world(xy_norm: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """The inverse of what the renderer does, written independently: (N, 2) normalised -> world."""
    u = (xy_norm[:, 0] - 0.5) / camera[:, 3]
    v = (xy_norm[:, 1] - 0.5) * SIZE_PX[1] / SIZE_PX[0] / camera[:, 3]
    cos, sin = np.cos(camera[:, 2]), np.sin(camera[:, 2])
    return camera[:, :2] + np.stack([cos * u - sin * v, sin * u + cos * v], axis=1)


def camera_at(scene: Scene, times_s: np.ndarray) -> np.ndarray:
    return scene.camera[np.clip(np.round(times_s / STEP_S).astype(int), 0, len(scene.camera) - 1)]


def test_same_seed_same_scene_and_another_seed_another(scene: Scene) -> None:
    again, other = render(2000, size_px=SIZE_PX), render(2001, size_px=SIZE_PX)
    np.testing.assert_array_equal(again.frame(3.0), scene.frame(3.0))
    np.testing.assert_array_equal(again.gaze.xy_norm, scene.gaze.xy_norm)
    assert not np.array_equal(other.frame(3.0), scene.frame(3.0))


def test_gaze_does_not_depend_on_resolution(scene: Scene) -> None:
    large = render(2000, size_px=(2 * SIZE_PX[0], 2 * SIZE_PX[1]))
    np.testing.assert_allclose(large.gaze.xy_norm, scene.gaze.xy_norm)
    # The same view, so halving the large frame gives the small one up to interpolation.
    halved = large.frame(2.0).reshape(SIZE_PX[1], 2, SIZE_PX[0], 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - scene.frame(2.0)).mean() < 6


@pytest.mark.parametrize("seed", [2000, 2001, 2002])
def test_gaze_rests_on_the_object_it_is_said_to_look_at(seed: int) -> None:
    """Undoing the camera puts the tracker's samples of a look into its object: the reflex holds, latency is 0."""
    scene = render(seed, size_px=SIZE_PX)
    objects = {item.name: item for item in scene.objects}
    hits, total = 0, 0
    for look in scene.looks:
        if look.name is None:
            continue
        samples = scene.gaze.between(look.start_s + 0.02, look.stop_s - 0.03)
        samples = samples.take(samples.valid)
        world = to_world(samples.xy_norm, camera_at(scene, samples.t_s))
        if look.pursuit:
            rows = np.round(samples.t_s / STEP_S).astype(int)
            assert look.name == CARRIED
            inside = np.hypot(*(world - scene.hand[rows]).T) < 0.08
        else:
            item = objects[look.name]
            inside = (np.abs(world - item.xy_world) < np.array(item.half_size) * 1.2 + 0.03).all(axis=1)
        hits, total = hits + int(inside.sum()), total + np.size(inside)
    assert total > 500
    assert hits / total > 0.95


def test_looks_are_ordered_and_saccades_between_them_take_20_to_80_ms(scene: Scene) -> None:
    starts, stops = (np.array([getattr(look, edge) for look in scene.looks]) for edge in ("start_s", "stop_s"))
    pauses = starts[1:] - stops[:-1]
    assert (pauses >= 0.02 - 1e-9).all()
    assert (pauses <= 0.08 + 1e-9).all()
    assert len(scene.looks) > 12
    middle = (starts + stops) / 2
    assert [scene.looked_at(float(t)) for t in middle] == [look.name for look in scene.looks]
    assert scene.looked_at(float(stops[0] + pauses[0] / 2)) is None


def test_gaze_has_the_statistics_of_a_wearer_at_work() -> None:
    scenes = [render(seed, size_px=(8, 6)) for seed in range(2010, 2022)]
    xy = np.concatenate([scene.gaze.xy_norm[scene.gaze.valid] for scene in scenes])
    valid = np.concatenate([scene.gaze.valid for scene in scenes])
    assert (xy[:, 1] > 0.5).mean() > 0.6  # the worktop
    assert np.abs(xy[:, 0].mean() - 0.5) < 0.08
    assert 0.85 < valid.mean() < 0.99  # blinks
    assert 0.8 < np.mean([scene.gaze.in_frame.sum() / scene.gaze.valid.sum() for scene in scenes]) < 1
    durations = np.concatenate([scene.fixations.duration_s for scene in scenes])
    assert 0.2 < np.median(durations) < 0.5
    assert all(5 <= len(scene.objects) <= 8 for scene in scenes)


def test_the_head_follows_large_gaze_shifts_late(scene: Scene) -> None:
    """World gaze and camera correlate best with the camera behind."""
    world_x = scene.camera[:, 0]
    gaze_x = np.interp(
        scene.sim_t_s,
        scene.gaze.t_s[scene.gaze.valid],
        to_world(scene.gaze.xy_norm, camera_at(scene, scene.gaze.t_s))[scene.gaze.valid, 0],
    )
    shifts = range(-100, 101, 5)
    score = [np.corrcoef(gaze_x[150:-150], world_x[150 + k : len(world_x) - 150 + k])[0, 1] for k in shifts]
    assert 0.1 <= list(shifts)[int(np.argmax(score))] * STEP_S <= 0.5


def test_fixation_centres_are_the_mean_of_their_gaze(scene: Scene) -> None:
    for start, stop, centre in zip(
        scene.fixations.start_s, scene.fixations.stop_s, scene.fixations.xy_norm, strict=True
    ):
        samples = scene.gaze.between(start, stop)
        xy = samples.xy_norm[samples.valid]
        if len(xy) > 0.8 * len(samples):  # a blink in the middle shifts the mean
            np.testing.assert_allclose(xy.mean(axis=0), centre, atol=0.04)


def test_camera_on_a_tripod_moves_nothing_but_the_hand() -> None:
    scene = render(2003, size_px=SIZE_PX, head_motion=0.0)
    np.testing.assert_allclose(scene.camera, np.broadcast_to(scene.camera[0], scene.camera.shape))
    away = [t for t in scene.frame_times_s if np.isnan(scene.hand[round(t / STEP_S), 0])]
    np.testing.assert_array_equal(scene.frame(away[0]), scene.frame(away[-1]))
    shown = [t for t in scene.frame_times_s if np.isfinite(scene.hand[round(t / STEP_S), 0])]
    assert any(not np.array_equal(scene.frame(t), scene.frame(away[0])) for t in shown[:: max(1, len(shown) // 5)])


def test_objects_are_painted_where_the_camera_says() -> None:
    scene = render(2004, size_px=(160, 120))
    checked = 0
    for t in (0.0, 2.0, 5.0, 8.0):
        image, camera = scene.frame(t), scene.camera[round(t / STEP_S)]
        for item in scene.objects:
            x, y = to_image(np.array(item.xy_world) + np.array([0, -0.6 * item.half_size[1]]), camera) * 160 + [80, 60]
            hand = scene.hand[round(t / STEP_S)]
            if 2 <= x < 158 and 2 <= y < 118 and np.isnan(hand[0]):
                pixel = image[int(y), int(x)].astype(float)
                brightness = pixel.sum() / max(1, sum(item.colour))
                np.testing.assert_allclose(pixel / brightness, item.colour, atol=45)
                checked += 1
    assert checked >= 4


def test_questions_have_four_options_one_of_them_right(scene: Scene) -> None:
    asked = scene.questions()
    assert len(asked) >= 5
    for question, answer in asked:
        assert len(set(question.options)) == 4
        assert answer in question.options
        assert scene.looked_at(question.t_s) == answer
    positions = {question.options.index(answer) for question, answer in asked}
    assert len(positions) > 1


def test_frames_come_in_order_at_the_rate(scene: Scene) -> None:
    short = render(1, duration_s=0.5, fps=20, size_px=(20, 15))
    frames = list(short.frames())
    np.testing.assert_allclose([t for t, _ in frames], np.arange(10) / 20)
    assert all(image.shape == (15, 20, 3) and image.dtype == np.uint8 for _, image in frames)
    assert scene.gaze.rate_hz == pytest.approx(200, rel=0.02)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    duration_s=st.floats(0.05, 4.0),
    gaze_hz=st.floats(20, 300),
    head_motion=st.floats(0, 3),
)
def test_any_short_scene_is_consistent(seed: int, duration_s: float, gaze_hz: float, head_motion: float) -> None:
    scene = render(seed, duration_s=duration_s, size_px=(16, 12), gaze_hz=gaze_hz, head_motion=head_motion)
    assert np.isfinite(scene.camera).all()
    assert (scene.gaze.t_s <= duration_s + 0.01).all()
    assert np.isnan(scene.gaze.xy_norm[~scene.gaze.valid]).all()
    assert all(0 <= look.start_s < look.stop_s <= duration_s + STEP_S for look in scene.looks)
    scene.frame(duration_s)


@pytest.mark.parametrize("bad", [{"duration_s": 0.0}, {"fps": -1.0}, {"gaze_hz": 0.0}, {"size_px": (0, 4)}])
def test_impossible_scenes_are_refused(bad: dict) -> None:
    with pytest.raises(ConfigError, match="positive"):
        render(0, **bad)
    with pytest.raises(ConfigError):
        render(0, head_motion=-0.1)
