"""A StreamGaze folder for tests: a few short H.264 clips, questions of all ten tasks, raw gaze and fixations.

Nothing in the scene means anything and answers are drawn at random: it is for tests of what reads and runs the data.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.streamgaze.tasks import TASKS, format_time
from stream.video import write_clip

FPS, SAMPLE_HZ = 8.0, 50.0
SIZE_PX = (112, 112)  # (width, height): 16 video tokens of the tiny model
OBJECTS = ("mug", "plate", "knife", "jar", "board", "bottle", "pan", "towel")


def make_dataset(
    folder: Path,
    *,
    videos: int = 3,
    seconds: float = 12.0,
    per_video: int = 1,
    points: int = 4,
    seed: int = 0,
    gaze: bool = True,
    fixations: bool = True,
    windows: Mapping[str, float | None] | None = None,
    crf: int = 18,
    alter_frame: Callable[[float, np.ndarray], np.ndarray] | None = None,
    alter_gaze: Callable[[np.ndarray], np.ndarray] | None = None,
    alter_fixations: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Path:
    """Writes the folder and returns it. The same arguments give the same bytes.

    Args:
        videos, seconds: clips, and how long the first one is; each next one is a second longer.
        per_video, points: questions of a task and video; test points of a proactive one.
        gaze, fixations: whether the raw gaze and the fixation tables are written.
        windows: of the manifest: "past", "present", "proactive" in seconds, None for no limit.
        crf: of the encoder; 0 is lossless, so that a frame's pixels don't depend on the frames after it.
        alter_frame: (time_s, image) -> image, before encoding.
        alter_gaze: (N, 3) t_s, x_norm, y_norm -> the same; alter_fixations: (F, 4) start_s, stop_s, x_norm, y_norm.
    """
    names = [f"clip-{k}.mp4" for k in range(videos)]
    for k, name in enumerate(names):
        rng = np.random.default_rng((seed, k))
        length_s = seconds + k
        scanpath = _fixations(rng, length_s)
        samples = _samples(rng, scanpath, length_s)
        _write_video(folder / "videos" / "original_video" / name, rng, samples, length_s, crf, alter_frame)
        stem = Path(name).stem
        if gaze:
            rows = samples if alter_gaze is None else alter_gaze(samples.copy())
            _write_csv(folder / "gaze" / f"{stem}.csv", ("t_s", "x_norm", "y_norm"), rows)
        if fixations:
            rows = scanpath if alter_fixations is None else alter_fixations(scanpath.copy())
            header = (
                "fixation_id", "start_time_seconds", "end_time_seconds", "duration_seconds", "center_x", "center_y"
            )  # fmt: skip
            table = [(i, a, b, b - a, x, y) for i, (a, b, x, y) in enumerate(rows)]
            _write_csv(folder / "fixations" / f"{stem}_fixation_filtered.csv", header, table)
    (folder / "qa").mkdir(parents=True, exist_ok=True)
    for task in TASKS.values():
        rng = np.random.default_rng((seed, 1000, list(TASKS).index(task.name)))
        entries = [
            _proactive(rng, name, seconds + k, task.name, points)
            if task.proactive
            else _multiple_choice(rng, name, seconds + k, task.name)
            for k, name in enumerate(names)
            for _ in range(per_video)
        ]
        (folder / "qa" / f"{task.key}.json").write_text(json.dumps(entries, indent=2), encoding="utf-8")
    if windows is not None:
        write_windows(folder, windows)
    return folder


def write_windows(folder: Path, windows: Mapping[str, float | None]) -> None:
    """A manifest that shortens the tasks' windows, for clips shorter than a minute."""
    (folder / "manifest.json").write_text(
        json.dumps({"gazeqwen_data": 1, "name": "made", "windows": dict(windows)}), encoding="utf-8"
    )


def _fixations(rng: np.random.Generator, length_s: float) -> np.ndarray:
    """(F, 4) start_s, stop_s, x_norm, y_norm."""
    rows, start_s = [], 0.1
    while start_s < length_s - 0.4:
        stop_s = min(start_s + rng.uniform(0.3, 1.6), length_s - 0.05)
        rows.append((start_s, stop_s, *rng.uniform(0.1, 0.9, 2)))
        start_s = stop_s + rng.uniform(0.04, 0.3)
    return np.round(np.array(rows), 4)


def _samples(rng: np.random.Generator, scanpath: np.ndarray, length_s: float) -> np.ndarray:
    """(N, 3) t_s, x_norm, y_norm: at the fixation under way or on the way to the next, with noise."""
    t_s = np.arange(0, length_s, 1 / SAMPLE_HZ)
    edges = scanpath[:, :2].ravel()
    xy = [np.interp(t_s, edges, scanpath[:, 2 + axis].repeat(2)) for axis in (0, 1)]
    noisy = np.clip(np.stack(xy, 1) + rng.normal(0, 0.002, (t_s.size, 2)), 0, 1)
    return np.round(np.column_stack([t_s, noisy]), 5)


def _write_video(
    path: Path,
    rng: np.random.Generator,
    samples: np.ndarray,
    length_s: float,
    crf: int,
    alter: Callable[[float, np.ndarray], np.ndarray] | None,
) -> None:
    width, height = SIZE_PX
    room = rng.integers(40, 200, (7, 7, 3), dtype=np.uint8).repeat(height // 7, axis=0).repeat(width // 7, axis=1)
    images = []
    for k in range(round(length_s * FPS)):
        time_s = k / FPS
        image = np.roll(room, k, axis=1).copy()
        row = min(int(time_s * SAMPLE_HZ), len(samples) - 1)
        x, y = (int(value * (size - 17)) for value, size in zip(samples[row, 1:], SIZE_PX, strict=True))
        image[y : y + 16, x : x + 16] = (255, 255 * (k % 2), 0)
        images.append(image if alter is None else alter(time_s, image))
    write_clip(path, images, fps=FPS, crf=crf, preset="ultrafast")


def _write_csv(path: Path, header: tuple[str, ...], rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(header)
        writer.writerows([[round(float(v), 5) if isinstance(v, float) else v for v in row] for row in rows])


def _time_s(rng: np.random.Generator, length_s: float) -> float:
    """A whole second as in the release, in the clip's second half."""
    return float(rng.integers(int(length_s / 2), int(length_s) - 1))


def _multiple_choice(rng: np.random.Generator, video: str, length_s: float, task: str) -> dict[str, Any]:
    time_s = _time_s(rng, length_s)
    words = rng.permutation(OBJECTS)[:4]
    question = {
        "question": f"{task}: which object is it?",
        "time_stamp": format_time(time_s),
        "answer": "ABCD"[rng.integers(4)],
        "options": [f"{letter}. {word}" for letter, word in zip("ABCD", words, strict=True)],
        "task_type": TASKS[task].key,
    }
    return {
        "video_path": video,
        "response_time": f"[{format_time(max(time_s - 5, 0))} - {format_time(time_s)}]",
        "questions": [question],
        "video_categories": "made",
    }


def _proactive(rng: np.random.Generator, video: str, length_s: float, task: str, count: int) -> dict[str, Any]:
    start_s = float(rng.integers(1, 3))
    points = [round(start_s + (k + 1) * (length_s - 2 - start_s) / count, 1) for k in range(count)]
    word = str(rng.choice(OBJECTS))
    verb = "I gaze at the" if task == "GTA" else "you first see the"
    question = {
        "question": f"Alert me when {verb} <{word}>.",
        "time_stamp": format_time(start_s),
        "first_appearance": format_time(points[count // 2]),
        "target_object": word,
        "test_info": [{"realtime": format_time(t), "type": int(rng.integers(2))} for t in points],
    }
    return {
        "video_path": video,
        "response_time": f"[{format_time(start_s)} - {format_time(points[-1])}]",
        "questions": [question],
    }
