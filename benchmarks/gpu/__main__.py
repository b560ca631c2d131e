"""`python -m benchmarks.gpu`: fits and answers on the first GPU and on the processor, in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import onnxruntime as ort
import torch
import typer
import xgboost as xgb
from rich.console import Console

from benchmarks.machine import machine
from pipeline.columns import Column, RowSchema
from pipeline.spec import Torch, XGBoost
from training.features import Features
from training.models.base import Fold, Native, Trainer
from training.models.boosted import BoostedTrainer
from training.models.neural import NeuralTrainer
from training.onnx_model import build

HERE = Path(__file__).parent
COLUMNS, EPOCHS, ROUNDS, SEED, ANSWERED = 50, 3, 200, 7, 4096
SCHEMA = RowSchema(
    columns=tuple(Column(name=f"f{at}", kind="number") for at in range(COLUMNS)),
    target="y",
    task="binary",
    classes=("no", "yes"),
)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
Way = Callable[[], object]


def main(
    rows: Annotated[int, typer.Option(min=1000, help=f"rows of {COLUMNS} columns")] = 200_000,
    repeats: Annotated[int, typer.Option(min=1, help="of each way, in turn")] = 3,
    out: Annotated[Path, typer.Option(help="folder of results.md")] = HERE,
) -> None:
    """Measure, print the table, and write it."""
    if not torch.cuda.is_available():
        raise SystemExit("PyTorch finds no GPU here: nothing was measured")
    console = Console(highlight=False, soft_wrap=True)
    ways, absent = _ways(rows)
    took: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    for repeat in range(repeats + 1):
        for key, way in ways.items():
            begin = time.perf_counter()
            way()
            if repeat:  # the first is uncounted: it loads and compiles
                took[key].append(time.perf_counter() - begin)
                console.print(f"repeat {repeat} of {repeats}, {', '.join(key)}: {took[key][-1]:.3f} s")
    text = _page(took, absent, rows)
    console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text, encoding="utf-8")


def _ways(rows: int) -> tuple[dict[tuple[str, str], Way], list[str]]:
    """What is measured, by what it is and where it runs; and what cannot be here."""
    draw = np.random.default_rng(SEED)
    x = draw.normal(size=(rows, COLUMNS)).astype(np.float32)
    y = (x[:, :10].sum(axis=1) + draw.normal(size=rows) > 0).astype(np.float64)
    fold, features = Fold(x, y), Features(row_schema=SCHEMA, categories={})
    threads, absent = os.cpu_count() or 1, []
    found: dict[tuple[str, str], Way] = {}

    def fit(trainer: Trainer, length: int) -> Way:
        return lambda: trainer.fit(fold, trainer.defaults(), SEED, length, None)

    for device in ("cpu", "cuda"):
        network = NeuralTrainer.of(Torch(kind="torch", device=device), features, threads)  # type: ignore[arg-type]
        found[f"fit of TabM, {EPOCHS} epochs", device] = fit(network, EPOCHS)
    for device in ("cpu", "cuda") if xgb.build_info().get("USE_CUDA") else ("cpu",):
        trees = BoostedTrainer.of(XGBoost(kind="xgboost", device=device), features, threads)  # type: ignore[arg-type]
        found[f"fit of XGBoost, {ROUNDS} rounds", device] = fit(trees, ROUNDS)
    if not xgb.build_info().get("USE_CUDA"):
        absent.append("XGBoost was built without CUDA")
    model = NeuralTrainer.of(Torch(kind="torch", device="cuda"), features, threads)
    graph = build(Native(features, model.fit(fold, model.defaults(), SEED, 1, None).model), "torch")
    asked = {"numeric": x[:ANSWERED]}
    for device, provider in PROVIDERS.items():
        if provider not in ort.get_available_providers():
            absent.append(f"ONNX Runtime was built without {provider}")
            continue
        session = ort.InferenceSession(graph, providers=[provider, PROVIDERS["cpu"]][: 1 + (device != "cpu")])
        found[f"answers of TabM to {ANSWERED} rows", device] = lambda session=session: session.run(None, asked)  # type: ignore[misc]
    return found, absent


def _page(took: dict[tuple[str, str], list[float]], absent: list[str], rows: int) -> str:
    lines = [
        "# On a GPU",
        "",
        f"{machine()}; {torch.cuda.get_device_name(0)};",
        f"torch {torch.__version__}, XGBoost {xgb.__version__}, onnxruntime {version('onnxruntime')}; {rows:,} rows of",
        f"{COLUMNS} columns; median of {len(next(iter(took.values())))}. PyTorch is in bfloat16 where the GPU has it.",
        "",
        *(f"Left out: {what}.\n" for what in absent),
        "| what | where | s (range) | times the processor |",
        "|---|---|---|---|",
    ]
    for (what, device), seconds in took.items():
        times = median(one / other for one, other in zip(took[what, "cpu"], seconds, strict=True))
        lines.append(
            f"| {what} | {device} | {median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f}) | {times:.2f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    typer.run(main)
