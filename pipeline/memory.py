"""How much memory this process may have: the machine's, or less where a cgroup (a pod, a unit) has a limit."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
_OLD = Path("memory") / "memory.limit_in_bytes"  # of cgroup v1, as a container sees it


def fit_bytes(memory_gib: float, beside: int = 1) -> int:
    """What a fit may take, by the setting of this name; 0: half of what there is, shared by `beside` of them."""
    return int(memory_gib * 2**30) or limit_bytes() // (2 * beside)


def limit_bytes(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """The least of the machine's memory and of the limits of the process's cgroup and those above it."""
    files = [cgroups / _OLD, cgroups / "memory.max"]
    with suppress(OSError):
        path = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
        here = cgroups / path.strip("/")
        files += [folder / "memory.max" for folder in (here, *here.parents) if folder.is_relative_to(cgroups)]
    limits = [psutil.virtual_memory().total]
    for file in files:
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            limits.append(int(file.read_text()))
    return min(limits)
