"""A small egocentric kitchen world with everything known: frames, gaze, events. Made anew from a seed, never stored.

    world = World.make(30_000_001)
    world.log            # the truth: looks, actions, appearances, attributes
    world.gaze           # what an eye tracker recorded of it
    world.estimate(world.gaze), world.estimate(None)   # what can be made out with that gaze, and without any

`world_parameters.py` holds the numbers and their sources, `world_script.py` what happens, `world_log.py` what the words
of the log mean here. Simpler than life: one plane, no roll, no zoom, no parallax, objects that stand in a grid of ten
places, and names that carry nothing (which objects there are, where, of which colour and size, looked at or acted on
is independent of their names).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gazeqwen.errors import ConfigError
from gazeqwen.event_log import EventLog
from gazeqwen.tiny.world_events import STEP_S
from gazeqwen.tiny.world_gaze import stored_fixations, track, true_gaze
from gazeqwen.tiny.world_log import estimated_episodes, guessed_episodes, scene_log, seen, true_log
from gazeqwen.tiny.world_painting import Painter
from gazeqwen.tiny.world_parameters import WorldParameters
from gazeqwen.tiny.world_script import Script
from gazeqwen.tiny.world_sprites import COLOURS, NOUNS
from gazeqwen.types import Fixations, GazeSamples

USER_SEEDS = 1_000_000  # seeds below are the user's
PRETRAINING_SEEDS = 10_000_000
TRAINING_SEEDS = 20_000_000
VALIDATION_SEEDS = 30_000_000
TEST_SEEDS = 40_000_000
SHORTEST_S, LONGEST_S = 20.0, 120.0


def world_seed(seed: int, index: int) -> int:
    """The seed of world `index` of a set that starts at `seed`."""
    if seed < 0 or index < 0:
        raise ConfigError(f"world: expected a seed and an index of 0 or more, found {seed} and {index}")
    return seed + index


@dataclass(frozen=True, eq=False)
class World:
    """One recording. Build with `World.make`; frames are drawn when asked for.

    Attributes:
        names, colours: of the objects; `script` knows them by number.
        gaze: what the tracker recorded.
        fixations: what the tracker stored as fixations: the true ones, seen through its noise.
        log: the truth.
        visible: (T, N) whether object n is to be seen, on the script's grid of 5 ms.
    """

    seed: int
    duration_s: float
    fps: float
    size_px: tuple[int, int]
    parameters: WorldParameters
    names: tuple[str, ...]
    colours: tuple[str, ...]
    gaze: GazeSamples
    fixations: Fixations
    log: EventLog
    script: Script
    visible: np.ndarray
    _scene: dict[str, Any]

    @classmethod
    def make(
        cls,
        seed: int,
        *,
        duration_s: float | None = None,
        fps: float = 24.0,
        size_px: tuple[int, int] = (168, 112),
        parameters: WorldParameters | None = None,
    ) -> World:
        """The world of this seed; the same arguments give the same world, whatever else was made before.

        Args:
            duration_s: None draws it: 20 to 120 s, half of them up to about 41 s.
            size_px: (width, height), even numbers; what happens depends on their ratio only.

        Raises:
            ConfigError: a negative seed, a size that is not even and positive, a length under 5 s, or no frame rate.
        """
        width, height = size_px
        if seed < 0 or fps <= 0 or min(size_px) < 16 or width % 2 or height % 2 or not 1 <= width / height <= 2:
            raise ConfigError(
                "world: expected a seed of 0 or more, fps above 0 and an even size, up to twice as wide as high, "
                f"found {seed=} {fps=} {size_px=}"
            )
        if duration_s is not None and not 5 <= duration_s <= 3600:
            raise ConfigError(f"world: expected duration_s of 5 to 3600 seconds, found {duration_s!r}")
        p = WorldParameters() if parameters is None else parameters
        # Streams of their own, so that a change of one kind of noise leaves everything else alone.
        length, script_rng, named, tracker = np.random.default_rng(seed).spawn(4)
        drawn = round(2 * SHORTEST_S * (LONGEST_S / SHORTEST_S) ** (length.random() ** 1.3)) / 2
        length_s = drawn if duration_s is None else float(duration_s)
        aspect = width / height
        script = Script(script_rng, p, duration_s=length_s, aspect=aspect)
        n = len(script.radius)
        names = tuple(NOUNS[i] for i in named.permutation(len(NOUNS))[:n])
        colours = tuple(list(COLOURS)[i] for i in named.permutation(len(COLOURS))[:n])
        gaze = track(tracker, p, true=true_gaze(script, aspect=aspect), aspect=aspect)
        fixations = stored_fixations(script, gaze, p)
        visible = seen(script)
        known = {"vocabulary": NOUNS, "colours": tuple(COLOURS)}
        scene = scene_log(script, visible, names, colours, known=known)
        log = true_log(script, visible, names, scene, fixations)
        return cls(seed, length_s, fps, size_px, p, names, colours, gaze, fixations, log, script, visible, scene)

    @property
    def frame_times_s(self) -> np.ndarray:
        """(F,) seconds, the first at 0."""
        return np.arange(round(self.duration_s * self.fps)) / self.fps

    @cached_property
    def _painter(self) -> Painter:
        rng = np.random.default_rng((self.seed, 7))
        return Painter(rng, self.script, self.names, self.colours, self.size_px)

    def frame(self, time_s: float) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the view at `time_s`."""
        return self._painter.draw(min(round(time_s / STEP_S), len(self.script.t_s) - 1))

    def frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """(time_s, image) in order, one at a time."""
        for time_s in self.frame_times_s:
            yield float(time_s), self.frame(float(time_s))

    def estimate(self, gaze: GazeSamples | None, *, until_s: float | None = None) -> EventLog:
        """What a symbolic solver can know: objects, actions and attributes as they are, looks from `gaze`.

        With None, looks are guessed from the hand and the frame's centre. Actions, appearances and attributes are the
        true ones of the whole recording: a solver must not read those later than its question. `until_s` ends the
        looks there and uses no gaze after it.
        """
        aspect = self.size_px[0] / self.size_px[1]
        script, seen_rows, names = self.script, self.visible, self.names
        stop = self.duration_s if until_s is None else min(until_s, self.duration_s)
        if gaze is None:
            episodes = guessed_episodes(script, seen_rows, names, until_s=stop, fix=Fixations.empty())
        else:
            fix = self.fixations.until(stop)
            episodes = estimated_episodes(script, seen_rows, names, gaze.until(stop), fix, aspect=aspect)
        return EventLog(**{**self._scene, "episodes": episodes})


if __name__ == "__main__":
    from gazeqwen.tiny.world_statistics import main

    sys.exit(main())
