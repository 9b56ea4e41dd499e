"""Golden section 09b: StreamGaze's scene consistency, on whatever stretches the section's files hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmarks.streamgaze.pipeline.scene_consistency import (
    FrameColours,
    check_scene,
    correlations,
    hue_saturation_histogram,
    mean_grey,
    rgb_to_hsv,
    sample_times,
)
from tests.golden.io import Golden, load

SECTION = "09b"
FUNCTION = "benchmarks.streamgaze.pipeline.scene_consistency.check_scene"
TOLERANCE = 1e-6


def check(folder: Path) -> tuple[float, float]:
    """(largest error of a correlation, tolerance); infinite when HSV, a sampled frame or a verdict differs at all.

    Raises:
        InputError: the section is absent or a file is damaged.
    """
    return max(_error(golden, call) for golden in load(folder, SECTION) for call in golden.cases()), TOLERANCE


def _error(golden: Golden, call: dict) -> float:
    frames = golden.tensor(call["frames"]).numpy()[..., ::-1]  # stored as BGR
    hsv = rgb_to_hsv(frames)
    if (hsv != golden.tensor(call["frames"].replace("frames", "hsv")).numpy()).any():
        return math.inf
    asked: list[int] = []

    def look(time_s: float) -> FrameColours | None:
        index = int(time_s * call["fps"])
        asked.append(index)
        if index >= len(frames):
            return None
        return FrameColours(hue_saturation_histogram(hsv[index]), mean_grey(frames[index]))

    start_s, stop_s = call["start"], call["end"]
    times = sample_times(start_s, stop_s)
    readable = [frame for t in times if (frame := look(float(t))) is not None]
    if asked != call["frame_indices"] or len(times) != call["n_samples"]:
        return math.inf
    ours = np.array(correlations(readable))
    theirs = np.array(call["correlations"], dtype=np.float64)
    verdict = check_scene(start_s, stop_s, look, threshold=call["threshold"])
    same = (
        ours.shape == theirs.shape
        and (verdict.kept, verdict.reason) == (call["kept"], call["reason"])
        and (verdict.reason == "black_scene") == (call["black_scene"] and verdict.reason != "too_short")
    )
    if not same:
        return math.inf
    return max(float(np.abs(ours - theirs).max(initial=0.0)), abs(verdict.min_correlation - call["reported_min"]))
