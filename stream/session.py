"""StreamSession: append steps, then ask. A finished clip is a finished stream, so offline use has the same three verbs.

Every question is answered on a fork of the stream's cache, so asking changes nothing. Live sources, eviction policies
and `watch` build on this class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gazeqwen import prompts
from gazeqwen.arms import Arm, get_arm
from gazeqwen.errors import ConfigError, FutureDataError, InputError
from gazeqwen.model import GazeQwen
from gazeqwen.official import pick_fps
from gazeqwen.state import StepRecord, StreamState
from gazeqwen.types import Answer, Fixations, Question, Step

CHUNK_STEPS = 16
SAME_FIXATION_S, SAME_FIXATION_NORM = 0.1, 0.1  # parts of one fixation in neighbouring steps are closer than this


class StreamSession:
    """One wearer's stream on one model.

    Args:
        model: shared between sessions; holds nothing of this stream.
        window_s: what a question may see, counted back from its time; None for everything appended. Older steps are
            evicted on the question's fork. The steps that stay have seen the older ones when they came in, so an answer
            under `window_s` is not that of a stream that started then (DESIGN 6).
        arm: how gaze reaches the model (`gazeqwen.arms.ARMS`).
        detector: {"detector": name, "parameters": {...}} of the fixations in the steps, for the answer's record.
        fixations: the recording's scanpath, needed under compat="official" only.
        gaze_lag_s: how much later than recorded the steps' gaze is (`Recording.steps`); the arm says how much it must.

    Raises:
        ConfigError: no such arm.
    """

    def __init__(
        self,
        model: GazeQwen,
        *,
        window_s: float | None = None,
        arm: Arm | str = "inject",
        detector: Mapping[str, Any] | None = None,
        fixations: Fixations | None = None,
        gaze_lag_s: float = 0.0,
    ) -> None:
        if window_s is not None and not window_s > 0:
            raise ConfigError(f"window_s: seconds above 0, or None for everything, got {window_s}")
        self.model, self.window_s = model, window_s
        self.arm = get_arm(arm)
        if gaze_lag_s != self.arm.gaze_lag_s:
            raise ConfigError(
                f"arm {self.arm.name!r} is for steps whose gaze is {self.arm.gaze_lag_s:g} s late, these are "
                f"{gaze_lag_s:g} s: use StreamSession.of, or recording.steps(gaze_lag_s=...) and gaze_lag_s= here"
            )
        if model.official and self.arm.inject and fixations is None:
            raise ConfigError("compat='official' reads the scanpath, not the steps' gaze: pass fixations=")
        self.detector = dict(detector or {})
        self.state: StreamState = model.start(arm=self.arm, fixations=fixations)
        self._tail: Step | None = None
        self._held: list[Step] = []  # compat="official" encodes a clip as a whole, at the question
        self._decode_ms = 0.0

    @classmethod
    def of(
        cls,
        model: GazeQwen,
        recording: Any,
        *,
        until_s: float | None = None,
        fps: float | None = None,
        progress: Callable[[int], Any] | None = None,
        **options: Any,
    ) -> StreamSession:
        """A session that has seen a `stream.Recording` up to `until_s` (default: its end).

        Args:
            fps: Qwen's frames a second; default the model's own (compat="official": by the clip's length).
            progress: called with the number of steps that have just gone in.
            options: of the class.
        """
        arm = get_arm(options.pop("arm", "inject"))
        made_by = {"detector": recording.detector, "parameters": recording.parameters}
        scanpath = recording.fixations.shifted(arm.gaze_lag_s)
        session = cls(model, arm=arm, detector=made_by, fixations=scanpath, gaze_lag_s=arm.gaze_lag_s, **options)
        if fps is None:
            seen_s = min(recording.end_s if until_s is None else until_s, session.window_s or np.inf)
            fps = pick_fps(seen_s) if model.official else model.config.fps
        steps = recording.steps(
            fps,
            vjepa_fps=model.config.features.fps,
            until_s=until_s,
            gaze_lag_s=arm.gaze_lag_s,
        )
        session.extend(steps, progress=progress)
        return session

    # -- what comes in -------------------------------------------------------------------------------------------------

    def append(self, step: Step) -> None:
        """One step. A partial step is kept for questions only and gives way to the next one.

        Raises:
            InputError: the step does not come after the ones before it.
        """
        self._take([step])

    def extend(self, steps: Iterable[Step], *, progress: Callable[[int], Any] | None = None) -> None:
        """Steps in order, many to a forward; the same as one at a time. Waiting for them counts as decoding time."""
        chunk: list[Step] = []
        source = iter(steps)
        while True:
            began = time.perf_counter()
            step = next(source, None)
            self._decode_ms += (time.perf_counter() - began) * 1000
            if step is not None:
                chunk.append(step)
            if chunk and (step is None or len(chunk) == CHUNK_STEPS):
                self._take(chunk)
                if progress is not None:
                    progress(len(chunk))
                chunk = []
            if step is None:
                return

    def _take(self, steps: Sequence[Step]) -> None:
        if any(step.partial for step in steps[:-1]):
            raise InputError("steps", expected="a partial step only as the last one", found="one with steps after it")
        whole = [step for step in steps if not step.partial]
        newest_s = self.newest_s
        for step in steps:  # before anything is taken, so that a refused step changes nothing
            if step.span_s[1] <= newest_s:
                raise InputError(
                    "step", expected=f"a step after {newest_s:.3f} s", found=f"one until {step.span_s[1]:.3f} s"
                )
            newest_s = step.span_s[1]
        if self.model.official:
            self._held += whole
        elif whole:
            self.model.append(self.state, whole)
        self._tail = steps[-1] if steps[-1].partial else None

    @property
    def newest_s(self) -> float:
        """End of the newest whole step's span; -inf before the first."""
        return self._held[-1].span_s[1] if self._held else self.state.newest_s

    # -- what goes out -------------------------------------------------------------------------------------------------

    def choose(
        self,
        question: str,
        options: Sequence[str],
        *,
        at_s: float | None = None,
        scoring: prompts.Scoring = "letters",
    ) -> Answer:
        """The likeliest option with its evidence.

        Args:
            at_s: the question's time; default: the newest moment the stream knows.
            scoring: "letters" or "likelihood" (see `GazeQwen.score`).

        Raises:
            FutureDataError: `at_s` lies before something that is already in the stream.
            InputError: nothing was appended, or the options are no 2 to 26.
        """
        asked = Question(question, self._time(at_s), tuple(options))
        if not asked.options:
            raise InputError("options", expected="2 to 26 options", found="none", fix="use ask() for free text")
        fork = self._fork(asked.t_s)
        logprobs = self.model.score(fork, asked.text, asked.options, scoring=scoring).cpu().numpy()
        best = int(np.argmax(logprobs))
        texts = prompts.strip_letters(asked.options)
        named = {option: float(value) for option, value in zip(_distinct(texts), logprobs, strict=True)}
        return self._answer(fork, asked, text=texts[best], letter=prompts.letters(len(texts))[best], logprobs=named)

    def yes_no(self, question: str, *, at_s: float | None = None) -> Answer:
        """ "Yes" or "No", with the log-probability of each: what a proactive check asks again and again.

        Raises:
            FutureDataError, InputError: as `choose`.
        """
        asked = Question(question, self._time(at_s))
        fork = self._fork(asked.t_s)
        logprobs = self.model.score(fork, asked.text, prompts.YES_NO, scoring="yes_no").tolist()
        named: dict[str, float] = dict(zip(prompts.YES_NO, logprobs, strict=True))
        return self._answer(fork, asked, text=max(named, key=lambda word: named[word]), letter=None, logprobs=named)

    def ask(self, question: str, *, at_s: float | None = None, max_new_tokens: int = 64) -> Iterator[str]:
        """Pieces of a free-text answer as they come; `answer` collects them with their evidence."""
        asked = Question(question, self._time(at_s))
        return self.model.generate(self._fork(asked.t_s), asked.text, max_new_tokens=max_new_tokens)

    def answer(self, question: str, *, at_s: float | None = None, max_new_tokens: int = 64) -> Answer:
        """A free-text answer with its evidence."""
        asked = Question(question, self._time(at_s))
        fork = self._fork(asked.t_s)
        text = "".join(self.model.generate(fork, asked.text, max_new_tokens=max_new_tokens))
        return self._answer(fork, asked, text=text.strip(), letter=None, logprobs={})

    def _time(self, at_s: float | None) -> float:
        newest = self._tail.span_s[1] if self._tail is not None else self.newest_s
        if not np.isfinite(newest):
            raise InputError(
                "session", expected="at least one step before a question", found="none", fix="append steps first"
            )
        if at_s is None:
            return newest
        if at_s < newest - 1e-6:
            raise FutureDataError(
                f"a question at {at_s:.3f} s, but the stream already holds what came up to {newest:.3f} s"
            )
        return at_s

    def _fork(self, at_s: float) -> StreamState:
        """What the question sees: the stream's steps, the partial one, and nothing older than the window."""
        fork = self.state.fork()
        fork.latency_ms.setdefault("decode", self._decode_ms)
        oldest_s = -np.inf if self.window_s is None else at_s - self.window_s
        steps = [*self._held, *([] if self._tail is None else [self._tail])]
        steps = [step for step in steps if step.span_s[1] > oldest_s]
        if steps:
            self.model.append(fork, steps)
        fork.evict([record.id for record in fork.steps if record.span_s[1] <= oldest_s])
        return fork

    def _answer(
        self, fork: StreamState, asked: Question, *, text: str, letter: str | None, logprobs: Mapping[str, float]
    ) -> Answer:
        records, reaches = fork.steps, self._gaze_reaches()
        samples = (
            np.concatenate([record.gaze.sample_valid for record in records]) if records else np.zeros(0, dtype=bool)
        )
        used = [record.gaze.sample_t_s[record.gaze.sample_used] for record in records]
        return Answer(
            text=text,
            letter=letter,
            option_logprobs=logprobs,
            frame_times_s=tuple(_frame_times(records)),
            gaze_times_s=tuple(float(t) for times in used for t in times) if reaches else (),
            gaze_valid_fraction=float(samples.mean()) if samples.size else float("nan"),
            fixations=tuple(_fixations(records)) if reaches else (),
            # + 0.0: a span starts a hair before its first frame, and -0.0 is no time to show
            span_s=(round(records[0].span_s[0], 5) + 0.0, float(records[-1].span_s[1]))
            if records
            else (asked.t_s, asked.t_s),
            latency_ms={
                part: fork.latency_ms.get(part, 0.0)
                for part in ("decode", "vit", "vjepa", "resampler", "prefill", "answer")
            },
            model=self.model.config.name,
            arm=self.arm.name,
            question=asked.text,
            t_s=asked.t_s,
            steps=len(records),
            steps_without_gaze=sum(not record.gaze.any_valid for record in records),
            open_fixations=records[-1].gaze.open_fixations if records else 0,
            detector=self.detector,
            warnings=(*self.warnings(records), *_window_warning(fork)),
        )

    def _gaze_reaches(self) -> bool:
        return self.arm.name in ("inject", "lagged", "text", "marker")

    def warnings(self, records: Sequence[StepRecord] | None = None) -> tuple[str, ...]:
        """Everything that makes an answer weaker than it looks."""
        config = self.model.config
        found = []
        if config.trained == "untrained":
            found.append("untrained weights: the answer means nothing")
        found += self.model.notes
        wanted = config.fixations
        if self.arm.inject and self.detector and self.detector.get("detector") != wanted.detector:
            found.append(f"fixations by {self.detector['detector']!r}, but the model was made for {wanted.detector!r}")
        elif self.arm.inject and self.detector:
            given = self.detector.get("parameters", {})
            differ = [k for k, v in wanted.parameters.items() if given.get(k) != v]
            if differ:
                found.append(f"fixation parameters differ from the model's: {', '.join(sorted(differ))}")
        records = self.state.steps if records is None else records
        if self._gaze_reaches() and records and not any(record.gaze.any_valid for record in records):
            found.append("no valid gaze in anything the model saw")
        return tuple(found)


def _window_warning(fork: StreamState) -> tuple[str, ...]:
    if not fork.evicted:
        return ()
    return (f"the steps kept have seen {len(fork.evicted)} older ones that the window hides",)


def _distinct(texts: Sequence[str]) -> list[str]:
    """Options as dictionary keys: a text that occurs twice gets its letter."""
    letters = prompts.letters(len(texts))
    return [f"{letter}. {text}" if texts.count(text) > 1 else text for letter, text in zip(letters, texts, strict=True)]


def _frame_times(records: Sequence[StepRecord]) -> Iterator[float]:
    for record in records:
        yield from (float(t) for t in (record.frame_times_s[:1] if record.repeated else record.frame_times_s))


def _fixations(records: Sequence[StepRecord]) -> list[dict[str, float]]:
    """The fixations that reached the model; one that lasted over several steps is one entry.

    A running detector ends an open fixation at its newest sample and moves its centre with every one, so the parts are
    joined by place and time: the later one fills its step from the start, and the newest centre is shown.
    """
    found: list[dict[str, float]] = []
    for record in records:
        gaze = record.gaze
        for row in np.flatnonzero(gaze.is_fixation & gaze.valid):
            (x, y), stop_s = gaze.xy_norm[row], float(gaze.t_s[row])
            start_s = stop_s - float(gaze.duration_s[row])
            last = found[-1] if found else None
            if (
                last is not None
                and start_s - record.span_s[0] < 1e-3
                and start_s - last["stop_s"] < SAME_FIXATION_S
                and np.hypot(x - last["x_norm"], y - last["y_norm"]) < SAME_FIXATION_NORM
            ):
                last |= {"stop_s": stop_s, "x_norm": float(x), "y_norm": float(y)}
            else:
                found.append({"start_s": start_s, "stop_s": stop_s, "x_norm": float(x), "y_norm": float(y)})
    return found
