"""The fixations of a recording, as the rules want them found.

`causal`: the device's own, else `ivt` (stream/fixations.py), which never uses a later sample. `streamgaze`: the
reference's anchor scan over one sample a video frame, with its stand-in for untracked gaze, its clamping of gaze beyond
the frame's edge and its frame times of number / rate (`pipeline/preprocess/gaze_processing.py`: P1, P2, P6 and P7 of
docs/data_pipeline.md). A recording that brings fixations and no samples keeps them under both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gazeqwen.errors import InputError
from gazeqwen.event_log import Rules
from gazeqwen.types import Fixations, GazeSamples, asof
from stream.fixations import detect
from stream.recording import Recording
from stream.video import frame_times

DATASET = "EgoExoLearn"  # whose radius, 96 px of the frame's width, needs no other fact of the data


def find_fixations(recording: Recording, *, rules: Rules, dataset: str = DATASET) -> Fixations:
    """The fixations that begin within the video, the last one cut at its end.

    Args:
        dataset: whose radius and stand-in for untracked gaze the rules `streamgaze` take (`STREAMGAZE_PRESETS`).

    Raises:
        InputError: the recording has no gaze at all.
        ConfigError: an unknown dataset.
    """
    if recording.gaze is None or (not len(recording.samples) and not len(recording.fixations)):
        raise InputError(recording.path, expected="gaze samples or fixations", found="none")
    if rules == "causal" or not len(recording.samples):
        found = recording.fixations
    else:
        samples = one_a_frame(recording.samples, frame_times(recording.path), fps=recording.info.fps)
        width_px = recording.info.width_px
        found = detect(samples, detector="streamgaze", dataset=dataset, frame_width_px=width_px)
    inside = found.take((found.start_s >= 0) & (found.start_s < recording.end_s))
    return replace(inside, stop_s=np.minimum(inside.stop_s, recording.end_s))


def one_a_frame(samples: GazeSamples, frame_times_s: np.ndarray, *, fps: float) -> GazeSamples:
    """StreamGaze's table: for frame k the valid sample nearest to it, within half a frame, at the time k / fps.

    Gaze beyond the frame's edge is moved onto it. A frame without a valid sample is an invalid row.

    Raises:
        InputError: a video without a frame rate.
    """
    if not fps > 0:
        raise InputError("frame rate", expected="a video that has one", found=f"{fps}", fix="use --rules causal")
    valid = samples.take(samples.valid)
    rows = asof(valid.t_s, frame_times_s, tolerance_s=0.5 / fps + 1e-6, method="nearest", on_missing="mark")
    xy = np.full((len(rows), 2), np.nan)
    xy[rows >= 0] = np.clip(valid.xy_norm[rows[rows >= 0]], 0.0, 1.0)
    return GazeSamples.build(np.arange(len(rows)) / fps, xy, valid=rows >= 0, source=samples.source)
