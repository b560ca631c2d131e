"""`python -m benchmarks.on_ray`: the same candidate fitted in one process, and on Ray by one worker and by two."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from sklearn.metrics import roc_auc_score

from benchmarks.on_ray.report import HERE, ONE, TWO, Measured, Measurement, plot, report
from pipeline.columns import Column, RowSchema
from pipeline.dataset import split_rows
from pipeline.engine import Engine, Local, Ray
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import Binary, Data, PipelineSpec, XGBoost
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from training.engine import Work, fit
from training.models.boosted import BoostedTrainer
from training.rows import TrainingRows

PAGE = Path(__file__).parent
COLUMNS, GROUPS, TRIALS, ROUNDS = 20, 8, 2, 300
SCHEMA = RowSchema(
    columns=tuple(Column(name=f"n{at}", kind="number") for at in range(COLUMNS)), target="y", task="binary", classes=("no", "yes")
)  # fmt: skip
WAYS: dict[str, Engine] = {HERE: Local(kind="local"), ONE: Ray(kind="ray", workers=1), TWO: Ray(kind="ray", workers=2)}


def main(
    rows: Annotated[
        list[int] | None, typer.Option(help="numbers of rows (default: 10,000, 100,000 and 400,000)")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="fits of each way, interleaved")] = 3,
    out: Annotated[Path, typer.Option(help="folder of results.md and results.svg")] = PAGE,
) -> None:
    """Measure, print the table, and write it with its plot."""
    console, before = Console(highlight=False, soft_wrap=True), os.getloadavg()[1]
    logging.getLogger("slipway").setLevel(logging.ERROR)
    measured: Measured = {}
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        settings = Settings(home=Path(scratch))
        for count in rows or [10_000, 100_000, 400_000]:
            dataset = _snapshot(settings, count)
            for repeat in range(repeats):
                for way in [*WAYS][repeat % 3 :] + [*WAYS][: repeat % 3]:
                    found = _measure(settings, dataset, WAYS[way])
                    measured.setdefault((count, way), []).append(found)
                    console.print(f"{count} rows, {way}: {found.seconds:.1f} s, AUC {found.auc:.4f}")
    work = f"{COLUMNS} numbers; {TRIALS} trials and the last fit, at most {ROUNDS} rounds"
    text = report(measured, work, before)
    console.print(text, markup=False)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text, encoding="utf-8")
    plot(measured).savefig(out / "results.svg", metadata={"Date": None})


def _snapshot(settings: Settings, rows: int) -> DatasetRef:
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({column.name: draw.normal(size=rows) for column in SCHEMA.columns})
    frame["y"] = np.where(frame.n0 + frame.n1 * frame.n2 + draw.normal(0, 0.5, rows) > 0.3, "yes", "no")
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), sink, row_group_size=-(-rows // GROUPS))
    key = f"datasets/{rows}.parquet"
    Run("r", "bench", settings, settings.home).store.write(key, sink.getvalue())
    return DatasetRef(
        digest=str(rows), key=key, source="drawn", row_schema=SCHEMA, rows=rows, train_rows=0, holdout_rows=0
    )


def _measure(settings: Settings, dataset: DatasetRef, engine: Engine) -> Measurement:
    candidate = XGBoost(kind="xgboost", trials=TRIALS, rounds=ROUNDS, budget_s=36_000, device="cpu", engine=engine)
    spec = PipelineSpec(
        version=1, name="bench", task=Binary(kind="binary"), data=Data(source="drawn", target="y"), candidates=(candidate,)
    )  # fmt: skip
    run = Run("r", "bench", settings, settings.home, candidate.name)
    training, held_out = split_rows(run, dataset, spec.split)
    dataset = dataset.model_copy(update={"train_rows": len(training), "holdout_rows": len(held_out)})
    rows = TrainingRows.of(Path(run.store.path(dataset.key)), dataset, spec.split, 2**34)
    features = rows.features
    work = Work(spec, candidate, dataset, rows, BoostedTrainer.of(candidate, features, 1), run)
    begin = time.perf_counter()
    fitted = fit(work).fitted
    seconds = time.perf_counter() - begin
    answers = fitted.model.predict(features.matrix(to_tensors(held_out, SCHEMA, "rows")))[:, 1]
    return Measurement(seconds, float(roc_auc_score(encode_target(held_out, SCHEMA), answers)))


if __name__ == "__main__":
    typer.run(main)
