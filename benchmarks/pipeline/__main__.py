"""`python -m benchmarks.pipeline`: a run in one process and by Airflow against the bare script, side by side."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from pipeline import stack
from pipeline.ports import free_ports
from pipeline.settings import Settings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PORTS = ("airflow_port", "mlflow_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")
FOLDS, EPOCHS = 3, 40
SPEC = f"""version: 1
name: bench
task: {{kind: binary, positive: malignant}}
data: {{source: "sklearn://breast_cancer", target: target}}
checks: {{suite: breast_cancer}}
candidates:
  - {{kind: xgboost, trials: 1, folds: {FOLDS}, budget_s: 600}}
  - {{kind: torch, trials: 1, folds: {FOLDS}, epochs: {EPOCHS}, budget_s: 600}}
gates:
  champion: {{margin: 0.5}}
  latency: {{rate_per_s: 100, duration_s: 2, p95_ms: 5000}}
"""
WAYS = ("bare script", "slipway run", "by Airflow")


def main(
    repeats: Annotated[int, typer.Option(min=1, help="runs of each way, interleaved")] = 3,
    out: Annotated[Path, typer.Option(help="folder of results.md and results.svg")] = HERE,
) -> None:
    """Measure, print the table, and write it with its plot."""
    console = Console()
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        settings = _project(Path(scratch))
        try:
            with console.status("starting the stack"):
                stack.up(settings)
            environment = _environment(settings)
            _slipway(environment, "run", "bench", "--quiet")  # byte-code, caches and the first champion
            for _ in track(range(repeats), description="measuring", console=console):
                measured["bare script"].append(_bare())
                measured["slipway run"].append(_slipway(environment, "run", "bench", "--quiet"))
                measured["by Airflow"].append(_slipway(environment, "trigger", "bench", "--wait"))
        finally:
            stack.down(settings)
    text = _report(measured, repeats)
    console.print(text, markup=False)
    (out / "results.md").write_text(text, encoding="utf-8")
    _plot(measured).savefig(out / "results.svg")


def _project(root: Path) -> Settings:
    """A project of its own: the spec, the suite, the DAG entry; free ports."""
    (root / "dags" / "specs").mkdir(parents=True)
    (root / "dags" / "specs" / "bench.yaml").write_text(SPEC, encoding="utf-8")
    for name in ("pipelines.py", ".airflowignore"):
        (root / "dags" / name).write_bytes((ROOT / "dags" / name).read_bytes())
    ports = dict(zip(PORTS, free_ports("127.0.0.1", len(PORTS)), strict=True))
    folders = {"root": root, "triton_dir": ROOT / ".triton", "suites_dir": ROOT / "feature_checks" / "suites"}
    return Settings.model_validate({**folders, **ports})


def _environment(settings: Settings) -> dict[str, str]:
    names = ("root", "triton_dir", "suites_dir", *PORTS)
    return {**os.environ, **{f"SLIPWAY_{name.upper()}": str(getattr(settings, name)) for name in names}}


def _bare() -> dict[str, Any]:
    command = [sys.executable, str(HERE / "bare.py"), "--folds", str(FOLDS), "--epochs", str(EPOCHS)]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"seconds": time.perf_counter() - begin, "fit_s": json.loads(done.stdout.splitlines()[-1])["fit_s"]}


def _slipway(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    begin = time.perf_counter()
    command = [sys.executable, "-m", "pipeline.cli", *arguments, "--json"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr + done.stdout)
    tasks = json.loads(done.stdout)["tasks"]
    own = {task["task"]: max(task["seconds"] - task["fit_s"], 0) for task in tasks}
    return {"seconds": seconds, "fit_s": sum(task["fit_s"] for task in tasks), "own": own}


def _report(measured: dict[str, list[dict[str, Any]]], repeats: int) -> str:
    def seconds(way: str, key: str = "seconds") -> list[float]:
        return [run[key] for run in measured[way]]

    bare = seconds("bare script")
    lines = [
        "# Time of a run",
        "",
        "breast_cancer, two candidates, one trial each, three folds; both ways fit the same models as the bare script, which",
        "exports and compares them too and does nothing else. Servers are up; every way is a process of its own; interleaved.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f} over five minutes, "
        f"Python {platform.python_version()}, {repeats} repeats.",
        "",
        "| way | median s | range s | of it fitting s | ratio to the bare script |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        ratios = [one / other for one, other in zip(seconds(way), bare, strict=True)]
        spread = f"{min(seconds(way)):.1f}-{max(seconds(way)):.1f}"
        fitting = statistics.median(seconds(way, "fit_s"))
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        lines.append(f"| {way} | {statistics.median(seconds(way)):.1f} | {spread} | {fitting:.1f} | {ratio} |")
    lines += [
        "",
        "The pipeline's own seconds (all but fitting), median:",
        "",
        "| step | slipway run | by Airflow |",
        "|---|---|---|",
    ]
    own = {way: [run["own"] for run in measured[way]] for way in WAYS[1:]}
    for step in own["slipway run"][0]:
        cells = [f"{statistics.median([one[step] for one in own[way]]):.1f}" for way in WAYS[1:]]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    sums = [f"{statistics.median([sum(one.values()) for one in own[way]]):.1f}" for way in WAYS[1:]]
    return "\n".join([*lines, f"| sum | {' | '.join(sums)} |", "", "![seconds by way](results.svg)", ""])


def _plot(measured: dict[str, list[dict[str, Any]]]) -> Figure:
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    fitting = [statistics.median([run["fit_s"] for run in measured[way]]) for way in WAYS]
    total = [statistics.median([run["seconds"] for run in measured[way]]) for way in WAYS]
    rest = [max(whole - part, 0) for whole, part in zip(total, fitting, strict=True)]
    axes.barh(WAYS, fitting, color="#93c5fd", label="fitting, summed over candidates")
    axes.barh(WAYS, rest, left=fitting, color="#2563eb", label="all else")
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    typer.run(main)
