"""Golden section 02: GazeQwen's data rules: windows, test points, times, rates, clipped scanpaths, frames, prompts.

What the published loader drops without a word (sample null) is an error of ours that names the reason, or a question
that we can answer; which of the two, is asserted here.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.streamgaze.official_rules import official_frame_count, official_window, spread
from benchmarks.streamgaze.qa_files import Problem, read_qa_files
from benchmarks.streamgaze.tasks import Sample, parse_time_s
from benchmarks.streamgaze.wording import gazeqwen_point_question
from gazeqwen.errors import InputError
from gazeqwen.official import official_frame_times, pick_fps, scanpath_tensor
from gazeqwen.prompts import choice_prompt
from gazeqwen.types import Fixations
from stream.trackers import read_gaze
from tests.golden.io import Golden, load, max_error

SECTION = "02"
FUNCTION = "benchmarks.streamgaze.official_rules.official_window"
TOLERANCE = 1e-6
# Times that upstream can't read and we can, and one it reads as a negative time; both on purpose.
OURS_S = {"00:13.5": 13.5}
REFUSED = ("x", "1:2:3:4", "-1:10")


def check(folder: Path) -> tuple[float, float]:
    """The largest error of all parts; infinite where something that must be equal is not."""
    worst = 0.0
    for golden in load(folder, SECTION):
        parts = (windows, points, odd_questions, times, rates, scanpaths, frames, wordings)
        worst = max(worst, *(part(golden) for part in parts))
    return worst, TOLERANCE


def exact(same: bool) -> float:
    return 0.0 if same else math.inf


def window_error(ours: tuple[float, float], sample: dict[str, Any]) -> float:
    return max_error(ours, (sample["start_time"], sample["end_time"]))


def windows(golden: Golden) -> float:
    """Every task name at several times."""
    return max(
        window_error(official_window(case["task_type"], parse_time_s(case["time_stamp"])), case["sample"])
        for case in golden.cases("mcq_windows")
    )


def points(golden: Golden) -> float:
    """Test points: windows, the question's words, A for type 1; those without a time or a type have no sample."""
    worst = 0.0
    for case in golden.cases("proactive"):
        said = case["samples"][0]["question_text"]
        asked = {"question": said.split(" Based on")[0], "time_stamp": "00:00", "test_info": case["test_info"]}
        samples, problems = read_questions(case["task"], [asked])
        for sample, theirs in zip(samples, case["samples"], strict=True):
            assert sample.point is not None
            ours = official_window(case["task"], sample.t_s, case["test_info"][sample.point].get("input_video_clip"))
            same = gazeqwen_point_question(f" {sample.question} ", task=sample.task) == theirs["question_text"]
            same &= theirs["options"] == ["A. Yes", "B. No"]
            same &= theirs["answer"] == {"Yes": "A", "No": "B"}[sample.answer]
            worst = max(worst, window_error(ours, theirs), exact(same))
        told = {problem.point for problem in problems}
        worst = max(worst, exact(told == set(range(len(case["test_info"]))) - {sample.point for sample in samples}))
    return worst


def odd_questions(golden: Golden) -> float:
    """Every question is a sample or a problem of ours, never nothing.

    On purpose we take what upstream drops for its decimals, and refuse what it takes with an answer that is none of the
    options, or with a single option.
    """
    cases, worst = golden.cases("invalid_or_odd_questions"), 0.0
    samples, problems = read_questions("past_scene_recall", [case["question"] for case in cases])
    kept = {sample.index: sample for sample in samples}
    told = {problem.question for problem in problems}
    for index, case in enumerate(cases):
        question, theirs = case["question"], case["sample"]
        letters = [option[0] for option in question["options"]]
        if theirs is not None:
            worst = max(worst, window_error(official_window(theirs["task_type"], theirs["question_time"]), theirs))
        if len(letters) > 1 and theirs is not None and theirs["answer"] in letters:
            ours = kept.get(index)
            same = ours is not None and (ours.answer, ours.t_s) == (theirs["answer"], theirs["question_time"])
            worst = max(worst, exact(same))
        else:
            worst = max(worst, exact(index in told))
    return worst


def read_questions(task: str, questions: list[dict[str, Any]]) -> tuple[list[Sample], list[Problem]]:
    """One entry with these questions, through our reader of QA files."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{task}.json"
        file.write_text(json.dumps([{"video_path": "v.mp4", "questions": questions}]), encoding="utf-8")
        content = read_qa_files([(file, file.name)])
    return [sample for found in content.samples.values() for sample in found], content.problems


def times(golden: Golden) -> float:
    """Clock times; what raises upstream raises here, but for decimals; a negative one raises here only."""
    rows, worst = golden["parse_timestamp"], 0.0
    for text, theirs in rows:
        if text in REFUSED:
            try:
                parse_time_s(text)
            except InputError:
                continue
            return math.inf
        worst = max(worst, max_error(parse_time_s(text), OURS_S.get(text, theirs)))
    return worst if rows else math.inf


def rates(golden: Golden) -> float:
    rows = golden["pick_fps"]
    return max(abs(pick_fps(duration_s) - theirs) for duration_s, theirs in rows)


def scanpaths(golden: Golden) -> float:
    """The scanpath that our reader makes of each CSV, and what a window keeps of it."""
    paths, worst = {}, 0.0
    for name, text in golden["csv_texts"].items():
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{name}_fixation_filtered.csv"
            file.write_text(text, encoding="utf-8")
            found = read_gaze(file).fixations
        assert found is not None
        paths[f"scanpath.{name}"] = found
    for name in sorted({case["scanpath"] for case in golden.cases("clips")} - set(paths)):
        table = golden.tensor(name).double().numpy()  # parsed already: x, y, middle, duration
        half_s = table[:, 3] / 2
        paths[name] = Fixations.build(table[:, 2] - half_s, table[:, 2] + half_s, table[:, :2])
    for name, fixations in paths.items():
        whole = scanpath_tensor(fixations, -math.inf, math.inf)
        worst = max(worst, max_error(whole, golden.tensor(name)))
    for case in golden.cases("clips"):
        kept = scanpath_tensor(paths[case["scanpath"]], case["start"], case["end"])
        worst = max(
            worst, max_error(kept, golden.tensor(case["scanpath"])[case["rows"]]), exact(len(kept) == case["n"])
        )
    return worst


def frames(golden: Golden) -> float:
    """Frame counts and rows exactly; the times upstream believes in, relative. Its `true_*` fields are not compared."""
    worst = 0.0
    for case in golden.cases("frame_times"):
        fps = pick_fps(case["duration"])
        taken = official_frame_count(case["total_frames"], case["video_fps"], fps, case["max_frames"])
        same = fps == case["pick_fps"] and taken == case["nframes"]
        same &= spread(case["total_frames"], taken).tolist() == case["frame_indices"]
        believed = official_frame_times(case["start"], case["T"], fps)
        worst = max(worst, exact(same), max_error(believed, case["official_frame_times"]))
    return worst


def wordings(golden: Golden) -> float:
    return exact(
        all(choice_prompt(case["question"], case["options"]) == case["prompt"] for case in golden.cases("mcq_prompts"))
    )
