"""`python -m benchmarks.tests`: seconds by tier and folder, servers started by kind, and flaky tests."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.machine import machine
from benchmarks.tests.servers import counted_servers
from benchmarks.tests.summary import Measurement, TierRun, differing, page, summarise
from tests.tiers import NO_SERVER, TIERS, Case, read_cases, report_file

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def main(
    tier: Annotated[str, typer.Option(help="of `python -m tests.tiers`: test or all")] = "test",
    repeat: Annotated[int, typer.Option(min=1, help="runs of the tier")] = 1,
    in_order: Annotated[
        bool, typer.Option(help="keep the order of the files (default: another order in each run)")
    ] = False,
    coverage: Annotated[bool, typer.Option(help="measure coverage, as `make test-all` does")] = False,
    out: Annotated[Path, typer.Option(help="folder of the results")] = HERE,
) -> None:
    """Run a tier several times; write what it costs, and name the tests that do not always end alike."""
    console = Console(highlight=False, soft_wrap=True)
    runs: list[TierRun] = []
    cases: list[list[Case]] = []
    for _ in range(repeat):
        seed = None if in_order else random.randrange(2**32)  # pytest-randomly takes 32 bits
        run, found = _run(tier, seed, coverage)
        console.print(f"{run.seconds:.0f} s, seed {seed}, {run.outcomes}, servers {run.servers}")
        runs.append(run)
        cases.append(found)
    measurement = Measurement(
        tier=tier,
        order="order of the files" if in_order else "random order",
        machine=machine(),
        commit=_commit(),
        runs=runs,
        differing=differing(cases),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{tier}.json").write_text(measurement.model_dump_json(indent=1) + "\n", encoding="utf-8")
    console.print(write_page(out), markup=False)
    raise typer.Exit(next((run.code for run in runs if run.code), 0))


def write_page(out: Path) -> str:
    """Write results.md of all measurements in a folder, and return it."""
    read = {name: out / f"{name}.json" for name in ("before", *TIERS)}
    found = {
        name: Measurement.model_validate_json(path.read_text(encoding="utf-8"))
        for name, path in read.items()
        if path.is_file()
    }
    text = page(found.pop("before", None), list(found.values()))
    (out / "results.md").write_text(text, encoding="utf-8")
    return text


def _run(tier: str, seed: int | None, coverage: bool) -> tuple[TierRun, list[Case]]:
    load, label = os.getloadavg()[0], uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="slipway-tests-") as folder:
        reports = Path(folder)
        command = [sys.executable, "-m", "tests.tiers", tier, "--reports", folder]
        if seed is not None:
            command += ["--pytest=-prandomly", f"--pytest=--randomly-seed={seed}"]
        if coverage:
            command += ["--coverage"]
        begin = time.monotonic()
        with counted_servers(label) as servers:
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
        seconds = time.monotonic() - begin
        passes = {one.name: read_cases(report_file(reports, tier, number)) for number, one in enumerate(TIERS[tier])}
    return (
        summarise(passes, code, seconds, load, dict(servers), NO_SERVER.name),
        [case for found in passes.values() for case in found],
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    typer.run(main)
