"""A recording with another one's gaze, for the arm `shuffled`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.types import Fixations, GazeSamples
from stream.recording import Recording


class BorrowedGaze(Recording):
    """A recording's video with the gaze of another one.

    The donor's gaze keeps its own times. Where the donor's video ends first, its gaze begins again there, as often as
    needed; what came before its first frame (negative times) is left out. Coordinates stay shares of the frame. The
    fixations are the donor's, with its detector and parameters; one that is open at the donor's end is cut there.

    Attributes:
        gaze_donor: file name of the video whose gaze this is.

    Raises:
        InputError: the donor has no gaze.
    """

    def __init__(self, recording: Recording, donor: Recording) -> None:
        if donor.gaze is None:
            raise InputError(donor.path, expected="a recording with gaze to lend", found="one without")
        self.__dict__.update(recording.__dict__)  # the video, opened already
        times = max(1, int(np.ceil(recording.end_s / donor.end_s)))
        self.samples = _repeated_samples(donor.samples, donor.end_s, times)
        self.fixations = _repeated_fixations(donor.fixations, donor.end_s, times)
        self.gaze, self.detector, self.parameters = donor.gaze, donor.detector, donor.parameters
        self.gaze_donor = donor.path.name


def _repeated_samples(samples: GazeSamples, period_s: float, times: int) -> GazeSamples:
    once = samples.take((samples.t_s >= 0) & (samples.t_s < period_s))
    return replace(
        once,
        t_s=(once.t_s + period_s * np.arange(times)[:, None]).reshape(-1),
        xy_norm=np.tile(once.xy_norm, (times, 1)),
        valid=np.tile(once.valid, times),
        confidence=None if once.confidence is None else np.tile(once.confidence, times),
        fixation_id=None,  # numbers of a device that never saw the second time round
    )


def _repeated_fixations(fixations: Fixations, period_s: float, times: int) -> Fixations:
    once = fixations.take((fixations.start_s >= 0) & (fixations.start_s < period_s))
    turns = period_s * np.arange(times)[:, None]
    return replace(
        once,
        start_s=(once.start_s + turns).reshape(-1),
        stop_s=(np.minimum(once.stop_s, period_s) + turns).reshape(-1),
        xy_norm=np.tile(once.xy_norm, (times, 1)),
        ids=np.arange(times * len(once)),
    )
