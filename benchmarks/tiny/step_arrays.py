"""Steps without frames as a few arrays, and back: what a file of them holds. Every number survives bit for bit.

Shapes: N steps; of all steps one after the other M V-JEPA frame times, K gaze events and S gaze samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gazeqwen.types import GazeEvents, Step, blank_frames

EVENTS = ("t_s", "xy_norm", "duration_s", "age_s", "valid", "is_fixation", "frame_t_s")
SAMPLES = ("sample_t_s", "sample_valid", "sample_used")


def arrays_of(steps: Sequence[Step]) -> dict[str, np.ndarray]:
    """The steps' times, spans, gaze and flags. Frames of one size; their pixels are left out."""
    if not steps:
        return {}
    first = steps[0]
    arrays = {
        "frame_times_s": np.stack([step.frame_times_s for step in steps]),
        "span_s": np.array([step.span_s for step in steps]),
        "flags": np.array([(step.repeated, step.partial) for step in steps]),
        "open_fixations": np.array([step.gaze.open_fixations for step in steps]),
        "counts": np.array([(len(s.vjepa_times_s), len(s.gaze), len(s.gaze.sample_t_s)) for s in steps]),
        "size_px": np.array([first.frames.shape[1:3], first.vjepa_frames.shape[1:3]]),
        "vjepa_times_s": np.concatenate([step.vjepa_times_s for step in steps]),
    }
    return arrays | {name: np.concatenate([getattr(s.gaze, name) for s in steps]) for name in EVENTS + SAMPLES}


def steps_of(arrays: Mapping[str, np.ndarray]) -> list[Step]:
    """The steps as placeholders. The arrays are shared, not copied."""
    if not arrays:
        return []
    stops = np.cumsum(arrays["counts"], axis=0)
    starts = stops - arrays["counts"]
    size, vjepa_size = (tuple(size) for size in arrays["size_px"].tolist())
    steps = []
    for row, ((m0, k0, s0), (m1, k1, s1)) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        gaze = {name: arrays[name][k0:k1] for name in EVENTS} | {name: arrays[name][s0:s1] for name in SAMPLES}
        start_s, stop_s = arrays["span_s"][row].tolist()
        steps.append(
            Step(
                frames=blank_frames((2, *size, 3)),
                frame_times_s=arrays["frame_times_s"][row],
                span_s=(start_s, stop_s),
                vjepa_frames=blank_frames((m1 - m0, *vjepa_size, 3)),
                vjepa_times_s=arrays["vjepa_times_s"][m0:m1],
                gaze=GazeEvents(**gaze, open_fixations=int(arrays["open_fixations"][row])),
                repeated=bool(arrays["flags"][row, 0]),
                partial=bool(arrays["flags"][row, 1]),
                placeholder=True,
            )
        )
    return steps
