"""Gate robustness: small changes, missing fields and new categories move the answers little; directions are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP
from pipeline.directions import meant
from pipeline.errors import Invalid
from pipeline.gate_rules import Direction
from pipeline.refs import Verdict
from pipeline.target import answer_unit
from pipeline.tensors import MISSING_TIMESTAMP, Tensors
from serving.gates.base import Floats, Gate, table
from serving.gates.calibration import improper

COLUMNS = ("probe", "rows", "mean change", "worst", "share kept", "bound", "verdict")


@dataclass(frozen=True)
class _Found:
    """What one probe gave: `observed` is a mean change, or the share of rows that keep a direction."""

    probe: str
    text: str
    rows: int
    mean: float
    worst: float
    bound: float
    kept: float | None = None
    wrong: int = 0  # answers that are none

    @property
    def held(self) -> bool:
        if self.wrong:
            return False
        return self.mean <= self.bound if self.kept is None else self.kept >= self.bound

    @property
    def observed(self) -> float:
        return self.mean if self.kept is None else self.kept


class RobustnessGate(Gate):
    """Held-out rows are bent in declared ways, and the server is asked again.

    A change is the largest of a row's probabilities, or the prediction's in target standard deviations.
    """

    name = "robustness"

    def judge(self) -> Verdict:
        """Every probe within its bound, every answer a proper one."""
        if wrong := self._improper(self.evidence.served):
            return self.refused(f"{wrong} of {len(self.evidence.served)} answers to the rows as they are are none")
        found = [*self._bent(), *(self._direction(one) for one in self.evidence.spec.gates.robustness.directions)]
        if not found:
            return self.passed("no column can be bent")
        failed = [one for one in found if not one.held]
        shown = failed[0] if failed else found[0]
        rows = [
            (one.probe, one.rows, one.mean, one.worst, one.kept, one.bound, "held" if one.held else "broken")
            for one in found
        ]
        numbers = {one.probe.replace(" ", "_"): one.observed for one in found}
        numbers |= {"observed": shown.observed, "bound": shown.bound}
        tables = (table("probes", COLUMNS, rows),)
        if failed:
            return self.refused("; ".join(one.text for one in failed), tables=tables, **numbers)
        return self.passed("; ".join(one.text for one in found), tables=tables, **numbers)

    def _bent(self) -> Iterator[_Found]:
        """The probes that every model gets, for the columns that it has."""
        rule, tensors = self.evidence.spec.gates.robustness, self.evidence.tensors
        if self._spread().any():
            text = f"numbers moved by {rule.noise:g} standard deviations"
            yield self._probe("noise", text, self._noise, rule.mean_change)
        if rule.missing:
            yield self._probe(
                "missing", f"{rule.missing:.0%} of the fields missing", self._missing, rule.missing_change
            )
        if CATEGORICAL in tensors:
            yield self._probe("unseen", "categories never seen", self._unseen, rule.unseen_change)

    def _probe(self, name: str, what: str, bend: Callable[[Tensors], Tensors], bound: float) -> _Found:
        answers = self.evidence.ask(bend(self.evidence.tensors))
        wrong, rows = self._improper(answers), len(answers)
        if wrong:
            text = f"{what}: {wrong} of {rows} answers are none"
            return _Found(name, text, rows, np.nan, np.nan, bound, wrong=wrong)
        change = np.abs(answers.astype(np.float64) - self.evidence.served).max(axis=1) / self._unit()
        mean, worst = float(change.mean()), float(change.max())
        text = f"{what} change the answer by {mean:.4f} on average, {worst:.3f} at most"
        text += "" if mean <= bound else f"; {bound:g} is allowed"
        return _Found(name, text, rows, mean, worst, bound)

    def _noise(self, tensors: Tensors) -> Tensors:
        numbers = tensors[NUMERIC].astype(np.float64)
        draw = np.random.default_rng(self.evidence.spec.seed).normal(size=numbers.shape)
        noise = self.evidence.spec.gates.robustness.noise
        return {**tensors, NUMERIC: (numbers + noise * self._spread() * draw).astype(np.float32)}

    def _missing(self, tensors: Tensors) -> Tensors:
        draw = np.random.default_rng(self.evidence.spec.seed)
        share = self.evidence.spec.gates.robustness.missing
        empty: dict[str, Any] = {NUMERIC: np.nan, CATEGORICAL: "", TIMESTAMP: MISSING_TIMESTAMP}
        bent = {name: values.copy() for name, values in tensors.items()}
        for name, values in bent.items():
            values[draw.random(values.shape) < share] = empty[name]
        return bent

    def _unseen(self, tensors: Tensors) -> Tensors:
        known = tensors[CATEGORICAL]
        new = "never seen"
        while (known == new).any():
            new += "!"
        return {**tensors, CATEGORICAL: np.where(known == "", "", new).astype(object)}

    def _direction(self, rule: Direction) -> _Found:
        """Raise the column and look which way each row's answer goes; a row without a value says nothing."""
        at, about = meant(rule, self.evidence.schema)
        tensors = self.evidence.tensors
        raised = tensors[NUMERIC].astype(np.float64)
        with_value = np.isfinite(raised[:, at])
        raised[:, at] += rule.by * self._spread()[at]
        answers = self.evidence.ask({**tensors, NUMERIC: raised.astype(np.float32)})
        probe = f"{rule.column} {rule.answer}"
        if wrong := self._improper(answers):
            return _Found(
                probe, f"{probe}: {wrong} answers are none", len(answers), np.nan, np.nan, rule.share, 0.0, wrong
            )
        change = (answers[:, about].astype(np.float64) - self.evidence.served[:, about])[with_value] / self._unit()
        if not len(change):
            remedy = "bring rows that have, or remove the direction"
            raise Invalid("no held-out row has a value", f"column {rule.column!r}", remedy)
        same = self.evidence.spec.gates.parity.atol  # nearer than this are equal answers of two batches
        kept = {"rises": change >= -same, "falls": change <= same, "stays": np.abs(change) <= same}[rule.answer]
        share, mean = float(kept.mean()), float(change.mean())
        text = (
            f"the answer {rule.answer} with {rule.column} (raised by {rule.by:g} of its standard deviation) "
            f"in {share:.1%} of the rows, by {mean:+.4f} on average"
        )
        text += "" if share >= rule.share else f"; {rule.share:.0%} are asked"
        return _Found(probe, text, len(change), mean, float(change[np.abs(change).argmax()]), rule.share, share)

    def _spread(self) -> np.ndarray:
        """(numbers and booleans,) float64: standard deviations; 0 of a boolean, which does not move a little."""
        schema = self.evidence.schema
        if NUMERIC not in self.evidence.tensors:
            return np.zeros(0)
        numbers = self.evidence.tensors[NUMERIC].astype(np.float64)
        known = np.isfinite(numbers)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, numbers, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(known, numbers - mean, 0) ** 2).sum(axis=0) / count)
        moving = np.array([name in schema.names("number") for name in schema.numeric])
        return np.where(moving, spread, 0.0)

    def _unit(self) -> float:
        return answer_unit(self.evidence.schema, self.evidence.target)

    def _improper(self, answers: Floats) -> int:
        if self.evidence.schema.classes:
            return improper(answers)
        return int((~np.isfinite(answers)).any(axis=1).sum())
