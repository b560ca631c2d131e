"""Small tables of every kind of column, candidates fitted on them, and runs on a real MLflow with no server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from pipeline.columns import Column, RowSchema, TaskKind
from pipeline.refs import DatasetRef, LoggedModelRef, Validation
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import Binary, Data, Multiclass, PipelineSpec, Regression, Torch, XGBoost
from pipeline.target import encode_target
from pipeline.tensors import Tensors, to_tensors
from tests.support.tracking import new_tracking_uri
from training.features import fit_features
from training.models.base import FEATURES_FILE, Fold, Native
from training.snapshot import to_parquet

TASKS = {"binary": Binary(kind="binary"), "multiclass": Multiclass(kind="multiclass"), "regression": Regression(kind="regression")}  # fmt: skip
ROWS = 240


class Table(NamedTuple):
    """Rows, what they look like, and the tensors of them."""

    frame: pd.DataFrame
    schema: RowSchema
    tensors: Tensors


@cache
def mixed_table(task: TaskKind) -> Table:
    """Numbers, a boolean, categories (one with many labels) and a timestamp, with missing values in each."""
    draw = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "size": draw.normal(size=ROWS),
            "weight": draw.lognormal(3, 2, size=ROWS),
            "new": draw.integers(0, 2, ROWS).astype(float),
            "colour": draw.choice(["red", "green", "blue", None], ROWS),
            "place": draw.choice([f"place {at}" for at in range(60)], ROWS),
            "seen": pd.to_datetime(draw.integers(-(10**9), 2 * 10**9, ROWS), unit="s", utc=True),
        }
    )
    frame.loc[::7, "size"], frame.loc[::9, "new"], frame.loc[::11, "seen"] = np.nan, np.nan, pd.NaT
    signal = frame["size"].fillna(0) + frame["new"].fillna(0) + (frame["colour"] == "red") + frame.index % 3 * 0.1
    frame["y"] = {
        "binary": np.where(signal > 0.8, "yes", "no"),
        "multiclass": np.where(signal > 1.2, "high", np.where(signal > 0.2, "middle", "low")),
        "regression": signal.to_numpy() * 10,
    }[task]
    kinds = {"size": "number", "weight": "number", "new": "boolean", "colour": "category", "place": "category", "seen": "timestamp"}  # fmt: skip
    columns = tuple(Column(name=name, kind=kind) for name, kind in kinds.items())
    classes = {"binary": ("no", "yes"), "multiclass": ("high", "low", "middle"), "regression": ()}[task]
    schema = RowSchema(columns=columns, target="y", task=task, classes=classes)
    return Table(frame, schema, to_tensors(frame, schema))


@cache
def fitted(kind: str, task: TaskKind) -> Native:
    """A candidate that has seen three quarters of the rows."""
    frame, schema, tensors = mixed_table(task)
    features = fit_features(frame, schema)
    x, y, cut = features.matrix(tensors), encode_target(frame, schema), ROWS * 3 // 4
    if kind == "xgboost":
        from training.models.boosted import BoostedTrainer

        trainer = BoostedTrainer.of(XGBoost(kind="xgboost", rounds=25), features, 1)
    else:
        from training.models.neural import NeuralTrainer

        trainer = NeuralTrainer.of(Torch(kind="torch", epochs=3), features, 1)
    fold = Fold(x[:cut], y[:cut], x[cut:], y[cut:])
    return Native(features, trainer.fit(fold, trainer.defaults(), 7, None, None).model)


@pytest.fixture(scope="session")
def table() -> Callable[[TaskKind], Table]:
    """The table of a task."""
    return mixed_table


@pytest.fixture(scope="session")
def candidate() -> Callable[[str, TaskKind], Native]:
    """The candidate of a kind and task, fitted once a session."""
    return fitted


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a real MLflow without a server: a database file and a folder of artifacts."""
    home = tmp_path_factory.mktemp("tracked")
    settings = Settings(home=home, mlflow_uri=new_tracking_uri(home / "mlflow.db"), threads=1)
    with contextlib.chdir(home):  # MLflow keeps the artifacts below the folder in which it opens the database
        Run("first", "first", settings, home / "first.yaml").registry.alias("nothing", "champion")
    return settings


class Prepared(NamedTuple):
    """What export reads: as the steps before it leave it."""

    spec: PipelineSpec
    dataset: DatasetRef
    models: tuple[LoggedModelRef, ...]
    run: Run

    def of(self, candidate: str) -> tuple[PipelineSpec, DatasetRef, LoggedModelRef, Run]:
        """The arguments of export for a candidate."""
        at = [model.candidate for model in self.models].index(candidate)
        return self.spec, self.dataset, self.models[at], self.run


@pytest.fixture
def prepare(tracked: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Prepared]:
    """A run whose snapshot and candidates are in the store: prepare(task, {candidate: Native})."""

    def _prepare(task: TaskKind, natives: dict[str, Native], **changes: object) -> Prepared:
        frame, schema, _ = mixed_table(task)
        name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name.lower())[:60].rstrip("_")
        kinds = {name: "torch" if hasattr(native.model, "module") else "xgboost" for name, native in natives.items()}
        candidates = tuple(
            Torch(kind="torch", name=name) if kind == "torch" else XGBoost(kind="xgboost", name=name)
            for name, kind in kinds.items()
        )
        spec = PipelineSpec(
            version=1, name=name, task=TASKS[task], data=Data(source="x.csv", target="y"), candidates=candidates
        ).model_copy(update=changes)
        run = Run("r1", name, tracked, tmp_path / "spec.yaml")
        content = to_parquet(frame)
        run.store.write(f"datasets/{name}.parquet", content)
        dataset = DatasetRef(
            digest=name, key=f"datasets/{name}.parquet", source="x.csv", row_schema=schema, rows=ROWS, train_rows=0, holdout_rows=0
        )  # fmt: skip
        models = []
        for candidate, native in natives.items():
            folder = tmp_path / candidate
            folder.mkdir()
            native.model.save(folder)
            (folder / FEATURES_FILE).write_text(native.features.model_dump_json(), encoding="utf-8")
            run.store.put(folder, f"models/{name}_{candidate}")
            models.append(
                LoggedModelRef(
                    candidate=candidate,
                    kind=kinds[candidate],
                    key=f"models/{name}_{candidate}",
                    digest=candidate,
                    model_id="m",
                    run_id=run.registry.candidate_run(run, spec, candidate),
                    params={},
                    validation=Validation(value=0.5, rows=100),
                    trials=1,
                    fit_s=0.1,
                )
            )
        return Prepared(spec, dataset, tuple(models), run)

    return _prepare
