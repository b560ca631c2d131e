"""The model that every server gets: fitted, exported and configured by Slipway's own code, with rows and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.columns import Column, RowSchema
from pipeline.serving_rules import Serving
from pipeline.settings import Settings
from pipeline.spec import Torch, XGBoost
from serving.model_config import FILE, MODEL_FILE, model_config
from serving.places import repository

Floats = npt.NDArray[np.float32]
Kind = Literal["xgboost", "torch"]
NAME, TREES, VERSION = "bench", "bench_trees", 1  # TREES: the same model by the backend `xgboost`
ROWS, COLUMNS, SEED = 20_000, 30, 7
LENGTH: dict[Kind, int] = {"xgboost": 100, "torch": 1}  # trees (of depth 6, the default), epochs: what it costs is all
SCHEMA = RowSchema(
    columns=tuple(Column(name=f"f{at}", kind="number") for at in range(COLUMNS)),
    target="y",
    task="binary",
    classes=("no", "yes"),
)


@dataclass(frozen=True)
class Subject:
    """A fitted model as the servers need it.

    `rows` are (ROWS, COLUMNS) float32. `onnx` maps `numeric` (rows, COLUMNS) to `probabilities` (rows, 2), float32;
    `booster` is XGBoost's own JSON file of the same trees, and `trees` the folder that the backend `xgboost` serves;
    None for a network.
    """

    rows: Floats
    onnx: Path
    booster: Path | None
    trees: Path | None

    def answers(self, rows: Floats) -> Floats:
        """(rows, 2) float32: what ONNX Runtime answers in this process, with which all others are compared."""
        import onnxruntime as ort

        session = ort.InferenceSession(str(self.onnx), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"numeric": rows})[0], dtype=np.float32)


def make(kind: Kind, folder: Path, threads: int) -> Subject:
    """Fit and export a model of synthetic rows into `folder`; the same each time."""
    # Here and not above: what only sends requests takes seconds less to start.
    from training.export import write_trees
    from training.features import Features
    from training.models.base import Fold, Native, Trainer
    from training.models.boosted import Boosted, BoostedTrainer
    from training.models.neural import NeuralTrainer
    from training.onnx_model import build

    draw = np.random.default_rng(SEED)
    rows = draw.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    signal = rows @ draw.normal(size=COLUMNS) + 3 * rows[:, 0] * rows[:, 1] + np.abs(rows[:, 2] * 4)
    target = (signal + draw.normal(size=ROWS) > np.median(signal)).astype(np.float64)
    features = Features(row_schema=SCHEMA, categories={})
    trainer: Trainer
    if kind == "xgboost":
        trainer = BoostedTrainer.of(XGBoost(kind="xgboost", device="cpu"), features, threads)
    else:
        trainer = NeuralTrainer.of(Torch(kind="torch", device="cpu"), features, threads)
    model = trainer.fit(Fold(rows, target), trainer.defaults(), SEED, LENGTH[kind], None).model
    onnx = folder / MODEL_FILE
    native = Native(features, model)
    onnx.write_bytes(build(native, kind))
    if not isinstance(model, Boosted):
        return Subject(rows, onnx, None, None)
    booster, trees = folder / "booster.json", folder / "trees"
    model.booster.save_model(str(booster))
    trees.mkdir()
    write_trees(native, trees)
    return Subject(rows, onnx, booster, trees)


def place(subject: Subject, settings: Settings, serving: Serving) -> None:
    """Put the model into the repository of the embedded Triton, with the configuration that a package has."""
    _place(NAME, {MODEL_FILE: subject.onnx}, settings, serving)
    if subject.trees is not None:
        files = {path.name: path for path in subject.trees.iterdir()}
        _place(TREES, files, settings, serving.model_copy(update={"backend": "xgboost"}))


def _place(name: str, files: Mapping[str, Path], settings: Settings, serving: Serving) -> None:
    version = repository(settings) / name / str(VERSION)
    version.mkdir(parents=True)
    for file, path in files.items():
        (version / file).write_bytes(path.read_bytes())
    (version.parent / FILE).write_text(model_config(name, VERSION, SCHEMA, serving, {}), encoding="utf-8")
