"""`gazeqwen data build RECORDINGS --out DIR`: own recordings to a folder that `data validate` and `eval` take.

    DIR/videos/original_video/NAME       the videos: hard links where the file system has them, else copies
    DIR/gaze/STEM_gaze.csv               the gaze samples on the video's clock, plain CSV
    DIR/metadata/STEM/STEM_fixation_*    the fixations in StreamGaze's form: `dataset` under causal rules (all),
                                         `filtered` under streamgaze rules (those that passed the checks)
    DIR/qa/*.json                        the ten tasks in the release's form
    DIR/manifest.json                    what was made of what
    DIR/.build/STEM.json                 one finished recording each: its log, its counts

Each recording's result appears as one file when all else of it is there; the questions are made from these results
when all are done, because wrong answers come from the words of all of them. So a build that was stopped goes on when
the same command is given again, one recording at most is done twice, and recordings whose files have not changed are
never decoded again. The same recordings and arguments give the same bytes; nothing written depends on where they lie.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.data_manifest import MANIFEST, VERSION, VERSION_KEY
from benchmarks.streamgaze.mini import fixation_csv
from benchmarks.streamgaze.pipeline.captioner import Captioner, VlmCaptioner
from benchmarks.streamgaze.pipeline.filters import filter_questions
from benchmarks.streamgaze.pipeline.recording_log import log_recording
from benchmarks.streamgaze.pipeline.recordings import Source, file_digest, find_recordings
from benchmarks.streamgaze.pipeline.scanpath import log_from_json, log_to_json, share_vocabulary
from benchmarks.streamgaze.qa_writer import entry_of, write_qa_files
from benchmarks.streamgaze.records import write_atomically
from benchmarks.streamgaze.tasks import TASKS
from gazeqwen.errors import ConfigError, GazeQwenError, InputError
from gazeqwen.event_log import Rules
from gazeqwen.question_rules import make_questions
from gazeqwen.staged import staged
from gazeqwen.types import plain_json
from stream.trackers.plain_csv import gaze_csv

NAME, CATEGORY = "own-recordings", "OWN"
RESULTS, SETTINGS = ".build", "settings.json"
RESULT_VERSION = 1  # of what a recording's result means; another one is made again
FIXATION_NAMES = {"causal": "_fixation_dataset.csv", "streamgaze": "_fixation_filtered.csv"}
WIDTH = 80
_STAGING = re.compile(r"\..+\.[0-9a-f]{32}")
_COUNTED = {  # what a recording's counts are, for people
    "too_short": "too short for a scene check",
    "passed": "of one scene",
    "scene_change": "with a change of scene",
    "black_scene": "of a black picture",
    "left_out_short": "left out as too short",
    "left_out_similar": "episodes left out as of the same scene",
    "captions_failed": "not named by the captioner",
}


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        manifest: as written; None when no recording could be used.
        reused: recordings that were finished before.
        failed: by video, why it could not be used.
    """

    manifest: dict[str, Any] | None
    reused: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)


def build(
    recordings: str | Path,
    out: str | Path,
    *,
    rules: Rules = "causal",
    captioner: Captioner | None = None,
    seed: int = 0,
    per_video: int | None = None,
    progress: Callable[[int], Any] = lambda done: None,
    failed: Callable[[str], Any] = lambda message: None,
) -> BuildReport:
    """Makes the data set, or goes on with it. A recording that can't be used is left out, reported and tried again the
    next time; the others go on.

    Args:
        recordings: the folder (recordings.py).
        out: a new or empty folder, or one of an earlier build with the same arguments.
        captioner: names objects in recordings without annotated ones.
        seed: of questions, wrong answers and their order.
        per_video: questions of a task and video under causal rules; the official rules have caps of their own.
        progress: called with 1 for each recording.
        failed: called with one line for each recording that can't be used.

    Raises:
        InputError: no recordings; a folder that holds something else.
        ConfigError: `per_video` under streamgaze rules.
        OSError: what can't be written; finished recordings stay.
    """
    folder, out = Path(recordings), Path(out)
    if rules == "streamgaze" and per_video is not None:
        raise ConfigError("per_video: the streamgaze rules have caps of their own; it goes with --rules causal")
    sources, words = find_recordings(folder)
    if out.resolve() == folder.resolve():
        raise InputError(out, expected="another folder than the recordings'", found="the same")
    named_by = None if captioner is None else captioner.key
    _begin(out, {"rules": rules, "captioner": named_by, "seed": seed, "per_video": per_video})
    results: dict[str, dict[str, Any]] = {}
    reused, failures = [], {}
    for source in sources:
        try:
            result, known = _result(source, out, rules=rules, captioner=captioner)
            results[source.video.name] = result
            reused += [source.video.name] if known else []
        except GazeQwenError as error:
            failures[source.video.name] = str(error)
            failed(str(error))
        progress(1)
    manifest = None
    if results:
        manifest = _assemble(out, results, words, rules=rules, seed=seed, per_video=per_video, captioner=named_by)
    return BuildReport(manifest, tuple(reused), failures)


# -- one recording -----------------------------------------------------------------------------------------------------


def _result(source: Source, out: Path, *, rules: Rules, captioner: Captioner | None) -> tuple[dict[str, Any], bool]:
    """The result of a recording and whether it was there already."""
    key = f"{RESULT_VERSION}-{source.digest()}"
    done = out / RESULTS / f"{source.stem}.json"
    if done.is_file():
        held = _read_json(done)
        if held.get("key") == key and all((out / name).is_file() for name in held["files"]):
            return held, True
    made = log_recording(source, rules=rules, captioner=captioner)
    stem, name = source.stem, source.video.name
    texts = {
        f"gaze/{stem}_gaze.csv": gaze_csv(made.recording.samples) if len(made.recording.samples) else "",
        f"metadata/{stem}/{stem}{FIXATION_NAMES[rules]}": fixation_csv(made.fixations),
    }
    video = f"videos/original_video/{name}"
    place_video(source.video, out / video)
    for path, text in texts.items():
        if text:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out / path, text)
        else:
            (out / path).unlink(missing_ok=True)
    info = made.recording.info
    result = {
        "key": key,
        "files": [video, *(path for path, text in texts.items() if text)],
        "facts": {
            "duration_s": round(info.duration_s, 6),
            "size_px": [info.width_px, info.height_px],
            "sha256": file_digest(source.video),
            "detector": made.recording.detector if rules == "causal" else made.fixations.detector,
            "objects_from": "boxes" if made.log.extra["in_view_known"] else "captioner",
            "counts": made.counts,
        },
        "captions_failed": list(made.failures),
        "log": log_to_json(made.log),
    }
    write_atomically(done, json.dumps(plain_json(result), ensure_ascii=False, allow_nan=False))
    return json.loads(done.read_text(encoding="utf-8")), False


def place_video(video: Path, target: Path) -> None:
    """The video at `target` as a hard link, or as a copy where links are not possible; complete or not at all.

    A link is the same file: what changes it in place changes both.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    real = video.resolve()
    if target.is_file() and target.samefile(real):
        return
    with staged(target) as staging:
        try:
            os.link(real, staging)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES, errno.ENOSYS):
                raise
            shutil.copyfile(real, staging)


# -- all of them -------------------------------------------------------------------------------------------------------


def _begin(out: Path, settings: dict[str, Any]) -> None:
    """Makes the folder, or makes sure that it is one of this build."""
    file = out / RESULTS / SETTINGS
    if file.is_file():
        held = _read_json(file)
        if held != settings:
            differ = [key for key, value in settings.items() if held.get(key) != value]
            raise InputError(
                out,
                expected=", ".join(f"{key} {settings[key]}" for key in differ),
                found=f"a build made with {', '.join(f'{key} {held.get(key)}' for key in differ)}",
                fix="choose another --out, or the same arguments",
            )
        for left in [path for path in out.rglob(".*") if _STAGING.fullmatch(path.name)]:  # by a build that was killed
            left.unlink()
        return
    if out.exists() and not (out.is_dir() and all(path.name == RESULTS for path in out.iterdir())):
        found = "other files" if out.is_dir() else "a file"
        raise InputError(out, expected="an empty folder, or an earlier build", found=found, fix="choose another --out")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(settings))


def _read_json(file: Path) -> dict[str, Any]:
    """A file of `RESULTS`; empty for a damaged one, which is then none of this build, or made again."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _assemble(
    out: Path,
    results: dict[str, dict[str, Any]],
    words: tuple[str, ...],
    *,
    rules: Rules,
    seed: int,
    per_video: int | None,
    captioner: str | None,
) -> dict[str, Any]:
    """Questions of all recordings, their files and the manifest, in the order of the videos' names."""
    names = sorted(results)
    logs = share_vocabulary((log_from_json(results[name]["log"]) for name in names), words)
    entries, made, dropped = [], Counter[str](), Counter[str]()
    for name, log in zip(names, logs, strict=True):
        found = make_questions(log, rules=rules, seed=recording_seed(seed, name), per_task=per_video)
        kept, left_out = filter_questions(found, log, rules=rules)
        made.update(question.task for question in kept)
        dropped += left_out
        entries += [entry_of(question, name, rules=rules, category=CATEGORY) for question in kept]
    write_qa_files(out / "qa", entries)
    manifest = {
        VERSION_KEY: VERSION,
        "name": NAME,
        "rules": rules,
        "made_by": "gazeqwen data build",
        "seed": seed,
        "per_video": per_video,
        "captioner": captioner,
        "words": list(words),
        "questions": {task: made[task] for task in TASKS},
        "left_out": dict(sorted(dropped.items())),
        "videos": {name: results[name]["facts"] for name in names},
    }
    write_atomically(out / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return manifest


def recording_seed(seed: int, video: str) -> int:
    """A recording's own seed: the same whatever other recordings there are."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{video}".encode()).digest()[:6], "big")


# -- the command -------------------------------------------------------------------------------------------------------


def command(arguments: argparse.Namespace) -> int:
    """`gazeqwen data build`: 0 when every recording and every question can be used, 1 when any can't, or none came."""
    from tqdm import tqdm

    from benchmarks.streamgaze.dataset import Dataset
    from benchmarks.streamgaze.validate import report_text, validate

    captioner = None if arguments.captioner is None else VlmCaptioner.from_folder(arguments.captioner)
    total = len(find_recordings(arguments.recordings)[0])
    quiet = not sys.stderr.isatty()
    with tqdm(total=total, desc="building", unit="video", delay=2.0, leave=False, disable=quiet) as bar:
        report = build(
            arguments.recordings,
            arguments.out,
            rules=arguments.rules,
            captioner=captioner,
            seed=arguments.seed,
            per_video=arguments.per_video,
            progress=bar.update,
            failed=lambda message: print(f"left out: {message}", file=sys.stderr),
        )
    checked = None if report.manifest is None else validate(Dataset.open(arguments.out))
    if arguments.json:
        shown = {
            "folder": str(arguments.out),
            "manifest": report.manifest,
            "reused": report.reused,
            "failed": report.failed,
            "validate": checked,
        }
        print(json.dumps(plain_json(shown), allow_nan=False))
    else:
        print(summary_text(report))
        if checked is not None:
            print(f"\n{report_text(checked)}")
    usable = checked is not None and checked["ok"] and any(report.manifest["questions"].values())  # type: ignore[index]
    return 0 if usable and not report.failed else 1


def summary_text(report: BuildReport) -> str:
    """What was made and what was left out, in at most 80 columns."""
    if report.manifest is None:
        return f"no recording could be used ({len(report.failed)} left out)"
    videos = report.manifest["videos"]
    counts = Counter[str]()
    for facts in videos.values():
        counts.update(facts["counts"])
    looks = [f"{counts[name]} {what}" for name, what in _COUNTED.items() if counts[name]]
    lines = [
        f"{len(videos)} recordings ({len(report.reused)} finished before), {len(report.failed)} left out",
        f"{counts['fixations']} fixations ({', '.join(looks) or 'none'}), {counts['episodes']} episodes",
    ]
    left_out = report.manifest["left_out"]
    if left_out:
        lines.append("filters left out: " + ", ".join(f"{n} {reason}" for reason, n in left_out.items()))
    return "\n".join(part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  "))
