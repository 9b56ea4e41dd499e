"""A small procedural egocentric world: a kitchen wall, a worktop with objects, a hand, a moving head, and gaze.

Arrays only, numpy only. The world is one textured plane in units of the frame's width; a frame is a view of it through
a camera that translates, rolls and zooms a little. Source of the eye-head behaviour: the textbook facts of gaze shifts
(main sequence: saccade duration about 21 ms + 2.2 ms per degree; the head follows a large shift late and slowly; the
vestibulo-ocular reflex keeps gaze on the object meanwhile, so that in image coordinates gaze moves with the scene).
Simpler than life: no parallax (one plane), no lens distortion, and one field of view (90 degrees a frame width).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gazeqwen.errors import ConfigError
from gazeqwen.tiny.scene_painting import EDGE_Y, SceneObject, draw_hand, paint, sample
from gazeqwen.types import Fixations, GazeSamples, Question

DEG_PER_WIDTH = 90.0
STEP_S = 0.005  # of the eye-head simulation
MAX_JUMP_WIDTHS = 0.55  # 50 degrees: the eye turns no further, gaze gets there in two jumps
# name, shape (ellipse or box), colour, half size in frame widths
KINDS = (
    ("red mug", "box", (200, 50, 45), (0.055, 0.065)),
    ("green jar", "box", (60, 150, 80), (0.05, 0.085)),
    ("white plate", "ellipse", (232, 232, 226), (0.13, 0.06)),
    ("yellow box", "box", (235, 190, 50), (0.085, 0.07)),
    ("blue bowl", "ellipse", (55, 95, 190), (0.095, 0.06)),
    ("orange", "ellipse", (240, 135, 35), (0.048, 0.048)),
    ("black pan", "ellipse", (45, 45, 50), (0.12, 0.07)),
    ("purple bottle", "box", (120, 60, 150), (0.035, 0.105)),
)
CARRIED = "pink sponge"


@dataclass(frozen=True)
class Look:
    """What gaze rested on from `start_s` to `stop_s`: an object's name, or None for a spot of wall or worktop."""

    start_s: float
    stop_s: float
    name: str | None
    pursuit: bool


@dataclass(frozen=True, eq=False)
class Scene:
    """One clip. Frames are drawn on demand (`frame`, `frames`); everything else is known beforehand.

    Attributes:
        objects: the still ones; `CARRIED` is in the hand and seen with it only.
        gaze: what a tracker without latency would have stored (noise, bias, blinks, gaze beyond the frame's edge).
        fixations: the true ones, each with the mean of the true gaze in image coordinates; pursuit is not among them.
        looks: what was looked at, in order, pursuit included.
        sim_t_s, camera: (T,), (T, 4) the camera's x, y (frame widths), roll (radians) and zoom.
        hand: (T, 2) the hand's world position, NaN where it is away.
        canvas: (Hw, Ww, 3) float32 the painted world.
    """

    duration_s: float
    fps: float
    size_px: tuple[int, int]
    objects: tuple[SceneObject, ...]
    gaze: GazeSamples
    fixations: Fixations
    looks: tuple[Look, ...]
    sim_t_s: np.ndarray
    camera: np.ndarray
    hand: np.ndarray
    canvas: np.ndarray

    @property
    def frame_times_s(self) -> np.ndarray:
        """(F,) seconds, the first at 0."""
        return np.arange(round(self.duration_s * self.fps)) / self.fps

    def frame(self, time_s: float) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the view at `time_s`."""
        width, height = self.size_px
        row = min(round(time_s / STEP_S), len(self.sim_t_s) - 1)
        x, y, roll, zoom = self.camera[row]
        u = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / zoom
        v = (np.arange(height, dtype=np.float32)[:, None] + 0.5 - height / 2) / zoom
        cos, sin = np.float32(np.cos(roll)), np.float32(np.sin(roll))
        image = sample(self.canvas, x * width + cos * u - sin * v - 0.5, y * width + sin * u + cos * v - 0.5)
        if np.isfinite(self.hand[row, 0]):
            tip = to_image(self.hand[row], self.camera[row]) * width + np.array([width, height]) / 2
            draw_hand(image, tip, width)
        return (image + 0.5).astype(np.uint8)

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """(time_s, image) in order, one at a time."""
        for time_s in self.frame_times_s:
            yield float(time_s), self.frame(float(time_s))

    def looked_at(self, time_s: float) -> str | None:
        """The name of what gaze rests on at `time_s`; None during saccades and for bare wall or worktop."""
        return next((look.name for look in self.looks if look.start_s <= time_s < look.stop_s), None)

    def questions(self, *, min_look_s: float = 0.3, options: int = 4) -> list[tuple[Question, str]]:
        """ "Which object am I looking at?" once per long enough look at an object, each with the right option."""
        names = [item.name for item in self.objects] + [CARRIED]
        asked = []
        for number, look in enumerate(self.looks):
            if look.name is None or look.stop_s - look.start_s < min_look_s:
                continue
            rng = np.random.default_rng((number, round(look.start_s * 1000)))
            others = rng.permutation([name for name in names if name != look.name])[: options - 1]
            choice = tuple(str(name) for name in rng.permutation([look.name, *others]))
            time_s = look.stop_s - 0.05
            asked.append((Question("Which object am I looking at?", time_s, choice, id=str(number)), look.name))
        return asked


def to_image(xy_world: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """World (..., 2) to image coordinates in frame widths from the frame's centre, for cameras (..., 4)."""
    dx, dy = xy_world[..., 0] - camera[..., 0], xy_world[..., 1] - camera[..., 1]
    cos, sin, zoom = np.cos(camera[..., 2]), np.sin(camera[..., 2]), camera[..., 3]
    return np.stack([zoom * (cos * dx + sin * dy), zoom * (-sin * dx + cos * dy)], axis=-1)


def render(
    seed: int,
    *,
    duration_s: float = 10.0,
    fps: float = 30.0,
    size_px: tuple[int, int] = (320, 240),
    gaze_hz: float = 200.0,
    head_motion: float = 1.0,
) -> Scene:
    """The scene of this seed: the same arguments give the same arrays.

    Args:
        size_px: (width, height).
        gaze_hz: rate of the tracker; its intervals jitter by a few per cent as real ones do.
        head_motion: scales sway, roll, zoom and how far the head follows the eye; 0 is a camera on a tripod.

    Raises:
        ConfigError: a length, rate or size is not positive, or `head_motion` is negative.
    """
    if min(duration_s, fps, gaze_hz, *size_px) <= 0 or head_motion < 0:
        raise ConfigError(
            f"scene: expected positive lengths, rates and sizes, found {duration_s=} {fps=} {gaze_hz=} {size_px=} "
            f"{head_motion=}"
        )
    rng = np.random.default_rng(seed)
    width, height = size_px
    t = np.arange(round(duration_s / STEP_S) + 1) * STEP_S
    objects = _place_objects(rng)
    hand, carries = _hand_path(rng, t)
    target, still, looks = _scanpath(rng, t, objects=objects, hand=hand, carries=carries)
    camera = _follow(rng, t, target=target, head_motion=head_motion)
    # The reflex is not perfect: gaze slips a few per cent of what the head moved since the fixation began.
    began = np.maximum.accumulate(np.where(np.diff(still, prepend=-2) != 0, np.arange(t.size), 0))
    slip = rng.uniform(0.0, 0.06) * (camera[:, :2] - camera[began, :2]) * (still >= 0)[:, None]
    true = 0.5 + to_image(target + slip, camera) * np.array([1.0, width / height])
    rows = [np.flatnonzero(still == number) for number in range(still.max() + 1)]
    rows = [row for row in rows if row.size * STEP_S >= 0.06]
    fixations = Fixations.build(
        np.array([t[row[0]] for row in rows]),
        np.array([t[row[-1]] for row in rows]),
        np.array([true[row].mean(axis=0) for row in rows]).reshape(-1, 2),
        detector="true",
    )
    gaze = _track(rng, t, true=true, gaze_hz=gaze_hz, aspect=width / height)
    canvas = paint(rng, objects, px_per_width=width)
    return Scene(duration_s, fps, size_px, objects, gaze, fixations, looks, t, camera, hand, canvas)


def _place_objects(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    """5 to 8 objects in slots along the worktop, so that they do not cover each other."""
    kinds = [KINDS[i] for i in rng.permutation(len(KINDS))[: rng.integers(5, 9)]]
    xs = 0.6 + 2.0 * (np.arange(len(kinds)) + 0.5 + rng.uniform(-0.12, 0.12, len(kinds))) / len(kinds)
    ys = EDGE_Y + np.where(np.arange(len(kinds)) % 2, 0.16, 0.42) + rng.uniform(-0.04, 0.06, len(kinds))
    return tuple(
        SceneObject(name, shape, colour, (float(x), float(y)), half)
        for (name, shape, colour, half), x, y in zip(kinds, xs, ys, strict=True)
    )


def _hand_path(rng: np.random.Generator, t: np.ndarray) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """(T, 2) world path of the hand, NaN while away, and the (start, stop) of its visits: about one every 4 s."""
    path, visits, start = np.full((t.size, 2), np.nan), [], rng.uniform(0.8, 2.5)
    while start + 1.8 < t[-1]:
        length = rng.uniform(1.6, 2.6)
        stop = min(start + length, t[-1])
        inside = (t >= start) & (t <= stop)
        phase = (t[inside] - start) / length
        a, b = (np.array([rng.uniform(1.1, 2.1), EDGE_Y + rng.uniform(0.2, 0.45)]) for _ in range(2))
        sweep = a + (b - a) * (0.5 - 0.5 * np.cos(np.pi * phase))[:, None]
        sweep[:, 1] += 0.5 * np.maximum(0, np.maximum(0.15 - phase, phase - 0.85)) / 0.15  # up from below, and back
        path[inside] = sweep
        visits.append((start + 0.15 * length, start + 0.85 * length))
        start += length + rng.uniform(1.5, 3.5)
    return path, visits


def _scanpath(
    rng: np.random.Generator,
    t: np.ndarray,
    *,
    objects: tuple[SceneObject, ...],
    hand: np.ndarray,
    carries: list[tuple[float, float]],
) -> tuple[np.ndarray, np.ndarray, tuple[Look, ...]]:
    """World gaze (T, 2), the number of the fixation at each moment (T,) or -1, and the looks."""
    target, still, looks = np.zeros((t.size, 2)), np.full(t.size, -1), []
    here, now, number = np.array([1.6, EDGE_Y + 0.3]), 0.0, 0
    while now < t[-1]:
        visit = next((v for v in carries if v[0] <= now < v[1] - 0.4), None) if rng.random() < 0.6 else None
        name, there = None, here
        if visit is not None:
            there = np.array([np.interp(now + 0.05, t, hand[:, axis]) for axis in (0, 1)])
            visit = visit if np.hypot(*(there - here)) <= MAX_JUMP_WIDTHS else None
        if visit is not None:
            name, length = CARRIED, min(rng.uniform(0.5, 1.2), visit[1] - now)
        else:
            length = float(np.clip(rng.lognormal(np.log(0.33), 0.5), 0.1, 1.2))
            if rng.random() < 0.85:  # nearer objects are likelier; a look often stays on the same one
                near = np.array([np.hypot(*(np.array(o.xy_world) - here)) for o in objects])
                weight = np.exp(-near / 0.45) * (near <= max(MAX_JUMP_WIDTHS, near.min()))
                item = objects[rng.choice(len(objects), p=weight / weight.sum())]
                name, there = item.name, np.array(item.xy_world) + rng.normal(0, 0.3, 2) * item.half_size
            else:
                there = here + rng.normal(0, 0.2, 2)
                there = np.clip(there, [0.6, EDGE_Y - 0.2], [2.6, EDGE_Y + 0.5])
        jump_s = np.clip(0.021 + 0.0022 * DEG_PER_WIDTH * np.hypot(*(there - here)), 0.02, 0.08)
        i0, i1, i2 = np.searchsorted(t, [now, now + jump_s, now + jump_s + length])
        phase = ((t[i0:i1] - now) / jump_s)[:, None]
        target[i0:i1] = here + (there - here) * phase**3 * (10 - 15 * phase + 6 * phase**2)  # minimum jerk
        if visit is not None:
            delayed = np.clip(t[i1:i2] - 0.02, visit[0] - 0.2, visit[1])  # pursuit lags a little
            path = np.stack([np.interp(delayed, t, hand[:, axis]) for axis in (0, 1)], axis=1)
            target[i1:i2] = path
            here = path[-1] if len(path) else there
        else:
            target[i1:i2], still[i1:i2], here, number = there, number, there, number + 1
        looks.append(Look(float(now + jump_s), float(min(now + jump_s + length, t[-1])), name, visit is not None))
        now += jump_s + length
    target[i2:] = here
    return target, still, tuple(look for look in looks if look.stop_s > look.start_s)


def _follow(rng: np.random.Generator, t: np.ndarray, *, target: np.ndarray, head_motion: float) -> np.ndarray:
    """(T, 4) camera: a critically damped head that follows gaze shifts beyond a comfortable eccentricity, and sways."""
    delay, omega, activity = round(rng.uniform(0.06, 0.12) / STEP_S), rng.uniform(4.0, 6.5), rng.uniform(0.5, 1.0)
    centre = np.array([target[0, 0], target[0, 1] - 0.1])
    speed, path, follow = np.zeros(2), np.empty((t.size, 2)), min(1.0, head_motion * activity)
    for i in range(t.size):
        # The head is held so that gaze falls a little below the frame's middle, on the worktop.
        wish = target[max(0, i - delay)] - [0.0, 0.1] - centre
        wish -= np.clip(wish, -0.07, 0.07)
        speed += STEP_S * (omega**2 * follow * wish - 2 * omega * speed)
        centre = centre + STEP_S * speed
        path[i] = centre

    def sway(amplitude: float, low_hz: float, high_hz: float) -> np.ndarray:
        hz, phase = rng.uniform(low_hz, high_hz, 5), rng.uniform(0, 2 * np.pi, 5)
        waves = np.sin(2 * np.pi * hz[:, None] * t + phase[:, None]) / hz[:, None]
        return amplitude * head_motion * activity * waves.mean(axis=0)

    path += np.stack([sway(0.03, 0.3, 2.0), sway(0.03, 0.3, 2.0)], axis=1)
    zoom = 1.0 + sway(0.03, 0.1, 0.5)
    return np.column_stack([path, sway(0.04, 0.15, 0.8), zoom])


def _track(rng: np.random.Generator, t: np.ndarray, *, true: np.ndarray, gaze_hz: float, aspect: float) -> GazeSamples:
    """What the tracker stores: white and slow noise, a constant bias, blinks with smeared edges, short dropouts."""
    n = int(t[-1] * gaze_hz)
    times = (np.arange(n) + rng.uniform(-0.03, 0.03, n)) / gaze_hz + 0.001
    xy = np.stack([np.interp(times, t, true[:, axis]) for axis in (0, 1)], axis=1)
    knots = np.arange(0.0, t[-1] + 0.2, 0.1)
    drift = np.stack([np.interp(times, knots, rng.normal(0, 0.0015, knots.size)) for _ in (0, 1)], axis=1)
    scale = np.array([1.0, aspect])
    xy += scale * (rng.normal(0, rng.uniform(0.001, 0.003), (n, 2)) + drift + rng.normal(0, 0.008, 2))
    valid = rng.random(n) > 0.005
    blink = rng.uniform(0.5, 3.0)
    while blink < t[-1]:
        stop = blink + rng.uniform(0.1, 0.25)
        valid[(times >= blink) & (times < stop)] = False
        # Closing lids pull the estimate down before the signal is lost.
        edge = (times >= blink - 0.03) & (times < blink)
        xy[edge, 1] += 0.05 * (times[edge] - blink + 0.03) / 0.03
        blink = stop + rng.exponential(3.0) + 0.5
    confidence = np.where(valid, rng.uniform(0.85, 1.0, n), rng.uniform(0.0, 0.3, n))
    return GazeSamples.build(times, xy, valid=valid, confidence=confidence, source="scene")
