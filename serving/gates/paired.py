"""Two models on the same rows: tests that say in closed form what the bootstrap says by drawing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm, rankdata

Bools = npt.NDArray[np.bool_]


def delong(positive: Bools, ours: npt.NDArray[np.floating], theirs: npt.NDArray[np.floating]) -> tuple[float, float]:
    """(difference of the areas under two ROC curves, its standard error), of scores (rows,) of the same rows.

    DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988), by midranks as in Sun & Xu, IEEE Signal Processing Letters
    21(11) (2014): the structural components are ranks among all rows less ranks within the class. Two rows of each
    class at least.
    """
    positives, others = int(positive.sum()), int((~positive).sum())
    by_positive, by_other = [], []
    for score in (ours, theirs):
        ranks = rankdata(score)
        by_positive.append((ranks[positive] - rankdata(score[positive])) / others)
        by_other.append(1 - (ranks[~positive] - rankdata(score[~positive])) / positives)
    gain = by_positive[0] - by_positive[1]
    variance = gain.var(ddof=1) / positives + (by_other[0] - by_other[1]).var(ddof=1) / others
    return float(gain.mean()), float(np.sqrt(variance))


def two_sided(difference: float, error: float) -> float:
    """Probability of a normal difference at least this large when there is none."""
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * norm.sf(abs(difference) / error))


def mcnemar(ours: Bools, theirs: Bools) -> tuple[int, int, float]:
    """(rows that only we answer rightly, that only they do, exact two-sided probability of this when they are equal).

    McNemar, Psychometrika 12 (1947), by the binomial distribution of the discordant rows.
    """
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return won, lost, float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
