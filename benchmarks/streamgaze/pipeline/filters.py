"""Which made questions are left out, and why. Source: StreamGaze 07b8a44, `pipeline/filtering/*.py`.

Under `streamgaze` these are the reference's own rules, as far as they need no language model: gaps and contexts of FAP,
words for parts of people (as substrings, so that "hand" drops "handle"), subjective attributes, ambiguous targets of
OAA, repeated groups of GSM. Where it has a model replace an option (confusable attributes, overlapping object names)
the question is dropped here; its checks of whole questions by a model (SR, GSM, GTA) and its polishing of long options
(FAP) are not done, and its duration rules never act because no generator writes the key they read. Under both rules
test points after the end of the video, which can't be asked, are left out of their question.

Under `causal`: words for parts of people as whole words, the same subjective attributes and ambiguous targets,
confusable options, questions that rest on a look which failed a check (`EventLog.extra["unreliable"]`), and OAA where
no one wrote down when objects are in the frame (`EventLog.extra["in_view_known"]`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from gazeqwen.event_log import EventLog, MadeQuestion, Rules
from gazeqwen.question_rules.streamgaze import ACTION_AHEAD_S
from gazeqwen.question_rules.wording import attribute_type, sequence_groups

HUMAN_WORDS = frozenset(
    (
        "hand",
        "hands",
        "finger",
        "fingers",
        "arm",
        "arms",
        "foot",
        "feet",
        "leg",
        "legs",
        "body",
        "face",
        "head",
        "person",
    )
)
GENERIC_PLACES = (
    "counter", "sink", "cabinet", "stove", "table", "floor", "wall", "ceiling", "curtain", "countertop", "outlet",
    "window", "furniture", "shelf", "drawer", "rack", "gas_stove",
)  # fmt: skip
SUBJECTIVE = frozenset(("usage", "position", "size"))
AMBIGUOUS_TARGETS = frozenset(
    (
        "plastic", "paper", "cloth", "fabric", "material", "container", "bag", "box", "case", "package", "wrapper",
        "thing", "item", "stuff", "object", "device", "tool", "equipment",
    )
)  # fmt: skip
CONFUSABLE = {
    "color": (
        ("red", "pink"), ("red", "dark red"), ("blue", "light blue"), ("blue", "dark blue"), ("white", "silver"),
        ("white", "light gray"), ("black", "dark gray"), ("black", "dark"), ("brown", "tan"), ("brown", "dark brown"),
        ("green", "dark green"), ("green", "lime"),
    ),
    "material": (
        ("metal", "metallic"), ("wood", "wooden"), ("plastic", "synthetic"), ("glass", "transparent"),
    ),
    "texture": (("smooth", "glossy"), ("smooth", "polished"), ("rough", "coarse"), ("rough", "textured")),
}  # fmt: skip
SIMILAR_NAMES = (
    ("counter", "countertop"), ("tomato", "tomatoes"), ("onion", "onions"), ("pepper", "peppers"), ("knife", "knives"),
    ("plate", "plates"), ("bowl", "bowls"), ("spoon", "spoons"), ("fork", "forks"), ("cup", "cups"),
)  # fmt: skip
MIN_GAP_S, MAX_GAP_S = 3.0, 60.0
_SMALL_WORDS = frozenset(("the", "a", "an", "of", "in", "on", "at", "and", "or"))
_MODIFIERS = frozenset(
    (
        "red", "blue", "green", "yellow", "black", "white", "brown", "big", "small", "large", "tiny", "old", "new",
        "clean", "dirty",
    )
)  # fmt: skip


def filter_questions(
    questions: Iterable[MadeQuestion], log: EventLog, *, rules: Rules
) -> tuple[list[MadeQuestion], Counter[str]]:
    """The questions that stay, in order, and how many were dropped by "TASK: reason"."""
    kept: list[MadeQuestion] = []
    dropped = Counter[str]()
    for question in questions:
        if question.points:
            within = tuple(point for point in question.points if point.t_s <= log.duration_s)
            dropped[f"{question.task}: test points after the end of the video"] += len(question.points) - len(within)
            if not within:
                continue
            question = replace(question, points=within)
        reason = why_dropped(question, log, rules=rules)
        if reason:
            dropped[f"{question.task}: {reason}"] += 1
        else:
            kept.append(question)
    return kept, +dropped


def why_dropped(question: MadeQuestion, log: EventLog, *, rules: Rules) -> str:
    """The first reason against a question, "" for none."""
    reason = _RULES[question.task](question, log, rules) if question.task in _RULES else ""
    if not reason and rules == "causal":
        reason = _confusable_options(question) or _unreliable(question, log.extra.get("unreliable", ()))
    return reason


def is_human(name: object, *, rules: Rules) -> bool:
    """Whether an object's name is a part of a person. `streamgaze`: any of the words anywhere in it ("handle" has
    "hand", "charm" has "arm"), as the reference has it."""
    text = str(name).lower()
    if rules == "streamgaze":
        return any(word in text for word in HUMAN_WORDS)
    return not HUMAN_WORDS.isdisjoint(re.findall(r"[a-z]+", text))


def names_overlap(a: str, b: str) -> bool:
    """The reference's test for two object names that may mean one thing (`past_next_after_group.py`)."""
    first, second = ({*name.lower().replace("_", " ").split()} - _SMALL_WORDS for name in (a, b))
    shared = first & second
    if not shared:
        return False
    if a == b or a in b or b in a:
        return True
    return not shared <= _MODIFIERS and len(shared) / len(first | second) >= 0.5


# -- per task ----------------------------------------------------------------------------------------------------------


def _otp(question: MadeQuestion, _log: EventLog, rules: Rules) -> str:
    if any(is_human(option, rules=rules) for option in question.options):
        return "a part of a person"
    pairs = ((a, b) for row, a in enumerate(question.options) for b in question.options[row + 1 :])
    return "options overlap" if any(names_overlap(a, b) for a, b in pairs) else ""


def _sr(question: MadeQuestion, _log: EventLog, rules: Rules) -> str:
    gazed = [str(name).lower() for name in question.facts["gazed_objects"]]
    if any(is_human(name, rules=rules) for name in gazed):
        return "a part of a person"
    return "a gazed object among the options" if any(o.lower() in gazed for o in question.options) else ""


def _gsm(question: MadeQuestion, _log: EventLog, _rules: Rules) -> str:
    groups = [set(group) for group in sequence_groups(_answer(question))]
    if any(a == b for a, b in pairwise(groups)):
        return "the same group twice in a row"
    return "fewer than two groups" if len(groups) < 2 else ""


def _oi(question: MadeQuestion, _log: EventLog, rules: Rules) -> str:
    if is_human(_answer(question), rules=rules):
        return "a part of a person"
    names = {option.lower() for option in question.options}
    return "options overlap" if any(a in names and b in names for a, b in SIMILAR_NAMES) else ""


def _oar(question: MadeQuestion, log: EventLog, rules: Rules) -> str:
    began_s = question.evidence_s[0]
    gazed = next((e.gazed for e in reversed(log.episodes) if e.start_s <= began_s <= e.stop_s), None)
    if gazed is not None and is_human(gazed, rules=rules):
        return "a part of a person"
    attribute = attribute_type(str(question.facts["attribute_type"]))
    if attribute in SUBJECTIVE:
        return "a subjective attribute"
    values = {option.lower() for option in question.options}
    pairs = CONFUSABLE.get(attribute, ())
    return "options overlap" if any(a in values and b in values for a, b in pairs) else ""


def _fap(question: MadeQuestion, log: EventLog, rules: Rules) -> str:
    # What is looked at before an action is the clue that FAP asks for: under `causal` nothing of this applies.
    if rules == "causal":
        return ""
    answer = _answer(question)
    later = (a.start_s for a in log.actions if a.label == answer and a.start_s >= question.t_s + ACTION_AHEAD_S[0])
    gap_s = math.floor(min(later, default=math.inf)) - question.t_s if log.actions else math.inf
    if gap_s <= MIN_GAP_S:
        return "the action follows too soon"
    if gap_s > MAX_GAP_S:
        return "the action follows too late"
    context = [str(name).lower() for name in question.facts["context_objects"]]
    if all(any(place in name for place in GENERIC_PLACES) for name in context):
        return "a context of furniture only"
    words = [word for name in context for word in re.sub(r"[0-9\-_]", " ", name).split() if len(word) > 3]
    return "the context names the answer" if any(word in answer.lower() for word in words) else ""


def _oaa(question: MadeQuestion, log: EventLog, rules: Rules) -> str:
    target = str(question.facts["target_object"]).lower()
    if target in AMBIGUOUS_TARGETS or (target.endswith("s") and target[:-1] in AMBIGUOUS_TARGETS):
        return "an ambiguous target"
    known = rules == "streamgaze" or log.extra.get("in_view_known", True)
    return "" if known else "not known when it was out of the frame"


_RULES = {"OTP": _otp, "SR": _sr, "GSM": _gsm, "OI-E": _oi, "OI-H": _oi, "OAR": _oar, "FAP": _fap, "OAA": _oaa}


def _answer(question: MadeQuestion) -> str:
    assert question.answer is not None
    return question.options[question.answer]


# -- causal only -------------------------------------------------------------------------------------------------------


def _confusable_options(question: MadeQuestion) -> str:
    texts = [" ".join(option.lower().split()) for option in question.options]
    if len(set(texts)) < len(texts):
        return "two equal options"
    if question.task == "NFI" and any(is_human(option, rules="causal") for option in question.options):
        return "a part of a person"
    return ""


def _unreliable(question: MadeQuestion, looks: Sequence[Any]) -> str:
    """A look that failed a check decides nothing: not what it rested on, nor that nothing was looked at.

    NFI and GTA are about a whole stretch of time: there a failed look matters if it may have been on what is asked for.
    """
    if question.task == "OAA":  # about what is in the frame, not about gaze
        return ""
    times = [*question.evidence_s, *(point.t_s for point in question.points)]
    asked = {option.lower() for option in question.options} or {str(question.facts["target_object"]).lower()}
    for look in looks:
        if look["start_s"] < max(times) and look["stop_s"] > min(times):
            objects = look["objects"]
            if question.task not in ("NFI", "GTA") or objects is None or not asked.isdisjoint(objects):
                return "rests on a look that failed a check"
    return ""
