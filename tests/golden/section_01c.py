"""Golden section 01c: a published checkpoint, converted; its LoRA read back and applied by PEFT."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn

from gazeqwen.config import VJEPAConfig
from gazeqwen.errors import InputError
from gazeqwen.official import convert_official
from tests.golden.io import Golden, load, max_error

SECTION = "01c"
FUNCTION = "gazeqwen.official.convert_official"
TOLERANCE = 1e-6
ADAPTED = "base_model.model."


def check(folder: Path) -> tuple[float, float]:
    """Error of the LoRA delta; infinite when a converted tensor differs from the checkpoint's in any bit."""
    return max(_checkpoint_error(golden) for golden in load(folder, SECTION)), TOLERANCE


def _checkpoint_error(golden: Golden) -> float:
    best_model = golden.path.parent / golden["checkpoint_file"]
    width = golden["config"]["d_vjepa"]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "converted"
        report = convert_official(
            best_model, base="", vjepa="", out=out, vjepa_config=VJEPAConfig(dim=width, heads=1, mlp_dim=width)
        )
        converted, lora = load_file(out / "model.safetensors"), load_file(out / "lora" / "adapter_model.safetensors")
        original = torch.load(best_model, weights_only=True)
        delta = lora_output(out / "lora", golden["projection"], golden.tensor("x"))
    same = converted.keys() == {f"resampler.{name}" for name in original["state_dict"]} and all(
        torch.equal(converted[f"resampler.{name}"], tensor) for name, tensor in original["state_dict"].items()
    )
    if not same or report["lora_tensors"] != len(golden["lora_key_names"]) or len(lora) != report["lora_tensors"]:
        return math.inf
    with_lora = golden.tensor("y_original") + delta
    return max(max_error(delta, golden.tensor("delta")), max_error(with_lora, golden.tensor("y_with_lora")))


def lora_output(adapter: Path, projection: str, x: Tensor) -> Tensor:
    """What PEFT adds at one projection (4.49 name): the adapter loaded onto zero weights at today's module names."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    root = nn.Module()
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            path = name.removeprefix(ADAPTED).removesuffix(".lora_A.weight")
            outputs = tensors[name.replace("lora_A", "lora_B")].shape[0]
            linear = nn.Linear(tensor.shape[1], outputs, bias=False)
            nn.init.zeros_(linear.weight)
            _place(root, path, linear)
    adapted = PeftModel.from_pretrained(root, str(adapter))
    module = adapted.get_submodule(ADAPTED + projection.replace("model.layers", "model.language_model.layers", 1))
    if not hasattr(module, "lora_A"):
        raise InputError(adapter, expected=f"LoRA at {projection}", found=type(module).__name__)
    with torch.no_grad():
        return module(x)


def _place(root: nn.Module, path: str, leaf: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    root.add_module(name, leaf)
