"""A StreamGaze folder, opened: samples, what can't be run and why, videos with their gaze, and what a run must record.

Nothing is decoded when a folder is opened: QA files are read and names looked up (`layout.py` says where). Whether a
video can be read and reaches its questions' times is `gazeqwen data validate`'s question, and each run's.
"""

from __future__ import annotations

import ast
import copy
import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from benchmarks.streamgaze.data_manifest import MANIFEST, DataManifest, read_manifest
from benchmarks.streamgaze.layout import Layout, stem_of
from benchmarks.streamgaze.qa_files import Problem, QaContent, read_qa_files
from benchmarks.streamgaze.tasks import Group, Sample, get_tasks
from gazeqwen.errors import InputError
from gazeqwen.event_log import Rules
from stream.recording import Recording, open_recording
from stream.video import Backend

GazeInput = Literal["samples", "fixations"]


class Dataset:
    """Use `Dataset.open`.

    Attributes:
        root: the folder.
        manifest: what it says of itself; the official facts where it says nothing.
        problems: everything that can't be run, as far as the QA files and the files' names tell. A problem with a
            `sample` id stops a sample (it fails, and counts as wrong); one without is in `unusable`.
        notes: what reading decided, one sentence each; no reason not to run.
    """

    def __init__(self, layout: Layout, manifest: DataManifest, content: QaContent) -> None:
        self.root, self.layout, self.manifest, self._content = layout.root, layout, manifest, content
        self.problems: tuple[Problem, ...] = tuple(content.problems) + tuple(self._missing_videos())
        self.notes: tuple[str, ...] = tuple(content.notes) + tuple(
            f"{name} holds no questions" for name in content.ignored
        )
        self._by_sample = {problem.sample: problem for problem in reversed(self.problems) if problem.sample}

    @classmethod
    def open(cls, folder: str | Path) -> Dataset:
        """Reads the folder's QA files and manifest.

        Raises:
            InputError: no such folder; no QA file in it; two files with the same question; a manifest that this version
                can't use.
        """
        layout = Layout(Path(folder))
        manifest = read_manifest(layout.root)
        content = read_qa_files([(file, layout.relative(file)) for file in layout.qa_files])
        if not content.files:
            raise InputError(
                layout.root,
                expected="QA files (*.json) in qa/, dataset/qa/ or the folder itself",
                found=f"none with questions among {len(content.ignored)}" if content.ignored else "none",
                fix="see docs/streamgaze.md, or make some with `gazeqwen data mini`",
            )
        return cls(layout, manifest, content)

    # -- questions -----------------------------------------------------------------------------------------------------

    def samples(self, tasks: Iterable[str] = ()) -> tuple[Sample, ...]:
        """Samples of these tasks (all ten for none) in registry order, within a task in the order of the QA files.

        Those that can't be run are among them (`problem_of`).

        Raises:
            ConfigError: an unknown task.
        """
        return tuple(sample for task in get_tasks(tasks) for sample in self._content.samples[task.name])

    def entries(self, task: str) -> list[dict[str, Any]]:
        """The raw entries of a task, a copy; rows as in `Sample.entry`, their questions as in `Sample.index`."""
        return copy.deepcopy(self._content.entries[get_tasks([task])[0].name])

    def problem_of(self, sample: Sample) -> Problem | None:
        """Why a sample can't be run, as far as known without decoding; None when nothing is known against it."""
        return self._by_sample.get(sample.id)

    def place_of(self, sample: Sample) -> Problem:
        """Where a sample stands in its QA file, as a `Problem` without a reason."""
        return self._content.places[sample.id]

    @property
    def unusable(self) -> tuple[Problem, ...]:
        """Entries, questions and points with nothing to score: no known answer, no time, no video named, no known task.

        They are in no denominator, so their number belongs beside every table.
        """
        return tuple(problem for problem in self.problems if not problem.sample)

    def _missing_videos(self) -> list[Problem]:
        problems = []
        for sample in self.samples():
            error = self._video_errors.get(sample.video)
            if error is not None:
                place = self.place_of(sample)
                problems.append(replace(place, reason="missing video", found=error.found, fix=error.fix))
        return problems

    @cached_property
    def _video_errors(self) -> dict[str, InputError]:
        errors = {}
        for video in self.videos:
            try:
                self.layout.find_video(video)
            except InputError as error:
                errors[video] = error
        return errors

    # -- videos and gaze -----------------------------------------------------------------------------------------------

    @cached_property
    def videos(self) -> tuple[str, ...]:
        """Names of all videos that samples are about, sorted."""
        return tuple(sorted({sample.video for samples in self._content.samples.values() for sample in samples}))

    def video_path(self, video: str) -> Path:
        """The video's file.

        Raises:
            InputError: it is not there, only with gaze drawn on it, or there are several different ones.
        """
        return self.layout.find_video(video)

    def gaze_path(self, video: str, *, gaze_input: GazeInput | None = None) -> Path | None:
        """The file that gaze comes from: raw samples, else fixations; `gaze_input` takes only the one. None without."""
        samples = None if gaze_input == "fixations" else self.layout.samples_file(video)
        return self.layout.fixations_file(video) if samples is None and gaze_input != "samples" else samples

    def recording(self, video: str, *, gaze_input: GazeInput | None = None, backend: Backend = "pyav") -> Recording:
        """The video with its gaze on one clock; without gaze where the folder has none for it (a normal state).

        Args:
            video: `Sample.video`.
            gaze_input: "samples" or "fixations" takes these only; None: samples where there are some, else fixations.
            backend: of `stream.open_recording`.

        Raises:
            InputError: no such video; a video or gaze file that can't be read.
        """
        return open_recording(self.video_path(video), self.gaze_path(video, gaze_input=gaze_input), backend=backend)

    @cached_property
    def _episodes(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for file in self.layout.metadata_files:
            for row in read_episodes(file):
                found.setdefault(stem_of(str(row.get("video_name") or row.get("video_source") or "")), []).append(row)
        return found

    def episodes(self, video: str) -> tuple[dict[str, Any], ...]:
        """The video's rows of the metadata tables: gazed and other objects by time. Context, not gaze: no positions."""
        stem = stem_of(video)
        # The pipeline's own tables name the fixation file that an episode came from.
        return tuple(
            row for name, rows in self._episodes.items() if name.split("_fixation_")[0] == stem for row in rows
        )

    @property
    def episode_count(self) -> int:
        """Rows of all metadata tables."""
        return sum(len(rows) for rows in self._episodes.values())

    # -- the data set --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the data set: "streamgaze", "mini-streamgaze", ...; the same wherever the folder lies."""
        return self.manifest.name

    @property
    def rules(self) -> Rules:
        """How its questions were made: "streamgaze" for the real ones."""
        return self.manifest.rules

    @property
    def windows(self) -> Mapping[Group, float | None]:
        """Seconds back from its time that a question of each group may see; None for all of it."""
        return self.manifest.windows_s

    def world_seed(self, video: str) -> int | None:
        """The seed of the tiny world that a video shows; None for real ones."""
        seed = self.manifest.videos.get(video, {}).get("world_seed")
        return seed if isinstance(seed, int) else None

    @property
    def qa_files(self) -> tuple[str, ...]:
        """The files with questions, below the folder."""
        return tuple(self._content.files)

    def hashes(self) -> dict[str, dict[str, Any]]:
        """What the folder holds: {"qa": {file: sha256}, "gaze": {file: sha256}, "videos": {name: bytes or None}}.

        QA files and the manifest by content; all gaze files in use by content (folders by their files); videos by size
        only, since hashing hundreds of gigabytes would take longer than a run (cached features are keyed by content).
        """
        qa = [self.root / name for name in self.qa_files]
        manifest = self.root / MANIFEST
        gaze = {
            path
            for video in self.videos
            for path in (self.layout.samples_file(video), self.layout.fixations_file(video))
            if path is not None
        }
        sizes = {
            video: None if video in self._video_errors else self.video_path(video).stat().st_size
            for video in self.videos
        }
        return {
            "qa": self._digests([*qa, *([manifest] if self.manifest.raw else [])]),
            "gaze": self._digests(sorted(gaze)),
            "videos": sizes,
        }

    def _digests(self, paths: Iterable[Path]) -> dict[str, str]:
        found = {}
        for path in paths:
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            for file in files:
                with file.open("rb") as data:
                    found[self.layout.relative(file)] = hashlib.file_digest(data, "sha256").hexdigest()
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """By task: questions, points, samples, and videos they are about."""
        counted = {}
        for task, samples in self._content.samples.items():
            counted[task] = {
                "questions": len({(sample.entry, sample.index) for sample in samples}),
                "points": sum(sample.point is not None for sample in samples),
                "samples": len(samples),
                "videos": len({sample.video for sample in samples}),
            }
        return counted


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """A table of merged episodes, row by row. Object columns hold Python literals (lists, dicts), read as such, never
    evaluated; a cell that is none stays text.

    Raises:
        InputError: the file can't be read as a table.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, csv.Error) as error:
        raise InputError(path, expected="a CSV table of episodes", found=str(error)[:80]) from error
    return [{str(key): _literal(value) for key, value in row.items()} for row in rows]


def _literal(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{", "(")):
        return cell
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return cell
