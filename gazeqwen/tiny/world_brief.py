"""What is added to a script when gaze and head are known: knocks during looks, the hand's way, and its cues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gazeqwen.tiny.world_events import (
    CUE_WIDTHS,
    HAND_REST,
    KNOCK_WIDTHS,
    STEPS_XY,
    Cue,
    Span,
    place_brief,
    there_and_back,
)

if TYPE_CHECKING:
    from gazeqwen.tiny.world_script import Script


def add_knocks(script: Script) -> None:
    """Brief events during looks: everything jolts, or lights up, each object in its own way at the same time."""
    rng, p = script.rng, script.p
    for look in script.looks:
        length = look.stop_s - look.start_s
        if length < 0.9 or look.pursuit or rng.random() > p.knock_rate_hz * length:
            continue
        brief = float(rng.uniform(*p.brief_s))
        between = bool(rng.random() < p.between_share)
        start = place_brief(rng, look.start_s + 0.2, look.stop_s - 0.15, brief, between)
        if not math.isfinite(start):
            continue
        a, b = script.row(start), script.row(start + brief)
        still = (script.place[a:b] == script.place[a]).all(axis=(0, 2)) & script.shown[a:b].all(axis=0)
        things = np.flatnonzero(still & script.in_frame(a))
        kind = "motion" if rng.random() < 0.5 else "flash"
        values = [*rng.permutation(4), *rng.integers(0, 4, 8)]
        for thing, value in zip(rng.permutation(things), values, strict=False):
            if kind == "motion":
                push = there_and_back((script.t_s[a:b] - start) / brief)[:, None] * KNOCK_WIDTHS
                script.place[a:b, thing] += push * STEPS_XY[value]
            else:
                script.flash[a:b, thing] = value
            script.spans.append(Span(kind, start, start + brief, int(thing), int(value)))


def hand_path(script: Script) -> np.ndarray:
    """(T, 2) the tip's way between rest and object, from the frame's centre. Gives the cues their direction."""
    far = script.hand_far[:, None]
    hand = (1 - far) * HAND_REST + far * (script.hand_to - script.camera)
    placed = []
    for cue in script.cues:
        a, b = script.row(cue.start_s), script.row(cue.stop_s)
        thing = script.deeds[cue.deed].thing
        way = script.place[a, thing] - script.camera[a] - HAND_REST
        way /= np.hypot(*way)
        phase = (script.t_s[a:b] - cue.start_s) / (cue.stop_s - cue.start_s)
        hand[a:b] += CUE_WIDTHS * there_and_back(phase)[:, None] * way
        angle = math.degrees(math.atan2(-way[1], way[0]))
        placed.append(Cue(cue.start_s, cue.stop_s, angle, cue.deed))
    script.cues = placed
    return hand
