"""Steps and a model for tests of the model, the checkpoint and the session: seeded, small, with gaze that matters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gazeqwen import GazeQwen, prompts
from gazeqwen.config import FeatureConfig, GazeEncodingConfig, GazeQwenConfig, ResamplerConfig, VJEPAConfig
from gazeqwen.model import Example
from gazeqwen.state import StreamState
from gazeqwen.types import GazeEvents, Question, Step
from gazeqwen.vjepa import build_extractor

WIDE, SQUARE = (84, 168), (112, 112)  # (height, width) px: 3 x 6 and 4 x 4 video tokens
QUESTION = "Which object am I looking at?"
OPTIONS = ("knife", "green jar", "box")


def made_steps(n: int, *, start_s: float = 0.0, seed: int = 0, size_px: tuple[int, int] = WIDE) -> list[Step]:
    """Steps of a second each, frames at 0 and 0.5 s, four V-JEPA frames, one or two fixations."""
    rng = np.random.default_rng((seed, round(start_s * 1000)))
    steps = []
    for k in range(n):
        first_s = start_s + k
        times = first_s + np.array([0.0, 0.25, 0.5, 0.75])
        coarse = rng.integers(0, 256, (4, 7, 7, 3), dtype=np.uint8)
        frames = coarse.repeat(size_px[0] // 7, axis=1).repeat(size_px[1] // 7, axis=2)
        events = int(rng.integers(1, 3))
        t_s = np.sort(rng.uniform(first_s, first_s + 1, events))
        steps.append(
            Step(
                frames=frames[[0, 2]],
                frame_times_s=times[[0, 2]],
                span_s=(first_s - (0.0 if k else 1e-6), first_s + 1),
                vjepa_frames=frames,
                vjepa_times_s=times,
                gaze=GazeEvents(
                    t_s=t_s,
                    xy_norm=rng.uniform(0.05, 0.95, (events, 2)),
                    duration_s=rng.uniform(0.1, 0.4, events),
                    age_s=first_s + 1 - t_s,
                    valid=np.ones(events, dtype=bool),
                    is_fixation=np.ones(events, dtype=bool),
                    frame_t_s=times[:events],
                    sample_t_s=t_s,
                    sample_valid=np.ones(events, dtype=bool),
                    sample_used=np.ones(events, dtype=bool),
                ),
            )
        )
    return steps


def with_residuals(model: GazeQwen, *, seed: int = 1) -> GazeQwen:
    """The same model with every resampler parameter moved: at the start its output is exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.resampler.named_parameters():
            scale = 0.5 if name.startswith(("to_hidden", "proj_outs")) else 0.05
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


@cache
def moved_tiny() -> GazeQwen:
    """The tiny model with residuals that change its answers. Shared: no test may change it."""
    return with_residuals(GazeQwen.from_pretrained("tiny"))


@cache
def official_tiny() -> GazeQwen:
    """The published module and rules (compat="official") at tiny size. Shared: no test may change it."""
    tiny = moved_tiny()
    config = GazeQwenConfig(
        name="tiny-official",
        compat="official",
        preprocess=tiny.config.preprocess,
        features=FeatureConfig(
            vjepa=VJEPAConfig(dim=24, depth=4, heads=2, mlp_dim=48, hierarchical_layers=(0, 1, 2, 3)),
            size_px=64,
            tubelets_per_step=8,
        ),
        gaze_encoding=GazeEncodingConfig(name="official"),
        resampler=ResamplerConfig(
            kind="official", dim=16, latents=4, blocks=2, heads=1, layers=(0, 1, 2, 3), allow_last_layer=True
        ),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        extractor = build_extractor(config.features)
        made = GazeQwen(config, vlm=tiny.vlm, tokenizer=tiny.tokenizer, extractor=extractor)
    return with_residuals(made)


def example(steps: Sequence[Step], *, target: str | None = None, question: str = QUESTION) -> Example:
    """One run of steps and the multiple-choice question at its end."""
    return Example((tuple(steps),), Question(question, steps[-1].span_s[1], OPTIONS), target=target)


def answer_logits(model: GazeQwen, state: StreamState, text: str) -> Tensor:
    """(V,) logits after `text` and the assistant's opening, on a fork."""
    fork = state.fork()
    closing = prompts.VISION_END if fork.segment_start_s is not None else ""
    with torch.no_grad():
        hidden = model._append_text(fork, closing + text + prompts.ASSISTANT)
        return model.backbone.logits(hidden[0, -1])


def held(state: StreamState) -> list[Tensor]:
    """Copies of everything a question could change: keys, values, V-JEPA's window, and the numbers beside them."""
    cache = [tensor.clone() for layer in state.cache.layers for tensor in (layer.keys, layer.values)]  # type: ignore[union-attr]
    window = [] if state.window is None or state.window._frames is None else [state.window._frames.clone()]
    counts = [state.rope.next, len(state.spans), state.steps_appended, len(state.evicted), state.tokens]
    return [*cache, *window, torch.tensor([*counts, state.newest_s], dtype=torch.float64)]


def same_bits(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
