"""Golden numbers: what the reference implementations gave, compared with what our public functions give.

A section is the text before the first "_" of a file's name ("01c_lora.json" belongs to 01c). Its check lives in
`section_<name>.py`, found by name, with

    SECTION: str                                   the section's name
    FUNCTION: str                                  dotted name of the public function that is called
    check(folder: Path) -> tuple[float, float]     (largest error, tolerance); an error that is no number fails

A check reads every size and every case from the files, calls the library and computes nothing a second time.
`python -m tests.golden DIR` runs them all.
"""

from __future__ import annotations

import csv
import importlib
import pickle
import pkgutil
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from safetensors import SafetensorError

MODULE_NAME = re.compile(r"section_(\w+)")
FILE_NAME = re.compile(r"([0-9A-Za-z]+)_.+\.\w+")
# What a check, or the library under it, may raise for damaged files.
CHECK_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
    csv.Error,
    pickle.PickleError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class Result:
    """One section's outcome. `error` is None when the check could not finish; `reason` then says why, in one line."""

    section: str
    function: str
    error: float | None
    tolerance: float | None
    reason: str = ""

    @property
    def ok(self) -> bool:
        return self.error is not None and self.tolerance is not None and self.error <= self.tolerance

    @property
    def line(self) -> str:
        verdict = "ok" if self.ok else "FAIL"
        if self.error is None:
            return f"{self.section}: {verdict}: {self.reason}  ({self.function})"
        return f"{self.section}: {self.error:.2g} / {self.tolerance:g}: {verdict}  ({self.function})"


def covered() -> list[str]:
    """The sections that have a check, sorted."""
    names = (MODULE_NAME.fullmatch(module.name) for module in pkgutil.iter_modules(__path__))
    return sorted(match[1] for match in names if match)


def found_in(folder: Path) -> list[str]:
    """The sections whose files lie in `folder`, sorted."""
    names = (FILE_NAME.fullmatch(path.name) for path in folder.iterdir() if path.is_file())
    return sorted({match[1] for match in names if match})


def run_section(section: str, folder: Path) -> Result:
    """Runs one section's check on the files of `folder`. A damaged file or a missing module is a failure."""
    function = "?"
    try:
        module: ModuleType = importlib.import_module(f"{__name__}.section_{section}")
        function = module.FUNCTION
        error, tolerance = module.check(folder)
        return Result(section, function, float(error), float(tolerance))
    except CHECK_ERRORS as problem:
        reason = " ".join(str(problem).split()) or "no message"
        return Result(section, function, None, None, f"{type(problem).__name__}: {reason[:300]}")
