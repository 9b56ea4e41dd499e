"""From files of answers to evidence.json: accuracies with intervals over worlds, differences in pairs, and the claims
that were registered. No torch: a pure function of the files.

Accuracies are percent. An arm with several seeds answers a question right in the share of its seeds that do; a question
without an answer, or with one that is no number, is wrong. Intervals are of a cluster bootstrap over worlds
(`benchmarks.streamgaze.statistics`), seeds taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.answers import TEXT_TASKS, chosen_option, read_lines
from benchmarks.evidence.plan import PRIMARY, SCORING, length_setting
from benchmarks.streamgaze.mini import WINDOWS_S
from benchmarks.streamgaze.statistics import bootstrap_interval, holm, mcnemar_exact, mean_of_ratios
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.errors import InputError

PAST = tuple(name for name, task in TASKS.items() if task.group == "past")
CHOICES = tuple(name for name, task in TASKS.items() if not task.proactive)
NEED_GAZE = tuple(name for name, task in TASKS.items() if task.needs_gaze)


@dataclass(frozen=True)
class Questions:
    """What a setting asks, (Q) questions of (V) worlds."""

    rows: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, out: Path, setting: str) -> Questions:
        return cls(tuple(read_lines(out / "questions" / f"{setting}.jsonl.gz")[1:]))

    @cached_property
    def task(self) -> np.ndarray:
        return np.array([row["task"] for row in self.rows])

    @cached_property
    def world(self) -> np.ndarray:
        """(Q,) number of each question's world."""
        return np.unique([row["video"] for row in self.rows], return_inverse=True)[1]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(name for name in TASKS if (self.task == name).any())

    @cached_property
    def chance(self) -> np.ndarray:
        return np.array([1 / len(row["options"]) for row in self.rows])


class Answers:
    """All files of answers in a folder. Questions with options count by `plan.SCORING`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._questions: dict[str, Questions] = {}
        self._right: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}

    def questions(self, setting: str) -> Questions:
        if setting not in self._questions:
            self._questions[setting] = Questions.read(self.out, setting)
        return self._questions[setting]

    def files(self, name: str, setting: str) -> list[Path]:
        """Of each seed."""
        return sorted((self.out / "answers" / name).glob(f"seed-*/{setting}.jsonl.gz"))

    def rows(self, path: Path, setting: str) -> Sequence[Mapping[str, Any]]:
        rows = read_lines(path)[1:]
        if len(rows) != len(self.questions(setting).rows):
            raise InputError(
                path,
                expected=f"answers to {len(self.questions(setting).rows)} questions",
                found=str(len(rows)),
                fix="delete it, and run the same command again",
            )
        return rows

    def by_seed(self, name: str, setting: str, *, form: str = "") -> dict[str, np.ndarray]:
        """By seed, (Q,) whether it is right; NaN where a form was not asked. Files are read once.

        Args:
            form: "" for how questions count.

        Raises:
            InputError: no such answers, or damaged ones.
        """
        key = (name, setting, form)
        if key not in self._right:
            paths = self.files(name, setting)
            if not paths:
                raise InputError(
                    self.out / "answers" / name,
                    expected=f"answers under {setting}",
                    found="none",
                    fix="run it to its end",
                )
            self._right[key] = {
                path.parent.name.removeprefix("seed-"): self._judged(self.rows(path, setting), setting, form)
                for path in paths
            }
        return self._right[key]

    def right(self, name: str, setting: str, *, form: str = "") -> np.ndarray:
        """(Q,) share of seeds that are right. Args and raises as `by_seed`."""
        return np.mean(list(self.by_seed(name, setting, form=form).values()), axis=0)

    def _judged(self, rows: Sequence[Mapping[str, Any]], setting: str, form: str) -> np.ndarray:
        asked = self.questions(setting).rows
        if form == "text":
            return np.array([_is_said(row, item) for row, item in zip(rows, asked, strict=True)])
        return np.array([_is_right(row, form, item["answer"]) for row, item in zip(rows, asked, strict=True)])

    # -- figures -------------------------------------------------------------------------------------------------------

    def figure(self, values: np.ndarray, setting: str, tasks: Sequence[str]) -> dict[str, Any]:
        """The mean over tasks of the mean of values (Q,), in percent, with its interval."""
        questions = self.questions(setting)
        known = np.isfinite(values)
        asked = [name for name in tasks if (known & (questions.task == name)).any()]
        worlds = int(questions.world.max()) + 1
        parts = np.zeros((worlds, 2 * len(asked)))
        for column, name in enumerate(asked):
            rows = known & (questions.task == name)
            parts[:, column] = np.bincount(questions.world[rows], weights=values[rows], minlength=worlds)
            parts[:, len(asked) + column] = np.bincount(questions.world[rows], minlength=worlds)
        value = float(mean_of_ratios(parts.sum(axis=0, keepdims=True))[0]) if asked else float("nan")
        interval = bootstrap_interval(parts, mean_of_ratios) if asked else None
        return {
            "value": round(100 * value, 2) if asked else None,
            "ci": None if interval is None else [round(100 * end, 2) for end in interval],
            "n": int(parts[:, len(asked) :].sum()),
        }

    def accuracy(
        self, name: str, setting: str, tasks: Sequence[str] = tuple(TASKS), *, form: str = ""
    ) -> dict[str, Any]:
        return self.figure(self.right(name, setting, form=form), setting, tasks)

    def difference(
        self, a: str, b: str, setting: str, tasks: Sequence[str] = tuple(TASKS), *, seed: str = ""
    ) -> dict[str, Any]:
        """a - b, question by question. `seed`: of that one only, where an arm has it, else of its only one."""
        one, other = (self._of(name, setting, seed) for name in (a, b))
        return self.figure(one - other, setting, tasks)

    def _of(self, name: str, setting: str, seed: str) -> np.ndarray:
        """(Q,) share of seeds that are right, or whether this seed is; an arm of one seed has no other."""
        by_seed = self.by_seed(name, setting)
        return by_seed.get(seed, next(iter(by_seed.values()))) if seed else self.right(name, setting)

    def paired(self, name: str, others: Sequence[str], setting: str, *, seed: str) -> dict[str, Any]:
        """McNemar's exact test of each arm against this one, of one seed, and Holm's correction over them.

        Questions count as independent, which those of one world are not: the intervals tell of that. `b`: questions
        that only this one gets right, `c`: only the other.
        """
        if name not in others:
            return {}
        own = self._of(name, setting, seed)
        found: dict[str, dict[str, Any]] = {}
        for other in others:
            if other != name:
                its = self._of(other, setting, seed)
                b, c = int(((own > 0) & (its == 0)).sum()), int(((own == 0) & (its > 0)).sum())
                found[other] = {"b": b, "c": c, "p": mcnemar_exact(b, c)}
        corrected = holm({other: row["p"] for other, row in found.items()})
        return {other: row | {"p_holm": corrected[other]} for other, row in found.items()}

    def told(self, name: str, setting: str) -> dict[str, Any]:
        """Everything of an arm under a setting."""
        tasks = self.questions(setting).tasks
        return {
            "macro": self.accuracy(name, setting, tasks),
            "past": self.accuracy(name, setting, PAST),
            "tasks": {task: self.accuracy(name, setting, [task]) for task in tasks},
            "seeds": {
                seed: self.figure(right, setting, tasks)["value"] for seed, right in self.by_seed(name, setting).items()
            },
            "no_answer": sum(
                not _is_answered(row) for path in self.files(name, setting) for row in self.rows(path, setting)
            ),
        }


def _is_said(row: Mapping[str, Any], asked: Mapping[str, Any]) -> float:
    """Whether the words are the answer's; NaN: none were asked for."""
    return float(row["text"].strip() == asked["options"][asked["answer"]]) if "text" in row else float("nan")


def _is_right(row: Mapping[str, Any], form: str, answer: int) -> float:
    """Whether the likeliest option is the answer; a point of an alert has its own form, which counts where no `form` is
    named. NaN: not asked in the form that is named."""
    if form:
        return float("nan") if form not in row else float(_is_sound(row[form]) and chosen_option(row, form) == answer)
    counts = "yes_no" if "yes_no" in row else SCORING
    return float(_is_answered(row) and chosen_option(row, counts) == answer)


def _is_answered(row: Mapping[str, Any]) -> bool:
    """Whether it holds what counts."""
    return _is_sound(row.get("yes_no", row.get(SCORING, [])))


def _is_sound(values: Sequence[float]) -> bool:
    return bool(values) and bool(np.isfinite(values).all())


# -- the claims --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """One line of the registration: what was said would hold, and what came out.

    Attributes:
        holds: None where nothing was promised.
    """

    text: str
    found: Mapping[str, Any]
    holds: bool | None

    def to_dict(self) -> dict[str, Any]:
        return {"claim": self.text, **self.found, "holds": self.holds}


def claims(answers: Answers, names: Sequence[str], settings: Sequence[str], lengths: Sequence[int]) -> list[Claim]:
    """Every registered claim that the arms and settings at hand allow to judge."""
    found: list[Claim] = []
    at = PRIMARY

    def has(*wanted: str) -> bool:
        return set(wanted) <= set(names)

    def claim(text: str, figure: Mapping[str, Any], holds: bool | None = None) -> None:
        found.append(Claim(text, figure, holds))

    def difference(text: str, a: str, b: str, *, tasks: Sequence[str] = tuple(TASKS), least: float) -> None:
        figure = answers.difference(a, b, at, tasks)
        claim(text, figure, _at_least(figure["value"], least))

    zero_shot = [name for name in ("text", "marker", "heatmap") if has(name)]
    if has("inject") and zero_shot:
        best = max(zero_shot, key=lambda name: answers.accuracy(name, at)["value"] or 0.0)
        text = f"inject minus the best zero-shot arm ({best}); a dial, no promise"
        claim(text, answers.difference("inject", best, at))
    if has("inject", "null"):
        difference("inject minus null, macro: 16.1 or more", "inject", "null", least=16.1)
        for task in NEED_GAZE:
            figure = answers.difference("inject", "null", at, [task])
            claim(f"inject minus null on {task}: lower bound above 0", figure, _within(figure, above=0))
        difference("inject minus null, the four past tasks: 10 or more", "inject", "null", tasks=PAST, least=10.0)
    if has("inject", "null", "oracle"):
        low, own, high = (answers.accuracy(name, at)["value"] or 0.0 for name in ("null", "inject", "oracle"))
        share = 100 * (own - low) / (high - low) if high > low else None
        text = "share of the gap from null to oracle that inject closes: 60 or more"
        claim(text, _plain(share), _at_least(share, 60))
    if has("shuffled", "null"):
        figure = answers.difference("shuffled", "null", at)
        claim("shuffled minus null: upper bound 3 or less", figure, _within(figure, most=3))
    if has("inject", "center"):
        difference("inject minus center: 10 or more", "inject", "center", least=10.0)
    if has("inject", "lagged"):
        claim("inject minus lagged; no promise", answers.difference("inject", "lagged", at))
    if has("inject", "marker-trained"):
        text = "inject minus marker-trained, equal budget; no promise"
        claim(text, answers.difference("inject", "marker-trained", at))
    if has("inject-gaze-off", "null"):
        figure = answers.difference("inject-gaze-off", "null", at)
        claim("inject's weights without gaze minus null: within 2", figure, _is_within(figure["value"], 2))
    for setting in (PRIMARY, "sparse", "between"):
        for other in ("no-features", "skip-only"):
            if has("inject", other) and setting in settings:
                text = f"inject minus {other} under {setting}; no promise"
                claim(text, answers.difference("inject", other, setting))
    if has("blind"):
        questions = answers.questions(at)
        figure = answers.figure(answers.right("blind", at) - questions.chance, at, questions.tasks)
        claim("trained blind minus chance: interval within 3 of 0", figure, _within(figure, least=-3, most=3))
    if has("inject"):
        letters, likelihood = (answers.right("inject", at, form=form) for form in ("letters", "likelihood"))
        figure = answers.figure(letters - likelihood, at, CHOICES)
        text = "inject: letters minus likelihood on tasks with options: within 3"
        claim(text, figure, _is_within(figure["value"], 3))
    if has("inject-words"):
        said, chosen = answers.right("inject-words", at, form="text"), answers.right("inject-words", at)
        figure = answers.figure(said - chosen, at, TEXT_TASKS)
        text = "inject: words said exactly minus options chosen, OI-E OI-H OAR: -10 or more"
        claim(text, figure, _at_least(figure["value"], -10))
    if has("inject") and len(lengths) > 1:
        shown = {n: _of_length(answers, n, lengths) for n in lengths}
        short = [row["value"] for n, row in shown.items() if n <= 60 and row["value"] is not None]
        lost = max(short) - min(short) if len(short) > 1 else None
        told = _plain(lost) | {"by_steps": {str(n): row for n, row in shown.items()}}
        text = "inject from 4 to 60 steps, tasks without a window: no length more than 5 below the best"
        claim(text, told, lost is not None and lost <= 5)
    return found


def _at_least(value: float | None, least: float) -> bool:
    return value is not None and value >= least


def _is_within(value: float | None, most: float) -> bool:
    return value is not None and abs(value) <= most


def _within(figure: Mapping[str, Any], *, above: float = -np.inf, least: float = -np.inf, most: float = np.inf) -> bool:
    """Whether the interval lies there; without one nothing is shown."""
    ci = figure["ci"]
    return ci is not None and ci[0] > above and ci[0] >= least and ci[1] <= most


def _plain(value: float | None) -> dict[str, Any]:
    return {"value": None if value is None else round(value, 1), "ci": None, "n": 0}


def _of_length(answers: Answers, seconds: int, lengths: Sequence[int]) -> dict[str, Any]:
    """Over the tasks that every length has and that look at the whole video."""
    shared = {name for name, task in TASKS.items() if task.group not in WINDOWS_S}
    for other in lengths:
        shared &= set(answers.questions(length_setting(other).name).tasks)
    return answers.accuracy("inject", length_setting(seconds).name, [name for name in TASKS if name in shared])
