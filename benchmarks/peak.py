"""The most memory that a process has had."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """The peak resident memory of this process in MiB, as Linux keeps it (`VmHWM`).

    Not `ru_maxrss`: that of a child begins with what its parent had.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
