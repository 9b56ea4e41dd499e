"""StreamGaze-format data as videos to learn from (`gazeqwen.train.examples`).

    dataset ─► samples of a video ─► Asked ──────────────────────┐
    recording.steps_for(all times of the video) ─► steps, cuts ──┴─► TrainingVideo of Asks

Every sample becomes an Ask that sees what the protocol `stream` shows it under `window="evict"`: whole steps up to its
time, the partial step after them, and nothing older than its task's window; the same forwards of the vision tower and
V-JEPA, cut at the same times, so that both share one cache of frozen features, and scores are equal (a test: 1e-5).
One difference, in streams longer than `max_frames`: there the oldest steps leave the stream, here they are hidden from
the question only, and the steps that stay have seen them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.streamgaze.dataset import Dataset, GazeInput
from benchmarks.streamgaze.feature_cache import CachedFeatures, FeatureCache
from benchmarks.streamgaze.qa_files import Problem
from benchmarks.streamgaze.shuffle import gaze_donors
from benchmarks.streamgaze.split import videos_of
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.work import MAX_FRAMES, by_video
from gazeqwen import prompts
from gazeqwen.arms import Arm, get_arm
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.frozen import Frozen
from gazeqwen.model import GazeQwen
from gazeqwen.train.examples import Ask, TrainingVideo
from gazeqwen.types import Question, Step
from gazeqwen.vjepa import RollingWindow
from stream.borrowed_gaze import BorrowedGaze
from stream.recording import Recording
from stream.session import CHUNK_STEPS, FrozenSource
from stream.steps import Cut


@dataclass(frozen=True)
class Asked:
    """A question whose video has not been read: what an Ask says apart from steps. `window_s`: how far back it sees."""

    question: Question
    answer: int
    task: str
    window_s: float | None

    def ask(self, place: _Place, first: int) -> Ask:
        return Ask(
            self.question,
            self.answer,
            self.question.options[self.answer],
            stop=place.stop,
            first=first,
            tail=place.tail,
            tail_frozen=place.tail_frozen,
            task=self.task,
            proactive=TASKS[self.task].proactive,
        )


@dataclass(frozen=True)
class _Place:
    """Where a question stands in its video: `stop` whole steps come before it, then its partial one."""

    stop: int
    tail: Step | None
    tail_frozen: Frozen | None


def asked_of(sample: Sample, *, window_s: float | None, end_s: float) -> Asked:
    """The question of a sample, as the protocol `stream` asks it; after the video's end it is asked there.

    Options come without their letters: `prompts.choice_prompt` puts the same ones back.
    """
    options = tuple(prompts.strip_letters(sample.options)) if sample.options else prompts.YES_NO
    names = prompts.letters(len(options)) if sample.options else prompts.YES_NO
    question = Question(sample.question, min(sample.t_s, end_s), options, sample.id)
    return Asked(question, names.index(sample.answer), sample.task, window_s)


def training_video(
    name: str,
    asked: Sequence[Asked],
    items: Iterable[Step | Cut],
    *,
    encode: FrozenSource | None,
    window: RollingWindow | None,
    held_steps: int = MAX_FRAMES // 2,
) -> TrainingVideo:
    """Questions and the steps they see; of the steps only times and gaze are kept, frames are placeholders.

    Args:
        asked: in the order of time.
        items: of `steps_for`, with a Cut at least at each question's time. Forwards hold up to CHUNK_STEPS steps and
            end at each Cut, as those of `StreamSession.follow`.
        encode: what makes frozen features, partial steps' among them; None for arms without video.
        window: V-JEPA's state at the start, None for arms that take no features.
        held_steps: a question sees at most this many of the newest whole steps.
    """
    due = {item.question.t_s for item in asked}
    steps: list[Step] = []
    parts: list[Frozen] = []
    chunk: list[Step] = []
    places: dict[float, _Place] = {}
    for item in items:
        if isinstance(item, Step):
            chunk.append(item)
        if chunk and (isinstance(item, Cut) or len(chunk) == CHUNK_STEPS):
            if encode is not None:
                parts.append(encode(chunk, window, {}))
            steps += [step.without_frames() for step in chunk]
            chunk = []
        if isinstance(item, Cut) and item.t_s in due and item.t_s not in places:
            places[item.t_s] = _place(len(steps), item.tail, encode, window)
    ends_s = [step.span_s[1] for step in steps]
    asks = []
    for item in asked:
        place, oldest_s = places[item.question.t_s], item.question.t_s - (item.window_s or np.inf)
        hidden = bisect_right(ends_s, oldest_s, hi=place.stop)
        asks.append(item.ask(place, max(hidden, place.stop - held_steps)))
    return TrainingVideo(name, steps, Frozen.cat(parts) if parts else None, asks)


def _place(stop: int, tail: Step | None, encode: FrozenSource | None, window: RollingWindow | None) -> _Place:
    if tail is None:
        return _Place(stop, None, None)
    frozen = None if encode is None else encode([tail], None if window is None else window.copy(), {})
    return _Place(stop, tail.without_frames(), frozen)


class StreamGazeVideos:
    """A `VideoSource` over a data folder, or one part of it. Use `open_source`.

    Attributes:
        ids: the videos' file names, sorted. `counts`: samples of each.
        notes: what was left out or is missing and stops nothing, one sentence each.
    """

    def __init__(
        self,
        dataset: Dataset,
        samples: dict[str, list[Sample]],
        *,
        cache: Path | None,
        gaze_input: GazeInput | None,
        max_frames: int,
        seed: int,
        notes: Sequence[str],
    ) -> None:
        self.dataset, self._samples = dataset, samples
        self.ids: tuple[str, ...] = tuple(sorted(samples))
        self.counts: tuple[int, ...] = tuple(len(samples[video]) for video in self.ids)
        self._cache_folder, self._held_steps = cache, max_frames // 2
        self._gaze_input: GazeInput | None = gaze_input
        self._cache: FeatureCache | None = None
        self._times: dict[str, list[float]] = {}  # of all samples of the data: what cuts a stream into forwards
        for sample in dataset.samples():
            self._times.setdefault(sample.video, []).append(sample.t_s)
        with_gaze = [video for video in self.ids if dataset.gaze_path(video, gaze_input=gaze_input) is not None]
        self._with_gaze, self._seed = with_gaze, seed
        without = len(self.ids) - len(with_gaze)
        self.notes: tuple[str, ...] = (
            *notes,
            *([f"{without} of {len(self.ids)} videos have no gaze"] if without else []),
        )

    def load(self, index: int, model: GazeQwen, arm: Arm | str) -> TrainingVideo:
        """The video with its questions in the order of time. Frozen features come from the cache where there is one,
        and are then not computed, nor their frames decoded.

        Raises:
            InputError: a video or gaze file that can't be read; names it.
            ConfigError: the arm is a solver, needs V-JEPA and the model has none, or wants another video's gaze and
                none other has any; a model of compat="official".
        """
        arm = require_steps(model, arm)
        video, config = self.ids[index], model.config
        recording = self._recording(video, arm)
        asked = [
            asked_of(sample, window_s=self.dataset.windows[TASKS[sample.task].group], end_s=recording.end_s)
            for sample in self._samples[video]
        ]
        cached = None if self._cache_folder is None else self._cached(model, recording, arm)
        times_s = sorted({min(time_s, recording.end_s) for time_s in self._times[video]})
        source = cached or recording
        options: dict[str, Any] = {}
        if cached is None and not arm.video and recording.frame_times_known:
            options = {"decode_from_s": np.inf}
        items = source.steps_for(
            times_s, config.fps, vjepa_fps=config.features.fps, gaze_lag_s=arm.gaze_lag_s, **options
        )
        return training_video(
            video,
            asked,
            items,
            encode=(cached or encoder(model, arm)) if arm.video else None,
            window=model.start_window(arm),
            held_steps=self._held_steps,
        )

    def _recording(self, video: str, arm: Arm) -> Recording:
        """The video with the gaze that the arm gives it, as `protocols.ModelProtocol.recordings`."""
        own = self.dataset.recording(video, gaze_input=self._gaze_input)
        if not arm.gaze_from_other or video not in self._with_gaze:
            return own
        donor = gaze_donors(self._with_gaze, self._seed)[video]
        return BorrowedGaze(own, self.dataset.recording(donor, gaze_input=self._gaze_input))

    def _cached(self, model: GazeQwen, recording: Recording, arm: Arm) -> CachedFeatures:
        assert self._cache_folder is not None
        if self._cache is None or self._cache.model is not model:
            self._cache = FeatureCache(self._cache_folder, model)
        return self._cache.source(recording, arm)

    def cache_counts(self) -> dict[str, int]:
        """As `FeatureCache.counts`, of the newest model; empty without a cache."""
        return {} if self._cache is None else self._cache.counts()


def require_steps(model: GazeQwen, arm: Arm | str) -> Arm:
    """The arm, if videos can be read for it and this model as steps.

    Raises:
        ConfigError: as `StreamGazeVideos.load`.
    """
    arm = get_arm(arm)
    if arm.solver:
        raise ConfigError(f"arm {arm.name!r} is a solver, not a model: there is nothing to train")
    if model.official:
        raise ConfigError("compat='official' sees a clip as a whole: it can't be trained on the steps of a stream")
    model.require_features(arm)
    return arm


def encoder(model: GazeQwen, arm: Arm) -> FrozenSource:
    """What makes frozen features of steps for this arm, without any cache."""
    return lambda steps, window, clock: model.frozen(steps, arm=arm, window=window, latency_ms=clock)


def open_source(
    data: str | Path,
    *,
    tasks: Iterable[str] = (),
    split: tuple[str | Path, str] | None = None,
    cache: str | Path | None = None,
    gaze_input: GazeInput | None = None,
    max_frames: int = MAX_FRAMES,
    seed: int = 0,
) -> StreamGazeVideos:
    """A StreamGaze-format folder (`benchmarks.streamgaze.dataset`) as videos to learn from.

    Args:
        tasks: by name; all ten for none.
        split: (file, part): the videos that `split.read_split` finds under that part; None for all.
        cache: folder for frozen features, shared with `gazeqwen eval streamgaze --cache`.
        gaze_input: of `Dataset.recording`.
        max_frames: of these a question sees the newest, two to a step; as of the protocol `stream`.
        seed: of the arm `shuffled`: whose gaze a video gets. Videos lend within the source only.

    Raises:
        InputError: the data or the split file can't be read; no question of these tasks; a question that can't be
            asked, such as one about a video that is not there: names the first, and their number.
        ConfigError: an unknown task.
    """
    dataset = Dataset.open(data)
    tasks = tuple(tasks)
    videos = by_video(dataset.samples(tasks))
    notes = [*dataset.notes]
    if dataset.unusable:
        notes.append(f"{len(dataset.unusable)} entries of the QA files hold nothing to ask (`gazeqwen data validate`)")
    if split is not None:
        path, part = Path(split[0]), split[1]
        chosen = videos_of(path, part, dataset.videos)
        videos = {video: videos[video] for video in chosen if video in videos}
        if fewer := len(chosen) - len(videos):
            notes.append(f"{fewer} of {len(chosen)} videos in {part!r} have no question of these tasks")
    if not videos:
        raise InputError(dataset.root, expected=f"questions of {' '.join(tasks) or 'any task'}", found="none")
    _require_askable(dataset, [sample for samples in videos.values() for sample in samples])
    return StreamGazeVideos(
        dataset,
        videos,
        cache=None if cache is None else Path(cache),
        gaze_input=gaze_input,
        max_frames=max_frames,
        seed=seed,
        notes=notes,
    )


def _require_askable(dataset: Dataset, samples: Sequence[Sample]) -> None:
    problems: list[Problem] = [found for sample in samples if (found := dataset.problem_of(sample)) is not None]
    if problems:
        first = problems[0]
        raise InputError(
            dataset.root / first.file,
            expected="questions that can be asked",
            found=f"{len(problems)} of {len(samples)} that can't, the first about {first.video}: "
            f"{first.reason}, {first.found}",
            fix="put them right, or leave their videos out (`gazeqwen data split`)",
        )
