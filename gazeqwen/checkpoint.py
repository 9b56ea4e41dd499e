"""Saving and loading. A saved model is a folder:

    config.json          GazeQwenConfig
    model.safetensors    what this project trained: `resampler.*`, and `vjepa.*` unless config.json names a file for it
    backbone/            the Qwen2.5-VL and its tokenizer, only when config.base is empty (the model owns them)
    lora/                PEFT's adapter, when there is one
    arms/NAME/           model.safetensors and lora/ of an arm trained on its own (`load_arm`)
    README.md, train_config.yaml, results.json       what `gazeqwen train` tells of the weights

Weights are safetensors; loading is strict: a missing or left-over tensor is an error that names it. Everything is
written into a new folder beside the target and moved into place, so what was there survives a failure.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gazeqwen.arms import Arm, get_arm, require_weights
from gazeqwen.backbone import Backbone
from gazeqwen.config import GazeQwenConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.resampler import build_resampler
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm, tiny_tokenizer
from gazeqwen.tiny.model import SEED
from gazeqwen.vjepa import build_extractor
from gazeqwen.weight_files import (
    ARMS,
    BACKBONE,
    BACKBONE_TYPE,
    CONFIG,
    LORA,
    TOLD,
    WEIGHTS,
    Quantization,
    find_folder,
    first_line,
    load_backbone,
    load_lora,
    load_strict,
    load_vlm,
    read_json,
    read_weights,
)

if TYPE_CHECKING:
    from gazeqwen.model import GazeQwen


def load(
    name_or_path: str | Path,
    *,
    quantization: Quantization | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    vjepa: str | Path | None = None,
    base: str | None = None,
    local_files_only: bool = False,
    seed: int = SEED,
) -> GazeQwen:
    """A GazeQwen, ready to answer.

    Args:
        name_or_path: "tiny" (embedded, no network); a folder written by `save` or `convert`; a hub id of such a folder;
            or a plain Qwen2.5-VL (folder or hub id), which gets an untrained resampler and answers as itself.
        quantization: of the backbone's linear layers by bitsandbytes; None, "nf4" (double-quantised 4 bit) or "int8".
            The vision tower, the embeddings and the head stay as they are.
        device: default CUDA when there is one, else CPU.
        dtype: of the backbone; default bfloat16 on CUDA, float32 on CPU. The resampler and V-JEPA are always float32.
        vjepa: V-JEPA 2.1 weights, over what config.json names.
        base: backbone folder or hub id, over what config.json names.
        local_files_only: never ask the hub; what is not in its cache is an error.
        seed: of the tiny model's random weights.

    Raises:
        InputError: files are absent, damaged, or don't fit each other; says which and where to get them.
        ConfigError: config.json or an argument is not understood.
    """
    from gazeqwen.model import GazeQwen

    if quantization not in (None, "nf4", "int8"):
        raise ConfigError(f"quantization: None, 'nf4' or 'int8', got {quantization!r}")
    where, kind = _device(device), _dtype(dtype)
    kind = kind or (torch.bfloat16 if where.type == "cuda" else torch.float32)
    if str(name_or_path) == "tiny":
        if vjepa is not None or base is not None:
            raise ConfigError("'tiny' has its backbone and V-JEPA built in: it takes neither base nor vjepa")
        return _load_tiny(quantization, where, kind, seed)
    folder = find_folder(name_or_path, local_files_only)
    saved = read_json(folder / CONFIG)
    if saved.get("model_type") == BACKBONE_TYPE:  # a backbone as its makers publish it
        config = GazeQwenConfig(
            name=str(name_or_path),
            base=str(folder.resolve() if Path(name_or_path).is_dir() else name_or_path),
            trained="plain backbone, no gaze training",
        )
        weights = None
    else:
        try:
            config = GazeQwenConfig.from_dict(saved)
        except ConfigError as error:
            raise ConfigError(f"{folder / CONFIG}: {error}") from error
        weights = read_weights(folder / WEIGHTS)
        if vjepa is not None:
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith("vjepa.")}
    backbone_at = base or config.base
    backbone_folder = (
        find_folder(backbone_at, local_files_only, relative_to=folder) if backbone_at else folder / BACKBONE
    )
    vlm, tokenizer = load_backbone(backbone_folder, quantization, where, kind)
    if config.lora:
        vlm = load_lora(vlm, folder / LORA)
    config, extractor = _load_extractor(config, folder, vjepa, weights)
    model = GazeQwen(config, vlm=vlm, tokenizer=tokenizer, extractor=extractor)
    if weights is not None:
        parts: dict[str, nn.Module] = {"resampler.": model.resampler}
        if any(name.startswith("vjepa.") for name in weights):
            parts["vjepa."] = model.extractor.encoder  # type: ignore[union-attr]
        load_strict(parts, weights, folder / WEIGHTS)
    model.arms_folder = folder / ARMS if (folder / ARMS).is_dir() else None
    return _place(model, where)


def load_arm(model: GazeQwen, name_or_path: str | Path | None, arm: Arm | str) -> GazeQwen:
    """Puts the weights that an arm answers with into a model that was just loaded, and gives it back.

    An arm's own weights lie in arms/NAME/ of the model's folder: `model.safetensors` with the resampler, strictly, when
    the arm injects and only then; `lora/` with an adapter, which takes the place of the model's own (without one, the
    arm runs without). `skip-only` has a resampler of its own kind.

    Args:
        name_or_path: as for `load`; None for where the model came from.

    For arms that may have weights of their own, a sentence that says whose answer joins `model.notes`, which every
    answer carries.

    Raises (the model is then to be loaded anew):
        ConfigError: the arm needs weights of its own and the folder has none; the arm is a solver; the model holds
            another arm's weights already; a published checkpoint (compat="official") has no such arm.
        InputError: the weights are damaged, or don't fit the model.
    """
    arm = get_arm(arm)
    require_weights(replace(arm, weights="model"), model.arm_weights)
    if arm.weights == "model" or model.arm_weights == arm.name:
        return model
    arms = model.arms_folder
    if name_or_path is not None:
        arms = None if str(name_or_path) == "tiny" else find_folder(name_or_path, local_files_only=True) / ARMS
    if arms is None or not (arms / arm.name).is_dir():
        if arm.weights == "own":
            looked = f"and there is no folder {arms / arm.name}" if arms else f"and {model.config.name!r} comes without"
            raise ConfigError(
                f"arm {arm.name!r} answers with weights trained for it, {looked}; "
                f"`gazeqwen train --set arm={arm.name}` makes them"
            )
        note = f"arm {arm.name!r} answers with the model's usual weights: it comes without any trained for this arm"
    else:
        put_arm(model, arm, arms / arm.name)
        note = f"arm {arm.name!r} answers with weights trained for it ({ARMS}/{arm.name})"
    model.notes += (note,)
    return model


def put_arm(model: GazeQwen, arm: Arm | str, folder: Path) -> None:
    """Puts what an arm's training wrote into `folder` in place of the model's resampler and adapter.

    Raises:
        ConfigError: a published checkpoint.
        InputError: the weights are absent or damaged, or don't fit the model.
    """
    arm = get_arm(arm)
    if model.official:
        raise ConfigError(f"{folder}: a published checkpoint (compat='official') takes no arm's weights")
    weights, has_lora = folder / WEIGHTS, (folder / LORA).is_dir()
    if weights.is_file() != arm.inject or not (weights.is_file() or has_lora):
        wanted = WEIGHTS if arm.inject else f"{LORA}/ and no {WEIGHTS}"
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise InputError(folder, expected=wanted, found=found)
    config, resampler = replace(model.config, lora=has_lora), model.resampler
    if arm.name == "skip-only":
        config = replace(config, resampler=replace(config.resampler, kind="skip"))
    if arm.inject:
        feature_dim: Any = model.extractor.dim if model.extractor is not None else config.features.vjepa.dim
        resampler = build_resampler(
            config,
            feature_dim=feature_dim,
            hidden_dim=model.backbone.hidden_size,
            n_layers=model.backbone.n_layers,
        )
        load_strict({"resampler.": resampler}, read_weights(weights), weights)
    vlm = model.vlm
    if hasattr(vlm, "peft_config"):
        vlm = vlm.unload()  # type: ignore[operator]
    if has_lora:
        vlm = load_lora(vlm, folder / LORA).requires_grad_(False)
    model.vlm, model.backbone = vlm, Backbone(vlm)
    model.resampler = resampler.to(model.backbone.device)
    model.config, model.arm_weights = config, "" if arm.name == "inject" else arm.name
    model.eval()


def save(model: GazeQwen, folder: str | Path) -> Path:
    """Writes the model; `load` gives it back bit for bit. An existing folder is replaced only when it is a saved model
    and nothing else, so neither a plain Qwen2.5-VL nor anything of the user's is lost. Weights of other arms (arms/)
    that the model was loaded with go along.

    Raises:
        InputError: the folder holds something else, or can't be written; or the other arms' weights are gone.
        ConfigError: the backbone would have to be saved and is quantised, or the model holds an arm's weights.
    """
    folder = Path(folder)
    if model.arm_weights:
        raise ConfigError(f"the model holds the weights of arm {model.arm_weights!r}: load it anew, then save it")
    if model.arms_folder is not None and not model.arms_folder.is_dir():
        raise InputError(
            model.arms_folder, expected="the other arms' weights, to be saved too", found="no such folder any more"
        )
    odd = _not_ours(folder)
    if odd:
        raise InputError(
            folder, expected="a new or empty folder, or a saved model", found=odd, fix="choose another one"
        )
    try:
        _write(model, folder)
    except OSError as error:
        raise InputError(folder, expected="a folder that can be written", found=error.strerror or str(error)) from error
    return folder


def _not_ours(folder: Path) -> str:
    """What in `folder` was not put there by `save`; empty when it may be replaced."""
    if not folder.exists():
        return ""
    if not folder.is_dir():
        return "a file"
    names = {path.name for path in folder.iterdir()}
    if not names:
        return ""
    foreign = sorted(names - {CONFIG, WEIGHTS, BACKBONE, LORA, ARMS, *TOLD})
    if foreign:
        return f"{foreign[0]} in it"
    saved = read_json(folder / CONFIG) if CONFIG in names else {}
    return "" if WEIGHTS in names and "resampler" in saved else "another kind of model"


def _write(model: GazeQwen, folder: Path) -> None:
    lora = hasattr(model.vlm, "peft_config")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        config = replace(model.config, lora=lora)
        (staging / CONFIG).write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
        tensors = {f"resampler.{name}": tensor for name, tensor in model.resampler.state_dict().items()}
        if isinstance(model.extractor, nn.Module) and not model.config.vjepa_weights:
            tensors |= {f"vjepa.{name}": tensor for name, tensor in model.extractor.encoder.state_dict().items()}  # type: ignore[union-attr]
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, staging / WEIGHTS)
        if not model.config.base:
            if getattr(model.backbone.bare, "is_quantized", False):
                raise ConfigError("a quantised backbone can't be saved: load it with quantization=None")
            bare = model.backbone.bare
            # PEFT puts its layers inside the backbone: saved are the backbone's own tensors under their own names.
            own = {k.replace(".base_layer.", "."): v for k, v in bare.state_dict().items() if ".lora_" not in k}
            bare.save_pretrained(staging / BACKBONE, state_dict=own)
            model.tokenizer.save_pretrained(staging / BACKBONE)
        if lora:
            model.vlm.save_pretrained(staging / LORA)  # type: ignore[operator]
        if model.arms_folder is not None:
            shutil.copytree(model.arms_folder, staging / ARMS)
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, folder: Path) -> None:
    """Puts `staging` in the place of `folder`; the old one is removed only when the new one stands."""
    staging.chmod(0o755)
    if not folder.exists():
        staging.rename(folder)
        return
    old = staging.with_name(staging.name + ".old")
    folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _load_tiny(quantization: Quantization | None, where: torch.device, kind: torch.dtype, seed: int) -> GazeQwen:
    from gazeqwen.model import GazeQwen

    vlm: nn.Module = build_tiny_vlm(seed=seed)
    if quantization is None:
        vlm.to(kind)  # type: ignore[call-arg]  # as nn.Module.to
    else:  # bitsandbytes quantises while loading, so the random weights take a turn through a folder
        with tempfile.TemporaryDirectory() as folder:
            vlm.save_pretrained(folder)  # type: ignore[operator]
            vlm = load_vlm(Path(folder), quantization, where, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        extractor = build_extractor(TINY_CONFIG.features)
        model = GazeQwen(TINY_CONFIG, vlm=vlm, tokenizer=tiny_tokenizer(), extractor=extractor)
    return _place(model, where)


def _device(name: str | torch.device | None) -> torch.device:
    try:
        return torch.device(name if name is not None else ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device: {first_line(error)}") from error


def _dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    kind = getattr(torch, name, None) if isinstance(name, str) else name
    if name is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ConfigError(f"dtype: a floating-point type of torch like 'bfloat16', got {name!r}")
    return kind


def _place(model: GazeQwen, where: torch.device) -> GazeQwen:
    if not getattr(model.backbone.bare, "is_quantized", False):
        model.vlm.to(where)
    model.resampler.to(where)
    if isinstance(model.extractor, nn.Module):
        model.extractor.to(where)
    return model.eval()


def _load_extractor(
    config: GazeQwenConfig, folder: Path, vjepa: str | Path | None, weights: dict[str, Tensor] | None
) -> tuple[GazeQwenConfig, Any | None]:
    """The video feature extractor (None without V-JEPA weights), and the config with the path they were found at."""
    if vjepa is not None:
        named = str(Path(vjepa).resolve()) if config.vjepa_weights else ""  # else they go into model.safetensors
        return replace(config, vjepa_weights=named), build_extractor(config.features, vjepa)
    if config.vjepa_weights:
        named = Path(config.vjepa_weights)
        found = next((path for path in (named, folder / named) if path.is_file()), None)
        if found is None:
            raise InputError(
                named, expected="the V-JEPA weights that config.json names", found="no such file", fix="pass vjepa=FILE"
            )
        return replace(config, vjepa_weights=str(found.resolve())), build_extractor(config.features, found)
    inside = weights is not None and any(name.startswith("vjepa.") for name in weights)
    if inside or (config.features.extractor == "vjepa2_hf" and config.features.hf_id):
        return config, build_extractor(config.features)
    return config, None
