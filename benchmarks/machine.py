"""The machine that a page of results is about, and the most memory that a process has had on it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def machine() -> str:
    """Today, the processor and how many cores it has, and the system."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {processor}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    )


def peak_mib() -> float:
    """The peak resident memory of this process in MiB, as Linux keeps it (`VmHWM`).

    Not `ru_maxrss`: that of a child begins with what its parent had.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
