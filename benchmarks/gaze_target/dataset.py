"""GazeFollow's and VideoAttentionTarget's preprocessed JSON, as Gaze-LLE's data preparation writes it.

    GazeFollow   [{path, width, height, heads: [HEAD, ...]}, ...]
    VAT          [{path, width, height, frames: [{path, heads: [HEAD, ...]}, ...]}, ...]
    HEAD         {bbox_norm: [x1, y1, x2, y2], inout: 0 | 1, gazex_norm: [...], gazey_norm: [...], ...}

ChildPlay and other sets in the second form are read the same way. Coordinates may also be single numbers. Nothing is
dropped: a head or picture that can't be used becomes one with a `problem`, which the run counts as a failure. Whether a
frame's path is relative to the data folder or to its sequence's is not known here; both are tried.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.gaze_target import Box

FORMS = ("gazefollow", "vat")


@dataclass(frozen=True, eq=False)
class Head:
    """One annotated head.

    Attributes:
        id: picture and row in the file, unique in it.
        box_xyxy_norm: as stored, so possibly beyond the frame; None without a box, which asks about the whole scene.
        inside: whether the target is in the frame; None where the file does not say.
        gaze_xy_norm: (K, 2), one row an annotator; empty where there is none.
        problem: why the head can't be scored; "" where it can.
    """

    id: str
    box_xyxy_norm: Box | None
    inside: bool | None
    gaze_xy_norm: np.ndarray
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image and its heads. `cluster` is what is independent of others: the image, or a video's sequence."""

    path: Path
    cluster: str
    size_px: tuple[int, int]
    heads: tuple[Head, ...]


@dataclass(frozen=True, eq=False)
class GazeSet:
    """A file's pictures in its order. `form` is one of FORMS."""

    path: Path
    form: str
    pictures: tuple[Picture, ...]
    sha256: str


def read_set(path: str | Path, *, images: str | Path | None = None) -> GazeSet:
    """The pictures of a preprocessed JSON file.

    Args:
        images: the folder that the file's paths are relative to; None takes the file's own.

    Raises:
        InputError: no such file, not one of the two forms, or nothing in it.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
        content = json.loads(text)
    except OSError as error:
        raise InputError(path, expected="a preprocessed JSON file", found=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(path, expected="a preprocessed JSON file", found=f"no JSON: {str(error)[:80]}") from error
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        raise InputError(path, expected="a list of images or sequences", found=repr(content)[:60])
    keys = {key for key in ("heads", "frames") for row in content if key in row}
    if len(keys) != 1:
        found = "both" if keys else f"keys {list(content[0])[:6]}"
        raise InputError(path, expected='entries with "heads" (images) or "frames" (sequences)', found=found)
    folder = path.parent if images is None else Path(images)
    if not folder.is_dir():
        raise InputError(folder, expected="the folder of the images", found="no such folder", fix="pass --images DIR")
    if keys == {"heads"}:
        form, pictures = "gazefollow", [_picture(row, row, str(n), folder, folder) for n, row in enumerate(content)]
    else:
        form, pictures = "vat", []
        for n, sequence in enumerate(content):
            frames = sequence.get("frames")
            if not isinstance(frames, list):
                raise InputError(f"{path}, sequence {n + 1}", expected='a list "frames"', found=repr(frames)[:60])
            own = folder / str(sequence.get("path", ""))
            pictures += [_picture(frame, sequence, f"{n}/{k}", folder, own) for k, frame in enumerate(frames)]
    return GazeSet(path, form, tuple(pictures), hashlib.sha256(text).hexdigest())


def _picture(entry: Any, owner: Mapping[str, Any], name: str, folder: Path, own_folder: Path) -> Picture:
    """`owner` holds the size: the image itself, or its sequence. A damaged entry is a picture with one damaged head."""
    cluster = name.split("/")[0]
    size: Any = (owner.get("width"), owner.get("height"))
    heads: Any = entry.get("heads") if isinstance(entry, dict) else None
    problem = ""
    if not isinstance(heads, list) or not isinstance(entry.get("path"), str):
        problem = "no path or no list of heads"
    elif not all(isinstance(side, int) and side > 0 for side in size):
        problem = f"no size in pixels: width {size[0]!r}, height {size[1]!r}"
    if problem:
        count = len(heads) if isinstance(heads, list) and heads else 1
        broken = tuple(Head(f"{name}/{row}", None, None, np.zeros((0, 2)), problem) for row in range(count))
        return Picture(folder / "unknown", cluster, (1, 1), broken)
    path = folder / entry["path"]
    if not path.is_file() and (own_folder / entry["path"]).is_file():
        path = own_folder / entry["path"]
    read = tuple(_head(head, f"{name}/{row}") for row, head in enumerate(heads))
    return Picture(path, cluster, size, read)


def _head(entry: Any, name: str) -> Head:
    none = np.zeros((0, 2))
    if not isinstance(entry, dict):
        return Head(name, None, None, none, "the head is no object")
    inout = entry.get("inout")
    inside = bool(inout) if inout in (0, 1) else None
    box = entry.get("bbox_norm", [])
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        return Head(name, None, inside, none, f"bbox_norm is no box: {box!r}"[:100])
    stored = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    x, y = (value if isinstance(value, list) else [value] for value in map(entry.get, ("gazex_norm", "gazey_norm")))
    if inside is not False and (len(x) != len(y) or not x or not all(_is_number(value) for value in (*x, *y))):
        return Head(name, stored, inside, none, f"no gaze point: {x!r}, {y!r}"[:100])
    if inside is None:
        return Head(name, stored, None, none, f"inout is neither 0 nor 1: {inout!r}"[:100])
    points = np.array([x, y], dtype=np.float64).T if inside else none
    return Head(name, stored, inside, points)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
