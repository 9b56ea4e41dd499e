"""From files of answers to evidence.json: accuracies with intervals over worlds, differences in pairs, and the claims
that were registered. No torch: a pure function of the files.

Accuracies are percent. An arm with several seeds answers a question right in the share of its seeds that do. Intervals
are of a cluster bootstrap over worlds (`benchmarks.streamgaze.statistics`), seeds taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.answers import TEXT_TASKS, chosen_option, read_lines
from benchmarks.evidence.plan import LENGTHS_S, PRIMARY, length_setting
from benchmarks.streamgaze.statistics import bootstrap_interval, mean_of_ratios
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
        return cls(tuple(read_lines(out / "questions" / f"{setting}.jsonl.gz")))

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
    """All files of answers in a folder.

    Args:
        scoring: how questions with options count, "letters" or "likelihood".
    """

    def __init__(self, out: Path, *, scoring: str) -> None:
        self.out, self.scoring = out, scoring
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
        wanted = form or self.scoring
        return np.array(
            [_is_right(row, wanted, item["answer"], strict=not form) for row, item in zip(rows, asked, strict=True)]
        )

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

    def difference(self, a: str, b: str, setting: str, tasks: Sequence[str] = tuple(TASKS)) -> dict[str, Any]:
        """a - b, question by question."""
        return self.figure(self.right(a, setting) - self.right(b, setting), setting, tasks)

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
        }


def _is_said(row: Mapping[str, Any], asked: Mapping[str, Any]) -> float:
    """Whether the words are the answer's; NaN: none were asked for."""
    return float(row["text"].strip() == asked["options"][asked["answer"]]) if "text" in row else float("nan")


def _is_right(row: Mapping[str, Any], form: str, answer: int, *, strict: bool) -> float:
    """Whether the likeliest option is the answer; a point of an alert has its own form. NaN: not asked in this form."""
    if "yes_no" in row:
        return float(chosen_option(row, "yes_no") == answer) if strict else float("nan")
    if form not in row:
        only = [name for name in ("letters", "likelihood") if name in row]
        if not strict or not only:
            return float("nan")
        form = only[0]  # a solver's scores have no form
    return float(chosen_option(row, form) == answer)


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
        claim(text, figure, figure["value"] >= least)

    zero_shot = [name for name in ("text", "marker", "heatmap") if has(name)]
    if has("inject") and zero_shot:
        best = max(zero_shot, key=lambda name: answers.accuracy(name, at)["value"])
        text = f"inject minus the best zero-shot arm ({best}); a dial, no promise"
        claim(text, answers.difference("inject", best, at))
    if has("inject", "null"):
        difference("inject minus null, macro: 16.1 or more", "inject", "null", least=16.1)
        for task in NEED_GAZE:
            figure = answers.difference("inject", "null", at, [task])
            claim(f"inject minus null on {task}: lower bound above 0", figure, _within(figure, above=0))
        difference("inject minus null, the four past tasks: 10 or more", "inject", "null", tasks=PAST, least=10.0)
    if has("inject", "null", "oracle"):
        low, high = (answers.accuracy(name, at)["value"] for name in ("null", "oracle"))
        share = 100 * (answers.accuracy("inject", at)["value"] - low) / (high - low) if high > low else float("nan")
        claim("share of the gap from null to oracle that inject closes: 60 or more", _plain(share), share >= 60)
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
        claim("inject's weights without gaze minus null: within 2", figure, abs(figure["value"]) <= 2)
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
        claim(text, figure, abs(figure["value"]) <= 3)
    if has("inject-words"):
        said, chosen = answers.right("inject-words", at, form="text"), answers.right("inject-words", at)
        figure = answers.figure(said - chosen, at, TEXT_TASKS)
        text = "inject: words said exactly minus options chosen, OI-E OI-H OAR: -10 or more"
        claim(text, figure, figure["value"] >= -10)
    if has("inject") and len(lengths) > 1:
        shown = {n: _of_length(answers, n) for n in lengths}
        short = [value for n, value in shown.items() if n <= 60]
        lost = max(short) - min(short)
        told = {"value": round(lost, 2), "ci": None, "n": 0, "by_steps": {str(n): value for n, value in shown.items()}}
        claim("inject from 4 to 60 steps: no length 5 or more below the best", told, lost <= 5)
    return found


def _within(figure: Mapping[str, Any], *, above: float = -np.inf, least: float = -np.inf, most: float = np.inf) -> bool:
    """Whether the interval lies there; without one nothing is shown."""
    ci = figure["ci"]
    return ci is not None and ci[0] > above and ci[0] >= least and ci[1] <= most


def _plain(value: float) -> dict[str, Any]:
    return {"value": round(value, 1), "ci": None, "n": 0}


def _of_length(answers: Answers, seconds: int) -> float:
    """Mean over the tasks that every length has."""
    shared = set(TASKS)
    for other in LENGTHS_S:
        setting = length_setting(other).name
        if answers.files("inject", setting):
            shared &= set(answers.questions(setting).tasks)
    setting = length_setting(seconds).name
    return float(answers.accuracy("inject", setting, [name for name in TASKS if name in shared])["value"])
