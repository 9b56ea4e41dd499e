"""The errors a user may see. Every one is a single line: what was read, expected, found, and what to do about it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any


class GazeQwenError(ValueError):
    """Base of every error this project raises for bad input. The CLI prints it as one line and exits with code 2."""


class InputError(GazeQwenError):
    """A file, folder, stream or array that can't be used as it is.

    Args:
        source: the file (or the name of the argument) at fault.
        expected: what was needed, in the user's terms.
        found: what was there instead, with its value.
        fix: what the user can do, ideally a flag or a command.
    """

    def __init__(self, source: str | Path, *, expected: str, found: str, fix: str = "") -> None:
        self.source, self.expected, self.found, self.fix = str(source), expected, found, fix
        message = f"{self.source}: expected {expected}, found {found}" + (f"; {fix}" if fix else "")
        super().__init__(" ".join(message.split()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Exceptions are rebuilt from their positional arguments; these have names. They cross processes."""
        return partial(type(self), expected=self.expected, found=self.found, fix=self.fix), (self.source,)


class ConfigError(GazeQwenError):
    """A configuration that contradicts itself or names something that does not exist."""


class MissingExtraError(GazeQwenError):
    """An optional dependency is needed and absent; the message names the extra that brings it."""

    def __init__(self, feature: str, extra: str, reason: str = "") -> None:
        self.feature, self.extra = feature, extra
        why = f" ({reason})" if reason else ""
        super().__init__(f"{feature} needs the optional extra '{extra}'{why}: pip install 'gazeqwen[{extra}]'")
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.feature, self.extra, self.reason)


class FutureDataError(GazeQwenError):
    """Something later than the time of the question was asked for."""


class InjectionError(GazeQwenError):
    """A residual has no place in the sequence it was made for. Never passed over in silence."""
