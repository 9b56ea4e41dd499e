"""Plots of a report as SVG: accuracies with intervals, and latencies by part. matplotlib without its global state.

Lines and letters take `currentColor`, so that a page's own colours, light or dark, apply; the files written by
`write_plots` are set on white. Text stays text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.streamgaze.records import write_atomically
from benchmarks.streamgaze.report import accuracy_rows
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.errors import InputError

WIDTH_IN = 4.6  # a phone's width at a legible size of letters
INK = "#010203"  # becomes currentColor
GROUP_COLOURS = {"past": "#3a7ebf", "present": "#c7762e", "proactive": "#4b9a5b"}
MEAN_COLOUR = "#8a6fb5"
# Told apart by their order in the legend too: parts are few and their curves cross.
PART_COLOURS = ("#3a7ebf", "#c7762e", "#4b9a5b", "#b5527c", "#7f7f7f", "#a08b2d", "#2d9ca0", "#8a6fb5")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gazeqwen",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def accuracy_plot(report: Mapping[str, Any]) -> Figure:
    """A dot a task and mean with its 95 % interval; a bar marks the best constant answer, a cross the blind run."""
    rows = accuracy_rows(report)
    figure, axes = _figure(0.24 * len(rows) + 1.1)
    heights = []
    for number, row in enumerate(rows):
        is_task = row["task"] in TASKS
        height = -number - 0.6 * (not is_task)
        colour = GROUP_COLOURS[TASKS[row["task"]].group] if is_task else GROUP_COLOURS.get(row["task"], MEAN_COLOUR)
        if row["ci"] is not None:
            axes.plot(row["ci"], [height, height], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(row["accuracy"], height, "o" if is_task else "D", color=colour, markersize=5, clip_on=False)
        if row["chance"] is not None:
            axes.plot(row["chance"], height, "|", color=INK, markersize=9, alpha=0.6)
        if row["blind"] is not None:
            axes.plot(row["blind"], height, "x", color=INK, markersize=5)
        heights.append(height)
    axes.set_yticks(heights, [row["task"] for row in rows])
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, %, with 95 % interval over videos")
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    axes.plot([], [], "|", color=INK, alpha=0.6, markersize=9, linestyle="none", label="best constant answer")
    if report.get("blind"):
        axes.plot([], [], "x", color=INK, markersize=5, linestyle="none", label="blind run")
    _legend(axes, columns=2)
    return figure


def latency_plot(parts: Mapping[str, np.ndarray]) -> Figure:
    """Share of samples answered within a time, part by part (empirical distribution; milliseconds on a log scale)."""
    figure, axes = _figure(3.0)
    shown = {part: np.sort(values[values > 0]) for part, values in parts.items()}
    for number, (part, values) in enumerate(shown.items()):
        if values.size:
            total = part == "total"
            colour = INK if total else PART_COLOURS[number % len(PART_COLOURS)]
            share = np.arange(1, values.size + 1) / values.size * 100
            axes.step(values, share, where="post", color=colour, linewidth=2 if total else 1.4, label=part)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda milliseconds, _: f"{milliseconds:g}"))
    axes.set_ylim(0, 100)
    axes.set_xlabel("milliseconds a sample")
    axes.set_ylabel("samples, %")
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    _legend(axes, columns=4)
    return figure


def _figure(height_in: float) -> tuple[Figure, Axes]:
    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def _legend(axes: Axes, *, columns: int) -> None:
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, frameon=False, labelcolor=INK, handlelength=1.2
    )


def svg_of(figure: Figure) -> str:
    """The SVG element of a figure, for a page: no XML header, sized by the page, in the page's colour."""
    text = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").strip()
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # names that nothing refers to, the same in every figure of a page
    return re.sub(r'^(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'^(<svg[^>]*?) height="[^"]*"', r"\1", svg))


def write_plots(folder: Path, report: Mapping[str, Any], parts: Mapping[str, np.ndarray]) -> list[Path]:
    """Writes accuracy.svg, and latency.svg where there are latencies; returns the files.

    Raises:
        InputError: the folder can't be made or written.
    """
    figures = {"accuracy": accuracy_plot(report), **({"latency": latency_plot(parts)} if parts else {})}
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            svg = svg_of(figure).replace("<svg", '<svg style="background: #fff; color: #222"', 1)
            write_atomically(folder / f"{name}.svg", svg + "\n")
            written.append(folder / f"{name}.svg")
    except OSError as error:
        raise InputError(folder, expected="a folder that can be written", found=error.strerror or str(error)) from error
    return written
