"""The files of cached features: whole or not there, trusted only as far as their names, which are their hashes, say.

Loads torch only where tensors are read or written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gazeqwen.staged import staged

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "streamgaze-features"
_KEY = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"[0-9a-f]{32}\.safetensors|\.[0-9a-f]{32}\.tmp")
_HEADER_BYTES = 8
_MOST_HEADER_BYTES = 1 << 20


class FeatureFiles:
    """The files of one key: tensors by name. What other processes add is seen after `refresh`.

    Args:
        folder: of the key.
        count: called with "damaged_files" and "unwritten_files", each time there is one.
        unwritten: called with the error before the first of the latter: from then on nothing is written.
    """

    def __init__(self, folder: Path, *, count: Callable[[str], object], unwritten: Callable[[OSError], object]) -> None:
        self._folder, self._count, self._unwritten = folder, count, unwritten
        self._where: dict[str, Path] = {}  # tensor name -> file
        self._known: set[str] = set()
        self._newest: tuple[Path, dict[str, Tensor]] | None = None  # a session asks for a file's steps in a row
        self._may_write = True

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def refresh(self) -> None:
        """Reads the headers of files that are new."""
        try:
            found = sorted(entry.name for entry in os.scandir(self._folder))
        except OSError:
            return  # nothing there yet, or not for us
        for file in found:
            if file not in self._known and file.endswith(".safetensors") and _FILE.fullmatch(file):
                self._known.add(file)
                names = self._header(self._folder / file)
                self._where |= dict.fromkeys(names, self._folder / file)

    def _header(self, path: Path) -> list[str]:
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(_HEADER_BYTES), "little")
                if not 0 < length <= _MOST_HEADER_BYTES:
                    raise ValueError
                tensors = json.loads(file.read(length))
                data_bytes = max(tensor["data_offsets"][1] for tensor in tensors.values())
                if os.fstat(file.fileno()).st_size != _HEADER_BYTES + length + data_bytes:
                    raise ValueError
                return list(tensors)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            self._damaged(path)
            return []

    def get(self, name: str) -> Tensor | None:
        """The tensor, None where there is none that can be trusted."""
        path = self._where.get(name)
        if path is None:
            return None
        if self._newest is None or self._newest[0] != path:
            from safetensors import SafetensorError
            from safetensors.torch import load

            self._newest = None
            try:
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest()[:32] != path.stem:
                    raise ValueError
                self._newest = (path, load(data))
            except FileNotFoundError:  # `gazeqwen forget`
                self._forget(path)
                return None
            except (OSError, ValueError, SafetensorError):
                self._damaged(path)
                return None
        if name not in self._newest[1]:  # the file was damaged when its header was read, and has been made again
            del self._where[name]
        return self._newest[1].get(name)

    def _damaged(self, path: Path) -> None:
        self._count("damaged_files")
        self._forget(path)
        with suppress(OSError):
            path.unlink()

    def _forget(self, path: Path) -> None:
        self._where = {name: file for name, file in self._where.items() if file != path}

    def put(self, tensors: dict[str, Tensor]) -> None:
        """Writes them as one file, or not at all."""
        if not tensors:
            return
        if not self._may_write:
            self._count("unwritten_files")
            return
        from safetensors.torch import save

        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        path = self._folder / f"{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with staged(path) as staging:
                staging.write_bytes(data)
        except OSError as error:
            self._may_write = False  # of this video: a full disk is not asked again for every chunk
            self._unwritten(error)
            self._count("unwritten_files")
            return
        self._known.add(path.name)
        self._where |= dict.fromkeys(tensors, path)


# -- the user's folder -------------------------------------------------------------------------------------------------


def user_cache_folder() -> Path:
    """Where this user's programs keep what can be made again: XDG_CACHE_HOME or ~/.cache, ~/Library/Caches on macOS,
    LOCALAPPDATA on Windows; `gazeqwen` in it."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        given = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    return base / "gazeqwen"


def forget(folder: Path) -> tuple[int, int]:
    """Deletes every file that a FeatureCache wrote in this folder, and no other; returns their number and bytes.

    Raises:
        OSError: a file can't be deleted.
    """
    root = folder / FOLDER
    files = size = 0
    if root.is_symlink() or not root.is_dir():
        return 0, 0
    for key in sorted(root.iterdir()):
        if key.is_symlink() or not key.is_dir() or not _KEY.fullmatch(key.name):
            continue
        for file in sorted(key.iterdir()):
            if _FILE.fullmatch(file.name):
                found = file.lstat().st_size
                file.unlink()
                files, size = files + 1, size + found
        with suppress(OSError):  # something else is in it
            key.rmdir()
    with suppress(OSError):
        root.rmdir()
    return files, size
