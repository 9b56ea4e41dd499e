"""One cell of answers: every question of a setting's worlds, put to one arm's weights.

A file of a cell is JSON lines, gzip-compressed: what it is, then for each question, in the order of the setting's own
file of questions, what each form gave. All arms of a setting have the same questions, so they are compared in pairs.

    OUT/questions/SETTING.jsonl.gz               {"id", "video", "task", "t_s", "options", "answer"}, after what made it
    OUT/answers/NAME/seed-K/SETTING.jsonl.gz     {"letters": [...], "likelihood": [...]} or {"yes_no": [...]}
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.plan import Setting
from benchmarks.streamgaze.feature_cache import model_fingerprint
from benchmarks.streamgaze.tasks import TASKS
from benchmarks.tiny.files import write_bytes
from benchmarks.tiny.world_source import WorldSource
from gazeqwen.arms import get_arm
from gazeqwen.checkpoint import load_arm, put_arm
from gazeqwen.digest import add_tensors
from gazeqwen.errors import InputError
from gazeqwen.model import GazeQwen
from gazeqwen.question_rules import make_questions, solve
from gazeqwen.train.config import apply_overrides
from gazeqwen.train.examples import Form
from gazeqwen.train.forward import PackedForward
from gazeqwen.types import plain_json
from stream.session import StreamSession

Row = dict[str, Any]
DECIMALS = 5
TEXT_TASKS = ("OI-E", "OI-H", "OAR")  # asked in words, too


@dataclass(frozen=True)
class Cell:
    """What a file of answers holds.

    Attributes:
        name: a training's or an arm's. `arm`: how gaze reaches the model. `setting`: of the worlds.
        weights: folder of the adapter; None for the model's own, or none.
        overrides: of config.json, which the adapter was trained under.
        words: whether the model also says its answer, where tasks are fit for it.
    """

    name: str
    arm: str
    setting: Setting
    seed: int = 0
    weights: Path | None = None
    overrides: Mapping[str, Any] | None = None
    words: bool = False

    def path(self, out: Path) -> Path:
        return out / "answers" / self.name / f"seed-{self.seed}" / f"{self.setting.name}.jsonl.gz"


def source_of(setting: Setting, worlds: int, per_task: int, cache: Path | None) -> WorldSource:
    """The setting's worlds with their questions."""
    return WorldSource(
        range(setting.first_seed, setting.first_seed + worlds),
        per_task=per_task,
        duration_s=setting.duration_s,
        parameters=setting.parameters,
        tracker=setting.tracker,
        cache=cache,
        exact=True,
        from_share=setting.from_share,
    )


def model_of(cell: Cell, model: str) -> GazeQwen:
    """The embedded model with the cell's weights.

    Raises:
        InputError: they are absent, damaged or don't fit.
    """
    made = GazeQwen.from_pretrained(model)
    if cell.weights is None:
        load_arm(made, None, cell.arm)
    else:
        made.config = apply_overrides(made.config, cell.overrides or {})
        put_arm(made, "inject" if get_arm(cell.arm).weights == "model" else cell.arm, cell.weights)
    return made


def answerer(model: GazeQwen, arm: str) -> str:
    """sha256 of what answers under an arm: the weights that it uses, and the configuration without names."""
    config = replace(model.config, name="", trained="")
    digest = hashlib.sha256(json.dumps(plain_json(config.to_dict()), sort_keys=True).encode())
    digest.update(model_fingerprint(model).encode())
    injects, trained = get_arm(arm).inject, model.trainable_parameters()
    add_tensors(digest, {name: held for name, held in trained.items() if injects or not name.startswith("resampler.")})
    return digest.hexdigest()


# -- rows --------------------------------------------------------------------------------------------------------------


def packed_rows(model: GazeQwen, source: WorldSource, arm: str) -> Iterator[list[Row]]:
    """Of each world in order: all its questions in one row of tokens."""
    packed = PackedForward(model, arm)
    for index in range(len(source.seeds)):
        video = source.load(index, model, arm)
        forms: list[tuple[int, Form]] = [
            (row, form) for row, ask in enumerate(video.asks) for form in ask.forms() if form != "text"
        ]
        rows: list[Row] = [{} for _ in video.asks]
        if forms:
            both = replace(video, asks=[video.asks[row] for row, _ in forms])
            with torch.inference_mode():
                scored = packed([both], [[form for _, form in forms]])
            for (row, form), one in zip(forms, scored, strict=True):
                assert one.logprobs is not None
                rows[row][form] = _rounded(one.logprobs.tolist())
        yield rows


def streamed_rows(
    model: GazeQwen, source: WorldSource, arm: str, indices: Iterable[int], *, words: bool = False
) -> Iterator[list[Row]]:
    """The same by `StreamSession`, step after step, as a user's stream is asked."""
    chosen = get_arm(arm)
    for index in indices:
        seed = source.seeds[index]
        recording = source.borrowed(index) if chosen.gaze_from_other else source.watched(seed)
        asked = source.asked(seed)
        session = StreamSession(model, arm=chosen, gaze_lag_s=chosen.gaze_lag_s)
        times_s = sorted({item.question.t_s for item in asked})
        steps = recording.steps_for(
            times_s, model.config.fps, vjepa_fps=model.config.features.fps, gaze_lag_s=chosen.gaze_lag_s
        )
        rows: list[Row] = [{} for _ in asked]
        for cut in session.follow(steps):
            for row, item in enumerate(asked):
                if item.question.t_s != cut.t_s or rows[row]:
                    continue
                question, options = item.question, item.question.options
                seen: dict[str, Any] = {"at_s": cut.t_s, "window_s": item.window_s}
                if TASKS[item.task].proactive:
                    found = session.yes_no(question.text, **seen).option_logprobs
                    rows[row]["yes_no"] = _rounded(list(found.values()))
                    continue
                for form in ("letters", "likelihood"):
                    found = session.choose(question.text, options, scoring=form, **seen).option_logprobs
                    rows[row][form] = _rounded(list(found.values()))
                if words and item.task in TEXT_TASKS:
                    rows[row]["text"] = session.answer(question.text, max_new_tokens=8, **seen).text
        yield rows


def solved_rows(source: WorldSource, *, with_gaze: bool) -> Iterator[list[Row]]:
    """The symbolic solver's, on each world's event log."""
    for seed in source.seeds:
        world = source.recording(seed).world
        gaze = source.watched(seed).samples if with_gaze else None
        made = make_questions(world.log, rules="causal", seed=seed, per_task=source.per_task, tasks=source.tasks)
        rows = []
        for item in source.asked(seed):
            _, number, _ = item.question.id.split(":")
            log = world.estimate(gaze, until_s=item.question.t_s)
            scores = np.array(solve(log, made[int(number)], t_s=item.question.t_s), dtype=np.float64)
            form = "letters"
            if TASKS[item.task].proactive:  # a solver's points are (No, Yes); the model is asked (Yes, No)
                form, scores = "yes_no", scores[::-1]
            rows.append({form: _rounded(scores - np.logaddexp.reduce(scores))})
        yield rows


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]


# -- files -------------------------------------------------------------------------------------------------------------


def answer_cell(cell: Cell, out: Path, *, model: str, worlds: int, per_task: int) -> Path:
    """Answers a cell, unless its file is there. Writes the setting's questions, too.

    Raises:
        InputError: what is there was made of other weights or worlds; as `model_of`.
    """
    path, solver = cell.path(out), get_arm(cell.arm).solver
    source = source_of(cell.setting, worlds, per_task, out / "worlds")
    made = None if solver else model_of(cell, model)
    head = {
        "name": cell.name,
        "arm": cell.arm,
        "setting": cell.setting.name,
        "seed": cell.seed,
        "worlds": worlds,
        "per_task": per_task,
        "asked": source.identity,
        "answered_by": "" if made is None else answerer(made, cell.arm),
    }
    if path.is_file():
        found = read_lines(path)[0]
        if any(found.get(name) != value for name, value in head.items()):
            raise InputError(path, expected=f"answers of {head}", found=str(found), fix="choose another --out")
        return path
    began = time.perf_counter()
    write_questions(source, out / "questions" / f"{cell.setting.name}.jsonl.gz")
    if made is None:
        rows = solved_rows(source, with_gaze=get_arm(cell.arm).gaze_reaches)
    elif get_arm(cell.arm).salience or cell.words:
        rows = streamed_rows(made, source, cell.arm, range(worlds), words=cell.words)
    else:
        rows = packed_rows(made, source, cell.arm)
    lines = [row for of_world in rows for row in of_world]
    _write_lines(path, [head | {"seconds": round(time.perf_counter() - began, 1)}, *lines])
    return path


def write_questions(source: WorldSource, path: Path) -> None:
    """What a setting asks, once.

    Raises:
        InputError: what is there asks of other worlds, or of another tracker.
    """
    head = {"asked": source.identity}
    if path.is_file():
        found = read_lines(path)[0]
        if found != head:
            raise InputError(path, expected=f"questions of {head}", found=str(found)[:80], fix="choose another --out")
        return
    rows: list[Row] = [head]
    for seed, video in zip(source.seeds, source.ids, strict=True):
        for item in source.asked(seed):
            question = item.question
            rows.append(
                {
                    "id": question.id,
                    "video": video,
                    "task": item.task,
                    "t_s": round(question.t_s, 3),
                    "options": list(question.options),
                    "answer": item.answer,
                }
            )
    _write_lines(path, rows)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Raises InputError for a file that is absent or damaged."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, expected="JSON lines, gzip-compressed", found=str(error)[:80]) from error


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:  # the same content is the same bytes
        for row in rows:
            file.write((json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n").encode())
    write_bytes(path, packed.getvalue())


def chosen_option(row: Mapping[str, Any], form: str) -> int:
    """The likeliest option; the first one of several as likely."""
    return int(np.argmax(row[form]))
