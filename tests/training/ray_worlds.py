"""A real Ray cluster of several processes for the tests, as a step starts one; and work for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.columns import Column, RowSchema
from pipeline.dataset import split_rows
from pipeline.engine import Local, Ray
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import Binary, Data, PipelineSpec, Torch, XGBoost
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from training.engine import Work
from training.models.boosted import BoostedTrainer
from training.rows import TrainingRows

ROOT = Path(__file__).resolve().parents[2]
ROWS, GROUPS = 3000, 4
SCHEMA = RowSchema(
    columns=(*(Column(name=f"n{at}", kind="number") for at in range(6)), Column(name="c", kind="category")),
    target="y",
    task="binary",
    classes=("no", "yes"),
)
HOLDS = """
import os, sys, pathlib
from pipeline.settings import Settings
from pipeline.engine import Ray
from training.on_ray.cluster import cluster
if __name__ == "__main__":
    with cluster(Ray(kind="ray", workers=2), Settings(home=pathlib.Path(sys.argv[1]))):
        import ray
        print(ray.get_runtime_context().gcs_address, os.environ["RAY_AUTH_TOKEN"], flush=True)
        sys.stdin.read()
"""


@contextmanager
def held(home: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A process that holds a cluster until its stdin ends: the process, the cluster's address and token."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(home)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        address, token = process.stdout.readline().split()
        yield process, address, token
        process.stdin.close()
        process.wait(60)
    finally:
        process.kill()
        process.wait()


class Asked(NamedTuple):
    """Work, and the held-out rows to judge it by."""

    work: Work
    x: np.ndarray
    y: np.ndarray


def asked(kind: str, engine: Local | Ray, settings: Settings, **changes: object) -> Asked:
    """A candidate of this kind, to be fitted by this engine; the same rows for every engine."""
    from training.models.neural import NeuralTrainer

    candidate = {"xgboost": XGBoost, "torch": Torch}[kind].model_validate(
        {"kind": kind, "engine": engine, "budget_s": 600.0, **changes}
    )
    spec = PipelineSpec(
        version=1, name="on_ray", task=Binary(kind="binary"), data=Data(source="x.csv", target="y"), candidates=(candidate,)
    )  # fmt: skip
    run = Run("r1", "on_ray", settings, settings.home / "spec.yaml", candidate.name)
    dataset = DatasetRef(
        digest="d", key="datasets/on_ray.parquet", source="x.csv", row_schema=SCHEMA, rows=ROWS, train_rows=0, holdout_rows=0
    )  # fmt: skip
    if not run.store.exists(dataset.key):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(_table(), preserve_index=False), sink, row_group_size=ROWS // GROUPS)
        run.store.write(dataset.key, sink.getvalue().to_pybytes())
    training, held_out = split_rows(run, dataset, spec.split)
    dataset = dataset.model_copy(update={"train_rows": len(training), "holdout_rows": len(held_out)})
    rows = TrainingRows.of(Path(run.store.path(dataset.key)), dataset, spec.split, 2**30)
    features = rows.features
    trainer = (BoostedTrainer if kind == "xgboost" else NeuralTrainer).of(candidate, features, 1)  # type: ignore[arg-type]
    work = Work(spec, candidate, dataset, rows, trainer, run)
    return Asked(work, features.matrix(to_tensors(held_out, SCHEMA, "rows")), encode_target(held_out, SCHEMA))


def _table() -> pd.DataFrame:
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({f"n{at}": draw.normal(size=ROWS) for at in range(6)})
    frame["c"] = draw.choice(["a", "b", "c", None], ROWS)
    frame.loc[::9, "n3"] = np.nan
    signal = frame.n0 + frame.n1 * frame.n2 + (frame.c == "a") + draw.normal(0, 0.5, ROWS)
    frame["y"] = np.where(signal > 0.3, "yes", "no")
    return frame


def joined(token: str) -> None:
    """Let this process join such a cluster; to be called before ray is imported."""
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"})
