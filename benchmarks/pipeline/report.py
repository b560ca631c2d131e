"""The measurements as a page and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from statistics import median

from matplotlib.figure import Figure

from benchmarks.machine import machine

BARE, SCRIPT, RUN, AIRFLOW = "bare script", "script with the same steps", "slipway run", "by Airflow"
ONE_BY_ONE = (BARE, SCRIPT, "ZenML")  # ways that fit one model after the other
LIBRARIES = ("xgboost-cpu", "torch", "tabm", "optuna", "onnxmltools", "onnxruntime", "apache-airflow", "mlflow")


@dataclass(frozen=True)
class Measurement:
    """Seconds from start to exit, those of fitting each model, each model's log loss, each step's seconds but fitting.

    `cpu_s` are of the process and its children; of servers and of Airflow's tasks nothing is known.
    """

    seconds: float
    cpu_s: float
    fits: dict[str, float]
    loss: dict[str, float]
    own: dict[str, float] = field(default_factory=dict)


Measured = dict[str, list[Measurement]]


def report(measured: Measured, work: str, load_before: float, peers: Mapping[str, str]) -> str:
    """The page, as Markdown. `load_before`: load average before anything was started; `peers`: what each installs."""
    repeats = len(measured[BARE])
    losses = " and ".join(f"{loss:.5f} ({name})" for name, loss in measured[BARE][0].loss.items())
    libraries = ", ".join([*(f"{name} {version(name)}" for name in LIBRARIES), *peers.values()])
    own = {way: runs for way, runs in measured.items() if runs[0].own}
    lines = [
        "# Time of a run",
        "",
        f"The data set breast_cancer; {work}. All ways fit the same models, which is verified: each run's log loss on the",
        f"held-out rows is {losses}. The bare script tunes, fits, exports to ONNX and compares both answers; it",
        "has no checks, tracking, plots, registry, server or gates. Each run is a process of its own; the servers are up, for",
        "all of them; the order turns with each repeat, after one uncounted run of each way.",
        "",
    ]
    lines += [
        "The script with the same steps, and every peer, also judge the rows by the same suite (Great Expectations), log",
        "parameters, metrics, two plots and both models of each candidate to the same MLflow, register the better one, serve it",
        "on a Triton of its own, compare its answers, put the same load on it for as long, load it into the serving Triton and",
        "move the alias. They sign nothing, keep no record, compare with no champion, and have five gates less than Slipway.",
        "",
    ]
    if peers:
        lines += [
            f"{', '.join(peers)} run the script's own functions as their steps, by what their docs say of a local run.",
            "",
        ]
    lines += [
        f"{machine()};",
        f"load average {load_before:.1f} before, {os.getloadavg()[1]:.1f} at the end (five minutes; the first is other work);",
        f"{repeats} repeats; Python {platform.python_version()}, {libraries}.",
        "",
        "| way | median s | range s | less fitting, median s | ratio to the bare script (range) | CPU s, median |",
        "|---|---|---|---|---|---|",
        *(_row(measured, way) for way in measured),
        "",
        "The ratio is the median of the ratios repeat by repeat. The scripts and ZenML fit one model after the other,",
        "the others both at once: less fitting is less the sum there, and less the longer of the two here. Slipway's fitting",
        "includes loading xgboost, or torch, the others' does not. CPU seconds are of the process that was started and its",
        "children, servers not among them: of all figures here the one that depends least on what else the machine does.",
        "",
        "Slipway's own seconds (all but fitting), median, as the steps note them in the store:",
        "",
        f"| step | {' | '.join(own)} |",
        f"|---{'|---' * len(own)}|",
        *(f"| {step} | {' | '.join(_own(runs, step) for runs in own.values())} |" for step in measured[RUN][0].own),
        "",
        "The gate includes two seconds of load, by the spec. By Airflow each step is a process of its own, forked of its task.",
        "Candidates' steps are side by side, so the sum is not what one waits for.",
        "",
        "![seconds by way](results.svg)",
        "",
    ]
    return "\n".join(lines)


def less_fitting(way: str, run: Measurement) -> float:
    """Seconds of a run but those in which a model was fitted."""
    return run.seconds - (sum if way in ONE_BY_ONE else max)(run.fits.values())


def plot(measured: Measured) -> Figure:
    """Each run as a dot over the median's bar, of which the part that is no fitting is darker."""
    figure = Figure(figsize=(7, 1 + 0.6 * len(measured)), layout="constrained")
    axes = figure.subplots()
    ways = list(measured)
    whole = [median(run.seconds for run in measured[way]) for way in ways]
    rest = [median(less_fitting(way, run) for run in measured[way]) for way in ways]
    axes.barh(ways, whole, color="#bfdbfe", label="median")
    axes.barh(ways, rest, color="#60a5fa", label="of it not fitting")
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
    rest = median(less_fitting(way, run) for run in measured[way])
    cpu = "-" if way == AIRFLOW else f"{median(run.cpu_s for run in measured[way]):.1f}"
    return f"| {way} | {median(seconds):.1f} | {min(seconds):.1f}-{max(seconds):.1f} | {rest:.1f} | {ratio} | {cpu} |"


def _own(runs: list[Measurement], step: str) -> str:
    return f"{median(run.own[step] for run in runs):.1f}"
