"""Two worlds for the same tests: the fake cluster, and the one that KUBECONFIG points at. Tests play the kubelet."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from pipeline.cluster import Cluster, KubernetesCluster, Manifest
from pipeline.settings import Settings
from tests.serving.fake_cluster import FakeCluster

NOWHERE = {"slipway.dev/test": "no-node-has-this"}  # pods stay pending, so that the tests alone say how they are
POLICY: dict[str, Any] = {
    "namespace": "",
    "release": "slipway",
    "owner": {"kind": "ConfigMap", "name": "slipway-policy"},
    "replicas": 2,
    "keepPreviousS": 3600,
    "readyTimeoutS": 20,
    "fetch": {"image": "slipway-steps:test", "env": [{"name": "SLIPWAY_STORE", "value": "/store"}]},
    "template": {
        "metadata": {"annotations": {"team": "platform"}},
        "spec": {
            "nodeSelector": NOWHERE,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "triton", "image": "slipway-triton:test"}],
        },
    },
}
Healthy = Callable[[Manifest], bool]


@dataclass
class World:
    """A cluster, its namespace, and a kubelet that says of each pod whether it is ready."""

    cluster: Cluster
    namespace: str
    set_status: Callable[[str, dict[str, Any]], None]
    healthy: Healthy = lambda _: True
    addresses: dict[str, str] = field(default_factory=dict)
    _numbers: count = field(default_factory=lambda: count(2))

    def settings(self, folder: Path, **policy: object) -> Settings:
        path = folder / "serving.yaml"
        path.write_text(yaml.safe_dump({**POLICY, "namespace": self.namespace, **policy}))
        return Settings.model_validate(
            {"home": folder, "runtime": "kubernetes", "namespace": self.namespace, "serving": path, "timeout_s": 10.0}
        )

    def tick(self) -> None:
        """One look of the kubelet at its pods."""
        for pod in self.cluster.select("Pod", {"app.kubernetes.io/component": "triton"}):
            name = pod["metadata"]["name"]
            if name in self.addresses or pod["metadata"].get("deletionTimestamp") or not self.healthy(pod):
                continue
            self.addresses[name] = f"10.1.2.{next(self._numbers)}"
            conditions = [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]
            ready = {"phase": "Running", "podIP": self.addresses[name], "conditions": conditions}
            self.set_status(name, ready | {"podIPs": [{"ip": self.addresses[name]}]})

    @contextmanager
    def kubelet(self) -> Iterator[None]:
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.05):
                with suppress(client.ApiException):
                    self.tick()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def owner(namespace: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "slipway-policy", "namespace": namespace},
        "data": {"of": "the release"},
    }


@contextmanager
def fake_world() -> Iterator[World]:
    cluster = FakeCluster()
    cluster.apply(owner("test"))
    yield World(cluster, "test", lambda name, status: cluster.set_status("Pod", name, status))


@contextmanager
def real_world() -> Iterator[World]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    configuration = client.Configuration()
    config.load_kube_config(client_configuration=configuration)
    core = client.CoreV1Api(client.ApiClient(configuration))
    namespace = f"slipway-test-{uuid.uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": namespace}})

    def set_status(name: str, status: dict[str, Any]) -> None:
        core.patch_namespaced_pod_status(name, namespace, {"status": status})

    try:
        cluster = KubernetesCluster(namespace, 10.0)
        cluster.apply(owner(namespace))
        yield World(cluster, namespace, set_status)
    finally:
        core.delete_namespace(namespace)


WORLDS = {"fake": fake_world, "real": real_world}
