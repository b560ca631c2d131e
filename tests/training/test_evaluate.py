"""Evaluate: the same held-out rows for all, the best that passed wins, and MLflow tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pipeline.columns import Column, RowSchema
from pipeline.dataset import split_rows
from pipeline.gate_rules import Tolerance
from pipeline.metrics import scores
from pipeline.refs import OnnxRef
from pipeline.spec import METRICS
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from tests.support.tracking import mlflow_client
from training.evaluate import SHUFFLED_CELLS, evaluate, shuffled_importance
from training.export import export

if TYPE_CHECKING:
    from mlflow import MlflowClient

DRAWN = {
    "binary": {"roc", "precision_recall", "calibration", "confusion", "importance"},
    "multiclass": {"roc", "precision_recall", "calibration", "confusion", "importance"},
    "regression": {"predicted_against_true", "residuals", "importance"},
}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_two_candidates(task: str, prepare: Callable, candidate: Callable) -> None:
    strong = candidate("xgboost", task)
    weak = type(strong)(strong.features, type(strong.model)(strong.model.booster[:1], task, strong.model.kinds))
    prepared = prepare(task, {"weak": weak, "strong": strong})
    spec, dataset, models, run = prepared
    refs = tuple(export(spec, dataset, model, run) for model in models)
    result = evaluate(spec, dataset, refs, run)
    assert result.winner == "strong"
    assert result.primary == spec.primary
    assert result.dataset_digest == dataset.digest
    assert [(score.candidate, score.passed, score.reason) for score in result.scores] == [
        ("weak", True, "beaten by strong"),
        ("strong", True, "winner"),
    ]
    assert type(result).model_validate_json(result.model_dump_json()) == result

    _, rows = split_rows(run, dataset, spec.split)
    schema = dataset.row_schema
    native = scores(schema, encode_target(rows, schema), strong.predict(to_tensors(rows, schema)))
    found = result.scores[1].metrics
    assert set(found) == set(METRICS[task])
    assert found == pytest.approx(native, abs=1e-4)

    client = mlflow_client(run.settings)
    parent = client.get_run(run.registry.pipeline_run(run, spec))
    for model, score in zip(models, result.scores, strict=True):
        logged = client.get_run(model.run_id)
        assert logged.info.status == "FINISHED"
        assert logged.data.tags["slipway.verdict"] == score.reason
        assert {name: logged.data.metrics[name] for name in score.metrics} == pytest.approx(score.metrics)
        assert images(client, model.run_id) == DRAWN[task]
        assert parent.data.metrics[f"{score.candidate}_{spec.primary}"] == pytest.approx(score.metrics[spec.primary])
    assert {name: parent.data.metrics[name] for name in found} == pytest.approx(found)
    assert parent.data.tags["slipway.winner"] == "strong"
    assert images(client, parent.info.run_id) == DRAWN[task] - {"importance"} | {"candidates"}
    if task == "regression":  # a second attempt ends the same
        assert evaluate(spec, dataset, refs, run) == result


def images(client: MlflowClient, run_id: str) -> set[str]:
    return {item.path.removeprefix("plots/").removesuffix(".png") for item in client.list_artifacts(run_id, "plots")}


def test_a_candidate_that_failed_parity_cannot_win(prepare: Callable, candidate: Callable) -> None:
    best = candidate("xgboost", "binary")
    other = type(best)(best.features, type(best.model)(best.model.booster[:2], "binary", best.model.kinds))
    spec, dataset, models, run = prepare("binary", {"best": best, "other": other})
    strict = spec.model_copy(update={"export": Tolerance(atol=0, rtol=0)})
    refs = (export(strict, dataset, models[0], run), export(spec, dataset, models[1], run))
    assert [ref.passed for ref in refs] == [False, True]
    result = evaluate(spec, dataset, refs, run)
    assert result.winner == "other"
    assert not result.scores[0].passed
    assert result.scores[0].metrics == {}
    assert "the ONNX graph is not the model (" in result.scores[0].reason
    client = mlflow_client(run.settings)
    assert client.get_run(models[0].run_id).info.status == "FAILED"
    parent = client.get_run(run.registry.pipeline_run(run, spec))
    assert images(client, parent.info.run_id) == {"candidates"} | DRAWN["binary"] - {"importance"}


def test_no_candidate_no_winner(prepare: Callable, candidate: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.export.build", lambda *_: b"no graph")
    spec, dataset, (model,), run = prepare("regression", {"only": candidate("xgboost", "regression")})
    ref: OnnxRef = export(spec, dataset, model, run)
    result = evaluate(spec, dataset, (ref,), run)
    assert result.winner is None
    assert not result.scores[0].passed
    client = mlflow_client(run.settings)
    assert client.get_run(run.registry.pipeline_run(run, spec)).data.tags["slipway.winner"] == "none"


def test_an_undefined_primary_metric_cannot_win(prepare: Callable, candidate: Callable) -> None:
    spec, dataset, (model,), run = prepare("regression", {"only": candidate("xgboost", "regression")}, metric="r2")
    ref = export(spec, dataset, model, run)
    undefined = spec.model_copy(update={"metric": "roc_auc"})
    result = evaluate(undefined, dataset, (ref,), run)
    assert result.winner is None
    assert result.scores[0].reason == "roc_auc is undefined on the held-out rows"
    assert set(result.scores[0].metrics) == {"rmse", "mae", "r2"}


class Reads:
    """A model that answers with its first column, and nothing else."""

    def predict(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        return tensors["numeric"][:, :1]


def test_importance_is_of_the_column_that_is_read() -> None:
    columns = (
        Column(name="read", kind="number"),
        Column(name="unread", kind="number"),
        Column(name="c", kind="category"),
    )
    schema = RowSchema(columns=columns, target="y", task="regression")
    tensors = {
        "numeric": np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32),
        "categorical": np.full((300, 1), "x", dtype=object),
    }
    before = {name: value.copy() for name, value in tensors.items()}
    for metric, least in (("rmse", 1.0), ("r2", 1.0)):
        found = shuffled_importance(Reads(), schema, tensors, tensors["numeric"][:, 0].astype(float), metric, 7)
        assert found["read"] > least
        assert (found["unread"], found["c"]) == (0, 0)
    assert all((before[name] == tensors[name]).all() for name in tensors)
    assert shuffled_importance(Reads(), schema, tensors, np.zeros(300), "roc_auc", 7) == {}


def test_importance_is_bounded() -> None:
    columns = tuple(Column(name=f"c{at}", kind="number") for at in range(400))
    schema = RowSchema(columns=columns, target="y", task="regression")
    tensors = {"numeric": np.random.default_rng(0).normal(size=(5000, 400)).astype(np.float32)}
    asked: list[int] = []

    class Counts(Reads):
        def predict(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
            asked.append(len(tensors["numeric"]))
            return super().predict(tensors)

    found = shuffled_importance(Counts(), schema, tensors, tensors["numeric"][:, 0].astype(float), "rmse", 7)
    assert len(asked) == 1 + len(columns)
    assert max(asked) <= SHUFFLED_CELLS // len(columns)
    assert max(found, key=lambda name: found[name]) == "c0"
