"""What an answer rests on, from the records of the steps that it could see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gazeqwen.arms import Arm
from gazeqwen.config import FixationConfig
from gazeqwen.state import StepRecord, StreamState
from gazeqwen.types import GazeEvents

SAME_FIXATION_S, SAME_FIXATION_NORM = 0.1, 0.1  # parts of one fixation in neighbouring steps are closer than this
LATENCIES = ("decode", "vit", "vjepa", "resampler", "prefill", "answer")


def evidence(records: Sequence[StepRecord], state: StreamState, *, t_s: float) -> dict[str, Any]:
    """The fields of `Answer` that say what was seen.

    Args:
        records: the steps that the answer could see.
        state: what it was read from.
        t_s: the question's time.
    """
    seen = [(record, _reaching(record, state.arm)) for record in records]
    samples = np.concatenate([record.gaze.sample_valid for record in records]) if records else np.zeros(0, dtype=bool)
    used = [gaze.sample_t_s[gaze.sample_used] for _, gaze in seen]
    return {
        "frame_times_s": tuple(_frame_times(records)),
        "gaze_times_s": tuple(float(t) for times in used for t in times),
        "gaze_valid_fraction": float(samples.mean()) if samples.size else float("nan"),
        "fixations": tuple(_fixations(seen)),
        # + 0.0: a span starts a hair before its first frame, and -0.0 is no time to show
        "span_s": (round(records[0].span_s[0], 5) + 0.0, float(records[-1].span_s[1])) if records else (t_s, t_s),
        "steps": len(records),
        "steps_without_gaze": sum(not record.gaze.any_valid for record in records),
        "open_fixations": records[-1].gaze.open_fixations if records else 0,
        "evicted_steps": state.evicted_steps,
        "latency_ms": latencies(state.latency_ms),
    }


def latencies(clock: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of every part; "cache" only where one was read."""
    read = {"cache": clock["cache"]} if "cache" in clock else {}
    return {part: clock.get(part, 0.0) for part in LATENCIES} | read


def _reaching(record: StepRecord, arm: Arm) -> GazeEvents:
    return arm.reaching(record.gaze, record.frame_times_s)


def _frame_times(records: Sequence[StepRecord]) -> Iterator[float]:
    for record in records:
        yield from (float(t) for t in (record.frame_times_s[:1] if record.repeated else record.frame_times_s))


def _fixations(seen: Sequence[tuple[StepRecord, GazeEvents]]) -> list[dict[str, float]]:
    """The fixations that reached the model; one that lasted over several steps is one entry.

    A running detector ends an open fixation at its newest sample and moves its centre with every one, so the parts are
    joined by place and time: the later one fills its step from the start, and the newest centre is shown.
    """
    found: list[dict[str, float]] = []
    for record, gaze in seen:
        for row in np.flatnonzero(gaze.is_fixation & gaze.valid):
            (x, y), stop_s = gaze.xy_norm[row], float(gaze.t_s[row])
            start_s = stop_s - float(gaze.duration_s[row])
            last = found[-1] if found else None
            if (
                last is not None
                and start_s - record.span_s[0] < 1e-3
                and start_s - last["stop_s"] < SAME_FIXATION_S
                and np.hypot(x - last["x_norm"], y - last["y_norm"]) < SAME_FIXATION_NORM
            ):
                last |= {"stop_s": stop_s, "x_norm": float(x), "y_norm": float(y)}
            else:
                found.append({"start_s": start_s, "stop_s": stop_s, "x_norm": float(x), "y_norm": float(y)})
    return found


def gaze_warnings(
    records: Sequence[StepRecord], arm: Arm, detector: Mapping[str, Any], wanted: FixationConfig
) -> Iterator[str]:
    """What is wrong with the gaze that an answer rests on.

    Args:
        detector: {"detector": name, "parameters": {...}} of the fixations, empty where it isn't known.
        wanted: those that the model was made for.
    """
    if arm.inject and detector and detector.get("detector") != wanted.detector:
        yield f"fixations by {detector['detector']!r}, but the model was made for {wanted.detector!r}"
    elif arm.inject and detector:
        given = detector.get("parameters", {})
        if differ := [name for name, value in wanted.parameters.items() if given.get(name) != value]:
            yield f"fixation parameters differ from the model's: {', '.join(sorted(differ))}"
    if arm.gaze_reaches and records and not any(record.gaze.any_valid for record in records):
        yield "no valid gaze in anything the model saw"
    if late := sum(record.gaze_late for record in records):
        yield f"{late} steps went on before their gaze had arrived"
