"""How a command of this room ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gazeqwen.errors import GazeQwenError


def run_command(work: Callable[[], object]) -> int:
    """Does the work and prints what it tells, unless that is None. Exit code 0; 2 where the input was bad, which is one
    line on stderr."""
    try:
        told = work()
    except GazeQwenError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if told is not None:
        sys.stdout.write(f"{told}\n")
    return 0
