"""The cores of a machine, and how the threads of libraries share them."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let OpenMP threads sleep while they wait, not spin: where others compute too, spinning costs tenfold.

    To be called before a library that brings OpenMP is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
