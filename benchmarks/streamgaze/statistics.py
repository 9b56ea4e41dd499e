"""Intervals over videos, and the paired test beside them. numpy only.

Questions of one video are answered from the same frames, so they are not independent: intervals come from a cluster
bootstrap (Efron's percentile interval, videos drawn with replacement), as Miller (arXiv 2411.00640) asks for. McNemar's
exact test and Holm's correction are there because readers expect them; the test takes questions as independent, so its
p values are too small where answers of a video go together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

RESAMPLES = 5_000
LEVEL = 0.95
FEW_VIDEOS = 20  # below it percentile intervals are clearly too narrow (tests/test_statistics.py measures how much)
ONE_VIDEO = "one video: there is nothing to resample"


@lru_cache(maxsize=64)
def _draws(clusters: int, seed: int) -> np.ndarray:
    """(RESAMPLES, clusters) float64: how often each cluster is in each resample. Shared: statistics of the same videos
    are resampled together."""
    draws = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES)
    counts = draws.astype(np.float64)
    counts.setflags(write=False)
    return counts


def bootstrap_interval(
    counts: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic of summed counts, over videos; None for fewer than two videos.

    Args:
        counts: (V, K) one row a video, in a fixed order (the caller sorts videos by name); summed over drawn videos.
        statistic: (R, K) sums to (R,) values; NaN where a resample can't have one (such a resample is left out).
        seed: of the draws; the same seed, videos and counts give the same interval.

    Returns:
        (low, high), or None where there is one video or none, or no resample has a value.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if len(counts) < 2:
        return None
    values = statistic(_draws(len(counts), seed) @ counts)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where whole is 0. Broadcasts."""
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)


def mean_of_ratios(sums: np.ndarray) -> np.ndarray:
    """(R, 2T) sums, T parts then T wholes, to the (R,) mean of the T ratios.

    A resample without any sample of a task has no ratio for it, and is the mean of the others.
    """
    tasks = sums.shape[1] // 2
    ratios = ratio(sums[:, :tasks], sums[:, tasks:])
    known = np.isfinite(ratios)
    return ratio(np.where(known, ratios, 0.0).sum(axis=1), known.sum(axis=1))


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact p value of b against c discordant pairs: the binomial test with one half."""
    pairs, fewer = b + c, min(b, c)
    term = tail = 1
    for drawn in range(fewer):
        term = term * (pairs - drawn) // (drawn + 1)
        tail += term
    return min(1.0, 2 * tail / 2**pairs)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p values, by name, in the order given. Controls the family-wise error.

    Raises:
        ValueError: a p value outside [0, 1].
    """
    if not all(math.isfinite(p) and 0 <= p <= 1 for p in p_values.values()):
        raise ValueError(f"p values must lie in [0, 1], found {dict(p_values)}")
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
