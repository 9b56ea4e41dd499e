"""`gazeqwen evidence` at toy size: what it writes, that it goes on, that answers are a stream's; and its figures."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.evidence.answers import read_lines
from benchmarks.evidence.document import markdown
from benchmarks.evidence.plan import ARMS as TRAINED
from benchmarks.evidence.plan import FULL, PRIMARY, QUICK, SETTINGS, TRAININGS, length_setting
from benchmarks.evidence.run import CHOICES, EVIDENCE, Evidence
from benchmarks.evidence.summary import Answers, claims
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen import GazeQwen
from gazeqwen.arms import ARMS
from gazeqwen.errors import InputError

TOY = replace(
    FULL,
    seeds=(0, 1),
    steps=2,
    training_worlds=2,
    validation_worlds=1,
    test_worlds=2,
    setting_worlds=2,
    length_worlds=1,
    duration_s=7.0,
    per_task=1,
    asked_per_task=2,
    trained=("inject", "null", "blind"),
    comparisons=("no-skip",),
    with_inject=("shuffled",),
    zero_shot=("none", "heatmap"),
    settings=("sparse",),
    lengths=(4,),
    rates={"null": 1e-3, "blind": 1e-3},
    first_test_world=900_000,
)


def evidence(out: Path, **changes: Any) -> Evidence:
    return Evidence(replace(TOY, **changes), out, processes=1, say=lambda _: None)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("evidence") / "run"
    found = evidence(out).run()
    assert found is not None
    return out, found


def test_the_full_plan_has_every_arm_of_the_registry() -> None:
    assert set(ARMS) == {*TRAINED, *FULL.with_inject, *FULL.zero_shot, "oracle", "oracle-no-gaze"}
    assert set(FULL.comparisons) == set(TRAININGS) - set(TRAINED)
    assert len(FULL.seeds) == 3 and FULL.test_worlds >= 120 and FULL.lengths == (4, 15, 30, 60, 120)
    assert FULL.first_test_world == 0
    assert {PRIMARY, *FULL.settings} == set(SETTINGS)
    assert QUICK.trained == () and QUICK.with_inject == ("shuffled",) and QUICK.zero_shot == ("none",)
    opened = {
        plan.at(setting).first_seed: plan.asking(setting)[0]
        for plan in (FULL, QUICK, TOY)
        for setting in (*SETTINGS.values(), *map(length_setting, FULL.lengths))
    }
    assert all(b - a >= opened[a] for a, b in pairwise(sorted(opened)))  # no world is in two
    worlds = [FULL.asking(length_setting(steps))[0] for steps in FULL.lengths]
    assert worlds == [320, 320, 160, 80, 40]


def test_the_registration_names_the_plans_numbers() -> None:
    """docs/evidence/preregistration.md is what was promised: code that says otherwise would be another experiment."""
    text = (Path(__file__).parents[1] / "docs" / "evidence" / "preregistration.md").read_text(encoding="utf-8")
    text = " ".join(text.split())
    tried = [TRAININGS[name].rates for name in ("inject", "blind")]
    rates = [", ".join(f"{rate:.0e}".replace("e-0", "e-") for rate in of_arm) for of_arm in tried]
    for wanted in (
        f"{FULL.training_worlds}, seeds from {FULL.training_seeds[0]:,}",
        f"{FULL.validation_worlds}, seeds from {FULL.validation_seeds[0]:,}",
        f"{FULL.test_worlds}, seeds from {SETTINGS[PRIMARY].first_seed:,}",
        f"{FULL.setting_worlds} worlds each",
        f"null gaze in {FULL.null_gaze:.0%} of the videos",
        f"{FULL.asked_per_task} questions a task and world",
        f"{FULL.steps} steps of {FULL.batch_videos} worlds with {FULL.questions_per_video} questions each",
        f"seeds {', '.join(map(str, FULL.seeds))}",
        *rates,
        *(f"`{name}`" for name in ARMS),
        f"{', '.join(map(str, FULL.lengths[:-1]))} and {FULL.lengths[-1]} steps",
        "16.1 points",
    ):
        assert wanted in text, wanted
    assert len(FULL.settings) == 6 and len(FULL.comparisons) == 7


def test_it_tells_of_every_arm_and_setting(ran: tuple[Path, dict[str, Any]]) -> None:
    out, found = ran
    assert json.loads((out / EVIDENCE).read_text()) == found
    arms = {"inject", "inject-words", "inject-gaze-off", "null", "blind", "no-skip", "shuffled", "none", "heatmap"}
    assert set(found["arms"]) == arms | {"oracle", "oracle-no-gaze"}
    assert set(found["settings"]) == {"sparse", "4-steps"}
    assert set(found["settings"]["sparse"]) == {"inject", "null"}
    assert found["arms"]["inject"]["seeds"].keys() == {"0", "1"}
    assert found["arms"]["no-skip"]["seeds"].keys() == {"0"}
    assert found["seeds"] == [0, 1] and "selection" in found["mix"]
    for stage in ("reading", "tuning"):
        for mix in found["mix"][stage]["mixes"]:
            assert sum(share for kind, share in mix.items() if kind != "until") == pytest.approx(1)
    for arm in found["arms"].values():
        assert sum(row["n"] for row in arm["tasks"].values()) == arm["macro"]["n"] > 0
    document = (out / "evidence.md").read_text()
    assert found["model"] == {"name": "tiny", "trained": GazeQwen.from_pretrained("tiny").config.trained}
    assert f"Model: tiny ({found['model']['trained']})." in document
    assert document == markdown(found) and found["mix"]["selection"] in document
    assert all(f"`{name}`" in document for name in found["arms"])
    assert (out / "evidence.svg").read_text().startswith("<?xml")


def test_the_rate_is_the_best_on_validation_worlds(ran: tuple[Path, dict[str, Any]]) -> None:
    out, found = ran
    told = json.loads((out / CHOICES).read_text())
    tried = told["validation_macro"]["inject"]
    assert {float(rate) for rate in tried} == set(TRAININGS["inject"].rates)
    assert tried[f"{told['chosen']['inject']:g}"] == max(tried.values())
    assert told["chosen"]["null"] == 1e-3 and told["chosen"]["no-skip"] == told["chosen"]["inject"]
    assert found["trainings"]["inject"]["1"]["rate"] == told["chosen"]["inject"]
    assert {path.name for path in (out / "arms" / "inject").iterdir()} == {"seed-0", "seed-1"}
    assert (out / "arms" / "blind" / "seed-0" / "lora").is_dir()
    assert not any((out / "runs").iterdir())


def test_it_goes_on_where_it_was_and_does_nothing_twice(ran: tuple[Path, dict[str, Any]]) -> None:
    out, found = ran
    files = [path for name in ("arms", "answers", "trained") for path in (out / name).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    lost = out / "answers" / "shuffled" / "seed-0" / f"{PRIMARY}.jsonl.gz"
    kept = lost.read_bytes()
    lost.unlink()
    assert evidence(out).run() == found
    lines = [json.loads(line) for line in gzip.decompress(lost.read_bytes()).splitlines()]
    assert lines[1:] == [json.loads(line) for line in gzip.decompress(kept).splitlines()][1:]
    assert {path: path.stat().st_mtime_ns for path in files if path != lost} == {
        path: time for path, time in before.items() if path != lost
    }


def test_registered_worlds_stay_closed_while_a_rate_is_open(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of inject; choose them with --until choices"):
        evidence(tmp_path / "run", first_test_world=0).run()
    assert not (tmp_path / "run").exists()


def test_no_test_world_is_opened_before_the_choices(tmp_path: Path) -> None:
    toy = evidence(tmp_path / "run", trained=("null",), comparisons=(), rates={})
    assert toy.run(until="choices") is None
    assert (tmp_path / "run" / CHOICES).is_file()
    assert not (tmp_path / "run" / "answers").exists() and not (tmp_path / "run" / "questions").exists()


def test_stored_answers_are_those_of_a_stream(ran: tuple[Path, dict[str, Any]]) -> None:
    out, found = ran
    largest = evidence(out).recheck(1000)
    assert set(largest) == set(found["arms"]) - {"oracle", "oracle-no-gaze"}
    assert max(largest.values()) <= 1e-4
    path = out / "answers" / "none" / "seed-0" / f"{PRIMARY}.jsonl.gz"
    was = path.read_bytes()
    rows = read_lines(path)
    rows[1] = {form: [value - 0.01 for value in values] for form, values in rows[1].items()}
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    try:
        with pytest.raises(InputError, match=r"within 0\.0001"):
            evidence(out).recheck(1000)
    finally:
        path.write_bytes(was)


def test_other_settings_in_the_same_folder_are_refused(ran: tuple[Path, dict[str, Any]]) -> None:
    out, _ = ran
    with pytest.raises(InputError, match="trained with these settings"):
        evidence(out, steps=3).run()
    with pytest.raises(InputError, match=r"expected (answers|questions) of"):
        evidence(out, test_worlds=1).run()
    with pytest.raises(InputError, match="trained with these settings"):  # other worlds to learn from
        evidence(out, per_task=2).run()


def test_a_damaged_file_of_answers_is_named(ran: tuple[Path, dict[str, Any]]) -> None:
    out, _ = ran
    path = out / "answers" / "null" / "seed-0" / f"{PRIMARY}.jsonl.gz"
    was = path.read_bytes()
    try:
        path.write_bytes(was[:-20])
        with pytest.raises(InputError, match=f"null.*{PRIMARY}"):
            evidence(out).tell()
        rows = read_lines(out / "answers" / "none" / "seed-0" / f"{PRIMARY}.jsonl.gz")[:-1]
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        with pytest.raises(InputError, match="expected answers to"):
            evidence(out).tell()
    finally:
        path.write_bytes(was)


def _touch(path: Path, *, fail: bool) -> None:
    if fail:
        raise InputError(path, expected="room", found="none")
    path.write_text(str(torch.get_num_threads()))


def test_cells_run_in_processes_of_one_thread_and_the_first_error_is_heard(tmp_path: Path) -> None:
    said: list[str] = []
    pair = Evidence(TOY, tmp_path, processes=2, say=said.append)
    names = ["a", "b", "c"]
    pair._pool(_touch, [(tmp_path / name, {"fail": False}) for name in names], names)
    assert [(tmp_path / name).read_text() for name in names] == ["1"] * 3
    assert sorted(line.split()[-1] for line in said) == names and said[-1].startswith("  3 of 3")
    with pytest.raises(InputError, match="bad: expected room, found none"):
        pair._pool(_touch, [(tmp_path / "bad", {"fail": True})], ["bad"])


# -- figures -----------------------------------------------------------------------------------------------------------


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """40 worlds with three questions of each task; `inject` is right in all, `null` in every third."""
    rng = np.random.default_rng(0)
    asked, right = [], []
    for world in range(40):
        for task in TASKS:
            for number in range(3):
                options = ["Yes", "No"] if TASKS[task].proactive else ["a", "b", "c", "d"]
                answer = int(rng.integers(len(options)))
                asked.append(
                    {"id": f"{world}:{task}:{number}", "video": f"w{world:02}", "task": task, "options": options}
                )
                asked[-1]["answer"] = answer
                right.append(number == 0)
    _write(tmp_path / "questions" / f"{PRIMARY}.jsonl.gz", [{"asked": "made here"}, *asked])

    def answers(name: str, correct: list[bool], seed: int = 0) -> None:
        rows: list[dict[str, Any]] = [{"name": name}]
        for item, good in zip(asked, correct, strict=True):
            n = len(item["options"])
            said = item["answer"] if good else (item["answer"] + 1) % n
            values = [0.0 if k == said else -5.0 for k in range(n)]
            rows.append({"yes_no": values} if n == 2 else {"letters": values, "likelihood": values})
        _write(tmp_path / "answers" / name / f"seed-{seed}" / f"{PRIMARY}.jsonl.gz", rows)

    answers("inject", [True] * len(asked))
    answers("inject", right, seed=1)
    answers("null", right)
    answers("oracle", [True] * len(asked))
    answers("shuffled", right)
    return tmp_path


def test_figures_are_means_over_tasks_and_seeds_with_intervals_over_worlds(made: Path) -> None:
    answers = Answers(made)
    told = answers.told("inject", PRIMARY)
    assert told["seeds"] == {"0": 100.0, "1": pytest.approx(33.33, abs=0.01)}
    assert told["macro"]["value"] == pytest.approx(66.67, abs=0.01) and told["macro"]["n"] == 1200
    assert all(row["n"] == 120 for row in told["tasks"].values())
    difference = answers.difference("inject", "null", PRIMARY)
    assert difference["value"] == pytest.approx(33.33, abs=0.01)
    assert difference["ci"] == [pytest.approx(33.33, abs=0.01)] * 2  # every world is alike
    assert answers.difference("null", "shuffled", PRIMARY)["value"] == 0


def test_a_question_without_an_answer_is_wrong_and_counted(made: Path) -> None:
    path = made / "answers" / "oracle" / "seed-0" / f"{PRIMARY}.jsonl.gz"
    rows = read_lines(path)
    for row in rows[1:4]:
        row.clear()
    for row in rows[4:6]:
        for values in row.values():
            values[0] = float("nan")
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    told = Answers(made).told("oracle", PRIMARY)
    assert told["no_answer"] == 5 and told["macro"]["n"] == 1200
    tasks = list(TASKS)
    assert told["tasks"][tasks[0]]["value"] == pytest.approx(100 * 117 / 120, abs=0.01)
    assert told["tasks"][tasks[1]]["value"] == pytest.approx(100 * 118 / 120, abs=0.01)


def test_arms_are_tested_in_pairs_with_one_seed(made: Path) -> None:
    found = Answers(made).paired("inject", ["inject", "null", "oracle"], PRIMARY, seed="0")
    assert set(found) == {"null", "oracle"}
    assert (found["null"]["b"], found["null"]["c"]) == (800, 0) and found["null"]["p_holm"] < 1e-100
    assert (found["oracle"]["b"], found["oracle"]["c"], found["oracle"]["p_holm"]) == (0, 0, 1)
    answers = Answers(made)
    assert answers.difference("null", "inject", PRIMARY, seed="0")["value"] == pytest.approx(-66.67, abs=0.01)
    assert answers.difference("null", "inject", PRIMARY, seed="1")["value"] == 0


def test_claims_are_judged_by_what_was_registered(made: Path) -> None:
    answers = Answers(made)
    found = {claim.text: claim for claim in claims(answers, ["inject", "null", "oracle", "shuffled"], [PRIMARY], ())}

    def judged(part: str) -> list[bool | None]:
        return [claim.holds for text, claim in found.items() if part in text]

    assert judged("inject minus null, macro") == [True] and judged("lower bound above 0") == [True] * 9
    assert judged("share of the gap") == [False]  # half of it
    assert judged("shuffled minus null") == [True] and judged("letters minus likelihood") == [True]
