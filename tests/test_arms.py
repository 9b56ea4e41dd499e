"""The registry of arms: what each does to a step, where its gaze and its weights come from, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze.shuffle import gaze_donors
from gazeqwen.arms import (
    ARMS,
    LAG_S,
    SALIENCE_SIGMA_WIDTHS,
    draw_marker,
    get_arm,
    require_one_recording,
    require_weights,
    salience_frames,
)
from gazeqwen.cli import main
from gazeqwen.errors import ConfigError, FutureDataError, InputError
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.resampler import build_resampler
from gazeqwen.tiny import TINY_CONFIG
from gazeqwen.types import Fixations, GazeEvents, Step
from stream.borrowed_gaze import BorrowedGaze
from stream.recording import Recording, open_recording
from stream.video import write_clip
from tests.made_steps import made_steps

TRAINED_ALONE = {"marker-trained", "no-features", "skip-only"}


def with_gaze(step: Step, *rows: tuple[float, float, float, float, bool]) -> Step:
    """A step with these events: (t_s, duration_s, x, y, is a fixation); NaN coordinates are missing gaze."""
    t_s, duration_s, x, y, fixation = (np.array(column) for column in zip(*rows, strict=True))
    valid = np.isfinite(x)
    return replace(
        step,
        gaze=GazeEvents(
            t_s=t_s,
            xy_norm=np.stack([x, y], axis=1),
            duration_s=duration_s,
            age_s=step.span_s[1] - t_s,
            valid=valid,
            is_fixation=fixation.astype(bool),
            frame_t_s=t_s,
            sample_t_s=np.linspace(0.05, 0.95, 10),
            sample_valid=np.ones(10, dtype=bool),
            sample_used=np.ones(10, dtype=bool),
        ),
    )


# -- the registry ------------------------------------------------------------------------------------------------------


def test_arms_by_name() -> None:
    assert set(ARMS) == {
        *("inject", "none", "null", "center", "lagged", "text", "marker", "heatmap", "shuffled", "blind"),
        *("marker-trained", "no-features", "skip-only", "oracle", "oracle-no-gaze"),
    }
    assert all(ARMS[name].name == name and ARMS[name].title for name in ARMS)

    def those(field: str, value: object = True) -> set[str]:
        return {name for name, arm in ARMS.items() if getattr(arm, field) == value}

    assert those("inject") == {"inject", "null", "center", "lagged", "shuffled", "no-features", "skip-only"}
    assert those("gaze_lag_s", LAG_S) == {"lagged"} and those("gaze_in_prompt") == {"text"}
    assert those("video", False) == {"blind"} and those("salience") == {"heatmap"}
    assert those("gaze_from_other") == {"shuffled"} and those("solver") == {"oracle", "oracle-no-gaze"}
    assert those("changes_frames") == {"marker", "marker-trained"}
    assert those("features_zeroed") == {"no-features", "skip-only"}
    assert those("weights", "own") == TRAINED_ALONE and those("weights", "own-or-model") == {"null", "blind"}
    assert those("gaze_reaches", False) == {"none", "null", "center", "blind", "oracle-no-gaze"}
    with pytest.raises(ConfigError, match="arms are inject, none"):
        get_arm("telepathy")


def test_arms_change_steps_as_their_fields_say_and_never_the_callers() -> None:
    step = made_steps(1)[0]
    frames, events = step.frames.copy(), step.gaze.xy_norm.copy()
    for name, arm in ARMS.items():
        prepared = arm.prepare(step)
        assert (prepared is step) == (not arm.changes_frames and name not in ("null", "center"))
        assert (prepared.frames is not step.frames) == arm.changes_frames
        assert prepared.vjepa_frames is step.vjepa_frames and prepared.span_s == step.span_s
    assert np.array_equal(step.frames, frames) and np.array_equal(step.gaze.xy_norm, events)


def test_center_is_one_event_in_the_middle_whatever_the_wearer_did() -> None:
    step = made_steps(1)[0]
    seen, blind = (ARMS["center"].prepare(one).gaze for one in (step, step.without_gaze()))
    assert seen.xy_norm.tolist() == blind.xy_norm.tolist() == [[0.5, 0.5]]
    assert seen.valid.all() and seen.duration_s.tolist() == [step.span_s[1] - step.span_s[0]]
    assert len(ARMS["null"].prepare(step).gaze) == 0


def test_control_arms_change_the_scanpath_that_the_published_model_reads() -> None:
    path = Fixations.build([0.0, 1.0], [0.5, 2.0], [[0.1, 0.2], [0.9, 0.8]])
    assert len(ARMS["null"].scanpath(path)) == 0
    centred = ARMS["center"].scanpath(path)
    assert (centred.xy_norm == 0.5).all() and centred.start_s.tolist() == [0.0, 1.0]
    assert ARMS["inject"].scanpath(path) is path


@pytest.mark.parametrize("name", ["shuffled", "oracle", "oracle-no-gaze"])
def test_ask_refuses_arms_that_one_recording_is_not_enough_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=f"arm '{name}' .*: run `gazeqwen eval streamgaze`"):
        require_one_recording(name)
    assert main(["ask", "no.mp4", "--gaze", "no.csv", "--question", "What?", "--arm", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gazeqwen: error: arm '{name}'")


def test_weights_of_one_arm_answer_for_no_other() -> None:
    for name in set(ARMS) - TRAINED_ALONE - {"oracle", "oracle-no-gaze"}:
        assert require_weights(name, "").name == require_weights(name, name).name == name
    for name, held in (("skip-only", ""), ("inject", "null"), ("null", "skip-only"), ("oracle", "")):
        with pytest.raises(ConfigError, match=f"arm '{name}'"):
            require_weights(name, held)


# -- drawn on the frames -----------------------------------------------------------------------------------------------


def test_the_marker_has_streamgazes_geometry_at_its_own_width() -> None:
    image = np.full((480, 640, 3), 128, dtype=np.uint8)
    draw_marker(image, np.array([0.5, 0.5]))
    row = image[240]  # through the middle: red at 100 px, black at 10, green up to 8
    assert (row[[320 - 100, 320 + 100]] == (255, 0, 0)).all() and (row[[220 - 4, 220 + 4]] == 128).all()
    assert (row[[310, 330]] == (0, 0, 0)).all() and (row[[312, 320, 328]] == (0, 255, 0)).all()
    area = [int((image == colour).all(axis=-1).sum()) for colour in ((255, 0, 0), (0, 0, 0), (0, 255, 0))]
    assert area == pytest.approx([3144, 194, 197], rel=0.02)  # OpenCV 4's pixels, counted


@given(width=st.integers(28, 900), height=st.integers(28, 700), x=st.floats(0, 1), y=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_marker_scales_with_the_width_and_stays_in_its_circle(width: int, height: int, x: float, y: float) -> None:
    image = np.full((height, width, 3), 128, dtype=np.uint8)
    draw_marker(image, np.array([x, y]))
    rows, columns = np.nonzero((image != 128).any(axis=-1))
    at = min(int(x * width), width - 1), min(int(y * height), height - 1)
    reach = np.hypot(columns - at[0], rows - at[1]).max()
    assert reach <= 102.5 * width / 640 + 0.5 and tuple(image[at[1], at[0]]) == (0, 255, 0)


def test_every_frame_gets_the_event_nearest_to_it_or_none() -> None:
    step = made_steps(1)[0]  # frames at 0 and 0.5 s
    early, late = (0.2, 0.2, 0.2, 0.5, True), (0.9, 0.3, 0.8, 0.5, True)
    both = ARMS["marker"].prepare(with_gaze(step, early, late))
    for frame, original, x in zip(both.frames, step.frames, (0.2, 0.8), strict=True):
        alone = original.copy()
        draw_marker(alone, np.array([x, 0.5]))
        assert np.array_equal(frame, alone)
    # gaze that is missing at the second frame: a clean one, as upstream's untracked frames
    missing = ARMS["marker"].prepare(with_gaze(step, early, (0.5, 0.0, np.nan, np.nan, False)))
    assert np.array_equal(missing.frames[0], both.frames[0]) and np.array_equal(missing.frames[1], step.frames[1])
    # a fixation centred outside the frame is passed over for its own samples
    outside = with_gaze(step, (0.9, 0.9, np.nan, np.nan, True), (0.5, 0.0, 0.8, 0.5, False))
    assert np.array_equal(ARMS["marker"].prepare(outside).frames[1], both.frames[1])
    assert ARMS["marker"].prepare(step.without_gaze()).frames is step.frames


def test_the_evidence_of_marker_is_what_it_draws() -> None:
    step = made_steps(1)[0]
    rows: Sequence[tuple[float, float, float, float, bool]] = [
        (0.1, 0.1, 0.2, 0.5, True),
        (0.3, 0.0, 0.4, 0.5, False),
        (0.55, 0.2, 0.8, 0.5, True),
        (0.9, 0.0, 0.9, 0.5, False),
    ]
    step = with_gaze(step, *rows)
    shown = ARMS["marker"].reaching(step.gaze, step.frame_times_s)
    assert shown.xy_norm[:, 0].tolist() == [0.2, 0.8] and shown.valid.all()
    used = step.gaze.sample_t_s[shown.sample_used]  # samples of the two fixations, [0, 0.1] and [0.35, 0.55]
    assert used.size and ((used <= 0.1) | ((used >= 0.35) & (used <= 0.55))).all()
    assert ARMS["inject"].reaching(step.gaze, step.frame_times_s) is step.gaze
    assert len(ARMS["null"].reaching(step.gaze, step.frame_times_s)) == 0
    nothing = ARMS["marker"].reaching(GazeEvents.none(), step.frame_times_s)
    assert len(nothing) == 0 and nothing.sample_used.size == 0


# -- the salience image ------------------------------------------------------------------------------------------------


def test_salience_is_gaussians_weighted_by_duration() -> None:
    step = made_steps(1)[0]
    step = with_gaze(step, (0.4, 0.4, 0.25, 0.5, True), (0.6, 0.1, 0.75, 0.5, True), (0.9, 0.0, np.nan, np.nan, False))
    frames = salience_frames([step], (160, 120), 1.0)
    assert frames.shape == (2, 120, 160, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames[0], frames[1]) and (frames == frames[..., :1]).all()
    row = frames[0, 60, :, 0].astype(float)
    assert row.max() == 255 == row[40] and row[120] == pytest.approx(255 / 4, abs=1.5)
    sigma_px = SALIENCE_SIGMA_WIDTHS * 160
    for y, x, away_px in ((60, 40 + round(sigma_px), round(sigma_px)), (60 - round(sigma_px), 40, round(sigma_px))):
        expected = 255 * np.exp(-0.5 * ((away_px - 0.5) / sigma_px) ** 2)
        assert frames[0, y, x, 0] == pytest.approx(expected, rel=0.1)


def test_salience_sees_nothing_later_than_the_question() -> None:
    early, late = made_steps(2)
    before = salience_frames([early], (80, 60), 1.0)
    with pytest.raises(FutureDataError, match=r"question's time is 1\.000 s"):
        salience_frames([early, late], (80, 60), 1.0)
    assert not np.array_equal(before, salience_frames([early, late], (80, 60), 2.0))
    assert not salience_frames([early.without_gaze()], (80, 60), 1.0).any() and not salience_frames([], (8, 6), 0).any()


# -- another recording's gaze ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(names=st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=40), seed=st.integers(0, 2**32))
def test_every_video_gets_another_ones_gaze_whatever_the_order(names: set[str], seed: int) -> None:
    pairs = gaze_donors(names, seed)
    assert set(pairs) == set(pairs.values()) == names
    assert all(video != donor for video, donor in pairs.items())
    assert gaze_donors(sorted(names, reverse=True) * 2, seed) == pairs


def test_the_pairs_depend_on_the_seed_and_need_two_videos() -> None:
    names = [f"{k}.mp4" for k in range(20)]
    assert len({tuple(sorted(gaze_donors(names, seed).items())) for seed in range(5)}) == 5
    assert gaze_donors(["a", "b"], 7) == {"a": "b", "b": "a"}
    for alone in ([], ["a.mp4", "a.mp4"]):
        with pytest.raises(ConfigError, match="needs 2 videos with gaze"):
            gaze_donors(alone, 0)


def clip(folder: Path, name: str, seconds: float, *, gaze: str | None) -> Recording:
    """A video of 10 frames a second; gaze "samples", "fixations" or None."""
    path = folder / f"{name}.mp4"
    images = np.zeros((round(10 * seconds), 32, 48, 3), dtype=np.uint8)
    write_clip(path, images, fps=10)
    file = folder / f"{name}_gaze.csv"
    if gaze == "samples":
        t_s = np.arange(0, seconds, 0.05)
        file.write_text("t_s,x_norm,y_norm\n" + "".join(f"{t:.2f},{t / 10:.3f},0.5\n" for t in t_s))
    elif gaze == "fixations":
        file.write_text(
            "fixation_id,start_time_seconds,end_time_seconds,center_x,center_y\n"
            f"0,0.5,1.0,0.2,0.5\n1,{seconds - 0.5},{seconds + 0.5},0.8,0.5\n"
        )
    return open_recording(path, None if gaze is None else file)


@pytest.mark.parametrize("kind", ["samples", "fixations"])
def test_borrowed_gaze_is_the_donors_and_begins_again_where_it_ends(tmp_path: Path, kind: str) -> None:
    own, donor = clip(tmp_path, "own", 5.0, gaze="samples"), clip(tmp_path, "donor", 2.0, gaze=kind)
    borrowed = BorrowedGaze(own, donor)
    assert borrowed.gaze_donor == "donor.mp4" and borrowed.path == own.path and borrowed.end_s == own.end_s == 5.0
    assert borrowed.detector == donor.detector and len(own.samples) == 100
    if kind == "samples":
        assert len(borrowed.samples) == 3 * len(donor.samples) == 120
        assert np.allclose(borrowed.samples.t_s, np.concatenate([donor.samples.t_s + 2.0 * k for k in range(3)]))
        assert np.allclose(borrowed.samples.xy_norm, np.tile(donor.samples.xy_norm, (3, 1)))
    else:
        assert borrowed.fixations.start_s.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
        assert borrowed.fixations.stop_s.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # cut at the donor's end
    steps, plain = list(borrowed.steps(fps=2)), list(own.steps(fps=2))
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(steps, plain, strict=True))
    assert all(step.gaze.any_valid for step in steps)
    if kind == "samples":
        seen = np.concatenate([step.gaze.xy_norm[step.gaze.valid] for step in steps])
        assert (seen[:, 0] < 0.2).all()  # the donor looked at x = t / 10 for two seconds


def test_a_longer_donor_is_not_repeated_and_one_without_gaze_lends_none(tmp_path: Path) -> None:
    own, donor = clip(tmp_path, "own", 2.0, gaze=None), clip(tmp_path, "donor", 3.0, gaze="samples")
    borrowed = BorrowedGaze(own, donor)
    assert len(borrowed.samples) == len(donor.samples)
    assert list(borrowed.steps(fps=2, until_s=1.0))[-1].gaze.any_valid
    with pytest.raises(InputError, match=r"own\.mp4: expected a recording with gaze to lend"):
        BorrowedGaze(donor, own)


# -- the resampler of skip-only ----------------------------------------------------------------------------------------


def test_skip_only_is_one_vector_times_a_gaussian_at_gaze() -> None:
    config = replace(TINY_CONFIG, resampler=replace(TINY_CONFIG.resampler, kind="skip"))
    module: Any = build_resampler(config, feature_dim=96, hidden_dim=8, n_layers=4)
    assert {name: tuple(p.shape) for name, p in module.named_parameters()} == {"vector": (8,)}
    steps = [step.gaze for step in made_steps(2)] + [GazeEvents.none()]
    steps[0] = with_gaze(made_steps(1)[0], (0.5, 0.2, 0.375, 0.125, True)).gaze  # the middle of token (0, 1) of 4 x 4
    gaze, features = GazeBatch.from_events(steps), torch.randn(3, 2, 4, 4, 96)
    assert not module(features, gaze).base.any()  # zero at the start
    with torch.no_grad():
        module.vector.copy_(torch.arange(1.0, 9.0))
    found = module(features, gaze)
    assert found.layers == module.layers and len(found.layers) == 2
    for layer in found.layers:
        residual = found.for_layer(layer)
        assert residual.shape == (3, 16, 8) and torch.equal(residual[0, 1], module.vector) and not residual[2].any()
        bell = torch.exp(torch.tensor(-(0.25**2) / 2 / 0.1**2))  # the next token, a quarter of a frame away
        assert torch.allclose(residual[0, 2], bell * module.vector)
    assert torch.equal(found.base, module(torch.zeros_like(features), gaze).base)
    module(features, gaze).base.sum().backward()
    assert module.vector.grad is not None and module.vector.grad.abs().min() > 0
    with pytest.raises(InputError, match="for 2 steps of gaze"):
        module(features, gaze.select([0, 1]))
    with pytest.raises(ConfigError, match=r"resampler\.kind: gaze, official or skip"):
        replace(TINY_CONFIG.resampler, kind="none")  # type: ignore[arg-type]
