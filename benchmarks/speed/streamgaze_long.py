"""What grows with a video's length: a question's cost, and a run's memory. One process for each length gives both."""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.speed import processes
from benchmarks.speed.core import Options
from benchmarks.speed.processes import printed_by
from benchmarks.speed.results import Result
from benchmarks.speed.streamgaze_data import Videos, make_data
from benchmarks.speed.streamgaze_stream import PARTS
from benchmarks.streamgaze.records import read_run
from gazeqwen.errors import InputError

MINUTES = (1.0, 5.0, 20.0)
QUICK_MINUTES = (0.1, 0.2)
_SCRIPT = """
import json, sys
from pathlib import Path
from benchmarks.speed.processes import peak_mb
from benchmarks.streamgaze.run import run
from benchmarks.streamgaze.work import Settings
from gazeqwen.model import GazeQwen

folder = Path(sys.argv[1])
model = GazeQwen.from_pretrained("tiny", device=sys.argv[2])
loaded_mb = peak_mb()
summary = run(folder, folder / "run", Settings(), model=model, cache=folder / "cache")
print(json.dumps({"seconds": summary.seconds, "loaded_mb": loaded_mb, "peak_mb": peak_mb()}))
"""


def cost_growth(name: str, options: Options) -> Result:
    """Seconds per question with the longest video (`value`), and over those with the shortest (`ratio`).

    Each video has the same number of questions, so a question's share of the pass grows with the video; what a question
    itself takes, and what a minute of video takes, grow with the steps held, and those are bounded.

    Returns:
        `parts`: for each length seconds per question, of them those of the `answer`, and seconds of the pass per minute
        of video; for the longest, seconds by part.
    """
    lengths = QUICK_MINUTES if options.quick else MINUTES
    runs = [_run(minutes, options.quick, str(options.device)) for minutes in lengths]
    each = [found["seconds"] / found["questions"] for found in runs]
    parts = {f"per_question_{minutes:g}_min": value for minutes, value in zip(lengths, each, strict=True)}
    for minutes, found in zip(lengths, runs, strict=True):
        parts[f"per_video_minute_{minutes:g}_min"] = (found["seconds"] - found["answer"]) / minutes
        parts[f"answer_{minutes:g}_min"] = found["answer"] / found["questions"]
    whole = {part: runs[-1].get(part, 0.0) for part in (*PARTS, "other")}
    parts |= {f"seconds_{part}_{lengths[-1]:g}_min": seconds for part, seconds in whole.items() if seconds}
    return Result(name, each[-1], "s", each[-1] / each[0], parts, note=_about(options))


def peak_memory(name: str, options: Options) -> Result:
    """Peak resident memory of a run over the longest video (`value`), and over that of the one before it (`ratio`).

    Most of it is Python, torch and the model: `parts` hold what the run adds to that, which is where growth would show.

    Raises:
        InputError: not on Linux.
    """
    if not processes.STATUS.is_file():
        raise InputError(
            name, expected=f"Linux, where {processes.STATUS} tells a process's peak memory", found=sys.platform
        )
    lengths = (QUICK_MINUTES if options.quick else MINUTES)[-2:]
    shorter, longer = (_run(minutes, options.quick, str(options.device)) for minutes in lengths)
    parts = {}
    for minutes, found in zip(lengths, (shorter, longer), strict=True):
        parts[f"peak_mb_{minutes:g}_min"] = found["peak_mb"]
        parts[f"loaded_mb_{minutes:g}_min"] = found["loaded_mb"]
        parts[f"added_mb_{minutes:g}_min"] = found["peak_mb"] - found["loaded_mb"]
    return Result(name, longer["peak_mb"], "MB", longer["peak_mb"] / shorter["peak_mb"], parts, note=_about(options))


def _about(options: Options) -> str:
    return f"{_videos(1.0, options.quick)}, the video as long as said; one process a length, features cached"


def _videos(minutes: float, quick: bool) -> Videos:
    """At 8 frames a second, as many as V-JEPA takes."""
    return Videos(60 * minutes, questions=5 if quick else 30, fps=8.0)


@cache
def _run(minutes: float, quick: bool, device: str) -> dict[str, float]:
    """A run over one video in a process of its own: seconds, questions, MB, and seconds by part."""
    videos = _videos(minutes, quick)
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as folder:
        make_data(Path(folder), videos)
        expected = f"a run over {minutes:g} minutes that ends"
        found: dict[str, float] = printed_by(_SCRIPT, folder, device, source="run", expected=expected)
        rows = read_run(Path(folder) / "run").predictions.values()
        failed = [row["reason"] for row in rows if row["status"] != "ok"]
        if failed or len(rows) != videos.questions:
            told = f"{len(rows)} rows, {len(failed)} of them failed {failed[:1]}"
            raise InputError("run", expected=f"{videos.questions} answers", found=told)
    for row in rows:
        for part, ms in row["latency_ms"].items():
            found[part] = found.get(part, 0.0) + ms / 1000
    found["other"] = found["seconds"] - sum(found.get(part, 0.0) for part in PARTS)
    return found | {"questions": float(videos.questions)}
