"""Fixations from gaze: three detectors, chosen by name (`DETECTORS`), and how well two sets of fixations agree.

`device`      the tracker's own fixations, preferred when the file has them (`choose`).
`ivt`         ours, causal: `stream/ivt.py`.
`streamgaze`  StreamGaze 07b8a44 (`pipeline/preprocess/gaze_processing.py`, `extract_fixation_segments`), kept exact
              because the benchmark and the published GazeQwen checkpoint were made with it. It is neither the I-VT of
              its README nor the centroid radius of the paper: samples stay in a segment while they lie within a radius
              of the segment's FIRST sample, in normalised (anisotropic) units.

Agreement of `ivt` with the Neon device's own 23 fixations on the 9 s, 200 Hz recording `neon_native_demo` (`event_f1`,
IoU 0.5, defaults): F1 0.65 (precision 0.56, recall 0.78, 32 fixations) with the field of view from its calibration,
0.55 (0.47, 0.65, 32) without. Nothing was tuned on it; merging by the distance of centres instead of the saccade's
size, tried first, gave 0.58 and 0.49. The device subtracts head motion, ours does not: the misses are device fixations
that ours splits, starts late or does not see. One recording of one wearer, so no claim about accuracy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.types import Fixations, GazeSamples
from stream.ivt import IVT, Fixation, degrees_per_frame_width, ivt_fixations, require_number, to_fixations

__all__ = [
    "DETECTORS",
    "IVT",
    "STREAMGAZE_PRESETS",
    "Detector",
    "Fixation",
    "choose",
    "degrees_per_frame_width",
    "detect",
    "event_f1",
    "ivt_fixations",
    "streamgaze_fixations",
    "streamgaze_preset",
    "to_fixations",
]

STREAMGAZE_RADIUS_PX = 96.0


@dataclass(frozen=True)
class StreamGazePreset:
    """What StreamGaze does for one dataset: the radius (None: 96 px of the frame's width), and the point that its
    parser stores for an untracked frame (EgoExoLearn's stores what the file holds; (0, 0) stands for it here)."""

    radius_norm: float | None
    untracked_norm: tuple[float, float] = (0.0, 0.0)


STREAMGAZE_PRESETS: Mapping[str, StreamGazePreset] = {
    "EGTEA": StreamGazePreset(0.15),
    "Ego4D": StreamGazePreset(0.088),
    "EgoExoLearn": StreamGazePreset(None),
    "HoloAssist": StreamGazePreset(None, untracked_norm=(0.5, 0.5)),
}


# --- streamgaze -------------------------------------------------------------------------------------------------------


def streamgaze_preset(dataset: str, *, frame_width_px: float | None = None) -> tuple[float, tuple[float, float]]:
    """(normalised radius, stand-in for untracked gaze) that StreamGaze uses for a dataset of `STREAMGAZE_PRESETS`.

    Raises:
        ConfigError: unknown dataset, or one whose radius is 96 px and no frame width was given.
    """
    if dataset not in STREAMGAZE_PRESETS:
        raise ConfigError(f"dataset {dataset!r} is unknown: choose one of {', '.join(STREAMGAZE_PRESETS)}")
    preset = STREAMGAZE_PRESETS[dataset]
    if preset.radius_norm is not None:
        return preset.radius_norm, preset.untracked_norm
    if frame_width_px is None:
        raise ConfigError(f"StreamGaze's radius for {dataset} is 96 px: pass frame_width_px")
    require_number("frame_width_px", frame_width_px, above=0.0)
    return STREAMGAZE_RADIUS_PX / frame_width_px, preset.untracked_norm


def streamgaze_fixations(
    t_s: np.ndarray,
    xy_norm: np.ndarray,
    *,
    radius_norm: float,
    min_duration_s: float = 2.0,
    gap_s: float = 0.01,
    dtype: str = "float32",
) -> Fixations:
    """StreamGaze's anchor-radius scan, exact (golden 09), in linear time.

    A sample outside the radius ends the segment unless it follows its predecessor within `gap_s`; then it is kept as a
    flick, and is part of the mean. One sample per video frame is expected: at 24-30 fps no flick passes the default
    0.01 s, at 100 Hz or more all do and nothing ever ends. Every row takes part; StreamGaze scans untracked frames
    as the (0, 0) or (0.5, 0.5) it stores for them.

    Args:
        t_s: (N,) seconds, ascending.
        xy_norm: (N, 2) normalised, finite.
        radius_norm: largest distance to the segment's first sample.
        min_duration_s: shortest segment that is a fixation, inclusive.
        dtype: of the scan and the means; StreamGaze keeps gaze in float32.

    Raises:
        InputError: lengths differ, or a value is not finite, or times descend.
        ConfigError: a parameter out of range.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {dtype!r} is unknown: choose float32 or float64")
    for name, value in {"radius_norm": radius_norm, "min_duration_s": min_duration_s, "gap_s": gap_s}.items():
        require_number(name, value, at_least=0.0)
    t = np.asarray(t_s, dtype=np.float64).reshape(-1)
    xy = np.asarray(xy_norm).reshape(-1, 2).astype(dtype)
    if len(t) != len(xy):
        raise InputError("streamgaze gaze", expected="as many times as points", found=f"{len(t)} and {len(xy)}")
    if not (np.isfinite(t).all() and np.isfinite(xy).all()) or (t[1:] < t[:-1]).any():
        raise InputError(
            "streamgaze gaze",
            expected="finite points at finite, ascending times",
            found="non-finite values or descending times",
            fix="replace missing gaze by (0, 0), as StreamGaze stores it",
        )
    x, y = np.ascontiguousarray(xy.T)
    may_end = np.diff(t, prepend=-np.inf) > gap_s
    segments: list[tuple[int, int]] = []
    first, row, n = 0, 1, len(t)
    while row < n:
        block, end = 64, -1
        # Blocks that double keep the work proportional to the segment's length.
        while row < n and end < 0:
            stop = min(row + block, n)
            distance = np.sqrt((x[row:stop] - x[first]) ** 2 + (y[row:stop] - y[first]) ** 2)
            outside = np.flatnonzero((distance > radius_norm) & may_end[row:stop])
            end = row + int(outside[0]) if outside.size else -1
            row, block = stop, block * 2
        if end >= 0:
            segments.append((first, end))
            first, row = end, end + 1
    if n:
        segments.append((first, n))
    kept = [(a, b) for a, b in segments if t[b - 1] - t[a] >= min_duration_s]
    return Fixations.build(
        [float(t[a]) for a, _ in kept],
        [float(t[b - 1]) for _, b in kept],
        np.array([(x[a:b].mean(), y[a:b].mean()) for a, b in kept]).reshape(-1, 2),
        detector="streamgaze",
        parameters={"radius_norm": radius_norm, "min_duration_s": min_duration_s, "gap_s": gap_s, "dtype": dtype},
    )


# --- by name ----------------------------------------------------------------------------------------------------------


def _detect_device(samples: GazeSamples, device: Fixations | None) -> Fixations:
    """The table read from the file, else the runs that the file's samples name."""
    if device is not None:
        return replace(device, detector="device")
    if samples.fixation_id is None:
        raise InputError(
            f"gaze ({samples.source})",
            expected="the tracker's own fixations",
            found="none in the file",
            fix="use detector='ivt'",
        )
    named = np.flatnonzero(samples.valid & (samples.fixation_id >= 0))
    ids = samples.fixation_id[named]
    starts = np.flatnonzero(np.diff(ids, prepend=-1))  # an id that comes back later is another run
    rows = np.split(named, starts[1:]) if named.size else []
    return Fixations.build(
        samples.t_s[[r[0] for r in rows]],
        samples.t_s[[r[-1] for r in rows]],
        np.array([samples.xy_norm[r].mean(axis=0) for r in rows]).reshape(-1, 2),
        ids=ids[starts],
        detector="device",
    )


def _detect_ivt(samples: GazeSamples, device: Fixations | None, **parameters: Any) -> Fixations:
    return ivt_fixations(samples, **parameters)


def _detect_streamgaze(
    samples: GazeSamples,
    device: Fixations | None,
    *,
    dataset: str | None = None,
    frame_width_px: float | None = None,
    radius_norm: float | None = None,
    untracked_norm: tuple[float, float] | None = None,
    min_duration_s: float = 2.0,
    gap_s: float = 0.01,
    dtype: str = "float32",
) -> Fixations:
    """Our samples as StreamGaze would have stored them: one a frame, missing gaze as a point (`untracked_norm`).

    The radius comes from `dataset` (its width from `frame_width_px` or the samples' frame size) or is given itself.
    """
    if (dataset is None) == (radius_norm is None):
        raise ConfigError(f"streamgaze: pass dataset (one of {', '.join(STREAMGAZE_PRESETS)}) or radius_norm, not both")
    if radius_norm is None:
        if frame_width_px is None and samples.frame_size_px is not None:
            frame_width_px = samples.frame_size_px[0]
        radius_norm, stored_norm = streamgaze_preset(str(dataset), frame_width_px=frame_width_px)
        untracked_norm = stored_norm if untracked_norm is None else untracked_norm
    elif frame_width_px is not None:
        raise ConfigError("streamgaze: frame_width_px has no effect beside radius_norm")
    stand_in = (0.0, 0.0) if untracked_norm is None else tuple(untracked_norm)
    if len(stand_in) != 2:
        raise ConfigError(f"untracked_norm: expected (x, y), found {stand_in!r}")
    for value in stand_in:
        require_number("untracked_norm", value)
    require_number("gap_s", gap_s, at_least=0.0)
    if len(samples) > 1 and float(np.median(np.diff(samples.t_s))) <= gap_s:
        raise InputError(
            f"gaze ({samples.source})",
            expected=f"one sample a video frame: intervals above gap_s={gap_s:g} s",
            found=f"{samples.rate_hz:.0f} samples a second, at which no segment would ever end",
            fix="take the samples nearest to the video's frames, or use detector='ivt'",
        )
    xy_norm = np.where(samples.valid[:, None], samples.xy_norm, np.array(stand_in))
    found = streamgaze_fixations(
        samples.t_s, xy_norm, radius_norm=radius_norm, min_duration_s=min_duration_s, gap_s=gap_s, dtype=dtype
    )
    return replace(
        found,
        parameters={**found.parameters, "untracked_norm": stand_in},
        counts={"samples": len(samples), "samples_invalid": int((~samples.valid).sum())},
    )


@dataclass(frozen=True)
class Detector:
    """A detector by name: `run(samples, device, **parameters)`, and the parameters it takes."""

    run: Callable[..., Fixations]
    parameters: tuple[str, ...]


def _keywords(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


DETECTORS: dict[str, Detector] = {
    "device": Detector(_detect_device, ()),
    "ivt": Detector(_detect_ivt, _keywords(IVT)),
    "streamgaze": Detector(_detect_streamgaze, _keywords(_detect_streamgaze)),
}


def detect(
    samples: GazeSamples, *, detector: str = "ivt", device: Fixations | None = None, **parameters: Any
) -> Fixations:
    """The fixations of a recording by a detector of `DETECTORS`; its name and all its parameters are recorded.

    For `ivt` and `streamgaze`, `detect(samples, detector=f.detector, **f.parameters)` finds `f` again.

    Args:
        device: the tracker's own fixations, where the file has them; read by the detector `device` only.
        parameters: of `IVT`, or of `streamgaze`: dataset (with frame_width_px) or radius_norm, untracked_norm,
            min_duration_s, gap_s, dtype.

    Raises:
        ConfigError: no such detector or parameter, or a value out of range.
        InputError: the samples lack what the detector needs.
    """
    if detector not in DETECTORS:
        raise ConfigError(f"detector {detector!r} is unknown: choose one of {', '.join(DETECTORS)}")
    known = DETECTORS[detector].parameters
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ConfigError(
            f"detector {detector} has no parameter {', '.join(unknown)}: it takes {', '.join(known) or 'none'}"
        )
    return DETECTORS[detector].run(samples, device, **parameters)


def choose(recording_samples: GazeSamples, device_fixations: Fixations | None) -> str:
    """`device` where the file brings fixations of its own, as a table or as a column of its samples; else `ivt`."""
    if device_fixations is not None and len(device_fixations):
        return "device"
    ids = recording_samples.fixation_id
    has_column = ids is not None and bool((recording_samples.valid & (ids >= 0)).any())
    return "device" if has_column and device_fixations is None else "ivt"


# --- agreement --------------------------------------------------------------------------------------------------------


def event_f1(ours: Fixations, theirs: Fixations, *, iou: float = 0.5) -> dict[str, float]:
    """Agreement of two sets of events in time: precision, recall, f1, and the number matched.

    Two events match when intersection / union of their intervals is at least `iou`; each is matched once, best pairs
    first (ties: earlier ones). Centres are not compared. Two empty sets agree fully.

    Raises:
        ConfigError: `iou` outside (0, 1].
    """
    require_number("iou", iou, above=0.0)
    if iou > 1:
        raise ConfigError(f"iou: expected at most 1, found {iou:g}")
    pairs: list[tuple[float, int, int]] = []
    for row, (start, stop) in enumerate(zip(ours.start_s, ours.stop_s, strict=True)):
        shared = np.minimum(theirs.stop_s, stop) - np.maximum(theirs.start_s, start)
        union = np.maximum(theirs.stop_s, stop) - np.minimum(theirs.start_s, start)
        # Union 0: both events are the same single instant.
        overlap = np.where(union > 0, shared / np.where(union > 0, union, 1.0), 1.0)
        pairs += [(-float(overlap[other]), row, int(other)) for other in np.flatnonzero(overlap >= iou)]
    taken_ours: set[int] = set()
    taken_theirs: set[int] = set()
    for _, row, other in sorted(pairs):
        if row not in taken_ours and other not in taken_theirs:
            taken_ours.add(row)
            taken_theirs.add(other)
    matched = len(taken_ours)
    if not len(ours) and not len(theirs):
        return {"precision": 1.0, "recall": 1.0, "f1": 1.0, "matched": 0}
    return {
        "precision": matched / len(ours) if len(ours) else 0.0,
        "recall": matched / len(theirs) if len(theirs) else 0.0,
        "f1": 2 * matched / (len(ours) + len(theirs)),
        "matched": matched,
    }
