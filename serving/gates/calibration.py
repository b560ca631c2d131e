"""Gate calibration: probabilities are what they say; a regression does not err to one side."""

from __future__ import annotations

import numpy as np

from pipeline.metrics import ECE_BINS
from pipeline.refs import Table, Verdict
from pipeline.target import answer_unit
from serving.gates.base import Floats, Gate, table
from serving.gates.bootstrap import distribution, interval, value
from serving.gates.weighted import mean_of, weighted

RESAMPLES = 2000
PARTS = 10  # of a regression's rows, by prediction
_RANGE, _SUM = 1e-6, 1e-3  # what float32 may do to a probability, and to a row of them


def improper(answers: Floats) -> int:
    """How many rows of (rows, classes) are no probabilities: out of [0, 1], or not summing to 1 within 1e-3."""
    out = (answers < -_RANGE) | (answers > 1 + _RANGE) | ~np.isfinite(answers)
    return int((out.any(axis=1) | ~(np.abs(answers.sum(axis=1, dtype=np.float64) - 1) <= _SUM)).sum())


class CalibrationGate(Gate):
    """Expected calibration error, or mean error, with a bootstrap interval: refused when all of it is too large."""

    name = "calibration"

    def judge(self) -> Verdict:
        """The interval's end that is nearer to no error, against the bound."""
        return self._classes() if self.evidence.schema.classes else self._numbers()

    def _classes(self) -> Verdict:
        evidence, rule = self.evidence, self.evidence.spec.gates.calibration
        served, rows = evidence.served, len(evidence.target)
        if wrong := improper(served):
            return self.refused(f"{wrong} of {rows} answers are no probabilities", observed=wrong, bound=0)
        statistic = weighted(evidence.schema, "ece", evidence.target, served)
        error = value(statistic, rows)
        drawn = distribution(
            [statistic], evidence.target, stratified=False, resamples=RESAMPLES, seed=evidence.spec.seed
        )[0]
        # Noise alone gives each bin a gap, and drawing rows adds the same once more: the basic interval takes it off
        # (Davison & Hinkley, Bootstrap Methods and their Application, 1997, 5.2).
        below, above = interval(drawn, rule.confidence)
        low, high = max(0.0, 2 * error - above), max(0.0, 2 * error - below)
        numbers = {"observed": low, "bound": rule.max_error, "ece": error, "ece_low": low, "ece_high": high}
        text = (
            f"expected calibration error {error:.4f}, {rule.confidence:.0%} interval without the noise of the bins "
            f"{low:.4f} to {high:.4f}"
        )
        if rows < rule.min_rows:
            text = f"{text}; {rows} rows are too few to judge by, {rule.min_rows} are asked"
        elif low > rule.max_error:
            return self.refused(f"{text}; {rule.max_error:g} is allowed", tables=(self._reliability(),), **numbers)
        return self.passed(text, tables=(self._reliability(),), **numbers)

    def _numbers(self) -> Verdict:
        evidence, rule = self.evidence, self.evidence.spec.gates.calibration
        rows, answers = len(evidence.target), evidence.served[:, 0].astype(np.float64)
        if not np.isfinite(answers).all():
            return self.refused(f"{int((~np.isfinite(answers)).sum())} of {rows} answers are not finite")
        statistic = mean_of((answers - evidence.target) / answer_unit(evidence.schema, evidence.target))
        error = value(statistic, rows)
        drawn = distribution(
            [statistic], evidence.target, stratified=False, resamples=RESAMPLES, seed=evidence.spec.seed
        )[0]
        low, high = interval(drawn, rule.confidence)
        nearest = max(low, -high, 0.0)
        numbers = {"observed": nearest, "bound": rule.max_error, "error": error, "error_low": low, "error_high": high}
        text = (
            f"mean error {error:+.4f} target standard deviations, {rule.confidence:.0%} interval "
            f"{low:+.4f} to {high:+.4f}"
        )
        tables = (self._deciles(answers),)
        if rows < rule.min_rows:
            text = f"{text}; {rows} rows are too few to judge by, {rule.min_rows} are asked"
        elif nearest > rule.max_error:
            return self.refused(f"{text}; {rule.max_error:g} is allowed", tables=tables, **numbers)
        return self.passed(text, tables=tables, **numbers)

    def _reliability(self) -> Table:
        """Of two classes by the positive one's probability, of more by the highest."""
        served, target = self.evidence.served.astype(np.float64), self.evidence.target
        if len(self.evidence.schema.classes) == 2:
            said, happened = served[:, 1], target == 1
        else:
            said, happened = served.max(axis=1), served.argmax(axis=1) == target
        which = np.minimum((said * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        found = [
            (f"{at / ECE_BINS:.2f} to {(at + 1) / ECE_BINS:.2f}", (which == at).sum(), said[which == at].mean(),
             happened[which == at].mean())
            for at in np.unique(which)
        ]  # fmt: skip
        return table("reliability", ("predicted", "rows", "mean predicted", "observed share"), found)

    def _deciles(self, answers: np.ndarray) -> Table:
        parts = np.array_split(np.argsort(answers, kind="stable"), min(PARTS, len(answers)))
        found = [
            (str(at), len(part), answers[part].mean(), self.evidence.target[part].mean())
            for at, part in enumerate(parts, start=1)
        ]
        return table("deciles", ("part by prediction", "rows", "mean predicted", "mean observed"), found)
