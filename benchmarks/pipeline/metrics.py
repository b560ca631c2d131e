"""`python -m benchmarks.pipeline.metrics`: ten thousand values of a metric into the embedded MLflow, three ways."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from mlflow import MlflowClient
from mlflow.entities import Metric

from benchmarks.machine import machine
from benchmarks.pipeline.__main__ import project
from pipeline import stack
from pipeline.registry import Registry

HERE = Path(__file__).parent
VALUES, BY_ONE, AT_MOST = 10_000, 500, 1000
Log = Callable[[str, list[float]], None]


def main(
    repeats: Annotated[int, typer.Option(min=1, help="of each way, interleaved")] = 3,
    out: Annotated[Path, typer.Option(help="folder of metrics.md")] = HERE,
) -> None:
    """Measure, print the table, and write it."""
    before = os.getloadavg()[1]
    values = [1 / (at + 1) for at in range(VALUES)]
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        settings = project(Path(scratch))
        try:
            stack.up(settings, ("mlflow",))
            registry, client = Registry(settings), MlflowClient(settings.mlflow_uri)
            experiment = client.create_experiment("metrics")
            ways: dict[str, tuple[Log, int]] = {
                "slipway": (lambda run, some: registry.log(run, series={"loss": some}), VALUES),
                "log_batch of 1,000": (lambda run, some: _by_batch(client, run, some), VALUES),
                "log_metric, one by one": (lambda run, some: _one_by_one(client, run, some), BY_ONE),
            }
            took: dict[str, list[float]] = {name: [] for name in ways}
            for repeat in range(repeats + 1):
                for name, (log, count) in ways.items():
                    run, begin = client.create_run(experiment).info.run_id, time.perf_counter()
                    log(run, values[:count])
                    if repeat:  # the first is uncounted
                        took[name].append((time.perf_counter() - begin) * VALUES / count)
        finally:
            stack.down(settings)
    text = _page(took, repeats, before)
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.md").write_text(text, encoding="utf-8")


def _by_batch(client: MlflowClient, run: str, values: list[float]) -> None:
    for at in range(0, len(values), AT_MOST):
        some = values[at : at + AT_MOST]
        client.log_batch(run, [Metric("loss", value, 0, at + step) for step, value in enumerate(some)])


def _one_by_one(client: MlflowClient, run: str, values: list[float]) -> None:
    for step, value in enumerate(values):
        client.log_metric(run, "loss", value, step=step)


def _page(took: dict[str, list[float]], repeats: int, before: float) -> str:
    base = median(took["slipway"])
    rows = [
        f"| {name} | {median(seconds):.2f} | {min(seconds):.2f}-{max(seconds):.2f} | {median(seconds) / base:.1f} |"
        for name, seconds in took.items()
    ]
    return "\n".join(
        [
            "# Ten thousand values of a metric",
            "",
            f"MLflow {version('mlflow')}, one worker, SQLite; {repeats} repeats, interleaved; one by one is measured with",
            f"{BY_ONE} values and counted up. {machine()}; load average {before:.1f}",
            f"before, {os.getloadavg()[1]:.1f} at the end (five minutes).",
            "",
            "| way | seconds for 10,000, median | range | ratio |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    typer.run(main)
