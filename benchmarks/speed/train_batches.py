"""What a step of our trainer takes with more videos in it: questions per second and peak memory, from one process for
each size."""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.speed import processes
from benchmarks.speed.core import Options
from benchmarks.speed.processes import printed_by
from benchmarks.speed.results import Result
from benchmarks.speed.streamgaze_data import Videos, make_data
from benchmarks.speed.train_sides import Ours
from gazeqwen.errors import InputError

BATCHES = (1, 4, 16)
QUICK_BATCHES = (1, 2)
_SCRIPT = "import sys; from benchmarks.speed.train_batches import print_measured; print_measured(*sys.argv[1:])"


def train_batches(name: str, options: Options) -> Result:
    """Questions per second with the most videos in a step (`value`), and over those with one (`ratio`). Every size goes
    over as many videos, in fewer steps. `parts`: questions and seconds a step for each size."""
    runs = _runs(options)
    parts: dict[str, float] = {}
    for size, found in runs.items():
        parts[f"q_per_s_{size}_videos"] = found["questions"] / found["seconds"]
        parts[f"step_s_{size}_videos"] = found["seconds"] / found["steps"]
    each = [parts[f"q_per_s_{size}_videos"] for size in runs]
    return Result(name, each[-1], "q/s", each[-1] / each[0], parts, note=_about(options))


def train_memory(name: str, options: Options) -> Result:
    """Peak memory of a run with the most videos in a step (`value`), and over that with one (`ratio`): of the process,
    or on a GPU what torch holds there.

    Most of it is Python, torch and the model: `parts` hold what training adds to that.

    Raises:
        InputError: without a GPU on another system than Linux.
    """
    if options.device.type != "cuda" and not processes.STATUS.is_file():
        raise InputError(
            name, expected=f"Linux, where {processes.STATUS} tells a process's peak memory", found=sys.platform
        )
    runs = _runs(options)
    parts: dict[str, float] = {}
    for size, found in runs.items():
        parts[f"peak_mb_{size}_videos"] = found["peak_mb"]
        parts[f"added_mb_{size}_videos"] = found["peak_mb"] - found["loaded_mb"]
    peaks = [found["peak_mb"] for found in runs.values()]
    return Result(name, peaks[-1], "MB", peaks[-1] / peaks[0], parts, note=_about(options))


def measure(data: Path, work: Path, batch_videos: int, device: torch.device) -> dict[str, float]:
    """One pass over the videos in steps of so many. The cache in `work` is full, or is filled before seconds count."""
    ours = Ours(data, work, batch_videos, device)
    loaded_mb = peak_mb(device)
    ours.warm_up()
    steps = len(ours.source.ids) // batch_videos
    began = perf_counter()
    questions = sum(ours.step() for _ in range(steps))
    seconds = perf_counter() - began
    found = {"questions": questions, "steps": steps, "seconds": seconds}
    return found | {"loaded_mb": loaded_mb, "peak_mb": peak_mb(device)}


def peak_mb(device: torch.device) -> float:
    """The most memory so far; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return processes.peak_mb()


def print_measured(data: str, work: str, batch_videos: str, device: str) -> None:
    """`measure` for another process."""
    print(json.dumps(measure(Path(data), Path(work), int(batch_videos), torch.device(device))))


def in_own_process(data: Path, work: Path, batch_videos: int, device: torch.device) -> dict[str, float]:
    """As `measure`. Raises InputError where the process fails, or does not end."""
    expected = f"steps of {batch_videos} videos that end"
    return printed_by(_SCRIPT, data, work, batch_videos, device, source="run", expected=expected)


def _videos(quick: bool) -> Videos:
    """At 8 frames a second, as many as V-JEPA takes: nothing is decoded once the cache is full."""
    if quick:
        return Videos(5.0, count=QUICK_BATCHES[-1], questions=5, fps=8.0)
    return Videos(20.0, count=BATCHES[-1], questions=20, fps=8.0)


def _about(options: Options) -> str:
    return f"{_videos(options.quick)}; one process a size, features cached, gradients of a step in one forward"


def _runs(options: Options) -> dict[int, dict[str, float]]:
    """By videos in a step."""
    return _measured(options.quick, str(options.device))


@cache
def _measured(quick: bool, device: str) -> dict[int, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as temporary:
        folder, target = Path(temporary), torch.device(device)
        data = make_data(folder / "data", _videos(quick))
        Ours(data, folder, 1, target)  # fills the cache, which takes memory, too
        return {size: in_own_process(data, folder, size, target) for size in (QUICK_BATCHES if quick else BATCHES)}
