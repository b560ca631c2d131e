"""The measurements as a page and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import log
from statistics import median

from matplotlib.figure import Figure

from benchmarks.machine import machine


@dataclass(frozen=True)
class Point:
    """What one number of things took: CPU seconds, seconds, and MiB of memory, each run's."""

    count: int
    cpu_s: tuple[float, ...]
    seconds: tuple[float, ...]
    peak_mib: tuple[float, ...]


ACROSS = 4  # panels of the plot
LIBRARIES = ("apache-airflow", "mlflow", "optuna", "pandas", "pyarrow", "xgboost-cpu")
Measured = Mapping[str, Sequence[Point]]


def report(measured: Measured, told: Mapping[str, str], load_before: float) -> str:
    """The page, as Markdown; `told`: what is measured, in a sentence, by name."""
    repeats = len(next(iter(measured.values()))[0].cpu_s)
    lines = [
        "# How time and memory grow",
        "",
        "Each measurement is of a fresh process. CPU seconds are what the work cost; seconds are what it took on this machine,",
        "beside its other work. The power is the slope of CPU seconds over count, both logarithmic, between the last two",
        "points: 1 is linear. Memory is by how much the work has raised the peak of the process (`VmHWM`).",
        "",
        f"{machine()}; load average {load_before:.1f}",
        f"before, {os.getloadavg()[1]:.1f} at the end (five minutes); median of {repeats}. Python {platform.python_version()},",
        f"{', '.join(f'{name} {version(name)}' for name in LIBRARIES)}.",
        "",
    ]
    for name, points in measured.items():
        lines += [
            f"## {name}",
            "",
            told[name],
            "",
            "| count | CPU s (range) | seconds | memory, MiB |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {one.count} | {median(one.cpu_s):.3f} ({min(one.cpu_s):.3f}-{max(one.cpu_s):.3f}) "
            f"| {median(one.seconds):.2f} | {median(one.peak_mib):.0f} |"
            for one in points
        ]
        lines += ["", f"Power: {power(points):.2f}", ""]
    return "\n".join([*lines, "![CPU seconds by count](results.svg)", ""])


def power(points: Sequence[Point]) -> float:
    """The slope of CPU seconds over count between the last two points, both logarithmic."""
    first, last = points[-2:]
    return log(median(last.cpu_s) / median(first.cpu_s)) / log(last.count / first.count)


def plot(measured: Measured) -> Figure:
    """CPU seconds over count, a panel each, each run a dot."""
    wide = min(ACROSS, len(measured))
    tall = -(-len(measured) // wide)
    figure = Figure(figsize=(3.2 * wide, 2.8 * tall), layout="constrained")
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for axes in panels[len(measured) :]:
        axes.set_axis_off()
    for axes, (name, points) in zip(panels, measured.items(), strict=False):
        counts = [one.count for one in points]
        axes.loglog(counts, [median(one.cpu_s) for one in points], color="#60a5fa")
        for one in points:
            axes.loglog([one.count] * len(one.cpu_s), one.cpu_s, "o", color="#1d4ed8", markersize=4)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_ylabel("CPU seconds")
        axes.spines[["top", "right"]].set_visible(False)
    return figure
