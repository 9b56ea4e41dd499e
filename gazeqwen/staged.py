"""A file that is whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, renamed into its place in the end; a killed or failed block leaves what was there
    before. Raises OSError where it can't be written or renamed.

    Its name says nothing of `path`'s, which may be as long as names can be.
    """
    staging = path.with_name(f".{uuid4().hex}.tmp")
    try:
        yield staging
        staging.replace(path)
    finally:
        with contextlib.suppress(OSError):
            staging.unlink()
