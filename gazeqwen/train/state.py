"""A run's folder: checkpoints that are whole or not there, and the log of its steps.

    OUT/config.yaml              the resolved settings
    OUT/data.json                digests of the videos and questions, so that a resumed run has the same
    OUT/metrics.jsonl            a line a step, a line a validation; a step done twice (resumed) counts by the later
    OUT/checkpoints/00000050/    training.safetensors (weights and AdamW's moments by name), state.json, config.yaml
    OUT/model/                   the result, once the run is done

A checkpoint is written beside its place and renamed into it. Nothing here is a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gazeqwen.errors import InputError
from gazeqwen.types import plain_json

CHECKPOINTS, METRICS, CONFIG, DATA, MODEL = "checkpoints", "metrics.jsonl", "config.yaml", "data.json", "model"
UNFINISHED = ("data.new", DATA, "config.new")  # all that a kill at a run's start leaves
_TENSORS, _STATE = "training.safetensors", "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Progress:
    """How far a run is. Random numbers and the schedule are functions of `step`, so this and the tensors are all.

    Attributes:
        step: optimiser steps done.
        best_step, best: the best validation so far (its score: higher is better).
        waited: validations since.
        stopped: the run has ended early, or by its last step.
    """

    step: int = 0
    best_step: int | None = None
    best: float | None = None
    waited: int = 0
    stopped: bool = False

    @property
    def kept_step(self) -> int:
        """The step whose weights are the run's: the best one, else the last."""
        return self.step if self.best_step is None else self.best_step


class Checkpoints:
    """Those of one run. `save` keeps the newest `max_keep` and the best."""

    def __init__(self, out: Path, *, max_keep: int) -> None:
        self.folder, self.max_keep = out / CHECKPOINTS, max_keep

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def path(self, step: int) -> Path:
        return self.folder / f"{step:08d}"

    def save(self, progress: Progress, tensors: Mapping[str, Tensor], config: str) -> Path:
        """Writes a checkpoint, then removes those that are no longer kept.

        Raises:
            InputError: it can't be written (a full disk); earlier ones are as they were.
        """
        place = self.path(progress.step)
        with _written(place) as staging:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, staging / _TENSORS
            )
            (staging / _STATE).write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
            (staging / CONFIG).write_text(config, encoding="utf-8")
        kept = {*self.steps()[-self.max_keep :], progress.step, progress.best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.path(step))
        return place

    def load(self, step: int) -> tuple[Progress, dict[str, Tensor]]:
        """Raises InputError that names the file for a checkpoint that is damaged."""
        folder = self.path(step)
        fix = "delete that folder: the checkpoint before it is used then"
        try:
            progress = Progress(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(folder / _STATE, expected="a checkpoint's state", found=_short(error), fix=fix) from error
        try:
            return progress, load_file(folder / _TENSORS)
        except (OSError, SafetensorError) as error:
            raise InputError(
                folder / _TENSORS, expected="a checkpoint's tensors", found=_short(error), fix=fix
            ) from error

    def clear_unfinished(self) -> None:
        """Removes what a killed process had begun to write."""
        if self.folder.is_dir():
            for path in self.folder.glob(".*"):
                shutil.rmtree(path)


@contextmanager
def _written(place: Path) -> Iterator[Path]:
    """A folder that takes the place of `place` when the block is through; on disk before it does."""
    staging = place.with_name(f".{place.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        for path in staging.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(place, ignore_errors=True)
        staging.rename(place)
    except (OSError, SafetensorError) as error:
        raise InputError(
            place,
            expected="room for a checkpoint",
            found=_short(error),
            fix="free some, then run the same command again: it goes on from the last checkpoint",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _short(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return reason[:160]


# -- tensors of an optimiser, by parameter name ------------------------------------------------------------------------


def training_tensors(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and AdamW's moments: "weight.NAME", "exp_avg.NAME", ... Sharded ones are put together: all processes
    call it."""
    from gazeqwen.train.schedule import whole

    found = {}
    for name, parameter in parameters.items():
        found[f"weight.{name}"] = whole(parameter.detach())
        state = optimizer.state.get(parameter, {})
        found |= {f"{kind}.{name}": whole(torch.as_tensor(state[kind])) for kind in _MOMENTS if kind in state}
    return found


def restore_tensors(
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer | None,
    *,
    source: Path,
) -> None:
    """Puts them back, strictly; without an optimiser only the weights.

    Raises:
        InputError: the tensors are those of another model.
    """
    held = {name.removeprefix("weight.") for name in tensors if name.startswith("weight.")}
    odd = sorted(held ^ set(parameters)) + [
        name for name in sorted(held & set(parameters)) if tensors[f"weight.{name}"].shape != parameters[name].shape
    ]
    if odd:
        raise InputError(
            source,
            expected="the tensors that this run trains",
            found=f"{len(odd)} others, e.g. {odd[0]}",
            fix="choose another out",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_like(parameter, tensors[f"weight.{name}"]))
            if optimizer is not None and f"exp_avg.{name}" in tensors:
                optimizer.state[parameter] = {
                    "step": tensors[f"step.{name}"].clone(),
                    **{kind: _like(parameter, tensors[f"{kind}.{name}"]) for kind in _MOMENTS[:2]},
                }


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """The value where the parameter is: its device, dtype and, under FSDP2, its shards."""
    placed = value.to(device=parameter.device, dtype=parameter.dtype)
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = parameter
        return distribute_tensor(placed, sharded.device_mesh, sharded.placements)
    return placed.clone()


# -- the log -----------------------------------------------------------------------------------------------------------


class MetricsLog:
    """Appends lines; each is flushed. A line that a kill cut short is taken away first."""

    def __init__(self, out: Path) -> None:
        self.path = out / METRICS
        out.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            data = self.path.read_bytes()
            if data and not data.endswith(b"\n"):
                with self.path.open("r+b") as file:
                    file.truncate(data.rfind(b"\n") + 1)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Raises InputError where there is no room."""
        try:
            self._file.write(json.dumps(plain_json(row)) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(self.path, expected="room for a line", found=_short(error)) from error

    def close(self) -> None:
        self._file.close()


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """Rows of a run's log in order of steps; of one that was written twice (before and after a resume), the later.

    Raises:
        InputError: no log, or a line that is no JSON.
    """
    path = out / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise InputError(path, expected="a run's log", found=_short(error)) from error
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            continue  # being written, or cut short by a kill
        try:
            row = json.loads(line)
            rows[int(row["step"]), str(row["event"])] = row
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(path, expected="a JSON line with step and event", found=f"line {number}") from error
    return [rows[key] for key in sorted(rows)]
