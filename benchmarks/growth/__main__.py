"""`python -m benchmarks.growth`: time and memory against the number of things, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.growth.report import Point, plot, report

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COUNTS = {
    "benchmarks.growth.specs:specs": (1, 50, 200),
    "benchmarks.growth.ledgers:versions": (10, 100, 1000),
    "benchmarks.growth.ledgers:a_run_in_the_ledger": (10, 100, 1000),
    "benchmarks.growth.registered:registry": (10, 100, 1000),
    "benchmarks.growth.registered:lineage": (10, 100, 1000),
    "benchmarks.growth.registered:reconcile": (10, 100, 1000),
    "benchmarks.growth.runs:rows": (10_000, 100_000, 1_000_000),
    "benchmarks.growth.runs:columns": (10, 100, 1000),
    "benchmarks.growth.runs:candidates": (1, 4, 16),
    "benchmarks.growth.search:trials": (10, 100, 300),
}


def main(
    repeats: Annotated[int, typer.Option(min=1, help="runs of each count")] = 3,
    out: Annotated[Path, typer.Option(help="folder of results.md and results.svg")] = HERE,
) -> None:
    """Measure, print the tables, and write them with their plot."""
    console = Console(highlight=False, soft_wrap=True)
    before = os.getloadavg()[1]
    measured: dict[str, list[Point]] = {}
    told: dict[str, str] = {}
    for place, counts in COUNTS.items():
        name = place.partition(":")[2].replace("_", " ")
        told[name] = str(resolve_name(place).__doc__)
        for count in counts:
            runs = [_measure(place, count) for _ in range(repeats)]
            point = Point(count, *(tuple(run[key] for run in runs) for key in ("cpu_s", "seconds", "peak_mib")))
            measured.setdefault(name, []).append(point)
            console.print(f"{name} {count}: {point.cpu_s}")
    text = report(measured, told, before)
    console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(measured).savefig(out / "results.svg", metadata={"Date": None})


def _measure(place: str, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="slipway-growth-") as folder:
        home = {"SLIPWAY_HOME": f"{folder}/home", "AIRFLOW_HOME": f"{folder}/airflow"}
        command = [sys.executable, "-m", "benchmarks.growth.measure", place, str(count), folder]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **home}, check=False, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


if __name__ == "__main__":
    typer.run(main)
