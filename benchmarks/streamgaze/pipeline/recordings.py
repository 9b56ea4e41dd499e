"""Which files of a folder are one recording: by name, or as its recordings.json says.

By name, for a video STEM.mp4 (any container) directly in the folder:
    gaze         STEM_gaze.*, STEM.* or STEM/ beside it or in gaze/, in any format of `stream.trackers`; a fixation CSV
                 (STEM_fixation_filtered.csv, STEM_fixation_dataset.csv) where there is no other gaze
    annotations  STEM.annotations.json (annotations.py)

recordings.json, for other names or for what a gaze file does not say of itself; paths are relative to the folder:
    {"defaults": {...}, "words": ["jar", ...], "recordings": [{"video": "a.mp4", "gaze": "raw/a.tsv", ...}, ...]}
`defaults` holds keys for all recordings, `words` names that wrong answers may use besides those found; without
`recordings` they are found by name. Keys of a recording: `SOURCE_KEYS`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.pipeline.annotations import object_name
from benchmarks.streamgaze.pipeline.fov import HFOV_DEG
from benchmarks.streamgaze.pipeline.gaze import DATASET
from gazeqwen.errors import InputError
from stream.fixations import STREAMGAZE_PRESETS
from stream.summary import VIDEO_SUFFIXES
from stream.trackers import FORMATS

TABLE = "recordings.json"
ANNOTATIONS = ".annotations.json"
SOURCE_KEYS = {
    "video": "the file",
    "gaze": "the gaze file or folder",
    "annotations": "the annotations file",
    "dataset": f"one of {', '.join(STREAMGAZE_PRESETS)}: whose thresholds to take",
    "hfov_deg": "the camera's horizontal field of view in degrees, 0 to 180",
    "min_fixation_s": "shorter fixations are left out; seconds >= 0",
    "gaze_options": "arguments of stream.open_recording (format, y_origin, gaze_offset_s, columns, ...)",
}
_FIXATION_NAMES = ("_fixation_filtered", "_fixation_dataset")


@dataclass(frozen=True)
class Source:
    """The files of one recording and what is said about them.

    Attributes:
        gaze: candidates; `gaze_file` chooses.
        min_fixation_s: None for the rules' own.
    """

    video: Path
    gaze: tuple[Path, ...] = ()
    annotations: Path | None = None
    dataset: str = DATASET
    hfov_deg: float = HFOV_DEG
    min_fixation_s: float | None = None
    gaze_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return self.video.stem

    def gaze_file(self) -> Path:
        """The one gaze file: raw gaze before fixations.

        Raises:
            InputError: none, or several that are equally good.
        """
        if len(self.gaze) == 1:
            return self.gaze[0]
        known = {path: {name for name, entry in FORMATS.items() if entry.sniff(path)} for path in self.gaze}
        raw = [path for path, formats in known.items() if formats and formats != {"streamgaze"}]
        found = raw or [path for path, formats in known.items() if formats][:1] or list(known)
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            fix = f"name it {self.stem}_gaze.csv, or say which in {TABLE}"
            raise InputError(self.video, expected="one gaze file beside it", found=names, fix=fix)
        return found[0]

    def digest(self) -> str:
        """The contents of its files and what is said about them, as hex digits: the same wherever they lie.

        Raises:
            InputError: a file that can't be read.
        """
        files = {"video": [self.video], "gaze": sorted(_files(self.gaze)), "annotations": []}
        if self.annotations is not None:
            files["annotations"] = [self.annotations]
        parts: list[Any] = [self.dataset, self.hfov_deg, self.min_fixation_s, dict(self.gaze_options)]
        parts += [[kind, path.name, file_digest(path)] for kind, paths in files.items() for path in paths]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content.

    Raises:
        InputError: it can't be read.
    """
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise InputError(path, expected="a readable file", found=error.strerror or str(error)) from error


def find_recordings(folder: Path) -> tuple[list[Source], tuple[str, ...]]:
    """The recordings of a folder by name of their videos, and the further words of its recordings.json.

    Raises:
        InputError: no such folder; no video in it; two of one name; a recordings.json that can't be used.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing at this path"
        raise InputError(folder, expected="a folder of recordings", found=found)
    table, words = _read_table(folder / TABLE)
    rows = table.get("recordings")
    if rows is None:
        videos = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()]
        rows = [{"video": path.name} for path in videos]
    sources = [_source(folder, {**table.get("defaults", {}), **row}) for row in rows]
    if not sources:
        fix = f"see docs/data_pipeline.md, or list them in {TABLE}"
        raise InputError(folder, expected="videos with their gaze files", found="no video", fix=fix)
    by_stem: dict[str, Path] = {}
    for source in sources:
        other = by_stem.setdefault(source.stem, source.video)
        if other is not source.video:
            raise InputError(
                source.video, expected="one video of each name", found=f"also {other.name}", fix="rename one"
            )
    return sorted(sources, key=lambda source: source.video.name), words


def _read_table(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    if not path.exists():
        return {}, ()
    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(path, expected="JSON", found=str(error)[:80]) from error
    if not isinstance(table, dict) or not set(table) <= {"defaults", "words", "recordings"}:
        found = ", ".join(table)[:80] if isinstance(table, dict) else type(table).__name__
        raise InputError(path, expected="an object with defaults, words and recordings", found=found)
    rows, defaults, words = table.get("recordings"), table.get("defaults", {}), table.get("words", [])
    lists = rows is None or (isinstance(rows, list) and all(isinstance(row, dict) for row in rows))
    if not (lists and isinstance(defaults, dict)):
        raise InputError(path, expected="'recordings': a list of objects, 'defaults': an object", found=repr(rows)[:60])
    if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError(path, expected="'words': a list of texts", found=repr(words)[:60])
    return table, tuple(object_name(word) for word in words)


def _source(folder: Path, row: Mapping[str, Any]) -> Source:
    at = folder / TABLE
    unknown = sorted(set(row) - set(SOURCE_KEYS))
    if unknown:
        raise InputError(at, expected=f"keys {', '.join(SOURCE_KEYS)}", found=unknown[0])

    def of(key: str, kind: type | tuple[type, ...], default: Any = None, *, ok: Any = lambda value: True) -> Any:
        value = row.get(key, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind) or not ok(value)):
            raise InputError(at, expected=f"{key!r}: {SOURCE_KEYS[key]}", found=repr(value)[:60])
        return value

    name, gaze, annotations = (of(key, str) for key in ("video", "gaze", "annotations"))
    if not name:
        raise InputError(at, expected="'video' in each recording", found=f"{dict(row)}"[:60])
    video = folder / name
    beside = folder / f"{video.stem}{ANNOTATIONS}"
    if annotations is None and beside.is_file():
        annotations = beside.name
    return Source(
        video,
        _gaze_beside(video) if gaze is None else (folder / gaze,),
        None if annotations is None else folder / annotations,
        of("dataset", str, DATASET, ok=lambda value: value in STREAMGAZE_PRESETS),
        float(of("hfov_deg", (int, float), HFOV_DEG, ok=lambda value: 0 < value < 180)),
        of("min_fixation_s", (int, float), ok=lambda value: math.isfinite(value) and value >= 0),
        of("gaze_options", dict, {}),
    )


def _gaze_beside(video: Path) -> tuple[Path, ...]:
    names = {video.stem, f"{video.stem}_gaze", *(video.stem + name for name in _FIXATION_NAMES)}
    return tuple(
        path
        for folder in (video.parent, video.parent / "gaze")
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if (path.name if path.is_dir() else path.stem) in names
        and path.suffix.lower() not in VIDEO_SUFFIXES
        and not path.name.endswith(ANNOTATIONS)
    )


def _files(paths: tuple[Path, ...]) -> list[Path]:
    return [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir()]
