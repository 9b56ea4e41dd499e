"""The folder of a run: what is written into it while it goes, and how it is read. No torch.

    RUN/manifest.json              what was asked of which data by which model: fixed when the run starts
    RUN/samples.jsonl              every sample the run is to answer: the denominator of every table
    RUN/predictions-NNN.jsonl      one line a sample, flushed as it is answered; one file a process, append-only
    RUN/sessions.jsonl             one line a process: command, versions, device, start and end

A run that was killed may end a predictions file with part of a line: it is ignored and answered again. The same sample
in two files counts once: an answer before a failure, then the earlier file. Nothing is ever rewritten.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazeqwen.errors import InputError
from gazeqwen.staged import staged
from gazeqwen.types import plain_json

MANIFEST, SAMPLES, SESSIONS = "manifest.json", "samples.jsonl", "sessions.jsonl"
_PREDICTIONS = re.compile(r"predictions-(\d+)\.jsonl")
OK, FAILED = "ok", "failed"

# One line of predictions-NNN.jsonl; times in seconds on the recording's clock, NaN and infinities as null.
PREDICTION_KEYS = (
    "id",  # of the sample
    "task", "video", "t_s", "answer",  # as the sample's
    "status",  # OK, or FAILED: then `reason` says why in one line, and the sample counts as wrong
    "reason",
    "prediction",  # "A".., "Yes", "No"; "" when a generated answer names none, or when it failed
    "correct",
    "logprobs",  # {"A": ...} or {"Yes": ..., "No": ...} normalised over the options; {} for generated answers
    "text",  # what was generated, for scoring "generate"; else ""
    "scoring", "protocol", "arm",
    "has_gaze",  # the recording has valid gaze in what the sample may see
    "span_s", "frame_times_s", "gaze_times_s", "fixations",  # evidence, as in gazeqwen.Answer
    "gaze_valid_fraction", "steps", "steps_without_gaze", "open_fixations",
    "evicted_steps",  # steps that the kept ones have seen but the answer could not
    "latency_ms",
    "warnings",
)  # fmt: skip


@dataclass(frozen=True)
class RunData:
    """A run as read back: the manifest, its samples in order, and the prediction of each sample that has one."""

    path: Path
    manifest: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...]
    predictions: Mapping[str, Mapping[str, Any]]

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of samples not answered yet."""
        return tuple(sample["id"] for sample in self.samples if sample["id"] not in self.predictions)


def read_run(path: str | Path, *, keys: Collection[str] | None = None) -> RunData:
    """A run's folder, finished or not.

    Args:
        keys: of a prediction, the ones to keep beside "id" and "status"; None keeps all. The evidence of ten thousand
            samples of long videos is gigabytes.

    Raises:
        InputError: no such folder, no run in it, or a damaged file; names the file and line.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        found = f"no {MANIFEST} in it" if path.is_dir() else "no such folder"
        raise InputError(path, expected="a run's folder", found=found, fix="make one with `gazeqwen eval streamgaze`")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(path / MANIFEST, expected="JSON", found=str(error)[:80]) from error
    if not isinstance(manifest, dict):
        raise InputError(path / MANIFEST, expected="a JSON object", found=type(manifest).__name__)
    samples = tuple(read_lines(path / SAMPLES))
    wanted = {sample["id"] for sample in samples}
    predictions: dict[str, Mapping[str, Any]] = {}
    for file in prediction_files(path):
        for row in read_lines(file):
            held = predictions.get(row["id"])
            if row["id"] in wanted and (held is None or (held["status"] != OK and row["status"] == OK)):
                kept = row if keys is None else {key: row.get(key) for key in ("id", "status", *keys)}
                predictions[row["id"]] = kept
    return RunData(path, manifest, samples, predictions)


def prediction_files(path: Path) -> list[Path]:
    """The run's prediction files by number."""
    return sorted(
        (file for file in path.iterdir() if _PREDICTIONS.fullmatch(file.name)),
        key=lambda file: int(_PREDICTIONS.fullmatch(file.name)[1]),  # type: ignore[index]
    )


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; an unfinished last line is no line.

    Raises:
        InputError: no such file, or a finished line that is no JSON object with an "id".
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                    row["id"]
                except (ValueError, TypeError, KeyError) as error:
                    raise InputError(
                        f"{file}, line {number}", expected='a JSON object with an "id"', found=repr(line)[:60]
                    ) from error
                yield row
    except OSError as error:
        raise InputError(file, expected="a readable file", found=error.strerror or str(error)) from error


class PredictionWriter:
    """Appends predictions to a file of this process's own, each flushed to the disk before the next is made."""

    def __init__(self, path: Path) -> None:
        number = max((int(_PREDICTIONS.fullmatch(file.name)[1]) for file in prediction_files(path)), default=-1)  # type: ignore[index]
        while True:
            number += 1
            self.path = path / f"predictions-{number:03d}.jsonl"
            try:
                self._file = self.path.open("xb", buffering=0)
                return
            except FileExistsError:  # another shard was quicker
                continue

    def write(self, row: Mapping[str, Any]) -> None:
        """One line.

        Raises:
            OSError: the disk is full, ...; what was written before stays readable.
        """
        line = (json.dumps(plain_json(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
        while line:  # an unbuffered file may take part of it
            line = line[self._file.write(line) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, and removes it if nothing was written."""
        empty = self._file.tell() == 0
        self._file.close()
        if empty:
            self.path.unlink(missing_ok=True)


def write_atomically(file: Path, text: str) -> None:
    """The whole file or none of it; an older one is replaced."""
    with staged(file) as staging, staging.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the text of a .jsonl file."""
    return "".join(json.dumps(plain_json(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
