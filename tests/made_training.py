"""A small source of training videos: seeded random steps, questions whose answers the gaze decides, nothing on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gazeqwen import GazeQwen, prompts
from gazeqwen.arms import Arm
from gazeqwen.frozen import Frozen
from gazeqwen.train.config import TrainConfig
from gazeqwen.train.examples import Ask, TrainingVideo
from gazeqwen.train.state import read_metrics
from gazeqwen.types import Question, Step
from tests.made_steps import SQUARE, made_steps

SIDES = ("left", "right", "nowhere")
TEXT = "What is on the table?"


class MadeSource:
    """Videos of `n_steps` steps and 112 x 112 pixels, ids "NAME-0", "NAME-1", ...

    Each has a question with options after every step ("OTP": on which side of the frame the newest valid gaze event
    lies), a proactive point at the end ("GTA"), and with `text` a question without options.
    """

    def __init__(
        self,
        n: int,
        *,
        name: str = "video",
        n_steps: int = 3,
        text: bool = False,
        features: bool = True,
        damaged: int | None = None,
    ) -> None:
        self.ids: Sequence[str] = [f"{name}-{index}" for index in range(n)]
        self.counts: Sequence[int] = [n_steps + 1 + text] * n
        self.n_steps, self.text, self.features, self.damaged = n_steps, text, features, damaged
        self.loads: list[int] = []
        self._seed = sum(map(ord, name))
        self._frozen: dict[tuple[int, bool, bool], Frozen] = {}

    def load(self, index: int, model: GazeQwen, arm: Arm) -> TrainingVideo:
        self.loads.append(index)
        if index == self.damaged:
            from gazeqwen.errors import InputError

            raise InputError("cache/video-1.safetensors", expected="frozen features", found="a damaged file")
        steps = made_steps(self.n_steps, seed=1000 * self._seed + index, size_px=SQUARE)
        frozen = None
        if self.features and arm.video:
            key = (index, arm.features_zeroed or not arm.inject, arm.changes_frames)
            if key not in self._frozen:
                self._frozen[key] = model.frozen(steps, arm=arm)
            frozen = self._frozen[key]
        asks = [_side(steps[: stop + 1], self.ids[index], stop + 1) for stop in range(self.n_steps)]
        asks.append(
            Ask(
                Question("Is it bright?", steps[-1].span_s[1], prompts.YES_NO, id=f"{self.ids[index]}-alert"),
                index % 2,
                prompts.YES_NO[index % 2],
                stop=self.n_steps,
                task="GTA",
                proactive=True,
            )
        )
        if self.text:
            said = Question(TEXT, steps[-1].span_s[1], id=f"{self.ids[index]}-text")
            asks.append(Ask(said, -1, "a cup", stop=self.n_steps, task="text"))
        return TrainingVideo(self.ids[index], steps, frozen, asks)


def _side(steps: Sequence[Step], video: str, stop: int) -> Ask:
    x = float(steps[-1].gaze.xy_norm[-1, 0])
    answer = 0 if x < 0.5 else 1
    question = Question("Where do I look?", steps[-1].span_s[1], SIDES, id=f"{video}-{stop}")
    return Ask(question, answer, SIDES[answer], stop=stop, task="OTP")


def made_config(out: object, **settings: object) -> TrainConfig:
    """A short run: letters, four steps of two videos, no trackers."""
    values = {"out": str(out), "steps": 4, "batch_videos": 2, "trackers": [], "eval_every": 2, **settings}
    return TrainConfig.from_dict(values)


def with_settings(config: TrainConfig, **settings: object) -> TrainConfig:
    return replace(config, **settings)  # type: ignore[arg-type]


def weights_of(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def losses(out: Path) -> list[float]:
    """The loss sequence of a run."""
    return [row["loss"] for row in read_metrics(out) if row["event"] == "step"]
