"""A reader of the text alone is at chance: a classifier on words, places and overlaps, trained on many recordings'
questions, is tested on other recordings'. Its upper bound is that of a 95 % interval over recordings (clusters)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch

from gazeqwen.event_log import EventLog, MadeQuestion
from gazeqwen.question_rules import TASK_NAMES, make_questions
from gazeqwen.tiny.world import World
from tests.test_question_rules import random_log

MACRO_POINTS, TASK_POINTS = 3.0, 8.0


@dataclass(frozen=True)
class Example:
    """A choice between alternatives, each a bag of features: the options, or No and Yes."""

    group: int
    task: str
    alternatives: tuple[frozenset[str], ...]
    right: int


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def examples_of(question: MadeQuestion, group: int) -> Iterable[Example]:
    template = " ".join(word for word in words(re.sub(r"[{<].*?[}>]", "", question.question)))
    if question.points:
        times = [0.0, *(point.t_s for point in question.points), 1e3]
        for i, point in enumerate(question.points):
            gaps = [min(int(2 * (times[i + 1 + k] - times[i + k])), 12) for k in (0, 1)]
            told = {f"place {i} of {len(question.points)}", f"at {int(point.t_s // 5)}", f"asked {question.t_s // 10}"}
            told |= {f"before {gaps[0]}", f"after {gaps[1]}", f"gaps {gaps}", f"fraction {point.t_s % 1:.1f}"}
            told |= {f"word {word}" for word in words(question.question)}
            told |= {f"since {min(int((point.t_s - question.t_s) // 2), 15)}"}
            yield Example(group, question.task, (frozenset(), frozenset(told)), int(point.yes))
        return
    bags = []
    asked, everything = set(words(question.question)), Counter(w for o in question.options for w in set(words(o)))
    for place, option in enumerate(question.options):
        said = words(option)
        bag = {f"place {place}", f"length {len(said)}", f"characters {len(option) // 3}"}
        bag |= {f"{template}: {word}" for word in said} | {f"first {said[0]}", f"last {said[-1]}"}
        bag |= {f"{a} then {b}" for a, b in pairwise(said)} if question.task != "FAP" else set()
        bag |= {f"{word} at {place}" for word in asked}
        bag.add(f"asked {len(asked & set(said))}")
        bag.add(f"shared {sorted(everything[word] for word in said)}")
        bag.add(f"alphabet {sorted(question.options).index(option)}")
        bags.append(frozenset(bag))
    assert question.answer is not None
    yield Example(group, question.task, tuple(bags), question.answer)


def fit(train: Sequence[Example], test: Sequence[Example], *, decay: float = 3e-3) -> list[bool]:
    """Softmax regression over the alternatives; which of `test` it gets right."""
    seen = Counter(feature for example in train for bag in example.alternatives for feature in bag)
    index = {feature: i for i, feature in enumerate(sorted(f for f, count in seen.items() if count >= 8))}

    def rows(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.zeros(len(examples), len(examples[0].alternatives), len(index))
        for i, example in enumerate(examples):
            for j, bag in enumerate(example.alternatives):
                x[i, j, [index[feature] for feature in bag if feature in index]] = 1.0
        return x, torch.tensor([example.right for example in examples])

    x, right = rows(train)
    weight = torch.zeros(len(index), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=40)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight, right) + decay * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    x, right = rows(test)
    return ((x @ weight.detach()).argmax(dim=1) == right).tolist()


def excess(examples: Sequence[Example]) -> dict[str, tuple[float, float]]:
    """Per task in `examples` and "macro": (points above the best constant answer, upper 95 % bound over groups)."""
    tasks = [name for name in TASK_NAMES if any(example.task == name for example in examples)]
    groups = sorted({example.group for example in examples})
    held_out = set(groups[::3])
    above: dict[str, dict[int, tuple[float, int]]] = {}
    for task in tasks:
        train = [e for e in examples if e.task == task and e.group not in held_out]
        test = [e for e in examples if e.task == task and e.group in held_out]
        chance = max(Counter(e.right for e in test).values()) / len(test)
        sums: dict[int, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
        for example, right in zip(test, fit(train, test), strict=True):
            total, n = sums[example.group]
            sums[example.group] = (total + right - chance, n + 1)
        above[task] = sums
    size = {task: sum(n for _, n in sums.values()) for task, sums in above.items()}
    means = {task: sum(total for total, _ in sums.values()) / size[task] for task, sums in above.items()}
    # What each group adds to each mean (the ratio estimator's linear part); macro is the mean of the tasks'.
    parts = {
        group: {t: (s[group][0] - s[group][1] * means[t]) / size[t] if group in s else 0.0 for t, s in above.items()}
        for group in held_out
    }
    found = {}
    for task in tasks:
        found[task] = (means[task], sum(part[task] ** 2 for part in parts.values()) ** 0.5)
    macro_part = [sum(part.values()) / len(tasks) for part in parts.values()]
    found["macro"] = (sum(means.values()) / len(means), sum(part**2 for part in macro_part) ** 0.5)
    return {task: (100 * mean, 100 * (mean + 1.96 * error)) for task, (mean, error) in found.items()}


def questions_of(logs: Iterable[EventLog], *, per_task: int) -> list[list[MadeQuestion]]:
    return [make_questions(log, seed=seed, per_task=per_task) for seed, log in enumerate(logs)]


def as_examples(made: Sequence[Sequence[MadeQuestion]]) -> list[Example]:
    return [example for group, questions in enumerate(made) for q in questions for example in examples_of(q, group)]


def told(examples: Sequence[Example]) -> dict[str, str]:
    """Where the text tells more than it may; empty when it doesn't."""
    found = excess(examples)
    limits = {task: MACRO_POINTS if task == "macro" else TASK_POINTS for task in found}
    return {t: f"{mean:+.1f}, at most {most:+.1f}" for t, (mean, most) in found.items() if most > limits[t]}


@pytest.fixture(scope="module")
def made() -> list[list[MadeQuestion]]:
    """Questions of logs in which all nouns are alike: what is left to find is in the rules."""
    return questions_of((random_log(seed) for seed in range(130)), per_task=5)


def test_the_rules_tell_a_reader_of_the_text_nothing(made: list[list[MadeQuestion]]) -> None:
    assert sum(map(len, made)) > 6000
    assert told(as_examples(made)) == {}


def swap(question: MadeQuestion, wanted: Callable[[str], bool]) -> MadeQuestion:
    """The first option that is `wanted` becomes the right one's text, and the other way round."""
    options = list(question.options)
    found = next((i for i, option in enumerate(options) if wanted(option)), None)
    if question.answer is None or found is None:
        return question
    options[found], options[question.answer] = options[question.answer], options[found]
    return replace(question, options=tuple(options))


@pytest.mark.parametrize("leak", ["noun", "point order", "repeats"])
def test_the_classifier_finds_a_planted_leak(made: list[list[MadeQuestion]], leak: str) -> None:
    def planted(question: MadeQuestion, number: int) -> MadeQuestion:
        if leak == "noun" and question.task == "NFI" and number % 3 == 0:
            return swap(question, lambda option: option in ("mug", "plate", "jar"))
        if leak == "repeats" and question.task == "GSM":
            # As the official generator: wrong sequences may hold an object twice, the right one doesn't.
            options = list(question.options)
            for i in range(4):
                if i != question.answer and number % 2:
                    options[i] = re.sub(r">\{[a-z]+\}$", ">" + options[i].split(">")[0], options[i])
            return replace(question, options=tuple(options))
        if leak == "point order" and question.task == "GTA" and number % 2 == 0:
            flags = sorted(point.yes for point in question.points)
            points = tuple(replace(p, yes=yes) for p, yes in zip(question.points, flags, strict=True))
            return replace(question, points=points)
        return question

    changed = [[planted(q, g + i) for i, q in enumerate(questions)] for g, questions in enumerate(made)]
    task = {"noun": "NFI", "point order": "GTA", "repeats": "GSM"}[leak]
    clean, leaking = ([e for e in as_examples(each) if e.task == task] for each in (made, changed))
    assert task not in told(clean) and task in told(leaking)


@pytest.mark.soak
def test_mini_questions_tell_a_reader_of_the_text_nothing() -> None:
    """At least 10,000 questions of the tiny world's recordings to train on, half as many recordings to test."""
    made = questions_of((World.make(seed).log for seed in range(400)), per_task=5)
    assert sum(len(questions) for group, questions in enumerate(made) if group % 3) >= 10_000
    assert told(as_examples(made)) == {}
