"""Metrics as functions of how often each row was drawn: what makes a thousand resamples a matter of a second.

The definitions are those of `pipeline/metrics.py`; a test compares them on rows that are really repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.columns import RowSchema
from pipeline.gate_rules import Metric
from pipeline.metrics import ECE_BINS

Floats = npt.NDArray[np.float64]
Weighted = Callable[[Floats], Floats]  # (resamples, rows) counts -> (resamples,) values, NaN where undefined


def weighted(schema: RowSchema, metric: Metric, target: npt.NDArray[np.floating], output: npt.ArrayLike) -> Weighted:
    """One metric of these rows, `target` (rows,) and `output` (rows, width), by how often each row counts.

    Raises:
        ValueError: rows and answers do not belong together, or an answer is not finite.
    """
    answer, truth = np.asarray(output, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if len(answer) != len(truth):
        raise ValueError(f"{len(answer)} answers to {len(truth)} rows")
    if not np.isfinite(answer).all():
        raise ValueError(f"{int((~np.isfinite(answer)).any(axis=1).sum())} answers are not finite")
    if schema.task == "regression":
        return _regression(metric, truth, answer[:, 0])
    with np.errstate(invalid="ignore", divide="ignore"):
        probabilities = answer / answer.sum(axis=1, keepdims=True)
    return _classification(metric, truth.astype(np.int64), probabilities, len(schema.classes))


def _regression(metric: Metric, truth: Floats, answer: Floats) -> Weighted:
    error = answer - truth
    if metric == "mae":
        return mean_of(np.abs(error))
    mean_square = mean_of(error**2)
    if metric == "rmse":
        return lambda counts: np.sqrt(mean_square(counts))
    from_mean = truth - truth.mean()
    mean, square = mean_of(from_mean), mean_of(from_mean**2)

    def r2(counts: Floats) -> Floats:
        spread = square(counts) - mean(counts) ** 2
        return 1 - _ratio(mean_square(counts), np.where(spread > 0, spread, np.nan))

    return r2


def _classification(metric: Metric, truth: npt.NDArray[np.int64], probabilities: Floats, classes: int) -> Weighted:
    label = probabilities.argmax(axis=1)
    if metric == "accuracy":
        return mean_of((label == truth).astype(np.float64))
    if metric == "log_loss":
        tiny = np.finfo(np.float64).eps
        return mean_of(-np.log(np.clip(probabilities[np.arange(len(truth)), truth], tiny, 1 - tiny)))
    if metric == "brier":
        return mean_of((probabilities[:, 1] - truth) ** 2)
    if metric == "ece":
        return _calibration_error(probabilities.max(axis=1), label == truth)
    if metric == "roc_auc":
        if classes == 2:
            return _roc_auc(truth == 1, probabilities[:, 1])
        each = [_roc_auc(truth == one, probabilities[:, one]) for one in range(classes)]
        return lambda counts: np.mean([area(counts) for area in each], axis=0)
    if metric == "average_precision":
        return _average_precision(truth == 1, probabilities[:, 1])
    return _by_label(metric, truth, label, classes)


def mean_of(values: Floats) -> Weighted:
    """The mean of a value that each row has, (rows,)."""
    return lambda counts: np.asarray(counts @ values / counts.sum(axis=1))


def _ratio(above: Floats, below: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(above / below)


def _by_label(metric: Metric, truth: npt.NDArray[np.int64], label: npt.NDArray[np.int64], classes: int) -> Weighted:
    """Metrics of the confusion matrix; a division by nought is 0, as in `pipeline/metrics.py`."""
    is_true, is_said = np.eye(classes)[truth], np.eye(classes)[label]

    def value(counts: Floats) -> Floats:
        hit, true, said = counts @ (is_true * is_said), counts @ is_true, counts @ is_said
        if metric == "balanced_accuracy":
            recall, present = np.nan_to_num(_ratio(hit, true)), (true > 0).sum(axis=1)
            return np.where(present > 1, _ratio(recall.sum(axis=1), present), np.nan)
        if metric == "precision":
            return np.nan_to_num(_ratio(hit, said))[:, 1]
        if metric == "recall":
            return np.nan_to_num(_ratio(hit, true))[:, 1]
        each = np.nan_to_num(_ratio(2 * hit, true + said))
        return each[:, 1] if classes == 2 else _ratio(each.sum(axis=1), (true + said > 0).sum(axis=1))

    return value


def _calibration_error(confidence: Floats, hit: npt.NDArray[np.bool_]) -> Weighted:
    which = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gap = np.eye(ECE_BINS)[which] * (confidence - hit)[:, None]
    return lambda counts: np.asarray(np.abs(counts @ gap).sum(axis=1) / counts.sum(axis=1))


def _sorted(positive: npt.NDArray[np.bool_], score: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """(positives, others) that were drawn of each distinct score, in rising order."""
    order = np.argsort(score, kind="stable")
    ranked, up = score[order], positive[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))

    def drawn(counts: Floats) -> tuple[Floats, Floats]:
        taken = counts[:, order]
        return np.add.reduceat(taken * up, first, axis=1), np.add.reduceat(taken * ~up, first, axis=1)

    return drawn


def _roc_auc(positive: npt.NDArray[np.bool_], score: Floats) -> Weighted:
    """Share of pairs in the right order, ties half (the Mann-Whitney U statistic; Hanley & McNeil 1982)."""
    drawn = _sorted(positive, score)

    def area(counts: Floats) -> Floats:
        ours, others = drawn(counts)
        below = others.cumsum(axis=1) - others / 2
        return _ratio((ours * below).sum(axis=1), ours.sum(axis=1) * others.sum(axis=1))

    return area


def _average_precision(positive: npt.NDArray[np.bool_], score: Floats) -> Weighted:
    """Mean over positives of the precision at their score, as scikit-learn defines it."""
    drawn = _sorted(positive, score)

    def area(counts: Floats) -> Floats:
        ours, others = drawn(counts)
        found = ours[:, ::-1].cumsum(axis=1)
        precision = np.nan_to_num(_ratio(found, found + others[:, ::-1].cumsum(axis=1)))
        undefined = (found[:, -1] == 0) | (others.sum(axis=1) == 0)
        return np.where(undefined, np.nan, _ratio((ours[:, ::-1] * precision).sum(axis=1), found[:, -1]))

    return area
