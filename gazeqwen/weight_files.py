"""The files of a saved model, read strictly: folders and hub ids, JSON, safetensors, a Qwen2.5-VL, an adapter.

`gazeqwen.checkpoint` says what lies where and puts a model together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

from gazeqwen.backbone import Backbone
from gazeqwen.errors import InputError
from gazeqwen.prompts import TURN_END, VIDEO_PAD, VISION_END, VISION_START

Quantization = Literal["nf4", "int8"]
CONFIG, WEIGHTS, BACKBONE, LORA, ARMS = "config.json", "model.safetensors", "backbone", "lora", "arms"
TOLD = ("README.md", "train_config.yaml", "results.json")  # a training run's card, settings and results
BACKBONE_TYPE = "qwen2_5_vl"
SPOKEN_TOKENS = ("<|im_start|>", TURN_END, VISION_START, VISION_END, VIDEO_PAD)
NF4_BLOCK = 64  # weights that share a scale, bitsandbytes' default
_HUB_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", f"{LORA}/*", f"{BACKBONE}/*", f"{ARMS}/*"]


def find_folder(
    name: str | Path,
    local_files_only: bool,
    *,
    relative_to: Path | None = None,
    expected: str = "'tiny', a model folder, or a hub id like owner/name",
) -> Path:
    """The local folder of a path or hub id. Raises InputError when it can't be had; `expected` says what was wanted."""
    for candidate in (Path(name), *([relative_to / str(name)] if relative_to else [])):
        if candidate.is_dir():
            if not (candidate / CONFIG).is_file():
                raise InputError(candidate, expected=f"a model folder with {CONFIG}", found="none in it")
            return candidate
    text = str(name)
    if Path(name).exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise InputError(name, expected=expected, found="no such folder")
    try:
        return Path(snapshot_download(text, local_files_only=local_files_only, allow_patterns=_HUB_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            how = "it is not in the local hub cache" + ("" if local_files_only else " and the hub can't be reached")
        else:
            how = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(
            text,
            expected="weights in a local folder, in the hub cache, or on the hub",
            found=how,
            fix="download it where there is a network and pass the folder (docs/models.md)",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(path, expected="a JSON config", found=f"{type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(path, expected="a JSON object", found=type(value).__name__)
    return value


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises InputError that names it."""
    if not path.is_file():
        raise InputError(
            path, expected="the model's weights", found="no such file", fix="save or convert the model again"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(path, expected="a safetensors file", found=str(error)) from error


def load_backbone(
    folder: Path, quantization: Quantization | None, where: torch.device, kind: torch.dtype
) -> tuple[nn.Module, Any]:
    """A Qwen2.5-VL and its tokenizer. Raises InputError for a folder that is something else, or damaged."""
    if not folder.is_dir():
        raise InputError(folder, expected="a Qwen2.5-VL folder", found="no such folder", fix="pass base=FOLDER")
    # Asked first: without a model type transformers would make up a 7B model and fill the memory with it.
    model_type = read_json(folder / CONFIG).get("model_type")
    if model_type != BACKBONE_TYPE:
        raise InputError(folder / CONFIG, expected=f"model_type {BACKBONE_TYPE!r}", found=repr(model_type))
    vlm = load_vlm(folder, quantization, where, kind)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library has no narrower type for a damaged file
        raise InputError(folder, expected="the backbone's tokenizer files", found=first_line(error)) from error
    # Without files transformers 5 makes an empty tokenizer, without a word.
    odd = [token for token in SPOKEN_TOKENS if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
    if odd:
        raise InputError(
            folder, expected="the backbone's tokenizer files", found=f"a tokenizer that does not know {odd[0]}"
        )
    return vlm, tokenizer


# What transformers raises for a folder that is damaged, or whose config.json holds values of the wrong kind.
LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError, StrictDataclassError)


def load_vlm(folder: Path, quantization: Quantization | None, where: torch.device, kind: torch.dtype) -> nn.Module:
    """A Qwen2.5-VL with every tensor it needs and no other. Raises InputError."""
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
    except LOADING_ERRORS as error:
        raise InputError(
            folder,
            expected="Qwen2.5-VL weights (config.json and *.safetensors)",
            found=first_line(error),
            fix="download the model and pass its folder (docs/models.md)",
        ) from error
    require_whole(info, folder, "a Qwen2.5-VL")
    if quantization == "nf4":
        _allow_odd_widths(vlm)
    return vlm.eval()


def require_whole(info: dict[str, Any], folder: Path, what: str) -> None:
    """Raises InputError where transformers' loading info tells of tensors that `what` lacked or had no place for."""
    for state, names in (("missing", info["missing_keys"]), ("left over", info["unexpected_keys"])):
        if names:
            raise InputError(
                folder, expected=f"the tensors of {what}", found=f"{len(names)} {state}, e.g. {min(names)}"
            )


def _allow_odd_widths(vlm: nn.Module) -> None:
    """Keeps bitsandbytes off its path for CPUs with AVX512-BF16 where rows are not whole blocks: it fails on them."""
    from bitsandbytes.nn.modules import Linear4bit

    for module in vlm.modules():
        if isinstance(module, Linear4bit) and (module.in_features % NF4_BLOCK or module.out_features % NF4_BLOCK):
            module.support_avx512bf16_for_cpu = False


def load_lora(vlm: nn.Module, folder: Path) -> nn.Module:
    """The backbone with an adapter on it, for every layer it names and no other. Raises InputError."""
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            folder, expected="a PEFT adapter (adapter_config.json)", found="none", fix="save or convert the model again"
        )
    stored = read_weights(folder / "adapter_model.safetensors")
    try:
        # In the backbone's own dtype: PEFT's default, fp32 adapters on a bf16 base, rounds 28 % of outputs differently
        # from the published formula.
        wrapped = PeftModel.from_pretrained(vlm, str(folder), is_trainable=False, autocast_adapter_dtype=False)  # type: ignore[arg-type]
        kind = Backbone(vlm).dtype
        for name, parameter in wrapped.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(kind)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(folder, expected="a PEFT adapter of this backbone", found=first_line(error)) from error
    held = {name.replace(".default.", ".") for name, _ in wrapped.named_parameters() if ".lora_" in name}
    if held != set(stored):  # PEFT only warns: an adapter under other names would be no adapter at all
        odd = sorted(held ^ set(stored))
        raise InputError(
            folder,
            expected="an adapter for every LoRA layer and no other",
            found=f"{len(odd)} names differ, e.g. {odd[0]}",
        )
    return wrapped


def load_strict(parts: dict[str, nn.Module], weights: dict[str, Tensor], path: Path) -> None:
    """Into modules by their prefix in the file: every tensor of the file has a place and every place a tensor."""
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


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough for one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
