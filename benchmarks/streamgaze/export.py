"""`gazeqwen export streamgaze`: a run as the files that StreamGaze's own scorer, evaluate_results.py, reads. No torch.

    DIR/results/BASE/results/KEY_output.json    one a task, ten in all; results_viz/ for arms that draw gaze on frames
    DIR/results/BASE/made_by_gazeqwen.results.json   what was really run (or .results_viz): the scorer's tables say BASE

The entries are the QA files' own, with predictions beside them in the scorer's form (reference: daeunni/StreamGaze at
07b8a44). Its rules decide the details: every question gets a prediction, because it leaves out those without; what was
not answered gets "", which it counts as wrong (null would count as No); predictions are bare letters, or Yes and No;
where a file's first question has no test points it takes the whole file for multiple choice, so an entry with them goes
first; an answer given as an option's text is replaced by its letter (`answer_as_given` keeps it). Keys that the scorer
does not know carry what the run knows besides: "gazeqwen".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.official_scorer import BASES, output_name
from benchmarks.streamgaze.records import OK, RunData, read_run, write_atomically
from benchmarks.streamgaze.report_setup import identity_of, setup_of
from benchmarks.streamgaze.tasks import TASKS, Sample
from benchmarks.streamgaze.wording import parse_choice
from gazeqwen.errors import InputError
from gazeqwen.types import plain_json

MARKED_ARMS = ("marker", "marker-trained")
Place = tuple[int, int, int | None]  # Sample.entry, .index, .point


def export(run: RunData, dataset: Dataset, out: Path, *, base: str = BASES[2]) -> dict[str, Any]:
    """Writes the files. A task that was not run, or in part, is written whole: what is not answered counts as wrong.

    Args:
        dataset: the data of the run.
        out: `results/` is made in it; files of an earlier export are replaced.
        base: the model folder's name; the scorer looks at `official_scorer.BASES` only.

    Returns:
        {"files": paths, "tasks": {abbreviation: {"samples", "answered", "failed", "not_run"}}, "notes": sentences}.

    Raises:
        InputError: the data is not the run's; the folder can't be written.
    """
    samples = {sample.id: sample for sample in dataset.samples()}
    strange = [sample["id"] for sample in run.samples if sample["id"] not in samples]
    if strange:
        raise InputError(
            dataset.root,
            expected=f"the data of {run.path.resolve().name}",
            found=f"QA files without {len(strange)} of its {len(run.samples)} questions",
            fix="name the right folder with --data",
        )
    arm = setup_of(run)["arm"]
    folder = out / "results" / base / ("results_viz" if arm in MARKED_ARMS else "results")
    report: dict[str, Any] = {"files": [], "tasks": {}, "notes": []}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, task in TASKS.items():
            entries, counts = _entries(run, dataset, name)
            file = folder / output_name(task.key)
            if not entries:
                file.unlink(missing_ok=True)  # of an earlier export: it would be scored as this run's
                report["notes"].append(
                    f"{name}: no questions in {dataset.root.name}; no file, and no part of the average"
                )
                continue
            write_atomically(file, json.dumps(plain_json(entries), indent=2, ensure_ascii=False) + "\n")
            report["files"].append(str(file))
            report["tasks"][name] = counts
        about = {"run": run.path.resolve().name, "identity": identity_of(run), "tasks": report["tasks"]}
        beside = folder.parent / f"made_by_gazeqwen.{folder.name}.json"
        write_atomically(beside, json.dumps(plain_json(about), indent=2) + "\n")
    except OSError as error:
        raise InputError(out, expected="a folder that can be written", found=error.strerror or str(error)) from error
    report["notes"] += _notes(report["tasks"], dataset, base)
    return report


def _notes(tasks: Mapping[str, Mapping[str, int]], dataset: Dataset, base: str) -> list[str]:
    notes = []
    if base not in BASES:
        notes.append(f"evaluate_results.py does not look at {base!r}; it knows {', '.join(BASES)}")
    for name, counts in tasks.items():
        blank = counts["not_run"] + counts["failed"]
        if blank:
            why = f"{counts['not_run']} not run, {counts['failed']} failed"
            notes.append(f"{name}: {blank} of {counts['samples']} samples are blank and count as wrong ({why})")
    if dataset.unusable:
        notes.append(
            f"{len(dataset.unusable)} entries can't be scored by us; StreamGaze's scorer may count them as wrong "
            "(`gazeqwen data validate` names them)"
        )
    return notes


def _entries(run: RunData, dataset: Dataset, task: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A task's entries with predictions, in the order of the QA files but for the first one, and counts."""
    samples: dict[Place, Sample] = {(s.entry, s.index, s.point): s for s in dataset.samples([task])}
    counts = {"samples": len(samples), "answered": 0, "failed": 0, "not_run": 0}
    for sample in samples.values():
        row = run.predictions.get(sample.id)
        counts["not_run" if row is None else "answered" if row["status"] == OK else "failed"] += 1
    entries = []
    for number, entry in enumerate(dataset.entries(task)):
        questions = entry.get("questions")
        # The scorer gives up on the whole file at anything else; such questions are among `Dataset.unusable`.
        if not isinstance(questions, list):
            continue
        kept = [(index, question) for index, question in enumerate(questions) if isinstance(question, dict)]
        entry["questions"] = [question for _, question in kept]
        if TASKS[task].proactive:
            for index, question in kept:
                _fill_points(question, number, index, samples, run)
        else:
            entry["model_predictions"] = [
                _choice(question, samples.get((number, index, None)), run) for index, question in kept
            ]
        entries.append(entry)
    if TASKS[task].proactive:
        entries.sort(key=lambda entry: not (entry["questions"] and "test_info" in entry["questions"][0]))
    return entries, counts


def _choice(question: dict[str, Any], sample: Sample | None, run: RunData) -> dict[str, Any]:
    """The prediction beside a question. `question` gets its answer as a letter where the scorer would not read one."""
    if sample is not None and parse_choice(question.get("answer"), form="strict") != sample.answer:
        question["answer_as_given"], question["answer"] = question.get("answer"), sample.answer
    row = _row(sample, run)
    seconds = _seconds(row)
    return {
        "question": question.get("question"),
        "time_stamp": question.get("time_stamp"),
        "model_prediction": row.get("prediction", ""),
        "model_response_time_sec": seconds,
        "model_response_time_formatted": f"{int(seconds) // 60}:{int(seconds) % 60:02d}",
        "gazeqwen": _more(row),
    }


def _fill_points(
    question: dict[str, Any], entry: int, index: int, samples: Mapping[Place, Sample], run: RunData
) -> None:
    points = question.get("test_info")
    question["test_info"] = [point for point in points if isinstance(point, dict)] if isinstance(points, list) else []
    if not isinstance(points, list):
        return
    for number, point in enumerate(points):
        if isinstance(point, dict):
            row = _row(samples.get((entry, index, number)), run)
            point["response"] = row.get("prediction", "")
            point["response_time_sec"] = point["cost"] = _seconds(row)
            point["gazeqwen"] = _more(row)


def _row(sample: Sample | None, run: RunData) -> Mapping[str, Any]:
    """The answered row of a sample; nothing for one that failed, was not run, or is no sample."""
    row = run.predictions.get(sample.id) if sample is not None else None
    return row if row is not None and row["status"] == OK else {}


def _seconds(row: Mapping[str, Any]) -> float:
    parts = {part: value or 0.0 for part, value in (row.get("latency_ms") or {}).items()}
    return parts.get("total", sum(parts.values())) / 1000


def _more(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("id", "logprobs", "text", "has_gaze") if key in row}


def command(arguments: Any) -> int:
    """`gazeqwen export streamgaze`; returns the exit code.

    Raises:
        InputError: as `export`, `records.read_run` and `Dataset.open`.
    """
    run = read_run(arguments.run)
    data = arguments.data or run.manifest.get("data_folder")
    if not data:
        raise InputError(run.path, expected="a manifest that names its data", found="none", fix="name it with --data")
    report = export(run, Dataset.open(data), arguments.out, base=arguments.as_base)
    for note in report["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"{len(report['files'])} files in {Path(report['files'][0]).parent}" if report["files"] else "no file")
    print(f"to score them, put evaluate_results.py into {arguments.out} and run it there")
    return 0
