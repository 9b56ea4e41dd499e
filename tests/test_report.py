"""The tables of a run: right by hand, the same however the run was made, honest about what is missing."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.streamgaze.official_scorer import score_file
from benchmarks.streamgaze.published import PUBLISHED, not_comparable
from benchmarks.streamgaze.records import read_run
from benchmarks.streamgaze.report import blocks_of, csv_table, json_report, text_table
from benchmarks.streamgaze.report_document import as_text
from benchmarks.streamgaze.report_outcomes import alert_timing, outcomes_of
from benchmarks.streamgaze.tasks import GROUPS, TASKS
from gazeqwen.arguments_streamgaze import PROTOCOLS
from gazeqwen.cli import main
from gazeqwen.errors import InputError
from tests.made_runs import Row, failed_row, guesses, made_samples, row_of, write_run

ROOT = Path(__file__).resolve().parents[1]


def report_of(folder: Path, samples: list[Row], rows: list[Row], **identity: Any) -> dict:
    return json_report(read_run(write_run(folder, samples, rows, **identity)))


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["report", *map(str, arguments)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_accuracies_by_hand(tmp_path: Path) -> None:
    samples = made_samples(videos=2, per_video=2, tasks=["SR", "OI-E"]) + made_samples(
        videos=2, points=3, tasks=["OAA"]
    )
    rows = [row_of(sample, sample["answer"]) for sample in samples]
    wrong = {"SR.0.0.None", "SR.1.1.None", "OI-E.0.0.None", "OAA.0.0.0", "OAA.1.1.2", "OAA.1.0.1"}
    for row in rows:
        if row["id"] in wrong:
            row["prediction"] = ""
    report = report_of(tmp_path, samples, rows)
    assert {name: row["accuracy"] for name, row in report["tasks"].items()} == {"SR": 50, "OI-E": 75, "OAA": 75}
    assert {name: row["n"] for name, row in report["tasks"].items()} == {"SR": 4, "OI-E": 4, "OAA": 12}
    assert report["macro"]["accuracy"] == pytest.approx((50 + 75 + 75) / 3)
    assert report["micro"]["accuracy"] == pytest.approx(100 * 14 / 20) and report["micro"]["n"] == 20
    assert {group: row["accuracy"] for group, row in report["groups"].items()} == {
        "past": 50, "present": 75, "proactive": 75
    }  # fmt: skip
    assert report["gaze_dependent"]["accuracy"] == 62.5  # OAA needs none
    assert any("3 of 10 tasks" in note for note in report["notes"])


def test_the_interval_is_over_videos(tmp_path: Path) -> None:
    """Two videos, one all right and one all wrong: the interval is all there is, however many questions they have."""
    samples = made_samples(videos=2, per_video=40, tasks=["SR"])
    rows = [row_of(sample, sample["answer"] if sample["video"] == "clip-00.mp4" else "") for sample in samples]
    report = report_of(tmp_path, samples, rows)
    assert report["tasks"]["SR"]["ci"] == [0, 100] == report["macro"]["ci"] == report["micro"]["ci"]


def test_one_video_has_no_interval_and_says_why(tmp_path: Path) -> None:
    samples = made_samples(videos=1, per_video=5)
    folder = write_run(tmp_path, samples, guesses(samples))
    report = json_report(read_run(folder))
    for row in (report["macro"], report["micro"], *report["tasks"].values(), *report["groups"].values()):
        assert row["ci"] is None and "one video" in row["ci_reason"]
    text = text_table(read_run(folder))
    assert "1 video:" in text and "N/A" not in text and "None" not in text


@pytest.mark.parametrize("form", ["json", "csv"])
def test_shards_restarts_and_order_change_nothing(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = made_samples()
    rows = guesses(samples)
    rows[7] = failed_row(samples[7])
    mixed = rows.copy()
    random.Random(0).shuffle(mixed)
    mixed.append(failed_row(samples[3]))  # tried again by another process: the answer stays
    one, other = tmp_path / "a" / "run", tmp_path / "b" / "run"
    write_run(one, samples, rows)
    write_run(other, samples, mixed, file_of=lambda number: number % 3)
    with (other / "predictions-001.jsonl").open("a") as file:
        file.write('{"id": "SR.0.0.None", "status": "ok", "predic')  # killed while writing
    assert asked(capsys, one, f"--{form}") == asked(capsys, other, f"--{form}")


def test_the_seed_moves_intervals_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples(videos=6)
    write_run(tmp_path, samples, guesses(samples))
    tables = [json.loads(asked(capsys, tmp_path, "--json", "--seed", seed)[1]) for seed in (0, 0, 1)]
    assert tables[0] == tables[1] != tables[2]
    for table in tables:
        table.pop("bootstrap")
        measures = [row[name] for row in table["proactive"].values() for name in ("precision", "recall", "f1")]
        means = (table["macro"], table["micro"], table["gaze_dependent"], *table["groups"].values())
        for row in (*means, *measures, *table["tasks"].values()):
            row.pop("ci")
    assert tables[0] == tables[2]


def test_missing_and_failed_samples_are_wrong_and_shown(tmp_path: Path) -> None:
    samples = made_samples(videos=3)
    right = [row_of(sample, sample["answer"]) for sample in samples]
    whole = report_of(tmp_path / "whole", samples, right)
    assert whole["macro"]["accuracy"] == 100 and whole["complete"]
    missing = {sample["id"] for sample in samples if sample["task"] == "SR"}
    failed = {sample["id"] for sample in samples if sample["task"] == "GTA" and sample["point"] == 1}
    rows = [failed_row(row) if row["id"] in failed else row for row in right if row["id"] not in missing]
    report = report_of(tmp_path / "part", samples, rows)
    assert not report["complete"] and report["answered"] == len(samples) - 6
    assert (report["tasks"]["SR"]["accuracy"], report["tasks"]["SR"]["missing"]) == (0, 6)
    assert (report["tasks"]["GTA"]["accuracy"], report["tasks"]["GTA"]["failures"]) == (75, 6)
    assert report["macro"]["accuracy"] == pytest.approx((0 + 75 + 8 * 100) / 10)
    assert [row["n"] for row in report["tasks"].values()] == [row["n"] for row in whole["tasks"].values()]
    text = text_table(read_run(tmp_path / "part"))
    assert f"INCOMPLETE: {len(samples) - 6} of {len(samples)}" in text and "6 samples failed" in text


def test_a_failed_row_is_wrong_whatever_else_it_says(tmp_path: Path) -> None:
    samples = made_samples(tasks=["SR"])
    rows = [failed_row(sample) | {"prediction": sample["answer"], "correct": True} for sample in samples]
    assert report_of(tmp_path, samples, rows)["tasks"]["SR"]["accuracy"] == 0


def test_a_limited_run_is_marked_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples()
    write_run(tmp_path, samples, guesses(samples), limit=8)
    for form in ([], ["--md"], ["--html"]):
        assert "LIMITED to 8 samples a task" in asked(capsys, tmp_path, *form)[1]
    assert json.loads(asked(capsys, tmp_path, "--json")[1])["limited"] is True
    code, out, err = asked(capsys, tmp_path, "--csv")
    assert "LIMITED" in err and "LIMITED" not in out and code == 0


def test_samples_without_gaze_are_counted_where_they_are(tmp_path: Path) -> None:
    samples = made_samples()
    rows = [row | {"has_gaze": row["task"] != "FAP"} for row in guesses(samples)]
    report = report_of(tmp_path, samples, rows)
    assert {name: row["no_gaze"] for name, row in report["tasks"].items() if row["no_gaze"]} == {"FAP": 8}


def test_chance_is_the_best_constant_answer(tmp_path: Path) -> None:
    samples = made_samples(tasks=["SR", "GTA"], videos=1, per_video=5, points=2)
    for number, sample in enumerate(samples):
        sample["answer"] = ("AABCD"[number] if sample["task"] == "SR" else "Yes") if number < 5 + 7 else "No"
    report = report_of(tmp_path, samples, [])
    assert (report["tasks"]["SR"]["chance"], report["tasks"]["GTA"]["chance"]) == (40, 70)
    assert report["macro"]["chance"] == 55 and report["micro"]["chance"] == pytest.approx(100 * 9 / 15)


# -- what the table says of itself -------------------------------------------------------------------------------------


def test_the_head_names_arm_protocol_scoring_model_and_data(tmp_path: Path) -> None:
    samples = made_samples()
    rows = [row | {"evicted_steps": 3 * (row["task"] == "OAR")} for row in guesses(samples)]
    model = {"name": "tiny", "id": "/home/me/tiny", "trained": "untrained"}
    folder = write_run(tmp_path, samples, rows, arm="null", window="evict", model=model, unusable=3)
    text = " ".join(text_table(read_run(folder)).split())
    for part in (
        "tiny (untrained)",
        "null: residuals from null gaze",
        "stream, scoring letters, window evict",
        "mini-streamgaze, causal rules, 4 videos",
        "synthetic world",
        "The model is untrained",
        "8 answers came after older steps were evicted",
        "3 entries of the data can't be scored",
    ):
        assert part in text
    assert "/home" not in text
    whole = write_run(tmp_path / "b", samples, guesses(samples), data={"name": "streamgaze"}, rules="streamgaze")
    text = text_table(read_run(whole))
    assert "synthetic" not in text and "untrained" not in text and "evicted" not in text


def test_text_fits_80_columns_and_has_no_holes(tmp_path: Path) -> None:
    samples = made_samples(videos=10, per_video=3, points=9)
    blind = read_run(write_run(tmp_path / "blind", samples, guesses(samples, right=0.25), arm="blind"))
    whole = read_run(write_run(tmp_path / "a-run-with-quite-a-long-name", samples, guesses(samples)))
    part = read_run(write_run(tmp_path / "part", samples, guesses(samples)[:-50], limit=20))
    beside = ({}, {"strict": True}, {"reference": True}, {"blind": blind}, {"blind": blind, "reference": True})
    for run in (whole, part):
        for options in beside:
            report = json_report(run, **options)
            for row in report["tasks"].values():
                row |= {"n": 9325, "failures": 932, "accuracy": 100.0, "chance": 100.0, "ci": [100.0, 100.0]}
            text = as_text(blocks_of(report))
            assert max(map(len, text.splitlines())) <= 80 and "N/A" not in text and "None" not in text


def test_an_arm_that_is_no_model_says_so(tmp_path: Path) -> None:
    samples = made_samples()
    folder = write_run(tmp_path, samples, guesses(samples), arm="oracle", scoring="solver", model={"id": "solver"})
    assert "symbolic solver, not a model" in text_table(read_run(folder))


# -- proactive ---------------------------------------------------------------------------------------------------------


def points(*said: tuple[str, str], question: int = 0) -> list[tuple[Row, str]]:
    """A question's test points 10 s apart, from (label, what was said)."""
    (first, *_) = made_samples(videos=1, per_video=1, points=1, tasks=["GTA"])
    return [
        (
            first | {"id": f"{question}.{row}", "entry": question, "point": row, "t_s": 10.0 * row, "answer": label},
            answer,
        )
        for row, (label, answer) in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ([("No", "No"), ("Yes", "Yes"), ("Yes", "Yes")], {"events": 1, "on_time": 1, "median_delay_s": 0}),
        ([("No", "No"), ("Yes", "No"), ("Yes", "Yes")], {"events": 1, "late": 1, "median_delay_s": 10}),
        ([("Yes", "No"), ("No", "No"), ("No", "Yes")], {"events": 1, "late": 1, "median_delay_s": 20}),
        ([("No", "Yes"), ("Yes", "Yes")], {"events": 1, "on_time": 1, "early": 1, "median_delay_s": 0}),
        ([("No", "Yes"), ("Yes", "No")], {"events": 1, "missed": 1, "early": 1}),
        ([("Yes", "No"), ("Yes", "")], {"events": 1, "missed": 1}),
        ([("No", "No"), ("No", "No")], {"quiet": 1}),
        ([("No", "No"), ("No", "Yes")], {"quiet": 1, "false_alarms": 1}),
    ],
)
def test_timing_of_one_question(tmp_path: Path, said: list[tuple[str, str]], counts: dict[str, float]) -> None:
    made = points(*said)
    made.reverse()  # the order of points in the file does not matter
    run = read_run(write_run(tmp_path, [s for s, _ in made], [row_of(s, answer) for s, answer in made]))
    found = alert_timing(outcomes_of(run))
    assert {name: value for name, value in found.items() if value and name != "mean_delay_s"} == {
        name: value for name, value in counts.items() if value
    }
    assert (found["median_delay_s"] is None) == ("median_delay_s" not in counts)


def test_precision_recall_and_f1_by_hand(tmp_path: Path) -> None:
    made = points(("Yes", "Yes"), ("Yes", "No"), ("Yes", ""), ("No", "Yes")) + points(
        ("Yes", "Yes"), ("No", "No"), ("No", "No"), question=1
    )
    report = report_of(tmp_path, [s for s, _ in made], [row_of(s, said) for s, said in made])
    row = report["proactive"]["GTA"]
    assert (row["points"], row["said_yes"], row["labelled_yes"], row["hits"]) == (7, 3, 4, 2)
    assert row["precision"]["value"] == pytest.approx(200 / 3)
    assert row["recall"]["value"] == 50 and row["f1"]["value"] == pytest.approx(400 / 7)


def test_a_model_that_never_says_yes_has_no_precision(tmp_path: Path) -> None:
    made = points(("Yes", "No"), ("No", "No"))
    folder = write_run(tmp_path, [s for s, _ in made], [row_of(s, said) for s, said in made])
    row = json_report(read_run(folder))["proactive"]["GTA"]
    assert (row["precision"]["value"], row["recall"]["value"], row["f1"]["value"]) == (None, 0, 0)
    assert "None" not in text_table(read_run(folder))


# -- strict, blind, reference ------------------------------------------------------------------------------------------


def test_strict_gives_what_the_official_rules_give_for_the_same_texts(tmp_path: Path) -> None:
    """Generated answers that the two readings differ on, scored from the run and from a file in the scorer's form."""
    samples = made_samples(tasks=["SR", "GTA"], videos=3, per_video=4)
    texts = ("I see a knife, so C", "It's a D", "B.", "(b)", "none", "Answer: A")
    replies = ("Yes", "Eyes on it", "Not yet", "yes, no", "Unknown", "No.")
    rows = []
    for number, sample in enumerate(samples):
        text = (texts if sample["task"] == "SR" else replies)[number % 6]
        rows.append(row_of(sample, "", text=text, scoring="generate"))
    folder = write_run(tmp_path / "run", samples, rows)
    strict = json_report(read_run(folder), strict=True)
    entries = {"SR": [], "GTA": []}
    for sample, row in zip(samples, rows, strict=True):
        question = {"question": sample["question"], "answer": sample["answer"]}
        if sample["task"] == "GTA":
            question = {"test_info": [{"type": int(sample["answer"] == "Yes"), "response": row["text"]}]}
        entries[sample["task"]].append(
            {"questions": [question], "model_predictions": [{"model_prediction": row["text"]}]}
        )
    for task, of_task in entries.items():
        file = tmp_path / f"{task}.json"
        file.write_text(json.dumps(of_task))
        score = score_file(file, mode="strict")
        assert strict["tasks"][task]["accuracy"] == score.accuracy and 0 < score.correct < score.total
    assert json_report(read_run(folder))["macro"]["accuracy"] == 0  # what the run itself made of the texts
    assert any("StreamGaze's own script" in note for note in strict["notes"])


def test_strict_changes_nothing_where_letters_were_compared(tmp_path: Path) -> None:
    samples = made_samples()
    rows = guesses(samples)
    rows[5] = failed_row(samples[5])
    run = read_run(write_run(tmp_path, samples, rows[:-9]))
    fixed, strict = json_report(run), json_report(run, strict=True)
    assert {key: row for key, row in fixed.items() if key not in ("scored", "notes")} == {
        key: row for key, row in strict.items() if key not in ("scored", "notes")
    }


def test_a_blind_run_stands_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples(tasks=["SR", "OAA"])
    run = write_run(tmp_path / "run", samples, guesses(samples))
    rows = [row_of(sample, sample["answer"] if sample["task"] == "SR" else "") for sample in samples]
    blind = write_run(tmp_path / "blind", samples, rows, arm="blind", model={"id": "m", "trained": "zero-shot"})
    report = json.loads(asked(capsys, run, "--json", "--blind", blind)[1])
    assert report["blind"]["tasks"] == {"SR": 100, "OAA": 0} and report["blind"]["macro"]["accuracy"] == 50
    text = asked(capsys, run, "--blind", blind)[1]
    assert "blind" in text and "zero-shot" in text
    cells = {row["task"]: row["blind"] for row in csv.DictReader(io.StringIO(csv_table(report)))}
    assert cells == {"SR": "100.0000", "OAA": "0.0000", "past": "100.0000", "proactive": "0.0000",
                     "need gaze": "100.0000", "macro": "50.0000", "micro": cells["micro"]}  # fmt: skip


def test_a_blind_run_with_gaps_says_that_its_column_is_too_low(tmp_path: Path) -> None:
    samples = made_samples(tasks=["SR"])
    run = read_run(write_run(tmp_path / "run", samples, guesses(samples)))
    rows = [row_of(sample, sample["answer"]) for sample in samples]
    whole = read_run(write_run(tmp_path / "whole", samples, rows, arm="blind"))
    assert "too low" not in " ".join(json_report(run, blind=whole)["notes"])
    rows[1] = failed_row(samples[1])
    part = read_run(write_run(tmp_path / "part", samples, rows[:-3], arm="blind"))
    assert any("4 samples of the blind run" in note for note in json_report(run, blind=part)["notes"])


def test_what_is_no_blind_run_of_the_same_samples_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = made_samples()
    run = write_run(tmp_path / "run", samples, guesses(samples))
    none = write_run(tmp_path / "none", samples, guesses(samples), arm="none")
    other = write_run(tmp_path / "other", samples[1:], guesses(samples[1:]), arm="blind")
    changed = [{**samples[0], "answer": "D" if samples[0]["answer"] != "D" else "A"}, *samples[1:]]
    answers = write_run(tmp_path / "answers", changed, guesses(changed), arm="blind")
    for wrong, why in ((none, "arm none"), (other, "1 only in run"), (answers, "1 with another answer")):
        code, out, err = asked(capsys, run, "--blind", wrong)
        assert code == 2 and out == "" and err.count("\n") == 1 and why in err


def test_published_rows_are_the_means_that_they_say() -> None:
    """Holds the transcription: Overall is the mean of the columns (GPT-4o's own printed one is 0.2 off)."""
    for row in PUBLISHED:
        assert set(row.tasks) <= set(TASKS) and all(0 <= value <= 100 for value in row.tasks.values())
        if len(row.tasks) == len(TASKS):
            assert fmean(row.tasks.values()) == pytest.approx(row.overall, abs=0.25)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_reference_says_in_words_why_it_is_none(tmp_path: Path, protocol: str) -> None:
    samples = made_samples()
    made = {"data": {"name": "streamgaze"}, "rules": "streamgaze", "protocol": protocol, "scoring": "generate"}
    synthetic = json_report(read_run(write_run(tmp_path / "a", samples, guesses(samples))), reference=True)
    real = json_report(read_run(write_run(tmp_path / "b", samples, guesses(samples), **made)), reference=True)
    assert "drawn by a program" in synthetic["reference"]["not_comparable"][0]
    reasons = " ".join(real["reference"]["not_comparable"])
    assert f"protocol {protocol}" in reasons and "8,521" in reasons and "drawn by a program" not in reasons
    assert "scoring" not in reasons and "arm inject" in reasons
    marked = not_comparable({**real["setup"], "arm": "marker"}, synthetic=False)
    assert not any(reason.startswith("arm") for reason in marked)


# -- forms -------------------------------------------------------------------------------------------------------------


def test_csv_has_the_tasks_in_registry_order_and_nothing_that_varies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = made_samples()
    random.Random(1).shuffle(samples)
    write_run(tmp_path, samples, guesses(samples))
    _, out, err = asked(capsys, tmp_path, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["task"] for row in rows] == [*TASKS, *GROUPS, "need gaze", "macro", "micro"] and err == ""
    report = json.loads(asked(capsys, tmp_path, "--json")[1])
    for row in rows[: len(TASKS)]:
        task = report["tasks"][row["task"]]
        assert (int(row["n"]), int(row["failures"])) == (task["n"], task["failures"])
        assert float(row["accuracy"]) == pytest.approx(task["accuracy"], abs=1e-4)
        assert [float(row["ci_low"]), float(row["ci_high"])] == pytest.approx(task["ci"], abs=1e-4)
    assert not {"latency", "path", "time"} & {word for column in rows[0] for word in column.split("_")}
    assert str(tmp_path) not in out and "20.0" not in out.replace("20.0000", "")


def test_json_is_one_object_with_the_keys_that_are_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples()
    write_run(tmp_path, samples, guesses(samples))
    code, out, err = asked(capsys, tmp_path, "--json")
    report = json.loads(out)
    assert code == 0 and err == "" and out.count("\n") == 1
    assert {"macro", "micro", "groups", "tasks"} <= set(report)
    assert {"accuracy", "ci"} <= set(report["macro"])
    for row in report["tasks"].values():
        assert {"n", "accuracy", "ci", "failures", "no_gaze"} <= set(row)
        assert row["ci"][0] <= row["accuracy"] <= row["ci"][1]


def test_markdown_tables_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples()
    write_run(tmp_path / "a|b_c", samples, guesses(samples))
    out = asked(capsys, tmp_path / "a|b_c", "--md", "--reference")[1]
    assert out.startswith("## StreamGaze: a\\|b\\_c\n")
    assert "| SR Scene Recall |" in out
    table: list[int] = []
    for line in out.splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert not (cells and table) or cells == table[-1]
        table = [*table, cells] if cells else []


class _Balanced(HTMLParser):
    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_one_whole_page_with_plots_and_without_scripts_or_links(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "<b>run & co"
    samples = made_samples()
    write_run(tmp_path / name, samples, guesses(samples))
    code, out, err = asked(capsys, tmp_path / name, "--html", "--reference")
    assert code == 0 and err == ""
    page = _Balanced()
    page.feed(out)
    assert page.open == [] and page.tags.count("svg") == 2 and "script" not in page.tags and "b" not in page.tags
    assert all(link.startswith("#") for link in page.links) and "url(http" not in out and "@import" not in out
    assert 'name="viewport"' in out and "prefers-color-scheme: dark" in out and name in page.text
    row = json.loads(asked(capsys, tmp_path / name, "--json")[1])["macro"]
    assert f"{row['accuracy']:.1f}" in page.text


def test_plots_are_written_whole_and_the_same_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples()
    write_run(tmp_path / "run", samples, guesses(samples))
    contents = []
    for folder in ("x", "y"):
        code, out, err = asked(capsys, tmp_path / "run", "--plots", tmp_path / folder, "--json")
        assert code == 0 and json.loads(out) and err.count("wrote") == 2
        files = sorted((tmp_path / folder).iterdir())
        assert [file.name for file in files] == ["accuracy.svg", "latency.svg"]
        contents.append([file.read_bytes() for file in files])
        for file in files:
            ElementTree.fromstring(file.read_text())
    assert contents[0] == contents[1]
    words = contents[0][0].decode()
    assert all(f">{name}<" in words for name in (*TASKS, "macro")) and "currentColor" in words


def test_a_run_without_latencies_has_no_plot_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples()
    write_run(tmp_path / "run", samples, [row | {"latency_ms": {}} for row in guesses(samples)])
    code, out, _ = asked(capsys, tmp_path / "run", "--plots", tmp_path / "plots", "--html")
    assert code == 0 and out.count("<svg") == 1
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["accuracy.svg"]


# -- failure paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda run: (run / "manifest.json").unlink(), "expected a run's folder"),
        (lambda run: (run / "manifest.json").write_text('{"format": 1}'), '"identity"'),
        (lambda run: (run / "samples.jsonl").write_text(""), "found no sample"),
        (lambda run: (run / "samples.jsonl").write_text('{"id": "x", "task": "XY"}\n'), "found the task XY"),
        (lambda run: (run / "predictions-000.jsonl").write_text("what\n"), "predictions-000.jsonl, line 1"),
    ],
)
def test_a_damaged_run_is_one_line(
    tmp_path: Path, damage: Callable[[Path], object], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = made_samples()
    damage(write_run(tmp_path, samples, guesses(samples)))
    code, out, err = asked(capsys, tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1 and why in err


def test_plots_that_can_not_be_written_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = made_samples()
    write_run(tmp_path / "run", samples, guesses(samples))
    (tmp_path / "file").write_text("")
    code, out, err = asked(capsys, tmp_path / "run", "--plots", tmp_path / "file")
    assert code == 2 and out == "" and err.count("\n") == 1 and "folder that can be written" in err


def test_no_torch(tmp_path: Path) -> None:
    """Report, compare and export from the command line's own entry, on a machine that might not have it."""
    samples = made_samples()
    for name in ("a", "b"):
        write_run(tmp_path / name, samples, guesses(samples, seed=ord(name)))
    code = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from gazeqwen.cli import main
import benchmarks.streamgaze.export, gazeqwen.types, gazeqwen.errors, stream
for arguments in (["report", "a"], ["report", "a", "--html", "--reference", "--strict"], ["compare", "a", "b"]):
    assert main(arguments) == 0, arguments
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr


def test_the_library_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    samples = made_samples()
    run = read_run(write_run(tmp_path, samples, guesses(samples)))
    with pytest.raises(InputError, match="a run of the arm blind"):
        json_report(run, blind=run)
