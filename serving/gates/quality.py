"""Gate quality: the served answers hold the spec's bounds on the held-out rows."""

from __future__ import annotations

from pipeline.metrics import scores
from pipeline.refs import Verdict
from serving.gates.base import Gate


class QualityGate(Gate):
    """A metric that cannot be computed is out of bounds."""

    name = "quality"

    def judge(self) -> Verdict:
        """Compare each declared metric with its bound."""
        spec, bounds = self.evidence.spec, self.evidence.spec.gates.quality
        found = scores(self.evidence.schema, self.evidence.target, self.evidence.served)
        primary = found.get(spec.primary)
        if primary is None:
            return self.refused(f"{spec.primary} is undefined on the served answers", **found)
        checks = [(name, found.get(name), bound, 1) for name, bound in bounds.at_least.items()]
        checks += [(name, found.get(name), bound, -1) for name, bound in bounds.at_most.items()]
        failed = [
            (name, value, bound, sign)
            for name, value, bound, sign in checks
            if value is None or sign * value < sign * bound
        ]
        if failed:
            texts = [
                f"{name} {'undefined' if value is None else format(value, '.4f')}, "
                f"{'at least' if sign > 0 else 'at most'} {bound:g} is asked"
                for name, value, bound, sign in failed
            ]
            return self.refused("; ".join(texts), observed=failed[0][1], bound=failed[0][2], **found)
        if not checks:
            return self.passed(f"{spec.primary} {primary:.4f}; the spec declares no bound", observed=primary, **found)
        _, value, bound, _ = checks[0]
        held = ", ".join(f"{one} {observed:.4f}" for one, observed, _, _ in checks)
        return self.passed(held, observed=value, bound=bound, **found)
