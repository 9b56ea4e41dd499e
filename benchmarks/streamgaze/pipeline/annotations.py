"""What a person (or a detector) wrote down about a recording: objects with boxes, captions, actions, attributes.

One JSON file beside the video (`STEM.annotations.json`), an object with any of these lists, times in seconds on the
recording's clock (0 is the first frame), boxes normalised to [0, 1], origin top-left:

    objects     {"object", "start_s", "stop_s", "box_norm": [x0, y0, x1, y1]}            a box that does not move, or
                {"object", "keyframes": [{"t_s", "box_norm"}, ...]}                      one that moves linearly between
    captions    {"start_s", "stop_s", "text"}                                            shown to the captioner
    actions     {"start_s", "stop_s", "label", "object"}                                 "take the mug", "mug"
    attributes  {"object", "attribute", "value", "start_s", "stop_s", "choices": [...]}  choices: wrong answers too

Other keys are ignored. Without `objects` a captioner has to name what was looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.event_log import Action, Appearance, AttributeSpan

LISTS = ("objects", "captions", "actions", "attributes")
SEEN_STEP_S = 0.1  # how finely an appearance's start and end are known


@dataclass(frozen=True, eq=False)
class Track:
    """One object's box over time: `t_s` (K,) ascending, `box_norm` (K, 4) as x0, y0, x1, y1."""

    object: str
    t_s: np.ndarray
    box_norm: np.ndarray

    def boxes_at(self, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, 4) boxes at (N,) times; (N,) whether it is in view: within the track, its centre inside the frame."""
        boxes = np.stack([np.interp(times_s, self.t_s, column) for column in self.box_norm.T], axis=1)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        tracked = (times_s >= self.t_s[0]) & (times_s <= self.t_s[-1])
        return boxes, tracked & ((centres >= 0) & (centres <= 1)).all(axis=1)


@dataclass(frozen=True)
class Caption:
    """What happens in a stretch of the video, in words."""

    start_s: float
    stop_s: float
    text: str


@dataclass(frozen=True)
class Annotations:
    """One recording's. `has_objects`: the file lists objects, so that what is in view needs no captioner."""

    tracks: tuple[Track, ...] = ()
    captions: tuple[Caption, ...] = ()
    actions: tuple[Action, ...] = ()
    attributes: tuple[AttributeSpan, ...] = ()
    has_objects: bool = False

    def boxes_at(self, times_s: Sequence[float]) -> list[list[tuple[str, np.ndarray]]]:
        """At each time (name, box) of every object in view."""
        times = np.asarray(times_s, dtype=np.float64)
        found = [(track.object, *track.boxes_at(times)) for track in self.tracks]
        return [[(name, boxes[row]) for name, boxes, seen in found if seen[row]] for row in range(times.size)]

    def appearances(self, duration_s: float) -> tuple[Appearance, ...]:
        """When each object is in view, to `SEEN_STEP_S`, within the recording."""
        found = []
        for name in sorted({track.object for track in self.tracks}):
            tracks = [track for track in self.tracks if track.object == name]
            edges = [float(t) for track in tracks for t in (track.t_s[0], track.t_s[-1])]
            times = np.union1d(np.arange(0.0, duration_s, SEEN_STEP_S), [t for t in edges if 0 <= t <= duration_s])
            seen = np.any([track.boxes_at(times)[1] for track in tracks], axis=0)
            starts = np.flatnonzero(seen & ~np.r_[False, seen[:-1]])
            stops = np.flatnonzero(seen & ~np.r_[seen[1:], False])
            found += [Appearance(float(times[a]), float(times[b]), name) for a, b in zip(starts, stops, strict=True)]
        return tuple(sorted(found, key=lambda item: (item.start_s, item.object)))

    def caption_of(self, start_s: float, stop_s: float) -> str:
        """The captions that overlap a stretch, joined."""
        return " ".join(c.text for c in self.captions if c.start_s < stop_s and c.stop_s > start_s)


def object_name(text: object) -> str:
    """An object's name as logs and questions have it: lower case, spaces for underscores, no more than one in a row."""
    return " ".join(str(text).replace("_", " ").split()).lower()


def read_annotations(path: Path) -> Annotations:
    """The annotations of a file.

    Raises:
        InputError: no JSON object; an entry that lacks a key or holds what it can't; names the list and the entry.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, expected="annotations in JSON", found=str(error)[:100]) from error
    if not isinstance(content, dict) or not any(key in content for key in LISTS):
        found = f"keys {', '.join(content)}"[:80] if isinstance(content, dict) else type(content).__name__
        raise InputError(path, expected=f"a JSON object with some of {', '.join(LISTS)}", found=found)
    entries: dict[str, list[_Entry]] = {}
    for key in LISTS:
        rows = content.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(path, expected=f"a list of objects under {key!r}", found=str(rows)[:60])
        entries[key] = [_Entry(f"{path}, {key}[{number}]", row) for number, row in enumerate(rows)]
    return Annotations(
        tracks=tuple(_track(entry) for entry in entries["objects"]),
        captions=_sorted(Caption(*entry.span(), entry.text("text")) for entry in entries["captions"]),
        actions=_sorted(
            Action(*entry.span(), entry.text("label"), object_name(entry.text("object")))
            for entry in entries["actions"]
        ),
        attributes=_sorted(_attribute(entry) for entry in entries["attributes"]),
        has_objects="objects" in content,
    )


@dataclass(frozen=True)
class _Entry:
    """One entry of a list, with its place for errors."""

    source: str
    row: Mapping[str, Any]

    def value(self, key: str, expected: str) -> Any:
        if key not in self.row:
            raise InputError(self.source, expected=f"{key!r}: {expected}", found=f"keys {', '.join(self.row)}"[:80])
        return self.row[key]

    def text(self, key: str) -> str:
        value = self.value(key, "a text")
        if not isinstance(value, str) or not value.strip():
            raise InputError(self.source, expected=f"{key!r}: a text", found=repr(value)[:60])
        return value.strip()

    def number(self, key: str, expected: str) -> float:
        value = self.value(key, expected)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(self.source, expected=f"{key!r}: {expected}", found=repr(value)[:60])
        return float(value)

    def span(self) -> tuple[float, float]:
        start_s, stop_s = (self.number(key, "seconds") for key in ("start_s", "stop_s"))
        if not 0 <= start_s < stop_s:
            raise InputError(self.source, expected="0 <= start_s < stop_s", found=f"{start_s:g} and {stop_s:g}")
        return start_s, stop_s

    def box(self) -> list[float]:
        box = self.value("box_norm", "[x0, y0, x1, y1]")
        numbers = isinstance(box, list) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in box
        )
        if not (numbers and len(box) == 4 and box[0] < box[2] and box[1] < box[3]):
            raise InputError(
                self.source, expected="'box_norm': [x0, y0, x1, y1], x0 < x1 and y0 < y1", found=repr(box)[:60]
            )
        if max(map(abs, box)) > 10:
            raise InputError(
                self.source, expected="'box_norm' as shares of the frame's width and height", found=repr(box)[:60]
            )
        return [float(v) for v in box]


def _track(entry: _Entry) -> Track:
    name = object_name(entry.text("object"))
    if "keyframes" not in entry.row:
        box = entry.box()
        return Track(name, np.array(entry.span()), np.array([box, box]))
    rows = entry.row["keyframes"]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(entry.source, expected="'keyframes': a list of objects", found=repr(rows)[:60])
    frames = [_Entry(f"{entry.source}, keyframes[{number}]", row) for number, row in enumerate(rows)]
    times = np.array([frame.number("t_s", "seconds") for frame in frames])
    if times[0] < 0 or (np.diff(times) <= 0).any():
        raise InputError(entry.source, expected="keyframes at ascending times from 0", found=f"{times[:6].tolist()}")
    return Track(name, times, np.array([frame.box() for frame in frames]))


def _attribute(entry: _Entry) -> AttributeSpan:
    choices = entry.row.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise InputError(entry.source, expected="'choices': a list of texts", found=repr(choices)[:60])
    value = entry.text("value")
    return AttributeSpan(
        *entry.span(),
        object_name(entry.text("object")),
        entry.text("attribute").lower(),
        value,
        tuple(dict.fromkeys([value, *(choice.strip() for choice in choices)])) if choices else (),
    )


def _sorted(items: Any) -> tuple[Any, ...]:
    return tuple(sorted(items, key=lambda item: (item.start_s, item.stop_s)))
