"""manifest.json of a data folder that this project made (`gazeqwen data mini`, `data build`); real ones have none."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.tasks import GROUPS, PRESENT_WINDOW_S, Group
from gazeqwen.errors import InputError
from gazeqwen.event_log import RULES, Rules

MANIFEST = "manifest.json"
VERSION_KEY, VERSION = "gazeqwen_data", 1
OFFICIAL_WINDOWS_S: Mapping[Group, float | None] = {"past": None, "present": PRESENT_WINDOW_S, "proactive": None}


@dataclass(frozen=True)
class DataManifest:
    """What a data folder says of itself; the defaults are what is true of the real StreamGaze files.

    Attributes:
        name: of the data set, not of the folder.
        rules: how its questions were made.
        windows_s: how far back a question of each group may see; None for all of it.
        videos: facts by video name ("world_seed", "duration_s", ...).
        raw: the whole object.
    """

    name: str = "streamgaze"
    rules: Rules = "streamgaze"
    windows_s: Mapping[Group, float | None] = field(default_factory=lambda: dict(OFFICIAL_WINDOWS_S))
    videos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)


def read_manifest(folder: Path) -> DataManifest:
    """The folder's manifest; the defaults where it has none, or one of another program.

    Raises:
        InputError: a manifest of this project that is damaged, of a version this code does not know, or with windows,
            rules or videos that mean nothing.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return DataManifest()
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        fix = "restore it, or make the folder again"
        raise InputError(path, expected="a JSON object", found=str(error)[:80], fix=fix) from error
    if not isinstance(raw, dict) or VERSION_KEY not in raw:
        return DataManifest()
    if raw[VERSION_KEY] != VERSION:
        raise InputError(
            path,
            expected=f'"{VERSION_KEY}": {VERSION}',
            found=repr(raw[VERSION_KEY])[:60],
            fix="read it with the version of gazeqwen that wrote it, or make it again",
        )
    rules = raw.get("rules", "streamgaze")
    if rules not in RULES:
        raise InputError(path, expected=f'"rules" of {" or ".join(RULES)}', found=repr(rules)[:60])
    videos = raw.get("videos", {})
    if not isinstance(videos, dict) or not all(isinstance(facts, dict) for facts in videos.values()):
        raise InputError(path, expected='"videos" as an object of objects', found=repr(videos)[:60])
    return DataManifest(
        str(raw.get("name", "streamgaze")), rules, _windows_s(path, raw.get("windows", {})), videos, raw
    )


def _windows_s(path: Path, given: object) -> dict[Group, float | None]:
    windows = dict(OFFICIAL_WINDOWS_S)
    if not isinstance(given, dict) or not set(given) <= set(GROUPS):
        raise InputError(path, expected=f'"windows" by group ({", ".join(GROUPS)})', found=repr(given)[:60])
    for group, seconds in given.items():
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (number and math.isfinite(seconds) and seconds > 0):
            raise InputError(path, expected=f'"windows": "{group}" in seconds, or null', found=repr(seconds)[:60])
        windows[group] = None if seconds is None else float(seconds)
    return windows
