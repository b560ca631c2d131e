"""The machine and the versions that a page of results is about."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.serving.environments import PACKAGES

LIBRARIES = ("onnxruntime", "xgboost-cpu", "tritonclient")


def machine() -> str:
    """One sentence."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {names[0] if names else platform.processor()}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.machine()}; load average {os.getloadavg()[1]:.1f} before (five minutes); "
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}; "
        f"peers: {', '.join(pin for pins in PACKAGES.values() for pin in pins if '==' in pin)}"
    )
