"""Another video's gaze, for the arm `shuffled`: who lends to whom (`stream.borrowed_gaze` is what is lent)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from gazeqwen.errors import ConfigError


def gaze_donors(videos: Iterable[str], seed: int) -> Mapping[str, str]:
    """For each video, the other one whose gaze it gets; each lends once and no video gets its own.

    The videos are put in a circle in the order of sha256(seed, name), and each takes the next one's gaze. So the pairs
    depend on the set of names and the seed alone: not on the order, the shard, or the tasks that are run.

    Args:
        videos: every video of the run that has gaze, whatever share of them this process answers.

    Raises:
        ConfigError: fewer than two videos.
    """
    circle = sorted(set(videos), key=lambda name: (hashlib.sha256(f"{seed}\n{name}".encode()).digest(), name))
    if len(circle) < 2:
        raise ConfigError(
            f"arm 'shuffled' takes another video's gaze: it needs 2 videos with gaze, this data has {len(circle)}"
        )
    return dict(zip(circle, [*circle[1:], circle[0]], strict=True))
