"""GazeFollow's and VideoAttentionTarget's metrics, their files, and a run from JSON to table: nothing is dropped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import benchmarks.gaze_target.run as runner
from benchmarks.gaze_target.__main__ import main
from benchmarks.gaze_target.dataset import read_set
from benchmarks.gaze_target.metrics import (
    average_precision,
    gazefollow_auc,
    gazefollow_l2,
    roc_auc,
    vat_auc,
    vat_l2,
)
from benchmarks.gaze_target.published import COLUMNS, PUBLISHED
from benchmarks.gaze_target.run import summarise
from benchmarks.streamgaze.records import prediction_files, read_lines
from gazeqwen.errors import InputError
from gazeqwen.gaze_target import GazeTargetEstimator, training_target
from tests.made_gaze_target import write_weights

# --- metrics ---------------------------------------------------------------------------------------------------------

scored = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9])), min_size=2, max_size=40)


@given(scored.filter(lambda rows: 0 < sum(row[0] for row in rows) < len(rows)))
def test_auc_is_the_chance_to_rank_right_with_ties_halved(rows: list[tuple[bool, float]]) -> None:
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
    assert roc_auc(truth, scores) == pytest.approx(np.mean(pairs), abs=1e-12)


@given(scored.filter(lambda rows: any(row[0] for row in rows)))
def test_average_precision_is_the_area_under_the_stepped_curve(rows: list[tuple[bool, float]]) -> None:
    truth, scores = [row[0] for row in rows], [row[1] for row in rows]
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = [positive for positive, score in rows if score >= threshold]
        reached = sum(chosen) / sum(truth)
        area, recall = area + (reached - recall) * sum(chosen) / len(chosen), reached
    assert average_precision(truth, scores) == pytest.approx(area, abs=1e-12)
    order = np.random.default_rng(0).permutation(len(rows))  # ties make no order
    again = average_precision(np.array(truth)[order], np.array(scores)[order])
    assert again == pytest.approx(area, abs=1e-12)


def test_metrics_of_one_class_are_refused() -> None:
    for truth in (np.ones(3, dtype=bool), np.zeros(3, dtype=bool)):
        with pytest.raises(InputError, match="positives and negatives"):
            roc_auc(truth, np.arange(3.0))
    with pytest.raises(InputError, match="at least one positive"):
        average_precision([False, False], [0.1, 0.2])


def test_l2_is_from_the_cells_corner_to_the_mean_and_the_nearest() -> None:
    heatmap = np.zeros((64, 64), np.float32)
    heatmap[32, 16] = heatmap[40, 50] = 1.0  # the first of equal cells
    average, minimum = gazefollow_l2(heatmap, [[0.25, 0.5], [0.75, 0.5]])
    assert (average, minimum) == (pytest.approx(0.25), 0.0)
    assert gazefollow_l2(heatmap, [[-0.75, 0.5], [0.25, 0.5]]) == (pytest.approx(0.5), 0.0)  # negative ones take part
    assert vat_l2(heatmap, (0.25, 1.0)) == pytest.approx(0.5)


def test_gazefollows_auc_is_at_the_images_size_without_annotators_that_saw_none() -> None:
    heatmap = training_target((0.3, 0.6))
    right = gazefollow_auc(heatmap, [[0.3, 0.6]], image_hw_px=(90, 120))
    assert right > 0.99 > 0.6 > gazefollow_auc(heatmap, [[0.9, 0.1]], image_hw_px=(90, 120))
    assert gazefollow_auc(heatmap, [[0.3, 0.6], [-1, -1]], image_hw_px=(90, 120)) == right
    assert gazefollow_auc(heatmap, [[1.0, 1.0]], image_hw_px=(90, 120)) <= 0.5  # the last pixel, not beyond it
    with pytest.raises(InputError, match="positives and negatives"):
        gazefollow_auc(heatmap, [[-1, -1]], image_hw_px=(90, 120))
    for wrong in ([], [[math.nan, 0.1]], [0.1, 0.2]):
        with pytest.raises(InputError, match="gaze annotations"):
            gazefollow_auc(heatmap, wrong, image_hw_px=(9, 9))


def test_vats_region_is_19_cells_and_never_the_last_row_or_column() -> None:
    for place, rows, columns in (((0.5, 0.5), (23, 42), (23, 42)), ((1.0, 0.0), (0, 10), (55, 63))):
        ideal = np.zeros((64, 64), np.float32)
        ideal[slice(*rows), slice(*columns)] = 1.0
        assert vat_auc(ideal, place) == 1.0
        ideal[rows[0], columns[0]] = 0.0
        assert vat_auc(ideal, place) < 1.0
    last = np.zeros((64, 64), np.float32)
    last[:, 63] = last[63] = 1.0
    assert vat_auc(last, (1.0, 1.0)) < 0.5
    with pytest.raises(InputError, match="positives"):
        vat_auc(last, (1.5, 0.5))


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_right_heatmap_beats_its_opposite(x: float, y: float) -> None:
    right = training_target((min(x, 0.99), min(y, 0.99)))
    for auc in (vat_auc(right, (x, y)), gazefollow_auc(right, [[x, y]], image_hw_px=(50, 80))):
        assert auc > 0.9
    assert vat_auc(1 - right, (x, y)) < 0.1


def test_published_rows_have_a_number_for_each_column() -> None:
    for name, columns in COLUMNS.items():
        rows = [row.on(name) for row in PUBLISHED if row.on(name)]
        assert rows and {len(row) for row in rows} == {len(columns)}
        assert all(value is None or 0 < value < 1 for row in rows for value in row)
    methods = {row.method: row for row in PUBLISHED}
    assert methods["Gaze-LLE ViT-L"].vat == (0.937, 0.103, 0.903) and len(methods) == len(PUBLISHED)


# --- files -----------------------------------------------------------------------------------------------------------

SIZE_PX = (48, 36)
BOX = [0.1, 0.1, 0.4, 0.5]


def head(*, inout: Any = 1, x: Any = 0.4, y: Any = 0.6, box: Any = BOX, **more: Any) -> dict[str, Any]:
    """A head with its gaze in lists, as for GazeFollow."""
    return {"bbox_norm": box, "inout": inout, "gazex_norm": x, "gazey_norm": y} | more


def picture(name: str, *heads: dict[str, Any]) -> dict[str, Any]:
    return {"path": name, "width": SIZE_PX[0], "height": SIZE_PX[1], "num_heads": len(heads), "heads": list(heads)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images, GazeFollow and VAT files about them, and weights."""
    write_weights(tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "test").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(random.integers(0, 256, (*SIZE_PX[::-1], 3), dtype=np.uint8)).save(tmp_path / "test" / name)
    write(
        tmp_path / "gazefollow.json",
        [
            picture("test/a.jpg", head(x=[0.4, 0.5], y=[0.6, 0.6]), head(x=[0.1], y=[0.2], box=[0.6, 0.1, 0.61, 0.12])),
            picture("test/b.jpg", head(x=[0.9], y=[0.2])),
            picture("test/c.jpg", head(inout=0, x=[-1], y=[-1]), head(x=[0.2], y=[0.9])),
        ],
    )
    frames = [{"path": f"test/{name}.jpg", "heads": [head(), head(inout=0, x=-1, y=-1)]} for name in "ab"]
    sequence = {"path": "test", "width": SIZE_PX[0], "height": SIZE_PX[1]}
    last = {"path": "c.jpg", "heads": [head(x=[0.1], y=[0.1])]}  # relative to its sequence
    write(tmp_path / "vat.json", [sequence | {"frames": frames}, sequence | {"frames": [last]}])
    return tmp_path


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_both_forms_are_read(folder: Path) -> None:
    images, sequences = read_set(folder / "gazefollow.json"), read_set(folder / "vat.json")
    assert (images.form, sequences.form) == ("gazefollow", "vat")
    assert [len(own.heads) for own in images.pictures] == [2, 1, 2]
    assert images.pictures[0].heads[0].gaze_xy_norm.tolist() == [[0.4, 0.6], [0.5, 0.6]]
    assert images.pictures[0].size_px == SIZE_PX and images.pictures[2].heads[0].inside is False
    assert [own.cluster for own in sequences.pictures] == ["0", "0", "1"]
    assert all(own.path.is_file() for own in (*images.pictures, *sequences.pictures))
    for every in (images, sequences):
        names = [each.id for own in every.pictures for each in own.heads]
        assert len(set(names)) == len(names) and not any(each.problem for own in every.pictures for each in own.heads)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (head(box=[0.1, 0.2]), "bbox_norm is no box"),
        (head(box="x"), "bbox_norm is no box"),
        ({"inout": 1, "gazex_norm": [0.1], "gazey_norm": [0.1]}, "bbox_norm is no box"),
        (head(x=[0.1, 0.2], y=[0.3]), "no gaze point"),
        (head(x=None, y=None), "no gaze point"),
        (head(x=[], y=[]), "no gaze point"),
        (head(inout=-1), "inout is neither 0 nor 1"),
        (head(inout=None), "inout is neither 0 nor 1"),
        (7, "the head is no object"),
    ],
)
def test_a_damaged_head_stays_and_says_why(folder: Path, wrong: Any, said: str) -> None:
    path = write(folder / "set.json", [picture("test/a.jpg", head(), wrong, head())])
    (own,) = read_set(path).pictures
    assert [each.problem[: len(said)] for each in own.heads] == ["", said, ""]


@pytest.mark.parametrize(
    "wrong",
    [{"heads": [head()]}, {"path": "test/a.jpg", "heads": 3}, {"path": "test/a.jpg", "heads": [head()], "width": 0}],
)
def test_a_damaged_picture_stays_as_damaged_heads(folder: Path, wrong: dict[str, Any]) -> None:
    path = write(folder / "set.json", [wrong, picture("test/a.jpg", head())])
    first, second = read_set(path).pictures
    assert [bool(each.problem) for each in (*first.heads, *second.heads)] == [True, False]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ("{}", "a list of images or sequences"),
        ("[]", "a list of images or sequences"),
        ("[1]", "a list of images or sequences"),
        ('[{"path": "x"}]', 'entries with "heads"'),
        ('[{"heads": []}, {"frames": []}]', "found both"),
        ('[{"frames": 3}]', 'sequence 1: expected a list "frames"'),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(InputError, match=said):
        read_set(tmp_path / "set.json")
    with pytest.raises(InputError, match="No such file"):
        read_set(tmp_path / "absent.json")


# --- runs ------------------------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`python -m benchmarks.gaze_target --data FOLDER/NAME --out FOLDER/RUN ...` with the tiny weights."""

    def call(name: str, *more: object, out: str = "run") -> tuple[int, str, str]:
        words = ["--data", folder / name, "--weights", folder / "gazelle.pt", "--backbone", folder / "dinov2"]
        code = main([str(word) for word in (*words, "--out", folder / out, "--offline", *more)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for file in prediction_files(path) for row in read_lines(file)}


def test_a_run_on_gazefollow_is_its_metrics_on_its_heads(run: Run, folder: Path) -> None:
    code, out, _ = run("gazefollow.json", "--json")
    report = json.loads(out)
    assert code == 0 and (report["heads"], report["heads_inside"], report["failed"]) == (5, 4, 0)
    estimator = GazeTargetEstimator.from_pretrained(
        folder / "gazelle.pt", folder / "dinov2", small_head_fix=False, local_files_only=True
    )
    scores = []
    for own in read_set(folder / "gazefollow.json").pictures:
        with Image.open(folder / own.path) as image:
            pixels = np.array(image.convert("RGB"))
        for each in own.heads:
            if each.inside:
                (targets,) = estimator([pixels], [[each.box_xyxy_norm]])
                auc = gazefollow_auc(targets.heatmap[0], each.gaze_xy_norm, image_hw_px=(SIZE_PX[1], SIZE_PX[0]))
                scores.append((auc, *gazefollow_l2(targets.heatmap[0], each.gaze_xy_norm)))
    for name, expected in zip(("auc", "avg_l2", "min_l2"), np.mean(scores, axis=0), strict=True):
        assert report["all"][name]["value"] == pytest.approx(expected, abs=1e-4)
        low, high = report["all"][name]["interval"]
        assert low <= report["all"][name]["value"] <= high
        assert report["answered"][name] == report["all"][name]["value"]


def test_a_run_on_vat_scores_places_inside_and_all_for_in_out(run: Run, folder: Path) -> None:
    report = json.loads(run("vat.json", "--json")[1])
    assert (report["heads"], report["heads_inside"], report["failed"]) == (5, 3, 0)
    rows = list(rows_of(folder / "run").values())
    truth, scores = [row["inside"] for row in rows], [row["inout_probability"] for row in rows]
    assert report["all"]["ap"] == {"value": pytest.approx(average_precision(truth, scores)), "interval": None}
    inside = [row for row in rows if row["inside"]]
    assert all("auc" not in row for row in rows if not row["inside"])
    assert report["all"]["l2"]["value"] == pytest.approx(np.mean([row["l2"] for row in inside]))


def test_failures_are_rows_and_count_as_the_worst(run: Run, folder: Path) -> None:
    content = json.loads((folder / "vat.json").read_text())
    content[0]["frames"][0]["heads"].append(head(x=None, y=None))  # a head that can't be scored
    content[0]["frames"][1]["path"] = "test/absent.jpg"  # two heads without an image
    (folder / "test" / "c.jpg").write_bytes(b"no image")  # one head
    write(folder / "damaged.json", content)
    code, out, _ = run("damaged.json", "--json")
    report = json.loads(out)
    assert code == 0 and (report["heads"], report["heads_inside"], report["failed"]) == (6, 4, 4)
    assert sum(report["reasons"].values()) == 4 and any("FileNotFoundError" in reason for reason in report["reasons"])
    rows = rows_of(folder / "run")
    assert len(rows) == 6 and sum(row["status"] == "failed" for row in rows.values()) == 4
    (good,) = [row for row in rows.values() if row["status"] == "ok" and row["inside"]]
    assert report["answered"]["auc"] == pytest.approx(good["auc"])
    assert report["all"]["auc"]["value"] == pytest.approx(good["auc"] / 4)
    assert report["all"]["l2"]["value"] == pytest.approx((good["l2"] + 3 * math.sqrt(2)) / 4)
    scores = [row.get("inout_probability", -1 if row["inside"] else 2) for row in rows.values()]  # certain and wrong
    truth = [row["inside"] for row in rows.values()]
    assert report["all"]["ap"]["value"] == pytest.approx(average_precision(truth, scores))
    text = run("damaged.json")[1]
    assert "4 failed" in text and "Failed heads count as AUC 0" in text and "answered only" in text


def test_a_run_goes_on_where_it_was_killed(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(run("gazefollow.json", "--json", out="whole")[1])
    monkeypatch.setattr(runner, "IMAGES_AT_ONCE", 1)
    calls: list[int] = []
    asked = GazeTargetEstimator.__call__

    def stopping(self: GazeTargetEstimator, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return asked(self, *arguments)

    monkeypatch.setattr(GazeTargetEstimator, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("gazefollow.json")
    held = rows_of(folder / "run")
    assert len(held) == 2  # the heads of the first image
    resumed = json.loads(run("gazefollow.json", "--json")[1])
    assert len(calls) == 4 and len(prediction_files(folder / "run")) == 2  # the other two images, in another file
    for key in ("heads", "failed", "heads_inside"):
        assert resumed[key] == whole[key]
    for name, value in whole["answered"].items():
        assert resumed["answered"][name] == pytest.approx(value, abs=1e-5)
    assert {name: rows_of(folder / "run")[name] for name in held} == held
    again = json.loads(run("gazefollow.json", "--json")[1])
    assert len(calls) == 4 and again == resumed  # a finished run is read, not run


def test_a_run_goes_on_only_as_what_it_was(run: Run, folder: Path) -> None:
    assert run("gazefollow.json")[0] == 0
    for name, more, said in (
        ("vat.json", (), "another data_sha256"),
        ("gazefollow.json", ("--small-head-fix",), "another small_head_fix"),
        ("gazefollow.json", ("--limit", 1), "another limit"),
        ("gazefollow.json", ("--ln-eps", 1e-6), "another ln_eps"),
    ):
        code, out, err = run(name, *more)
        assert (code, out) == (2, "") and err.count("\n") == 1 and said in err
    (folder / "full").mkdir()
    (folder / "full" / "something").write_text("")
    code, _, err = run("gazefollow.json", out="full")
    assert code == 2 and "found other files" in err


def test_the_table_fits_80_columns_and_shows_ours_beside_the_published(run: Run) -> None:
    for name, more, needed in (
        ("gazefollow.json", (), ("Gaze-LLE ViT-L", "ViTGaze 2024", "PaGE H+", "Avg L2", "ours", "95 % interval")),
        (
            "vat.json",
            ("--dataset", "childplay", "--limit", 1, "--small-head-fix"),
            ("Sharingan", "AP in/out", "--limit 1"),
        ),
    ):
        code, out, err = run(name, *more, out=f"run-{name}")
        assert (code, err) == (0, "") and max(map(len, out.splitlines())) <= 80, out
        assert all(word in out for word in needed), out
    assert "Recasens" not in out  # no row on ChildPlay


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("absent.json", (), "absent.json: expected a preprocessed JSON file"),
        ("vat.json", ("--dataset", "gazefollow"), "expected the form of gazefollow, found a list of sequences"),
        ("gazefollow.json", ("--dataset", "childplay"), "found a list of images"),
        ("gazefollow.json", ("--images", "nowhere"), "nowhere: expected the folder of the images"),
        ("gazefollow.json", ("--device", "abacus"), "device: expected cpu"),
        ("gazefollow.json", ("--ln-eps", "2"), "ln_eps must lie between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(run: Run, name: str, more: tuple[str, ...], said: str) -> None:
    code, out, err = run(name, *more)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err, err


def test_a_limit_of_none_is_wrong_use(run: Run) -> None:
    with pytest.raises(SystemExit) as stop:
        run("gazefollow.json", "--limit", 0)
    assert stop.value.code == 2


def test_rows_that_all_failed_still_make_a_table() -> None:
    failed = {"status": "failed", "reason": "gone", "cluster": "0", "inside": None}
    report = summarise("vat", {"0/0": {"id": "0/0", **failed}})
    assert report["all"]["auc"] == {"value": 0.0, "interval": None} and report["answered"]["auc"] is None
    assert report["heads_inside"] == 1 and report["answered"]["ap"] is None
