"""A stream's state as tensors and plain JSON, and back, bit for bit: what a snapshot of a session is made of.

Shapes: N tokens held, R steps held, K gaze events and S gaze samples of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gazeqwen.backbone import cache_length, new_cache
from gazeqwen.errors import InputError
from gazeqwen.model import GazeQwen
from gazeqwen.positions import MRope
from gazeqwen.state import Span, StepRecord, StreamState
from gazeqwen.types import GazeEvents

_SAMPLES = ("sample_t_s", "sample_valid", "sample_used")
_EVENTS = tuple(f.name for f in fields(GazeEvents) if f.name not in (*_SAMPLES, "open_fixations"))
_COUNTS = ("segment_start_s", "steps_appended", "evicted_tokens", "turns", "latency_ms")


def pack_gaze(gazes: Sequence[GazeEvents], prefix: str) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Gaze of steps as columns (K or S, ...) one after the other, and [events, samples, open fixations] of each."""
    tensors = {
        f"{prefix}.{name}": torch.from_numpy(np.concatenate([getattr(gaze, name) for gaze in gazes]))
        for name in (*_EVENTS, *_SAMPLES)
        if gazes
    }
    return tensors, [[len(gaze), len(gaze.sample_t_s), gaze.open_fixations] for gaze in gazes]


def unpack_gaze(tensors: Mapping[str, Tensor], counts: Sequence[Sequence[int]], prefix: str) -> list[GazeEvents]:
    """What `pack_gaze` packed."""
    found, event, sample = [], 0, 0
    for events, samples, open_fixations in counts:
        columns = {name: tensors[f"{prefix}.{name}"][event : event + events].numpy() for name in _EVENTS}
        columns |= {name: tensors[f"{prefix}.{name}"][sample : sample + samples].numpy() for name in _SAMPLES}
        found.append(GazeEvents(**columns, open_fixations=open_fixations))
        event, sample = event + events, sample + samples
    return found


def pack_state(state: StreamState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A state's tensors by name and the rest in plain JSON types."""
    tensors: dict[str, Tensor] = {"positions": state.positions}
    layers: list[Any] = state.cache.layers
    for i, layer in enumerate(layers):
        tensors |= {f"keys.{i}": layer.keys, f"values.{i}": layer.values}
    if state.window is not None:
        tensors |= state.window.to_tensors()
    spans = [span for span in state.spans if span.step is not None]
    gaze, counts = pack_gaze([span.step.gaze for span in spans if span.step is not None], "gaze")
    told = {name: getattr(state, name) for name in _COUNTS}
    told |= {"newest_s": state.newest_s if state.steps_appended else None, "rope": state.rope.to_dict(), "gaze": counts}
    told["spans"] = [
        {
            "tokens": span.tokens,
            "turn": span.turn,
            "cells": None if span.cells is None else span.cells.tolist(),
            "step": None if span.step is None else _told(span.step),
        }
        for span in state.spans
    ]
    return tensors | gaze, told


def _told(record: StepRecord) -> dict[str, Any]:
    named = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "gaze"}
    return named | {"frame_times_s": record.frame_times_s.tolist(), "span_s": list(record.span_s)}


def unpack_state(
    model: GazeQwen, fresh: StreamState, tensors: Mapping[str, Tensor], told: Mapping[str, Any]
) -> StreamState:
    """The state that was packed, on this model.

    Args:
        fresh: a stream of the same arm that has just begun (`GazeQwen.start`); it is filled.

    Raises:
        InputError: keys and values are not those of such a model, or the parts disagree.
    """
    device, layers = model.backbone.device, model.backbone.n_layers
    cache = new_cache(model.backbone)
    began: list[Any] = fresh.cache.layers
    for i in range(layers):
        keys, values = tensors[f"keys.{i}"], tensors[f"values.{i}"]
        for tensor in (keys, values):
            shape = (*began[i].keys.shape[:2], tensors["positions"].shape[1], began[i].keys.shape[3])
            if tuple(tensor.shape) != shape or tensor.dtype != began[i].keys.dtype:
                raise InputError(
                    f"keys and values of layer {i}",
                    expected=f"{began[i].keys.dtype} {shape}",
                    found=f"{tensor.dtype} {tuple(tensor.shape)}",
                )
        cache.update(keys.to(device), values.to(device), i)
    gazes = iter(unpack_gaze(tensors, told["gaze"], "gaze"))
    fresh.spans = [_span(span, gazes) for span in told["spans"]]
    if cache_length(cache) != sum(span.tokens for span in fresh.spans) or f"keys.{layers}" in tensors:
        raise InputError("spans", expected=f"{cache_length(cache)} tokens in {layers} layers", found="others")
    fresh.cache, fresh.positions, fresh.rope = cache, tensors["positions"], MRope.from_dict(told["rope"])
    if fresh.window is not None:
        fresh.window.from_tensors(tensors)
    for name in _COUNTS:
        setattr(fresh, name, told[name])
    fresh.newest_s = -np.inf if told["newest_s"] is None else told["newest_s"]
    return fresh


def _span(told: Mapping[str, Any], gazes: Any) -> Span:
    record = None
    if (step := told["step"]) is not None:
        times = np.array(step["frame_times_s"])
        record = StepRecord(**{**step, "frame_times_s": times, "span_s": tuple(step["span_s"]), "gaze": next(gazes)})
    cells = None if told["cells"] is None else np.array(told["cells"], dtype=np.int64)
    return Span(told["tokens"], record, cells, told["turn"])
