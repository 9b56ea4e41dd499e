"""The ten tasks of StreamGaze in one registry, the sample that every part of the benchmark passes on, and its times.

Source: daeunni/StreamGaze at 07b8a44 (QA files, `src/benchmark/*.py` for the windows) and arXiv 2512.01707. The raw
pipeline names two of the past tasks the other way round in its filters than the release does; here a task's
`pipeline_type` is the one whose questions its release file holds.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gazeqwen.errors import ConfigError, InputError

Group = Literal["past", "present", "proactive"]
PRESENT_WINDOW_S = 60.0


@dataclass(frozen=True)
class Task:
    """One of the ten.

    Attributes:
        name: the abbreviation of the paper's table.
        key: the task's name in the release: its QA file is `key.json`, its official output `key_output.json`.
        title: the official name.
        group: column group of the table; FAP counts as present there.
        pipeline_type: the raw generator's `task_type`. The two object identification tasks share one.
        needs_gaze: whether the answer depends on where the wearer looks.
    """

    name: str
    key: str
    title: str
    group: Group
    pipeline_type: str
    needs_gaze: bool = True

    @property
    def window_s(self) -> float | None:
        """How far back from the question the official evaluation lets a model see; None for all of it."""
        return PRESENT_WINDOW_S if self.group == "present" else None

    @property
    def proactive(self) -> bool:
        """Asked again and again with Yes or No, instead of once with four options."""
        return self.group == "proactive"


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("SR", "past_scene_recall", "Scene Recall", "past", "Scene_Reconstruction"),
        Task(
            "OTP",
            "past_object_transition_prediction",
            "Object Transition Prediction",
            "past",
            "Scanpath_Next_After_Group",
        ),
        Task("GSM", "past_gaze_sequence_matching", "Gaze Sequence Matching", "past", "Scanpath_Transition_Pattern"),
        Task(
            "NFI",
            "past_non_fixated_object_identification",
            "Non-Fixated Object Identification",
            "past",
            "Scanpath_Never_Gazed",
        ),
        Task(
            "OI-E",
            "present_object_identification_easy",
            "Object Identification (Easy)",
            "present",
            "Object_Identification",
        ),
        Task(
            "OI-H",
            "present_object_identification_hard",
            "Object Identification (Hard)",
            "present",
            "Object_Identification",
        ),
        Task(
            "OAR", "present_object_attribute_recognition", "Object Attribute Recognition", "present", "Object_Attribute"
        ),
        Task(
            "FAP", "present_future_action_prediction", "Future Action Prediction", "present", "Future_Action_Prediction"
        ),
        Task("GTA", "proactive_gaze_triggered_alert", "Gaze-Triggered Alert", "proactive", "Object_Remind_Easy"),
        Task(
            "OAA",
            "proactive_object_appearance_alert",
            "Object Appearance Alert",
            "proactive",
            "Object_Remind_Hard",
            needs_gaze=False,
        ),
    )
}
GROUPS: tuple[Group, ...] = ("past", "present", "proactive")


def get_tasks(names: Iterable[str] = ()) -> tuple[Task, ...]:
    """Tasks by abbreviation, release key or official name, in registry order; all ten for no names.

    Raises:
        ConfigError: an unknown name; lists the ten.
    """
    known = {alias.casefold(): task for task in TASKS.values() for alias in (task.name, task.key, task.title)}
    wanted = set()
    for name in names:
        if name.casefold() not in known:
            raise ConfigError(f"unknown task {name!r}; tasks are {', '.join(TASKS)}")
        wanted.add(known[name.casefold()].name)
    return tuple(task for task in TASKS.values() if not wanted or task.name in wanted)


@dataclass(frozen=True)
class Sample:
    """One prediction to make: a multiple-choice question, or one test point of a proactive one.

    Attributes:
        id: stable: depends on the QA entry alone, not on the run, the world size or the folder.
        task: abbreviation (a key of `TASKS`).
        video: file name as the QA file has it, without folders.
        t_s: nothing later than this may be seen. For a test point its `realtime`.
        question: as in the file.
        options: as in the file, with their letters; empty for proactive points.
        answer: "A".. for options, "Yes" or "No" for points.
        entry, index, point: row of the entry in the QA file, of the question in it, of the point in that (None: no
            proactive task).
        asked_s: when a proactive question was put (its own time_stamp); else `t_s`.
        extra: keys of the question (and the test point) that nothing here reads, kept for the export.
    """

    id: str
    task: str
    video: str
    t_s: float
    question: str
    options: tuple[str, ...]
    answer: str
    entry: int
    index: int
    point: int | None = None
    asked_s: float = math.nan
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)


def sample_id(
    task: str,
    video: str,
    *,
    entry: int,
    index: int,
    point: int | None,
    question: str,
    options: Iterable[str],
    time: str,
) -> str:
    """Sixteen hex digits: the same for the same line of the same QA file, wherever and whenever it is run.

    The row numbers are part of it because question texts repeat within a video (with upstream forks' shorter resume
    keys, resumed runs drop or copy predictions).
    """
    parts = [task, video, entry, index, point, question, list(options), time]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")


def parse_time_s(text: object, *, source: str = "time") -> float:
    """Seconds of "MM:SS", "HH:MM:SS", either with decimals, or a plain number of seconds. Minutes may exceed 59.

    Raises:
        InputError: anything else, negative times, or 60 and more seconds after a colon.
    """
    shown = str(text).strip()
    clock = _CLOCK.fullmatch(shown)
    if clock is not None and float(clock[3]) < 60:
        hours, minutes, seconds = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
    try:
        value = float(shown) if not isinstance(text, bool) and shown.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(source, expected="a time as MM:SS, HH:MM:SS or seconds", found=repr(text)[:60])
    return value


def format_time(time_s: float) -> str:
    """ "MM:SS", with up to three decimals where needed ("02:03.25"); "HH:MM:SS" from an hour on. `parse_time_s` undoes
    it for times in whole milliseconds."""
    milliseconds = round(time_s * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest // 1000:02d}" + (f".{rest % 1000:03d}".rstrip("0") if rest % 1000 else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds}" if hours else f"{minutes:02d}:{seconds}"
