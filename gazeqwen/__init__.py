"""GazeQwen: a streaming egocentric-video assistant that knows where its wearer looks.

    from gazeqwen import GazeQwen
    model = GazeQwen.from_pretrained("tiny")

Importing this package loads neither torch nor transformers; the first use of a name does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gazeqwen._version import __version__

if TYPE_CHECKING:
    from gazeqwen.config import GazeQwenConfig
    from gazeqwen.errors import GazeQwenError
    from gazeqwen.model import Example, GazeQwen
    from gazeqwen.types import Answer, Fixations, GazeSamples, Question, Step

__all__ = [
    "Answer",
    "Example",
    "Fixations",
    "GazeQwen",
    "GazeQwenConfig",
    "GazeQwenError",
    "GazeSamples",
    "Question",
    "Step",
    "__version__",
]

_HOMES = {
    "GazeQwen": "gazeqwen.model",
    "Example": "gazeqwen.model",
    "GazeQwenConfig": "gazeqwen.config",
    "GazeQwenError": "gazeqwen.errors",
    **dict.fromkeys(("Answer", "Fixations", "GazeSamples", "Question", "Step"), "gazeqwen.types"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gazeqwen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
