"""The training loop: one process or many, resumable at any step, with validation, checkpoints and a result folder.

    step s ─► the sampler's videos ─► each process: load, draw questions, augment ─► packed forward ─► sum of losses
              divided by the questions of all processes ─► gradients summed over processes ─► clip ─► AdamW

What a step does is a function of the seed and its number (`batches`), the rate too (`schedule`): a run that was killed
goes on from its last checkpoint with the very numbers it would have had. Gradients are divided by the number of
questions in the whole step, so that how many processes or forwards share it makes no difference but rounding.

On accelerate's `Accelerator` for processes, devices and trackers. The gradients of what is trained (1 to 15 million
numbers) are summed by one all-reduce after backward instead of by DDP's buckets: a parameter that took no part in a
step, as the published resampler's key biases never do, is a zero there and no deadlock. FSDP2 (`accelerate launch` with
an FSDP config) shards the decoder layers, which hold nearly all memory; the vision tower, V-JEPA and the resampler are
whole on every GPU, because frozen features are computed outside the sharded forward.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train import batches, schedule
from gazeqwen.train.augment import NullGaze, augment, build_augmentations
from gazeqwen.train.config import TrainConfig, dump_config, flatten, load_config
from gazeqwen.train.evaluate import evaluate, is_right, score_of
from gazeqwen.train.examples import Ask, Form, TrainingVideo, VideoSource
from gazeqwen.train.forward import PackedForward, Scored
from gazeqwen.train.losses import build_loss
from gazeqwen.train.setup import Prepared, require_unseen, training_mode
from gazeqwen.train.state import (
    CONFIG,
    DATA,
    MODEL,
    UNFINISHED,
    Checkpoints,
    MetricsLog,
    Progress,
    restore_tensors,
    training_tensors,
)

Report = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        progress: where; its `best_step` is what the result holds.
        validation: of the best step, by arm; {} without validation.
        seconds: of this process.
    """

    progress: Progress
    validation: Mapping[str, Any]
    seconds: float


class Trainer:
    """A run in this process.

    Args:
        config: `config.out` is the run's folder; an unfinished run of the same settings goes on.
        prepared: the model (`setup.build`); on FSDP its decoder layers are sharded here.
        training, validation: the data; no video may be in both.
        accelerator: a new one when None.
        report: gets every row of the log, on the main process (progress bars).

    Raises:
        ConfigError: the batch can't be shared by the processes; losses or augmentations that don't exist; the folder
            holds a run of other settings.
        InputError: no questions; a video in both sets, or validated though the model was trained on it before.
    """

    def __init__(
        self,
        config: TrainConfig,
        prepared: Prepared,
        training: VideoSource,
        validation: VideoSource | None = None,
        *,
        accelerator: Accelerator | None = None,
        report: Report | None = None,
    ) -> None:
        self.config, self.prepared, self.model = config, prepared, prepared.model
        self.training, self.validation = training, validation
        self.accelerator = accelerator or new_accelerator(config)
        self.report = report
        self.out = Path(config.out)
        self._check_data()
        self.sampler = batches.Sampler(training.counts, batch_videos=config.batch_videos, seed=config.seed)
        self.total = config.steps or self.sampler.steps(config.epochs)
        self.eval_every = config.eval_every or self.sampler.steps(1)
        batches.share_of_process(
            self.sampler.at(0), rank=0, processes=self.accelerator.num_processes, accumulation=config.accumulation
        )
        self.losses = [(loss.name, build_loss(loss.name, loss.params), loss.weight) for loss in config.losses]
        self.augmentations = build_augmentations([{"name": a.name, "params": a.params} for a in config.augment])
        if config.null_gaze:
            self.augmentations += (NullGaze(video=config.null_gaze),)
        self.packed = PackedForward(
            self.model, config.arm, attention=any(loss.needs_attention for _, loss, _ in self.losses)
        )
        self.eval_arms = {
            name: PackedForward(self.model, name) for name in dict.fromkeys([config.arm, *config.eval_arms])
        }
        self.sharded = _shard(self.model, self.accelerator)
        self.parameters = prepared.parameters()
        self.optimizer = schedule.build_optimizer(self.parameters, config.optimizer)
        self.checkpoints = Checkpoints(self.out, max_keep=config.max_keep)
        self.progress = Progress()
        self.validated: dict[str, Any] = {}

    def _check_data(self) -> None:
        require_unseen(_ids(self.validation), self.training.ids, source="validation videos")
        require_unseen(_ids(self.validation), self.prepared.earlier, source="validation videos")
        if self.validation is not None and not sum(self.validation.counts):
            raise InputError("validation data", expected="videos with questions", found="none")

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Trains to the end, or goes on to it; leaves the best weights in the model.

        Raises:
            InputError: a loss or gradient that is no number (the last checkpoint stands); no room on the disk; what the
                data raise (a corrupt cache entry, a video that can't be read).
            ConfigError: the GPU's memory is too small.
        """
        began = time.perf_counter()
        self._open()
        log = MetricsLog(self.out) if self.accelerator.is_main_process else None
        trackers = self._start_trackers()
        try:
            while not self.progress.stopped:
                self._tell(log, self.step(self.progress.step), trackers)
                self._after_step(log, trackers)
        except torch.cuda.OutOfMemoryError as error:
            raise ConfigError(
                f"the GPU's memory is too small for this step ({str(error).splitlines()[0][:100]}): "
                "raise accumulation, lower questions_per_video, or set gradient_checkpointing=true"
            ) from error
        finally:
            if log is not None:
                log.close()
            if trackers:
                self.accelerator.end_training()
        self._take_best()
        return Outcome(self.progress, self.validated, time.perf_counter() - began)

    def _open(self) -> None:
        """Makes the run's folder, or takes up what is in it."""
        config_file = self.out / CONFIG
        if self.accelerator.is_main_process and not config_file.exists():
            if self.out.is_dir() and any(path.name not in UNFINISHED for path in self.out.iterdir()):
                raise InputError(
                    self.out, expected="a new or empty folder, or a run", found="other files", fix="choose another out"
                )
            self.out.mkdir(parents=True, exist_ok=True)
            for path, text in ((self.out / DATA, self._data()), (config_file, dump_config(self.config))):
                staging = path.with_suffix(".new")
                staging.write_text(text, encoding="utf-8")
                staging.replace(path)
        self.accelerator.wait_for_everyone()
        require_same(load_config(config_file), self.config, source=self.out)
        if (self.out / DATA).read_text(encoding="utf-8") != self._data():
            raise ConfigError(
                f"{self.out} holds a run on other videos or questions than {self.config.data.train or 'these'} has now "
                "(a split that was edited, files that came or went): choose another out, or put the data back"
            )
        if self.accelerator.is_main_process:
            self.checkpoints.clear_unfinished()
        self.accelerator.wait_for_everyone()
        if steps := self.checkpoints.steps():
            self.restore(steps[-1])

    def _data(self) -> str:
        """What the run learns from and is chosen by: paths alone don't say what is in them."""
        digests = {}
        for name, source in (("training", self.training), ("validation", self.validation)):
            held = [] if source is None else sorted(zip(source.ids, map(int, source.counts), strict=True))
            digest = hashlib.sha256(json.dumps(held, ensure_ascii=False).encode()).hexdigest()
            digests[name] = {"videos": len(held), "questions": sum(count for _, count in held), "sha256": digest}
        return json.dumps(digests, indent=2) + "\n"

    def restore(self, step: int) -> None:
        """Goes back to a checkpoint. Raises InputError for a damaged one."""
        self.progress, tensors = self.checkpoints.load(step)
        restore_tensors(tensors, self.parameters, self.optimizer, source=self.checkpoints.path(step))

    def step(self, step: int) -> dict[str, Any]:
        """One step of the optimiser; returns its row for the log.

        Raises:
            InputError: the loss or the gradient is no number, or as the data raise. The weights are as before.
        """
        began = time.perf_counter()
        config, rank = self.config, self.accelerator.process_index
        drawn = self.sampler.at(step)
        forwards = batches.share_of_process(
            drawn, rank=rank, processes=self.accelerator.num_processes, accumulation=config.accumulation
        )
        n = batches.n_questions(self.training.counts, drawn, config.questions_per_video)
        batches.seed_step(config.seed, step, rank)
        training_mode(self.model, True)
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(3 + 2 * len(self.losses), dtype=torch.float64)
        for own in forwards:
            sums += self.forward_backward(own, n).cpu()
        sums = self._summed(sums)
        names = ", ".join(sorted({self.training.ids[one.index] for one in drawn}))
        self._require_finite(float(sums[0]), "a finite loss", step, names)
        self._sum_gradients()
        norm = schedule.clip_gradients(self.parameters.values(), config.optimizer.clip_norm)
        self._require_finite(norm, "finite gradients", step, names)
        lr = schedule.set_rate(self.optimizer, config.optimizer, step, self.total)
        self.optimizer.step()
        seconds = time.perf_counter() - began
        means = {
            name: float(sums[3 + 2 * k] / sums[4 + 2 * k])
            for k, (name, _, _) in enumerate(self.losses)
            if sums[4 + 2 * k]
        }
        return {
            "event": "step",
            "step": step + 1,
            "loss": float(sums[0]),
            "losses": means,
            "accuracy": float(sums[1] / sums[2]) if sums[2] else None,
            "lr": lr,
            "grad_norm": norm,
            "questions": n,
            "questions_per_s": n / seconds,
            "seconds": seconds,
        }

    def forward_backward(self, drawn: Sequence[batches.Drawn], n: int) -> Tensor:
        """Gradients of one forward's share of the loss. (loss, right, asked, then sum and count of each loss)."""
        videos, forms = zip(*(self.load(one) for one in drawn), strict=True)
        asks = [ask for video in videos for ask in video.asks]
        with self.packed.held():
            with self._autocast():
                scored = self.packed(videos, forms)
            loss, told = self._loss(scored, asks, n)
            loss.backward()
        choices = [(ask, one) for ask, one in zip(asks, scored, strict=True) if one.logprobs is not None]
        right = sum(is_right(ask, one) for ask, one in choices)
        return torch.tensor([float(loss.detach()), right, len(choices), *told], dtype=torch.float64)

    def load(self, drawn: batches.Drawn) -> tuple[TrainingVideo, list[Form]]:
        """A video as this step sees it: its drawn questions and forms, its gaze augmented."""
        config = self.config
        video = self.training.load(drawn.index, self.model, self.packed.arm)
        if len(video.asks) != self.training.counts[drawn.index]:
            raise InputError(
                video.id,
                expected=f"the {self.training.counts[drawn.index]} questions that its source counts",
                found=str(len(video.asks)),
            )
        video, forms = batches.draw_questions(
            video, drawn, forms=config.forms, limit=config.questions_per_video, seed=config.seed
        )
        video = augment(video, self.augmentations, seed=config.seed, epoch=drawn.epoch, index=drawn.index)
        return video, forms

    def _loss(self, scored: Sequence[Scored], asks: Sequence[Ask], n: int) -> tuple[Tensor, list[float]]:
        total: Any = 0.0
        told: list[float] = []
        for _, loss, weight in self.losses:
            value, count = loss(scored, asks)
            total = total + weight * value / n
            told += [float(value.detach()) if isinstance(value, Tensor) else float(value), float(count)]
        if not (isinstance(total, Tensor) and total.requires_grad):
            raise ConfigError(
                f"losses {', '.join(name for name, _, _ in self.losses)} count none of the forms "
                f"{', '.join(sorted({one.form for one in scored}))}: name one that does, or change forms"
            )
        return total, told

    # -- processes -----------------------------------------------------------------------------------------------------

    def _autocast(self) -> Any:
        if self.config.precision == "no":
            return nullcontext()
        return torch.autocast(self.model.backbone.device.type, torch.bfloat16)

    def _summed(self, values: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return values
        values = values.to(self.accelerator.device)
        dist.all_reduce(values)
        return values.cpu()

    def _sum_gradients(self) -> None:
        """A zero gradient for what took no part, and the sum over processes for the rest."""
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if hasattr(parameter, "full_tensor"):
                parameter.grad.mul_(self.accelerator.num_processes)  # FSDP has averaged it
            else:
                by_dtype.setdefault(parameter.dtype, []).append(parameter)
        if self.accelerator.num_processes == 1:
            return
        for held in by_dtype.values():
            gradients: list[Tensor] = [parameter.grad for parameter in held]  # type: ignore[misc]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def _require_finite(self, value: float, expected: str, step: int, names: str) -> None:
        if math.isfinite(value):
            return
        steps = self.checkpoints.steps()
        last = f"the last good checkpoint is {self.checkpoints.path(steps[-1])}" if steps else "no checkpoint yet"
        raise InputError(
            f"step {step + 1} of {self.out} (videos {names[:120]})",
            expected=expected,
            found=str(value),
            fix=f"{last}; lower optimizer.lr or look at these videos",
        )

    # -- validation, checkpoints, the log ------------------------------------------------------------------------------

    def _after_step(self, log: MetricsLog | None, trackers: bool) -> None:
        step = self.progress.step + 1
        self.progress = replace(self.progress, step=step)
        due = step % self.eval_every == 0 or step >= self.total
        if due and self.validation is not None:
            self._tell(log, self._validate(step), trackers)
        patience = self.config.patience
        ended = step >= self.total or bool(patience and self.progress.waited >= patience)
        self.progress = replace(self.progress, stopped=ended)
        if ended or self.progress.best_step == step or step % (self.config.save_every or self.eval_every) == 0:
            self._save()

    def _validate(self, step: int) -> dict[str, Any]:
        training_mode(self.model, False)
        found = evaluate(
            self.validation,  # type: ignore[arg-type]
            self.model,
            self.eval_arms,
            scoring=self.config.scoring,
            accelerator=self.accelerator,
            limit=self.config.eval_videos,
            autocast=self._autocast,
        )
        score = score_of(found[self.config.arm])
        better = self.progress.best is None or score > self.progress.best
        self.progress = replace(
            self.progress,
            best=score if better else self.progress.best,
            best_step=step if better else self.progress.best_step,
            waited=0 if better else self.progress.waited + 1,
        )
        return {"event": "validation", "step": step, "score": score, "best": better, "arms": found}

    def _save(self) -> None:
        tensors = training_tensors(self.parameters, self.optimizer)
        odd = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        self._require_finite(math.nan if odd else 0.0, f"finite weights in {odd[:1]}", self.progress.step - 1, "")
        if self.accelerator.is_main_process:
            self.checkpoints.save(self.progress, tensors, dump_config(self.config))
        self.accelerator.wait_for_everyone()

    def _take_best(self) -> None:
        """The weights of the best validation, or the last ones; and what was measured there."""
        from gazeqwen.train.state import read_metrics

        step = self.progress.kept_step
        _, tensors = self.checkpoints.load(step)
        restore_tensors(tensors, self.parameters, None, source=self.checkpoints.path(step))
        training_mode(self.model, False)
        self.accelerator.wait_for_everyone()
        self.validated = next(
            (row["arms"] for row in read_metrics(self.out) if row["event"] == "validation" and row["step"] == step), {}
        )

    def _start_trackers(self) -> bool:
        if not self.accelerator.log_with:
            return False
        flat = flatten(self.config.to_dict())
        shown = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in flat.items()}
        self.accelerator.init_trackers("logs", config=shown)
        return True

    def _tell(self, log: MetricsLog | None, row: Mapping[str, Any], trackers: bool) -> None:
        if log is not None:
            log.write(row)
        if trackers:
            numbers = {key: value for key, value in flatten(row).items() if isinstance(value, (int, float))}
            self.accelerator.log(numbers, step=row["step"])
        if self.report is not None and self.accelerator.is_main_process:
            self.report({**row, "total": self.total})


def new_accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device and trackers of this run.

    Raises:
        ConfigError: a tracker that accelerate does not know or that is not installed; the environment asks for several
            processes that are not there.
    """
    from accelerate.utils import is_tensorboard_available

    wanted = config.trackers
    if wanted is None:
        wanted = ("tensorboard",) if is_tensorboard_available() else ()
    cpu = not torch.cuda.is_available() if config.model.device is None else config.model.device.startswith("cpu")
    try:
        accelerator = Accelerator(cpu=cpu, log_with=list(wanted) or None, project_dir=config.out)
    except ValueError as error:
        raise ConfigError(f"trackers {list(wanted)}: {' '.join(str(error).split())[:200]}") from error
    if len(accelerator.log_with) < len(wanted):
        raise ConfigError(f"trackers {list(wanted)}: not all of them are installed; [] uses none")
    return accelerator


def require_same(before: TrainConfig, now: TrainConfig, *, source: Path) -> None:
    """Raises ConfigError, naming the first setting that differs, where a folder holds another run."""
    old, new = before.identity(), now.identity()
    for key in sorted(old | new):
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"{source} holds a run with {key}={old.get(key)!r}, and this one has {new.get(key)!r}: choose another "
                "out, or the same settings to go on"
            )


def _shard(model: Any, accelerator: Accelerator) -> bool:
    """Shards the decoder layers over the processes where accelerate's config says FSDP. Raises ConfigError for weights
    of 4 or 8 bits."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true" or accelerator.num_processes == 1:
        return False
    if getattr(model.backbone.bare, "is_quantized", False):
        raise ConfigError("a quantised backbone can't be sharded by FSDP: use DDP (configs/accelerate/ddp.yaml)")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for layer in model.backbone.layers:
        fully_shard(layer, mesh=mesh)
    return True


def _ids(source: VideoSource | None) -> Sequence[str]:
    return () if source is None else source.ids


def result_folder(config: TrainConfig) -> Path:
    """Where a run's model lies when it is done."""
    return Path(config.out) / MODEL
