"""Gradient-boosted trees with native categories, missing values and early stopping; the only importer of xgboost."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from pipeline.columns import RowSchema, TaskKind
from pipeline.errors import Invalid
from pipeline.spec import XGBoost
from training.features import Features
from training.models.base import Checkpoints, Fitted, Floats, Fold, Params
from training.rows import TrainingRows

MODEL_FILE, META_FILE = "model.ubj", "model.json"
BIN_BYTES, ROW_BYTES = 6, 48  # of a matrix of bins: of a value, wherever one is missing, and beside them of a row
PAGE_ROWS = 2**20  # of the pages that XGBoost is given, or fewer: as many as may be in memory
PATIENCE = 50  # rounds without a better validation loss
OBJECTIVES: dict[TaskKind, tuple[str, str]] = {
    "binary": ("binary:logistic", "logloss"),
    "multiclass": ("multi:softprob", "mlogloss"),
    "regression": ("reg:squarederror", "rmse"),
}


@dataclass(frozen=True)
class Boosted:
    """A booster cut to its best round, with no names of columns in it; `kinds` tells quantities from codes."""

    booster: xgb.Booster
    task: TaskKind
    kinds: tuple[str, ...]

    def predict(self, matrix: Floats) -> Floats:
        """(rows, width) -> (rows, classes) probabilities or (rows, 1) prediction, float32."""
        answer = np.asarray(self.booster.predict(_rows(matrix, self.kinds)), dtype=np.float32)
        if self.task == "binary":
            return np.stack([1 - answer, answer], axis=1)
        return answer.reshape(len(matrix), -1)

    def save(self, folder: Path) -> None:
        """UBJSON and a small JSON."""
        self.booster.save_model(str(folder / MODEL_FILE))
        (folder / META_FILE).write_text(json.dumps({"task": self.task, "kinds": self.kinds}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Boosted:
        """The model that `save` wrote."""
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        booster = xgb.Booster()
        booster.load_model(str(folder / MODEL_FILE))
        return cls(booster, meta["task"], tuple(meta["kinds"]))

    def importance(self) -> dict[int, float]:
        """Total gain by matrix column; columns that no tree asks are absent."""
        gain = self.booster.get_score(importance_type="total_gain")
        return {int(name.removeprefix("f")): float(np.mean(value)) for name, value in gain.items()}


@dataclass(frozen=True)
class BoostedTrainer:
    """Fits boosters for one schema."""

    spec: XGBoost
    schema: RowSchema
    kinds: tuple[str, ...]
    threads: int

    @classmethod
    def of(cls, spec: XGBoost, features: Features, threads: int) -> BoostedTrainer:
        """The trainer of a candidate for these features."""
        return cls(spec, features.row_schema, features.kinds, threads)

    def defaults(self) -> Params:
        """Known to be good on tables of a thousand to a million rows; the search starts here."""
        return {
            "learning_rate": 0.05,
            "max_depth": 6,
            "min_child_weight": 5.0,
            "subsample": 0.8,
            "colsample_bytree": 0.7,
            "reg_lambda": 2.0,
            "reg_alpha": 0.01,
            "gamma": 0.01,
            "max_cat_to_onehot": 8,
        }

    def suggest(self, trial: Any) -> Params:
        """Ranges around the defaults, log-uniform where a factor matters."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
            "max_depth": trial.suggest_int("max_depth", 3, 9),
            "min_child_weight": trial.suggest_float("min_child_weight", 0.5, 30.0, log=True),
            "subsample": trial.suggest_float("subsample", 0.5, 1.0),
            "colsample_bytree": trial.suggest_float("colsample_bytree", 0.3, 1.0),
            "reg_lambda": trial.suggest_float("reg_lambda", 0.1, 30.0, log=True),
            "reg_alpha": trial.suggest_float("reg_alpha", 1e-3, 10.0, log=True),
            "gamma": trial.suggest_float("gamma", 1e-3, 5.0, log=True),
            "max_cat_to_onehot": trial.suggest_int("max_cat_to_onehot", 2, 32),
        }

    def fit(self, fold: Fold, params: Params, seed: int, length: int | None, deadline: float | None) -> Fitted:
        """Fit to early stopping on the fold's validation part, or for `length` rounds.

        Raises:
            Invalid: CUDA is asked for and there is none. A retry does not help.
        """
        options, (_, metric) = self._options(params, seed), OBJECTIVES[self.schema.task]
        train = self._matrix(fold.x, fold.y)
        log: dict[str, dict[str, list[float]]] = {}
        callbacks: list[xgb.callback.TrainingCallback] = [_Deadline(deadline)] if deadline is not None else []
        if fold.x_valid is None or fold.y_valid is None:
            booster = xgb.train(options, train, length or self.spec.rounds, callbacks=callbacks)
            return Fitted(Boosted(_plain(booster), self.schema.task, self.kinds), booster.num_boosted_rounds())
        valid = xgb.QuantileDMatrix(
            fold.x_valid, fold.y_valid, ref=train, feature_types=list(self.kinds), enable_categorical=True
        )
        # first in line: a deadline that strikes ends the round before the others are asked
        callbacks.insert(0, xgb.callback.EarlyStopping(rounds=PATIENCE, save_best=False))
        booster = xgb.train(
            options,
            train,
            length or self.spec.rounds,
            evals=[(valid, "valid")],
            evals_result=log,
            verbose_eval=False,
            callbacks=callbacks,
        )
        best = int(booster.best_iteration) + 1
        curve = tuple(float(value) for value in log["valid"][metric])
        return Fitted(Boosted(_plain(booster[:best]), self.schema.task, self.kinds), best, curve)

    def fit_rows(self, rows: TrainingRows, params: Params, seed: int, length: int) -> Fitted:
        """Fit for `length` rounds on all rows: their bins in memory where these fit, else on the disk.

        Raises:
            Invalid: CUDA is asked for and there is none. A retry does not help.
        """
        options = self._options(params, seed)
        in_memory = rows.count * (len(self.kinds) * BIN_BYTES + ROW_BYTES) <= rows.memory_bytes
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
            kind = xgb.QuantileDMatrix if in_memory else xgb.ExtMemQuantileDMatrix
            pages = Pages(rows, self.kinds, None if in_memory else f"{folder}/bins")
            train = kind(pages, enable_categorical=True, nthread=self.threads)
            booster = xgb.train(options, train, length)
            del train  # before its files
        return Fitted(Boosted(_plain(booster), self.schema.task, self.kinds), booster.num_boosted_rounds())

    def begin(self, fold: Fold, params: Params, seed: int) -> None:
        """Nothing: the first tree is grown by all."""

    def fit_together(self, shard: Fold, params: Params, seed: int, length: int, checkpoints: Checkpoints) -> Boosted:
        """Fit for `length` rounds, inside the collective that XGBoost's workers have joined.

        Raises:
            Invalid: CUDA is asked for and there is none. A retry does not help.
        """
        options, train = self._options(params, seed), self._matrix(shard.x, shard.y)
        with checkpoints.last() as folder:
            start = None if folder is None else Boosted.load(folder).booster
        booster = start or xgb.Booster(options, [train])
        booster.set_param(options | {"seed_per_iteration": True})  # who goes on draws other rows than at first
        for at in range(booster.num_boosted_rounds(), length):
            booster.update(train, at)
            checkpoints.keep(at + 1, Boosted(booster, self.schema.task, self.kinds).save)
        return Boosted(_plain(booster), self.schema.task, self.kinds)

    def _options(self, params: Params, seed: int) -> dict[str, Any]:
        objective, metric = OBJECTIVES[self.schema.task]
        options: dict[str, Any] = {
            **params,
            "objective": objective,
            "eval_metric": metric,
            "seed": seed,
            "nthread": self.threads,
            "tree_method": "hist",
            "device": self._device(),
        }
        if self.schema.task == "multiclass":
            options["num_class"] = len(self.schema.classes)
        return options

    def _matrix(self, x: Floats, y: np.ndarray) -> xgb.QuantileDMatrix:
        return xgb.QuantileDMatrix(x, y, feature_types=list(self.kinds), enable_categorical=True, nthread=self.threads)

    def _device(self) -> str:
        if self.spec.device == "cpu" or not xgb.build_info().get("USE_CUDA"):
            if self.spec.device == "cuda":
                raise Invalid("XGBoost has no CUDA here", "candidates.device", "write `device: auto`, or use a GPU")
            return "cpu"
        import torch  # noqa: PLC0415 (the one way here to ask for a GPU)

        if torch.cuda.is_available():
            return "cuda"
        if self.spec.device == "cuda":
            raise Invalid("there is no CUDA device", "candidates.device", "write `device: auto`, or use a GPU")
        return "cpu"


class Pages(xgb.DataIter):  # type: ignore[misc]
    """Rows as XGBoost asks for them, a few times over. Pages are large, for it keeps a buffer by page and node."""

    def __init__(self, rows: TrainingRows, kinds: tuple[str, ...], cache: str | None) -> None:
        super().__init__(cache_prefix=cache)
        self._rows, self._kinds = rows, list(kinds)
        self._least = min(PAGE_ROWS, rows.fitting)
        self.reset()

    def next(self, input_data: Callable[..., None]) -> bool:
        """Whether there was one more page."""
        for x, y in self._matrices:
            if len(y):
                input_data(data=x, label=y, feature_types=self._kinds)
                return True
        return False

    def reset(self) -> None:
        """From the first page again."""
        self._matrices = self._rows.matrices(self._least)


class _Deadline(xgb.callback.TrainingCallback):  # type: ignore[misc]
    """Stops at a moment of time.monotonic."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self.deadline = deadline

    def after_iteration(self, model: xgb.Booster, epoch: int, evals_log: object) -> bool:
        """Whether to stop."""
        return time.monotonic() > self.deadline


def _plain(booster: xgb.Booster) -> xgb.Booster:
    """With no names, types in place: what onnxmltools converts."""
    booster.feature_names = None
    booster.set_attr(best_iteration=None, best_score=None)
    return booster


def _rows(matrix: Floats, kinds: tuple[str, ...]) -> xgb.DMatrix:
    return xgb.DMatrix(np.ascontiguousarray(matrix), feature_types=list(kinds), enable_categorical=True)


def importances(model: Boosted, names: tuple[str, ...]) -> dict[str, float]:
    """Total gain by feature name, highest first."""
    gain = {names[index]: value for index, value in model.importance().items()}
    return dict(sorted(gain.items(), key=lambda item: -item[1]))
