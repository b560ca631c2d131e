"""One measurement: `python -m benchmarks.growth.measure MODULE:FUNCTION COUNT FOLDER`, as one line of JSON.

The function prepares as many things below the folder, and returns the work that is measured: its CPU seconds and seconds,
and by how many MiB it has raised the most memory that the process had.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from pkgutil import resolve_name

from benchmarks.machine import peak_mib


def main(what: str, count: int, folder: Path) -> None:
    """Prepare, work, and print what it took."""
    logging.disable(logging.WARNING)
    work = resolve_name(what)(count, folder)
    held, cpu, begin = peak_mib(), time.process_time(), time.perf_counter()
    work()
    seconds, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
    print(json.dumps({"cpu_s": cpu_s, "seconds": seconds, "peak_mib": peak_mib() - held}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
