"""Metrics of answers against the truth: one definition for tuning, evaluation and gates."""

from __future__ import annotations

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
    if not len(target) or not np.isfinite(output).all():
        return {}
    if schema.task == "regression":
        return _regression(target, output[:, 0].astype(np.float64))
    truth = target.astype(np.int64)
    return _classification(truth, output.astype(np.float64), len(schema.classes))


def _regression(truth: Floats, answer: Floats) -> dict[str, float]:
    found = {
        "rmse": float(sk.root_mean_squared_error(truth, answer)),
        "mae": float(sk.mean_absolute_error(truth, answer)),
    }
    if len(truth) > 1 and np.ptp(truth) > 0:
        found["r2"] = float(sk.r2_score(truth, answer))
    return found


def _classification(truth: npt.NDArray[np.int64], answer: Floats, classes: int) -> dict[str, float]:
    probabilities = answer / answer.sum(axis=1, keepdims=True)
    label = probabilities.argmax(axis=1)
    average = "binary" if classes == 2 else "macro"
    found = {
        "accuracy": float(sk.accuracy_score(truth, label)),
        "f1": float(sk.f1_score(truth, label, average=average, zero_division=0)),
        "log_loss": float(sk.log_loss(truth, probabilities, labels=list(range(classes)))),
        "ece": expected_calibration_error(truth, probabilities),
    }
    present = np.unique(truth)
    if len(present) > 1:
        recalls = [float((label[truth == one] == one).mean()) for one in present]
        found["balanced_accuracy"] = float(np.mean(recalls))
    if classes == 2:
        found["precision"] = float(sk.precision_score(truth, label, zero_division=0))
        found["recall"] = float(sk.recall_score(truth, label, zero_division=0))
        found["brier"] = float(np.mean((probabilities[:, 1] - truth) ** 2))
        if len(present) == 2:
            found["roc_auc"] = float(sk.roc_auc_score(truth, probabilities[:, 1]))
            found["average_precision"] = float(sk.average_precision_score(truth, probabilities[:, 1]))
    elif len(present) == classes:
        found["roc_auc"] = float(sk.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"))
    return {name: value for name, value in found.items() if np.isfinite(value)}


def expected_calibration_error(truth: npt.NDArray[np.int64], probabilities: Floats) -> float:
    """Mean |confidence - accuracy| over equal-width bins of the highest probability (Guo et al., ICML 2017)."""
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == truth
    which = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    gap = np.abs(
        np.bincount(which, weights=confidence, minlength=ECE_BINS) - np.bincount(which, weights=hit, minlength=ECE_BINS)
    )
    return float(gap.sum() / len(truth))
