"""What weights are, as sha256: which model something on disk was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # read without torch, as long as nothing is hashed
    from gazeqwen.model import GazeQwen


def add_tensors(digest: Any, tensors: Mapping[str, Any]) -> None:
    """Feeds a hash with tensors in the order of their names: name, type, shape and content. What is no tensor is passed
    over."""
    import torch

    for name, tensor in sorted(tensors.items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            if tensor.dtype == torch.bool:  # a copy makes any byte but 0 a 1
                tensor = tensor.view(torch.uint8)
            if tensor.numel():  # an empty one may have strides that can't be viewed as bytes
                # A tensor of one number may have a stride of 0 and be contiguous; a clone has one of 1.
                flat = tensor.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)


def model_digest(model: GazeQwen) -> str:
    """sha256 of everything that decides a model's answers: its configuration, all weights, whose arm's they are."""
    from gazeqwen.types import plain_json

    told = json.dumps([plain_json(model.config.to_dict()), model.arm_weights], sort_keys=True)
    digest = hashlib.sha256(told.encode())
    add_tensors(digest, model.state_dict())
    return digest.hexdigest()
