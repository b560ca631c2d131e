"""`python -m benchmarks.pipeline`: a run here and by Airflow, against the bare script and the peers, side by side."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console

from benchmarks.pipeline.environments import PEERS, Peer, make
from benchmarks.pipeline.report import AIRFLOW, BARE, RUN, SCRIPT, Measured, Measurement, plot, report
from pipeline import stack
from pipeline.dataset import held_out
from pipeline.ports import free_ports
from pipeline.settings import Settings
from pipeline.spec import Split
from pipeline.supervisor import answers
from serving.places import repository

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
    peers: Annotated[
        Path | None, typer.Option(help="folder of the peers' environments, made where they are not")
    ] = None,
    airflow: Annotated[bool, typer.Option(help="by Airflow too")] = True,
) -> None:
    """Measure, print the table, and write it with its plot."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, soft_wrap=True)
    before = os.getloadavg()[1]
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch, ExitStack() as servers:
        settings = project(Path(scratch))
        console.print("starting the stack")
        servers.callback(stack.down, settings)
        stack.up(settings, None if airflow else ("mlflow", "triton"))
        mask = _champion(settings)
        glue = _glue(settings)
        ways: dict[str, Callable[[], Measurement]] = {
            BARE: lambda: _script(sys.executable, HERE / "bare.py", mask),
            SCRIPT: lambda: _script(sys.executable, HERE / "whole.py", mask, environment=glue, whole=True),
            RUN: lambda: _slipway(settings, "run", "bench", "--quiet"),
        }
        if airflow:
            ways[AIRFLOW] = lambda: _slipway(settings, "trigger", "bench", "--wait")
        for peer in PEERS if peers else ():
            console.print(f"making the environment of {peer.name}")
            ways[peer.name] = servers.enter_context(_peer(peer, make(peer, peers), Path(scratch), mask, glue))
        measured: Measured = {way: [] for way in ways}
        for way, measure in ways.items():  # byte-code, caches, databases
            console.print(f"uncounted, {way}: {_shown(measure())}")
        for repeat in range(repeats):
            turn = repeat % len(ways)
            for way in [*ways][turn:] + [*ways][:turn]:  # none is always the one after Airflow
                measured[way].append(ways[way]())
                console.print(f"repeat {repeat + 1} of {repeats}, {way}: {_shown(measured[way][-1])}")
    _same_models(measured)
    text = report(measured, WORK, before, {peer.name: peer.requirement for peer in PEERS if peers})
    console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(measured).savefig(out / "results.svg", metadata={"Date": None})


def _shown(run: Measurement) -> str:
    return f"{run.seconds:.1f} s, {run.cpu_s:.1f} CPU s"


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def project(root: Path) -> Settings:
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


def _champion(settings: Settings) -> Path:
    """A champion of another seed, which every run has to beat. Returns the file of the held-out mask."""
    summary = _answer(settings, "run", "bench", "--quiet", "--seed", "1")
    rows = pd.read_parquet(Path(settings.store) / summary["dataset"]["key"])
    mask = settings.root / "held_out.npy"
    np.save(mask, held_out(rows, Split()))
    return mask


def _glue(settings: Settings) -> dict[str, str]:
    """What the steps of glue.py go by: the servers are those of Slipway's runs."""
    return {
        "MLFLOW_TRACKING_URI": settings.mlflow_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GX_ANALYTICS_ENABLED": "false",
        "BENCH_SUITE": str(ROOT / "feature_checks" / "suites" / "breast_cancer.json"),
        "BENCH_TRITON": str(settings.triton_dir),
        "BENCH_SERVING": f"{settings.triton_grpc},{repository(settings)}",
    }


def _script(
    python: str, file: Path, mask: Path, *before: str, environment: dict[str, str] | None = None, whole: bool = False
) -> Measurement:
    """Run a script that takes the bare script's options, and whose last line of JSON is what it has to say."""
    counts = {"trees-trials": TREES_TRIALS, "network-trials": NETWORK_TRIALS, "folds": FOLDS, "epochs": EPOCHS}
    command = [python, str(file), *before, "--held-out", str(mask)]
    for name, value in counts.items():
        command += [f"--{name}", str(value)]
    command += ["--whole"] if whole else []
    known = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "DO_NOT_TRACK": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **(environment or {}),
    }
    cpu, begin = _cpu_s(), time.perf_counter()
    done = subprocess.run(command, env=known, check=False, capture_output=True, text=True)
    seconds, cpu_s = time.perf_counter() - begin, _cpu_s() - cpu
    lines = [line[line.index("{") :] for line in done.stdout.splitlines() if '"log_loss"' in line]
    if done.returncode or not lines:
        raise SystemExit(done.stderr + done.stdout)
    said = json.loads(lines[-1])
    fits = {name: model["fit_s"] for name, model in said.items()}
    return Measurement(seconds, cpu_s, fits, {name: model["log_loss"] for name, model in said.items()})


@contextmanager
def _peer(
    peer: Peer, python: Path, scratch: Path, mask: Path, glue: dict[str, str]
) -> Iterator[Callable[[], Measurement]]:
    """How a run of the peer is measured, its state in a folder of its own, its server up where it has one."""
    home = scratch / peer.name.lower()
    home.mkdir()
    fill = {"home": str(home), "port": str(free_ports("127.0.0.1", 1)[0])}
    environment = glue | {name: value.format(**fill) for name, value in peer.environment.items()}
    server = None
    if peer.server:
        command = [str(python), *(word.format(**fill) for word in peer.server)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen(command, env={**os.environ, "DO_NOT_TRACK": "1", **environment}, **quiet)  # type: ignore[call-overload]
        _await(f"http://127.0.0.1:{fill['port']}/api/health")
    try:
        flow = HERE / "peers" / peer.flow
        yield lambda: _script(str(python), flow, mask, *peer.before, environment=environment, whole=True)
    finally:
        if server is not None:
            server.terminate()
            server.wait()


def _await(url: str) -> None:
    deadline = time.monotonic() + 300
    while not answers(url):
        if time.monotonic() > deadline:
            raise SystemExit(f"{url} does not answer")
        time.sleep(0.2)


def _slipway(settings: Settings, *arguments: str) -> Measurement:
    """A run, and then, uncounted, the way back to the champion that it replaced: it would not replace itself."""
    cpu, begin = _cpu_s(), time.perf_counter()
    summary = _answer(settings, *arguments)
    seconds, cpu_s = time.perf_counter() - begin, _cpu_s() - cpu
    _answer(settings, "rollback", "bench")
    tasks = summary["tasks"]
    loss = {score["candidate"]: score["metrics"]["log_loss"] for score in summary["evaluation"]["scores"]}
    fits = {task["task"].removeprefix("train_"): task["fit_s"] for task in tasks if task["fit_s"]}
    own = {task["task"]: max(task["seconds"] - task["fit_s"], 0.0) for task in tasks}
    return Measurement(seconds, cpu_s, fits, loss, own)


def _cpu_s() -> float:
    """CPU seconds of the children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
