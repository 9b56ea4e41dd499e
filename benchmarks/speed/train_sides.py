"""The two loops that the train suite compares: our trainer's steps, and the work of the published loop.

Both train the same resampler on the same frozen model with the same optimiser, from the same videos and questions. A
question sees the same steps either way, so its loss is the same, and a run in which it is not is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.official_rules import official_frame_rows
from benchmarks.streamgaze.training import Asked, asked_of, encoder, open_source, training_video
from gazeqwen.train import schedule
from gazeqwen.train.batches import Drawn
from gazeqwen.train.config import LossSettings, ModelSettings, OptimizerSettings, TrainConfig
from gazeqwen.train.examples import Form, TrainingVideo, VideoSource
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.loop import Trainer
from gazeqwen.train.losses import build_loss
from gazeqwen.train.setup import Prepared, build, training_mode
from gazeqwen.types import Step
from stream.steps import Cut, build_steps
from stream.video import frame_times, read_at

# phamtrongthang123/gazeqwen at c3195b1, train.py and config.py. max_frames=3 gives two frames, the clip's ends.
OPTIMIZER = OptimizerSettings(lr=3e-4, schedule="onecycle", betas=(0.95, 0.999))
ACCUMULATED = 8
MAX_FRAMES = 3
LOSS = "choice"
TOTAL_STEPS = 1000  # of the schedule; no run is as long
NOISE = 0.05


class Parts:
    """Seconds by part. What runs inside another part is not counted in that one, so that parts add up to the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the block to this part."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def watch(self, owner: object, method: str, name: str) -> None:
        """Counts every call of a method of this object to a part, from now on."""
        plain = getattr(owner, method)

        @wraps(plain)
        def counted(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return plain(*arguments, **options)

        setattr(owner, method, counted)

    def watch_model(self, packed: PackedForward) -> None:
        """A forward by its parts; "packing" is the rest of it: words, the row's layout, the answers' logits.

        "decoder" holds the output projection of the residuals, which a layer's hook makes when the layer runs.
        """
        model = packed.model
        self.watch(packed, "forward", "packing")
        self.watch(model.backbone.decoder, "forward", "decoder")
        self.watch(model.resampler, "forward", "resampler")
        self.watch(model, "frozen", "vit")
        self.watch(model, "_features", "vjepa")

    def total(self) -> float:
        return sum(self.seconds.values())

    def named(self, side: str, *, runs: int = 1) -> dict[str, float]:
        """`side_PART` -> seconds of one of so many runs."""
        return {f"{side}_{part}": seconds / runs for part, seconds in self.seconds.items()}

    def _turn(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = perf_counter()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


def settings(batch_videos: int, device: torch.device, out: Path) -> TrainConfig:
    """A stage-one run of the tiny model with the published optimiser, questions put as letters, or as a yes or no."""
    return TrainConfig(
        out=str(out),
        model=ModelSettings(device=str(device), dtype="float32"),
        losses=(LossSettings(LOSS),),
        optimizer=OPTIMIZER,
        batch_videos=batch_videos,
        steps=TOTAL_STEPS,
        trackers=(),
    )


def prepare(config: TrainConfig) -> Prepared:
    """The model with noise on everything that is trained: a fresh resampler adds nothing, and two ways that give it
    other features would have the same loss."""
    prepared = build(config)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for parameter in prepared.parameters().values():
            parameter += (NOISE * torch.randn(parameter.shape, generator=generator)).to(parameter)
    return prepared


def forms_of(video: TrainingVideo) -> list[Form]:
    """As the settings put its questions."""
    return ["yes_no" if ask.proactive else "letters" for ask in video.asks]


class Ours:
    """Our trainer on a data folder, its frozen features cached below `work`. `step` is one of its steps.

    Attributes:
        fill_s: what it took to fill the cache and to read it once.
    """

    def __init__(self, data: Path, work: Path, batch_videos: int, device: torch.device) -> None:
        config = settings(batch_videos, device, work / "run")
        self.source = open_source(data, cache=work / "cache")
        self.trainer = Trainer(config, prepare(config), cast("VideoSource", self.source))
        self.packed, self.parts = self.trainer.packed, Parts()
        self._steps = 0
        began = perf_counter()
        for index in range(len(self.source.ids)):
            self.video(index)
        self.fill_s = perf_counter() - began

    def timed(self) -> None:
        """From now on `parts` counts; what comes before is the warm-up."""
        self.parts.watch_model(self.packed)
        self.parts.watch(self.source, "load", "cache")
        self.parts.watch(self.trainer, "load", "other")
        self.parts.watch(self.trainer, "forward_backward", "backward")  # and the loss
        self.parts.watch(self.trainer, "step", "optimizer")  # and choosing videos

    def video(self, index: int) -> TrainingVideo:
        return self.source.load(index, self.trainer.model, self.packed.arm)

    def warm_up(self) -> None:
        """A forward and a backward of one video; the weights stay as they are."""
        self.trainer.forward_backward([Drawn(0, 0)], self.source.counts[0])

    def step(self) -> int:
        """Questions of the step."""
        row = self.trainer.step(self._steps)
        self._steps += 1
        return row["questions"]


class Published:
    """The work of the published loop (phamtrongthang123/gazeqwen, train.py) on the first video's questions: each by
    itself, its clip decoded and encoded anew, a forward and a backward; the optimiser every 8 of them.

    Kinder than upstream: frames are read from the video itself, by time and with no cut file in between; the forward is
    our packed one, whose resampler runs once for all steps and layers, and which makes logits at the answer only.

    Args:
        two_frames: a question sees what the published run shows it: the first and the last frame of its clip, which are
            V-JEPA's, too. False: all that our trainer shows it, so that losses are equal.

    Attributes:
        asked: the questions in the order of time.
    """

    def __init__(self, data: Path, work: Path, device: torch.device, *, two_frames: bool = False) -> None:
        self.config = settings(1, device, work / "published")
        prepared = prepare(self.config)
        self.model = prepared.model
        self.packed, self.parts = PackedForward(self.model, self.config.arm), Parts()
        self._loss, self._parameters = build_loss(LOSS), prepared.parameters()
        self._optimizer = schedule.build_optimizer(self._parameters, OPTIMIZER)
        self._seen = self._steps = 0
        dataset = Dataset.open(data)
        self.id = dataset.videos[0]
        self.recording = dataset.recording(self.id)
        samples = sorted((sample for sample in dataset.samples() if sample.video == self.id), key=lambda s: s.t_s)
        # No window: each question sees its whole past, in a clip of its own as in a shared prefix.
        self.asked = [asked_of(sample, window_s=None, end_s=self.recording.end_s) for sample in samples]
        self._times_s = frame_times(self.recording.path)
        self._items = self._two_frames if two_frames else self._every_step
        training_mode(self.model, True)

    def timed(self) -> None:
        """As `Ours.timed`."""
        self.parts.watch_model(self.packed)

    def clip(self, asked: Asked) -> TrainingVideo:
        """The question's own clip, from the video's beginning to its time, decoded and encoded."""
        model, arm = self.model, self.packed.arm
        return training_video(
            self.id, [asked], self._items(asked), encode=encoder(model, arm), window=model.start_window(arm)
        )

    def _every_step(self, asked: Asked) -> Iterator[Step | Cut]:
        config = self.model.config
        return self.recording.steps_for([asked.question.t_s], config.fps, vjepa_fps=config.features.fps)

    def _two_frames(self, asked: Asked) -> Iterator[Step | Cut]:
        recording, t_s = self.recording, asked.question.t_s
        rows = official_frame_rows(self._times_s, 0.0, t_s, MAX_FRAMES)
        frames = ((frame, True) for _, frame in read_at(recording.path, self._times_s[rows]))
        yield from build_steps(frames, recording.samples, recording.fixation_source(), until_s=t_s)
        yield Cut(t_s, None)

    def learn(self, asked: Sequence[Asked]) -> None:
        """One question after the other."""
        for one in asked:
            with self.parts.part("decode"):
                video = self.clip(one)
            scored = self.packed([video], [forms_of(video)])
            with self.parts.part("backward"):
                (self._loss(scored, video.asks)[0] / ACCUMULATED).backward()
            self._seen += 1
            if self._seen % ACCUMULATED == 0:
                with self.parts.part("optimizer"):
                    self._step()

    def _step(self) -> None:
        schedule.clip_gradients(self._parameters.values(), OPTIMIZER.clip_norm)
        schedule.set_rate(self._optimizer, OPTIMIZER, self._steps, TOTAL_STEPS)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._steps += 1
