"""Time: where frames and gaze become steps, from a file now, live later. Arrows point one way: stream uses gazeqwen.

Importing this package loads no torch; `StreamSession`, which needs a model, does when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream.recording import Recording, open_recording

if TYPE_CHECKING:
    from stream.session import StreamSession

__all__ = ["Recording", "StreamSession", "open_recording"]


def __getattr__(name: str) -> Any:
    if name != "StreamSession":
        raise AttributeError(f"module 'stream' has no attribute {name!r}")
    from stream.session import StreamSession

    return StreamSession
