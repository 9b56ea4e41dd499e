"""AdamW's groups, the learning rate as a function of the step, and clipping over all gradients together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gazeqwen.train.config import OptimizerSettings


def rate(settings: OptimizerSettings, step: int, total: int) -> tuple[float, float]:
    """(share of the peak learning rate, beta1) at step 0 .. total-1."""
    beta1 = settings.betas[0]
    if settings.schedule == "onecycle":
        return _one_cycle(step, total, settings.warmup_steps)
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps, beta1
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    share = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.final_lr + (1 - settings.final_lr) * share, beta1


def _one_cycle(step: int, total: int, warmup: int) -> tuple[float, float]:
    """torch.optim.lr_scheduler.OneCycleLR with pct_start = min(warmup/total, 0.5) and its defaults otherwise."""
    peak = min(warmup, 0.5 * total) - 1
    if step <= peak and peak > 0:
        return _between(1 / 25, 1.0, step / peak), _between(0.95, 0.85, step / peak)
    done = min((step - peak) / max(1.0, total - 1 - peak), 1.0)
    return _between(1.0, 1 / 25e4, done), _between(0.85, 0.95, done)


def _between(start: float, stop: float, done: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * done)) / 2


def build_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over named parameters; decay only for matrices of the resampler, and what the settings say for LoRA's."""
    lora_lr = settings.lr if settings.lora_lr is None else settings.lora_lr
    named = {
        "resampler": ([], settings.lr, settings.weight_decay),
        "resampler, no decay": ([], settings.lr, 0.0),
        "lora": ([], lora_lr, settings.lora_weight_decay),
    }
    for name, parameter in parameters.items():
        kind = "lora" if ".lora_" in name else "resampler" if parameter.ndim > 1 else "resampler, no decay"
        named[kind][0].append(parameter)
    groups = [
        {"name": kind, "params": held, "lr": lr, "peak": lr, "weight_decay": decay}
        for kind, (held, lr, decay) in named.items()
        if held
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)


def set_rate(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, step: int, total: int) -> float:
    """Puts the step's learning rates into the optimiser; returns the first group's."""
    share, beta1 = rate(settings, step, total)
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = group["peak"] * share, (beta1, group["betas"][1])
    return float(optimizer.param_groups[0]["lr"])


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor (FSDP2) put together; others as they are. Every process must call it."""
    joined: Any = getattr(tensor, "full_tensor", None)
    return tensor if joined is None else joined()


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """The norm of all gradients together, which are scaled down to `limit` where they exceed it (0: never)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norms = [torch.linalg.vector_norm(whole(gradient).float()) for gradient in gradients]
    norm = float(torch.linalg.vector_norm(torch.stack([value.to(norms[0].device) for value in norms])))
    if limit and norm > limit and math.isfinite(norm):
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm
