"""What happened in front of the wearer: looks, actions, appearances, attributes. Questions are made from it
(`gazeqwen.question_rules`), by the tiny world, which knows the truth, and by the data pipeline, which finds it out.

Times are seconds on the recording's clock. Objects are named by lower-case nouns ("mug"), unique within a log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Rules = Literal["causal", "streamgaze"]
RULES: tuple[Rules, ...] = ("causal", "streamgaze")


@dataclass(frozen=True)
class Episode:
    """One stay of gaze: a fixation, a pursuit, or several merged fixations.

    Attributes:
        gazed: the object looked at (StreamGaze's exact or representative object); None for bare wall or worktop.
        in_fov: objects within the foveal field of view around gaze, the gazed one first, nearest first after it.
        outside_fov: other objects in the frame.
        fixation_ids: of the recording's fixations it was made of.
    """

    start_s: float
    stop_s: float
    gazed: str | None
    in_fov: tuple[str, ...] = ()
    outside_fov: tuple[str, ...] = ()
    fixation_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Action:
    """Something the wearer's hand does to an object: contact from `start_s` to `stop_s`. `label`: "take the mug"."""

    start_s: float
    stop_s: float
    label: str
    object: str


@dataclass(frozen=True)
class Appearance:
    """An object is to be seen in the frame from `start_s` to `stop_s`."""

    start_s: float
    stop_s: float
    object: str


@dataclass(frozen=True)
class AttributeSpan:
    """`object` has this value of an attribute ("colour", "state", "motion", ...) from `start_s` to `stop_s`.

    `choices`: all values that the attribute can have, the pool of distractors.
    """

    start_s: float
    stop_s: float
    object: str
    attribute: str
    value: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class EventLog:
    """One recording. Each tuple is in the order of start times.

    Attributes:
        objects: every object that is in the recording at some time, in an order that carries no meaning.
        vocabulary: names that questions of this set of recordings may use; holds `objects`.
        action_labels: labels that questions may use as wrong answers for FAP.
    """

    duration_s: float
    objects: tuple[str, ...]
    vocabulary: tuple[str, ...]
    episodes: tuple[Episode, ...] = ()
    actions: tuple[Action, ...] = ()
    appearances: tuple[Appearance, ...] = ()
    attributes: tuple[AttributeSpan, ...] = ()
    action_labels: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AlertPoint:
    """One moment at which a proactive question is checked."""

    t_s: float
    yes: bool


@dataclass(frozen=True)
class MadeQuestion:
    """A question made from a log, before it is written in any schema.

    Attributes:
        task: StreamGaze's abbreviation.
        t_s: when it is asked; under causal rules nothing later decides the answer.
        options: texts without letters; empty for GTA and OAA.
        answer: index into `options`; None for GTA and OAA.
        evidence_s: (start, stop) of what the answer rests on.
        points: of GTA and OAA.
        facts: structured facts a symbolic solver needs and StreamGaze's own extra keys (objects, groups, attribute).
    """

    task: str
    question: str
    t_s: float
    options: tuple[str, ...] = ()
    answer: int | None = None
    evidence_s: tuple[float, float] = (0.0, 0.0)
    points: tuple[AlertPoint, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
