"""A run's folder as processes make it and sign in: the manifest, which is fixed by the first, and sessions.jsonl. No
torch."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from benchmarks.streamgaze.records import MANIFEST, SESSIONS, json_lines
from benchmarks.streamgaze.work import require_same
from gazeqwen.errors import InputError
from gazeqwen.types import plain_json

if TYPE_CHECKING:
    from benchmarks.streamgaze.dataset import Dataset
    from benchmarks.streamgaze.protocols import Protocol

FORMAT = 1
PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "av", "numpy", "safetensors", "tokenizers")


def identity_of(out: Path) -> Mapping[str, Any]:
    """The identity in the run's manifest. Raises InputError for a manifest that has none."""
    path = out / MANIFEST
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, expected="a run's manifest", found=f"{type(error).__name__}: {error}"[:80], fix="choose another --out"
        ) from error
    if not isinstance(identity, dict):
        raise InputError(path, expected="an identity as an object", found=type(identity).__name__)
    return identity


def begin(out: Path, identity: Mapping[str, Any], protocol: Protocol, dataset: Dataset, command: Sequence[str]) -> None:
    """Makes the run if it is not there. Of several processes that start at once one does, and the others must agree."""
    identity = plain_json(identity)
    manifest = {
        "format": FORMAT,
        "benchmark": "streamgaze",
        "identity": identity,
        "config": protocol.config(),
        "command": list(command),
        "versions": versions(),
        "device": protocol.device(),
        "created": _now(),
        "data_folder": str(dataset.root.resolve()),
        "split_file": None if protocol.settings.split is None else str(Path(protocol.settings.split[0]).resolve()),
        "unusable_entries": len(dataset.unusable),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = {file.name for file in out.iterdir() if not file.name.startswith(".")}  # others may be at it right now
        if there and MANIFEST not in there:
            raise InputError(
                out, expected="a new or empty folder, or a run", found="other files", fix="choose another --out"
            )
        if MANIFEST not in there:
            _create(out / MANIFEST, json.dumps(plain_json(manifest), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise InputError(out, expected="a folder that can be written", found=error.strerror or str(error)) from error
    require_same(out, identity_of(out), identity)


def _create(path: Path, text: str) -> None:
    """The whole file, unless there is one already: then that one stays."""
    staging = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        staging.write_text(text, encoding="utf-8")
        with suppress(FileExistsError):
            os.link(staging, path)  # unlike a rename this never replaces what another process was quicker to make
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        staging.replace(path)  # no hard links on this file system
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def session(out: Path, command: Sequence[str], shard: tuple[int, int], protocol: Protocol) -> Iterator[dict[str, Any]]:
    """One line in sessions.jsonl at the start and one at the end, whatever ends it but a kill."""
    name, began = uuid4().hex[:12], time.perf_counter()
    told: dict[str, Any] = {}
    _append(
        out / SESSIONS,
        {
            "id": name,
            "event": "start",
            "time": _now(),
            "command": list(command),
            "shard": f"{shard[0] + 1}/{shard[1]}",
            "process": os.getpid(),
            "versions": versions(),
            "device": protocol.device(),
        },
    )
    ended = "stopped"
    try:
        yield told
        ended = "done"
    except BaseException as error:
        told["reason"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise
    finally:
        line = {"id": name, "event": "end", "time": _now(), "ended": ended, "seconds": time.perf_counter() - began}
        if ended == "done":
            _append(out / SESSIONS, line | told)
        else:
            with suppress(InputError):  # what stopped the run is what must be told
                _append(out / SESSIONS, line | told)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    """A line in one write, so that those of several processes don't mix; a part of one is taken back."""
    line = json_lines([row]).encode()
    try:
        with path.open("ab", buffering=0) as file:
            start = file.tell()
            if file.write(line) != len(line):
                file.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise InputError(path, expected="room for a line", found=error.strerror or str(error)) from error


def versions() -> dict[str, str]:
    """Of Python and the packages that have a part in a prediction."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("gazeqwen", *PACKAGES):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
