"""`gazeqwen info`: what is installed here, and whether a backbone fits this machine. Nothing here loads weights."""

from __future__ import annotations

import json
import os
import platform
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from gazeqwen._version import __version__
from gazeqwen.config import GazeQwenConfig
from gazeqwen.errors import InputError
from gazeqwen.resampler import build_resampler
from gazeqwen.vjepa import VJEPA21

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "av", "numpy", "safetensors", "tokenizers")
EXTRAS = {
    "app": "gradio",
    "neon": "pupil-labs-neon-recording",
    "aria": "projectaria-tools",
    "decord": "decord",
}
# Published shapes, so that the question "does it fit" needs no download. Licences as their model cards state them.
_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
_CARD = "see the model's own card"
# What transformers and torch raise for sizes that contradict each other or are of the wrong kind.
_BAD_CONFIG = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
KNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        {
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        "Qwen Research License (non-commercial)",
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        {
            "hidden_size": 3584,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "intermediate_size": 18944,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
        "Apache-2.0",
    ),
}


def environment() -> dict[str, str]:
    """Versions and devices, for a bug report."""
    found = {"gazeqwen": __version__, "python": platform.python_version(), "platform": platform.platform()}
    found |= {name: _version(name) for name in PACKAGES}
    found["extras"] = ", ".join(extra for extra, name in EXTRAS.items() if _version(name) != "absent") or "none"
    found["cpu"] = f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found["gpu"] = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    else:
        found["gpu"] = "none"
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def known_config(name: str) -> tuple[Qwen2_5_VLConfig, str, GazeQwenConfig]:
    """(backbone's configuration, licence, ours) of a published size, by its hub id.

    Raises:
        InputError: not one of `KNOWN`.
    """
    if name not in KNOWN:
        raise InputError(
            name or "--model",
            expected=f"'tiny', a folder with a Qwen2.5-VL config.json, or one of {', '.join(KNOWN)}",
            found="another name" if name else "an empty name",
            fix="download the model's config.json and pass its folder",
        )
    text, licence = KNOWN[name]
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    vision = {**_VISION, "out_hidden_size": text["hidden_size"]}
    config = Qwen2_5_VLConfig(
        text_config={**text, **rope}, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"]
    )
    return config, licence, GazeQwenConfig(base=name)


def model_config(name_or_path: str) -> tuple[Qwen2_5_VLConfig, str, GazeQwenConfig]:
    """(backbone's configuration, licence, ours) of a folder, the tiny model or a published size. Never asks the hub.

    Raises:
        InputError: no configuration is to be had for this name, or it is damaged.
        ConfigError: config.json is ours and not understood.
    """
    if name_or_path == "tiny":
        from gazeqwen.tiny.model import TINY_CONFIG, tiny_tokenizer, tiny_vlm_config

        return tiny_vlm_config(tiny_tokenizer()), "Apache-2.0 (part of this project)", TINY_CONFIG
    folder = Path(name_or_path)
    if not name_or_path or not folder.exists():
        return known_config(name_or_path)
    own = _read_json(folder / "config.json")
    if _is_backbone(own):
        return _vlm_config(folder, own), _CARD, GazeQwenConfig(base=name_or_path)
    ours = GazeQwenConfig.from_dict(own)
    if not ours.base:
        base = folder / "backbone"
    elif ours.base in KNOWN and not Path(ours.base).exists():
        config, licence, _ = known_config(ours.base)
        return config, licence, ours
    else:
        base = next((path for path in (Path(ours.base), folder / ours.base) if path.exists()), Path(ours.base))
    values = _read_json(base / "config.json")
    if not _is_backbone(values):
        raise InputError(base, expected="a Qwen2.5-VL", found=f"model_type {values.get('model_type')!r}")
    return _vlm_config(base, values), _CARD, ours


def _is_backbone(values: dict[str, Any]) -> bool:
    return values.get("model_type") == "qwen2_5_vl"


def _vlm_config(folder: Path, values: dict[str, Any]) -> Qwen2_5_VLConfig:
    try:
        return Qwen2_5_VLConfig.from_dict(values)
    except _BAD_CONFIG as error:
        raise _misfit(folder, error) from error


def _misfit(where: Path | str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:120]
    return InputError(where, expected="the configuration of a Qwen2.5-VL", found=f"{type(error).__name__}: {reason}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, expected="a model's config.json", found=error.strerror or str(error)) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(path, expected="a model's config.json", found=f"no JSON ({error})") from error
    if not isinstance(values, dict):
        raise InputError(path, expected="a JSON object", found=type(values).__name__)
    return values


def fit(name_or_path: str, *, step_s: float = 1.0) -> dict[str, Any]:
    """Parameters, memory and cache sizes of a backbone with our modules, counted on the meta device.

    Args:
        step_s: seconds of stream that one step stands for (two frames at 2 a second).

    Returns:
        parameters, weights_gib {fp16, int8, nf4}, kv_bytes_per_token, tokens_per_step (least, most),
        kv_mib_per_minute (least, most), vjepa_gib, resampler_parameters, licence, device, fits {fp16, int8, nf4}.
        `fits` asks for the weights, V-JEPA and ten minutes of cache in the free memory; activations are not counted.

    Raises:
        InputError: no configuration is to be had for this name.
    """
    config, licence, ours = model_config(name_or_path)
    config._attn_implementation = "sdpa"
    text = config.get_text_config()
    vision: Any = config.vision_config
    with torch.device("meta"):
        try:
            model = Qwen2_5_VLForConditionalGeneration(config)
        except _BAD_CONFIG as error:
            raise _misfit(name_or_path, error) from error
        vjepa = sum(p.numel() for p in VJEPA21(ours.features.vjepa).parameters())
        resampler = build_resampler(
            ours, feature_dim=ours.features.vjepa.dim, hidden_dim=text.hidden_size, n_layers=text.num_hidden_layers
        )
    linears = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "visual" not in name and "lm_head" not in name
    ]
    quantised, rows = sum(m.weight.numel() for m in linears), sum(m.out_features for m in linears)
    total = sum(p.numel() for p in model.parameters())
    # nf4 with double quantisation: 4 bits, one 8-bit scale per 64 weights, one fp32 scale per 256 of those.
    nf4_bytes = 0.5 + 1 / 64 + 4 / (64 * 256)
    weights = {
        "fp16": 2 * total,
        "int8": 2 * (total - quantised) + quantised + 4 * rows,  # one fp32 scale per row
        "nf4": 2 * (total - quantised) + quantised * nf4_bytes,
    }
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    kv = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * 2
    limits = ours.preprocess
    side = vision.patch_size * vision.spatial_merge_size
    tokens = [limits.min_pixels // side**2, limits.max_pixels // side**2]
    minute = [kv * count * 60 / step_s for count in tokens]
    free, device = _free_memory()
    needed = {kind: size + 4 * vjepa + 10 * minute[0] for kind, size in weights.items()}
    return {
        "model": name_or_path,
        "licence": licence,
        "parameters": total,
        "layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "weights_gib": {kind: size / 2**30 for kind, size in weights.items()},
        "kv_bytes_per_token": kv,
        "tokens_per_step": tokens,
        "kv_mib_per_step": [kv * count / 2**20 for count in tokens],
        "kv_mib_per_minute": [size / 2**20 for size in minute],
        "vjepa_gib": 4 * vjepa / 2**30,
        "resampler_parameters": sum(p.numel() for p in resampler.parameters()),
        "device": device,
        "free_gib": free / 2**30,
        "fits": {kind: size <= free for kind, size in needed.items()},
    }


def _free_memory() -> tuple[float, str]:
    """Bytes free on the GPU, or in main memory when there is none."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]), torch.cuda.get_device_name()
    if sys.platform == "linux":
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024, "CPU (main memory; no GPU here)"
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return float(pages * size), "CPU (main memory; no GPU here)"


def fit_text(report: dict[str, Any], *, width: int = 80) -> str:
    """`fit` for people, at most `width` columns."""
    kv_step, kv_minute, tokens = report["kv_mib_per_step"], report["kv_mib_per_minute"], report["tokens_per_step"]
    rows = [
        ("model", report["model"]),
        ("licence", report["licence"]),
        (
            "parameters",
            f"{report['parameters'] / 1e6:,.1f} M in the backbone, "
            f"{report['resampler_parameters'] / 1e6:.2f} M in the resampler",
        ),
        (
            "KV cache",
            f"{report['kv_bytes_per_token']:,} bytes a token in fp16, {kv_step[0]:.2f} to {kv_step[1]:.2f} MiB a step "
            f"({tokens[0]} to {tokens[1]} tokens), {kv_minute[0]:.0f} to {kv_minute[1]:.0f} MiB a minute at one step a "
            "second",
        ),
        ("V-JEPA", f"{_size(report['vjepa_gib'])} in fp32"),
        ("device", f"{report['device']}, {report['free_gib']:.1f} GiB free"),
        *(
            (kind, f"{_size(size)} of weights: {'fits' if report['fits'][kind] else 'does not fit'}")
            for kind, size in report["weights_gib"].items()
        ),
        ("fits", "with V-JEPA and ten minutes of the smallest steps in the cache; activations are not counted"),
        ("source", "computed from the configuration, not measured"),
    ]
    return "\n".join(
        textwrap.fill(text, width, initial_indent=f"{name:<12}", subsequent_indent=" " * 12) for name, text in rows
    )


def _size(gib: float) -> str:
    return f"{gib:.2f} GiB" if gib >= 0.1 else f"{1024 * gib:.1f} MiB"
