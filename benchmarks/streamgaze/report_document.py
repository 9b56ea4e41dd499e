"""A report as a list of blocks, and their two plain renderings: text of at most 80 columns, and Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 80


@dataclass(frozen=True)
class Heading:
    """The title of what follows; `banner` marks what must not be overlooked (LIMITED, INCOMPLETE)."""

    text: str
    banner: str = ""


@dataclass(frozen=True)
class Facts:
    """Names with their values."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Notes:
    """Sentences, one a line or bullet."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Cells of text; the first column is aligned left, the others right.

    Attributes:
        rows: as wide as `header`.
        rules: row numbers above which a line is drawn.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    rules: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A plot; only HTML shows it."""

    title: str
    svg: str


Block = Heading | Facts | Notes | Table | Figure


def as_text(blocks: Sequence[Block]) -> str:
    """Plain text, at most 80 columns wide as long as the cells allow it; ends without a line break."""
    return "\n\n".join(_text(block) for block in blocks if not isinstance(block, Figure))


def _text(block: Block) -> str:
    if isinstance(block, Heading):
        return "\n".join(_wrapped(line) for line in (block.text, block.banner) if line)
    if isinstance(block, Facts):
        width = max(len(name) for name, _ in block.rows) + 2
        return "\n".join(_wrapped(value, name.ljust(width)) for name, value in block.rows)
    if isinstance(block, Notes):
        return "\n".join(_wrapped(line, "- ") for line in block.lines)
    return _text_table(block) if isinstance(block, Table) else ""


def _wrapped(text: str, label: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_on_hyphens=False)


def _text_table(table: Table) -> str:
    widths = [max(len(row[column]) for row in (table.header, *table.rows)) for column in range(len(table.header))]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    lines = [_text_row(table.header, widths, gap)]
    rule = "-" * len(lines[0])
    lines.append(rule)
    for number, row in enumerate(table.rows):
        lines += [rule] * (number in table.rules) + [_text_row(row, widths, gap)]
    return "\n".join([table.title, *lines] if table.title else lines)


def _text_row(row: Sequence[str], widths: Sequence[int], gap: int) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return (" " * gap).join(cells).rstrip()


def as_markdown(blocks: Sequence[Block]) -> str:
    """GitHub-flavoured Markdown; ends without a line break."""
    return "\n\n".join(_markdown(block) for block in blocks if not isinstance(block, Figure))


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_escaped(block.text)}" + (f"\n\n**{_escaped(block.banner)}**" if block.banner else "")
    if isinstance(block, Facts):
        return "\n".join(f"- {_escaped(name)}: {_escaped(value)}" for name, value in block.rows)
    if isinstance(block, Notes):
        return "\n".join(f"- {_escaped(line)}" for line in block.lines)
    if not isinstance(block, Table):
        return ""
    rows = [block.header, ("---", *("---:" for _ in block.header[1:])), *block.rows]
    lines = ["| " + " | ".join(cell if row is rows[1] else _escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join([f"**{_escaped(block.title)}**", "", *lines] if block.title else lines)


def _escaped(text: str) -> str:
    for sign in "\\|*_<>":
        text = text.replace(sign, f"\\{sign}")
    return text
