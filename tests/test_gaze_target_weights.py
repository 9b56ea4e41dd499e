"""Gaze-LLE's released files and DINOv2: what was saved is loaded, and a file that is not exactly that is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.gaze_target import (
    GazeTargetEstimator,
    fit_dinov2,
    head_masks,
    load_dinov2,
    load_gaze_decoder,
    prepare_image,
)
from tests.made_gaze_target import BOXES, GRID, WIDTH, decoder, dinov2, images, write_weights

# --- DINOv2 ----------------------------------------------------------------------------------------------------------


def cubic(values: np.ndarray, cells: int) -> np.ndarray:
    """(n, D) stretched to (cells, D): cubic convolution (a = -0.75) at DINOv2's own scale, (cells + 0.1) / n."""

    def weight(distance: float) -> float:
        d, a = abs(distance), -0.75
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0

    n, out = len(values), []
    for cell in range(cells):
        source = (cell + 0.5) * n / (cells + 0.1) - 0.5
        near = math.floor(source)
        out.append(sum(weight(source - k) * values[min(max(k, 0), n - 1)] for k in range(near - 1, near + 3)))
    return np.stack(out)


@pytest.mark.parametrize("stored", [5, 3])
def test_positions_are_resized_by_dinov2s_own_rule(stored: int) -> None:
    made = dinov2(stored_grid=stored)
    held = made.embeddings.position_embeddings.detach()[0].numpy().astype(np.float64).copy()
    fitted: Any = fit_dinov2(made, (GRID, GRID))
    table = held[1:].reshape(stored, stored * WIDTH)
    table = cubic(table, GRID).reshape(GRID, stored, WIDTH).transpose(1, 0, 2)  # columns first
    table = cubic(table.reshape(stored, GRID * WIDTH), GRID).reshape(GRID, GRID, WIDTH).transpose(1, 0, 2)
    expected = np.concatenate([held[:1], table.reshape(-1, WIDTH)])
    np.testing.assert_allclose(fitted.embeddings.position_embeddings[0].numpy(), expected, atol=1e-5)
    pixels = torch.randn(1, 3, 14 * GRID, 14 * GRID)
    with torch.no_grad():
        tokens = fitted.embeddings(pixels) - torch.cat(
            (fitted.embeddings.cls_token, fitted.embeddings.patch_embeddings(pixels)), dim=1
        )
    np.testing.assert_allclose(tokens[0].numpy(), expected, atol=1e-5)  # used as they are, not resized again


def test_features_are_transformers_own_where_nothing_is_resized() -> None:
    made = GazeTargetEstimator(fit_dinov2(dinov2(stored_grid=GRID), (GRID, GRID)), decoder())
    assert made.input_hw_px == (56, 56) and not any(p.requires_grad for p in made.backbone.parameters())
    pictures = images(2)
    with torch.no_grad():
        pixels = torch.stack([prepare_image(picture, (56, 56)) for picture in pictures])
        tokens = dinov2(stored_grid=GRID)(pixel_values=pixels).last_hidden_state[:, 1:]
    features = made.encode(pictures)
    torch.testing.assert_close(features[1, :, 2, 3], tokens[1, 2 * GRID + 3], rtol=0, atol=1e-5)
    torch.testing.assert_close(made.encode(pictures[1:])[0], features[1], rtol=0, atol=1e-5)


def test_a_grid_that_is_not_square_is_refused() -> None:
    with pytest.raises(InputError, match="square grid, found 4 x 5"):
        fit_dinov2(dinov2(), (4, 5))


def test_decoder_and_backbone_must_have_one_width() -> None:
    with pytest.raises(InputError, match="features of width 24, found 12"):
        GazeTargetEstimator(fit_dinov2(dinov2(width=12), (GRID, GRID)), decoder())


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inout", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_was_saved_is_what_is_loaded(tmp_path: Path, inout: bool, suffix: str) -> None:
    made = decoder(inout=inout)
    made.pos_embed.mul_(0.5)  # loaded, not computed
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pt" else save_file)(made.state_dict(), path)  # type: ignore[operator]
    loaded = load_gaze_decoder(path, heads=2)
    assert loaded.config == made.config and not loaded.training
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in made.state_dict().items())
    features, masks = torch.randn(1, WIDTH, GRID, GRID), head_masks(BOXES, (GRID, GRID))
    with torch.no_grad():
        (ours, a), (theirs, b) = (each(features, masks, torch.zeros(3, dtype=torch.long)) for each in (made, loaded))
    assert torch.equal(ours, theirs) and (a is None or torch.equal(a, b))


def test_half_precision_files_are_read_as_float32(tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in decoder().state_dict().items()}, tmp_path / "half.safetensors")
    loaded = load_gaze_decoder(tmp_path / "half.safetensors", ln_eps=1e-6)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert loaded.config.ln_eps == 1e-6


Change = Callable[[dict[str, Any]], Any]


def _without(state: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: _without(s, "transformer.1.norm2.bias"),
            r"the 45 tensors .* missing 1 \(transformer.1.norm2.bias\)",
        ),
        (lambda s: _without(s, "inout_head.0.bias", "inout_head.3.bias"), "missing 2"),
        (lambda s: _without(s, "inout_token.weight"), "the 40 tensors .* unexpected 4"),
        (lambda s: s | {"backbone.cls_token": torch.zeros(1)}, r"unexpected 1 \(backbone.cls_token\)"),
        (lambda s: s | {"head_token.weight": torch.zeros(1, 8)}, r"of another shape 1 \(head_token.weight\)"),
        (lambda s: s | {"linear.bias": torch.zeros(16, dtype=torch.long)}, r"not floating-point 1"),
        (lambda s: _without(s, "pos_embed"), "a Gaze-LLE decoder with pos_embed"),
        (lambda s: s | {"pos_embed": torch.zeros(16, 4)}, r"pos_embed \(3 axes\), found shape \(16, 4\)"),
        (lambda s: s | {"pos_embed": torch.zeros(12, 4, 4)}, "multiple of 4 and of heads"),
        (lambda s: {"state_dict": s}, r"a Gaze-LLE state dict, found keys \['state_dict'\]"),
        (lambda s: {"encoder.weight": torch.zeros(2)}, "a Gaze-LLE decoder with pos_embed"),
        (lambda s: [1, 2], "a Gaze-LLE state dict, found list"),
        (lambda s: Path("x"), "plain tensors, found pathlib"),
    ],
)
def test_a_file_that_is_not_exactly_a_decoder_is_refused_in_one_line(tmp_path: Path, change: Change, said: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(change(dict(decoder().state_dict())), path)
    with pytest.raises(InputError, match=said) as caught:
        load_gaze_decoder(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"cut"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pt" else save_file)(decoder().state_dict(), path)  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:-200] if content == b"cut" else content)
    with pytest.raises(InputError, match=r"weights\.(pt|safetensors): expected"):
        load_gaze_decoder(path)
    with pytest.raises(InputError, match=r"expected Gaze-LLE weights .* found no such file"):
        load_gaze_decoder(tmp_path / "absent.pt")


def test_an_impossible_ln_eps_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    weights, _ = write_weights(tmp_path)
    with pytest.raises(ConfigError, match="ln_eps must lie between 0 and 1"):
        load_gaze_decoder(weights, ln_eps=2.0)


def test_from_pretrained_is_the_parts_put_together(tmp_path: Path) -> None:
    weights, backbone = write_weights(tmp_path)
    loaded = GazeTargetEstimator.from_pretrained(weights, backbone, local_files_only=True, device="cpu")
    assert loaded.origin == f"gazelle.pt on {backbone}" and loaded.small_head_fix and loaded.has_inout
    parts = GazeTargetEstimator(fit_dinov2(dinov2(), (GRID, GRID)), load_gaze_decoder(weights))
    (one,), (other,) = loaded(images(1), [BOXES]), parts(images(1), [BOXES])
    np.testing.assert_array_equal(one.heatmap, other.heatmap)
    with pytest.raises(InputError, match="device: expected cpu, cuda"):
        GazeTargetEstimator.from_pretrained(weights, backbone, device="abacus")


def test_a_backbone_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, folder = write_weights(tmp_path)
    options: dict[str, Any] = {"grid_hw": (GRID, GRID), "feature_dim": WIDTH, "local_files_only": True}
    assert load_dinov2(folder, **options)
    with pytest.raises(InputError, match=r"width 768, .* found width 24; use facebook/dinov2-base"):
        load_dinov2(folder, **{**options, "feature_dim": 768})
    for absent in (tmp_path / "absent", "nobody/nothing-of-this-name"):
        with pytest.raises(InputError, match=r"expected (a DINOv2 folder|weights in a local folder)"):
            load_dinov2(absent, **options)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "dinov2_with_registers"}))
    with pytest.raises(InputError, match="model_type 'dinov2', found 'dinov2_with_registers'"):
        load_dinov2(folder, **options)
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    for change, said in (
        (_without(state, "layernorm.weight"), "1 missing, e.g. layernorm.weight"),
        (state | {"more": torch.zeros(1)}, "1 left over, e.g. more"),
    ):
        save_file(change, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=said):
            load_dinov2(folder, **options)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="DINOv2 weights"):
        load_dinov2(folder, **options)
