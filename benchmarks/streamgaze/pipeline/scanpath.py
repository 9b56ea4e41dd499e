"""Episodes and annotations as an event log, and the log as JSON.

StreamGaze's scanpath (`pipeline/step3_qa_gen.py`, `create_scanpath_dictionaries`) is a dictionary from (start, end) to
the objects inside and outside the field of view, with actions as further entries; an `EventLog` holds it as lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from benchmarks.streamgaze.pipeline.annotations import Annotations
from benchmarks.streamgaze.pipeline.objects import Look
from gazeqwen.event_log import Action, Appearance, AttributeSpan, Episode, EventLog

_PARTS: Mapping[str, type] = {
    "episodes": Episode,
    "actions": Action,
    "appearances": Appearance,
    "attributes": AttributeSpan,
}


def build_log(
    episodes: Sequence[Episode], looks: Sequence[Look], annotations: Annotations, *, duration_s: float
) -> EventLog:
    """One recording's log; its vocabulary and action labels are its own until `share_vocabulary`.

    `extra["unreliable"]`: {start_s, stop_s, objects} of fixations that failed a check; objects is None where the
    captioner failed, so that anything may have been looked at. `extra["in_view_known"]`: objects were annotated; where
    they were not there are no appearances, and an object is known to be in view while a fixation shows it only.
    """
    appearances = annotations.appearances(duration_s)
    attributes = (*_inside(annotations.attributes, duration_s), *_look_attributes(looks))
    actions = _inside(annotations.actions, duration_s)
    named = [name for episode in episodes for name in (*episode.in_fov, *episode.outside_fov)]
    objects = {item.object for item in (*appearances, *attributes, *actions)} | set(named)
    unreliable = [
        {
            "start_s": look.start_s,
            "stop_s": look.stop_s,
            "objects": list(look.in_fov) if look.named else None,
        }
        for look in looks
        if not (look.steady and look.named)
    ]
    return EventLog(
        duration_s,
        tuple(sorted(objects)),
        tuple(sorted(objects)),
        tuple(episodes),
        tuple(actions),
        appearances,
        tuple(sorted(attributes, key=lambda item: (item.start_s, item.object, item.attribute))),
        tuple(sorted({action.label for action in actions})),
        {"unreliable": unreliable, "in_view_known": annotations.has_objects},
    )


def share_vocabulary(logs: Iterable[EventLog], words: Iterable[str] = ()) -> list[EventLog]:
    """The logs with one vocabulary and one list of action labels: all of theirs, and further `words`."""
    logs = list(logs)
    vocabulary = tuple(sorted({name for log in logs for name in log.vocabulary} | set(words)))
    labels = tuple(sorted({label for log in logs for label in log.action_labels}))
    return [replace(log, vocabulary=vocabulary, action_labels=labels) for log in logs]


def log_to_json(log: EventLog) -> dict[str, Any]:
    """Plain JSON types; `log_from_json` undoes it."""
    return asdict(log)


def log_from_json(content: Mapping[str, Any]) -> EventLog:
    """The log of `log_to_json`, also after a trip through a file."""
    values: dict[str, Any] = {
        key: tuple(_PARTS[key](**_tuples(row)) for row in value) if key in _PARTS else value
        for key, value in content.items()
    }
    return EventLog(**_tuples(values))


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}


def _inside(items: Iterable[Any], duration_s: float) -> tuple[Any, ...]:
    """Those that begin within the recording, cut at its end."""
    return tuple(replace(item, stop_s=min(item.stop_s, duration_s)) for item in items if item.start_s < duration_s)


def _look_attributes(looks: Sequence[Look]) -> tuple[AttributeSpan, ...]:
    from benchmarks.streamgaze.pipeline.captioner import ATTRIBUTE_CHOICES

    return tuple(
        AttributeSpan(look.start_s, look.stop_s, look.gazed, name, value, ATTRIBUTE_CHOICES[name])
        for look in looks
        if look.gazed is not None and look.steady
        for name, value in look.attributes.items()
    )
