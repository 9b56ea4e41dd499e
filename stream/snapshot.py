"""A session on disk, on request: `StreamSession.snapshot` and `restore`.

One safetensors file: keys, values, V-JEPA's window, gaze; the rest as JSON in its header. Nothing in it is ever run.
It holds pictures of what the wearer saw (V-JEPA's newest frames, and a partial step's), and where they looked: delete
it like a recording. It is written beside its place first, readable by its owner only, and moved there when it is
complete. It is read by the model it was made with only: the sha256 of all weights is in it, and of its own content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gazeqwen.digest import add_tensors, model_digest
from gazeqwen.errors import ConfigError, GazeQwenError, InputError
from gazeqwen.model import GazeQwen
from gazeqwen.state_tensors import pack_gaze, pack_state, unpack_gaze, unpack_state
from gazeqwen.types import Step
from gazeqwen.weight_files import first_line
from stream.eviction import POLICIES, Policy
from stream.memory import Memory
from stream.views import Views

FORMAT = 1
_FRAMES = ("frames", "frame_times_s", "vjepa_frames", "vjepa_times_s")
# What a file that was made to look like a snapshot can make reading it raise.
DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, StopIteration, OverflowError)


def write(path: Path, model: GazeQwen, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> Path:
    """A snapshot of `told` (plain JSON types) and `tensors`, complete or not there.

    Raises:
        InputError: it can't be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**told, "format": FORMAT, "model": model_digest(model)}, allow_nan=False)
    metadata = {"session": text, "sha256": _digest(text, held)}
    staging = None
    try:
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(number)
        staging = Path(name)
        save_file(held, staging, metadata=metadata)
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(path)
        return path
    except (OSError, SafetensorError) as error:
        raise InputError(path, expected="a file that can be written", found=first_line(error)) from error
    finally:
        if staging is not None:
            with contextlib.suppress(OSError):
                staging.unlink(missing_ok=True)


def read(path: Path, model: GazeQwen) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the rest of a snapshot that this model made.

    Raises:
        InputError: no such file, no snapshot, damaged, of another version of this project, or of other weights.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        text = metadata["session"]
        told = json.loads(text)
        kind, made_by = told["format"], told["model"]
    except (OSError, SafetensorError, *DAMAGE) as error:
        raise damaged(path, error) from error
    if metadata.get("sha256") != _digest(text, tensors):
        raise InputError(path, expected="a session's snapshot", found="a damaged one: its content has changed")
    if kind != FORMAT:
        raise InputError(path, expected=f"a snapshot of format {FORMAT}", found=str(kind)[:40])
    if made_by != (ours := model_digest(model)):
        raise InputError(
            path,
            expected=f"a snapshot made with these weights ({ours[:12]})",
            found=f"one made with others ({str(made_by)[:12]})",
            fix="load the model that the session ran on",
        )
    return tensors, told


def damaged(path: Path, error: BaseException) -> GazeQwenError:
    """What to raise for a file that is no snapshot."""
    if isinstance(error, FileNotFoundError):
        return InputError(path, expected="a session's snapshot", found="no such file")
    return InputError(path, expected="a session's snapshot", found=f"{type(error).__name__}: {first_line(error)}")


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    add_tensors(digest, tensors)
    return digest.hexdigest()


def pack(memory: Memory, views: Views) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a session holds, as tensors and the rest. Raises ConfigError for a policy that is not by name."""
    tensors, state = pack_state(memory.state)
    tail_tensors, tail = _pack_tail(views.tail)
    told = {
        "policy": _policy_told(memory.policy) if memory.budget else None,
        "counts": memory.counts(),
        "state": state,
        "tail": tail,
        "size_px": views.size_px,
    }
    return {**tensors, **tail_tensors}, told


def unpack(memory: Memory, views: Views, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Into a session of the same options that has just begun."""
    memory.state = unpack_state(memory.model, memory.state, tensors, told["state"])
    memory.set_counts(told["counts"])
    views.set_tail(_unpack_tail(tensors, told["tail"]))
    views.size_px = told["size_px"] and tuple(told["size_px"])


def _policy_told(policy: Policy) -> dict[str, Any]:
    """A policy as its name and settings. Raises ConfigError for one that is not among `POLICIES`."""
    for name, kind in POLICIES.items():
        if type(policy) is kind:
            return {"name": name, **vars(policy)}
    raise ConfigError(f"snapshot: policy {type(policy).__name__} has no name to be found by again")


def policy_of(told: Mapping[str, Any]) -> Policy:
    """What `_policy_told` told."""
    settings = dict(told)
    return POLICIES[settings.pop("name")](**settings)


def _pack_tail(tail: Step | None) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """A partial step's tensors, and the rest."""
    if tail is None:
        return {}, None
    gaze, counts = pack_gaze([tail.gaze], "tail.gaze")
    # Copies: a step's two frames may share memory with V-JEPA's.
    own = {f"tail.{name}": torch.from_numpy(np.array(getattr(tail, name))) for name in _FRAMES}
    flags = {name: getattr(tail, name) for name in ("repeated", "partial", "placeholder", "gaze_late")}
    return own | gaze, {"span_s": list(tail.span_s), "gaze": counts, **flags}


def _unpack_tail(tensors: Mapping[str, Tensor], told: Mapping[str, Any] | None) -> Step | None:
    """What `_pack_tail` packed."""
    if told is None:
        return None
    (gaze,) = unpack_gaze(tensors, told["gaze"], "tail.gaze")
    flags = {name: told[name] for name in ("repeated", "partial", "placeholder", "gaze_late")}
    arrays = {name: tensors[f"tail.{name}"].numpy() for name in _FRAMES}
    return Step(**arrays, span_s=tuple(told["span_s"]), gaze=gaze, **flags)
