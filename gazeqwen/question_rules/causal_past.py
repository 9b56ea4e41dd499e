"""Causal rules of the four past tasks: SR, OTP, GSM, NFI. Each yields candidates; none reads beyond its time.

How a reader of the text alone is kept at chance is said at each. Throughout, right and wrong options are nouns of the
same kind of object (seen, or looked at, so far), so a noun tells nothing as far as the recordings treat nouns alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from gazeqwen.event_log import MadeQuestion
from gazeqwen.question_rules import wording
from gazeqwen.question_rules.drawing import Candidate, rng_for, sample, shuffled_options
from gazeqwen.question_rules.timeline import Timeline

LEAST_SEEN_S = 0.5  # an option has been in the frame for so long, or looked at for so long, before the question
LEAST_GAZED_S = 0.25
RECALL_S = (0.3, 3.0, 6.0, 12.0)  # SR is asked so long after the look, at one moment in each part
LEAST_BACKGROUND_S = 0.25  # a wrong option of SR was in the background of the look for so long,
LEAST_BACKGROUND_SHARE = 0.6  # or for this share of it, whichever is less


def scene_recall(timeline: Timeline, seed: int) -> Iterator[Candidate]:
    """SR: one of four objects was out of the frame when the wearer last looked at X; the others were in its background
    (in the frame, outside the foveal field of view). All four have been seen before the question.

    The release's task. "last" is added to its text, so that it is about one look.
    """
    looks = timeline.looks(timeline.log.duration_s)
    for i, part in product(range(len(looks) - 1), range(len(RECALL_S) - 1)):
        rng = rng_for(seed, "SR", i, part)
        t_s = round(looks[i + 1].start_s + rng.uniform(RECALL_S[part], RECALL_S[part + 1]), 3)

        def make(i=i, rng=rng, t_s=t_s) -> MadeQuestion | None:
            look = looks[i]
            if any(later.object == look.object for later in timeline.looks(t_s)[i + 1 :]):
                return None
            near = {name for episode in look.episodes for name in episode.in_fov}
            around = {name for episode in look.episodes for name in episode.outside_fov}
            seconds = {
                name: timeline.frame_seconds(name, look.start_s, look.stop_s)
                for name in timeline.seen(t_s, LEAST_SEEN_S)
            }
            least_s = min(LEAST_BACKGROUND_S, LEAST_BACKGROUND_SHARE * (look.stop_s - look.start_s))
            behind = [
                name
                for name, visible_s in seconds.items()
                if visible_s >= least_s and name in around and name not in near
            ]
            hidden = [name for name, visible_s in seconds.items() if visible_s == 0 and name not in {*around, *near}]
            # Without gaze one would name the object that is least in view while X is: it is one of the wrong ones.
            share = {name: timeline.together_seconds(name, look.object, t_s) for name in seconds}
            right = max(hidden, key=lambda name: share[name], default="")
            wrong = sorted(behind, key=lambda name: share[name])[:3]
            if not right or len(wrong) < 3 or share[wrong[0]] > share[right]:
                return None
            options, answer = shuffled_options(rng, right, wrong)
            return MadeQuestion(
                "SR",
                wording.ask_background([look.object], last=True),
                t_s,
                options,
                answer,
                evidence_s=(look.start_s, look.stop_s),
                facts={"rules": "causal", "gazed_objects": [look.object]},
            )

        yield Candidate(t_s, i, make)


def next_object(timeline: Timeline, seed: int) -> Iterator[Candidate]:
    """OTP: which object gaze went to after it last left X; asked when it has already gone on from there.

    Options are objects looked at before the question, as far as there are enough, else seen. X is never among them,
    and the answer is not what gaze is on when it is asked.
    """
    looks = timeline.looks(timeline.log.duration_s)
    for i in range(len(looks) - 2):
        rng = rng_for(seed, "OTP", i)
        t_s = round(looks[i + 2].start_s + rng.uniform(0.2, 3.0), 3)

        def make(i=i, rng=rng, t_s=t_s) -> MadeQuestion | None:
            group, right, known = looks[i].object, looks[i + 1].object, timeline.looks(t_s)
            now = known[-1].object
            if right == now or any(later.object == group for later in known[i + 1 :]):
                return None
            gazed = timeline.gaze_seconds(t_s)
            others = [name for name in timeline.seen(t_s, LEAST_SEEN_S) if name not in (group, right)]
            rng.shuffle(others)
            wrong = sorted(others, key=lambda name: gazed.get(name, 0.0) < LEAST_GAZED_S)[:3]
            if len(wrong) < 3 or looks[i + 1].stop_s - looks[i + 1].start_s < 0.1:
                return None
            options, answer = shuffled_options(rng, right, wrong)
            return MadeQuestion(
                "OTP",
                wording.ask_next([group], last=True),
                t_s,
                options,
                answer,
                evidence_s=(looks[i].start_s, looks[i + 1].stop_s),
                facts={"rules": "causal", "object_group": [group]},
            )

        yield Candidate(t_s, i, make)


def gaze_sequence(timeline: Timeline, seed: int) -> Iterator[Candidate]:
    """GSM: three different objects in the order in which they were last looked at, one after the other; wrong options
    are other orders of the same three that have not occurred so far.

    All four options hold the same words and no repeat, so that order alone decides.
    """
    looks = timeline.looks(timeline.log.duration_s)
    for i in range(2, len(looks)):
        rng = rng_for(seed, "GSM", i)
        t_s = round(looks[i].start_s + rng.uniform(0.3, 5.0), 3)

        def make(i=i, rng=rng, t_s=t_s) -> MadeQuestion | None:
            right = tuple(look.object for look in looks[i - 2 : i + 1])
            if len(set(right)) < 3:
                return None
            objects = [look.object for look in timeline.looks(t_s)]
            occurred = set(zip(objects, objects[1:], objects[2:], strict=False))
            others = [order for order in permutations(sorted(right)) if order not in occurred]
            if len(others) < 3:
                return None
            wrong = rng.sample(others, 3)
            options, answer = shuffled_options(rng, _text(right), [_text(order) for order in wrong])
            return MadeQuestion(
                "GSM",
                wording.SEQUENCE,
                t_s,
                options,
                answer,
                evidence_s=(looks[i - 2].start_s, t_s),
                facts={"rules": "causal"},
            )

        yield Candidate(t_s, i, make)


def _text(order: tuple[str, ...]) -> str:
    return wording.sequence_text([name] for name in order)


def never_gazed(timeline: Timeline, seed: int) -> Iterator[Candidate]:
    """NFI: the one of four objects, all seen so far, that was never looked at so far.

    The generator's own look over the whole recording is not repeated: a later look at the answer changes nothing.
    """
    looks = timeline.looks(timeline.log.duration_s)
    for i in range(2, len(looks)):
        rng = rng_for(seed, "NFI", i)
        t_s = round(looks[i].start_s + rng.uniform(0.1, 1.0), 3)

        def make(rng=rng, t_s=t_s) -> MadeQuestion | None:
            gazed, seen = timeline.gaze_seconds(t_s), timeline.seen(t_s, LEAST_SEEN_S)
            never = [name for name in seen if name not in gazed]
            wrong = sample(rng, [name for name in seen if gazed.get(name, 0.0) >= LEAST_GAZED_S], 3)
            if wrong is None or not never:
                return None
            options, answer = shuffled_options(rng, rng.choice(never), wrong)
            return MadeQuestion(
                "NFI",
                wording.ask_never(options),
                t_s,
                options,
                answer,
                evidence_s=(0.0, t_s),
                facts={"rules": "causal"},
            )

        yield Candidate(t_s, i, make)
