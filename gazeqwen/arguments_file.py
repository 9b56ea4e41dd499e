"""`gazeqwen eval streamgaze --config FILE.yaml`: flags by name from a file, those on the command line over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gazeqwen.errors import InputError
from gazeqwen.yaml_files import read_yaml

_COMMAND = ["eval", "streamgaze"]


def with_file(argv: Sequence[str]) -> list[str]:
    """The arguments with `--config FILE` of that command replaced by what the file says, before all other flags.

    The file: a YAML mapping of flags without dashes (`max_frames: 300`); true gives the flag alone, a list its values.

    Raises:
        InputError: the file can't be read or is no such mapping.
    """
    argv = list(argv)
    if argv[:2] != _COMMAND or "--config" not in argv[:-1]:
        return argv
    at = argv.index("--config")
    return [*_COMMAND, *_flags(Path(argv[at + 1])), *argv[2:at], *argv[at + 2 :]]


def _flags(path: Path) -> list[str]:
    values = read_yaml(path)
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(path, expected="flags and their values", found=type(values).__name__)
    found: list[str] = []
    for name, value in values.items():
        if value is False:
            continue
        found.append(f"--{name.replace('_', '-')}")
        found += [] if value is True else [_text(item) for item in (value if isinstance(value, list) else [value])]
    return found


def _text(value: object) -> str:
    return "null" if value is None else str(value)  # the arm of that name
