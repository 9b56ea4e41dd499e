"""The streamgaze suite: what one pass over a video saves against a clip for every question, what going on with a run
costs, and what grows with a video's length. The tiny model on made videos; each row's note says their sizes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.speed.core import Measurement, Options
from benchmarks.speed.results import Bound, Result, interleaved
from benchmarks.speed.streamgaze_data import Videos
from benchmarks.speed.streamgaze_long import cost_growth, peak_memory
from benchmarks.speed.streamgaze_prefill import InMemory
from benchmarks.speed.streamgaze_projection import Seen, projected_7b
from benchmarks.speed.streamgaze_resume import resume_overhead
from benchmarks.speed.streamgaze_stream import Clock, PerQuestion, build, samples_in_time, streamed
from gazeqwen.errors import InputError

# A mini-StreamGaze video of the longest kind, with as many questions as StreamGaze has for one of its.
VIDEO = Videos(120.0, size_px=(168, 112))
QUICK_VIDEO = Videos(6.0, questions=5, fps=8.0, present_s=3.0)
PAIRS = 3  # of long runs
SAME_FRAME_S = 1e-4  # a cut clip stores its times in microseconds
TOLERANCE = 1e-5  # between log-probabilities of the same prefill
Rows = Mapping[str, Mapping[str, Any]]


def stream_vs_per_question(name: str, options: Options) -> Result:
    """Questions per second of one pass (`value`), and how many times those of the published way (`ratio`).

    Passes and parts of the published way take turns: beside each of n passes an n-th of the questions, with every task
    and the video's whole length in it, so that the published way answers each question once. `ratio` is its seconds for
    all of them over the mean pass.

    Returns:
        `parts`: seconds of each side by part, the ratio without the cut, the lowest and highest ratio of a pair (their
        questions differ), the steps each side encodes, and the ratio projected to 7B.

    Raises:
        InputError: the two sides saw different frames.
    """
    videos, pairs = QUICK_VIDEO if options.quick else VIDEO, min(options.repeats, PAIRS)
    ours, theirs = Clock(), Clock()
    rows: Rows = {}
    apart: dict[str, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as folder:
        protocol = build(Path(folder), videos, options.device)
        samples = samples_in_time(protocol)
        published = PerQuestion(protocol, Path(folder))
        streamed(protocol, samples[:2])  # both ways are warm when they are timed
        published.timed(samples[:2])
        for pair in range(pairs):
            if pair % 2:
                apart |= published.timed(samples[pair::pairs], theirs)
            rows = streamed(protocol, samples, ours)
            if not pair % 2:
                apart |= published.timed(samples[pair::pairs], theirs)
        _require_same_frames(name, rows, apart, published.started_s)
    pass_s, apart_s = fmean(ours.seconds), sum(theirs.seconds)
    by_pair = [pairs * b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    steps, questions = _steps(rows.values())
    parts = {
        "ratio_without_cut": (apart_s - sum(run["cut"] for run in theirs.runs)) / pass_s,
        "ratio_low": min(by_pair),
        "ratio_high": max(by_pair),
        "projected_7b_ratio": projected_7b(steps, questions)["per_question"],
        "per_question_q_per_s": len(samples) / apart_s,
        "steps_stream": float(steps + len(questions)),
        "steps_per_question": float(sum(row["steps"] for row in apart.values())),
        **ours.parts("stream", fmean),
        **theirs.parts("per_question", sum),
    }
    note = (
        f"{videos}. Published way: a clip is cut of each question's window (H.264, {published.cut_options}), decoded, "
        "encoded, prefilled and asked, warm and in process. Projected: FLOP of vision tower, V-JEPA B and 7B decoder"
    )
    return Result(name, len(samples) / pass_s, "q/s", apart_s / pass_s, parts, pairs, note=note)


def stream_vs_prefill_only(name: str, options: Options) -> Result:
    """Questions per second of one pass over features in memory (`value`), against a prefill of each question's window
    from the same features (`ratio`): nothing is decoded or encoded on either side, as where the feature cache has all.

    Returns:
        `parts`: seconds of `stream` (from memory), `prefill_only` and `stream_from_file` (which decodes and encodes);
        `ratio_encoded_once`: both decode and encode once; `ratio_encoded_free`: only the pass does, the baseline is
        given its features; quartiles of the ratio; parts of both sides; ratios projected to 7B.

    Raises:
        InputError: an answer that rests on the same prefill is not the same.
    """
    videos, repeats = QUICK_VIDEO if options.quick else VIDEO, min(options.repeats, PAIRS)
    ours, theirs = Clock(), Clock()
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as folder:
        protocol = build(Path(folder), videos, options.device)
        samples = samples_in_time(protocol)
        memory = InMemory(protocol, samples)
        rows = memory.streamed(samples)
        from_file = streamed(protocol, samples)
        _require_same_answers(name, from_file, {sample: row["logprobs"] for sample, row in rows.items()})
        whole = {sample for sample, row in rows.items() if not row["evicted_steps"]}
        prefilled = memory.prefilled(samples)
        _require_same_answers(name, rows, {sample: prefilled[sample] for sample in whole})
        file_clock = Clock()
        seconds = interleaved(
            {
                "stream": lambda: memory.streamed(samples, ours),
                "prefill_only": lambda: memory.prefilled(samples, theirs),
                "stream_from_file": lambda: streamed(protocol, samples, file_clock),
            },
            repeats,
            device=options.device,
            warm_up=0,  # all three have just run
        )
    found = Result.of_pairs(name, seconds, cost="prefill_only", reference="stream")
    free = Result.of_pairs(name, seconds, cost="prefill_only", reference="stream_from_file")
    encode_s = [sum(run[part] for part in ("decode", "vit", "vjepa")) for run in file_clock.runs]
    once = [
        (prefill_s + once_s) / file_s
        for prefill_s, once_s, file_s in zip(
            seconds["prefill_only"], encode_s, seconds["stream_from_file"], strict=True
        )
    ]
    projected = projected_7b(*_steps(rows.values()))
    parts = {
        **found.parts,
        "ratio_encoded_once": median(once),
        "ratio_encoded_free": free.ratio or 0.0,
        "projected_7b_ratio": projected["prefill_only"],
        "projected_7b_encoded_once": projected["prefill_only_once"],
        "projected_7b_encoded_free": projected["prefill_only_free"],
        **ours.parts("stream", median),
        **theirs.parts("prefill_only", median),
    }
    note = f"{videos}. Frozen features in memory on both sides; the resampler runs again with each prefill"
    return Result(name, len(samples) / found.parts["stream"], "q/s", found.ratio, parts, repeats, note=note)


def _steps(rows: Iterable[Mapping[str, Any]]) -> tuple[int, list[Seen]]:
    """Whole steps of the pass, and what each question sees; each has one partial step of its own."""
    questions = [Seen(row["steps"] - 1 + row["evicted_steps"], row["steps"] - 1) for row in rows]
    return max(seen.held for seen in questions), questions


def _require_same_frames(name: str, rows: Rows, apart: Rows, started_s: Mapping[str, float]) -> None:
    """Raises InputError unless every clip showed the frames that the pass did."""
    for sample, row in rows.items():
        ours = np.array(row["frame_times_s"])
        theirs = np.array(apart[sample]["frame_times_s"]) + started_s[sample]
        if ours.shape != theirs.shape or np.abs(ours - theirs).max(initial=0.0) > SAME_FRAME_S:
            expected = f"the frames of the pass in every clip ({row['task']} at {row['t_s']:g} s)"
            raise InputError(name, expected=expected, found=f"{len(theirs)} frames instead of {len(ours)}, or others")


def _require_same_answers(name: str, rows: Rows, logprobs: Mapping[str, Mapping[str, float]]) -> None:
    for sample, found in logprobs.items():
        row = rows[sample]
        apart = max(abs(value - row["logprobs"][label]) for label, value in found.items())
        if not apart <= TOLERANCE:
            expected = f"log-probabilities equal within {TOLERANCE:g} ({row['task']} at {row['t_s']:g} s)"
            raise InputError(name, expected=expected, found=f"{apart:.3g} apart")


STREAMGAZE: tuple[Measurement, ...] = (
    Measurement("stream_vs_per_question", Bound("ratio", low=10.0), stream_vs_per_question),
    Measurement("stream_vs_prefill_only", Bound("ratio", low=2.0), stream_vs_prefill_only),
    Measurement("resume_overhead", Bound("ratio", high=1.02), resume_overhead),
    Measurement("cost_growth", None, cost_growth),
    Measurement("peak_memory", Bound("ratio", high=1.05), peak_memory),
)
