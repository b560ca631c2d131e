"""What a process of the pipeline settles before its work: threads that share cores, a collector that seldom looks."""

from __future__ import annotations

import atexit
import gc
import os

YOUNG, MIDDLE, OLD = 10_000, 10, 100  # Python's own are 700, 10, 10


def settle() -> None:
    """To be called before libraries are imported.

    OpenMP's threads sleep while they wait: where others compute too, spinning costs tenfold. Python's collector looks
    through the millions of objects of imported modules a fifth of the time that importing takes, and once more at the
    end of the process; there is no garbage among them, and here it does neither.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    gc.set_threshold(YOUNG, MIDDLE, OLD)
    atexit.register(gc.freeze)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
