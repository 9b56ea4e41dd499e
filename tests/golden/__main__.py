"""`python -m tests.golden DIR [--require 01,03]`: compares the library with the golden numbers in DIR.

One line a section. Exit code 0 when every section found passes, 1 when one fails or a required one is absent or has no
check, 2 for wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.golden import covered, found_in, run_section


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden", description="compares the library with golden numbers"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder with golden files, NN_name.json and others")
    parser.add_argument(
        "--require", default="", metavar="01,03", help="sections that must be in DIR, have a check and pass"
    )
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        parser.error(f"{args.folder}: expected a folder of golden files, found none")
    found, known = found_in(args.folder), covered()
    required = [name for name in args.require.replace(",", " ").split() if name]
    failed = 0
    for section in found:
        if section in known:
            result = run_section(section, args.folder)
            failed += not result.ok
            print(result.line, flush=True)
    for section in found:
        if section not in known:
            failed += section in required
            print(f"{section}: not covered{': FAIL (required)' if section in required else ''}")
    for section in sorted(set(required) - set(found)):
        failed += 1
        print(f"{section}: no such section in {args.folder.name}: FAIL (required)")
    if not found:
        print(f"no golden files in {args.folder.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
