"""What is measured in a Python process of its own: it prints one JSON object as its last line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gazeqwen.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
STATUS = Path("/proc/self/status")  # of Linux


def peak_mb() -> float:
    """The most memory that this process has held so far; 0 where the system does not tell."""
    if not STATUS.is_file():
        return 0.0
    # Of this process alone: ru_maxrss starts from the parent's, which may be larger.
    return next(int(line.split()[1]) / 1024 for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))


def printed_by(
    script: str,
    *arguments: object,
    source: str,
    expected: str,
    limit_s: float = 1800,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """The last line that `script` prints, as JSON.

    Args:
        source, expected: of the error where the process fails.

    Raises:
        InputError: the process fails, or does not end within `limit_s` seconds.
    """
    command = [sys.executable, "-c", script, *map(str, arguments)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(source, expected=f"at most {limit_s:g} s", found="a process that still ran") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(source, expected=expected, found=last)
    return json.loads(done.stdout.splitlines()[-1])
