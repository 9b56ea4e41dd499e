"""What a fixation rested on and what was around it, from annotated boxes. Where there are none: captioner.py.

StreamGaze asks a vision-language model for the gazed object, for what else is in the field of view, and for what is
outside it. With boxes it is geometry: the gazed object is the smallest box that holds the gaze point; under `causal`
also one within `SLACK_DEG` of it, the accuracy of a good eye tracker.

Under `causal` a fixation is judged by its first `LABEL_S` seconds alone: no question is asked about it earlier, so what
it is said to rest on at a question's time never comes from later gaze or frames. Under `streamgaze` its centre, a mean
over all of it, is compared once a second, as the reference does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.streamgaze.pipeline.annotations import Annotations
from benchmarks.streamgaze.pipeline.fov import HFOV_DEG, Shape, gap_px, in_region, radius_px
from gazeqwen.event_log import Rules
from gazeqwen.types import GazeSamples

SLACK_DEG = 1.0
LABEL_S = 0.1  # gazeqwen.question_rules asks about gaze that has rested for at least as long
MAX_MOMENTS = 9  # at which a fixation is compared with the boxes
Point = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """One fixation and what it rested on.

    Attributes:
        id: of the recording's fixation.
        xy_norm: its centre.
        gazed: None for nothing in particular.
        in_fov, outside_fov: object names; `in_fov` begins with `gazed`, nearest first.
        steady: the scene check kept it.
        named: False where the captioner gave no usable answer: then the objects are not known.
        attributes: of the gazed object, by name.
    """

    id: int
    start_s: float
    stop_s: float
    xy_norm: Point
    gazed: str | None = None
    in_fov: tuple[str, ...] = ()
    outside_fov: tuple[str, ...] = ()
    steady: bool = True
    named: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """The geometry of a recording's frame: its size and the field of view around gaze."""

    size_px: tuple[int, int]
    radius_px: int
    slack_px: float
    shape: Shape

    @classmethod
    def of(cls, size_px: tuple[int, int], *, rules: Rules, hfov_deg: float = HFOV_DEG) -> View:
        """The square of the rules `streamgaze`, without slack, or the circle of `causal`."""
        causal = rules == "causal"
        slack_px = SLACK_DEG * size_px[0] / hfov_deg if causal else 0.0
        return cls(size_px, radius_px(size_px[0], hfov_deg=hfov_deg), slack_px, "circle" if causal else "square")

    def distance_px(self, box_norm: np.ndarray, xy_norm: Point) -> float:
        """From gaze to a box; 0 inside it."""
        return math.hypot(*gap_px(box_norm, xy_norm, size_px=self.size_px))


def gazed_object(boxes: Sequence[tuple[str, np.ndarray]], xy_norm: Point, view: View) -> str | None:
    """The smallest box under gaze, else the nearest one within the tracker's accuracy, else None."""

    def rank(item: tuple[str, np.ndarray]) -> tuple[float, float, str]:
        name, box = item
        return view.distance_px(box, xy_norm), float((box[2] - box[0]) * (box[3] - box[1])), name

    near = [item for item in boxes if rank(item)[0] <= view.slack_px]
    return min(near, key=rank)[0] if near else None


def look_from_boxes(look: Look, annotations: Annotations, moments: Sequence[tuple[float, Point]], view: View) -> Look:
    """The look with its objects: the gazed one by majority over the moments, the rest if ever in the field of view.

    Args:
        moments: (time_s, gaze) at which boxes and gaze are compared, at least one.
    """
    votes: Counter[str | None] = Counter()
    distances: dict[str, list[float]] = {}
    inside = set()
    boxes_of = annotations.boxes_at([time_s for time_s, _ in moments])
    for boxes, (_, xy_norm) in zip(boxes_of, moments, strict=True):
        votes[gazed_object(boxes, xy_norm, view)] += 1
        for name, box in boxes:
            distances.setdefault(name, []).append(view.distance_px(box, xy_norm))
            if in_region(box, xy_norm, size_px=view.size_px, radius_px=view.radius_px, shape=view.shape):
                inside.add(name)
    gazed = votes.most_common(1)[0][0]
    order = sorted(distances, key=lambda name: (name != gazed, sum(distances[name]) / len(distances[name]), name))
    return Look(
        look.id,
        look.start_s,
        look.stop_s,
        look.xy_norm,
        gazed,
        tuple(name for name in order if name in inside or name == gazed),
        tuple(name for name in order if name not in inside and name != gazed),
        look.steady,
    )


def moments_of(look: Look, samples: GazeSamples, *, rules: Rules) -> list[tuple[float, Point]]:
    """(time_s, gaze) at which boxes and gaze are compared: under `causal` valid samples of the fixation's first
    `LABEL_S` seconds, each with its own gaze, so that a moving head does not matter; else its centre once a second.

    A fixation without samples (a file of fixations) has its centre only: under `causal` it is taken at its start.
    """
    if rules == "streamgaze":
        return [(time_s, look.xy_norm) for time_s in seconds_of(look)]
    stop_s = min(look.start_s + LABEL_S, look.stop_s)
    rows = np.flatnonzero((samples.t_s >= look.start_s) & (samples.t_s <= stop_s) & samples.valid)
    if not rows.size:
        return [(look.start_s, look.xy_norm)]
    rows = rows[np.unique(np.linspace(0, rows.size - 1, MAX_MOMENTS).round().astype(int))]
    points = samples.xy_norm[rows].tolist()
    return [(float(t), (x, y)) for t, (x, y) in zip(samples.t_s[rows], points, strict=True)]


def picture_moments(look: Look, samples: GazeSamples, *, rules: Rules) -> list[tuple[float, Point]]:
    """(time_s, gaze) of the pictures that a captioner is shown: the last of `moments_of` under `causal`, all of them
    under `streamgaze`."""
    moments = moments_of(look, samples, rules=rules)
    return moments if rules == "streamgaze" else moments[-1:]


def seconds_of(look: Look) -> list[float]:
    """One moment a second from the fixation's start, before its end; at least one."""
    return [look.start_s + k for k in range(max(1, math.ceil(look.stop_s - look.start_s)))]
