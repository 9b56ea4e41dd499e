"""`python -m gazeqwen.question_rules --worlds N --seed S`: what noisy gaze, and none, allow on the tiny
world's questions.

One row a task: questions (of GTA and OAA: test points), the share of the best constant answer, and how often the
symbolic solver is right on the log estimated with the tracker's gaze (`oracle`) and without gaze (`oracle-no-gaze`).
Options that share the highest score share the credit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator

from gazeqwen.event_log import RULES, EventLog, MadeQuestion
from gazeqwen.question_rules import TASK_NAMES, make_questions, solve
from gazeqwen.tiny.world import VALIDATION_SEEDS, World, world_seed

Row = dict[str, float]


def credits(log: EventLog, question: MadeQuestion) -> Iterator[float]:
    """How right the solver is on this log: for a question, or for each of its test points."""
    for point in question.points or (None,):
        scores = solve(log, question, t_s=None if point is None else point.t_s)
        right = question.answer if point is None else int(point.yes)
        assert right is not None
        yield (scores[right] == max(scores)) / scores.count(max(scores))


def table(worlds: int, seed: int, *, rules: str = "causal", per_task: int | None = None) -> dict[str, Row]:
    """Per task: n, questions, chance, oracle, oracle_no_gaze; all but the counts in percent."""
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in TASK_NAMES}
    answers: dict[str, Counter] = {name: Counter() for name in TASK_NAMES}
    asked: Counter = Counter()
    for index in range(worlds):
        world = World.make(world_seed(seed, index))
        with_gaze, without = world.estimate(world.gaze), world.estimate(None)
        for question in make_questions(world.log, rules=rules, seed=world.seed, per_task=per_task):  # type: ignore[arg-type]
            asked[question.task] += 1
            answers[question.task].update([p.yes for p in question.points] or [question.answer])
            scores[question.task] += zip(credits(with_gaze, question), credits(without, question), strict=True)
    rows = {}
    for name, pairs in scores.items():
        n = len(pairs)
        rows[name] = {
            "n": n,
            "questions": asked[name],
            "chance": 100 * max(answers[name].values(), default=0) / max(n, 1),
            "oracle": 100 * sum(gaze for gaze, _ in pairs) / max(n, 1),
            "oracle_no_gaze": 100 * sum(no for _, no in pairs) / max(n, 1),
        }
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gazeqwen.question_rules", description=__doc__)
    parser.add_argument("--worlds", type=int, default=60, metavar="N", help="default: 60")
    parser.add_argument("--seed", type=int, default=VALIDATION_SEEDS, metavar="S", help="default: validation worlds")
    parser.add_argument("--rules", choices=RULES, default="causal")
    parser.add_argument("--per-video", type=int, metavar="N", help="questions of a task and world (default: 4)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    rows = table(chosen.worlds, chosen.seed, rules=chosen.rules, per_task=chosen.per_video)
    if chosen.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    lines = [f"{chosen.worlds} worlds from seed {chosen.seed}, rules {chosen.rules}; percent right"]
    lines.append(f"{'task':6}{'n':>7}{'questions':>11}{'chance':>9}{'oracle':>9}{'oracle-no-gaze':>17}")
    for name, row in rows.items():
        shares = f"{row['chance']:9.1f}{row['oracle']:9.1f}{row['oracle_no_gaze']:17.1f}" if row["n"] else ""
        lines.append(f"{name:6}{row['n']:7.0f}{row['questions']:11.0f}{shares}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
