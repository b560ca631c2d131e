"""How often MLflow is called: a real server, its calls counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from urllib3 import HTTPConnectionPool

from pipeline.registry import Registry
from pipeline.settings import Settings
from tests.support.tracking import mlflow_client

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture
def client(stack_settings: Settings) -> MlflowClient:
    """Another client of the server."""
    return mlflow_client(stack_settings)


def test_ten_thousand_values_take_ten_calls_on_one_connection(
    stack_settings: Settings, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(stack_settings)
    run_id = client.create_run(client.create_experiment("many_values")).info.run_id
    calls: list[tuple[HTTPConnectionPool, int]] = []  # with the connections that the pool had opened before
    real = HTTPConnectionPool.urlopen

    def counted(pool: HTTPConnectionPool, *arguments: Any, **options: Any) -> Any:
        calls.append((pool, pool.num_connections))
        return real(pool, *arguments, **options)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", counted)
    registry.log(run_id, series={"loss": [1 / (at + 1) for at in range(10_000)]})
    assert len(calls) == 10
    assert len({id(pool) for pool, _ in calls}) == 1
    pool, opened = calls[0]
    assert pool.num_connections - opened <= 1  # one, or that of an earlier test
    monkeypatch.undo()
    kept = client.get_metric_history(run_id, "loss")
    assert sorted(one.step for one in kept) == list(range(10_000))


def test_metrics_parameters_and_tags_are_one_call(
    stack_settings: Settings, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(stack_settings)
    run_id = client.create_run(client.create_experiment("all_at_once")).info.run_id
    calls: list[Any] = []
    real = type(client).log_batch

    def counted(this: MlflowClient, *arguments: Any) -> None:
        calls.append(arguments)
        real(this, *arguments)

    monkeypatch.setattr(type(client), "log_batch", counted)
    registry.log(
        run_id, {"auc": 0.9}, params={"depth": 3}, tags={"slipway.verdict": "winner"}, series={"curve": [0.7, 0.8]}
    )
    found = client.get_run(run_id).data
    assert len(calls) == 1
    assert (found.metrics, found.params) == ({"auc": 0.9, "curve": 0.8}, {"depth": "3"})
    assert found.tags["slipway.verdict"] == "winner"
    more = {f"p{at}": at for at in range(250)}
    registry.log(run_id, {f"m{at}": at for at in range(1_950)}, params=more)
    assert [len(one[1]) + len(one[2]) + len(one[3]) for one in calls[1:]] == [1000, 1000, 200]
    assert len(client.get_run(run_id).data.params) == 251
