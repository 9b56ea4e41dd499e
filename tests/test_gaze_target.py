"""Gaze-LLE's decoder and weights: released names and numbers, one head or many, and every way a file can be wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import gazeqwen.gaze_target as module
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.gaze_target import (
    Box,
    GazeDecoder,
    GazeDecoderConfig,
    GazeTargets,
    head_masks,
    position_table,
    prepare_image,
    training_target,
)
from tests.made_gaze_target import BOXES, GRID, WIDTH, decoder, estimator, images

shares = st.floats(0, 1, allow_nan=False)


def reference(state: dict[str, Tensor], features: Tensor, box: Box | None, *, heads: int, eps: float) -> Any:
    """One head of one image (C, h, w), step by step from the paper's description: (heatmap 2h x 2w, in/out)."""
    dim, h, w = state["pos_embed"].shape
    x = torch.einsum("dc,chw->dhw", state["linear.weight"][:, :, 0, 0], features)
    x = x + state["linear.bias"][:, None, None] + state["pos_embed"]
    if box is not None:
        for row in range(round(box[1] * h), round(box[3] * h)):
            for column in range(round(box[0] * w), round(box[2] * w)):
                x[:, row, column] += state["head_token.weight"][0]
    tokens = torch.stack([x[:, row, column] for row in range(h) for column in range(w)])
    inout = "inout_token.weight" in state
    if inout:
        tokens = torch.cat([state["inout_token.weight"], tokens])
    layer = 0
    while (prefix := f"transformer.{layer}.") + "attn.qkv.weight" in state:
        p = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        normed = F.layer_norm(tokens, (dim,), p["norm1.weight"], p["norm1.bias"], eps)
        q, k, v = (normed @ p["attn.qkv.weight"].T).split(dim, dim=1)
        mixed = []
        for head in range(heads):
            own = slice(head * dim // heads, (head + 1) * dim // heads)
            weights = (q[:, own] @ k[:, own].T / math.sqrt(dim // heads)).softmax(dim=1)
            mixed.append(weights @ v[:, own])
        tokens = tokens + torch.cat(mixed, dim=1) @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        normed = F.layer_norm(tokens, (dim,), p["norm2.weight"], p["norm2.bias"], eps)
        hidden = normed @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"]
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
        layer += 1
    probability = None
    if inout:
        hidden = (tokens[0] @ state["inout_head.0.weight"].T + state["inout_head.0.bias"]).clamp_min(0)
        probability = (hidden @ state["inout_head.3.weight"].T + state["inout_head.3.bias"]).sigmoid()[0]
        tokens = tokens[1:]
    heatmap = torch.zeros(2 * h, 2 * w)
    for row in range(2 * h):
        for column in range(2 * w):
            token = tokens[row // 2 * w + column // 2]
            up = token @ state["heatmap_head.0.weight"][:, :, row % 2, column % 2] + state["heatmap_head.0.bias"]
            heatmap[row, column] = (up @ state["heatmap_head.1.weight"][0, :, 0, 0]).sigmoid()
    return heatmap, probability


# --- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inout", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_the_decoder_is_what_the_paper_describes(inout: bool, eps: float) -> None:
    config = GazeDecoderConfig(
        feature_dim=6, dim=8, grid_hw=(32, 32), layers=2, heads=2, mlp_dim=12, inout_dim=5 if inout else 0, ln_eps=eps
    )
    made = GazeDecoder(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
        made.pos_embed.normal_()  # as loaded: another table than the computed one
    features = torch.randn(2, 6, 32, 32)
    asked = [(0, BOXES[0]), (1, None), (1, BOXES[1]), (0, (0.47, 0.46, 0.485, 0.47))]  # the last mask is empty
    masks = head_masks([box for _, box in asked], (32, 32), small_head_fix=False)
    with torch.no_grad():
        heatmap, probability = made(features, masks, torch.tensor([row for row, _ in asked]))
        for row, (image, box) in enumerate(asked):
            expected, inside = reference(made.state_dict(), features[image], box, heads=2, eps=eps)
            torch.testing.assert_close(heatmap[row], expected, rtol=0, atol=5e-6)
            assert (probability is None) == (inside is None)
            if probability is not None:
                torch.testing.assert_close(probability[row], inside, rtol=0, atol=5e-6)


def test_ln_eps_reaches_every_norm() -> None:
    made = GazeDecoder(GazeDecoderConfig(feature_dim=4, dim=8, heads=2, ln_eps=1e-6))
    norms = [part for part in made.modules() if isinstance(part, torch.nn.LayerNorm)]
    assert len(norms) == 6 and {norm.eps for norm in norms} == {1e-6}


@pytest.mark.parametrize(
    ("width", "inout_dim", "trainable", "keys"),
    [(768, 0, 2_826_752, 40), (768, 128, 2_860_033, 45), (1024, 0, 2_892_288, 40), (1024, 128, 2_925_569, 45)],
)
def test_released_sizes_have_the_released_parameter_counts(
    width: int, inout_dim: int, trainable: int, keys: int
) -> None:
    with torch.device("meta"):
        made = GazeDecoder(GazeDecoderConfig(feature_dim=width, inout_dim=inout_dim))
    assert sum(parameter.numel() for parameter in made.parameters()) == trainable
    state = made.state_dict()
    assert len(state) == keys and state["pos_embed"].shape == (256, 32, 32)
    assert "transformer.2.attn.proj.bias" in state and "transformer.0.attn.qkv.bias" not in state
    assert ("inout_head.3.weight" in state) == bool(inout_dim)


def test_the_position_table_is_the_formula() -> None:
    table = position_table(16, (3, 5))
    for channel in range(16):
        frequency = math.exp(-(channel % 8 // 2 * 2) * math.log(10_000) / 8)
        wave = math.cos if channel % 2 else math.sin
        for row in range(3):
            for column in range(5):
                cell = column if channel < 8 else row
                assert float(table[channel, row, column]) == pytest.approx(wave(cell * frequency), abs=1e-6)


def test_another_grid_gives_64_cells_all_the_same() -> None:
    made = decoder()
    with torch.no_grad():
        heatmap, _ = made(torch.randn(1, WIDTH, GRID, GRID), torch.zeros(1, GRID, GRID), torch.tensor([0]))
    assert heatmap.shape == (1, 64, 64) and bool(((heatmap >= 0) & (heatmap <= 1)).all())


@pytest.mark.parametrize("shape", [(1, WIDTH, GRID, GRID + 1), (1, WIDTH - 1, GRID, GRID), (WIDTH, GRID, GRID)])
def test_features_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"scene features: expected shape \(images, 24, 4, 4\)"):
        decoder()(torch.zeros(shape), torch.zeros(1, GRID, GRID), torch.tensor([0]))


@pytest.mark.parametrize("wrong", [{"dim": 10}, {"heads": 3}, {"layers": 0}, {"inout_dim": -1}, {"ln_eps": 0.0}])
def test_a_shape_that_cant_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="gaze decoder"):
        GazeDecoderConfig(**wrong)


# --- head masks ------------------------------------------------------------------------------------------------------


def test_released_masks_round_halves_to_even_and_lose_small_heads() -> None:
    half = 0.5 / 32
    boxes = [(5 * half, half, 9 * half, 3 * half), (0.5, 0.5, 0.51, 0.51), (-0.1, 0.2, 0.3, 0.4), (0.6, 0.6, 0.4, 0.4)]
    masks = head_masks([*boxes, None], (32, 32), small_head_fix=False)
    expected = torch.zeros(32, 32)
    expected[0:2, 2:4] = 1  # 2.5 and 4.5 columns, 0.5 and 1.5 rows
    assert torch.equal(masks[0], expected)
    assert masks[1:].sum() == 0  # under a cell; from outside (-3 is a slice's third last); reversed; none


@given(x=shares, y=shares, width=st.floats(1e-6, 1), height=st.floats(1e-6, 1), rows=st.integers(1, 40))
def test_with_the_fix_every_head_has_its_own_cells(x: float, y: float, width: float, height: float, rows: int) -> None:
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if not (box[0] < box[2] and box[1] < box[3] and box[0] < 1 and box[1] < 1 and box[2] > 0 and box[3] > 0):
        return
    grid_hw = (rows, 32)
    (mask,) = head_masks([box], grid_hw)
    low = [max(0.0, value) for value in box[:2]]
    high = [min(1.0, value) for value in box[2:]]
    column, row = (min(int((a + b) / 2 * n), n - 1) for a, b, n in zip(low, high, (32, rows), strict=True))
    assert mask[row, column] == 1 and set(mask.unique().tolist()) <= {0.0, 1.0}
    # no cell farther than half a cell (the rounding) and a hair from the box
    ys, xs = torch.nonzero(mask, as_tuple=True)
    assert float(xs.min()) >= low[0] * 32 - 1 and float(xs.max()) <= high[0] * 32
    assert float(ys.min()) >= low[1] * rows - 1 and float(ys.max()) <= high[1] * rows
    (released,) = head_masks([(low[0], low[1], high[0], high[1])], grid_hw, small_head_fix=False)
    if released.any():
        assert torch.equal(mask, released)  # the fix changes nothing where nothing was wrong


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0.4, 0.1, 0.4, 0.3), "x_min < x_max"),
        ((0.4, 0.3, 0.5, 0.1), "x_min < x_max and y_min < y_max"),
        ((1.0, 0.1, 1.2, 0.3), "in the frame"),
        ((0.1, -0.3, 0.2, 0.0), "in the frame"),
        ((0.1, math.nan, 0.2, 0.3), "finite"),
        ((0.1, 0.2, 0.3), "four numbers"),
        (("a", 0.2, 0.3, 0.4), "four numbers"),
        ((10**400, 0.2, 0.3, 0.4), "four numbers"),
    ],
)
def test_what_is_no_box_is_refused(box: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"head box: expected .*{said}"):
        head_masks([box], (32, 32))


# --- what comes out --------------------------------------------------------------------------------------------------


@given(row=st.integers(0, 63), column=st.integers(0, 63))
@settings(max_examples=30)
def test_the_peak_is_the_middle_of_the_highest_cell(row: int, column: int) -> None:
    heatmap = np.zeros((2, 64, 64), np.float32)
    heatmap[0, row, column] = 0.4
    targets = GazeTargets(heatmap, None)
    np.testing.assert_allclose(targets.peak_xy_norm, [[(column + 0.5) / 64, (row + 0.5) / 64], [0.5 / 64, 0.5 / 64]])
    np.testing.assert_allclose(targets.peak_value, [0.4, 0.0])


@given(x=shares, y=shares)
@settings(max_examples=50)
def test_the_training_target_is_a_gaussian_round_its_cell(x: float, y: float) -> None:
    target = training_target((x, y))
    assert target.shape == (64, 64) and target.dtype == np.float32 and target.max() == 1
    row, column = min(int(y * 64), 63), min(int(x * 64), 63)
    assert target[row, column] == 1
    if x < 1 and y < 1:
        for step in range(1, 10):
            if column + step < 64:
                assert target[row, column + step] == pytest.approx(math.exp(-(step**2) / 18), abs=1e-6)
        assert target[:, : max(0, column - 9)].sum() == target[min(64, row + 10) :].sum() == 0


def test_a_training_target_far_outside_is_empty_and_a_near_one_is_not() -> None:
    assert training_target((3.0, 0.5)).max() == 0
    assert training_target((1.05, 0.5)).max() == 1
    with pytest.raises(InputError, match="gaze point"):
        training_target((math.nan, 0.5))


# --- the estimator ---------------------------------------------------------------------------------------------------


def test_many_heads_are_one_head_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = estimator()
    pictures, heads = images(3), [BOXES, [BOXES[1]], [None, BOXES[2]]]
    monkeypatch.setattr(module, "HEADS_AT_ONCE", 2)  # parts that begin and end within an image
    monkeypatch.setattr(module, "IMAGES_AT_ONCE", 2)
    together = made(pictures, heads)
    different = []
    for picture, own, targets in zip(pictures, heads, together, strict=True):
        assert len(targets) == len(own) and targets.inout_probability is not None
        for row, box in enumerate(own):
            (alone,) = made([picture], [[box]])
            assert alone.inout_probability is not None
            np.testing.assert_allclose(targets.heatmap[row], alone.heatmap[0], atol=2e-6)
            np.testing.assert_allclose(targets.inout_probability[row], alone.inout_probability[0], atol=2e-6)
            different.append(alone.heatmap[0])
    assert min(np.abs(a - b).max() for i, a in enumerate(different) for b in different[:i]) > 1e-3


def test_the_order_of_heads_is_the_order_of_answers() -> None:
    made, (picture,) = estimator(), images(1)
    (forward,), (backward,) = made([picture], [BOXES]), made([picture], [BOXES[::-1]])
    np.testing.assert_allclose(forward.heatmap, backward.heatmap[::-1], atol=2e-6)


def test_a_scene_is_encoded_once_however_many_heads_and_not_at_all_without(monkeypatch: pytest.MonkeyPatch) -> None:
    made, pictures = estimator(), images(3)
    encoded: list[int] = []
    forward = made.backbone.forward

    def counted(*arguments: Any, pixel_values: Tensor, **named: Any) -> Any:
        encoded.append(len(pixel_values))
        return forward(*arguments, pixel_values=pixel_values, **named)

    monkeypatch.setattr(made.backbone, "forward", counted)
    answers = made(pictures, [BOXES * 20, [], [BOXES[0]]])
    assert encoded == [2] and [len(targets) for targets in answers] == [60, 0, 1]
    encoded.clear()
    answers = made(pictures, [[], [], []])
    assert encoded == [] and all(len(targets) == 0 for targets in answers)
    assert answers[0].peak_xy_norm.shape == (0, 2) and answers[0].inout_probability is not None
    assert made([], []) == []


def test_without_the_in_out_head_there_is_no_probability() -> None:
    made = estimator(inout=False)
    (targets,) = made(images(1), [BOXES])
    assert not made.has_inout and targets.inout_probability is None and len(targets) == 3


def test_the_fix_for_small_heads_can_be_switched_off() -> None:
    small: Box = (0.6, 0.6, 0.61, 0.61)
    released, fixed = estimator(small_head_fix=False), estimator()
    (asked,), (blind,) = released(images(1), [[small]]), released(images(1), [[None]])
    np.testing.assert_array_equal(asked.heatmap, blind.heatmap)  # the head was never seen
    (better,) = fixed(images(1), [[small]])
    assert np.abs(better.heatmap - blind.heatmap).max() > 1e-3


def test_boxes_and_images_must_be_as_many() -> None:
    made = estimator()
    with pytest.raises(InputError, match="boxes for 1 images, found for 2"):
        made(images(1), [BOXES, BOXES])
    with pytest.raises(InputError, match="boxes for 1 images, found for 0"):
        made.decode(made.encode(images(1)), [])


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"image: expected an \(H, W, 3\) uint8 RGB image"):
        estimator().encode([wrong])


def test_images_are_normalised_then_squashed() -> None:
    (picture,) = images(1)
    picture.flags.writeable = False
    same = prepare_image(picture, (30, 60))
    grey = (picture[3, 5] / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(same[:, 3, 5].numpy(), grey, atol=1e-5)
    smooth = np.asarray(Image.fromarray(picture).resize((70, 90), Image.Resampling.BICUBIC))
    small = prepare_image(smooth, (28, 28)).numpy().transpose(1, 2, 0)
    levels = (small * np.array([0.229, 0.224, 0.225]) + np.array([0.485, 0.456, 0.406])) * 255
    pillow = np.asarray(Image.fromarray(smooth).resize((28, 28), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(levels - pillow).max() < 1.01  # Pillow rounds between its passes
