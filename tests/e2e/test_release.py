"""One release from its installation to its end, in order: each test goes on where the one before has left it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import SecretStr

from pipeline.airflow_client import AirflowClient
from pipeline.refs import Approval
from pipeline.settings import Settings
from pipeline.tensors import to_tensors
from serving.probe import served_schema
from serving.triton import TritonClient
from tests.e2e.release import CHECKOUT, TOOLS, Client, Release
from tests.support.polling import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.helm, pytest.mark.stack]
MODEL = "selftest"  # the pipeline of `helm test`
SPEC: dict[str, Any] = {
    "version": 1,
    "name": MODEL,
    "task": {"kind": "binary", "positive": "malignant"},
    "data": {"source": "sklearn://breast_cancer", "target": "target"},
    "candidates": [{"kind": "xgboost", "trials": 1, "rounds": 60, "folds": 2, "budget_s": 20}],
    "gates": {
        "champion": {"margin": 0.5},
        "latency": {"rate_per_s": 10, "duration_s": 2, "p95_ms": 2000, "max_slowdown": None},
    },
}
BAD = SPEC | {"gates": SPEC["gates"] | {"quality": {"at_least": {"roc_auc": 0.99999}}}}


RECORD = f"""
from pipeline.record import ought_to_serve
from pipeline.settings import read_settings
from pipeline.store import Store
print(ought_to_serve(Store(read_settings().store), "{MODEL}").model_dump_json())
"""
AS_STEPS = f"""
from pathlib import Path
from pipeline.errors import Invalid
from pipeline.registry import Registry
from pipeline.settings import read_settings
settings = read_settings()
print("key:", settings.signing_key.exists())
print("token:", Path("/var/run/secrets/kubernetes.io/serviceaccount/token").exists())
registry = Registry(settings)
for call in (
    lambda: registry.set_alias("{MODEL}", "champion", 1),
    lambda: registry.delete_alias("{MODEL}", "champion"),
    lambda: registry.set_version_tags("{MODEL}", 1, dict(a="b")),
):
    try:
        call()
    except Invalid as error:
        print(error)
"""
CHANGED = """
import sys
from pathlib import Path
from pipeline.settings import read_settings
graph = next(Path(read_settings().store, sys.argv[1]).rglob("model.onnx"))
content = graph.read_bytes()
graph.chmod(0o644)
graph.write_bytes(content + b"!" if sys.argv[2] == "damage" else content.removesuffix(b"!"))
"""
KILLED = """
import os, signal
from pathlib import Path
for process in Path("/proc").glob("[0-9]*"):
    if (process / "comm").read_text().startswith("triton_python_b"):
        os.kill(int(process.name), signal.SIGKILL)
        print("killed", process.name)
"""
MOVED = """
import sys
from pipeline.registry import Registry
from pipeline.settings import read_settings
Registry(read_settings()).set_alias(sys.argv[1], "champion", int(sys.argv[2]))
"""


def values(spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The pipeline of the test by another spec."""
    return {"examples": {"enabled": False}, "tests": {"enabled": True}, "specs": {"inline": {f"{MODEL}.yaml": yaml.safe_dump(spec)}}, **more}  # fmt: skip


until = partial(wait_for, seconds=180, interval_s=2)


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
        ]: f"{pod['metadata']['uid']}/{sum(c['restartCount'] for c in pod['status'].get('containerStatuses', []))}"
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
    from sklearn.datasets import load_breast_cancer

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


def test_the_record_names_every_pod_that_serves(release: Release) -> None:
    record = json.loads(release.as_role("promoter", "python", "-c", RECORD))
    assert (record["kind"], record["version"]) == ("promotion", release.serves(MODEL))
    assert record["previous"] < record["version"]
    serving = {name for name in triton_pods(release) if f"-v{record['version']}-" in name}
    assert {one["replica"] for one in record["serving"]["replicas"]} == serving
    assert {(one["version"], one["package"]) for one in record["serving"]["replicas"]} == {
        (record["version"], record["package"]["digest"])
    }
    assert all(verdict["outcome"] != "refused" for verdict in record["gates"]["verdicts"])


@pytest.mark.parametrize("approved", [False, True])
def test_a_person_has_the_last_word(release: Release, approved: bool) -> None:
    """Airflow asks, waits without a pod or a slot, and the answer is in the signed record."""
    before, note = release.serves(MODEL), "seen on the e2e stand"
    release.upgrade(values(SPEC | {"approval": "required"}))
    with airflow(release) as client:
        client.await_dag(MODEL, timeout_s=180)
        run_id = client.trigger(MODEL, {"seed": 21 + approved})
        states: dict[str, str] = {}
        for task in client.follow(MODEL, run_id, interval_s=1):
            states[task.key] = task.state
            if (task.key, task.state) == ("approve", "awaiting_input"):
                assert release.serves(MODEL) == before
                assert release.names("pods", "-l", "app.kubernetes.io/component=step") == set()
                assert client.answer(MODEL, run_id, Approval(approved=approved, by="", at="", via="airflow", note=note))
        assert client.run_state(MODEL, run_id) == "success", states
    assert (release.serves(MODEL) > before) is approved
    if approved:
        record = json.loads(release.as_role("promoter", "python", "-c", RECORD))
        assert (record["version"], record["approval"]["by"]) == (release.serves(MODEL), "admin")
        assert record["approval"]["note"] == note
    release.upgrade(values(SPEC))  # nobody is asked in what follows


def test_a_step_has_no_key_and_moves_no_alias(release: Release) -> None:
    said = release.as_role("steps", "python", "-c", AS_STEPS)
    assert said.count("MLflow does not let this user do it") == 3, said
    assert "key: False" in said
    assert "token: False" in said
    assert "key: True" in release.as_role("promoter", "python", "-c", "from pipeline.settings import *; print('key:', read_settings().signing_key.exists())")  # fmt: skip


def test_a_corrupted_package_is_refused_and_the_version_serves_on(release: Release) -> None:
    """A pod that is made anew while the store holds other bytes does not start, and is whole once they are back."""
    deployment, champion = release.deployment(MODEL), release.serves(MODEL)
    found = json.loads(release.kubectl("get", "deployment", deployment, "-o", "json"))
    arguments = found["spec"]["template"]["spec"]["initContainers"][0]["args"]
    key = arguments[arguments.index("--key") + 1]
    before = triton_pods(release)
    client = Client(release, MODEL)
    with client.asking():
        release.as_role("steps", "python", "-c", CHANGED, key, "damage")
        release.kubectl("scale", f"deployment/{deployment}", "--replicas=2")
        said: list[str] = []

        def refused() -> bool:
            for name in set(triton_pods(release)) - set(before):
                with suppress(AssertionError):  # it has not started yet
                    said.append(release.kubectl("logs", name, "-c", "fetch"))
            return any("invalid:" in text for text in said)

        until(refused, "the new pod's init container refuses the package")
        assert [name for name in before if name not in triton_pods(release)] == []
        release.as_role("steps", "python", "-c", CHANGED, key, "mend")
        for name in set(triton_pods(release)) - set(before):
            release.kubectl("delete", "pod", name, "--wait=false")
        release.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=110s")
    # a forwarded connection ends with its pod, whatever the Service would do
    release.kubectl("scale", f"deployment/{deployment}", "--replicas=1")
    assert any("model.onnx" in text for text in said), said
    assert client.failures == []
    assert set(client.versions) == {champion}


def test_what_another_hand_has_moved_is_found_and_put_back(release: Release) -> None:
    service, champion = f"{release.name}-model-{MODEL}", release.serves(MODEL)
    (other,) = {
        one["metadata"]["labels"]["slipway.dev/version"]
        for one in release.get("deployments", "-l", f"slipway.dev/model={MODEL},slipway.dev/state=previous")
    }
    agrees = release.as_role("promoter", "python", "-m", "serving.reconcile")
    assert f"{MODEL}: all agrees on version {champion}" in agrees
    moved = {"spec": {"selector": {"slipway.dev/traffic": f"v{other}"}}}
    release.kubectl("patch", "service", service, "-p", json.dumps(moved))
    release.as_role("promoter", "python", "-c", MOVED, MODEL, other)
    until(lambda: release.serves(MODEL) == int(other), "the other hand's version answers")
    release.kubectl("create", "job", "by-hand", f"--from=cronjob/{release.name}-reconcile")
    release.kubectl("wait", "--for=condition=failed", "job/by-hand", "--timeout=110s")
    said = release.kubectl("logs", "job/by-hand")
    assert f"alias champion names version {other}" in said
    assert service in said or "traffic" in said
    release.kubectl("delete", "job", "by-hand")
    said = release.as_role("promoter", "python", "-m", "serving.reconcile", "--fix")
    assert f"{MODEL}: put back; all agrees on version {champion}" in said
    until(lambda: release.serves(MODEL) == champion, "the champion answers again")
    assert f"all agrees on version {champion}" in release.as_role("promoter", "python", "-m", "serving.reconcile")


def test_a_server_whose_model_process_is_dead_is_started_anew(release: Release) -> None:
    (pod,) = [name for name in triton_pods(release) if f"-v{release.serves(MODEL)}-" in name]
    before = triton_pods(release)[pod]
    assert "killed" in release.kubectl("exec", pod, "--container=triton", "--", "python3", "-c", KILLED)
    until(lambda: triton_pods(release)[pod] != before, "the container is started anew")
    release.kubectl("wait", "--for=condition=ready", f"pod/{pod}", "--timeout=110s")
    client = Client(release, MODEL)
    with client.asking():
        time.sleep(5)
    assert client.failures == []
    assert client.versions
    assert "is not healthy" in release.kubectl("get", "events", f"--field-selector=involvedObject.name={pod},reason=Unhealthy", "-o", "yaml")  # fmt: skip


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


def test_a_new_key_signs_and_what_the_old_one_signed_still_starts(release: Release, tmp_path: Path) -> None:
    """By the guide's own commands; an upgrade leaves the new key where it is."""
    (commands,) = re.findall(r"(?ms)^```sh\n([^`]*old\.pem.*?)^```", (CHECKOUT / "docs" / "install.md").read_text())
    commands = commands.replace("-n slipway", f"-n {release.namespace}").replace("RELEASE", release.name)
    old = release.secret(f"{release.name}-signing", "signing.pem")
    environment = os.environ | {"PATH": f"{TOOLS}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, env=environment, check=True)
    release.upgrade(values(SPEC))
    assert release.secret(f"{release.name}-signing", "signing.pem") == (tmp_path / "signing.pem").read_text() != old
    assert release.secret(f"{release.name}-signing", "verify.pem").count("-----BEGIN") == 2
    champion, deployment = release.serves(MODEL), release.deployment(MODEL)
    release.kubectl("delete", "pod", "-l", f"slipway.dev/model={MODEL},slipway.dev/version={champion}")
    release.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=110s")
    states = run(release, seed=16)
    assert states["promote"] == "success", states
    assert release.serves(MODEL) > champion
    assert "all agrees on version" in release.as_role("promoter", "python", "-m", "serving.reconcile")


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
    until(lambda: not release.names(kinds, *ours), "everything goes with the release", seconds=240)
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
