"""mini-StreamGaze (`gazeqwen data mini DIR`): worlds of `gazeqwen.tiny.world` as videos, gaze files and QA files.

    DIR/videos/original_video/mini-SEED.mp4            H.264, 20 to 120 s
    DIR/gaze/mini-SEED_gaze.csv                        what the world's eye tracker stored, plain CSV
    DIR/metadata/mini-SEED/..._fixation_filtered.csv   its fixations, in StreamGaze's form (all of them; StreamGaze
                                                       keeps only those of two seconds and more)
    DIR/qa/*.json                                      the ten tasks in the release's form
    DIR/manifest.json                                  seed and facts of each video, shorter windows, rules, and what
                                                       the two solvers get right (arms `oracle`, `oracle-no-gaze`)

World k of a set has the seed S + k and nothing else in common with its neighbours, so a set is the start of any longer
one of the same seed. The same arguments give the same bytes. A write that was stopped goes on where it was when the
same command is given again; until it is done there is no qa/, so that nobody takes a part for the whole.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.data_manifest import MANIFEST, VERSION, VERSION_KEY, read_manifest
from benchmarks.streamgaze.qa_writer import entry_of, write_qa_files
from benchmarks.streamgaze.records import write_atomically
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen._version import __version__
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.event_log import MadeQuestion, Rules
from gazeqwen.question_rules import make_questions, solve
from gazeqwen.tiny.world import USER_SEEDS, World, world_seed
from gazeqwen.types import Fixations, GazeSamples
from stream.trackers import read_gaze
from stream.trackers.plain_csv import gaze_csv
from stream.world_recording import world_name, write_world_video

NAME = "mini-streamgaze"
WINDOWS_S = {"present": 15.0}  # of 20 to 120 s, so that the rule hides something in every video
PER_VIDEO = 4
UNDER_WAY = ".mini"  # folder of what is done, while a write goes on
FIXATION_HEADER = (
    "start_time", "end_time", "center_x", "center_y", "duration",
    "start_time_seconds", "end_time_seconds", "fixation_id", "duration_seconds",
)  # fmt: skip
SOLVERS = {"oracle": True, "oracle-no-gaze": False}  # by arm: whether it reads the tracker's gaze


def write_mini(
    folder: str | Path,
    *,
    videos: int,
    seed: int,
    rules: Rules = "causal",
    per_video: int | None = None,
    duration_s: float | None = None,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Writes a set into `folder` and returns its manifest.

    Args:
        folder: new or empty, or one that this function was stopped in, or has finished.
        videos: how many worlds, from `seed` on.
        rules: of `gazeqwen.question_rules`.
        per_video: questions of a task and video under causal rules (default 4); the official rules have their own caps.
        duration_s: of every video; None draws 20 to 120 s for each.
        progress: called with 1 for each video that is written or found.

    Raises:
        InputError: `folder` holds something else, or a set that was made otherwise.
        ConfigError: `per_video` under streamgaze rules, no video at all, or what `World.make` refuses.
    """
    folder = Path(folder)
    if videos < 1:
        raise ConfigError(f"videos: expected 1 or more, found {videos}")
    if rules == "streamgaze" and per_video is not None:
        raise ConfigError("per_video: the streamgaze rules have caps of their own; it goes with --rules causal")
    settings = {
        "gazeqwen": __version__,
        "rules": rules,
        "seed": seed,
        "count": videos,
        "per_video": PER_VIDEO if rules == "causal" and per_video is None else per_video,
        "duration_s": duration_s,
    }
    parts = folder / UNDER_WAY
    if _finished(folder, settings):
        return dict(read_manifest(folder).raw)
    _begin(folder, settings)
    made = []
    for index in range(videos):
        made.append(_part(folder, world_seed(seed, index), settings))
        if progress is not None:
            progress(1)
    manifest = _manifest(settings, made)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    staging = parts / "qa"
    write_qa_files(staging, [entry for part in made for entry in part["entries"]])
    if not (folder / "qa").is_dir():
        staging.rename(folder / "qa")
    shutil.rmtree(parts)
    return manifest


def _finished(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder holds this very set, whole.

    Raises:
        InputError: it holds a part of it, another set, or something else.
    """
    raw = read_manifest(folder).raw
    if not raw:
        return False
    if raw.get("made_with") != settings:
        _refuse(folder / MANIFEST, settings, raw.get("made_with"))
    if not (folder / "qa").is_dir():
        return False  # stopped just before the end
    shutil.rmtree(folder / UNDER_WAY, ignore_errors=True)
    for name, facts in raw["videos"].items():
        path = folder / _video(name)
        if not (path.is_file() and path.stat().st_size == facts["bytes"]):
            found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
            raise InputError(
                path, expected=f"a video of {facts['bytes']} bytes", found=found, fix="make the set again, elsewhere"
            )
    return True


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Makes the folder, or goes on in it; removes what a killed encoder left."""
    under_way = folder / UNDER_WAY / "settings.json"
    if under_way.is_file():
        try:
            found = json.loads(under_way.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != settings:
            _refuse(folder, settings, found)
        for left in (folder / "videos").rglob(".*.partial.mp4"):
            left.unlink()
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, expected="a folder to write to", found="a file")
    if folder.is_dir() and any(path.name != UNDER_WAY for path in folder.iterdir()):
        raise InputError(
            folder, expected="an empty folder, or a mini set", found="other files", fix="choose another folder"
        )
    under_way.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(under_way, json.dumps(settings))


def _refuse(path: Path, settings: dict[str, Any], found: object) -> None:
    other = found if isinstance(found, dict) else {}
    differ = [f"{key} {other.get(key)}" for key, value in settings.items() if other.get(key) != value]
    raise InputError(
        path,
        expected=", ".join(f"{key} {value}" for key, value in settings.items() if other.get(key) != value),
        found=f"a set made with {', '.join(differ)}",
        fix="choose another folder, or the same arguments",
    )


def _video(name: str) -> Path:
    return Path("videos", "original_video", name)


def _part(folder: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One world, written unless it is there: {"name", "facts", "entries", "solved"}."""
    name = world_name(seed)
    stem, video = Path(name).stem, folder / _video(name)
    done = folder / UNDER_WAY / f"{stem}.json"
    if done.is_file():
        part = json.loads(done.read_text(encoding="utf-8"))
        if video.is_file() and video.stat().st_size == part["facts"]["bytes"]:
            return part
    world = World.make(seed, duration_s=settings["duration_s"])
    questions = make_questions(world.log, rules=settings["rules"], seed=seed, per_task=settings["per_video"])
    write_world_video(video, world)
    for path, text in (
        (folder / "gaze" / f"{stem}_gaze.csv", gaze_csv(world.gaze)),
        (folder / "metadata" / stem / f"{stem}_fixation_filtered.csv", fixation_csv(world.fixations)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    entries = [entry_of(item, name, rules=settings["rules"], category="MINI") for item in questions]
    part = {
        "name": name,
        "entries": entries,
        "solved": _solved(world, questions, read_gaze(folder / "gaze" / f"{stem}_gaze.csv").samples),
        "facts": {
            "world_seed": seed,
            "duration_s": world.duration_s,
            "fps": world.fps,
            "size_px": list(world.size_px),
            "bytes": video.stat().st_size,
            "gaze_samples": len(world.gaze),
            "gaze_valid_fraction": round(float(world.gaze.valid.mean()), 4),
            "fixations": len(world.fixations),
        },
    }
    write_atomically(done, json.dumps(part, ensure_ascii=False))
    return part


def _solved(world: World, questions: list[MadeQuestion], gaze: GazeSamples) -> dict[str, dict[str, int]]:
    """By task and solver: how many questions (of alerts: points) it gets right. Ties go to the first option."""
    right: dict[str, dict[str, int]] = {}
    for name, reads_gaze in SOLVERS.items():
        for question in questions:
            asked = [(point.t_s, int(point.yes)) for point in question.points] or [(question.t_s, question.answer)]
            for t_s, answer in asked:
                log = world.estimate(gaze if reads_gaze else None, until_s=t_s)
                scores = solve(log, question, t_s=t_s)
                row = right.setdefault(question.task, dict.fromkeys(SOLVERS, 0))
                row[name] += max(range(len(scores)), key=scores.__getitem__) == answer
    return right


def fixation_csv(fixations: Fixations) -> str:
    """Fixations as StreamGaze's pipeline writes them (`STEM_fixation_filtered.csv`): seconds, normalised centres."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIXATION_HEADER)
    for row, (start_s, stop_s, (x, y)) in enumerate(
        zip(fixations.start_s, fixations.stop_s, fixations.xy_norm, strict=True)
    ):
        times = (f"{start_s:.6f}", f"{stop_s:.6f}")
        duration = f"{stop_s - start_s:.6f}"
        writer.writerow((*times, f"{x:.6f}", f"{y:.6f}", duration, *times, row, duration))
    return text.getvalue()


def _manifest(settings: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {name: {"questions": 0, "points": 0, "yes": 0, **dict.fromkeys(SOLVERS, 0)} for name in TASKS}
    names = {task.key: name for name, task in TASKS.items()}
    for part in parts:
        for entry in part["entries"]:
            question = entry["questions"][0]
            row, points = counts[names[question["task_type"]]], question.get("test_info", ())
            row["questions"] += 1
            row["points"] += len(points)
            row["yes"] += sum(point["type"] for point in points)
        for name, right in part["solved"].items():
            for solver, number in right.items():
                counts[name][solver] += number
    return {
        VERSION_KEY: VERSION,
        "name": NAME,
        "rules": settings["rules"],
        "windows": WINDOWS_S,
        "made_by": "gazeqwen data mini",
        "made_with": settings,
        "tasks": counts,
        "videos": {part["name"]: part["facts"] for part in parts},
    }


def summary_text(folder: str, manifest: Mapping[str, Any]) -> str:
    """What was made, in at most 80 columns (but for a long folder)."""
    made, videos = manifest["made_with"], manifest["videos"].values()
    minutes, megabytes = sum(v["duration_s"] for v in videos) / 60, sum(v["bytes"] for v in videos) / 1e6
    lines = [
        folder,
        f"{made['count']} videos, {minutes:.1f} min, {megabytes:.1f} MB; seed {made['seed']}, rules {made['rules']}",
        "",
        f"{'task':<6}{'questions':>10}{'points':>8}{'yes':>7}{'oracle':>9}{'without gaze':>14}",
    ]
    for name, row in manifest["tasks"].items():
        samples = row["points"] if TASKS[name].proactive else row["questions"]
        yes = f"{100 * row['yes'] / samples:.0f} %" if samples and TASKS[name].proactive else ""
        solved = [f"{100 * row[solver] / samples:.1f}" if samples else "-" for solver in SOLVERS]
        lines.append(f"{name:<6}{row['questions']:>10}{row['points'] or '':>8}{yes:>7}{solved[0]:>9}{solved[1]:>14}")
    lines += ["", "oracle: percent right of a symbolic solver with the noisy gaze, and without any"]
    return "\n".join(lines)


def command(arguments: argparse.Namespace) -> int:
    """`gazeqwen data mini`."""
    from tqdm import tqdm

    if arguments.seed + arguments.videos > USER_SEEDS:
        raise InputError(
            "--seed",
            expected=f"worlds below {USER_SEEDS:,} (seeds above are the training's and the tests' own)",
            found=f"{arguments.seed} to {arguments.seed + arguments.videos - 1}",
        )
    quiet = not sys.stderr.isatty()
    with tqdm(total=arguments.videos, desc="rendering", unit="video", delay=2.0, leave=False, disable=quiet) as bar:
        manifest = write_mini(
            arguments.out,
            videos=arguments.videos,
            seed=arguments.seed,
            rules=arguments.rules,
            per_video=arguments.per_video,
            progress=bar.update,
        )
    if arguments.json:
        print(json.dumps({"folder": str(arguments.out), **manifest}, allow_nan=False))
    else:
        print(summary_text(str(arguments.out), manifest))
    return 0
