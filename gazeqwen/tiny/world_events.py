"""The world's geography, and the events that `world_script.py` writes: numbers and records, nothing that runs.

Lengths are in frame widths on the painted plane, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STEP_S = 0.005
COLUMNS_X = (0.21, 0.48, 0.75, 1.02, 1.29)
ROWS_Y = (0.345, 0.615)
HATCHES = 2  # the first slots: cupboards with a shutter, anywhere in the upper row; objects 0 and 1 stand there
PLANE = (1.5, 0.96)  # width and height of the painted plane
AWAY_Y = 1.3  # below any frame: where the hand takes objects to and brings them from
MAX_JUMP_WIDTHS = 0.6
HAND_REST = np.array([0.0, 0.29])  # of the hand's tip, from the frame's centre
CUE_WIDTHS = 0.13
KNOCK_WIDTHS = 0.085
STATES = ("clean", "dirty", "wet", "covered")
DIRECTIONS = ("left", "right", "up", "down")
STEPS_XY = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])
FLASHES = ("red", "green", "blue", "yellow")
# The state that a verb leaves an object in; take, put and move leave it as it is.
VERBS = {"take": None, "put": None, "move": None, "use": 1, "wash": 2, "dry": 0, "cover": 3}


@dataclass
class Look:
    """Gaze on `thing` (None: on no object); `pursuit`: the object moves for a part of it."""

    start_s: float
    stop_s: float
    thing: int | None
    pursuit: bool = False
    glance: bool = False


@dataclass(frozen=True)
class Deed:
    """An action: the hand sets out at `reach_s`, touches from `start_s` to `stop_s`. `lead_s`: gaze was there so long
    before `reach_s`; NaN where it was not."""

    verb: str
    thing: int
    reach_s: float
    start_s: float
    stop_s: float
    lead_s: float


@dataclass(frozen=True)
class Span:
    """`thing` does `value` (an index into DIRECTIONS or FLASHES) from `start_s` to `stop_s`."""

    kind: str
    start_s: float
    stop_s: float
    thing: int
    value: int


@dataclass(frozen=True)
class Cue:
    """The hand twitches from its rest towards the object that it will act on, and back."""

    start_s: float
    stop_s: float
    angle_deg: float
    deed: int


def frame_half(aspect: float) -> np.ndarray:
    """(2,) half the frame in frame widths; `aspect` is width over height."""
    return np.array([0.5, 0.5 / aspect])


def lognormal(rng: np.random.Generator, median: float, sigma: float, least: float, most: float) -> float:
    return float(np.clip(rng.lognormal(math.log(median), sigma), least, most))


def place_brief(rng: np.random.Generator, earliest_s: float, latest_s: float, length_s: float, between: bool) -> float:
    """A start for an event of this length within [earliest_s, latest_s]; `between`: clear of every k/2 s. NaN if none.

    Clear by 12 ms or more, so that rounding to frames does not put the event under one.
    """
    margin, room = 0.012, latest_s - length_s
    if room < earliest_s:
        return math.nan
    if not between:
        return float(rng.uniform(earliest_s, room))
    first, last = math.floor(earliest_s * 2), math.floor(latest_s * 2)
    gaps = []
    for k in range(first, last + 1):
        low, high = max(earliest_s, k / 2 + margin), min(room, (k + 1) / 2 - margin - length_s)
        gaps += [(low, high)] if high >= low else []
    if not gaps:
        return math.nan
    return float(rng.uniform(*gaps[rng.integers(len(gaps))]))


def minimum_jerk(phase: np.ndarray) -> np.ndarray:
    """From 0 to 1 as limbs and eyes move, for a phase from 0 to 1 (Flash & Hogan 1985, J Neuroscience 5)."""
    return phase**3 * (10 - 15 * phase + 6 * phase**2)


def there_and_back(phase: np.ndarray) -> np.ndarray:
    """0 to 1 to 0 with a plateau: of 150 ms, one at 8 frames a second shows half of the way or more."""
    return np.minimum(2 * np.sin(np.pi * np.clip(phase, 0, 1)), 1)
