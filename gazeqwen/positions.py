"""M-RoPE position ids of Qwen2.5-VL, built by us and always passed to the backbone.

Convention: `get_rope_index` of `transformers` 4.49, which Qwen2.5-VL and the published GazeQwen were trained with; 4.57
and 5.x each give other numbers (golden 06 holds ours). Every token has three ids: temporal, row, column.

    text            all three equal, counting up
    video token     base + (trunc(seconds * tokens_per_second), row, column); base = first id after the text before it
    image token     base + (0, row, column)
    text after it   starts at the largest id so far, over all three axes, plus one

`MRope` keeps the state of a stream; `position_ids` runs a whole prompt through it. They differ in one thing. A prompt
knows seconds per step, and step i is at i * seconds, multiplied in float32 before truncation as upstream does. A stream
knows real timestamps, which are uneven, so they are rounded to 0.01 s first: 0.999967 s is one second. At 0.5, 1, 1.5,
2, 2.5, 3, 4, 5, 6 or 8 steps a second both give the same ids (checked for 4000 steps); at some odd intervals upstream's
float32 falls just below a whole number (0.13 s, step 450: 116 instead of 117) and the stream's id is one higher.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gazeqwen.errors import InputError

TIME_DIGITS = 2  # decimals of a second that a stream's times are rounded to
PADDING_ID = 1  # what upstream puts at padded positions


class MRope:
    """Where the next token goes: the explicit position state of one stream, a handful of numbers.

    Attributes:
        next: id of the next text token.
        tokens_per_second: ids a second of video takes; `vision_config.tokens_per_second` of the backbone (2 in the
            released models; the config class's own default is 4, so there is no default here).
    """

    def __init__(self, *, tokens_per_second: float, next: int = 0) -> None:
        if not (math.isfinite(tokens_per_second) and tokens_per_second > 0):
            raise InputError("tokens_per_second", expected="a positive number", found=str(tokens_per_second))
        self.next = next
        self.tokens_per_second = tokens_per_second
        self._base: int | None = None  # first id of the open video segment
        self._newest_s = 0.0

    def copy(self) -> MRope:
        """An independent state at the same place: what a fork continues from."""
        return copy.copy(self)

    def to_dict(self) -> dict[str, float | int | None]:
        """All of it, in plain JSON types."""
        return {
            "tokens_per_second": self.tokens_per_second,
            "next": self.next,
            "base": self._base,
            "newest_s": self._newest_s,
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> MRope:
        """What `to_dict` told."""
        rope = cls(tokens_per_second=told["tokens_per_second"], next=told["next"])
        rope._base, rope._newest_s = told["base"], told["newest_s"]
        return rope

    def text(self, k: int) -> Tensor:
        """Ids (3, k) int64 of the next `k` text tokens. Ends an open video segment."""
        if k < 0:
            raise InputError("MRope.text", expected="k >= 0 tokens", found=str(k))
        ids = torch.arange(self.next, self.next + k).expand(3, -1)
        self.next += k
        self._base = None
        return ids

    def begin_video(self) -> None:
        """Starts a video segment at the current position; its steps follow by `step`."""
        self._base = self.next
        self._newest_s = 0.0

    def step(self, seconds: float, h: int, w: int) -> Tensor:
        """Ids (3, h*w) int64 of one temporal step of the open video segment, raster order.

        Args:
            seconds: the step's first frame's time minus the segment's first frame's time.
            h, w: merged tokens (not patches) per column and row.

        Raises:
            InputError: no video segment is open, the time is not finite, negative or before the last step's, or the
                grid is empty.
        """
        if self._base is None:
            raise InputError(
                "MRope.step", expected="an open video segment", found="none", fix="call begin_video() after the text"
            )
        if not (math.isfinite(seconds) and seconds >= self._newest_s):
            raise InputError(
                "MRope.step", expected=f"seconds >= {self._newest_s:g}, the last step's", found=f"{seconds}"
            )
        self._newest_s = seconds
        return self._grid(self._base, torch.tensor([round(seconds, TIME_DIGITS)]), h=h, w=w)

    def video(self, t: int, h: int, w: int, *, seconds_per_step: float) -> Tensor:
        """Ids (3, t*h*w) of a whole, evenly sampled video, in upstream's arithmetic. Ends an open video segment."""
        if not (math.isfinite(seconds_per_step) and seconds_per_step >= 0):
            raise InputError("second_per_grid_ts", expected="finite seconds >= 0", found=str(seconds_per_step))
        seconds = torch.arange(t) * torch.tensor(seconds_per_step, dtype=torch.float32)
        base, self._base = self.next, None
        return self._grid(base, seconds, h=h, w=w)

    def image(self, h: int, w: int) -> Tensor:
        """Ids (3, h*w) of one image of h x w merged tokens: a step whose time stands still."""
        return self.video(1, h, w, seconds_per_step=0.0)

    def _grid(self, base: int, seconds: Tensor, *, h: int, w: int) -> Tensor:
        t = seconds.numel()
        if min(t, h, w) < 1:
            raise InputError("video grid", expected="at least one token on each axis", found=f"{(t, h, w)}")
        temporal = (seconds.float() * self.tokens_per_second).long()
        axes = torch.meshgrid(temporal, torch.arange(h), torch.arange(w), indexing="ij")
        ids = torch.stack(axes).reshape(3, -1) + base
        self.next = max(self.next, int(ids.max()) + 1)
        return ids


def position_ids(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    video_grid_thw: Tensor | Sequence[Sequence[int]] | None = None,
    image_grid_thw: Tensor | Sequence[Sequence[int]] | None = None,
    second_per_grid_ts: Tensor | Sequence[float] | None = None,
    video_token_id: int,
    image_token_id: int,
    tokens_per_second: float,
    spatial_merge_size: int = 2,
) -> tuple[Tensor, Tensor, Tensor]:
    """Position ids of whole prompts.

    Args:
        input_ids: (B, L) token ids; each video or image has as many placeholder tokens as its merged grid has cells.
        attention_mask: (B, L), 0 at padding (on either side); None for no padding.
        video_grid_thw, image_grid_thw: (n, 3) grids in patches, in the order in which they appear, row after row.
        second_per_grid_ts: seconds per temporal step of each video; None means 1.0, as upstream.

    Returns:
        position_ids (3, B, L) int64 with 1 at padding; next_text (B,) the id of the first generated token; and
        rope_deltas (B, 1) = next_text - L with the padded L (upstream's number, for comparison; we never read it).

    Raises:
        InputError: shapes disagree, or placeholders and grids do not match in number or size.
    """
    if input_ids.ndim != 2 or (attention_mask is not None and attention_mask.shape != input_ids.shape):
        found = f"{tuple(input_ids.shape)}" + ("" if attention_mask is None else f", {tuple(attention_mask.shape)}")
        raise InputError("position_ids", expected="input_ids (B, L) and attention_mask of that shape", found=found)
    videos, images = _rows(video_grid_thw, "video_grid_thw"), _rows(image_grid_thw, "image_grid_thw")
    seconds = [1.0] * len(videos) if second_per_grid_ts is None else [float(s) for s in second_per_grid_ts]
    if len(seconds) != len(videos):
        raise InputError("second_per_grid_ts", expected=f"one per video ({len(videos)})", found=str(len(seconds)))
    pending = {video_token_id: list(zip(videos, seconds, strict=True)), image_token_id: [(g, 0.0) for g in images]}
    batch, length = input_ids.shape
    keep = torch.ones(batch, length, dtype=torch.bool) if attention_mask is None else attention_mask.cpu() != 0
    ids = torch.full((3, batch, length), PADDING_ID)
    next_text = torch.zeros(batch, dtype=torch.long)
    for row in range(batch):
        rope = MRope(tokens_per_second=tokens_per_second)
        tokens = input_ids[row].cpu()[keep[row]].tolist()
        ids[:, row, keep[row]] = _prompt(rope, tokens, pending, spatial_merge_size)
        next_text[row] = rope.next
    left = sum(len(grids) for grids in pending.values())
    if left:
        raise InputError("position_ids", expected="placeholder tokens for every grid", found=f"none for {left} grids")
    device = input_ids.device
    return ids.to(device), next_text.to(device), (next_text[:, None] - length).to(device)


def _prompt(
    rope: MRope, tokens: list[int], pending: dict[int, list[tuple[tuple[int, int, int], float]]], merge: int
) -> Tensor:
    """Ids (3, len(tokens)) of one unpadded prompt; takes its grids from the front of `pending`."""
    parts, at = [], 0
    while at < len(tokens):
        start = next((i for i in range(at, len(tokens)) if tokens[i] in pending), len(tokens))
        parts.append(rope.text(start - at))
        if start == len(tokens):
            break
        token = tokens[start]
        if not pending[token]:
            raise InputError("position_ids", expected="a grid for every video and image", found="more placeholders")
        (t, gh, gw), seconds = pending[token].pop(0)
        h, w = gh // merge, gw // merge
        at = start + t * h * w
        if tokens[start:at] != [token] * (t * h * w):
            run = next((i for i in range(start, len(tokens)) if tokens[i] != token), len(tokens)) - start
            raise InputError(
                "position_ids", expected=f"{t * h * w} placeholders for the grid {(t, gh, gw)}", found=f"{run} in a row"
            )
        parts.append(rope.video(t, h, w, seconds_per_step=seconds))
    return torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.long)


def _rows(grids: Tensor | Sequence[Sequence[int]] | None, name: str) -> list[tuple[int, int, int]]:
    rows = [] if grids is None else [tuple(int(side) for side in row) for row in grids]
    if any(len(row) != 3 or min(row) < 1 for row in rows):
        raise InputError(name, expected="rows of three positive numbers (t, h, w)", found=str(rows))
    return rows  # type: ignore[return-value]
