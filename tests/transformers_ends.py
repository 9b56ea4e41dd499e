"""Runs the tests that touch transformers at both ends of the supported range, each in an environment of its own.

    python tests/transformers_ends.py                          # the oldest supported release, and the one CI pins
    python tests/transformers_ends.py --versions 5.0.0         # any other
    python tests/transformers_ends.py --keep build/ends        # keep the environments; a second run installs nothing
    python tests/transformers_ends.py tests/test_injection.py  # other test files

A script for a person, not a test: it installs torch once per version (minutes, about 2 GB). Everything but
transformers is installed within constraints.txt; what transformers pins itself (tokenizers, huggingface-hub) follows
from it. CI runs the newest end only, with the whole suite. Prints one line per version; exit code 1 when one failed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The floor of `transformers>=` in pyproject.toml: 4.57.0 was withdrawn from the index, so 4.57.1 is the oldest 4.57.
OLDEST = "4.57.1"
TEST_FILES = ("test_backbone.py", "test_injection.py", "test_model.py", "test_checkpoint.py", "test_session.py")
TEST_TOOLS = ("pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100")


def main(argv: list[str] | None = None) -> int:
    """Parses the command line, runs every version, returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", type=Path, help="test files (default: those that touch transformers)")
    parser.add_argument("--versions", nargs="+", default=[OLDEST, newest()], metavar="V", help="transformers releases")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the environments in DIR and keep them")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that makes the environments")
    args = parser.parse_args(argv)
    tests = args.tests or [path for name in TEST_FILES if (path := ROOT / "tests" / name).exists()]
    if not tests:
        parser.error(f"none of {', '.join(TEST_FILES)} in {ROOT / 'tests'}: name the test files")
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        for version in args.versions:
            line, ok = run_version(version, folder=folder, tests=tests, python=args.python)
            outcomes.append((line, ok))
            print(line, flush=True)
    if len(outcomes) > 1:  # once more together: pytest's own output stands between them
        print("\n".join(["", *(line for line, _ in outcomes)]))
    return 0 if all(ok for _, ok in outcomes) else 1


def newest() -> str:
    """The release that constraints.txt pins, which is what CI runs."""
    found = re.search(r"^transformers==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if not found:
        raise SystemExit("constraints.txt: expected a line transformers==VERSION, found none; pass --versions")
    return found[1]


def run_version(version: str, *, folder: Path, tests: list[Path], python: str) -> tuple[str, bool]:
    """Installs one transformers release below `folder`, runs `tests` with it; returns (the line to print, passed)."""
    name = f"transformers {version}"
    venv = folder / f"transformers-{version}"
    started = time.monotonic()
    problem = install(version, venv=venv, python=python)
    install_s = time.monotonic() - started
    if problem:
        return f"{name}: FAIL, {problem} (after {install_s:.0f} s)", False
    report = venv / "report.xml"
    report.unlink(missing_ok=True)
    started = time.monotonic()
    command = [venv / "bin" / "python", "-m", "pytest", "-q", "-m", "not soak", f"--junitxml={report}", *tests]
    code = subprocess.run(list(map(str, command)), cwd=ROOT, check=False).returncode
    seconds = f"install {install_s:.0f} s, run {time.monotonic() - started:.0f} s"
    if not report.exists():
        return f"{name}: FAIL, pytest wrote no report (exit code {code}; {seconds})", False
    suites = list(ET.parse(report).getroot().iter("testsuite"))
    count = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    ok = code == 0 and passed > 0
    counts = f"{passed} passed, {failed} failed, {count['skipped']} skipped"
    return f"{name}: {'ok' if ok else 'FAIL'}, {counts} ({seconds})", ok


def install(version: str, *, venv: Path, python: str) -> str:
    """Makes `venv` with the core and the test tools around one transformers release; returns what went wrong, or ""."""
    done = venv / "installed"
    if done.exists():
        return ""
    pinned = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("transformers")
    ]
    made = subprocess.run([python, "-m", "venv", "--clear", str(venv)], check=False)
    if made.returncode:
        return f"{python} -m venv failed"
    constraints = venv / "constraints.txt"
    constraints.write_text("\n".join([*pinned, f"transformers=={version}", ""]))
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    within = ["-c", str(constraints)]
    for step in (
        ["install", "--quiet", *within, "torch"],
        ["install", "--quiet", *within, "-e", str(ROOT), *TEST_TOOLS],
        ["check"],
    ):
        if subprocess.run([*pip, *step], check=False).returncode:
            return f"pip {' '.join(step)} failed"
    done.touch()
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
