"""What the resampler's latents attend to, as numbers and as a picture for people.

Numbers are shares of an even spread: 1 is what each cell of the grid would have if the latents did not care, 3 is three
times that. The grid is that of the video tokens, a cell of 28 x 28 pixels of the frame that the model sees.

Shapes: S steps, L latents, h w the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gazeqwen import GazeQwen
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.resampler import GazeResampler
from gazeqwen.types import Step

LATENTS_SHOWN = 4
DPI = 110
GAZE, NEWEST = "#00e0ff", "#ffd400"
INK = "#222222"
SAMPLE_AREA, SHORTEST_AREA, AREA_PER_S = 30.0, 60.0, 420.0  # of gaze marks, in square points
PANEL_IN, GAP_IN, SMALL_GAP_IN = 2.9, 0.2, 0.08
LABEL_IN, TOP_IN, BOTTOM_IN = 1.35, 1.0, 1.15
FOOTNOTE = (
    "The frame is the step's last. Gaze of earlier moments lies where it was in the frame of its moment: "
    "the head may have turned since."
)
_STYLE: dict[Any, Any] = {"font.family": "sans-serif", "font.size": 10, "text.color": INK}
_TAG: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}


@torch.no_grad()
def latent_attention(model: GazeQwen, steps: Sequence[Step]) -> np.ndarray:
    """(S, L, h, w) the latents' attention over the grid, as a share of an even spread: each map's mean is 1.

    Args:
        steps: from the stream's start on, in order, because V-JEPA's features of a step rest on the ones before it.

    Raises:
        ConfigError: the model's resampler has no latents of that kind, or there is no V-JEPA for its features.
        InputError: no steps, or frames of several sizes.
    """
    if not isinstance(model.resampler, GazeResampler):
        raise ConfigError(f"latents' attention: expected resampler.kind 'gaze', found {model.config.resampler.kind!r}")
    frozen = model.frozen(steps, arm="inject")
    gaze = GazeBatch.from_events([step.gaze for step in steps], model.backbone.device)
    assert frozen.features is not None  # the arm uses them
    _, attention = model.resampler(frozen.features, gaze, return_attention=True)
    cells = frozen.h * frozen.w
    return (attention * cells).unflatten(2, (frozen.h, frozen.w)).float().cpu().numpy()


def attention_at_gaze(steps: Sequence[Step], attention: np.ndarray) -> float:
    """The latents' attention in the cell of each step's newest gaze event, as a share of an even spread: the mean over
    latents and the steps with gaze. NaN where none has."""
    found = []
    for step, maps in zip(steps, attention, strict=True):
        row = _newest(step)
        if row is not None:
            h, w = maps.shape[1:]
            x, y = step.gaze.xy_norm[row]
            found.append(float(maps[:, min(int(y * h), h - 1), min(int(x * w), w - 1)].mean()))
    return float(np.mean(found)) if found else float("nan")


def _newest(step: Step) -> int | None:
    """Row of the newest valid event: events are in the order of time."""
    rows = np.flatnonzero(step.gaze.valid)
    return int(rows[-1]) if rows.size else None


def attention_figure(
    steps: Sequence[Step], attention: np.ndarray, labels: Sequence[str], *, title: str, subtitle: str = ""
) -> Figure:
    """A row a step: its last frame with the gaze events that the model got, the mean map, and four latents' own maps.

    The four are those whose maps are furthest from even in these steps, the same ones in each row.

    Args:
        steps, attention: those to show, of equal length, and their maps (`latent_attention`).
        labels: beside each row.

    Raises:
        InputError: no steps, or not one map and label for each.
    """
    if not len(steps) or not len(steps) == len(attention) == len(labels):
        raise InputError(
            "attention picture",
            expected="one map and one label for each of one or more steps",
            found=f"{len(steps)} steps, {len(attention)} maps, {len(labels)} labels",
        )
    furthest = np.argsort(-attention.max(axis=(0, 2, 3)), kind="stable")[:LATENTS_SHOWN]
    shown = np.concatenate([attention.mean(axis=1, keepdims=True), attention[:, furthest]], axis=1)
    most = 2 ** int(np.clip(np.ceil(np.log2(shown.max())), 1, 5))  # of the colours: times an even spread
    norm = LogNorm(1 / most, most)
    height_px, width_px = steps[0].frames.shape[1:3]
    panel_in = PANEL_IN * height_px / width_px
    row_in = panel_in + GAP_IN
    size_in = (LABEL_IN + 3 * (PANEL_IN + GAP_IN), TOP_IN + row_in * len(steps) + BOTTOM_IN)
    with rc_context(_STYLE):
        figure = Figure(figsize=size_in, dpi=DPI)

        def panel(left_in: float, top_in: float, width_in: float, height_in: float) -> Axes:
            place_in = (left_in, size_in[1] - top_in - height_in, width_in, height_in)
            axes = figure.add_axes(tuple(place_in[i] / size_in[i % 2] for i in range(4)))  # type: ignore[arg-type]
            axes.set_xticks([])
            axes.set_yticks([])
            return axes

        figure.text(0.5, 1 - 0.28 / size_in[1], title, ha="center", va="center", fontsize=14)
        figure.text(0.5, 1 - 0.58 / size_in[1], subtitle, ha="center", va="center", fontsize=10.5)
        columns_in = [LABEL_IN + column * (PANEL_IN + GAP_IN) for column in range(3)]
        image: Any = None
        for row, (step, maps, label) in enumerate(zip(steps, shown, labels, strict=True)):
            top_in = TOP_IN + row * row_in
            axes = panel(columns_in[0], top_in, PANEL_IN, panel_in)
            axes.imshow(step.frames[-1], extent=(0, width_px, height_px, 0), interpolation="nearest")
            axes.set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
            _cells(axes, step, maps[0], colour="white", scale=1.0)
            axes = panel(columns_in[1], top_in, PANEL_IN, panel_in)
            image = _map(axes, step, maps[0], norm, scale=1.0)
            _numbers(axes, step, maps[0])
            for number, (latent, one) in enumerate(zip(furthest, maps[1:], strict=True)):
                small = (PANEL_IN - SMALL_GAP_IN) / 2
                left_in = columns_in[2] + (number % 2) * (small + SMALL_GAP_IN)
                small_top_in = top_in + (number // 2) * (panel_in + SMALL_GAP_IN) / 2
                axes = panel(left_in, small_top_in, small, (panel_in - SMALL_GAP_IN) / 2)
                _map(axes, step, one, norm, scale=0.4)
                axes.text(3, 5, f"{latent}", va="top", fontsize=8, bbox=_TAG)
        names = ("frame, with the gaze given", "mean over all latents", "single latents, by number")
        for left_in, name in zip(columns_in, names, strict=True):
            place = ((left_in + PANEL_IN / 2) / size_in[0], 1 - (TOP_IN - 0.14) / size_in[1])
            figure.text(*place, name, ha="center", va="center", fontsize=11)
        bottom_in = TOP_IN + row_in * len(steps)
        _marks_legend(panel(columns_in[0] - 0.1, bottom_in, PANEL_IN, BOTTOM_IN - 0.45))
        bar = panel(columns_in[1], bottom_in + 0.08, 2 * PANEL_IN + GAP_IN, 0.2)
        cells = attention.shape[2] * attention.shape[3]
        _colour_legend(figure, bar, image, most, f"attention, times an even spread over the {cells} cells")
        figure.text(columns_in[0] / size_in[0], 0.17 / size_in[1], FOOTNOTE, va="center", fontsize=9.5)
    return figure


def _map(axes: Axes, step: Step, one: np.ndarray, norm: LogNorm, *, scale: float) -> Any:
    """One map over the frame's extent, with the gaze on it."""
    height_px, width_px = step.frames.shape[1:3]
    image = axes.imshow(one, extent=(0, width_px, height_px, 0), cmap="RdBu_r", norm=norm, aspect="auto")
    _cells(axes, step, one, colour=INK, scale=scale)
    return image


def _numbers(axes: Axes, step: Step, one: np.ndarray) -> None:
    height_px, width_px = step.frames.shape[1:3]
    h, w = one.shape
    for (y, x), value in np.ndenumerate(one):
        place = ((x + 0.96) * width_px / w, (y + 0.95) * height_px / h)
        axes.text(*place, f"{value:.1f}", ha="right", va="bottom", fontsize=7.5)


def _cells(axes: Axes, step: Step, one: np.ndarray, *, colour: str, scale: float) -> None:
    """The grid's lines and the gaze: rings for fixations, dots for single samples, the newest in its own colour."""
    height_px, width_px = step.frames.shape[1:3]
    for column in range(1, one.shape[1]):
        axes.axvline(column * width_px / one.shape[1], color=colour, linewidth=0.6, alpha=0.6)
    for row in range(1, one.shape[0]):
        axes.axhline(row * height_px / one.shape[0], color=colour, linewidth=0.6, alpha=0.6)
    newest = _newest(step)
    for row in np.flatnonzero(step.gaze.valid):
        x_px, y_px = step.gaze.xy_norm[row] * (width_px, height_px)
        colour = NEWEST if row == newest else GAZE
        if step.gaze.is_fixation[row]:
            area = scale * (SHORTEST_AREA + AREA_PER_S * float(step.gaze.duration_s[row]))
            for shade, line in (("black", 4.0), (colour, 2.2)):
                axes.scatter(
                    x_px, y_px, s=area, facecolors="none", edgecolors=shade, linewidths=line * scale**0.5, zorder=3
                )
        else:
            axes.scatter(x_px, y_px, s=scale * SAMPLE_AREA, c=colour, edgecolors="black", linewidths=0.7, zorder=3)
    axes.set_xlim(0, width_px)
    axes.set_ylim(height_px, 0)


def _marks_legend(axes: Axes) -> None:
    axes.axis("off")
    ring: dict[str, Any] = {"marker": "o", "linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 2}
    dot: dict[str, Any] = {"marker": "o", "linestyle": "none", "markeredgecolor": "black", "markersize": 5}
    handles = [
        Line2D([], [], markeredgecolor=GAZE, markersize=11, label="fixation (larger: longer)", **ring),
        Line2D([], [], markerfacecolor=GAZE, label="gaze sample outside fixations", **dot),
        Line2D([], [], markeredgecolor=NEWEST, markersize=11, label="newest of the step (ring or dot)", **ring),
    ]
    axes.legend(handles=handles, loc="upper left", frameon=False, fontsize=9.5, borderpad=0, labelspacing=0.4)


def _colour_legend(figure: Figure, axes: Axes, image: Any, most: int, label: str) -> None:
    colours = figure.colorbar(image, cax=axes, orientation="horizontal")
    times = [2**power for power in range(1, most.bit_length())]
    ticks = [*(1 / n for n in reversed(times)), 1, *times]
    colours.set_ticks(ticks, labels=[*(f"1/{n}" for n in reversed(times)), "1 (even)", *map(str, times)])
    colours.minorticks_off()
    colours.set_label(label, fontsize=10)


def write_attention(path: Path, figure: Figure) -> Path:
    """Writes the picture as PNG."""
    with rc_context(_STYLE):
        figure.savefig(path, format="png", dpi=DPI)
    return path
