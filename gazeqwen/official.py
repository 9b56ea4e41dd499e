"""The published GazeQwen checkpoint: conversion to this project's folder, and its rules of time.

Source: phamtrongthang123/gazeqwen at c3195b1 (train.py writes `best_model.pt`, lora.py the adapter; the rules are in
data.py and train.py). A checkpoint is {state_dict, config, lora_state_dict, lora_config}, all fp32. What it doesn't
record (which layers, which LoRA targets, which base, which V-JEPA file) is added here and written to config.json.

Differs from upstream: read with `weights_only=True`; a tensor without a place stops the conversion instead of being
ignored; only the language model gets LoRA, in PEFT's own format, under the module names of transformers 4.57 and 5.x
(`model.language_model.layers`; upstream's names are those of 4.49, `model.layers`).
"""

from __future__ import annotations

import json
import math
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from gazeqwen.config import (
    VJEPA_SIZES,
    FeatureConfig,
    GazeEncodingConfig,
    GazeQwenConfig,
    ResamplerConfig,
    VJEPAConfig,
)
from gazeqwen.errors import InputError
from gazeqwen.resampler import OfficialResampler
from gazeqwen.types import Fixations

if TYPE_CHECKING:
    from peft import LoraConfig

PUBLISHED_LAYERS = (6, 13, 20, 27)
LORA_TARGETS = r".*language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"

_SIZES = ("d_vjepa", "d_llm", "n_latents", "d_latent", "n_blocks", "n_layers")
_LARGEST_SIZE = 1_000_000  # no module is built for a damaged config's numbers
_TRAINING_STATE = {"epoch", "optimizer", "scheduler", "early_stopping", "val_acc"}
# Older files have one module: no index for these, the block's index only for the others.
_FLAT_SINGLE = {
    "latents": "latents.{m}",
    "proj_in.weight": "proj_ins.{m}.weight",
    "proj_out.weight": "proj_outs.{m}.weight",
}
_FLAT_BLOCK = re.compile(r"(q_projs|k_projs|v_projs|g_projs|ff_blocks|block_norms)\.([0-9].*)")


def pick_fps(duration_s: float) -> float:
    """Frames a second that the published model takes from a clip of this length."""
    for longest_s, fps in ((30.0, 1.0), (60.0, 0.5), (300.0, 0.2)):
        if duration_s <= longest_s:
            return fps
    return 0.1


def official_frame_times(start_s: float, n_steps: int, fps: float) -> Tensor:
    """(n_steps,) float64 seconds that the published model believes its steps have: two frames a step at `fps`, whatever
    frames were really taken (wrong by up to minutes for long clips; kept for its checkpoint)."""
    return start_s + torch.arange(n_steps, dtype=torch.float64) * 2.0 / fps


def scanpath_tensor(fixations: Fixations, start_s: float, end_s: float) -> Tensor:
    """(N, 4) float32 x_norm, y_norm, mid_s, duration_s of the fixations whose middle lies in [start_s, end_s], by id.

    Both ends are included and compared in float32, as upstream does. A fixation that reaches over an end isn't cut.
    """
    order = np.argsort(fixations.ids, kind="stable")
    mid_s = (fixations.start_s + fixations.stop_s) / 2
    rows = np.column_stack([fixations.xy_norm, mid_s, fixations.duration_s])[order].astype(np.float32)
    inside = (rows[:, 2] >= np.float32(start_s)) & (rows[:, 2] <= np.float32(end_s))
    return torch.from_numpy(rows[inside])


def official_resampler_config(sizes: Mapping[str, int]) -> ResamplerConfig:
    """Our config for the sizes that a published checkpoint records (`d_latent`, `n_latents`, `n_blocks`)."""
    return ResamplerConfig(
        kind="official",
        dim=sizes["d_latent"],
        latents=sizes["n_latents"],
        blocks=sizes["n_blocks"],
        heads=1,
        layers=PUBLISHED_LAYERS,
        allow_last_layer=True,
    )


def convert_official(
    best_model: Path,
    *,
    base: str,
    vjepa: Path | str,
    out: Path,
    flat: Literal["refuse", "copy"] = "refuse",
    vjepa_config: VJEPAConfig | None = None,
) -> dict[str, Any]:
    """Writes `out/` (config.json, model.safetensors, lora/) from the published `best_model.pt`, all or nothing.

    Args:
        best_model: the checkpoint; `checkpoint_epochN.pt` works too, its training state is left out and reported.
        base: folder or hub id of the Qwen2.5-VL the checkpoint was trained on.
        vjepa: the V-JEPA 2.1 weights: an existing file (recorded with its full path), or a text recorded as it is.
        out: a folder that doesn't exist or is empty.
        flat: what to do with the older layout of one module, which upstream's own strict loading rejects: `refuse`, or
            `copy` that module to all four layers. That is a guess, and `config.trained` says so.
        vjepa_config: the encoder's shape; by default the published size with the checkpoint's feature width.

    Returns:
        A report in plain JSON types: out, layout, layers, tensors, parameters, lora_tensors, lora_parameters,
        last_layer_output_is_zero, left_out, notes.

    Raises:
        InputError: the file can't be read, is no such checkpoint, or holds a tensor that has no place; `out` is taken.
    """
    source, out = Path(best_model), Path(out)
    if isinstance(vjepa, Path) and not vjepa.is_file():
        raise InputError(vjepa, expected="the V-JEPA 2.1 weights", found="no such file")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(out, expected="a new or empty folder", found="something is there", fix="choose another --out")
    checkpoint = _load(source)
    sizes = _sizes(source, checkpoint["config"])
    state = _tensors(source, "state_dict", checkpoint["state_dict"])
    notes, layout = [], "published"
    if any(name.startswith("proj_in.") for name in state):
        state, layout = _unflatten(source, state, flat), "flat, module 0 copied"
        notes.append("older flat layout: module 0 was copied to all four layers, which is a guess")
    state = _resampler_state(source, state, sizes)
    lora, lora_config = _lora(source, checkpoint, sizes, base)
    if not lora:
        notes.append("the checkpoint has no LoRA")
    last_is_zero = not state[f"proj_outs.{len(PUBLISHED_LAYERS) - 1}.weight"].any()
    notes.append(
        f"the module of layer {PUBLISHED_LAYERS[-1]} is kept: with {sizes['n_layers']} layers "
        + ("it can't change the answer" if PUBLISHED_LAYERS[-1] == sizes["n_layers"] - 1 else "it reaches the answer")
    )
    left_out = sorted(_TRAINING_STATE & set(checkpoint))
    config = GazeQwenConfig(
        name="gazeqwen-official",
        base=base,
        vjepa_weights=str(Path(vjepa).resolve()) if Path(vjepa).is_file() else str(vjepa),
        compat="official",
        trained="published GazeQwen checkpoint" + ("" if layout == "published" else f" ({notes[0]})"),
        fps=pick_fps(60.0),  # of its usual window; compat="official" applies pick_fps to every clip
        lora=bool(lora),
        # 16 frames over the whole clip, 8 tubelets, interpolated to the clip's steps
        features=FeatureConfig(
            vjepa=vjepa_config or _vjepa_of_width(source, sizes["d_vjepa"]), window_frames=16, tubelets_per_step=8
        ),
        gaze_encoding=GazeEncodingConfig(name="official"),
        resampler=official_resampler_config(sizes),
    )
    _write(out, config, {f"resampler.{name}": tensor for name, tensor in state.items()}, lora, lora_config)
    return {
        "out": str(out),
        "layout": layout,
        "layers": list(PUBLISHED_LAYERS),
        "tensors": len(state),
        "parameters": sum(t.numel() for t in state.values()),
        "lora_tensors": len(lora),
        "lora_parameters": sum(t.numel() for t in lora.values()),
        "last_layer_output_is_zero": last_is_zero,
        "left_out": left_out,
        "notes": notes,
    }


def _load(source: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(source, expected="a readable checkpoint", found=error.strerror or str(error)) from error
    except (
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
        struct.error,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:  # what a damaged or foreign file makes torch's unpickler raise
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(source, expected="a torch.save file of tensors only", found=first_line[:160]) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config"} <= set(checkpoint):
        found = (
            f"keys {sorted(map(str, checkpoint))[:8]}" if isinstance(checkpoint, dict) else type(checkpoint).__name__
        )
        raise InputError(source, expected="a GazeQwen checkpoint with 'state_dict' and 'config'", found=found)
    unknown = sorted(
        map(str, set(checkpoint) - {"state_dict", "config", "lora_state_dict", "lora_config"} - _TRAINING_STATE)
    )
    if unknown:
        raise InputError(source, expected="only the published entries", found=f"also {unknown[:8]}")
    return checkpoint


def _sizes(source: Path, config: Any) -> dict[str, int]:
    if not isinstance(config, Mapping) or config.get("version") != "gazelens":
        found = f"version {config.get('version')!r}" if isinstance(config, Mapping) else type(config).__name__
        raise InputError(source, expected="config with version 'gazelens'", found=found)
    unknown = sorted(map(str, set(config) - set(_SIZES) - {"version"}))
    bad = {name: config.get(name) for name in _SIZES if not _is_size(config.get(name))}
    if bad or unknown:
        raise InputError(source, expected=f"config with the sizes {', '.join(_SIZES)}", found=str(bad or unknown)[:160])
    sizes = {name: int(config[name]) for name in _SIZES}
    if sizes["n_layers"] <= PUBLISHED_LAYERS[-1]:
        raise InputError(source, expected=f"n_layers > {PUBLISHED_LAYERS[-1]}", found=str(sizes["n_layers"]))
    if sizes["d_latent"] % 4:
        raise InputError(source, expected="d_latent divisible by 4", found=str(sizes["d_latent"]))
    return sizes


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _LARGEST_SIZE


def _tensors(source: Path, entry: str, tensors: Any) -> dict[str, Tensor]:
    """The entry's tensors as finite float32 copies that share no memory."""
    if not isinstance(tensors, Mapping):
        raise InputError(source, expected=f"{entry}: a mapping of tensors", found=type(tensors).__name__)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.isfinite().all():
            kind = "non-finite numbers" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(source, expected="finite floating-point tensors", found=f"{kind} in {entry}[{name!r}]")
    return {str(name): tensor.detach().float().clone().contiguous() for name, tensor in tensors.items()}


def _unflatten(source: Path, state: dict[str, Tensor], flat: str) -> dict[str, Tensor]:
    if flat != "copy":
        raise InputError(
            source,
            expected="four resampler modules (proj_ins.0 to .3)",
            found="the older flat layout with one module (proj_in.*), which upstream's strict loading rejects too",
            fix="pass flat='copy' to use that module at all four layers (a guess)",
        )
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = _FLAT_BLOCK.fullmatch(name)
        if name == "amplitude":
            renamed[name] = tensor
            continue
        if block is None and name not in _FLAT_SINGLE:
            raise InputError(source, expected="tensors of the published module", found=f"state_dict[{name!r}]")
        pattern = _FLAT_SINGLE[name] if block is None else f"{block[1]}.{{m}}.{block[2]}"
        for m in range(len(PUBLISHED_LAYERS)):
            renamed[pattern.replace("{m}", str(m))] = tensor.clone()
    return renamed


def _resampler_state(source: Path, state: dict[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """`state` if it is exactly what the module of these sizes holds."""
    if sizes["n_blocks"] > len(state):
        raise InputError(source, expected=f"tensors of {sizes['n_blocks']} blocks", found=f"{len(state)} tensors")
    with torch.device("meta"):
        module = OfficialResampler(
            official_resampler_config(sizes),
            feature_dim=sizes["d_vjepa"],
            hidden_dim=sizes["d_llm"],
            n_layers=sizes["n_layers"],
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    _same_names(source, "state_dict", wanted, state)
    for name, shape in wanted.items():
        if tuple(state[name].shape) != shape:
            raise InputError(source, expected=f"{name} of shape {shape}", found=str(tuple(state[name].shape)))
    return state


def _same_names(source: Path, entry: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if extra or missing:
        shown = f"{len(extra)} without a place {extra[:4]}, {len(missing)} missing {missing[:4]}"
        raise InputError(source, expected=f"{entry}: the {len(wanted)} published tensors", found=shown)


def _lora(
    source: Path, checkpoint: Mapping[str, Any], sizes: Mapping[str, int], base: str
) -> tuple[dict[str, Tensor], LoraConfig | None]:
    """The adapter's tensors under PEFT's names, and its config; nothing when the checkpoint has none."""
    tensors = _tensors(source, "lora_state_dict", checkpoint.get("lora_state_dict") or {})
    if not tensors:
        return {}, None
    from peft import LoraConfig  # takes seconds to import, and only a conversion needs it

    settings = checkpoint.get("lora_config")
    rank, alpha = (settings.get("rank"), settings.get("alpha")) if isinstance(settings, Mapping) else (None, None)
    if rank is None or not _is_size(rank) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise InputError(source, expected="lora_config with rank >= 1 and alpha > 0", found=repr(settings)[:80])
    plain = {name.replace("model.language_model.", "model.", 1): tensor for name, tensor in tensors.items()}
    modules = [
        f"layers.{layer}.self_attn.{projection}_proj" for layer in range(sizes["n_layers"]) for projection in "qv"
    ]
    wanted = {f"model.{module}.lora_{side}": (module, side) for module in modules for side in "AB"}
    _same_names(source, "lora_state_dict", wanted, plain)
    if len(plain) != len(tensors):
        raise InputError(source, expected="each LoRA tensor once", found="one under two names")
    renamed: dict[str, Tensor] = {}
    for name, (module, side) in wanted.items():
        shape = tuple(plain[name].shape)
        if len(shape) != 2 or shape[0 if side == "A" else 1] != rank or (side == "A" and shape[1] != sizes["d_llm"]):
            expected = f"({rank}, {sizes['d_llm']})" if side == "A" else f"(outputs, {rank})"
            raise InputError(source, expected=f"{name} of shape {expected}", found=str(shape))
        renamed[f"base_model.model.model.language_model.{module}.lora_{side}.weight"] = plain[name]
    config = LoraConfig(
        base_model_name_or_path=base,
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT types it as int and divides it as a number
        target_modules=LORA_TARGETS,
        inference_mode=True,
    )
    return renamed, config


def _vjepa_of_width(source: Path, dim: int) -> VJEPAConfig:
    for config in VJEPA_SIZES.values():
        if config.dim == dim:
            return config
    raise InputError(
        source,
        expected=f"features of a published V-JEPA 2.1 ({', '.join(str(c.dim) for c in VJEPA_SIZES.values())} channels)",
        found=f"d_vjepa {dim}",
        fix="pass vjepa_config=",
    )


def _write(
    out: Path,
    config: GazeQwenConfig,
    tensors: dict[str, Tensor],
    lora: dict[str, Tensor],
    lora_config: LoraConfig | None,
) -> None:
    """Everything into a sibling folder first; `out` appears complete or not at all."""
    staging = out.parent / f".{out.name}.{uuid4().hex}"
    try:
        staging.mkdir(parents=True)
        save_file(tensors, staging / "model.safetensors", metadata={"format": "pt"})
        if lora_config is not None:
            lora_config.save_pretrained(str(staging / "lora"))
            save_file(lora, staging / "lora" / "adapter_model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config.to_dict(), indent=2) + "\n"
        (staging / "config.json").write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        staging.rename(out)
    except OSError as error:
        raise InputError(out, expected="a folder that can be written", found=error.strerror or str(error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
