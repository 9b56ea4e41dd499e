"""`gazeqwen evidence --out DIR`: see `benchmarks.evidence.run`."""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.evidence.document import by_macro
from benchmarks.evidence.plan import FULL, QUICK
from benchmarks.evidence.run import CHOICES, EVIDENCE, Evidence, stderr_line


def command(arguments: argparse.Namespace) -> int:
    """Runs it, or checks a run's answers again."""
    plan = QUICK if arguments.quick else FULL
    evidence = Evidence(plan, arguments.out, model=arguments.model, processes=arguments.processes, say=stderr_line)
    if arguments.recheck:
        found = evidence.recheck(arguments.recheck)
        text = f"all within {max(found.values()):.1e} of what was stored"
        return _print(arguments, {"largest_difference": found}, text)
    told = evidence.run(until=arguments.until)
    if told is None:
        path = arguments.out / CHOICES
        return _print(arguments, {"choices": str(path)}, f"chosen on validation worlds: {path}")
    lines = [f"{'arm':<22}{'macro':>7}  {'95 % interval':<16}past"]
    for name, arm in by_macro(told["arms"]):
        macro, past = arm["macro"], arm["past"]["value"]
        ends = macro["ci"] or (float("nan"), float("nan"))
        lines.append(f"{name:<22}{macro['value']:7.1f}  {f'{ends[0]:.1f} to {ends[1]:.1f}':<16}{past or 0:.1f}")
    lines += ["", f"{arguments.out / EVIDENCE}, evidence.md and evidence.svg beside it"]
    return _print(arguments, told, "\n".join(lines))


def _print(arguments: argparse.Namespace, found: object, text: str) -> int:
    sys.stdout.write((json.dumps(found) if arguments.json else text) + "\n")
    return 0
