"""Metrics of answers against the truth: one definition for tuning, evaluation and gates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from pipeline.columns import RowSchema
from pipeline.gate_rules import LOWER_IS_BETTER, Metric

Floats = npt.NDArray[np.floating]
ECE_BINS = 15


def better(metric: Metric, a: float, b: float) -> bool:
    """Whether `a` is a strictly better value of the metric than `b`. NaN is never better."""
    return a < b if metric in LOWER_IS_BETTER else a > b


def scores(schema: RowSchema, target: Floats, output: Floats) -> dict[str, float]:
    """Every metric of the task that these rows can answer, by name.

    `target`: (rows,) from `encode_target`; `output`: (rows, width), probabilities or predictions. A metric that is
    undefined on these rows (one class only, a NaN in the output) is absent, so that a gate on it refuses.
    """
    found = {name: value() for name, value in _values(schema, target, output).items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def one_score(schema: RowSchema, metric: Metric, target: Floats, output: Floats) -> float:
    """One of `scores`, for who asks often and wants no other; NaN where that has none."""
    value = _values(schema, target, output).get(metric, lambda: np.nan)()
    return value if np.isfinite(value) else np.nan


def _values(schema: RowSchema, target: Floats, output: Floats) -> dict[str, Callable[[], float]]:
    """How each metric that these rows can answer is computed."""
    if not len(target) or not np.isfinite(output).all():
        return {}
    if schema.task == "regression":
        return _regression(target, output[:, 0].astype(np.float64))
    truth = target.astype(np.int64)
    return _classification(truth, output.astype(np.float64), len(schema.classes))


def _regression(truth: Floats, answer: Floats) -> dict[str, Callable[[], float]]:
    found: dict[str, Callable[[], float]] = {
        "rmse": lambda: float(sk.root_mean_squared_error(truth, answer)),
        "mae": lambda: float(sk.mean_absolute_error(truth, answer)),
    }
    if len(truth) > 1 and np.ptp(truth) > 0:
        found["r2"] = lambda: float(sk.r2_score(truth, answer))
    return found


def _classification(truth: npt.NDArray[np.int64], answer: Floats, classes: int) -> dict[str, Callable[[], float]]:
    probabilities = answer / answer.sum(axis=1, keepdims=True)
    label = probabilities.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"
    present = np.unique(truth)
    found: dict[str, Callable[[], float]] = {
        "accuracy": lambda: float(sk.accuracy_score(truth, label)),
        "f1": lambda: float(sk.f1_score(truth, label, average=average, zero_division=0)),
        "log_loss": lambda: float(sk.log_loss(truth, probabilities, labels=list(range(classes)))),
        "ece": lambda: expected_calibration_error(truth, probabilities),
    }
    if len(present) > 1:
        found["balanced_accuracy"] = lambda: float(np.mean([(label[truth == one] == one).mean() for one in present]))
    if classes == 2:
        found["precision"] = lambda: float(sk.precision_score(truth, label, zero_division=0))
        found["recall"] = lambda: float(sk.recall_score(truth, label, zero_division=0))
        found["brier"] = lambda: float(np.mean((probabilities[:, 1] - truth) ** 2))
        if len(present) == 2:
            found["roc_auc"] = lambda: float(sk.roc_auc_score(truth, probabilities[:, 1]))
            found["average_precision"] = lambda: float(sk.average_precision_score(truth, probabilities[:, 1]))
    elif len(present) == classes:
        found["roc_auc"] = lambda: float(sk.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"))
    return found


def expected_calibration_error(truth: npt.NDArray[np.int64], probabilities: Floats) -> float:
    """Mean |confidence - accuracy| over equal-width bins of the highest probability (Guo et al., ICML 2017)."""
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gap = np.abs(
        np.bincount(which, weights=confidence, minlength=ECE_BINS) - np.bincount(which, weights=hit, minlength=ECE_BINS)
    )
    return float(gap.sum() / len(truth))
