"""The measurements as a page and a plot."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

from matplotlib.figure import Figure

from benchmarks.machine import machine

HERE, ONE, TWO = "one process", "Ray, 1 worker", "Ray, 2 workers"


@dataclass(frozen=True)
class Measurement:
    """Seconds of tuning and the last fit, the cluster's start and end included; area under the curve on held-out rows."""

    seconds: float
    auc: float


Measured = dict[tuple[int, str], list[Measurement]]


def report(measured: Measured, work: str, load_before: float) -> str:
    """The page, as Markdown. `load_before`: load average before anything was started."""
    repeats = max(len(found) for found in measured.values())
    lines = [
        "# A fit on a Ray cluster of this machine",
        "",
        f"XGBoost on made-up rows of {work}. One core for the one process and for each worker; a cluster is started for each fit",
        "and ended with it, which is part of the time. The order turns with each repeat.",
        "",
        f"{machine()};",
        f"load average {load_before:.1f} before, {os.getloadavg()[1]:.1f} at the end (five minutes; the first is other work);",
        f"{repeats} repeats; Python {platform.python_version()}, ray {version('ray')}, xgboost-cpu {version('xgboost-cpu')}.",
        "",
        "| rows | way | median s | range s | ratio to one process (range) | AUC on held-out rows |",
        "|---|---|---|---|---|---|",
        *(_row(measured, rows, way) for rows, way in measured),
        "",
        "The ratio is the median of the ratios repeat by repeat.",
        "",
        "![seconds by rows](results.svg)",
        "",
    ]
    return "\n".join(lines)


def plot(measured: Measured) -> Figure:
    """Median seconds by rows, one line a way, each fit as a dot."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for way, colour in ((HERE, "#1d4ed8"), (ONE, "#f59e0b"), (TWO, "#059669")):
        rows = sorted(count for count, its in measured if its == way)
        axes.plot(
            rows, [median(one.seconds for one in measured[count, way]) for count in rows], color=colour, label=way
        )
        for count in rows:
            axes.plot(
                [count] * len(measured[count, way]), [one.seconds for one in measured[count, way]], "o", color=colour
            )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows")
    axes.set_ylabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _row(measured: Measured, rows: int, way: str) -> str:
    found, alone = measured[rows, way], measured[rows, HERE]
    seconds = [one.seconds for one in found]
    ratios = [one.seconds / other.seconds for one, other in zip(found, alone, strict=True)]
    ratio = "1" if way == HERE else f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    auc = median(one.auc for one in found)
    return f"| {rows:,} | {way} | {median(seconds):.1f} | {min(seconds):.1f}-{max(seconds):.1f} | {ratio} | {auc:.4f} |"
