"""Samples of a run with what became of them, and what is counted from those. No torch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.streamgaze.official_scorer import Mode, is_right
from benchmarks.streamgaze.records import OK, RunData
from benchmarks.streamgaze.tasks import TASKS


@dataclass(frozen=True)
class Outcome:
    """One sample of a run and what became of it.

    Attributes:
        question: (entry, index) in the QA file: what the points of one proactive question share.
        said_yes: at a test point; under "strict" one text can say Yes and No.
        missing: no prediction yet; `failed`: one that could not be made; `unparsed`: an answer that names no option.
        no_gaze: the run says that the sample had no valid gaze.
    """

    id: str
    task: str
    video: str
    question: tuple[int, int]
    t_s: float
    answer: str
    right: bool
    said_yes: bool
    missing: bool
    failed: bool
    unparsed: bool
    no_gaze: bool


def outcomes_of(run: RunData, *, mode: Mode = "fixed") -> tuple[Outcome, ...]:
    """One outcome a sample, in the order of the run's samples.

    Under "fixed" a sample is right when the run's own prediction is its answer. Under "strict" StreamGaze's scorer
    reads what the model said: the generated text where there is one, else the letter or Yes and No.
    """
    return tuple(_outcome(sample, run.predictions.get(sample["id"]), mode) for sample in run.samples)


def _outcome(sample: Mapping[str, Any], row: Mapping[str, Any] | None, mode: Mode) -> Outcome:
    answered = row is not None and row["status"] == OK
    prediction = str(row["prediction"]) if row is not None and answered else ""
    right, said_yes = prediction == sample["answer"], prediction == "Yes"
    if mode == "strict":
        said = (row.get("text") if row is not None and answered else "") or prediction
        right = is_right(sample["answer"], said, mode=mode)
        said_yes = TASKS[sample["task"]].proactive and is_right("Yes", said, mode=mode)
    return Outcome(
        id=sample["id"],
        task=sample["task"],
        video=sample["video"],
        question=(sample["entry"], sample["index"]),
        t_s=float(sample["t_s"]),
        answer=sample["answer"],
        right=right,
        said_yes=said_yes,
        missing=row is None,
        failed=row is not None and not answered,
        unparsed=answered and not prediction,
        no_gaze=row is not None and row.get("has_gaze") is False,
    )


def by_task(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes of each task that has any, in registry order."""
    found: dict[str, list[Outcome]] = {name: [] for name in TASKS}
    for outcome in outcomes:
        found[outcome.task].append(outcome)
    return {name: of_task for name, of_task in found.items() if of_task}


def count_by_video(outcomes: Iterable[Outcome], count: Callable[[Outcome], bool]) -> Counter[str]:
    """How many outcomes of each video are such."""
    return Counter(outcome.video for outcome in outcomes if count(outcome))


def counts_by_video(outcomes: Sequence[Outcome], *counts: Callable[[Outcome], bool]) -> np.ndarray:
    """(V, K) counts, videos sorted by name."""
    columns = [count_by_video(outcomes, count) for count in counts]
    videos = sorted({outcome.video for outcome in outcomes})
    return np.array([[column[video] for column in columns] for video in videos], dtype=float)


def chance(outcomes: Sequence[Outcome]) -> float:
    """Accuracy of the best constant answer, in percent."""
    return 100 * max(Counter(outcome.answer for outcome in outcomes).values()) / len(outcomes)


def alert_timing(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """When alerts come, question by question; a question is what the test points of one QA entry share.

    The event of a question is its first point labelled Yes. The alert is the first Yes said at the event or after it,
    whatever the later points' labels are: late is late, not wrong. Its delay is the time between the two, in seconds;
    points are the only moments at which a model is asked, so a delay is a multiple of their distance (10 s in
    StreamGaze), and 0 means "at the event's own point", not "at once".

    Returns:
        events: questions with an event; on_time, late, missed: what became of them; early: how many of them had a Yes
        before the event (whatever followed); median_delay_s, mean_delay_s: over on_time and late, null without any;
        quiet: questions without an event; false_alarms: how many of those had a Yes.
    """
    questions: dict[tuple[str, tuple[int, int]], list[Outcome]] = {}
    for outcome in outcomes:
        questions.setdefault((outcome.video, outcome.question), []).append(outcome)
    delays_s: list[float] = []
    count: Counter[str] = Counter()
    for points in questions.values():
        event_s = min((point.t_s for point in points if point.answer == "Yes"), default=None)
        alerts_s = [point.t_s for point in points if point.said_yes]
        if event_s is None:
            count["quiet"] += 1
            count["false_alarms"] += bool(alerts_s)
            continue
        count["events"] += 1
        count["early"] += any(alert_s < event_s for alert_s in alerts_s)
        delay_s = min((alert_s - event_s for alert_s in alerts_s if alert_s >= event_s), default=None)
        if delay_s is None:
            count["missed"] += 1
        else:
            count["late" if delay_s > 0 else "on_time"] += 1
            delays_s.append(delay_s)
    names = ("events", "on_time", "late", "missed", "early", "quiet", "false_alarms")
    return {
        **{name: count[name] for name in names},
        "median_delay_s": statistics.median(delays_s) if delays_s else None,
        "mean_delay_s": statistics.fmean(delays_s) if delays_s else None,
    }


def latency_parts(run: RunData) -> dict[str, np.ndarray]:
    """(n,) milliseconds of each part over answered samples, in the order in which parts first come up, then their sum
    as "total". Work that several questions share (decoding, encoding) is in the row of the one it was done for."""
    parts: dict[str, list[float]] = {}
    totals: list[float] = []
    for sample in run.samples:
        row = run.predictions.get(sample["id"])
        if row is None or row["status"] != OK:
            continue
        known = {part: float(value) for part, value in (row.get("latency_ms") or {}).items() if value is not None}
        totals += [known.get("total", sum(known.values()))] if known else []
        for part, value in known.items():
            if part != "total":
                parts.setdefault(part, []).append(value)
    found = {part: np.array(values) for part, values in parts.items()}
    return {**found, "total": np.array(totals)} if totals else {}
