"""What a run's folder says, as numbers: a pure function of its samples and predictions. No torch.

Accuracies are percentages. A sample without a prediction, one that failed, and a generated answer that names no option
are wrong and in the denominator. Intervals: `statistics.bootstrap_interval`, over videos sorted by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.streamgaze.official_scorer import Mode
from benchmarks.streamgaze.records import RunData
from benchmarks.streamgaze.report_outcomes import (
    Outcome,
    alert_timing,
    by_task,
    chance,
    count_by_video,
    counts_by_video,
    latency_parts,
    outcomes_of,
)
from benchmarks.streamgaze.report_setup import is_limited, notes_of, require_same_samples, setup_of
from benchmarks.streamgaze.statistics import ONE_VIDEO, RESAMPLES, bootstrap_interval, mean_of_ratios, ratio
from benchmarks.streamgaze.tasks import GROUPS, TASKS
from gazeqwen.errors import InputError


def summarise(run: RunData, *, blind: RunData | None = None, strict: bool = False, seed: int = 0) -> dict[str, Any]:
    """All numbers of a report, in plain JSON types; what `gazeqwen report --json` prints.

    Keys: "macro" (mean over the tasks that were run, StreamGaze's Overall), "micro" (all samples alike), "groups"
    (past, present and proactive, each a mean over its tasks), "gaze_dependent" (mean over tasks that need gaze),
    "tasks", "proactive", "latency_ms", "setup", "notes", and whether the run is "complete" and "limited". An accuracy
    comes with "ci", its 95 % interval, null with a "ci_reason" for a single video. "chance" is the best constant answer
    to the same samples.

    Args:
        blind: a run of the arm `blind` on the same samples, put beside.
        strict: scores as StreamGaze's own script does (`official_scorer`).
        seed: of the bootstrap.

    Raises:
        InputError: no samples, a task that is none of the ten, or a `blind` run that is no such thing.
    """
    mode: Mode = "strict" if strict else "fixed"
    unknown = sorted({str(sample["task"]) for sample in run.samples} - set(TASKS))
    if not run.samples or unknown:
        found = f"the task {unknown[0]}" if unknown else "no sample"
        raise InputError(run.path, expected="samples of StreamGaze's tasks", found=found)
    outcomes = outcomes_of(run, mode=mode)
    tasks = by_task(outcomes)
    summary: dict[str, Any] = {
        "run": run.path.resolve().name,
        "complete": not run.missing,
        "limited": is_limited(run),
        "n": len(outcomes),
        "answered": len(outcomes) - len(run.missing),
        "failures": sum(outcome.failed for outcome in outcomes),
        "setup": setup_of(run),
        "scored": mode,
        **_accuracies(tasks, seed),
        "tasks": {name: _task_row(name, of_task, seed) for name, of_task in tasks.items()},
        "proactive": {name: _alerts(of_task, seed) for name, of_task in tasks.items() if TASKS[name].proactive},
        "latency_ms": {part: _latency_row(values) for part, values in latency_parts(run).items()},
        "bootstrap": {
            "over": "videos",
            "resamples": RESAMPLES,
            "seed": seed,
            "videos": len({o.video for o in outcomes}),
        },
    }
    if blind is not None:
        summary["blind"] = _blind(run, blind, mode, seed)
    summary["notes"] = notes_of(run, outcomes, summary)
    return summary


def _accuracies(tasks: Mapping[str, list[Outcome]], seed: int) -> dict[str, Any]:
    """The means: over tasks, over samples, over each group's tasks, over tasks that need gaze."""
    groups = {group: {name: tasks[name] for name in tasks if TASKS[name].group == group} for group in GROUPS}
    return {
        "macro": _macro(tasks, seed),
        "micro": _micro(tasks, seed),
        "groups": {group: _macro(of_group, seed) for group, of_group in groups.items() if of_group},
        "gaze_dependent": _macro({name: tasks[name] for name in tasks if TASKS[name].needs_gaze}, seed),
    }


def _macro(tasks: Mapping[str, list[Outcome]], seed: int) -> dict[str, Any]:
    if not tasks:
        return {"accuracy": None, **_interval(None, "no task of this kind was run"), "tasks": 0, "chance": None}
    right = [count_by_video(of_task, lambda outcome: outcome.right) for of_task in tasks.values()]
    videos = sorted({outcome.video for of_task in tasks.values() for outcome in of_task})
    sizes = [Counter(outcome.video for outcome in of_task) for of_task in tasks.values()]
    counts = np.array([[*(r[video] for r in right), *(n[video] for n in sizes)] for video in videos], dtype=float)
    return {
        "accuracy": 100 * float(mean_of_ratios(counts.sum(axis=0, keepdims=True))[0]),
        **_interval(bootstrap_interval(counts, lambda sums: 100 * mean_of_ratios(sums), seed=seed)),
        "tasks": len(tasks),
        "chance": fmean(chance(of_task) for of_task in tasks.values()),
    }


def _micro(tasks: Mapping[str, list[Outcome]], seed: int) -> dict[str, Any]:
    outcomes = [outcome for of_task in tasks.values() for outcome in of_task]
    constant = sum(chance(of_task) * len(of_task) for of_task in tasks.values()) / len(outcomes)
    return {**_accuracy(outcomes, seed), "chance": constant}


def _accuracy(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    counts = counts_by_video(outcomes, lambda outcome: outcome.right, lambda outcome: True)
    right = sum(outcome.right for outcome in outcomes)
    return {
        "n": len(outcomes),
        "correct": right,
        "accuracy": right / len(outcomes) * 100,
        **_interval(bootstrap_interval(counts, lambda sums: 100 * ratio(sums[:, 0], sums[:, 1]), seed=seed)),
    }


def _task_row(name: str, outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    return {
        "title": TASKS[name].title,
        "group": TASKS[name].group,
        **_accuracy(outcomes, seed),
        "videos": len({outcome.video for outcome in outcomes}),
        "chance": chance(outcomes),
        "failures": sum(outcome.failed for outcome in outcomes),
        "missing": sum(outcome.missing for outcome in outcomes),
        "unparsed": sum(outcome.unparsed for outcome in outcomes),
        "no_gaze": sum(outcome.no_gaze for outcome in outcomes),
    }


def _interval(interval: tuple[float, float] | None, reason: str = ONE_VIDEO) -> dict[str, Any]:
    return {"ci": None, "ci_reason": reason} if interval is None else {"ci": list(interval)}


def _alerts(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Precision, recall and F1 of Yes over test points in percent (null where undefined), and when alerts come.

    A point that was not answered is no Yes, so it can cost recall but not precision.
    """
    counts = counts_by_video(
        outcomes,
        lambda outcome: outcome.said_yes and outcome.answer == "Yes",
        lambda outcome: outcome.said_yes,
        lambda outcome: outcome.answer == "Yes",
    )
    hits, said, labelled = (int(total) for total in counts.sum(axis=0))
    measures: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "precision": lambda sums: 100 * ratio(sums[:, 0], sums[:, 1]),
        "recall": lambda sums: 100 * ratio(sums[:, 0], sums[:, 2]),
        "f1": lambda sums: 100 * ratio(2 * sums[:, 0], sums[:, 1] + sums[:, 2]),
    }
    row: dict[str, Any] = {"points": len(outcomes), "said_yes": said, "labelled_yes": labelled, "hits": hits}
    for name, measure in measures.items():
        value = float(measure(counts.sum(axis=0, keepdims=True))[0])
        interval = bootstrap_interval(counts, measure, seed=seed)
        row[name] = {"value": value if np.isfinite(value) else None, "ci": list(interval) if interval else None}
    return {**row, "timing": alert_timing(outcomes)}


def _latency_row(values: np.ndarray) -> dict[str, Any]:
    median, p90 = np.quantile(values, [0.5, 0.9])
    return {"n": len(values), "median": float(median), "p90": float(p90), "max": float(values.max())}


def _blind(run: RunData, blind: RunData, mode: Mode, seed: int) -> dict[str, Any]:
    setup = setup_of(blind)
    if setup["arm"] != "blind":
        raise InputError(blind.path, expected="a run of the arm blind", found=f"one of the arm {setup['arm']}")
    require_same_samples(run, blind)
    outcomes = outcomes_of(blind, mode=mode)
    tasks = by_task(outcomes)
    accuracies = {name: _accuracy(of_task, seed)["accuracy"] for name, of_task in tasks.items()}
    return {
        "run": blind.path.resolve().name,
        "trained": setup["trained"],
        "answered": len(blind.samples) - len(blind.missing),
        "failures": sum(outcome.failed for outcome in outcomes),
        **_accuracies(tasks, seed),
        "tasks": accuracies,
    }
