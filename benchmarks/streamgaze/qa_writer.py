"""Made questions in StreamGaze's release form, and back: all ten files, as its own evaluation reads them.

What a question's `facts` hold becomes further keys of the question, as the official generators write theirs. Times are
"MM:SS" with decimals where needed under causal rules, whole seconds (rounded down, as upstream) under streamgaze rules.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.qa_files import QUESTION_KEYS
from benchmarks.streamgaze.records import write_atomically
from benchmarks.streamgaze.tasks import TASKS, Sample, format_time
from gazeqwen.errors import ConfigError
from gazeqwen.event_log import AlertPoint, MadeQuestion, Rules
from gazeqwen.types import plain_json


def entry_of(question: MadeQuestion, video: str, *, rules: Rules, category: str) -> dict[str, Any]:
    """The QA entry of one question about `video` (file name).

    Raises:
        ConfigError: the question has neither an answer nor points, or facts under a name that the form uses.
    """
    task = TASKS[question.task]
    taken = sorted(set(question.facts) & set(QUESTION_KEYS))
    if taken:
        raise ConfigError(f"question of {task.name}: facts can't be named {', '.join(taken)}")
    written: dict[str, Any] = {"question": question.question, "time_stamp": _time(question.t_s, rules)}
    if task.proactive:
        if not question.points:
            raise ConfigError(f"question of {task.name}: it has no points to ask at")
        points = [{"realtime": _time(point.t_s, rules), "type": int(point.yes)} for point in question.points]
        written |= {"test_info": points}
    else:
        if question.answer is None or not 0 <= question.answer < len(question.options):
            raise ConfigError(f"question of {task.name}: answer {question.answer} of {len(question.options)} options")
        letters = string.ascii_uppercase
        options = [f"{letter}. {option}" for letter, option in zip(letters, question.options, strict=False)]
        written |= {"answer": letters[question.answer], "options": options}
    start, stop = (_time(time_s, rules) for time_s in question.evidence_s)
    return {
        "video_path": video,
        "response_time": f"[{start} - {stop}]",
        "questions": [{**written, "task_type": task.key, **plain_json(question.facts)}],
        "video_categories": category,
    }


def _time(time_s: float, rules: Rules) -> str:
    return format_time(math.floor(time_s) if rules == "streamgaze" else time_s)


def write_qa_files(folder: Path, entries: Iterable[Mapping[str, Any]]) -> list[Path]:
    """All ten files in `folder`, those without entries too: an empty list. Entries are sorted by their task_type."""
    by_key: dict[str, list[Mapping[str, Any]]] = {task.key: [] for task in TASKS.values()}
    for entry in entries:
        by_key[entry["questions"][0]["task_type"]].append(entry)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for key, rows in by_key.items():
        files.append(folder / f"{key}.json")
        write_atomically(files[-1], json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return files


def made_question(sample: Sample) -> MadeQuestion:
    """The question a sample was made from, as far as its file says: for solvers. A point comes as a question of one."""
    points = () if sample.point is None else (AlertPoint(sample.t_s, sample.answer == "Yes"),)
    return MadeQuestion(
        sample.task,
        sample.question,
        sample.t_s if sample.point is None else sample.asked_s,
        tuple(option[2:].strip() for option in sample.options),
        None if points else string.ascii_uppercase.index(sample.answer),
        points=points,
        facts=dict(sample.extra),
    )
