"""`--overfit N`: can the model learn N questions by heart? If not, something in the data, the forward or the optimiser
is broken, and a long run would only take longer to show it. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from gazeqwen.arms import Arm, get_arm
from gazeqwen.errors import InputError
from gazeqwen.model import GazeQwen
from gazeqwen.train import schedule
from gazeqwen.train.config import LossSettings, TrainConfig
from gazeqwen.train.evaluate import form_of, is_right
from gazeqwen.train.examples import TrainingVideo, VideoSource
from gazeqwen.train.loop import Trainer
from gazeqwen.train.setup import Prepared, training_mode

MOST_STEPS, LOOK_EVERY = 600, 20


class Few:
    """The first `n` questions with options, a few of each video, held in memory."""

    def __init__(self, source: VideoSource, n: int, model: GazeQwen, arm: Arm) -> None:
        self.videos: list[TrainingVideo] = []
        left, usable = n, [index for index, count in enumerate(source.counts) if count]
        for place, index in enumerate(usable):
            video = source.load(index, model, arm)
            rows = [row for row, ask in enumerate(video.asks) if ask.question.options]
            share = -(-left // (len(usable) - place))  # what is left, spread over the videos that are left
            if rows := rows[:share]:
                self.videos.append(video.only(rows))
                left -= len(rows)
            if not left:
                break
        if left:
            raise InputError("--overfit", expected=f"{n} questions with options", found=str(n - left))
        self.ids: Sequence[str] = [video.id for video in self.videos]
        self.counts: Sequence[int] = [len(video.asks) for video in self.videos]

    def load(self, index: int, model: GazeQwen, arm: Arm) -> TrainingVideo:
        return self.videos[index]


def overfit(
    config: TrainConfig,
    prepared: Prepared,
    source: VideoSource,
    n: int,
    *,
    accelerator: Accelerator,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Trains on `n` questions, all of them in every step, without augmentation, dropout or decay, at a constant rate,
    until every one is right or `MOST_STEPS` are done.

    Returns:
        {"learned", "right", "questions", "steps", "loss", "text"}

    Raises:
        InputError: the data hold fewer questions with options.
    """
    few = Few(source, n, prepared.model, get_arm(config.arm))
    optimizer = replace(config.optimizer, weight_decay=0.0, lora_weight_decay=0.0)
    forms = {config.scoring: 1.0}
    choice = () if any(loss.name == "choice" for loss in config.losses) else (LossSettings("choice"),)
    plain = replace(
        config,
        steps=MOST_STEPS,
        batch_videos=len(few.ids),
        accumulation=1,
        questions_per_video=0,
        augment=(),
        null_gaze=0.0,
        forms=forms,
        losses=(*config.losses, *choice),
        optimizer=optimizer,
        trackers=(),
    )
    if accelerator.num_processes > 1:
        raise InputError("--overfit", expected="one process", found=f"{accelerator.num_processes}")
    trainer = Trainer(plain, prepared, few, accelerator=accelerator)
    loss = right = 0
    step = 0
    while step < MOST_STEPS:
        step += 1
        warm = min(1.0, step / 10)
        drawn = trainer.sampler.at(0)
        training_mode(trainer.model, True)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        trainer.optimizer.zero_grad(set_to_none=True)
        loss = float(trainer.forward_backward(drawn, n)[0])
        trainer._sum_gradients()
        schedule.clip_gradients(trainer.parameters.values(), optimizer.clip_norm)
        for group in trainer.optimizer.param_groups:
            group["lr"] = group["peak"] * warm
        trainer.optimizer.step()
        if step % LOOK_EVERY == 0:
            right = _right(trainer, few)
            report(f"step {step}: {right} of {n} right, loss {loss:.4f}")
            if right == n:
                break
    learned = right == n
    text = f"{right} of {n} questions right after {step} steps, loss {loss:.4f}"
    if not learned:
        text += ": not learned by heart; check the questions' answers, forms and optimizer.lr"
    return {"learned": learned, "right": right, "questions": n, "steps": step, "loss": loss, "text": text}


@torch.no_grad()
def _right(trainer: Trainer, few: Few) -> int:
    training_mode(trainer.model, False)
    forms = [[form_of(ask, trainer.config.scoring) for ask in video.asks] for video in few.videos]
    with trainer._autocast():
        scored = trainer.packed(few.videos, forms)
    asks = [ask for video in few.videos for ask in video.asks]
    return sum(is_right(ask, one) for ask, one in zip(asks, scored, strict=True))
