"""Gate latency: percentiles at the declared load, with the time that a request waits for its turn."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.errors import Unavailable
from pipeline.refs import Verdict
from pipeline.tensors import Tensors
from serving.gates.base import Gate

CLIENTS = 32  # requests that may be under way at once
WARM_UP = 10


class LatencyGate(Gate):
    """Open loop: requests are due at a fixed rate, answered or not, and each one's time counts from when it was due."""

    name = "latency"

    def judge(self) -> Verdict:
        """Compare p95 and the share of failed requests with their bounds."""
        rule = self.evidence.spec.gates.latency
        took, failed = self._load(rule.rate_per_s, rule.duration_s, rule.rows)
        total = len(took) + failed
        share = failed / total
        load = f"at {rule.rate_per_s:g} requests a second of {rule.rows} rows"
        if not took:
            return self.refused(f"none of {total} requests was answered {load}", error_rate=share)
        p50, p95, p99 = np.percentile(np.array(took) * 1000, [50, 95, 99])
        numbers = {"observed": p95, "bound": rule.p95_ms, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}
        numbers |= {"error_rate": share, "requests": total}
        text = f"p50 {p50:.2f}, p95 {p95:.2f}, p99 {p99:.2f} ms {load}, {failed} of {total} failed"
        if share > rule.error_rate:
            return self.refused(f"{text}; {rule.error_rate:.2%} may fail", **numbers)
        if p95 > rule.p95_ms:
            return self.refused(f"{text}; p95 of {rule.p95_ms:g} ms is asked", **numbers)
        return self.passed(text, **numbers)

    def _load(self, rate_per_s: float, duration_s: float, rows: int) -> tuple[list[float], int]:
        """Seconds of each answered request, and how many failed."""
        available = len(self.evidence.target)
        count = max(1, round(rate_per_s * duration_s))
        requests = [
            _rows(self.evidence.tensors, (np.arange(rows) + at * rows) % available) for at in range(min(count, 64))
        ]
        for request in requests[:WARM_UP]:
            self.evidence.ask(request)
        took: list[float] = []
        begin = time.perf_counter() + 0.05

        def send(at: int) -> bool:
            due = begin + at / rate_per_s
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                self.evidence.ask(requests[at % len(requests)])
            except Unavailable:
                return False
            took.append(time.perf_counter() - due)
            return True

        with ThreadPoolExecutor(CLIENTS) as clients:
            answered = sum(clients.map(send, range(count)))
        return took, count - answered


def _rows(tensors: Tensors, take: np.ndarray) -> Tensors:
    return {name: value[take] for name, value in tensors.items()}
