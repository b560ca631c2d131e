"""Gate leakage: held-out rows are not answered better than rows of tuning were; a model that does has seen them."""

from __future__ import annotations

import math

import numpy as np

from pipeline.gate_rules import LOWER_IS_BETTER, Metric
from pipeline.refs import Verdict
from serving.gates.base import Gate
from serving.gates.bootstrap import distribution, value
from serving.gates.weighted import weighted

RESAMPLES = 2000
BY_CLASS = frozenset({"roc_auc", "average_precision", "balanced_accuracy", "f1", "precision", "recall"})


class LeakageGate(Gate):
    """Upper end of the held-out error (one-sided bootstrap) against a share of the validation error.

    Tuning's best trial is chosen by its error, so its error is too small rather than too large: that makes the gate
    milder, never stricter. Validation rows are a sample as well; the interval is widened by their number.
    """

    name = "leakage"

    def judge(self) -> Verdict:
        """Refuse an error that is below `share` of the validation's with its upper end."""
        evidence, rule = self.evidence, self.evidence.spec.gates.leakage
        metric, validation = evidence.spec.primary, evidence.validation
        if validation is None:
            return self.refused(f"the validation's {metric} is not known, so nothing can be compared with it")
        target, rows, stratified = evidence.target, len(evidence.target), bool(evidence.schema.classes)
        statistic = weighted(evidence.schema, metric, target, evidence.served)
        drawn = distribution([statistic], target, stratified=stratified, resamples=RESAMPLES, seed=evidence.spec.seed)[
            0
        ]
        sign, offset = (1.0, 0.0) if metric in LOWER_IS_BETTER else (-1.0, 1.0)
        error, known = offset + sign * value(statistic, rows), offset + sign * validation.value
        wider = math.sqrt(1 + rows / validation.rows)
        high = error + wider * (float(np.quantile(offset + sign * drawn, rule.confidence)) - error)
        high += self._unseen(metric, rule.confidence)
        bound = rule.share * known
        numbers = {"observed": high, "bound": bound, "error": error, "error_high": high, "validation_error": known}
        text = (
            f"held-out error {error:.4f} (by {metric}), at most {high:.4f} with {rule.confidence:.0%} confidence, "
            f"against {known:.4f} in tuning"
        )
        if rows < rule.min_rows:
            return self.passed(f"{text}; {rows} rows are too few to judge by, {rule.min_rows} are asked", **numbers)
        if high < bound:
            return self.refused(
                f"{text}; below {rule.share:g} of it: the model seems to have seen held-out rows", **numbers
            )
        return self.passed(text, **numbers)

    def _unseen(self, metric: Metric, confidence: float) -> float:
        """Error that may be there although none of the rows shows it: a resample of perfect answers is perfect.

        With confidence c, what n rows do not show happens to less than -ln(1 - c) / n of all (the rule of three;
        Hanley & Lippman-Hand, JAMA 249, 1983). Each such row is a wrong answer, which costs 1 by most metrics.
        """
        if not self.evidence.schema.classes:
            return 0.0
        counts = np.bincount(self.evidence.target.astype(np.int64))
        rows = counts[counts > 0].min() if metric in BY_CLASS else counts.sum()
        return min(1.0, -math.log(1 - confidence) / float(rows)) * self._wrong(metric)

    def _wrong(self, metric: Metric) -> float:
        """What a wrong answer costs on average, by the probabilities that the model itself gives to being wrong."""
        if metric not in ("log_loss", "brier"):
            return 1.0
        served = np.clip(self.evidence.served.astype(np.float64), 1e-15, 1.0)
        others = np.sort(served, axis=1)[:, :-1]
        cost = -np.log(others) if metric == "log_loss" else (1 - others) ** 2
        return float((others * cost).sum() / others.sum())
