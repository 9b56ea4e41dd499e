"""The causal rules, task by task: which candidates there are (`causal_past`, `causal_present`, `causal_alerts`) and how
they are spread over the recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gazeqwen.event_log import EventLog, MadeQuestion
from gazeqwen.question_rules.causal_alerts import alerts
from gazeqwen.question_rules.causal_past import gaze_sequence, never_gazed, next_object, scene_recall
from gazeqwen.question_rules.causal_present import BRIEF_SHARE, attribute, identify, next_action
from gazeqwen.question_rules.drawing import Candidate, rng_for, spread
from gazeqwen.question_rules.timeline import Timeline

Maker = Callable[[], list[MadeQuestion]]


def makers(log: EventLog, seed: int, count: int) -> dict[str, Maker]:
    """For each task a function that makes up to `count` questions."""
    timeline = Timeline(log)

    def spread_out(
        task: str, candidates: Iterable[Candidate], most: int = count, part: float = 0.9
    ) -> list[MadeQuestion]:
        inside = (candidate for candidate in candidates if candidate.t_s <= log.duration_s)
        return spread(inside, most, duration_s=part * log.duration_s, rng=rng_for(seed, task))

    def attributes() -> list[MadeQuestion]:
        lasting, brief = attribute(timeline, seed)
        rng = rng_for(seed, "OAR", "share")
        of_brief = sum(rng.random() < BRIEF_SHARE for _ in range(count))
        made = spread_out("OAR-brief", brief, of_brief) if of_brief else []
        return made + (spread_out("OAR", lasting, count - of_brief) if count > of_brief else [])

    return {
        "SR": lambda: spread_out("SR", scene_recall(timeline, seed)),
        "OTP": lambda: spread_out("OTP", next_object(timeline, seed)),
        "GSM": lambda: spread_out("GSM", gaze_sequence(timeline, seed)),
        "NFI": lambda: spread_out("NFI", never_gazed(timeline, seed), part=0.6),
        "OI-E": lambda: spread_out("OI-E", identify(timeline, seed, hard=False)),
        "OI-H": lambda: spread_out("OI-H", identify(timeline, seed, hard=True)),
        "OAR": attributes,
        "FAP": lambda: spread_out("FAP", next_action(timeline, seed)),
        "GTA": lambda: alerts(timeline, seed, count, gaze=True),
        "OAA": lambda: alerts(timeline, seed, count, gaze=False),
    }
