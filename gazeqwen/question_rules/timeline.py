"""A log as it stood at a time: every reading takes `t_s` and uses nothing that begins after it.

An episode still open at `t_s` counts up to `t_s`. What it says of the objects around gaze is taken as true for all of
it; whether an object is in the frame at a moment is read from appearances, and from episodes only in a log without
any.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field, replace

from gazeqwen.event_log import Action, AttributeSpan, Episode, EventLog

JUST_GONE_S = 0.3  # gaze in flight or lost for so long is still taken to be where it last was


@dataclass
class Look:
    """Gaze on one object until it is on another: the episodes of a stay, bare wall and gaps within it included."""

    start_s: float
    stop_s: float
    object: str
    episodes: list[Episode] = field(default_factory=list)


def known_at(log: EventLog, t_s: float) -> EventLog:
    """The log without what begins after `t_s`, and with what is still open then cut there. `extra` stays as it is."""

    def cut(events):
        return tuple(replace(e, stop_s=min(e.stop_s, t_s)) for e in events if e.start_s <= t_s)

    return replace(
        log,
        episodes=cut(log.episodes),
        actions=cut(log.actions),
        appearances=cut(log.appearances),
        attributes=cut(log.attributes),
    )


class Timeline:
    """Readings of a log. Building one costs a pass over the log; each reading is cheap.

    `from_episodes`: what is in the frame is read from the episodes; by default where the log has no appearances.
    """

    def __init__(self, log: EventLog, *, from_episodes: bool | None = None) -> None:
        self.log = log
        self.episodes = log.episodes
        self.episode_starts = [episode.start_s for episode in log.episodes]
        self.spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for seen in log.appearances:
            self.spans[seen.object].append((seen.start_s, seen.stop_s))
        if not log.appearances if from_episodes is None else from_episodes:
            for episode in log.episodes:
                for name in (*episode.in_fov, *episode.outside_fov):
                    self.spans[name].append((episode.start_s, episode.stop_s))
        self.attributes: dict[tuple[str, str], list[AttributeSpan]] = defaultdict(list)
        for span in log.attributes:
            self.attributes[span.object, span.attribute].append(span)
        self._looks: list[Look] = []
        self._looks_start: list[float] = []
        for episode in log.episodes:
            if episode.gazed is None:
                continue
            if self._looks and self._looks[-1].object == episode.gazed:
                self._looks[-1].stop_s = max(self._looks[-1].stop_s, episode.stop_s)
                self._looks[-1].episodes.append(episode)
            else:
                self._looks.append(Look(episode.start_s, episode.stop_s, episode.gazed, [episode]))
                self._looks_start.append(episode.start_s)

    def looks(self, t_s: float) -> list[Look]:
        """Looks at objects begun by `t_s`, the last cut there; neighbours differ in object."""
        known = self._looks[: bisect_right(self._looks_start, t_s)]
        if known and known[-1].stop_s > t_s:
            last = known[-1]
            episodes = [replace(e, stop_s=min(e.stop_s, t_s)) for e in last.episodes if e.start_s <= t_s]
            known[-1] = Look(last.start_s, max(e.stop_s for e in episodes), last.object, episodes)
        return known

    def episode(self, t_s: float, *, slack_s: float = 0.0) -> Episode | None:
        """The episode that covers `t_s`, or the last one before if it ended at most `slack_s` ago."""
        i = bisect_right(self.episode_starts, t_s) - 1
        return self.episodes[i] if i >= 0 and t_s <= self.episodes[i].stop_s + slack_s else None

    def gaze_seconds(self, t_s: float) -> dict[str, float]:
        """Seconds of gaze on each object so far."""
        total: dict[str, float] = defaultdict(float)
        for episode in self.episodes[: bisect_right(self.episode_starts, t_s)]:
            if episode.gazed is not None:
                total[episode.gazed] += min(episode.stop_s, t_s) - episode.start_s
        return total

    def fov_seconds(self, t_s: float) -> dict[str, float]:
        """Seconds that each object was in the foveal field of view so far."""
        total: dict[str, float] = defaultdict(float)
        for episode in self.episodes[: bisect_right(self.episode_starts, t_s)]:
            for name in episode.in_fov:
                total[name] += min(episode.stop_s, t_s) - episode.start_s
        return total

    def in_frame(self, name: str, t_s: float) -> bool:
        """Whether the object is to be seen at `t_s`."""
        return any(start <= t_s <= stop for start, stop in self.spans.get(name, ()))

    def frame_seconds(self, name: str, start_s: float, stop_s: float) -> float:
        """For how much of `start_s` to `stop_s` it is to be seen."""
        spans = self.spans.get(name, ())
        return sum(max(0.0, min(stop, stop_s) - max(start, start_s)) for start, stop in spans if start < stop_s)

    def together_seconds(self, name: str, other: str, t_s: float) -> float:
        """For how long so far both were to be seen at once."""
        return sum(
            self.frame_seconds(name, start, min(stop, t_s)) for start, stop in self.spans.get(other, ()) if start < t_s
        )

    def seen(self, t_s: float, least_s: float = 0.05) -> list[str]:
        """Objects that were to be seen for `least_s` so far, sorted by name: the order of a log may follow events."""
        return sorted(name for name in self.spans if self.frame_seconds(name, 0.0, t_s) >= least_s)

    def value(self, name: str, attribute: str, t_s: float) -> AttributeSpan | None:
        """The object's value of an attribute at `t_s`."""
        spans = [s for s in self.attributes.get((name, attribute), ()) if s.start_s <= t_s]
        return spans[-1] if spans and t_s <= spans[-1].stop_s else None

    def last_span(self, name: str, attribute: str, t_s: float, *, within_s: float) -> AttributeSpan | None:
        """The latest span of an attribute begun by `t_s` that lasted to `within_s` before it or longer."""
        spans = [s for s in self.attributes.get((name, attribute), ()) if s.start_s <= t_s]
        return spans[-1] if spans and spans[-1].stop_s >= t_s - within_s else None

    def actions(self, t_s: float) -> list[Action]:
        """Actions begun by `t_s`."""
        return [action for action in self.log.actions if action.start_s <= t_s]
