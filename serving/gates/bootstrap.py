"""The bootstrap of all gates: rows drawn with replacement as counts, and the intervals of what they give.

Efron & Tibshirani, An Introduction to the Bootstrap (1993): percentile intervals; rows are drawn within each class
where there are classes, so that no resample lacks one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from serving.gates.weighted import Floats, Weighted

_CELLS = 2_000_000  # counts that are in memory at once


def draws(target: Floats, stratified: bool, resamples: int, seed: int) -> Iterator[Floats]:
    """(some, rows) float64 each, `resamples` in all: how often each row was drawn; the same seed draws the same."""
    random = np.random.default_rng(seed)
    rows = len(target)
    strata = [np.flatnonzero(target == one) for one in np.unique(target)] if stratified else [np.arange(rows)]
    at_once = max(1, min(resamples, _CELLS // max(1, rows)))
    for begin in range(0, resamples, at_once):
        some = min(at_once, resamples - begin)
        counts = np.empty((some, rows))
        for members in strata:
            size = len(members)
            taken = random.integers(size, size=(some, size)) + size * np.arange(some)[:, None]
            counts[:, members] = np.bincount(taken.ravel(), minlength=some * size).reshape(some, size)
        yield counts


def distribution(
    statistics: Sequence[Weighted], target: Floats, *, stratified: bool, resamples: int, seed: int
) -> Floats:
    """(statistics, resamples): each statistic of the same resamples, so that their differences are paired.

    Raises:
        ValueError: one is undefined on a resample.
    """
    found = [
        np.stack([statistic(counts) for statistic in statistics])
        for counts in draws(target, stratified, resamples, seed)
    ]
    values = np.concatenate(found, axis=1)
    if not np.isfinite(values).all():
        raise ValueError("the metric is undefined on resampled rows")
    return values


def value(statistic: Weighted, rows: int) -> float:
    """The statistic of the rows as they are."""
    return float(statistic(np.ones((1, rows)))[0])


def interval(values: Floats, confidence: float) -> tuple[float, float]:
    """The percentile interval of a statistic's resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
