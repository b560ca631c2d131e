"""Load on a server: requests that are due at a rate whether or not others were answered, or clients that never rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import Unavailable
from pipeline.tensors import Tensors

WARM_UP = 10  # requests before a load, which are not counted
DIFFERENT = 64  # requests that differ, as far as there are rows

Milliseconds = npt.NDArray[np.float64]
Ask = Callable[[Tensors], object]


@dataclass(frozen=True)
class Load:
    """Requests that were due at a rate: milliseconds (count,) since each was due, and what became of it.

    A request that nobody could send has waited until the load was given up; one that failed has no time (NaN).
    """

    due_s: npt.NDArray[np.float64]
    took: Milliseconds
    answered: npt.NDArray[np.bool_]
    unsent: int  # no client was free for them before the load was over

    @property
    def waited(self) -> Milliseconds:
        """Of the requests that have a time."""
        return self.took[np.isfinite(self.took)]


@dataclass(frozen=True)
class OpenLoop:
    """`clients`: requests that may be under way at once."""

    clients: int = 32
    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    def run(self, ask: Ask, requests: Sequence[Tensors], rate_per_s: float, count: int, patience_s: float) -> Load:
        """`count` requests at a rate; given up `patience_s` after the last was due: who cannot follow is not awaited.

        `ask` raises Unavailable for a request that was not answered.
        """
        for request in requests[:WARM_UP]:
            ask(request)
        due = np.arange(count) / rate_per_s
        took, answered = np.full(count, np.nan), np.zeros(count, dtype=bool)
        sent = np.zeros(count, dtype=bool)
        begin = self.now() + 0.05
        end = begin + count / rate_per_s + patience_s

        def send(at: int) -> None:
            self.sleep(max(0.0, begin + due[at] - self.now()))
            if self.now() > end:  # due times never slip: who comes too late for a client is late, not absent
                took[at] = (end - begin - due[at]) * 1000
                return
            sent[at] = True
            try:
                ask(requests[at % len(requests)])
            except Unavailable:
                return
            took[at] = (self.now() - begin - due[at]) * 1000
            answered[at] = True

        with ThreadPoolExecutor(self.clients) as pool:
            list(pool.map(send, range(count)))
        return Load(due, took, answered, int((~sent).sum()))


def closed_loop(ask: Ask, requests: Sequence[Tensors], clients: int, seconds: float) -> tuple[Milliseconds, float]:
    """Milliseconds of each request of clients that ask again once they are answered, and requests a second.

    Raises what `ask` raises.
    """
    for request in requests[:WARM_UP]:
        ask(request)
    begin = time.perf_counter()
    end = begin + seconds

    def client(first: int) -> list[float]:
        took, at = [], first
        while (start := time.perf_counter()) < end:
            ask(requests[at % len(requests)])
            took.append((time.perf_counter() - start) * 1000)
            at += clients
        return took

    with ThreadPoolExecutor(clients) as pool:
        took = np.array([one for each in pool.map(client, range(clients)) for one in each])
    return took, len(took) / (time.perf_counter() - begin)


def requests_of(tensors: Tensors, rows: int, available: int, count: int) -> list[Tensors]:
    """Requests of other rows each, as far as there are rows: `rows` of the `available` ones in each request."""
    takes = [(np.arange(rows) + at * rows) % available for at in range(min(count, DIFFERENT))]
    return [{name: value[take] for name, value in tensors.items()} for take in takes]
