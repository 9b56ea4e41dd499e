"""Official V-JEPA 2.1 checkpoints: read strictly, without pickled code; recognised by shape; safetensors out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gazeqwen.config import VJEPA_SIZES, VJEPAConfig
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.staged import staged
from gazeqwen.torch_files import load_exactly, read_torch_file
from gazeqwen.vjepa_encoder import VJEPA21

OFFICIAL_KEYS = ("ema_encoder", "target_encoder", "encoder")
PLAIN = "{'encoder': torch.load(FILE, weights_only=False, map_location='cpu')['target_encoder']}"


def load_official(path: str | Path, config: VJEPAConfig | None = None, *, key: str | None = None) -> VJEPA21:
    """The encoder with the weights of an official `.pt` file, or of a `convert_vjepa` safetensors file, in eval mode.

    Args:
        config: the shape; None recognises B, L, g and G from the weights (file names differ by case only: vitg, vitG).
        key: where in the file the encoder is; None takes the first of `ema_encoder`, `target_encoder`, `encoder`.

    Raises:
        InputError: unreadable, in need of a full pickle load, or not exactly the parameters of the encoder.
    """
    path = Path(path)
    state, recorded = _read(path, key)
    shape = config or recorded or _recognise(state, path)
    with torch.device("meta"):
        encoder = VJEPA21(shape)
    load_exactly(encoder, state, path, what="V-JEPA 2.1")
    return encoder.eval()


def official_state_dict(path: str | Path, *, key: str | None = None) -> dict[str, Tensor]:
    """The encoder's tensors of a file under their plain names. Raises InputError as `load_official`."""
    return _read(Path(path), key)[0]


def convert_vjepa(
    source: str | Path, out: str | Path, *, config: VJEPAConfig | None = None, key: str | None = None
) -> dict[str, Any]:
    """Writes an official file's encoder, checked, as safetensors with its shape in the header. Atomic.

    Returns:
        {"size": "B" | "L" | "g" | "G" | "other", "key_count", "parameters", "sha256" (of the new file), "config"}.

    Raises:
        InputError: as `load_official`, or `out` can't be written.
    """
    encoder, out = load_official(source, config, key=key), Path(out)
    state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    try:
        with staged(out) as staging:
            save_file(state, staging, metadata={"format": "pt", "vjepa": json.dumps(encoder.config.to_dict())})
        with out.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, SafetensorError) as error:
        raise InputError(out, expected="a path that can be written", found=str(error)) from error
    return {
        "size": next((name for name, known in VJEPA_SIZES.items() if known == encoder.config), "other"),
        "key_count": len(state),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "sha256": sha256,
        "config": encoder.config.to_dict(),
    }


def _read(path: Path, key: str | None) -> tuple[dict[str, Tensor], VJEPAConfig | None]:
    """The encoder's tensors under their plain names, and the shape that our own safetensors header records."""
    if not path.is_file():
        raise InputError(path, expected="a V-JEPA 2.1 file (.pt or .safetensors)", found="no such file")
    recorded = None
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                content: Any = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
                header = (file.metadata() or {}).get("vjepa")
            recorded = VJEPAConfig.from_dict(json.loads(header)) if header else None
        except (SafetensorError, OSError, json.JSONDecodeError, ConfigError) as error:
            raise InputError(path, expected="a V-JEPA safetensors file", found=str(error)) from error
    else:
        content = read_torch_file(path, plain=PLAIN)
    return _encoder_of(content, path, key), recorded


def _encoder_of(content: Any, path: Path, key: str | None) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise InputError(path, expected="a dictionary of tensors", found=type(content).__name__)
    inside = [name for name in OFFICIAL_KEYS if isinstance(content.get(name), dict)]
    if key is not None and not isinstance(content.get(key), dict):
        raise InputError(path, expected=f"the encoder under {key!r}", found=f"keys {list(map(str, content))[:8]}")
    state = content[key or inside[0]] if key or inside else content
    tensors = {str(name).replace("module.", "").replace("backbone.", ""): value for name, value in state.items()}
    odd = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if odd or "patch_embed.proj.weight" not in tensors:
        found = f"{odd[0]} that is no tensor" if odd else f"keys {list(map(str, state))[:8]}"
        raise InputError(path, expected=f"an encoder under one of {OFFICIAL_KEYS}", found=found, fix="pass key=")
    return tensors


def _recognise(state: dict[str, Tensor], path: Path) -> VJEPAConfig:
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    mlp = state.get("blocks.0.mlp.fc1.weight")
    found = (state["patch_embed.proj.weight"].shape[0], depth, 0 if mlp is None else mlp.shape[0])
    for known in VJEPA_SIZES.values():
        if found == (known.dim, known.depth, known.mlp_dim):
            return known
    raise InputError(
        path,
        expected=f"V-JEPA 2.1 of size {', '.join(VJEPA_SIZES)}",
        found="(dim, blocks, mlp) = " + str(found),
        fix="pass config=",
    )
