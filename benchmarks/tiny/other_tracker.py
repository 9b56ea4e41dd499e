"""The same wearer seen by another eye tracker: what the evidence changes while worlds, frames and questions stay."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gazeqwen.errors import ConfigError
from gazeqwen.tiny.world import World
from stream.borrowed_gaze import BorrowedGaze
from stream.recording import Recording
from stream.world_recording import WorldRecording


@dataclass(frozen=True)
class OtherTracker:
    """How gaze is recorded.

    Attributes:
        error: drift and constant error (a tracker's accuracy), as a multiple of the world's own; the random draws are
            the same. White noise stays: fixations are found by speed, and with more of it there are hardly any.
        delay_s: gaze comes so much later than the world's own.
        looks_from_s: 0: samples, as the world's own. Else stored fixations only, and of those only the ones of looks at
            one object that last so long: StreamGaze's files hold fixations of two seconds and more, which as eye
            movements are dwells of several fixations. As there, one that has begun tells that its look will last: shown
            only once it has, 2 % of the time would have gaze instead of 18.
    """

    error: float = 1.0
    delay_s: float = 0.0
    looks_from_s: float = 0.0

    def __post_init__(self) -> None:
        if min(self.error, self.delay_s, self.looks_from_s) < 0:
            raise ConfigError(f"tracker: expected numbers of 0 or more, found {self}")

    def watch(self, recording: WorldRecording) -> Recording:
        """The recording's frames with this tracker's gaze."""
        if self == OtherTracker():
            return recording
        own = recording.world
        p = own.parameters
        parameters = replace(p, drift_widths=self.error * p.drift_widths, bias_widths=self.error * p.bias_widths)
        world = World.make(own.seed, duration_s=own.duration_s, fps=own.fps, size_px=own.size_px, parameters=parameters)
        seen = WorldRecording(world, gaze="fixations" if self.looks_from_s else "samples")
        seen.samples, seen.fixations = seen.samples.shifted(self.delay_s), seen.fixations.shifted(self.delay_s)
        if self.looks_from_s:
            seen.fixations = seen.fixations.take(self._of_long_looks(world))
        return BorrowedGaze(recording, seen)

    def _of_long_looks(self, world: World) -> np.ndarray:
        """(N,) whether a stored fixation belongs to a look that is long enough."""
        looks = [e for e in world.log.episodes if e.gazed is not None and e.stop_s - e.start_s >= self.looks_from_s]
        return np.isin(world.fixations.ids, [number for look in looks for number in look.fixation_ids])
