"""One run: every head of a set is answered or has failed for a stated reason; the numbers are made of those rows alone.

    RUN/manifest.json            what was asked of which data by which weights: a run goes on only as the same
    RUN/predictions-NNN.jsonl    one line a head, as it is answered; what a killed run has is kept

A failed head counts as the worst there is: AUC 0, L2 the frame's diagonal (sqrt 2), and for in/out the wrong answer.
The same numbers over answered heads alone stand beside them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gaze_target.dataset import GazeSet, Head, Picture
from benchmarks.gaze_target.metrics import average_precision, gazefollow_auc, gazefollow_l2, vat_auc, vat_l2
from benchmarks.streamgaze.records import (
    FAILED,
    MANIFEST,
    OK,
    PredictionWriter,
    prediction_files,
    read_lines,
    write_atomically,
)
from benchmarks.streamgaze.run_folder import versions
from benchmarks.streamgaze.statistics import bootstrap_interval, ratio
from gazeqwen.digest import add_tensors
from gazeqwen.errors import InputError
from gazeqwen.gaze_target import GazeTargetEstimator, GazeTargets
from gazeqwen.types import plain_json

FORMAT = 1
WORST = {"auc": 0.0, "avg_l2": math.sqrt(2), "min_l2": math.sqrt(2), "l2": math.sqrt(2)}
PLACES = {"gazefollow": ("auc", "avg_l2", "min_l2"), "vat": ("auc", "l2")}
IMAGES_AT_ONCE = 8


def begin(out: Path, identity: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Makes the run's folder, or checks that the one that is there is the same run.

    Raises:
        InputError: a folder with other files, another run, or one that can't be written.
    """
    identity = json.loads(json.dumps(plain_json(identity)))
    try:
        out.mkdir(parents=True, exist_ok=True)
        manifest = out / MANIFEST
        if not manifest.exists():
            if any(not file.name.startswith(".") for file in out.iterdir()):
                raise InputError(
                    out, expected="a new or empty folder, or a run", found="other files", fix="choose another --out"
                )
            content = {"format": FORMAT, "benchmark": "gaze_target", "identity": identity, "versions": versions()}
            write_atomically(manifest, json.dumps(content | plain_json(about), indent=2) + "\n")
        held = json.loads(manifest.read_text(encoding="utf-8")).get("identity")
    except InputError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(out, expected="a run's folder", found=str(error)[:100], fix="choose another --out") from error
    if held != identity:
        keys = sorted(key for key in identity if not isinstance(held, dict) or held.get(key) != identity[key])
        raise InputError(
            out / MANIFEST,
            expected="the run that was started there",
            found=f"another {', '.join(keys) or 'benchmark'}",
            fix="give the same data, weights and flags, or another --out",
        )


def fingerprint(estimator: GazeTargetEstimator) -> str:
    """sha256 over every weight, its name and shape."""
    digest = hashlib.sha256()
    for part in (estimator.backbone, estimator.decoder):
        add_tensors(digest, part.state_dict())
    return digest.hexdigest()


def answered(out: Path) -> dict[str, dict[str, Any]]:
    """The rows that a run's folder has, by the head's id."""
    return {row["id"]: row for file in prediction_files(out) for row in read_lines(file)}


def predict(
    gaze_set: GazeSet,
    pictures: Sequence[Picture],
    estimator: GazeTargetEstimator,
    out: Path,
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Answers the heads that the run's folder has no row of; every head's row, by id.

    Args:
        progress: called with the number of pictures just done.

    Raises:
        InputError: the folder can't be written.
    """
    rows = answered(out)
    left = [picture for picture in pictures if any(head.id not in rows for head in picture.heads)]
    progress(len(pictures) - len(left))
    writer = PredictionWriter(out)
    try:
        for start in range(0, len(left), IMAGES_AT_ONCE):
            part = left[start : start + IMAGES_AT_ONCE]
            for row in _rows(gaze_set.form, part, estimator):
                if row["id"] not in rows:
                    writer.write(row)
                    rows[row["id"]] = json.loads(json.dumps(plain_json(row)))
            progress(len(part))
    except OSError as error:
        raise InputError(writer.path, expected="room for a line", found=error.strerror or str(error)) from error
    finally:
        writer.close()
    wanted = {head.id for picture in pictures for head in picture.heads}
    return {name: row for name, row in rows.items() if name in wanted}


def _rows(form: str, pictures: Sequence[Picture], estimator: GazeTargetEstimator) -> Iterator[dict[str, Any]]:
    """A row for every head, in order."""
    images: list[np.ndarray | str] = [_image(picture) for picture in pictures]
    asked = [
        [head for head in picture.heads if not head.problem] if isinstance(image, np.ndarray) else []
        for picture, image in zip(pictures, images, strict=True)
    ]
    blank = np.zeros((1, 1, 3), np.uint8)  # stands in for an image that can't be read: none of its heads are asked
    pixels = [image if isinstance(image, np.ndarray) else blank for image in images]
    answers = estimator(pixels, [[head.box_xyxy_norm for head in own] for own in asked])
    for picture, image, own, targets in zip(pictures, images, asked, answers, strict=True):
        for head in picture.heads:
            row = {"id": head.id, "path": str(picture.path), "cluster": picture.cluster, "inside": head.inside}
            problem = head.problem or (image if isinstance(image, str) else "")
            scores: dict[str, Any] = {}
            if not problem:
                try:
                    scores = _scores(form, head, picture, targets, own.index(head))
                except InputError as error:
                    problem = str(error)
            yield row | {"status": FAILED if problem else OK, "reason": problem} | scores


def _image(picture: Picture) -> np.ndarray | str:
    """(H, W, 3) uint8 RGB as stored (the annotations are of that), or why there is none."""
    if all(head.problem for head in picture.heads):
        return "no head to ask about"
    try:
        with Image.open(picture.path) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"[:200]


def _scores(form: str, head: Head, picture: Picture, targets: GazeTargets, row: int) -> dict[str, Any]:
    """What one head's answer is worth; places only of targets in the frame.

    Raises:
        InputError: annotations that a metric can't use.
    """
    heatmap = targets.heatmap[row]
    inout = None if targets.inout_probability is None else float(targets.inout_probability[row])
    scores: dict[str, Any] = {"inout_probability": inout, "peak_value": float(heatmap.max())}
    if not head.inside:
        return scores
    points = head.gaze_xy_norm
    if form == "gazefollow":
        average, minimum = gazefollow_l2(heatmap, points)
        width, height = picture.size_px
        return scores | {
            "auc": gazefollow_auc(heatmap, points, image_hw_px=(height, width)),
            "avg_l2": average,
            "min_l2": minimum,
        }
    point = (float(points[0, 0]), float(points[0, 1]))
    return scores | {"auc": vat_auc(heatmap, point), "l2": vat_l2(heatmap, point)}


def summarise(form: str, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The table of a run from its rows.

    Returns:
        heads, heads_inside, failed (and `reasons`, at most five with their counts); `all`: each metric with failures at
        their worst, {value, interval}, intervals 95 % over images or sequences; `answered`: values over answered heads.
        AP and the in/out head's absence: None.
    """
    own = list(rows.values())
    inside = [row for row in own if row["inside"] is not False]
    failed = [row for row in own if row["status"] == FAILED]
    reasons: dict[str, int] = {}
    for row in failed:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    whole: dict[str, Any] = {}
    over: dict[str, float | None] = {}
    for name in PLACES[form]:
        good = [row[name] for row in inside if row["status"] == OK]
        over[name] = float(np.mean(good)) if good else None
        values = [row[name] if row["status"] == OK else WORST[name] for row in inside]
        whole[name] = {"value": float(np.mean(values)) if values else None, "interval": _interval(inside, values)}
    if form == "vat":
        whole["ap"], over["ap"] = {"value": _ap(own), "interval": None}, _ap([r for r in own if r["status"] == OK])
    return plain_json(
        {
            "heads": len(own),
            "heads_inside": len(inside),
            "failed": len(failed),
            "reasons": dict(sorted(reasons.items(), key=lambda item: -item[1])[:5]),
            "all": whole,
            "answered": over,
        }
    )


def _interval(rows: Sequence[Mapping[str, Any]], values: Sequence[float]) -> tuple[float, float] | None:
    names = sorted({row["cluster"] for row in rows})
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), 2))
    for row, value in zip(rows, values, strict=True):
        counts[place[row["cluster"]]] += (value, 1.0)
    return bootstrap_interval(counts, lambda sums: ratio(sums[:, 0], sums[:, 1]))


def _ap(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """In/out AP; a failed head is given the wrong answer with certainty. None without an in/out head or positives."""
    truth = [row["inside"] is not False for row in rows]
    known = [row.get("inout_probability") for row in rows if row["status"] == OK]
    if not any(truth) or (known and known[0] is None):
        return None
    scores = [
        row["inout_probability"] if row["status"] == OK else (-1.0 if positive else 2.0)
        for row, positive in zip(rows, truth, strict=True)
    ]
    return average_precision(truth, scores)
