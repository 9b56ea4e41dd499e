"""Runs the lmms-eval plug-in under lmms-eval itself, in an environment of its own.

    python tests/lmms_eval_run.py                    # makes the environment (minutes, about 2 GB) and runs
    python tests/lmms_eval_run.py --keep build/lmms  # keeps the environment; a second run installs nothing

A script for a person, not a test: lmms-eval asks for an older PyAV than ours and for packages that have no small CPU
build, so it is installed without its requirements, then with those that a run of StreamGaze's tasks needs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LMMS_EVAL = "lmms-eval==0.7.3"
NEEDED = [
    "datasets",
    "evaluate",
    "httpx",
    "jsonlines",
    "aiohttp",
    "numexpr",
    "pytablewriter",
    "sacrebleu",
    "scikit-learn",
    "loguru",
    "tenacity",
    "tiktoken",
    "pydantic",
    "python-dotenv",
    "openpyxl",
    "pyyaml",
    "sympy",
    "Jinja2",
    "packaging",
    "tqdm-multiprocess",
    "zstandard",
    "pandas",
    "sqlitedict",
    "nltk",
    "hf_transfer",
    "requests",
    "opencv-python-headless",
    "openai",
    "ftfy",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the environment in DIR and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        python = install(folder / "venv")
        problems = check(python, Path(scratch))
    for problem in problems:
        print("FAIL:", problem)
    if not problems:
        print(f"{LMMS_EVAL}: ok")
    return int(bool(problems))


def install(venv: Path) -> str:
    """An environment with lmms-eval and this project; returns its interpreter."""
    python = str(venv / "bin" / "python")
    done = venv / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        within = ["-c", str(ROOT / "constraints.txt")]
        for step in (
            [*within, "torch"],
            [*within, "-e", str(ROOT)],
            ["--no-deps", LMMS_EVAL],
            [*within, *NEEDED],
        ):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True)
        done.touch()
    return python


def check(python: str, scratch: Path) -> list[str]:
    """What is wrong with a run of all ten tasks on a small dataset; nothing when all is well."""
    data, tasks, out = scratch / "data", scratch / "tasks", scratch / "out"
    made = (
        f"from pathlib import Path; from tests.streamgaze_data import make_dataset; make_dataset(Path({str(data)!r}))"
    )
    subprocess.run([python, "-c", made], cwd=ROOT, check=True)
    subprocess.run(
        [python, "-m", "benchmarks.lmms_eval_plugin", "--data", str(data), "--out", str(tasks)], cwd=ROOT, check=True
    )
    run = subprocess.run(
        [
            *(python, "-m", "lmms_eval", "--model", "gazeqwen", "--model_args", "pretrained=tiny,arm=inject"),
            *("--include_path", str(tasks), "--tasks", "streamgaze", "--batch_size", "1"),
            *("--output_path", str(out), "--log_samples"),
        ],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(scratch), "HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hf")},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        return [f"lmms-eval ended with {run.returncode}", *run.stderr.splitlines()[-15:]]
    results = sorted(out.rglob("*results.json"))
    if not results:
        return ["lmms-eval wrote no results", *run.stdout.splitlines()[-15:]]
    found = json.loads(results[0].read_text())["results"]
    problems = []
    for file in sorted(tasks.glob("*.jsonl")):
        rows = len(file.read_text().splitlines())
        samples = sorted(out.rglob(f"*samples_{task_of(file)}.jsonl"))
        answered = len(samples[0].read_text().splitlines()) if samples else 0
        score = found.get(task_of(file), {}).get("accuracy,none")
        clustered = found.get(task_of(file), {}).get("accuracy_stderr_clustered,none")
        print(f"{task_of(file):<16} {answered} of {rows} answered, accuracy {score}, clustered s.e. {clustered}")
        if answered != rows or score is None or clustered in (None, "N/A"):
            problems.append(f"{task_of(file)}: {answered} of {rows} answered, accuracy {score}, s.e. {clustered}")
    return problems


def task_of(file: Path) -> str:
    """lmms-eval's name of the task whose samples these are."""
    for template in (ROOT / "benchmarks" / "lmms_eval_tasks" / "streamgaze").glob("*.yaml"):
        text = template.read_text()
        if f"/{file.name}\n" in text:
            found = re.search(r"^task: (\S+)", text, re.MULTILINE)
            assert found
            return found[1]
    raise SystemExit(f"no task file names {file.name}")


if __name__ == "__main__":
    sys.exit(main())
