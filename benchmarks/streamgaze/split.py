"""Which videos a model is trained on, chosen by, and tested on: a file beside the data, and `gazeqwen data split`.

    {"train": ["a.mp4", ...], "validation": [...], "test": [...]}

Videos, never questions, are divided: what a wearer looked at in one minute tells about the next. No video may be in two
parts.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.records import write_atomically
from gazeqwen.errors import InputError

PARTS = ("train", "validation", "test")
SPLIT_FILE = "split.json"  # in the data folder, unless the user says otherwise
TRAIN_SHARE, VALIDATION_SHARE = 0.70, 0.15

Split = Mapping[str, tuple[str, ...]]


def make_split(videos: Iterable[str], *, seed: int) -> dict[str, tuple[str, ...]]:
    """70 % of the videos for training, 15 % for validation, the rest for the test.

    The published GazeQwen's rule (phamtrongthang123/gazeqwen at c3195b1): sorted names, `random.Random(seed).shuffle`,
    shares rounded down; its seed is 42. Here every part has at least one video, which changes sets of up to 6 only.

    Raises:
        InputError: fewer than three videos.
    """
    names = sorted(set(videos))
    if len(names) < len(PARTS):
        raise InputError("split", expected="3 or more videos, one for each part", found=str(len(names)))
    random.Random(seed).shuffle(names)
    validation = max(1, int(VALIDATION_SHARE * len(names)))
    train = min(int(TRAIN_SHARE * len(names)), len(names) - validation - 1)
    parts = names[:train], names[train : train + validation], names[train + validation :]
    return dict(zip(PARTS, map(tuple, parts), strict=True))


def read_split(path: Path) -> dict[str, tuple[str, ...]]:
    """The parts of a split file; one that the file leaves out is empty.

    Raises:
        InputError: no such file, no lists of names by part, or a video that comes twice.
    """
    fix = f"make one with `gazeqwen data split DIR --out {path}`"
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(path, expected="a JSON file of video names by part", found=str(error)[:80], fix=fix) from error
    if not (isinstance(raw, dict) and raw and set(raw) <= set(PARTS) and all(_is_names(part) for part in raw.values())):
        expected = f"an object with lists of video names as {', '.join(f'{part!r}' for part in PARTS)}"
        raise InputError(path, expected=expected, found=json.dumps(raw)[:80], fix=fix)
    part_of: dict[str, str] = {}
    for part, names in raw.items():
        for name in names:
            if name in part_of:
                raise InputError(
                    path, expected="each video once", found=f"{name!r} in {part_of[name]} and in {part}", fix=fix
                )
            part_of[name] = part
    return {part: tuple(raw.get(part, ())) for part in PARTS}


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def videos_of(path: Path, part: str, known: Iterable[str]) -> tuple[str, ...]:
    """The videos of one part, which the data must hold.

    Raises:
        InputError: as `read_split`; no such part, an empty one, or a video that the data has no questions about.
    """
    if part not in PARTS:
        raise InputError(path, expected=f"a part of {', '.join(PARTS)}", found=repr(part))
    names, data = read_split(path)[part], set(known)
    if not names:
        raise InputError(path, expected=f"videos in {part!r}", found="none")
    strange = [name for name in names if name not in data]
    if strange:
        raise InputError(
            path,
            expected="videos that the data has questions about",
            found=f"{len(strange)} others in {part!r}, {strange[0]!r} first",
            fix="make the split file for this data",
        )
    return names


def split_data(data: Path, out: Path, *, seed: int) -> dict[str, Any]:
    """Divides a data folder's videos and writes the file; {"split", "seed", parts: counts, "left_out": names}.

    `left_out`: videos whose file is not there, which no part may hold.

    Raises:
        InputError: as `Dataset.open` and `make_split`; `out` is there already.
    """
    dataset = Dataset.open(data)
    left_out = sorted({problem.video for problem in dataset.problems if problem.reason == "missing video"})
    split = make_split((name for name in dataset.videos if name not in left_out), seed=seed)
    if out.exists():
        raise InputError(
            out, expected="a new file: results depend on a split", found="an older one", fix="choose another name"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, json.dumps(split, indent=2, ensure_ascii=False) + "\n")
    counts = {part: len(names) for part, names in split.items()}
    return {"split": str(out), "seed": seed, **counts, "left_out": left_out}


def command(arguments: argparse.Namespace) -> int:
    """`gazeqwen data split`: 0, or 1 where videos had to be left out."""
    found = split_data(arguments.data, arguments.out or arguments.data / SPLIT_FILE, seed=arguments.seed)
    if arguments.json:
        print(json.dumps(found, allow_nan=False))
        return int(bool(found["left_out"]))
    print(found["split"])
    print(", ".join(f"{found[part]} {part}" for part in PARTS) + f"; seed {found['seed']}")
    for name in found["left_out"]:
        print(f"left out, its file is not there: {name}")
    return int(bool(found["left_out"]))
