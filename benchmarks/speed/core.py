"""The core suite: what reading, gaze and injection cost, each against the plain way, with the bounds it has to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.speed.decode import BOUND as DECODE_BOUND
from benchmarks.speed.decode import decode_vs_pyav
from benchmarks.speed.injection import TINY, WIDE, WIDE_GPU, injection_overhead
from benchmarks.speed.loading import from_pretrained_tiny
from benchmarks.speed.resampler import BOUND as RESAMPLER_BOUND
from benchmarks.speed.resampler import resampler_vs_loop
from benchmarks.speed.results import Bound, Result
from benchmarks.speed.sizes import parameters_7b, resampler_flops_7b, vjepa_flops_7b
from gazeqwen.config import ResamplerConfig

LEARNED = ResamplerConfig(layers="learned")
FLOPS_BOUND = Bound("ratio", high=0.01)
PARAMETERS_BOUND = Bound("value", low=1e6, high=5e6)
# How many times the asked-for repeats: short runs scatter more, and cost little.
SHORT_RUN_REPEATS = 8
WIDE_REPEATS = 2
LOADS = 3  # each in a new interpreter, and the imports take far longer than the call


@dataclass(frozen=True)
class Options:
    """`repeats` pairs of runs as asked for; `quick`: smallest sizes, for tests; `device` of what can run on a GPU."""

    repeats: int
    quick: bool
    device: torch.device


@dataclass(frozen=True)
class Measurement:
    """One row: `timed` ones depend on the machine and are not judged in a quick run; `cuda` ones need a GPU."""

    name: str
    bound: Bound | None
    run: Callable[[str, Options], Result]
    timed: bool = True
    cuda: bool = False


def from_mapping(name: str, found: Mapping[str, Any]) -> Result:
    """A `Result` from the mapping of `decode_vs_pyav` or `resampler_vs_loop`; numbers beside the form go to parts."""
    numbers = {key: found[key] for key in ("frames", "max_difference") if key in found}
    return Result(
        name,
        found["value"],
        found["unit"],
        found["ratio"],
        {**found["parts"], **numbers},
        found["repeats"],
        note=str(found.get("sizes", "")),
    )


def _decode(name: str, options: Options) -> Result:
    found = decode_vs_pyav(options.repeats, duration_s=4.0 if options.quick else 30.0)
    return replace(from_mapping(name, found), note="1 frame a second of 1280x720 at 30 fps")


def _loop_tiny(name: str, options: Options) -> Result:
    repeats = options.repeats * (1 if options.quick else SHORT_RUN_REPEATS)
    return from_mapping(name, resampler_vs_loop(repeats, width="tiny", device="cpu"))


def _loop_7b(name: str, options: Options) -> Result:
    return from_mapping(name, resampler_vs_loop(options.repeats, width="7b", device="cpu"))


def _loop_7b_cuda(name: str, options: Options) -> Result:
    repeats = options.repeats * (1 if options.quick else SHORT_RUN_REPEATS)
    return from_mapping(name, resampler_vs_loop(repeats, width="7b", device=options.device))


def _injection(name: str, options: Options) -> Result:
    shape = WIDE_GPU if options.device.type == "cuda" else WIDE
    if options.quick:
        shape = replace(WIDE, hidden=64, heads=2, key_value_heads=1, intermediate=64, layers=4, steps=2)
    repeats = options.repeats * (1 if options.quick else WIDE_REPEATS)
    return injection_overhead(name, shape, repeats, device=options.device)


def _injection_tiny(name: str, options: Options) -> Result:
    repeats = options.repeats * (1 if options.quick else SHORT_RUN_REPEATS)
    shape = replace(TINY, steps=2) if options.quick else TINY
    return injection_overhead(name, shape, repeats, device=torch.device("cpu"))


CORE: tuple[Measurement, ...] = (
    Measurement("decode_vs_pyav", Bound("ratio", high=DECODE_BOUND), _decode),
    Measurement("resampler_vs_loop", Bound("ratio", low=RESAMPLER_BOUND), _loop_tiny),
    Measurement("resampler_vs_loop_7b", None, _loop_7b),
    Measurement("resampler_vs_loop_7b_cuda", Bound("ratio", low=10.0), _loop_7b_cuda, cuda=True),
    Measurement("injection_overhead", Bound("ratio", high=1.05), _injection),
    Measurement("injection_overhead_tiny", Bound("ratio", high=1.10), _injection_tiny),
    Measurement(
        "resampler_flops_7b", FLOPS_BOUND, lambda name, _: resampler_flops_7b(name, ResamplerConfig()), timed=False
    ),
    Measurement(
        "resampler_flops_7b_learned", FLOPS_BOUND, lambda name, _: resampler_flops_7b(name, LEARNED), timed=False
    ),
    Measurement("vjepa_flops_7b", None, lambda name, _: vjepa_flops_7b(name), timed=False),
    Measurement("parameters_7b", PARAMETERS_BOUND, lambda name, _: parameters_7b(name, ResamplerConfig()), timed=False),
    Measurement("parameters_7b_learned", PARAMETERS_BOUND, lambda name, _: parameters_7b(name, LEARNED), timed=False),
    Measurement(
        "from_pretrained_tiny_s",
        Bound("value", high=3.0, below=True),
        lambda name, options: from_pretrained_tiny(name, min(options.repeats, LOADS)),
    ),
)
