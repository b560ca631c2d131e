"""The search for parameters, of a model whose fit costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.columns import Column, RowSchema
from pipeline.spec import XGBoost
from training.models.base import Fitted, Floats, Fold, Params
from training.models.boosted import BoostedTrainer
from training.tune import tune

ROWS = 100


class Guess:
    """Answers with the first column."""

    def predict(self, matrix: Floats) -> Floats:
        """(rows, width) -> (rows, 2)."""
        return np.hstack([1 - matrix[:, :1], matrix[:, :1]])

    def save(self, folder: Path) -> None:
        """Nothing is kept of it."""


class Free(BoostedTrainer):
    """The parameters of the boosted trees, with no trees."""

    def fit(self, fold: Fold, params: Params, seed: int, length: int | None, deadline: float | None) -> Fitted:
        """At no cost."""
        return Fitted(Guess(), 1)


def trials(count: int, _: Path) -> Callable[[], None]:
    """A search of as many trials, without the fits: sampling, pruning, the metric on two folds of 50 rows."""
    draw = np.random.default_rng(7)
    y = draw.integers(0, 2, ROWS).astype(np.float64)
    x = draw.random((ROWS, 2), dtype=np.float32)
    columns = tuple(Column(name=name, kind="number") for name in ("a", "b"))
    schema = RowSchema(columns=columns, target="target", task="binary", classes=("no", "yes"))
    log = logging.getLogger("growth")

    def search(many: int = count) -> None:
        candidate = XGBoost(kind="xgboost", trials=many, folds=2, budget_s=86_400)
        trainer = Free(candidate, schema, ("number", "number"), 1)
        found = tune(trainer, candidate, schema, x, y, "roc_auc", 7, log)
        if len(found.trials) != many:
            raise SystemExit(f"{len(found.trials)} trials of {many}")

    search(1)  # libraries
    return search
