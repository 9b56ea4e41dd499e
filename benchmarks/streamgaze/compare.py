"""`gazeqwen compare A B`: two runs on the same samples, paired sample by sample. No torch.

First the difference B - A with its 95 % interval, over videos drawn together for both runs; beside it McNemar's exact
test on the discordant samples, with Holm's correction over the tasks. The test takes samples as independent, which
those of one video are not: the interval is the number to go by.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.streamgaze.records import RunData, read_run
from benchmarks.streamgaze.report import interval, setup_facts
from benchmarks.streamgaze.report_document import Block, Heading, Notes, Table, as_text
from benchmarks.streamgaze.report_outcomes import Outcome, by_task, outcomes_of
from benchmarks.streamgaze.report_setup import identity_of, is_limited, require_same_samples, setup_of
from benchmarks.streamgaze.statistics import (
    FEW_VIDEOS,
    ONE_VIDEO,
    RESAMPLES,
    bootstrap_interval,
    holm,
    mcnemar_exact,
    mean_of_ratios,
)
from benchmarks.streamgaze.tasks import GROUPS, TASKS
from gazeqwen.errors import InputError
from gazeqwen.types import plain_json

Pair = tuple[Outcome, Outcome]


def compare(a: RunData, b: RunData, *, seed: int = 0) -> dict[str, Any]:
    """Differences B - A in percent points, in plain JSON types; what `gazeqwen compare --json` prints.

    Keys: "macro", "micro", "groups", "gaze_dependent" and "tasks", each with "accuracy_a", "accuracy_b", "difference"
    and "ci" (null with a "ci_reason" for one video); a task also with "n", "b" and "c" (samples right in A only, in B
    only), "p" and "p_holm". "differs_in" names the settings in which the runs differ.

    Raises:
        InputError: a run is limited or not finished, or the runs are of different samples.
    """
    for run in (a, b):
        _require_whole(run)
    require_same_samples(a, b)
    second = {outcome.id: outcome for outcome in outcomes_of(b)}
    tasks = {
        name: [(outcome, second[outcome.id]) for outcome in of_task]
        for name, of_task in by_task(outcomes_of(a)).items()
    }
    every = [pair for pairs in tasks.values() for pair in pairs]
    rows = {name: _difference({name: pairs}, seed) | _discordant(pairs) for name, pairs in tasks.items()}
    for name, p_value in holm({name: row["p"] for name, row in rows.items()}).items():
        rows[name]["p_holm"] = p_value
    groups = {group: {name: tasks[name] for name in tasks if TASKS[name].group == group} for group in GROUPS}
    setups = setup_of(a), setup_of(b)
    return plain_json(
        {
            "a": {"run": a.path.resolve().name, "setup": setups[0], **_counts([pair[0] for pair in every])},
            "b": {"run": b.path.resolve().name, "setup": setups[1], **_counts([pair[1] for pair in every])},
            "differs_in": _differing(identity_of(a), identity_of(b)),
            "macro": _difference(tasks, seed),
            "micro": _difference({"all": every}, seed) | {"n": len(every)},
            "groups": {group: _difference(members, seed) for group, members in groups.items() if members},
            "gaze_dependent": _difference({n: pairs for n, pairs in tasks.items() if TASKS[n].needs_gaze}, seed),
            "tasks": rows,
            "bootstrap": {"over": "videos", "resamples": RESAMPLES, "seed": seed, "videos": len(_videos(every))},
        }
    )


def _require_whole(run: RunData) -> None:
    if not run.samples:
        raise InputError(run.path, expected="samples", found="none")
    if is_limited(run):
        limit = setup_of(run)["limit"]
        raise InputError(
            run.path,
            expected="a whole run",
            found=f"one limited to {limit} samples a task",
            fix="run it without --limit",
        )
    if run.missing:
        raise InputError(
            run.path,
            expected="a finished run",
            found=f"{len(run.missing)} of {len(run.samples)} samples without an answer",
            fix="finish it with the `gazeqwen eval` command it was started with",
        )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the values in which two identities differ, "model.fingerprint" for one within another."""
    names = []
    for key in (*a, *(key for key in b if key not in a)):
        if isinstance(a.get(key), Mapping) and isinstance(b.get(key), Mapping) and not prefix:
            names += _differing(a[key], b[key], f"{key}.")
        elif a.get(key) != b.get(key):
            names.append(prefix + key)
    return names


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {"n": len(outcomes), "failures": sum(outcome.failed for outcome in outcomes)}


def _videos(pairs: Sequence[Pair]) -> list[str]:
    return sorted({first.video for first, _ in pairs})


def _difference(tasks: Mapping[str, Sequence[Pair]], seed: int) -> dict[str, Any]:
    """Of the mean accuracies over these tasks."""
    if not tasks:
        return {"accuracy_a": None, "accuracy_b": None, "difference": None, "ci": None, "ci_reason": "no such task"}
    columns = [
        Counter(first.video for first, second in pairs if counted(first, second))
        for counted in (lambda a, b: a.right, lambda a, b: b.right, lambda a, b: True)
        for pairs in tasks.values()
    ]
    videos = _videos([pair for pairs in tasks.values() for pair in pairs])
    counts = np.array([[column[video] for column in columns] for video in videos], dtype=float)
    size = len(tasks)

    def means(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        right_a, right_b, n = sums[:, :size], sums[:, size : 2 * size], sums[:, 2 * size :]
        return tuple(100 * mean_of_ratios(np.concatenate([right, n], axis=1)) for right in (right_a, right_b))  # type: ignore[return-value]

    def difference(sums: np.ndarray) -> np.ndarray:
        of_a, of_b = means(sums)
        return of_b - of_a

    (of_a,), (of_b,) = means(counts.sum(axis=0, keepdims=True))
    found = bootstrap_interval(counts, difference, seed=seed)
    why = {"ci": None, "ci_reason": ONE_VIDEO} if found is None else {"ci": list(found)}
    return {"accuracy_a": float(of_a), "accuracy_b": float(of_b), "difference": float(of_b - of_a), **why}


def _discordant(pairs: Sequence[Pair]) -> dict[str, Any]:
    only_a = sum(first.right and not second.right for first, second in pairs)
    only_b = sum(second.right and not first.right for first, second in pairs)
    return {"n": len(pairs), "b": only_a, "c": only_b, "p": mcnemar_exact(only_a, only_b)}


# -- text --------------------------------------------------------------------------------------------------------------


def blocks_of(found: Mapping[str, Any]) -> list[Block]:
    """The comparison as a document."""
    a, b = found["a"], found["b"]
    blocks: list[Block] = [Heading(f"A {a['run']}, B {b['run']}: B - A in percent points")]
    for label, side in (("A ", a), ("B ", b)):
        blocks.append(setup_facts(side["setup"], {**side, "bootstrap": found["bootstrap"]}, label=label))
    rows = [
        (name, str(row["n"]), *_means(row), str(row["b"]), str(row["c"]), _p(row["p"]), _p(row["p_holm"]))
        for name, row in found["tasks"].items()
    ]
    tasks = len(rows)
    for name, row in {**found["groups"], "need gaze": found["gaze_dependent"]}.items():
        rows.append((name, "", *_means(row), "", "", "", ""))
    for name in ("macro", "micro"):
        rows.append((name, str(a["n"]) if name == "micro" else "", *_means(found[name]), "", "", "", ""))
    header = ("task", "n", "A", "B", "B - A", "95 % interval", "b", "c", "p", "p Holm")
    blocks.append(Table("", header, tuple(rows), rules=(tasks, len(rows) - 2)))
    return [*blocks, Notes(tuple(_notes(found)))]


def _means(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (row["accuracy_a"], row["accuracy_b"])
    shown = ("-" if value is None else f"{value:.1f}" for value in numbers)
    difference = "-" if row["difference"] is None else f"{row['difference']:+.1f}"
    return (*shown, difference, interval(row["ci"]))


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"


def _notes(found: Mapping[str, Any]) -> list[str]:
    videos = found["bootstrap"]["videos"]
    notes = [
        f"Intervals: bootstrap over {videos} video{'s' * (videos != 1)}, both runs drawn together, "
        f"{found['bootstrap']['resamples']:,} resamples.",
        "b: right in A only, c: right in B only; p: exact McNemar test of the two, Holm: corrected for the "
        f"{len(found['tasks'])} tasks. It takes samples as independent, which those of one video are not.",
        f"The runs differ in: {', '.join(found['differs_in']) or 'nothing that their manifests name'}.",
    ]
    if failures := found["a"]["failures"] + found["b"]["failures"]:
        notes.append(f"{failures} failed samples count as wrong.")
    if videos < FEW_VIDEOS:
        notes.append(f"Intervals over fewer than {FEW_VIDEOS} videos are too narrow.")
    return notes


def command(arguments: Any) -> int:
    """`gazeqwen compare`; returns the exit code.

    Raises:
        InputError: as `compare` and `records.read_run`.
    """
    found = compare(read_run(arguments.a), read_run(arguments.b), seed=arguments.seed)
    print(json.dumps(found, ensure_ascii=False, allow_nan=False) if arguments.json else as_text(blocks_of(found)))
    return 0
