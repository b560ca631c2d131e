"""Gate parity: the server answers what the trained model answers, and what its graph answers in one process."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.gate_rules import Tolerance
from pipeline.refs import Verdict
from pipeline.target import answer_unit
from serving.gates.base import Floats, Gate, table


def rows_apart(ours: Floats, theirs: Floats, tolerance: Tolerance) -> tuple[int, float]:
    """How many rows of finite answers (rows, width) differ by more than the tolerance, and the largest difference."""
    gap = np.abs(ours.astype(np.float64) - theirs)
    excess = gap - (tolerance.atol + tolerance.rtol * np.abs(theirs.astype(np.float64)))
    return int((excess > 0).any(axis=1).sum()), float(gap.max())


class ParityGate(Gate):
    """Native, ONNX and served answers on every held-out row, within the declared tolerance of each other."""

    name = "parity"

    def judge(self) -> Verdict:
        """|a - b| <= atol + rtol * |b|, everywhere, for each pair; which pair differs tells where the fault is."""
        evidence = self.evidence
        tolerance = evidence.spec.gates.parity.in_units(answer_unit(evidence.schema, evidence.target))
        rows, found, worst = [], [], 0.0
        for name, ours, theirs in self._pairs():
            if ours.shape != theirs.shape:
                return self.refused(f"{name}: the answers have shapes {ours.shape} and {theirs.shape}")
            if not np.isfinite(ours).all():
                return self.refused(f"{name}: {int((~np.isfinite(ours)).any(axis=1).sum())} answers are not finite")
            apart, largest = rows_apart(ours, theirs, tolerance)
            worst = max(worst, largest)
            rows.append((name, float(apart), largest))
            if apart:
                found.append(f"{name}: {apart} of {len(ours)} rows differ, by {largest:.3g} at most")
        numbers = {"observed": worst, "bound": tolerance.atol, "rows": len(evidence.served)}
        numbers["rows_apart"] = max(apart for _, apart, _ in rows)
        tables = (table("pairs", ("answers", "rows apart", "largest difference"), rows),)
        if found:
            return self.refused("; ".join(found), tables=tables, **numbers)
        text = (
            f"{len(evidence.served)} rows agree ({', '.join(row[0] for row in rows)}), largest difference {worst:.2g}"
        )
        return self.passed(text, tables=tables, **numbers)

    def _pairs(self) -> Iterator[tuple[str, Floats, Floats]]:
        """What is held against what: the whole way first, then its two halves."""
        evidence = self.evidence
        yield "served and native", evidence.served, evidence.native
        if evidence.onnx is not None:
            yield "ONNX and native", evidence.onnx, evidence.native
            yield "served and ONNX", evidence.served, evidence.onnx
