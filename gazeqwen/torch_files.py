"""Others' torch files: read without running code in them; put into a module only if they are exactly its weights."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gazeqwen.errors import InputError

# What torch.load is known to raise for a file that is damaged or no checkpoint at all.
TORCH_LOAD_ERRORS = (
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ImportError),
    *(AssertionError, struct.error),
)


def read_torch_file(path: Path, *, plain: str) -> Any:
    """What `torch.save` wrote, on the CPU, if it is plain data and tensors.

    Args:
        plain: Python that makes plain tensors of the file FILE, for the reader whose file needs a full pickle load.

    Raises:
        InputError: damaged, no torch file, or in need of a full pickle load.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = (
            f"{named[1]}, which only a full pickle load can make" if named else "something that is not plain tensors"
        )
        raise InputError(
            path,
            expected="a torch file of plain tensors",
            found=found,
            fix="pickles can run code: on a machine you trust with this file, run "
            f"torch.save({plain}, 'plain.pt') and use plain.pt",
        ) from error
    except TORCH_LOAD_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(path, expected="a readable torch file", found=reason, fix="download it again") from error


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], path: Path, *, what: str) -> None:
    """Gives `module` (which may be on the meta device) these tensors, all of its own and no others.

    Raises:
        InputError: a tensor is missing, left over, of another shape or not floating-point; names up to three of each.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [
        f"{title} {len(names)} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for title, names in (
            ("missing", expected.keys() - found.keys()),
            ("unexpected", found.keys() - expected.keys()),
            ("of another shape", {n for n in expected.keys() & found.keys() if expected[n] != found[n]}),
            ("not floating-point", {name for name, tensor in state.items() if not tensor.is_floating_point()}),
        )
        if names
    ]
    if problems:
        raise InputError(path, expected=f"the {len(expected)} tensors of {what}", found="; ".join(problems))
    module.load_state_dict(state, assign=True)
