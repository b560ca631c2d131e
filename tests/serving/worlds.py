"""Two worlds for the same tests: the fake cluster, and the one that KUBECONFIG points at. Tests play the kubelet."""

from __future__ import annotations

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
    unready_s: int = 6  # a Deployment that is not ready after so long has no node: the scheduler has looked at its pods
    addresses: dict[str, str] = field(default_factory=dict)
    _numbers: count = field(default_factory=lambda: count(2))

    def settings(self, folder: Path, timeout_s: float = 10.0, **policy: object) -> Settings:
        """Return the settings of a promotion in this cluster; `policy` overrides values of POLICY."""
        path = folder / "serving.yaml"
        path.write_text(yaml.safe_dump({**POLICY, "namespace": self.namespace, **policy}))
        values = {"home": folder, "runtime": "kubernetes", "namespace": self.namespace, "serving": path}
        return Settings.model_validate({**values, "timeout_s": timeout_s})

    def release_owner(self) -> Manifest:
        """Return the release's own object, which owns what promotions create."""
        found = self.cluster.get("ConfigMap", "slipway-policy")
        assert found is not None
        return {**found, "kind": "ConfigMap"}

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
    yield World(cluster, "test", lambda name, status: cluster.set_status("Pod", name, status), unready_s=1)


@contextmanager
def real_world() -> Iterator[World]:
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
PARAMETERS = [pytest.param("fake"), pytest.param("real", marks=pytest.mark.cluster)]  # of a fixture that opens a world
