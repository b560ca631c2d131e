"""What a process of the pipeline settles before its work: threads that share cores, a collector that seldom looks."""

from __future__ import annotations

import atexit
import gc
import os

YOUNG, MIDDLE, OLD = 10_000, 10, 100  # Python's own are 700, 10, 10


def settle() -> None:
    """The earlier, the better: it is for the libraries that are imported afterwards.

    OpenMP's threads sleep while they wait: where others compute too, spinning costs tenfold. Python's collector spends
    a fifth of the time of the imports with looking through the objects of modules, of which none is garbage, and most
    of a second at the end of the process: here it looks seldom, and not at the end.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    atexit.register(gc.freeze)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
