"""A symbolic reader of event logs: what a question's answer is, if the log is right. No model, no pixels.

On the true log it gives the stated answer of every causal question (of FAP it predicts, from what leads to actions). On
an estimated log it shows what noisy gaze, or none, allows: the arms `oracle` and `oracle-no-gaze`. It reads the
question's text fields and `facts`, never the stated answer, and of the log only what begins by the question's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gazeqwen.errors import InputError
from gazeqwen.event_log import EventLog, MadeQuestion
from gazeqwen.question_rules import wording
from gazeqwen.question_rules.causal_present import BRIEF, RECENT_S, split_label
from gazeqwen.question_rules.timeline import JUST_GONE_S, Look, Timeline, known_at

RECENT_LOOKS_S = 1.6  # gaze so long ago still hints at what the hand does next
RECENT_CUE_S = 2.5  # so does a twitch of the hand
CUE_WEIGHT = 0.8
# A key of EventLog.extra: [{"start_s", "stop_s", "candidates"}], where a twitch of the hand points to, best first.
CUES = "cues"


def solve(log: EventLog, question: MadeQuestion, *, t_s: float | None = None) -> tuple[float, ...]:
    """One score for each option, highest for the answer; for a proactive question (no, yes) at `t_s`.

    Args:
        log: true or estimated; cut at the time asked before it is read.
        t_s: of the test point; for the other tasks by default the question's.

    Raises:
        InputError: an unknown task, or a proactive question without `t_s`.
    """
    if question.task in ("GTA", "OAA") and t_s is None:
        raise InputError(f"{question.task} question", expected="the time of a test point (t_s)", found="none")
    if question.task not in _SOLVERS:
        raise InputError("question", expected=f"a task of {', '.join(_SOLVERS)}", found=repr(question.task))
    at_s = question.t_s if t_s is None else t_s
    timeline = Timeline(known_at(log, at_s), from_episodes=not log.appearances)
    return tuple(_SOLVERS[question.task](timeline, question, at_s))


def _gaze_rank(timeline: Timeline, t_s: float) -> dict[str, float]:
    """How near gaze each object is at `t_s`: 3 looked at; 2 down to 1 in the foveal field, by order; 0.5 in the frame;
    0 not in it, however lately seen."""
    rank = {name: 0.5 for name in timeline.spans if timeline.in_frame(name, t_s)}
    episode = timeline.episode(t_s, slack_s=JUST_GONE_S)
    if episode is not None:
        for place, name in enumerate(episode.in_fov):
            rank[name] = 2.0 - place / (len(episode.in_fov) + 1)
        if episode.gazed is not None:
            rank[episode.gazed] = 3.0
    return rank


def _group_looks(looks: Sequence[Look], group: Sequence[str]) -> list[int]:
    """Looks that are looks at the group: at its one object, or, for several, those whose foveal fields overlap with it
    most."""
    wanted = set(group)
    if len(wanted) == 1:
        return [i for i, look in enumerate(looks) if look.object in wanted]
    fits = [len(wanted & _field(look)) / len(wanted | _field(look)) for look in looks]
    best = max(fits, default=0.0)
    return [i for i, fit in enumerate(fits) if fit == best > 0]


def _field(look: Look) -> set[str]:
    return {look.object, *(name for episode in look.episodes for name in episode.in_fov)}


def _scene_recall(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    """Minus the share of the last look at X for which an option was to be seen; where no such look is known, of the
    time for which X was. Of options alike in that, the one that was seen less with X."""
    looks = timeline.looks(t_s)
    group = question.facts["gazed_objects"]
    found = _group_looks(looks, group)
    last = looks[found[-1]] if found else None
    listed = {name for e in last.episodes for name in (*e.in_fov, *e.outside_fov)} if last else set()
    for name in question.options:
        together = sum(timeline.together_seconds(name, other, t_s) for other in group)
        alone = sum(timeline.frame_seconds(other, 0.0, t_s) for other in group)
        score = -0.01 * together / max(alone, 1e-9)
        if last is not None:
            during = timeline.frame_seconds(name, last.start_s, last.stop_s) / max(last.stop_s - last.start_s, 1e-9)
            score -= during + (name in listed)
        yield score


def _next_object(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    """2 for what the look after the last completed look at X was at; under 1 by how often a look at it followed one at
    X before, or came soon after."""
    looks = timeline.looks(t_s)
    found = [i for i in _group_looks(looks, question.facts["object_group"]) if i + 1 < len(looks)]
    scores = dict.fromkeys(question.options, 0.0)
    for i in found:
        weight = 2.0 if i == found[-1] else 0.1 / len(found)
        fields = [looks[i + 1].object] if question.facts.get("rules") == "causal" else _field(looks[i + 1])
        for name in fields:
            if name in scores:
                scores[name] += weight
    after = [look.object for look in looks[found[-1] + 2 :][:3]] if found else []
    for distance, name in enumerate(after):
        if name in scores:
            scores[name] += 0.5 / (1 + distance)
    return scores.values()


def _gaze_sequence(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    """3 and a little for later, where the three were looked at one after the other; else how well they fit the best
    stretch of five looks, in order and with gaps."""
    looks = timeline.looks(t_s)
    for option in question.options:
        groups = [set(group) for group in wording.sequence_groups(option)]
        best = 0.0
        for i in range(len(looks)):
            single = all(len(group) == 1 for group in groups)
            fields = [{look.object} if single else _field(look) for look in looks[i : i + 5]]
            later = 0.1 * i / len(looks)
            exact = len(fields) >= len(groups) and all(a & b for a, b in zip(groups, fields, strict=False))
            best = max(best, 3 + later if exact else 0.6 * _in_order(groups, fields) + later)
        yield best


def _in_order(groups: Sequence[set[str]], fields: Sequence[set[str]]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(fields) + 1)
    for group in groups:
        previous, row = row, [0]
        for j, field in enumerate(fields):
            row.append(previous[j] + 1 if group & field else max(row[j], previous[j + 1]))
    return row[-1]


def _never_gazed(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    """Minus the seconds of gaze on an option so far, and a little less for those in the foveal field."""
    gazed, near = timeline.gaze_seconds(t_s), timeline.fov_seconds(t_s)
    for name in question.options:
        yield -gazed.get(name, 0.0) - 0.001 * near.get(name, 0.0) / (1 + near.get(name, 0.0))


def _identify(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    rank = _gaze_rank(timeline, t_s)
    return [rank.get(name, 0.0) for name in question.options]


def _attribute(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    """The value of the object nearest gaze that has one of the options."""
    attribute = question.facts["attribute_type"]
    within_s = RECENT_S if attribute in BRIEF else 0.0
    scores = dict.fromkeys(question.options, 0.0)
    for name, rank in _gaze_rank(timeline, t_s).items():
        span = timeline.last_span(name, attribute, t_s, within_s=within_s)
        if span is not None and span.value in scores:
            scores[span.value] = max(scores[span.value], rank)
    return scores.values()


def _next_action(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    """How much gaze was on the action's object in the last 1.6 s, late gaze more; whether the hand hinted at it; a
    little for being in the frame."""
    log = timeline.log
    names = (*log.vocabulary, *log.objects)
    since_s = max((action.start_s for action in log.actions), default=0.0)
    hints: dict[str, float] = {}
    for cue in log.extra.get(CUES, ()):
        if max(since_s, t_s - RECENT_CUE_S) <= cue["start_s"] and cue["stop_s"] <= t_s:
            for place, name in enumerate(cue["candidates"]):
                hints[name] = max(hints.get(name, 0.0), CUE_WEIGHT / (1 + place))
    for label in question.options:
        part = split_label(label, names)
        name = part[1] if part is not None else label
        score = 0.01 * timeline.in_frame(name, t_s) + hints.get(name, 0.0)
        for episode in timeline.episodes:
            held_s = min(episode.stop_s, t_s) - max(episode.start_s, t_s - RECENT_LOOKS_S)
            if episode.gazed == name and held_s > 0:
                score += held_s * (1 - (t_s - episode.stop_s) / RECENT_LOOKS_S)
        yield score


def _gazing(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    episode = timeline.episode(t_s, slack_s=0.05)
    target = question.facts["target_object"]
    if episode is None:
        return (0.9, 0.1)
    if episode.gazed == target:
        return (0.1, 0.9)
    return (0.7, 0.3) if target in episode.in_fov else (0.9, 0.1)


def _in_view(timeline: Timeline, question: MadeQuestion, t_s: float) -> Iterable[float]:
    return (0.1, 0.9) if timeline.in_frame(question.facts["target_object"], t_s) else (0.9, 0.1)


_SOLVERS = {
    "SR": _scene_recall,
    "OTP": _next_object,
    "GSM": _gaze_sequence,
    "NFI": _never_gazed,
    "OI-E": _identify,
    "OI-H": _identify,
    "OAR": _attribute,
    "FAP": _next_action,
    "GTA": _gazing,
    "OAA": _in_view,
}
