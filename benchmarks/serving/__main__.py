"""`python -m benchmarks.serving`: the embedded Triton against other model servers, side by side on the same rows."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.serving.bench import Bench, Grid
from benchmarks.serving.machine import where
from benchmarks.serving.model import Kind, make
from benchmarks.serving.plots import plot
from benchmarks.serving.report import report
from benchmarks.serving.results import Results
from benchmarks.serving.servers import Setting

HERE = Path(__file__).parent
ENVIRONMENTS = Path.home() / ".cache" / "slipway" / "peers"
QUICK = Grid(batches=(1, 128), clients=(1, 32), shares=(0.05, 0.5))


def main(
    repeats: Annotated[int, typer.Option(min=1, help="of each point, ways in turn")] = 3,
    seconds: Annotated[float, typer.Option(min=0.2, help="of load at each point")] = 0.8,
    minutes: Annotated[float, typer.Option(min=0.1, help="after which no new point begins")] = 40.0,
    model: Annotated[Kind, typer.Option(help="what is served")] = "xgboost",
    quick: Annotated[bool, typer.Option("--quick", help="a small grid, once")] = False,
    only: Annotated[list[str] | None, typer.Option(help="a peer by name, can be given again (default: all)")] = None,
    workers: Annotated[int, typer.Option(min=1, help="of each server (default: a core each)")] = os.cpu_count() or 1,
    envs: Annotated[Path, typer.Option(help="where the peers' environments are kept")] = ENVIRONMENTS,
    out: Annotated[Path, typer.Option(help="folder of results.json, results.md and results.svg")] = HERE,
) -> None:
    """Measure, print the page, and write it with its plot and the raw figures."""
    if shutil.which("h2load") is None:
        raise SystemExit("h2load is not here: `apt-get install nghttp2-client`")
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    about = {"machine": where(), "model": model, "workers": workers, "seconds": seconds}
    results = Results(out / "results.json", about)
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        console.print("fitting the model")
        setting = Setting(Path(scratch), envs.expanduser().absolute(), workers, make(model, Path(scratch), workers))
        grid, repeats = (QUICK, 1) if quick else (Grid(), repeats)
        Bench(setting, grid, repeats, seconds, deadline, results, console.print).run(tuple(only or ()))
    text = report(results)
    console.print(text, markup=False)
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(results).savefig(out / "results.svg", metadata={"Date": None})


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    typer.run(main)
