"""The measurements as a page and a plot."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

BARE, RUN, AIRFLOW = "bare script", "slipway run", "by Airflow"
LIBRARIES = ("xgboost-cpu", "torch", "tabm", "optuna", "onnxmltools", "onnxruntime", "apache-airflow", "mlflow")


@dataclass(frozen=True)
class Measurement:
    """Seconds of one run from start to exit, those of fitting, each model's log loss, each step's seconds but fitting."""

    seconds: float
    fit_s: float
    loss: dict[str, float]
    own: dict[str, float] = field(default_factory=dict)


Measured = dict[str, list[Measurement]]


def report(measured: Measured, work: str, load_before: float) -> str:
    """The page, as Markdown. `load_before`: load average before anything was started."""
    repeats = len(measured[BARE])
    losses = " and ".join(f"{loss:.5f} ({name})" for name, loss in measured[BARE][0].loss.items())
    lines = [
        "# Time of a run",
        "",
        f"The data set breast_cancer; {work}. All three ways fit the same models, which is verified: each run's log loss on",
        f"the held-out rows is {losses}. The bare script tunes, fits, exports to ONNX and compares both answers; it",
        "has no checks, tracking, plots, registry, server or gates. Each run is a process of its own; the servers are up, for",
        "the bare script too; the order turns with each repeat, after one uncounted run of each way.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()};",
        f"load average {load_before:.1f} before, {os.getloadavg()[1]:.1f} at the end (five minutes; the first is other work);",
        f"{repeats} repeats; Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in LIBRARIES)}.",
        "",
        "| way | median s | range s | of it fitting, median s | ratio to the bare script (range) |",
        "|---|---|---|---|---|",
        *(_row(measured, way) for way in measured),
        "",
        "The ratio is the median of the ratios repeat by repeat. Fitting is summed over the candidates, which Airflow fits at",
        "once, so there each waits for the other; Slipway's includes loading xgboost, or torch, the bare script's does not.",
        "",
        "The pipeline's own seconds (all but fitting), median, as the steps note them in the store:",
        "",
        "| step | slipway run | by Airflow |",
        "|---|---|---|",
        *(
            f"| {step} | {_own(measured[RUN], step)} | {_own(measured[AIRFLOW], step)} |"
            for step in measured[RUN][0].own
        ),
        f"| sum of the steps | {_sum(measured[RUN])} | {_sum(measured[AIRFLOW])} |",
        f"| outside the steps | {_outside(measured[RUN])} | - |",
        "",
        "The gate includes two seconds of load, by the spec. By Airflow each step starts a Python and loads its libraries,",
        "and two chains of steps share the cores: the sum is not what one waits for. Outside the steps of `slipway run` are",
        "the start of the command and the check of spec and rows.",
        "",
        "![seconds by way](results.svg)",
        "",
    ]
    return "\n".join(lines)


def plot(measured: Measured) -> Figure:
    """Each run as a dot over the median's bar."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    ways = list(measured)
    axes.barh(ways, [median(run.seconds for run in measured[way]) for way in ways], color="#93c5fd", label="median")
    for at, way in enumerate(ways):
        seconds = [run.seconds for run in measured[way]]
        axes.plot(seconds, [at] * len(seconds), "o", color="#1d4ed8", label=None if at else "each run")
    axes.invert_yaxis()
    axes.set_xlabel("seconds from start to exit")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    return figure


def _row(measured: Measured, way: str) -> str:
    seconds = [run.seconds for run in measured[way]]
    ratios = [run.seconds / bare.seconds for run, bare in zip(measured[way], measured[BARE], strict=True)]
    ratio = "1" if way == BARE else f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    fitting = median(run.fit_s for run in measured[way])
    return f"| {way} | {median(seconds):.1f} | {min(seconds):.1f}-{max(seconds):.1f} | {fitting:.1f} | {ratio} |"


def _own(runs: list[Measurement], step: str) -> str:
    return f"{median(run.own[step] for run in runs):.1f}"


def _sum(runs: list[Measurement]) -> str:
    return f"{median(sum(run.own.values()) for run in runs):.1f}"


def _outside(runs: list[Measurement]) -> str:
    return f"{median(run.seconds - run.fit_s - sum(run.own.values()) for run in runs):.1f}"


def _processor() -> str:
    cpu = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
