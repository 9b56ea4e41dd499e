"""Files of the tiny model's training: whole or not there, their faults one line each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save

import gazeqwen.question_rules
import gazeqwen.tiny
from gazeqwen.errors import InputError
from gazeqwen.staged import staged as whole
from gazeqwen.types import plain_json
from gazeqwen.weight_files import read_weights

DAMAGE = (
    *(OSError, RuntimeError, KeyError, ValueError, EOFError, AttributeError, pickle.UnpicklingError),
    *(IndexError, TypeError),
)


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """As `gazeqwen.staged`, its folder made.

    Raises:
        InputError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as staging:
            yield staging
    except OSError as error:
        raise no_room(path, error) from error


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Raises InputError as `staged`."""
    with staged(path) as staging:
        staging.write_bytes(content)


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """One JSON line more; one that was cut short before is taken away.

    Raises:
        InputError: it can't be written.
    """
    line = json.dumps(plain_json(row)) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode())
    except OSError as error:
        raise no_room(path, error) from error


def start_array(file: BinaryIO, dtype: Any, shape: tuple[int, ...]) -> None:
    """The head of a .npy file whose parts are written after it: a memory map would kill the process on a full disk."""
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)


def no_room(path: Path, error: OSError) -> InputError:
    """What to raise where a file can't be written."""
    found = error.strerror or str(error)
    return InputError(path, expected="room to write", found=found, fix="free some, or choose another folder")


def save_state(path: Path, state: Any) -> None:
    """As `torch.save`.

    Raises:
        InputError: as `write_bytes`.
    """
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(path, content.getbuffer())


def load_state(path: Path, expected: str) -> Any | None:
    """What `save_state` wrote, on the CPU; None where there is no file.

    Args:
        expected: what the file should be, for the error.

    Raises:
        InputError: a damaged file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        raise InputError(path, expected=expected, found="a damaged file", fix="delete it") from error


def round_weights(path: Path) -> None:
    """A safetensors file's numbers as float16, in its place.

    Raises:
        InputError: it is damaged, or can't be written.
    """
    weights = read_weights(path)
    rounded = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    write_bytes(path, save(rounded, metadata={"format": "pt"}))


def world_digest(*modules: ModuleType, questions: bool = True) -> str:
    """Of the code that makes worlds and, if asked for, questions, and of `modules`: what an older version made is not
    found."""
    paths = sorted(Path(gazeqwen.tiny.__path__[0]).glob("world*.py"))
    if questions:
        paths += sorted(Path(gazeqwen.question_rules.__path__[0]).glob("*.py"))
    paths += [Path(module.__file__) for module in modules if module.__file__ is not None]
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
