"""The data pipeline's stages on arrays: colours, field of view, objects, episodes, fixations, the log, the filters."""

from __future__ import annotations

import colorsys
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze.pipeline import scene_consistency as scenes
from benchmarks.streamgaze.pipeline.annotations import Annotations, Track
from benchmarks.streamgaze.pipeline.episodes import drop_similar, group_looks, to_episode
from benchmarks.streamgaze.pipeline.filters import filter_questions, is_human, names_overlap
from benchmarks.streamgaze.pipeline.fov import crop_square, in_region, mask_circle, radius_px
from benchmarks.streamgaze.pipeline.gaze import one_a_frame
from benchmarks.streamgaze.pipeline.objects import LABEL_S, Look, View, gazed_object, look_from_boxes, moments_of
from benchmarks.streamgaze.pipeline.scanpath import build_log, log_from_json, log_to_json, share_vocabulary
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.event_log import Action, AlertPoint, Episode, EventLog, MadeQuestion
from gazeqwen.types import GazeSamples
from stream.fixations import detect

SIZE = (640, 480)


def box(x: float, y: float, half: float) -> np.ndarray:
    return np.array([x - half, y - half, x + half, y + half])


# -- scene consistency -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_hsv_is_the_textbook_conversion_within_rounding(pixels: list[tuple[int, int, int]]) -> None:
    ours = scenes.rgb_to_hsv(np.array(pixels, dtype=np.uint8)).astype(float)
    for (red, green, blue), (hue, saturation, value) in zip(pixels, ours, strict=True):
        h, s, v = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        assert abs(value - v * 255) < 1e-9
        assert abs(saturation - s * 255) <= 0.55
        assert min(abs(hue - h * 180), 180 - abs(hue - h * 180)) <= 0.7


def test_the_histogram_counts_each_pixel_once_and_the_rarest_and_commonest_are_0_and_1() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    histogram = scenes.hue_saturation_histogram(scenes.rgb_to_hsv(image))
    assert histogram.shape == (50, 60) and histogram.min() == 0 and histogram.max() == 1
    flat = np.full((4, 4, 3), (255, 0, 0), dtype=np.uint8)  # hue 0, saturation 255
    only = scenes.hue_saturation_histogram(scenes.rgb_to_hsv(flat))
    assert only[0, 59] == 1 and only.sum() == 1


def test_images_that_are_not_bytes_are_refused() -> None:
    with pytest.raises(InputError, match="uint8 RGB"):
        scenes.rgb_to_hsv(np.zeros((2, 2, 3), dtype=np.float32))


def looker(colours: list[tuple[int, int, int]], *, fps: float = 1.0) -> object:
    images = [np.full((4, 4, 3), colour, dtype=np.uint8) for colour in colours]

    def look(time_s: float) -> scenes.FrameColours | None:
        row = int(time_s * fps)
        return scenes.colours(images[row]) if row < len(images) else None

    return look


@pytest.mark.parametrize(
    ("colours", "stop_s", "expected"),
    [
        ([(200, 0, 0)] * 5, 4.0, (True, "passed")),
        ([(200, 0, 0)] * 3 + [(0, 0, 200)] * 3, 4.0, (False, "scene_change")),
        ([(200, 0, 0)] * 3 + [(0, 0, 200)] * 3, 1.4, (True, "too_short")),
        ([(0, 0, 0)] * 3 + [(200, 0, 0)] * 2, 4.0, (False, "black_scene")),
        ([(0, 0, 0)] * 2 + [(200, 0, 0)] * 3, 4.0, (False, "scene_change")),
        ([(200, 0, 0)], 4.0, (True, "passed")),  # one readable sample counts as one scene, as in the reference
    ],
)
def test_the_verdict_on_a_stretch(colours: list, stop_s: float, expected: tuple[bool, str]) -> None:
    check = scenes.check_scene(0.0, stop_s, looker(colours), threshold=0.9)  # type: ignore[arg-type]
    assert (check.kept, check.reason) == expected


def test_every_moment_that_is_looked_at_was_announced() -> None:
    for start_s, stop_s in ((0.0, 1.0), (0.3, 2.0), (1.0, 9.7)):
        asked: list[float] = []

        def look(time_s: float, asked: list[float] = asked) -> None:
            asked.append(time_s)

        scenes.check_scene(start_s, stop_s, look, threshold=0.9)
        assert set(asked) == set(scenes.wanted_times(start_s, stop_s).tolist())


def test_thresholds_go_by_name() -> None:
    assert scenes.threshold("HoloAssist") == 0.5 and scenes.threshold("EGTEA") == 0.9
    with pytest.raises(ConfigError, match="'ego5d' is unknown"):
        scenes.threshold("ego5d")


# -- field of view -----------------------------------------------------------------------------------------------------


def test_the_radius_is_the_reference_s() -> None:
    assert radius_px(640) == 92  # 13 degrees of a 90 degree frame
    assert radius_px(896, hfov_deg=64.7) == int(13 * 896 / 64.7)
    for wrong in ({"width_px": 0}, {"width_px": 640, "hfov_deg": 180.0}):
        with pytest.raises(InputError, match=r"recordings\.json"):
            radius_px(**wrong)  # type: ignore[arg-type]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_the_crop_and_the_disc_are_around_gaze_and_inside_the_frame(x: float, y: float, radius: int) -> None:
    image = np.arange(48 * 64 * 3, dtype=np.int64).reshape(48, 64, 3) % 200 + 1
    frame = image.astype(np.uint8)
    crop, masked = crop_square(frame, (x, y), radius), mask_circle(frame, (x, y), radius)
    assert 1 <= crop.shape[0] <= 2 * radius and 1 <= crop.shape[1] <= 2 * radius
    rows, columns = np.indices((48, 64))
    inside = (columns - int(x * 64)) ** 2 + (rows - int(y * 48)) ** 2 <= radius**2
    assert (masked[inside] == 0).all() and (masked[~inside] == frame[~inside]).all()


def test_the_corner_of_the_square_is_in_the_square_only() -> None:
    corner = np.array([0.5 + 80 / 640, 0.5 + 80 / 480, 0.9, 0.9])  # 113 px away
    assert in_region(corner, (0.5, 0.5), size_px=SIZE, radius_px=92, shape="square")
    assert not in_region(corner, (0.5, 0.5), size_px=SIZE, radius_px=92, shape="circle")


# -- objects -----------------------------------------------------------------------------------------------------------


def test_the_smallest_box_under_gaze_is_looked_at_and_slack_is_causal_only() -> None:
    boxes = [("table", box(0.5, 0.5, 0.4)), ("mug", box(0.5, 0.5, 0.05))]
    causal, official = (View.of(SIZE, rules=rules) for rules in ("causal", "streamgaze"))
    assert gazed_object(boxes, (0.51, 0.5), causal) == "mug"
    assert gazed_object(boxes, (0.7, 0.5), causal) == "table"
    near = (0.55 + 5 / 640, 0.5)  # 5 px beside the mug; a degree is 7 px
    assert gazed_object(boxes[1:], near, causal) == "mug"
    assert gazed_object(boxes[1:], near, official) is None


def test_a_look_lists_what_is_in_view_nearest_first_and_never_in_both_lists() -> None:
    tracks = [
        Track("mug", np.array([0.0, 9.0]), np.stack([box(0.5, 0.5, 0.03)] * 2)),
        Track("jar", np.array([0.0, 9.0]), np.stack([box(0.56, 0.5, 0.02)] * 2)),
        Track("pan", np.array([0.0, 9.0]), np.stack([box(0.9, 0.5, 0.05)] * 2)),
        Track("cup", np.array([5.0, 9.0]), np.stack([box(0.5, 0.6, 0.05)] * 2)),  # not there yet
    ]
    look = Look(0, 1.0, 1.5, (0.5, 0.5))
    seen = look_from_boxes(look, Annotations(tuple(tracks)), [(1.0, (0.5, 0.5))], View.of(SIZE, rules="causal"))
    assert (seen.gazed, seen.in_fov, seen.outside_fov) == ("mug", ("mug", "jar"), ("pan",))


def test_boxes_move_linearly_and_are_gone_when_their_centre_leaves_the_frame() -> None:
    track = Track("mug", np.array([1.0, 3.0]), np.stack([box(0.2, 0.5, 0.1), box(1.4, 0.5, 0.1)]))
    boxes, seen = track.boxes_at(np.array([0.99, 1.0, 1.5, 2.9]))
    assert seen.tolist() == [False, True, True, False] and np.allclose(boxes[2], box(0.5, 0.5, 0.1))
    (seen,) = Annotations((track,)).appearances(10.0)
    assert seen.start_s == 1.0 and abs(seen.stop_s - (1.0 + 0.8 / 0.6)) <= 0.1


@given(st.floats(0.0, 0.5), st.floats(0.15, 3.0), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_causal_look_is_decided_by_its_first_tenth_of_a_second(start_s: float, length_s: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(0, 4, 1 / 60)
    samples = GazeSamples.build(t, rng.uniform(0, 1, (t.size, 2)), valid=rng.random(t.size) > 0.2)
    look = Look(0, start_s, start_s + length_s, (0.5, 0.5))
    for time_s, _ in moments_of(look, samples, rules="causal"):
        assert start_s <= time_s <= start_s + LABEL_S
    later = replace(samples, xy_norm=np.where((t > start_s + LABEL_S)[:, None], 0.9, samples.xy_norm))
    assert moments_of(look, samples, rules="causal") == moments_of(look, later, rules="causal")


def test_the_reference_compares_the_centre_once_a_second() -> None:
    samples = GazeSamples.build(np.arange(0, 5, 0.1), np.full((50, 2), 0.1))
    found = moments_of(Look(0, 1.0, 3.5, (0.4, 0.6)), samples, rules="streamgaze")
    assert found == [(1.0, (0.4, 0.6)), (2.0, (0.4, 0.6)), (3.0, (0.4, 0.6))]


# -- fixations as the reference finds them -----------------------------------------------------------------------------


def test_untracked_gaze_is_a_fixation_at_the_corner_under_the_reference_s_rules() -> None:
    times = np.arange(0, 8, 0.1)
    valid = (times < 3) | (times >= 6)
    samples = GazeSamples.build(times, np.full((80, 2), 0.5), valid=valid)
    table = one_a_frame(samples, times, fps=10.0)
    found = detect(table, detector="streamgaze", dataset="EgoExoLearn", frame_width_px=640.0)
    assert [tuple(np.round(xy, 3)) for xy in found.xy_norm] == [(0.5, 0.5), (0.0, 0.0)]


def test_one_row_a_frame_at_number_over_rate_with_gaze_moved_onto_the_frame() -> None:
    frames = np.array([0.0, 0.1, 0.25, 0.3])  # uneven: the reference counts on
    samples = GazeSamples.build([0.01, 0.11, 0.32], [[1.4, 0.5], [0.2, -0.3], [0.7, 0.7]])
    table = one_a_frame(samples, frames, fps=10.0)
    assert np.allclose(table.t_s, [0.0, 0.1, 0.2, 0.3])
    assert table.valid.tolist() == [True, True, False, True]
    assert np.allclose(table.xy_norm[[0, 1, 3]], [[1.0, 0.5], [0.2, 0.0], [0.7, 0.7]])


# -- episodes ----------------------------------------------------------------------------------------------------------


def look(row: int, start_s: float, stop_s: float, gazed: str | None, x: float = 0.5, beside: tuple = ()) -> Look:
    return Look(row, start_s, stop_s, (x, 0.5), gazed, ((gazed, *beside) if gazed else beside), ("wall",))


def test_the_reference_joins_whatever_follows_within_two_seconds() -> None:
    looks = [
        look(0, 0, 2, "mug", 0.1),
        look(1, 3.9, 6, "jar", 0.9),
        look(2, 6.1, 9, "jar", 0.9),
        look(3, 11, 13, "pan"),
    ]
    groups = group_looks(looks, rules="streamgaze", aspect=1.0)
    assert [[item.id for item in group] for group in groups] == [[0, 1, 2], [3]]
    first = to_episode(groups[0], rules="streamgaze")
    assert (first.start_s, first.stop_s, first.gazed) == (0, 9, "jar")
    assert first.in_fov == ("jar",)  # the mug that was looked at is forgotten, as there
    assert first.fixation_ids == (0, 1, 2)


def test_causal_episodes_join_the_same_objects_in_the_same_place_across_a_blink_only() -> None:
    a = look(0, 0.0, 0.5, "mug")
    joined = (look(1, 0.7, 1.0, "mug", 0.52),)
    apart = (
        look(1, 0.7, 1.0, "jar"),
        look(1, 1.0, 1.4, "mug"),
        look(1, 0.7, 1.0, "mug", 0.6),
        look(1, 0.7, 1.0, "mug", beside=("jar",)),
        replace(look(1, 0.7, 1.0, "mug"), steady=False),
    )
    for other in joined:
        assert len(group_looks([a, other], rules="causal", aspect=4 / 3)) == 1
    for other in apart:
        assert len(group_looks([a, other], rules="causal", aspect=4 / 3)) == 2


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 5), st.sampled_from(["mug", "jar", None])), max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_look_is_lost_or_doubled_in_episodes(rows: list[tuple[float, float, str | None]]) -> None:
    looks = [look(row, start, start + length, gazed) for row, (start, length, gazed) in enumerate(rows)]
    for rules in ("causal", "streamgaze"):
        groups = group_looks(looks, rules=rules, aspect=1.0)
        ids = [number for group in groups for number in to_episode(group, rules=rules).fixation_ids]
        assert sorted(ids) == list(range(len(rows)))


def test_of_similar_neighbours_the_first_stays_and_unnamed_ones_are_never_compared() -> None:
    episodes = [Episode(t, t + 1.0, name) for t, name in ((0.0, "mug"), (2.0, "jar"), (4.0, None), (6.0, "pan"))]
    asked: list[tuple[float, float]] = []

    def similar(start_s: float, stop_s: float) -> bool:
        asked.append((start_s, stop_s))
        return True

    assert [e.start_s for e in drop_similar(episodes, similar)] == [0.0, 4.0, 6.0]
    assert asked == [(0.0, 3.0)]
    assert drop_similar(episodes, lambda *_: False) == episodes


# -- the log -----------------------------------------------------------------------------------------------------------


def test_a_log_survives_a_file_and_shares_words_with_the_others() -> None:
    annotations = Annotations(
        (Track("jar", np.array([0.0, 4.0]), np.stack([box(0.5, 0.5, 0.1)] * 2)),),
        actions=(Action(1.0, 9.0, "take the jar", "jar"), Action(20.0, 21.0, "late", "lid")),
        has_objects=True,
    )
    looks = [replace(look(0, 1.0, 2.0, "mug"), steady=False), replace(look(1, 3.0, 4.0, None), named=False)]
    log = build_log([to_episode(looks[:1], rules="causal")], looks, annotations, duration_s=5.0)
    assert log.objects == ("jar", "mug", "wall") and log.action_labels == ("take the jar",)
    assert log.actions[0].stop_s == 5.0
    assert log.extra["unreliable"] == [
        {"start_s": 1.0, "stop_s": 2.0, "objects": ["mug"]},
        {"start_s": 3.0, "stop_s": 4.0, "objects": None},
    ]
    assert log_from_json(json.loads(json.dumps(log_to_json(log)))) == log
    other = EventLog(3.0, ("cup",), ("cup",), action_labels=("wash the cup",))
    first, second = share_vocabulary([log, other], ["lid"])
    assert first.vocabulary == second.vocabulary == ("cup", "jar", "lid", "mug", "wall")
    assert first.action_labels == ("take the jar", "wash the cup") and first.objects == log.objects


# -- filters -----------------------------------------------------------------------------------------------------------


def choice(task: str, options: tuple[str, ...], *, t_s: float = 10.0, **facts: object) -> MadeQuestion:
    return MadeQuestion(task, "?", t_s, options, 0, (8.0, t_s), facts=facts)


def kept(question: MadeQuestion, rules: str, log: EventLog | None = None) -> bool:
    log = log or EventLog(60.0, ("mug",), ("mug",))
    return bool(filter_questions([question], log, rules=rules)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["handle", "charm", "headphones", "antibody"])
def test_words_that_hold_a_part_of_a_person_are_dropped_by_the_reference_only(name: str) -> None:
    assert is_human(name, rules="streamgaze") and not is_human(name, rules="causal")
    question = choice("OI-E", (name, "mug", "jar", "pan"))
    assert not kept(question, "streamgaze") and kept(question, "causal")


def test_parts_of_a_person_are_dropped_by_both() -> None:
    for rules in ("causal", "streamgaze"):
        assert is_human("left hand", rules=rules) and is_human("Person", rules=rules)  # type: ignore[arg-type]
        for task in ("OI-E", "OI-H", "OTP"):
            assert not kept(choice(task, ("hand", "mug", "jar", "pan")), rules)


def test_fap_s_gap_and_context_matter_to_the_reference_only() -> None:
    labels = ("take the cup", "open the lid", "wash the pan", "cut the leek")

    def log_with(start_s: float) -> EventLog:
        return EventLog(200.0, (), (), actions=(Action(start_s, start_s + 1, labels[0], "cup"),))

    question = choice("FAP", labels, context_objects=["jar", "plate"])
    for start_s, stays in ((13.4, False), (14.0, True), (70.9, True), (71.0, False)):
        assert kept(question, "streamgaze", log_with(start_s)) is stays, start_s
        assert kept(question, "causal", log_with(start_s))
    for context in (["counter", "gas_stove"], ["take-away"], ["TAKE"]):
        facts = choice("FAP", labels, context_objects=context)
        assert not kept(facts, "streamgaze", log_with(20.0)) and kept(facts, "causal", log_with(20.0))


def test_attributes_targets_groups_and_options_that_mislead_are_dropped() -> None:
    values = ("red", "blue", "green", "white")
    for rules in ("causal", "streamgaze"):
        assert kept(choice("OAR", values, attribute_type="colour"), rules)
        assert not kept(choice("OAR", ("red", "pink", "green", "white"), attribute_type="colour"), rules)
        assert not kept(choice("OAR", values, attribute_type="size"), rules)
        assert not kept(choice("OTP", ("jar", "pan", "red pan", "mug"), object_group=["cup"]), rules)
        assert not kept(choice("SR", ("jar", "pan", "cup", "mug"), gazed_objects=["Pan"]), rules)
        assert not kept(choice("GSM", ("{a}>{a}>{b}", "{a}>{b}>{a}", "{b}>{a}>{b}", "{b}>{b}>{a}")), rules)
        alert = MadeQuestion("OAA", "?", 1.0, points=(AlertPoint(2.0, True),), facts={"target_object": "bags"})
        assert not kept(alert, rules) and kept(replace(alert, facts={"target_object": "handbag"}), rules)
    assert names_overlap("cutting board", "board") and not names_overlap("red mug", "red jar")


def test_points_after_the_end_are_left_out_and_counted() -> None:
    points = (AlertPoint(5.0, True), AlertPoint(70.0, False))
    question = MadeQuestion("GTA", "?", 1.0, points=points, facts={"target_object": "mug"})
    (left,), dropped = filter_questions([question], EventLog(60.0, (), ()), rules="streamgaze")
    assert left.points == points[:1] and dropped == {"GTA: test points after the end of the video": 1}
    assert filter_questions([replace(question, points=points[1:])], EventLog(60.0, (), ()), rules="causal")[0] == []


@pytest.mark.parametrize(
    ("task", "options", "objects", "stays"),
    [
        ("OI-E", ("mug", "jar", "pan", "cup"), ["bowl"], False),
        ("NFI", ("mug", "jar", "pan", "cup"), ["bowl"], True),
        ("NFI", ("mug", "jar", "pan", "cup"), ["mug"], False),
        ("NFI", ("mug", "jar", "pan", "cup"), None, False),
    ],
)
def test_no_causal_question_rests_on_a_look_that_failed(
    task: str, options: tuple[str, ...], objects: list[str] | None, stays: bool
) -> None:
    log = EventLog(60.0, (), (), extra={"unreliable": [{"start_s": 9.0, "stop_s": 9.5, "objects": objects}]})
    assert kept(choice(task, options), "causal", log) is stays
    assert kept(choice(task, options, t_s=8.9), "causal", log)  # asked before
    assert kept(choice(task, options), "streamgaze", log)


def test_where_nobody_wrote_down_what_is_in_view_there_is_no_appearance_alert() -> None:
    alert = MadeQuestion("OAA", "?", 1.0, points=(AlertPoint(2.0, True),), facts={"target_object": "mug"})
    unknown = EventLog(60.0, (), (), extra={"in_view_known": False})
    assert not kept(alert, "causal", unknown) and kept(alert, "streamgaze", unknown)
