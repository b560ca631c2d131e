"""How the threads of libraries share a machine."""

from __future__ import annotations

import os


def share_cores() -> None:
    """Let OpenMP threads sleep while they wait, not spin: where others compute too, spinning costs tenfold.

    To be called before a library that brings OpenMP is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
