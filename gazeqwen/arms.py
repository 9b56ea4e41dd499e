"""The one registry of experiment arms (DESIGN 8), read by `ask`, `eval`, train and evidence: how gaze reaches a model.

An arm changes steps before they are encoded, says what goes into the model (video, gaze, residuals), which weights
answer, and may add words or a picture. What an arm needs from outside, its fields say: another recording's gaze
(`gaze_from_other`), weights trained for it (`weights`), or no model at all (`solver`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from gazeqwen.errors import ConfigError, FutureDataError
from gazeqwen.types import Fixations, GazeEvents, Step

LAG_S = 5.0
# StreamGaze's overlay (daeunni/StreamGaze at 07b8a44, pipeline/preprocess/visualization.py,
# visualize_gaze_green_dot_red_fov, called with a radius of 100 px for EGTEA and int(0.156 * width) for the other
# videos): lengths in pixels of frames 640 wide. It asks OpenCV for lines of 3 and 2 px, which come out 5 and 3 wide.
_OVERLAY_WIDTH_PX = 640
_FOV_RADIUS_PX, _FOV_LINE_PX = 100, 5
_OUTLINE_RADIUS_PX, _OUTLINE_LINE_PX = 10, 3
_DOT_RADIUS_PX = 8
_FOV_RGB, _OUTLINE_RGB, _DOT_RGB = (255, 0, 0), (0, 0, 0), (0, 255, 0)
# Half the overlay's circle, so that two sigmas reach as far as what StreamGaze calls the field of view.
SALIENCE_SIGMA_WIDTHS = _FOV_RADIUS_PX / _OVERLAY_WIDTH_PX / 2
# What a single sample counts for beside fixations, whose duration is known: one interval of a 50 Hz tracker.
_SAMPLE_DURATION_S = 0.02


def _all_events(gaze: GazeEvents, _frame_times_s: np.ndarray) -> GazeEvents:
    return gaze


def _no_events(_gaze: GazeEvents, _frame_times_s: np.ndarray) -> GazeEvents:
    return GazeEvents.none()


@dataclass(frozen=True)
class Arm:
    """One way for gaze to reach the model.

    Attributes:
        inject: residuals from the resampler are added.
        prepare: changes a step before it is encoded. Never the step's span, frame times or V-JEPA frames.
        gaze_in_prompt: gaze coordinates are written into the question.
        gaze_lag_s: the recording's gaze is moved later by this much before steps are made of it.
        scanpath: changes the clip's fixations under compat="official", which reads those and not the steps' gaze.
        reaching: (a step's gaze, its frame_times_s) -> the events of it that reach the model: an answer's evidence.
        video: steps go into the model; without, they only count (time, frames).
        salience: after the video, on the question's fork, `salience_frames` of the gaze seen is shown as one more step.
        gaze_from_other: the gaze must come from another recording; the caller brings it.
        weights: "model": whatever the model holds; "own": trained for this arm, from FOLDER/arms/NAME; "own-or-model":
            its own where the folder has them, and the answer's notes say which (`checkpoint.load_arm`).
        features_zeroed: V-JEPA is not run (nor needed): the resampler gets zeros in the features' shape.
        changes_frames: `prepare` changes Qwen's frames, so what the frozen weights make of them is not other arms'.
        solver: not a model: a symbolic solver on the tiny world's event log.
    """

    name: str
    title: str
    inject: bool
    prepare: Callable[[Step], Step] = lambda step: step
    gaze_in_prompt: bool = False
    gaze_lag_s: float = 0.0
    scanpath: Callable[[Fixations], Fixations] = lambda fixations: fixations
    reaching: Callable[[GazeEvents, np.ndarray], GazeEvents] = _all_events
    video: bool = True
    salience: bool = False
    gaze_from_other: bool = False
    weights: Literal["model", "own", "own-or-model"] = "model"
    features_zeroed: bool = False
    changes_frames: bool = False
    solver: bool = False

    @property
    def uses_features(self) -> bool:
        """V-JEPA's features reach the resampler."""
        return self.inject and not self.features_zeroed

    @property
    def gaze_reaches(self) -> bool:
        """Some of the recording's gaze (or, for `shuffled`, of the other one's) can reach the answer."""
        return self.reaching is not _no_events


def _null(step: Step) -> Step:
    return step.without_gaze()


def _no_scanpath(_fixations: Fixations) -> Fixations:
    return Fixations.empty()


def _centred_scanpath(fixations: Fixations) -> Fixations:
    return replace(fixations, xy_norm=np.full_like(fixations.xy_norm, 0.5))


def _center(step: Step) -> Step:
    """One valid event at the frame's middle, whatever the wearer did."""
    stop_s = step.span_s[1]
    one = np.ones(1)
    return replace(
        step,
        gaze=GazeEvents(
            t_s=one * stop_s,
            xy_norm=np.full((1, 2), 0.5),
            duration_s=one * (stop_s - step.span_s[0]),
            age_s=np.zeros(1),
            valid=np.ones(1, dtype=bool),
            is_fixation=np.ones(1, dtype=bool),
            frame_t_s=one * step.frame_times_s[-1],
        ),
    )


# -- drawn on the frames -----------------------------------------------------------------------------------------------


def _event_of_frame(gaze: GazeEvents, time_s: float) -> int:
    """Row of the event nearest in time to a frame, -1 when that one is missing gaze or there is none.

    A fixation whose centre lies outside the frame is passed over: its samples speak for themselves.
    """
    rows = np.flatnonzero(gaze.valid | ~gaze.is_fixation)
    if not rows.size:
        return -1
    # How far the frame is from the event's time in this step, 0 within it.
    begin_s, end_s = gaze.t_s[rows] - gaze.duration_s[rows], gaze.t_s[rows]
    row = rows[np.argmin(np.maximum(begin_s - time_s, time_s - end_s).clip(min=0))]
    return int(row) if gaze.valid[row] else -1


def _drawn(gaze: GazeEvents, frame_times_s: np.ndarray) -> GazeEvents:
    """The events that `marker` draws: one a frame at most."""
    rows = np.unique([row for time_s in frame_times_s if (row := _event_of_frame(gaze, float(time_s))) >= 0])
    rows = rows.astype(np.int64)
    begin_s, end_s = (gaze.t_s - gaze.duration_s)[rows, None], gaze.t_s[rows, None]
    inside = ((gaze.sample_t_s >= begin_s) & (gaze.sample_t_s <= end_s)).any(axis=0)
    return replace(
        gaze,
        t_s=gaze.t_s[rows],
        xy_norm=gaze.xy_norm[rows],
        duration_s=gaze.duration_s[rows],
        age_s=gaze.age_s[rows],
        valid=gaze.valid[rows],
        is_fixation=gaze.is_fixation[rows],
        frame_t_s=gaze.frame_t_s[rows],
        sample_used=gaze.sample_used & inside,
    )


def draw_marker(image: np.ndarray, xy_norm: np.ndarray) -> None:
    """StreamGaze's gaze overlay, in place: a red circle for the field of view, a green dot with a black outline.

    Geometry, colours and drawing order are upstream's (see the constants); lengths scale with the frame's width, lines
    are at least a pixel wide, and nothing is anti-aliased (OpenCV's default there).

    Args:
        image: (H, W, 3) uint8 RGB.
        xy_norm: (2,) inside the frame.
    """
    height, width = image.shape[:2]
    scale = width / _OVERLAY_WIDTH_PX
    x, y = (min(int(part * size), size - 1) for part, size in zip(xy_norm, (width, height), strict=True))
    rows, columns = np.mgrid[0:height, 0:width]
    distance = np.hypot(columns - x, rows - y)
    for radius_px, line_px, colour in (
        (_FOV_RADIUS_PX, _FOV_LINE_PX, _FOV_RGB),
        (_OUTLINE_RADIUS_PX, _OUTLINE_LINE_PX, _OUTLINE_RGB),
    ):
        image[np.abs(distance - radius_px * scale) <= max(1.0, line_px * scale) / 2] = colour
    image[distance <= _DOT_RADIUS_PX * scale] = _DOT_RGB


def _marker(step: Step) -> Step:
    """The overlay on each of Qwen's two frames, at the event nearest in time to it; a frame whose gaze is missing stays
    clean, as upstream's untracked frames do."""
    rows = [_event_of_frame(step.gaze, float(time_s)) for time_s in step.frame_times_s]
    if max(rows) < 0 or step.placeholder:
        return step
    frames = step.frames.copy()
    for frame, row in zip(frames, rows, strict=True):
        if row >= 0:
            draw_marker(frame, step.gaze.xy_norm[row])
    return replace(step, frames=frames)


class _HasGaze(Protocol):
    """A `Step`, or a `StepRecord`."""

    @property
    def gaze(self) -> GazeEvents: ...


def salience_frames(records: Iterable[_HasGaze], size_px: tuple[int, int], until_s: float) -> np.ndarray:
    """Where the wearer looked, as a picture: a Gaussian for each valid gaze event, weighted by its duration (a single
    sample counts for 0.02 s), summed, and scaled so that the brightest pixel is 255. Black without gaze.

    Sigma is 0.078 frame widths (`SALIENCE_SIGMA_WIDTHS`), on both axes. Coordinates are those of each event's own
    frame: nothing is moved along with the head. StreamGaze names a salience map and ships no generator of one.

    Args:
        records: what the question sees (steps, or the stream's records of them).
        size_px: (width, height).
        until_s: the question's time.

    Returns:
        (2, height, width, 3) uint8 grey: a step's two frames, both the same.

    Raises:
        FutureDataError: an event is later than `until_s`.
    """
    width, height = size_px
    x = (np.arange(width) + 0.5) / width
    y = (np.arange(height) + 0.5) / height
    sigma_x, sigma_y = SALIENCE_SIGMA_WIDTHS, SALIENCE_SIGMA_WIDTHS * width / height
    total = np.zeros((height, width))
    for record in records:
        gaze = record.gaze
        if (gaze.t_s > until_s + 1e-6).any():
            raise FutureDataError(f"gaze at {gaze.t_s.max():.3f} s, but the question's time is {until_s:.3f} s")
        rows = gaze.valid
        bell_x = np.exp(-0.5 * ((x - gaze.xy_norm[rows, :1]) / sigma_x) ** 2)  # (events, width)
        bell_y = np.exp(-0.5 * ((y - gaze.xy_norm[rows, 1:]) / sigma_y) ** 2)
        weight = np.where(gaze.is_fixation[rows], gaze.duration_s[rows], _SAMPLE_DURATION_S)
        total += np.einsum("e,ey,ex->yx", weight, bell_y, bell_x)
    brightest = total.max()
    grey = np.rint(255 * total / brightest).astype(np.uint8) if brightest > 0 else np.zeros(total.shape, np.uint8)
    return np.broadcast_to(grey[None, :, :, None], (2, height, width, 3)).copy()


# -- the registry ------------------------------------------------------------------------------------------------------

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("inject", "residuals from the wearer's gaze (default)", inject=True),
        Arm("none", "no gaze, nothing injected: the plain backbone", inject=False, reaching=_no_events),
        Arm(
            "null",
            "residuals from null gaze",
            inject=True,
            prepare=_null,
            scanpath=_no_scanpath,
            reaching=_no_events,
            weights="own-or-model",
        ),
        Arm(
            "center",
            "residuals from gaze fixed at the middle of the frame",
            inject=True,
            prepare=_center,
            scanpath=_centred_scanpath,
            reaching=_no_events,
        ),
        Arm("lagged", f"residuals from the wearer's own gaze {LAG_S:g} s late", inject=True, gaze_lag_s=LAG_S),
        Arm("text", "gaze coordinates in the prompt, nothing injected", inject=False, gaze_in_prompt=True),
        Arm(
            "marker",
            "gaze drawn on the frames as StreamGaze does, nothing injected",
            inject=False,
            prepare=_marker,
            reaching=_drawn,
            changes_frames=True,
        ),
        Arm("heatmap", "gaze as a salience image after the video, nothing injected", inject=False, salience=True),
        Arm("shuffled", "residuals from another recording's gaze", inject=True, gaze_from_other=True),
        Arm(
            "blind",
            "no video, no gaze: the question alone",
            inject=False,
            video=False,
            reaching=_no_events,
            weights="own-or-model",
        ),
        Arm(
            "marker-trained",
            "gaze drawn on the frames, LoRA trained on them",
            inject=False,
            prepare=_marker,
            reaching=_drawn,
            changes_frames=True,
            weights="own",
        ),
        Arm(
            "no-features",
            "residuals from gaze alone, V-JEPA zeroed in training and test",
            inject=True,
            features_zeroed=True,
            weights="own",
        ),
        Arm(
            "skip-only",
            "one learned vector x Gaussian at gaze: no latents, no V-JEPA",
            inject=True,
            features_zeroed=True,
            weights="own",
        ),
        Arm("oracle", "a symbolic solver on the tiny world, with noisy gaze", inject=False, solver=True),
        Arm(
            "oracle-no-gaze",
            "a symbolic solver on the tiny world, without gaze",
            inject=False,
            reaching=_no_events,
            solver=True,
        ),
    )
}


def get_arm(arm: Arm | str) -> Arm:
    """The arm of this name; an Arm is itself. Raises ConfigError that lists the arms."""
    if isinstance(arm, Arm):
        return arm
    if arm not in ARMS:
        raise ConfigError(f"unknown arm {arm!r}; arms are {', '.join(ARMS)}")
    return ARMS[arm]


def require_one_recording(arm: Arm | str) -> Arm:
    """The arm, if a model and one recording are enough for it.

    Raises:
        ConfigError: an unknown arm; `shuffled`, which takes another recording's gaze; or a solver.
    """
    arm = _require_model(arm)
    if arm.gaze_from_other:
        raise ConfigError(
            f"arm {arm.name!r} takes the gaze of another recording, and there is one here: "
            "run `gazeqwen eval streamgaze` on several videos"
        )
    return arm


def require_weights(arm: Arm | str, held: str) -> Arm:
    """The arm, if a model that holds the weights of the arm `held` (empty: its usual ones) may answer for it.

    Raises:
        ConfigError: an unknown arm, a solver, or one that answers with other weights.
    """
    arm = _require_model(arm)
    if held != arm.name and (held or arm.weights == "own"):
        raise ConfigError(
            f"arm {arm.name!r} does not answer with the weights that this model holds"
            f"{f' (those of {held!r})' if held else ''}: load the model anew, then gazeqwen.checkpoint.load_arm"
        )
    return arm


def _require_model(arm: Arm | str) -> Arm:
    arm = get_arm(arm)
    if arm.solver:
        raise ConfigError(
            f"arm {arm.name!r} is a solver on the small world's own event log, not a model: "
            "run `gazeqwen eval streamgaze` on the videos of `gazeqwen data mini`"
        )
    return arm
