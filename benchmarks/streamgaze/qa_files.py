"""StreamGaze's QA files, read into samples; whatever can't become one is a problem with its place and reason.

Two forms exist (daeunni/StreamGaze at 07b8a44). The release's: one file a task, "video_path", options with letters,
`task_type` as the file's name. The raw generators': "video" for "video_path" in some tasks, their own `task_type` names
(one for both object identification tasks), file names such as `egtea_present_ident_tasks_hard.json`, several files
a task. Read besides: options without letters, and answers given as an option's text.

Which questions are samples. A question is one when its video is named, its `time_stamp` (a point's `realtime`) is a
time and its answer is known: two or more options of which the answer names exactly one; for a point a `type` of 0 or 1.
It stays one if it can't be run (no question text, a video that is missing): it then fails, and counts as wrong. Without
one of these there is nothing to score: such a question or point is a problem without a sample, and is counted apart
(`Dataset.unusable`). Never read: `response_time` (the span of the evidence; it reaches past the question) and
`input_video_clip` (the official evaluation ignores it too).
"""

from __future__ import annotations

import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.streamgaze.layout import video_name
from benchmarks.streamgaze.tasks import TASKS, Sample, Task, parse_time_s, sample_id
from gazeqwen.errors import InputError

QUESTION_KEYS = ("question", "time_stamp", "answer", "options", "task_type", "test_info")
POINT_KEYS = ("realtime", "type")

# Parts of the raw generators' file names (`step3_qa_gen.py`).
RAW_FILE_STEMS = {
    "present_ident_tasks_hard": "OI-H",
    "present_ident_tasks": "OI-E",
    "present_attr_tasks": "OAR",
    "past_next_after_group_tasks": "OTP",
    "past_never_gazed_tasks": "NFI",
    "past_transition_pattern_tasks": "GSM",
    "past_scene_reconstruction_tasks": "SR",
    "future_action_tasks": "FAP",
    "future_remind_easy_tasks": "GTA",
    "future_remind_hard_tasks": "OAA",
}
_BY_KEY = {task.key: task for task in TASKS.values()}
# By what `task_type` may say: the release's key with or without its group, the raw generators' name, ours.
_BY_TYPE = {
    **{task.pipeline_type.casefold(): task for task in TASKS.values() if not task.name.startswith("OI-")},
    **{
        alias.casefold(): task
        for task in TASKS.values()
        for alias in (task.key, task.key.removeprefix(f"{task.group}_"), task.name, task.title)
    },
}
_IDENTIFICATION = TASKS["OI-E"].pipeline_type.casefold()
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.):]?")


@dataclass(frozen=True)
class Problem:
    """One thing that can't be run.

    Attributes:
        reason: a short kind, the same for all of its kind.
        file: below the data folder.
        entry, question, point: rows in that file, from 0; None where the problem is of the whole above it.
        found: what was there.
        fix: what to do about it.
        sample: id of the sample that it stops, "" where there is none to stop.
    """

    reason: str
    file: str
    entry: int | None = None
    question: int | None = None
    point: int | None = None
    found: str = ""
    fix: str = ""
    task: str = ""
    video: str = ""
    sample: str = ""

    @property
    def place(self) -> str:
        """ "qa/x.json, entry 3, question 0, point 2"."""
        rows = (("entry", self.entry), ("question", self.question), ("point", self.point))
        return ", ".join([self.file, *(f"{name} {row}" for name, row in rows if row is not None)])


@dataclass
class QaContent:
    """What some QA files hold.

    Attributes:
        samples: by task, in the order of the files.
        entries: by task, the raw JSON, rows as in `Sample.entry`; an entry that mixes tasks is in each with its part.
        problems: in the order of the files.
        places: by sample id, a Problem without a reason: the sample's place in its file.
        files: the ones with questions; `ignored`: JSON of another kind.
        notes: what was decided, one sentence each.
    """

    samples: dict[str, list[Sample]] = field(default_factory=lambda: {name: [] for name in TASKS})
    entries: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TASKS})
    problems: list[Problem] = field(default_factory=list)
    places: dict[str, Problem] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_qa_files(files: Sequence[tuple[Path, str]]) -> QaContent:
    """Reads (file, its name below the folder) pairs.

    Raises:
        InputError: two files hold the same question (a sample's id must be its own).
    """
    content = QaContent()
    for path, name in files:
        _FileReader(path, name, content).read()
    return content


def task_of_file(name: str) -> Task | None:
    """The task that a QA file's name gives: the release's key, or a raw generator's."""
    stem = PurePosixPath(name).stem.casefold()
    for key, task in _BY_KEY.items():
        if stem == key or stem.endswith(f"_{key}"):
            return task
    return next((TASKS[task] for part, task in RAW_FILE_STEMS.items() if part in stem), None)


def task_of_question(question: Mapping[str, Any], file: str) -> Task | None:
    """A file of the release decides (the official evaluation looks at nothing else); else the question's `task_type`,
    for object identification with the file's name or the `difficulty` key; else the raw file's name."""
    named = task_of_file(file)
    if named is not None and PurePosixPath(file).stem.casefold().endswith(named.key):
        return named
    kind = question.get("task_type")
    kind = kind.casefold() if isinstance(kind, str) else ""
    if kind == _IDENTIFICATION:
        difficulty = str(question.get("difficulty", "")).casefold()
        if difficulty in ("easy", "hard"):
            return TASKS["OI-H" if difficulty == "hard" else "OI-E"]
        if named is not None and named.name.startswith("OI-"):
            return named
        words = re.split(r"[^a-z]+", PurePosixPath(file).stem.casefold())
        return TASKS["OI-H"] if "hard" in words else TASKS["OI-E"] if "easy" in words else None
    return _BY_TYPE.get(kind, named)


def lettered(options: Sequence[str]) -> tuple[str, ...]:
    """Options with letters, as the official evaluation shows them: added where the first one has none."""
    if options[0].startswith("A."):
        return tuple(options)
    return tuple(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))


def answer_letter(answer: object, options: Sequence[str]) -> str:
    """The letter that an answer names among lettered options: "C", "c", "(C)", "C.", "C. knife" or "knife".

    Raises:
        ValueError: it names none of them, or several; says which.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(f"{answer!r}")
    text = answer.strip()
    letters = string.ascii_uppercase[: len(options)]
    letter = _LETTER.fullmatch(text)
    if letter is not None and letter[1].upper() in letters:
        return letter[1].upper()
    bare = [option[2:].strip().casefold() for option in options]
    rows = [
        row
        for row, option in enumerate(options)
        if text.casefold() in (option.strip().casefold(), bare[row], f"{letters[row].casefold()}. {bare[row]}")
    ]
    if len(rows) != 1:
        raise ValueError(f"{text[:40]!r}, which is {'several' if rows else 'none'} of the {len(options)} options")
    return letters[rows[0]]


@dataclass(frozen=True)
class _Place:
    """Where a question is: rows in its file, and its row among its task's questions of the entry."""

    entry: int | None = None
    question: int | None = None
    point: int | None = None
    task: str = ""
    video: str = ""
    index: int = 0


class _FileReader:
    """Reads one file into a QaContent."""

    def __init__(self, path: Path, name: str, content: QaContent) -> None:
        self.path, self.name, self.content = path, name, content
        self.task = task_of_file(name)

    def _problem(self, reason: str, found: object, at: _Place, *, fix: str = "", sample: str = "") -> None:
        shown = " ".join(str(found).split())[:120]
        self.content.problems.append(
            Problem(reason, self.name, at.entry, at.question, at.point, shown, fix, at.task, at.video, sample)
        )

    def read(self) -> None:
        at = _Place(task=_name(self.task))
        try:
            data = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            self.content.files.append(self.name)
            self._problem("unreadable QA file", error, at, fix="restore it from its source")
            return
        entries = [data] if isinstance(data, dict) and "questions" in data else data
        is_qa = isinstance(entries, list) and any(isinstance(row, dict) and "questions" in row for row in entries)
        if not is_qa and self.task is None:
            self.content.ignored.append(self.name)
            return
        self.content.files.append(self.name)
        if not isinstance(entries, list):
            self._problem("no list of entries", f"{type(data).__name__} at the top", at, fix="it must be a JSON list")
            return
        for row, entry in enumerate(entries):
            self._entry(entry, replace(at, entry=row))

    def _entry(self, entry: object, at: _Place) -> None:
        if not isinstance(entry, dict):
            self._problem("entry is no object", repr(entry), at)
            return
        raw = next((entry[key] for key in ("video_path", "video") if entry.get(key)), "")
        at = replace(at, video=video_name(raw) if isinstance(raw, str) else "")
        questions = entry.get("questions")
        if not isinstance(questions, list) or not questions:
            self._problem("entry without questions", repr(questions), at)
            if self.task is not None:
                self.content.entries[self.task.name].append(entry)
            return
        tasks = [task_of_question(item, self.name) if isinstance(item, dict) else self.task for item in questions]
        for task in dict.fromkeys(tasks):
            rows = [row for row, of in enumerate(tasks) if of is task]
            if task is not None:
                whole = len(rows) == len(questions)
                part = entry if whole else {**entry, "questions": [questions[row] for row in rows]}
                self.content.entries[task.name].append(part)
            for index, row in enumerate(rows):
                where = replace(at, task=_name(task), question=row, index=index)
                self._question(task, questions[row], where)

    def _question(self, task: Task | None, item: object, at: _Place) -> None:
        if not isinstance(item, dict):
            self._problem("question is no object", repr(item), at)
            return
        kind = item.get("task_type")
        if task is None:
            fix = "name the file by its task, e.g. past_scene_recall.json"
            self._problem("unknown task", f"task_type {kind!r}", at, fix=fix)
            return
        if not at.video:
            self._problem("no video named", "neither video_path nor video", at)
            return
        known = _BY_TYPE.get(kind.casefold()) if isinstance(kind, str) else None
        if known is not None and known is not task:
            note = f"{self.name}: task_type {kind!r} is read as {task.name}, by the file's name"
            if note not in self.content.notes:
                self.content.notes.append(note)
        if task.proactive:
            self._points(task, item, at)
        else:
            self._choice(task, item, at)

    def _choice(self, task: Task, item: dict[str, Any], at: _Place) -> None:
        t_s = self._time_s(item, "time_stamp", at)
        options = self._options(item.get("options"), at)
        if options is None or t_s is None:
            return
        try:
            answer = answer_letter(item.get("answer"), options)
        except ValueError as error:
            fix = f"a letter from A to {string.ascii_uppercase[len(options) - 1]}, or an option's text"
            self._problem("answer is no option", error, at, fix=fix)
            return
        self._add(task, item, at, time=item["time_stamp"], t_s=t_s, asked_s=t_s, options=options, answer=answer)

    def _points(self, task: Task, item: dict[str, Any], at: _Place) -> None:
        points = item.get("test_info")
        if not isinstance(points, list) or not points:
            self._problem("no test points", f"test_info {points!r}", at)
            return
        try:
            asked_s = parse_time_s(item.get("time_stamp"))
        except InputError:  # the official evaluation does not use it: nothing that is scored depends on it
            asked_s = math.nan
        for row, point in enumerate(points):
            where = replace(at, point=row)
            if not isinstance(point, dict):
                self._problem("test point is no object", repr(point), where)
                continue
            kind = point.get("type")
            if not isinstance(kind, (int, float)) or kind not in (0, 1):
                self._problem("type is not 0 or 1", repr(kind), where, fix="1 for Yes, 0 for No")
                continue
            t_s = self._time_s(point, "realtime", where)
            if t_s is not None:
                more = {key: value for key, value in point.items() if key not in POINT_KEYS}
                answer = "Yes" if kind else "No"
                self._add(task, item, where, time=point["realtime"], t_s=t_s, asked_s=asked_s, answer=answer, more=more)

    def _time_s(self, item: Mapping[str, Any], key: str, at: _Place) -> float | None:
        try:
            return parse_time_s(item.get(key))
        except InputError as error:
            self._problem("bad timestamp", f"{key} {error.found}", at, fix=f"it must be {error.expected}")
            return None

    def _options(self, options: object, at: _Place) -> tuple[str, ...] | None:
        """With their letters, or None after saying why not."""
        letters = string.ascii_uppercase
        if not isinstance(options, list) or not 2 <= len(options) <= len(letters):
            found = f"{len(options)} options" if isinstance(options, list) else f"options {options!r}"
            self._problem("option count", found, at, fix=f"2 to {len(letters)} options (StreamGaze has 4)")
            return None
        if not all(isinstance(option, str) and option.strip() for option in options):
            self._problem("option is no text", repr(options), at)
            return None
        shown = lettered(options)
        if [option[:2] for option in shown] != [f"{letter}." for letter in letters[: len(shown)]]:
            self._problem("option letters out of order", repr(options), at, fix='"A. ...", "B. ...", or no letters')
            return None
        return shown

    def _add(
        self,
        task: Task,
        item: dict[str, Any],
        at: _Place,
        *,
        time: object,
        t_s: float,
        asked_s: float,
        answer: str,
        options: tuple[str, ...] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        text = item.get("question")
        question = text if isinstance(text, str) else ""
        assert at.entry is not None and at.question is not None
        name = sample_id(
            task.name,
            at.video,
            entry=at.entry,
            index=at.question,
            point=at.point,
            question=question,
            options=options,
            time=str(time).strip(),
        )
        sample = Sample(
            id=name,
            task=task.name,
            video=at.video,
            t_s=t_s,
            question=question,
            options=options,
            answer=answer,
            entry=len(self.content.entries[task.name]) - 1,
            index=at.index,
            point=at.point,
            asked_s=asked_s,
            extra={**{key: value for key, value in item.items() if key not in QUESTION_KEYS}, **(more or {})},
        )
        if name in self.content.places:
            raise InputError(
                self.path,
                expected="each question in one QA file",
                found=f"the one in {self.content.places[name].place} again",
                fix="remove the copy",
            )
        self.content.samples[task.name].append(sample)
        place = Problem("", self.name, at.entry, at.question, at.point, task=task.name, video=at.video, sample=name)
        self.content.places[name] = place
        if not question.strip():
            self._problem("no question text", repr(text), at, sample=name)


def _name(task: Task | None) -> str:
    return "" if task is None else task.name
