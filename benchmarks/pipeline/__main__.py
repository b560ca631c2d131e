"""`python -m benchmarks.pipeline`: a run in one process and by Airflow against the bare script, side by side."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console

from benchmarks.pipeline.report import AIRFLOW, BARE, RUN, Measured, Measurement, plot, report
from pipeline import stack
from pipeline.dataset import held_out
from pipeline.ports import free_ports
from pipeline.settings import Settings
from pipeline.spec import Split

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PORTS = ("airflow_port", "mlflow_port", "triton_http_port", "triton_grpc_port", "triton_metrics_port")
TREES_TRIALS, NETWORK_TRIALS, FOLDS, EPOCHS = 3, 2, 3, 24
WORK = f"XGBoost with {TREES_TRIALS} trials, TabM with {NETWORK_TRIALS} trials of at most {EPOCHS} epochs, {FOLDS} folds each"
SPEC = f"""version: 1
name: bench
task: {{kind: binary, positive: malignant}}
data: {{source: "sklearn://breast_cancer", target: target}}
checks: {{suite: breast_cancer}}
candidates:  # no budget of seconds is ever reached: the work is the same each time
  - {{kind: xgboost, trials: {TREES_TRIALS}, folds: {FOLDS}, budget_s: 3600, device: cpu}}
  - {{kind: torch, trials: {NETWORK_TRIALS}, folds: {FOLDS}, epochs: {EPOCHS}, budget_s: 3600, device: cpu}}
gates:  # such that a busy machine promotes too
  champion: {{margin: 0.5}}
  latency: {{rate_per_s: 100, duration_s: 2, p95_ms: 5000}}
"""


def main(
    repeats: Annotated[int, typer.Option(min=1, help="runs of each way, interleaved")] = 3,
    out: Annotated[Path, typer.Option(help="folder of results.md and results.svg")] = HERE,
) -> None:
    """Measure, print the table, and write it with its plot."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, soft_wrap=True)
    before = os.getloadavg()[1]
    measured: Measured = {way: [] for way in (BARE, RUN, AIRFLOW)}
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        settings = _project(Path(scratch))
        try:
            console.print("starting the stack")
            stack.up(settings)
            mask = _warm_up(settings)
            for repeat in range(repeats):
                ways = {
                    BARE: lambda: _bare(mask),
                    RUN: lambda: _slipway(settings, "run", "bench", "--quiet"),
                    AIRFLOW: lambda: _slipway(settings, "trigger", "bench", "--wait"),
                }
                for way in [*ways][repeat % 3 :] + [*ways][: repeat % 3]:  # none is always the one after Airflow
                    measured[way].append(ways[way]())
                    console.print(f"repeat {repeat + 1} of {repeats}, {way}: {measured[way][-1].seconds:.1f} s")
        finally:
            stack.down(settings)
    _same_models(measured)
    text = report(measured, WORK, before)
    console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(measured).savefig(out / "results.svg", metadata={"Date": None})


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _project(root: Path) -> Settings:
    """A project of its own: the spec, the suite, the DAG entry; free ports."""
    (root / "dags" / "specs").mkdir(parents=True)
    (root / "dags" / "specs" / "bench.yaml").write_text(SPEC, encoding="utf-8")
    for name in ("pipelines.py", ".airflowignore"):
        (root / "dags" / name).write_bytes((ROOT / "dags" / name).read_bytes())
    ports = dict(zip(PORTS, free_ports("127.0.0.1", len(PORTS)), strict=True))
    folders = {"root": root, "home": root / ".slipway", "store": str(root / ".slipway" / "store")}
    folders |= {"specs_dir": root / "dags" / "specs", "suites_dir": ROOT / "feature_checks" / "suites"}
    uri = f"http://127.0.0.1:{ports['mlflow_port']}"
    return Settings.model_validate(
        {**folders, **ports, "host": "127.0.0.1", "mlflow_uri": uri, "triton_dir": ROOT / ".triton"}
    )


def _warm_up(settings: Settings) -> Path:
    """Run once each way, uncounted: byte-code, caches, the first champion. Returns the file of the held-out mask."""
    _slipway(settings, "trigger", "bench", "--wait")
    summary = _answer(settings, "run", "bench", "--quiet")
    rows = pd.read_parquet(Path(settings.store) / summary["dataset"]["key"])
    mask = settings.root / "held_out.npy"
    np.save(mask, held_out(rows, Split()))
    _bare(mask)
    return mask


def _bare(mask: Path) -> Measurement:
    counts = {"trees-trials": TREES_TRIALS, "network-trials": NETWORK_TRIALS, "folds": FOLDS, "epochs": EPOCHS}
    command = [sys.executable, str(HERE / "bare.py"), "--held-out", str(mask)]
    command += [f"--{name}={value}" for name, value in counts.items()]
    begin = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(done.stderr)
    said = json.loads(done.stdout.splitlines()[-1])
    return Measurement(seconds, said["fit_s"], {name: model["log_loss"] for name, model in said["models"].items()})


def _slipway(settings: Settings, *arguments: str) -> Measurement:
    begin = time.perf_counter()
    summary = _answer(settings, *arguments)
    seconds = time.perf_counter() - begin
    tasks = summary["tasks"]
    loss = {score["candidate"]: score["metrics"]["log_loss"] for score in summary["evaluation"]["scores"]}
    own = {task["task"]: max(task["seconds"] - task["fit_s"], 0.0) for task in tasks}
    return Measurement(seconds, sum(task["fit_s"] for task in tasks), loss, own)


def _answer(settings: Settings, *arguments: str) -> dict[str, Any]:
    """What a command of slipway says, as JSON."""
    environment = {
        f"SLIPWAY_{name.upper()}": str(value)
        for name, value in settings.model_dump(exclude={"airflow_password"}).items()
    }
    command = [sys.executable, "-m", "pipeline.cli", *arguments, "--json"]
    done = subprocess.run(command, env=os.environ | environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr + done.stdout)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _same_models(measured: Measured) -> None:
    """Stop unless every run of every way came to the same models, told by their log loss on the held-out rows."""
    wanted = measured[BARE][0].loss
    for way, runs in measured.items():
        for run in runs:
            if any(not math.isclose(run.loss[name], loss, rel_tol=1e-4) for name, loss in wanted.items()):
                raise SystemExit(
                    f"other models were fitted: {way} has log loss {run.loss}, the first bare run {wanted}"
                )


if __name__ == "__main__":
    typer.run(main)
