"""The rules of StreamGaze's own generators, with their caps, whole-second times and looks into the future.

Source: daeunni/StreamGaze at 07b8a44, `pipeline/qa_generation/{past,present,future}.py`; its filters are the data
pipeline's. What a generator there calls a time point is an episode of the log, its timeline is episodes and actions in
order, its "objects" are the foveal field's and the outside ones. Where they look ahead or go wrong, and we follow:

* OTP: time = start of the answer's episode, when the answer is already to be seen; wrong answers from the whole video.
* NFI: the answer was never gazed at over the whole video, also not after the question; at most 3, the earliest.
* GSM: five random draws, the same may come twice, dropped where the shuffle gave the same order; two of the three wrong
  sequences are random pairs of objects, so that three single objects, or a repeat, give the right one away.
* SR: the earliest three episodes only; the answer may be an object that is first seen later.
* OI: one question per object, at its longest episode in the video, asked at the episode's start, before a viewer
  could know; easy wrong answers are objects of the whole video, filled up from a fixed list.
* OAR: asked at the start of each episode. There a language model picks the attribute and three wrong values from a
  caption; here the attribute is drawn from those that the log knows, the values from its choices.
* FAP: 2 to 120 s ahead, the context in the question's words, wrong answers from all actions of the video.
* GTA: one random object a video; OAA: every other object that was outside the foveal field. Points at -20, -10, 0, +10
  and +20 s of the first time (known only afterwards) give no balance: most are no. Labels are of the exact time, the
  point is written in whole seconds, so that the first yes may come up to 1 s before it is true.

Different from there: draws are seeded per task; objects are sorted before draws where Python's set order decided.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from random import Random

from gazeqwen.event_log import Action, AlertPoint, Episode, EventLog, MadeQuestion
from gazeqwen.question_rules import wording
from gazeqwen.question_rules.drawing import rng_for, shuffled_options

PAST_MOST = 3  # of NFI and SR a video
DRAWS = 5  # of GSM
LOOKBACK = 3  # FAP: time points of context
ACTION_AHEAD_S = (2.0, 120.0)
OFFSETS_S = (-20, -10, 0, 10, 20)
ALERTS_MOST_S = 300.0
BUFFER_S = 2.0
FALLBACK_OBJECTS = (
    "spoon", "fork", "knife", "cup", "mug", "plate", "bowl", "pan", "pot", "kettle", "microwave", "refrigerator",
    "toaster", "cutting board", "sink", "towel", "jar", "bottle",
)  # fmt: skip
FURNITURE = (
    "counter", "cabinet", "microwave", "refrigerator", "oven", "stove", "sink", "wall", "floor", "ceiling", "curtain",
    "furniture", "shelf", "drawer",
)  # fmt: skip
FACTS = {"rules": "streamgaze"}


def makers(log: EventLog, seed: int) -> dict[str, Callable[[], list[MadeQuestion]]]:
    """For each task a function that makes all its questions, in the generator's order."""
    return {
        "SR": lambda: _scene_recall(log, rng_for(seed, "SR")),
        "OTP": lambda: _next_object(log, rng_for(seed, "OTP")),
        "GSM": lambda: _gaze_sequence(log, rng_for(seed, "GSM")),
        "NFI": lambda: _never_gazed(log, rng_for(seed, "NFI")),
        "OI-E": lambda: _identify(log, rng_for(seed, "OI-E"), hard=False),
        "OI-H": lambda: _identify(log, rng_for(seed, "OI-H"), hard=True),
        "OAR": lambda: _attribute(log, rng_for(seed, "OAR")),
        "FAP": lambda: _next_action(log, rng_for(seed, "FAP")),
        # One draw decides both: OAA leaves out GTA's object.
        "GTA": lambda: _alerts(log, rng_for(seed, "alerts"))[0],
        "OAA": lambda: _alerts(log, rng_for(seed, "alerts"))[1],
    }


def _floor(time_s: float) -> float:
    return float(int(time_s))


def _near(episode: Episode) -> list[str]:
    """Objects in the foveal field, the gazed one first. An episode without any (bare wall) has none."""
    return list(dict.fromkeys(([episode.gazed] if episode.gazed else []) + list(episode.in_fov)))


def _timeline(log: EventLog) -> list[Episode | Action]:
    return sorted((*log.episodes, *log.actions), key=lambda event: (event.start_s, event.stop_s))


def _all_objects(log: EventLog) -> list[str]:
    return sorted({name for e in log.episodes for name in (*_near(e), *e.outside_fov)})


def _next_object(log: EventLog, rng: Random) -> list[MadeQuestion]:
    made, timeline, everything = [], _timeline(log), _all_objects(log)
    for now, then in pairwise(timeline):
        if not (isinstance(now, Episode) and isinstance(then, Episode)) or not _near(now):
            continue
        group = _near(now)
        new = [name for name in _near(then) if name not in group]
        wrong = [name for name in everything if name not in group and new and name != new[0]]
        if not new or len(wrong) < 3:
            continue
        options, answer = shuffled_options(rng, new[0], rng.sample(wrong, 3))
        made.append(
            MadeQuestion(
                "OTP",
                wording.ask_next(group, last=False),
                _floor(then.start_s),
                options,
                answer,
                evidence_s=(max(0.0, now.start_s - BUFFER_S), then.stop_s + BUFFER_S),
                facts={**FACTS, "object_group": group},
            )
        )
    return made


def _never_gazed(log: EventLog, rng: Random) -> list[MadeQuestion]:
    made: list[MadeQuestion] = []
    gazed = {name for e in log.episodes for name in _near(e)}
    never = [name for name in _all_objects(log) if name not in gazed]
    timeline = _timeline(log)
    if len(timeline) < 3 or not never or len(gazed) < 3:
        return made
    for event in timeline[2:]:
        if not isinstance(event, Episode):
            continue
        so_far = sorted({name for e in log.episodes if e.start_s <= event.start_s for name in _near(e)})
        right = rng.choice(never)
        if len(so_far) < 3:
            continue
        wrong = rng.sample(so_far, 3)
        options, answer = shuffled_options(rng, right, wrong)
        spans = [(e.start_s, e.stop_s) for e in log.episodes if set(_near(e)) & set(wrong)]
        evidence_s = (max(0.0, min(s for s, _ in spans) - BUFFER_S), max(s for _, s in spans) + BUFFER_S)
        made.append(
            MadeQuestion(
                "NFI", wording.ask_never(options), _floor(event.start_s), options, answer, evidence_s, facts=FACTS
            )
        )
        if len(made) >= PAST_MOST:
            break
    return made


def _gaze_sequence(log: EventLog, rng: Random) -> list[MadeQuestion]:
    made, timeline = [], _timeline(log)
    objects = sorted({name for e in log.episodes for name in _near(e)})
    for _ in range(DRAWS if len(timeline) >= 3 else 0):
        start = rng.randint(0, len(timeline) - 3)
        three = timeline[start : start + 3]
        groups = [_near(e) for e in three if isinstance(e, Episode) and _near(e)]
        if len(groups) < 3:
            continue
        right = wording.sequence_text(groups)
        wrong = []
        shuffled = rng.sample(groups, 3)
        if shuffled != groups:
            wrong.append(wording.sequence_text(shuffled))
        for _ in range(2):
            fake = wording.sequence_text([rng.sample(objects, min(2, len(objects))) for _ in range(3)])
            if fake != right and fake not in wrong:
                wrong.append(fake)
        if len(wrong) < 3:
            continue
        options, answer = shuffled_options(rng, right, wrong)
        times = (three[0].start_s, three[2].start_s)
        made.append(
            MadeQuestion("GSM", wording.SEQUENCE, _floor(times[1]), options, answer, evidence_s=times, facts=FACTS)
        )
    return made


def _scene_recall(log: EventLog, rng: Random) -> list[MadeQuestion]:
    made: list[MadeQuestion] = []
    outside = sorted({name for e in log.episodes for name in e.outside_fov})
    if len(outside) < 4 or len(log.episodes) + len(log.actions) < 2:
        return made
    for episode in log.episodes:
        group, around = _near(episode), list(episode.outside_fov)
        absent = [name for name in outside if name not in around]
        if not group or len(around) < 3 or not absent:
            continue
        options, answer = shuffled_options(rng, rng.choice(absent), rng.sample(around, 3))
        made.append(
            MadeQuestion(
                "SR",
                wording.ask_background(group, last=False),
                _floor(episode.start_s),
                options,
                answer,
                evidence_s=(max(0.0, episode.start_s - 5), episode.start_s + 5),
                facts={**FACTS, "gazed_objects": group},
            )
        )
        if len(made) >= PAST_MOST:
            break
    return made


def _identify(log: EventLog, rng: Random, *, hard: bool) -> list[MadeQuestion]:
    made = []
    longest: dict[str, Episode] = {}
    for episode in log.episodes:
        kept = longest.get(episode.gazed or "")
        if episode.gazed and (kept is None or episode.stop_s - episode.start_s > kept.stop_s - kept.start_s):
            longest[episode.gazed] = episode
    # "In any cropped area" there means beside the gazed object, which is a column of its own.
    beside = {name for e in log.episodes for name in e.in_fov if name != e.gazed}
    for name, episode in longest.items():
        if hard:
            wrong = [other for other in dict.fromkeys(episode.outside_fov) if other != name]
        else:
            wrong = [other for other in _all_objects(log) if other != name and other not in beside]
        rng.shuffle(wrong)
        if hard and len(wrong) < 3:
            continue
        if len(wrong) < 3:
            more = [other for other in FALLBACK_OBJECTS if other != name and other not in wrong]
            wrong += rng.sample(more, len(more))
        options, answer = shuffled_options(rng, name, wrong[:3])
        made.append(
            MadeQuestion(
                "OI-H" if hard else "OI-E",
                wording.IDENTIFY_RAW,
                float(round(episode.start_s)),
                options,
                answer,
                evidence_s=(episode.start_s, episode.stop_s),
                facts=FACTS,
            )
        )
    return made


def _attribute(log: EventLog, rng: Random) -> list[MadeQuestion]:
    made = []
    for episode in log.episodes:
        held = [
            span
            for span in log.attributes
            if span.object == episode.gazed
            and wording.attribute_type(span.attribute) in wording.ATTRIBUTE_RAW
            and span.start_s <= episode.start_s < span.stop_s
            and len(set(span.choices) - {span.value}) >= 3
        ]
        if not held:
            continue
        span = rng.choice(held)
        wrong = rng.sample(sorted(set(span.choices) - {span.value}), 3)
        options, answer = shuffled_options(rng, span.value, wrong)
        made.append(
            MadeQuestion(
                "OAR",
                wording.ATTRIBUTE_RAW[wording.attribute_type(span.attribute)],
                float(round(episode.start_s)),
                options,
                answer,
                evidence_s=(episode.start_s, episode.stop_s),
                facts={**FACTS, "attribute_type": span.attribute},
            )
        )
    return made


def _next_action(log: EventLog, rng: Random) -> list[MadeQuestion]:
    made, timeline = [], _timeline(log)
    labels = sorted({action.label for action in log.actions})
    if len(log.actions) < 2 or len(labels) < 4:
        return made
    asked: set[tuple[str, ...]] = set()
    for i, event in enumerate(timeline[:-1]):
        if not isinstance(event, Episode):
            continue
        window = [e for e in timeline[max(0, i - LOOKBACK + 1) : i + 1] if isinstance(e, Episode)]
        context = tuple(dict.fromkeys(name for e in window for name in _near(e)))[-LOOKBACK:]
        if not context or context in asked:
            continue
        # The first action that is not too soon; one too late ends the search.
        later = (e for e in timeline[i + 1 :] if isinstance(e, Action))
        action = next((a for a in later if a.start_s - event.stop_s >= ACTION_AHEAD_S[0]), None)
        if action is None or action.start_s - event.stop_s > ACTION_AHEAD_S[1]:
            continue
        asked.add(context)
        options, answer = shuffled_options(rng, action.label, rng.sample([x for x in labels if x != action.label], 3))
        made.append(
            MadeQuestion(
                "FAP",
                wording.ask_action_raw(context),
                _floor(event.stop_s),
                options,
                answer,
                evidence_s=(timeline[0].start_s, max(e.stop_s for e in timeline)),
                facts={**FACTS, "context_objects": list(context)},
            )
        )
    return made


def _alerts(log: EventLog, rng: Random) -> tuple[list[MadeQuestion], list[MadeQuestion]]:
    near, outside = defaultdict(list), defaultdict(list)
    for episode in log.episodes:
        for names, times in ((_near(episode), near), (episode.outside_fov, outside)):
            for name in names:
                times[name].append((episode.start_s, episode.stop_s))
    shown = [e.start_s for e in log.episodes if _near(e) or e.outside_fov]
    if not shown:
        return [], []
    targets = sorted(name for name in near if not _furniture(name))
    target = rng.choice(targets) if targets else None
    gaze, appearance = [], []
    if target is not None:
        gaze.append(_alert("GTA", wording.ask_gaze_alert(target), target, near[target], min(shown)))
    for name in sorted(outside):
        if name != target and not _furniture(name):
            text = wording.ask_appearance_alert(name, first=True)
            appearance.append(_alert("OAA", text, name, outside[name], min(shown)))
    return gaze, appearance


def _furniture(name: str) -> bool:
    """The generator asks a language model and falls back on these words."""
    return any(word in name for word in FURNITURE)


def _alert(task: str, text: str, target: str, spans: list[tuple[float, float]], asked_s: float) -> MadeQuestion:
    first_s = spans[0][0]
    times_s = [first_s + offset for offset in OFFSETS_S if asked_s <= first_s + offset <= asked_s + ALERTS_MOST_S]
    points = tuple(AlertPoint(_floor(t), any(start <= t <= stop for start, stop in spans)) for t in times_s)
    return MadeQuestion(
        task,
        text,
        _floor(asked_s),
        evidence_s=(_floor(asked_s), points[-1].t_s),
        points=points,
        facts={**FACTS, "target_object": target},
    )
