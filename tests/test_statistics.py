"""Intervals over videos hold what they promise, and the paired test is the exact one."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streamgaze.statistics import (
    FEW_VIDEOS,
    bootstrap_interval,
    holm,
    mcnemar_exact,
    mean_of_ratios,
    ratio,
)


def accuracy(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[:, 0], sums[:, 1])


def clustered(rng: np.random.Generator, videos: int, questions: int) -> np.ndarray:
    """(V, 2) right and asked, where videos differ in difficulty: mean 0.5, standard deviation of a video 0.22."""
    return np.stack([rng.binomial(questions, rng.beta(2, 2, videos)), np.full(videos, questions)], axis=1)


def coverage(videos: int, *, by_video: bool, repeats: int = 200) -> float:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(repeats):
        counts = clustered(rng, videos, 10)
        if not by_video:  # every question a cluster of its own, as if they were independent
            right = int(counts[:, 0].sum())
            counts = np.stack([np.arange(10 * videos) < right, np.ones(10 * videos)], axis=1)
        interval = bootstrap_interval(counts, accuracy)
        assert interval is not None
        inside += interval[0] <= 0.5 <= interval[1]
    return inside / repeats


def test_95_percent_of_intervals_over_videos_hold_the_truth() -> None:
    assert 0.91 <= coverage(30, by_video=True) <= 0.98


def test_intervals_that_take_questions_as_independent_do_not() -> None:
    assert coverage(30, by_video=False, repeats=100) < 0.88


def test_few_videos_give_intervals_that_are_too_narrow_as_the_report_says() -> None:
    assert coverage(4, by_video=True) < 0.88 < coverage(FEW_VIDEOS, by_video=True)


def test_two_videos_have_the_known_distribution() -> None:
    # One all wrong, one all right: a resample is 0, a half or 1 with probability 1/4, 1/2, 1/4.
    assert bootstrap_interval(np.array([[0, 4], [4, 4]]), accuracy) == (0.0, 1.0)
    assert bootstrap_interval(np.array([[2, 4], [2, 4]]), accuracy) == (0.5, 0.5)


def test_one_video_or_none_has_no_interval() -> None:
    assert bootstrap_interval(np.array([[1, 4]]), accuracy) is None
    assert bootstrap_interval(np.zeros((0, 2)), accuracy) is None
    assert bootstrap_interval(np.zeros((5, 2)), accuracy) is None  # no resample has a value


def test_the_seed_decides_and_nothing_else() -> None:
    counts = clustered(np.random.default_rng(1), 12, 7)
    np.random.seed(123)
    first = bootstrap_interval(counts, accuracy, seed=3)
    np.random.seed(456)
    assert bootstrap_interval(counts, accuracy, seed=3) == first
    assert bootstrap_interval(counts, accuracy, seed=4) != first


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=12), st.integers(0, 5))
def test_an_interval_lies_among_the_videos_own_values(rows: list[tuple[int, int]], seed: int) -> None:
    counts = np.array([[min(right, n), n] for right, n in rows])
    interval = bootstrap_interval(counts, accuracy, seed=seed)
    own = [right / n for right, n in counts if n]
    if interval is None:
        assert not own
    else:
        assert min(own) - 1e-12 <= interval[0] <= interval[1] <= max(own) + 1e-12


def test_a_resample_without_a_task_is_the_mean_of_the_others() -> None:
    sums = np.array([[1, 3, 2, 4], [1, 0, 2, 0], [0, 0, 0, 0]], dtype=float)
    means = mean_of_ratios(sums)
    assert means[:2].tolist() == [(1 / 2 + 3 / 4) / 2, 1 / 2]
    assert math.isnan(means[2])


def test_mcnemar_is_the_two_sided_binomial_test() -> None:
    assert mcnemar_exact(0, 0) == 1.0 and mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(10, 2) == pytest.approx(0.03857421875, abs=0)  # 2 * (1 + 12 + 66) / 4096
    assert mcnemar_exact(1, 0) == 1.0 and mcnemar_exact(6, 0) == 2 / 64


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_counts_every_outcome_at_least_as_uneven(b: int, c: int) -> None:
    n, uneven = b + c, abs(b - c)
    tail = sum(math.comb(n, k) for k in range(n + 1) if abs(n - 2 * k) >= uneven)
    assert mcnemar_exact(b, c) == float(Fraction(tail, 2**n)) == mcnemar_exact(c, b)


def test_mcnemar_of_thousands_is_near_the_normal_limit() -> None:
    z = (5200 - 5000 - 1) / math.sqrt(10200)
    assert mcnemar_exact(5000, 5200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert mcnemar_exact(4000, 0) == 0.0 or mcnemar_exact(4000, 0) < 1e-300


def test_holm_on_an_example_worked_by_hand() -> None:
    # Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least the one before.
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({}) == {}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_the_p_values_and_bonferroni_and_keeps_their_order(p_values: list[float]) -> None:
    named = {str(row): p for row, p in enumerate(p_values)}
    adjusted = holm(named)
    for name, p in named.items():
        assert p <= adjusted[name] <= min(1.0, len(named) * p) or adjusted[name] == pytest.approx(p)
        assert all(adjusted[name] <= adjusted[other] for other in named if p <= named[other])


@pytest.mark.parametrize("p", [math.nan, -0.1, 1.1])
def test_holm_refuses_what_is_no_p_value(p: float) -> None:
    with pytest.raises(ValueError, match="p values"):
        holm({"a": p})
