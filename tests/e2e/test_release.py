"""One release from its installation to its end, in order: each test goes on where the one before has left it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import SecretStr
from release import Client, Release
from sklearn.datasets import load_breast_cancer

from pipeline.airflow_client import AirflowClient
from pipeline.settings import Settings
from pipeline.tensors import to_tensors
from serving.probe import served_schema
from serving.triton import TritonClient

MODEL = "selftest"  # the pipeline of `helm test`
SPEC: dict[str, Any] = {
    "version": 1,
    "name": MODEL,
    "task": {"kind": "binary", "positive": "malignant"},
    "data": {"source": "sklearn://breast_cancer", "target": "target"},
    "candidates": [{"kind": "xgboost", "trials": 1, "rounds": 60, "folds": 2, "budget_s": 20}],
    "gates": {"champion": {"margin": 0.5}, "latency": {"rate_per_s": 10, "duration_s": 2, "p95_ms": 2000}},
}
BAD = SPEC | {"gates": SPEC["gates"] | {"quality": {"at_least": {"roc_auc": 0.99999}}}}


def values(spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The pipeline of the test by another spec."""
    return {"examples": {"enabled": False}, "tests": {"enabled": True}, "specs": {"inline": {f"{MODEL}.yaml": yaml.safe_dump(spec)}}, **more}  # fmt: skip


def until(holds: Callable[[], bool], what: str, timeout_s: float = 180) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(2)


@contextmanager
def airflow(release: Release) -> Iterator[AirflowClient]:
    password = release.secret(f"{release.name}-airflow-admin", "password")
    with release.forward(f"{release.name}-api-server", 8080) as address:
        yield AirflowClient(
            Settings(airflow_url=f"http://{address}", airflow_password=SecretStr(password), timeout_s=60)
        )


def run(
    release: Release, dag: str = MODEL, seen: Callable[[str, str], None] = lambda *_: None, **conf: object
) -> dict[str, str]:
    """Trigger a DAG; each task's state at the end of the run, and the run's own. `seen` is told of each change."""
    with airflow(release) as client:
        client.await_dag(dag, timeout_s=180)
        run_id = client.trigger(dag, conf)
        states: dict[str, str] = {}
        for task in client.follow(dag, run_id, interval_s=1):
            states[task.key] = task.state
            seen(task.key, task.state)
        return states | {"run": client.run_state(dag, run_id)}


def triton_pods(release: Release) -> dict[str, str]:
    """Node-local identity of each serving pod: a restarted container or a new pod changes it."""
    found = release.get("pods", "-l", "app.kubernetes.io/component=triton")
    return {
        pod["metadata"][
            "name"
        ]: f"{pod['metadata']['uid']}/{sum(c['restartCount'] for c in pod['status']['containerStatuses'])}"
        for pod in found
        if "deletionTimestamp" not in pod["metadata"]  # a challenger's, which drains
    }


def test_install(release: Release) -> None:
    said = release.upgrade({"examples": {"enabled": False}})
    assert "helm test" in said
    for pod in release.get("pods", "--field-selector=status.phase=Running"):
        conditions = {one["type"]: one["status"] for one in pod["status"]["conditions"]}
        assert conditions["Ready"] == "True", pod["metadata"]["name"]


def test_the_charts_own_test_gets_a_prediction(release: Release) -> None:
    said = release.helm("test", release.name, "--logs", "--timeout", "20m")
    assert "probability_malignant" in said
    assert release.serves(MODEL) == 1
    steps = release.names("pods", "-l", "app.kubernetes.io/component=step")
    assert not steps, "pods of steps are cleaned up"


def test_predictions_through_the_service_are_right(release: Release) -> None:
    data = load_breast_cancer(as_frame=True)
    rows = data.data.rename(columns=lambda name: name.replace(" ", "_"))  # as the source has them
    with release.forward(f"{release.name}-model-{MODEL}", 8001) as address, TritonClient(address, 60.0) as client:
        schema = served_schema(client, MODEL)
        answers = client.replay(MODEL, to_tensors(rows, schema), schema.output)
    labels = np.array(schema.classes)[answers.argmax(axis=1)]
    assert (labels == data.target_names[data.target]).mean() > 0.95


def test_a_bad_model_is_refused_and_the_champion_serves_on(release: Release) -> None:
    before = triton_pods(release)
    client = Client(release, MODEL)
    with client.asking():
        release.upgrade(values(BAD))
        states = run(release)
    assert states["promote"] == "skipped", states
    assert states["run"] == "success"
    assert release.serves(MODEL) == 1
    assert client.failures == []
    assert set(client.versions) == {1}
    assert len(client.versions) > 50
    assert triton_pods(release) == before


def test_a_good_model_takes_over_without_a_failed_request(release: Release) -> None:
    client = Client(release, MODEL)
    with client.asking():
        release.upgrade(values(SPEC))
        states = run(release, seed=11)
        time.sleep(5)
    assert states["promote"] == "success", states
    assert release.serves(MODEL) > 1
    assert client.failures == []
    new = client.versions.index(release.serves(MODEL))
    assert set(client.versions[:new]) == {1}
    assert set(client.versions[new:]) == {release.serves(MODEL)}


def test_a_canary_shares_the_service_and_takes_over(release: Release) -> None:
    before = release.serves(MODEL)
    canary = {"rollout": {"kind": "canary", "shares": [0.5], "observe_s": 15}}
    client = Client(release, MODEL)
    with client.asking():
        release.upgrade(values(SPEC | {"serving": canary}))
        states = run(release, seed=12)
        time.sleep(5)
    assert states["promote"] == "success", states
    now = release.serves(MODEL)
    assert now > before
    assert client.failures == []
    assert set(client.versions) == {before, now}
    assert release.names("deployments", "-l", "slipway.dev/state=canary") == set()


def test_a_run_outlives_its_pods_and_the_scheduler(release: Release) -> None:
    killed: list[str] = []

    def seen(task: str, state: str) -> None:
        if (task, state) == ("train_xgboost", "deferred") and not killed:
            killed.extend(release.names("pods", "-l", "slipway.dev/step=train"))
            release.kubectl("delete", "pod", *killed, "--grace-period=0", "--force")
            release.kubectl("delete", "pod", "-l", "app.kubernetes.io/component=scheduler", "--wait=false")

    states = run(release, seen=seen, seed=13)
    assert len(killed) == 1
    assert states["run"] == "success", states
    assert release.names("pods", "-l", "app.kubernetes.io/component=step") == set()


def test_without_a_gpu_the_rollout_gives_up_and_the_champion_serves_on(release: Release) -> None:
    before, champion = triton_pods(release), release.serves(MODEL)
    serving = {"triton": {"gpus": 1}, "readyTimeoutSeconds": 20}
    release.upgrade(values(SPEC | {"retries": 0}, serving=serving))
    with airflow(release) as client:
        client.await_dag(MODEL, timeout_s=180)
        run_id = client.trigger(MODEL, {"seed": 14})
        states = {task.key: task.state for task in client.follow(MODEL, run_id)}
        log = "\n".join(client.logs(MODEL, run_id, "rollout"))
    assert states["rollout"] == "failed", states
    assert "Insufficient nvidia.com/gpu" in log
    assert "what serves was not touched" in log
    assert triton_pods(release) == before
    assert release.serves(MODEL) == champion
    assert release.names("deployments", "-l", "slipway.dev/state=challenger") == set()


def test_the_way_back(release: Release) -> None:
    release.upgrade(values(SPEC))
    champion = release.serves(MODEL)
    client = Client(release, MODEL)
    with client.asking():
        states = run(release, "slipway_rollback", model=MODEL)
        time.sleep(3)
    assert states["run"] == "success", states
    assert release.serves(MODEL) < champion
    assert client.failures == []


@pytest.mark.parametrize("back", [False, True], ids=["upgrade", "helm rollback"])
def test_a_change_of_the_chart_leaves_what_serves(release: Release, back: bool) -> None:
    before, passwords = triton_pods(release), release.secret(f"{release.name}-airflow-admin", "password")
    client = Client(release, MODEL)
    with client.asking():
        if back:
            release.helm("rollback", release.name, "--wait", "--timeout", "15m")
        else:
            release.upgrade(values(SPEC, serving={"triton": {"podAnnotations": {"example.com/changed": "yes"}}}))
    assert client.failures == []
    assert triton_pods(release) == before
    assert release.secret(f"{release.name}-airflow-admin", "password") == passwords
    with airflow(release) as there:
        assert MODEL in there.dags()


def test_uninstall_leaves_what_holds_data(release: Release) -> None:
    release.helm("uninstall", release.name, "--wait", "--timeout", "5m")
    kinds = "deployments,services,pods,jobs,cronjobs,configmaps,roles,rolebindings,networkpolicies,poddisruptionbudgets,leases"
    ours = ("-l", "app.kubernetes.io/name=slipway")
    until(lambda: not release.names(kinds, *ours), "everything goes with the release", 240)
    assert all(item["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for item in release.get("secrets", *ours))  # fmt: skip
    assert release.names("serviceaccounts", *ours) == set()


def test_installed_again_on_its_data_it_goes_on(release: Release) -> None:
    """The next run compares with the champion that the registry knows, which is served again for it."""
    release.upgrade(values(SPEC))
    states = run(release, seed=15)
    assert states["run"] == "success", states
    assert states["promote"] == "success", states
    assert release.serves(MODEL) > 1
    release.helm("uninstall", release.name, "--wait", "--timeout", "5m")
