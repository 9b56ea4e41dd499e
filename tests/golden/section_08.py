"""Golden section 08: StreamGaze's own scorer on synthetic files of all ten tasks, quirks included."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.streamgaze.official_scorer import TITLES, ModelScore, is_right, score_file, score_results
from benchmarks.streamgaze.wording import parse_choice
from gazeqwen.errors import InputError
from tests.golden.io import Golden, load

SECTION = "08"
FUNCTION = "benchmarks.streamgaze.official_scorer.score_results"
TOLERANCE = 1e-9  # percent points; counts and labels must be equal


def check(folder: Path) -> tuple[float, float]:
    """(largest error of a percentage, tolerance); infinite when a count, a label or a reading of an answer differs.

    Raises:
        InputError: the section is absent, damaged or empty.
    """
    worst = 0.0
    for golden in load(folder, SECTION):
        _require_content(golden)
        readings = [parse_choice(text, form="strict") == expected for text, expected in golden["normalize_answer"]]
        for row in golden["proactive_substring"]:
            for label in ("Yes", "No"):
                counts = is_right(label, row["response"], mode="strict")
                readings.append(counts == row[f"counts_as_{label.lower()}"])
        if not all(readings):
            return math.inf, TOLERANCE
        with TemporaryDirectory() as scratch:
            results = Path(scratch) / "results"
            for name, content in golden["files"].items():
                file = results / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(content), encoding="utf-8")
            worst = max(worst, *_file_errors(golden, results), *_table_errors(golden, score_results(results)))
    return worst, TOLERANCE


def _require_content(golden: Golden) -> None:
    tables = ("files", "expected_per_file", "expected_detailed_csv", "expected_summary_csv", "expected_averages_csv")
    for key in (*tables, "normalize_answer", "proactive_substring"):
        if not golden[key]:
            raise InputError(golden.path, expected=f"something under {key!r}", found="nothing")


def _file_errors(golden: Golden, results: Path) -> Iterator[float]:
    for name, expected in golden["expected_per_file"].items():
        ours = score_file(results / name)
        same = (ours.correct, ours.total) == (expected["correct"], expected["total"])
        yield _difference(ours.accuracy, expected["accuracy"]) if same else math.inf


def _table_errors(golden: Golden, ours: tuple[ModelScore, ...]) -> Iterator[float]:
    detailed = [
        {
            "Model": model.label,
            "Task": TITLES[key],
            "Accuracy (%)": "N/A" if score is None else format(score.accuracy or 0.0, ".2f"),
            "Correct": str(score.correct if score else 0),
            "Total": str(score.total if score else 0),
        }
        for model in ours
        for key, score in model.tasks.items()
    ]
    yield 0.0 if detailed == golden["expected_detailed_csv"] else math.inf
    labels = [model.label for model in ours]
    for table in ("expected_summary_csv", "expected_averages_csv"):
        yield 0.0 if [row["Model"] for row in golden[table]] == labels else math.inf
    for model, row in zip(ours, golden["expected_summary_csv"], strict=True):
        for key, score in model.tasks.items():
            yield _difference(None if score is None else score.accuracy, row[TITLES[key]])
    for model, row in zip(ours, golden["expected_averages_csv"], strict=True):
        yield _difference(model.average, row["Average"])


def _difference(ours: float | None, theirs: Any) -> float:
    """Of two percentages; an empty cell of the scorer's tables is our None."""
    if ours is None or theirs == "":
        return 0.0 if ours is None and theirs == "" else math.inf
    return abs(ours - float(theirs))
