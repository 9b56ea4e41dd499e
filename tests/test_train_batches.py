"""What a step holds and how fast it learns: functions of the step's number."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeqwen import GazeQwen
from gazeqwen.arms import get_arm
from gazeqwen.errors import ConfigError, InputError
from gazeqwen.train import schedule
from gazeqwen.train.batches import Drawn, Sampler, draw_questions, n_questions, seed_step, share_of_process
from gazeqwen.train.config import OptimizerSettings
from tests.made_training import MadeSource

COUNTS = st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any)


@given(counts=COUNTS, batch=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_video_with_questions_comes_once_an_epoch(counts: list[int], batch: int, seed: int) -> None:
    sampler = Sampler(counts, batch_videos=batch, seed=seed)
    usable = [index for index, n in enumerate(counts) if n]
    steps = sampler.steps(3)
    drawn = [one for step in range(steps) for one in sampler.at(step)]
    assert len(drawn) == steps * batch >= 3 * len(usable) > (steps - 1) * batch
    for epoch in range(3):
        assert sorted(one.index for one in drawn if one.epoch == epoch) == usable
    again = Sampler(counts, batch_videos=batch, seed=seed)
    assert again.at(steps - 1) == sampler.at(steps - 1)


def test_epochs_have_orders_of_their_own_and_seeds_too() -> None:
    orders = [
        tuple(one.index for one in Sampler([1] * 20, batch_videos=20, seed=seed).at(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


@given(
    processes=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    each=st.integers(1, 3),
)
def test_processes_share_a_step_without_overlap(processes: int, accumulation: int, each: int) -> None:
    drawn = [Drawn(index, 0) for index in range(processes * accumulation * each)]
    shares = [
        share_of_process(drawn, rank=rank, processes=processes, accumulation=accumulation) for rank in range(processes)
    ]
    assert all([len(forward) for forward in share] == [each] * accumulation for share in shares)
    assert Counter(one.index for share in shares for forward in share for one in forward) == Counter(range(len(drawn)))


def test_a_batch_that_cannot_be_shared_and_data_without_questions() -> None:
    with pytest.raises(ConfigError, match=r"batch_videos=6 can't be shared by 4 processes .* a multiple of 4"):
        share_of_process([Drawn(0, 0)] * 6, rank=0, processes=4, accumulation=1)
    with pytest.raises(InputError, match="videos with questions"):
        Sampler([0, 0], batch_videos=1, seed=0)


def test_questions_and_forms_are_drawn_anew_each_epoch_and_the_same_each_time() -> None:
    model = GazeQwen.from_pretrained("tiny")
    video = MadeSource(1, n_steps=6, text=True, features=False).load(0, model, get_arm("inject"))
    forms = {"letters": 1.0, "likelihood": 1.0}
    seen = []
    for epoch in range(30):
        few, how = draw_questions(video, Drawn(0, epoch), forms=forms, limit=4, seed=3)
        again, how_again = draw_questions(video, Drawn(0, epoch), forms=forms, limit=4, seed=3)
        ids = [ask.question.id for ask in few.asks]
        assert ids == [ask.question.id for ask in again.asks] and how == how_again and len(ids) == 4
        assert [ask.question.t_s for ask in few.asks] == sorted(ask.question.t_s for ask in few.asks)
        assert all(form in ask.forms() for ask, form in zip(few.asks, how, strict=True))
        assert all(form == "yes_no" for ask, form in zip(few.asks, how, strict=True) if ask.proactive)
        assert all(form == "text" for ask, form in zip(few.asks, how, strict=True) if not ask.question.options)
        seen += how
    assert {"letters", "likelihood", "yes_no", "text"} == set(seen)
    whole, _ = draw_questions(video, Drawn(0, 0), forms=forms, limit=0, seed=3)
    assert whole is video and n_questions([8, 3], [Drawn(0, 0), Drawn(1, 0)], 4) == 7


def test_the_forms_weights_are_their_shares() -> None:
    model = GazeQwen.from_pretrained("tiny")
    video = MadeSource(1, n_steps=8, features=False).load(0, model, get_arm("inject"))
    drawn = [
        draw_questions(video, Drawn(0, k), forms={"letters": 3.0, "text": 1.0}, limit=0, seed=0)[1] for k in range(200)
    ]
    counted = Counter(form for forms in drawn for form in forms if form != "yes_no")
    assert set(counted) == {"letters", "text"}
    assert abs(counted["letters"] / sum(counted.values()) - 0.75) < 0.04  # 1,600 draws, sd 0.011


def test_random_numbers_are_a_function_of_seed_step_and_process() -> None:
    def draws(*numbers: int) -> tuple[float, float]:
        seed_step(*numbers)
        return float(torch.rand(())), float(np.random.random())

    assert draws(1, 2, 0) == draws(1, 2, 0)
    assert len({draws(*numbers) for numbers in ((1, 2, 0), (1, 3, 0), (1, 2, 1), (2, 2, 0))}) == 4


# -- the rate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "warmup"), [(100, 20), (24, 20), (300, 20), (10, 3)])
def test_onecycle_is_torchs(total: int, warmup: int) -> None:
    settings = OptimizerSettings(lr=3e-4, schedule="onecycle", warmup_steps=warmup)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=3e-4)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-4, total_steps=total, pct_start=min(warmup / total, 0.5)
    )
    for step in range(total):
        share, beta1 = schedule.rate(settings, step, total)
        group = optimizer.param_groups[0]
        assert math.isclose(share * 3e-4, group["lr"], rel_tol=1e-6, abs_tol=1e-14), step
        assert math.isclose(beta1, group["betas"][0], rel_tol=1e-6)
        optimizer.step()
        if step + 1 < total:
            torchs.step()


def test_the_published_rates_of_onecycle() -> None:
    settings = OptimizerSettings(lr=3e-4, schedule="onecycle", warmup_steps=20)
    rates = [3e-4 * schedule.rate(settings, step, 100)[0] for step in range(100)]
    assert np.isclose(rates[0], 1.2e-5) and rates[19] == pytest.approx(3e-4) and np.isclose(rates[-1], 1.2e-9)


@given(
    kind=st.sampled_from(["linear", "cosine"]),
    total=st.integers(1, 200),
    warmup=st.integers(0, 50),
    final=st.floats(0, 1),
)
@settings(max_examples=60)
def test_rates_rise_then_fall_and_end_where_they_should(kind: str, total: int, warmup: int, final: float) -> None:
    given_ = OptimizerSettings(schedule=kind, warmup_steps=warmup, final_lr=final)  # type: ignore[arg-type]
    shares = [schedule.rate(given_, step, total + 1)[0] for step in range(total + 1)]
    assert all(0 < share <= 1 or math.isclose(share, final, abs_tol=1e-9) for share in shares)
    assert all(a <= b + 1e-12 for a, b in pairwise(shares[:warmup]))
    assert all(a >= b - 1e-12 for a, b in pairwise(shares[warmup:]))


def test_groups_decay_matrices_of_the_resampler_only() -> None:
    parameters = {
        "resampler.a.weight": torch.nn.Parameter(torch.ones(2, 2)),
        "resampler.a.bias": torch.nn.Parameter(torch.ones(2)),
        "vlm.x.lora_A.default.weight": torch.nn.Parameter(torch.ones(2, 2)),
    }
    settings = OptimizerSettings(lr=1e-2, lora_lr=1e-3, weight_decay=0.5)
    optimizer = schedule.build_optimizer(parameters, settings)
    found = {group["name"]: (group["peak"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found == {"resampler": (1e-2, 0.5), "resampler, no decay": (1e-2, 0.0), "lora": (1e-3, 0.0)}
    assert schedule.set_rate(optimizer, settings, 19, 100) == pytest.approx(1e-2)
    assert optimizer.param_groups[2]["lr"] == pytest.approx(1e-3)


def test_gradients_are_clipped_together() -> None:
    held = [
        torch.nn.Parameter(torch.zeros(3)),
        torch.nn.Parameter(torch.zeros(2, 2)),
        torch.nn.Parameter(torch.zeros(1)),
    ]
    held[0].grad, held[1].grad = torch.full((3,), 2.0), torch.full((2, 2), -1.0)
    assert schedule.clip_gradients(held, 0.0) == pytest.approx(4.0) and float(held[0].grad[0]) == 2.0
    assert schedule.clip_gradients(held, 1.0) == pytest.approx(4.0)
    assert float(held[0].grad[0]) == pytest.approx(0.5) and float(held[1].grad[0, 0]) == pytest.approx(-0.25)
    assert schedule.clip_gradients(held, 1.0) == pytest.approx(1.0)
    assert math.isnan(schedule.clip_gradients([_with_grad(torch.full((1,), math.nan))], 1.0))


def _with_grad(grad: torch.Tensor) -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.zeros_like(grad))
    parameter.grad = grad
    return parameter
