"""Gate champion: not worse than what serves, on the same rows, by more than the margin, with confidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.gate_rules import LOWER_IS_BETTER
from pipeline.refs import Verdict
from pipeline.target import metric_unit
from serving.gates.base import Floats, Gate, table
from serving.gates.bootstrap import distribution, interval, value
from serving.gates.paired import delong, mcnemar, two_sided
from serving.gates.weighted import weighted

BINS = 40
_ALIKE = 1e-9  # of the largest gain: what differs by less is drawn as one
BY_LABEL = frozenset({"accuracy", "balanced_accuracy", "f1", "precision", "recall"})


class ChampionGate(Gate):
    """Paired bootstrap, stratified by class, of the primary metric's gain; a test in closed form stands beside it."""

    name = "champion"

    def judge(self) -> Verdict:
        """Non-inferiority: the interval's lower end of the gain is above minus the margin."""
        evidence, rule = self.evidence, self.evidence.spec.gates.champion
        champion = evidence.champion
        if champion is None:
            return self.passed("no champion serves yet")
        if champion.onnx_digest == evidence.onnx_digest:
            return self.refused(
                f"the graph of version {champion.version}, which serves already: a model is not compared with itself"
            )
        if champion.answers is None:
            return self.refused(f"champion {champion.version} could not be compared: {champion.problem}")
        fair = slice(None) if champion.unseen is None else champion.unseen
        target, served, answers = evidence.target[fair], evidence.served[fair], champion.answers[fair]
        rows = len(target)
        which = "held-out rows" if rows == len(evidence.target) else "held-out rows that the champion has not seen"
        if rows < rule.min_rows:
            return self.refused(f"{rows} {which}, {rule.min_rows} are asked", observed=rows, bound=rule.min_rows)
        metric, schema = evidence.spec.primary, evidence.schema
        pair = [weighted(schema, metric, target, one) for one in (served, answers)]
        ours, theirs = (value(one, rows) for one in pair)
        drawn = distribution(
            pair, target, stratified=bool(schema.classes), resamples=rule.resamples, seed=evidence.spec.seed
        )
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        gain, gains = sign * (ours - theirs), sign * (drawn[0] - drawn[1])
        low, high = interval(gains, rule.confidence)
        margin = rule.margin * metric_unit(schema, target, metric)
        other, more = self._second_opinion(target, served, answers)
        numbers = {
            "observed": low, "bound": -margin, "gain": gain, "gain_low": low, "gain_high": high, "margin": margin,
            "challenger": ours, "champion": theirs, **more,
        }  # fmt: skip
        most = float(np.abs(gains).max())
        room = 0.0 if np.ptp(gains) > most * _ALIKE else most * _ALIKE or 0.5  # there are no bins between equal numbers
        counts, edges = np.histogram(gains, bins=BINS, range=(gains.min() - room, gains.max() + room))
        share = zip(edges[:-1], edges[1:], counts / len(gains), strict=True)
        tables = (table("gains", ("from", "to", "share of resamples"), share),)
        text = (
            f"{metric} {ours:.4f} against {theirs:.4f} of version {champion.version}: gain {gain:+.4f}, "
            f"{rule.confidence:.0%} interval {low:+.4f} to {high:+.4f} on {rows} {which}{other}"
        )
        if low < -margin:
            return self.refused(f"{text}; worse than the margin {margin:g} allows", tables=tables, **numbers)
        return self.passed(text, tables=tables, **numbers)

    def _second_opinion(
        self, target: npt.NDArray[np.float64], ours: Floats, theirs: Floats
    ) -> tuple[str, dict[str, float]]:
        """What the test in closed form says, where the metric has one; it decides nothing."""
        metric = self.evidence.spec.primary
        if (
            metric == "roc_auc"
            and len(self.evidence.schema.classes) == 2
            and min(sum(target == 1), sum(target == 0)) > 1
        ):
            difference, error = delong(target == 1, ours[:, 1], theirs[:, 1])
            p = two_sided(difference, error)
            return f"; DeLong p {p:.3g}", {"delong_error": error, "delong_p": p}
        if metric in BY_LABEL:
            won, lost, p = mcnemar(ours.argmax(axis=1) == target, theirs.argmax(axis=1) == target)
            text = f"; {won} rows only the challenger has right, {lost} only the champion: McNemar p {p:.3g}"
            return text, {"mcnemar_won": won, "mcnemar_lost": lost, "mcnemar_p": p}
        return "", {}
