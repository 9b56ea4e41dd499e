"""How the world of `world.py` behaves: every number of the wearer, the hand, the tracker and the brief events.

Lengths are in frame widths, angles in degrees at 90 degrees a frame width, times in seconds.

Sources of the behaviour (the values here are round figures near theirs, not fits):

* Saccades last about 21 ms + 2.2 ms a degree (Carpenter 1988, "Movements of the Eyes"; the main sequence is Bahill,
  Clark & Stark 1975, Mathematical Biosciences 24).
* Fixations in scenes last about a third of a second, with a long tail (Rayner 1998, Psychological Bulletin 124).
* In everyday tasks the eye is at an object before the hand sets out for it: 0.56 s before in tea making (Land, Mennie
  & Rusted 1999, Perception 28), about the same in making a sandwich (Land & Hayhoe 2001, Vision Research 41); gaze
  marks the places the hand will touch and leaves about when contact is made (Johansson, Westling, Bäckström & Flanagan
  2001, Journal of Neuroscience 21). Not all looks serve the next action.
* The head follows large gaze shifts late and leaves small ones to the eye (Guitton & Volle 1987, Journal of
  Neurophysiology 58), by an amount that varies (Fuller 1992, Experimental Brain Research 92), so that gaze stays near
  the frame's centre, where it also falls in pictures (Tatler 2007, Journal of Vision 7).
* Blinks come about 17 times a minute at rest (Bentivoglio et al. 1997, Movement Disorders 12).

Two things are not from life: how well a tracker hits is set so that the nearest object is right in about nine looks of
ten, and the rates of brief events are set so that there is something to ask in every recording.
"""

from __future__ import annotations

from dataclasses import dataclass

from gazeqwen.errors import ConfigError

DEG_PER_WIDTH = 90.0
FOV_RADIUS_WIDTHS = 13.0 / DEG_PER_WIDTH  # StreamGaze's foveal field of view: 13 degrees at 90 a frame width
Range = tuple[float, float]


@dataclass(frozen=True)
class WorldParameters:
    """Attributes, in the order of the causes:

    objects: how many are in a recording at some time; one is away at its start, and two stand in cupboards.
    open_s, shut_s: of the cupboards' shutters, uniform.
    radius_widths: of objects, uniform, whatever their name.
    ignored: how many objects the wearer never looks at, for a part of the recording or all of it.
    action_gap_s: from the end of one action to the moment the hand sets out for the next.
    reach_s, contact_s: of the hand's way and of its contact.
    lead_share, lead_s: share of actions before which gaze is on the object, and how long before the hand sets out
        (mean, sd, least, most). In the others gaze is elsewhere; it comes 0.1 to 0.4 s after contact, or not at all.
    cue_share: share of actions before which the hand twitches towards the object.
    brief_s: duration of brief events: cues, jolts, flashes, glances.
    between_share: share of brief events that lie between two moments k/2 s, where frames at 2 fps don't see them.
    knock_rate_hz: how often a look of 0.9 s or more is joined by one (per second of such looks).
    look_s, fixation_s: lognormal (median, sigma, least, most) of looks at one object and of fixations in it.
    glance_share, bare_share: share of free looks that last `brief_s` only, and that rest on no object.
    distance_widths: free looks prefer near objects, by exp(-distance / this).
    eye_only_widths: gaze further from the centre than this moves the head.
    head_miss_widths: standard deviation per axis of where the head aims, from gaze, drawn for each look.
    head_lag_s, head_rate: the head starts this late and follows as a critically damped spring of this rate (1/s).
    sway_widths: of the head.
    gaze_hz, jitter: of the tracker's clock; jitter in parts of an interval.
    noise_widths, drift_widths, bias_widths: standard deviations per axis of white noise, of slow drift (correlated
        over about 4 s), and of the constant error of a recording.
    latency_s: a sample stands for the eye this long before its time stamp.
    blink_gap_s, blink_s: mean time between blinks beyond the first 0.5 s, and range of their durations.
    loss_gap_s, loss_s: the same for longer losses of the eye.
    """

    objects: tuple[int, int] = (7, 8)
    open_s: Range = (3.0, 8.0)
    shut_s: Range = (2.0, 5.0)
    radius_widths: Range = (0.06, 0.115)
    ignored: tuple[int, int] = (1, 2)
    action_gap_s: Range = (1.6, 4.2)
    reach_s: Range = (0.45, 0.7)
    contact_s: Range = (0.8, 1.3)
    lead_share: float = 0.75
    lead_s: tuple[float, float, float, float] = (0.56, 0.2, 0.3, 1.0)
    cue_share: float = 0.6
    brief_s: Range = (0.15, 0.4)
    between_share: float = 0.9
    knock_rate_hz: float = 0.45
    look_s: tuple[float, float, float, float] = (1.0, 0.5, 0.45, 3.0)
    fixation_s: tuple[float, float, float, float] = (0.33, 0.45, 0.12, 1.2)
    glance_share: float = 0.2
    bare_share: float = 0.04
    distance_widths: float = 0.35
    eye_only_widths: float = 0.10
    head_miss_widths: float = 0.10
    head_lag_s: Range = (0.06, 0.12)
    head_rate: Range = (4.0, 6.5)
    sway_widths: float = 0.02
    gaze_hz: float = 100.0
    jitter: float = 0.03
    noise_widths: float = 0.01
    drift_widths: float = 0.07
    bias_widths: float = 0.05
    latency_s: float = 0.03
    blink_gap_s: float = 3.0
    blink_s: Range = (0.1, 0.3)
    loss_gap_s: float = 25.0
    loss_s: Range = (0.4, 1.5)

    def __post_init__(self) -> None:
        shares = ("lead_share", "cue_share", "between_share", "glance_share", "bare_share")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"world: expected {name} in [0, 1], found {getattr(self, name)!r}")
        if not 5 <= self.objects[0] <= self.objects[1] <= 8:
            raise ConfigError(f"world: expected 5 to 8 objects, found {self.objects!r}")
        if not 0 < self.brief_s[0] <= self.brief_s[1] < 0.45:
            raise ConfigError(f"world: expected brief events that fit between frames at 2 fps, found {self.brief_s!r}")
        if min(self.gaze_hz, self.look_s[0], self.fixation_s[0]) <= 0 or self.gaze_hz > 1000:
            raise ConfigError(f"world: expected a tracker of up to 1000 Hz and looks that last, found {self!r}")
