"""The world's eye tracker: what it stores of the true gaze, as samples and as fixations."""

from __future__ import annotations

import numpy as np

from gazeqwen.tiny.world_events import STEP_S
from gazeqwen.tiny.world_parameters import WorldParameters
from gazeqwen.tiny.world_script import Script
from gazeqwen.types import Fixations, GazeSamples


def true_gaze(script: Script, *, aspect: float) -> np.ndarray:
    """(T, 2) gaze in the frame, normalised, on the script's grid."""
    return 0.5 + (script.gaze - script.camera) * np.array([1.0, aspect])


def track(rng: np.random.Generator, p: WorldParameters, *, true: np.ndarray, aspect: float) -> GazeSamples:
    """The samples: late by the latency, with white noise, slow drift, a constant error, blinks and losses.

    Args:
        true: (T, 2) normalised gaze on the script's grid.
    """
    stop = (len(true) - 1) * STEP_S
    n = int(stop * p.gaze_hz)
    times = (np.arange(n) + 0.5 + rng.uniform(-p.jitter, p.jitter, n)) / p.gaze_hz
    grid = np.arange(len(true)) * STEP_S
    xy = np.stack([np.interp(times - p.latency_s, grid, true[:, axis]) for axis in (0, 1)], axis=1)
    # The same number of draws whatever the strengths, so that a change of noise leaves the rest of the world alone.
    knots = np.arange(0.0, stop + 4.0, 4.0)
    drift = np.stack([np.interp(times, knots, rng.normal(0, 1, knots.size)) for _ in (0, 1)], axis=1)
    scale = np.array([1.0, aspect])
    error = p.noise_widths * rng.normal(0, 1, (n, 2)) + p.drift_widths * drift + p.bias_widths * rng.normal(0, 1, 2)
    xy += scale * error
    valid = np.ones(n, dtype=bool)
    for gap_s, lengths in ((p.blink_gap_s, p.blink_s), (p.loss_gap_s, p.loss_s)):
        now = 0.5 + rng.exponential(gap_s)
        while now < stop:
            until = now + rng.uniform(*lengths)
            valid[(times >= now) & (times < until)] = False
            # Closing lids pull the estimate down before the signal is lost.
            edge = (times >= now - 0.03) & (times < now)
            xy[edge, 1] += 0.05 * (times[edge] - now + 0.03) / 0.03
            now = until + 0.5 + rng.exponential(gap_s)
    confidence = np.where(valid, rng.uniform(0.85, 1.0, n), rng.uniform(0.0, 0.3, n))
    return GazeSamples.build(times, xy, valid=valid, confidence=confidence, source="world")


def stored_fixations(script: Script, gaze: GazeSamples, p: WorldParameters) -> Fixations:
    """The fixations that the tracker stores: the true ones, late by the latency, each with the mean of its valid
    samples. Those with less than 60 ms of valid samples are missing; pursuit counts as fixation, as it does for most
    detectors."""
    numbers = script.fixation
    edges = np.flatnonzero(np.diff(numbers, prepend=-2, append=-2) != 0)
    starts, stops = edges[:-1], edges[1:]
    keep = numbers[starts] >= 0
    start_s = starts[keep] * STEP_S + p.latency_s
    stop_s = np.minimum((stops[keep] - 1) * STEP_S + p.latency_s, script.duration_s)
    a, b = np.searchsorted(gaze.t_s, start_s, side="left"), np.searchsorted(gaze.t_s, stop_s, side="right")
    count = np.concatenate([[0], np.cumsum(gaze.valid)])
    total = np.concatenate([np.zeros((1, 2)), np.cumsum(np.where(gaze.valid[:, None], gaze.xy_norm, 0.0), axis=0)])
    valid = count[b] - count[a]
    keep = (valid >= max(0.06 * p.gaze_hz, 1)) & (stop_s - start_s >= 0.06)
    centre = (total[b] - total[a])[keep] / valid[keep, None]
    return Fixations.build(start_s[keep], stop_s[keep], centre, detector="world", parameters={"min_duration_s": 0.06})
