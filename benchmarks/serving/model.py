"""The model that every server gets: fitted, exported and configured by Slipway's own code, with rows and their answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pipeline.columns import Column, RowSchema
from pipeline.serving_rules import Serving
from pipeline.settings import Settings
from pipeline.spec import Torch, XGBoost
from serving.model_config import FILE, MODEL_FILE, model_config
from serving.places import repository
from training.features import Features
from training.models.base import Fold, Model, Native, Trainer
from training.models.boosted import Boosted, BoostedTrainer
from training.models.neural import NeuralTrainer
from training.onnx_model import build

Floats = npt.NDArray[np.float32]
Kind = Literal["xgboost", "torch"]
NAME, VERSION = "bench", 1
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
    `booster` is XGBoost's own JSON file of the same trees, None for a network.
    """

    rows: Floats
    onnx: Path
    booster: Path | None

    def answers(self, rows: Floats) -> Floats:
        """(rows, 2) float32: what ONNX Runtime answers in this process, with which all others are compared."""
        session = ort.InferenceSession(str(self.onnx), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"numeric": rows})[0], dtype=np.float32)


def make(kind: Kind, folder: Path, threads: int) -> Subject:
    """Fit and export a model of synthetic rows into `folder`; the same each time."""
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
    onnx.write_bytes(build(Native(features, model), kind))
    return Subject(rows, onnx, _booster(model, folder / "booster.json"))


def place(subject: Subject, settings: Settings, serving: Serving) -> None:
    """Put the model into the repository of the embedded Triton, with the configuration that a package has."""
    version = repository(settings) / NAME / str(VERSION)
    version.mkdir(parents=True)
    (version / MODEL_FILE).write_bytes(subject.onnx.read_bytes())
    (version.parent / FILE).write_text(model_config(NAME, VERSION, SCHEMA, serving, {}), encoding="utf-8")


def _booster(model: Model, path: Path) -> Path | None:
    if not isinstance(model, Boosted):
        return None
    model.booster.save_model(str(path))
    return path
