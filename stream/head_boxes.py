"""Head boxes of other people in a video: read from a JSON file, followed over time by overlap where they have no names.

The file (docs/gaze_target.md):

    {"frames": [{"t_s": 0.0, "heads": [{"box_xyxy_norm": [0.41, 0.10, 0.52, 0.27], "track_id": "anna"}]},
                {"t_s": 0.2, "heads": []}]}

`t_s` is seconds on the recording's clock (the first frame is 0) and ascends; a picture needs none. A box is x_min,
y_min, x_max, y_max of the upright frame, normalised, origin top-left. `track_id` is a text or a whole number, given for
every head of the file or for none. An entry stands for the frames from its time to the next entry's, for at most
`MAX_AGE_S`; an empty list says that nobody is there, which is not the same as no entry. Other keys are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.gaze_target_decoder import Box, require_box
from gazeqwen.types import asof

MAX_AGE_S = 0.5  # boxes older than this are not a frame's: by then a head has moved
TIME_TOLERANCE_S = 1e-3  # times written with three decimals may lie this much after their frame's
MIN_OVERLAP = 0.3  # intersection over union above which two boxes may be one person
MAX_GAP_S = 1.0  # a person unseen for longer is a new one


@dataclass(frozen=True)
class HeadBox:
    """A head in one frame: x_min, y_min, x_max, y_max normalised, and whose it is; None where that is not known. A head
    without a box stands for asking where the one person of a scene looks."""

    box_xyxy_norm: Box | None
    track_id: str | None = None


@dataclass(frozen=True, eq=False)
class HeadFile:
    """A file's heads by time. Every head has a `track_id`.

    Attributes:
        times_s: (E,) ascending seconds of the entries.
        heads: E lists of heads.
        tracked: the ids are `HeadTracker`'s and not the file's.
    """

    path: Path
    times_s: np.ndarray
    heads: tuple[tuple[HeadBox, ...], ...]
    tracked: bool

    def at(self, time_s: float, *, max_age_s: float = MAX_AGE_S) -> tuple[HeadBox, ...] | None:
        """The heads of the frame at `time_s`: the newest entry's at or before it; None where that is too old or there
        is none. Never those of a later entry."""
        tolerance_s = max_age_s + 2 * TIME_TOLERANCE_S  # at both ends
        row = int(asof(self.times_s, time_s + TIME_TOLERANCE_S, tolerance_s=tolerance_s, on_missing="mark")[0])
        return None if row < 0 else self.heads[row]


def read_head_boxes(path: str | Path) -> HeadFile:
    """The heads of a JSON file (form: at the top). Heads without ids are followed by `HeadTracker`, entry by entry.

    Raises:
        InputError: no such file, not of that form, or a box outside the frame; names the entry.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, expected="a JSON file of head boxes", found=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, expected="a JSON file of head boxes", found=f"no JSON: {str(error)[:80]}") from error
    entries = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        found = f"keys {list(content)[:5]}" if isinstance(content, dict) else type(content).__name__
        raise InputError(path, expected='a list of entries under "frames"', found=found, fix="see docs/gaze_target.md")
    heads = tuple(_heads(entry, f"{path}, entry {row + 1}") for row, entry in enumerate(entries))
    times_s = _times(entries, path)
    named = {head.track_id is not None for own in heads for head in own}
    if len(named) > 1:
        raise InputError(path, expected="a track_id for every head or for none", found="some heads with, some without")
    if named == {False}:
        tracker = HeadTracker()
        ids = [
            tracker.update(t_s, [head.box_xyxy_norm for head in own if head.box_xyxy_norm is not None])
            for t_s, own in zip(times_s, heads, strict=True)
        ]
        heads = tuple(
            tuple(replace(head, track_id=name) for head, name in zip(own, names, strict=True))
            for own, names in zip(heads, ids, strict=True)
        )
    return HeadFile(path, times_s, heads, tracked=named == {False})


def _times(entries: Sequence[dict[str, Any]], path: Path) -> np.ndarray:
    """(E,) seconds; a single entry needs none."""
    if len(entries) == 1 and "t_s" not in entries[0]:
        return np.zeros(1)
    for row, entry in enumerate(entries):
        t_s = entry.get("t_s")
        if isinstance(t_s, bool) or not isinstance(t_s, (int, float)) or not 0 <= t_s <= 1e9:
            raise InputError(f"{path}, entry {row + 1}", expected="t_s, seconds from 0 on", found=repr(t_s)[:40])
        if row and t_s <= entries[row - 1]["t_s"]:
            found = f"{t_s:g} s after {entries[row - 1]['t_s']:g} s"
            raise InputError(f"{path}, entry {row + 1}", expected="ascending t_s", found=found)
    return np.array([float(entry["t_s"]) for entry in entries])


def _heads(entry: Any, source: str) -> tuple[HeadBox, ...]:
    listed = entry.get("heads") if isinstance(entry, dict) else None
    if not isinstance(listed, list):
        raise InputError(source, expected='an object with a list "heads"', found=repr(entry)[:60])
    heads = []
    for number, head in enumerate(listed, 1):
        where = f"{source}, head {number}"
        if not isinstance(head, dict) or "box_xyxy_norm" not in head:
            raise InputError(where, expected='an object with "box_xyxy_norm"', found=repr(head)[:60])
        name = head.get("track_id")
        if isinstance(name, bool) or not isinstance(name, (str, int, type(None))):
            raise InputError(where, expected="track_id as a text or a whole number", found=repr(name)[:40])
        box = head["box_xyxy_norm"]
        if not isinstance(box, list) or any(isinstance(value, (str, bool)) for value in box):
            raise InputError(where, expected="box_xyxy_norm as four numbers", found=repr(box)[:60])
        heads.append(HeadBox(require_box(box, where), None if name is None else str(name)))
    names = [head.track_id for head in heads if head.track_id is not None]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(source, expected="each track_id once", found=f"{twice!r} twice")
    return tuple(heads)


class HeadTracker:
    """Follows heads by overlap alone, as they come: pairs of a known and a new box are joined from the greatest overlap
    down; what is left over is a new person. Ids are "1", "2", ... in order of appearance and are never used again.

    Two people who cross, or a head that moves by more than its own size between two entries, change their ids.
    """

    def __init__(self, *, min_overlap: float = MIN_OVERLAP, max_gap_s: float = MAX_GAP_S) -> None:
        self._min_overlap, self._max_gap_s = min_overlap, max_gap_s
        self._seen: dict[str, tuple[float, Box]] = {}  # id: when and where last
        self._count = 0

    def update(self, t_s: float, boxes: Sequence[Box]) -> list[str]:
        """The ids of these boxes, in their order; `t_s` ascends from call to call."""
        self._seen = {name: seen for name, seen in self._seen.items() if t_s - seen[0] <= self._max_gap_s}
        pairs = sorted(
            ((overlap(seen[1], box), name, row) for name, seen in self._seen.items() for row, box in enumerate(boxes)),
            key=lambda pair: (-pair[0], int(pair[1]), pair[2]),
        )
        names: dict[int, str] = {}
        for share, name, row in pairs:
            if share >= self._min_overlap and row not in names and name not in names.values():
                names[row] = name
        for row in range(len(boxes)):
            if row not in names:
                self._count += 1
                names[row] = str(self._count)
        self._seen |= {names[row]: (t_s, box) for row, box in enumerate(boxes)}
        return [names[row] for row in range(len(boxes))]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width, height = (min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis]) for axis in (0, 1))
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)
