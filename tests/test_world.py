"""The tiny world: log, frames, gaze and estimates must tell one story, and names must tell nothing."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import ConfigError
from gazeqwen.event_log import AttributeSpan
from gazeqwen.tiny.model import tiny_tokenizer
from gazeqwen.tiny.world import (
    PRETRAINING_SEEDS,
    TEST_SEEDS,
    TRAINING_SEEDS,
    USER_SEEDS,
    VALIDATION_SEEDS,
    World,
    world_seed,
)
from gazeqwen.tiny.world_events import DIRECTIONS, FLASHES, KNOCK_WIDTHS, STATES, STEP_S, STEPS_XY, VERBS
from gazeqwen.tiny.world_gaze import true_gaze
from gazeqwen.tiny.world_parameters import FOV_RADIUS_WIDTHS, WorldParameters
from gazeqwen.tiny.world_sprites import COLOURS, FLASH_COLOURS, NOUNS, object_sprite
from gazeqwen.tiny.world_statistics import agreement, between_frames, main, nearest_hits

SEEDS = st.integers(0, 50_000_000)
ASPECT = 168 / 112
CLEAN = WorldParameters(
    noise_widths=0.0, drift_widths=0.0, bias_widths=0.0, latency_s=0.0, blink_gap_s=1e6, loss_gap_s=1e6
)
property_test = settings(max_examples=8, deadline=None)


def make(seed: int, duration_s: float = 20.0, **options) -> World:
    return World.make(seed, duration_s=duration_s, **options)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [make(VALIDATION_SEEDS + 900_000 + i, 30.0) for i in range(14)]


def row_of(time_s: float) -> int:
    return round(time_s / STEP_S)


# ---- one seed, one world


def test_same_seed_same_bytes_whatever_was_made_or_drawn_before() -> None:
    first = make(7, 10.0)
    early = [first.frame(t).tobytes() for t in (2.0, 9.5)]
    make(8, 10.0).frame(1.0)
    again = make(7, 10.0)
    assert [again.frame(t).tobytes() for t in (9.5, 2.0)] == early[::-1]
    assert dataclasses.replace(again.log, extra={}) == dataclasses.replace(first.log, extra={})
    np.testing.assert_array_equal(again.gaze.xy_norm, first.gaze.xy_norm)
    np.testing.assert_array_equal(again.fixations.xy_norm, first.fixations.xy_norm)
    assert make(8, 10.0).frame(2.0).tobytes() != early[0]


def test_frames_come_in_order_and_one_at_a_time() -> None:
    world = make(3, 6.0, fps=10.0)
    taken = list(zip(world.frames(), range(3), strict=False))
    assert [round(t, 6) for (t, _), _ in taken] == [0.0, 0.1, 0.2]
    assert taken[1][0][1].tobytes() == world.frame(0.1).tobytes()
    assert len(world.frame_times_s) == 60
    assert world.frame(0.0).shape == (112, 168, 3)
    assert world.frame(0.0).dtype == np.uint8


def test_what_happens_does_not_depend_on_the_resolution() -> None:
    small, large = make(11, 8.0), make(11, 8.0, size_px=(336, 224))
    assert small.log.episodes == large.log.episodes
    np.testing.assert_array_equal(small.gaze.xy_norm, large.gaze.xy_norm)
    halved = large.frame(3.0).reshape(112, 2, 168, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small.frame(3.0)).mean() < 6


def test_the_trackers_noise_changes_gaze_and_nothing_else() -> None:
    noisy, clean = make(5), make(5, parameters=CLEAN)
    assert [dataclasses.replace(e, fixation_ids=()) for e in noisy.log.episodes] == [
        dataclasses.replace(e, fixation_ids=()) for e in clean.log.episodes
    ]
    assert noisy.log.actions == clean.log.actions
    assert noisy.frame(4.0).tobytes() == clean.frame(4.0).tobytes()
    grid = np.arange(len(clean.script.t_s)) * STEP_S
    expected = np.stack([np.interp(clean.gaze.t_s, grid, true_gaze(clean.script, aspect=ASPECT)[:, i]) for i in (0, 1)])
    np.testing.assert_allclose(clean.gaze.xy_norm.T, expected, atol=1e-9)
    assert np.abs(noisy.gaze.xy_norm[noisy.gaze.valid] - clean.gaze.xy_norm[noisy.gaze.valid]).mean() > 0.02


def test_drawn_durations_are_20_to_120_s_with_a_median_near_40() -> None:
    lengths = [np.random.default_rng(seed).spawn(4)[0].random() for seed in range(2000)]
    durations = [20.0 * 6.0 ** (x**1.3) for x in lengths]
    assert 36 < np.median(durations) < 47
    world = World.make(2)  # a short one
    assert world.duration_s == pytest.approx(durations[2], abs=0.26)
    assert 20 <= world.duration_s <= 120


def test_seed_blocks_are_apart() -> None:
    blocks = [USER_SEEDS, PRETRAINING_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS]
    assert blocks == sorted(blocks) == [1_000_000, 10_000_000, 20_000_000, 30_000_000, 40_000_000]
    assert world_seed(TEST_SEEDS, 3) == 40_000_003
    with pytest.raises(ConfigError, match="0 or more"):
        world_seed(0, -1)


# ---- the log


@property_test
@given(SEEDS)
def test_the_log_is_in_order_and_within_the_recording(seed: int) -> None:
    log = make(seed).log
    for events in (log.episodes, log.actions, log.appearances, log.attributes):
        assert [e.start_s for e in events] == sorted(e.start_s for e in events)
        assert all(0 <= e.start_s < e.stop_s <= log.duration_s for e in events)
    assert all(b.start_s >= a.stop_s - 1e-9 for a, b in pairwise(log.episodes))
    assert all(b.start_s > a.stop_s for a, b in pairwise(log.actions))
    assert set(log.objects) <= set(log.vocabulary)
    assert len(set(log.objects)) == len(log.objects) in range(5, 9)
    assert sorted(log.action_labels) == sorted(f"{verb} the {noun}" for verb in VERBS for noun in log.vocabulary)
    assert {action.label for action in log.actions} <= set(log.action_labels)
    assert {e.gazed for e in log.episodes} - {None} <= set(log.objects)
    for name in log.objects:  # state and colour are known throughout
        for attribute in ("state", "colour"):
            spans = [a for a in log.attributes if (a.object, a.attribute) == (name, attribute)]
            assert [spans[0].start_s, *(a.stop_s for a in spans)] == [*(a.start_s for a in spans), log.duration_s]
            assert all(a.value in a.choices for a in spans)


@property_test
@given(SEEDS)
def test_gaze_is_on_the_object_it_is_said_to_be_on_and_that_is_in_the_frame(seed: int) -> None:
    world = make(seed)
    script = world.script
    for episode in world.log.episodes:
        row = row_of((episode.start_s + episode.stop_s) / 2)
        edge = np.hypot(*(script.home[row] - script.gaze[row]).T) - script.radius
        seen = {name for name, there in zip(world.names, world.visible[row], strict=True) if there}
        near = {name for name, far in zip(world.names, edge, strict=True) if name in seen and far <= FOV_RADIUS_WIDTHS}
        if episode.gazed is not None:
            assert episode.gazed in seen
            assert episode.in_fov[0] == episode.gazed
            assert edge[world.names.index(episode.gazed)] < 0.01
        assert set(episode.in_fov) == near
        assert not set(episode.in_fov) & set(episode.outside_fov)
        assert set(episode.in_fov) | set(episode.outside_fov) == seen


@property_test
@given(SEEDS)
def test_appearances_are_when_an_object_is_in_the_frame_and_not_hidden(seed: int) -> None:
    """By definition with a quarter radius of slack at the frame's edge, and none for hiding."""
    world = make(seed)
    script = world.script
    spans = {name: [(a.start_s, a.stop_s) for a in world.log.appearances if a.object == name] for name in world.names}
    for row in range(3, len(script.t_s) - 3, 17):
        depth = (np.array([0.5, 0.5 / ASPECT]) - np.abs(script.home[row] - script.camera[row])).min(axis=1)
        for i, name in enumerate(world.names):
            listed = any(
                start <= script.t_s[row] + 1e-6 and script.t_s[row] < stop - 1e-6 for start, stop in spans[name]
            )
            slack = 0.25 * script.radius[i]
            if listed:
                assert script.shown[row, i]
                assert depth[i] >= -slack - 1e-9
            elif script.shown[row, i]:
                assert depth[i] <= slack + 1e-9


@property_test
@given(SEEDS)
def test_actions_do_what_they_say(seed: int) -> None:
    world = make(seed, 25.0)
    script = world.script
    leaves = {"use": "dirty", "wash": "wet", "dry": "clean", "cover": "covered"}
    for deed in script.deeds:
        before, after = row_of(deed.start_s) - 2, min(row_of(deed.stop_s) + 2, len(script.t_s) - 1)
        moved = np.hypot(*(script.home[after, deed.thing] - script.home[before, deed.thing]))
        assert script.grip[(before + after) // 2]
        reach = script.hand[(before + after) // 2] + script.camera[(before + after) // 2]
        assert np.hypot(*(reach - script.home[(before + after) // 2, deed.thing])) < 0.03
        assert (moved > 0.1) == (deed.verb in ("take", "put", "move"))
        if deed.verb in ("take", "put"):
            assert script.shown[[before, after], deed.thing].tolist() == [deed.verb == "take", deed.verb == "put"]
        if deed.verb in leaves:
            assert (
                STATES[script.state[before, deed.thing]] != leaves[deed.verb] == STATES[script.state[after, deed.thing]]
            )


def test_gaze_leads_the_hand_in_the_stated_share_of_actions(worlds: list[World]) -> None:
    p = WorldParameters()
    leads = [deed.lead_s for world in worlds for deed in world.script.deeds]
    share, error = np.isfinite(leads).mean(), np.sqrt(p.lead_share * (1 - p.lead_share) / len(leads))
    assert abs(share - p.lead_share) < 4 * error
    assert p.lead_s[2] <= np.nanmin(leads) <= np.nanmax(leads) <= p.lead_s[3]
    for world in worlds:
        script = world.script
        assert world.log.extra["reach_s"] == tuple(deed.reach_s for deed in script.deeds)
        for deed in script.deeds:
            rows = np.arange(row_of(deed.reach_s - np.nan_to_num(deed.lead_s, nan=0.1)) + 1, row_of(deed.reach_s))
            far = np.hypot(*(script.gaze[rows] - script.home[rows, deed.thing]).T) - script.radius[deed.thing]
            if np.isfinite(deed.lead_s) and deed.verb != "put":
                assert far.max() < 0.01
            assert (script.hand_far[: row_of(deed.reach_s)][-5:] == 0).all()  # the hand has not set out before


# ---- brief events


def test_brief_events_lie_between_qwens_frames_in_the_stated_share(worlds: list[World]) -> None:
    p = WorldParameters()
    brief = [x for world in worlds for x in [*world.script.spans, *world.script.cues]]
    lengths = [x.stop_s - x.start_s for x in brief]
    assert p.brief_s[0] <= min(lengths) <= max(lengths) <= p.brief_s[1]
    knocks = {(i, x.start_s, x.stop_s) for i, w in enumerate(worlds) for x in [*w.script.spans, *w.script.cues]}
    share = np.mean([between_frames(start, stop) for _, start, stop in knocks])
    # The others are placed anywhere, where about four in ten lie between frames as well.
    assert share > p.between_share - 4 * np.sqrt(p.between_share * (1 - p.between_share) / len(knocks))
    assert share < 1
    glances = [look for world in worlds for look in world.script.looks if look.glance]
    assert len(glances) > 50
    assert np.mean([between_frames(look.start_s, look.stop_s) for look in glances]) > 0.6


def test_jolts_and_flashes_are_seen_at_8_frames_a_second_and_not_at_2(worlds: list[World]) -> None:
    kinds = {"motion": 0, "flash": 0}
    for world in worlds[:8]:
        script = world.script
        slow, fast = np.arange(0, 30, 0.5), np.arange(0, 30, 0.125)
        for span in script.spans:
            inside = [row_of(t) for t in fast if span.start_s <= t < span.stop_s]
            offset = script.place[inside, span.thing] - script.home[inside, span.thing]
            kinds[span.kind] += 1
            if span.kind == "motion":
                along = offset @ STEPS_XY[span.value]
                assert along.max() > 0.45 * KNOCK_WIDTHS
                np.testing.assert_allclose(np.abs(offset).sum(axis=1), along, atol=1e-9)
            else:
                assert (script.flash[inside, span.thing] == span.value).any()
            if between_frames(span.start_s, span.stop_s):
                rows = [row_of(t) for t in slow if abs(t - span.start_s) < 1]
                mine = [x for x in script.spans if x.thing == span.thing and not between_frames(x.start_s, x.stop_s)]
                if not any(abs(x.start_s - span.start_s) < 2 for x in mine):
                    assert (script.place[rows, span.thing] == script.home[rows, span.thing]).all()
                    assert (script.flash[rows, span.thing] == -1).all()
        listed = [a for a in world.log.attributes if a.attribute in ("motion", "flash")]
        assert len(listed) == len(script.spans)
        assert {a.choices for a in listed} <= {DIRECTIONS, FLASHES}
    assert min(kinds.values()) > 20


def test_what_the_looked_at_object_does_is_not_what_the_others_do(worlds: list[World]) -> None:
    """At one knock each object has its own value, and the looked-at one's is drawn like any other's."""
    values = []
    for world in worlds:
        for look in world.script.looks:
            spans = [s for s in world.script.spans if look.start_s < s.start_s < look.stop_s]
            if len(spans) >= 4:
                assert len({s.value for s in spans}) == 4
            values += [s.value for s in spans if s.thing == look.thing]
    counts = np.bincount(values, minlength=4)
    assert len(values) > 60
    assert np.abs(counts / len(values) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / len(values))


def test_a_cue_points_at_the_next_action_and_does_not_name_it(worlds: list[World]) -> None:
    right, cues = [], 0
    for world in worlds:
        starts = [action.start_s for action in world.log.actions]
        for cue in world.log.extra["cues"]:
            action = world.log.actions[int(np.searchsorted(starts, cue["start_s"]))]
            assert 0 < action.start_s - cue["stop_s"] < 2
            right.append(action.object in cue["candidates"])
            cues += 1
        moved = world.script.hand[[row_of((c.start_s + c.stop_s) / 2) for c in world.script.cues]]
        assert (np.hypot(*(moved - [0.0, 0.29]).T) > 0.1).all()
        assert set(world.log.extra) == {"cues", "reach_s", "lead_s"}
        assert "lead_s" not in world.estimate(world.gaze).extra
    assert cues > 30
    assert np.mean(right) > 0.9


# ---- what is drawn


def test_every_noun_state_colour_and_flash_looks_different() -> None:
    assert set(FLASH_COLOURS) == set(FLASHES)
    looks = [(noun, "red", state, flash) for noun in NOUNS for state in STATES for flash in (None, "blue")]
    looks += [("mug", colour, "clean", None) for colour in COLOURS if colour != "red"]
    sprites = np.array(
        [
            object_sprite(noun, colour, state=state, flash=flash, radius_px=12.0)[..., :3].ravel()
            for noun, colour, state, flash in looks
        ]
    )
    for i in range(len(looks)):
        apart = np.abs(sprites[i + 1 :] - sprites[i]).mean(axis=1)
        assert (apart > 1.5).all(), (looks[i], looks[i + 1 + int(apart.argmin())])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_frames_show_what_the_log_says_and_nothing_else(seed: int) -> None:
    """Against the bare plane: objects change pixels where they stand, absent and shut away ones don't."""
    world = make(seed)
    script, painter = world.script, world._painter
    for time_s in np.arange(0.25, 20, 1.7):
        row = row_of(time_s)
        ground = painter._ground((script.camera[row] - script.half + 0.2) * 168).transpose(1, 2, 0)
        changed = np.abs(world.frame(time_s) - ground).max(axis=2) > 12
        where = np.indices(changed.shape)[::-1].transpose(1, 2, 0) + 0.5
        free = np.ones_like(changed)
        for i in range(len(world.names)):
            centre = (script.place[row, i] - script.camera[row] + script.half) * 168
            far = np.hypot(*np.moveaxis(where - centre, 2, 0)) / (168 * script.radius[i])
            free &= far > 1.5
            if world.visible[row, i] and (far < 1).sum() > 40:
                assert changed[far < 1].mean() > 0.25, (time_s, world.names[i])
        hand = (script.hand[row] + script.half) * 168
        dx, dy = where[..., 0] - hand[0], where[..., 1] - hand[1]
        free &= ~((dx > -22) & (dx < 72) & (dy > -10))
        for hatch in script.hatch_xy:
            centre = (hatch - script.camera[row] + script.half) * 168
            free &= np.abs(where - centre).max(axis=2) > 23
        assert not changed[free].any()


# ---- gaze


@property_test
@given(SEEDS)
def test_gaze_is_tracked_most_of_the_time(seed: int) -> None:
    world = make(seed)
    assert 0.7 < world.gaze.valid.mean() < 0.99
    assert np.isfinite(world.gaze.xy_norm[world.gaze.valid]).all()
    assert world.gaze.t_s[0] >= 0
    assert world.gaze.t_s[-1] <= world.duration_s
    fixations = world.fixations
    assert (fixations.duration_s >= 0.06).all()
    assert (fixations.start_s[1:] >= fixations.stop_s[:-1] - 1e-9).all()
    ids = [i for episode in world.log.episodes for i in episode.fixation_ids]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(fixations.ids.tolist())


def test_a_stored_fixation_is_the_mean_of_its_samples(worlds: list[World]) -> None:
    world = worlds[0]
    for start, stop, centre in zip(
        world.fixations.start_s, world.fixations.stop_s, world.fixations.xy_norm, strict=True
    ):
        inside = (world.gaze.t_s >= start) & (world.gaze.t_s <= stop) & world.gaze.valid
        np.testing.assert_allclose(centre, world.gaze.xy_norm[inside].mean(axis=0), atol=1e-9)


def test_saccades_follow_the_main_sequence_and_the_head_comes_late(worlds: list[World]) -> None:
    later, sooner = [], []
    for world in worlds:
        script = world.script
        for a, b in pairwise(script.looks):
            first, stop = row_of(a.stop_s), row_of(b.start_s)
            jump = np.hypot(*(script.gaze[min(stop + 1, len(script.gaze) - 1)] - script.gaze[max(first - 1, 0)]))
            if jump > 0.25 and b.start_s - a.stop_s > 0.02:
                assert b.start_s - a.stop_s < 0.16
            if jump > 0.35 and b.stop_s - b.start_s > 0.8:
                sooner.append(np.hypot(*(script.camera[stop] - script.camera[first])))
                later.append(np.hypot(*(script.camera[stop + 120] - script.camera[first])))
    assert len(later) > 30
    assert np.median(sooner) < 0.02 < 0.06 < np.median(later)


# ---- what can be made out


def test_noise_leaves_gaze_useful_and_the_centre_less_so(worlds: list[World]) -> None:
    by_gaze, by_centre = (np.concatenate(hits) for hits in zip(*map(nearest_hits, worlds), strict=True))
    assert 0.85 < by_gaze.mean() < 0.96
    assert 0.35 < by_centre.mean() < 0.58
    with_gaze = np.mean([agreement(world, gaze=True) for world in worlds])
    without = np.mean([agreement(world, gaze=False) for world in worlds])
    assert without + 0.2 < with_gaze < 0.92


def test_a_perfect_tracker_gives_nearly_the_true_looks() -> None:
    for seed in (21, 22, 23):
        world = make(seed, parameters=CLEAN)
        truth = [e.gazed for e in world.log.episodes if e.gazed is not None]
        guess = [e.gazed for e in world.estimate(world.gaze).episodes if e.gazed is not None]
        hits = sum(name in guess[max(0, i - 3) : i + 4] for i, name in enumerate(truth))
        assert hits >= 0.93 * len(truth)
        assert abs(len(guess) - len(truth)) <= 0.25 * len(truth)
        assert agreement(world, gaze=True) > 0.85


@property_test
@given(SEEDS, st.floats(4.0, 16.0))
def test_an_estimate_until_a_time_uses_no_gaze_after_it(seed: int, until_s: float) -> None:
    world = make(seed)
    gaze = world.gaze
    late = gaze.t_s > until_s
    other = dataclasses.replace(gaze, xy_norm=np.where(late[:, None], 0.1, gaze.xy_norm))
    told = world.estimate(gaze, until_s=until_s).episodes
    assert told == world.estimate(other, until_s=until_s).episodes
    assert all(e.stop_s <= until_s for e in told)
    without = world.estimate(None, until_s=until_s).episodes
    assert all(e.stop_s <= until_s for e in without)


def test_without_gaze_nothing_of_it_is_known() -> None:
    noisy, clean = make(31), make(31, parameters=CLEAN)
    told = noisy.estimate(None)
    assert told.episodes == clean.estimate(None).episodes
    assert all(not e.fixation_ids for e in told.episodes)
    assert told.actions == noisy.log.actions
    assert told.appearances == noisy.log.appearances
    assert told.attributes == noisy.log.attributes
    lost = dataclasses.replace(noisy.gaze, valid=np.zeros(len(noisy.gaze), dtype=bool))
    assert noisy.estimate(lost).episodes == ()


# ---- names


def shares(worlds: list[World]) -> dict[str, np.ndarray]:
    """(worlds, nouns) what share of a world's looks, glances, actions and appearing objects is each noun's."""
    table = {key: [] for key in ("looks", "actions", "seconds", "events")}
    for world in worlds:
        log = world.log
        seconds = {name: sum(a.stop_s - a.start_s for a in log.appearances if a.object == name) for name in NOUNS}
        lists = {
            "looks": [e.gazed for e in log.episodes],
            "actions": [a.object for a in log.actions],
            "events": [a.object for a in log.attributes if a.attribute in ("motion", "flash")],
        }
        for key, found in lists.items():
            table[key].append([found.count(noun) for noun in NOUNS])
        table["seconds"].append([seconds[noun] for noun in NOUNS])
    return {key: np.array(rows, dtype=float) for key, rows in table.items()}


def test_no_noun_is_looked_at_acted_on_or_seen_more_than_another() -> None:
    """Over 300 worlds; the error is between worlds, because looks of one world are not independent."""
    for key, counts in shares([make(i, 6.0) for i in range(300)]).items():
        counts = counts[counts.sum(axis=1) > 0]
        share = counts / counts.sum(axis=1, keepdims=True)
        error = share.std(axis=0) / np.sqrt(len(share))
        assert (np.abs(share.mean(axis=0) - 1 / len(NOUNS)) < 4 * error).all(), key


def test_verbs_colours_and_directions_are_balanced(worlds: list[World]) -> None:
    verbs = [action.label.split()[0] for world in worlds for action in world.log.actions]
    counts = np.array([verbs.count(verb) for verb in VERBS])
    assert np.abs(counts / counts.sum() - 1 / 7).max() < 4 * np.sqrt(1 / 7 * 6 / 7 / counts.sum())
    colours = [a.value for i in range(60) for a in make(i, 5.0).log.attributes if a.attribute == "colour"]
    counts = np.array([colours.count(colour) for colour in COLOURS])
    assert np.abs(counts / counts.sum() - 0.1).max() < 4 * np.sqrt(0.1 * 0.9 / counts.sum())
    assert all(
        len({a.value for a in world.log.attributes if a.attribute == "colour"}) == len(world.names) for world in worlds
    )


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = tiny_tokenizer()
    for word in [*NOUNS, *COLOURS, *STATES, *VERBS, *DIRECTIONS, *FLASHES, "state", "motion", "flash", "color"]:
        assert len(tokenizer(f" {word}")["input_ids"]) == 1, word


# ---- failure and the command


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": -1},
        {"seed": 0, "duration_s": 4.0},
        {"seed": 0, "duration_s": float("nan")},
        {"seed": 0, "fps": 0.0},
        {"seed": 0, "size_px": (169, 112)},
        {"seed": 0, "size_px": (112, 168)},
    ],
)
def test_impossible_worlds_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError, match="world: expected"):
        World.make(**arguments)


@pytest.mark.parametrize(
    "changes", [{"lead_share": 1.5}, {"objects": (3, 6)}, {"brief_s": (0.2, 0.6)}, {"gaze_hz": 0.0}]
)
def test_impossible_parameters_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError, match="world: expected"):
        WorldParameters(**changes)


def test_the_table_of_statistics_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--worlds", "2", "--seed", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("gaze leads the hand %") for line in lines)
    assert main(["--worlds", "1", "--seed", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["worlds"] == 1


def test_attribute_spans_are_what_questions_read(worlds: list[World]) -> None:
    kinds = {a.attribute for world in worlds for a in world.log.attributes}
    assert kinds == {"colour", "state", "motion", "flash"}
    assert all(isinstance(a, AttributeSpan) and a.value in a.choices for w in worlds for a in w.log.attributes)
