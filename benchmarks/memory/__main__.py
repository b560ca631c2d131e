"""`python -m benchmarks.memory`: peak memory of snapshot and training as the rows grow, beside pandas and scikit-learn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.memory.report import EVERYONE, SNAPSHOT, TORCH, XGBOOST, Measured, plot, report
from benchmarks.memory.rows import write

HERE = Path(__file__).parent
STEPS = {SNAPSHOT: "snapshot", XGBOOST: "xgboost", TORCH: "torch", EVERYONE: "everyone"}


def main(
    millions: Annotated[list[float], typer.Option(help="rows, in millions; once for each size")] = [1, 5, 10, 50],  # noqa: B006
    everyone_to: Annotated[float, typer.Option(help="most millions for pandas and scikit-learn")] = 10,
    torch_to: Annotated[float, typer.Option(help="most millions for the network")] = 0.5,
    rounds: Annotated[int, typer.Option(min=1, help="boosting rounds")] = 5,
    memory_gib: Annotated[float, typer.Option(help="SLIPWAY_MEMORY_GIB")] = 2.0,
    out: Annotated[Path, typer.Option(help="folder of results.md and results.svg")] = HERE,
) -> None:
    """Measure, print the table, and write it with its plot."""
    console = Console(highlight=False, soft_wrap=True)
    most = {SNAPSHOT: float("inf"), XGBOOST: float("inf"), TORCH: torch_to, EVERYONE: everyone_to}
    measured: list[Measured] = []
    for size in sorted(millions):
        with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
            folder, rows = Path(scratch), round(size * 1_000_000)
            write(folder / "rows.parquet", rows)
            for way, what in STEPS.items():
                if size <= most[way]:
                    measured.append(_measure(way, what, folder, rows, rounds, memory_gib))
                    console.print(
                        f"{rows:,} rows, {way}: {measured[-1].own_gib:.2f} of {measured[-1].gib:.2f} GiB, {measured[-1].seconds:.0f} s"
                    )
        _keep(measured, rounds, memory_gib, out)  # what is measured is kept, though a larger size may not end
    console.print(report(measured, rounds, memory_gib), markup=False)


def _keep(measured: list[Measured], rounds: int, memory_gib: float, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(report(measured, rounds, memory_gib), encoding="utf-8")
    plot(measured, memory_gib).savefig(out / "results.svg", metadata={"Date": None})


def _measure(way: str, what: str, folder: Path, rows: int, rounds: int, memory_gib: float) -> Measured:
    arguments = [what, str(folder / "rows.parquet"), str(folder), str(rounds), str(memory_gib)]
    command = [sys.executable, "-m", "benchmarks.memory.measured", *arguments]
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    said = json.loads(done.stdout.splitlines()[-1])
    return Measured(way, rows, said["gib"], said["own_gib"], said["seconds"])


if __name__ == "__main__":
    typer.run(main)
