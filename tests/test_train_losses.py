"""Losses by name: their sums and counts, what they leave alone, and one of another module that reads the attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.errors import ConfigError
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.train.examples import Ask, Form, TrainingVideo
from gazeqwen.train.forward import PackedForward, Scored
from gazeqwen.train.losses import LOSSES, attended, build_loss, register_loss
from gazeqwen.types import Question
from tests.made_steps import OPTIONS, QUESTION, made_steps, with_residuals

ASK = Ask(Question(QUESTION, 1.0, OPTIONS), 1, "green jar", 1)


def options(*logits: float) -> Scored:
    return Scored("letters", torch.log_softmax(torch.tensor(logits), dim=0).requires_grad_(), None, 0)


def said(nll: float, n_tokens: int) -> Scored:
    return Scored("text", None, torch.tensor(nll), n_tokens)


def test_choice_is_the_cross_entropy_of_the_right_options() -> None:
    rows = [options(0.3, -1.0, 2.0), options(1.0, 0.5), said(9.0, 3)]
    asks = [ASK, replace(ASK, question=Question("Now?", 1.0, prompts.YES_NO), answer=0), ASK]
    for smoothing in (0.0, 0.1):
        value, count = build_loss("choice", {"label_smoothing": smoothing})(rows, asks)
        by_hand = 0.0
        for row, ask in zip(rows[:2], asks[:2], strict=True):
            assert row.logprobs is not None
            spread = smoothing / len(row.logprobs)
            for k, logprob in enumerate(row.logprobs.tolist()):
                by_hand -= logprob * (spread + (1 - smoothing) * (k == ask.answer))
        assert float(value.detach()) == pytest.approx(by_hand, abs=1e-5) and count == 2


def test_answer_counts_tokens() -> None:
    value, count = build_loss("answer")([said(2.5, 3), options(0.0, 1.0), said(1.5, 1)], [ASK] * 3)
    assert float(value) == 4.0 and count == 4


def test_a_loss_without_a_question_of_its_own_counts_nothing() -> None:
    for name, row in (("choice", said(1.0, 2)), ("answer", options(0.0, 1.0))):
        value, count = build_loss(name)([row], [ASK])
        assert float(value) == 0.0 and count == 0 and not build_loss(name).needs_attention


def test_unknown_losses_and_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown loss 'focal'; known are choice, answer"):
        build_loss("focal")
    with pytest.raises(ConfigError, match="'choice': unknown parameters gamma; known are label_smoothing"):
        build_loss("choice", {"gamma": 2})
    with pytest.raises(ConfigError, match="'answer': unknown parameters x; known are none"):
        build_loss("answer", {"x": 2})
    with pytest.raises(ConfigError, match=r"label_smoothing in \[0, 1\), got 1"):
        build_loss("choice", {"label_smoothing": 1})
    with pytest.raises(ConfigError, match="registered already"):
        register_loss("choice")(lambda: build_loss("answer"))
    assert LOSSES["choice"] is not None and list(LOSSES)[:2] == ["choice", "answer"]


# -- on the model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> GazeQwen:
    return with_residuals(GazeQwen.from_pretrained("tiny"))


@pytest.fixture(scope="module")
def videos(model: GazeQwen) -> list[TrainingVideo]:
    """Two videos with two questions each, their frozen parts made."""
    made = []
    for seed in (0, 1):
        steps = made_steps(2, seed=seed)
        asks = [replace(ASK, stop=stop, answer=(stop + seed) % 3) for stop in (1, 2)]
        made.append(TrainingVideo(str(seed), steps, model.frozen(steps), asks))
    return made


def asks_of(videos: Sequence[TrainingVideo]) -> list[Ask]:
    return [ask for video in videos for ask in video.asks]


@pytest.mark.parametrize(("form", "name"), [("letters", "choice"), ("text", "answer")])
def test_training_on_a_loss_lowers_it(videos: list[TrainingVideo], form: Form, name: str) -> None:
    model, loss = GazeQwen.from_pretrained("tiny"), build_loss(name)
    packed = PackedForward(model, "inject")
    optimizer = torch.optim.AdamW(model.resampler.parameters(), lr=2e-3)
    found = []
    for _ in range(8):
        value, count = loss(packed(videos, [[form] * 2] * 2), asks_of(videos))
        optimizer.zero_grad()
        (value / count).backward()
        optimizer.step()
        found.append(float(value.detach()) / count)
    assert found[-1] < 0.9 * found[0]
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("resampler."))


@dataclass(frozen=True)
class _Towards:
    """KL(attention || gaze) of every step with valid gaze, as a module of the related systems will add it."""

    sigma: float = 0.1
    needs_attention = True

    def __call__(self, scored: Sequence[Scored], asks: Sequence[Ask]) -> tuple[Tensor, int]:
        total, count = torch.zeros(()), 0
        for video in attended(scored):
            batch = GazeBatch.from_events(video.gaze)
            x = (torch.arange(video.w) + 0.5) / video.w
            y = (torch.arange(video.h) + 0.5) / video.h
            dx, dy = batch.xy_norm[..., 0, None] - x, batch.xy_norm[..., 1, None] - y  # (T, E, w), (T, E, h)
            bell = torch.exp(-(dy[..., None] ** 2 + dx[..., None, :] ** 2) / (2 * self.sigma**2))
            target = (bell * batch.valid[..., None, None]).sum(dim=1).flatten(1) + 1e-2 / (video.h * video.w)
            rows = batch.valid.any(dim=1)
            target = (target / target.sum(dim=1, keepdim=True)).log()[rows]
            mean = video.weights.mean(dim=1)[rows]
            total = total + F.kl_div(target, mean, reduction="sum")
            count += int(rows.sum())
        return total, count


@pytest.fixture()
def registered() -> Iterator[None]:
    register_loss("towards")(_Towards)
    yield
    del LOSSES["towards"]


@pytest.mark.usefixtures("registered")
def test_a_loss_of_another_module_reads_the_latents_attention(videos: list[TrainingVideo]) -> None:
    loss = build_loss("towards", {"sigma": 0.15})
    model = GazeQwen.from_pretrained("tiny")
    forms: list[list[Form]] = [["letters", "text"]] * 2
    assert loss(PackedForward(model, "inject")(videos, forms), asks_of(videos))[1] == 0  # not asked for
    packed = PackedForward(model, "inject", attention=loss.needs_attention)
    optimizer = torch.optim.AdamW(model.resampler.parameters(), lr=1e-2)
    found = []
    for _ in range(15):
        value, count = loss(packed(videos, forms), asks_of(videos))
        assert count == 4  # each step of each video once, however many questions see it
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    assert 0 <= found[-1] < 0.7 * found[0]
    model.zero_grad()
    loss(packed(videos, forms), asks_of(videos))[0].backward()
    grad = dict(model.resampler.named_parameters())["attends.0.to_query.weight"].grad
    assert grad is not None and grad.abs().max() > 0
