"""`gazeqwen eval streamgaze`: answers the samples of a run, one row each, and goes on where it was stopped.

The folder is `records.py`'s. Processes share nothing but it: each takes whole videos (`work.share`), appends to a file
of its own, and waits for nobody, so any number of them gives the same rows, and one that dies takes only the sample in
flight with it. A run with nothing left to answer loads no model and imports no torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.streamgaze.dataset import Dataset
from benchmarks.streamgaze.records import (
    FAILED,
    MANIFEST,
    OK,
    SAMPLES,
    PredictionWriter,
    json_lines,
    read_run,
    write_atomically,
)
from benchmarks.streamgaze.run_folder import begin, identity_of, session
from benchmarks.streamgaze.tasks import Sample
from benchmarks.streamgaze.work import (
    Settings,
    choose_samples,
    model_id,
    require_not_trained_on,
    require_same,
    sample_row,
    settings_of,
    shard_of_process,
    share,
)
from gazeqwen.arms import get_arm
from gazeqwen.errors import InputError
from gazeqwen.types import plain_json

if TYPE_CHECKING:
    from gazeqwen.model import GazeQwen

LINE_EVERY = 50  # samples between two lines of progress where stderr is no terminal


@dataclass
class Progress:
    """How far this process is: of `total` samples of its share `done` have a row, earlier sessions' among them."""

    total: int
    done: int = 0
    correct: int = 0
    failed: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.done += 1
        self.correct += bool(row["correct"])
        self.failed += row["status"] == FAILED

    @property
    def accuracy(self) -> float:
        """Correct of done, in percent; 0 before the first."""
        return 100 * self.correct / self.done if self.done else 0.0


@dataclass
class Summary:
    """What one call of `run` did.

    Attributes:
        out: the run's folder.
        samples, videos: of this process's share.
        answered: rows written now, `failed` of them with a reason instead of an answer.
        missing: samples of the whole run that have no row yet (other processes may be at work on them).
        scan_s: seconds spent on reading what is there and skipping it; `seconds`: of the whole call.
        notes: what the reader of the numbers should know.
    """

    out: Path
    samples: int = 0
    videos: int = 0
    answered: int = 0
    failed: int = 0
    missing: int = 0
    scan_s: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def run(
    data: str | Path | Dataset,
    out: str | Path,
    settings: Settings | None = None,
    *,
    model: str | Path | GazeQwen = "tiny",
    load: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
    cache: Path | None = None,
    retry_failed: bool = False,
    command: Sequence[str] = (),
    progress: Callable[[Progress], Any] | None = None,
) -> Summary:
    """Answers every sample of this process's share that has no row in `out` yet.

    Args:
        data: a StreamGaze folder.
        out: the run's folder; made when it is not there, gone on with when it is.
        settings: what the run is; defaults are `gazeqwen eval streamgaze`'s.
        model: "tiny", a folder, a hub id, or a model at hand. Not used by solver arms.
        load: further arguments of `GazeQwen.from_pretrained`.
        shard: (index from 0, number of processes).
        cache: folder for frozen features; None stores none.
        retry_failed: samples whose row says "failed" are answered again.
        command: recorded as the command that was given.
        progress: called after every row.

    Raises:
        InputError: the data, the split, the model or the run can't be used; the model was trained on videos of the run;
            `out` holds a run of something else; a row can't be written (what was written before stays).
        ConfigError: the settings, arm or protocol don't fit the model or the data.
    """
    began = time.perf_counter()
    out, settings = Path(out), settings or Settings()
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    samples = choose_samples(dataset, settings)
    mine = share(samples, shard)
    asked: dict[str, Any] = {"id": model_id(model, settings)}
    if not get_arm(settings.arm).solver:
        asked["quantization"] = (load or {}).get("quantization")
    known = settings.identity(dataset) | {"model": asked}
    summary = Summary(out, samples=sum(map(len, mine.values())), videos=len(mine))
    seen = Progress(summary.samples)
    left = mine
    if (out / MANIFEST).is_file():
        require_same(out, identity_of(out), known)
        left = _left(out, samples, mine, retry_failed, seen)
    summary.scan_s = time.perf_counter() - began
    if not left:
        return _finished(summary, began, samples)

    require_not_trained_on(model, settings, load or {}, {sample.video for sample in samples})
    from benchmarks.streamgaze.protocols import answered, build_protocol

    protocol = build_protocol(dataset, settings, model, load or {}, cache)
    identity = known | protocol.identity()
    begin(out, identity, protocol, dataset, command)
    if left is mine:  # another process may have made the run while the model was loading
        left = _left(out, samples, mine, retry_failed, seen)
    with session(out, command, shard, protocol) as told:
        writer = PredictionWriter(out)
        try:
            for video, todo in left.items():
                for row in answered(protocol, video, todo):
                    _write(writer, row)
                    summary.answered += 1
                    summary.failed += row["status"] == FAILED
                    seen.add(row)
                    if progress is not None:
                        progress(seen)
        finally:
            writer.close()
            summary.notes += protocol.notes()
            told |= {"answered": summary.answered, "failed": summary.failed, **protocol.counts()}
    return _finished(summary, began, samples)


def _left(
    out: Path, samples: Sequence[Sample], mine: Mapping[str, list[Sample]], retry_failed: bool, seen: Progress
) -> dict[str, list[Sample]]:
    """What of `mine` has no row yet; counts the rest into `seen`."""
    if not (out / SAMPLES).is_file():  # killed between the manifest and this
        write_atomically(out / SAMPLES, json_lines(map(sample_row, samples)))
    rows = read_run(out, keys=("correct",)).predictions
    left: dict[str, list[Sample]] = {}
    for video, of_video in mine.items():
        for sample in of_video:
            row = rows.get(sample.id)
            if row is None or (retry_failed and row["status"] != OK):
                left.setdefault(video, []).append(sample)
            else:
                seen.add(row)
    return left


def _finished(summary: Summary, began: float, samples: Sequence[Sample]) -> Summary:
    rows = read_run(summary.out, keys=()).predictions
    summary.missing = sum(sample.id not in rows for sample in samples)
    summary.seconds = time.perf_counter() - began
    return summary


def _write(writer: PredictionWriter, row: Mapping[str, Any]) -> None:
    try:
        writer.write(row)
    except OSError as error:
        raise InputError(
            writer.path,
            expected="room for the next row",
            found=error.strerror or str(error),
            fix="everything before it is kept: make room and run the same command again",
        ) from error


# -- the command -------------------------------------------------------------------------------------------------------


def command(arguments: Any) -> int:
    """`gazeqwen eval streamgaze`; returns the exit code."""
    settings = settings_of(arguments)
    shard = shard_of_process(arguments.shard)
    load = {
        "quantization": arguments.quantization,
        "device": arguments.device,
        "vjepa": arguments.vjepa,
        "local_files_only": arguments.offline,
    }
    dataset = Dataset.open(arguments.data)
    cache = None
    if not arguments.no_cache:
        from benchmarks.streamgaze.feature_cache import user_cache_folder

        cache = arguments.cache or user_cache_folder()
    if arguments.dry_run:
        from benchmarks.streamgaze.plan import plan, plan_text

        found = plan(dataset, settings, model=arguments.model, load=load, shard=shard, cache=cache)
        print(json.dumps(plain_json(found), allow_nan=False) if arguments.json else plan_text(found))
        return 0
    if dataset.unusable:
        _note(f"{len(dataset.unusable)} entries can't be scored and are in no table: see `gazeqwen data validate`")
    with _shown_progress() as show:
        summary = run(
            dataset,
            arguments.out,
            settings,
            model=arguments.model,
            load=load,
            shard=shard,
            cache=cache,
            retry_failed=arguments.retry_failed,
            command=sys.argv,
            progress=show,
        )
    for note in summary.notes:
        _note(note)
    _tell(summary, as_json=arguments.json)
    return 0


def _tell(summary: Summary, *, as_json: bool) -> None:
    """The table so far, and how much of it stands."""
    from benchmarks.streamgaze import report

    found = read_run(summary.out)
    rows = found.predictions.values()
    failed = sum(row["status"] == FAILED for row in rows)
    without = sum(row["has_gaze"] is False for row in rows)
    if as_json:
        values = {
            "run": str(summary.out),
            "answered": summary.answered,
            "samples": len(found.samples),
            "missing": len(found.missing),
            "failed": failed,
            "without_gaze": without,
            "seconds": summary.seconds,
            "scan_seconds": summary.scan_s,
            "report": report.json_report(found),
        }
        print(json.dumps(plain_json(values), allow_nan=False))
        return
    print(report.text_table(found))
    print(
        f"{len(rows)} of {len(found.samples)} samples have a row, {failed} failed, {without} without gaze; "
        f"{summary.answered} now in {summary.seconds:.1f} s"
    )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


@contextmanager
def _shown_progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal; else a line every now and then, for logs."""
    if sys.stderr is None or not sys.stderr.isatty():

        def line(seen: Progress) -> None:
            if seen.done % LINE_EVERY == 0 or seen.done == seen.total:
                print(
                    f"{seen.done}/{seen.total} samples, {seen.accuracy:.1f} % right, {seen.failed} failed",
                    file=sys.stderr,
                    flush=True,
                )

        yield line
        return
    from tqdm import tqdm

    bar: Any = None

    def advance(seen: Progress) -> None:
        nonlocal bar
        if bar is None:  # only now: before the first row nothing but loading is going on
            bar = tqdm(total=seen.total, initial=seen.done - 1, unit="sample", dynamic_ncols=True, leave=False)
        bar.set_postfix_str(f"{seen.accuracy:.1f} % right, {seen.failed} failed", refresh=False)
        bar.update(1)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.close()
