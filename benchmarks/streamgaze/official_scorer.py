"""StreamGaze's scorer, in two modes. No torch, no pandas.

`strict` gives the numbers of the benchmark's own `evaluate_results.py` (daeunni/StreamGaze at 07b8a44; golden 08), for
files in its layout `results/BASE/{results,results_viz}/KEY_output.json`. `fixed` reads the same files with our rules:

| | strict | fixed |
|---|---|---|
| questions without a prediction | are left out | wrong, and counted |
| option letters in sentences | `wording.parse_choice`, "strict" | `wording.parse_choice`, "fixed" |
| Yes and No in sentences | `wording.parse_yes_no`, "strict" | `wording.parse_yes_no`, "fixed" |
| a right answer that is no letter | compared as text; an empty one is left out | unlabelled: left out, counted |
| a point's type | null is left out, all but 1 mean No | 0 and 1; anything else is unlabelled |
| which kind a file is | its first entry's first question decides for all | each question for itself |
| a damaged file | 0.0 %, 0 of 0 | InputError |
| an empty file | 0.0 %, and part of the average | no accuracy, no part of the average |
| an absent file | no part of the average | the same; `ModelScore.missing` names it |
| models | four folder names | every folder |

In both the average is the plain mean over tasks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.streamgaze.wording import parse_choice, parse_yes_no
from gazeqwen.errors import InputError

Mode = Literal["strict", "fixed"]
BASES = ("GPT4o", "InternVL35", "Qwen25VL", "ViSpeak")
FOLDERS = ("results", "results_viz")
# The scorer's own titles, in the order of its tables.
TITLES = {
    "past_gaze_sequence_matching": "Gaze Sequence Matching",
    "past_non_fixated_object_identification": "Non-fixated Object ID",
    "past_object_transition_prediction": "Object Transition Prediction",
    "past_scene_recall": "Scene Recall",
    "present_future_action_prediction": "Future Action Prediction",
    "present_object_attribute_recognition": "Object Attribute Recognition",
    "present_object_identification_easy": "Object ID (Easy)",
    "present_object_identification_hard": "Object ID (Hard)",
    "proactive_gaze_triggered_alert": "Gaze-Triggered Alert",
    "proactive_object_appearance_alert": "Object Appearance Alert",
}
# What a file of another shape than the scorer expects makes it raise, and turn into 0.0 %.
_STRICT_ERRORS = (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class FileScore:
    """One task's file. `accuracy` in percent; Counted under `fixed` only: `unanswered`, which are among
    `total`, and `unlabelled`, which are not."""

    accuracy: float | None
    correct: int
    total: int
    unanswered: int = 0
    unlabelled: int = 0


@dataclass(frozen=True)
class ModelScore:
    """One model folder: the score of each task's file by release key, None where there is no file."""

    base: str
    folder: str
    tasks: Mapping[str, FileScore | None]
    mode: Mode

    @property
    def label(self) -> str:
        """The scorer's name of the row."""
        return f"{self.base}_{self.folder}"

    @property
    def missing(self) -> tuple[str, ...]:
        """Keys of tasks without a file."""
        return tuple(key for key, score in self.tasks.items() if score is None)

    @property
    def average(self) -> float | None:
        """Mean accuracy over tasks that have one, in percent; without any, 0 under `strict` and None under `fixed`."""
        known = [score.accuracy for score in self.tasks.values() if score is not None and score.accuracy is not None]
        if not known:
            return 0.0 if self.mode == "strict" else None
        return sum(known) / len(known)


def is_right(answer: str, said: object, *, options: Sequence[str] = (), mode: Mode = "fixed") -> bool:
    """Whether what was said counts as the answer.

    Args:
        answer: "Yes" or "No" for a test point, else an option's letter.
        said: what the model gave: a letter, a word, a sentence, or None.
        options: of a question, as offered.
    """
    if answer in ("Yes", "No"):
        return answer in parse_yes_no(said, form=mode)
    if mode == "strict":
        return parse_choice(said, form="strict") == parse_choice(answer, form="strict")
    return parse_choice(said, options) == answer


def score_results(folder: Path, *, mode: Mode = "strict") -> tuple[ModelScore, ...]:
    """Scores a whole `results` folder, models in the scorer's order (`fixed`: by name).

    Raises:
        InputError: no such folder; under `fixed` a damaged file.
    """
    if not folder.is_dir():
        raise InputError(folder, expected="a folder of model folders", found="none", fix="see `gazeqwen export`")
    bases = BASES if mode == "strict" else sorted(path.name for path in folder.iterdir() if path.is_dir())
    return tuple(
        ModelScore(
            base, kind, {key: _scored(folder / base / kind / f"{key}_output.json", mode) for key in TITLES}, mode
        )
        for base in bases
        for kind in FOLDERS
        if (folder / base / kind).exists()
    )


def output_name(key: str) -> str:
    """The file that holds a task's questions and predictions, by release key."""
    return f"{key}_output.json"


def _scored(file: Path, mode: Mode) -> FileScore | None:
    return score_file(file, mode=mode) if file.exists() else None


def score_file(file: Path, *, mode: Mode = "strict") -> FileScore:
    """Scores one output file.

    Raises:
        InputError: under `fixed`, a file that can't be read or has another shape; `strict` gives 0.0 %, 0 of 0.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return _strict(entries) if mode == "strict" else _fixed(entries)
    except _STRICT_ERRORS as error:
        if mode == "strict":
            return FileScore(0.0, 0, 0)
        raise InputError(
            file, expected="a list of entries with their predictions", found=f"{type(error).__name__}: {error}"[:120]
        ) from error


# -- strict ------------------------------------------------------------------------------------------------------------


def _strict(entries: Any) -> FileScore:
    first = entries[0] if entries and len(entries) > 0 else {}
    questions = first.get("questions", [])
    proactive = len(questions) > 0 and "test_info" in questions[0]
    outcomes = list(_strict_points(entries) if proactive else _strict_choices(entries))
    correct, total = sum(outcomes), len(outcomes)
    return FileScore(correct / total * 100 if total else 0.0, correct, total)


def _strict_choices(entries: Any) -> Iterator[bool]:
    for entry in entries:
        # Not strict: the scorer's own zip stops at the shorter one.
        for question, given in zip(entry.get("questions", []), entry.get("model_predictions", []), strict=False):
            answer, said = question.get("answer", ""), given.get("model_prediction", "")
            right = parse_choice(answer, form="strict") == parse_choice(said, form="strict")
            if parse_choice(answer, form="strict"):
                yield right


def _strict_points(entries: Any) -> Iterator[bool]:
    for entry in entries:
        for question in entry.get("questions", []):
            for point in question.get("test_info", []):
                kind, response = point.get("type"), point.get("response", "")
                if kind is not None:
                    yield is_right("Yes" if kind == 1 else "No", response, mode="strict")


# -- fixed -------------------------------------------------------------------------------------------------------------


def _fixed(entries: Any) -> FileScore:
    if not isinstance(entries, list):
        raise TypeError(f"{type(entries).__name__} at the top")
    rows = [row for entry in entries for row in _answers(entry)]
    labelled = [(is_right(answer, said, options=options), said) for answer, said, options in rows if answer]
    correct, total = sum(right for right, _ in labelled), len(labelled)
    return FileScore(
        accuracy=correct / total * 100 if total else None,
        correct=correct,
        total=total,
        unanswered=sum(said in (None, "") for _, said in labelled),
        unlabelled=len(rows) - total,
    )


def _answers(entry: Mapping[str, Any]) -> Iterator[tuple[str, object, Sequence[str]]]:
    """(right answer, "" where there is no telling; what was said, None for nothing; options) of each question or test
    point of an entry."""
    given = entry.get("model_predictions", [])
    for index, question in enumerate(entry["questions"]):
        if "test_info" in question:
            for point in question["test_info"]:
                label = point.get("type")
                known = isinstance(label, (int, float)) and label in (0, 1)
                yield ("No", "Yes")[int(label)] if known else "", point.get("response"), ()
        else:
            options = question.get("options", ())
            said = given[index].get("model_prediction") if index < len(given) else None
            yield parse_choice(question.get("answer"), options), said, options
