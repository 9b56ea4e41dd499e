"""Folders of runs as `gazeqwen eval` leaves them, with predictions of one's own choice. No model, no video."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.records import (
    FAILED,
    MANIFEST,
    OK,
    PREDICTION_KEYS,
    SAMPLES,
    json_lines,
)
from benchmarks.streamgaze.tasks import TASKS

Row = dict[str, Any]


def made_samples(
    *, videos: int = 4, per_video: int = 2, points: int = 4, tasks: Iterable[str] = TASKS, seed: int = 0
) -> list[Row]:
    """Lines of samples.jsonl: questions of each task and video, with random answers; proactive ones with points."""
    rng, rows = random.Random(seed), []
    for name in tasks:
        task = TASKS[name]
        for entry, (video, question) in enumerate((v, q) for v in range(videos) for q in range(per_video)):
            for point in range(points) if task.proactive else (None,):
                rows.append(
                    {
                        "id": f"{name}.{video}.{question}.{point}",
                        "task": name,
                        "group": task.group,
                        "video": f"clip-{video:02d}.mp4",
                        "t_s": 10.0 + question + 10.0 * (point or 0),
                        "question": "Which object?",
                        "options": [] if task.proactive else ["A. mug", "B. jar", "C. pan", "D. box"],
                        "answer": rng.choice(("Yes", "No") if task.proactive else "ABCD"),
                        "entry": entry,
                        "index": 0,
                        "point": point,
                        "asked_s": 5.0,
                    }
                )
    return rows


def row_of(sample: Mapping[str, Any], prediction: str, **values: Any) -> Row:
    """A line of predictions-NNN.jsonl, with every key that one has."""
    row = {
        "id": sample["id"],
        "task": sample["task"],
        "video": sample["video"],
        "t_s": sample["t_s"],
        "answer": sample["answer"],
        "status": OK,
        "reason": "",
        "prediction": prediction,
        "correct": prediction == sample["answer"],
        "logprobs": {},
        "text": "",
        "scoring": "letters",
        "protocol": "stream",
        "arm": "inject",
        "has_gaze": True,
        "span_s": [0.0, sample["t_s"]],
        "frame_times_s": [0.0, 0.5],
        "gaze_times_s": [],
        "fixations": [],
        "gaze_valid_fraction": 1.0,
        "steps": 3,
        "steps_without_gaze": 0,
        "open_fixations": 0,
        "evicted_steps": 0,
        "latency_ms": {"prefill": 20.0, "answer": 30.0},
        "warnings": [],
    }
    assert set(row) == set(PREDICTION_KEYS)
    return row | values


def failed_row(sample: Mapping[str, Any]) -> Row:
    return row_of(sample, "", status=FAILED, reason="the video ends early", latency_ms={}, has_gaze=None)


def guesses(samples: Sequence[Row], *, right: float = 0.5, seed: int = 0) -> list[Row]:
    """Answers that are right with this probability, else anything but right."""
    rng, rows = random.Random(seed), []
    for sample in samples:
        wrong = [answer for answer in (sample["options"] and "ABCD") or ("Yes", "No") if answer != sample["answer"]]
        rows.append(row_of(sample, sample["answer"] if rng.random() < right else rng.choice(wrong)))
    return rows


def write_run(
    folder: Path,
    samples: Sequence[Row],
    rows: Iterable[Row],
    *,
    data_folder: Path | str = "/data/mini",
    unusable: int = 0,
    file_of: Callable[[int], int] = lambda number: 0,
    **identity: Any,
) -> Path:
    """Writes the folder and returns it. `file_of`: which predictions file the n-th row goes into."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": 1,
        "benchmark": "streamgaze",
        "identity": {
            "protocol": "stream",
            "arm": "inject",
            "tasks": list(TASKS),
            "limit": None,
            "limited": False,
            "seed": 0,
            "gaze_input": None,
            "window": "evict",
            "max_frames": 600,
            "proactive_wording": "shared",
            "scoring": "letters",
            "rules": "causal",
            "data": {"name": "mini-streamgaze", "qa": {"qa/a.json": "00"}},
            "model": {"id": "tiny", "name": "tiny", "trained": "stage one"},
            **identity,
        },
        "data_folder": str(data_folder),
        "unusable_entries": unusable,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    (folder / SAMPLES).write_text(json_lines(samples), encoding="utf-8")
    files: dict[int, list[Row]] = {}
    for number, row in enumerate(rows):
        files.setdefault(file_of(number), []).append(row)
    for number, of_file in files.items():
        (folder / f"predictions-{number:03d}.jsonl").write_text(json_lines(of_file), encoding="utf-8")
    return folder
