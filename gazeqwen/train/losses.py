"""Losses by name: sums over questions, so that a trainer can divide by what a whole global batch counts.

"choice" and "answer" are here; another module adds its own with `register_loss`. A loss leaves alone the questions that
are not its own, so a run may mix forms and losses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from gazeqwen.errors import ConfigError
from gazeqwen.train.examples import Ask
from gazeqwen.train.forward import Attended, Scored


class Loss(Protocol):
    """Made from a config's parameters, then called on each batch.

    Attributes:
        needs_attention: it reads `Scored.attended`: the forward must be `PackedForward(..., attention=True)`.
    """

    @property
    def needs_attention(self) -> bool: ...

    def __call__(self, scored: Sequence[Scored], asks: Sequence[Ask]) -> tuple[Tensor, int]:
        """() float32 sum and how many terms it has. 0 terms where nothing of the batch is this loss's."""
        ...


LOSSES: dict[str, Callable[..., Loss]] = {}
_Made = TypeVar("_Made", bound=Callable[..., Loss])


def register_loss(name: str) -> Callable[[_Made], _Made]:
    """Decorator: what makes a loss, by name. Its keyword arguments are the parameters a config may give.

    Raises:
        ConfigError: the name is taken.
    """

    def register(made: _Made) -> _Made:
        if name in LOSSES:
            raise ConfigError(f"loss {name!r} is registered already")
        LOSSES[name] = made
        return made

    return register


def build_loss(name: str, params: Mapping[str, Any] | None = None) -> Loss:
    """The loss of this name. Raises ConfigError that lists the names, or the parameters, that are known."""
    return build(LOSSES, "loss", name, params or {})


def build(registry: Mapping[str, Callable[..., Any]], kind: str, name: str, params: Mapping[str, Any]) -> Any:
    """`registry[name](**params)`, with an error that lists what is known."""
    if name not in registry:
        raise ConfigError(f"unknown {kind} {name!r}; known are {', '.join(registry)}")
    known = inspect.signature(registry[name]).parameters
    unknown = [str(key) for key in params if key not in known]
    if unknown:
        listed = ", ".join(known) or "none"
        raise ConfigError(f"{kind} {name!r}: unknown parameters {', '.join(unknown)}; known are {listed}")
    missing = [key for key, one in known.items() if one.default is one.empty and key not in params]
    if missing:
        raise ConfigError(f"{kind} {name!r}: needs {', '.join(missing)}")
    return registry[name](**params)


def attended(scored: Sequence[Scored]) -> list[Attended]:
    """Each video's attention once, in order: its questions share one."""
    return list({id(item.attended): item.attended for item in scored if item.attended is not None}.values())


@register_loss("choice")
@dataclass(frozen=True)
class Choice:
    """Cross-entropy over a question's options, however they are read (letters, likelihood, yes or no). One term a
    question.

    Args:
        label_smoothing: the share of the target spread evenly over all options. The published run trains with 0.1 over
            four letters, also where two are offered (phamtrongthang123/gazeqwen, train.py); here over those offered.
    """

    label_smoothing: float = 0.0
    needs_attention = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"loss 'choice': label_smoothing in [0, 1), got {self.label_smoothing}")

    def __call__(self, scored: Sequence[Scored], asks: Sequence[Ask]) -> tuple[Tensor, int]:
        terms = [
            F.cross_entropy(
                item.logprobs,
                torch.tensor(ask.answer, device=item.logprobs.device),
                label_smoothing=self.label_smoothing,
            )
            for item, ask in zip(scored, asks, strict=True)
            if item.logprobs is not None
        ]
        return _sum(terms), len(terms)


@register_loss("answer")
@dataclass(frozen=True)
class Answer:
    """Negative log-likelihood of answers in words. One term a token, the turn's end among them."""

    needs_attention = False

    def __call__(self, scored: Sequence[Scored], asks: Sequence[Ask]) -> tuple[Tensor, int]:
        terms = [item.nll for item in scored if item.nll is not None]
        return _sum(terms), sum(item.n_tokens for item in scored)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum() if terms else torch.zeros(())
