"""What it costs to stop a run and go on with it."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.speed.core import Options
from benchmarks.speed.results import Result
from benchmarks.speed.streamgaze_data import Videos, make_data
from benchmarks.streamgaze.records import read_run
from benchmarks.streamgaze.run import Progress, run
from benchmarks.streamgaze.work import Settings
from gazeqwen.errors import InputError
from gazeqwen.model import GazeQwen

# An odd number, so that a run which stops after half its questions stops in the middle of a video.
RUN = Videos(20.0, count=3, questions=20, fps=8.0)
QUICK_RUN = Videos(5.0, count=3, questions=5, fps=8.0)
REPEATS = 3


class _StopHere(Exception):
    pass


def resume_overhead(name: str, options: Options) -> Result:
    """Seconds that going on with a half-done run spends on scanning and skipping (`value`); `ratio` is the whole run's
    seconds with them over those without.

    Scanning and skipping is everything before the first question that is left is known: samples, settings and hashes
    of the data, the manifest, every row read back. Not in it is what has to be computed again: the video that the run
    stopped in is streamed again up to its first open question, from cached features. That, and a second start of the
    protocol (hashing the weights, the manifest), is `stop_and_go_on` less `whole`; it is one video, however long the
    run. Loading the model is in neither, being the same for any start.

    Returns:
        `parts`: seconds of a `whole` run, of one that is `stopped` after half its questions and `resumed`, of `again`
        (a finished run asked for again); `ratio_with_replay`: stopped and resumed over whole; quartiles of `ratio`.

    Raises:
        InputError: the resumed run's rows are not those of the whole one.
    """
    videos, repeats = (QUICK_RUN, 1) if options.quick else (RUN, min(options.repeats, REPEATS))
    seconds: dict[str, list[float]] = {"whole": [], "stopped": [], "resumed": [], "scan": [], "again": []}
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as temporary:
        folder = Path(temporary)
        data = make_data(folder / "data", videos)
        model = GazeQwen.from_pretrained("tiny", device=options.device)
        half = videos.count * videos.questions // 2
        run(data, folder / "warm", Settings(limit=1), model=model)
        for repeat in range(repeats):
            known: dict[str, Any] = {"model": model, "cache": folder / f"cache-{repeat}"}
            whole = run(data, folder / f"whole-{repeat}", Settings(), **known)
            seconds["whole"].append(whole.seconds)
            known["cache"] = folder / f"cache-{repeat}-resumed"
            out = folder / f"resumed-{repeat}"
            seconds["stopped"].append(_stopped(half, data, out, Settings(), **known))
            resumed = run(data, out, Settings(), **known)
            seconds["resumed"].append(resumed.seconds)
            seconds["scan"].append(resumed.scan_s)
            seconds["again"].append(run(data, out, Settings(), **known).seconds)
            if resumed.answered != videos.count * videos.questions - half:
                raise InputError(name, expected="a run resumed in its middle", found=f"{resumed.answered} rows left")
            _require_same_rows(name, folder / f"whole-{repeat}", out)
    ratios = sorted(1 + scan_s / whole_s for scan_s, whole_s in zip(seconds["scan"], seconds["whole"], strict=True))
    quarter = len(ratios) // 4
    middle = {part: median(values) for part, values in seconds.items()}
    split = [a + b for a, b in zip(seconds["stopped"], seconds["resumed"], strict=True)]
    parts = {
        **middle,
        "stop_and_go_on": median(split),
        "ratio_with_replay": median(s / whole_s for s, whole_s in zip(split, seconds["whole"], strict=True)),
        "ratio_q1": ratios[quarter],
        "ratio_q3": ratios[-1 - quarter],
        "scan_per_row": middle["scan"] / half,
    }
    note = f"{videos}; stopped after {half} rows in the middle of a video; features cached, the cache cold at the start"
    return Result(name, middle["scan"], "s", median(ratios), parts, repeats, note=note)


def _stopped(rows: int, *arguments: Any, **options: Any) -> float:
    """Seconds of a run that stops after so many rows."""

    def count(progress: Progress) -> None:
        if progress.done == rows:
            raise _StopHere

    began = perf_counter()
    with suppress(_StopHere):
        run(*arguments, progress=count, **options)
    return perf_counter() - began


def _require_same_rows(name: str, whole: Path, resumed: Path) -> None:
    first, second = (read_run(out).predictions for out in (whole, resumed))
    said = [{sample: row["prediction"] for sample, row in rows.items()} for rows in (first, second)]
    if said[0] != said[1]:
        raise InputError(name, expected="the same predictions from a resumed run", found="different ones")
