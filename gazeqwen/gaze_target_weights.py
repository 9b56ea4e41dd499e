"""Gaze-LLE's released files and the DINOv2 they stand on, both read strictly.

A released file (`gazelle_dinov2_vitb14.pt`, `..._inout.pt`, ViT-L and ChildPlay alike) holds the decoder alone: 40
tensors, 45 with the in/out head. Its shape is read from them. The released loader prints a warning about names that
differ and goes on; here a file is exactly the decoder or an error. `pos_embed` is loaded like the rest, never computed.

The backbone is a `Dinov2Model` of transformers. What Gaze-LLE was trained with is DINOv2's own code, whose position
embeddings are interpolated to the patch grid by a scale of (cells + 0.1) / stored cells; transformers interpolates to
the size, without the 0.1. The weights are meant for the first, so the embeddings are resized once, here, by that rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.gaze_target_decoder import GazeDecoder, GazeDecoderConfig
from gazeqwen.torch_files import load_exactly, read_torch_file
from gazeqwen.weight_files import CONFIG, LOADING_ERRORS, find_folder, first_line, read_json, require_whole

BACKBONE_TYPE = "dinov2"
SCALE_OFFSET = 0.1  # cells, of DINOv2's own interpolation
DINOV2_BY_WIDTH = {768: "facebook/dinov2-base", 1024: "facebook/dinov2-large"}
_PLAIN = "torch.load(FILE, weights_only=False, map_location='cpu')"


def load_gaze_decoder(path: str | Path, *, heads: int = 8, ln_eps: float = 1e-5) -> GazeDecoder:
    """The decoder of a released `.pt` file, or of a safetensors file with the same names, in eval mode, float32.

    Args:
        heads: attention heads, which no tensor tells; 8 in every released file.
        ln_eps: as `GazeDecoderConfig.ln_eps`.

    Raises:
        InputError: unreadable, in need of a full pickle load, or not exactly the tensors of a decoder.
        ConfigError: `ln_eps` is impossible.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, expected="Gaze-LLE weights (.pt or .safetensors)", found="no such file")
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(path, expected="a safetensors file", found=str(error)) from error
    else:
        content = read_torch_file(path, plain=_PLAIN)
    if not (isinstance(content, dict) and all(isinstance(tensor, Tensor) for tensor in content.values())):
        found = f"keys {list(map(str, content))[:5]}" if isinstance(content, dict) else type(content).__name__
        raise InputError(path, expected="a dictionary of tensors, a Gaze-LLE state dict", found=found)
    state = {str(name): tensor for name, tensor in content.items()}
    with torch.device("meta"):
        decoder = GazeDecoder(_shape_of(state, path, heads=heads, ln_eps=ln_eps))
    load_exactly(decoder, state, path, what="a Gaze-LLE decoder")
    return decoder.float().eval()


def _shape_of(state: dict[str, Tensor], path: Path, *, heads: int, ln_eps: float) -> GazeDecoderConfig:
    """What the tensors that decide the shape say; the others are compared with it afterwards."""
    inout = "inout_head.0.weight" if "inout_token.weight" in state else None
    wanted = {"pos_embed": 3, "linear.weight": 4, "transformer.0.mlp.fc1.weight": 2} | ({inout: 2} if inout else {})
    for name, axes in wanted.items():
        if name not in state or state[name].ndim != axes or 0 in state[name].shape:
            found = f"keys {list(state)[:5]}" if name not in state else f"shape {tuple(state[name].shape)}"
            raise InputError(path, expected=f"a Gaze-LLE decoder with {name} ({axes} axes)", found=found)
    dim, *grid_hw = state["pos_embed"].shape
    settings: dict[str, Any] = {
        "feature_dim": state["linear.weight"].shape[1],
        "dim": dim,
        "grid_hw": tuple(grid_hw),
        "layers": len({name.split(".")[1] for name in state if name.startswith("transformer.")}),
        "mlp_dim": state["transformer.0.mlp.fc1.weight"].shape[0],
        "inout_dim": state[inout].shape[0] if inout else 0,
    }
    GazeDecoderConfig(heads=1, ln_eps=ln_eps)  # a wrong ln_eps is not the file's fault
    try:
        return GazeDecoderConfig(**settings, heads=heads, ln_eps=ln_eps)
    except ConfigError as error:
        raise InputError(path, expected="a Gaze-LLE decoder", found=str(error)) from error


def load_dinov2(
    source: str | Path, *, grid_hw: tuple[int, int], feature_dim: int, local_files_only: bool = False
) -> nn.Module:
    """A frozen `Dinov2Model` whose position embeddings are those of the decoder's grid.

    Args:
        source: a folder with config.json and safetensors, or a hub id.
        grid_hw, feature_dim: of the decoder.
        local_files_only: never ask the hub.

    Raises:
        InputError: no such folder or id, another kind of model, damaged or not exactly its tensors, or of another width
            than the decoder's.
    """
    folder = find_folder(source, local_files_only, expected="a DINOv2 folder or a hub id such as facebook/dinov2-base")
    settings = read_json(folder / CONFIG)
    if settings.get("model_type") != BACKBONE_TYPE:
        found = repr(settings.get("model_type"))
        raise InputError(folder / CONFIG, expected=f"model_type {BACKBONE_TYPE!r}", found=found)
    if settings.get("hidden_size") != feature_dim:
        raise InputError(
            source,
            expected=f"a DINOv2 of width {feature_dim}, which the decoder's weights are for",
            found=f"width {settings.get('hidden_size')}",
            fix=f"use {DINOV2_BY_WIDTH[feature_dim]}" if feature_dim in DINOV2_BY_WIDTH else "",
        )
    from transformers import Dinov2Model

    try:
        loaded: Any = Dinov2Model.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            local_files_only=True,
        )
        model, info = loaded
    except LOADING_ERRORS as error:
        raise InputError(
            folder, expected="DINOv2 weights (config.json and *.safetensors)", found=first_line(error)
        ) from error
    require_whole(info, folder, "a Dinov2Model")
    return fit_dinov2(model, grid_hw)


def fit_dinov2(model: Any, grid_hw: tuple[int, int]) -> nn.Module:
    """The same model, frozen and in eval mode, with its position embeddings resized to `grid_hw` by DINOv2's own rule.

    Raises:
        InputError: a grid that is not square (Gaze-LLE squashes every image to a square).
    """
    h, w = grid_hw
    if h != w:
        raise InputError("gaze decoder", expected="weights for a square grid", found=f"{h} x {w} cells")
    held = model.embeddings.position_embeddings.detach()
    side = round((held.shape[1] - 1) ** 0.5)
    if side != h:
        cells = held[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        scale = (h + SCALE_OFFSET) / side
        resized = F.interpolate(cells, scale_factor=(scale, scale), mode="bicubic").flatten(2).transpose(1, 2)
        model.embeddings.position_embeddings = nn.Parameter(torch.cat((held[:, :1], resized.to(held)), dim=1))
    return model.eval().requires_grad_(False)
