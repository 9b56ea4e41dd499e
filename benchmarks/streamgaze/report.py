"""`gazeqwen report RUN`: the tables of a run, rebuilt from its folder alone. No torch.

One of text, JSON, CSV, Markdown and HTML goes to stdout and nothing else does; plots are written where `--plots` says.
The numbers are `report_data.summarise`'s, in every form the same.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.streamgaze.published import PUBLISHED, not_comparable
from benchmarks.streamgaze.records import RunData, read_run
from benchmarks.streamgaze.report_data import summarise
from benchmarks.streamgaze.report_document import Block, Facts, Heading, Notes, Table, as_markdown, as_text
from benchmarks.streamgaze.report_outcomes import latency_parts
from benchmarks.streamgaze.report_setup import is_synthetic
from benchmarks.streamgaze.tasks import GROUPS, TASKS
from gazeqwen.arms import get_arm
from gazeqwen.types import plain_json

MEANS = {**dict.fromkeys(GROUPS), "need gaze": None, "macro": None, "micro": None}


def json_report(run: RunData, **options: Any) -> dict[str, Any]:
    """What `--json` prints, in plain JSON types. Options: `reference`, and those of `report_data.summarise`."""
    reference = options.pop("reference", False)
    summary = summarise(run, **options)
    if reference:
        setup = summary["setup"]
        summary["reference"] = {
            "not_comparable": not_comparable(setup, synthetic=is_synthetic(setup)),
            "rows": [vars(row) for row in PUBLISHED],
        }
    return plain_json(summary)


def text_table(run: RunData, **options: Any) -> str:
    """What is printed without a flag for another form; options as in `json_report`."""
    return as_text(blocks_of(json_report(run, **options)))


# -- blocks ------------------------------------------------------------------------------------------------------------


def blocks_of(summary: Mapping[str, Any], *, titles: bool = False) -> list[Block]:
    """The report of a summary (`json_report`). `titles`: tasks by their full names beside the abbreviation."""
    blocks: list[Block] = [
        Heading(f"StreamGaze: {summary['run']}", banner_of(summary)),
        setup_facts(summary["setup"], summary),
        _accuracy_table(summary, titles=titles),
    ]
    if summary["proactive"]:
        blocks += [_alert_table(summary), _timing_table(summary)]
    if summary["latency_ms"]:
        blocks.append(_latency_table(summary))
    if summary["notes"]:
        blocks.append(Notes(tuple(summary["notes"])))
    if "reference" in summary:
        blocks += [_reference_table(summary), Notes(tuple(summary["reference"]["not_comparable"]))]
    return blocks


def banner_of(summary: Mapping[str, Any]) -> str:
    """What must be seen before any number; "" for a whole run."""
    limited = f"LIMITED to {summary['setup']['limit']} samples a task" if summary["limited"] else ""
    short = "" if summary["complete"] else f"INCOMPLETE: {summary['answered']} of {summary['n']} samples answered"
    return "; ".join(text for text in (limited, short) if text)


def setup_facts(setup: Mapping[str, Any], counts: Mapping[str, Any], *, label: str = "") -> Facts:
    """Model, arm, protocol and data of a run in words; `label` goes before each name."""
    protocol = [f"{setup['protocol']}", f"scoring {setup['scoring']}"]
    if setup["protocol"] == "stream":
        protocol.append(f"window {setup['window']}")
    if setup["protocol"] == "official":
        protocol.append(f"proactive wording {setup['proactive_wording']}")
    protocol.append(f"gaze from {setup['gaze_input'] or 'samples, else fixations'}")
    part = [f"part {setup['split']['part']} of a split"] if setup["split"] else []
    data = [str(setup["data"]), *part, f"{setup['rules']} rules", f"{counts['bootstrap']['videos']} videos"]
    return Facts(
        (
            (f"{label}model", f"{setup['model']} ({setup['trained'] or 'training not stated'})"),
            (f"{label}arm", f"{setup['arm']}: {get_arm(setup['arm']).title}"),
            (f"{label}protocol", ", ".join(protocol)),
            (f"{label}data", ", ".join([*data, f"{counts['n']} samples, {counts['failures']} failed"])),
        )
    )


def _accuracy_table(summary: Mapping[str, Any], *, titles: bool) -> Table:
    blind, partial = summary.get("blind"), not summary["complete"]
    header = ["task", "n", "acc", "95 % interval", "chance", *(["blind"] if blind else []), "failed"]
    header += [*(["missing"] if partial else []), "no gaze"]
    rows = []
    for row in accuracy_rows(summary):
        name = f"{row['task']} {row['title']}" if titles and row["title"] else row["task"]
        cells = [
            name,
            str(row["n"]),
            percent(row["accuracy"]),
            interval(row["ci"]) or "one video",
            percent(row["chance"]),
        ]
        cells += [percent(row["blind"])] if blind else []
        rows.append((*cells, str(row["failures"]), *([str(row["missing"])] if partial else []), str(row["no_gaze"])))
    tasks = len(summary["tasks"])
    title = f"accuracy in percent; intervals: bootstrap over videos, {summary['bootstrap']['resamples']:,} resamples"
    return Table(title, tuple(header), tuple(rows), (tasks, len(rows) - 2))


def accuracy_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a task in registry order, then the groups, the tasks that need gaze, macro and micro."""
    tasks, blind = summary["tasks"], summary.get("blind")
    rows = [{"task": name, **row, "blind": blind["tasks"][name] if blind else None} for name, row in tasks.items()]
    for name in MEANS:
        members = [row for row in rows if row["task"] in tasks and _belongs(row["task"], name)]
        if not members:
            continue
        mean, beside = _mean(summary, name), _mean(blind, name) if blind else None
        counted = ("n", "failures", "missing", "unparsed", "no_gaze")
        rows.append(
            {
                "task": name,
                "title": "",
                **{key: sum(row[key] for row in members) for key in counted},
                "correct": mean.get("correct"),
                "accuracy": mean["accuracy"],
                "ci": mean["ci"],
                "chance": mean.get("chance"),
                "blind": beside["accuracy"] if beside else None,
            }
        )
    return rows


def _mean(summary: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return summary["groups"][name] if name in GROUPS else summary[name if name != "need gaze" else "gaze_dependent"]


def _belongs(task: str, mean: str) -> bool:
    if mean in GROUPS:
        return TASKS[task].group == mean
    return mean != "need gaze" or TASKS[task].needs_gaze


def _alert_table(summary: Mapping[str, Any]) -> Table:
    rows = []
    for name, row in summary["proactive"].items():
        measures = (row["precision"], row["recall"], row["f1"])
        cells = (f"{percent(measure['value'])} {interval(measure['ci'])}".strip() for measure in measures)
        rows.append((name, str(row["points"]), *cells))
    return Table("saying Yes at a test point, in percent", ("task", "points", "precision", "recall", "F1"), tuple(rows))


def _timing_table(summary: Mapping[str, Any]) -> Table:
    counts = ("events", "on_time", "late", "missed", "early")
    rows = []
    for name, row in summary["proactive"].items():
        timing, delay_s = row["timing"], row["timing"]["median_delay_s"]
        cells = [str(timing[count]) for count in counts] + ["-" if delay_s is None else f"{delay_s:g} s"]
        rows.append((name, *cells, str(timing["quiet"]), str(timing["false_alarms"])))
    header = ("task", "events", "on time", "late", "missed", "early", "median delay", "quiet", "false alarms")
    return Table("questions by when the alert came (0 s: at the event's own test point)", header, tuple(rows))


def _latency_table(summary: Mapping[str, Any]) -> Table:
    rows = (
        (part, *(f"{row[name]:.1f}" for name in ("median", "p90", "max")))
        for part, row in summary["latency_ms"].items()
    )
    return Table("milliseconds a sample", ("part", "median", "90 %", "max"), tuple(rows))


def _reference_table(summary: Mapping[str, Any]) -> Table:
    names = list(TASKS)
    ours = ["this run", *(percent(summary["tasks"].get(name, {}).get("accuracy")) for name in names)]
    rows = [(*ours, percent(summary["macro"]["accuracy"]))]
    for row in summary["reference"]["rows"]:
        rows.append((row["model"], *(percent(row["tasks"].get(name)) for name in names), percent(row["overall"])))
    header = ("not comparable", *names, "all")
    return Table("published accuracies", header, tuple(rows), rules=(1,))


def percent(value: float | None) -> str:
    """One decimal, in four characters at most ("99.7", "100"); "-" where there is no value."""
    return "-" if value is None else f"{value:.1f}".replace("100.0", "100")


def interval(ci: Sequence[float] | None) -> str:
    """ "[36.0, 46.3]"; "" for none."""
    return "" if ci is None else f"[{ci[0]:.1f}, {ci[1]:.1f}]"


# -- other forms -------------------------------------------------------------------------------------------------------

CSV_COLUMNS = ("task", "n", "correct", "accuracy", "ci_low", "ci_high", "chance", "failures", "missing", "unparsed",
               "no_gaze", "blind")  # fmt: skip


def csv_table(summary: Mapping[str, Any]) -> str:
    """The accuracy table without paths, times or latencies: the same for every way of making the same predictions."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in accuracy_rows(summary):
        low, high = row["ci"] or (None, None)
        cells = {**row, "ci_low": low, "ci_high": high}
        writer.writerow({key: f"{v:.4f}" if isinstance(v, float) else v for key, v in cells.items()})
    return text.getvalue().rstrip("\n")


def command(arguments: Any) -> int:
    """`gazeqwen report`; returns the exit code.

    Raises:
        InputError: no run there, a damaged one, or a `--blind` that is no blind run of the same samples.
    """
    run = read_run(arguments.run)
    blind = None if arguments.blind is None else read_run(arguments.blind)
    report = json_report(run, blind=blind, strict=arguments.strict, seed=arguments.seed, reference=arguments.reference)
    if arguments.plots is not None:
        from benchmarks.streamgaze.plots import write_plots

        for path in write_plots(arguments.plots, report, latency_parts(run)):
            print(f"note: wrote {path}", file=sys.stderr)
    if arguments.form == "csv" and (banner := banner_of(report)):
        print(f"note: {banner}", file=sys.stderr)
    print(_rendered(report, run, arguments.form))
    return 0


def _rendered(report: Mapping[str, Any], run: RunData, form: str) -> str:
    if form == "json":
        return json.dumps(report, ensure_ascii=False, allow_nan=False)
    if form == "csv":
        return csv_table(report)
    if form == "md":
        return as_markdown(blocks_of(report, titles=True))
    if form == "html":
        from benchmarks.streamgaze.report_html import html_page

        return html_page(report, latency_parts(run))
    return as_text(blocks_of(report))
