"""GazeFollow or VideoAttentionTarget by released or own weights, beside the published table.

    python -m benchmarks.gaze_target --data F --weights W --backbone ID --out RUN [--images DIR] [--dataset childplay]

F is the preprocessed JSON (docs/gaze_target.md). A run that was stopped goes on; the same command on a finished one
prints its table. Exit code 2 for bad input, in one line.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from benchmarks.commands import run_command
from benchmarks.gaze_target.dataset import read_set
from benchmarks.gaze_target.published import COLUMNS, PUBLISHED, SOURCE
from benchmarks.gaze_target.run import begin, fingerprint, predict, summarise
from gazeqwen.errors import InputError
from gazeqwen.gaze_target import GazeTargetEstimator

WIDTH = 80
TITLES = {"auc": "AUC", "avg_l2": "Avg L2", "min_l2": "Min L2", "l2": "L2", "ap": "AP in/out"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gaze_target", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", required=True, type=Path, metavar="F", help="preprocessed JSON of GazeFollow or VAT")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="what its paths are relative to (default: F's folder)"
    )
    parser.add_argument("--dataset", choices=tuple(COLUMNS), help="whose published numbers (default: by F's form)")
    parser.add_argument("--weights", required=True, type=Path, metavar="W", help="Gaze-LLE weights")
    parser.add_argument("--backbone", required=True, metavar="ID", help="the DINOv2 they are for: folder or hub id")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="the run's folder; may be unfinished")
    parser.add_argument("--ln-eps", type=float, default=1e-5, metavar="E", help="LayerNorm's eps (default: 1e-5)")
    parser.add_argument("--small-head-fix", action="store_true", help="no empty head masks (published: empty ones)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images, for testing only")
    parser.add_argument("--device", metavar="DEVICE", help="cuda, cpu, ... (default: cuda when there is one)")
    parser.add_argument("--offline", action="store_true", help="never ask the hub")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: at least 1, got {options.limit}")
    return run_command(lambda: _told(options))


def _told(options: argparse.Namespace) -> str:
    report = _run(options)
    return json.dumps(report, allow_nan=False) if options.json else table(report)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    gaze_set = read_set(options.data, images=options.images)
    dataset = options.dataset or gaze_set.form
    if (dataset == "gazefollow") != (gaze_set.form == "gazefollow"):
        forms = {"gazefollow": "images", "vat": "sequences"}
        raise InputError(options.data, expected=f"the form of {dataset}", found=f"a list of {forms[gaze_set.form]}")
    if not sys.stderr.isatty():
        disable_progress_bar()  # transformers' own, while it reads the backbone
    pictures = gaze_set.pictures[: options.limit]
    estimator = GazeTargetEstimator.from_pretrained(
        options.weights,
        options.backbone,
        small_head_fix=options.small_head_fix,
        ln_eps=options.ln_eps,
        device=options.device,
        local_files_only=options.offline,
    )
    identity = {
        "data_sha256": gaze_set.sha256,
        "weights_sha256": fingerprint(estimator),
        "ln_eps": options.ln_eps,
        "small_head_fix": options.small_head_fix,
        "limit": options.limit,
    }
    about = {
        "command": sys.argv,
        "data": options.data,
        "images": options.images,
        "model": estimator.origin,
        "device": str(estimator.decoder.pos_embed.device),
    }
    begin(options.out, identity, about)
    with tqdm(total=len(pictures), unit="image", delay=2.0, disable=not sys.stderr.isatty()) as bar:
        rows = predict(gaze_set, pictures, estimator, options.out, progress=bar.update)
    return {
        "dataset": dataset,
        "data": str(options.data),
        "model": estimator.origin,
        "images": len(pictures),
        "limit": options.limit,
        "small_head_fix": options.small_head_fix,
        **summarise(gaze_set.form, rows),
    }


def table(report: Mapping[str, Any]) -> str:
    """The published rows and ours, in 80 columns, and what keeps them from being compared."""
    columns = COLUMNS[report["dataset"]]
    heading = f"{report['dataset']}: {report['heads']} heads in {report['images']} images, "
    heading += f"{report['heads_inside']} with a target in the frame, {report['failed']} failed"
    lines = [*textwrap.wrap(heading, WIDTH), "", _line("", [TITLES[name] for name in columns])]
    lines += [
        _line(row.method, ["-" if value is None else f"{value:.3f}" for value in row.on(report["dataset"])])
        for row in PUBLISHED
        if row.on(report["dataset"])
    ]
    lines.append(_line("ours", [_shown(report["all"][name]["value"]) for name in columns]))
    intervals = [report["all"][name]["interval"] for name in columns]
    lines.append(
        _line("  95 % interval", ["-" if pair is None else "{:.3f}-{:.3f}".format(*pair) for pair in intervals])
    )
    if report["failed"]:
        lines.append(_line("  answered only", [_shown(report["answered"][name]) for name in columns]))
    lines.append("")
    for note in _notes(report):
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def _notes(report: Mapping[str, Any]) -> list[str]:
    notes = [f"ours: {report['model']}.", f"published: {SOURCE}; no intervals were published."]
    if report["dataset"] == "gazefollow":
        notes.append("L2 is to the mean annotation (average) and to the nearest one (minimum).")
    else:
        notes.append("Intervals are over sequences; AP has none here.")
    if report["failed"]:
        notes.append("Failed heads count as AUC 0, L2 1.414 and a wrong in/out answer:")
        notes += [f"  {count} x {reason}" for reason, count in report["reasons"].items()]
    if report["limit"] is not None:
        notes.append(f"--limit {report['limit']}: not the whole set. Not comparable with the published rows.")
    if report["small_head_fix"]:
        notes.append(
            "--small-head-fix: heads under a cell have a mask here, which the published numbers were made without."
        )
    return notes


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
