"""Two runs, paired: differences by hand, intervals that use the pairing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streamgaze.compare import compare
from benchmarks.streamgaze.records import RunData, read_run
from benchmarks.streamgaze.report import json_report
from benchmarks.streamgaze.statistics import holm, mcnemar_exact
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.cli import main
from gazeqwen.errors import InputError
from tests.made_runs import Row, failed_row, guesses, made_samples, row_of, write_run


def run_of(folder: Path, samples: list[Row], rows: list[Row], **identity: Any) -> RunData:
    return read_run(write_run(folder, samples, rows, **identity))


def test_differences_and_discordant_counts_by_hand(tmp_path: Path) -> None:
    samples = made_samples(videos=2, per_video=3, tasks=["SR", "GTA"], points=1)
    right_in_a = {"SR.0.0.None", "SR.0.1.None", "GTA.0.0.0"}
    right_in_b = {"SR.0.0.None", "SR.1.0.None", "SR.1.1.None", "SR.1.2.None", "GTA.0.0.0"}
    a, b = (
        run_of(tmp_path / str(n), samples, [row_of(s, s["answer"] if s["id"] in right else "") for s in samples])
        for n, right in enumerate((right_in_a, right_in_b))
    )
    found = compare(a, b)
    row = found["tasks"]["SR"]
    assert (row["n"], row["b"], row["c"]) == (6, 1, 3) and row["p"] == mcnemar_exact(1, 3)
    assert row["difference"] == pytest.approx(100 * 2 / 6)
    assert row["ci"] == pytest.approx([-100 / 3, 100])  # video 0 loses one of three, video 1 wins all three
    assert found["macro"]["difference"] == pytest.approx((100 * 2 / 6 + 0) / 2)
    assert found["micro"]["difference"] == pytest.approx(100 * 2 / 12)
    assert found["gaze_dependent"] == found["macro"]  # GTA needs gaze too


def test_it_agrees_with_the_two_reports(tmp_path: Path) -> None:
    samples = made_samples()
    a = run_of(tmp_path / "a", samples, guesses(samples, right=0.3))
    rows = guesses(samples, right=0.7, seed=1)
    rows[2] = failed_row(samples[2])
    b = run_of(tmp_path / "b", samples, rows, arm="none")
    found, of_a, of_b = compare(a, b), json_report(a), json_report(b)
    pairs = [(found[key], of_a[key], of_b[key]) for key in ("macro", "micro", "gaze_dependent")]
    pairs += [(found[kind][k], of_a[kind][k], of_b[kind][k]) for kind in ("tasks", "groups") for k in found[kind]]
    assert len(pairs) == 3 + 10 + 3
    for row, first, second in pairs:
        assert row["accuracy_a"] == pytest.approx(first["accuracy"])
        assert row["accuracy_b"] == pytest.approx(second["accuracy"])
        assert row["difference"] == pytest.approx(second["accuracy"] - first["accuracy"])
    p_values = {name: row["p"] for name, row in found["tasks"].items()}
    assert {name: row["p_holm"] for name, row in found["tasks"].items()} == holm(p_values)
    assert list(p_values) == list(TASKS) and found["differs_in"] == ["arm"]
    assert found["b"]["failures"] == 1


def test_turned_round_it_is_the_same_with_the_other_sign(tmp_path: Path) -> None:
    samples = made_samples(videos=6)
    a = run_of(tmp_path / "a", samples, guesses(samples, right=0.4))
    b = run_of(tmp_path / "b", samples, guesses(samples, right=0.6, seed=1))
    there, back = compare(a, b), compare(b, a)
    for row, other in ((there["macro"], back["macro"]), *((there["tasks"][k], back["tasks"][k]) for k in TASKS)):
        assert row["difference"] == pytest.approx(-other["difference"])
        assert row["ci"] == pytest.approx([-other["ci"][1], -other["ci"][0]])
    for name in TASKS:
        row, other = there["tasks"][name], back["tasks"][name]
        assert (row["b"], row["c"], row["p"]) == (other["c"], other["b"], other["p"])


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    samples = made_samples()
    a = run_of(tmp_path / "a", samples, guesses(samples))
    found = compare(a, a)
    assert found["differs_in"] == []
    for row in (found["macro"], found["micro"], *found["tasks"].values()):
        assert row["difference"] == 0 and row["ci"] == [0, 0]
    assert all((row["b"], row["c"], row["p"], row["p_holm"]) == (0, 0, 1, 1) for row in found["tasks"].values())


def test_the_pairing_narrows_the_interval(tmp_path: Path) -> None:
    """B is A with a few answers mended: far surer than the two accuracies, each for itself, would allow."""
    samples = made_samples(videos=20, per_video=3, tasks=["SR"])
    rows = guesses(samples)
    wrong = [number for number, row in enumerate(rows) if not row["correct"]][::4]
    mended = [
        row_of(s, s["answer"]) if n in wrong else row for n, (s, row) in enumerate(zip(samples, rows, strict=True))
    ]
    a, b = run_of(tmp_path / "a", samples, rows), run_of(tmp_path / "b", samples, mended)
    low, high = compare(a, b)["tasks"]["SR"]["ci"]
    alone = json_report(a)["tasks"]["SR"]["ci"]
    assert low >= 0 and high - low < 0.8 * (alone[1] - alone[0])


def test_one_video_has_no_interval(tmp_path: Path) -> None:
    samples = made_samples(videos=1)
    a, b = (run_of(tmp_path / str(seed), samples, guesses(samples, seed=seed)) for seed in (0, 1))
    found = compare(a, b)
    assert found["macro"]["ci"] is None and "one video" in found["macro"]["ci_reason"]
    assert main(["compare", str(tmp_path / "0"), str(tmp_path / "1")]) == 0


def test_limited_unfinished_and_unequal_runs_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = made_samples()
    rows = guesses(samples)
    whole = write_run(tmp_path / "whole", samples, rows)
    limited = write_run(tmp_path / "limited", samples, rows, limit=5)
    part = write_run(tmp_path / "part", samples, rows[:-2])
    fewer = write_run(tmp_path / "fewer", samples[1:], rows[1:])
    changed = [{**samples[0], "answer": "D" if samples[0]["answer"] != "D" else "A"}, *samples[1:]]
    answers = write_run(tmp_path / "answers", changed, rows)
    empty = write_run(tmp_path / "empty", [], [])
    for wrong, why in (
        (limited, "limited to 5 samples"),
        (part, "2 of 128 samples without an answer"),
        (fewer, "only in"),
        (answers, "1 with another answer"),
        (empty, "expected samples"),
        (tmp_path, "expected a run's folder"),
    ):
        for pair in ((whole, wrong), (wrong, whole)):
            assert main(["compare", *map(str, pair)]) == 2
            shown = capsys.readouterr()
            assert shown.out == "" and shown.err.count("\n") == 1 and why in shown.err, shown.err
    with pytest.raises(InputError, match="limited"):
        compare(read_run(limited), read_run(limited))


def test_failures_are_answers_and_no_reason_to_refuse(tmp_path: Path) -> None:
    samples = made_samples(tasks=["SR"])
    a = run_of(tmp_path / "a", samples, [row_of(sample, sample["answer"]) for sample in samples])
    b = run_of(tmp_path / "b", samples, [failed_row(sample) for sample in samples])
    assert compare(a, b)["tasks"]["SR"] | {"ci": None} == {
        "accuracy_a": 100, "accuracy_b": 0, "difference": -100, "ci": None, "n": 8, "b": 8, "c": 0,
        "p": 2 / 256, "p_holm": 2 / 256,
    }  # fmt: skip


def test_what_differs_is_named_down_to_the_files_of_the_data(tmp_path: Path) -> None:
    samples = made_samples()
    model = {"id": "tiny", "name": "tiny", "trained": "stage one"}
    a = run_of(tmp_path / "a", samples, guesses(samples), model={**model, "fingerprint": "aa"})
    data = {"name": "mini-streamgaze", "qa": {"qa/a.json": "01"}}
    b = run_of(tmp_path / "b", samples, guesses(samples), seed=1, data=data, model={**model, "fingerprint": "bb"})
    assert compare(a, b)["differs_in"] == ["seed", "data.qa", "model.fingerprint"]


def test_text_fits_80_columns_and_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples(videos=10, per_video=12, points=9)
    write_run(tmp_path / "a", samples, [row_of(sample, "") for sample in samples])
    write_run(tmp_path / "b", samples, [row_of(sample, sample["answer"]) for sample in samples], arm="none")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and max(map(len, shown.out.splitlines())) <= 80 and "None" not in shown.out
    assert "The runs differ in: arm." in shown.out and "+100.0" in shown.out and "<.001" in shown.out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and json.loads(out)["bootstrap"]["seed"] == 3
