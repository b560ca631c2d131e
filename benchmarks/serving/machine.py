"""What a page of results is about."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from benchmarks.machine import machine
from benchmarks.serving.environments import PACKAGES

LIBRARIES = ("onnxruntime", "xgboost-cpu", "tritonclient")


def where() -> str:
    """Machine, load, libraries and peers, in a sentence."""
    return (
        f"{machine()}; load average {os.getloadavg()[1]:.1f} before (five minutes); "
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}; "
        f"peers: {', '.join(pin for pins in PACKAGES.values() for pin in pins if '==' in pin)}"
    )
