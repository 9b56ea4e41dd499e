"""What happens in a world: objects that come, go and change, a hand that acts, a wearer who looks, a head that follows.

One pass forward in time: each look is chosen from what is in the frame at that moment, then the head is moved on. The
result is arrays on a grid of 5 ms; T moments, N objects. Places are in frame widths on the painted plane, y down.
Nothing here knows a name: objects are numbers, so that no name can be likelier than another.
"""

from __future__ import annotations

import math

import numpy as np

from gazeqwen.tiny.world_brief import add_knocks, hand_path
from gazeqwen.tiny.world_events import (
    AWAY_Y,
    COLUMNS_X,
    HATCHES,
    MAX_JUMP_WIDTHS,
    PLANE,
    ROWS_Y,
    STATES,
    STEP_S,
    VERBS,
    Cue,
    Deed,
    Look,
    Span,
    frame_half,
    lognormal,
    minimum_jerk,
    place_brief,
)
from gazeqwen.tiny.world_head import Head
from gazeqwen.tiny.world_parameters import DEG_PER_WIDTH, WorldParameters


class Script:
    """Runs on construction.

    Attributes:
        t_s: (T,). `half`: (2,) half the frame.
        place, home: (T, N, 2) of objects, with jolts and without. `radius`: (N,).
        shown: (T, N) in the world and not behind a shutter.
        state, flash: (T, N) indices into STATES and FLASHES; -1 for no flash.
        shutter: (T, 2) how far open. `hatch_xy`: (2, 2) where the cupboards are.
        hand: (T, 2) its tip from the frame's centre. `grip`: (T,) in contact.
        hand_far: (T,) from 0, at rest, to 1, at `hand_to` (T, 2) on the plane.
        camera, gaze: (T, 2) the frame's centre and the point looked at, on the plane.
        fixation: (T,) number of the fixation, -1 in saccades.
        looks, deeds, spans, cues: what happened, in order.
    """

    def __init__(self, rng: np.random.Generator, p: WorldParameters, *, duration_s: float, aspect: float) -> None:
        self.rng, self.p, self.duration_s = rng, p, duration_s
        self.half = frame_half(aspect)
        self.t_s = np.arange(round(duration_s / STEP_S) + 1) * STEP_S
        self._set_table()
        size = self.t_s.size
        self.hand_far, self.hand_to = np.zeros(size), np.tile([PLANE[0] / 2, AWAY_Y], (size, 1))
        self.grip = np.zeros(size, dtype=bool)
        self.gaze, self.fixation = np.zeros((size, 2)), np.full(size, -1)
        self.miss = np.zeros((size, 2))  # where the head aims, from gaze
        self.looks: list[Look] = []
        self.deeds: list[Deed] = []
        self.spans: list[Span] = []
        self.cues: list[Cue] = []
        self.head = Head(rng, p, t_s=self.t_s, half=self.half)
        self.here, self.now, self._number = self.head.start.copy(), 0.0, 0
        self._run()
        self.gaze[self.row(self.now) :] = self.here
        self.head.follow(self.gaze, self.miss, size)
        self.looks = [look for look in self.looks if look.start_s < duration_s]
        for look in self.looks:
            look.stop_s = min(look.stop_s, duration_s)
        self.home = self.place.copy()
        add_knocks(self)
        self.hand = hand_path(self)

    def row(self, time_s: float) -> int:
        return min(max(math.ceil(time_s / STEP_S - 1e-6), 0), self.t_s.size)

    @property
    def camera(self) -> np.ndarray:
        return self.head.camera

    # ---- the table

    def _set_table(self) -> None:
        rng, p, size = self.rng, self.p, self.t_s.size
        n = int(rng.integers(p.objects[0], p.objects[1] + 1))
        self.radius = rng.uniform(*p.radius_widths, n)
        cupboards = [(COLUMNS_X[i], ROWS_Y[0]) for i in rng.permutation(len(COLUMNS_X))[:HATCHES]]
        slots = cupboards + [(x, y) for y in ROWS_Y for x in COLUMNS_X if (x, y) not in cupboards]
        self.slots = np.array(slots) + rng.uniform(-0.01, 0.01, (len(slots), 2))
        self.hatch_xy = self.slots[:HATCHES]
        open_slots = HATCHES + rng.permutation(len(slots) - HATCHES)
        self.slot: list[int | None] = [*range(HATCHES), *(int(i) for i in open_slots[: n - HATCHES])]
        self.slot[-1] = None
        self.place = np.empty((size, n, 2))
        for thing, slot in enumerate(self.slot):
            self.place[:, thing] = [PLANE[0] / 2, AWAY_Y] if slot is None else self.slots[slot]
        self.shown = np.array([slot is not None for slot in self.slot])[None].repeat(size, axis=0)
        deck = rng.permutation(2 * len(STATES))[:n] % len(STATES)  # no state in more than two objects
        self.state = deck[None].repeat(size, axis=0).astype(np.int8)
        self.flash = np.full((size, n), -1, dtype=np.int8)
        self._set_shutters()
        self.liking = rng.gamma(1.5, 1.0, n) + 0.1
        self.ignored_until = np.zeros(n)
        # Mostly objects in the middle, so that a place at the edge does not give them away.
        middle = np.exp(-np.abs(self.place[0, :-1, 0] - PLANE[0] / 2) / 0.2)
        count = int(rng.integers(p.ignored[0], p.ignored[1] + 1))
        for thing in rng.choice(n - 1, count, replace=False, p=middle / middle.sum()):
            self.ignored_until[thing] = rng.uniform(0.4, 1.4) * self.duration_s

    def _set_shutters(self) -> None:
        rng, p = self.rng, self.p
        self.shutter = np.zeros((self.t_s.size, HATCHES))
        for hatch in range(HATCHES):
            now, opened = rng.uniform(-4.0, 4.0), True
            times, values = [-100.0], [0.0]
            while now < self.duration_s:
                times += [now, now + 0.4]
                values += [0.0, 1.0] if opened else [1.0, 0.0]
                now += rng.uniform(*(p.open_s if opened else p.shut_s))
                opened = not opened
            self.shutter[:, hatch] = np.interp(self.t_s, times, values)
            self.shown[:, hatch] &= self.shutter[:, hatch] >= 0.5  # until the hand takes the object out

    # ---- looking

    def _run(self) -> None:
        rng, p = self.rng, self.p
        reach_s = float(rng.uniform(1.5, 3.5))
        lead_s = self._draw_lead()
        late: tuple[float, int, float] | None = None  # when, on what, until: gaze that comes after the hand
        while self.now < self.duration_s:
            due = reach_s - lead_s if math.isfinite(lead_s) else reach_s
            if late is not None:
                due = late[0]
            if self.now >= due - 0.05:
                if late is not None:
                    self._look(late[1], stop_s=max(late[2], self.now + 0.5))
                    late = None
                    continue
                deed, late = self._act(max(reach_s, self.now + 0.1), lead_s)
                free = deed.stop_s + 0.55 if deed is not None else self.now + 0.4
                reach_s, lead_s = free + float(rng.uniform(*p.action_gap_s)), self._draw_lead()
                continue
            self._free_look(due)

    def _draw_lead(self) -> float:
        mean, sd, least, most = self.p.lead_s
        lead = float(np.clip(self.rng.normal(mean, sd), least, most))
        return lead if self.rng.random() < self.p.lead_share else math.nan

    def in_frame(self, row: int, margin: float = 0.0) -> np.ndarray:
        """(N,) whether an object is shown and its centre is in the frame, by `margin` of its radius."""
        row = min(row, self.t_s.size - 1)
        inside = np.abs(self.place[row] - self.camera[row]) <= self.half - margin * self.radius[:, None]
        return self.shown[row] & inside.all(axis=1)

    def _choices(self, stay_s: float, *, unseen: bool = False) -> np.ndarray:
        """Objects gaze can go to now and that stay where they are for `stay_s`; `unseen`: also those it never does."""
        row, last = self.row(self.now), self.row(self.now + stay_s)
        self.head.follow(self.gaze, self.miss, row + 1)
        ok = self.in_frame(row, 0.5) & self.shown[row:last].all(axis=0)
        row = min(row, self.t_s.size - 1)
        ok &= (self.place[row:last] == self.place[row]).all(axis=(0, 2))
        far = np.hypot(*(self.place[row] - self.here).T)
        return np.flatnonzero(ok & (far <= MAX_JUMP_WIDTHS) & ((self.ignored_until <= self.now) | unseen))

    def _free_look(self, due_s: float) -> None:
        rng, p = self.rng, self.p
        if due_s - self.now < 0.3 and self.looks:  # no time for another: stay
            self._stay(due_s)
            return
        glance = bool(rng.random() < p.glance_share)
        length = float(rng.uniform(*p.brief_s)) if glance else lognormal(rng, *p.look_s)
        length = min(length, max(due_s - self.now - 0.03, 0.15))
        current = self.looks[-1].thing if self.looks else None
        things = [int(i) for i in self._choices(length + 0.6) if i != current]
        if not things or rng.random() < p.bare_share:
            spot = self._bare_spot()
            self._look(None, spot=spot, stop_s=self.now + self._jump_s(spot) + length)
            return
        far = np.hypot(*(self.place[min(self.row(self.now), self.t_s.size - 1), things] - self.here).T)
        weight = self.liking[things] * np.exp(-far / p.distance_widths)
        thing = things[rng.choice(len(things), p=weight / weight.sum())]
        if glance and self.looks and rng.random() < p.between_share:
            start = place_brief(rng, self.now + 0.06, min(due_s, self.now + 0.9), length, True)
            if math.isfinite(start):
                self._look(thing, start_s=start, stop_s=start + length, glance=True)
                return
            glance, length = False, min(lognormal(rng, *p.look_s), max(due_s - self.now - 0.03, 0.15))
        self._look(thing, stop_s=self.now + 0.05 + length, glance=glance)

    def _bare_spot(self) -> np.ndarray:
        """A point in the frame 0.05 or more outside every object."""
        row = min(self.row(self.now), self.t_s.size - 1)
        self.head.follow(self.gaze, self.miss, row + 1)
        for _ in range(20):
            spot = self.camera[row] + self.rng.uniform(-0.7, 0.7, 2) * self.half
            near = np.hypot(*(self.place[row] - spot).T) - self.radius
            if near[self.shown[row]].min(initial=1.0) > 0.05 and np.hypot(*(spot - self.here)) < MAX_JUMP_WIDTHS:
                break
        return spot

    def _centre(self, thing: int, time_s: float) -> np.ndarray:
        return self.place[min(self.row(time_s), self.t_s.size - 1), thing]

    def _spot_on(self, thing: int | None, time_s: float) -> np.ndarray:
        """A point on `thing` as it then stands."""
        assert thing is not None
        return self._centre(thing, time_s) + np.clip(self.rng.normal(0, 0.25, 2), -0.5, 0.5) * self.radius[thing]

    def _jump_s(self, there: np.ndarray) -> float:
        return float(np.clip(0.021 + 0.0022 * DEG_PER_WIDTH * np.hypot(*(there - self.here)), 0.02, 0.15))

    def _stay(self, until_s: float) -> None:
        """Gaze stays where it is."""
        if until_s <= self.now:
            return
        self._rest(self.here, self.now, until_s, None)
        if self.looks:
            self.looks[-1].stop_s = until_s
        self.now = until_s

    def _look(
        self,
        thing: int | None,
        *,
        stop_s: float,
        start_s: float | None = None,
        spot: np.ndarray | None = None,
        glance: bool = False,
    ) -> None:
        """A saccade to `thing` (or `spot`), then gaze on it until `stop_s`; it is followed if it moves."""
        there = self._spot_on(thing, self.now) if spot is None else spot
        jump_s = self._jump_s(there)
        if start_s is not None:
            jump_s = min(jump_s, start_s - self.now)
            self._stay(start_s - jump_s)
        arrive = self.now + jump_s
        if thing is not None:  # to where a moving object will be
            there = there + self._centre(thing, arrive) - self._centre(thing, self.now)
        stop_s = max(stop_s, arrive + 0.1)
        a, b = self.row(self.now), self.row(arrive)
        self.miss[a:] = self.p.head_miss_widths * self.rng.normal(0, 1, 2)
        phase = ((self.t_s[a:b] - self.now) / max(arrive - self.now, STEP_S))[:, None]
        self.gaze[a:b] = self.here + (there - self.here) * minimum_jerk(phase)
        self.looks.append(Look(arrive, stop_s, thing, glance=glance))
        self._rest(there, arrive, stop_s, thing)
        self.now = stop_s

    def _rest(self, spot: np.ndarray, start_s: float, stop_s: float, thing: int | None) -> None:
        """Fixations around `spot`, with small saccades between them, or pursuit while `thing` moves."""
        now, rng = start_s, self.rng
        while now < stop_s - 1e-9:
            until = min(stop_s, now + lognormal(rng, *self.p.fixation_s))
            until = stop_s if stop_s - until < 0.12 else until
            a, b = self.row(now), self.row(until)
            path = self._followed(thing, a, b)
            self.gaze[a:b] = spot + path
            self.fixation[a:b] = self._number
            if len(path) and (path != 0).any() and self.looks:
                self.looks[-1].pursuit = True
            self.here = spot + (path[-1] if len(path) else 0)
            self._number += 1
            now = until
            if thing is None or now >= stop_s - 1e-9:
                spot = self.here
                continue
            spot = self._spot_on(thing, now)
            a, b = self.row(now), self.row(min(now + 0.025, stop_s))
            self.gaze[a:b] = self.here + (spot - self.here) * np.linspace(0, 1, b - a + 2)[1:-1, None]
            self.here, now = spot, min(now + 0.025, stop_s)

    def _followed(self, thing: int | None, a: int, b: int) -> np.ndarray:
        """(b - a, 2) how far `thing` has moved since row a, seen 20 ms late: what pursuit adds."""
        if thing is None or b <= a:
            return np.zeros((max(b - a, 0), 2))
        rows = np.maximum(np.arange(a, b) - 4, min(a, self.t_s.size - 1))
        return self.place[rows, thing] - self.place[min(a, self.t_s.size - 1), thing]

    # ---- acting

    def _act(self, reach_s: float, lead_s: float) -> tuple[Deed | None, tuple[float, int, float] | None]:
        """Plans an action that can be done now and, where gaze leads, looks at its object until about contact."""
        rng, p = self.rng, self.p
        leads, arrive = math.isfinite(lead_s), math.nan
        contact = float(rng.uniform(*p.contact_s))
        reach = float(rng.uniform(*p.reach_s))
        horizon = max(reach_s - self.now, 0.0) + 1.2 + reach + contact + 0.6
        things = self._choices(horizon, unseen=not leads)
        if not leads and self.looks:
            things = np.array([i for i in things if i != self.looks[-1].thing], dtype=int)
        for verb in rng.permutation(list(VERBS)):
            doable = self._doable(str(verb), things)
            if len(doable) == 0:
                continue
            thing = int(doable[rng.integers(len(doable))])
            goal = self._free_slot() if verb in ("put", "move") else None
            if goal is None and verb in ("put", "move"):
                continue
            aim = self.slots[goal] if verb == "put" and goal is not None else self.place[self.row(self.now), thing]
            if leads:
                arrive = self.now + 0.13  # longer than most saccades: gaze waits a little before it
                reach_s = arrive + lead_s
            start = reach_s + reach
            stop = start + contact
            if stop > self.duration_s - 0.1:
                return None, None
            deed = Deed(str(verb), thing, reach_s, start, stop, lead_s)
            self._do(deed, goal)
            if not leads and (verb == "take" or self.ignored_until[thing] > self.now):
                return deed, None
            if not leads:
                comes = stop if verb == "put" else start + float(rng.uniform(0.1, 0.4))
                return deed, (comes, thing, stop + float(rng.uniform(0.0, 0.5)))
            self._watch(deed, aim, arrive)
            return deed, None
        return None, None

    def _doable(self, verb: str, things: np.ndarray) -> np.ndarray:
        row = self.row(self.now)
        if verb == "put":
            return np.array([i for i, slot in enumerate(self.slot) if slot is None], dtype=int)
        if verb == "take":
            return things if sum(slot is not None for slot in self.slot) > 5 else things[:0]
        wanted = VERBS[verb]
        return things if wanted is None else things[self.state[row, things] != wanted]

    def _free_slot(self) -> int | None:
        """A slot that nothing stands in and that is well inside the frame."""
        row = min(self.row(self.now), self.t_s.size - 1)
        inside = (np.abs(self.slots - self.camera[row]) <= self.half - 0.08).all(axis=1)
        free = [i for i in range(HATCHES, len(self.slots)) if i not in self.slot and inside[i]]
        return int(free[self.rng.integers(len(free))]) if free else None

    def _do(self, deed: Deed, goal: int | None) -> None:
        """Writes an action into the arrays of its object and of the hand."""
        thing, size = deed.thing, self.t_s.size
        r, a, b = (self.row(time_s) for time_s in (deed.reach_s, deed.start_s, deed.stop_s))
        smooth = minimum_jerk(np.linspace(0, 1, b - a))[:, None]
        here = self.place[min(a, size - 1), thing].copy()
        if deed.verb in ("take", "put", "move"):
            there = np.array([here[0] + 0.03, AWAY_Y]) if goal is None else self.slots[goal]
            if deed.verb == "put":
                here = np.array([there[0] + 0.03, AWAY_Y])
            self.place[a:b, thing] = here + (there - here) * smooth
            self.place[b:, thing] = there
            self.shown[a:, thing] = deed.verb != "take"
            self.shown[a:b, thing] = True
            self.slot[thing] = goal
            self.hand_to[a:b] = self.place[a:b, thing]
        else:
            wanted = VERBS[deed.verb]
            assert wanted is not None
            self.state[(a + b) // 2 :, thing] = wanted
            rub = 0.02 * np.sin(2 * np.pi * 2.5 * (self.t_s[a:b] - deed.start_s))
            self.hand_to[a:b] = here + np.stack([rub, 0 * rub], axis=1)
        self.hand_to[r:a] = self.hand_to[min(a, size - 1)]
        self.hand_far[r:a] = minimum_jerk(np.linspace(0, 1, a - r))
        self.hand_far[a:b] = 1.0
        self.grip[a:b] = True
        back = self.row(deed.stop_s + 0.45)
        self.hand_to[b:back] = self.hand_to[b - 1]
        self.hand_far[b:back] = 1 - minimum_jerk(np.linspace(0, 1, back - b))
        self.deeds.append(deed)
        if deed.verb != "put" and self.rng.random() < self.p.cue_share:
            length = float(self.rng.uniform(*self.p.brief_s))
            between = bool(self.rng.random() < self.p.between_share)
            before = self.deeds[-2].stop_s + 0.5 if len(self.deeds) > 1 else 0.3
            earliest = max(before, deed.reach_s - 1.1)
            start = place_brief(self.rng, earliest, deed.reach_s - 0.02, length, between)
            if math.isfinite(start):
                self.cues.append(Cue(start, start + length, math.nan, len(self.deeds) - 1))

    def _watch(self, deed: Deed, aim: np.ndarray, arrive_s: float) -> None:
        """Gaze that leads: on the object until a little after contact, along with it while it moves."""
        rng = self.rng
        if deed.verb == "put":  # to the empty place; the object comes to gaze
            self._look(None, spot=aim.copy(), start_s=arrive_s, stop_s=deed.stop_s - 0.15)
            stop = deed.stop_s + float(rng.uniform(0.2, 0.7))
            self.looks.append(Look(self.now, stop, deed.thing))
            self._rest(self.here, self.now, stop, None)
            self.now = stop
            return
        stop = deed.start_s + float(rng.uniform(0.0, 0.4))
        if deed.verb == "move":
            stop = deed.stop_s + float(rng.uniform(0.0, 0.4))
        elif deed.verb == "take":
            stop = deed.start_s + 0.35 * (deed.stop_s - deed.start_s)
        self._look(deed.thing, start_s=arrive_s, stop_s=stop)
