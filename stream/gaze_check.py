"""`gazeqwen gaze check`: is this gaze file right for this video? Counts, clocks, and suspicions with their reason.

Three mistakes are looked for: y counted from the other edge (`flipped_y`, and `rotated` for turned or mirrored axes),
coordinates or times in other units than they were read in (`wrong_units`), and two clocks that differ
(`clock_offset`). Units are judged by the numbers alone; axes and clock by whether gaze moves with the picture during
fixations (`gaze_agreement`), which needs a moving head: a report says when it could not judge, and never guesses.

Sign of the offset: a suggested `--gaze-offset-s -0.50` is the whole offset to read the file with (what was applied
already is included); it is added to the gaze times, so a negative one mends gaze that is stamped late.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gazeqwen.types import Fixations, GazeSamples, plain_json
from stream.fixations import choose, detect
from stream.gaze_agreement import Agreement, compare_with_motion
from stream.scene_motion import SceneMotion, estimate_motion
from stream.trackers import GazeRecording
from stream.video import iter_frames, probe

SuspicionKind = Literal["flipped_y", "wrong_units", "clock_offset", "rotated"]

MIN_GAP_S = 0.1
MAX_MOTION_S = 120.0  # of video looked at for motion: enough to judge, bounded for hour-long recordings
MIN_MOTION_INTERVAL_S = 0.025  # faster video is thinned to about 30 frames a second
MOTION_PIXELS = 160 * 120
FAR_OUTSIDE_SHARE = 0.2
BOTTOM_LEFT_FORMATS = ("pupil_core",)


@dataclass(frozen=True)
class Suspicion:
    """Something that looks wrong: what, why, the numbers behind it, and the option that would mend it ("" if none)."""

    kind: SuspicionKind
    reason: str
    flag: str
    evidence: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckReport:
    """What `check` found. Shares are of all samples, NaN where there are none; times are seconds.

    Attributes:
        valid_share: the tracker saw the eye. off_frame_share: valid, but outside the frame.
        gap_limit_s: a stretch without valid gaze longer than this is a gap (100 ms, or five sample intervals).
        gaze_span_s, video_span_s: first and last moment of each, on the recording's clock.
        overlap_s: what they share; `overlap_of_gaze`, `overlap_of_video` as shares of each.
        counts: of the reader, by name (rows_read, rows_unreadable, ...).
        agreement: the evidence for axes and clock, or why there is none.
    """

    video: str
    gaze: str
    gaze_format: str
    samples: int
    rate_hz: float
    valid_share: float
    off_frame_share: float
    gap_limit_s: float
    gaps: int
    gap_median_s: float
    gap_max_s: float
    gaze_span_s: tuple[float, float]
    video_span_s: tuple[float, float]
    overlap_s: float
    overlap_of_gaze: float
    overlap_of_video: float
    fixations: int
    fixation_median_s: float
    detector: str
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    agreement: Agreement
    suspicions: tuple[Suspicion, ...]

    @property
    def kinds(self) -> set[SuspicionKind]:
        """The kinds of suspicion raised."""
        return {suspicion.kind for suspicion in self.suspicions}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes None."""
        return plain_json(asdict(self))

    def to_text(self, *, width: int = 80) -> str:
        """For a terminal of `width` columns."""
        agreement = self.agreement
        gaps = (
            "none"
            if not self.gaps
            else f"{self.gaps}, median {self.gap_median_s:.2f} s, longest {self.gap_max_s:.2f} s"
        )
        rows = [
            ("video", f"{self.video}, {_seconds(self.video_span_s)}"),
            ("gaze", f"{self.gaze} ({self.gaze_format}), {_seconds(self.gaze_span_s)}"),
            ("samples", f"{self.samples} at {_number(self.rate_hz, '.1f')} Hz"),
            ("valid", _share(self.valid_share)),
            ("off frame", _share(self.off_frame_share)),
            (f"gaps > {self.gap_limit_s:.2g} s", gaps),
            (
                "clocks share",
                f"{self.overlap_s:.2f} s: {_share(self.overlap_of_gaze)} of the gaze, "
                f"{_share(self.overlap_of_video)} of the video",
            ),
            (
                "fixations",
                f"{self.fixations}, median {1000 * self.fixation_median_s:.0f} ms ({self.detector})"
                if self.fixations
                else f"none ({self.detector})",
            ),
            (
                "rows",
                ", ".join(f"{name} {n}" for name, n in self.counts.items() if n or name == "rows_read")
                or "not counted",
            ),
            (
                "motion check",
                _motion_text(agreement),
            ),
            *(("note", note) for note in self.notes),
        ]
        lines = [
            textwrap.fill(
                text, width, initial_indent=f"{name:<13} ", subsequent_indent=" " * 14, break_on_hyphens=False
            )
            for name, text in rows
        ]
        if not self.suspicions:
            sure = agreement.axes_clear and agreement.clock_clear
            clear = "nothing suspicious" if sure else "nothing suspicious in what could be judged"
            lines.append(f"{'verdict':<14}{clear}")
        for suspicion in self.suspicions:
            text = f"{suspicion.kind}: {suspicion.reason}" + ("; try" if suspicion.flag else "")
            lines.append(
                textwrap.fill(
                    text,
                    width,
                    initial_indent=f"{'SUSPICION':<14}",
                    subsequent_indent=" " * 14,
                    break_on_hyphens=False,
                )
            )
            if suspicion.flag:  # on a line of its own, whole, to be copied
                lines.append(" " * (14 if len(suspicion.flag) + 14 <= width else 2) + suspicion.flag)
        return "\n".join(lines)


def check(
    video_path: str | Path,
    recording: GazeRecording,
    *,
    applied_offset_s: float = 0.0,
    applied_y_origin: Literal["top", "bottom"] | None = None,
    fixations: Fixations | None = None,
    motion: SceneMotion | None = None,
    progress: Callable[[float], object] | None = None,
) -> CheckReport:
    """Checks a gaze recording against its video.

    Args:
        video_path: the scene video.
        recording: what `stream.trackers.read_gaze` gave.
        applied_offset_s, applied_y_origin: the options it was read with, so that suggestions name the whole option.
        fixations: those to report; None takes the file's own, else detects them.
        motion: of this video, where it was estimated before (`motion_of`).
        progress: called with the time of each frame compared, seconds.

    Raises:
        InputError: the video can't be read.
    """
    samples = recording.samples
    info = probe(video_path)
    size_px = (info.width_px, info.height_px)
    units = tuple(_for_format(suspicion, recording) for suspicion in unit_suspicions(samples, size_px))
    if fixations is None:
        name = choose(samples, recording.fixations)
        aspect = {"frame_aspect": info.width_px / info.height_px} if name == "ivt" else {}
        fixations = detect(samples, detector=name, device=recording.fixations, **aspect)
    video_span = (0.0, info.duration_s)
    gaze_span = _span(samples, fixations)
    shared = _overlap(gaze_span, video_span)
    if units:
        agreement = Agreement(False, "the units look wrong, mend them first")
    elif not len(samples):
        agreement = Agreement(False, "the file holds no gaze samples")
    elif _apart(gaze_span, video_span):
        agreement = Agreement(False, "gaze and video share no time")
    else:
        if motion is None:
            motion = motion_of(video_path, from_s=max(0.0, gaze_span[0]), to_s=info.duration_s, progress=progress)
        agreement = compare_with_motion(samples, motion)
    y_origin = applied_y_origin or ("bottom" if recording.format in BOTTOM_LEFT_FORMATS else "top")
    suspicions = [
        *units,
        *(() if units else _clock_suspicions(gaze_span, video_span, agreement, applied_offset_s)),
        *_axes_suspicions(agreement, y_origin),
    ]
    n = len(samples)
    limit_s = MIN_GAP_S if n < 2 else max(MIN_GAP_S, 5.0 / samples.rate_hz)
    gaps = gap_lengths(samples, limit_s=limit_s)
    return CheckReport(
        video=Path(video_path).name,
        gaze=recording.path.name,
        gaze_format=recording.format,
        samples=n,
        rate_hz=samples.rate_hz,
        valid_share=float(samples.valid.mean()) if n else float("nan"),
        off_frame_share=float((samples.valid & ~samples.in_frame).mean()) if n else float("nan"),
        gap_limit_s=limit_s,
        gaps=gaps.size,
        gap_median_s=float(np.median(gaps)) if gaps.size else 0.0,
        gap_max_s=float(gaps.max()) if gaps.size else 0.0,
        gaze_span_s=gaze_span,
        video_span_s=video_span,
        overlap_s=shared,
        overlap_of_gaze=_part(shared, gaze_span),
        overlap_of_video=_part(shared, video_span),
        fixations=len(fixations),
        fixation_median_s=float(np.median(fixations.duration_s)) if len(fixations) else float("nan"),
        detector=fixations.detector,
        counts=dict(samples.counts if n or recording.fixations is None else recording.fixations.counts),
        notes=(*recording.notes, *_looked_at(motion, gaze_span, info.duration_s)),
        agreement=agreement,
        suspicions=tuple(suspicions),
    )


def _looked_at(motion: SceneMotion | None, gaze_span: tuple[float, float], duration_s: float) -> tuple[str, ...]:
    """A word on what the motion check did not see, for recordings longer than it looks at."""
    first_s = max(0.0, gaze_span[0])
    if motion is None or duration_s - first_s <= MAX_MOTION_S:
        return ()
    return (f"the motion check looked at {first_s:.0f} to {first_s + MAX_MOTION_S:.0f} s of {duration_s:.0f} s only",)


def motion_of(
    video_path: str | Path,
    *,
    from_s: float = 0.0,
    to_s: float | None = None,
    progress: Callable[[float], object] | None = None,
) -> SceneMotion | None:
    """Scene motion of at most `MAX_MOTION_S` seconds of the video, from `from_s` on; decoded small."""
    stop_s = from_s + MAX_MOTION_S
    last_s = None if to_s is None or stop_s >= to_s else stop_s

    def thinned() -> Iterator[tuple[float, np.ndarray]]:
        next_s = -np.inf
        for frame in iter_frames(video_path, start_s=from_s, stop_s=last_s, max_pixels=MOTION_PIXELS):
            if frame.time_s >= stop_s:
                return
            if frame.time_s >= next_s:
                next_s = frame.time_s + MIN_MOTION_INTERVAL_S
                if progress is not None:
                    progress(frame.time_s)
                yield frame.time_s, frame.image

    return estimate_motion(thinned())


def gap_lengths(samples: GazeSamples, *, limit_s: float) -> np.ndarray:
    """(G,) seconds without valid gaze, those longer than `limit_s`, from the first sample of the file to the last."""
    if not len(samples):
        return np.zeros(0)
    edges = np.concatenate([samples.t_s[:1], samples.t_s[samples.valid], samples.t_s[-1:]])
    lengths = np.diff(edges)
    return lengths[lengths > limit_s]


def unit_suspicions(samples: GazeSamples, frame_size_px: tuple[int, int]) -> tuple[Suspicion, ...]:
    """Coordinates that can't be normalised ones, and times that can't be seconds, by their numbers alone."""
    found = []
    xy = samples.xy_norm[samples.valid]
    if len(xy) >= 20:
        far = float(((xy < -1) | (xy > 2)).any(axis=1).mean())
        high = np.percentile(np.abs(xy), 90, axis=0)
        if far > FAR_OUTSIDE_SHARE:
            found.append(_coordinate_suspicion(xy, far, high, frame_size_px))
        elif (widest := float(np.percentile(np.abs(xy), 99, axis=0).max())) < 0.02:
            found.append(
                Suspicion(
                    "wrong_units",
                    f"all gaze lies within {widest:.4f} of the frame's corner, as if divided by its size twice",
                    "--xy-unit norm",
                    {"p99_abs": widest},
                )
            )
    rate = samples.rate_hz
    if len(samples) >= 20 and not 1.0 <= rate <= 5000.0:
        guesses = [(name, rate * ticks) for name, ticks in (("ms", 1e3), ("us", 1e6), ("ns", 1e9))]
        unit = next((name for name, hz in guesses if 5.0 <= hz <= 5000.0), None)
        unit = "s" if rate > 5000.0 else unit
        if unit is not None:
            found.append(
                Suspicion(
                    "wrong_units",
                    f"{rate:.4g} samples a second is no tracker's rate; the times look like {unit}",
                    f"--time-unit {unit}",
                    {"rate_hz": rate},
                )
            )
    return tuple(found)


def _for_format(suspicion: Suspicion, recording: GazeRecording) -> Suspicion:
    """The option as this file takes it: units can be said of plain tables only, and of columns that are named."""
    if not recording.columns:
        return replace(suspicion, flag="")
    named = ",".join(f"{role}={name}" for role, name in recording.columns.items() if name != role)
    return replace(suspicion, flag=f"--columns {shlex.quote(named)} {suspicion.flag}" if suspicion.flag else "")


def _coordinate_suspicion(xy: np.ndarray, far: float, high: np.ndarray, frame_size_px: tuple[int, int]) -> Suspicion:
    width, height = frame_size_px
    evidence = {"far_outside_share": far, "p90_abs_x": float(high[0]), "p90_abs_y": float(high[1])}
    start = f"{far:.0%} of the valid gaze lies more than a whole frame outside"
    if (xy[:, 0] < 0).mean() > 0.2:
        return Suspicion("wrong_units", f"{start}, on both sides: angles rather than coordinates?", "", evidence)
    if high.max() <= 110 and min(width, height) > 300:
        guess, flag = "per cent of the frame", ""
    elif high[0] <= 1.2 * width and high[1] <= 1.2 * height:
        guess, flag = f"pixels of this {width}x{height} frame", f"--xy-unit px --frame-size {width}x{height}"
    else:
        guess = f"pixels of a larger frame (90 % within {high[0]:.0f}x{high[1]:.0f}; this video has {width}x{height})"
        flag = "--xy-unit px --frame-size WIDTHxHEIGHT"
    return Suspicion("wrong_units", f"{start}: the numbers look like {guess}", flag, evidence)


def _clock_suspicions(
    gaze_span: tuple[float, float], video_span: tuple[float, float], agreement: Agreement, applied_offset_s: float
) -> Iterator[Suspicion]:
    if _apart(gaze_span, video_span):
        offset_s = applied_offset_s + video_span[0] - gaze_span[0]
        yield Suspicion(
            "clock_offset",
            f"gaze ({_seconds(gaze_span)}) and video ({_seconds(video_span)}) share no time; the option shown holds if "
            "both began together",
            f"--gaze-offset-s {offset_s:.2f}",
            {"gaze_start_s": gaze_span[0], "video_stop_s": video_span[1]},
        )
    elif agreement.wrong_clock:
        late = "late" if agreement.lag_s > 0 else "early"
        yield Suspicion(
            "clock_offset",
            f"gaze follows the scene best when taken as {abs(1000 * agreement.lag_s):.0f} ms {late}",
            f"--gaze-offset-s {applied_offset_s - agreement.lag_s:.2f}",
            {"lag_s": agreement.lag_s, "gain": agreement.lag_gain, "t": agreement.lag_t},
        )


def _axes_suspicions(agreement: Agreement, y_origin: str) -> Iterator[Suspicion]:
    if not agreement.wrong_axes:
        return
    evidence = {"explained": agreement.explained, "gain": agreement.axes_gain, "t": agreement.axes_t}
    if agreement.axes == "flipped_y":
        other = "bottom" if y_origin == "top" else "top"
        reason = "while the eyes rest on something, gaze moves up where the scene moves down"
        yield Suspicion("flipped_y", reason, f"--y-origin {other}", evidence)
    else:
        how = agreement.axes.replace("_", " ")
        reason = f"gaze follows the scene only when its axes are changed ({how}): is it of the upright frame?"
        yield Suspicion("rotated", reason, "", evidence)


def _motion_text(agreement: Agreement) -> str:
    if not agreement.judged:
        return f"can't judge clock or axes: {agreement.reason}"
    doubts = [
        *(() if agreement.axes_clear else ("up and down can't be told apart for certain",)),
        *(() if agreement.clock_clear else ("the clock is not certain",)),
    ]
    return (
        f"gaze follows the scene ({agreement.explained:.0%} of its motion explained at a lag of "
        f"{1000 * agreement.lag_s:+.0f} ms, axes {agreement.axes.replace('_', ' ')})"
        + "".join(f"; {d}" for d in doubts)
    )


def _span(samples: GazeSamples, fixations: Fixations) -> tuple[float, float]:
    """First and last moment of the gaze, of its fixations where the file holds no samples; NaN without either."""
    if len(samples):
        return float(samples.t_s[0]), float(samples.t_s[-1])
    if len(fixations):
        return float(fixations.start_s[0]), float(fixations.stop_s.max())
    return float("nan"), float("nan")


def _apart(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """No moment in common; False where a span is unknown."""
    return a[1] < b[0] or a[0] > b[1]


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return max(0.0, shared) if np.isfinite(shared) else 0.0


def _part(shared_s: float, span: tuple[float, float]) -> float:
    length = span[1] - span[0]
    return min(1.0, shared_s / length) if length > 0 else float("nan")


def _seconds(span: tuple[float, float]) -> str:
    return f"{span[0]:.2f} to {span[1]:.2f} s" if np.isfinite(span[0]) else "no times"


def _share(value: float) -> str:
    return f"{value:.1%}" if np.isfinite(value) else "none"


def _number(value: float, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "-"
