"""Causal rules of the two proactive tasks: GTA, OAA. Half of the points of every question are yes.

A question has two pairs of points, each pair on the two sides of a border of a stay (of gaze on the target, or of the
target in the frame): one of a beginning (no, then yes), one of an end (yes, then no). Which of the two comes first is
drawn before the borders are looked for. So nothing in the words, in the target or in the order of the points says
which are yes. The times of all points of a question together can tell a little where stays are much longer than
absences or the other way round; on the tiny world a classifier finds nothing in them (`tests/test_text_priors.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from gazeqwen.event_log import AlertPoint, MadeQuestion
from gazeqwen.question_rules import wording
from gazeqwen.question_rules.drawing import rng_for
from gazeqwen.question_rules.timeline import Timeline

MARGIN_S = 0.1  # a point lies at least so long after the border before it
LAST_S = 0.04  # and so long before the border after it
NEAR_S = 2.0  # of the border
APART_S = 2 * NEAR_S  # two borders of a question: else close points would be those of a short stay or a short absence
BRIEF_SPAN_S = 0.45  # glances: 0.15 to 0.4 s, and what rounding adds
BRIEF_SHARE = 0.4  # of GTA's pairs that lie about a glance, where there are such
ASKED_UNTIL = 0.5  # questions are put in this first part of the recording

Span = tuple[float, float]


def alerts(timeline: Timeline, seed: int, count: int, *, gaze: bool) -> list[MadeQuestion]:
    """Up to `count` questions. GTA: yes where gaze is on the target, no where it is in the frame and gaze is not on it.
    OAA: yes where the target is in the frame, no where it is not."""
    task = "GTA" if gaze else "OAA"
    duration_s, rng = timeline.log.duration_s, rng_for(seed, task)
    borders: dict[str, list[Border]] = {}
    for name in timeline.seen(duration_s):
        visible = merged(timeline.spans[name])
        on = gaze_spans(timeline, name) if gaze else visible
        off = _intersection(_complement(on, duration_s), visible) if gaze else _complement(on, duration_s)
        borders[name] = _borders(on, off)
    made: list[MadeQuestion] = []
    moments = sorted(rng.uniform(0.0, ASKED_UNTIL * duration_s) for _ in range(count))
    order = rng.sample(sorted(borders), len(borders))
    used: set[tuple[str, float]] = set()
    for number, moment in enumerate(moments):
        asked_s = float(int(moment))
        begins_first = rng.random() < 0.5
        for name in order:
            free = [b for b in borders[name] if b.first[0] > asked_s and (name, b.t_s) not in used]
            two = _two_borders(rng_for(seed, task, number, name), free, begins_first, brief=gaze)
            if two is None:
                continue
            used.update((name, border.t_s) for border in two)
            points = _points(rng_for(seed, task, number), two)
            made.append(
                MadeQuestion(
                    task,
                    wording.ask_gaze_alert(name) if gaze else wording.ask_appearance_alert(name, first=False),
                    asked_s,
                    evidence_s=(asked_s, points[-1].t_s),
                    points=points,
                    facts={"rules": "causal", "target_object": name},
                )
            )
            order = [*(other for other in order if other != name), name]  # another target next, as long as there is one
            break
    return made


@dataclass(frozen=True)
class Border:
    """Where a stay begins (`begins`) or ends, and where points may lie before (`first`) and after it (`second`)."""

    t_s: float
    begins: bool
    first: Span
    second: Span
    brief: bool


def gaze_spans(timeline: Timeline, name: str) -> list[Span]:
    """Stays of gaze on the object."""
    return merged([(e.start_s, e.stop_s) for e in timeline.episodes if e.gazed == name])


def merged(spans: Sequence[Span]) -> list[Span]:
    """Spans in order of time, those that touch as one."""
    out: list[Span] = []
    for start, stop in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out


def _complement(spans: Sequence[Span], duration_s: float) -> list[Span]:
    edges = [0.0, *(edge for span in spans for edge in span), duration_s]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop > start]


def _intersection(a: Sequence[Span], b: Sequence[Span]) -> list[Span]:
    cut = [(max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b]
    return sorted(span for span in cut if span[1] > span[0])


def _inner(span: Span, low_s: float, high_s: float) -> Span | None:
    """Where in `span` points may lie, within [low_s, high_s]."""
    start, stop = max(span[0] + MARGIN_S, low_s), min(span[1] - LAST_S, high_s)
    return (start, stop) if stop - start >= 0.002 else None


def _borders(on: Sequence[Span], off: Sequence[Span]) -> list[Border]:
    """Borders with room for a point on both sides, in order of time."""
    out = []
    for start, stop in on:
        brief = stop - start <= BRIEF_SPAN_S
        yes = _inner((start, stop), 0.0, start + NEAR_S)
        no = [span for span in (_inner(o, start - NEAR_S, start - LAST_S) for o in off if o[0] < start) if span]
        if yes and no:
            out.append(Border(start, True, no[-1], yes, brief))
        yes = _inner((start, stop), stop - NEAR_S, stop)
        no = [span for span in (_inner(o, stop + MARGIN_S, stop + NEAR_S) for o in off if o[1] > stop) if span]
        if yes and no:
            out.append(Border(stop, False, yes, no[0], brief))
    return out


def _two_borders(rng: Random, free: list[Border], begins_first: bool, *, brief: bool) -> tuple[Border, Border] | None:
    """A beginning and an end in this order, drawn from those that go together."""
    fit = [(a, b) for a in free for b in free if a.begins == begins_first != b.begins and b.t_s - a.t_s >= APART_S]
    short = [(a, b) for a, b in fit if a.brief or b.brief]
    pool = short if brief and short and rng.random() < BRIEF_SHARE else fit
    return rng.choice(pool) if pool else None


def _points(rng: Random, borders: tuple[Border, Border]) -> tuple[AlertPoint, ...]:
    points = [
        AlertPoint(_time(rng, span), yes)
        for border in borders
        for span, yes in ((border.first, not border.begins), (border.second, border.begins))
    ]
    return tuple(sorted(points, key=lambda point: point.t_s))


def _time(rng: Random, span: Span) -> float:
    """A moment in `span`, in whole milliseconds as QA files hold them."""
    return min(max(round(rng.uniform(*span), 3), span[0]), span[1])
