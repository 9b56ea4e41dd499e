"""Lays what a stream holds at new, lower positions, so that it can go on for longer than its positions last.

M-RoPE's clock grows by `tokens_per_second` a second: 32,768 positions last 4.5 hours. Long before, the tokens held are
laid where a stream that began with the first step held would have them: text counts on, steps keep their true distances
in time. Only distances so long that all would not fit are shortened (`shorten`): between the first steps and a recent
window, or between the steps of a policy that keeps some of every hour.

Keys are rotated once, from the positions they have to the new ones. The rotation that the model applied is undone and
the new one applied in float32, with cosines and sines in the model's own dtype, as it would compute them itself; the
result is rounded once. In float32 that is exact to 1e-5. In bfloat16 one rounding is added each time, so it is done as
rarely as possible and never step by step (500 shifts of one position drift by 23 %, backbones.md section 2). What a
step had seen when it came in stays in its values: this is no fresh prefill.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gazeqwen.backbone import Backbone, rotation
from gazeqwen.errors import InputError
from gazeqwen.positions import MRope
from gazeqwen.state import StreamState

_SAME_TIME_S = 1e-6  # a step may begin this much before the end of the one before it


def relocate(backbone: Backbone, state: StreamState, *, below: int) -> None:
    """Gives every token held a new position below `below`, and the stream's next token with them.

    Nothing is written to the tensors: forks made before keep theirs.

    Raises:
        InputError: text and grids alone don't fit below it; the state is then unchanged.
    """
    runs = _times(state)
    longest_s = max((float(gap) for times_s in runs for gap in np.diff(times_s)), default=0.0)
    rope, positions = _laid(state, runs)
    while rope.next > below and longest_s > 0:
        longest_s = longest_s / 2 if longest_s > 1 / rope.tokens_per_second else 0.0
        runs = [shorten(times_s, longest_s) for times_s in runs]
        rope, positions = _laid(state, runs)
    if rope.next > below:
        raise InputError(
            "stream", expected=f"tokens that fit {below} positions", found=f"{rope.next}", fix="start a new stream"
        )
    _rotate_keys(backbone, state, positions)
    state.rope, state.positions = rope, positions
    if state.segment_start_s is not None:
        last = state.spans[-1].step if state.spans else None
        if last is not None:  # the open segment goes on from where its newest step lies now
            state.segment_start_s = float(last.frame_times_s[0]) - float(runs[-1][-1] - runs[-1][0])
        else:
            rope.begin_video()
            state.segment_start_s = state.newest_s - _SAME_TIME_S


def shorten(times_s: Sequence[float] | np.ndarray, longest_s: float) -> np.ndarray:
    """(n,) ascending times with every distance between neighbours at most this long."""
    times = np.asarray(times_s, dtype=np.float64)
    return times[:1] + np.minimum(np.diff(times, prepend=times[:1]), longest_s).cumsum()


def _times(state: StreamState) -> list[np.ndarray]:
    """First frames' times of every run of steps with no text between them: one video segment each."""
    runs: list[list[float]] = []
    before = None
    for span in state.spans:
        if span.step is not None:
            if before is None or before.step is None:
                runs.append([])
            runs[-1].append(float(span.step.frame_times_s[0]))
        before = span
    return [np.array(run) for run in runs]


def _laid(state: StreamState, runs: Sequence[np.ndarray]) -> tuple[MRope, Tensor]:
    """Where a stream of the spans held, with these times, would have put them: its rope after them, and (3, N)."""
    rope = MRope(tokens_per_second=state.rope.tokens_per_second)
    parts = [torch.zeros(3, 0, dtype=torch.int64)]
    segments = iter(runs)
    seconds = iter(np.zeros(0))
    before = None
    for span in state.spans:
        if span.step is None:
            parts.append(rope.text(span.tokens))
        else:
            if before is None or before.step is None:
                rope.begin_video()
                times_s = next(segments)
                seconds = iter(times_s - times_s[0])
            ids = rope.step(float(next(seconds)), span.step.h, span.step.w)
            parts.append(ids[:, torch.from_numpy(span.held)])
        before = span
    return rope, torch.cat(parts, dim=1)


def _rotate_keys(backbone: Backbone, state: StreamState, positions: Tensor) -> None:
    moved = torch.nonzero((positions != state.positions).any(dim=0)).flatten()
    if not len(moved):
        return
    old = [part.float() for part in rotation(backbone, state.positions[:, moved])]
    new = [part.float() for part in rotation(backbone, positions[:, moved])]
    scale = old[0] ** 2 + old[1] ** 2  # not quite 1: rounded to the model's dtype, and scaled by YaRN
    layers: list = state.cache.layers
    for layer in layers:
        rows = moved.to(layer.keys.device)
        plain = _rotated(layer.keys.index_select(-2, rows).float(), old[0] / scale, -old[1] / scale)
        layer.keys = layer.keys.index_copy(-2, rows, _rotated(plain, *new).to(layer.keys.dtype))


def _rotated(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Keys (..., N, d) turned by N angles: channel c pairs with c + d / 2, as in Qwen2."""
    first, second = keys.chunk(2, dim=-1)
    cos, sin = cos.to(keys.device), sin.to(keys.device)
    return keys * cos + torch.cat([-second, first], dim=-1) * sin
