"""Both trainers on the three tasks: they learn, repeat themselves, come back from the disk, and hold what is odd."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.columns import RowSchema
from pipeline.errors import Invalid
from pipeline.metrics import scores
from pipeline.spec import Torch, XGBoost
from pipeline.target import encode_target
from training.features import Features, fit_features
from training.models.base import Fitted, Fold, Trainer, load_model
from training.models.boosted import BoostedTrainer, importances

TASKS = ("binary", "multiclass", "regression")
KINDS = ("xgboost", "torch")


def trainer(kind: str, features: Features, **changes: Any) -> Trainer:
    if kind == "xgboost":
        return BoostedTrainer.of(XGBoost(kind="xgboost", **{"rounds": 80} | changes), features, 1)
    from training.models.neural import NeuralTrainer

    return NeuralTrainer.of(Torch(kind="torch", **{"epochs": 25} | changes), features, 1)


def data(table: Callable, task: str) -> tuple[Features, Fold, RowSchema]:
    frame, schema, tensors = table(task)
    features = fit_features(frame, schema)
    x, y = features.matrix(tensors), encode_target(frame, schema)
    return features, Fold(x[:180], y[:180], x[180:], y[180:]), schema


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_a_point_of_the_space_that_is_searched(kind: str, table: Callable) -> None:
    one = trainer(kind, data(table, "binary")[0])
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=7, n_startup_trials=1))
    study.enqueue_trial(one.defaults())
    first = study.ask()
    assert one.suggest(first) == one.defaults()
    study.tell(first, 1.0)
    second = study.ask()
    assert second.relative_params.keys() == one.suggest(second).keys()  # drawn together


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_candidate_learns_repeats_itself_and_comes_back(
    kind: str, task: str, table: Callable, tmp_path: Path
) -> None:
    features, fold, schema = data(table, task)
    one = trainer(kind, features)
    first, second = (one.fit(fold, one.defaults(), 7, None, None) for _ in range(2))
    answer = first.model.predict(fold.x_valid)
    assert answer.shape == (60, schema.width)
    assert answer.dtype == np.float32
    assert np.array_equal(answer, second.model.predict(fold.x_valid))
    found = scores(schema, fold.y_valid, answer)
    if task == "regression":
        assert found["rmse"] < 0.8 * float(np.std(fold.y_valid))
    else:
        assert found["balanced_accuracy"] > 1.3 / len(schema.classes)
    assert 1 <= first.length <= len(first.curve)
    first.model.save(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".pkl", ".pt", ".bin")]
    assert np.array_equal(load_model(kind, tmp_path).predict(fold.x_valid), answer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_length_a_deadline_and_another_seed(kind: str, table: Callable) -> None:
    features, fold, _ = data(table, "binary")
    one = trainer(kind, features)
    alone = Fold(fold.x, fold.y)
    assert one.fit(alone, one.defaults(), 7, 3, None).length == 3
    stopped: Fitted = one.fit(fold, one.defaults(), 7, None, time.monotonic() - 1)
    assert stopped.length == 1
    other = one.fit(alone, one.defaults(), 8, 3, None).model.predict(fold.x_valid)
    assert not np.array_equal(other, one.fit(alone, one.defaults(), 7, 3, None).model.predict(fold.x_valid))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_never_seen_gets_a_finite_answer(kind: str, table: Callable) -> None:
    features, fold, _ = data(table, "multiclass")
    one = trainer(kind, features)
    model = one.fit(fold, one.defaults(), 7, 5, None).model
    odd = np.array([[np.nan] * len(features.names), [1e30] * len(features.names)], dtype=np.float32)
    odd[1, -2:] = 0
    answer = model.predict(odd)
    assert np.isfinite(answer).all()
    assert np.allclose(answer.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_that_is_not_there_is_refused(kind: str, table: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    features, fold, _ = data(table, "binary")
    one = trainer(kind, features, device="cuda")
    with pytest.raises(Invalid, match="CUDA"):
        one.fit(fold, one.defaults(), 7, 1, None)


def test_importance_is_by_name_and_sorted(table: Callable) -> None:
    features, fold, _ = data(table, "binary")
    one = trainer("xgboost", features)
    found = importances(one.fit(fold, one.defaults(), 7, None, None).model, features.names)  # type: ignore[arg-type]
    assert set(found) <= set(features.names)
    assert list(found.values()) == sorted(found.values(), reverse=True)
