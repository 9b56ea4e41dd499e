"""StreamSession: append steps, then ask. A finished clip is a finished stream, so offline use has the same three verbs.

Every question is answered on a fork of the stream's cache, so asking changes nothing. What the stream itself keeps is
`stream.memory`'s, by the policies of `stream.eviction`. Live sources and `watch` build on this class.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

import numpy as np

from gazeqwen import prompts
from gazeqwen.arms import Arm, get_arm
from gazeqwen.errors import ConfigError, FutureDataError, GazeQwenError, InputError
from gazeqwen.model import GazeQwen
from gazeqwen.official import pick_fps
from gazeqwen.state import StepRecord, StreamState
from gazeqwen.types import Answer, Fixations, Question, Step, plain_json
from stream import snapshot as snapshots
from stream.eviction import Budget, Policy, Recent, get_policy
from stream.evidence import evidence, gaze_warnings
from stream.live_steps import StreamCounts
from stream.memory import CHUNK_STEPS, FrozenSource, Memory
from stream.report import SessionReport
from stream.steps import Break, Cut
from stream.views import View, Views

__all__ = ["CHUNK_STEPS", "FrozenSource", "StreamSession"]


class StreamSession:
    """One wearer's stream on one model.

    Args:
        model: shared between sessions; holds nothing of this stream.
        window_s: what a question may see, counted back from its time; None for everything that is held.
        window: how older steps are hidden from a question. "evict": they are evicted on its fork; the steps that stay
            have seen them when they came in, so an answer is not that of a stream that started then (DESIGN 6).
            "refill": the window's steps are prefilled afresh for the question, from what the frozen weights made of
            them, which is kept for `window_s`. Nothing of the answer then rests on older steps but this: V-JEPA's
            features of the window's first `window_frames / fps` seconds (2 by default) saw the frames before it.
        budget_steps, budget_tokens, budget_bytes: what the stream keeps, a hard limit (`stream.eviction.Budget`); one
            of them, or none to keep all. Under compat="official" only budget_steps, the newest.
        policy: what stays when the budget is full: a name of `stream.eviction.POLICIES` (with a budget; default
            "recent"), or a policy with settings of its own, e.g. `Gaze(tokens=4, sink_steps=1)`.
        position_limit: M-RoPE positions the stream may use, 7/8 of it before it is laid anew (`gazeqwen.relocate`);
            default: the model's, at most 32,768.
        arm: how gaze reaches the model (`gazeqwen.arms.ARMS`).
        detector: {"detector": name, "parameters": {...}} of the fixations in the steps, for the answer's record.
        fixations: the recording's scanpath, needed under compat="official" only.
        gaze_lag_s: how much later than recorded the steps' gaze is (`Recording.steps`); the arm says how much it must.
        frozen: where the frozen weights' part comes from; default: the model. Not under compat="official", whose
            features are those of a whole clip.

    Raises:
        ConfigError: no such arm or window, or options that don't go together.
    """

    def __init__(
        self,
        model: GazeQwen,
        *,
        window_s: float | None = None,
        window: Literal["evict", "refill"] = "evict",
        budget_steps: int | None = None,
        budget_tokens: int | None = None,
        budget_bytes: int | None = None,
        policy: Policy | str | None = None,
        position_limit: int | None = None,
        arm: Arm | str = "inject",
        detector: Mapping[str, Any] | None = None,
        fixations: Fixations | None = None,
        gaze_lag_s: float = 0.0,
        frozen: FrozenSource | None = None,
    ) -> None:
        _require_window(window_s)
        if window not in ("evict", "refill"):
            raise ConfigError(f"window: 'evict' or 'refill', got {window!r}")
        if window == "refill" and window_s is None:
            raise ConfigError("window='refill' needs window_s: what a question may see, which is what is kept")
        budget = Budget(budget_steps, budget_tokens, budget_bytes)
        if policy is not None and not budget:
            raise ConfigError("policy: decides what stays when a budget is full; pass budget_tokens= too")
        chosen = get_policy("recent" if policy is None else policy)
        if model.official and (budget_tokens or budget_bytes or chosen != Recent()):
            raise ConfigError(
                "compat='official' encodes a clip as a whole: it takes budget_steps=, and no policy but 'recent'"
            )
        if model.official and frozen is not None:
            raise ConfigError("compat='official' encodes a clip as a whole: it takes no frozen=")
        self.model, self.window_s, self.window = model, window_s, window
        self.arm = get_arm(arm)
        if gaze_lag_s != self.arm.gaze_lag_s:
            raise ConfigError(
                f"arm {self.arm.name!r} is for steps whose gaze is {self.arm.gaze_lag_s:g} s late, these are "
                f"{gaze_lag_s:g} s: use StreamSession.of, or recording.steps(gaze_lag_s=...) and gaze_lag_s= here"
            )
        if model.official and self.arm.inject and fixations is None:
            raise ConfigError("compat='official' reads the scanpath, not the steps' gaze: pass fixations=")
        self.detector = dict(detector or {})
        self._memory = Memory(
            model,
            model.start(arm=self.arm, fixations=fixations),
            source=frozen,
            budget=budget,
            policy=chosen,
            position_limit=position_limit,
            refill_s=float(window_s or 0) if window == "refill" else 0.0,
        )
        self._first_s = self._newest_s = -np.inf
        self._steps_seen = 0
        self._held: list[Step] = []  # compat="official" encodes a clip as a whole, at the question
        self._views = Views(self._memory, held=self._held, refill=window == "refill")
        self._cut: Cut | None = None
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

    @property
    def state(self) -> StreamState:
        """What the stream holds on the model."""
        return self._memory.state

    def report(self, source: StreamCounts | None = None) -> SessionReport:
        """What the stream has seen and holds, what has left it, and the counts of the `source` its steps came from."""
        tail = () if self._views.tail is None else (self._views.tail,)
        return SessionReport.of(
            self._memory,
            steps_seen=self._steps_seen,
            seconds_seen=self._newest_s - self._first_s if self._steps_seen else 0.0,
            frames_held=[*self._held, *tail],
            source=source,
        )

    # -- on disk, on request ------------------------------------------------------------------------------------------

    def snapshot(self, path: str | Path) -> Path:
        """Writes the session to one file, from which `restore` goes on (`stream.snapshot` says what is in it).

        Raises:
            InputError: the file can't be written.
            ConfigError: window="refill" or compat="official", which keep more than a snapshot holds; a policy of the
                caller's own making.
        """
        if self.window == "refill" or self.model.official:
            raise ConfigError("snapshot: not with window='refill' or compat='official'")
        tensors, told = snapshots.pack(self._memory, self._views)
        told["options"] = {
            "window_s": self.window_s,
            **{f"budget_{name}": value for name, value in vars(self._memory.budget).items()},
            "position_limit": self._memory.position_limit,
            "arm": self.arm.name,
            "detector": plain_json(self.detector),
            "gaze_lag_s": self.arm.gaze_lag_s,
        }
        told["seen"] = [self._steps_seen, self._decode_ms, *([self._first_s, self._newest_s] * bool(self._steps_seen))]
        told["cut_s"] = None if self._cut is None else self._cut.t_s
        return snapshots.write(Path(path), self.model, tensors, told)

    @classmethod
    def restore(cls, path: str | Path, model: GazeQwen, *, frozen: FrozenSource | None = None) -> StreamSession:
        """The session that `snapshot` wrote: it answers, and goes on, bit for bit as that one.

        Args:
            model: with the very weights it ran on.
            frozen: as of the class.

        Raises:
            InputError: no such file, a damaged one, or one made with other weights.
        """
        path = Path(path)
        tensors, told = snapshots.read(path, model)
        try:
            policy = None if told["policy"] is None else snapshots.policy_of(told["policy"])
            session = cls(model, policy=policy, frozen=frozen, **told["options"])
            snapshots.unpack(session._memory, session._views, tensors, told)
            session._steps_seen, session._decode_ms, *times_s = told["seen"]
            if times_s:
                session._first_s, session._newest_s = times_s
            session._cut = None if told["cut_s"] is None else Cut(told["cut_s"], session._views.tail)
        except (GazeQwenError, *snapshots.DAMAGE) as error:
            raise snapshots.damaged(path, error) from error
        return session

    # -- what comes in -------------------------------------------------------------------------------------------------

    def append(self, step: Step) -> None:
        """One step. A partial step is kept for questions only and gives way to the next one. After an error, whichever
        it is, the session is as before, and the step can be given again.

        Raises:
            InputError: the step does not come after the ones before it.
        """
        self._take([step])

    def extend(self, steps: Iterable[Step | Break | Cut], *, progress: Callable[[int], Any] | None = None) -> None:
        """Steps in order, many to a forward; the same as one at a time. Waiting for them counts as decoding time. Of a
        live stream (`StepBuilder`) all that it gives: after a Cut, questions are about its time. After an error the
        steps up to `newest_s` are in, and it goes on with what comes after them. A Break may be given twice."""
        for _ in self.follow(steps, progress=progress):
            pass

    def follow(
        self, stream: Iterable[Step | Break | Cut], *, progress: Callable[[int], Any] | None = None
    ) -> Iterator[Cut]:
        """Takes in the steps of `Recording.steps_for` and stops at each Cut: ask then, the session is `at` it. At a
        Break the video goes on in a new segment.

        Steps go in at most CHUNK_STEPS at once and always up to a Cut, so what is computed together depends on the
        times given to `steps_for` alone, not on which of the questions are asked. Of what goes in at once all is in or,
        after an error, nothing (`extend`).

        Args:
            progress: called with the number of steps that have just gone in.
        """
        chunk: list[Step] = []
        source = iter(stream)
        while True:
            began = time.perf_counter()
            item = next(source, None)
            self._decode_ms += (time.perf_counter() - began) * 1000
            if isinstance(item, Step):
                chunk.append(item)
            if chunk and (not isinstance(item, Step) or len(chunk) == CHUNK_STEPS):
                self._take(chunk)
                if progress is not None:
                    progress(len(chunk))
                chunk = []
            if item is None:
                return
            if isinstance(item, Break) and not self.model.official:
                self._views.changed()
                self._memory.break_video()
            if isinstance(item, Cut):
                self.at(item)
                yield item

    def at(self, cut: Cut) -> None:
        """The stream at a question's time, its whole steps being in: questions see the Cut's tail, until the next one.

        Raises:
            InputError: the tail is no partial step, or does not come after the steps.
            FutureDataError: the Cut lies before something that is already in the stream.
        """
        tail = cut.tail
        if tail is not None and not (tail.partial and self._newest_s < tail.span_s[1] <= cut.t_s + 1e-6):
            raise InputError(
                "cut", expected=f"a partial step after {self._newest_s:.3f} s", found=f"one until {tail.span_s[1]:.3f}"
            )
        if cut.t_s < self._newest_s - 1e-6:
            raise FutureDataError(f"a cut at {cut.t_s:.3f} s, but the stream holds {self._newest_s:.3f} s already")
        if cut is not self._cut:
            self._set_tail(tail)
            self._cut = cut

    def _set_tail(self, tail: Step | None) -> None:
        self._views.set_tail(tail)
        self._cut = None
        if tail is not None:
            self._views.size_px = (tail.frames.shape[2], tail.frames.shape[1])

    def _take(self, steps: Sequence[Step]) -> None:
        if any(step.partial for step in steps[:-1]):
            raise InputError("steps", expected="a partial step only as the last one", found="one with steps after it")
        whole = [step for step in steps if not step.partial]
        newest_s = self._newest_s
        for step in steps:  # before anything is taken, so that a refused step changes nothing
            if step.span_s[1] <= newest_s:
                raise InputError(
                    "step", expected=f"a step after {newest_s:.3f} s", found=f"one until {step.span_s[1]:.3f} s"
                )
            newest_s = step.span_s[1]
        if whole:
            self._take_whole(whole)
        self._set_tail(steps[-1] if steps[-1].partial else None)

    def _take_whole(self, steps: Sequence[Step]) -> None:
        if not self.arm.video:
            pass  # time goes on, and that is all
        elif self.model.official:
            self._held += steps
            if self._memory.budget.steps is not None:
                del self._held[: -self._memory.budget.steps]
        else:
            self._views.changed()
            self._memory.take(steps)
        if not self._steps_seen:
            self._first_s = steps[0].span_s[0]
        self._steps_seen += len(steps)
        self._newest_s = steps[-1].span_s[1]
        self._views.size_px = (steps[-1].frames.shape[2], steps[-1].frames.shape[1])

    @property
    def newest_s(self) -> float:
        """End of the newest whole step's span; -inf before the first."""
        return self._newest_s

    # -- what goes out -------------------------------------------------------------------------------------------------

    def choose(
        self,
        question: str,
        options: Sequence[str],
        *,
        at_s: float | None = None,
        window_s: float | EllipsisType | None = ...,
        scoring: prompts.Scoring = "letters",
        prompt: str | None = None,
    ) -> Answer:
        """The likeliest option with its evidence.

        Args:
            at_s: the question's time; default: the Cut's, or the newest moment the stream knows.
            window_s: what this question may see, instead of the session's; under window="refill" at most that.
            scoring: "letters" or "likelihood" (see `GazeQwen.score`).
            prompt: the complete user text instead of ours (see `GazeQwen.score`).

        Raises:
            FutureDataError: `at_s` lies before something that is already in the stream.
            InputError: nothing was appended, or the options are no 2 to 26.
            ConfigError: a window that is no window, or longer than what is kept for it.
        """
        asked = Question(question, self._time(at_s), tuple(options))
        if not asked.options:
            raise InputError("options", expected="2 to 26 options", found="none", fix="use ask() for free text")
        view = self._view(asked.t_s, window_s)
        logprobs = self.model.score(view.state, asked.text, asked.options, scoring=scoring, prompt=prompt).cpu().numpy()
        best = int(np.argmax(logprobs))
        texts = prompts.strip_letters(asked.options)
        named = {option: float(value) for option, value in zip(_distinct(texts), logprobs, strict=True)}
        letter = prompts.letters(len(texts))[best]
        return self._answer(view, asked, text=texts[best], letter=letter, logprobs=named)

    def yes_no(
        self,
        question: str,
        *,
        at_s: float | None = None,
        window_s: float | EllipsisType | None = ...,
        prompt: str | None = None,
    ) -> Answer:
        """ "Yes" or "No", with the log-probability of each: what a proactive check asks again and again.

        Args and raises as `choose`.
        """
        asked = Question(question, self._time(at_s))
        view = self._view(asked.t_s, window_s)
        logprobs = self.model.score(view.state, asked.text, prompts.YES_NO, scoring="yes_no", prompt=prompt).tolist()
        named: dict[str, float] = dict(zip(prompts.YES_NO, logprobs, strict=True))
        text = max(named, key=lambda word: named[word])
        return self._answer(view, asked, text=text, letter=None, logprobs=named)

    def ask(
        self, question: str, *, at_s: float | None = None, max_new_tokens: int = 64, remember: bool = False
    ) -> Iterator[str]:
        """Pieces of a free-text answer as they come; `answer` collects them with their evidence.

        Args:
            at_s: as `choose`.
            remember: once the last piece has been taken, question and answer stay in the stream, after what has come in
                by then; the video goes on in a new segment after them. Later questions see the turn, whatever their
                window, until the budget lets it go. An answer that isn't taken to its end is not remembered.

        Raises:
            FutureDataError, InputError: as `choose`; a turn that may become longer than the budget keeps.
            ConfigError: `remember` where a stream can't hold it: window="refill", compat="official", an arm without
                video.
        """
        asked = Question(question, self._time(at_s))
        state = self._view(asked.t_s).state
        text = self.model.question_text(state, asked.text, (), "letters")
        if remember:
            if self.window == "refill" or self.model.official or not self.arm.video:
                raise ConfigError(
                    "remember=True needs a stream that goes on after the turn: "
                    "not with window='refill', compat='official' or an arm without video"
                )
            self._memory.require_turn(text, answer=max_new_tokens)
        pieces = self.model.generate(state, asked.text, max_new_tokens=max_new_tokens)
        return self._remembered(pieces, text) if remember else pieces

    def _remembered(self, pieces: Iterator[str], text: str) -> Iterator[str]:
        said = ""
        for piece in pieces:
            said += piece
            yield piece
        self._views.changed()
        self._memory.say(text + prompts.ASSISTANT + said + prompts.NEXT_TURN)

    def answer(
        self,
        question: str,
        *,
        at_s: float | None = None,
        window_s: float | EllipsisType | None = ...,
        max_new_tokens: int = 64,
        prompt: str | None = None,
    ) -> Answer:
        """A free-text answer with its evidence. Args and raises as `choose`."""
        asked = Question(question, self._time(at_s))
        view = self._view(asked.t_s, window_s)
        text = "".join(self.model.generate(view.state, asked.text, max_new_tokens=max_new_tokens, prompt=prompt))
        return self._answer(view, asked, text=text.strip(), letter=None, logprobs={})

    def _time(self, at_s: float | None) -> float:
        newest = self._views.tail.span_s[1] if self._views.tail is not None else self._newest_s
        if not np.isfinite(newest):
            raise InputError(
                "session", expected="at least one step before a question", found="none", fix="append steps first"
            )
        if at_s is None:
            return newest if self._cut is None else self._cut.t_s
        if at_s < newest - 1e-6:
            raise FutureDataError(
                f"a question at {at_s:.3f} s, but the stream already holds what came up to {newest:.3f} s"
            )
        return at_s

    def _view(self, at_s: float, window_s: float | EllipsisType | None = ...) -> View:
        """What a question at this time sees; by default as far back as the session's window."""
        if isinstance(window_s, EllipsisType):
            window_s = self.window_s
        _require_window(window_s)
        if self.window == "refill" and window_s is not None and window_s > (self.window_s or np.inf):
            raise ConfigError(f"window_s: at most {self.window_s:g} s are kept for refilling, got {window_s:g}")
        return self._views.at(at_s, window_s, decode_ms=self._decode_ms)

    def _answer(
        self,
        view: View,
        asked: Question,
        *,
        text: str,
        letter: str | None,
        logprobs: Mapping[str, float],
    ) -> Answer:
        return Answer(
            text=text,
            letter=letter,
            option_logprobs=logprobs,
            **evidence(view.records, view.state, t_s=asked.t_s),
            model=self.model.config.name,
            arm=self.arm.name,
            question=asked.text,
            t_s=asked.t_s,
            detector=self.detector,
            warnings=(*self.warnings(view.records), *self._memory.warnings(view.state, refilled=view.refilled)),
        )

    def warnings(self, records: Sequence[StepRecord] | None = None) -> tuple[str, ...]:
        """Everything that makes an answer weaker than it looks."""
        config = self.model.config
        untrained = ("untrained weights: the answer means nothing",) if config.trained == "untrained" else ()
        records = self.state.steps if records is None else records
        return (*untrained, *self.model.notes, *gaze_warnings(records, self.arm, self.detector, config.fixations))


def _require_window(window_s: float | None) -> None:
    if window_s is not None and not window_s > 0:
        raise ConfigError(f"window_s: seconds above 0, or None for everything, got {window_s}")


def _distinct(texts: Sequence[str]) -> list[str]:
    """Options as dictionary keys: a text that occurs twice gets its letter."""
    letters = prompts.letters(len(texts))
    return [f"{letter}. {text}" if texts.count(text) > 1 else text for letter, text in zip(letters, texts, strict=True)]
