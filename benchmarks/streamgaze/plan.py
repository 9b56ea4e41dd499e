"""`gazeqwen eval streamgaze --dry-run`: what a run would take. Nothing is written.

Counts come from the questions' times and the videos' headers. Hours are these counts times what a step, a question and
a decoded frame took just now, on this machine, with this model and the first readable video; V-JEPA is part of a step.
Not in it: attention over contexts longer than the probe's, more than one token of a generated answer, and, for the
clips of `official` and `streamgaze`, the source frames that lie between those shown.
"""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.streamgaze.protocols import Cost, ModelProtocol, build_protocol
from benchmarks.streamgaze.tasks import Sample
from benchmarks.streamgaze.work import Settings, choose_samples, require_not_trained_on, share
from gazeqwen.errors import InputError
from gazeqwen.types import Step
from gazeqwen.units import duration_text, size_text
from stream.recording import Recording
from stream.video import probe

if TYPE_CHECKING:
    from benchmarks.streamgaze.dataset import Dataset
    from gazeqwen.model import GazeQwen

PROBE_STEPS = 8
COLUMN = 12  # of the names in the text


def plan(
    dataset: Dataset,
    settings: Settings,
    *,
    model: str | Path | GazeQwen = "tiny",
    load: Mapping[str, Any] | None = None,
    shard: tuple[int, int] = (0, 1),
    cache: Path | None = None,
) -> dict[str, Any]:
    """Counts, hours and bytes of one process's share, in plain JSON types. Arguments as `run.run`.

    Raises:
        InputError, ConfigError: as `run.run`; no video of the share can be opened.
    """
    samples = choose_samples(dataset, settings)
    mine = share(samples, shard)
    require_not_trained_on(model, settings, load or {}, {sample.video for sample in samples})
    protocol = build_protocol(dataset, settings, model, load or {}, None)
    counted = Counter(sample.task for of_video in mine.values() for sample in of_video)
    found: dict[str, Any] = {
        "protocol": settings.protocol,
        "arm": settings.arm,
        "samples": sum(counted.values()),
        "questions": {task: counted[task] for task in settings.tasks},
        "videos": len(mine),
        "unreadable_videos": 0,
    }
    if not isinstance(protocol, ModelProtocol):
        return found
    total, first = Cost(), None
    for video, of_video in mine.items():
        try:
            info = probe(dataset.video_path(video))
        except InputError:
            found["unreadable_videos"] += 1
            continue
        total += protocol.cost(video, of_video, duration_s=info.duration_s, fps=info.fps)
        first = first or video
    if first is None:
        raise InputError(dataset.root, expected="a video that can be opened", found=f"none of {len(mine)}")
    took = _timed(protocol, protocol.recordings(first)[1], mine[first][0])
    seconds = total.decoded * took["decoded frame"] + total.steps * took["step"] + total.questions * took["question"]
    return found | {
        "cost": {name: getattr(total, name) for name in Cost.__dataclass_fields__},
        "probe_video": first,
        "probe_seconds": {name: took[name] for name in ("decoded frame", "step", "question")},
        "hours": seconds / 3600,
        "cache_bytes": round(total.steps * took["frozen bytes"]) if cache is not None and settings.streams_model else 0,
        "weights_bytes": sum(p.numel() * p.element_size() for p in protocol.model.parameters()),
        "kv_cache_bytes": round(total.held * took["kv bytes"]),
        "device": protocol.device(),
    }


def _timed(protocol: ModelProtocol, recording: Recording, sample: Sample) -> dict[str, float]:
    """Seconds of a decoded frame, of a step (vision tower, V-JEPA, resampler, prefill), of a question; bytes a step."""
    model, arm = protocol.model, protocol.arm
    began = time.perf_counter()
    steps = list(islice(recording.steps(model.config.fps, vjepa_fps=model.config.features.fps), 2 * PROBE_STEPS))
    decoded_s = (time.perf_counter() - began) / sum(len(step.vjepa_frames) for step in steps)
    if not arm.video:
        steps = []
    warm, steps = (steps[:PROBE_STEPS], steps[PROBE_STEPS:]) if len(steps) > PROBE_STEPS else (steps, steps)
    state = model.start(arm=arm, fixations=recording.fixations)
    if warm:
        model.append(state.fork(), warm)  # kernels and buffers are made by the first call
    before, began = state.bytes, time.perf_counter()
    kv_bytes = frozen_bytes = step_s = 0.0
    if steps:
        model.append(state, steps)
        step_s = (time.perf_counter() - began) / len(steps)
        kv_bytes = (state.bytes - before) / len(steps)
        frozen_bytes = _frozen_bytes(model, steps, protocol)
    words = protocol.wording(sample)
    options = words.options or ("Yes", "No")
    ways = {"scoring": "letters" if words.options else "yes_no"}
    model.score(state, words.question, options, **ways)  # type: ignore[arg-type]
    began = time.perf_counter()
    model.score(state, words.question, options, **ways)  # type: ignore[arg-type]
    return {
        "decoded frame": decoded_s,
        "step": step_s,
        "question": time.perf_counter() - began,
        "frozen bytes": frozen_bytes,
        "kv bytes": kv_bytes,
    }


def _frozen_bytes(model: GazeQwen, steps: list[Step], protocol: ModelProtocol) -> float:
    frozen = model.frozen(steps[:1], arm=protocol.arm)
    tensors = [frozen.visual, *([] if frozen.features is None else [frozen.features])]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def plan_text(found: Mapping[str, Any]) -> str:
    """For a terminal of 80 columns."""
    tasks = textwrap.wrap(", ".join(f"{task} {n}" for task, n in found["questions"].items()), 80 - COLUMN)
    rows = [("samples", f"{found['samples']} on {found['videos']} videos"), *(("", line) for line in tasks)]
    if found["unreadable_videos"]:
        rows.append(("unreadable", f"{found['unreadable_videos']} videos: their samples will fail"))
    if "cost" in found:
        cost, took = found["cost"], found["probe_seconds"]
        rows += [
            ("frames", f"{cost['decoded']} decoded, {cost['encoded']} for Qwen in {cost['steps']} steps"),
            ("V-JEPA", f"{cost['vjepa_windows']} windows"),
            ("time", f"{duration_text(found['hours'])} on {found['device']}, by these parts as timed now:"),
            ("", f"decoding {1000 * took['decoded frame']:.1f} ms a frame, {1000 * took['step']:.0f} ms a step,"),
            ("", f"{1000 * took['question']:.0f} ms a question ({found['probe_video'][:40]});"),
            ("", "long contexts, generated answers and frames far apart cost more,"),
            ("", "cached features less"),
            (
                "memory",
                f"{size_text(found['weights_bytes'])} weights, {size_text(found['kv_cache_bytes'])} keys and values",
            ),
            ("", "at most; activations come on top"),
            ("cache", f"{size_text(found['cache_bytes'])} of frozen features on disk"),
        ]
    return "\n".join(f"{name:<{COLUMN}}{value}" for name, value in rows)
