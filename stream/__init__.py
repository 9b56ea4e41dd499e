"""Time: where frames and gaze become steps, from a file now, live later. Arrows point one way: stream uses gazeqwen."""

from stream.recording import Recording, open_recording
from stream.session import StreamSession

__all__ = ["Recording", "StreamSession", "open_recording"]
