"""`gazeqwen data validate DIR`: counts everything, names every entry that can't be run and why.

Opens each video (its header and first frame; one that is damaged further on is found when it is read) and reads all
gaze. No gaze is no problem of OAA, which needs none.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.qa_files import Problem
from benchmarks.streamgaze.tasks import TASKS, Sample
from gazeqwen.errors import GazeQwenError
from gazeqwen.types import Fixations, GazeSamples, plain_json
from stream.trackers import read_gaze
from stream.video import TIME_TOLERANCE_S, probe

WIDTH = 80
SHOWN = 3  # places named of each kind of problem; --json has all
OPTIONS = 4  # of the official questions


def validate(dataset: Dataset, *, progress: Callable[[int], Any] = lambda done: None) -> dict[str, Any]:
    """What is there and what can't be run, as plain data.

    Returns:
        "tasks": by task {questions, points, samples, videos, with_gaze, cannot_run}: `with_gaze` counts samples with
        valid gaze in what they may see, `cannot_run` every problem of the task; "videos": {named, found, readable,
        with_samples, with_fixations}; "problems": see `Problem`; "unusable": how many of them are of nothing that can
        be scored; "notes"; "ok": whether there is no problem.

    Args:
        progress: called with 1 for each video that is done.
    """
    problems = list(dataset.problems)
    videos: Counter[str] = Counter(named=0, found=0, readable=0, with_samples=0, with_fixations=0)
    with_gaze: Counter[str] = Counter()
    by_video: dict[str, list[Sample]] = {video: [] for video in dataset.videos}
    for sample in dataset.samples():
        by_video[sample.video].append(sample)
    for video, samples in by_video.items():
        checked = _Video(dataset, video)
        videos.update(checked.counts)
        for sample in samples:
            with_gaze[sample.task] += checked.has_gaze(sample)
            if dataset.problem_of(sample) is None:
                problems += checked.problems(sample)
        progress(1)
    cannot_run = Counter(problem.task for problem in problems)
    tasks = {
        name: {**counts, "with_gaze": with_gaze[name], "cannot_run": cannot_run[name]}
        for name, counts in dataset.counts().items()
    }
    return {
        "data": str(dataset.root),
        "name": dataset.name,
        "rules": dataset.rules,
        "windows_s": dict(dataset.windows),
        "qa_files": list(dataset.qa_files),
        "tasks": tasks,
        "videos": dict(videos),
        "episodes": dataset.episode_count,
        "unusable": len(dataset.unusable),
        "problems": [asdict(problem) for problem in problems],
        "notes": [*dataset.notes, *_notes(dataset)],
        "ok": not problems,
    }


class _Video:
    """One video and its gaze, opened; what is wrong with the samples that are about it."""

    def __init__(self, dataset: Dataset, video: str) -> None:
        self.dataset = dataset
        self.end_s = math.inf
        self.error: tuple[str, GazeQwenError] | None = None  # of the whole video: a reason and what was raised
        self.samples, self.fixations = GazeSamples.build([], []), Fixations.empty()
        self.has_file = dataset.gaze_path(video) is not None
        self.counts = Counter(
            named=1,
            with_samples=dataset.gaze_path(video, gaze_input="samples") is not None,
            with_fixations=dataset.gaze_path(video, gaze_input="fixations") is not None,
        )
        self._open(video)

    def _open(self, video: str) -> None:
        try:
            path = self.dataset.video_path(video)
            self.counts["found"] += 1
        except GazeQwenError:  # each of its samples has a problem already
            self._read_gaze_alone(video)
            return
        try:
            self.end_s = probe(path).duration_s
            self.counts["readable"] += 1
        except GazeQwenError as error:
            self.error = ("unreadable video", error)
            self._read_gaze_alone(video)
            return
        try:
            recording = self.dataset.recording(video)
            self.samples, self.fixations = recording.samples, recording.fixations
        except GazeQwenError as error:
            self.error = ("unreadable gaze", error)

    def _read_gaze_alone(self, video: str) -> None:
        """For the count only. Formats that need the video (pixels, frame numbers) can't be read without it."""
        path = self.dataset.gaze_path(video)
        if path is not None:
            with suppress(GazeQwenError):
                gaze = read_gaze(path)
                self.samples, self.fixations = gaze.samples, gaze.fixations or self.fixations

    def has_gaze(self, sample: Sample) -> bool:
        """Whether there is valid gaze in what the sample may see."""
        window_s = self.dataset.windows[TASKS[sample.task].group]
        start_s = -math.inf if window_s is None else sample.t_s - window_s
        if len(self.samples):
            return bool(self.samples.between(start_s, sample.t_s).valid.any())
        return len(self.fixations.until(sample.t_s).overlapping(start_s, sample.t_s)) > 0

    def problems(self, sample: Sample) -> list[Problem]:
        place = self.dataset.place_of(sample)
        if self.error is not None:
            reason, error = self.error
            return [replace(place, reason=reason, found=str(error))]
        if sample.t_s > self.end_s + TIME_TOLERANCE_S:
            found = f"{sample.t_s:g} s, the video ends at {self.end_s:.3f} s"
            return [replace(place, reason="time after the video's end", found=found)]
        if not TASKS[sample.task].needs_gaze or self.has_gaze(sample):
            return []
        if not self.has_file:
            return [replace(place, reason="no gaze", found="no raw gaze and no fixations of the video", fix=_GAZE_FIX)]
        found = f"gaze begins at {self._first_s():.3f} s" if math.isfinite(self._first_s()) else "none is valid"
        return [replace(place, reason="no gaze in what the question may see", found=found)]

    def _first_s(self) -> float:
        times_s = self.samples.t_s[self.samples.valid] if len(self.samples) else self.fixations.start_s
        return float(times_s[0]) if len(times_s) else math.inf


_GAZE_FIX = "add STEM_fixation_filtered.csv or gaze/STEM.csv; such questions run without gaze and are counted"


def _notes(dataset: Dataset) -> list[str]:
    samples = dataset.samples()
    empty = [name for name, counts in dataset.counts().items() if not counts["samples"]]
    odd = len({(s.task, s.entry, s.index) for s in samples if s.options and len(s.options) != OPTIONS})
    notes = []
    if empty:
        notes.append(f"no questions of {', '.join(empty)}")
    if odd:
        notes.append(f"{odd} questions have other than {OPTIONS} options")
    return notes


# -- for people --------------------------------------------------------------------------------------------------------


def report_text(found: Mapping[str, Any]) -> str:
    """The result of `validate` in at most 80 columns."""
    windows = [f"{group} {seconds:g} s" for group, seconds in found["windows_s"].items() if seconds is not None]
    lines = [
        *_wrapped(f"{found['data']}: {found['name']}, rules {found['rules']}, windows: {', '.join(windows) or 'none'}"),
        "",
        f"{'task':<6}{'questions':>10}{'points':>8}{'videos':>8}{'samples':>9}{'with gaze':>11}{'cannot run':>12}",
    ]
    columns = (
        ("questions", 10), ("points", 8), ("videos", 8), ("samples", 9), ("with_gaze", 11), ("cannot_run", 12)
    )  # fmt: skip
    for name, counts in found["tasks"].items():
        lines.append(f"{name:<6}" + "".join(f"{counts.get(key, 0):>{width}}" for key, width in columns))
    total = {key: sum(counts.get(key, 0) for counts in found["tasks"].values()) for key, _ in columns}
    total |= {"videos": found["videos"]["named"], "cannot_run": len(found["problems"])}
    lines.append(f"{'all':<6}" + "".join(f"{total[key]:>{width}}" for key, width in columns))
    videos = found["videos"]
    lines += ["", *_wrapped(
        f"videos: {videos['named']} named, {videos['found']} found, {videos['readable']} readable; raw gaze of "
        f"{videos['with_samples']}, fixations of {videos['with_fixations']}; {found['episodes']} episodes of metadata"
    )]  # fmt: skip
    for note in found["notes"]:
        lines += _wrapped(f"note: {note}")
    by_reason: dict[str, list[Problem]] = {}
    for row in found["problems"]:
        by_reason.setdefault(row["reason"], []).append(Problem(**row))
    for reason, problems in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        lines += ["", f"{reason}: {len(problems)}"]
        for problem in problems[:SHOWN]:
            video = f" ({problem.video})" if problem.video else ""
            lines += _wrapped(f"{problem.place}{video}: {problem.found}", indent=2)
        if len(problems) > SHOWN:
            lines.append(f"  and {len(problems) - SHOWN} more (--json names all)")
        if problems[0].fix:
            lines += _wrapped(f"-> {problems[0].fix}", indent=2)
    lines += ["", "all of it can be run" if found["ok"] else _verdict(found)]
    return "\n".join(lines)


def _verdict(found: Mapping[str, Any]) -> str:
    stopped = len(found["problems"]) - found["unusable"]
    return "\n".join(
        _wrapped(
            f"{len(found['problems'])} problems: {stopped} of samples (run as they are, they fail and count as wrong, "
            f"or run without gaze), {found['unusable']} of entries that can't be scored and are in no table"
        )
    )


def _wrapped(text: str, *, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_on_hyphens=False,
    )


def command(arguments: argparse.Namespace) -> int:
    """`gazeqwen data validate`: 0 when everything can be run, 1 when anything can't."""
    from tqdm import tqdm

    dataset = Dataset.open(arguments.data)
    quiet = not sys.stderr.isatty()
    with tqdm(total=len(dataset.videos), desc="checking", unit="video", delay=2.0, leave=False, disable=quiet) as bar:
        found = validate(dataset, progress=bar.update)
    print(json.dumps(plain_json(found), allow_nan=False) if arguments.json else report_text(found))
    return 0 if found["ok"] else 1
