"""What a run is to do: its settings, its samples, the share of one process, and what makes two runs the same. No torch.

The identity of a run is everything that decides a prediction. It is fixed when the run starts, and a process that would
go on under another one is refused: rows of two experiments must never stand in one table.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from benchmarks.streamgaze.records import MANIFEST
from benchmarks.streamgaze.split import videos_of
from benchmarks.streamgaze.tasks import TASKS, Sample, get_tasks
from gazeqwen._version import __version__
from gazeqwen.arguments_streamgaze import PROTOCOLS, SCORINGS
from gazeqwen.arms import get_arm
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import plain_json

if TYPE_CHECKING:
    from benchmarks.streamgaze.dataset import Dataset
    from gazeqwen.model import GazeQwen

Window = Literal["evict", "refill"]
ProactiveWording = Literal["shared", "standalone"]
GazeInput = Literal["samples", "fixations"]
MAX_FRAMES = 600
SAMPLE_COST_S = 2.0  # what a question costs beside the seconds of video before it, for sharing out videos only


@dataclass(frozen=True)
class Settings:
    """What the user chose of a run, checked when made.

    Attributes:
        protocol, arm: by name.
        tasks: abbreviations in registry order; all ten by default.
        limit: the first N samples of each task; None for all. For testing only.
        split: (file, part): the videos that `split.read_split` finds under that part; None for all of the data.
        seed: of the arm `shuffled`.
        scoring: None takes the protocol's own, under `stream` the model's (`resolved_scoring`).
        gaze_input: "samples" or "fixations"; None takes samples where the recording has them.
        window: how `stream` hides steps older than a task's window.
        max_frames: frames that `stream` holds at once, two to a step (600 by default).
        proactive_wording: of `official`.

    Raises:
        ConfigError: an unknown name, or a choice that would do nothing under this protocol.
    """

    protocol: str = "stream"
    arm: str = "inject"
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    split: tuple[str | Path, str] | None = None
    seed: int = 0
    scoring: str | None = None
    gaze_input: GazeInput | None = None
    window: Window = "evict"
    max_frames: int | None = None
    proactive_wording: ProactiveWording = "shared"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("protocol", self.protocol, PROTOCOLS),
            ("scoring", self.scoring, (None, *SCORINGS)),
            ("gaze_input", self.gaze_input, (None, "samples", "fixations")),
            ("window", self.window, ("evict", "refill")),
            ("proactive_wording", self.proactive_wording, ("shared", "standalone")),
        ):
            if value not in known:
                raise ConfigError(f"{name}: one of {', '.join(str(k) for k in known if k)}, got {value!r}")
        for flag, given, protocol in (
            ("--window refill", self.window != "evict", "stream"),
            ("--max-frames", self.max_frames is not None, "stream"),
            ("--proactive-wording standalone", self.proactive_wording != "shared", "official"),
        ):
            if given and self.protocol != protocol:
                raise ConfigError(f"{flag} means something under --protocol {protocol} only, not {self.protocol!r}")
        if get_arm(self.arm).solver and self.scoring is not None:
            raise ConfigError(f"arm {self.arm!r} is a solver: it takes no --scoring")
        if self.max_frames is not None and self.max_frames < 2:
            raise ConfigError(f"max_frames: at least 2, the frames of one step, got {self.max_frames}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit: at least 1, got {self.limit}")
        object.__setattr__(self, "tasks", tuple(task.name for task in get_tasks(self.tasks)))

    @property
    def held_frames(self) -> int:
        """Frames that `stream` holds at once."""
        return self.max_frames or MAX_FRAMES

    @property
    def streams_model(self) -> bool:
        """A model is asked under the protocol `stream`."""
        return self.protocol == "stream" and not get_arm(self.arm).solver

    def videos(self, dataset: Dataset) -> tuple[str, ...]:
        """The run's videos, sorted: those of its part of the split, or all of the data.

        Raises:
            InputError: as `split.videos_of`.
        """
        if self.split is None:
            return dataset.videos
        file, part = self.split
        return tuple(sorted(videos_of(Path(file), part, dataset.videos)))

    def resolved_scoring(self, model_scoring: str = "letters") -> str:
        """How predictions are read: as asked for, else the protocol's own way; "solver" for arms without a model."""
        if get_arm(self.arm).solver:
            return "solver"
        return self.scoring or {"official": "letters", "streamgaze": "generate"}.get(self.protocol, model_scoring)

    def identity(self, dataset: Dataset) -> dict[str, Any]:
        """The part of a run's identity that is known without the model, in plain JSON types."""
        samples = choose_samples(dataset, self)
        counts = {task: sum(sample.task == task for sample in samples) for task in self.tasks}
        values = {
            "protocol": self.protocol,
            "arm": self.arm,
            "tasks": list(self.tasks),
            "limit": self.limit,
            "limited": self.limit is not None,
            "split": self._split_identity(dataset),
            "seed": self.seed,
            "gaze_input": self.gaze_input,
            "window": self.window,
            "max_frames": self.held_frames if self.streams_model else None,
            "proactive_wording": self.proactive_wording,
            "windows": dict(dataset.windows),
            "rules": dataset.rules,
            "questions": counts,
            "gazeqwen": __version__,
            "data": {"name": dataset.name, "unusable": len(dataset.unusable), **dataset.hashes()},
        }
        if self.scoring is not None or not self.streams_model:
            values["scoring"] = self.resolved_scoring()
        return cast("dict[str, Any]", plain_json(values))

    def _split_identity(self, dataset: Dataset) -> dict[str, Any] | None:
        """The part by its name and its videos: where the file lies and what else it holds decide no prediction."""
        if self.split is None:
            return None
        videos = self.videos(dataset)
        return {
            "part": self.split[1],
            "videos": len(videos),
            "sha256": hashlib.sha256("\n".join(videos).encode()).hexdigest(),
        }


def choose_samples(dataset: Dataset, settings: Settings) -> tuple[Sample, ...]:
    """The run's samples in registry order of tasks, then order of the QA file: of its part of the split, the first
    `limit` of each task.

    Raises:
        InputError: there are none; or as `Settings.videos`.
    """
    videos = set(settings.videos(dataset))
    chosen: list[Sample] = []
    for task in settings.tasks:
        chosen += [sample for sample in dataset.samples((task,)) if sample.video in videos][: settings.limit]
    if not chosen:
        raise InputError(
            f"tasks {' '.join(settings.tasks)}",
            expected="at least one question that can be run",
            found="none in this data" if settings.split is None else f"none in {settings.split[1]!r} of the split",
            fix="`gazeqwen data validate DIR` says why",
        )
    return tuple(chosen)


def by_video(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples of each video in order of time (then as given); videos in the order they come up in."""
    videos: dict[str, list[Sample]] = {}
    for sample in samples:
        videos.setdefault(sample.video, []).append(sample)
    return {video: sorted(of_video, key=lambda sample: sample.t_s) for video, of_video in videos.items()}


def share(samples: Sequence[Sample], shard: tuple[int, int]) -> dict[str, list[Sample]]:
    """The videos of one of several processes, with their samples: `shard` is (index from 0, number of them).

    Whole videos, the most expensive ones first, each to the process with the least so far. It depends on the samples of
    the run alone, not on what is answered already, so every process finds the same division by itself. A process starts
    with its longest video.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ConfigError(f"shard: I/N with 1 <= I <= N, got {index + 1}/{count}")
    videos = by_video(samples)
    cost = {video: max(s.t_s for s in found) + SAMPLE_COST_S * len(found) for video, found in videos.items()}
    loads = [0.0] * count
    mine: dict[str, list[Sample]] = {}
    for video in sorted(videos, key=lambda name: (-cost[name], name)):
        lightest = loads.index(min(loads))
        loads[lightest] += cost[video]
        if lightest == index:
            mine[video] = videos[video]
    return mine


def shard_of_process(given: tuple[int, int]) -> tuple[int, int]:
    """The shard asked for, or where none was, this process's place among those of `accelerate launch` or torchrun.

    Raises:
        ConfigError: RANK and WORLD_SIZE contradict each other.
    """
    if given != (0, 1) or "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return given
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdigit() and size.isdigit() and int(rank) < int(size)):
        raise ConfigError(f"RANK={rank!r} and WORLD_SIZE={size!r} name no process: pass --shard I/N")
    return int(rank), int(size)


def require_same(out: Path, fixed: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses to go on with a run as something else. A video that was missing at the start may be there by now: its
    samples have failed and can be retried.

    Args:
        fixed: the identity in the run's manifest.
        asked: the identity of this process, or the part of it that is known so far.

    Raises:
        InputError: a value differs; names the first one.
    """
    for path, was, now in _differences(fixed, asked, partial=("", "model")):
        if was is None and path.startswith("data: videos: "):
            continue
        raise InputError(
            out / MANIFEST,
            expected=f"{path} = {_shown(was)}, as the run was started",
            found=_shown(now),
            fix="give the same flags, data and model, or another --out",
        )


def _differences(
    fixed: Mapping[str, Any], asked: Mapping[str, Any], *, partial: Sequence[str], path: str = ""
) -> Iterable[tuple[str, Any, Any]]:
    """(where, was, now) of what differs; in the mappings of `partial` only what is asked is looked at."""
    for key in asked if path in partial else {**fixed, **asked}:
        was, now = fixed.get(key), asked.get(key)
        where = f"{path}: {key}" if path else key
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _differences(was, now, partial=partial, path=where)
        elif was != now:
            yield where, was, now


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, dict, list)) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def model_id(model: str | Path | GazeQwen, settings: Settings) -> str:
    """What the model was asked for by; a folder by its full path, so that it is the same from anywhere."""
    if get_arm(settings.arm).solver:
        return "solver"
    if isinstance(model, (str, Path)):
        return str(Path(model).resolve()) if str(model) != "tiny" and Path(model).is_dir() else str(model)
    return model.config.name


def require_not_trained_on(
    model: str | Path | GazeQwen, settings: Settings, load: Mapping[str, Any], videos: Iterable[str]
) -> None:
    """Refuses videos that the model was trained on, as far as its folder says (`train.setup.training_videos`), by name,
    whatever the arm. Imports torch; loads no weights.

    A model at hand says where it came from only if it came with weights of other arms; of any other nothing is known.

    Raises:
        InputError: names the model's folder, how many there are, and the first.
    """
    if get_arm(settings.arm).solver or (isinstance(model, str) and model == "tiny"):
        return
    from gazeqwen.train.setup import require_unseen, training_videos
    from gazeqwen.weight_files import find_folder

    if isinstance(model, (str, Path)):
        folder = find_folder(model, bool(load.get("local_files_only")))
    elif model.arms_folder is not None:
        folder = model.arms_folder.parent
    else:
        return
    require_unseen(
        videos,
        training_videos(folder),
        source=str(folder),
        fix="run others: --split FILE takes the test part of the split it was trained by",
    )


def sample_row(sample: Sample) -> dict[str, Any]:
    """A sample as a line of samples.jsonl."""
    return {
        "id": sample.id,
        "task": sample.task,
        "group": TASKS[sample.task].group,
        "video": sample.video,
        "t_s": sample.t_s,
        "question": sample.question,
        "options": list(sample.options),
        "answer": sample.answer,
        "entry": sample.entry,
        "index": sample.index,
        "point": sample.point,
        "asked_s": sample.asked_s,
    }


def settings_of(arguments: Any) -> Settings:
    """The settings that the flags of `gazeqwen eval streamgaze` ask for."""
    return Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
