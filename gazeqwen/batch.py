"""Training and batched scoring: examples of any lengths in one padded forward, laid out as `append` and `score` would.

Shapes: B examples, L tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from gazeqwen import prompts
from gazeqwen.arms import Arm, get_arm
from gazeqwen.backbone import new_cache
from gazeqwen.errors import InputError
from gazeqwen.frozen import EncodedSteps
from gazeqwen.positions import MRope
from gazeqwen.state import Span, StepRecord, StreamState
from gazeqwen.types import Fixations, Question, Step

if TYPE_CHECKING:
    from gazeqwen.model import GazeQwen

Content = Sequence[Step] | str


@dataclass(frozen=True, eq=False)
class Example:
    """One training or evaluation item: content in order (runs of steps, and text between them), then a question.

    Attributes:
        content: each run of steps is a video segment of its own; text stands between segments as it is.
        question: asked after the content.
        target: the assistant's text to learn, without the turn's end; None for scoring only.
        fixations: the scanpath, needed under compat="official" only.
    """

    content: tuple[Content, ...]
    question: Question
    target: str | None = None
    fixations: Fixations | None = None


@dataclass(frozen=True)
class Output:
    """`logits` (B, V) float32 at each example's answer position, and `loss` over the targets' tokens (None without)."""

    logits: Tensor
    loss: Tensor | None


@dataclass(frozen=True)
class Sequenced:
    """One example ready for the decoder: (L, D), (3, L), its encoded runs, where the answer starts, target ids."""

    embeds: Tensor
    positions: Tensor
    encoded: tuple[tuple[EncodedSteps, int, int], ...]
    answer: int
    target: Tensor


def forward(model: GazeQwen, batch: Sequence[Example], *, arm: Arm | str = "inject") -> Output:
    """`GazeQwen.forward`."""
    arm = get_arm(arm)
    if not batch:
        raise InputError("batch", expected="at least one example", found="none")
    has_target = {example.target is not None for example in batch}
    if len(has_target) > 1:
        raise InputError("batch", expected="targets for all examples or for none", found="both")
    rows = [sequence(model, example, arm, row) for row, example in enumerate(batch)]
    longest = max(len(row.embeds) for row in rows)
    embeds = torch.stack([F.pad(row.embeds, (0, 0, 0, longest - len(row.embeds))) for row in rows])
    positions = torch.stack([F.pad(row.positions, (0, longest - len(row.embeds)), value=1) for row in rows], dim=1)
    mask = torch.stack([torch.arange(longest) < len(row.embeds) for row in rows]).long()
    plan = model.plan([part for row in rows for part in row.encoded], batch_size=len(rows))
    with model._injecting(plan):
        hidden = model.backbone.decode(embeds, positions, attention_mask=None if mask.all() else mask)
    at = torch.tensor([row.answer for row in rows], device=hidden.device)
    logits = model.backbone.logits(hidden[torch.arange(len(rows), device=hidden.device), at])
    loss = None
    if has_target == {True}:
        spoken = torch.cat(
            [model.backbone.logits(hidden[r, row.answer : row.answer + len(row.target)]) for r, row in enumerate(rows)]
        )
        loss = F.cross_entropy(spoken, torch.cat([row.target for row in rows]).to(spoken.device))
    return Output(logits, loss)


def sequence(model: GazeQwen, example: Example, arm: Arm, row: int) -> Sequenced:
    """One example as embeddings, positions and residuals, laid out exactly as `append` and `score` would."""
    rope = MRope(tokens_per_second=model.backbone.tokens_per_second)
    embeds: list[Tensor] = []
    positions: list[Tensor] = []
    encoded: list[tuple[EncodedSteps, int, int]] = []
    records: list[StepRecord] = []
    length = 0

    def add_text(text: str) -> None:
        nonlocal length
        ids = model._ids(text)
        embeds.append(model.backbone.embed_ids(ids))
        positions.append(rope.text(len(ids)))
        length += len(ids)

    add_text(prompts.PREFIX)
    window = model.start_window(arm)
    is_open = False
    for part in example.content:
        if isinstance(part, str):
            add_text((prompts.VISION_END if is_open else "") + part)
            is_open = False
            continue
        if is_open:
            add_text(prompts.VISION_END)
        add_text(prompts.VISION_START)
        rope.begin_video()
        steps = model.encode(part, arm=arm, window=window, fixations=example.fixations)
        encoded.append((steps, row, length))
        embeds.append(steps.visual.flatten(0, 1))
        positions.append(model._positions(rope, part, steps, float(part[0].frame_times_s[0])))
        records += [StepRecord.of(step, id=s, h=steps.h, w=steps.w) for s, step in enumerate(part)]
        length += len(embeds[-1])
        is_open = True
    shown = StreamState(arm, new_cache(model.backbone), rope, None, spans=[Span(0, record) for record in records])
    text = model.question_text(shown, example.question.text, example.question.options, "letters")
    add_text((prompts.VISION_END if is_open else "") + text + prompts.ASSISTANT)
    answer = length - 1
    target = torch.zeros(0, dtype=torch.int64)
    if example.target is not None:
        target = model._ids(example.target + prompts.TURN_END)
        embeds.append(model.backbone.embed_ids(target[:-1]))
        positions.append(rope.text(len(target) - 1))
    return Sequenced(torch.cat(embeds), torch.cat(positions, dim=1), tuple(encoded), answer, target)
