"""Worlds as symbols with their questions: what the embedded language model is pre-trained on. No frame is drawn.

    seed ─► World ─► its ten tasks' questions, cut times ─► steps ─► StepSymbols ─┐
                                                                                 └─► SymbolWorld

Steps, spans and what a question sees are those of the protocol `stream` (`benchmarks.streamgaze.training`). No gaze
sample is read: what is said about looks is which object the log's looks rest on, as a symbol.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from benchmarks.streamgaze.training import training_video
from benchmarks.tiny.files import world_digest, write_bytes
from benchmarks.tiny.world_source import WorldSource
from gazeqwen.errors import InputError
from gazeqwen.tiny import symbols
from gazeqwen.tiny.symbols import StepSymbols, step_symbols
from gazeqwen.tiny.world import LONGEST_S
from stream.world_recording import world_name

SHARD = 100  # worlds of a file
SHORTEST_S = 6.0
FPS, VJEPA_FPS = 2.0, 8.0  # of the embedded model
_FIELDS = ("noun", "colour", "thing", "hand", "state", "visible", "dwell_s", "age_s", "brief")
_STORED = {"thing": np.int8, "state": np.int8, "brief": np.int8, "noun": np.int8, "colour": np.int8}


@dataclass(frozen=True)
class SymbolQuestion:
    """A question of a world: whole steps [first, stop) come before it, then the partial step `tail`, if not None."""

    task: str
    text: str
    options: tuple[str, ...]
    answer: int
    first: int
    stop: int
    tail: int | None


@dataclass(frozen=True, eq=False)
class SymbolWorld:
    """S whole steps of a world, then its T partial ones.

    Attributes:
        symbols: of all of them, in this order.
        frame_times_s: (S + T, 2) of Qwen's two frames; the same twice where a partial step has but one.
        whole: S.
        questions: in order of time.
    """

    seed: int
    duration_s: float
    symbols: StepSymbols
    frame_times_s: np.ndarray
    whole: int
    questions: tuple[SymbolQuestion, ...]

    @cached_property
    def seconds(self) -> np.ndarray:
        """(S + T,) from the first frame of the world to that of the step."""
        return self.frame_times_s[:, 0] - self.frame_times_s[:1, 0]

    @cached_property
    def looks(self) -> tuple[tuple[int, int], ...]:
        """(step, object) of each look in order, neighbours different: within a step by when each object's last one
        ends, so that of A, B, A within one step only B, A is left. Less than 40 ms of a step is passed over."""
        found: list[tuple[int, int]] = []
        for step in range(self.whole):
            things = np.flatnonzero(self.symbols.dwell_s[step] > 0.04)
            for thing in sorted(things, key=lambda thing: (-self.symbols.age_s[step, thing], thing)):
                if not found or found[-1][1] != thing:
                    found.append((step, int(thing)))
        return tuple(found)


def drawn_duration_s(seed: int) -> float:
    """Of a world of this seed: 6 to 120 s, evenly on a logarithmic scale, so that videos of all lengths come."""
    share = np.random.default_rng((seed, 11)).random()
    return round(SHORTEST_S * (LONGEST_S / SHORTEST_S) ** share, 1)


def make_symbol_world(seed: int, *, per_task: int, duration_s: float | None = None) -> SymbolWorld:
    """The world of this seed.

    Args:
        per_task: questions of each task at most; an alert has several points.
        duration_s: None for `drawn_duration_s`.
    """
    duration_s = drawn_duration_s(seed) if duration_s is None else duration_s
    source = WorldSource([seed], per_task=per_task, duration_s=duration_s)
    world, asked = source.recording(seed).world, source.asked(seed)
    times_s = sorted({item.question.t_s for item in asked})
    items = source.recording(seed).steps_for(times_s, FPS, vjepa_fps=VJEPA_FPS, decode_from_s=math.inf, with_gaze=False)
    video = training_video(world_name(seed), asked, items, encode=None, window=None)
    tails = list({id(ask.tail): ask.tail for ask in video.asks if ask.tail is not None}.values())
    row_of = {id(tail): len(video.steps) + row for row, tail in enumerate(tails)}
    steps = [*video.steps, *tails]
    times = np.array([step.frame_times_s for step in steps]).reshape(-1, 2)
    spans = np.array([step.span_s for step in steps]).reshape(-1, 2)
    questions = tuple(
        SymbolQuestion(
            ask.task,
            ask.question.text,
            tuple(ask.question.options),
            ask.answer,
            ask.first,
            ask.stop,
            None if ask.tail is None else row_of[id(ask.tail)],
        )
        for ask in video.asks
    )
    return SymbolWorld(seed, duration_s, step_symbols(world, times, spans), times, len(video.steps), questions)


def symbol_worlds(seeds: Sequence[int], *, per_task: int, folder: Path, processes: int = 2) -> list[SymbolWorld]:
    """Worlds in the order of their seeds, from files of 100 in `folder`; those that are missing or damaged are made.

    Raises:
        InputError: the folder can't be written.
    """
    shards = [tuple(seeds[at : at + SHARD]) for at in range(0, len(seeds), SHARD)]
    paths = [folder / f"worlds-{_key(part, per_task)}.safetensors" for part in shards]
    found = [_read(path) for path in paths]
    left = [(part, path, per_task) for part, path, old in zip(shards, paths, found, strict=True) if old is None]
    if left:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(left)), mp_context=context) as pool:
            list(pool.map(_make_shard, *zip(*left, strict=True)))
    worlds: list[SymbolWorld] = []
    for path, old in zip(paths, found, strict=True):
        made = old if old is not None else _read(path)
        if made is None:
            raise InputError(path, expected="the worlds just written", found="a damaged file", fix="delete it")
        worlds += made
    return worlds


def _key(seeds: Sequence[int], per_task: int) -> str:
    """Of all that makes a file's content."""
    code = world_digest(symbols, sys.modules[__name__])
    return hashlib.sha256(json.dumps([code, list(seeds), per_task]).encode()).hexdigest()[:16]


def _make_shard(seeds: Sequence[int], path: Path, per_task: int) -> None:
    torch.set_num_threads(1)
    worlds = [make_symbol_world(seed, per_task=per_task) for seed in seeds]
    write_bytes(path, save(dict(_arrays(worlds))))


def _arrays(worlds: Sequence[SymbolWorld]) -> Iterator[tuple[str, np.ndarray]]:
    told: list[dict[str, Any]] = []
    for row, world in enumerate(worlds):
        for name in _FIELDS:
            array = getattr(world.symbols, name)
            yield f"{row}/{name}", np.ascontiguousarray(array.astype(_STORED.get(name, array.dtype)))
        yield f"{row}/frame_times_s", world.frame_times_s
        asked = [
            [item.task, item.text, item.options, item.answer, item.first, item.stop, item.tail]
            for item in world.questions
        ]
        told.append({"seed": world.seed, "duration_s": world.duration_s, "whole": world.whole, "questions": asked})
    yield "json", np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)


def _read(path: Path) -> list[SymbolWorld] | None:
    """None where there is no such file, or a damaged one."""
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
        return list(_worlds(arrays))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def _worlds(arrays: Mapping[str, np.ndarray]) -> Iterator[SymbolWorld]:
    for row, about in enumerate(json.loads(arrays["json"].tobytes())):
        fields = {name: arrays[f"{row}/{name}"] for name in _FIELDS}
        fields |= {name: fields[name].astype(np.int64) for name in _STORED}
        questions = tuple(
            SymbolQuestion(task, text, tuple(options), *numbers) for task, text, options, *numbers in about["questions"]
        )
        times, numbers = arrays[f"{row}/frame_times_s"], (about["seed"], about["duration_s"])
        yield SymbolWorld(*numbers, StepSymbols(**fields), times, about["whole"], questions)
