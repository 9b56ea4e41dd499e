"""Fixations joined to episodes, and the rule that drops episodes.

Source: StreamGaze 07b8a44, `pipeline/step2.5_sequence_filtering.py` (`merge_spatial_temporal_threshold`,
`filter_consecutive_similar_episodes`). Its spatial test compares normalised centres with 50 pixels, so it is always
true, whatever was looked at: episodes join on the gap alone. That is kept under the rules `streamgaze`. Under `causal`
two fixations join when they show the same objects in the same places (gazed, inside, outside), their centres are within
50 px of a 640 px frame, and no more than a blink lies between: so nothing that a later fixation shows is said of an
earlier moment. None is dropped, because "never looked at" has to stay true.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from benchmarks.streamgaze.pipeline.objects import Look
from gazeqwen.event_log import Episode, Rules

GAP_S = {"streamgaze": 2.0, "causal": 0.4}
REFERENCE_DISTANCE = 50.0  # meant as pixels, compared with shares of the frame
DISTANCE_WIDTHS = 50.0 / 640.0
SIMILAR = 0.70


def joins(before: Look, after: Look, *, rules: Rules, aspect: float) -> bool:
    """Whether a fixation continues the episode of the one before it. `aspect`: frame width / height."""
    dx, dy = after.xy_norm[0] - before.xy_norm[0], after.xy_norm[1] - before.xy_norm[1]
    close_in_time = after.start_s - before.stop_s < GAP_S[rules]
    if rules == "streamgaze":
        return close_in_time and math.hypot(dx, dy) < REFERENCE_DISTANCE
    return close_in_time and _shown(before) == _shown(after) and math.hypot(dx, dy / aspect) < DISTANCE_WIDTHS


def _shown(look: Look) -> tuple[object, ...]:
    return look.gazed, frozenset(look.in_fov), frozenset(look.outside_fov), look.steady, look.named


def group_looks(looks: Sequence[Look], *, rules: Rules, aspect: float) -> list[tuple[Look, ...]]:
    """The looks of each episode, by start."""
    groups: list[list[Look]] = []
    for look in sorted(looks, key=lambda look: (look.start_s, look.stop_s)):
        if groups and joins(groups[-1][-1], look, rules=rules, aspect=aspect):
            groups[-1].append(look)
        else:
            groups.append([look])
    return [tuple(group) for group in groups]


def to_episode(looks: Sequence[Look], *, rules: Rules) -> Episode:
    """One episode of its looks: the object most often gazed at (the first of equals), then everything seen, in order.

    Under `streamgaze` an object may be in both lists, and what the other looks rested on is in neither, unless a look
    had it beside its own: the reference joins the lists of further objects and forgets the gazed ones that are not the
    episode's most frequent.
    """
    gazed = Counter(look.gazed for look in looks if look.gazed is not None).most_common(1)
    name = gazed[0][0] if gazed else None
    beside = (seen for look in looks for seen in look.in_fov if rules == "causal" or seen != look.gazed)
    first = [] if name is None else [name]
    inside: dict[str, None] = dict.fromkeys([*first, *beside])
    outside = dict.fromkeys(seen for look in looks for seen in look.outside_fov)
    return Episode(
        min(look.start_s for look in looks),
        max(look.stop_s for look in looks),
        name,
        tuple(inside),
        tuple(outside),
        tuple(look.id for look in looks),
    )


def drop_similar(episodes: Sequence[Episode], similar: Callable[[float, float], bool]) -> list[Episode]:
    """The reference's rule: of consecutive episodes that show one scene only the first stays.

    Args:
        similar: whether the video from a time to another is one scene (`scene_consistency.similar` at `SIMILAR`).
            Asked for the kept episode's start and the next one's end; an episode without a gazed object is never
            compared.
    """
    kept: list[Episode] = []
    for episode in episodes:
        before = kept[-1] if kept else None
        comparable = before is not None and before.gazed is not None and episode.gazed is not None
        if not (comparable and similar(before.start_s, episode.stop_s)):  # type: ignore[union-attr]
            kept.append(episode)
    return kept
