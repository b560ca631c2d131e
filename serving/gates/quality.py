"""Gate quality: the served answers hold the spec's bounds on the held-out rows, and beat an answer that reads none."""

from __future__ import annotations

import numpy as np

from pipeline.dataset import MIN_HOLDOUT
from pipeline.gate_rules import LOWER_IS_BETTER, Metric
from pipeline.metrics import better, one_score, scores
from pipeline.refs import NO_SKILL, Verdict
from serving.gates.base import Gate

# One answer for all rows is perfect by these: it has every positive, it is calibrated. Others tell it from a model.
_INSTEAD: dict[str, Metric] = {"recall": "balanced_accuracy", "ece": "log_loss"}


class QualityGate(Gate):
    """A metric that cannot be computed is out of bounds; a model no better than one answer for all rows is no model."""

    name = "quality"

    def judge(self) -> Verdict:
        """Compare each declared metric with its bound."""
        spec, bounds = self.evidence.spec, self.evidence.spec.gates.quality
        found = scores(self.evidence.schema, self.evidence.target, self.evidence.served)
        primary = found.get(spec.primary)
        if problem := self._too_little():
            return self.refused(f"{problem}; bring more rows, or a larger split.holdout", **found)
        if primary is None:
            return self.refused(f"{spec.primary} is undefined on the served answers", **found)
        skill = _INSTEAD.get(spec.primary, spec.primary)
        blind = self._blind(skill)
        checks = [(name, found.get(name), bound, 1) for name, bound in bounds.at_least.items()]
        checks += [(name, found.get(name), bound, -1) for name, bound in bounds.at_most.items()]
        failed = [check for check in checks if check[1] is None or check[3] * check[1] < check[3] * check[2]]
        texts = [
            f"{name} {'undefined' if value is None else format(value, '.4f')}, "
            f"{'at least' if sign > 0 else 'at most'} {bound:g} is asked"
            for name, value, bound, sign in failed
        ]
        if not better(skill, found.get(skill, np.nan), blind):
            has = f"{skill} {found.get(skill, np.nan):.4f}"
            texts = [f"{has} is no better than {blind:.4f}, which one answer for all rows has", *texts]
            failed = [(skill, found.get(skill), blind, 1), *failed]
        found[NO_SKILL] = blind
        if failed:
            return self.refused("; ".join(texts), observed=failed[0][1], bound=failed[0][2], **found)
        if not checks:
            text = f"{spec.primary} {primary:.4f}; {skill} of one answer for all rows is {blind:.4f}"
            return self.passed(text, observed=found[skill], bound=blind, **found)
        _, value, bound, _ = checks[0]
        held = ", ".join(f"{one} {observed:.4f}" for one, observed, _, _ in checks)
        return self.passed(held, observed=value, bound=bound, **found)

    def _too_little(self) -> str:
        """Why these rows cannot say how good a model is; empty when they can."""
        classes, target = self.evidence.schema.classes, self.evidence.target
        if len(target) < MIN_HOLDOUT:
            return f"{len(target)} held-out rows, {MIN_HOLDOUT} are asked"
        absent = [repr(name) for at, name in enumerate(classes) if not (target == at).any()]
        return f"no held-out row is of class {', '.join(absent)}" if absent else ""

    def _blind(self, metric: Metric) -> float:
        """The best value that answering every row alike can have: each class, their shares, the mean, the median."""
        schema, target = self.evidence.schema, self.evidence.target
        if schema.classes:
            classes = len(schema.classes)
            shares = np.bincount(target.astype(np.int64), minlength=classes) / len(target)
            answers = [*np.eye(classes), shares]
        else:
            answers = [np.array([target.mean()]), np.array([np.median(target)])]
        alike = [one_score(schema, metric, target, np.tile(answer, (len(target), 1))) for answer in answers]
        return float(np.nanmin(alike) if metric in LOWER_IS_BETTER else np.nanmax(alike))
