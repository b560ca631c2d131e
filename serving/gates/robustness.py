"""Gate robustness: small changes of the numbers move the answers little."""

from __future__ import annotations

import numpy as np

from pipeline.columns import NUMERIC
from pipeline.refs import Verdict
from pipeline.target import answer_unit
from serving.gates.base import Gate


class RobustnessGate(Gate):
    """Every number moves by a normal draw of `noise` standard deviations of its column; categories stay."""

    name = "robustness"

    def judge(self) -> Verdict:
        """Mean over rows of the largest change of a probability, or of the prediction in target standard deviations."""
        evidence, rule = self.evidence, self.evidence.spec.gates.robustness
        if NUMERIC not in evidence.tensors:
            return self.passed("no column is a number, so there is none to move")
        numbers = evidence.tensors[NUMERIC].astype(np.float64)
        columns = evidence.schema.numeric
        moving = np.array([column.kind == "number" for column in evidence.schema.columns if column.name in columns])
        with np.errstate(invalid="ignore"):
            spread = np.where(
                moving, np.nan_to_num(np.nanstd(np.where(np.isfinite(numbers), numbers, np.nan), axis=0)), 0.0
            )
        draw = np.random.default_rng(evidence.spec.seed).normal(size=numbers.shape)
        moved = (numbers + rule.noise * spread * draw).astype(np.float32)
        answers = evidence.ask({**evidence.tensors, NUMERIC: moved})
        change = np.abs(answers.astype(np.float64) - evidence.served).max(axis=1)
        change = change / answer_unit(evidence.schema, evidence.target)
        mean, worst = float(change.mean()), float(change.max())
        text = f"numbers moved by {rule.noise:g} standard deviations change the answer by {mean:.4f} on average"
        found = {"observed": mean, "bound": rule.mean_change, "worst": worst}
        if not mean <= rule.mean_change:  # NaN is refused
            return self.refused(f"{text}, {rule.mean_change:g} is allowed", **found)
        return self.passed(f"{text}, {worst:.3f} at most", **found)
