"""Gaze as trackers spoil it, by name: what training sees so that a model stands noise, bias, delay and gaps.

They act on the gaze events of a video's steps and partial steps, after fixations were found and before an arm prepares
the steps; frames stay as they are, so cached frozen features do too. So they reach arms that inject residuals or put
gaze in the prompt, and not arms whose frames show it (`Arm.changes_frames`).

    video ─► "noise" ─► "latency" ─► ... ─► video   each draws by (seed, epoch, video, place in the list)

Every event keeps its row: one that leaves the frame, or is lost, becomes `valid=False` (only "latency" moves events
between steps). Published code clamps to the frame instead (phamtrongthang123/gazeqwen, train.py: noise of 0.02 on
fixations, of which a tenth is dropped), which puts gaze on the frame's edge where nobody looked.

Shapes: K gaze events of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gazeqwen.errors import ConfigError
from gazeqwen.train.examples import TrainingVideo
from gazeqwen.train.losses import build
from gazeqwen.types import GazeEvents, Step, asof


class Augmentation(Protocol):
    def __call__(self, video: TrainingVideo, rng: np.random.Generator) -> TrainingVideo: ...


def build_augmentations(config: Sequence[Mapping[str, Any]]) -> tuple[Augmentation, ...]:
    """From a list of {"name": ..., "params": {...}}, in the order in which they apply.

    Raises:
        ConfigError: an unknown name, parameter or key (the message lists those known), or a value out of range.
    """
    made = []
    for entry in config:
        if not isinstance(entry, Mapping) or "name" not in entry or set(entry) - {"name", "params"}:
            raise ConfigError(f"augment: entries of name and params, got {entry!r}")
        name, params = entry["name"], entry.get("params") or {}
        for key, value in params.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _need(is_number and np.isfinite(value), name, f"a number for {key}, got {value!r}")
        made.append(build(AUGMENTATIONS, "augmentation", name, params))
    return tuple(made)


def augment(
    video: TrainingVideo, augmentations: Sequence[Augmentation], *, seed: int, epoch: int, index: int
) -> TrainingVideo:
    """The video with all of them applied: the same for the same numbers, whatever was drawn before.

    Args:
        seed, epoch, index: of the run, the pass over the data, and the video in its source; not negative.
    """
    for place, one in enumerate(augmentations):
        video = one(video, np.random.default_rng((seed, epoch, index, place)))
    return video


@dataclass(frozen=True)
class Noise:
    """Each event is off by a draw of its own: independent on both axes, sd `sd_norm` of the frame's width and height.

    A fixation that goes on over several steps is an event of each, and is drawn for each.
    """

    sd_norm: float

    def __post_init__(self) -> None:
        _need(self.sd_norm >= 0, "noise", f"sd_norm >= 0, got {self.sd_norm}")

    def __call__(self, video: TrainingVideo, rng: np.random.Generator) -> TrainingVideo:
        return _map_gaze(video, lambda step: _moved(step.gaze, rng.normal(0, self.sd_norm, (len(step.gaze), 2))))


@dataclass(frozen=True)
class Bias:
    """A calibration error: one offset for the whole video, sd `sd_norm` on each axis."""

    sd_norm: float

    def __post_init__(self) -> None:
        _need(self.sd_norm >= 0, "bias", f"sd_norm >= 0, got {self.sd_norm}")

    def __call__(self, video: TrainingVideo, rng: np.random.Generator) -> TrainingVideo:
        offset = rng.normal(0, self.sd_norm, 2)
        return _map_gaze(video, lambda step: _moved(step.gaze, offset))


@dataclass(frozen=True)
class Latency:
    """Gaze that comes late by one delay for the whole video, uniform in 0 to `max_s` seconds.

    Events move into the steps in which they come, a fixation in parts where it reaches over a step's end; what comes
    after the last step is lost. With fixations of a file this equals steps made of the delayed recording (a test); the
    single samples are those that the video had chosen, one for each of its frames without a fixation.

    A step gets only what it or an older step had, and a partial step what it or the whole steps before it had. So
    nothing later than its own end reaches it, not even through the centre of a fixation that was still open.
    """

    max_s: float

    def __post_init__(self) -> None:
        _need(self.max_s >= 0, "latency", f"max_s >= 0, got {self.max_s}")

    def __call__(self, video: TrainingVideo, rng: np.random.Generator) -> TrainingVideo:
        return delayed(video, float(rng.uniform(0, self.max_s)))


@dataclass(frozen=True)
class Dropout:
    """Events that the tracker lost.

    Args:
        share: of them, on average, in [0, 1].
        burst_s: mean length of a gap (exponential, as the pauses between them): every event whose time falls into one
            is lost. 0 loses each event by itself.
    """

    share: float
    burst_s: float = 0.0

    def __post_init__(self) -> None:
        _need(0 <= self.share <= 1, "dropout", f"share in [0, 1], got {self.share}")
        _need(self.burst_s >= 0, "dropout", f"burst_s >= 0, got {self.burst_s}")

    def __call__(self, video: TrainingVideo, rng: np.random.Generator) -> TrainingVideo:
        if not 0 < self.share < 1 or self.burst_s == 0:
            return _map_gaze(video, lambda step: _lost(step.gaze, rng.random(len(step.gaze)) < self.share))
        spans_s = [step.span_s for step in _all_steps(video)]
        if not spans_s:
            return video
        edges_s = self._edges(min(start for start, _ in spans_s), max(stop for _, stop in spans_s), rng)
        return _map_gaze(video, lambda step: _lost(step.gaze, np.searchsorted(edges_s, step.gaze.t_s) % 2 == 1))

    def _edges(self, start_s: float, stop_s: float, rng: np.random.Generator) -> np.ndarray:
        """Where gaps begin and end in turn, up to `stop_s` at least. Exponential lengths have no memory, so a video may
        begin within a gap as if that had just begun."""
        pause_s = self.burst_s * (1 - self.share) / self.share
        edges = [start_s if rng.random() < self.share else start_s + rng.exponential(pause_s)]
        while edges[-1] <= stop_s:
            in_gap = len(edges) % 2 == 1
            edges.append(edges[-1] + rng.exponential(self.burst_s if in_gap else pause_s))
        return np.array(edges)


@dataclass(frozen=True)
class NullGaze:
    """No gaze, as the arm `null` has none: so that one set of weights works with a tracker and without.

    Args:
        video: probability that a video has none at all.
        step: probability for each step by itself, in the other videos.
    """

    video: float = 0.0
    step: float = 0.0

    def __post_init__(self) -> None:
        for name in ("video", "step"):
            _need(0 <= getattr(self, name) <= 1, "null_gaze", f"{name} in [0, 1], got {getattr(self, name)}")

    def __call__(self, video: TrainingVideo, rng: np.random.Generator) -> TrainingVideo:
        share = 1.0 if rng.random() < self.video else self.step
        return _map_gaze(video, lambda step: _lost(step.gaze, np.full(len(step.gaze), rng.random() < share)))


JOIN_S = 1e-6  # parts of a fixation in neighbouring steps meet within this

AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "noise": Noise,
    "bias": Bias,
    "latency": Latency,
    "dropout": Dropout,
    "null_gaze": NullGaze,
}


def _need(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise ConfigError(f"augmentation {name!r}: {message}")


# -- events ------------------------------------------------------------------------------------------------------------


def _moved(gaze: GazeEvents, offset: np.ndarray) -> GazeEvents:
    """Events (K, 2) moved; those that leave the frame are lost."""
    xy_norm = gaze.xy_norm + offset
    with np.errstate(invalid="ignore"):
        inside = np.asarray(((xy_norm >= 0) & (xy_norm <= 1)).all(axis=1))
    return _lost(replace(gaze, xy_norm=xy_norm), ~inside)


def _lost(gaze: GazeEvents, rows: np.ndarray) -> GazeEvents:
    """The same without the positions of these (K,) events: their rows stay, and say that gaze was missing."""
    valid = gaze.valid & ~rows
    begin_s, end_s = (gaze.t_s - gaze.duration_s)[valid, None], gaze.t_s[valid, None]
    reaches = ((gaze.sample_t_s >= begin_s) & (gaze.sample_t_s <= end_s)).any(axis=0)
    xy_norm = np.where(valid[:, None], gaze.xy_norm, np.nan)
    return replace(gaze, xy_norm=xy_norm, valid=valid, sample_used=gaze.sample_used & reaches)


def _all_steps(video: TrainingVideo) -> list[Step]:
    """Whole steps, then partial ones, each once: questions of one moment share theirs."""
    tails = {id(ask.tail): ask.tail for ask in video.asks if ask.tail is not None}
    return [*video.steps, *tails.values()]


def _map_gaze(video: TrainingVideo, change: Callable[[Step], GazeEvents]) -> TrainingVideo:
    """With the gaze of every step changed, in order; a partial step that questions share is changed once."""
    changed = {id(step): replace(step, gaze=change(step)) for step in _all_steps(video)}
    steps = [changed[id(step)] for step in video.steps]
    asks = [ask if ask.tail is None else replace(ask, tail=changed[id(ask.tail)]) for ask in video.asks]
    return replace(video, steps=steps, asks=asks)


# -- latency -----------------------------------------------------------------------------------------------------------


def delayed(video: TrainingVideo, delay_s: float) -> TrainingVideo:
    """All gaze of the video `delay_s` seconds late; see `Latency`. 0 gives the video as it is."""
    if delay_s == 0:
        return video
    gaze = [step.gaze for step in video.steps]
    late = {id(step): _late(gaze[: k + 1], step, delay_s) for k, step in enumerate(video.steps)}
    for ask in video.asks:
        if ask.tail is not None and id(ask.tail) not in late:
            late[id(ask.tail)] = _late([*gaze[: ask.stop], ask.tail.gaze], ask.tail, delay_s)
    return _map_gaze(video, lambda step: late[id(step)])


def _late(known: Sequence[GazeEvents], step: Step, delay_s: float) -> GazeEvents:
    """Of what is known at the step's end, the part that comes within its span."""
    start_s, stop_s = step.span_s
    # Newest first, as far back as anything can still come.
    near = []
    for gaze in reversed(known):
        newest_s = max(gaze.t_s.max(initial=-np.inf), gaze.sample_t_s.max(initial=-np.inf))
        if newest_s != -np.inf and newest_s + delay_s <= start_s:
            break
        near.append(gaze)
    near.reverse()

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(gaze, name) for gaze in near])

    end_s, valid, is_fixation = column("t_s") + delay_s, column("valid"), column("is_fixation")
    begin_s = end_s - column("duration_s")
    kept = (end_s > start_s) & (begin_s <= stop_s)
    for row in np.flatnonzero(is_fixation & kept):
        # A fixation that went on over a step's end is one event again, with the centre it had later.
        joins = (
            is_fixation & kept & (valid == valid[row]) & (np.abs(begin_s - end_s[row]) < JOIN_S) & (end_s > end_s[row])
        )
        if joins.any():
            begin_s[np.argmax(joins)] = begin_s[row]
            kept[row] = False
    order = np.flatnonzero(kept)
    order = order[np.argsort(np.minimum(end_s, stop_s)[order], kind="stable")]
    t_s = np.minimum(end_s, stop_s)[order]
    sample_t_s = column("sample_t_s") + delay_s
    within = (sample_t_s > start_s) & (sample_t_s <= stop_s)
    frames_s = step.vjepa_times_s
    return GazeEvents(
        t_s=t_s,
        xy_norm=column("xy_norm")[order],
        duration_s=np.maximum(t_s - np.maximum(begin_s[order], start_s), 0.0),
        age_s=stop_s - t_s,
        valid=valid[order],
        is_fixation=is_fixation[order],
        frame_t_s=frames_s[asof(frames_s, t_s, tolerance_s=np.inf, method="nearest")],
        sample_t_s=sample_t_s[within],
        sample_valid=column("sample_valid")[within],
        sample_used=column("sample_used")[within],
        open_fixations=int((is_fixation & kept & (end_s > stop_s)).sum()),
    )
