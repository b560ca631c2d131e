"""Where step pods are tested: our API server, and the one of KUBECONFIG. The tests play the kubelet, and Airflow's part."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import yaml
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow.sdk.serde import deserialize, serialize
from kubernetes import client, config

from dags.factory import build, build_rollback
from pipeline.run import ROLLBACK, Envelope, slug
from pipeline.settings import Settings
from pipeline.spec_file import load_spec
from pipeline.store import Store
from tests.dags.api_server import Pods, api_server
from tests.support.polling import wait_for

NOWHERE = {"slipway.dev/test": "no-node-has-this"}  # pods stay pending, so that the tests alone say how they are
SPEC = """version: 1
name: demo
task: {kind: binary}
data: {source: rows.csv, target: y}
candidates: [{kind: xgboost, resources: {cpu: 2, memory_gib: 4}}, {kind: torch, name: net, device: cuda}]
"""
POLICY: dict[str, Any] = {
    "namespace": "",
    "image": "slipway-steps:1",
    "gpuImage": "slipway-steps:1-gpu",
    "roles": {"steps": {"serviceAccount": "default"}, "promoter": {"serviceAccount": "default"}},
    "labels": {"app.kubernetes.io/name": "slipway"},
    "nodeSelector": NOWHERE,
    "resources": {"default": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}},
    "volumes": [{"name": "tmp", "emptyDir": {}}],
    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    "startupTimeoutS": 60,
}
Kubelet = Callable[[str], None]


@dataclass
class World:
    """A namespace of a cluster, and what a kubelet says of its pods."""

    core: client.CoreV1Api
    namespace: str
    kubeconfig: Path
    server: Pods | None = None  # ours, where it is ours

    def status(self, pod: str, phase: str, **more: Any) -> None:
        self.core.patch_namespaced_pod_status(pod, self.namespace, {"status": {"phase": phase, **more}})

    def container(self, pod: str, phase: str, **state: Any) -> None:
        """The step's container is in this state."""
        status = {"name": "step", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        self.status(pod, phase, containerStatuses=[status])

    def runs(self, pod: str) -> None:
        self.container(pod, "Running", running={"startedAt": "2026-11-25T00:00:00Z"})

    def ends(self, pod: str, code: int, message: str = "", reason: str = "") -> None:
        end = {"exitCode": code, "message": message, "reason": reason or ("Error" if code else "Completed")}
        self.container(pod, "Failed" if code else "Succeeded", terminated=end)

    def bind(self, pod: str, node: str) -> None:
        """A node that nobody runs: what is deleted there waits for a kubelet."""
        body = {"metadata": {"name": pod}, "target": {"apiVersion": "v1", "kind": "Node", "name": node}}
        self.core.create_namespaced_pod_binding(pod, self.namespace, body, _preload_content=False)

    def delete(self, pod: str, grace_s: int | None = None) -> None:
        self.core.delete_namespaced_pod(pod, self.namespace, body=client.V1DeleteOptions(grace_period_seconds=grace_s))


@contextmanager
def ours(folder: Path) -> Iterator[World]:
    with api_server() as (url, pods):
        named = {"name": "ours", "cluster": {"server": url}}
        context = {"name": "ours", "context": {"cluster": "ours", "user": "ours"}}
        user = {"name": "ours", "user": {"token": "t"}}
        path = folder / "kubeconfig"
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "ours", "clusters": [named], "contexts": [context], "users": [user]}))  # fmt: skip
        yield World(_core(path), "test", path, pods)


@contextmanager
def real(_: Path) -> Iterator[World]:
    path = Path(os.environ["KUBECONFIG"])
    core = _core(path)
    namespace = f"slipway-test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace({"metadata": {"name": namespace, "labels": labels}})
    # pods are refused until the namespace has its account
    wait_for(lambda: core.list_namespaced_service_account(namespace).items, "the account of the namespace")
    try:
        yield World(core, namespace, path)
    finally:
        core.delete_namespace(namespace)


WORLDS = {"ours": ours, "real": real}


def _core(path: Path) -> client.CoreV1Api:
    configuration = client.Configuration()
    config.load_kube_config(str(path), client_configuration=configuration)
    return client.CoreV1Api(client.ApiClient(configuration))


@dataclass
class Life:
    """A task of one run, as Airflow leads it: every call gets an operator that was parsed anew."""

    world: World
    folder: Path
    task: str = "train_xgboost"
    run_id: str = ""
    policy: dict[str, Any] = field(default_factory=dict)
    store: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    try_number: int = 1
    check_s: float = 0.05
    said: BaseException | None = None
    state_store: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.run_id = self.run_id or f"manual__2026-11-25T00:00:00+00:00_{uuid.uuid4().hex[:8]}"
        (self.folder / "demo.yaml").write_text(SPEC)
        policy = POLICY | {"namespace": self.world.namespace} | self.policy
        (self.folder / "pods.yaml").write_text(yaml.safe_dump(policy))
        values = {"home": self.folder, "runtime": "kubernetes", "pods": self.folder / "pods.yaml", "store": self.store}
        self.settings = Settings.model_validate(values)

    def operator(self) -> Any:
        path = self.folder / "demo.yaml"
        back = self.task == "rollback"
        dag = build_rollback(self.settings) if back else build(load_spec(path), path, self.settings)
        operator = dag.get_task(self.task)
        operator.poll_interval = 0.05
        operator.startup_check_interval_seconds = self.check_s
        operator.logging_interval = 1
        return operator

    @property
    def dag(self) -> str:
        return ROLLBACK if self.task == "rollback" else "demo"

    @property
    def context(self) -> dict[str, Any]:
        ti = SimpleNamespace(
            dag_id=self.dag,
            task_id=self.task,
            map_index=-1,
            try_number=self.try_number,
            start_date=datetime.now(UTC),
            xcom_push=lambda **_: None,
        )
        stored = SimpleNamespace(get=self.state_store.get, set=self.state_store.__setitem__)
        return {"ti": ti, "run_id": self.run_id, "params": self.params, "dag": None, "task_state_store": stored}

    def execute(self) -> Any:
        """Up to the deferral: its trigger as the triggerer gets it."""
        return self.call(lambda: self.operator().execute(self.context))

    def resume(self, event: dict[str, Any]) -> Any:
        arguments = {"event": deserialize(serialize(event))}
        return self.call(lambda: self.operator().resume_execution("trigger_reentry", arguments, self.context))

    def watch(self, trigger: Any, kubelet: Kubelet | None = None) -> dict[str, Any]:
        """The triggerer's part: the first event, while the kubelet works on the trigger's pod."""

        async def first() -> dict[str, Any]:
            async for event in trigger.run():
                return dict(event.payload)
            raise AssertionError("the trigger ended without an event")

        thread = threading.Thread(target=kubelet or (lambda _: None), args=(trigger.pod_name,), daemon=True)
        thread.start()
        try:
            return asyncio.run(asyncio.wait_for(first(), 60))
        finally:
            thread.join()

    def pods(self) -> list[Any]:
        """The run's pods, oldest first."""
        found = self.world.core.list_namespaced_pod(self.world.namespace).items
        mine = [pod for pod in found if pod.metadata.annotations.get("slipway.dev/run") == slug(self.run_id)]
        return sorted(mine, key=lambda pod: pod.metadata.creation_timestamp)

    def lead(self, kubelet: Kubelet | None = None) -> str:
        """One try, to its end: the state in which Airflow leaves the task."""
        state = self.execute()
        while not isinstance(state, str):
            state, kubelet = self.resume(self.watch(state, kubelet)), None
        return state

    def writes(self) -> None:
        """The step writes its reference."""
        envelope = Envelope(task=self.task, kind="K", ref="{}", seconds=1.0, finished_at="2026-11-25T00:00:00+00:00")
        key = f"runs/{self.dag}/{slug(self.run_id)}/{self.task}.json"
        Store(self.settings.store).write(key, envelope.model_dump_json().encode())

    def call(self, call: Callable[[], Any]) -> Any:
        """What Airflow makes of a call of the operator: a trigger, or the state of the task."""
        try:
            call()
        except TaskDeferred as deferred:
            path, arguments = deferred.trigger.serialize()
            module, _, name = path.rpartition(".")
            return resolve_name(f"{module}:{name}")(**deserialize(json.loads(json.dumps(serialize(arguments)))))
        except AirflowSkipException as said:
            self.said = said
            return "skipped"
        except AirflowFailException as said:
            self.said = said
            return "failed"
        except Exception as said:  # noqa: BLE001 (Airflow tries anything else again)
            self.said = said
            return "up_for_retry"
        return "success"


def gone(world: World, pod: str) -> bool:
    with suppress(client.ApiException):
        world.core.read_namespaced_pod(pod, world.namespace)
        return False
    return True
