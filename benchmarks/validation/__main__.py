"""`python -m benchmarks.validation`: 50 expectations on 20 columns of Parquet, judged in five ways, side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from benchmarks.validation.report import (
    BARE,
    GX_PANDAS,
    GX_SPARK,
    PANDERA,
    SLIPWAY,
    Measured,
    Measurement,
    plot,
    report,
)
from benchmarks.validation.rows import write
from benchmarks.validation.suite import expectations

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ONCE = (GX_PANDAS, GX_SPARK)  # ways that take minutes: not measured anew in each repeat
PEERS = {
    GX_SPARK: [
        f"great-expectations=={version('great_expectations')}",
        "pyspark==4.3.0",
        f"pandas=={version('pandas')}",
    ],
    PANDERA: ["pandera[polars]==0.35.0", "polars==2.1.0"],
}


def main(
    rows: Annotated[list[int], typer.Option(help="rows of the file; may be given several times, for the growth")] = [  # noqa: B006
        1_000_000,
        3_000_000,
        10_000_000,
    ],
    repeats: Annotated[int, typer.Option(min=1, help="runs of each fast way at each size, in turn")] = 3,
    slow_repeats: Annotated[int, typer.Option(min=0, help="of Great Expectations on pandas and on Spark")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="threads of each way")] = os.cpu_count() or 1,
    peers: Annotated[
        Path | None, typer.Option(help="folder in which the peers' environments are made and kept")
    ] = None,
    without: Annotated[list[str], typer.Option(help=f"ways left out, of: {PANDERA}, {GX_PANDAS}, {GX_SPARK}")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="folder of results.md and results.svg")] = HERE,
) -> None:
    """Measure, check that all verdicts are equal, print the table, and write it with its plot."""
    console = Console(highlight=False, soft_wrap=True)
    before = os.getloadavg()[1]
    measured: Measured = {}
    ways = [way for way in (SLIPWAY, BARE, PANDERA, GX_PANDAS, GX_SPARK) if way not in without]
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        folder = Path(scratch)
        pythons = {way: environment((peers or folder).absolute(), way, console) for way in ways}
        for size in sorted(rows):
            path, suite = folder / f"{size}.parquet", folder / "bench.json"
            console.print(f"making {size:,} rows")
            write(path, size)
            suite.write_text(json.dumps({"name": "bench", "expectations": expectations(size)}))
            commands = {
                SLIPWAY: ["-m", "benchmarks.validation.ways.by_slipway", str(path), str(threads), str(folder)],
                BARE: [str(HERE / "ways/bare.py"), str(path), str(threads)],
                PANDERA: [str(HERE / "ways/on_pandera.py"), str(path), str(threads), str(suite)],
                GX_PANDAS: [str(HERE / "ways/on_gx.py"), str(path), str(threads), str(suite), "pandas"],
                GX_SPARK: [str(HERE / "ways/on_gx.py"), str(path), str(threads), str(suite), "spark"],
            }
            for way in (
                SLIPWAY,
                BARE,
            ):  # uncounted: the file is in the page cache, and Great Expectations has read the suite
                run([pythons[way], *commands[way]], threads)
            for repeat in range(repeats):
                turn = repeat % len(ways)
                for way in ways[turn:] + ways[:turn]:
                    if way in ONCE and repeat >= slow_repeats:
                        continue
                    found = run([pythons[way], *commands[way]], threads)
                    measured.setdefault(size, {}).setdefault(way, []).append(found)
                    console.print(f"{size:,} rows, {way}: {found.seconds:.1f} s, {found.peak_mib:,.0f} MiB")
            equal(measured[size], size)
            path.unlink()
    text = report(measured, before, threads, PEERS)
    console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(measured).savefig(out / "results.svg", metadata={"Date": None})


def environment(folder: Path, way: str, console: Console) -> str:
    """The Python that runs a way: this one, or that of an environment made for a peer."""
    if way not in PEERS:
        return sys.executable
    place = folder / way.replace(" ", "-")
    python = place / "bin" / "python"
    if not (place / ".ready").exists():
        console.print(f"making an environment for {way}")
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, str(place)], check=True)
        subprocess.run([*uv, "pip", "install", "--python", str(python), *PEERS[way]], check=True)
        (place / ".ready").touch()
    return str(python)


def run(command: list[str], threads: int) -> Measurement:
    """One process from start to exit, and the most memory that it and its children had at once."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    begin, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | limits, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        watched = psutil.Process(process.pid)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        while not ended:
            peak = max(peak, resident(watched))
            time.sleep(0.05)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begin
        output = process.stdout.read() if process.stdout else ""
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-4000:]}")
    told = json.loads(output.strip().splitlines()[-1])
    return Measurement(
        seconds, used.ru_utime + used.ru_stime, told["judging_s"], peak / 2**20,
        tuple(told["verdicts"]), tuple(told.get("engines", ())),
    )  # fmt: skip


def resident(process: psutil.Process) -> int:
    """Bytes of memory of a process and its children."""
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.Error:
        return total  # it has just ended
    return total


def equal(measured: dict[str, list[Measurement]], size: int) -> None:
    """Refuse to compare ways whose verdicts differ, or a suite that was not pushed down."""
    first = measured[SLIPWAY][0].verdicts
    for way, runs in measured.items():
        for one in runs:
            wrong = [at for at, pair in enumerate(zip(first, one.verdicts, strict=True)) if len(set(pair)) > 1]
            if wrong:
                raise SystemExit(f"{size} rows: {way} has other verdicts on expectations {wrong}")
            if one.engines not in ((), ("DuckDB",)):
                raise SystemExit(f"{size} rows: {way} was judged by {one.engines}")


if __name__ == "__main__":
    typer.run(main)
