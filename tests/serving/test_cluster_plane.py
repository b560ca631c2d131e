"""Rollouts on Kubernetes: on the fake, and on the API server of KUBECONFIG. The tests play the kubelet and Triton."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cluster import Manifest, whole_cores
from pipeline.errors import Invalid, Rejected, Unavailable
from pipeline.serving_rules import BlueGreen, Canary
from serving import cluster_plane, manifests
from serving.cluster_plane import ClusterPlane
from serving.manifests import TRAFFIC, VERSION, Version, model_name, version_name
from serving.observe import Load
from serving.policy import ServingPolicy
from tests.serving.worlds import PARAMETERS, WORLDS, World, owner

BLUE_GREEN = BlueGreen(kind="blue_green")
GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(params=PARAMETERS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with WORLDS[request.param]() as found:
        yield found


class Asked:
    """Stands for the real question to Triton: remembers who was asked, refuses whom it is told to."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, int]] = []
        self.refuses: set[str] = set()
        self.before: Callable[[str], object] = lambda _: None  # is called with the address before each answer

    def __call__(self, address: str, version: Version) -> None:
        self.before(address)
        self.questions.append((address, version.number))
        if address in self.refuses:
            raise Invalid("another version answers", address)


def version(number: int, name: str = "fraud_eu") -> Version:
    return Version(name, number, f"{number:064d}", f"{number + 100:064d}")


@contextmanager
def standing(
    world: World, folder: Path, timeout_s: float = 10.0, **policy: Any
) -> Iterator[tuple[ClusterPlane, Asked]]:
    asked = Asked()
    with world.kubelet():
        yield ClusterPlane(world.settings(folder, timeout_s, **policy), world.cluster, asked, poll_s=0.05), asked


def promote(plane: ClusterPlane, new: Version, old: Version | None = None, how: Any = BLUE_GREEN) -> None:
    plane.start(new)
    with plane.alone(new.name, "run"):
        plane.switch(new, how)
        plane.settle(new, old)


def traffic(world: World, name: str = "slipway-model-fraud-eu") -> str | None:
    found = world.cluster.get("Service", name)
    return found["spec"]["selector"][TRAFFIC] if found else None


def deployments(world: World) -> dict[str, str]:
    found = world.cluster.select("Deployment", {"slipway.dev/model": "fraud_eu"})
    return {one["metadata"]["name"]: one["metadata"]["labels"]["slipway.dev/state"] for one in found}


def untouched(found: Manifest | None) -> tuple[Any, ...]:
    """What a write would change."""
    assert found is not None
    return (found["spec"],)


def test_first_second_and_the_way_back(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path) as (plane, asked):
        ref = plane.start(version(1))
        assert ref.program == "slipway-model-fraud-eu-v1"
        assert ref.grpc == f"slipway-model-fraud-eu-v1.{world.namespace}.svc:8001"
        assert traffic(world) is None  # a challenger has none
        assert len(asked.questions) == 1
        with plane.alone("fraud_eu", "run"):
            plane.switch(version(1), BLUE_GREEN)
            plane.settle(version(1), None)
        assert traffic(world) == "v1"
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "champion"}
        assert plane.address("fraud_eu").http == f"slipway-model-fraud-eu.{world.namespace}.svc:8000"
        assert (plane.address("fraud_eu").grpc, 1) in asked.questions
        champion = world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")
        assert champion is not None
        assert champion["spec"]["replicas"] == 2

        plane.start(version(2))
        assert traffic(world) == "v1"
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == untouched(champion)
        with plane.alone("fraud_eu", "run"):
            plane.switch(version(2), BLUE_GREEN)
            plane.settle(version(2), version(1))
        assert traffic(world) == "v2"
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "previous", "slipway-model-fraud-eu-v2": "champion"}
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == untouched(champion)

        assert plane.is_kept(version(1))
        with plane.alone("fraud_eu", "rollback"):
            plane.switch(version(1), BLUE_GREEN)
            plane.settle(version(1), version(2))
        assert traffic(world) == "v1"
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "champion", "slipway-model-fraud-eu-v2": "previous"}
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == untouched(champion)


@pytest.mark.parametrize("lost", [("Service", "slipway-model-fraud-eu"), ("Deployment", "slipway-model-fraud-eu-v2")])
def test_a_champion_that_nothing_serves_is_started_again(world: World, tmp_path: Path, lost: tuple[str, str]) -> None:
    with standing(world, tmp_path) as (plane, _):
        promote(plane, version(1))
        promote(plane, version(2), version(1))
        plane.restore(version(2))  # changes nothing
        before = untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1"))
        world.cluster.delete(*lost)
        plane.restore(version(2))
        assert traffic(world) == "v2"
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "previous", "slipway-model-fraud-eu-v2": "champion"}
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == before


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_what_a_dead_promotion_has_left_goes_before_the_champion_is_asked(world: World, tmp_path: Path) -> None:
    gateway = {"name": "edge", "namespace": "infra", "domain": "models.example.com"}
    with standing(world, tmp_path, replicas=1, gateway=gateway) as (plane, _):
        promote(plane, version(1))
        owned = world.release_owner()
        world.cluster.apply(manifests.canary(plane.policy, owned, version(2), "v1"))
        for route in manifests.routes(plane.policy, owned, "fraud_eu", {1: 50, 2: 50}):
            world.cluster.apply(route)
        (pod,) = world.cluster.select("Pod", {VERSION: "2"})
        owners = [pod["metadata"]["ownerReferences"][0] | {"uid": "gone"}]
        drains = {"name": "drains", "labels": pod["metadata"]["labels"], "ownerReferences": owners}
        world.cluster.create({"apiVersion": "v1", **pod, "metadata": drains})
        threading.Timer(0.5, world.cluster.delete, ("Pod", "drains")).start()
        plane.restore(version(1))
        assert not world.cluster.select("Pod", {VERSION: "2"})  # it would have answered the champion's questions
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "champion"}
        route = world.cluster.get("HTTPRoute", "slipway-model-fraud-eu")
        assert route is not None
        assert [one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]] == [100]


@pytest.mark.parametrize("world", ["fake"], indirect=True)
@pytest.mark.parametrize("label", [None, "latest"])
def test_a_selector_that_another_hand_has_changed_is_written_anew(
    world: World, tmp_path: Path, label: str | None
) -> None:
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(1))
        found = world.cluster.get("Service", "slipway-model-fraud-eu")
        assert found is not None
        del found["spec"]["selector"][TRAFFIC]
        found["spec"]["selector"] |= {TRAFFIC: label} if label else {"app": "mine"}
        world.cluster.replace(found)
        plane.start(version(2))
        plane.restore(version(1))
        assert traffic(world) == "v1"


def test_a_third_version_lets_the_first_go(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(1))
        promote(plane, version(2), version(1))
        promote(plane, version(3), version(2))
        assert deployments(world) == {"slipway-model-fraud-eu-v2": "previous", "slipway-model-fraud-eu-v3": "champion"}
        assert world.cluster.get("Service", "slipway-model-fraud-eu-v1") is None


def test_every_step_again_changes_nothing(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path) as (plane, _):
        promote(plane, version(1))
        plane.start(version(2))
        plane.ensure(plane.start(version(2)), version(2).onnx_digest)
        for _ in range(2):
            with plane.alone("fraud_eu", "run"):
                plane.switch(version(2), BLUE_GREEN)
                plane.settle(version(2), version(1))
        plane.end_challengers("fraud_eu")
        assert traffic(world) == "v2"
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "previous", "slipway-model-fraud-eu-v2": "champion"}


def test_a_champion_that_was_scaled_up_is_followed_by_as_many(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(1))
        world.cluster.scale("slipway-model-fraud-eu-v1", 3)  # what an autoscaler does
        promote(plane, version(2), version(1))
        found = world.cluster.get("Deployment", "slipway-model-fraud-eu-v2")
        assert found is not None
        assert found["spec"]["replicas"] == 3


def test_a_challenger_without_a_node_is_given_up(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path) as (plane, asked):
        promote(plane, version(1))
        before = untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1"))
        world.healthy = lambda pod: pod["metadata"]["labels"][VERSION] != "2"
        impatient = world.settings(tmp_path, readyTimeoutS=world.unready_s)
        with pytest.raises(Unavailable, match="no node takes it"):
            ClusterPlane(impatient, world.cluster, asked, poll_s=0.05).start(version(2))
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "champion"}
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == before
        assert traffic(world) == "v1"


def test_a_package_that_the_init_container_refuses(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path) as (plane, _):
        world.healthy = lambda _: False
        ended = {"exitCode": 2, "reason": "Error", "message": "invalid: model.onnx has another content"}
        fetch = {"name": "fetch", "ready": False, "restartCount": 1, "image": "i", "imageID": "i"}
        status = {"phase": "Pending", "initContainerStatuses": [{**fetch, "state": {"terminated": ended}}]}

        def refuse() -> None:
            for pod in world.cluster.select("Pod", {"app.kubernetes.io/component": "triton"}):
                world.set_status(pod["metadata"]["name"], status)

        world.tick = refuse  # type: ignore[method-assign]
        with pytest.raises(Invalid, match="another content"):
            plane.start(version(1))
        assert deployments(world) == {}


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_a_package_that_was_mended_meanwhile(world: World, tmp_path: Path) -> None:
    """The init container has ended well since it refused: the pod only starts now."""
    with standing(world, tmp_path, replicas=1) as (plane, _):
        refused = {"terminated": {"exitCode": 2, "reason": "Error", "message": "invalid: another content"}}
        fetch = {"name": "fetch", "restartCount": 1, "lastState": refused, "state": {"terminated": {"exitCode": 0}}}
        looks, tick = count(), world.tick

        def start() -> None:
            if next(looks) > 10:
                tick()
                return
            for pod in world.cluster.select("Pod", {"app.kubernetes.io/component": "triton"}):
                world.set_status(pod["metadata"]["name"], {"phase": "Pending", "initContainerStatuses": [fetch]})

        world.tick = start  # type: ignore[method-assign]
        plane.start(version(1))
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "challenger"}


def test_a_pod_that_answers_wrongly_gets_no_traffic(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path, timeout_s=1.0) as (plane, asked):
        promote(plane, version(1))
        plane.start(version(2))
        asked.refuses = {plane.address("fraud_eu").grpc}
        with plane.alone("fraud_eu", "run"), pytest.raises(Invalid, match="another version answers"):
            plane.switch(version(2), BLUE_GREEN)
        assert traffic(world) == "v1"  # taken back
        asked.refuses = {f"{address}:8001" for address in world.addresses.values()}
        with plane.alone("fraud_eu", "run"), pytest.raises(Invalid):
            plane.switch(version(2), BLUE_GREEN)
        assert traffic(world) == "v1"


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_no_canary_stays_where_the_traffic_cannot_move(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_plane, "scrape", lambda *_: Load())
    with standing(world, tmp_path, timeout_s=1.0, replicas=1) as (plane, asked):
        promote(plane, version(1))
        plane.start(version(2))
        asked.refuses = {plane.address("fraud_eu").grpc}
        plan = Canary(kind="canary", shares=(0.5,), observe_s=0.1)
        with plane.alone("fraud_eu", "run"), pytest.raises(Invalid, match="another version answers"):
            plane.switch(version(2), plan)
        assert traffic(world) == "v1"
        assert not [name for name in deployments(world) if name.endswith("canary")]


@pytest.mark.parametrize("world", ["fake"], indirect=True)
@pytest.mark.parametrize("moved", [False, True])
def test_a_promotion_that_is_told_to_end_leaves_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    """Its task was marked as failed: the pod gets SIGTERM, while the canary is observed or just after the switch."""

    def end(*_: object) -> Load:
        os.kill(os.getpid(), signal.SIGTERM)
        return Load()

    with standing(world, tmp_path, replicas=1) as (plane, asked):
        promote(plane, version(1))
        plane.start(version(2))
        monkeypatch.setattr(cluster_plane, "scrape", (lambda *_: Load()) if moved else end)
        asked.before = lambda address: end() if "svc" in address else None
        plan, before = Canary(kind="canary", shares=(0.5,), observe_s=0.1), signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended, plane.alone("fraud_eu", "run"):
            plane.switch(version(2), plan)
        assert ended.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == before
        assert traffic(world) == "v1"
        assert not [name for name in deployments(world) if name.endswith("canary")]
        assert world.cluster.get("Lease", "slipway-model-fraud-eu") is None


def test_a_canary_in_steps(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    plan = Canary(kind="canary", shares=(0.2, 0.6), observe_s=0.3)
    load = {"1": Load(100, 0, 1e6), "2": Load(20, 0, 2e5)}

    def scrape(address: str, model: str, timeout_s: float) -> Load:
        pods = world.cluster.select("Pod", {"slipway.dev/model": model, TRAFFIC: "v1"})
        counts = [sum(pod["metadata"]["labels"][VERSION] == one for pod in pods) for one in ("1", "2")]
        seen.append((counts[0], counts[1]))
        pod = next(pod for pod in pods if f"{pod['status'].get('podIP')}:8002" == address)
        return load[pod["metadata"]["labels"][VERSION]]

    monkeypatch.setattr(cluster_plane, "scrape", scrape)
    with standing(world, tmp_path, replicas=3) as (plane, _):
        promote(plane, version(1))
        before = untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1"))
        promote(plane, version(2), version(1), plan)
        assert (3, 1) in seen  # 0.2 of the traffic, as near as pods allow
        assert (3, 4) in seen  # 0.6
        assert traffic(world) == "v2"
        assert deployments(world) == {"slipway-model-fraud-eu-v1": "previous", "slipway-model-fraud-eu-v2": "champion"}
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == before


@pytest.mark.parametrize("world", ["fake"], indirect=True)
@pytest.mark.parametrize(
    ("new", "said"),
    [(Load(50, 10, 5e5), "10 of 60 requests failed"), (Load(50, 0, 5e6), "100.0 ms in the canary, 10.0 ms")],
)
def test_a_canary_that_does_worse_is_taken_away(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Load, said: str
) -> None:
    calls: dict[str, int] = {}

    def scrape(address: str, model: str, timeout_s: float) -> Load:
        pods = world.cluster.select("Pod", {"slipway.dev/model": model})
        pod = next(pod for pod in pods if f"{pod['status'].get('podIP')}:8002" == address)
        calls[address] = calls.get(address, 0) + 1
        load = new if pod["metadata"]["labels"][VERSION] == "2" else Load(100, 0, 1e6)
        return load if calls[address] > 1 else Load()

    monkeypatch.setattr(cluster_plane, "scrape", scrape)
    plan = Canary(kind="canary", shares=(0.5,), observe_s=0.1)
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(1))
        before = untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1"))
        service = untouched(world.cluster.get("Service", "slipway-model-fraud-eu"))
        plane.start(version(2))
        with plane.alone("fraud_eu", "run"), pytest.raises(Rejected, match=said):
            plane.switch(version(2), plan)
        assert traffic(world) == "v1"
        assert not [name for name in deployments(world) if name.endswith("canary")]
        assert untouched(world.cluster.get("Deployment", "slipway-model-fraud-eu-v1")) == before
        assert untouched(world.cluster.get("Service", "slipway-model-fraud-eu")) == service


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_a_canary_whose_pod_dies_is_taken_away(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_plane, "scrape", lambda *_: Load())
    plan = Canary(kind="canary", shares=(0.5,), observe_s=20)
    with standing(world, tmp_path) as (plane, _):
        promote(plane, version(1))
        plane.start(version(2))
        tick, restarts = world.tick, count()

        def dying() -> None:
            tick()
            number = next(restarts)
            for pod in world.cluster.select("Pod", {TRAFFIC: "v1", VERSION: "2"}):
                if pod["status"].get("podIP"):
                    restarted = [{"name": "triton", "restartCount": number}]
                    world.set_status(pod["metadata"]["name"], pod["status"] | {"containerStatuses": restarted})

        world.tick = dying  # type: ignore[method-assign]
        with plane.alone("fraud_eu", "run"), pytest.raises(Rejected, match="has restarted"):
            plane.switch(version(2), plan)
        assert traffic(world) == "v1"


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_a_gateway_shares_by_weight(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = {"name": "edge", "namespace": "infra", "sectionName": "", "domain": "models.example.com"}
    weights: list[dict[str, int]] = []

    def scrape(address: str, model: str, timeout_s: float) -> Load:
        route = world.cluster.get("HTTPRoute", "slipway-model-fraud-eu")
        assert route is not None
        weights.append({one["name"]: one["weight"] for one in route["spec"]["rules"][0]["backendRefs"]})
        return Load()

    monkeypatch.setattr(cluster_plane, "scrape", scrape)
    plan = Canary(kind="canary", shares=(0.1, 0.5), observe_s=0.1)
    with standing(world, tmp_path, replicas=1, gateway=gateway) as (plane, _):
        promote(plane, version(1))
        promote(plane, version(2), version(1), plan)
    assert {"slipway-model-fraud-eu-v1": 90, "slipway-model-fraud-eu-v2": 10} in weights
    assert {"slipway-model-fraud-eu-v1": 50, "slipway-model-fraud-eu-v2": 50} in weights
    for kind, port in (("HTTPRoute", 8000), ("GRPCRoute", 8001)):
        route = world.cluster.get(kind, "slipway-model-fraud-eu")
        assert route is not None
        assert route["spec"]["hostnames"] == ["fraud-eu.models.example.com"]
        backends = route["spec"]["rules"][0]["backendRefs"]
        assert backends == [{"name": "slipway-model-fraud-eu-v2", "port": port, "weight": 100}]


def test_an_autoscaler_follows_the_champion(world: World, tmp_path: Path) -> None:
    metric = {"type": "Pods", "pods": {"metric": {"name": "nv_inference_pending_request_count"}}}
    metric["pods"]["target"] = {"type": "AverageValue", "averageValue": "8"}  # type: ignore[index]
    scaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "spec": {"minReplicas": 1, "maxReplicas": 4, "metrics": [metric]},
    }
    with standing(world, tmp_path, replicas=1, autoscaler=scaler) as (plane, _):
        promote(plane, version(1))
        promote(plane, version(2), version(1))
    found = world.cluster.get("HorizontalPodAutoscaler", "slipway-model-fraud-eu")
    assert found is not None
    assert found["spec"]["scaleTargetRef"]["name"] == "slipway-model-fraud-eu-v2"
    assert found["spec"]["maxReplicas"] == 4


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_an_autoscaler_asks_for_its_own_model(world: World, tmp_path: Path) -> None:
    query = 'sum(nv_inference_pending_request_count{model="{model}"})'
    scaler = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "spec": {"triggers": [{"metadata": {"query": query}}]},
    }
    with standing(world, tmp_path, replicas=1, autoscaler=scaler) as (plane, _):
        found = manifests.autoscaler(plane.policy, {**owner("test"), "metadata": {"name": "o", "uid": "u"}}, version(1))
    assert found is not None
    assert (
        found["spec"]["triggers"][0]["metadata"]["query"] == 'sum(nv_inference_pending_request_count{model="fraud_eu"})'
    )


def test_what_is_past_its_time_is_collected(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(1))
        promote(plane, version(2), version(1))
        plane.start(version(3))
        now = datetime.now(UTC)
        assert plane.collect(now) == ()
        later = now + timedelta(hours=2)
        assert set(plane.collect(later)) == {"slipway-model-fraud-eu-v1", "slipway-model-fraud-eu-v3"}
        assert deployments(world) == {"slipway-model-fraud-eu-v2": "champion"}
        assert traffic(world) == "v2"
        assert plane.collect(later) == ()


def test_everything_goes_with_the_release(world: World, tmp_path: Path) -> None:
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(1))
    owner = world.cluster.get("ConfigMap", "slipway-policy")
    assert owner is not None
    made = [*world.cluster.select("Deployment", {"slipway.dev/model": "fraud_eu"})]
    made += world.cluster.select("Service", {"slipway.dev/model": "fraud_eu"})
    assert len(made) == 3
    for one in made:
        assert [ref["uid"] for ref in one["metadata"]["ownerReferences"]] == [owner["metadata"]["uid"]]


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_a_release_without_its_object(world: World, tmp_path: Path) -> None:
    world.cluster.delete("ConfigMap", "slipway-policy")
    with standing(world, tmp_path) as (plane, _), pytest.raises(Invalid, match="install the chart"):
        plane.start(version(1))


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_a_policy_that_cannot_be_read_says_all_of_it(world: World, tmp_path: Path) -> None:
    settings = world.settings(tmp_path, replicas=0, colour="red", template={"spec": {"containers": []}})
    with pytest.raises(Invalid) as refused:
        ClusterPlane(settings, world.cluster)
    text = str(refused.value)
    for said in ("replicas", "colour", "no container named 'triton'"):
        assert said in text
    (tmp_path / "serving.yaml").write_text("a: [")
    with pytest.raises(Invalid, match="is no YAML"):
        ClusterPlane(settings, world.cluster)
    with pytest.raises(Invalid, match="cannot be read"):
        ClusterPlane(settings.model_copy(update={"serving": tmp_path / "none.yaml"}), world.cluster)


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_the_manifests_of_a_version(world: World, tmp_path: Path) -> None:
    """Golden: what a version is in the cluster. UPDATE_GOLDENS=1 writes it anew."""
    with standing(world, tmp_path, replicas=1) as (plane, _):
        promote(plane, version(7))
    found = []
    for kind in ("Deployment", "Service"):
        for one in world.cluster.select(kind, {"slipway.dev/model": "fraud_eu"}):
            metadata = {key: one["metadata"][key] for key in ("name", "namespace", "labels", "annotations", "ownerReferences") if key in one["metadata"]}  # fmt: skip
            metadata["ownerReferences"][0]["uid"] = "UID"
            if KEPT in metadata.get("annotations", {}):
                metadata["annotations"][KEPT] = "TIME" if metadata["annotations"][KEPT] else ""
            found.append({"apiVersion": one["apiVersion"], "kind": kind, "metadata": metadata, "spec": one["spec"]})
    text = yaml.safe_dump_all(found, sort_keys=True, width=120)
    path = GOLDENS / "version.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(text)
    assert path.read_text() == text


KEPT = "slipway.dev/kept-until"


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_names_that_are_too_long_differ(world: World, tmp_path: Path) -> None:
    policy = ClusterPlane(world.settings(tmp_path), world.cluster).policy
    names = {model_name(policy, "a" * 62 + last) for last in "bc"}
    assert len(names) == 2
    assert all(len(f"{name}-v123456-canary") <= 63 for name in names)


@pytest.mark.parametrize("world", ["fake"], indirect=True)
def test_no_model_takes_the_name_of_something_else(world: World, tmp_path: Path) -> None:
    """Of a version, of a canary, or of the chart's own Services (RELEASE-mlflow, say)."""
    policy = ClusterPlane(world.settings(tmp_path), world.cluster).policy
    models = ("fraud", "fraud_v1", "fraud_v1_canary", "fraud_", "fraud__", "mlflow", "api_server", "model_fraud")
    taken = [model_name(policy, model) for model in models]
    taken += [version_name(policy, model, 1) for model in models]
    taken += [f"{version_name(policy, model, 1)}-canary" for model in models]
    assert len(set(taken)) == len(taken)
    assert all(re.fullmatch(r"slipway-model-[a-z0-9]([a-z0-9-]*[a-z0-9])?", name) for name in taken)


@pytest.mark.parametrize(
    ("resources", "cores"),
    [
        ({}, 1),
        ({"requests": {"cpu": "1500m"}}, 1),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": 4}}, 4),
        ({"limits": {"cpu": "250m"}}, 1),
    ],
)
def test_cores_are_those_of_the_policys_pod(resources: dict, cores: int, tmp_path: Path) -> None:
    template = {"spec": {"containers": [{"name": "side"}, {"name": "triton", "resources": resources}]}}
    policy = ServingPolicy.model_validate(
        {"namespace": "n", "release": "r", "owner": {"name": "o"}, "fetch": {"image": "i"}, "template": template}
    )
    assert whole_cores(policy.cpu) == cores
    assert not policy.has_gpu


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb"])
def test_a_gpu_of_the_policys_pod_is_known(resource: str) -> None:
    template = {"spec": {"containers": [{"name": "triton", "resources": {"limits": {resource: "1"}}}]}}
    policy = ServingPolicy.model_validate(
        {"namespace": "n", "release": "r", "owner": {"name": "o"}, "fetch": {"image": "i"}, "template": template}
    )
    assert policy.has_gpu
