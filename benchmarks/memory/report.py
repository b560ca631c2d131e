"""The measurements as a page and a plot."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version

import psutil
from matplotlib.figure import Figure

from benchmarks.machine import machine

SNAPSHOT, XGBOOST, TORCH = "slipway: snapshot", "slipway: train xgboost", "slipway: train torch"
EVERYONE = "pandas, XGBClassifier"
GOAL_ROWS, GOAL_GIB = 50_000_000, 4
LIBRARIES = ("xgboost-cpu", "torch", "pandas", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class Measured:
    """Most resident memory of a process and what of it no file backs, in GiB, and its seconds."""

    way: str
    rows: int
    gib: float
    own_gib: float
    seconds: float


def report(measured: list[Measured], rounds: int, memory_gib: float) -> str:
    """The page, as Markdown."""
    lines = [
        "# Memory by rows",
        "",
        "A Parquet file of 20 columns of numbers, one in fifty missing, 3 of categories (5, 50 and 1,000 labels) and a target",
        f"of two classes. Slipway's steps as they are run, with `SLIPWAY_MEMORY_GIB={memory_gib:g}`: the snapshot; XGBoost with",
        f"one trial and at most {rounds} rounds; TabM with one trial and one epoch. Beside them what is usual: `pandas.read_parquet`,",
        f"`train_test_split`, `XGBClassifier(n_estimators={rounds})`. Peak is the most resident memory of the process",
        "(`VmHWM`), Python and all libraries included; with it are files that are mapped, such as XGBoost's bins on the",
        "disk, which the kernel drops where memory is short. Own is the peak without them (`RssAnon`, each 20 ms).",
        "Each is one run in a process of its own.",
        "",
        f"{machine()}, {psutil.virtual_memory().total / 2**30:.0f} GiB;",
        f"load average {os.getloadavg()[2]:.1f} at the end (fifteen minutes): seconds are",
        "those of a machine that does other work too, and tell of an order of magnitude; peaks do not depend on it.",
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}.",
        "",
        *_goal(measured),
        "| rows | way | peak GiB | own GiB | s |",
        "|---|---|---|---|---|",
        *(f"| {one.rows:,} | {one.way} | {one.gib:.2f} | {one.own_gib:.2f} | {one.seconds:.0f} |" for one in measured),
        "",
        "![peak memory by rows](results.svg)",
        "",
    ]
    return "\n".join(lines)


def _goal(measured: list[Measured]) -> list[str]:
    most = max((one.gib for one in measured if one.rows == GOAL_ROWS and one.way in (SNAPSHOT, XGBOOST)), default=None)
    if most is None:
        return []
    return [
        f"Goal, {GOAL_ROWS:,} rows in {GOAL_GIB} GiB: {'met' if most <= GOAL_GIB else 'missed'}, {most:.2f} at most.",
        "",
    ]


def plot(measured: list[Measured], memory_gib: float) -> Figure:
    """Peak over rows, a line for each way."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    for way in dict.fromkeys(one.way for one in measured):
        found = [one for one in measured if one.way == way]
        rows = [one.rows / 1e6 for one in found]
        (line,) = axes.plot(rows, [one.gib for one in found], "o-", label=way)
        axes.plot(rows, [one.own_gib for one in found], "--", color=line.get_color(), label=f"{way}, own")
    axes.axhline(memory_gib, color="#9ca3af", linestyle=":", label="SLIPWAY_MEMORY_GIB")
    axes.set_xlabel("million rows")
    axes.set_ylabel("peak, GiB")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
