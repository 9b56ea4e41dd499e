"""What a run was asked to do, from its manifest, and what makes its numbers weaker than they look. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.streamgaze.records import MANIFEST, RunData
from benchmarks.streamgaze.report_outcomes import Outcome
from benchmarks.streamgaze.statistics import FEW_VIDEOS
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.arms import get_arm
from gazeqwen.errors import InputError

SYNTHETIC = "mini-streamgaze"  # `mini.NAME`, which brings the whole world with it


def identity_of(run: RunData) -> Mapping[str, Any]:
    """What decides the run's predictions (`work.Settings.identity`), from its manifest.

    Raises:
        InputError: the manifest has none.
    """
    identity = run.manifest.get("identity")
    if not isinstance(identity, Mapping):
        raise InputError(run.path / MANIFEST, expected='an object under "identity"', found=repr(identity)[:60])
    return identity


def is_limited(run: RunData) -> bool:
    """Only the first samples of each task were asked for (`--limit`)."""
    return identity_of(run).get("limit") is not None


def setup_of(run: RunData) -> dict[str, Any]:
    """What was asked of which model on which data, from the manifest; None where it does not say."""
    identity = identity_of(run)
    model, data = identity.get("model") or {}, identity.get("data") or {}
    keys = ("protocol", "arm", "scoring", "window", "gaze_input", "limit", "seed", "max_frames", "proactive_wording")
    return {
        **{key: identity.get(key) for key in keys},
        "split": identity.get("split"),
        "model": model.get("name") or model.get("id"),
        "trained": model.get("trained"),
        "data": data.get("name"),
        "rules": identity.get("rules"),
        "unusable": run.manifest.get("unusable_entries") or 0,
    }


def is_synthetic(setup: Mapping[str, Any]) -> bool:
    """The data is this project's own small world."""
    return setup["data"] == SYNTHETIC


def require_same_samples(a: RunData, b: RunData) -> None:
    """Raises InputError unless both runs are to answer the same samples with the same answers; says how they differ."""
    first, second = ({sample["id"]: sample["answer"] for sample in run.samples} for run in (a, b))
    if first == second:
        return
    name = a.path.resolve().name
    only = f"{len(first.keys() - second.keys())} only in {name}, {len(second.keys() - first.keys())} only in it"
    other = f"{sum(first[key] != second[key] for key in first.keys() & second.keys())} with another answer"
    raise InputError(
        b.path,
        expected=f"the {len(first)} samples of {name}",
        found=f"{len(second)}: {only}, {other}",
        fix="run both on the same data with the same --tasks, --limit and --split",
    )


def notes_of(run: RunData, outcomes: Sequence[Outcome], summary: Mapping[str, Any]) -> list[str]:
    """What makes the numbers weaker than they look, one sentence or two each, the gravest first."""
    setup, missing = summary["setup"], len(run.missing)
    notes = []
    if summary["limited"]:
        notes.append(f"LIMITED to the first {setup['limit']} samples of each task: a test, not a result.")
    if missing:
        done = summary["answered"]
        notes.append(f"INCOMPLETE: {done} of {len(outcomes)} samples answered; the {missing} others count as wrong.")
    if len(summary["tasks"]) < len(TASKS):
        notes.append(f"{len(summary['tasks'])} of {len(TASKS)} tasks were run; macro is the mean over those.")
    if summary["failures"]:
        notes.append(f"{summary['failures']} samples failed; they count as wrong.")
    if unparsed := sum(outcome.unparsed for outcome in outcomes):
        notes.append(f"{unparsed} generated answers name no option; they count as wrong.")
    if is_synthetic(setup):
        notes.append("The data is a synthetic world: these accuracies say nothing about real recordings.")
    if get_arm(setup["arm"]).solver:
        notes.append("The arm is a symbolic solver, not a model: it shows what the questions allow.")
    elif str(setup["trained"]).startswith("untrained"):
        notes.append("The model is untrained: its answers mean nothing.")
    if setup["rules"] == "streamgaze" and is_synthetic(setup):
        notes.append("Made by StreamGaze's own rules: some answers rest on what happens after the question.")
    if summary["scored"] == "strict":
        notes.append("Scored as StreamGaze's own script scores, quirks included.")
    if setup["unusable"]:
        notes.append(f"{setup['unusable']} entries of the data can't be scored and are in no number here.")
    evicted = [row for row in run.predictions.values() if (row.get("evicted_steps") or 0) > 0]
    if evicted:
        notes.append(
            f"{len(evicted)} answers came after older steps were evicted; the steps kept had seen those, so their "
            "window is not as strict as a fresh prefill of it (--window refill)."
        )
    if no_gaze := sum(outcome.no_gaze for outcome in outcomes):
        notes.append(f"{no_gaze} samples had no valid gaze in what they may see; they are in every number.")
    if (videos := summary["bootstrap"]["videos"]) < FEW_VIDEOS:
        notes.append(f"{videos} video{'s' * (videos != 1)}: intervals over fewer than {FEW_VIDEOS} are too narrow.")
    if "blind" in summary:
        blind = summary["blind"]
        notes.append(f"blind: the question alone, run {blind['run']} ({blind['trained'] or 'weights unknown'}).")
        if blank := len(outcomes) - blind["answered"] + blind["failures"]:
            notes.append(f"{blank} samples of the blind run are not answered or failed; they make its column too low.")
    return notes
