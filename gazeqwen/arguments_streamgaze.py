"""Flags of `eval`, `report`, `compare`, `export`, `data` and `forget`. Values are checked here, names (tasks, arms,
protocols) where they are known. What the commands do is in `benchmarks.streamgaze`, one module each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROTOCOLS = ("stream", "streamgaze", "official")
SCORINGS = ("letters", "likelihood", "generate")


def add_commands(
    commands: Any, *, model_flags: Callable[[argparse.ArgumentParser], None], types: dict[str, Callable[[str], Any]]
) -> None:
    """Adds the commands to `commands`. `types`: the value types "count", "seed" and "positive" of `arguments.py`."""
    count, seed = types["count"], types["seed"]

    text = "run a benchmark: all its tasks, resumable, one row a sample"
    evaluate = commands.add_parser("eval", help=text, description=f"{text[0].upper()}{text[1:]}.")
    benchmarks = evaluate.add_subparsers(metavar="BENCHMARK", required=True)
    text = "StreamGaze's ten tasks"
    run = benchmarks.add_parser("streamgaze", help=text, description=f"Run {text}.")
    run.add_argument(
        "--data", required=True, type=Path, metavar="DIR", help="qa/, videos/ and gaze (see `data validate`)"
    )
    run.add_argument(
        "--out", required=True, type=Path, metavar="RUN", help="the run's folder; an unfinished one goes on"
    )
    run.add_argument("--protocol", choices=PROTOCOLS, default="stream", help="default: stream")
    run.add_argument("--arm", default="inject", metavar="NAME", help="how gaze reaches the model (default: inject)")
    run.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="SR OTP GSM NFI OI-E OI-H OAR FAP GTA OAA")
    run.add_argument("--limit", type=count, metavar="N", help="the first N samples of each task: for testing only")
    run.add_argument(
        "--split", type=_split, metavar="FILE[:PART]", help="one part's videos only (`data split`; default part: test)"
    )
    run.add_argument("--shard", type=_shard, default=(0, 1), metavar="I/N", help="the I-th of N parts, from 1")
    run.add_argument("--seed", type=seed, default=0, metavar="S", help="of the arm `shuffled` (default: 0)")
    run.add_argument("--scoring", choices=SCORINGS, help="default: by protocol; stream: the model's")
    run.add_argument(
        "--gaze-input", choices=("samples", "fixations"), help="default: samples where the recording has them"
    )
    run.add_argument(
        "--window",
        choices=("evict", "refill"),
        default="evict",
        help="stream: how older steps are hidden (default: evict)",
    )
    run.add_argument(
        "--proactive-wording",
        choices=("shared", "standalone"),
        default="shared",
        help="official: which published prompt for test points (default: shared)",
    )
    run.add_argument("--max-frames", type=count, metavar="N", help="frames held at once under stream (default: 600)")
    run.add_argument("--cache", type=Path, metavar="DIR", help="frozen features (default: the user's cache folder)")
    run.add_argument("--no-cache", action="store_true", help="store no features")
    run.add_argument("--retry-failed", action="store_true", help="answer failed samples again")
    run.add_argument("--dry-run", action="store_true", help="questions, frames, bytes, hours and memory; runs nothing")
    run.add_argument("--config", type=Path, metavar="FILE.yaml", help="flags by name; those given here win")
    run.add_argument("--json", action="store_true", help="one JSON object on stdout at the end")
    model_flags(run)
    run.set_defaults(command="eval streamgaze")

    text = "the tables of a run"
    report = commands.add_parser("report", help=text, description=f"Print {text}, with 95 % intervals over videos.")
    report.add_argument("run", type=Path, metavar="RUN")
    form = report.add_mutually_exclusive_group()
    for name in ("json", "csv", "md", "html"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name, help=f"print {name.upper()} only")
    report.add_argument("--plots", type=Path, metavar="DIR", help="also write plots (SVG) there")
    report.add_argument("--blind", type=Path, metavar="RUN", help="a run of the arm `blind`, as a column beside")
    report.add_argument("--reference", action="store_true", help="print published numbers beside, with what differs")
    report.add_argument("--strict", action="store_true", help="score as StreamGaze's own script does, quirks included")
    report.add_argument("--seed", type=seed, default=0, metavar="S", help="of the bootstrap (default: 0)")
    report.set_defaults(command="report", form="text")

    text = "two runs on the same samples, paired"
    compare = commands.add_parser("compare", help=text, description=f"Compare {text}.")
    compare.add_argument("a", type=Path, metavar="A", help="a run")
    compare.add_argument("b", type=Path, metavar="B", help="another one; differences are B - A")
    compare.add_argument("--json", action="store_true", help="one JSON object on stdout")
    compare.add_argument("--seed", type=seed, default=0, metavar="S", help="of the bootstrap (default: 0)")
    compare.set_defaults(command="compare")

    export = commands.add_parser("export", help="a run in another project's form", description="Export a run.")
    kinds = export.add_subparsers(metavar="KIND", required=True)
    text = "the files that StreamGaze's own scorer reads"
    official = kinds.add_parser("streamgaze", help=text, description=f"Write {text}.")
    official.add_argument("run", type=Path, metavar="RUN")
    official.add_argument("--out", required=True, type=Path, metavar="DIR", help="results/BASE/results/ is made in it")
    official.add_argument("--data", type=Path, metavar="DIR", help="the QA files (default: those of the run)")
    official.add_argument("--as-base", default="Qwen25VL", metavar="NAME", help="a model name its scorer knows")
    official.set_defaults(command="export streamgaze")

    data = commands.add_parser("data", help="make, build or check StreamGaze data", description="StreamGaze data.")
    kinds = data.add_subparsers(metavar="COMMAND", required=True)
    text = "count everything, name every entry that can't be run and why"
    validate = kinds.add_parser("validate", help=text, description=f"{text[0].upper()}{text[1:]}.")
    validate.add_argument("data", type=Path, metavar="DIR")
    validate.add_argument("--json", action="store_true", help="one JSON object on stdout")
    validate.set_defaults(command="data validate")
    text = "mini-StreamGaze: videos, gaze and questions of a small synthetic world"
    mini = kinds.add_parser("mini", help=text, description=f"Make {text}.")
    mini.add_argument("out", type=Path, metavar="DIR")
    mini.add_argument("--videos", type=count, default=20, metavar="N", help="default: 20")
    mini.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="of the first world; below 1,000,000 (default: 0)"
    )
    mini.add_argument("--rules", choices=("causal", "streamgaze"), default="causal", help="default: causal")
    mini.add_argument(
        "--per-video", type=count, metavar="N", help="questions of a task and video (causal rules; default: 4)"
    )
    mini.add_argument("--json", action="store_true", help="one JSON object on stdout")
    mini.set_defaults(command="data mini")
    text = "StreamGaze-style questions from own recordings"
    build = kinds.add_parser("build", help=text, description=f"Make {text} (docs/data_pipeline.md).")
    build.add_argument("recordings", type=Path, metavar="RECORDINGS", help="a folder: videos, gaze files, annotations")
    build.add_argument("--out", required=True, type=Path, metavar="DIR")
    build.add_argument("--rules", choices=("causal", "streamgaze"), default="causal", help="default: causal")
    build.add_argument("--captioner", metavar="FOLDER", help="a local vision-language model that names objects")
    build.add_argument(
        "--seed", type=seed, default=0, metavar="S", help="of wrong answers and their order (default: 0)"
    )
    build.add_argument("--per-video", type=count, metavar="N", help="questions of a task and video (causal rules)")
    build.add_argument("--json", action="store_true", help="one JSON object on stdout")
    build.set_defaults(command="data build")
    text = "divide videos into train, validation and test"
    split = kinds.add_parser("split", help=text, description=f"{text[0].upper()}{text[1:]}, by video.")
    split.add_argument("data", type=Path, metavar="DIR")
    split.add_argument("--out", type=Path, metavar="FILE.json", help="default: DIR/split.json")
    split.add_argument("--seed", type=seed, default=42, metavar="S", help="default: 42, the published run's")
    split.add_argument("--json", action="store_true", help="one JSON object on stdout")
    split.set_defaults(command="data split")

    text = "delete cached features"
    forget = commands.add_parser("forget", help=text, description=f"{text[0].upper()}{text[1:]}.")
    forget.add_argument("--cache", type=Path, metavar="DIR", help="default: the user's cache folder")
    forget.set_defaults(command="forget")


def _split(text: str) -> tuple[Path, str]:
    """ "s.json:train" -> (s.json, "train"). Parts are letters only, so a colon of a path is none of ours."""
    file, _, part = text.rpartition(":")
    return (Path(file), part) if file and part.isalpha() else (Path(text), "test")


def _shard(text: str) -> tuple[int, int]:
    """ "2/3" -> (1, 3)."""
    part, slash, whole = text.partition("/")
    if not (slash and part.isdigit() and whole.isdigit() and 1 <= int(part) <= int(whole)):
        raise argparse.ArgumentTypeError(f"expected I/N with 1 <= I <= N, e.g. 1/4, found {text!r}")
    return int(part) - 1, int(whole)
