"""The world's event log: the truth (`true_log`) and what can be made out from the frames and noisy gaze (`estimate`).

Definitions, for both:

* An object is to be seen from when its centre is in the frame by a quarter of its radius until it is out by as much
  (so that a swaying head makes no flicker), while it is in the world and not behind the shutter. What the hand covers
  for a moment counts as seen, and a jolt moves nothing out of the frame or the foveal field.
* `in_fov`: objects whose disc comes within 13 degrees (0.144 frame widths) of gaze; `outside_fov`: the others that are
  seen. Both are taken at the middle of an episode. At any time nearest means by centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gazeqwen.event_log import Action, Appearance, AttributeSpan, Episode, EventLog
from gazeqwen.tiny.world_events import DIRECTIONS, FLASHES, HAND_REST, STATES, STEP_S, VERBS
from gazeqwen.tiny.world_parameters import FOV_RADIUS_WIDTHS
from gazeqwen.tiny.world_script import Script
from gazeqwen.types import Fixations, GazeSamples

EDGE_RADII = 0.25
CUE_SECTOR_DEG = 30.0
SHORTEST_S = 0.06
BARE_WIDTHS = 0.10  # gaze further than this from every object's edge is on none


def seen(script: Script) -> np.ndarray:
    """(T, N) whether an object is to be seen."""
    inside = (script.half - np.abs(script.home - script.camera[:, None])).min(axis=2)  # depth in the frame
    edge = EDGE_RADII * script.radius
    enters, leaves = script.shown & (inside >= edge), ~script.shown | (inside < -edge)
    rows = np.arange(1, len(inside) + 1)[:, None]
    last_in, last_out = (np.maximum.accumulate(np.where(flag, rows, 0), axis=0) for flag in (enters, leaves))
    return last_in > last_out


def runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Borders (first, stop) of stretches of equal values in a 1-D array."""
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    borders = [0, *edges.tolist(), len(values)]
    return list(pairwise(borders))


def _time(row: int, duration_s: float) -> float:
    return min(round(row * STEP_S, 6), duration_s)


def _split(
    script: Script, visible: np.ndarray, names: Sequence[str], *, row: int, gaze: np.ndarray, gazed: int | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(in_fov, outside_fov) at one moment for gaze at a place on the plane."""
    far = np.hypot(*(script.home[row] - gaze).T)
    order = [int(i) for i in np.argsort(far, kind="stable") if visible[row, i]]
    near = [i for i in order if far[i] - script.radius[i] <= FOV_RADIUS_WIDTHS]
    if gazed is not None:
        near = [gazed, *(i for i in near if i != gazed)]
    return tuple(names[i] for i in near), tuple(names[i] for i in order if i not in near)


def _episode(
    script: Script,
    visible: np.ndarray,
    names: Sequence[str],
    *,
    start_s: float,
    stop_s: float,
    gazed: int | None,
    gaze: np.ndarray | None,
    fixations: Fixations,
) -> Episode:
    row = min(round((start_s + stop_s) / 2 / STEP_S), len(script.t_s) - 1)
    there = script.gaze[row] if gaze is None else gaze
    if gazed is not None and not visible[row, gazed]:  # it has left the frame: nobody could name it
        gazed = None
    near, outside = _split(script, visible, names, row=row, gaze=there, gazed=gazed)
    middle = (fixations.start_s + fixations.stop_s) / 2
    ids = fixations.ids[(middle >= start_s) & (middle < stop_s)]
    name = None if gazed is None else names[gazed]
    return Episode(start_s, stop_s, name, near, outside, tuple(int(i) for i in ids))


def scene_log(
    script: Script, visible: np.ndarray, names: Sequence[str], colours: Sequence[str], *, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything but the episodes: fields of an EventLog that the frames show. `known`: vocabulary and choices."""
    duration = script.duration_s
    appearances, attributes = [], []
    for thing, name in enumerate(names):
        for first, stop in runs(visible[:, thing]):
            if visible[first, thing] and _time(stop, duration) > _time(first, duration):
                appearances.append(Appearance(_time(first, duration), _time(stop, duration), name))
        attributes.append(AttributeSpan(0.0, duration, name, "colour", colours[thing], tuple(known["colours"])))
        for first, stop in runs(script.state[:, thing]):
            if _time(stop, duration) > _time(first, duration):
                value = STATES[int(script.state[first, thing])]
                span = (_time(first, duration), duration if stop == len(script.t_s) else _time(stop, duration))
                attributes.append(AttributeSpan(*span, name, "state", value, STATES))
    for span in script.spans:
        choices = DIRECTIONS if span.kind == "motion" else FLASHES
        attributes.append(
            AttributeSpan(span.start_s, span.stop_s, names[span.thing], span.kind, choices[span.value], choices)
        )
    actions = [
        Action(deed.start_s, deed.stop_s, f"{deed.verb} the {names[deed.thing]}", names[deed.thing])
        for deed in script.deeds
    ]
    cues = []
    for cue in script.cues:
        row = min(round(cue.start_s / STEP_S), len(script.t_s) - 1)
        way = script.home[row] - script.camera[row] - HAND_REST
        angle = np.degrees(np.arctan2(-way[:, 1], way[:, 0]))
        off = np.abs((angle - cue.angle_deg + 180) % 360 - 180)
        near = [int(i) for i in np.argsort(off, kind="stable") if visible[row, i] and off[i] <= CUE_SECTOR_DEG]
        cues.append(
            {
                "start_s": cue.start_s,
                "stop_s": cue.stop_s,
                "angle_deg": cue.angle_deg,
                "candidates": tuple(names[i] for i in near),
            }
        )
    return {
        "duration_s": duration,
        "objects": tuple(names),
        "vocabulary": tuple(known["vocabulary"]),
        "actions": tuple(sorted(actions, key=lambda action: action.start_s)),
        "appearances": tuple(sorted(appearances, key=lambda a: (a.start_s, a.object))),
        "attributes": tuple(sorted(attributes, key=lambda a: (a.start_s, a.object, a.attribute))),
        "action_labels": tuple(f"{verb} the {noun}" for verb in VERBS for noun in known["vocabulary"]),
        "extra": {"cues": tuple(cues), "reach_s": tuple(deed.reach_s for deed in script.deeds)},
    }


def true_log(
    script: Script, visible: np.ndarray, names: Sequence[str], scene: Mapping[str, Any], fix: Fixations
) -> EventLog:
    """The truth. `extra`: what `scene_log` has, and per action `lead_s`, NaN where gaze did not lead."""
    merged: list[list[Any]] = []
    for look in script.looks:
        if look.stop_s - look.start_s < SHORTEST_S:  # cut off by the recording's end
            continue
        same = merged and merged[-1][2] == look.thing and look.thing is not None
        if same and look.start_s - merged[-1][1] < 0.2:
            merged[-1][1] = look.stop_s
        else:
            merged.append([look.start_s, look.stop_s, look.thing])
    episodes = [
        _episode(script, visible, names, start_s=start, stop_s=stop, gazed=thing, gaze=None, fixations=fix)
        for start, stop, thing in merged
    ]
    extra = {**scene["extra"], "lead_s": tuple(deed.lead_s for deed in script.deeds)}
    return EventLog(**{**scene, "episodes": tuple(episodes), "extra": extra})


def estimated_episodes(
    script: Script, visible: np.ndarray, names: Sequence[str], gaze: GazeSamples, fix: Fixations, *, aspect: float
) -> tuple[Episode, ...]:
    """What was looked at by the nearest object to noisy gaze.

    Gaze is taken to the plane (the head's motion is seen in the frames), cut where it moves more than 0.05 widths
    within 40 ms or is lost for 0.1 s, and each piece of 60 ms or more goes to the object nearest to its mean; pieces
    of the same object less than 0.3 s apart are one episode.
    """
    gaze = gaze.take(gaze.valid)
    if len(gaze) < 8:
        return ()
    rows = np.minimum(np.round(gaze.t_s / STEP_S).astype(int), len(script.t_s) - 1)
    xy = script.camera[rows] + (gaze.xy_norm - 0.5) / [1.0, aspect]
    wide = max(2, round(0.03 / float(np.median(np.diff(gaze.t_s)))))
    total = np.concatenate([np.zeros((1, 2)), np.cumsum(xy, axis=0)])
    index = np.arange(len(xy))
    before, after = np.maximum(index - wide, 0), np.minimum(index + wide, len(xy))
    past = (total[index + 1] - total[before]) / (index + 1 - before)[:, None]
    ahead = (total[after] - total[index]) / (after - index)[:, None]
    moving = np.hypot(*(ahead - past).T) > 0.05
    piece = np.cumsum(np.concatenate([[False], (moving[1:] != moving[:-1]) | (np.diff(gaze.t_s) > 0.1)]))
    found: list[tuple[float, float, int | None, np.ndarray]] = []
    for first, stop in runs(piece):
        if moving[first] or gaze.t_s[stop - 1] - gaze.t_s[first] < 0.06:
            continue
        mean, row = xy[first:stop].mean(axis=0), rows[(first + stop) // 2]
        thing = _nearest(script, visible, row, mean)
        start_s, stop_s = float(gaze.t_s[first]), float(gaze.t_s[stop - 1])
        if found and found[-1][2] == thing and start_s - found[-1][1] < 0.3:
            found[-1] = (found[-1][0], stop_s, thing, (found[-1][3] + mean) / 2)
        else:
            found.append((start_s, stop_s, thing, mean))
    return tuple(
        _episode(script, visible, names, start_s=start, stop_s=stop, gazed=thing, gaze=place, fixations=fix)
        for start, stop, thing, place in found
    )


def _nearest(script: Script, visible: np.ndarray, row: int, place: np.ndarray) -> int | None:
    far = np.where(visible[row], np.hypot(*(script.home[row] - place).T), np.inf)
    thing = int(np.argmin(far))
    return thing if far[thing] <= script.radius[thing] + BARE_WIDTHS else None


def guessed_episodes(
    script: Script, visible: np.ndarray, names: Sequence[str], *, until_s: float, fix: Fixations
) -> tuple[Episode, ...]:
    """What was looked at for one who has no gaze: what the hand is at, else the object nearest the frame's centre.

    Judged every 50 ms; a change that lasts less than 0.2 s is passed over.
    """
    rows = np.arange(0, min(int(until_s / STEP_S) + 1, len(script.t_s)), round(0.05 / STEP_S))
    far = np.hypot(*np.moveaxis(script.home[rows] - script.camera[rows, None], 2, 0))
    far = np.where(visible[rows], far, np.inf)
    guess = np.where(np.isfinite(far.min(axis=1)), far.argmin(axis=1), -1)
    for deed in script.deeds:
        close = np.hypot(*(script.hand[rows] + script.camera[rows] - script.home[rows, deed.thing]).T)
        at = (rows * STEP_S >= deed.reach_s) & (rows * STEP_S < deed.stop_s) & visible[rows, deed.thing]
        guess[at & (close < script.radius[deed.thing] + 0.05)] = deed.thing
    found: list[list[Any]] = []
    for first, stop in runs(guess):
        if found and (stop - first < 4 or found[-1][2] == guess[first]):
            found[-1][1] = stop
        else:
            found.append([first, stop, int(guess[first])])
    last = float(until_s)
    return tuple(
        _episode(
            script,
            visible,
            names,
            start_s=first * 0.05,
            stop_s=min(stop * 0.05, last),
            gazed=None if thing < 0 else thing,
            gaze=script.camera[rows[(first + stop) // 2]],
            fixations=fix,
        )
        for first, stop, thing in found
        if min(stop * 0.05, last) > first * 0.05
    )
