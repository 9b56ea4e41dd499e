"""`gazeqwen demo` (`make demo`): the main job on the embedded default, with nothing downloaded.

Renders a short clip of the tiny world with gaze, checks that they belong together, writes the annotated video, asks
questions of several tasks with the wearer's gaze, without gaze and with another clip's, draws what the resampler's
latents attend to, and says what none of this shows.
"""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gazeqwen import GazeQwen
from gazeqwen.checkpoint import load_arm
from gazeqwen.errors import InputError
from gazeqwen.event_log import EventLog, MadeQuestion
from gazeqwen.prompts import YES_NO
from gazeqwen.question_rules import make_questions
from gazeqwen.tiny.world import USER_SEEDS, World
from gazeqwen.types import Answer, Question, Step, plain_json
from stream.attention import attention_at_gaze, attention_figure, latent_attention, write_attention
from stream.borrowed_gaze import BorrowedGaze
from stream.gaze_check import check
from stream.overlay import write_overlay
from stream.recording import Recording, open_recording
from stream.session import StreamSession
from stream.steps import Cut
from stream.trackers.plain_csv import gaze_csv
from stream.world_recording import WorldRecording, write_world_video

DURATION_S = 10.0
QUESTIONS, EARLIEST_S = 5, 2.0  # asked before that, there is next to nothing that gaze could tell
# One of each kind of question first, by what is asked and not by how well anything answers; OAA needs no gaze.
TASKS = ("OI-E", "OAR", "NFI", "OTP", "GTA", "OI-H", "GSM", "SR", "FAP", "OAA")
ENLARGED = 4  # the model's frames are too small for people
PICTURE_STEPS = 4
WIDTH = 80
INDENT = " " * 3
ARMS = ("with gaze", "no gaze", "shuffled")
NO_GAZE = {"null": "weights that were trained without any gaze", "none": "the plain backbone, nothing is added"}
COLUMN, OPTION_WIDTH = 12, 34


class Progress(Protocol):
    """A bar over `total` units; what it gives is called with the units just done."""

    def __call__(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Callable[[int], Any]]: ...


@contextmanager
def no_progress(title: str, *, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    """No bar."""
    yield lambda done: None


@dataclass(frozen=True)
class Asked:
    """A question with the option that is true. `alert`: a check of a proactive question, answered by Yes or No."""

    task: str
    question: Question
    truth: str
    alert: bool = False


def run_demo(
    out: Path,
    *,
    seed: int,
    say: Callable[[str], object],
    progress: Progress = no_progress,
    duration_s: float = DURATION_S,
    model: str | Path = "tiny",
) -> dict[str, Any]:
    """Runs the demo into the folder `out`; returns what it printed as data (also written to answers.json).

    Args:
        out: made when it is not there; clip.mp4, gaze.csv, annotated.mp4, attention.png and answers.json in it are
            replaced.
        seed: of the world; the shuffled gaze is that of the next one.
        say: gets the text for people, line by line, at most 80 columns but for long paths.
        progress: what draws bars for the longer parts.
        duration_s: of the clip.
        model: "tiny", or the folder of a model of its kind.

    Raises:
        InputError: `out` is a file, or the seed is not one of the users'.
    """
    began = time.perf_counter()
    if out.exists() and not out.is_dir():
        raise InputError(out, expected="a folder to write to", found="a file", fix="pass another --out")
    if not 0 <= seed < USER_SEEDS:
        raise InputError(
            "--seed",
            expected=f"a seed below {USER_SEEDS:,} (those above are the training's and the tests' own)",
            found=str(seed),
            fix="pass another --seed",
        )
    out.mkdir(parents=True, exist_ok=True)

    world = World.make(seed, duration_s=duration_s)
    tracker = f"a {world.parameters.gaze_hz:g} Hz eye tracker"
    say(f"1. Rendering {duration_s:g} s of a small synthetic kitchen, with {tracker}")
    with progress("rendering", total=len(world.frame_times_s), unit="frame") as advance:
        video = write_world_video(out / "clip.mp4", world, progress=advance)
    gaze = out / "gaze.csv"
    gaze.write_text(gaze_csv(world.gaze), encoding="utf-8")
    say(f"{INDENT}{video}, {gaze} (seed {seed})")

    say("\n2. As gazeqwen gaze check clip.mp4 --gaze gaze.csv --out annotated.mp4")
    recording = open_recording(video, gaze)
    assert recording.gaze is not None
    report = check(video, recording.gaze, fixations=recording.fixations)
    say(textwrap.indent(report.to_text(width=WIDTH - len(INDENT)), INDENT))
    overlay = out / "annotated.mp4"
    with progress("drawing the overlay", total=len(world.frame_times_s), unit="frame") as advance:
        counts = write_overlay(
            video,
            recording.samples,
            recording.fixations,
            overlay,
            progress=lambda _time_s, _duration_s: advance(1),
            enlarge=ENLARGED,
        )
    size = f"{ENLARGED} times the clip's size"
    say(f"{INDENT}{overlay}: {counts['frames']} frames, {counts['frames_without_gaze']} without gaze, {size}")

    loaded = GazeQwen.from_pretrained(model)
    trained = loaded.config.trained
    asked = choose_questions(world.log, seed)
    say(f"\n3. {len(asked)} questions, each asked when the clip has come to its time")
    items = list(
        recording.steps_for(  # the only time that the video is decoded for the model
            [*(min(one.question.t_s, recording.end_s) for one in asked), recording.end_s],
            loaded.config.fps,
            vjepa_fps=loaded.config.features.fps,
        )
    )
    donor = World.make((seed + 1) % USER_SEEDS, duration_s=duration_s)
    arms, answers = _ask_all(loaded, model, asked, recording, items, donor)
    right = {name: sum(_is_right(one, a) for one, a in zip(asked, answers[name], strict=True)) for name in ARMS}
    for line in _answer_lines(loaded, arms, asked, answers, right, donor_seed=donor.seed):
        say(line)

    say("\n4. What the resampler's latents attend to")
    steps = [item for item in items if isinstance(item, Step)]
    attention = _draw_attention(out / "attention.png", loaded, steps, world)
    shown, (rows, columns) = len(attention["shown"]), attention["grid"]
    say(f"{INDENT}{out / 'attention.png'}: {shown} of the clip's {len(steps)} steps, {rows} x {columns} cells")
    if attention["at_gaze"] is not None:
        text = f"Where gaze was last in a step, the attention is {attention['at_gaze']:.2f} times an even spread"
        say(_filled(f"{text} (1: as much as anywhere; mean over {attention['latents']} latents and steps with gaze)."))

    lines = _not_shown(loaded, trained, len(asked))
    say("\n5. What this does not show")
    for line in lines:
        say(textwrap.fill(line, WIDTH, initial_indent=INDENT + "- ", subsequent_indent=INDENT + "  "))
    summary = {
        "seed": seed,
        "shuffled_seed": donor.seed,
        "model": loaded.config.name,
        "trained": trained,
        "gaze_check": plain_json({**report.to_dict(), **counts}),
        "suspicions": sorted(report.kinds),
        "arms": arms,
        "questions": [
            {
                "task": one.task,
                "question": one.question.text,
                "t_s": one.question.t_s,
                "options": list(one.question.options),
                "truth": one.truth,
                "answers": {name: answers[name][number].to_dict() for name in ARMS},
            }
            for number, one in enumerate(asked)
        ],
        "right": right,
        "right_by_chance": _by_chance(asked),
        "attention": attention,
        "does_not_show": lines,
    }
    path = out / "answers.json"
    path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    say(f"\nDone in {time.perf_counter() - began:.0f} s. All of this as data: {path}")
    return summary


# -- questions ---------------------------------------------------------------------------------------------------------


def choose_questions(log: EventLog, seed: int, n: int = QUESTIONS) -> list[Asked]:
    """At most n questions of different tasks, in the order of their times.

    Tasks come in the order of `TASKS`; of each the question furthest in time from those taken before, the first one's
    being the last it has. So the same log and seed give the same questions, and they are spread over the clip.
    """
    made = make_questions(log, rules="causal", seed=seed)
    chosen: list[Asked] = []
    for task in TASKS:
        fit = [one for question in made if question.task == task for one in _asked(question)]
        fit = [one for one in fit if one.question.t_s >= EARLIEST_S]
        if fit and len(chosen) < n:
            chosen.append(
                max(fit, key=lambda one: min((_apart_s(one, other) for other in chosen), default=one.question.t_s))
            )
    return sorted(chosen, key=lambda one: one.question.t_s)


def _apart_s(one: Asked, other: Asked) -> float:
    return abs(one.question.t_s - other.question.t_s)


def _asked(made: MadeQuestion) -> list[Asked]:
    """The question, or of a proactive one each check."""
    if made.answer is not None:
        return [Asked(made.task, Question(made.question, made.t_s, made.options), made.options[made.answer])]
    return [
        Asked(made.task, Question(made.question, point.t_s, YES_NO), YES_NO[not point.yes], alert=True)
        for point in made.points
    ]


def _ask_all(
    loaded: GazeQwen,
    model: str | Path,
    asked: Sequence[Asked],
    recording: Recording,
    items: Sequence[Step | Cut],
    donor: World,
) -> tuple[dict[str, str], dict[str, list[Answer]]]:
    """By name of `ARMS`: the registry's arm, and one answer a question. All arms see the same frames and times."""
    without, no_gaze = loaded, "none"
    if loaded.arms_folder is not None and (loaded.arms_folder / "null").is_dir():
        without, no_gaze = load_arm(GazeQwen.from_pretrained(model), None, "null"), "null"
    borrowed = BorrowedGaze(recording, WorldRecording(donor))
    others = _with_gaze_of(borrowed, items, loaded)
    arms = {"with gaze": "inject", "no gaze": no_gaze, "shuffled": "shuffled"}
    return arms, {
        "with gaze": _answers(loaded, arms["with gaze"], asked, recording, items),
        "no gaze": _answers(without, arms["no gaze"], asked, recording, items),
        "shuffled": _answers(loaded, arms["shuffled"], asked, borrowed, others),
    }


def _with_gaze_of(recording: Recording, items: Sequence[Step | Cut], model: GazeQwen) -> list[Step | Cut]:
    """The same steps with the gaze that this recording of the same video has; nothing is decoded."""
    times_s = [item.t_s for item in items if isinstance(item, Cut)]
    given = recording.steps_for(times_s, model.config.fps, vjepa_fps=model.config.features.fps, decode_from_s=np.inf)
    found: list[Step | Cut] = []
    for item, other in zip(items, given, strict=True):
        if isinstance(item, Step) and isinstance(other, Step):
            found.append(replace(item, gaze=other.gaze))
        elif isinstance(item, Cut) and isinstance(other, Cut):
            tail = None if item.tail is None or other.tail is None else replace(item.tail, gaze=other.tail.gaze)
            found.append(Cut(item.t_s, tail))
    return found


def _answers(
    model: GazeQwen, arm: str, asked: Sequence[Asked], recording: Recording, items: Sequence[Step | Cut]
) -> list[Answer]:
    """One pass over the steps, each question on a fork at its time."""
    session = StreamSession(
        model, arm=arm, detector={"detector": recording.detector, "parameters": recording.parameters}
    )
    answers = []
    for one, cut in zip(asked, session.follow(items), strict=False):  # the last cut is the clip's end
        question = one.question
        if one.alert:
            answers.append(session.yes_no(question.text, at_s=cut.t_s))
        else:
            scoring = model.config.scoring
            answers.append(session.choose(question.text, question.options, at_s=cut.t_s, scoring=scoring))
    return answers


def _is_right(one: Asked, answer: Answer) -> bool:
    return answer.text == one.truth


# -- text --------------------------------------------------------------------------------------------------------------


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)


def _table(one: Asked, answers: Sequence[Answer]) -> list[str]:
    """A question as lines for `WIDTH` less `INDENT`: a row an option, a column an arm, and who is right."""
    question = one.question
    text = question.text + (" Is it so now?" if one.alert else "")  # as `prompts.yes_no_prompt` asks
    lines = textwrap.wrap(f"at {question.t_s:.1f} s, {one.task}: {text}", WIDTH - len(INDENT))
    lines.append(" " * (OPTION_WIDTH + 2) + "".join(f"{name:>{COLUMN}} " for name in ARMS))
    for option in question.options:
        first, *more = textwrap.wrap(option, OPTION_WIDTH)
        cells = (
            f"{math.exp(answer.option_logprobs[option]):>{COLUMN}.2f}{'*' if answer.text == option else ' '}"
            for answer in answers
        )
        lines.append(f"{'>' if option == one.truth else ' '} {first:<{OPTION_WIDTH}}" + "".join(cells))
        lines += [f"  {rest}" for rest in more]
    verdicts = ("right" if _is_right(one, answer) else "wrong" for answer in answers)
    lines.append(" " * (OPTION_WIDTH + 2) + "".join(f"{verdict:>{COLUMN}} " for verdict in verdicts))
    return [line.rstrip() for line in lines]


def _answer_lines(
    model: GazeQwen,
    arms: dict[str, str],
    asked: Sequence[Asked],
    answers: dict[str, list[Answer]],
    right: dict[str, int],
    *,
    donor_seed: int,
) -> Iterator[str]:
    """Who answers, a table a question, how many each arm got right, and what that is worth."""
    trained = model.config.trained
    for name, text in (
        ("model", f"{model.config.name} ({trained})"),
        ("with gaze", f"the wearer's own gaze (arm {arms['with gaze']})"),
        ("no gaze", f"{NO_GAZE[arms['no gaze']]} (arm {arms['no gaze']})"),
        ("shuffled", f"the gaze of another clip, seed {donor_seed} (arm {arms['shuffled']})"),
        ("marks", "> is the true option, * the answer; numbers are probabilities"),
    ):
        yield textwrap.fill(text, WIDTH, initial_indent=f"{INDENT}{name:<11}", subsequent_indent=INDENT + " " * 11)
    for number, one in enumerate(asked):
        yield ""
        for line in _table(one, [answers[name][number] for name in ARMS]):
            yield INDENT + line
    yield ""
    if not asked:
        yield _filled("This clip is too poor to ask about: try another --seed.")
        return
    shown = ", ".join(f"{name} {number}" for name, number in right.items())
    yield _filled(f"Right of {len(asked)}: {shown}; guessing gets {_by_chance(asked):.1f} on average.")
    if trained == "untrained":
        yield _filled(
            "The embedded weights are untrained: the answers mean nothing, and an untrained resampler adds exactly "
            "zero, so that the three columns are equal. The way from the files to the answer is the real one."
        )
    text = "A handful of questions on one clip proves nothing, whichever column is ahead."
    yield _filled(f"{text} What was measured on many is in docs/embedded_model.md.")


def _by_chance(asked: Sequence[Asked]) -> float:
    return sum(1 / len(one.question.options) for one in asked)


def _not_shown(model: GazeQwen, trained: str, questions: int) -> list[str]:
    millions = sum(model.describe()["parameters"].values()) / 1e6
    learned = "with random weights" if trained == "untrained" else "trained on drawn clips like this one"
    return [
        "No real video, wearer or eye tracker: a drawn, flat kitchen with a simulated tracker.",
        f"No 7B: this model has {millions:.1f} million parameters, {learned}. "
        "Its answers say nothing about a large one's, and its speed nothing about theirs.",
        f"No accuracy: {questions} questions, whose number and kind depend on the seed. Try other --seed values.",
        "Not why an answer was given: attention is no explanation. Gaze also reaches the decoder beside the latents, "
        "by a direct path that the picture leaves out.",
        "Nothing for people to rely on: the model has never seen a photograph.",
    ]


# -- the picture -------------------------------------------------------------------------------------------------------


def _draw_attention(path: Path, model: GazeQwen, steps: Sequence[Step], world: World) -> dict[str, Any]:
    """Writes the picture of some steps with gaze, spread over the clip; returns what it shows as data."""
    maps = latent_attention(model, steps)
    rows = [row for row, step in enumerate(steps) if step.gaze.any_valid] or list(range(len(steps)))
    if len(rows) > PICTURE_STEPS:
        rows = [rows[round(i * (len(rows) - 1) / (PICTURE_STEPS - 1))] for i in range(PICTURE_STEPS)]
    looked_at = [_looked_at(world.log, steps[row]) for row in rows]
    labels = [
        f"{max(0.0, steps[row].span_s[0]):.1f} to {steps[row].span_s[1]:.1f} s\n\nlooked at\n(truth):\n"
        + ("\n".join(names) or "no object")
        for row, names in zip(rows, looked_at, strict=True)
    ]
    figure = attention_figure(
        [steps[row] for row in rows],
        maps[rows],
        labels,
        title=f"What the resampler's {maps.shape[1]} latents attend to, and the gaze they were given",
        subtitle=textwrap.shorten(
            "Latents: learned queries that read a step's video features and gaze. "
            f"Clip of seed {world.seed}, model {model.config.name} ({model.config.trained})",
            130,
            placeholder=" ...",
        ),
    )
    write_attention(path, figure)
    at_gaze = attention_at_gaze(steps, maps)
    return {
        "grid": list(maps.shape[2:]),
        "latents": maps.shape[1],
        "at_gaze": None if math.isnan(at_gaze) else at_gaze,
        "shown": [
            {"span_s": list(steps[row].span_s), "looked_at": names, "mean": maps[row].mean(axis=0).tolist()}
            for row, names in zip(rows, looked_at, strict=True)
        ],
    }


def _looked_at(log: EventLog, step: Step) -> list[str]:
    """The objects that gaze truly rested on in the step, in order, each once."""
    start_s, stop_s = step.span_s
    inside = (e.gazed for e in log.episodes if e.gazed is not None and e.start_s < stop_s and e.stop_s > start_s)
    return list(dict.fromkeys(inside))
