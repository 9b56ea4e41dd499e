"""`gazeqwen evidence --out DIR`: trains, chooses, answers and tells, two cells side by side, each kept once it is done.

first seed, every rate ─► choices.json ─► other seeds, comparisons ─► arms/ ─► answers/ ─► evidence.json
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.evidence.answers import Cell, answer_cell, model_of, source_of, streamed_rows
from benchmarks.evidence.document import write_documents
from benchmarks.evidence.plan import (
    IN_ALL_SETTINGS,
    PRIMARY,
    SCORING,
    SETTINGS,
    SOLVERS,
    TRAININGS,
    Plan,
    Setting,
    length_setting,
)
from benchmarks.evidence.summary import Answers, claims
from benchmarks.evidence.training import read_told, sources, train_cell
from benchmarks.streamgaze.feature_cache import model_fingerprint
from benchmarks.streamgaze.run_folder import versions
from benchmarks.tiny.files import world_digest, write_bytes
from benchmarks.tiny.mix import pretraining_mix
from benchmarks.tiny.other_tracker import OtherTracker
from benchmarks.tiny.world_source import WorldSource
from gazeqwen._version import __version__
from gazeqwen.arms import get_arm
from gazeqwen.errors import InputError
from gazeqwen.model import GazeQwen
from gazeqwen.types import plain_json

CHOICES, EVIDENCE, MANIFEST = "choices.json", "evidence.json", "manifest.json"
CHOSEN = "choices"
RECHECKED_WITHIN = 1e-4


@dataclass(frozen=True)
class Evidence:
    """A run of a plan.

    Args:
        out: its folder; what is in it is taken up.
        model: the embedded model, or a folder like it.
        processes: cells side by side, one thread each.
        say: gets a line for each cell that is done.
    """

    plan: Plan
    out: Path
    model: str = "tiny"
    processes: int = 2
    say: Callable[[str], object] = print

    def run(self, *, until: str = "") -> dict[str, Any] | None:
        """Everything that is not there yet; returns what evidence.json holds, or None where it stopped before.

        Args:
            until: `CHOSEN` stops before any test world is opened.

        Raises:
            InputError: the registered test worlds would be opened before the plan holds all learning rates.
            InputError, ConfigError: as the cells.
        """
        self._open()
        missing = [name for name in self.plan.trained if name not in self.plan.rates]
        if missing and until != CHOSEN and not self.plan.first_test_world:
            raise InputError(
                "benchmarks/evidence/plan.py",
                expected="learning rates of all that is trained, before a test world is opened",
                found=f"none of {', '.join(missing)}",
                fix="choose them with --until choices, and commit them",
            )
        self._say_what_runs()
        self.fill("worlds to learn from", self.lessons())
        chosen = self._choose()
        if until == CHOSEN:
            return None
        self._train_others(chosen)
        self._keep_arms(chosen)
        cells = self.cells()
        opened = {cell.setting.name: cell.setting for cell in cells}
        asked = [source_of(one, *self.plan.asking(one), self.out / "worlds") for one in opened.values()]
        self.fill("test worlds", [source for source in asked if source.tracker == OtherTracker()])
        self._pool(
            answer_cell, [(cell, self.out, self._asking(cell)) for cell in cells], [_named(cell) for cell in cells]
        )
        return self.tell()

    def _open(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise InputError(self.out, expected="a folder", found="a file", fix="choose another --out")

    def _say_what_runs(self) -> None:
        model = GazeQwen.from_pretrained(self.model)
        told = {
            "command": sys.argv,
            "plan": asdict(self.plan),
            "model": {"name": model.config.name, "fingerprint": model_fingerprint(model)},
            "worlds": world_digest(),
            "versions": versions(),
            "device": f"{model.backbone.device.type}, {self.processes} processes",
        }
        write_bytes(self.out / MANIFEST, (json.dumps(plain_json(told), indent=1) + "\n").encode())

    # -- training ------------------------------------------------------------------------------------------------------

    def lessons(self) -> tuple[WorldSource, WorldSource]:
        """Training and validation worlds."""
        return sources(self.plan, self.out / "worlds")

    def fill(self, name: str, of: Sequence[WorldSource]) -> None:
        """Steps and frozen features of worlds, once for all cells."""
        jobs = [(source, part) for source in of for part in source.parts()]
        titles = [f"{name}, {part.start} to {part.stop} of {len(source.seeds)}" for source, part in jobs]
        self._pool(WorldSource.fill, [(source, self.model, part, {}) for source, part in jobs], titles)

    def _train(self, jobs: Sequence[tuple[str, float, int]]) -> None:
        self._pool(
            train_cell,
            [
                (self.plan, name, {"model": self.model, "out": self.out, "rate": rate, "seed": seed})
                for name, rate, seed in jobs
            ],
            [f"training {name}, rate {rate:g}, seed {seed}" for name, rate, seed in jobs],
        )

    def _choose(self) -> dict[str, float]:
        """The learning rate of each training: the plan's, or the best on validation worlds."""
        plan = self.plan
        tried = {
            name: [plan.rates[name]] if name in plan.rates else list(TRAININGS[name].rates) for name in plan.trained
        }
        first = plan.seeds[0]
        self._train([(name, rate, first) for name, rates in tried.items() for rate in rates])
        reached = {name: {rate: self._validation(name, rate, first) for rate in rates} for name, rates in tried.items()}
        chosen = {name: max(rates, key=lambda rate, rates=rates: rates[rate]) for name, rates in reached.items()}
        for name in plan.comparisons:
            chosen[name] = chosen[TRAININGS[name].of]
        if chosen:
            told = {
                "chosen": chosen,
                "validation_macro": {n: {f"{r:g}": v for r, v in by.items()} for n, by in reached.items()},
            }
            write_bytes(self.out / CHOICES, (json.dumps(plain_json(told), indent=1) + "\n").encode())
        return chosen

    def _place(self, name: str, rate: float, seed: int) -> Path:
        return self.out / "trained" / name / f"seed-{seed}-lr-{rate:g}"

    def _validation(self, name: str, rate: float, seed: int) -> float:
        told = read_told(self._place(name, rate, seed))
        assert told is not None
        return float(told["validation"]["macro"])

    def _train_others(self, chosen: Mapping[str, float]) -> None:
        plan = self.plan
        jobs = [(name, chosen[name], seed) for seed in plan.seeds[1:] for name in plan.trained]
        jobs += [(name, chosen[name], plan.seeds[0]) for name in plan.comparisons]
        self._train(jobs)

    def _keep_arms(self, chosen: Mapping[str, float]) -> None:
        """The chosen weights, by arm and seed: what answers, and is committed."""
        for name, rate in chosen.items():
            for seed in self._seeds(name):
                place, kept = self._place(name, rate, seed), self.out / "arms" / name / f"seed-{seed}"
                if kept.is_dir() and read_told(kept) != read_told(place):
                    raise InputError(kept, expected="the chosen weights", found="others", fix="choose another --out")
                if not kept.is_dir():
                    staging = kept.with_name(f".{kept.name}")
                    shutil.rmtree(staging, ignore_errors=True)
                    shutil.copytree(place, staging)
                    staging.rename(kept)

    def _seeds(self, name: str) -> tuple[int, ...]:
        return self.plan.seeds if name not in self.plan.comparisons else self.plan.seeds[:1]

    # -- answers -------------------------------------------------------------------------------------------------------

    def cells(self) -> list[Cell]:
        """Every file of answers, the dearest ones first."""
        plan, primary = self.plan, self.plan.at(SETTINGS[PRIMARY])
        trained = (*plan.trained, *plan.comparisons)
        # What is not trained here comes with the embedded model.
        held = [name for name in ("inject", "null") if name not in trained]
        cells: list[Cell] = []

        def weighted(name: str, arm: str, weights: str, setting: str | Setting, **options: Any) -> None:
            where = plan.at(SETTINGS[setting] if isinstance(setting, str) else setting)
            if weights in held:
                cells.append(Cell(name, arm, where, **options))
                return
            overrides = TRAININGS[weights].overrides
            for seed in self._seeds(weights):
                folder = self.out / "arms" / weights / f"seed-{seed}"
                cells.append(Cell(name, arm, where, seed=seed, weights=folder, overrides=overrides, **options))

        weighted("inject-words", "inject", "inject", PRIMARY, words=True)
        for name in (*held, *trained):
            weighted(name, TRAININGS[name].arm, name, PRIMARY)
        for name in plan.with_inject:
            weighted(name, name, "inject", PRIMARY)
        if "inject" in trained:
            weighted("inject-gaze-off", "null", "inject", PRIMARY)
        for setting in plan.settings:
            for name in IN_ALL_SETTINGS:
                if name in (*held, *trained):
                    weighted(name, TRAININGS[name].arm, name, setting)
        for seconds in plan.lengths:
            weighted("inject", "inject", "inject", length_setting(seconds))
        cells += [Cell(name, name, primary) for name in (*plan.zero_shot, *SOLVERS)]
        cells += [Cell("oracle", "oracle", plan.at(length_setting(seconds))) for seconds in plan.lengths]
        return cells

    def _asking(self, cell: Cell) -> dict[str, Any]:
        """How many worlds and questions; the others of `answer_cell`'s arguments."""
        worlds, per_task = self.plan.asking(cell.setting)
        return {"model": self.model, "worlds": worlds, "per_task": per_task}

    # -- what came out -------------------------------------------------------------------------------------------------

    def tell(self) -> dict[str, Any]:
        """Writes evidence.json, evidence.md and evidence.svg from the files of answers, and returns the first."""
        config = GazeQwen.from_pretrained(self.model).config
        answers = Answers(self.out)
        asked: dict[str, list[str]] = {}  # by setting: who answered it
        for cell in self.cells():
            if cell.name not in asked.setdefault(cell.setting.name, []):
                asked[cell.setting.name].append(cell.name)
        by_setting = {setting: {n: answers.told(n, setting) for n in names} for setting, names in asked.items()}
        first = str(self.plan.seeds[0])
        compared = [name for name in self.plan.comparisons if name in asked[PRIMARY]]
        told: dict[str, Any] = {
            "gazeqwen": __version__,
            "arms": by_setting.pop(PRIMARY),
            "settings": by_setting,
            "claims": [claim.to_dict() for claim in claims(answers, asked[PRIMARY], list(asked), self.plan.lengths)],
            "comparisons": {name: answers.difference(name, "inject", PRIMARY, seed=first) for name in compared},
            "paired": answers.paired("inject", asked[PRIMARY], PRIMARY, seed=first),
            "trainings": self._trainings(),
            "seeds": list(self.plan.seeds),
            "model": {"name": config.name, "trained": config.trained},
            "scoring": SCORING,
            "mix": pretraining_mix(),
            "plan": asdict(self.plan),
        }
        told = plain_json(told)
        write_bytes(self.out / EVIDENCE, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
        write_documents(self.out, told)
        return told

    def _trainings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for place in sorted((self.out / "arms").glob("*/seed-*")):
            told = read_told(place)
            if told is not None:
                kept = ("rate", "step", "trainable", "seconds")
                row = {name: told[name] for name in kept} | {"validation_macro": told["validation"]["macro"]}
                found.setdefault(told["name"], {})[str(told["seed"])] = row
        return found

    # -- checking ------------------------------------------------------------------------------------------------------

    def recheck(self, samples: int, *, seed: int = 0) -> dict[str, Any]:
        """Answers random samples of each arm again, by a stream, step after step, and compares with what the files say.

        Whole worlds are drawn until there are so many questions. Returns the largest difference of a log-probability by
        arm.

        Raises:
            InputError: one differs by more than `RECHECKED_WITHIN`; or there are no answers.
        """
        rng, answers = np.random.default_rng(seed), Answers(self.out)
        by_arm: dict[str, list[tuple[Cell, int]]] = {}  # every world of every file of an arm
        for cell in self.cells():
            if not get_arm(cell.arm).solver:
                worlds, _ = self.plan.asking(cell.setting)
                by_arm.setdefault(cell.name, []).extend((cell, index) for index in range(worlds))
        found: dict[str, float] = {}
        for name, worlds in by_arm.items():
            worst, left = 0.0, samples
            for number in rng.permutation(len(worlds)).tolist():
                cell, index = worlds[number]
                off, count = self._recheck_world(answers, cell, index)
                worst, left = float(np.maximum(worst, off)), left - count  # what is no number stays
                if not worst <= RECHECKED_WITHIN:
                    raise InputError(
                        cell.path(self.out),
                        expected=f"log-probabilities within {RECHECKED_WITHIN:g}",
                        found=f"{worst:.2e} off",
                    )
                if left <= 0:
                    break
            found[name] = worst
            self.say(f"{name:20} {samples - left:4} samples, largest difference {worst:.1e}")
        return found

    def _recheck_world(self, answers: Answers, cell: Cell, index: int) -> tuple[float, int]:
        """The largest difference in one world of a cell, and how many questions it asks."""
        worlds, per_task = self.plan.asking(cell.setting)
        source = source_of(cell.setting, worlds, per_task, self.out / "worlds")
        setting = cell.setting.name
        asked = [row["id"] for row in answers.questions(setting).rows]
        stored = dict(zip(asked, answers.rows(cell.path(self.out), setting), strict=True))
        rows = next(iter(streamed_rows(model_of(cell, self.model), source, cell.arm, [index])))
        worst = 0.0
        for item, row in zip(source.asked(source.seeds[index]), rows, strict=True):
            for form, values in row.items():
                was = stored[item.question.id].get(form, float("nan"))
                off = float(np.abs(np.array(was) - np.array(values)).max())
                worst = float(np.maximum(worst, off))
        return worst, len(rows)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _pool(self, work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], names: Sequence[str]) -> None:
        """Each job in a process of its own, or all in this one; its last argument holds keywords. The first error stops
        what has not begun."""
        began = time.monotonic()
        if self.processes == 1 or not jobs:
            for number, (job, name) in enumerate(zip(jobs, names, strict=True), start=1):
                work(*job[:-1], **job[-1])
                self._told(number, len(jobs), began, name)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.processes, context, torch.set_num_threads, (1,)) as pool:
            futures = {pool.submit(work, *job[:-1], **job[-1]): name for job, name in zip(jobs, names, strict=True)}
            try:
                for number, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    self._told(number, len(jobs), began, futures[future])
            finally:
                pool.shutdown(cancel_futures=True)

    def _told(self, number: int, count: int, began: float, name: str) -> None:
        self.say(f"{number:3} of {count}  {(time.monotonic() - began) / 60:5.1f} min  {name}")


def _named(cell: Cell) -> str:
    return f"answers of {cell.name}, seed {cell.seed}, {cell.setting.name}"


def stderr_line(text: str) -> None:
    """Progress goes to stderr: stdout is for what is asked."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
