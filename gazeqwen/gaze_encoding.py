"""How gaze becomes numbers: `LocalGazeEncoding` (default, one vector per video token) and the published encoding.

`local` describes each gaze event by its offset from the token that reads it, so that one token can tell "looked at me"
from "looked elsewhere". `official` is the DETR-style cosine encoding of phamtrongthang123/gazeqwen (model.py,
`_detr_cosine_pe`): one vector for a whole frame. Added to every key alike it can't change which patch is attended to,
and on two small frozen backbones it stayed at chance; it is here for the published checkpoint.

Shapes: S steps, E events of a step (padded), h w the video-token grid, P = h*w tokens in raster order, T step times,
N fixations. Coordinates are normalised to the upright frame, origin top-left; times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from gazeqwen.config import GazeEncodingConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import GazeEvents

StepRows = slice | Sequence[int] | Tensor


def as_index(steps: StepRows) -> slice | Tensor:
    """A choice of steps (a slice, row numbers or a mask) in a form that indexes any dimension of a tensor."""
    return steps if isinstance(steps, (slice, Tensor)) else torch.tensor(steps, dtype=torch.int64)


# What a single sample counts for beside fixations, whose duration is known: one interval of a 50 Hz tracker, seconds.
_SAMPLE_DURATION_S = 0.02


@dataclass(frozen=True, eq=False)
class GazeBatch:
    """The gaze events of S steps, padded to the longest. Where `valid` is False the numbers are 0 and never read.

    Attributes:
        xy_norm: (S, E, 2) float32.
        age_s: (S, E) float32, end of the step's span minus the event's time.
        duration_s: (S, E) float32, 0 for a single sample.
        valid: (S, E) bool; False for missing gaze and for padding.
    """

    xy_norm: Tensor
    age_s: Tensor
    duration_s: Tensor
    valid: Tensor

    @classmethod
    def from_events(cls, steps: Sequence[GazeEvents], device: torch.device | str | None = None) -> Self:
        """One row per step, in order. Steps without events become rows without a valid one."""
        longest = max((len(events) for events in steps), default=0)
        xy = np.zeros((len(steps), longest, 2), dtype=np.float32)
        age = np.zeros((len(steps), longest), dtype=np.float32)
        duration = np.zeros_like(age)
        valid = np.zeros(age.shape, dtype=bool)
        for row, events in enumerate(steps):
            known = events.valid
            valid[row, : len(events)] = known
            xy[row, : len(events)][known] = events.xy_norm[known]
            age[row, : len(events)][known] = events.age_s[known]
            duration[row, : len(events)][known] = events.duration_s[known]
        return cls(*(torch.from_numpy(column).to(device) for column in (xy, age, duration, valid)))

    def __len__(self) -> int:
        return int(self.valid.shape[0])

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(column.to(device) for column in (self.xy_norm, self.age_s, self.duration_s, self.valid)))

    def select(self, steps: StepRows) -> Self:
        """These steps (a slice, row numbers or a mask), in the order asked for."""
        rows = as_index(steps)
        return type(self)(*(column[rows] for column in (self.xy_norm, self.age_s, self.duration_s, self.valid)))


class LocalGazeEncoding(nn.Module):
    """Gaze as seen from each video token: offsets to the step's events, pooled by duration and recency. No parameters.

    Per token and event, with the offset (dx, dy) = event - token centre in frame widths and heights:

        sin, cos of 2 pi f dx and 2 pi f dy, f = 1, 2, 4, ...   4 * frequencies   fine direction and distance
        tanh(dx / s), tanh(dy / s), s the largest sigma         2                 which side
        exp(-(dx^2 + dy^2) / 2 sigma^2) for each sigma          len(sigmas)       "it is me"
        the same with newest_s for recency, unless it is None   len(sigmas)       "it is me at the step's end"
        exp(-age / recency), log(1 + duration / recency)        2                 the same for all tokens
        1 where the step has a valid event                      1                 the last channel

    These are averaged over the step's valid events with weights proportional to (duration + 0.02 s) * exp(-age /
    recency_s). A step of a second holds two or three looks: the second set of Gaussians, with the shorter newest_s in
    place of recency_s, tells which of them was the last. What is averaged are bounded non-linear functions, never
    coordinates: the mean of two fixations lies on neither object, and no channel here shows it. A step without a valid
    event is all zeros.

    Attributes:
        dim: channels.
        bells: those of the first set of Gaussians, one for each sigma.
    """

    def __init__(self, config: GazeEncodingConfig) -> None:
        super().__init__()
        if config.name != "local":
            raise ConfigError(f"LocalGazeEncoding needs gaze_encoding.name='local', got {config.name!r}")
        self.recency_s, self.newest_s = config.recency_s, config.newest_s
        self.side_scale = max(config.sigmas)
        # Plain numbers, not buffers: a model cast to bf16 would round them.
        self.omega = tuple(2 * math.pi * 2.0**k for k in range(config.frequencies))
        self.precision = tuple(0.5 / sigma**2 for sigma in config.sigmas)
        first = 4 * config.frequencies + 2
        self.bells = slice(first, first + len(config.sigmas))
        self.dim = self.bells.stop + (0 if self.newest_s is None else len(config.sigmas)) + 2 + 1

    def forward(self, gaze: GazeBatch, h: int, w: int) -> Tensor:
        """(S, h*w, dim) float32. Neither the order of events nor invalid events or padding change it."""
        omega, precision = (gaze.xy_norm.new_tensor(numbers) for numbers in (self.omega, self.precision))
        weight = self._event_weights(gaze, self.recency_s)  # (S, E), sums to 1 or is all 0
        # Every feature but the Gaussian belongs to one axis, and the Gaussian is a product over the two: (E, P) offsets
        # are never formed.
        side_x, fourier_x, bell_x = self._axis(gaze.xy_norm[..., 0], w, omega, precision)
        side_y, fourier_y, bell_y = self._axis(gaze.xy_norm[..., 1], h, omega, precision)
        columns = torch.einsum("se,sexc->sxc", weight, torch.cat([fourier_x, side_x], dim=-1))  # (S, w, 2f+1)
        rows = torch.einsum("se,seyc->syc", weight, torch.cat([fourier_y, side_y], dim=-1))  # (S, h, 2f+1)
        shares = [weight] if self.newest_s is None else [weight, self._event_weights(gaze, self.newest_s)]
        bells = [torch.einsum("se,seyc,sexc->syxc", share, bell_y, bell_x) for share in shares]  # (S, h, w, sigmas)
        in_time = torch.stack([torch.exp(-gaze.age_s / self.recency_s), torch.log1p(gaze.duration_s / self.recency_s)])
        event = torch.einsum("se,cse->sc", weight, in_time)
        flag = gaze.valid.any(dim=1, keepdim=True).to(event.dtype)
        steps = len(gaze)
        return torch.cat(
            [
                columns[:, None].expand(steps, h, w, -1),
                rows[:, :, None].expand(steps, h, w, -1),
                *bells,
                torch.cat([event, flag], dim=-1)[:, None, None].expand(steps, h, w, -1),
            ],
            dim=-1,
        ).reshape(steps, h * w, self.dim)

    def _event_weights(self, gaze: GazeBatch, recency_s: float) -> Tensor:
        """Softmax of the log weight: long-past events can't underflow to 0 / 0."""
        log_weight = torch.log(gaze.duration_s + _SAMPLE_DURATION_S) - gaze.age_s / recency_s
        lowest = torch.finfo(log_weight.dtype).min
        return torch.softmax(log_weight.masked_fill(~gaze.valid, lowest), dim=1) * gaze.valid

    def _axis(self, at: Tensor, cells: int, omega: Tensor, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Side (S, E, cells, 1), Fourier (S, E, cells, 2f) and Gaussian factor (S, E, cells, sigmas) along one axis."""
        centre = (torch.arange(cells, device=at.device, dtype=at.dtype) + 0.5) / cells
        offset = at[..., None, None] - centre[:, None]  # (S, E, cells, 1)
        angle = offset * omega
        fourier = torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)
        return torch.tanh(offset / self.side_scale), fourier, torch.exp(-offset.square() * precision)


class BroadcastGazeEncoding(nn.Module):
    """One vector a step, the same for all its tokens: the published cosine encoding of each valid event's coordinates,
    averaged; zeros without one. The last channel is 1 where the step has a valid event.

    For comparison with `LocalGazeEncoding` in the same resampler. The published module adds such a vector to the keys
    of its attention only, and averages the fixations active at one frame's time, not those of a step.

    Attributes:
        dim: channels.
    """

    def __init__(self, config: GazeEncodingConfig, *, channels: int = 64) -> None:
        super().__init__()
        if config.name != "broadcast":
            raise ConfigError(f"BroadcastGazeEncoding needs gaze_encoding.name='broadcast', got {config.name!r}")
        self.dim, self._channels = channels + 1, channels

    def forward(self, gaze: GazeBatch, h: int, w: int) -> Tensor:
        """(S, h*w, dim) float32."""
        exponent = 2 * torch.arange(self._channels // 4, device=gaze.xy_norm.device) / (self._channels // 2)
        angle = gaze.xy_norm[..., None] / 10000**exponent  # (S, E, 2, channels / 4)
        each = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(2) * gaze.valid[..., None]
        vector = each.sum(dim=1) / gaze.valid.sum(dim=1, keepdim=True).clamp(min=1)
        flag = gaze.valid.any(dim=1, keepdim=True).to(vector.dtype)
        return torch.cat([vector, flag], dim=-1)[:, None].expand(len(gaze), h * w, self.dim)


def build_gaze_encoding(config: GazeEncodingConfig) -> LocalGazeEncoding | BroadcastGazeEncoding:
    """By name. Raises ConfigError for `official`, which belongs to the published module."""
    return BroadcastGazeEncoding(config) if config.name == "broadcast" else LocalGazeEncoding(config)


def official_gaze_encoding(
    scanpath: Tensor, frame_times_s: Tensor | Sequence[float], dim: int
) -> tuple[Tensor, Tensor]:
    """The published positional encoding: the mean over the fixations active at a time, zeros where none is.

    A fixation is active while |t - mid| <= duration / 2, both ends included, compared in float32 as upstream does (in
    float64 some instants change sides). x fills the first half of the vector and y the second, each as interleaved sin
    and cos of the raw coordinate over 10000^(2j/(dim/2)).

    Args:
        scanpath: (N, 4) x_norm, y_norm, middle (s), duration (s, at least 1e-6 is used).
        frame_times_s: (T,) seconds.
        dim: divisible by 4.

    Returns:
        (T, dim) float32 and (T,) bool, whether any fixation is active.

    Raises:
        ConfigError: `dim` is not divisible by 4.
        InputError: the scanpath is not (N, 4).
    """
    if dim <= 0 or dim % 4:
        raise ConfigError(f"official gaze encoding: dim divisible by 4, got {dim}")
    if scanpath.ndim != 2 or scanpath.shape[1] != 4:
        raise InputError("scanpath", expected="shape (N, 4): x, y, mid_s, duration_s", found=str(tuple(scanpath.shape)))
    path = scanpath.float()
    times = torch.as_tensor(frame_times_s, dtype=torch.float32, device=path.device).reshape(-1, 1)
    mid, half_s = path[:, 2], path[:, 3].clamp(min=1e-6) / 2
    active = (mid - half_s <= times) & (times <= mid + half_s)  # (T, N)
    exponent = 2 * torch.arange(dim // 4, device=path.device, dtype=torch.float32) / (dim // 2)
    angle = path[:, :2, None] / 10000**exponent  # (N, 2, dim/4): dividing, not multiplying, keeps upstream's bits
    encoding = torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(len(path), dim)
    count = active.sum(dim=1, keepdim=True).clamp(min=1)
    return active.to(encoding.dtype) @ encoding / count, active.any(dim=1)
