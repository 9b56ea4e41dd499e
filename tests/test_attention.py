"""The latents' attention: the resampler's own numbers as shares of an even spread, and a picture that shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from gazeqwen import GazeQwen
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.gaze_encoding import GazeBatch
from gazeqwen.types import GazeEvents, Step
from stream.attention import NEWEST, attention_at_gaze, attention_figure, latent_attention, write_attention
from tests.made_steps import made_steps, moved_tiny, official_tiny

H, W, LATENTS = 4, 6, 16


def looking(*xy_norm: tuple[float, float], fixations: bool = True) -> Step:
    """A step of 168 x 112 black pixels whose gaze was at these places, one after the other."""
    n = len(xy_norm)
    t_s = np.linspace(0.2, 0.9, n)
    gaze = GazeEvents(
        t_s=t_s,
        xy_norm=np.array(xy_norm).reshape(n, 2),
        duration_s=np.full(n, 0.1 if fixations else 0.0),
        age_s=1 - t_s,
        valid=np.ones(n, dtype=bool),
        is_fixation=np.full(n, fixations),
        frame_t_s=t_s,
    )
    frames = np.zeros((2, 112, 168, 3), dtype=np.uint8)
    return Step(frames, np.array([0.0, 0.5]), (0.0, 1.0), frames, np.array([0.0, 0.5]), gaze)


def peak(y: int, x: int, *, height: float = 10.0) -> np.ndarray:
    """(LATENTS, H, W) maps that are even but for one cell."""
    maps = np.full((LATENTS, H, W), (H * W - height) / (H * W - 1))
    maps[:, y, x] = height
    return maps


def test_maps_are_the_resamplers_own_attention_and_each_has_a_mean_of_one() -> None:
    model, steps = moved_tiny(), made_steps(3)
    maps = latent_attention(model, steps)
    frozen = model.frozen(steps)
    assert maps.shape == (3, model.config.resampler.latents, frozen.h, frozen.w)
    gaze = GazeBatch.from_events([step.gaze for step in steps])
    with torch.no_grad():
        _, weights = model.resampler(frozen.features, gaze, return_attention=True)  # type: ignore[misc, call-arg]
    np.testing.assert_allclose(maps.reshape(3, maps.shape[1], -1) / (frozen.h * frozen.w), weights.numpy(), atol=1e-6)
    np.testing.assert_allclose(maps.mean(axis=(2, 3)), 1, atol=1e-5)


def test_attention_moves_with_gaze() -> None:
    steps = made_steps(1)
    there, elsewhere = (
        latent_attention(moved_tiny(), [replace(steps[0], gaze=looking(place).gaze)])
        for place in ((0.1, 0.1), (0.9, 0.9))
    )
    assert not np.allclose(there, elsewhere)


def test_a_model_without_such_latents_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 'official'"):
        latent_attention(official_tiny(), made_steps(1))
    model = GazeQwen.from_pretrained("tiny")
    with pytest.raises(InputError, match="at least one step"):
        latent_attention(model, [])


def test_at_gaze_reads_the_cell_of_each_steps_newest_event() -> None:
    # cell (row 2, column 4) is x in [4/6, 5/6), y in [2/4, 3/4)
    steps = [looking((0.1, 0.1), (0.7, 0.6)), looking((0.7, 0.6), (0.1, 0.1)), looking()]
    maps = np.stack([peak(2, 4)] * 3)
    off = (H * W - 10.0) / (H * W - 1)
    assert attention_at_gaze(steps, maps) == pytest.approx((10.0 + off) / 2)
    assert attention_at_gaze([looking((1.0, 1.0))], peak(3, 5)[None]) == pytest.approx(10.0)  # the frame's very corner
    assert np.isnan(attention_at_gaze([looking()], peak(0, 0)[None]))
    blind = looking((0.7, 0.6))
    blind = replace(blind, gaze=replace(blind.gaze, valid=np.zeros(1, dtype=bool)))
    assert np.isnan(attention_at_gaze([blind], peak(2, 4)[None]))


def drawn(figure: Figure) -> list[np.ndarray]:
    """The maps on the figure, row by row: the mean, then single latents."""
    images = [image for axes in figure.axes for image in axes.images]
    return [np.asarray(image.get_array()) for image in images if image.get_cmap().name == "RdBu_r"]


def test_the_figure_holds_the_mean_and_the_four_latents_furthest_from_even() -> None:
    steps = [looking((0.7, 0.6)), looking((0.2, 0.3))]
    maps = np.stack([peak(2, 4, height=1.0), peak(1, 1, height=1.0)])
    for latent, height in ((3, 4.0), (7, 8.0), (11, 6.0), (15, 5.0), (2, 1.2)):
        maps[0, latent] = peak(2, 4, height=height)[0]
    figure = attention_figure(steps, maps, ["a", "b"], title="Title", subtitle="Subtitle")
    found = drawn(figure)
    assert len(found) == 2 * 5
    np.testing.assert_allclose(found[0], maps[0].mean(axis=0))
    for image, latent in zip(found[1:5], (7, 11, 15, 3), strict=True):
        np.testing.assert_allclose(image, maps[0, latent])
    np.testing.assert_allclose(found[5], maps[1].mean(axis=0))
    texts = {text.get_text() for text in figure.texts}
    assert {"Title", "Subtitle", "mean over all latents"} <= texts
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert "attention, times an even spread over the 24 cells" in labels
    names = [text.get_text() for axes in figure.axes if (legend := axes.get_legend()) for text in legend.get_texts()]
    assert len(names) == 3 and any("fixation" in name for name in names)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (2, 4), (3, 5)])
def test_heat_is_where_attention_is_and_gaze_where_gaze_was(tmp_path: Path, y: int, x: int) -> None:
    place = ((x + 0.3) / W, (y + 0.3) / H)
    figure = attention_figure([looking(place)], peak(y, x)[None], ["row"], title="Title")
    path = write_attention(tmp_path / "picture.png", figure)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    frame, mean = [axes for axes in figure.axes if axes.images][:2]
    left, bottom, width, height = mean.get_position().bounds
    rows, columns = pixels.shape[:2]

    def colour(row: float, column: float, axes_left: float) -> np.ndarray:
        return pixels[
            round(rows * (1 - bottom - height * (1 - row / H))), round(columns * (axes_left + width * column / W))
        ]

    for row in range(H):
        for column in range(W):
            red, _, blue = colour(row + 0.62, column + 0.25, left)
            assert (red > blue + 40) == ((row, column) == (y, x)), (row, column)
    # the ring's middle shows what is under it; the yellow is right beside
    yellow = np.array([int(NEWEST[i : i + 2], 16) for i in (1, 3, 5)])
    near = np.abs(pixels - yellow).max(axis=-1) < 30
    frame_left = frame.get_position().x0
    columns_seen = np.nonzero(near[:, round(columns * frame_left) : round(columns * (frame_left + width))])[1]
    legend_free = near[: round(rows * (1 - bottom))]
    assert legend_free.any() and columns_seen.size
    rows_of, columns_of = np.nonzero(
        legend_free[:, round(columns * frame_left) : round(columns * (frame_left + width))]
    )
    assert columns_of.mean() / (columns * width) == pytest.approx(place[0], abs=0.02)
    assert (rows_of.mean() - rows * (1 - bottom - height)) / (rows * height) == pytest.approx(place[1], abs=0.03)


def test_any_gaze_and_few_latents_are_drawn(tmp_path: Path) -> None:
    steps = [looking(), looking((0.5, 0.5), (0.6, 0.6), fixations=False)]
    maps = np.ones((2, 2, H, W))
    maps[0, 0, 0, 0] = 0.0  # no logarithm
    figure = attention_figure(steps, maps, ["none", "samples"], title="Title")
    assert len(drawn(figure)) == 2 * 3
    assert write_attention(tmp_path / "picture.png", figure).stat().st_size > 0


def test_rows_that_do_not_fit_are_refused() -> None:
    maps = peak(0, 0)[None]
    for steps, labels in (([], []), ([looking()], []), ([looking(), looking()], ["a", "b"])):
        with pytest.raises(InputError, match="one map and one label"):
            attention_figure(steps, maps, labels, title="Title")
