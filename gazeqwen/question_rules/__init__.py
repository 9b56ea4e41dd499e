"""Questions from an event log, for the ten tasks of StreamGaze, and a symbolic solver of them.

    questions = make_questions(world.log, rules="causal", seed=7)
    scores = solve(world.estimate(world.gaze), questions[0])

Rules `causal` are ours: whether a question is asked, its options and its answer are decided by what began by its time
(FAP's label is the future by definition; the points of an alert are chosen from the whole recording, each labelled by
its own moment). One question's text tells nothing (`tests/test_text_priors.py`); all questions of a recording together
do, as in any such set: what others name as looked at is not NFI's answer (the least named option is right 80 times in
100). So questions are to be asked one by one, without the others' text.

Rules `streamgaze` are those of the official generators, with their looks into the future.
"""

from __future__ import annotations

from collections.abc import Iterable

from gazeqwen.errors import ConfigError
from gazeqwen.event_log import RULES, EventLog, MadeQuestion, Rules
from gazeqwen.question_rules import causal, streamgaze
from gazeqwen.question_rules.solve import solve

__all__ = ["PER_TASK", "TASK_NAMES", "make_questions", "solve"]

TASK_NAMES = ("SR", "OTP", "GSM", "NFI", "OI-E", "OI-H", "OAR", "FAP", "GTA", "OAA")
PER_TASK = 4


def make_questions(
    log: EventLog,
    *,
    rules: Rules = "causal",
    seed: int,
    per_task: int | None = None,
    tasks: Iterable[str] | None = None,
) -> list[MadeQuestion]:
    """Questions of a log, by task in the order of `TASK_NAMES`, by time within a task. The same log, seed and rules
    give the same questions, whichever tasks are asked for.

    Args:
        per_task: causal rules: up to so many of each task (default `PER_TASK`). streamgaze: None, as the generators
            have caps of their own; a number keeps the first so many of each task.
        tasks: abbreviations; None for all ten.

    Raises:
        ConfigError: unknown rules or tasks, or a count below 1.
    """
    wanted = TASK_NAMES if tasks is None else tuple(tasks)
    unknown = [name for name in wanted if name not in TASK_NAMES]
    if rules not in RULES or unknown:
        raise ConfigError(f"questions: expected rules of {RULES} and tasks of {TASK_NAMES}, found {rules!r}, {unknown}")
    if per_task is not None and per_task < 1:
        raise ConfigError(f"questions: expected per_task of 1 or more, found {per_task}")
    if rules == "causal":
        makers = causal.makers(log, seed, PER_TASK if per_task is None else per_task)
    else:
        makers = streamgaze.makers(log, seed)
    made = []
    for name in TASK_NAMES:
        if name in wanted:
            made += sorted(makers[name]()[:per_task], key=lambda question: question.t_s)
    return made
