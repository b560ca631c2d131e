"""Gate judge: are the answers, written as text, good by DeepEval's own metrics? Votes, and an interval of the share."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest

from pipeline.errors import Invalid
from pipeline.refs import Table, Verdict
from serving.gates.base import Gate, table
from serving.gates.evals import LLMTestCase
from serving.gates.judge_metrics import BROKEN, Asked, build

AT_ONCE = 8  # votes that are asked for at the same time
EXCERPT = 200  # characters of a reason that are kept
MISSING = "missing"


@dataclass(frozen=True)
class Vote:
    """What a metric said of a row, once."""

    passed: bool
    reason: str


@dataclass(frozen=True)
class Share:
    """Rows that pass a metric by majority of their votes, and the interval of their share (Wilson 1927)."""

    label: str
    passed: int
    rows: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share of the rows."""
        return self.passed / self.rows


class JudgeGate(Gate):
    """Rows and answers as text, each judged by each metric; a model that judges votes several times."""

    name = "judge"

    def judge(self) -> Verdict:
        """Passed when the interval lies above the asked share for every metric, refused when it lies below for one.

        Raises:
            Unavailable: the model that judges does not answer. A retry helps.
        """
        rule = self.evidence.spec.gates.judge
        if not rule.metrics:
            return self.passed("the spec names no metric")
        try:
            asked = build(rule.metrics, self.evidence.endpoint)
            numbers, cases = self._cases(rule.rows)
            votes = [self._votes(one, cases) for one in asked]
        except Invalid as error:
            return self.refused("; ".join(str(problem) for problem in error.problems))
        shares = [self._share(one, found) for one, found in zip(asked, votes, strict=True)]
        tables = [
            table(
                "pass_rates",
                ("metric", "passed", "rows", "rate", "low", "high"),
                [(one.label, one.passed, one.rows, one.rate, one.low, one.high) for one in shares],
            ),
            _ballots(asked, votes, numbers, cases),
        ]
        worst = min(shares, key=lambda one: one.low)
        refused = [one for one in shares if one.high < rule.pass_rate]
        open_ = [one for one in shares if one.low < rule.pass_rate <= one.high]
        decided = min(refused, key=lambda one: one.high) if refused else worst
        said = "; ".join(
            f"{one.label}: {one.passed} of {one.rows} rows pass, {rule.confidence:.0%} interval {one.low:.0%} to "
            f"{one.high:.0%}"
            for one in shares
        )
        text = f"{said}; {rule.pass_rate:.0%} of the rows are asked"
        found = {"observed": decided.high if refused else decided.low, "bound": rule.pass_rate, "rows": len(cases)}
        for one in shares:
            name = re.sub(r"[^a-z0-9]+", "_", one.label.lower()).strip("_")
            found |= {f"{name}_rate": one.rate, f"{name}_low": one.low, f"{name}_high": one.high}
        if refused:
            return self.refused(text, tables=tables, **found)
        if open_:
            return self.inconclusive(f"{text}, and the interval holds it: judge more rows", tables=tables, **found)
        return self.passed(text, tables=tables, **found)

    def _cases(self, most: int) -> tuple[npt.NDArray[np.intp], list[LLMTestCase]]:
        """Held-out rows, drawn by the spec's seed: their numbers, and each as text with answer and truth."""
        evidence, rows = self.evidence, self.evidence.rows
        names = [column.name for column in evidence.schema.columns]
        if len(rows) != len(evidence.target) or any(name not in rows for name in names):
            raise Invalid("the held-out rows are not there", "gate judge", "run the step gate again")
        count = min(most, len(rows))
        take = np.sort(np.random.default_rng(evidence.spec.seed).choice(len(rows), count, replace=False))
        cases = [
            LLMTestCase(
                input="\n".join(f"{name}: {_text(rows[name].iloc[at])}" for name in names),
                actual_output=self._answer(evidence.served[at]),
                expected_output=self._truth(evidence.target[at]),
            )
            for at in take
        ]
        return take, cases

    def _answer(self, answer: npt.NDArray[np.float32]) -> str:
        if not np.isfinite(answer).all():
            raise Invalid("a served answer is not finite", "gate judge", "see the gate parity")
        classes = self.evidence.schema.classes
        return classes[int(answer.argmax())] if classes else f"{answer[0]:.6g}"

    def _truth(self, target: float) -> str:
        classes = self.evidence.schema.classes
        return classes[int(target)] if classes else f"{target:.6g}"

    def _votes(self, asked: Asked, cases: list[LLMTestCase]) -> list[list[Vote]]:
        """The votes on each row; the first is asked alone, for what a metric works out once (G-Eval its steps)."""
        count = self.evidence.spec.gates.judge.votes if asked.by_model else 1
        ballots = [(at, vote) for at in range(len(cases)) for vote in range(count)]
        first = _vote(asked, cases[0], 0)
        with ThreadPoolExecutor(AT_ONCE if asked.by_model else 1) as pool:
            rest: Iterator[Vote] = pool.map(lambda ballot: _vote(asked, cases[ballot[0]], ballot[0]), ballots[1:])
            votes = [first, *rest]
        return [votes[at * count : (at + 1) * count] for at in range(len(cases))]

    def _share(self, asked: Asked, votes: list[list[Vote]]) -> Share:
        passed = sum(_majority(ballot) for ballot in votes)
        confidence = self.evidence.spec.gates.judge.confidence
        interval = binomtest(passed, len(votes)).proportion_ci(confidence, method="wilson")
        return Share(asked.label, passed, len(votes), float(interval.low), float(interval.high))


def _vote(asked: Asked, case: LLMTestCase, row: int) -> Vote:
    """One vote, by a copy that remembers nothing of other votes. Invalid when the metric fails or does not decide."""
    metric = asked.metric if asked.metric.score is None else copy.copy(asked.metric)
    metric.score = metric.success = metric.reason = metric.error = None
    where = f"metric {asked.label}, judged row {row + 1}"
    try:
        metric.measure(case, _show_indicator=False)
        passed = metric.is_successful()
    except BROKEN as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise Invalid(f"it failed: {said}", where, "correct its options, or take a better judge") from error
    if passed is None or metric.error is not None or metric.score is None or not np.isfinite(metric.score):
        said = metric.error or f"score {metric.score}"
        raise Invalid(f"it did not decide: {said}", where, "correct its options, or take a better judge")
    return Vote(bool(passed), " ".join(str(metric.reason or "").split())[:EXCERPT])


def _majority(votes: list[Vote]) -> bool:
    return 2 * sum(vote.passed for vote in votes) > len(votes)


def _ballots(
    asked: list[Asked], votes: list[list[list[Vote]]], numbers: npt.NDArray[np.intp], cases: list[LLMTestCase]
) -> Table:
    """Each row's votes with a reason of the side that won."""
    rows: list[tuple[str | int | None, ...]] = []
    for one, found in zip(asked, votes, strict=True):
        for number, case, ballot in zip(numbers, cases, found, strict=True):
            won = _majority(ballot)
            reason = next((vote.reason for vote in ballot if vote.passed == won), "")
            ayes = sum(vote.passed for vote in ballot)
            sides = (ayes, len(ballot) - ayes)
            rows.append((one.label, int(number), case.actual_output, case.expected_output, *sides, reason))
    return table("votes", ("metric", "row", "answer", "truth", "for", "against", "reason"), rows)


def _text(value: object) -> str:
    if value is None or bool(pd.isna(value)):  # type: ignore[call-overload]
        return MISSING
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)
