"""The train suite: what a step of our trainer saves against the published loop's work, by cached frozen features and by
questions that share their video's prefix; throughput and memory by batch. The tiny model on made videos."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.core import Measurement, Options
from benchmarks.speed.results import Bound, Result
from benchmarks.speed.streamgaze_data import Videos, make_data
from benchmarks.speed.train_batches import train_batches, train_memory
from benchmarks.speed.train_projection import projected_7b_training
from benchmarks.speed.train_sides import LOSS, Ours, Parts, Published, forms_of
from gazeqwen.errors import InputError
from gazeqwen.train.examples import TrainingVideo
from gazeqwen.train.forward import PackedForward
from gazeqwen.train.losses import build_loss

# As long as a present question may see back, so that no question's clip begins after the video does: a shared prefix
# shows more than such a clip. The longer the video, the more the published loop has to do again.
VIDEO = Videos(60.0, size_px=(168, 112))
QUICK_VIDEO = Videos(6.0, questions=5, fps=8.0)
PAIRS = 3  # of long runs
TOLERANCE = 1e-5  # between log-probabilities of the same question, in float32
CHECKED = 3  # questions whose two sides are compared, from the first to the last


def cached_vs_published_loop(name: str, options: Options) -> Result:
    """Questions per second of our trainer's steps of one video (`value`), and how many times those of the published
    loop's work on the same questions (`ratio`).

    Our steps and parts of the published loop take turns: beside each of n steps an n-th of the questions, with every
    task and the video's whole length in it, so that the published loop sees each question once. `ratio` is its seconds
    for all of them over the mean step.

    Returns:
        `parts`: seconds by part of our step and of the published loop over the same questions; the lowest and highest
        ratio of a pair (their questions differ); `fill_cache`: seconds to fill our cache, once, and `ratio_first_epoch`
        with them; `ratio_to_two_frames`: against the published loop with its own two frames a question, which sees
        less; ratios projected to 7B.

    Raises:
        InputError: a question's log-probabilities differ between the two sides.
    """
    videos, pairs = _data_of(options)
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as temporary:
        folder = Path(temporary)
        data = make_data(folder / "data", videos)
        ours = Ours(data, folder, 1, options.device)
        theirs = Published(data, folder, options.device)
        two_frames = Published(data, folder, options.device, two_frames=True)
        video = ours.video(0)
        checked = np.linspace(0, len(video.asks) - 1, CHECKED).astype(int).tolist()
        clips = [theirs.clip(theirs.asked[row]) for row in checked]
        alone = [score(theirs.packed, clip)[0] for clip in clips]
        require_same(name, video.only(checked), score(ours.packed, video.only(checked)), alone)
        two_frames.clip(two_frames.asked[0])
        ours.warm_up()
        for side in (ours, theirs, two_frames):
            side.timed()

        def published(pair: int) -> None:
            theirs.learn(theirs.asked[pair::pairs])
            two_frames.learn(two_frames.asked[pair::pairs])

        ours_s, theirs_s = _in_turns(pairs, ours.step, published, parts=(ours.parts, theirs.parts))
    asked, step_s, published_s = len(theirs.asked), fmean(ours_s), sum(theirs_s)
    by_pair = [pairs * b / a for a, b in zip(ours_s, theirs_s, strict=True)]
    projected = projected_7b_training([ask.stop for ask in video.asks])
    parts = {
        "ratio_low": min(by_pair),
        "ratio_high": max(by_pair),
        "fill_cache": ours.fill_s,
        "ratio_first_epoch": published_s / (step_s + ours.fill_s),
        "ratio_to_two_frames": two_frames.parts.total() / step_s,
        "published_q_per_s": asked / published_s,
        "two_frames_q_per_s": asked / two_frames.parts.total(),
        "projected_7b_ratio": projected["ratio"],
        "projected_7b_3_epochs": projected["ratio_3_epochs"],
        "projected_7b_two_frames": projected["two_frames"],
        "projected_7b_lm_share": projected["lm_share"],
        **ours.parts.named("ours", runs=pairs),
        **theirs.parts.named("published"),
    }
    note = (
        f"{videos}. Ours: steps of one video, features cached, its questions in one row. Published loop: batch 1, each "
        "question's clip decoded and encoded again, the optimiser every 8; it sees all that ours does; no clip is cut. "
        "Seconds are of the video's questions once. Projected: FLOP of vision tower, V-JEPA B and 7B decoder"
    )
    return Result(name, asked / step_s, "q/s", published_s / step_s, parts, pairs, note=note)


def shared_prefix_vs_separate(name: str, options: Options) -> Result:
    """Questions per second, forward and backward, of one row with all questions of a video (`value`), and how many
    times those of a row for each question (`ratio`); frozen features in memory on both sides.

    They take turns as in `cached_vs_published_loop`.

    Returns:
        `parts`: seconds by part of both sides, tokens that each puts through the decoder, the lowest and highest ratio
        of a pair, the ratio projected to 7B.

    Raises:
        InputError: a question's log-probabilities differ between the two sides.
    """
    videos, pairs = _data_of(options)
    videos = replace(videos, fps=8.0)  # as many frames as V-JEPA takes: nothing is decoded here
    with tempfile.TemporaryDirectory(prefix="gazeqwen-speed-") as temporary:
        folder = Path(temporary)
        ours = Ours(make_data(folder / "data", videos), folder, 1, options.device)
        video = ours.video(0)
    rows = range(len(video.asks))
    alone = [score(ours.packed, video.only([row]))[0] for row in rows]
    require_same(name, video, score(ours.packed, video), alone)
    shared, separate = _Learner(ours.packed), _Learner(ours.packed)

    def one_by_one(pair: int) -> None:
        for row in rows[pair::pairs]:
            separate.learn(video.only([row]))

    shared_s, separate_s = _in_turns(
        pairs, lambda: shared.learn(video), one_by_one, parts=(shared.parts, separate.parts)
    )
    by_pair = [pairs * b / a for a, b in zip(shared_s, separate_s, strict=True)]
    parts = {
        "ratio_low": min(by_pair),
        "ratio_high": max(by_pair),
        "projected_7b_ratio": projected_7b_training([ask.stop for ask in video.asks])["shared"],
        "separate_q_per_s": len(rows) / sum(separate_s),
        "shared_tokens": shared.tokens / pairs,
        "separate_tokens": float(separate.tokens),
        **shared.parts.named("shared", runs=pairs),
        **separate.parts.named("separate"),
    }
    note = f"{videos}. Stage one; features in memory on both sides. Seconds are of the video's questions once"
    value, ratio = len(rows) / fmean(shared_s), sum(separate_s) / fmean(shared_s)
    return Result(name, value, "q/s", ratio, parts, pairs, note=note)


class _Learner:
    """Forward and backward of rows, and how many tokens they had."""

    def __init__(self, packed: PackedForward) -> None:
        self._packed, self._loss = packed, build_loss(LOSS)
        self.parts, self.tokens = Parts(), 0

    def learn(self, video: TrainingVideo) -> None:
        decoder = self._packed.model.backbone.decoder
        counting = decoder.register_forward_pre_hook(self._count, with_kwargs=True)
        with self.parts.part("forward"):
            loss, _ = self._loss(self._packed([video], [forms_of(video)]), video.asks)
        counting.remove()
        with self.parts.part("backward"):
            loss.backward()

    def _count(self, _module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        self.tokens += options["inputs_embeds"].shape[1]


def _data_of(options: Options) -> tuple[Videos, int]:
    return QUICK_VIDEO if options.quick else VIDEO, min(options.repeats, PAIRS)


def _in_turns(
    pairs: int, ours: Callable[[], object], theirs: Callable[[int], object], *, parts: tuple[Parts, Parts]
) -> tuple[list[float], list[float]]:
    """Seconds of our runs and of theirs, by what their parts have counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        before = [side.total() for side in parts]
        if pair % 2:
            theirs(pair)
        ours()
        if not pair % 2:
            theirs(pair)
        for side in (0, 1):
            seconds[side].append(parts[side].total() - before[side])
    return seconds


def score(packed: PackedForward, video: TrainingVideo) -> list[Tensor]:
    """Log-probabilities of each question's options."""
    with torch.no_grad():
        scored = packed([video], [forms_of(video)])
    return [item.logprobs for item in scored if item.logprobs is not None]


def require_same(name: str, video: TrainingVideo, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Raises InputError where a question's log-probabilities, and with them its loss, differ."""
    for ask, one, other in zip(video.asks, ours, theirs, strict=True):
        apart = float((one - other).abs().max())
        if not apart <= TOLERANCE:
            expected = f"log-probabilities equal within {TOLERANCE:g} ({ask.task} at {ask.question.t_s:g} s)"
            raise InputError(name, expected=expected, found=f"{apart:.3g} apart")


TRAIN: tuple[Measurement, ...] = (
    Measurement("cached_vs_published_loop", Bound("ratio", low=10.0), cached_vs_published_loop),
    Measurement("shared_prefix_vs_separate", None, shared_prefix_vs_separate),
    Measurement("train_batches", None, train_batches),
    Measurement("train_memory", None, train_memory),
)
