"""Damaged recordings: whatever the damage, a reader gives a value that accounts for every row, or a GazeQwenError.

Each format's example (at most 50 rows) is mutated with a fixed seed, 2,000 times here and 10,000 times in `make soak`.
Rows are counted here by other means than the readers'.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gazeqwen.errors import GazeQwenError
from gazeqwen.types import Fixations, GazeSamples
from stream.trackers import FORMATS, GazeRecording, ReadOptions, aria, read_gaze, recognise
from stream.trackers.base import MAX_TIME_S
from tests import trackers_examples_a as a
from tests import trackers_examples_b as b
from tests.trackers_examples_a import count_lines

EXAMPLES = {**a.EXAMPLES, **b.EXAMPLES}
OPTIONS = {**a.OPTIONS, **b.OPTIONS}
LAYOUTS = {**EXAMPLES, **{f"{name} (other layout)": make for name, make in b.MORE.items()}}


def count_json(is_row: Callable[[dict], bool]) -> Callable[[Path], int | None]:
    """Lines that are such an object, or no object at all; None where the gzip stream is damaged."""

    def count(path: Path) -> int | None:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error):
                return None
        rows = 0
        for line in re.split(rb"[\r\n]+", data.removeprefix(b"\xef\xbb\xbf")):
            text = line.decode("utf-8", "replace")
            if not text.strip():
                continue
            try:
                item = json.loads(text)
            except (ValueError, RecursionError):
                item = None
            rows += not isinstance(item, dict) or is_row(item)
        return rows

    return count


def count_begaze(path: Path) -> int:
    """Lines below the column names that are not messages."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n")
    lines = data.decode("utf-8", "replace").split("\n")
    head = next(i for i, line in enumerate(lines) if line.startswith("Time") and "Type" in line)
    return sum(bool(line.split()) and line.split()[1:2] != ["MSG"] for line in lines[head + 1 :])


def count_eyes(export: Path) -> int:
    """The file has no header."""
    return count_lines(export / "Eyes" / "Eyes_sync.txt") + 1


ROWS: dict[str, Callable[[Path], int | None]] = {
    **a.ROWS,
    "tobii_g2": count_json(lambda item: "gp" in item),
    "tobii_g3": count_json(lambda item: item.get("type") == "gaze"),
    "aria": count_lines,
    "ego4d": count_lines,
    "egtea": count_begaze,
    "egtea (other layout)": count_begaze,
    "egoexolearn": lambda path: len(np.load(path)),
    "holoassist": count_lines,
    "holoassist (other layout)": count_eyes,
}


def read_layout(layout: str, path: Path) -> GazeRecording:
    """Aria's projection needs a library of 1.5 GB; a linear camera takes its place."""
    name = layout.split()[0]
    options = OPTIONS.get(name, {})
    if name == "aria":
        camera = aria.AriaProjector(
            lambda yaw, pitch, depth_m: (700 + 600 * yaw, 700 - 600 * pitch), (1408, 1408), None
        )
        return aria.read_with_projector(path, ReadOptions(**options), camera)
    return read_gaze(path, format=name, **options)


FIELDS = (
    b"", b" ", b"nan", b"-nan", b"NaN", b"inf", b"-Infinity", b"1e308", b"-1.7e308", b"1e999", b"9" * 400, b"9" * 5000,
    b"-9223372036854775809", b"18446744073709551616", b"1.629390345036471431e18", b"1_000", b"0x10", b"True", b"null",
    b"0,5",
    b'"', b'"0.5"', b'""', b"\x00", b"\xff\xfe", "٣".encode(), "é½".encode(), b"[1,2]", b"{}", b"--1", b"1e-400",
)  # fmt: skip
BYTES = (b"\x00", b"\r", b"\n", b"\r\n", b'"', b",", b"\t", b"\xef\xbb\xbf", b"\xff", "\u2028".encode(), b"[" * 3000)


def _flip(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 20))):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop_front(data: bytes, rng: random.Random) -> bytes:
    return data[rng.randrange(min(len(data), 400) + 1) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(BYTES) * rng.choice((1, 1, 8)) + data[at:]


def _empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def _lines(change: Callable[[list[bytes], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        lines = data.split(b"\n")
        change(lines, rng)
        return b"\n".join(lines)

    return mutate


def _delete(lines: list[bytes], rng: random.Random) -> None:
    del lines[rng.randrange(len(lines))]


def _duplicate(lines: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    lines.insert(rng.randrange(len(lines) + 1), lines[at])


def _shuffle(lines: list[bytes], rng: random.Random) -> None:
    rest = lines[1:]
    rng.shuffle(rest)
    lines[1:] = rest


def _truncate_line(lines: list[bytes], rng: random.Random) -> None:
    at = rng.randrange(len(lines))
    lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]


def _set_field(lines: list[bytes], rng: random.Random, *, last: int | None = None) -> None:
    at = rng.randrange(len(lines) if last is None else min(last, len(lines)))
    parts = re.split(rb"([,\t;:\]\[ ])", lines[at])
    parts[rng.randrange(len(parts))] = rng.choice(FIELDS)
    lines[at] = b"".join(parts)


def _set_column(lines: list[bytes], rng: random.Random) -> None:
    separator = b"\t" if b"\t" in lines[0] else b","
    column, value = rng.randrange(lines[0].count(separator) + 1), rng.choice(FIELDS)
    for at, line in enumerate(lines[1:], start=1):
        fields = line.split(separator)
        if column < len(fields) and rng.random() < 0.8:
            fields[column] = value
            lines[at] = separator.join(fields)


def _swap_columns(lines: list[bytes], rng: random.Random) -> None:
    separator = b"\t" if b"\t" in lines[0] else b","
    first, second = rng.randrange(12), rng.randrange(12)
    for at in range(rng.randrange(2), len(lines)):  # with the header it moves columns, without it mixes them up
        fields = lines[at].split(separator)
        if max(first, second) < len(fields):
            fields[first], fields[second] = fields[second], fields[first]
            lines[at] = separator.join(fields)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _flip,
    _cut,
    _drop_front,
    _insert,
    _empty,
    *map(_lines, (_delete, _duplicate, _shuffle, _truncate_line, _set_field, _set_field, _set_column, _swap_columns)),
    _lines(lambda lines, rng: _set_field(lines, rng, last=1)),
    lambda data, rng: data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b""))),
    lambda data, rng: b"\xef\xbb\xbf" + data,
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three changes, inside a gzip stream or to the stream itself."""
    zipped = data[:2] == b"\x1f\x8b" and rng.random() < 0.6
    if zipped:
        data = gzip.decompress(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(MUTATIONS)(data, rng)
    return gzip.compress(data, compresslevel=1, mtime=0) if zipped else data


def assert_accounted(counts: dict[str, int], kept: int, what: str) -> None:
    lost = sum(count for name, count in counts.items() if name.startswith("rows_") and name != "rows_read")
    assert counts["rows_read"] == kept + lost, f"{what}: {dict(counts)}, {kept} kept"
    assert all(count >= 0 for count in counts.values()), f"{what}: {dict(counts)}"


def assert_sound(samples: GazeSamples, fixations: Fixations | None) -> None:
    """House units: ascending finite seconds, coordinates where and only where valid, every row accounted for."""
    assert_accounted(dict(samples.counts), len(samples), "samples")
    assert np.isfinite(samples.t_s).all() and (np.abs(samples.t_s) <= 3 * MAX_TIME_S).all()
    assert (samples.t_s[1:] > samples.t_s[:-1]).all()
    assert (np.isfinite(samples.xy_norm).all(axis=1) == samples.valid).all()
    if samples.confidence is not None:
        known = samples.confidence[np.isfinite(samples.confidence)]
        assert ((known >= 0) & (known <= 1)).all()
    if fixations is not None:
        assert_accounted(dict(fixations.counts), len(fixations.start_s), "fixations")
        assert (fixations.stop_s >= fixations.start_s).all() and np.isfinite(fixations.xy_norm).all()


def fuzz(layout: str, folder: Path, *, rounds: int, seed: int) -> tuple[int, int]:
    """Returns how many mutants were read and how many refused."""
    rng = random.Random(zlib.crc32(layout.encode()) + seed)
    path = LAYOUTS[layout](folder)
    originals = {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    files = list(originals)
    read = refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # the Neon library leaves closing files to Python
        for index in range(rounds):
            file = rng.choice(files)
            data = mutate(originals[file], rng)
            file.write_bytes(data)
            try:
                if index % 10 == 0:
                    recognise(path)
                recording = read_layout(layout, path)
            except GazeQwenError as error:
                refused += 1
                assert "\n" not in str(error)
            except Exception as error:
                raise AssertionError(f"round {index}, {file.name}: {type(error).__name__}: {error}") from error
            else:
                read += 1
                samples, fixations = recording.samples, recording.fixations
                try:
                    assert_sound(samples, fixations)
                    counts = samples.counts
                    if fixations is not None and fixations.detector == "file":
                        counts = fixations.counts
                    assert ROWS[layout](path) in (None, counts["rows_read"])
                except AssertionError as error:
                    raise AssertionError(f"round {index}, {file.name}: {error}") from error
            file.write_bytes(originals[file])
    return read, refused


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS)
    assert set(ROWS) == set(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_examples_are_recognised_read_and_accounted_for(layout: str, tmp_path: Path) -> None:
    path = LAYOUTS[layout](tmp_path)
    assert recognise(path).name == layout.split()[0]
    recording = read_layout(layout, path)
    assert recording.format == layout.split()[0] and recording.clock
    assert_sound(recording.samples, recording.fixations)
    counts = recording.samples.counts if len(recording.samples) else getattr(recording.fixations, "counts", {})
    assert 0 < counts["rows_read"] <= 50 and counts["rows_read"] == ROWS[layout](path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_give_a_value_or_our_error(layout: str, tmp_path: Path) -> None:
    read, refused = fuzz(layout, tmp_path, rounds=2000, seed=0)
    assert read > 100 and refused > 10, "mutations that never, or always, break a file test nothing"


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS)
def test_soak_damaged_files(layout: str, tmp_path: Path) -> None:
    read, _ = fuzz(layout, tmp_path, rounds=10_000, seed=1)
    assert read > 500
