"""The search keeps its budget, repeats itself, and is honest about what it saw."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pipeline.columns import Column, RowSchema
from pipeline.errors import Invalid
from pipeline.spec import XGBoost
from training.models.base import Fitted, Fold, Params
from training.tune import FEW_ROWS, Tuned, split, tune

LOG = logging.getLogger("test")
SCHEMA = RowSchema(columns=(Column(name="a", kind="number"),), target="y", task="regression")
BINARY = SCHEMA.model_copy(update={"task": "binary", "classes": ("n", "p")})


@dataclass
class Line:
    """A model that answers `slope * x`."""

    slope: float

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return (self.slope * matrix).astype(np.float32)

    def save(self, folder: object) -> None: ...


@dataclass
class LineTrainer:
    """The best slope is 2; a fit takes `pause_s`."""

    pause_s: float = 0.0
    broken: bool = False
    together: list[bool] = field(default_factory=list)

    def defaults(self) -> Params:
        return {"slope": 1.0}

    def suggest(self, trial: Any) -> Params:
        self.together.append("slope" in trial.relative_params)
        return {"slope": trial.suggest_float("slope", 0.0, 4.0)}

    def fit(self, fold: Fold, params: Params, seed: int, length: int | None, deadline: float | None) -> Fitted:
        time.sleep(self.pause_s)
        slope = float("nan") if self.broken else float(params["slope"])
        return Fitted(Line(slope), length or 10, (3.0, 2.0))


def search(trainer: LineTrainer, rows: int = 100, **changes: Any) -> Tuned:
    x = np.random.default_rng(0).normal(size=(rows, 1)).astype(np.float32)
    candidate = XGBoost(kind="xgboost", **{"trials": 12, "budget_s": 30.0} | changes)
    return tune(trainer, candidate, SCHEMA, x, 2.0 * x[:, 0].astype(np.float64), "rmse", 7, LOG)


def test_it_finds_what_is_better_and_repeats_itself() -> None:
    first, second = search(LineTrainer()), search(LineTrainer())
    assert first.params == second.params
    assert abs(first.params["slope"] - 2) < abs(1 - 2)
    assert first.value == min(trial.value for trial in first.trials if trial.state == "complete")
    assert first.trials[0].params == {"slope": 1.0}
    assert (first.length, first.folds, len(first.trials)) == (10, 5, 12)
    assert first.trials[0].curve == (3.0, 2.0)


def test_the_sampler_learns_from_every_trial_and_draws_parameters_together() -> None:
    trainer = LineTrainer()
    search(trainer)
    assert trainer.together == [False] * 4 + [True] * 8  # a third is drawn at random


def test_the_first_trial_always_counts_and_the_budget_ends_the_rest() -> None:
    found = search(LineTrainer(pause_s=0.05), budget_s=0.06, trials=1000)
    assert found.trials[0].state == "complete"
    assert len(found.trials) <= 3


def test_nothing_finite_is_refused() -> None:
    with pytest.raises(Invalid, match="no trial of xgboost gave a finite rmse"):
        search(LineTrainer(broken=True), trials=2)


def test_few_rows_are_cross_validated_and_many_are_split_once() -> None:
    few = split(BINARY, np.array([0.0] * 50 + [1.0] * 10), 5, 7)
    assert len(few) == 5
    assert sorted(np.concatenate([valid for _, valid in few]).tolist()) == list(range(60))
    assert all((valid >= 50).sum() == 2 for _, valid in few)
    assert len(split(BINARY, np.array([0.0] * 57 + [1.0] * 3), 5, 7)) == 3
    many = split(BINARY, np.array([0.0, 1.0] * FEW_ROWS), 5, 7)
    assert [(len(train), len(valid)) for train, valid in many] == [(3200, 800)]
    assert len(split(SCHEMA, np.zeros(FEW_ROWS), 5, 7)) == 1
    assert len(split(SCHEMA, np.zeros(50), 4, 7)) == 4
