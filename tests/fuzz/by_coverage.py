"""`python -m tests.fuzz.by_coverage TARGET [libFuzzer options]`: atheris drives a target by the code that it reaches.

    uv pip install atheris; python -m tests.fuzz.by_coverage csv -max_total_time=600

Not a part of the suite: it ends at the first input that brings a traceback, which it leaves in a file.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pipeline", "serving", "feature_checks", "yaml"]):
    from tests.fuzz.targets import TARGETS, ends_well


def main() -> None:
    """Fuzz one target until something is found, or until libFuzzer is told to stop."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"name one of: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: ends_well(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
