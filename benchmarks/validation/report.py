"""The measurements as a page and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

from matplotlib.figure import Figure

from benchmarks.machine import machine

SLIPWAY, BARE, PANDERA = "Slipway", "bare DuckDB", "pandera"
GX_PANDAS, GX_SPARK = "GX on pandas", "GX on Spark"
COLOURS = {SLIPWAY: "#1d4ed8", BARE: "#64748b", PANDERA: "#059669", GX_PANDAS: "#dc2626", GX_SPARK: "#d97706"}


@dataclass(frozen=True)
class Measurement:
    """Seconds of a process from start to exit, those of processors, those without its imports, and its peak memory."""

    seconds: float
    cpu_s: float
    judging_s: float
    peak_mib: float
    verdicts: tuple[bool, ...]
    engines: tuple[str, ...] = ()


Measured = dict[int, dict[str, list[Measurement]]]


def report(measured: Measured, load_before: float, threads: int, peers: Mapping[str, Sequence[str]]) -> str:
    """The page, as Markdown. `load_before`: load average before anything was started."""
    largest = max(measured)
    verdicts = measured[largest][SLIPWAY][0].verdicts
    libraries = ", ".join(f"{name} {version(name)}" for name in ("duckdb", "great_expectations", "pandas", "pyarrow"))
    lines = [
        "# Validation",
        "",
        f"{len(verdicts)} expectations, of which {len(verdicts) - sum(verdicts)} fail, on 20 columns of Parquet: numbers, booleans, texts and",
        "timestamps, some missing. All ways come to the same verdicts at every size, or the run is refused. Each run is a",
        f"process of its own with {threads} threads; the order turns with each repeat. Peak memory is that of the process and its children,",
        "by samples; pages of the file that are mapped count too.",
        "",
        f"{machine()};",
        f"load average {load_before:.1f} before, {os.getloadavg()[1]:.1f} at the end (five minutes; the first is other work);",
        f"Python {platform.python_version()}, {libraries};",
        f"peers: {'; '.join(' '.join(packages) for packages in peers.values())}.",
        "",
    ]
    lines += _goals(max(measured), measured[max(measured)])
    for size in sorted(measured, reverse=True):
        lines += [f"## {size:,} rows", "", *_table(measured[size]), ""]
    lines += [
        "Judging is the whole process but its start and imports: reading the suite, reading the rows, judging them. The bare scan",
        "asks the same of DuckDB in queries written by hand, and compares the answers with the bounds in Python. Slipway imports",
        "Great Expectations no longer once that has read the suite: what it made of it is kept.",
        "",
        "## Growth",
        "",
        "![seconds and memory by rows](results.svg)",
        "",
    ]
    return "\n".join(lines)


def _goals(size: int, measured: dict[str, list[Measurement]]) -> list[str]:
    """What was wanted, and what came of it at the largest size."""
    whole = {way: median(run.seconds for run in runs) for way, runs in measured.items()}
    judging = {way: median(run.judging_s for run in measured[way]) for way in (SLIPWAY, BARE)}
    scans = judging[SLIPWAY] / judging[BARE]
    lines = [
        f"Goals, at {size:,} rows:",
        "",
        f"- judged within 2 times the bare scan: {_word(scans <= 2)}, {scans:.2f} times;",
    ]
    if GX_PANDAS in whole:
        faster, limit = whole[GX_PANDAS] / whole[SLIPWAY], whole[GX_PANDAS] / whole[BARE]
        lines.append(
            f"- 20 times as fast as Great Expectations on pandas: {_word(faster >= 20)}, {faster:.1f} times (whole processes); "
            f"the bare scan is {limit:.1f} times as fast."
        )
    return [*lines, ""]


def _word(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _table(measured: dict[str, list[Measurement]]) -> list[str]:
    bare, slipway = measured[BARE], measured[SLIPWAY]
    lines = [
        "| way | runs | whole process s (range) | CPU s | judging s | peak memory MiB | judging, times the bare scan | times Slipway (whole; CPU; judging) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, runs in measured.items():
        seconds = [run.seconds for run in runs]
        whole, judging = median(seconds), median(run.judging_s for run in runs)
        lines.append(
            f"| {way} | {len(runs)} | {whole:.2f} ({min(seconds):.2f}-{max(seconds):.2f}) "
            f"| {median(run.cpu_s for run in runs):.1f} | {judging:.2f} "
            f"| {median(run.peak_mib for run in runs):,.0f} | {judging / median(run.judging_s for run in bare):.2f} "
            f"| {whole / median(run.seconds for run in slipway):.1f}; "
            f"{median(run.cpu_s for run in runs) / median(run.cpu_s for run in slipway):.1f}; {judging / median(run.judging_s for run in slipway):.1f} |"
        )
    return lines


def plot(measured: Measured) -> Figure:
    """Seconds and memory over rows, a line for each way."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for way, colour in COLOURS.items():
        sizes = [size for size in sorted(measured) if way in measured[size]]
        if not sizes:
            continue
        for axes, values in (
            (seconds, [median(run.seconds for run in measured[size][way]) for size in sizes]),
            (memory, [median(run.peak_mib for run in measured[size][way]) / 1024 for size in sizes]),
        ):
            axes.plot([size / 1e6 for size in sizes], values, "o-", color=colour, label=way)
    for axes, name in ((seconds, "seconds, whole process"), (memory, "peak memory, GiB")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("million rows")
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    seconds.legend(frameon=False, fontsize=8)
    return figure
