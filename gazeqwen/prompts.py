"""What is said to Qwen2.5-VL around the video, and how an answer is read from its logits.

A conversation is: PREFIX, then segments of video (`<|vision_start|>` video tokens `<|vision_end|>`) and text, then a
question and the assistant's turn. The multiple-choice wording is the published GazeQwen evaluation's
(phamtrongthang123/gazeqwen, Apache-2.0, scripts `train.py`/`eval.py`, function build_mcqa_prompt), byte for byte,
because a converted checkpoint was trained with it; golden section 02 holds examples. It never mentions gaze.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from gazeqwen.errors import InputError

if TYPE_CHECKING:  # the wordings are read without torch, e.g. by a report
    from torch import Tensor

Scoring = Literal["letters", "likelihood", "yes_no"]

PREFIX = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
VIDEO_PAD = "<|video_pad|>"
TURN_END = "<|im_end|>"
ASSISTANT = TURN_END + "\n<|im_start|>assistant\n"
NEXT_TURN = TURN_END + "\n<|im_start|>user\n"  # after an answer that stays
YES_NO = ("Yes", "No")
SALIENCE = "\nWhere the wearer looked:"  # before the picture of the arm `heatmap`


def letters(n: int) -> tuple[str, ...]:
    """The first n option letters."""
    return tuple(string.ascii_uppercase[:n])


def strip_letters(options: Sequence[str]) -> list[str]:
    """The options' texts without letters of their own: "A. box" -> "box". One is taken for a letter only where every
    option carries its own ("T. rex" among other animals stays whole)."""
    texts = [option.strip() for option in options]
    numbered = all(
        text[:2].upper() == f"{letter}." and text[2:].strip()
        for letter, text in zip(string.ascii_uppercase, texts, strict=False)
    )
    return [text[2:].strip() for text in texts] if numbered else texts


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """The multiple-choice user turn; an option that begins with its letter and a dot is kept as it stands."""
    lines = [
        text if text[:2].upper() == f"{letter}." else f"{letter}. {text}"
        for letter, text in zip(letters(len(options)), (option.strip() for option in options), strict=True)
    ]
    return f"Question: {question}\nOptions:\n" + "\n".join(lines) + "\n\nThe best option is:"


def open_prompt(question: str) -> str:
    """The free-text user turn, also used where options are scored by their likelihood."""
    return f"Question: {question}\nAnswer briefly."


def yes_no_prompt(question: str) -> str:
    """The user turn of a proactive check, answered by `YES_NO`. "Now", because an alert is about the moment it is
    checked at: what was so a while ago, and no longer is, is a No."""
    return f"Question: {question}\nIs it so now? Answer Yes or No."


def gaze_text(points: Sequence[tuple[float, float, float]]) -> str:
    """Gaze as words for the `text` arm: (t_s, x_norm, y_norm) in the order seen, as shares of the frame."""
    if not points:
        return "No gaze was recorded."
    listed = "; ".join(f"{t:.1f} s: ({x:.2f}, {y:.2f})" for t, x, y in points)
    return f"The wearer's gaze, as (x, y) from the top left corner of the frame, each in 0 to 1: {listed}."


def letter_ids(tokenizer: Any, n: int) -> list[int]:
    """Token ids of "A", "B", ... without a space (the first token of each).

    Raises:
        InputError: two letters share their first token, so they can't be told apart.
    """
    ids = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in letters(n)]
    if len(set(ids)) != n:
        raise InputError("tokenizer", expected="one distinct token per option letter", found=str(ids))
    return ids


def option_logprobs_from_letters(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """(n,) float32 log-probabilities over the offered letters only, from logits (V,) of the position after the prompt.

    The published evaluation takes the argmax of four bf16 logits even when two options are offered; we use the offered
    ones, in float32.
    """
    import torch

    return torch.log_softmax(logits.float()[torch.as_tensor(ids, device=logits.device)], dim=-1)


def option_logprobs_from_likelihood(token_logprobs: Sequence[Tensor]) -> Tensor:
    """(n,) log-probabilities over the options from each option's token log-probabilities: the sum of its tokens
    and the turn's end, normalised over the options. A longer option pays for its length: with options of unequal length
    prefer letters."""
    import torch

    return torch.log_softmax(torch.stack([t.float().sum() for t in token_logprobs]), dim=-1)
