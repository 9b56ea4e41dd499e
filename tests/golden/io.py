"""Reads golden files: NAME.json with names and constants, NAME.safetensors with the numbers, checked for agreement."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gazeqwen.errors import InputError


@dataclass(frozen=True)
class Golden:
    """One golden file pair: `record` is the JSON, `tensors` the safetensors beside it (empty where there is none)."""

    path: Path
    record: dict[str, Any]
    tensors: dict[str, Tensor]

    def __getitem__(self, key: str) -> Any:
        """A field of the JSON."""
        return field(self.record, key, self.path)

    def tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise InputError(self.path, expected=f"the tensor {name}", found=f"{sorted(self.tensors)[:8]}")
        return self.tensors[name]

    def state_dict(self, prefix: str = "sd.") -> dict[str, Tensor]:
        """The tensors under `prefix`, without it."""
        state = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        if not state:
            raise InputError(self.path, expected=f"tensors {prefix}*", found="none")
        return state

    def cases(self, key: str = "calls") -> list[dict[str, Any]]:
        """The list of cases under `key`; an empty one is an error, because a check of nothing passes."""
        rows = self[key]
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise InputError(self.path, expected=f"a non-empty list of objects under {key!r}", found=str(rows)[:80])
        return rows


def field(record: dict[str, Any], key: str, source: Path) -> Any:
    """`record[key]`, or an error that names the file."""
    if key not in record:
        raise InputError(source, expected=f"the field {key!r}", found=f"{list(record)[:8]}")
    return record[key]


def load(folder: Path, section: str) -> list[Golden]:
    """All file pairs of a section, in order of name. Raises InputError when one is damaged or there is none."""
    pairs = [load_pair(path) for path in sorted(folder.glob(f"{section}_*.json"))]
    if not pairs:
        raise InputError(folder, expected=f"a file {section}_*.json", found="none")
    orphans = sorted(
        p.name for p in folder.glob(f"{section}_*.safetensors") if not p.with_name(p.stem + ".json").exists()
    )
    if orphans:
        raise InputError(folder, expected="a JSON file beside every safetensors file", found=f"none for {orphans}")
    return pairs


def load_pair(path: Path) -> Golden:
    """A JSON file and the safetensors file of the same stem. Shapes that the JSON lists must be the tensors' own."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(path, expected="a JSON file", found=str(error)) from error
    if not isinstance(record, dict):
        raise InputError(path, expected="a JSON object", found=type(record).__name__)
    numbers, tensors = path.with_name(path.stem + ".safetensors"), {}
    if numbers.exists():
        try:
            tensors = load_file(numbers)
        except (SafetensorError, OSError) as error:
            raise InputError(numbers, expected="a safetensors file", found=str(error)) from error
    for name, about in record.get("tensors", {}).items():
        shape = list(tensors[name].shape) if name in tensors else None
        if shape != about.get("shape", shape):
            raise InputError(
                numbers, expected=f"{name} of shape {about.get('shape')}", found=str(shape or "no such tensor")
            )
    return Golden(path, record, tensors)


def max_error(ours: Any, theirs: Any) -> float:
    """Largest absolute difference of two arrays; infinite when their shapes differ or a difference is not a number."""
    a, b = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
    if a.shape != b.shape:
        return math.inf
    worst = float((a - b).abs().max()) if a.numel() else 0.0
    return math.inf if math.isnan(worst) else worst
