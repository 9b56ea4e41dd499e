"""Rows out of files that may be damaged: delimited text, JSON lines, gzip. Knows nothing of gaze.

Rows are lines. A quoted field therefore can't run over a line end: in a damaged file one stray quote would otherwise
swallow all rows up to the next one without a trace (what csv.reader does with a whole file). Nothing here drops a row:
what can't be parsed stays in its place, marked, so that the reader can count it.
"""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazeqwen.errors import InputError

MAX_FILE_BYTES = 4 << 30
HEAD_BYTES = 16384


# -- bytes ------------------------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises InputError when it can't be read or is too large to be a gaze file."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(path, expected=f"a gaze file of at most {MAX_FILE_BYTES >> 30} GiB", found=f"{size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError(path, expected="a readable file", found=error.strerror or type(error).__name__) from error


def head_bytes(path: Path, size: int = HEAD_BYTES) -> bytes:
    """The first `size` bytes, b"" when there is nothing to read. For sniffing."""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def gunzip(data: bytes, *, limit: int = MAX_FILE_BYTES) -> tuple[bytes, bool]:
    """Everything readable of a gzip stream, and whether it ended early or was damaged.

    A truncated file is the usual result of a recording unit that ran out of battery; what was written before is good.
    `limit` bounds the decompressed size.
    """
    parts: list[bytes] = []
    total = 0
    while data:
        member = zlib.decompressobj(31)
        try:
            part = member.decompress(data, limit - total + 1)
        except zlib.error:
            return b"".join(parts) + _gunzip_bytewise(data, limit - total), True
        parts.append(part)
        total += len(part)
        if total > limit:
            raise InputError("gzip", expected=f"at most {limit} bytes decompressed", found="more")
        if not member.eof:
            return b"".join(parts), True
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts), False


def _gunzip_bytewise(data: bytes, limit: int) -> bytes:
    """What comes out of a damaged member before the damage, to within 64 compressed bytes."""
    member, out = zlib.decompressobj(31), bytearray()
    try:
        for start in range(0, len(data), 64):
            out += member.decompress(data[start : start + 64], limit)
            if len(out) > limit:
                break
    except zlib.error:
        pass  # the caller marks the file as truncated
    return bytes(out[:limit])


def text_lines(data: bytes) -> list[str]:
    """Lines of a text file that may be damaged: UTF-8 with or without BOM, bad bytes replaced, any line end."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def find_file(path: Path, *names: str) -> Path | None:
    """`path` itself when it is a file, else the first of `names` (relative, may be globs) inside that folder."""
    try:
        if path.is_file():
            return path
        for name in names:
            for found in sorted(path.glob(name)):
                if found.is_file():
                    return found
    except OSError:
        return None
    return None


# -- numbers ----------------------------------------------------------------------------------------------------------


def number(value: object) -> float:
    """A JSON value as float: NaN for anything that is not a number (booleans are not), inf for an int too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _parse_int(text: str) -> int | None:
    """An integer, exactly; also when a spreadsheet wrote it as a float. None when it is neither."""
    if "_" in text:
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) else None


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A delimited text file. `fields[i]` is None where row i does not have the header's number of fields (ragged)."""

    path: Path
    header: tuple[str, ...]
    fields: list[list[str] | None]

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def ragged(self) -> np.ndarray:
        """(N,) rows with too few or too many fields: their values may belong to other columns, so none is used."""
        return np.fromiter((row is None for row in self.fields), dtype=bool, count=len(self.fields))

    def has(self, *names: str) -> bool:
        return all(name in self.header for name in names)

    def index(self, name: str) -> int:
        """Raises InputError when there is no such column."""
        if name not in self.header:
            shown = ", ".join(self.header[:12])[:300]
            raise InputError(self.path, expected=f"a column '{name}'", found=f"columns {shown or '(none)'}")
        return self.header.index(name)

    def texts(self, name: str) -> list[str]:
        """(N,) stripped text, "" for ragged rows."""
        column = self.index(name)
        return ["" if row is None else row[column].strip() for row in self.fields]

    def floats(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(N,) values, NaN where blank or unreadable; (N,) unreadable: ragged, or text that is no number."""
        values = np.full(len(self), np.nan)
        unreadable = self.ragged
        for i, text in enumerate(self.texts(name)):
            if not text:
                continue
            try:
                values[i] = float(text)
            except ValueError:
                unreadable[i] = True
            else:
                if "_" in text:  # Python's float takes 1_000, no tracker writes it
                    values[i], unreadable[i] = np.nan, True
        return values, unreadable

    def first_tick(self, name: str) -> int | None:
        """The first readable integer of a column of clock ticks."""
        for text in self.texts(name):
            value = _parse_int(text)
            if value is not None:
                return value
        return None

    def seconds_since(self, name: str, *, zero_tick: int, ticks_per_s: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) seconds since `zero_tick`, NaN where blank; (N,) unreadable.

        Subtracts as integers: UTC nanoseconds do not fit a float64 (its step is 256 ns there).
        """
        values = np.full(len(self), np.nan)
        unreadable = self.ragged
        for i, text in enumerate(self.texts(name)):
            if not text:
                continue
            tick = _parse_int(text)
            if tick is None:
                unreadable[i] = True
                continue
            try:
                values[i] = (tick - zero_tick) / ticks_per_s
            except OverflowError:
                values[i] = math.inf
        return values, unreadable

    def ids(self, name: str) -> np.ndarray:
        """(N,) int64 identifiers >= 0, -1 where blank or not an identifier."""
        parsed = (_parse_int(text) for text in self.texts(name))
        return np.fromiter(
            (-1 if i is None or not 0 <= i < 2**63 else i for i in parsed), dtype=np.int64, count=len(self)
        )


def split_row(line: str, delimiter: str) -> list[str] | None:
    """The fields of one line; None when its quoting can't be undone."""
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), None)
    except csv.Error:  # unbalanced quotes, or a field beyond the csv module's limit
        return None


def table_from_lines(path: Path, header: Sequence[str], lines: Sequence[str], delimiter: str = ",") -> Table:
    """Rows with exactly the header's fields (empty ones may trail); blank lines are not rows."""
    width = len(header)
    rows: list[list[str] | None] = []
    for line in lines:
        if not line.strip():
            continue
        fields = split_row(line, delimiter)
        while fields is not None and len(fields) > width and not fields[-1].strip():
            fields = fields[:-1]
        rows.append(fields if fields is not None and len(fields) == width else None)
    return Table(path, tuple(header), rows)


def parse_header(line: str, delimiter: str = ",") -> tuple[str, ...]:
    """Column names of a header line, stripped."""
    return tuple(name.strip() for name in split_row(line, delimiter) or ())


def read_table(path: Path, *, delimiter: str = ",", header: Sequence[str] | None = None) -> Table:
    """A CSV/TSV file. `header` names the columns of a file without a header line; else the first non-blank line does.

    Raises InputError when the file can't be read or holds no line at all.
    """
    lines = text_lines(read_bytes(path))
    if header is None:
        first = next((i for i, line in enumerate(lines) if line.strip()), None)
        if first is None:
            raise InputError(path, expected="a header line and rows", found="an empty file")
        header, lines = parse_header(lines[first], delimiter), lines[first + 1 :]
    return table_from_lines(path, header, lines, delimiter)


def header_of(path: Path, delimiter: str = ",") -> tuple[str, ...]:
    """Column names of the first non-blank line, () when there is none. For sniffing."""
    first = next((line for line in text_lines(head_bytes(path)) if line.strip()), "")
    return parse_header(first, delimiter)


# -- JSON -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JsonLines:
    """`objects[i]` is the i-th non-blank line's object, None where it is not a JSON object."""

    path: Path
    objects: list[dict[str, Any] | None]
    truncated: bool

    def __len__(self) -> int:
        return len(self.objects)


def read_json_lines(path: Path) -> JsonLines:
    """One JSON object a line, plain or gzip (told by its first bytes). What precedes a truncation is read.

    Raises InputError when the file can't be read or nothing of it can be decompressed.
    """
    data = read_bytes(path)
    truncated = False
    if data[:2] == b"\x1f\x8b":
        data, truncated = gunzip(data)
        if truncated and not data:
            raise InputError(path, expected="a gzip file", found="damage before the first line", fix="copy it again")
    return JsonLines(path, [parse_object(line) for line in text_lines(data) if line.strip()], truncated)


def parse_object(text: str) -> dict[str, Any] | None:
    """A JSON object, or None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_json(path: Path) -> dict[str, Any]:
    """A whole file that is one JSON object, or InputError."""
    value = parse_object(read_bytes(path).decode("utf-8-sig", errors="replace"))
    if value is None:
        raise InputError(path, expected="a JSON object", found="something else", fix="restore the file from its source")
    return value
