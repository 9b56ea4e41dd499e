"""What is asked in pre-training: short probes, naming options, and the ten tasks' own words, as tokens and targets.

A lesson is read after a video. Its targets are tokens that should come next at places of its own, so one lesson can be
judged at several: at a question mark by the answer in words, at an option by whether it is the right one (" Yes" or
" No"), at its end by the answer. Only the last kind is used when the model is asked; the others are what made it learn
in minutes on two cores: a full prompt is 40 to 60 tokens, a probe is five, and both ask the same of the video.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import permutations
from typing import Any

import numpy as np

from benchmarks.tiny.symbol_worlds import SymbolQuestion, SymbolWorld
from gazeqwen import prompts
from gazeqwen.errors import ConfigError
from gazeqwen.tiny.world_events import STATES, VERBS
from gazeqwen.tiny.world_sprites import COLOURS, NOUNS

PROBES = (
    "colour-of",
    "state-of",
    "now",
    "colour",
    "state",
    "is-now",
    "appears",
    "next",
    "order",
    "ever",
    "behind",
    "first",
    "never",
    "absent",
)
PROACTIVE = ("GTA", "OAA")
AUXILIARY = 0.5  # weight of targets that are not the answer itself
# Of five decoder layers: what a question asks for is known after the third, so that the fourth can compare options with
# it and the fifth say the letter of the right one. Without this letters stayed at chance while words were right.
TOLD_AFTER, JUDGED_AFTER = 2, 3
CURRENT_S = 0.12  # a look that ended so long before the step's end still counts as current
RECENT_LOOKS = 6  # probes ask about the latest looks mostly


@dataclass(frozen=True)
class Target:
    """After the token at `place` of the lesson, `token` should come. `early`: it should be read there already after
    this decoder layer (0-based), so that later ones can go on from it; None: in the end only."""

    place: int
    token: int
    weight: float = 1.0
    early: int | None = None


@dataclass(frozen=True)
class Lesson:
    """Words to be read, and what should be said.

    Attributes:
        kind: of a probe, "name", or a task's name.
        ids: token ids, from the end of the video on.
        choices, right: the tokens that may be said after `final`, and which of them is the answer; for accuracy.
        marks: the last token of each option, and whether it is the right one.
        text: of a probe's question. options: what may be said to it, the answer first.
    """

    kind: str
    ids: tuple[int, ...]
    targets: tuple[Target, ...]
    final: int
    choices: tuple[int, ...]
    right: int
    marks: tuple[tuple[int, bool], ...] = ()
    text: str = ""
    options: tuple[str, ...] = ()


class Lessons:
    """Makes lessons with a tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._encode = lru_cache(maxsize=65536)(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))
        self._decode = lru_cache(maxsize=None)(lambda token: str(tokenizer.decode([token])).strip())
        self._question = lru_cache(maxsize=65536)(self._question_uncached)
        self.yes, self.no = self._one(" Yes"), self._one(" No")
        self.letters = tuple(self._one(letter) for letter in prompts.letters(4))

    @cached_property
    def head(self) -> tuple[int, ...]:
        """Of the conversation, up to the first visual token."""
        return self._encode(prompts.PREFIX) + self._encode(prompts.VISION_START)

    @cached_property
    def nouns(self) -> tuple[int, ...]:
        return tuple(self._one(noun) for noun in NOUNS)

    def synonyms(self) -> list[tuple[int, int]]:
        """Tokens of the same word with a space before it and without, where both are one token."""
        words = (*NOUNS, *COLOURS, *STATES, *VERBS, "left", "right", "up", "down", "Yes", "No")
        pairs = [(self._encode(word), self._encode(f" {word}")) for word in words]
        return [(a[0], b[0]) for a, b in pairs if len(a) == len(b) == 1]

    def word(self, text: str) -> int:
        """The first token of a word that begins an answer."""
        return self._encode(text)[0]

    def _one(self, text: str) -> int:
        ids = self._encode(text)
        if len(ids) != 1:
            raise ConfigError(f"lessons: expected {text!r} to be one token of the tokenizer, found {len(ids)}")
        return ids[0]

    # -- probes --------------------------------------------------------------------------------------------------------

    def probe(self, world: SymbolWorld, stop: int, kind: str, rng: np.random.Generator) -> Lesson | None:
        """A probe of this kind at the end of whole step `stop` - 1; None where nothing fits it."""
        symbols, things = world.symbols, len(world.symbols.noun)
        looks = [look for look in world.looks if look[0] < stop]
        if not looks:
            return None
        gazed = [thing for _, thing in looks]
        last = gazed[-1]
        newest = int(symbols.age_s[stop - 1].argmin())
        current = last if newest == last and symbols.age_s[stop - 1, last] < CURRENT_S else None
        visible = symbols.visible[:stop]
        all_nouns = [self._noun(world, thing) for thing in range(things)]
        if kind in ("now", "colour", "state", "is-now") and current is None:
            return None
        if kind == "now":
            return self._ask(kind, (" currently gazing at?",), all_nouns[last], all_nouns)
        if kind == "colour":
            colours = [self.word(tuple(COLOURS)[index]) for index in symbols.colour]
            return self._ask(kind, (" color gazing at?",), colours[last], colours)
        if kind == "state":
            states = [self.word(state) for state in STATES]
            return self._ask(kind, (" state gazing at?",), states[symbols.state[stop - 1, last]], states)
        if kind in ("colour-of", "state-of"):
            seen = np.flatnonzero(visible.any(axis=0))
            thing = int(seen[rng.integers(len(seen))])
            if kind == "colour-of":
                colours = [self.word(tuple(COLOURS)[index]) for index in symbols.colour]
                return self._ask(kind, (" color", " {", all_nouns[thing], "}?"), colours[thing], colours)
            step = int(np.flatnonzero(visible[:, thing])[-1])
            states = [self.word(state) for state in STATES]
            return self._ask(kind, (" state", " {", all_nouns[thing], "}?"), states[symbols.state[step, thing]], states)
        if kind == "is-now":
            thing = last if rng.random() < 0.5 else int(rng.integers(things))
            return self._yes_no(kind, (" gaze on the", " <", all_nouns[thing], ">."), thing == last)
        if kind == "appears":
            thing = int(rng.integers(things))
            return self._yes_no(kind, (" <", all_nouns[thing], ">", " appears"), bool(visible[-1, thing]))
        if kind == "next":
            if len(looks) < 3:
                return None
            oldest = 0 if rng.random() < 0.3 else max(0, len(looks) - RECENT_LOOKS)
            thing = gazed[int(rng.integers(oldest, len(looks) - 1))]
            if last == thing:
                return None
            after = gazed[max(k for k in range(len(gazed) - 1) if gazed[k] == thing) + 1]
            others = [noun for noun in all_nouns if noun != all_nouns[thing]]
            return self._ask(kind, (" next after", " {", all_nouns[thing], "}?"), all_nouns[after], others)
        if kind == "order":
            if len(set(gazed[-3:])) < 3:
                return None
            return self._order([all_nouns[thing] for thing in gazed[-3:]], all_nouns)
        if kind == "ever":
            never = [thing for thing in range(things) if thing not in gazed and visible[:, thing].any()]
            pool = never if never and rng.random() < 0.5 else sorted(set(gazed))
            thing = pool[int(rng.integers(len(pool)))]
            return self._yes_no(kind, (" ever gaze at", " {", all_nouns[thing], "}?"), thing in gazed)
        if kind == "never":
            never = [thing for thing in range(things) if thing not in gazed and visible[:, thing].any()]
            if not never:
                return None
            noun = all_nouns[never[int(rng.integers(len(never)))]]
            return self._ask(kind, (" never gazed at?",), noun, [noun, *(all_nouns[thing] for thing in set(gazed))])
        if kind == "first":
            return self._ask(kind, (" first gaze at?",), all_nouns[gazed[0]], all_nouns)
        if kind == "behind":
            thing = gazed[int(rng.integers(max(0, len(gazed) - RECENT_LOOKS), len(gazed)))]
            other = int(rng.integers(things))
            if other == thing:
                return None
            step = int(np.flatnonzero(symbols.dwell_s[:stop, thing] > 0)[-1])  # the last one with gaze on it
            words = (" last gazing at", " {", all_nouns[thing], "}", " visible", " {", all_nouns[other], "}?")
            return self._yes_no(kind, words, bool(visible[step, other]))
        if kind == "absent":
            thing = gazed[int(rng.integers(max(0, len(gazed) - RECENT_LOOKS), len(gazed)))]
            step = int(np.flatnonzero(symbols.dwell_s[:stop, thing] > 0)[-1])
            there = [other for other in range(things) if other != thing and visible[step, other]]
            away = [other for other in range(things) if other != thing and not visible[step, other]]
            if not there or not away:
                return None
            noun = all_nouns[away[int(rng.integers(len(away)))]]
            words = (" last gazing at", " {", all_nouns[thing], "}", " NOT visible?")
            return self._ask(kind, words, noun, [noun, *(all_nouns[other] for other in there)])
        raise ConfigError(f"lessons: expected a probe of {PROBES}, found {kind!r}")

    def _noun(self, world: SymbolWorld, thing: int) -> int:
        return self.nouns[int(world.symbols.noun[thing])]

    def _words(self, parts: Sequence[str | int]) -> tuple[int, ...]:
        ids = list(self._encode(prompts.VISION_END))
        for part in parts:
            ids += [part] if isinstance(part, int) else self._encode(part)
        return tuple(ids)

    def _ask(self, kind: str, parts: Sequence[str | int], token: int, choices: Sequence[int]) -> Lesson:
        ids = self._words(parts)
        unique = tuple(dict.fromkeys(choices))
        early = JUDGED_AFTER if token in (self.yes, self.no) else TOLD_AFTER
        target = Target(len(ids) - 1, token, early=early)
        text = "".join(part if isinstance(part, str) else self._decode(part) for part in parts).strip()
        options = [token, *(other for other in unique if other != token)]
        words = tuple(self._decode(option) for option in options)
        return Lesson(kind, ids, (target,), len(ids) - 1, unique, unique.index(token), text=text, options=words)

    def _yes_no(self, kind: str, parts: Sequence[str | int], yes: bool) -> Lesson:
        return self._ask(kind, parts, self.yes if yes else self.no, (self.yes, self.no))

    def _order(self, nouns: Sequence[int], choices: Sequence[int]) -> Lesson:
        """The three looked at last, said one after the other."""
        asked = self._words((" gaze pattern?",))
        first = len(asked)
        ids = self._words((" gaze pattern?", " {", nouns[0], "}>{", nouns[1], "}>{"))
        targets = tuple(Target(first + 2 * k, noun, early=TOLD_AFTER) for k, noun in enumerate(nouns))
        unique = tuple(dict.fromkeys(choices))
        words = [self._decode(noun) for noun in nouns]
        options = tuple("{" + "}>{".join(order) + "}" for order in permutations(words))
        text = "gaze pattern?"
        return Lesson("order", ids, targets, first, unique, unique.index(nouns[0]), text=text, options=options)

    def choose(self, probe: Lesson, rng: np.random.Generator) -> Lesson | None:
        """A probe with two to four of its answers as options, to be answered by a letter: what it asks of the video is
        little, so that the way from an answer to its letter is learned. None for a probe with Yes or No."""
        if self.yes in probe.choices or len(probe.options) < 2:
            return None
        wrong = rng.permutation(np.arange(1, len(probe.options)))[:3].tolist()
        rows = rng.permutation([0, *wrong]).tolist()
        options = tuple(probe.options[row] for row in rows)
        return self._question(probe.kind, probe.text, options, rows.index(0), "letters")

    # -- naming --------------------------------------------------------------------------------------------------------

    def name(self, rng: np.random.Generator, *, easy: bool, world: SymbolWorld | None = None) -> Lesson:
        """Which letter stands before a given option: what a choice by letters takes apart from the video.

        Args:
            easy: two options, half of the time under letters of any kind; else two to four.
            world: three in five options are its objects: words that the video shows, too, as a question's mostly are.
        """
        n = 2 if easy else int(rng.choice([2, 3, 4, 4, 4]))

        def drawn(names: tuple[str, ...] | list[str], count: int = n) -> list[str]:
            return [names[i] for i in rng.choice(len(names), count, replace=False)]

        shown = world is not None and rng.random() < 0.6
        nouns = tuple(NOUNS[int(noun)] for noun in world.symbols.noun) if world is not None and shown else NOUNS
        kind = rng.random()
        if kind < 0.55:
            options = drawn(nouns)
        elif kind < 0.78:
            options = drawn(tuple(COLOURS) if kind < 0.7 else STATES)
        elif kind < 0.88:
            verb = drawn(tuple(VERBS), 1)[0]
            options = [f"{verb} the {noun}" for noun in drawn(nouns)]
        else:
            orders = ["{" + "}>{".join(order) + "}" for order in permutations(drawn(nouns, 3))]
            options = drawn(orders)
        scattered = rng.random() < (0.5 if easy else 0.15)
        places = sorted(rng.choice(4, n, replace=False).tolist()) if scattered else list(range(n))
        right = int(rng.integers(n))
        said = options[right] if options[right].startswith("{") else "{" + options[right] + "}"
        letters = prompts.letters(4)
        lines = [f"{letters[place]}. {option}" for place, option in zip(places, options, strict=True)]
        body = prompts.choice_prompt(f"Which option is the {said}?", options)
        head, _, tail = body.partition("A. ")  # choice_prompt's frame around other letters
        asked = self._words((head,))
        text = head + "\n".join(lines) + tail[tail.index("\n\n") :]
        ids = self._words((text, prompts.ASSISTANT))
        place, targets, marks = len(asked), [Target(len(ids) - 1, self.letters[places[right]])], []
        for k, line in enumerate(lines):
            place += len(self._encode(line))
            marks.append((place - 1, k == right))
            place += 1
        targets += self._judged(marks)
        choices = tuple(self.letters[place] for place in places)
        return Lesson("name", ids, tuple(targets), len(ids) - 1, choices, right, tuple(marks))

    def _judged(self, marks: Sequence[tuple[int, bool]]) -> list[Target]:
        """An option's end says whether it is right; wrong ones are more and count half."""
        return [
            Target(place, self.yes if right else self.no, AUXILIARY if right else AUXILIARY / 2, JUDGED_AFTER)
            for place, right in marks
        ]

    # -- the ten tasks -------------------------------------------------------------------------------------------------

    def question(self, asked: SymbolQuestion, form: str) -> Lesson:
        """A task's question as the model is asked it: "letters", "likelihood" or "yes_no"."""
        return self._question(asked.task, asked.text, asked.options, asked.answer, form)

    def _question_uncached(self, task: str, text: str, options: tuple[str, ...], answer: int, form: str) -> Lesson:
        if form == "letters":
            body, said = prompts.choice_prompt(text, options), (self.letters[answer],)
        elif form == "likelihood":
            body, said = prompts.open_prompt(text), self._encode(options[answer] + prompts.TURN_END)
        else:
            body, said = prompts.yes_no_prompt(text), self._encode(options[answer] + prompts.TURN_END)
        stem = self._words((body, prompts.ASSISTANT))
        final = len(stem) - 1
        targets = [Target(final + k, token) for k, token in enumerate(said)]
        marks: list[tuple[int, bool]] = []
        if form == "yes_no":
            place = len(self._words((body.partition("?")[0] + "?",))) - 1
            targets.append(Target(place, self.yes if answer == 0 else self.no, AUXILIARY, JUDGED_AFTER))
            choices = tuple(self.word(option) for option in options)
        else:
            token = self._told(task, options[answer])
            if token is not None:
                targets.append(Target(len(self._words((f"Question: {text}",))) - 1, token, AUXILIARY, TOLD_AFTER))
            choices = self.letters[: len(options)]
            if form == "likelihood":
                choices = tuple(self.word(option) for option in options)
            else:
                lines = body.partition("\n\n")[0].split("\n")
                ends = [len(self._words(("\n".join(lines[: 3 + k]),))) - 1 for k in range(len(options))]
                marks = [(place, k == answer) for k, place in enumerate(ends)]
                targets += self._judged(marks)
        return Lesson(task, stem + said[:-1], tuple(targets), final, choices, answer, tuple(marks))

    def brief(self, asked: SymbolQuestion, option: int) -> Lesson:
        """The question alone, answered at its mark, then one option, judged: half as long as the whole."""
        if asked.task in PROACTIVE:
            yes = asked.answer == 0
            words = (f"Question: {asked.text}\nIs it so now?",)
            return self._yes_no(asked.task, words, yes)
        stem = self._words((f"Question: {asked.text}",))
        ids = self._words((f"Question: {asked.text}\nOptions:\nA. {asked.options[option]}",))
        right = option == asked.answer
        targets = [Target(len(ids) - 1, self.yes if right else self.no, early=JUDGED_AFTER)]
        token = self._told(asked.task, asked.options[asked.answer])
        if token is not None:
            targets.append(Target(len(stem) - 1, token, early=TOLD_AFTER))
        choices = (self.yes, self.no)
        return Lesson(asked.task, ids, tuple(targets), len(ids) - 1, choices, 0 if right else 1)

    def _told(self, task: str, answer: str) -> int | None:
        """The word that a question's mark should be followed by: of FAP the noun, of GSM the first one. None for SR,
        whose answer no single word is, and for alerts."""
        words = re.findall(r"\w+", answer)
        if task in (*PROACTIVE, "SR"):
            return None
        return self.word(words[-1] if task == "FAP" else words[0])
