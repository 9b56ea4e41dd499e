"""`gazeqwen demo` (`make demo`): the main job on the embedded default, with nothing downloaded.

Renders a short egocentric clip with gaze, checks that they belong together, writes the annotated video, and asks what
is looked at, with gaze and without.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gazeqwen import GazeQwen
from gazeqwen.errors import InputError
from gazeqwen.tiny.scene import Scene, render
from gazeqwen.types import Answer, GazeSamples, Question, Step
from stream.gaze_check import check
from stream.overlay import write_overlay
from stream.recording import Recording, open_recording
from stream.session import StreamSession
from stream.video import write_clip

DURATION_S = 10.0
SIZE_PX = (512, 384)
QUESTIONS = 3
ARMS = (("with gaze", "inject"), ("no gaze", "none"))
INDENT = " " * 3


class Progress(Protocol):
    """A bar over `total` units; what it gives is called with the units just done."""

    def __call__(self, title: str, *, total: int, unit: str) -> AbstractContextManager[Callable[[int], Any]]: ...


@contextmanager
def no_progress(title: str, *, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
    """No bar."""
    yield lambda done: None


def run_demo(
    out: Path,
    *,
    seed: int,
    say: Callable[[str], object],
    progress: Progress = no_progress,
    duration_s: float = DURATION_S,
    size_px: tuple[int, int] = SIZE_PX,
) -> dict[str, Any]:
    """Runs the demo into the folder `out`; returns what it printed as data (also written to answers.json).

    Args:
        out: made when it is not there; clip.mp4, gaze.csv, annotated.mp4 and answers.json in it are replaced.
        seed: of the scene.
        say: gets the text for people, line by line, at most 80 columns but for long paths.
        progress: what draws bars for the longer parts.
        duration_s, size_px: of the clip.

    Raises:
        InputError: `out` is a file.
    """
    began = time.perf_counter()
    if out.exists() and not out.is_dir():
        raise InputError(out, expected="a folder to write to", found="a file", fix="pass another --out")
    out.mkdir(parents=True, exist_ok=True)

    say(f"1. Rendering {duration_s:g} s of a kitchen seen by its wearer, with a 200 Hz eye tracker")
    scene = render(seed, duration_s=duration_s, size_px=size_px)
    with progress("rendering", total=len(scene.frame_times_s), unit="frame") as advance:
        video = write_clip(out / "clip.mp4", _images(scene, advance), fps=scene.fps)
    gaze = write_gaze_csv(out / "gaze.csv", scene.gaze)
    say(f"{INDENT}{video}, {gaze} (seed {seed})")

    say("\n2. gazeqwen gaze check clip.mp4 --gaze gaze.csv --out annotated.mp4")
    recording = open_recording(video, gaze)
    assert recording.gaze is not None
    report = check(video, recording.gaze, fixations=recording.fixations)
    say(textwrap.indent(report.to_text(width=80 - len(INDENT)), INDENT))
    overlay = out / "annotated.mp4"
    with progress("drawing the overlay", total=len(scene.frame_times_s), unit="frame") as advance:
        counts = write_overlay(
            video, recording.samples, recording.fixations, overlay, progress=lambda _time_s, _duration_s: advance(1)
        )
    say(f"{INDENT}{overlay}: {counts['frames']} frames, {counts['frames_without_gaze']} without gaze")

    model = GazeQwen.from_pretrained("tiny")
    say(f"\n3. gazeqwen ask clip.mp4 --gaze gaze.csv   (model tiny: {model.config.trained})")
    asked = []
    for question, truth in _spread(scene.questions(), QUESTIONS):
        answers = _answers(model, recording, question)
        asked.append((truth, answers))
        say(f"{INDENT}at {question.t_s:.1f} s: {question.text}")
        say(f"{INDENT}   {'':<10} {'  '.join(f'{option:<13}' for option in question.options)}".rstrip())
        for (name, _), answer in zip(ARMS, answers, strict=True):
            shares = "  ".join(f"{math.exp(value):<13.2f}" for value in answer.option_logprobs.values())
            say(f"{INDENT}   {name:<10} {shares}".rstrip())
        texts = ", ".join(f"{name}: {answer.text}" for (name, _), answer in zip(ARMS, answers, strict=True))
        say(f"{INDENT}   {texts}; true: {truth}")
    if model.config.trained == "untrained":
        say(f"{INDENT}The embedded weights are untrained: the answers mean nothing, and an")
        say(f"{INDENT}untrained resampler adds exactly zero: with gaze and without are equal.")
        say(f"{INDENT}The way from the files to the answer is the real one.")
    if asked:
        latency = ", ".join(f"{part} {ms:.0f}" for part, ms in asked[-1][1][0].latency_ms.items())
        text = f"time of the last answer in ms: {latency}"
        say(textwrap.fill(text, 80, initial_indent=INDENT, subsequent_indent=INDENT))
    summary = {
        "seed": seed,
        "trained": model.config.trained,
        "suspicions": sorted(report.kinds),
        "questions": [
            {"truth": truth, "with_gaze": answers[0].to_dict(), "without_gaze": answers[1].to_dict()}
            for truth, answers in asked
        ],
    }
    path = out / "answers.json"
    path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    say(f"\nDone in {time.perf_counter() - began:.0f} s. Watch {overlay}; evidence: {path}")
    return summary


def _images(scene: Scene, advance: Callable[[int], Any]) -> Iterator[np.ndarray]:
    for _, image in scene.frames():
        yield image
        advance(1)


def _answers(model: GazeQwen, recording: Recording, question: Question) -> list[Answer]:
    """One answer per arm of `ARMS`. The video is decoded once, for the first; the others get the same steps."""
    steps: list[Step] = []
    source: Iterable[Step] = _kept(
        recording.steps(model.config.fps, vjepa_fps=model.config.features.fps, until_s=question.t_s), steps
    )
    answers = []
    for _, arm in ARMS:
        made_by = {"detector": recording.detector, "parameters": recording.parameters}
        session = StreamSession(model, arm=arm, detector=made_by)
        session.extend(source)
        answers.append(session.choose(question.text, question.options, at_s=question.t_s))
        source = steps
    return answers


def _kept(source: Iterable[Step], kept: list[Step]) -> Iterator[Step]:
    for step in source:
        kept.append(step)
        yield step


def _spread(questions: list[tuple[Question, str]], n: int) -> list[tuple[Question, str]]:
    """At most n questions, spread over the clip."""
    if len(questions) <= n:
        return questions
    return [questions[round(i * (len(questions) - 1) / (n - 1))] for i in range(n)]


def write_gaze_csv(path: Path, samples: GazeSamples) -> Path:
    """Gaze in the plain format (t_s, x_norm, y_norm, valid); missing gaze has empty coordinates."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("t_s", "x_norm", "y_norm", "valid"))
    for t_s, (x, y), valid in zip(samples.t_s, samples.xy_norm, samples.valid, strict=True):
        writer.writerow((f"{t_s:.6f}", f"{x:.6f}" if valid else "", f"{y:.6f}" if valid else "", int(valid)))
    path.write_text(text.getvalue(), encoding="utf-8")
    return path
