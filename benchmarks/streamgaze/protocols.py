"""What every protocol shares: a sample in, a row out; whose fault an error is; what makes a run's predictions its own.

    stream        `stream_protocol.Stream`         one pass a video, every question on a fork at its time
    official      `clip_protocols.Official`        GazeQwen's published evaluation
    streamgaze    `clip_protocols.StreamGaze`      StreamGaze's own evaluation
    (solver arms) `solver.Solver`                  no model; the protocol does not matter

Numbers of two protocols are not comparable: they show a model other frames and ask it in other words.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.streamgaze.feature_cache import FeatureCache, model_fingerprint
from benchmarks.streamgaze.records import FAILED, OK
from benchmarks.streamgaze.shuffle import gaze_donors
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.wording import Form, parse_choice, parse_yes_no
from benchmarks.streamgaze.work import Settings, model_id
from gazeqwen import prompts
from gazeqwen.arms import get_arm
from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, plain_json
from stream.borrowed_gaze import BorrowedGaze
from stream.recording import Recording
from stream.session import StreamSession

if TYPE_CHECKING:
    from benchmarks.streamgaze.dataset import Dataset
    from gazeqwen.model import GazeQwen

Row = dict[str, Any]
MAX_NEW_TOKENS = 128  # of a generated answer, as StreamGaze's wrapper


@dataclass(frozen=True)
class Wording:
    """How a sample is put: the question, the options it is scored over, and the user's whole turn where it is not the
    session's own."""

    question: str
    options: tuple[str, ...]
    prompt: str | None = None


@dataclass(frozen=True)
class Cost:
    """What some samples of a video take.

    Attributes:
        decoded: frames turned into RGB.
        encoded: frames that the vision tower takes, two to a step.
        steps: that are prefilled; held: the most that are in a cache at once.
        vjepa_windows: that V-JEPA encodes.
        questions: asked.
    """

    decoded: int = 0
    encoded: int = 0
    steps: int = 0
    held: int = 0
    vjepa_windows: int = 0
    questions: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.decoded + other.decoded,
            self.encoded + other.encoded,
            self.steps + other.steps,
            max(self.held, other.held),
            self.vjepa_windows + other.vjepa_windows,
            self.questions + other.questions,
        )


class Protocol(ABC):
    """One way to run the samples of a video."""

    def __init__(self, dataset: Dataset, settings: Settings) -> None:
        self.dataset, self.settings, self.arm = dataset, settings, get_arm(settings.arm)

    @abstractmethod
    def answer(self, video: str, samples: Sequence[Sample]) -> Iterator[Row]:
        """A row for each sample, in any order. Raises what `reason_of` knows when it can't go on with the video."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the model adds to `Settings.identity`: "model" and "scoring"."""

    def config(self) -> dict[str, Any]:
        """The model's configuration."""
        return {}

    def device(self) -> str:
        """What computes."""
        return "cpu"

    def notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        return []

    def counts(self) -> dict[str, Any]:
        """Facts of this process for sessions.jsonl."""
        return {}

    def window_s(self, sample: Sample) -> float | None:
        """How far back the sample may see."""
        return self.dataset.windows[TASKS[sample.task].group]

    def row(self, sample: Sample, **values: Any) -> Row:
        """A row of this sample with everything that is not given empty (`records.PREDICTION_KEYS`)."""
        prediction = values.get("prediction", "")
        return {
            "id": sample.id,
            "task": sample.task,
            "video": sample.video,
            "t_s": sample.t_s,
            "answer": sample.answer,
            "status": OK,
            "reason": "",
            "prediction": prediction,
            "correct": prediction == sample.answer,
            "logprobs": {},
            "text": "",
            "scoring": self.settings.scoring or "",
            "protocol": self.settings.protocol,
            "arm": self.arm.name,
            "has_gaze": None,
            "span_s": None,
            "frame_times_s": [],
            "gaze_times_s": [],
            "fixations": [],
            "gaze_valid_fraction": None,
            "steps": 0,
            "steps_without_gaze": 0,
            "open_fixations": 0,
            "evicted_steps": 0,
            "latency_ms": {},
            "warnings": [],
            **values,
        }

    def failed(self, sample: Sample, reason: str) -> Row:
        """The row of a sample that can't be answered: wrong, with the reason. Its `has_gaze` is not known: null."""
        return self.row(sample, status=FAILED, reason=reason)


class ModelProtocol(Protocol):
    """A protocol that asks a model.

    Args:
        model: with the arm's weights in place.
        model_id: what the user named it by.
        load: how it was loaded, for the record.
    """

    parser: Form = "fixed"  # of generated answers

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        model: GazeQwen,
        *,
        model_id: str,
        load: Mapping[str, Any],
    ) -> None:
        super().__init__(dataset, replace(settings, scoring=settings.resolved_scoring(model.config.scoring)))
        model.require_features(self.arm)  # before there is a folder of a run that could never go on
        self.model = model
        self._model_id, self._load = model_id, dict(load)
        self._donors: Mapping[str, str] = {}
        if self.arm.gaze_from_other:
            gaze_input = settings.gaze_input
            with_gaze = (v for v in settings.videos(dataset) if dataset.gaze_path(v, gaze_input=gaze_input) is not None)
            self._donors = gaze_donors(with_gaze, settings.seed)

    @abstractmethod
    def wording(self, sample: Sample) -> Wording:
        """How a sample is put to the model."""

    @abstractmethod
    def cost(self, video: str, samples: Sequence[Sample], *, duration_s: float, fps: float) -> Cost:
        """What these samples take, for the dry run, from the video's length and frame rate."""

    # -- for the record ------------------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "scoring": self.settings.scoring,
            "model": {
                "id": self._model_id,
                "name": config.name,
                "trained": config.trained,
                "fingerprint": fingerprint(self.model),
                "quantization": self._load.get("quantization"),
                "dtype": str(self.model.backbone.dtype).removeprefix("torch."),
            },
        }

    def config(self) -> dict[str, Any]:
        return self.model.config.to_dict()

    def device(self) -> str:
        device = self.model.backbone.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

    def notes(self) -> list[str]:
        return list(self.model.notes)

    # -- asking --------------------------------------------------------------------------------------------------------

    def recordings(self, video: str) -> tuple[Recording, Recording]:
        """The video with its own gaze, and with the gaze that the arm gives it."""
        own = self.dataset.recording(video, gaze_input=self.settings.gaze_input)
        if video not in self._donors:
            return own, own
        donor = self.dataset.recording(self._donors[video], gaze_input=self.settings.gaze_input)
        return own, BorrowedGaze(own, donor)

    def session(self, recording: Recording, fixations: Fixations, **options: Any) -> StreamSession:
        """A fresh session for steps of this recording. `fixations`: of compat="official", what is known at its end."""
        return StreamSession(
            self.model,
            arm=self.arm,
            detector={"detector": recording.detector, "parameters": recording.parameters},
            fixations=fixations,
            gaze_lag_s=self.arm.gaze_lag_s,
            **options,
        )

    def ask(self, session: StreamSession, sample: Sample, *, at_s: float, window_s: float | None = None) -> Row:
        """The sample's row from a session that has seen what it may see; evidence as the session reports it."""
        words, scoring = self.wording(sample), self.settings.scoring
        said, logprobs = "", {}
        options: dict[str, Any] = {"at_s": at_s, "window_s": window_s, "prompt": words.prompt}
        if scoring == "generate":
            if words.prompt is None:
                options["prompt"] = (
                    prompts.choice_prompt(words.question, words.options)
                    if words.options
                    else prompts.yes_no_prompt(words.question)
                )
            answer = session.answer(words.question, max_new_tokens=MAX_NEW_TOKENS, **options)
            said = answer.text
            prediction = self._read(said, sample, words)
        else:
            if words.options:
                options["scoring"] = scoring
                answer = session.choose(words.question, words.options, **options)
            else:
                answer = session.yes_no(words.question, **options)
            names = labels(sample)
            logprobs = dict(zip(names, answer.option_logprobs.values(), strict=True))
            prediction = self.best(logprobs)
        return self.row(
            sample,
            prediction=prediction,
            logprobs=logprobs,
            text=said,
            frame_times_s=list(answer.frame_times_s),
            gaze_times_s=list(answer.gaze_times_s),
            fixations=[dict(fixation) for fixation in answer.fixations],
            span_s=list(answer.span_s),
            gaze_valid_fraction=answer.gaze_valid_fraction,
            steps=answer.steps,
            steps_without_gaze=answer.steps_without_gaze,
            open_fixations=answer.open_fixations,
            evicted_steps=answer.evicted_steps,
            latency_ms=dict(answer.latency_ms),
            warnings=list(answer.warnings),
        )

    def best(self, logprobs: Mapping[str, float]) -> str:
        """The likeliest label, the first of equals."""
        return max(logprobs, key=lambda name: logprobs[name])

    def _read(self, said: str, sample: Sample, words: Wording) -> str:
        """The label that a generated answer names, or ""."""
        if not words.options:
            named = parse_yes_no(said, form=self.parser)
            return named[0] if len(named) == 1 else ""
        letter = parse_choice(said, words.options, form=self.parser)
        return dict(zip(prompts.letters(len(words.options)), labels(sample), strict=True)).get(letter, "")


def labels(sample: Sample) -> tuple[str, ...]:
    """What a prediction of this sample can be: letters of its options, or Yes and No."""
    return prompts.letters(len(sample.options)) if sample.options else prompts.YES_NO


def has_gaze(recording: Recording, start_s: float, stop_s: float) -> bool:
    """Whether the recording has valid gaze in [start_s, stop_s]: a sample in the frame, or a fixation."""
    samples = recording.samples
    inside = samples.in_frame & (samples.t_s >= start_s) & (samples.t_s <= stop_s)
    return bool(inside.any()) or len(recording.fixations.until(stop_s).overlapping(start_s, stop_s)) > 0


def fingerprint(model: GazeQwen) -> str:
    """Sixteen hex digits of everything in the model that decides a prediction: frozen weights and trained ones, the
    configuration and the tokenizer. Where the files lie is no part of it."""
    config = replace(model.config, base="", vjepa_weights="").to_dict()
    digest = hashlib.sha256(json.dumps([model_fingerprint(model), plain_json(config)]).encode())
    digest.update(model.tokenizer.backend_tokenizer.to_str().encode())
    for name, parameter in sorted(model.trainable_parameters().items()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


# -- whose fault an error is -------------------------------------------------------------------------------------------

# What a sample or its video can be at fault for. Out of memory is a RuntimeError of torch's.
SAMPLE_ERRORS = (InputError, OSError, MemoryError, RuntimeError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def reason_of(error: BaseException) -> str:
    """Why a sample failed, in one line. Raises the error again where no sample is at fault: a full disk, a GPU that has
    lost its context, what was never implemented, a recursion without end."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in _NO_ROOM:
            raise error
        chain = chain.__cause__
    if isinstance(error, (NotImplementedError, RecursionError)) or "CUDA error" in str(error):
        raise error
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}".rstrip(": ")


def answered(protocol: Protocol, video: str, samples: Sequence[Sample]) -> Iterator[Row]:
    """A row for each sample of a video, whatever happens to some of them.

    Raises:
        Exception: what is no sample's fault; rows before it were given.
    """
    left = {sample.id: sample for sample in samples}
    for sample in samples:
        if (problem := protocol.dataset.problem_of(sample)) is not None:
            del left[sample.id]
            yield protocol.failed(sample, " ".join(f"{problem.reason}: {problem.found}".split()))
    if not left:
        return
    try:
        for row in protocol.answer(video, list(left.values())):
            del left[row["id"]]
            yield row
        reason = ""
    except SAMPLE_ERRORS as error:
        reason = reason_of(error)
    if left and not reason:
        raise AssertionError(f"{type(protocol).__name__} left {len(left)} samples of {video} without a row")
    for sample in left.values():
        yield protocol.failed(sample, reason)


# -- making one --------------------------------------------------------------------------------------------------------


def build_protocol(
    dataset: Dataset, settings: Settings, model: str | Path | GazeQwen, load: Mapping[str, Any], cache: Path | None
) -> Protocol:
    """The protocol of these settings, with its model loaded. `cache`: folder for frozen features, which `stream` alone
    has: the clips of the other protocols share hardly a frame.

    Raises:
        InputError, ConfigError: the model can't be loaded, or doesn't fit the arm or the protocol.
    """
    if get_arm(settings.arm).solver:
        from benchmarks.streamgaze.solver import Solver

        return Solver(dataset, settings)
    from benchmarks.streamgaze.clip_protocols import Official, StreamGaze
    from benchmarks.streamgaze.stream_protocol import Stream

    kinds: dict[str, type[ModelProtocol]] = {"stream": Stream, "official": Official, "streamgaze": StreamGaze}
    loaded = load_model(model, settings, load)
    options: dict[str, Any] = {"model_id": model_id(model, settings), "load": load}
    if settings.protocol == "stream" and cache is not None:
        options["cache"] = FeatureCache(cache, loaded)
    return kinds[settings.protocol](dataset, settings, loaded, **options)


def load_model(model: str | Path | GazeQwen, settings: Settings, load: Mapping[str, Any]) -> GazeQwen:
    """The model with the weights of the settings' arm; under `accelerate launch` on the process's own GPU. A model at
    hand is taken as it is."""
    from gazeqwen.checkpoint import load_arm
    from gazeqwen.model import GazeQwen

    if isinstance(model, GazeQwen):
        return model
    options = dict(load)
    local = os.environ.get("LOCAL_RANK", "")
    if options.get("device") is None and local.isdigit() and torch.cuda.device_count() > 1:
        options["device"] = f"cuda:{int(local) % torch.cuda.device_count()}"
    return load_arm(GazeQwen.from_pretrained(model, **options), None, settings.arm)
