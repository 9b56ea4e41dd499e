"""`gazeqwen train --dry-run`: what a run would take. Nothing is written and no weight changes.

Measured on the first step's videos with this model on this machine: loading (and what frozen weights make of a video,
if no cache has it), one forward and backward, one validation forward. Hours are these times the counts. `meta` measures
nothing and needs no weights: sizes and memory alone, by shapes (`memory`).
"""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from gazeqwen.info import fit, model_config
from gazeqwen.train import batches, memory
from gazeqwen.train.config import TrainConfig, apply_overrides
from gazeqwen.train.evaluate import evaluated, form_of
from gazeqwen.train.examples import Form, TrainingVideo
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.loop import Trainer
from gazeqwen.train.setup import training_mode
from gazeqwen.units import duration_text, size_text

META_SECONDS = (60, 300)
META_QUESTIONS = 4
_COLUMN = 12


def trainable_by_module(parameters: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Numbers that are trained, in the resampler's modules and the adapter."""
    counted: Counter[str] = Counter()
    for name, parameter in parameters.items():
        module = "lora" if ".lora_" in name else ".".join(name.split(".")[:2])
        counted[module] += parameter.numel()
    return dict(counted)


def plan(trainer: Trainer) -> dict[str, Any]:
    """Counts, hours, bytes and memory of a run, in plain JSON types.

    Raises:
        InputError, ConfigError: as the run would at its first step.
    """
    config, training, validation = trainer.config, trainer.training, trainer.validation
    usable = [n for n in training.counts if n]
    drawn = trainer.sampler.at(0)
    forwards = batches.share_of_process(
        drawn,
        rank=trainer.accelerator.process_index,
        processes=trainer.accelerator.num_processes,
        accumulation=config.accumulation,
    )
    first_s, videos, loaded_s = _loaded(trainer, forwards[0])
    forward_s, answer_s = _timed(trainer, forwards[0])
    per_video = [_steps(video) for video in videos]
    steps_a_video = sum(per_video) / len(per_video)
    validations = trainer.total // trainer.eval_every + (trainer.total % trainer.eval_every > 0)
    shown = 0 if validation is None else len(evaluated(validation, config.eval_videos))
    processes, arms = trainer.accelerator.num_processes, len(trainer.eval_arms)
    loads = trainer.total * len(forwards) * len(forwards[0])
    once = min(loads, len(usable) / processes)
    answering_s = validations * arms * shown * (answer_s / len(videos) + loaded_s) / processes
    seconds = {
        "first loads": once * first_s,
        "later loads": (loads - once) * loaded_s,
        "training": trainer.total * len(forwards) * forward_s,
        "validation": answering_s,
    }
    frozen_bytes = sum(map(_frozen_bytes, videos)) / len(videos)
    return {
        "train": config.train,
        "arm": config.arm,
        "device": str(trainer.accelerator.device),
        "processes": processes,
        "questions": sum(usable),
        "videos": len(usable),
        "validation_questions": 0 if validation is None else sum(validation.counts),
        "validation_videos": 0 if validation is None else len(validation.ids),
        "steps": trainer.total,
        "epochs": trainer.total * config.batch_videos / len(usable),
        "questions_a_step": batches.n_questions(training.counts, drawn, config.questions_per_video),
        "frames": round(2 * steps_a_video * len(usable)),
        "cache_bytes": round(frozen_bytes * (len(usable) + (0 if validation is None else len(validation.ids))))
        if config.data.cache
        else 0,
        "trainable": trainable_by_module(trainer.parameters),
        "probe_videos": [video.id for video in videos],
        "probe_seconds": {"first load": first_s, "load": loaded_s, "forward": forward_s, "validation": answer_s},
        "hours": sum(seconds.values()) / 3600,
        "hours_by_part": {name: value / 3600 for name, value in seconds.items()},
        "memory_bytes": _memory(trainer, videos, [forms for _, forms in map(trainer.load, forwards[0])]),
    }


def _loaded(trainer: Trainer, drawn: list[batches.Drawn]) -> tuple[float, list[TrainingVideo], float]:
    """Seconds a video takes the first time and the second, and the videos with their frozen parts."""
    began = time.perf_counter()
    videos = [trainer.load(one)[0] for one in drawn]
    first_s = (time.perf_counter() - began) / len(drawn)
    began = time.perf_counter()
    trainer.load(drawn[0])
    return first_s, videos, time.perf_counter() - began


def _timed(trainer: Trainer, drawn: list[batches.Drawn]) -> tuple[float, float]:
    """Seconds of one forward with backward and loading left out, and of one validation forward of the same videos."""
    training_mode(trainer.model, True)
    trainer.forward_backward(drawn, 1)  # kernels and buffers are made by the first call
    began = time.perf_counter()
    for one in drawn:
        trainer.load(one)
    load_s = time.perf_counter() - began
    began = time.perf_counter()
    trainer.forward_backward(drawn, 1)
    both_s = max(time.perf_counter() - began - load_s, 1e-6)
    trainer.optimizer.zero_grad(set_to_none=True)
    training_mode(trainer.model, False)
    videos = [trainer.load(one)[0] for one in drawn]
    began = time.perf_counter()
    with torch.no_grad():
        trainer.packed(videos, [[form_of(ask, trainer.config.scoring) for ask in video.asks] for video in videos])
    return both_s, time.perf_counter() - began


def _steps(video: TrainingVideo) -> int:
    return len(video.steps) + sum(ask.tail is not None for ask in video.asks)


def _frozen_bytes(video: TrainingVideo) -> int:
    parts = [video.frozen, *(ask.tail_frozen for ask in video.asks)]
    tensors = [tensor for part in parts if part is not None for tensor in (part.visual, part.features)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def _memory(trainer: Trainer, videos: list[TrainingVideo], forms: list[Any]) -> dict[str, float]:
    model, config = trainer.model, trainer.config
    whole = [_with_frozen(trainer, video) for video in videos]
    shapes = memory.meta_model(model.backbone.config, model.config, config, dtype=model.backbone.dtype)
    kept = memory.kept_for_backward(PackedForward(shapes, config.arm), whole, forms)
    extractor = model.extractor if isinstance(model.extractor, torch.nn.Module) else None
    return memory.peak_bytes(
        weights=_bytes(model.vlm) + _bytes(model.resampler),
        vjepa=0 if extractor is None else _bytes(extractor),
        trained=sum(parameter.numel() for parameter in trainer.parameters.values()),
        kept=kept,
        checkpointing=config.gradient_checkpointing,
    )


def _with_frozen(trainer: Trainer, video: TrainingVideo) -> TrainingVideo:
    """With what frozen weights make of it, where the source leaves that to the forward."""
    model, arm = trainer.model, trainer.packed.arm
    if not arm.video:
        return video
    frozen = video.frozen or (model.frozen(video.steps, arm=arm) if video.steps else None)
    asks = [
        replace(ask, tail_frozen=ask.tail_frozen or model.frozen([ask.tail], arm=arm)) if ask.tail is not None else ask
        for ask in video.asks
    ]
    return replace(video, frozen=frozen, asks=asks)


def _bytes(module: torch.nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


# -- without weights ---------------------------------------------------------------------------------------------------


def meta_plan(config: TrainConfig) -> dict[str, Any]:
    """Parameters, and memory for videos of `META_SECONDS` at the fewest and most tokens of a step that the model's
    preprocessing allows, one video with `META_QUESTIONS` questions a forward. Needs the backbone's configuration only:
    "tiny", a folder's config.json, or a published size's hub id (`model.base`, else `model.path`).

    Raises:
        InputError: no configuration is to be had for this name.
    """
    name = config.model.base or config.model.path
    backbone, licence, ours = model_config(name)
    ours = apply_overrides(ours, config.model.overrides)
    dtype = getattr(torch, config.model.dtype or ("float32" if name == "tiny" else "bfloat16"))
    model = memory.meta_model(backbone, ours, config, dtype=dtype)
    trained = {key: value for key, value in model.trainable_parameters().items() if value.requires_grad}
    vision: Any = model.backbone.config.vision_config
    side = (vision.patch_size * vision.spatial_merge_size) ** 2
    sizes = sorted({ours.preprocess.min_pixels // side, ours.preprocess.max_pixels // side})
    quantised = config.model.quantization
    weights = fit(name)["weights_gib"][quantised] * 2**30 if quantised else _bytes(model.vlm)
    packed = PackedForward(model, config.arm)
    rows = []
    for seconds in META_SECONDS:
        for tokens in sizes:
            video = memory.made_up_video(model, steps=seconds, tokens=tokens, questions=META_QUESTIONS)
            forms: list[Form] = [form_of(ask, config.scoring) for ask in video.asks]
            kept = memory.kept_for_backward(packed, [video], [forms])
            parts = memory.peak_bytes(
                weights=weights + _bytes(model.resampler),
                vjepa=_bytes(model.extractor),  # type: ignore[arg-type]
                trained=sum(parameter.numel() for parameter in trained.values()),
                kept=kept,
                checkpointing=config.gradient_checkpointing,
            )
            rows.append({"video_s": seconds, "tokens_a_step": tokens, "row_tokens": kept.tokens, **parts})
    return {
        "model": name,
        "licence": licence,
        "train": config.train,
        "arm": config.arm,
        "parameters": {
            "backbone": sum(p.numel() for n, p in model.vlm.named_parameters() if ".lora_" not in n),
            "vjepa": sum(p.numel() for p in model.extractor.parameters()),  # type: ignore[union-attr]
        },
        "layers": list(model.resampler.layers) if config.trains_resampler else [],
        "trainable": trainable_by_module(trained),
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": config.model.quantization,
        "gradient_checkpointing": config.gradient_checkpointing,
        "memory": rows,
    }


# -- for people --------------------------------------------------------------------------------------------------------


def plan_text(found: Mapping[str, Any]) -> str:
    """For a terminal of 80 columns."""
    trained = sum(found["trainable"].values())
    by_module = ", ".join(f"{name.removeprefix('resampler.')} {n:,}" for name, n in found["trainable"].items())
    rows = [("trains", f"{trained:,} numbers for arm {found['arm']}: {by_module}")]
    if "memory" in found:
        counted = found["parameters"]
        rows += [
            ("model", f"{found['model']} ({found['licence']}), {found['quantization'] or found['dtype']}"),
            ("", f"{counted['backbone'] / 1e6:,.1f} M in the backbone, {counted['vjepa'] / 1e6:.1f} M in V-JEPA"),
            ("memory", f"one video with {META_QUESTIONS} questions a forward, by shapes, not measured:"),
        ]
        rows += [
            (
                "",
                f"{row['video_s']} s at {row['tokens_a_step']} tokens a step: {size_text(row['peak'])}, "
                f"of which {size_text(row['kept_for_backward'])} for backward",
            )
            for row in found["memory"]
        ]
        return _table(rows)
    took, parts = found["probe_seconds"], found["memory_bytes"]
    rows += [
        ("data", f"{found['questions']} questions on {found['videos']} videos, about {found['frames']} frames"),
        ("validation", f"{found['validation_questions']} questions on {found['validation_videos']} videos"),
        ("steps", f"{found['steps']} of {found['questions_a_step']} questions, {found['epochs']:.1f} epochs"),
        ("cache", f"about {size_text(found['cache_bytes'])} of frozen features on disk"),
        (
            "time",
            f"{duration_text(found['hours'])} on {found['device']} in {found['processes']} process(es), as timed now:",
        ),
        ("", f"a video {took['first load']:.2f} s to load at first, {took['load']:.3f} s later;"),
        ("", f"a forward with backward {took['forward']:.2f} s, a validation forward {took['validation']:.2f} s"),
        ("memory", f"{size_text(parts['peak'])} a process, computed: {size_text(parts['weights'])} weights, "),
        ("", f"{size_text(parts['vjepa'])} V-JEPA, {size_text(parts['gradients_and_moments'])} gradients and moments,"),
        (
            "",
            f"{size_text(parts['kept_for_backward'])} kept for backward; {size_text(parts['context'])} "
            "for a GPU's context",
        ),
    ]
    return _table(rows)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(
        textwrap.fill(text, 80, initial_indent=f"{name:<{_COLUMN}}", subsequent_indent=" " * _COLUMN)
        for name, text in rows
    )
