"""Causal rules of the four present tasks: OI-E, OI-H, OAR, FAP. Each yields candidates; none reads beyond its time,
but for FAP's label, which is the future by definition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from random import Random

from gazeqwen.event_log import AttributeSpan, Episode, MadeQuestion
from gazeqwen.question_rules import wording
from gazeqwen.question_rules.drawing import Candidate, rng_for, sample, shuffled_options
from gazeqwen.question_rules.timeline import Timeline

ARRIVED_S = 0.1  # gaze has been on an object for so long before it counts as looked at "currently"
EASY_IN_VIEW = 2  # wrong options of OI-E that are in the frame; the others are not
BRIEF = ("motion", "flash")  # attributes of an event, which is asked about when it is over
BRIEF_SHARE = 0.5  # of OAR's questions that ask about a brief event
RECENT_S = 1.0  # a brief event is asked about for so long after it ended
FAP_AHEAD_S = (0.3, 0.8)  # FAP is asked so long before the hand touches
FAP_HORIZON_S = 2.0  # "next": begins within so long, and nothing before it


def _moments(timeline: Timeline, task: str, seed: int) -> Iterator[tuple[float, int, Episode, Random]]:
    """One moment in each stay of gaze on an object that lasts until then: half of them early enough for a glance."""
    for i, episode in enumerate(timeline.episodes):
        if episode.gazed is None:
            continue
        rng = rng_for(seed, task, i)
        wait_s = rng.uniform(ARRIVED_S, 0.4) if rng.random() < 0.5 else rng.uniform(0.4, 1.5)
        t_s = round(episode.start_s + wait_s, 3)
        if t_s <= episode.stop_s:
            yield t_s, i, episode, rng


def identify(timeline: Timeline, seed: int, *, hard: bool) -> Iterator[Candidate]:
    """OI: the object that gaze is on now. OI-H: the others are in the frame, outside the foveal field of view. OI-E:
    so are two of the others, one is not in the frame (seen before, where there is such, else of the vocabulary): with
    all three out of the frame, as the task's name suggests, the one to be seen would be the answer without gaze."""
    task = "OI-H" if hard else "OI-E"
    for t_s, i, episode, rng in _moments(timeline, task, seed):

        def make(t_s=t_s, episode=episode, rng=rng) -> MadeQuestion | None:
            right = episode.gazed
            assert right is not None
            seen = timeline.seen(t_s)
            near = {right, *episode.in_fov}
            far = [name for name in seen if timeline.in_frame(name, t_s) and name not in near]
            wrong = sample(rng, far, 3 if hard else EASY_IN_VIEW)
            if wrong is not None and not hard:
                gone = [name for name in seen if not timeline.in_frame(name, t_s) and name not in near]
                rng.shuffle(gone)
                new = sorted(set(timeline.log.vocabulary) - set(seen))
                rng.shuffle(new)
                wrong += [*gone, *new][: 3 - EASY_IN_VIEW]
            if wrong is None or len(wrong) < 3 or not timeline.in_frame(right, t_s):
                return None
            options, answer = shuffled_options(rng, right, wrong)
            return MadeQuestion(
                task,
                wording.IDENTIFY,
                t_s,
                options,
                answer,
                evidence_s=(episode.start_s, t_s),
                facts={"rules": "causal"},
            )

        yield Candidate(t_s, i, make)


def attribute(timeline: Timeline, seed: int) -> tuple[list[Candidate], list[Candidate]]:
    """OAR, as (lasting, brief): a lasting attribute of the object that gaze is on now (colour, state); and what an
    event of a fraction of a second did to it (motion, flash), asked while gaze is still on it."""
    lasting, brief = [], []
    names = sorted({span.attribute for span in timeline.log.attributes})
    for t_s, i, episode, rng in _moments(timeline, "OAR", seed):
        held = [name for name in names if name not in BRIEF]
        rng.shuffle(held)

        def make(t_s=t_s, episode=episode, rng=rng, held=held) -> MadeQuestion | None:
            for name in held:
                span = timeline.value(str(episode.gazed), name, t_s)
                if span is not None and t_s >= span.start_s + ARRIVED_S:
                    return _ask_attribute(timeline, span, t_s, episode, rng)
            return None

        lasting.append(Candidate(t_s, i, make))
    for i, span in enumerate(timeline.log.attributes):
        if span.attribute not in BRIEF:
            continue
        rng = rng_for(seed, "OAR", "brief", i)
        t_s = round(span.stop_s + rng.uniform(0.03, 0.6 * RECENT_S), 3)

        def make_brief(t_s=t_s, span=span, rng=rng) -> MadeQuestion | None:
            episode = timeline.episode(t_s)
            begun = timeline.episode(span.start_s)
            if episode is None or begun is None or not episode.gazed == begun.gazed == span.object:
                return None
            if timeline.last_span(span.object, span.attribute, t_s, within_s=RECENT_S) is not span:
                return None
            return _ask_attribute(timeline, span, t_s, episode, rng)

        brief.append(Candidate(t_s, i, make_brief))
    return lasting, brief


def _ask_attribute(
    timeline: Timeline, span: AttributeSpan, t_s: float, episode: Episode, rng: Random
) -> MadeQuestion | None:
    """Wrong options: first the values that other objects in the frame have, then others that the attribute can have.
    A brief event is asked about if another object in the frame had another one: else one could answer without gaze."""
    within_s = RECENT_S if span.attribute in BRIEF else 0.0
    around: set[str] = set()
    for name in timeline.seen(t_s):
        if name != span.object and timeline.in_frame(name, t_s):
            other = timeline.last_span(name, span.attribute, t_s, within_s=within_s)
            if other is not None and other.value != span.value:
                around.add(other.value)
    near, far = sorted(around), sorted(set(span.choices) - around - {span.value})
    rng.shuffle(near)
    rng.shuffle(far)
    if len(near) + len(far) < 3 or (span.attribute in BRIEF and not near):
        return None
    options, answer = shuffled_options(rng, span.value, [*near, *far][:3])
    return MadeQuestion(
        "OAR",
        wording.ask_attribute(span.attribute),
        t_s,
        options,
        answer,
        evidence_s=(max(episode.start_s, span.start_s), t_s),
        facts={"rules": "causal", "attribute_type": span.attribute},
    )


def split_label(label: str, names: tuple[str, ...]) -> tuple[str, str] | None:
    """ "take the mug" -> ("take the", "mug"): what is done, and the longest of `names` that the label ends with."""
    found = [name for name in names if label == name or label.endswith(f" {name}")]
    if not found:
        return None
    name = max(found, key=len)
    return label[: len(label) - len(name)].strip(), name


def next_action(timeline: Timeline, seed: int) -> Iterator[Candidate]:
    """FAP: what the hand does next, asked 0.3 to 0.8 s before it touches. The label is the future; what leads to it is
    not: gaze is on the object before the hand sets out, in most actions, and the hand may hint at it.

    All four options have the same verb and different nouns in the frame, so that neither verb nor noun tells. A verb
    for which fewer than four nouns are known would give itself away by the mix it needs: it is asked about only beside
    others of its kind.
    """
    log = timeline.log
    names = tuple(sorted({*log.vocabulary, *log.objects}))
    parts = {label: split_label(label, names) for label in log.action_labels}
    nouns: dict[str, list[str]] = defaultdict(list)
    for label, part in parts.items():
        if part is not None:
            nouns[part[0]].append(label)
    rare = [label for labels in nouns.values() if len(labels) < 4 for label in labels]
    starts = [action.start_s for action in log.actions]
    for i, action in enumerate(log.actions):
        rng = rng_for(seed, "FAP", i)
        t_s = round(action.start_s - rng.uniform(*FAP_AHEAD_S), 3)
        ahead = [start for start in starts if t_s < start <= t_s + FAP_HORIZON_S]
        busy = any(other.start_s <= t_s < other.stop_s for other in log.actions)
        if t_s <= 0 or busy or not ahead or min(ahead) != action.start_s:
            continue

        def make(t_s=t_s, action=action, rng=rng) -> MadeQuestion | None:
            part = parts.get(action.label)
            if part is None or not timeline.in_frame(action.object, t_s):
                return None
            pool = nouns[part[0]] if len(nouns[part[0]]) >= 4 else rare
            wrong, used = [], {part[1]}
            drawn = rng.sample(pool, len(pool))
            for label in sorted(drawn, key=lambda label: not timeline.in_frame(_noun(parts, label), t_s)):
                if _noun(parts, label) not in used:
                    used.add(_noun(parts, label))
                    wrong.append(label)
            if len(wrong) < 3:
                return None
            options, answer = shuffled_options(rng, action.label, wrong[:3])
            return MadeQuestion(
                "FAP",
                wording.NEXT_ACTION,
                t_s,
                options,
                answer,
                evidence_s=(max(0.0, t_s - 2.0), t_s),
                facts={"rules": "causal", "horizon_s": FAP_HORIZON_S},
            )

        yield Candidate(t_s, i, make)


def _noun(parts: dict[str, tuple[str, str] | None], label: str) -> str:
    part = parts[label]
    return part[1] if part is not None else ""
