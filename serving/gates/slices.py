"""Gate slices: no group of rows is left behind, by the primary metric and by declared measures of fairness."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import Invalid, Problem
from pipeline.gate_rules import LOWER_IS_BETTER
from pipeline.refs import Verdict
from pipeline.suggest import near
from pipeline.target import metric_unit
from serving.gates.base import Gate, table
from serving.gates.bootstrap import distribution, interval, value
from serving.gates.fairness import measure, unfair
from serving.gates.groups import groups, in_order
from serving.gates.weighted import Weighted, weighted

RESAMPLES = (1000, 5000)  # at least, at most: the more groups, the farther out their intervals' ends
SHOWN = 40  # groups of a column that are shown, the largest first
COLUMNS = ("column", "group", "rows", "metric", "low", "high", "verdict")


@dataclass
class _Group:
    """Rows that share a value of a column, and what is said of them; `low` and `high` are NaN when not judged."""

    column: str
    name: str
    rows: npt.NDArray[np.intp]
    metric: float = math.nan
    low: float = math.nan
    high: float = math.nan
    verdict: str = "held"
    broken: bool = False
    observed: float = -math.inf
    bound: float | None = None


class SlicesGate(Gate):
    """Bootstrap intervals of the metric in each group, all of them together at the declared confidence (Bonferroni).

    What counts of an interval is its better end: a group is refused when even that is too bad.
    """

    name = "slices"

    def judge(self) -> Verdict:
        """Every group against all rows and against `worst`, every column by fairness."""
        evidence, rule, metric = self.evidence, self.evidence.spec.gates.slices, self.evidence.spec.primary
        if not rule.columns:
            return self.passed("the spec names no columns")
        known = [str(name) for name in evidence.rows.columns]
        if absent := [name for name in rule.columns if name not in known]:
            raise Invalid(
                [Problem(f"no column {name!r}", "gates.slices.columns", near(name, known)) for name in absent]
            )
        overall = value(weighted(evidence.schema, metric, evidence.target, evidence.served), len(evidence.target))
        if not np.isfinite(overall):
            return self.refused(f"{metric} is undefined on all rows together")
        found = [group for column in rule.columns for group in self._groups(column)]
        judged = self._with_intervals(found)
        unit = metric_unit(evidence.schema, evidence.target, metric)
        gap = None if rule.max_gap is None else rule.max_gap * unit
        for group in judged:
            self._compare(group, overall, gap)
        undefined = list(self._undefined(found))
        reasons = [
            f"{one.column} {one.name}: {metric} {one.metric:.4f} ({one.low:.4f} to {one.high:.4f}), {one.verdict}"
            for one in judged
            if one.broken
        ]
        fair = list(self._fairness(found))
        reasons += [
            f"{measure} over {column} is {seen:.4f}, "
            f"at {'least' if measure.endswith('ratio') else 'most'} {bound:g} is asked"
            for column, measure, seen, bound, verdict in fair
            if verdict == "broken"
        ]
        rows = [
            (one.column, one.name, len(one.rows), one.metric, one.low, one.high, one.verdict) for one in _shown(found)
        ]
        tables = [table("slices", COLUMNS, rows)]
        if fair:
            tables.append(table("fairness", ("column", "measure", "value", "bound", "verdict"), fair))
        numbers = {"all_rows": overall, "groups": len(found), "judged": len(judged)}
        numbers |= {f"{column}_{measure}": seen for column, measure, seen, _, _ in fair}
        decided = _decided(judged, [(seen, bound) for *_, seen, bound, verdict in fair if verdict == "broken"])
        if undefined and not reasons:
            decided = {}  # no number has decided
        reasons = [*undefined, *reasons]
        if reasons:
            return self.refused("; ".join(reasons), tables=tables, **decided, **numbers)
        return self.passed(self._text(found, judged, overall), tables=tables, **decided, **numbers)

    @property
    def _sign(self) -> float:
        return -1.0 if self.evidence.spec.primary in LOWER_IS_BETTER else 1.0

    def _compare(self, group: _Group, overall: float, gap: float | None) -> None:
        """Note how much worse than all rows the group is at least, by its interval, and what that breaks."""
        worst, best = self.evidence.spec.gates.slices.worst, group.high if self._sign > 0 else group.low
        proven = self._sign * (overall - best)
        broken = []
        group.observed, group.bound = proven, gap
        if gap is not None and proven > gap:
            broken.append(f"worse than the {overall:.4f} of all rows by more than {gap:g}")
        if worst is not None and self._sign * (worst - best) > 0:
            group.observed, group.bound = (group.observed, gap) if broken else (best, worst)
            broken.append(f"{worst:g} is asked of the worst group")
        if broken:
            group.broken, group.verdict = True, "; ".join(broken)

    def _undefined(self, found: list[_Group]) -> Iterator[str]:
        """A sentence on each group that has rows enough and no metric, where a bound is asked of it."""
        metric, rule = self.evidence.spec.primary, self.evidence.spec.gates.slices
        for group in found:
            if len(group.rows) >= rule.min_rows and not np.isfinite(group.metric):
                group.broken = rule.max_gap is not None or rule.worst is not None
                if group.broken:
                    yield (
                        f"{group.column} {group.name} cannot be judged: {metric} is undefined on its {len(group.rows)} "
                        "rows (of one class?); choose another primary metric, larger groups, or other columns"
                    )

    def _groups(self, column: str) -> Iterator[_Group]:
        labels = groups(self.evidence.rows[column])
        for name in in_order(self.evidence.rows[column], labels):
            yield _Group(column, name, np.flatnonzero(labels == name))

    def _with_intervals(self, found: list[_Group]) -> list[_Group]:
        """The groups that can be judged, with their intervals; the others say why not."""
        evidence, rule = self.evidence, self.evidence.spec.gates.slices
        judged: list[tuple[_Group, Weighted]] = []
        for group in found:
            statistic = weighted(
                evidence.schema, evidence.spec.primary, evidence.target[group.rows], evidence.served[group.rows]
            )
            group.metric = value(statistic, len(group.rows))
            if len(group.rows) < rule.min_rows:
                group.verdict = f"not judged: fewer than {rule.min_rows} rows"
            elif not np.isfinite(group.metric):
                group.verdict = f"not judged: {evidence.spec.primary} is undefined here"
            else:
                judged.append((group, statistic))
        outside = (1 - rule.confidence) / max(1, len(judged))
        resamples = int(np.clip(20 / outside, *RESAMPLES))
        for group, statistic in judged:
            drawn = distribution(
                [statistic],
                evidence.target[group.rows],
                stratified=bool(evidence.schema.classes),
                resamples=resamples,
                seed=evidence.spec.seed,
            )[0]
            group.low, group.high = interval(drawn, 1 - outside)
        return [group for group, _ in judged]

    def _fairness(self, found: list[_Group]) -> Iterator[tuple[str, str, float, float, str]]:
        """(column, measure, value, bound, verdict), between the groups that have enough rows."""
        evidence, rule = self.evidence, self.evidence.spec.gates.slices
        label = evidence.served.argmax(axis=1)
        for column in rule.columns if rule.fairness else ():
            large = [one for one in found if one.column == column and len(one.rows) >= rule.min_rows]
            for metric, bound in rule.fairness.items():
                if len(large) < 2:
                    yield column, metric, math.nan, bound, f"not judged: fewer than two groups of {rule.min_rows} rows"
                    continue
                rows = np.concatenate([one.rows for one in large])
                names = np.repeat([one.name for one in large], [len(one.rows) for one in large])
                seen = measure(metric, evidence.target[rows], label[rows], names)
                yield column, metric, seen, bound, "broken" if unfair(metric, seen, bound) else "held"

    def _text(self, found: list[_Group], judged: list[_Group], overall: float) -> str:
        metric = self.evidence.spec.primary
        text = f"{len(judged)} groups judged, {len(found) - len(judged)} not"
        if not judged:
            return text
        worst = min(judged, key=lambda group: self._sign * group.metric)
        return (
            f"{text}; {metric} {worst.metric:.4f} in the worst, {worst.column} {worst.name}, {overall:.4f} in all rows"
        )


def _decided(judged: list[_Group], unfair: list[tuple[float, float]]) -> dict[str, float | None]:
    """The numbers that decided: of a broken group, else of a broken fairness metric, else of the worst group."""
    lead = max(judged, key=lambda one: (one.broken, one.observed), default=None)
    if unfair and not (lead and lead.broken):
        return {"observed": unfair[0][0], "bound": unfair[0][1]}
    return {"observed": lead.observed if lead else None, "bound": lead.bound if lead else None}


def _shown(found: list[_Group]) -> list[_Group]:
    """The largest groups of each column and all that are broken, in their order."""
    kept: list[_Group] = []
    for column in dict.fromkeys(group.column for group in found):
        mine = [group for group in found if group.column == column]
        least = sorted((len(group.rows) for group in mine), reverse=True)[:SHOWN][-1]
        kept += [group for group in mine if group.broken or len(group.rows) >= least][: 2 * SHOWN]
    return kept
