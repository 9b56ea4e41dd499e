"""Gaze augmentations: what they change, what they leave, that they repeat, and that none brings in later gaze."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen import GazeQwen
from gazeqwen.errors import ConfigError
from gazeqwen.train.augment import AUGMENTATIONS, augment, build_augmentations, delayed
from gazeqwen.train.examples import Ask, TrainingVideo
from gazeqwen.train.forward import PackedForward
from gazeqwen.types import Fixations, GazeEvents, GazeSamples, Question, Step
from stream.steps import StoredFixations, gaze_events
from tests.made_steps import OPTIONS, QUESTION, made_steps, with_residuals

FRAME = np.zeros((1, 14, 14, 3), dtype=np.uint8)


def step_at(span_s: tuple[float, float], samples: GazeSamples, fixations: Fixations, *, partial: bool = False) -> Step:
    times = span_s[0] + np.array([0.01, 0.26])[: 1 + (span_s[1] - span_s[0] > 0.3)]
    gaze = gaze_events(samples, StoredFixations(fixations).during(*span_s), span_s=span_s, frame_times_s=times)
    return Step(
        frames=FRAME.repeat(2, axis=0),
        frame_times_s=times[[0, -1]],
        span_s=span_s,
        vjepa_frames=FRAME.repeat(len(times), axis=0),
        vjepa_times_s=times,
        gaze=gaze,
        partial=partial,
    )


def video_of(samples: GazeSamples, fixations: Fixations, *, n: int, tails_s: Sequence[float] = ()) -> TrainingVideo:
    """n steps of 0.5 s; questions with a partial step each at `tails_s`, two questions to a moment."""
    steps = [step_at((0.5 * k, 0.5 * (k + 1)), samples, fixations) for k in range(n)]
    asks = []
    for t_s in tails_s:
        stop = int(t_s / 0.5)
        tail = step_at((0.5 * stop, t_s), samples, fixations, partial=True)
        asks += [Ask(Question(QUESTION, t_s, OPTIONS), 0, "knife", stop, tail=tail) for _ in range(2)]
    return TrainingVideo("v", steps, None, asks)


def recording(seed: int, *, until_s: float = 4.0) -> tuple[GazeSamples, Fixations]:
    """50 Hz, fixations of 0.1 to 0.9 s with pauses between, a few samples missing."""
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.uniform(0.1, 0.9, 12))
    start, stop = edges[::2], edges[1::2]
    fixations = Fixations.build(start, stop, rng.uniform(0.1, 0.9, (len(start), 2)))
    times = np.arange(0.003, until_s, 0.02)
    xy = rng.uniform(0.05, 0.95, (len(times), 2))
    return GazeSamples.build(times, xy, valid=rng.random(len(times)) > 0.1), fixations


def made(seed: int = 0, *, n: int = 8) -> TrainingVideo:
    return video_of(*recording(seed), n=n, tails_s=(1.23, 3.31))


def all_gaze(video: TrainingVideo) -> list[GazeEvents]:
    return [step.gaze for step in video.steps] + [ask.tail.gaze for ask in video.asks if ask.tail is not None]


def same(one: GazeEvents, other: GazeEvents) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name), equal_nan=True) for f in fields(one))


def run(video: TrainingVideo, name: str, /, *, seed: int = 1, epoch: int = 0, index: int = 0, **params: Any):
    return augment(video, build_augmentations([{"name": name, "params": params}]), seed=seed, epoch=epoch, index=index)


EVERY: dict[str, dict[str, Any]] = {
    "noise": {"sd_norm": 0.2},
    "bias": {"sd_norm": 0.2},
    "latency": {"max_s": 0.8},
    "dropout": {"share": 0.5},
    "null_gaze": {"step": 0.5},
}


def test_every_augmentation_is_tested_here() -> None:
    assert set(EVERY) == set(AUGMENTATIONS)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_numbers_give_the_same_gaze_and_others_another(name: str) -> None:
    video = made()
    once, again = run(video, name, **EVERY[name]), run(video, name, **EVERY[name])
    assert all(same(a, b) for a, b in zip(all_gaze(once), all_gaze(again), strict=True))
    assert not all(same(a, b) for a, b in zip(all_gaze(once), all_gaze(video), strict=True))
    for other in ({"seed": 2}, {"epoch": 1}, {"index": 1}):
        changed = run(video, name, **other, **EVERY[name])
        assert not all(same(a, b) for a, b in zip(all_gaze(once), all_gaze(changed), strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_only_gaze_changes_and_shared_partial_steps_stay_shared(name: str) -> None:
    video = made()
    before = [gaze.xy_norm.copy() for gaze in all_gaze(video)]
    changed = run(video, name, **EVERY[name])
    for one, other in zip(video.steps, changed.steps, strict=True):
        assert replace(other, gaze=one.gaze).__dict__ == one.__dict__
    assert [ask.question for ask in changed.asks] == [ask.question for ask in video.asks]
    assert changed.asks[0].tail is changed.asks[1].tail and changed.asks[0].tail is not changed.asks[2].tail
    assert all(np.array_equal(a, b.xy_norm, equal_nan=True) for a, b in zip(before, all_gaze(video), strict=True))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    names=st.lists(st.sampled_from(list(EVERY)), min_size=1, max_size=4),
)
def test_events_stay_sound_whatever_is_applied(seed: int, names: list[str]) -> None:
    video = made(seed)
    config = [{"name": name, "params": EVERY[name]} for name in names]
    changed = augment(video, build_augmentations(config), seed=seed, epoch=0, index=0)
    steps = [*changed.steps, *(ask.tail for ask in changed.asks if ask.tail is not None)]
    for step in steps:
        gaze = step.gaze
        assert (gaze.t_s > step.span_s[0]).all() and (gaze.t_s <= step.span_s[1]).all()
        assert (gaze.age_s >= 0).all() and np.allclose(gaze.age_s, step.span_s[1] - gaze.t_s)
        assert (gaze.t_s - gaze.duration_s >= step.span_s[0] - 1e-9).all() and (gaze.duration_s >= 0).all()
        assert np.array_equal(np.isfinite(gaze.xy_norm).all(axis=1), gaze.valid)
        assert ((gaze.xy_norm[gaze.valid] >= 0) & (gaze.xy_norm[gaze.valid] <= 1)).all()
        assert np.isin(gaze.frame_t_s, step.vjepa_times_s).all()
        assert (np.diff(gaze.t_s) >= 0).all() and not (gaze.sample_used & ~gaze.sample_valid).any()
    if "latency" not in names:
        assert [len(gaze) for gaze in all_gaze(changed)] == [len(gaze) for gaze in all_gaze(video)]
        for one, other in zip(all_gaze(video), all_gaze(changed), strict=True):
            assert np.array_equal(one.t_s, other.t_s) and not (other.valid & ~one.valid).any()


# -- noise, bias -------------------------------------------------------------------------------------------------------


def shifts(video: TrainingVideo, changed: TrainingVideo) -> np.ndarray:
    pairs = zip(all_gaze(video), all_gaze(changed), strict=True)
    return np.concatenate([(other.xy_norm - one.xy_norm)[one.valid & other.valid] for one, other in pairs])


def test_noise_has_its_size_and_is_another_for_each_event() -> None:
    moved = np.concatenate(
        [shifts(video := made(seed), run(video, "noise", index=seed, sd_norm=0.01)) for seed in range(30)]
    )
    assert len(moved) > 400 and moved.std() == pytest.approx(0.01, rel=0.1) and abs(moved.mean()) < 0.002
    assert len(np.unique(moved[:, 0])) > 0.6 * len(moved)  # questions of one moment share a partial step


def test_bias_is_one_offset_for_the_video_with_its_partial_steps() -> None:
    found = [shifts(video := made(seed), run(video, "bias", index=seed, sd_norm=0.03)) for seed in range(60)]
    assert all(np.allclose(offsets, offsets[0]) for offsets in found)
    assert np.std([offsets[0] for offsets in found]) == pytest.approx(0.03, rel=0.3)


def test_an_event_that_leaves_the_frame_is_missing_and_no_edge_is_looked_at() -> None:
    video = made()
    changed = run(video, "bias", sd_norm=20.0)
    assert not any(gaze.any_valid or gaze.sample_used.any() for gaze in all_gaze(changed))
    assert [len(gaze) for gaze in all_gaze(changed)] == [len(gaze) for gaze in all_gaze(video)]


# -- latency -----------------------------------------------------------------------------------------------------------


def fixations_of(gaze: GazeEvents) -> np.ndarray:
    """(F, 6) end, length, age, x, y, frame, in order of time."""
    rows = gaze.is_fixation
    columns = (gaze.t_s, gaze.duration_s, gaze.age_s, gaze.xy_norm[:, 0], gaze.xy_norm[:, 1], gaze.frame_t_s)
    table = np.stack([column[rows] for column in columns], axis=1)
    return table[np.lexsort((table[:, 3], table[:, 0]))]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), delay_s=st.floats(0.001, 1.7))
def test_latency_equals_steps_of_the_delayed_recording(seed: int, delay_s: float) -> None:
    samples, fixations = recording(seed)
    theirs = video_of(samples.shifted(delay_s), fixations.shifted(delay_s), n=8, tails_s=(1.23, 3.31))
    ours = delayed(video_of(samples, fixations, n=8, tails_s=(1.23, 3.31)), delay_s)
    for one, other in zip(all_gaze(ours), all_gaze(theirs), strict=True):
        np.testing.assert_allclose(fixations_of(one), fixations_of(other), atol=1e-9)
        assert one.open_fixations == other.open_fixations
        inside = other.sample_t_s > delay_s  # ours has no samples of a time before the first step
        np.testing.assert_allclose(one.sample_t_s, other.sample_t_s[inside], atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), delay_s=st.floats(0.0, 1.7), known=st.integers(0, 7))
def test_no_later_gaze_comes_in_through_latency(seed: int, delay_s: float, known: int) -> None:
    """Whatever happens after step `known`, it and the partial steps before the next one are as they were."""
    video, other = made(seed), made(seed + 1)
    spliced = replace(video, steps=[*video.steps[: known + 1], *other.steps[known + 1 :]])
    one, two = delayed(video, delay_s), delayed(spliced, delay_s)
    for k in range(known + 1):
        assert same(one.steps[k].gaze, two.steps[k].gaze)
    for ask, changed in zip(one.asks, two.asks, strict=True):
        if ask.stop <= known + 1:
            assert ask.tail is not None and changed.tail is not None and same(ask.tail.gaze, changed.tail.gaze)


def test_a_delay_longer_than_the_video_leaves_no_gaze_and_none_leaves_all() -> None:
    video = made()
    assert delayed(video, 0.0) is video
    assert [len(gaze) for gaze in all_gaze(delayed(video, 60.0))] == [0] * 12


def test_steps_without_gaze_take_what_comes_late_from_before_them() -> None:
    video = made()
    steps = [step if k < 2 else step.without_gaze() for k, step in enumerate(video.steps)]
    late = delayed(replace(video, steps=steps, asks=[]), 1.0)
    for k in (0, 1):
        np.testing.assert_allclose(late.steps[k + 2].gaze.xy_norm, steps[k].gaze.xy_norm)
        np.testing.assert_allclose(late.steps[k + 2].gaze.age_s, steps[k].gaze.age_s, atol=1e-9)


# -- dropout, null gaze ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst_s", [0.0, 0.4])
def test_dropout_loses_its_share(burst_s: float) -> None:
    kept = before = 0
    for seed in range(60):
        video = made(seed)
        before += sum(int(gaze.valid.sum()) for gaze in all_gaze(video))
        changed = run(video, "dropout", index=seed, share=0.3, burst_s=burst_s)
        kept += sum(int(gaze.valid.sum()) for gaze in all_gaze(changed))
    assert 1 - kept / before == pytest.approx(0.3, abs=0.05)


def test_a_burst_takes_everything_of_its_time_and_single_losses_do_not() -> None:
    def changes(burst_s: float) -> int:
        """Neighbouring events of which one is lost."""
        total = 0
        for seed in range(30):
            video = made(seed)
            changed = run(video, "dropout", index=seed, share=0.5, burst_s=burst_s)
            pairs = list(zip(video.steps, changed.steps, strict=True))
            lost = np.concatenate([(a.gaze.valid & ~b.gaze.valid)[a.gaze.valid] for a, b in pairs])
            total += int((lost[1:] != lost[:-1]).sum())
            times = {t: v for _, b in pairs for t, v in zip(b.gaze.t_s, b.gaze.valid, strict=True)}
            for ask in changed.asks:
                assert ask.tail is not None
                gaze = ask.tail.gaze
                known = [(v, times[t]) for t, v in zip(gaze.t_s, gaze.valid, strict=True) if t in times]
                assert not burst_s or all(one == other for one, other in known)
        return total

    assert changes(1.0) < 0.6 * changes(0.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_dropout_of_none_and_of_all(share: float) -> None:
    video = made()
    changed = run(video, "dropout", share=share, burst_s=0.5)
    for one, other in zip(all_gaze(video), all_gaze(changed), strict=True):
        assert np.array_equal(other.valid, one.valid & (share == 0.0))


def test_null_gaze_is_the_arm_null() -> None:
    model = with_residuals(GazeQwen.from_pretrained("tiny"))
    steps = made_steps(3)
    tail = replace(made_steps(1, start_s=3.0, seed=4)[0], partial=True)
    asks = [Ask(Question(QUESTION, 4.0, OPTIONS), 0, "knife", 3, tail=tail)]
    video = TrainingVideo("v", steps, None, asks)
    null = run(video, "null_gaze", video=1.0)
    with torch.no_grad():
        (ours,) = PackedForward(model, "inject")([null], [["letters"]])
        (theirs,) = PackedForward(model, "null")([video], [["letters"]])
        (with_gaze,) = PackedForward(model, "inject")([video], [["letters"]])
    assert ours.logprobs is not None and theirs.logprobs is not None and with_gaze.logprobs is not None
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, atol=1e-6, rtol=0)
    assert (ours.logprobs - with_gaze.logprobs).abs().max() > 1e-3


def test_null_gaze_takes_whole_videos_or_steps() -> None:
    untouched = 0
    for seed in range(80):
        before = [gaze.any_valid for gaze in all_gaze(made(seed))]
        after = [gaze.any_valid for gaze in all_gaze(run(made(seed), "null_gaze", index=seed, video=0.25))]
        assert after == before or not any(after)
        untouched += after == before
    assert 48 < untouched < 72
    stepwise = [g.any_valid for seed in range(40) for g in all_gaze(run(made(seed), "null_gaze", index=seed, step=0.5))]
    assert 0.4 < np.mean(stepwise) < 0.6


# -- configuration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "blur"}, r"unknown augmentation 'blur'; known are noise, bias, latency, dropout, null_gaze"),
        ({"name": "noise", "params": {"sd": 1}}, r"'noise': unknown parameters sd; known are sd_norm"),
        ({"name": "dropout", "params": {"share": 1.5}}, r"'dropout': share in \[0, 1\], got 1.5"),
        ({"name": "latency", "params": {"max_s": -1}}, r"'latency': max_s >= 0, got -1"),
        ({"name": "null_gaze", "params": {"video": 2}}, r"'null_gaze': video in \[0, 1\], got 2"),
        ({"name": "bias"}, r"'bias': needs sd_norm"),
        ({"name": "noise", "params": {"sd_norm": "wide"}}, "'noise': a number for sd_norm, got 'wide'"),
        ({"params": {}}, "entries of name and params"),
        ({"name": "noise", "sd_norm": 0.1}, "entries of name and params"),
    ],
)
def test_a_wrong_entry_is_named_in_one_line(entry: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        build_augmentations([entry])
    assert "\n" not in str(refusal.value)


def test_order_is_the_lists_and_another_entry_changes_no_draw() -> None:
    noise, late = {"name": "noise", "params": {"sd_norm": 0.01}}, {"name": "null_gaze", "params": {}}
    video = made()
    alone = augment(video, build_augmentations([noise]), seed=3, epoch=0, index=0)
    then = augment(video, build_augmentations([noise, late]), seed=3, epoch=0, index=0)
    assert all(same(a, b) for a, b in zip(all_gaze(alone), all_gaze(then), strict=True))
