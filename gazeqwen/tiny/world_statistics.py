"""What the worlds are like, in numbers: `python -m gazeqwen.tiny.world --worlds N --seed S [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gazeqwen.tiny.world import World, world_seed
from gazeqwen.tiny.world_events import STEP_S, VERBS


def nearest_hits(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Per look at an object, whether the seen object nearest to the mean of the tracker's valid samples is the one,
    and whether the one nearest to the frame's centre is. Looks without a valid sample count as missed by gaze."""
    script, aspect = world.script, world.size_px[0] / world.size_px[1]
    by_gaze, by_centre = [], []
    for look in script.looks:
        if look.thing is None or look.stop_s - look.start_s < 0.1:
            continue
        row = min(round((look.start_s + look.stop_s) / 2 / STEP_S), len(script.t_s) - 1)
        late = world.parameters.latency_s
        gaze = world.gaze.between(look.start_s + late, look.stop_s + late)
        gaze = gaze.take(gaze.valid)
        rows = np.minimum(np.round(gaze.t_s / STEP_S).astype(int), len(script.t_s) - 1)
        places = script.camera[rows] + (gaze.xy_norm - 0.5) / [1.0, aspect]
        for place, hits in ((places.mean(axis=0) if len(gaze) else None, by_gaze), (script.camera[row], by_centre)):
            if place is None:
                hits.append(False)
                continue
            far = np.where(world.visible[row], np.hypot(*(script.place[row] - place).T), np.inf)
            hits.append(int(np.argmin(far)) == look.thing)
    return np.array(by_gaze, dtype=bool), np.array(by_centre, dtype=bool)


def agreement(world: World, *, gaze: bool) -> float:
    """Share of the time of true looks at objects at which the estimated log names the same object."""
    guess = world.estimate(world.gaze if gaze else None).episodes
    times = np.arange(0.1, world.duration_s, 0.05)

    def named(episodes: Iterable[Any]) -> list[str | None]:
        found: list[str | None] = [None] * len(times)
        for episode in episodes:
            first, stop = np.searchsorted(times, [episode.start_s, episode.stop_s])
            found[first:stop] = [episode.gazed] * (stop - first)
        return found

    pairs = [(a, b) for a, b in zip(named(world.log.episodes), named(guess), strict=True) if a is not None]
    return sum(a == b for a, b in pairs) / max(len(pairs), 1)


def between_frames(start_s: float, stop_s: float) -> bool:
    """Whether a span holds none of the moments k/2 s, at which a reader at 2 fps sees a frame."""
    return bool(np.floor(start_s * 2) == np.floor(stop_s * 2) and start_s * 2 % 1 > 0)


def statistics(worlds: Iterable[World]) -> dict[str, Any]:
    """The figures of the table, over all worlds together; percentages are of what their names say."""
    gathered: dict[str, list[float]] = {}
    looked: dict[str, int] = {}
    verbs = dict.fromkeys(VERBS, 0)
    minutes = 0.0

    def add(name: str, values: Iterable[float]) -> None:
        gathered.setdefault(name, []).extend(float(value) for value in values)

    for world in worlds:
        log, script = world.log, world.script
        minutes += world.duration_s / 60
        add("duration", [world.duration_s])
        add("objects", [len(log.objects)])
        add("seen", world.visible.sum(axis=1)[::100])
        add("look", (e.stop_s - e.start_s for e in log.episodes))
        add("bare", (e.gazed is None for e in log.episodes))
        add("glance", (look.glance for look in script.looks))
        add("glance between", (between_frames(x.start_s, x.stop_s) for x in script.looks if x.glance))
        add("in fov", (len(e.in_fov) for e in log.episodes))
        add("outside", (len(e.outside_fov) for e in log.episodes))
        add("fixation", world.fixations.duration_s)
        leads = np.array([deed.lead_s for deed in script.deeds])
        add("leads", np.isfinite(leads))
        add("lead", leads[np.isfinite(leads)])
        add("gap", (b.reach_s - a.stop_s for a, b in pairwise(script.deeds)))
        add("cued", [len(script.cues) / max(len(script.deeds), 1)])
        add("cue candidates", (len(cue["candidates"]) for cue in log.extra["cues"]))
        add("cue right", (log.actions[c.deed].object in e["candidates"] for c, e in _cues(world)))
        add("brief between", (between_frames(x.start_s, x.stop_s) for x in [*script.spans, *script.cues]))
        add("motion", [len({x.start_s for x in script.spans if x.kind == "motion"})])
        add("flash", [len({x.start_s for x in script.spans if x.kind == "flash"})])
        add("valid", [world.gaze.valid.mean()])
        aspect = world.size_px[0] / world.size_px[1]
        add("eccentricity", np.hypot(*((world.gaze.xy_norm[world.gaze.valid] - 0.5) / [1.0, aspect]).T))
        add("in frame", np.abs(world.gaze.xy_norm[world.gaze.valid] - 0.5).max(axis=1) <= 0.5)
        by_gaze, by_centre = nearest_hits(world)
        add("nearest to gaze", by_gaze)
        add("nearest to centre", by_centre)
        add("estimate", [agreement(world, gaze=True)])
        add("estimate without", [agreement(world, gaze=False)])
        never = {e.gazed for e in log.episodes}
        add("never looked at", [sum(name not in never for name in log.objects)])
        for episode in log.episodes:
            if episode.gazed is not None:
                looked[episode.gazed] = looked.get(episode.gazed, 0) + 1
        for deed in script.deeds:
            verbs[deed.verb] += 1

    def spread(name: str, scale: float = 1.0) -> list[float]:
        return [round(float(x) * scale, 3) for x in np.quantile(gathered[name] or [np.nan], (0.1, 0.5, 0.9))]

    def percent(name: str) -> float:
        return round(100 * float(np.mean(gathered[name] or [np.nan])), 1)

    def per_minute(name: str) -> float:
        return round(sum(gathered[name]) / minutes, 2)

    return {
        "worlds": len(gathered["duration"]),
        "duration s": spread("duration"),
        "objects a world": spread("objects"),
        "objects in the frame": spread("seen"),
        "never looked at, a world": spread("never looked at"),
        "looks a minute": round(len(gathered["look"]) / minutes, 1),
        "look s": spread("look"),
        "looks at no object %": percent("bare"),
        "glances of looks %": percent("glance"),
        "glances between frames %": percent("glance between"),
        "in_fov, objects": spread("in fov"),
        "outside_fov, objects": spread("outside"),
        "fixation s": spread("fixation"),
        "actions a minute": round(sum(verbs.values()) / minutes, 1),
        "actions by verb %": {v: round(100 * n / max(sum(verbs.values()), 1), 1) for v, n in verbs.items()},
        "gap between actions s": spread("gap"),
        "gaze leads the hand %": percent("leads"),
        "lead s": spread("lead"),
        "actions with a cue %": percent("cued"),
        "objects a cue may mean": spread("cue candidates"),
        "the cue's is among them %": percent("cue right"),
        "jolts a minute": per_minute("motion"),
        "flashes a minute": per_minute("flash"),
        "brief ones between frames %": percent("brief between"),
        "gaze samples valid %": percent("valid"),
        "of these in the frame %": percent("in frame"),
        "gaze from centre, widths": spread("eccentricity"),
        "look's object nearest gaze %": percent("nearest to gaze"),
        "... nearest the centre %": percent("nearest to centre"),
        "estimate right, with gaze %": percent("estimate"),
        "... without gaze %": percent("estimate without"),
        "looks by noun %": {
            name: round(100 * n / max(sum(looked.values()), 1), 1) for name, n in sorted(looked.items())
        },
    }


def _cues(world: World) -> list[tuple[Any, Any]]:
    return list(zip(world.script.cues, world.log.extra["cues"], strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gazeqwen.tiny.world", description=__doc__)
    parser.add_argument("--worlds", type=int, default=40, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first world")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    if options.worlds < 1:
        parser.error("--worlds: at least 1")
    table = statistics(World.make(world_seed(options.seed, i)) for i in range(options.worlds))
    if options.json:
        sys.stdout.write(json.dumps(table) + "\n")
        return 0
    for name, value in table.items():
        if isinstance(value, dict):
            sys.stdout.write(f"{name}\n")
            cells = [f"{key} {number}" for key, number in value.items()]
            for first in range(0, len(cells), 4):
                sys.stdout.write("  " + "".join(f"{cell:<18}" for cell in cells[first : first + 4]).rstrip() + "\n")
        else:
            shown = "  ".join(f"{x:g}" for x in value) if isinstance(value, list) else f"{value:g}"
            sys.stdout.write(f"{name:<32}{shown}\n")
    sys.stdout.write("three figures: 10 %, 50 %, 90 % of worlds or events\n")
    return 0
