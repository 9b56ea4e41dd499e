"""YAML from a file, or one line that says what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gazeqwen.errors import InputError


def read_yaml(path: Path) -> Any:
    """What the file holds; None for an empty one. PyYAML is imported when a file is read.

    Raises:
        InputError: it can't be read, or is no YAML.
    """
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, expected="a YAML file", found=error.strerror or str(error)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(path, expected="YAML", found=" ".join(str(error).split())[:160]) from error
