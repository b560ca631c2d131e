"""Gate latency: percentiles at the declared load, with the time that a request waits for its turn, and the pace."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pipeline.refs import Table, Verdict
from pipeline.tensors import Tensors
from serving.gates.base import Champion, Gate, table
from serving.load import WARM_UP, Load, Milliseconds, OpenLoop, requests_of

PAIRS, PACE_S, FEWEST = 200, 20.0, 20  # requests to each of the two, fewer once the seconds are over
RESAMPLES, CONFIDENCE = 1000, 0.95
CURVE = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100)
MOMENTS = 40  # of the load that are told apart


class LatencyGate(Gate):
    """Open loop: requests are due at a fixed rate, answered or not, and each one's time counts from when it was due."""

    name = "latency"
    clients = 32  # requests that may be under way at once
    now: Callable[[], float] = staticmethod(time.perf_counter)
    sleep: Callable[[float], None] = staticmethod(time.sleep)

    def judge(self) -> Verdict:
        """Compare percentiles, the share of requests without an answer, and the pace with their bounds."""
        rule = self.evidence.spec.gates.latency
        load = self._load()
        total, failed = len(load.took), int((~load.answered).sum())
        text = f"at {rule.rate_per_s:g} requests a second of {rule.rows} row{'s' if rule.rows > 1 else ''}"
        if failed == total:
            return self.refused(f"none of {total} requests was answered {text}", error_rate=1.0, requests=total)
        # A request that nobody could send has waited longer than any bound by now; one that failed has no time.
        waited = load.waited
        p50, p95, p99 = (float(value) for value in np.percentile(waited, [50, 95, 99]))
        share, bounds = failed / total, self._bounds()
        numbers = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "error_rate": share, "requests": total}
        numbers |= {"unsent": load.unsent} | {f"{name}_bound_ms": bound for name, bound in bounds.items()}
        text = f"p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f} ms {text}, {failed} of {total} failed"
        if load.unsent:
            text += f" ({load.unsent} found no free client among {self.clients} in time)"
        wrong = [
            (f"{name} of {bound:g} ms is asked", numbers[f"{name}_ms"], bound)
            for name, bound in bounds.items()
            if not numbers[f"{name}_ms"] <= bound
        ]
        if share > rule.error_rate:
            wrong.append((f"{rule.error_rate:.2%} may fail", share, rule.error_rate))
        pace, found, drawn = self._pace()
        numbers |= found
        if (low := found.get("slowdown_low", 0.0)) > (allowed := rule.max_slowdown or np.inf):
            wrong.append((f"{allowed:g} times are allowed", low, allowed))
        said = "; ".join([text, *([pace] if pace else []), *(what for what, _, _ in wrong)])
        _, observed, bound = wrong[0] if wrong else ("", p95, rule.p95_ms)
        tables = [_curve(waited), _moments(load), *drawn]
        return (self.refused if wrong else self.passed)(said, tables=tables, observed=observed, bound=bound, **numbers)

    def _bounds(self) -> dict[str, float]:
        rule = self.evidence.spec.gates.latency
        asked = {"p50": rule.p50_ms, "p95": rule.p95_ms, "p99": rule.p99_ms}
        return {name: bound for name, bound in asked.items() if bound is not None}

    def _load(self) -> Load:
        """The declared load. A server that cannot follow is not waited for longer than its bounds tell it apart."""
        rule = self.evidence.spec.gates.latency
        count = max(1, round(rule.rate_per_s * rule.duration_s))
        requests = requests_of(self.evidence.tensors, rule.rows, len(self.evidence.target), count)
        patience_s = max(1.0, 2 * max(self._bounds().values()) / 1000)
        loop = OpenLoop(self.clients, self.now, self.sleep)
        return loop.run(self.evidence.ask, requests, rule.rate_per_s, count, patience_s)

    def _pace(self) -> tuple[str, dict[str, float], list[Table]]:
        """How long a request takes, as a multiple of the champion's: what is said, its numbers and its table."""
        rule, champion = self.evidence.spec.gates.latency, self.evidence.champion
        if rule.max_slowdown is None:
            return "", {}, []
        if champion is None:
            return "no champion to keep pace with", {}, []
        if champion.ask is None or champion.tensors is None:
            return f"champion {champion.version} does not answer, so the pace is not compared", {}, []
        ours, theirs = self._alternate(champion, champion.ask, champion.tensors)
        ratio = float(np.median(ours) / np.median(theirs))
        draw = np.random.default_rng(self.evidence.spec.seed).integers(len(ours), size=(RESAMPLES, len(ours)))
        ratios = np.median(ours[draw], axis=1) / np.median(theirs[draw], axis=1)
        tail = (1 - CONFIDENCE) / 2
        low, high = (float(value) for value in np.quantile(ratios, [tail, 1 - tail]))
        numbers = {"slowdown": ratio, "slowdown_low": low, "slowdown_high": high, "slowdown_bound": rule.max_slowdown}
        numbers |= {"median_ms": float(np.median(ours)), "champion_median_ms": float(np.median(theirs))}
        text = (
            f"{ratio:.2f} times the median of version {champion.version} ({np.median(ours):.2f} against "
            f"{np.median(theirs):.2f} ms, {CONFIDENCE:.0%} interval {low:.2f} to {high:.2f})"
        )
        tables = [
            table(
                "pace",
                ("percentile", "challenger_ms", "champion_ms"),
                [(at, np.percentile(ours, at), np.percentile(theirs, at)) for at in CURVE],
            )
        ]
        return text, numbers, tables

    def _alternate(
        self, champion: Champion, ask: Callable[[Tensors], object], theirs: Tensors
    ) -> tuple[Milliseconds, Milliseconds]:
        """(pairs,) milliseconds of each: one request at a time, in turns, so that what disturbs one disturbs both."""
        rule, available = self.evidence.spec.gates.latency, len(self.evidence.target)
        mine = requests_of(self.evidence.tensors, rule.rows, available, PAIRS)
        other = requests_of(theirs, rule.rows, available, PAIRS)

        def timed(request: Tensors, call: Callable[[Tensors], object]) -> float:
            begin = self.now()
            call(request)
            return (self.now() - begin) * 1000

        for at in range(min(WARM_UP, len(mine))):
            timed(mine[at], self.evidence.ask), timed(other[at], ask)
        pairs: list[tuple[float, float]] = []
        until = self.now() + PACE_S
        while len(pairs) < PAIRS and (len(pairs) < FEWEST or self.now() < until):
            at = len(pairs) % len(mine)
            if len(pairs) % 2:
                second = timed(other[at], ask)
                pairs.append((timed(mine[at], self.evidence.ask), second))
            else:
                first = timed(mine[at], self.evidence.ask)
                pairs.append((first, timed(other[at], ask)))
        taken = np.array(pairs)
        return taken[:, 0], taken[:, 1]


def _curve(waited: Milliseconds) -> Table:
    return table("percentiles", ("percentile", "ms"), [(at, np.percentile(waited, at)) for at in CURVE])


def _moments(load: Load) -> Table:
    """Median and slowest request by when they were due: a queue that grows is a line that climbs."""
    parts = np.array_split(np.arange(len(load.took)), min(MOMENTS, len(load.took)))
    rows = []
    for part in parts:
        took = load.took[part][np.isfinite(load.took[part])]
        ends = (np.median(took), took.max()) if len(took) else (None, None)
        rows.append((load.due_s[part].mean(), *ends, float((~load.answered[part]).sum())))
    return table("moments", ("second", "median_ms", "slowest_ms", "failed"), rows)
