"""What travels between the rooms: gaze, fixations, steps, questions, answers, and the one as-of alignment.

Conventions (docs/gaze_formats.md): times are seconds (float64) on the recording's clock, whose zero is the first video
frame; coordinates are normalised to [0, 1] of the upright frame, origin top-left, x right, y down. Missing gaze is
`valid=False` with NaN coordinates, never (0, 0), and is never dropped without being counted. Nothing here reads a file.

Shapes: N gaze samples, F fixations, K gaze events of a step, M V-JEPA frames of a step, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gazeqwen.errors import FutureDataError, InputError

AsofMethod = Literal["backward", "forward", "nearest"]


def asof(
    source_t_s: np.ndarray,
    query_t_s: np.ndarray | Sequence[float] | float,
    *,
    tolerance_s: float,
    method: AsofMethod = "backward",
    on_missing: Literal["raise", "mark"] = "raise",
    now_s: float | None = None,
) -> np.ndarray:
    """For each query time, the row of `source_t_s` that stands for it. The only time join in the project.

    Args:
        source_t_s: (N,) ascending times, seconds. Of equal times the last row wins for `backward` and `nearest`.
        query_t_s: (Q,) times, seconds, in any order.
        tolerance_s: largest distance in seconds between a query and its row.
        method: `backward` takes the newest row at or before the query (the causal rule), `forward` the oldest at or
            after it, `nearest` the closer of the two (the earlier one in a tie).
        on_missing: `raise` names the times without a row; `mark` returns -1 for them.
        now_s: when given, no row later than this is ever returned, and a query later than it raises. Not NaN.

    Returns:
        (Q,) int64 rows, -1 where there is none and `on_missing="mark"`.

    Raises:
        FutureDataError: a query lies after `now_s`.
        InputError: a query or `now_s` is not a number, sources are unsorted, or (with `raise`) a query has no row.
    """
    source = np.asarray(source_t_s, dtype=np.float64).reshape(-1)
    query = np.asarray(query_t_s, dtype=np.float64).reshape(-1)
    if method not in ("backward", "forward", "nearest"):
        raise InputError("asof", expected="method backward, forward or nearest", found=repr(method))
    if not tolerance_s >= 0:
        raise InputError("asof", expected="tolerance_s >= 0 seconds", found=str(tolerance_s))
    if not np.isfinite(source).all() or (source[1:] < source[:-1]).any():
        raise InputError(
            "asof", expected="finite source times in ascending order", found="unsorted or non-finite times"
        )
    if not np.isfinite(query).all():
        raise InputError("asof", expected="finite query times", found=f"{int((~np.isfinite(query)).sum())} non-finite")
    if now_s is not None:
        _require_time("asof now_s", now_s)
        if (query > now_s).any():
            raise FutureDataError(f"asof: asked for t={query.max():.6f} s, but the question's time is {now_s:.6f} s")
        source = source[: int(np.searchsorted(source, now_s, side="right"))]
    back = np.searchsorted(source, query, side="right") - 1
    ahead = np.searchsorted(source, query, side="left")
    if method == "nearest" and source.size:  # the last of equal times ahead; forward keeps the first
        ahead = np.maximum(ahead, np.searchsorted(source, source[np.minimum(ahead, source.size - 1)], side="right") - 1)
    padded = np.concatenate([[-np.inf], source, [np.inf]])
    back_gap, ahead_gap = query - padded[back + 1], padded[ahead + 1] - query
    if method == "backward":
        rows, gap = back, back_gap
    elif method == "forward":
        rows, gap = ahead, ahead_gap
    else:
        rows, gap = np.where(back_gap <= ahead_gap, back, ahead), np.minimum(back_gap, ahead_gap)
    rows = np.where((gap <= tolerance_s) & np.isfinite(gap), rows, -1).astype(np.int64)
    missing = rows < 0
    if missing.any() and on_missing == "raise":
        shown = ", ".join(f"{t:.3f}" for t in query[missing][:5]) + (", ..." if missing.sum() > 5 else "")
        raise InputError(
            "asof",
            expected=f"a row within {tolerance_s:g} s ({method}) of every time",
            found=f"none for {int(missing.sum())} of {query.size} times ({shown} s)",
        )
    return rows


def _require_time(source: str, time_s: float) -> None:
    # Every comparison with NaN is false, so that a limit of NaN would let everything pass.
    if np.isnan(time_s):
        raise InputError(source, expected="a time in seconds", found="NaN")


def _column(values: Any, dtype: type, *, name: str, source: str) -> np.ndarray:
    """(N,) of this type. Raises InputError for what can't be turned into it."""
    try:
        with np.errstate(invalid="raise"):
            return np.array(values, dtype=dtype).reshape(-1)
    except (TypeError, ValueError, OverflowError, FloatingPointError) as error:
        raise InputError(source, expected=f"numbers in {name}", found=str(error)) from error


def _points(values: Any, *, source: str) -> np.ndarray:
    """(N, 2) float64. Raises InputError for another shape; an empty list is (0, 2)."""
    flat = _column(values, float, name="xy_norm", source=source)
    shape = np.shape(values)
    if shape != (flat.size // 2, 2) and flat.size:
        raise InputError(source, expected="xy_norm of shape (N, 2)", found=str(shape))
    return flat.reshape(-1, 2)


@dataclass(frozen=True)
class GazeSamples:
    """A gaze recording in the house's units. Build with `GazeSamples.build`, which sorts, checks and counts.

    Attributes:
        t_s: (N,) ascending, unique seconds.
        xy_norm: (N, 2); NaN where `valid` is False. A valid sample may lie outside [0, 1]: the wearer looked past the
            frame's edge (`in_frame`).
        valid: (N,) the tracker saw the eye and the coordinates are finite.
        confidence: (N,) in [0, 1], or None where the format has none.
        fixation_id: (N,) the device's own fixation of each sample, -1 for none, or None where the format has none.
        source: name of the format the samples came from.
        counts: what reading did, by name: rows_read, rows_unreadable, rows_bad_time, rows_duplicate_time, ...
            Every row of the file is in exactly one of: a sample, or one of these counts.
        frame_size_px: (width, height) of the frame that pixel coordinates were divided by, where known.
    """

    t_s: np.ndarray
    xy_norm: np.ndarray
    valid: np.ndarray
    confidence: np.ndarray | None = None
    fixation_id: np.ndarray | None = None
    source: str = "array"
    counts: Mapping[str, int] = field(default_factory=dict)
    frame_size_px: tuple[int, int] | None = None

    @classmethod
    def build(
        cls,
        t_s: np.ndarray | Sequence[float],
        xy_norm: np.ndarray | Sequence[Sequence[float]],
        *,
        valid: np.ndarray | Sequence[bool] | None = None,
        confidence: np.ndarray | Sequence[float] | None = None,
        fixation_id: np.ndarray | Sequence[int] | None = None,
        source: str = "array",
        counts: Mapping[str, int] | None = None,
        frame_size_px: tuple[int, int] | None = None,
    ) -> GazeSamples:
        """Sorts by time (stable), marks rows without finite coordinates as invalid, counts what has no place.

        A row whose time is not finite is left out and counted (`rows_bad_time`); of rows with the same time the first
        valid one is kept, else the first, and the others are counted (`rows_duplicate_time`).

        Raises:
            InputError: the arrays differ in length, are no numbers, or `xy_norm` is not (N, 2).
        """
        t = _column(t_s, float, name="t_s", source="GazeSamples")
        xy = _points(xy_norm, source="GazeSamples")
        n = t.size
        columns: dict[str, np.ndarray | None] = {
            name: None if values is None else _column(values, dtype, name=name, source="GazeSamples")
            for name, values, dtype in (
                ("valid", valid, bool),
                ("confidence", confidence, float),
                ("fixation_id", fixation_id, int),
            )
        }
        lengths = {"t_s": n, "xy_norm": len(xy), **{k: v.size for k, v in columns.items() if v is not None}}
        if len(set(lengths.values())) > 1:
            raise InputError("GazeSamples", expected="columns of one length", found=str(lengths))
        ok = np.asarray(np.isfinite(xy).all(axis=1))
        if columns["valid"] is not None:
            ok &= columns["valid"]
        tally = dict(counts or {})
        keep = np.isfinite(t)
        tally["rows_bad_time"] = tally.get("rows_bad_time", 0) + int((~keep).sum())
        rows = np.flatnonzero(keep)
        rows = rows[np.lexsort((rows, ~ok[rows], t[rows]))]  # by time; among equal times valid first, then file order
        first = np.ones(rows.size, dtype=bool)
        first[1:] = t[rows][1:] != t[rows][:-1]
        tally["rows_duplicate_time"] = tally.get("rows_duplicate_time", 0) + int((~first).sum())
        rows = rows[first]
        xy[~ok] = np.nan
        confidence_column, fixation_column = columns["confidence"], columns["fixation_id"]
        return cls(
            t_s=t[rows],
            xy_norm=xy[rows],
            valid=ok[rows],
            confidence=None if confidence_column is None else confidence_column[rows],
            fixation_id=None if fixation_column is None else fixation_column[rows],
            source=source,
            counts=tally,
            frame_size_px=frame_size_px,
        )

    def __len__(self) -> int:
        return int(self.t_s.size)

    @property
    def in_frame(self) -> np.ndarray:
        """(N,) valid and within [0, 1] on both axes."""
        with np.errstate(invalid="ignore"):
            return self.valid & ((self.xy_norm >= 0) & (self.xy_norm <= 1)).all(axis=1)

    @property
    def rate_hz(self) -> float:
        """Samples a second, from the median interval; NaN with fewer than two samples."""
        return float(1.0 / np.median(np.diff(self.t_s))) if len(self) > 1 else float("nan")

    def take(self, rows: np.ndarray) -> GazeSamples:
        """These rows (an index or mask in time order), counts and names kept."""
        return replace(
            self,
            t_s=self.t_s[rows],
            xy_norm=self.xy_norm[rows],
            valid=self.valid[rows],
            confidence=None if self.confidence is None else self.confidence[rows],
            fixation_id=None if self.fixation_id is None else self.fixation_id[rows],
        )

    def until(self, now_s: float) -> GazeSamples:
        """The samples at or before `now_s`, which must be finite."""
        if not np.isfinite(now_s):
            raise InputError("GazeSamples.until", expected="a finite time in seconds", found=str(now_s))
        return self.take(np.arange(int(np.searchsorted(self.t_s, now_s, side="right"))))

    def between(self, start_s: float, stop_s: float, *, now_s: float | None = None) -> GazeSamples:
        """The samples of (start_s, stop_s].

        Raises:
            FutureDataError: `stop_s` lies after `now_s`.
            InputError: a time is NaN.
        """
        for time_s in (start_s, stop_s, *([] if now_s is None else [now_s])):
            _require_time("GazeSamples.between", time_s)
        if now_s is not None and stop_s > now_s:
            raise FutureDataError(f"gaze up to {stop_s:.6f} s asked for, but the question's time is {now_s:.6f} s")
        first, last = (int(np.searchsorted(self.t_s, edge, side="right")) for edge in (start_s, stop_s))
        return self.take(np.arange(first, max(first, last)))

    def shifted(self, offset_s: float) -> GazeSamples:
        """The same gaze on a clock moved by `offset_s` (added to every time)."""
        _require_time("GazeSamples.shifted", offset_s)
        return replace(self, t_s=self.t_s + float(offset_s))


@dataclass(frozen=True)
class Fixations:
    """Fixations (F) in order of their start: `start_s`, `stop_s` (F,), `xy_norm` (F, 2) centre, `ids` (F,).

    `detector` and `parameters` say what made them; `open_fixations` counts those that `until` cut short.
    `counts` is as in GazeSamples when they were read from a file.
    """

    start_s: np.ndarray
    stop_s: np.ndarray
    xy_norm: np.ndarray
    ids: np.ndarray
    detector: str = "none"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    open_fixations: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        start_s: np.ndarray | Sequence[float],
        stop_s: np.ndarray | Sequence[float],
        xy_norm: np.ndarray | Sequence[Sequence[float]],
        *,
        ids: np.ndarray | Sequence[int] | None = None,
        detector: str = "none",
        parameters: Mapping[str, Any] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> Fixations:
        """Sorts by start. Raises InputError for unequal lengths, non-finite numbers, or a stop before its start."""
        start = _column(start_s, float, name="start_s", source="Fixations")
        stop = _column(stop_s, float, name="stop_s", source="Fixations")
        xy = _points(xy_norm, source="Fixations")
        names = np.arange(start.size) if ids is None else _column(ids, int, name="ids", source="Fixations")
        if not start.size == stop.size == len(xy) == names.size:
            raise InputError(
                "Fixations",
                expected="columns of one length",
                found=f"{start.size}, {stop.size}, {len(xy)}, {names.size}",
            )
        if not (np.isfinite(start).all() and np.isfinite(stop).all() and np.isfinite(xy).all()):
            raise InputError("Fixations", expected="finite times and centres", found="a non-finite value")
        if (stop < start).any():
            raise InputError(
                "Fixations", expected="stop_s >= start_s", found=f"{int((stop < start).sum())} reversed rows"
            )
        order = np.argsort(start, kind="stable")
        return cls(
            start[order], stop[order], xy[order], names[order], detector, dict(parameters or {}), 0, dict(counts or {})
        )

    @classmethod
    def empty(cls, detector: str = "none") -> Fixations:
        return cls.build([], [], np.zeros((0, 2)), detector=detector)

    def __len__(self) -> int:
        return int(self.start_s.size)

    @property
    def duration_s(self) -> np.ndarray:
        """(F,) seconds."""
        return self.stop_s - self.start_s

    def take(self, rows: np.ndarray) -> Fixations:
        """These rows (an index or mask)."""
        return replace(
            self, start_s=self.start_s[rows], stop_s=self.stop_s[rows], xy_norm=self.xy_norm[rows], ids=self.ids[rows]
        )

    def until(self, now_s: float) -> Fixations:
        """What is known at `now_s`: fixations that began at or before it, an open one clipped to it and counted.

        An open fixation keeps the centre its source stores (DESIGN 4), which for a file was computed from its whole
        length: the only value here that later gaze has touched, which is why `open_fixations` is reported.
        """
        _require_time("Fixations.until", now_s)
        known = self.take(self.start_s <= now_s)
        cut = known.stop_s > now_s
        return replace(known, stop_s=np.minimum(known.stop_s, now_s), open_fixations=int(cut.sum()))

    def overlapping(self, start_s: float, stop_s: float) -> Fixations:
        """Those that overlap (start_s, stop_s]."""
        for time_s in (start_s, stop_s):
            _require_time("Fixations.overlapping", time_s)
        return self.take((self.start_s <= stop_s) & (self.stop_s > start_s))

    def shifted(self, offset_s: float) -> Fixations:
        """The same fixations on a clock moved by `offset_s`."""
        _require_time("Fixations.shifted", offset_s)
        return replace(self, start_s=self.start_s + offset_s, stop_s=self.stop_s + offset_s)


@dataclass(frozen=True)
class GazeEvents:
    """The gaze of one step: K events, fixations where there are any, single samples elsewhere. Never averaged.

    Attributes:
        t_s: (K,) the moment an event stands for: a sample's time; for a fixation the last moment of it in the span.
        xy_norm: (K, 2) in the frame nearest in time (`frame_t_s`). NaN where not valid.
        duration_s: (K,) how much of the event lies in the span; 0 for a sample.
        age_s: (K,) span end minus `t_s`, >= 0.
        valid: (K,) finite and inside the frame. False rows say "gaze was asked for here and missing".
        is_fixation: (K,).
        frame_t_s: (K,) time of the nearest decoded frame of the step.
        sample_t_s: (S,) times of the tracker's samples in the span, whatever became of them (evidence).
        sample_valid: (S,).
        sample_used: (S,) valid, and inside a fixation event or an event itself: what the model really got.
        open_fixations: fixations that had not ended when the span did.
    """

    t_s: np.ndarray
    xy_norm: np.ndarray
    duration_s: np.ndarray
    age_s: np.ndarray
    valid: np.ndarray
    is_fixation: np.ndarray
    frame_t_s: np.ndarray
    sample_t_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sample_valid: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    sample_used: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    open_fixations: int = 0

    @classmethod
    def none(cls) -> GazeEvents:
        """No gaze at all."""
        empty = np.zeros(0)
        flags = np.zeros(0, dtype=bool)
        return cls(empty, np.zeros((0, 2)), empty, empty, flags, flags, empty)

    def __len__(self) -> int:
        return int(self.t_s.size)

    @property
    def any_valid(self) -> bool:
        return bool(self.valid.any())


@dataclass(frozen=True, eq=False)
class Step:
    """One temporal patch of Qwen2.5-VL: two frames, and everything of the span they stand for.

    Attributes:
        frames: (2, H, W, 3) uint8 RGB, upright.
        frame_times_s: (2,) their own presentation times. A lone last frame is repeated (`repeated`), as Qwen does.
        span_s: (start, stop]: from the end of the step before (its last frame's display end) to the end of this one's.
        vjepa_frames: (M, H', W', 3) uint8, all frames of the span at `vjepa_fps` in order; `frames` are among them.
        vjepa_times_s: (M,).
        gaze: what the wearer did in the span.
        partial: made for a question that falls into the middle of a step; lives on that question's fork only.
        placeholder: the video was not decoded, because what frozen weights make of it is at hand: the frames are zeros
            of the right size that share one byte. Encoding such a step needs `GazeQwen.encode(frozen=...)`.
        gaze_late: a live stream went on before the tracker's gaze had reached the span's end.
    """

    frames: np.ndarray
    frame_times_s: np.ndarray
    span_s: tuple[float, float]
    vjepa_frames: np.ndarray
    vjepa_times_s: np.ndarray
    gaze: GazeEvents
    repeated: bool = False
    partial: bool = False
    placeholder: bool = False
    gaze_late: bool = False

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[0] != 2 or self.frames.shape[3] != 3:
            raise InputError("Step.frames", expected="shape (2, H, W, 3)", found=str(self.frames.shape))
        if self.frames.dtype != np.uint8 or self.vjepa_frames.dtype != np.uint8:
            raise InputError(
                "Step", expected="uint8 RGB frames", found=f"{self.frames.dtype}, {self.vjepa_frames.dtype}"
            )
        if len(self.vjepa_frames) != len(self.vjepa_times_s) or len(self.vjepa_frames) == 0:
            raise InputError(
                "Step.vjepa_frames",
                expected="at least one frame, each with its time",
                found=f"{len(self.vjepa_frames)} frames, {len(self.vjepa_times_s)} times",
            )
        last = float(self.frame_times_s[-1])
        if not self.frame_times_s[0] <= last <= self.span_s[1] + 1e-6:
            raise InputError("Step", expected="frame times in order and within span_s", found=f"{self.frame_times_s}")

    def without_gaze(self) -> Step:
        """The same step as a tracker that was switched off would have left it."""
        return replace(self, gaze=GazeEvents.none())

    def without_frames(self) -> Step:
        """The same step as a placeholder: what it costs to keep is its gaze."""
        return replace(
            self,
            frames=blank_frames(self.frames.shape),
            vjepa_frames=blank_frames(self.vjepa_frames.shape),
            placeholder=True,
        )


def blank_frames(shape: Sequence[int]) -> np.ndarray:
    """Zeros of this shape (uint8, read-only) that take one byte of memory."""
    return np.broadcast_to(np.zeros((), dtype=np.uint8), tuple(shape))


@dataclass(frozen=True)
class Question:
    """What is asked, and when: nothing later than `t_s` may reach the answer.

    `options` are texts without letters; empty means free text. `id` is the caller's own.
    """

    text: str
    t_s: float
    options: tuple[str, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("question", expected="some text", found="an empty string", fix="pass --question")
        if len(self.options) == 1 or len(self.options) > 26:
            raise InputError("options", expected="none (free text) or 2 to 26 options", found=str(len(self.options)))
        if not np.isfinite(self.t_s):
            raise InputError("question time", expected="finite seconds", found=str(self.t_s))


def plain_json(value: Any) -> Any:
    """Plain JSON types all the way down; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Answer:
    """An answer and what it rests on. Times are seconds on the recording's clock, latencies milliseconds.

    Attributes:
        text: the chosen option's text, or the generated text.
        letter: "A", "B", ... or None for free text.
        option_logprobs: log-probability of each offered option, normalised over the options; empty for free text.
        frame_times_s: frames the model saw, in order.
        gaze_times_s: valid gaze samples that reached the model.
        gaze_valid_fraction: valid samples / samples in the steps seen; NaN without any sample.
        fixations: per fixation that reached the model {start_s, stop_s, x_norm, y_norm}.
        span_s: first and last moment the answer may rest on.
        latency_ms: decode, vit, vjepa, resampler, prefill, answer; cache where frozen features were read from one.
        model, arm: what answered.
        steps, steps_without_gaze, open_fixations: counts behind the answer.
        evicted_steps: older steps that the answer could not see, but that the steps it saw had seen when they came in
            (a window, or the stream's budget).
        warnings: anything that makes the answer weaker than it looks (e.g. untrained weights).
    """

    text: str
    letter: str | None
    option_logprobs: Mapping[str, float]
    frame_times_s: tuple[float, ...]
    gaze_times_s: tuple[float, ...]
    gaze_valid_fraction: float
    fixations: tuple[Mapping[str, float], ...]
    span_s: tuple[float, float]
    latency_ms: Mapping[str, float]
    model: str
    arm: str
    question: str = ""
    t_s: float = float("nan")
    steps: int = 0
    steps_without_gaze: int = 0
    open_fixations: int = 0
    evicted_steps: int = 0
    detector: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes None."""
        return {("answer" if name == "text" else name): plain_json(value) for name, value in asdict(self).items()}
