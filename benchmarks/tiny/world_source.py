"""Worlds of `gazeqwen.tiny.world` as videos to learn from: no video file is written, no frame is drawn twice.

    seed ─► World ─► questions, WorldRecording ─► steps and Asks ("plan") ──────────┐
                                       └► vision tower, V-JEPA ─► frozen features ──┴─► TrainingVideo

A world's questions, steps and gaze are those of its mini-StreamGaze files; its frames are those before H.264. What was
made once is kept, in memory or as a file a world in a folder, and shared by arms, epochs and processes: steps as they
are, frozen features as float16 (relative error 5e-4), or as float32 where scores are to be those of a stream.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.streamgaze.feature_cache import frozen_key
from benchmarks.streamgaze.mini import WINDOWS_S
from benchmarks.streamgaze.shuffle import gaze_donors
from benchmarks.streamgaze.tasks import TASKS, format_time, parse_time_s
from benchmarks.streamgaze.training import Asked, require_steps, training_video
from benchmarks.tiny.files import world_digest, write_bytes
from benchmarks.tiny.other_tracker import OtherTracker
from benchmarks.tiny.step_arrays import arrays_of, steps_of
from gazeqwen import prompts
from gazeqwen.arms import ARMS, Arm
from gazeqwen.digest import add_tensors
from gazeqwen.errors import ConfigError
from gazeqwen.frozen import Frozen
from gazeqwen.model import GazeQwen
from gazeqwen.question_rules import PER_TASK, make_questions
from gazeqwen.tiny.world import World
from gazeqwen.tiny.world_parameters import WorldParameters
from gazeqwen.train.examples import Ask, TrainingVideo
from gazeqwen.types import Question, Step, plain_json
from gazeqwen.vjepa import RollingWindow
from stream.borrowed_gaze import BorrowedGaze
from stream.recording import Recording
from stream.steps import Cut
from stream.world_recording import WorldRecording, world_name

FORMAT = 1
FORWARD_STEPS = 32  # more are hardly faster
Arrays = dict[str, Tensor]


class WorldSource:
    """A `VideoSource` over worlds.

    Args:
        seeds: of the worlds, each once.
        per_task: questions of each task in a world, at most; an alert has several points.
        tasks: by name; all ten for none.
        parameters, duration_s: of `World.make`.
        cache: folder for what was made; None keeps it in memory. What a model's frozen weights made is found again by
            what they are, worlds and questions by what makes them, their source code included.
        shuffle_seed: of the arm `shuffled`, whose gaze comes from another world of this source.
        tracker: what records gaze; questions and frames stay those of the world's own.
        exact: frozen features as float32, twice as large.
        from_share: of a world's time must have passed before a question counts; earlier ones are left out.

    Attributes:
        ids: the worlds' names, as of their mini-StreamGaze videos.
        damaged_files: of the folder, which were made again.

    Raises:
        ConfigError: no seed, or one that comes twice.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        *,
        per_task: int = PER_TASK,
        tasks: Iterable[str] = (),
        parameters: WorldParameters | None = None,
        duration_s: float | None = None,
        cache: str | Path | None = None,
        shuffle_seed: int = 0,
        tracker: OtherTracker | None = None,
        exact: bool = False,
        from_share: float = 0.0,
    ) -> None:
        self.seeds = tuple(seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"worlds: expected one or more seeds, each once, found {len(self.seeds)}")
        self.ids: tuple[str, ...] = tuple(world_name(seed) for seed in self.seeds)
        self.per_task, self.tasks = per_task, tuple(tasks) or None
        self.parameters, self.duration_s = parameters or WorldParameters(), duration_s
        self.shuffle_seed, self.damaged_files = shuffle_seed, 0
        self.tracker, self.exact, self.from_share = tracker or OtherTracker(), exact, from_share
        self._folder = None if cache is None else Path(cache)
        self._memory: dict[str, Arrays] = {}
        self._newest: WorldRecording | None = None
        self._keyed: tuple[GazeQwen, str] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Questions of each world. Asking for it makes the worlds that have not been met yet (not their frames)."""
        return self._counts

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        return tuple(
            int(self._kept(seed, "count", lambda seed=seed: {"n": torch.tensor(len(self.asked(seed)))})["n"])
            for seed in self.seeds
        )

    def recording(self, seed: int) -> WorldRecording:
        """The world as a recording, made anew unless it was the last one asked for."""
        if self._newest is None or self._newest.world.seed != seed:
            made = World.make(seed, duration_s=self.duration_s, parameters=self.parameters)
            self._newest = WorldRecording(made)
        return self._newest

    def watched(self, seed: int) -> Recording:
        """The world as a recording with the gaze of this source's tracker."""
        return self.tracker.watch(self.recording(seed))

    def borrowed(self, index: int) -> Recording:
        """The world with the gaze of the one that lends to it, as the arm `shuffled` has it."""
        return BorrowedGaze(self.recording(self.seeds[index]), self.watched(self._donor(index)))

    def asked(self, seed: int) -> list[Asked]:
        """A world's questions in the order of time, as mini-StreamGaze would write and read them."""
        recording = self.recording(seed)
        made = make_questions(recording.world.log, rules="causal", seed=seed, per_task=self.per_task, tasks=self.tasks)
        found = []
        from_s = self.from_share * recording.end_s
        for row, item in enumerate(made):
            window_s = WINDOWS_S.get(TASKS[item.task].group)
            points = [(point.t_s, prompts.YES_NO, int(not point.yes)) for point in item.points]
            for place, (t_s, options, answer) in enumerate(points or [(item.t_s, item.options, item.answer)]):
                assert answer is not None
                t_s = min(parse_time_s(format_time(t_s)), recording.end_s)
                if t_s < from_s:
                    continue
                question = Question(item.question, t_s, tuple(options), f"{world_name(seed)}:{row}:{place}")
                found.append(Asked(question, answer, item.task, window_s))
        return sorted(found, key=lambda asked: asked.question.t_s)

    def load(self, index: int, model: GazeQwen, arm: Arm | str) -> TrainingVideo:
        """The world with its questions; what is missing of it is made, and kept.

        Raises:
            ConfigError: as `StreamGazeVideos.load`.
            InputError: the cache folder can't be written.
        """
        arm = require_steps(model, arm)
        seed, rates = self.seeds[index], (model.config.fps, model.config.features.fps)
        donor = self._donor(index) if arm.gaze_from_other else None
        gaze = f"{arm.gaze_lag_s:g}" if donor is None else f"of-{donor}"
        if self.tracker != OtherTracker():
            gaze += "-by-" + "-".join(f"{value:g}" for value in asdict(self.tracker).values())
        plan = self._kept(
            seed,
            f"plan-{rates[0]:g}-{rates[1]:g}-gaze-{gaze}",
            lambda: _packed(
                training_video(
                    world_name(seed),
                    self.asked(seed),
                    self._items(seed, rates, arm, donor, False),
                    encode=None,
                    window=None,
                )
            ),
        )
        video = _unpacked(self.ids[index], plan)
        if not arm.video:
            return video
        # All arms that leave frames as they are share what is made for `inject`.
        shared = arm if arm.changes_frames else ARMS["inject" if model.extractor is not None else "none"]
        drawn = f"{arm.name}-gaze-{gaze}" if arm.changes_frames else "frames"
        name = f"frozen-{self._key_of(model)}-{drawn}{'-exact' if self.exact else ''}"
        kept = self._kept(
            seed,
            name,
            lambda: _frozen_arrays(self._items(seed, rates, shared, donor, True), model, shared, exact=self.exact),
        )
        return _with_frozen(video, kept, model, features=arm.uses_features)

    def fill(self, model: str, part: slice) -> None:
        """Makes what is missing of a part of the worlds, for arms that leave frames as they are: several processes may
        share the work."""
        loaded = GazeQwen.from_pretrained(model)
        for index in range(len(self.seeds))[part]:
            self.load(index, loaded, "inject" if loaded.extractor is not None else "none")

    def parts(self, size: int = 20) -> list[slice]:
        """Of all worlds, so many in each."""
        return [slice(first, first + size) for first in range(0, len(self.seeds), size)]

    def _donor(self, index: int) -> int:
        donors = gaze_donors(self.ids, self.shuffle_seed)
        return self.seeds[self.ids.index(donors[self.ids[index]])]

    def _items(
        self, seed: int, rates: tuple[float, float], arm: Arm, donor: int | None, frames: bool
    ) -> Iterator[Step | Cut]:
        """A world's steps with a Cut at each question's time. `frames`: whether they are drawn; gaze then only where
        the arm draws it, too."""
        times_s = sorted({item.question.t_s for item in self.asked(seed)})
        recording = self.watched(seed) if donor is None else BorrowedGaze(self.recording(seed), self.watched(donor))
        return recording.steps_for(
            times_s,
            rates[0],
            vjepa_fps=rates[1],
            gaze_lag_s=arm.gaze_lag_s,
            decode_from_s=0.0 if frames else np.inf,
            with_gaze=arm.changes_frames or not frames,
        )

    # -- what was made before ------------------------------------------------------------------------------------------

    def _kept(self, seed: int, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays of a world by name: from memory or the folder, else made."""
        key = f"{self._key}/{world_name(seed).removesuffix('.mp4')}-{name}"
        if self._folder is None:
            if key not in self._memory:
                self._memory[key] = make()
            return self._memory[key]
        path = self._folder / "tiny-worlds" / f"{key}.safetensors"
        found = self._trusted(path)
        if found is None:
            _write(path, found := make())
        return found

    def _trusted(self, path: Path) -> Arrays | None:
        """What a file holds; None where there is none, or a damaged one, which is counted."""
        try:
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
                digest = (file.metadata() or {}).get("sha256")
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError):
            arrays, digest = {}, ""
        if digest == _digest(arrays):
            return arrays
        self.damaged_files += 1
        return None

    @property
    def identity(self) -> str:
        """What a model is shown and asked here, as a hash: worlds, questions, tracker, the code that makes them."""
        told = json.dumps([self._key, self.seeds, plain_json(asdict(self.tracker)), self.shuffle_seed])
        return hashlib.sha256(told.encode()).hexdigest()

    @cached_property
    def _key(self) -> str:
        """What makes the worlds and their questions."""
        made_by = {
            "format": FORMAT,
            "parameters": asdict(self.parameters),
            "duration_s": self.duration_s,
            "per_task": self.per_task,
            "tasks": self.tasks,
            "from_share": self.from_share,
            "code": world_digest(),
        }
        return hashlib.sha256(json.dumps(plain_json(made_by), sort_keys=True).encode()).hexdigest()[:16]

    def _key_of(self, model: GazeQwen) -> str:
        """Of a model's frozen weights, looked at once: a model whose vision tower is trained needs another source."""
        if self._keyed is None or self._keyed[0] is not model:
            text = json.dumps(plain_json(frozen_key(model)), sort_keys=True)
            self._keyed = (model, hashlib.sha256(text.encode()).hexdigest()[:16])
        return self._keyed[1]


def _digest(arrays: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    add_tensors(digest, arrays)
    return digest.hexdigest()


def _write(path: Path, arrays: Arrays) -> None:
    write_bytes(path, save(arrays, metadata={"sha256": _digest(arrays)}))


# -- a training video as arrays ----------------------------------------------------------------------------------------


def _tails(video: TrainingVideo) -> list[Ask]:
    """The first question at each partial step, in order: questions of one time share it."""
    return list({id(ask.tail): ask for ask in reversed(video.asks) if ask.tail is not None}.values())[::-1]


def _packed(video: TrainingVideo) -> Arrays:
    tails = [ask.tail for ask in _tails(video) if ask.tail is not None]
    rows = {id(tail): row for row, tail in enumerate(tails)}
    asks = [
        {
            "question": ask.question.text,
            "t_s": ask.question.t_s,
            "options": ask.question.options,
            "id": ask.question.id,
            "answer": ask.answer,
            "task": ask.task,
            "stop": ask.stop,
            "first": ask.first,
            "tail": -1 if ask.tail is None else rows[id(ask.tail)],
        }
        for ask in video.asks
    ]
    text = np.frombuffer(json.dumps({"whole": len(video.steps), "asks": asks}).encode(), dtype=np.uint8)
    arrays = arrays_of([*video.steps, *tails])
    return {"json": torch.tensor(text), **{name: torch.from_numpy(array) for name, array in arrays.items()}}


def _unpacked(name: str, kept: Arrays) -> TrainingVideo:
    told: dict[str, Any] = json.loads(kept["json"].numpy().tobytes())
    steps = steps_of({name: tensor.numpy() for name, tensor in kept.items() if name != "json"})
    whole, tails = steps[: told["whole"]], steps[told["whole"] :]
    asks = []
    for item in told["asks"]:
        question = Question(item["question"], item["t_s"], tuple(item["options"]), item["id"])
        tail: Step | None = None if item["tail"] < 0 else tails[item["tail"]]
        options = {name: item[name] for name in ("stop", "first", "task")}
        proactive = TASKS[item["task"]].proactive
        answer = item["answer"]
        asks.append(Ask(question, answer, question.options[answer], tail=tail, proactive=proactive, **options))
    return TrainingVideo(name, whole, None, asks)


class _Apart(RollingWindow):
    """For steps that do not follow each other: V-JEPA's state before each, in their order."""

    def __init__(self, windows: Sequence[RollingWindow]) -> None:
        self._before = iter(windows)

    def copy(self) -> RollingWindow:
        return self

    def restore(self, other: RollingWindow) -> None:
        pass

    def push(self, vjepa_frames: Tensor | np.ndarray, times_s: Sequence[float] | np.ndarray) -> Tensor:
        return next(self._before).push(vjepa_frames, times_s)


def _frozen_arrays(items: Iterable[Step | Cut], model: GazeQwen, arm: Arm, *, exact: bool) -> Arrays:
    """Of the whole steps, then of the partial ones, in the order of `_packed`: equal to encoding them one by one, and
    half as long."""
    whole: list[Step] = []
    tails: list[Step] = []
    before: list[RollingWindow] = []
    window = model.start_window(arm)
    for item in items:
        if isinstance(item, Step):
            whole.append(item)
            if window is not None:
                window.take(item.vjepa_frames, item.vjepa_times_s)
        elif item.tail is not None:
            tails.append(item.tail)
            before += [] if window is None else [window.copy()]
    window = model.start_window(arm)
    parts = [
        model.frozen(whole[first : first + FORWARD_STEPS], arm=arm, window=window)
        for first in range(0, len(whole), FORWARD_STEPS)
    ]
    for first in range(0, len(tails), FORWARD_STEPS):
        chunk = slice(first, first + FORWARD_STEPS)
        parts.append(model.frozen(tails[chunk], arm=arm, window=_Apart(before[chunk]) if before else None))
    if not parts:
        return {}
    found = Frozen.cat(parts)
    arrays = {"visual": found.visual, "grid": torch.tensor([found.h, found.w])}
    if found.features is not None:
        arrays["features"] = found.features
    kind = torch.float32 if exact else torch.float16
    return {name: (part.to(kind) if part.is_floating_point() else part).cpu() for name, part in arrays.items()}


def _with_frozen(video: TrainingVideo, kept: Arrays, model: GazeQwen, *, features: bool) -> TrainingVideo:
    if not kept:
        return video
    device, dtype = model.backbone.device, model.backbone.dtype
    h, w = kept["grid"].tolist()
    both = Frozen(kept["visual"].to(device, dtype), kept["features"].to(device, dtype) if features else None, h, w)
    whole = len(video.steps)
    rows = {id(ask.tail): whole + row for row, ask in enumerate(_tails(video))}
    asks = [
        ask if ask.tail is None else replace(ask, tail_frozen=both[rows[id(ask.tail)] : rows[id(ask.tail)] + 1])
        for ask in video.asks
    ]
    return replace(video, frozen=both[:whole] if whole else None, asks=asks)
