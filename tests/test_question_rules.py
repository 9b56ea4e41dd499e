"""Questions from event logs: what is right, what the solver finds, and that nothing after a question decides it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.event_log import Action, Appearance, AttributeSpan, Episode, EventLog, MadeQuestion
from gazeqwen.question_rules import TASK_NAMES, make_questions, solve
from gazeqwen.question_rules.__main__ import credits, main, table
from gazeqwen.question_rules.timeline import known_at
from gazeqwen.question_rules.wording import sequence_groups, sequence_text
from gazeqwen.tiny.world import World

NOUNS = ("mug", "plate", "jar", "bowl", "pan", "kettle", "knife", "spoon", "box", "apple", "bread", "phone")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
STATES = ("clean", "dirty", "wet", "covered")
WAYS = ("left", "right", "up", "down")
VERBS = ("take", "wash", "move")
CHOICE_TASKS = tuple(name for name in TASK_NAMES if name not in ("GTA", "OAA"))
# FAP's label is the future; points are chosen from the whole recording, though each is labelled by its own moment.
DECIDED_BY_THE_PAST = tuple(name for name in CHOICE_TASKS if name != "FAP")


def random_log(seed: int, *, duration_s: float = 60.0) -> EventLog:
    """A log without a world behind it: objects come and go, are looked at, moved and acted on.

    All nouns are alike, and an object stays as long as it stays away: what text could tell is in the rules alone.
    """
    rng = random.Random(seed)
    objects = rng.sample(NOUNS, rng.randint(8, 11))
    ignored = set(rng.sample(objects, rng.randint(0, 2)))
    appearances = []
    for name in objects:
        now, visible = rng.uniform(-8.0, 4.0), rng.random() < 0.5
        while now < duration_s:
            stop = now + rng.uniform(3.0, 20.0)
            if visible and stop > 0:
                appearances.append(Appearance(max(now, 0.0), min(stop, duration_s), name))
            now, visible = stop, not visible
    appearances.sort(key=lambda seen: seen.start_s)

    def seen_through(start_s: float, stop_s: float) -> list[str]:
        return sorted(a.object for a in appearances if a.start_s <= start_s and stop_s <= a.stop_s)

    episodes, now = [], 0.0
    while now < duration_s - 0.2:
        stop = min(now + rng.choice([rng.uniform(0.15, 0.4), rng.uniform(0.4, 2.0)]), duration_s)
        seen = seen_through(now, stop)
        rng.shuffle(seen)
        able = [name for name in seen if name not in ignored]
        gazed = able[0] if able and rng.random() < 0.9 else None
        near = [gazed] if gazed else []
        near += [name for name in seen if name != gazed][: rng.choice([0, 0, 1])]
        outside = [name for name in seen if name not in near]
        episodes.append(Episode(now, stop, gazed, tuple(near), tuple(outside)))
        now = stop + rng.uniform(0.02, 0.1)
    attributes = []
    for name, colour in zip(objects, rng.sample(COLOURS * 2, len(objects)), strict=True):
        attributes.append(AttributeSpan(0.0, duration_s, name, "color", colour, COLOURS))
        now = 0.0
        while now < duration_s:
            stop = min(now + rng.uniform(5.0, 20.0), duration_s)
            attributes.append(AttributeSpan(now, stop, name, "state", rng.choice(STATES), STATES))
            now = stop
    for episode in episodes:
        if episode.gazed and episode.stop_s - episode.start_s > 0.8 and rng.random() < 0.5:
            start = episode.start_s + 0.05
            for name in {episode.gazed, *rng.sample(episode.outside_fov, min(1, len(episode.outside_fov)))}:
                attributes.append(AttributeSpan(start, start + 0.2, name, "motion", rng.choice(WAYS), WAYS))
    attributes.sort(key=lambda span: span.start_s)
    actions, now = [], rng.uniform(2.0, 4.0)
    while now < duration_s - 2:
        acted = rng.choice(objects)
        actions.append(Action(now, now + 1.0, f"{rng.choice(VERBS)} the {acted}", acted))
        now += rng.uniform(2.5, 6.0)
    labels = tuple(f"{verb} the {noun}" for verb in VERBS for noun in NOUNS)
    return EventLog(
        duration_s=duration_s,
        objects=tuple(objects),
        vocabulary=NOUNS,
        episodes=tuple(episodes),
        actions=tuple(actions),
        appearances=tuple(appearances),
        attributes=tuple(attributes),
        action_labels=labels,
    )


@cache
def world(seed: int) -> World:
    return World.make(seed, duration_s=40.0)


def log_of(kind: str, seed: int) -> EventLog:
    return world(seed % 4).log if kind == "world" else random_log(seed)


def altered_after(log: EventLog, t_s: float, seed: int) -> EventLog:
    """Another recording from `t_s` on: what is open lasts for another while, what follows is another log's."""
    rng, other = random.Random(seed), random_log(seed + 1)

    def spliced(events, others):
        kept = [replace(e, stop_s=t_s + rng.uniform(0, 3)) if e.stop_s > t_s else e for e in events if e.start_s <= t_s]
        return (*kept, *(e for e in others if e.start_s > t_s))

    return replace(
        log,
        episodes=spliced(log.episodes, other.episodes),
        actions=spliced(log.actions, other.actions),
        appearances=spliced(log.appearances, other.appearances),
        attributes=spliced(log.attributes, other.attributes),
    )


def cut_gaps(log: EventLog) -> EventLog:
    """Episodes may not overlap: after a splice, the open one ends before the next."""
    episodes = [
        replace(e, stop_s=min(e.stop_s, log.episodes[i + 1].start_s)) if i + 1 < len(log.episodes) else e
        for i, e in enumerate(log.episodes)
    ]
    return replace(log, episodes=tuple(episodes))


kinds, numbers = st.sampled_from(["made", "made", "made", "world"]), st.integers(0, 10_000)


@settings(max_examples=12, deadline=None)
@given(kind=kinds, number=numbers, seed=st.integers(0, 1000))
def test_the_solver_finds_the_stated_answer_on_the_true_log_and_no_other(kind: str, number: int, seed: int) -> None:
    log = log_of(kind, number)
    for question in make_questions(log, seed=seed, per_task=6):
        if question.points:
            for point in question.points:
                no, yes = solve(log, question, t_s=point.t_s)
                assert (yes > no) == point.yes and yes != no, (question, point)
        elif question.task == "FAP":
            later = [action for action in log.actions if action.start_s > question.t_s]
            assert question.options[question.answer or 0] == later[0].label
            assert later[0].start_s - question.t_s <= question.facts["horizon_s"]
        else:
            scores = solve(log, question)
            assert scores.index(max(scores)) == question.answer and scores.count(max(scores)) == 1, (question, scores)


@settings(max_examples=8, deadline=None)
@given(kind=kinds, number=numbers, part=st.floats(0.2, 0.95), seed=st.integers(0, 1000))
def test_a_log_altered_after_t_gives_the_same_questions_up_to_t_and_the_same_scores(
    kind: str, number: int, part: float, seed: int
) -> None:
    log = log_of(kind, number)
    t_s = part * log.duration_s
    whole = make_questions(log, seed=seed, per_task=6, tasks=DECIDED_BY_THE_PAST)
    until = [question for question in whole if question.t_s <= t_s]
    for other in (known_at(log, t_s), cut_gaps(altered_after(log, t_s, seed))):
        again = make_questions(other, seed=seed, per_task=6, tasks=DECIDED_BY_THE_PAST)
        assert [question for question in again if question.t_s <= t_s] == until
        for question in make_questions(log, seed=seed):
            for at_s in [point.t_s for point in question.points] or [question.t_s]:
                if at_s <= t_s:
                    assert solve(other, question, t_s=at_s) == solve(log, question, t_s=at_s)


def test_an_altered_log_does_differ_after_t() -> None:
    log = random_log(5)
    whole, other = (make_questions(each, seed=1, per_task=6) for each in (log, altered_after(log, 20.0, 9)))
    assert [q for q in whole if q.t_s > 20] != [q for q in other if q.t_s > 20]


@settings(max_examples=10, deadline=None)
@given(kind=kinds, number=numbers, seed=st.integers(0, 1000))
def test_the_form_of_causal_questions(kind: str, number: int, seed: int) -> None:
    log = log_of(kind, number)
    made = make_questions(log, seed=seed)
    assert made == make_questions(log, seed=seed)
    assert make_questions(log, seed=seed, tasks=["OAA", "SR"]) == [q for q in made if q.task in ("SR", "OAA")]
    for question in made:
        assert json.loads(json.dumps(question.facts)) == question.facts
        assert 0 <= question.t_s <= log.duration_s and question.t_s == round(question.t_s, 3)
        if question.task in CHOICE_TASKS:
            assert len(set(question.options)) == 4 and question.answer in range(4) and not question.points
            right = question.options[question.answer or 0]
            assert right not in json.dumps(question.facts)
            if question.task == "GSM":
                orders = [tuple(name for (name,) in sequence_groups(option)) for option in question.options]
                assert len({frozenset(order) for order in orders}) == 1 and len(set(orders[0])) == 3
            if question.task == "FAP":
                assert len({option.split()[0] for option in question.options}) == 1
        else:
            assert len(question.points) == 4 and sum(point.yes for point in question.points) == 2
            times = [point.t_s for point in question.points]
            assert times == sorted(set(times)) and question.t_s < times[0] and times[-1] <= log.duration_s
    for task in TASK_NAMES:
        assert sum(question.task == task for question in made) <= 4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_points_keep_their_margin_from_the_border_before_them(seed: int) -> None:
    log = random_log(seed)
    for question in make_questions(log, seed=seed, tasks=["GTA", "OAA"]):
        target = question.facts["target_object"]
        events = log.episodes if question.task == "GTA" else log.appearances
        spans = [(e.start_s, e.stop_s) for e in events if (e.gazed if isinstance(e, Episode) else e.object) == target]
        for point in question.points:
            inside = [span for span in spans if span[0] <= point.t_s <= span[1]]
            assert bool(inside) == point.yes
            if question.task == "GTA":
                assert any(a.start_s <= point.t_s <= a.stop_s for a in log.appearances if a.object == target)
            if not point.yes:
                assert all(point.t_s - stop >= 0.099 for _, stop in spans if stop < point.t_s)


def test_some_gaze_alerts_rest_on_glances() -> None:
    yes = glances = 0
    for seed in range(30):
        log = random_log(seed)
        for question in make_questions(log, seed=seed, tasks=["GTA"]):
            for point in question.points:
                episode = next((e for e in log.episodes if e.start_s <= point.t_s <= e.stop_s), None)
                if point.yes and episode is not None:
                    yes += 1
                    glances += episode.stop_s - episode.start_s <= 0.45
    assert yes > 100 and 0.15 < glances / yes < 0.6


def hand_made() -> EventLog:
    """Five objects; looks at mug, jar, plate, mug, bowl. The pan is never looked at, and away while the jar is; the
    bowl is seldom there."""
    everything = ("mug", "jar", "plate", "bowl", "pan")
    looked = [(0.0, 2.0, "mug"), (2.1, 4.0, "jar"), (4.1, 6.0, "plate"), (6.1, 8.0, "mug"), (8.1, 20.0, "bowl")]
    seen = [Appearance(0.0, 20.0, name) for name in everything[:3]]
    seen += [Appearance(0.0, 2.05, "pan"), Appearance(1.4, 4.05, "bowl"), Appearance(4.05, 20.0, "pan")]
    seen.append(Appearance(8.05, 20.0, "bowl"))
    episodes = []
    for start, stop, gazed in looked:
        there = tuple(a.object for a in seen if a.start_s <= (start + stop) / 2 <= a.stop_s)
        episodes.append(Episode(start, stop, gazed, (gazed,), tuple(name for name in there if name != gazed)))
    return EventLog(20.0, everything, everything, tuple(episodes), appearances=tuple(seen))


def test_the_answers_of_a_log_made_by_hand() -> None:
    log = hand_made()
    found: dict[str, set[tuple[str, str]]] = {}
    for seed in range(30):
        for question in make_questions(log, seed=seed, per_task=8):
            if question.answer is not None:
                found.setdefault(question.task, set()).add((question.question, question.options[question.answer]))
    recall = "When the user was last gazing at the {jar}, which background object was NOT visible?"
    assert found["SR"] == {(recall, "pan")}
    assert {answer for text, answer in found["NFI"] if "pan" in text} == {"pan"}
    ask = "What object does the user gaze at next after last looking at the {%s}?"
    assert found["OTP"] <= {(ask % "mug", "jar"), (ask % "jar", "plate"), (ask % "plate", "mug")} and found["OTP"]
    assert ("Which transition best matches the user's gaze pattern?", "{plate}>{mug}>{bowl}") in found["GSM"]
    assert {answer for _, answer in found["OI-H"]} == {"mug", "jar", "plate", "bowl"}


def test_the_solver_reads_the_log_it_is_given() -> None:
    question = MadeQuestion(
        "OI-H", "Which object is the user currently gazing at?", 5.0, ("mug", "jar", "plate", "pan")
    )
    log = hand_made()
    assert solve(log, question).index(max(solve(log, question))) == 2
    assert solve(log, question, t_s=1.0).index(max(solve(log, question, t_s=1.0))) == 0
    assert len(set(solve(replace(log, episodes=()), question))) == 1  # no gaze: all four are in the frame
    with pytest.raises(InputError, match="t_s"):
        solve(log, MadeQuestion("GTA", "", 0.0, facts={"target_object": "mug"}))
    with pytest.raises(InputError, match="XYZ"):
        solve(log, MadeQuestion("XYZ", "", 0.0))


def test_a_log_without_appearances_is_read_from_its_episodes() -> None:
    log = replace(hand_made(), appearances=())
    made = make_questions(log, seed=3, per_task=8)
    assert {question.task for question in made} >= {"OTP", "GSM", "OI-H", "OI-E", "NFI"}
    for question in made:
        for point in question.points:
            assert (solve(log, question, t_s=point.t_s)[1] > 0.5) == point.yes
        if question.answer is not None:
            scores = solve(log, question)
            assert scores.index(max(scores)) == question.answer


def test_wrong_names_and_counts_say_so() -> None:
    wrongs: list[dict[str, Any]] = [{"rules": "fair"}, {"tasks": ["SR", "XX"]}, {"per_task": 0}]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match="found"):
            make_questions(hand_made(), seed=0, **wrong)


def test_a_log_with_nothing_in_it_gives_no_questions() -> None:
    empty = EventLog(30.0, (), NOUNS)
    assert make_questions(empty, seed=0) == make_questions(empty, seed=0, rules="streamgaze") == []


def test_sequences_come_back_from_their_text() -> None:
    groups = [["pot", "kettle"], ["tap"], ["tomato", "cutting board"]]
    assert sequence_groups(sequence_text(groups)) == groups


# ---- streamgaze


def official(seed: int, log: EventLog | None = None) -> dict[str, list[MadeQuestion]]:
    made = make_questions(random_log(seed) if log is None else log, seed=seed, rules="streamgaze")
    return {name: [question for question in made if question.task == name] for name in TASK_NAMES}


@pytest.mark.parametrize("seed", range(12))
def test_streamgaze_caps_times_and_looks_ahead(seed: int) -> None:
    log, made = random_log(seed), official(seed)
    assert len(made["SR"]) <= 3 and len(made["NFI"]) <= 3 and len(made["GSM"]) <= 5 and len(made["GTA"]) <= 1
    assert all(q.t_s == int(q.t_s) and len(q.options) in (0, 4) for qs in made.values() for q in qs)
    gazed = {name for e in log.episodes for name in (e.gazed, *e.in_fov)}
    assert all(q.options[q.answer or 0] not in gazed for q in made["NFI"])  # over the whole video
    starts = {int(e.start_s) for e in log.episodes}
    assert all(q.t_s in starts for q in made["OTP"])  # of the answer's own episode
    for question in made["OI-E"] + made["OI-H"]:
        name = question.options[question.answer or 0]
        longest = max((e for e in log.episodes if e.gazed == name), key=lambda e: e.stop_s - e.start_s)
        assert question.t_s == round(longest.start_s)
    assert len(made["OI-E"]) == len({e.gazed for e in log.episodes if e.gazed})
    for question in made["FAP"]:
        action = next(a for a in log.actions if a.label == question.options[question.answer or 0])
        assert any(2 <= a.start_s - question.t_s <= 121 for a in log.actions if a.label == action.label)
    assert made["GTA"][0].facts["target_object"] not in {q.facts["target_object"] for q in made["OAA"]}


def test_streamgaze_alerts_are_at_five_offsets_of_the_first_time() -> None:
    spans = [(3.5, 4.0), (35.25, 38.0), (45.0, 46.0)]
    names = ("box", "mug", "box")
    episodes = tuple(Episode(a, b, n, (n,), ("jar",)) for (a, b), n in zip(spans, names, strict=True))
    log = EventLog(60.0, ("box", "mug", "jar"), NOUNS, episodes)
    targets = {}
    for seed in range(20):
        made = official(seed, log)
        for question in made["GTA"] + made["OAA"]:
            targets[question.facts["target_object"]] = question
    points = [(point.t_s, point.yes) for point in targets["mug"].points]
    assert points == [(15.0, False), (25.0, False), (35.0, True), (45.0, False), (55.0, False)]
    assert [(p.t_s, p.yes) for p in targets["box"].points] == [(3.0, True), (13.0, False), (23.0, False)]
    assert targets["jar"].question == "Watch the scene and alert me when the <jar> first appears."
    assert targets["mug"].t_s == 3.0


def test_streamgaze_next_object_is_the_first_new_one_and_actions_break_the_chain() -> None:
    episodes = (
        Episode(0.5, 3.0, "mug", ("mug", "jar"), ("plate", "bowl")),
        Episode(3.25, 6.0, "jar", ("jar", "pan", "box"), ("plate",)),
        Episode(8.0, 9.0, "bowl", ("bowl",), ("mug",)),
    )
    log = EventLog(20.0, NOUNS[:6], NOUNS, episodes, (Action(7.0, 7.5, "take the mug", "mug"),))
    (question,) = official(0, log)["OTP"]
    assert question.question == "What object does the user gaze at next after looking at the {mug, jar}?"
    assert question.options[question.answer or 0] == "pan" and question.t_s == 3.0
    assert question.evidence_s == (0.0, 8.0)


# ---- on the tiny world


def test_noisy_gaze_helps_and_is_not_perfect() -> None:
    with_gaze, without = [], []
    for seed in range(6):
        made = make_questions(world(seed).log, seed=seed, per_task=6, tasks=["OI-H", "OTP", "GTA"])
        estimates = world(seed).estimate(world(seed).gaze), world(seed).estimate(None)
        for question in made:
            with_gaze += credits(estimates[0], question)
            without += credits(estimates[1], question)
    assert len(with_gaze) > 100
    assert 0.7 < sum(with_gaze) / len(with_gaze) < 1.0
    assert sum(with_gaze) - sum(without) > 0.2 * len(with_gaze)


def test_the_table_prints_a_row_a_task_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--worlds", "1", "--seed", "3", "--per-video", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(TASK_NAMES) and max(map(len, lines)) <= 80
    row = table(1, 3, per_task=2)["OAA"]
    assert row["oracle"] == row["oracle_no_gaze"] and row["n"] == 4 * row["questions"]
