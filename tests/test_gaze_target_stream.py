"""Gaze targets over time: head boxes, tracking, smoothing, the overlay, and `gazeqwen gaze-target` end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream.gaze_targets as module
from gazeqwen.arguments_gaze_target import SMOOTHINGS as FLAG_SMOOTHINGS
from gazeqwen.errors import InputError
from gazeqwen.gaze_target import Box, GazeTargetEstimator, GazeTargets
from stream.gaze_targets import FrameTargets, Heads, TargetStream, video_targets
from stream.head_boxes import MAX_AGE_S, HeadBox, HeadFile, HeadTracker, overlap, read_head_boxes
from stream.target_overlay import COLOURS, draw_targets
from stream.target_smoothing import SMOOTHINGS, EmaSmoothing, build_smoother
from stream.video import iter_frames
from tests.made_gaze_target import FPS, FRAMES, entries, estimator, frames, moving, write_boxes, write_recording


@pytest.fixture(scope="module")
def made() -> GazeTargetEstimator:
    return estimator()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gaze target ü")
    write_recording(folder)
    return folder


# --- files of head boxes ---------------------------------------------------------------------------------------------


def test_a_file_gives_each_frame_its_newest_entry_and_none_of_later_ones(tmp_path: Path) -> None:
    rows = [*entries(4, names=("anna", 7)), {"t_s": 1.0, "heads": []}]
    held = read_head_boxes(write_boxes(tmp_path / "boxes.json", rows))
    assert not held.tracked
    assert held.at(0.0) == (HeadBox(moving(0.05, 0), "anna"),)
    assert held.at(0.3) == (HeadBox(moving(0.05, 3), "anna"), HeadBox(moving(0.5, 3), "7"))
    assert held.at(0.2999) == held.at(0.3)  # times written with three decimals
    assert held.at(0.29) == held.at(0.2) != held.at(0.3)
    assert held.at(0.3 + MAX_AGE_S) == held.at(0.3)
    assert held.at(0.31 + MAX_AGE_S) is None  # nothing is known
    assert held.at(1.2) == ()  # nobody is there


@given(st.lists(st.floats(0, 30), min_size=1, max_size=20, unique=True), st.floats(0, 31))
@settings(max_examples=60, deadline=None)
def test_no_frame_gets_boxes_from_its_future(times: list[float], now_s: float) -> None:
    times = sorted({round(t, 2) for t in times})
    heads = tuple((HeadBox((0.1, 0.1, 0.2, 0.2), str(t)),) for t in times)
    found = HeadFile(Path("x"), np.array(times), heads, tracked=False).at(now_s)
    if any(abs(abs(now_s - t) - edge) < 2e-3 for t in times for edge in (0, MAX_AGE_S)):
        return  # within the tolerance of an edge
    past = [t for t in times if 0 < now_s - t < MAX_AGE_S]
    assert found == ((HeadBox((0.1, 0.1, 0.2, 0.2), str(past[-1])),) if past else None)


def test_heads_without_names_are_followed(tmp_path: Path) -> None:
    held = read_head_boxes(write_boxes(tmp_path / "boxes.json", entries()))
    assert held.tracked
    assert [[head.track_id for head in own] for own in held.heads] == [["1"]] * 3 + [["1", "2"]] * 9


def test_names_of_a_file_do_not_depend_on_what_comes_later(tmp_path: Path) -> None:
    whole = read_head_boxes(write_boxes(tmp_path / "boxes.json", entries()))
    for count in range(1, FRAMES):
        begun = read_head_boxes(write_boxes(tmp_path / "begun.json", entries(count)))
        assert begun.heads == whole.heads[:count]


GOOD = {"box_xyxy_norm": [0.1, 0.1, 0.3, 0.4]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", 'a list of entries under "frames", found list'),
        ("{}", 'a list of entries under "frames"'),
        ('{"frames": []}', 'a list of entries under "frames"'),
        ({"frames": [3]}, 'entry 1: expected an object with a list "heads"'),
        ({"frames": [{"t_s": 0}]}, 'entry 1: expected an object with a list "heads"'),
        ({"frames": [{"heads": [{}]}]}, 'entry 1, head 1: expected an object with "box_xyxy_norm"'),
        ({"frames": [{"heads": [{"box_xyxy_norm": [1, 2, 3]}]}]}, "head 1: expected four numbers"),
        ({"frames": [{"heads": [{"box_xyxy_norm": ["0", 0, 1, 1]}]}]}, "box_xyxy_norm as four numbers"),
        ({"frames": [{"heads": [{"box_xyxy_norm": None}]}]}, "box_xyxy_norm as four numbers"),
        ({"frames": [{"heads": [{"box_xyxy_norm": [100, 20, 150, 90]}]}]}, r"in the frame, .* found \[100, 20, 150"),
        ({"frames": [{"heads": [GOOD, {"box_xyxy_norm": [0.3, 0, 0.1, 1]}]}]}, "head 2: expected x_min < x_max"),
        ('{"frames": [{"heads": [{"box_xyxy_norm": [NaN, 0, 1, 1]}]}]}', "four finite numbers"),
        ({"frames": [{"heads": [GOOD | {"track_id": 1.5}]}]}, "track_id as a text or a whole number, found 1.5"),
        ({"frames": [{"heads": [GOOD | {"track_id": "a"}, GOOD | {"track_id": "a"}]}]}, "found 'a' twice"),
        ({"frames": [{"heads": [GOOD | {"track_id": "a"}, GOOD]}]}, "some heads with, some without"),
        ({"frames": [{"heads": []}, {"heads": []}]}, "entry 1: expected t_s, seconds from 0 on, found None"),
        ({"frames": [{"t_s": -1, "heads": []}]}, "entry 1: expected t_s"),
        ({"frames": [{"t_s": True, "heads": []}]}, "entry 1: expected t_s"),
        ({"frames": [{"t_s": 10**400, "heads": []}]}, "entry 1: expected t_s"),
        ({"frames": [{"t_s": 1, "heads": []}, {"t_s": 1, "heads": []}]}, "ascending t_s, found 1 s after 1 s"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=said) as caught:
        read_head_boxes(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_head_boxes(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="no JSON"):
        read_head_boxes(tmp_path / "binary.json")


# --- tracking --------------------------------------------------------------------------------------------------------


def test_two_people_keep_their_ids_in_any_order() -> None:
    tracker = HeadTracker()
    for k in range(8):
        boxes = [moving(0.05, k), moving(0.5, k)]
        ids = tracker.update(k / 10, boxes[::-1] if k % 2 else boxes)
        assert ids == (["2", "1"] if k % 2 else ["1", "2"])


def test_the_greatest_overlap_wins_and_ids_are_never_used_again() -> None:
    tracker = HeadTracker()
    assert tracker.update(0.0, [(0.1, 0.1, 0.3, 0.3)]) == ["1"]
    assert tracker.update(0.1, [(0.15, 0.1, 0.35, 0.3), (0.11, 0.1, 0.31, 0.3)]) == ["2", "1"]
    assert tracker.update(0.5, []) == []
    assert tracker.update(1.0, [(0.11, 0.1, 0.31, 0.3)]) == ["1"]  # away for less than a second
    assert tracker.update(2.1, [(0.11, 0.1, 0.31, 0.3)]) == ["3"]
    assert tracker.update(2.2, [(0.6, 0.6, 0.8, 0.8)]) == ["4"]  # a jump is another person


boxes_of_frames = st.lists(
    st.lists(
        st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.01, 0.2), st.floats(0.01, 0.2)), max_size=5
    ).map(lambda rows: [(x, y, x + w, y + h) for x, y, w, h in rows]),
    max_size=8,
)


@given(boxes_of_frames)
@settings(max_examples=60, deadline=None)
def test_ids_are_unique_in_a_frame_and_never_look_ahead(sequence: list[list[Box]]) -> None:
    whole = HeadTracker()
    ids = [whole.update(k / 10, boxes) for k, boxes in enumerate(sequence)]
    seen: set[str] = set()
    for own, boxes in zip(ids, sequence, strict=True):
        assert len(own) == len(set(own)) == len(boxes)
        new = [name for name in own if name not in seen]
        assert new == sorted(new, key=int)
        seen |= set(own)
    begun = HeadTracker()
    assert [begun.update(k / 10, boxes) for k, boxes in enumerate(sequence[:4])] == ids[:4]


@given(boxes_of_frames.map(lambda rows: [box for own in rows for box in own]))
def test_overlap_is_a_share_symmetric_and_one_for_the_same(boxes: list[Box]) -> None:
    for a in boxes[:3]:
        assert overlap(a, a) == pytest.approx(1)
        for b in boxes[:3]:
            assert 0 <= overlap(a, b) <= 1 + 1e-12 and overlap(a, b) == pytest.approx(overlap(b, a))
    assert overlap((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 0.5, 1), (0.5, 0, 1, 1)) == 0


# --- smoothing -------------------------------------------------------------------------------------------------------


def targets_at(*places: tuple[int, int], inout: tuple[float, ...] | None = None) -> GazeTargets:
    heatmap = np.zeros((len(places), 64, 64), np.float32)
    for row, (y, x) in enumerate(places):
        heatmap[row, y, x] = 1.0
    return GazeTargets(heatmap, None if inout is None else np.array(inout, np.float32))


def test_the_average_weighs_the_past_by_its_age_per_person() -> None:
    smoother = EmaSmoothing(time_constant_s=0.2)
    first = smoother.update(0.0, ["a", "b"], targets_at((0, 0), (5, 5), inout=(1.0, 0.0)))
    np.testing.assert_array_equal(first.heatmap, targets_at((0, 0), (5, 5)).heatmap)
    second = smoother.update(0.1, ["b", "a"], targets_at((5, 5), (10, 10), inout=(0.0, 0.0)))
    past = math.exp(-0.5)
    assert second.heatmap[1, 0, 0] == pytest.approx(past) and second.heatmap[1, 10, 10] == pytest.approx(1 - past)
    assert second.heatmap[1].sum() == pytest.approx(1)  # nothing between the two places
    assert second.inout_probability is not None and second.inout_probability[1] == pytest.approx(past)
    np.testing.assert_allclose(second.heatmap[0], targets_at((5, 5)).heatmap[0], atol=1e-6)
    later = smoother.update(1.2, ["a"], targets_at((20, 20), inout=(0.5,)))  # unseen for over a second: anew
    np.testing.assert_array_equal(later.heatmap, targets_at((20, 20)).heatmap)


def test_the_average_does_not_depend_on_the_frame_rate() -> None:
    slow, fast = EmaSmoothing(), EmaSmoothing()
    for smoother in (slow, fast):
        smoother.update(0.0, [None], targets_at((0, 0)))
    for k in range(1, 10):
        fast.update(0.03 * k, [None], targets_at((9, 9)))
    a, b = (smoother.update(0.3, [None], targets_at((9, 9))) for smoother in (slow, fast))
    np.testing.assert_allclose(a.heatmap, b.heatmap, atol=1e-6)


def test_what_was_given_is_not_changed_and_none_changes_nothing() -> None:
    given_targets = targets_at((3, 3), inout=(0.7,))
    smoother = EmaSmoothing()
    for t_s in (0.0, 0.1):
        smoother.update(t_s, ["a"], given_targets)
    np.testing.assert_array_equal(given_targets.heatmap, targets_at((3, 3)).heatmap)
    assert build_smoother("none").update(0.0, ["a"], given_targets) is given_targets


def test_smoothings_are_those_the_flag_offers() -> None:
    assert tuple(SMOOTHINGS) == FLAG_SMOOTHINGS
    with pytest.raises(InputError, match="smoothing: expected one of none, ema, found 'kalman'"):
        build_smoother("kalman")


# --- the stream ------------------------------------------------------------------------------------------------------


def asked(count: int = FRAMES) -> list[tuple[float, np.ndarray, tuple[HeadBox, ...] | None]]:
    """Frames with two people, a frame about which nothing is known, and one with nobody."""
    tracker, rows = HeadTracker(), []
    for k, image in enumerate(frames(count)):
        boxes = [moving(0.05, k), moving(0.5, k)]
        heads = tuple(HeadBox(box, name) for box, name in zip(boxes, tracker.update(k / FPS, boxes), strict=True))
        rows.append((k / FPS, image, {4: None, 6: ()}.get(k, heads)))
    return rows


def assert_same(ours: list[FrameTargets], theirs: list[FrameTargets]) -> None:
    assert [(frame.t_s, frame.heads) for frame in ours] == [(frame.t_s, frame.heads) for frame in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.targets.heatmap, b.targets.heatmap, atol=2e-6)
        assert a.targets.inout_probability is not None and b.targets.inout_probability is not None
        np.testing.assert_allclose(a.targets.inout_probability, b.targets.inout_probability, atol=2e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_streamed_is_offline(made: GazeTargetEstimator, smoothing: str) -> None:
    rows = asked()
    offline = TargetStream(made, smoothing=smoothing).push(rows)
    live = TargetStream(made, smoothing=smoothing)
    assert_same([frame for row in rows for frame in live.push([row])], offline)
    begun = TargetStream(made, smoothing=smoothing)
    assert_same(begun.push(rows[:5]), offline[:5])  # what came later had no part in these


def test_a_frame_of_unknown_heads_is_not_one_without_heads(made: GazeTargetEstimator) -> None:
    results = TargetStream(made).push(asked())
    assert results[4].to_dict() == {"t_s": 0.4, "heads": None} and results[6].to_dict() == {"t_s": 0.6, "heads": []}
    row = results[5].to_dict()["heads"][1]
    assert row["track_id"] == "2" and row["box_xyxy_norm"] == moving(0.5, 5)
    assert 0 <= row["inout_probability"] <= 1 and len(row["peak_xy_norm"]) == 2


def test_time_only_goes_forward(made: GazeTargetEstimator) -> None:
    stream = TargetStream(made)
    stream.push(asked(3))
    with pytest.raises(InputError, match=r"frame times: expected a time after 0.2 s, found 0.1 s"):
        stream.push(asked(2)[1:])


@pytest.mark.parametrize("at_once", [1, 5, 64])
def test_a_video_gives_what_its_frames_give(
    made: GazeTargetEstimator, folder: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "FRAMES_AT_ONCE", at_once)
    heads = Heads.given(file=folder / "boxes.json")
    report = video_targets(folder / "clip.mp4", made, heads, smoothing="ema")
    decoded = [(f.time_s, f.image, heads.at(f.time_s, f.image)) for f in iter_frames(folder / "clip.mp4")]
    offline = [frame.to_dict() for frame in TargetStream(made, smoothing="ema").push(decoded)]
    assert len(report["targets"]) == FRAMES
    for ours, theirs in zip(report["targets"], offline, strict=True):
        assert ours["t_s"] == pytest.approx(theirs["t_s"]) and len(ours["heads"]) == len(theirs["heads"])
        for a, b in zip(ours["heads"], theirs["heads"], strict=True):
            assert a["peak_xy_norm"] == b["peak_xy_norm"] and a["track_id"] == b["track_id"]
            assert a["inout_probability"] == pytest.approx(b["inout_probability"], abs=2e-6)


def test_a_lower_rate_looks_at_the_first_frame_of_each_period(made: GazeTargetEstimator, folder: Path) -> None:
    heads = Heads.given(boxes=[(0.1, 0.1, 0.3, 0.4)])
    every = video_targets(folder / "clip.mp4", made, heads)
    some = video_targets(folder / "clip.mp4", made, heads, fps=4)
    assert [row["t_s"] for row in some["targets"]] == pytest.approx([0.0, 0.3, 0.5, 0.8, 1.0])
    by_time = {round(row["t_s"], 3): row for row in every["targets"]}
    for row in some["targets"]:
        assert row["heads"][0]["peak_xy_norm"] == by_time[round(row["t_s"], 3)]["heads"][0]["peak_xy_norm"]
    assert video_targets(folder / "clip.mp4", made, heads, fps=1000)["frames"] == FRAMES


# --- the overlay -----------------------------------------------------------------------------------------------------

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)


def near(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    close = np.asarray((np.abs(image.astype(int) - np.array(colour)) <= 30).all(axis=-1))
    close[-18:] = False
    return close


def test_a_target_is_drawn_in_its_persons_colour_where_it_is() -> None:
    targets = targets_at((40, 48), inout=(0.9,))
    image = draw_targets(GREY, (HeadBox((0.1, 0.3, 0.2, 0.5), "1"),), targets, t_s=1.0)
    assert (GREY == 128).all() and image.shape == GREY.shape
    drawn = near(image, COLOURS[1])
    x, y = targets.peak_xy_norm[0] * np.array([160, 120])
    assert drawn[int(y), int(x)] and drawn[36:60, 16].all()  # the place, and the left side of the head's box
    out = draw_targets(GREY, (HeadBox((0.1, 0.3, 0.2, 0.5), "1"),), targets_at((40, 48), inout=(0.2,)))
    assert (out[int(y) - 3 : int(y) + 3, int(x) - 3 : int(x) + 3] == 128).all()  # outside the frame: no place is shown


def test_an_unknown_frame_says_so() -> None:
    nothing = GazeTargets.none(inout=True)
    unknown, empty = draw_targets(GREY, None, nothing), draw_targets(GREY, (), nothing)
    assert (unknown[:-18] == 128).all() and (empty[:-18] == 128).all()
    assert near_bar(unknown, (255, 205, 40)) and not near_bar(empty, (255, 205, 40))


def near_bar(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image[-18:].astype(int) - np.array(colour)) <= 30).all(axis=-1).any())


@given(
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([None, "1", "anna", "12345678901", "日本"]),
)
@settings(max_examples=40, deadline=None)
def test_any_head_on_any_size_is_drawn_or_cut(
    corner: tuple[float, float], height: int, width: int, name: str | None
) -> None:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    head = HeadBox((corner[0], corner[1], corner[0] + 1, corner[1] + 1), name)
    assert (
        draw_targets(image, (head, HeadBox(None)), targets_at((0, 0), (63, 63), inout=(0.9, 0.8))).shape == image.shape
    )
