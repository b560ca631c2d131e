"""The contract of `Cluster`: what holds on the fake holds on a real API server (skipped without KUBECONFIG)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import Conflict, KubernetesCluster, Manifest
from pipeline.errors import Invalid, SlipwayError, Unavailable
from serving.lease import lease
from serving.readiness import await_ready
from tests.serving.worlds import NOWHERE, PARAMETERS, WORLDS, World
from tests.support.polling import wait_for


@pytest.fixture(scope="module", params=PARAMETERS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with WORLDS[request.param]() as found:
        yield found


def service(world: World, name: str, **spec: Any) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": world.namespace, "labels": {"a": "b", "of": name}},
        "spec": {"selector": {"x": "1"}, "ports": [{"port": 80, "name": "http", "protocol": "TCP"}], **spec},
    }


def deployment(world: World, name: str, owner: Manifest | None = None, **container: Any) -> Manifest:
    labels = {"app": name, "app.kubernetes.io/component": "triton"}
    metadata: Manifest = {"name": name, "namespace": world.namespace, "labels": labels}
    if owner:
        of = {"apiVersion": "v1", "kind": owner["kind"], "name": owner["metadata"]["name"]}
        metadata["ownerReferences"] = [of | {"uid": owner["metadata"]["uid"]}]
    pod = {"nodeSelector": NOWHERE, "containers": [{"name": "triton", "image": "none:1", **container}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
    }


def test_what_is_not_there(world: World) -> None:
    assert world.cluster.get("Service", "nothing") is None
    assert world.cluster.select("Service", {"of": "nothing"}) == []
    world.cluster.delete("Service", "nothing")
    with pytest.raises(Invalid, match="not found"):
        world.cluster.scale("nothing", 2)
    with pytest.raises(Invalid, match="not found"):
        world.cluster.mark("Deployment", "nothing", {"a": "b"}, {})


def test_apply_makes_and_changes(world: World) -> None:
    made = world.cluster.apply(service(world, "one"))
    same = world.cluster.apply(service(world, "one"))
    assert made["metadata"]["resourceVersion"] == same["metadata"]["resourceVersion"]
    changed = world.cluster.apply(service(world, "one", selector={"y": "2"}))
    assert changed["spec"]["selector"] == {"y": "2"}  # what we do not name any more is gone
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert [one["metadata"]["name"] for one in world.cluster.select("Service", {"a": "b", "of": "one"})] == ["one"]
    world.cluster.delete("Service", "one")
    assert world.cluster.get("Service", "one") is None


def test_fields_of_others_stay(world: World) -> None:
    manifest = deployment(world, "scaled")
    assert world.cluster.apply(manifest)["spec"]["replicas"] == 1
    world.cluster.scale("scaled", 3)
    world.cluster.mark("Deployment", "scaled", {"more": "label"}, {"until": "tomorrow"})
    before = world.cluster.get("Deployment", "scaled")
    again = world.cluster.apply(manifest)
    assert before
    assert again["metadata"]["generation"] == before["metadata"]["generation"] == 3
    assert again["spec"]["replicas"] == 3
    assert again["metadata"]["labels"]["more"] == "label"
    assert again["metadata"]["annotations"]["until"] == "tomorrow"
    assert again["metadata"]["labels"]["app"] == "scaled"
    wait_for(lambda: len(world.cluster.select("Pod", {"app": "scaled"})) == 3)
    world.cluster.delete("Deployment", "scaled")
    wait_for(lambda: not world.cluster.select("Pod", {"app": "scaled"}))


def test_the_quicker_hand_wins(world: World) -> None:
    read = world.cluster.create(service(world, "two"))
    with pytest.raises(Conflict):
        world.cluster.create(service(world, "two"))
    world.cluster.mark("Service", "two", {"moved": "yes"}, {})
    with pytest.raises(Conflict):
        world.cluster.replace(read)
    fresh = world.cluster.get("Service", "two")
    assert fresh is not None
    fresh["spec"]["selector"] = {"z": "3"}
    assert world.cluster.replace(fresh)["spec"]["selector"] == {"z": "3"}
    world.cluster.delete("Service", "two")
    with pytest.raises(Conflict):
        world.cluster.replace(fresh)


def test_what_is_owned_goes_with_its_owner(world: World) -> None:
    owner = world.cluster.apply(service(world, "owner"))
    world.cluster.apply(deployment(world, "owned", {**owner, "kind": "Service"}))
    world.cluster.delete("Service", "owner")
    wait_for(lambda: world.cluster.get("Deployment", "owned") is None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metadata": {"name": "Bad_Name"}}, "Bad_Name"),
        ({"spec": {"selector": {}, "ports": [], "colour": "red"}}, "colour"),
    ],
)
def test_a_wrong_manifest_is_refused_in_a_sentence(world: World, change: Manifest, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        world.cluster.apply(service(world, "three") | change)


def test_one_holder_at_a_time(world: World) -> None:
    manifest = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "held", "namespace": world.namespace},
    }
    cluster = world.cluster
    with lease(cluster, manifest, "first", 60, 0):
        with lease(cluster, manifest, "first", 60, 0):  # a killed step, run again
            pass
        with (
            lease(cluster, manifest, "first", 60, 0),
            pytest.raises(Unavailable, match="by first"),
            lease(cluster, manifest, "second", 60, 0),
        ):
            pass
    with lease(cluster, manifest, "second", 1, 0):
        time.sleep(1.2)  # it has held it longer than it may
        with lease(cluster, manifest, "third", 60, 0):
            pass
    assert cluster.get("Lease", "held") is None


def test_pods_that_no_node_takes(world: World) -> None:
    gpu = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1"}}
    world.cluster.apply(deployment(world, "gpu", resources=gpu))
    with pytest.raises(Unavailable) as refused:
        await_ready(world.cluster, "gpu", 1, world.unready_s, 0.2)
    assert f"gpu has 0 of 1 pods ready after {world.unready_s} s" in str(refused.value)
    assert "no node takes it" in str(refused.value)
    world.cluster.delete("Deployment", "gpu")


def test_a_deployment_is_ready_when_its_pods_are(world: World) -> None:
    world.cluster.apply(deployment(world, "well"))
    world.cluster.scale("well", 2)
    with world.kubelet():
        pods = await_ready(world.cluster, "well", 2, 20, 0.1)
    assert len({pod["status"]["podIP"] for pod in pods}) == 2
    world.cluster.delete("Deployment", "well")


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point the kubeconfig at an address; without one there is no kubeconfig."""

    def configure(address: str) -> None:
        path = tmp_path / "kubeconfig"
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        if address:
            path.write_text(
                f"apiVersion: v1\nkind: Config\nclusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\n"
                "contexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n"
                "users: [{name: u, user: {}}]\n"
            )

    return configure


def test_no_cluster_and_no_server(configure: Callable[[str], None]) -> None:
    configure("")
    with pytest.raises(Invalid, match="no Kubernetes is configured"):
        KubernetesCluster("n", 1.0)
    configure("127.0.0.1:9")
    with pytest.raises(Unavailable, match="the API server does not answer"):
        KubernetesCluster("n", 0.5).get("Service", "a")


@contextmanager
def refusing_server(status: int, message: str) -> Iterator[str]:
    """Run an API server that refuses every request; yield its address."""
    body = json.dumps({"kind": "Status", "apiVersion": "v1", "message": message, "code": status}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "message", "kind", "remedy"),
    [
        (403, 'User "x" cannot patch resource "deployments"', Invalid, "give the service account the right"),
        (403, "exceeded quota: q, requested: pods=1", Unavailable, "free some of the quota"),
        (403, "admission webhook denied the request", Invalid, "correct the policy"),
        (500, "failed to convert new object: quantities must match", Invalid, "correct the policy"),
        (500, "etcdserver: request timed out", Unavailable, "wait for it"),
    ],
)
def test_a_refusal_has_its_remedy(
    configure: Callable[[str], None], status: int, message: str, kind: type[SlipwayError], remedy: str
) -> None:
    """The messages are a real API server's."""
    with refusing_server(status, message) as address:
        configure(address)
        with pytest.raises(kind, match=remedy) as refused:
            KubernetesCluster("n", 0.5).get("Service", "a")
    assert message in str(refused.value)
