"""The data of the streamgaze suite: one small world, as long as asked for, and questions spread over it.

Every task has the same share of the questions and every question a time of its own, so nothing is shared between two of
them but the video. The published set asks the same 30 a video (8,521 of 285), but has more present questions and more
test points: six calls in ten see the whole past here, between 0.43 (an alert counted once) and 0.72 (five points each)
there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np

from benchmarks.streamgaze.data_manifest import MANIFEST, VERSION, VERSION_KEY
from benchmarks.streamgaze.mini import fixation_csv
from benchmarks.streamgaze.qa_writer import entry_of, write_qa_files
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.event_log import AlertPoint, MadeQuestion
from gazeqwen.tiny.world import World
from gazeqwen.types import Fixations
from stream.video import write_clip

OBJECTS = ("mug", "plate", "knife", "jar")
PAINTED_S = 60.0  # of world; longer videos show it again, since painting costs more than encoding


@dataclass(frozen=True)
class Videos:
    """What is made.

    Attributes:
        length_s: of each video, at least a second a question.
        count: of videos, alike but for their names.
        questions: of each video: calls of the model, test points of alerts among them.
        fps: of the video files. Cutting a clip takes as many frames.
        size_px: (width, height); 112 x 112 are 16 video tokens a step.
        present_s: how far back a present question may see.
    """

    length_s: float
    count: int = 1
    questions: int = 30
    fps: float = 24.0
    size_px: tuple[int, int] = (112, 112)
    present_s: float = 60.0

    def __str__(self) -> str:
        width, height = self.size_px
        number = "one video" if self.count == 1 else f"{self.count} videos"
        return f"{number} of {self.length_s:g} s, {width}x{height} at {self.fps:g} fps, {self.questions} questions each"


def make_data(folder: Path, videos: Videos) -> Path:
    """A StreamGaze folder with these videos, their fixations as StreamGaze stores them, and questions of all tasks."""
    world = World.make(0, duration_s=min(PAINTED_S, videos.length_s), fps=videos.fps, size_px=videos.size_px)
    painted = [image for _, image in world.frames()]
    rounds = int(np.ceil(videos.length_s / world.duration_s))
    parts = [world.fixations.shifted(k * world.duration_s) for k in range(rounds)]
    gaze = Fixations.build(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("start_s", "stop_s", "xy_norm"))
    )
    entries = []
    for number in range(videos.count):
        name = f"clip-{number}"
        frames = islice((painted[k % len(painted)] for k in count()), round(videos.length_s * videos.fps))
        write_clip(folder / "videos" / "original_video" / f"{name}.mp4", frames, fps=videos.fps, preset="ultrafast")
        (folder / "metadata" / name).mkdir(parents=True)
        (folder / "metadata" / name / f"{name}_fixation_filtered.csv").write_text(fixation_csv(gaze), encoding="utf-8")
        entries += [entry_of(made, f"{name}.mp4", rules="causal", category="made") for made in made_questions(videos)]
    write_qa_files(folder / "qa", entries)
    about = {VERSION_KEY: VERSION, "name": "speed", "windows": {"present": videos.present_s}}
    (folder / MANIFEST).write_text(json.dumps(about), encoding="utf-8")
    return folder


def made_questions(videos: Videos) -> Iterator[MadeQuestion]:
    """At whole seconds, as the release's are, the tasks mixed over the video."""
    names = list(TASKS)
    points: dict[str, list[AlertPoint]] = {}
    for k in range(videos.questions):
        task, t_s = names[7 * k % len(names)], float(round((k + 1) * videos.length_s / videos.questions))
        if TASKS[task].proactive:
            points.setdefault(task, []).append(AlertPoint(t_s, yes=k % 2 == 0))
        else:
            yield MadeQuestion(task, f"{task}: which object is it?", t_s, OBJECTS, k % 4)
    for task, asked in points.items():
        yield MadeQuestion(task, "Alert me when I gaze at the <mug>.", 0.0, points=tuple(asked))
