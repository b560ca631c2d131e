"""Gate champion: not worse than what serves, on the same rows, by more than the margin, with confidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.gate_rules import LOWER_IS_BETTER
from pipeline.metrics import statistic
from pipeline.refs import Verdict
from serving.gates.base import Gate


class ChampionGate(Gate):
    """Paired bootstrap, stratified by class, of the primary metric's gain (Efron & Tibshirani 1993, percentile)."""

    name = "champion"

    def judge(self) -> Verdict:
        """Non-inferiority: the interval's lower end of the gain is above minus the margin."""
        evidence, rule = self.evidence, self.evidence.spec.gates.champion
        champion = evidence.champion
        if champion is None:
            return self.passed("no champion serves yet")
        if champion.answers is None:
            return self.refused(f"champion {champion.version} could not be compared: {champion.problem}")
        rows = len(evidence.target)
        if rows < rule.min_rows:
            return self.refused(f"{rows} held-out rows, {rule.min_rows} are asked", observed=rows, bound=rule.min_rows)
        metric = evidence.spec.primary
        measure, sign = statistic(evidence.schema, metric), -1.0 if metric in LOWER_IS_BETTER else 1.0
        ours, theirs = measure(evidence.target, evidence.served), measure(evidence.target, champion.answers)
        gain = sign * (ours - theirs)
        gains = []
        for take in resamples(evidence.target, bool(evidence.schema.classes), rule.resamples, evidence.spec.seed):
            target = evidence.target[take]
            gains.append(sign * (measure(target, evidence.served[take]) - measure(target, champion.answers[take])))
        tail = (1 - rule.confidence) / 2
        low, high = np.quantile(gains, [tail, 1 - tail])
        numbers = {
            "observed": low,
            "bound": -rule.margin,
            "gain": gain,
            "gain_low": low,
            "gain_high": high,
            "challenger": ours,
            "champion": theirs,
        }
        same = " (the same graph)" if champion.onnx_digest == evidence.onnx_digest else ""
        text = (
            f"{metric} {ours:.4f} against {theirs:.4f} of version {champion.version}{same}: gain {gain:+.4f}, "
            f"{rule.confidence:.0%} interval {low:+.4f} to {high:+.4f}"
        )
        if not np.isfinite([gain, low, high]).all():
            return self.refused(f"{metric} is undefined on resampled rows", **numbers)
        if low < -rule.margin:
            return self.refused(f"{text}; worse than the margin {rule.margin:g} allows", **numbers)
        return self.passed(text, **numbers)


def resamples(target: npt.NDArray[np.float64], stratified: bool, count: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Row numbers drawn with replacement, `count` times; within each class when `stratified`."""
    random = np.random.default_rng(seed)
    strata = (
        [np.flatnonzero(target == label) for label in np.unique(target)] if stratified else [np.arange(len(target))]
    )
    return [np.concatenate([random.choice(rows, len(rows)) for rows in strata]) for _ in range(count)]
