"""Gate parity: the server answers what the trained model answers."""

from __future__ import annotations

import numpy as np

from pipeline.refs import Verdict
from pipeline.target import answer_unit
from serving.gates.base import Gate


class ParityGate(Gate):
    """Served against native answers on every held-out row, within the declared tolerance."""

    name = "parity"

    def judge(self) -> Verdict:
        """|served - native| <= atol + rtol * |native|, everywhere."""
        served, native = self.evidence.served, self.evidence.native
        unit = answer_unit(self.evidence.schema, self.evidence.target)
        tolerance = self.evidence.spec.gates.parity.in_units(unit)
        if served.shape != native.shape:
            return self.refused(f"served answers have shape {served.shape}, the model's {native.shape}")
        if not np.isfinite(served).all():
            return self.refused(f"{int((~np.isfinite(served)).any(axis=1).sum())} served answers are not finite")
        gap = np.abs(served.astype(np.float64) - native)
        excess = gap - (tolerance.atol + tolerance.rtol * np.abs(native.astype(np.float64)))
        wrong = int((excess > 0).any(axis=1).sum())
        numbers = {"observed": float(gap.max()), "bound": tolerance.atol, "rows": len(served), "rows_apart": wrong}
        if wrong:
            return self.refused(f"{wrong} of {len(served)} rows differ, by {gap.max():.3g} at most", **numbers)
        return self.passed(f"{len(served)} rows agree, largest difference {gap.max():.2g}", **numbers)
