"""Saving and loading. A saved model is a folder:

    config.json          GazeQwenConfig
    model.safetensors    what this project trained: `resampler.*`, and `vjepa.*` unless config.json names a file for it
    backbone/            the Qwen2.5-VL and its tokenizer, only when config.base is empty (the model owns them)
    lora/                PEFT's adapter, when there is one

Weights are safetensors; loading is strict: a missing or left-over tensor is an error that names it. Everything is
written into a new folder beside the target and moved into place, so what was there survives a failure.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

from gazeqwen.backbone import Backbone
from gazeqwen.config import GazeQwenConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.prompts import TURN_END, VIDEO_PAD, VISION_END, VISION_START
from gazeqwen.tiny import TINY_CONFIG, build_tiny_vlm, tiny_tokenizer
from gazeqwen.tiny.model import SEED
from gazeqwen.vjepa import build_extractor

if TYPE_CHECKING:
    from gazeqwen.model import GazeQwen

Quantization = Literal["nf4", "int8"]
CONFIG, WEIGHTS, BACKBONE, LORA = "config.json", "model.safetensors", "backbone", "lora"
BACKBONE_TYPE = "qwen2_5_vl"
SPOKEN_TOKENS = ("<|im_start|>", TURN_END, VISION_START, VISION_END, VIDEO_PAD)
NF4_BLOCK = 64  # weights that share a scale, bitsandbytes' default
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", f"{LORA}/*", f"{BACKBONE}/*"]


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
    folder = _folder(name_or_path, local_files_only)
    saved = _read_json(folder / CONFIG)
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
        weights = _read_weights(folder / WEIGHTS)
        if vjepa is not None:
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith("vjepa.")}
    backbone_at = base or config.base
    backbone_folder = _folder(backbone_at, local_files_only, relative_to=folder) if backbone_at else folder / BACKBONE
    vlm, tokenizer = _load_backbone(backbone_folder, quantization, where, kind)
    if config.lora:
        vlm = _load_lora(vlm, folder / LORA)
    config, extractor = _load_extractor(config, folder, vjepa, weights)
    model = GazeQwen(config, vlm=vlm, tokenizer=tokenizer, extractor=extractor)
    if weights is not None:
        _load_strict(model, weights, folder / WEIGHTS)
    return _place(model, where)


def save(model: GazeQwen, folder: str | Path) -> Path:
    """Writes the model; `load` gives it back bit for bit. An existing folder is replaced only when it is a saved model
    and nothing else, so neither a plain Qwen2.5-VL nor anything of the user's is lost.

    Raises:
        InputError: the folder holds something else, or can't be written.
        ConfigError: the backbone would have to be saved and is quantised.
    """
    folder = Path(folder)
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
    foreign = sorted(names - {CONFIG, WEIGHTS, BACKBONE, LORA})
    if foreign:
        return f"{foreign[0]} in it"
    saved = _read_json(folder / CONFIG) if CONFIG in names else {}
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
            vlm = _load_vlm(Path(folder), quantization, where, kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        extractor = build_extractor(TINY_CONFIG.features)
        model = GazeQwen(TINY_CONFIG, vlm=vlm, tokenizer=tiny_tokenizer(), extractor=extractor)
    return _place(model, where)


def _device(name: str | torch.device | None) -> torch.device:
    try:
        return torch.device(name if name is not None else ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device: {_first_line(error)}") from error


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


def _folder(name: str | Path, local_files_only: bool, *, relative_to: Path | None = None) -> Path:
    """The local folder of a path or hub id."""
    for candidate in (Path(name), *([relative_to / str(name)] if relative_to else [])):
        if candidate.is_dir():
            if not (candidate / CONFIG).is_file():
                raise InputError(candidate, expected=f"a model folder with {CONFIG}", found="none in it")
            return candidate
    text = str(name)
    if Path(name).exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise InputError(name, expected="'tiny', a model folder, or a hub id like owner/name", found="no such folder")
    try:
        return Path(snapshot_download(text, local_files_only=local_files_only, allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            how = "it is not in the local hub cache" + ("" if local_files_only else " and the hub can't be reached")
        else:
            how = f"{type(error).__name__}: {_first_line(error)}"
        raise InputError(
            text,
            expected="weights in a local folder, in the hub cache, or on the hub",
            found=how,
            fix="download it where there is a network and pass the folder (docs/models.md)",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(path, expected="a JSON config", found=f"{type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(path, expected="a JSON object", found=type(value).__name__)
    return value


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            path, expected="the model's weights", found="no such file", fix="save or convert the model again"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(path, expected="a safetensors file", found=str(error)) from error


def _load_backbone(
    folder: Path, quantization: Quantization | None, where: torch.device, kind: torch.dtype
) -> tuple[nn.Module, Any]:
    if not folder.is_dir():
        raise InputError(folder, expected="a Qwen2.5-VL folder", found="no such folder", fix="pass base=FOLDER")
    # Asked first: without a model type transformers would make up a 7B model and fill the memory with it.
    model_type = _read_json(folder / CONFIG).get("model_type")
    if model_type != BACKBONE_TYPE:
        raise InputError(folder / CONFIG, expected=f"model_type {BACKBONE_TYPE!r}", found=repr(model_type))
    vlm = _load_vlm(folder, quantization, where, kind)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library has no narrower type for a damaged file
        raise InputError(folder, expected="the backbone's tokenizer files", found=_first_line(error)) from error
    # Without files transformers 5 makes an empty tokenizer, without a word.
    odd = [token for token in SPOKEN_TOKENS if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
    if odd:
        raise InputError(
            folder, expected="the backbone's tokenizer files", found=f"a tokenizer that does not know {odd[0]}"
        )
    return vlm, tokenizer


# What transformers raises for a folder that is damaged, or whose config.json holds values of the wrong kind.
_LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError, StrictDataclassError)


def _load_vlm(folder: Path, quantization: Quantization | None, where: torch.device, kind: torch.dtype) -> nn.Module:
    options: dict[str, Any] = {"dtype": kind, "attn_implementation": "sdpa", "local_files_only": True}
    if quantization is not None:
        # The vision tower is small beside the decoder and its accuracy matters most; lm_head is tied in small models.
        skip = ["visual", "model.visual", "lm_head"]
        options["quantization_config"] = (
            BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=kind,
                llm_int8_skip_modules=skip,
            )
            if quantization == "nf4"
            else BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
        )
        options["device_map"] = {"": where}
    try:
        loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True, **options)
        vlm, info = loaded
    except _LOADING_ERRORS as error:
        raise InputError(
            folder,
            expected="Qwen2.5-VL weights (config.json and *.safetensors)",
            found=_first_line(error),
            fix="download the model and pass its folder (docs/models.md)",
        ) from error
    for what, names in (("missing", info["missing_keys"]), ("left over", info["unexpected_keys"])):
        if names:
            raise InputError(
                folder, expected="the tensors of a Qwen2.5-VL", found=f"{len(names)} {what}, e.g. {min(names)}"
            )
    if quantization == "nf4":
        _allow_odd_widths(vlm)
    return vlm.eval()


def _allow_odd_widths(vlm: nn.Module) -> None:
    """Keeps bitsandbytes off its path for CPUs with AVX512-BF16 where rows are not whole blocks: it fails on them."""
    from bitsandbytes.nn.modules import Linear4bit

    for module in vlm.modules():
        if isinstance(module, Linear4bit) and (module.in_features % NF4_BLOCK or module.out_features % NF4_BLOCK):
            module.support_avx512bf16_for_cpu = False


def _load_lora(vlm: nn.Module, folder: Path) -> nn.Module:
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            folder, expected="a PEFT adapter (adapter_config.json)", found="none", fix="save or convert the model again"
        )
    stored = _read_weights(folder / "adapter_model.safetensors")
    try:
        # In the backbone's own dtype: PEFT's default, fp32 adapters on a bf16 base, rounds 28 % of outputs differently
        # from the published formula.
        wrapped = PeftModel.from_pretrained(vlm, str(folder), is_trainable=False, autocast_adapter_dtype=False)  # type: ignore[arg-type]
        kind = Backbone(vlm).dtype
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(kind)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(folder, expected="a PEFT adapter of this backbone", found=_first_line(error)) from error
    held = {name.replace(".default.", ".") for name, _ in wrapped.named_parameters() if ".lora_" in name}
    if held != set(stored):  # PEFT only warns: an adapter under other names would be no adapter at all
        odd = sorted(held ^ set(stored))
        raise InputError(
            folder,
            expected="an adapter for every LoRA layer and no other",
            found=f"{len(odd)} names differ, e.g. {odd[0]}",
        )
    return wrapped


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


def _load_strict(model: GazeQwen, weights: dict[str, Tensor], path: Path) -> None:
    """Every tensor of the file has a place and every place a tensor."""
    parts: dict[str, nn.Module] = {"resampler.": model.resampler}
    if any(name.startswith("vjepa.") for name in weights):
        parts["vjepa."] = model.extractor.encoder  # type: ignore[union-attr]
    places = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()}
    absent, extra = sorted(set(places) - set(weights)), sorted(set(weights) - set(places))
    shapes = [name for name in set(places) & set(weights) if places[name].shape != weights[name].shape]
    for what, names in (("missing", absent), ("left over", extra), ("of another shape", sorted(shapes))):
        if names:
            raise InputError(
                path, expected="the tensors that config.json describes", found=f"{len(names)} {what}, e.g. {names[0]}"
            )
    for prefix, part in parts.items():
        part.load_state_dict({name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
