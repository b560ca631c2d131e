"""What another hand has moved in a cluster: on the fake, and on the API server of KUBECONFIG; MLflow is a real one."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import Manifest
from pipeline.errors import Invalid
from pipeline.served import Served
from pipeline.serving_rules import BlueGreen
from pipeline.settings import Settings
from serving import endpoints, manifests
from serving.cluster_plane import ClusterPlane
from serving.cluster_state import ClusterState
from serving.differences import Reconciled
from serving.manifests import DIGEST, TRAFFIC, VERSION, Version
from serving.promote import version_of
from serving.reconcile import Reconciler
from serving.register import CHALLENGER, CHAMPION
from tests.serving.chain import chain
from tests.serving.ledgers import write_entry
from tests.serving.worlds import PARAMETERS, WORLDS, World

pytestmark = pytest.mark.stack


class Release:
    """A model of which versions 1 and 2 were promoted in a cluster; tests are its kubelet and its Tritons."""

    def __init__(self, world: World, stack: Settings, folder: Path) -> None:
        self.world, self.cluster, self.name = world, world.cluster, f"fraud_{uuid.uuid4().hex[:6]}"
        own = {key: getattr(stack, key) for key in ("mlflow_uri", "store", "signing_key", "verify_key")}
        self.settings = world.settings(folder).model_copy(update=own)
        self.answers: Callable[[str, Version], None] = lambda *_: None  # raises what a server that is asked refuses
        self.plane = self.plane_of(self.settings)
        self.state = ClusterState(self.settings, self.cluster)
        self.says: dict[str, Any] = {}  # what every server says otherwise than the version that it is
        self.versions: list[Version] = []
        for number in (1, 2):
            one = chain(stack, folder, self.name, f"{self.name}-r{number}", float(number))
            one.package(one.register())
            self.registry = one.run.registry
            version, previous = version_of(self.registry, self.name, number), (self.versions or [None])[-1]
            self.plane.start(version)
            with self.plane.alone(self.name, "run"):
                self.plane.switch(version, BlueGreen(kind="blue_green"))
                self.registry.set_alias(self.name, CHAMPION, number)
                self.plane.settle(version, previous)
            self.registry.delete_alias(self.name, CHALLENGER)
            before = previous.number if previous else None
            entry = write_entry(stack, self.name, number, version.onnx_digest, version.digest, previous=before)
            self.registry.set_version_tags(self.name, number, {"slipway.record.key": entry.key})
            self.versions.append(version)
        self.address = manifests.model_name(self.state.policy, self.name)
        self.champion = f"{self.address}-v2"
        self.after_promotion = self.reconcile()

    def plane_of(self, settings: Settings) -> ClusterPlane:
        return ClusterPlane(settings, self.cluster, self.answers, poll_s=0.05)

    def reconcile(self, fix: bool = False, timeout_s: float = 10.0) -> Reconciled:
        settings = self.settings.model_copy(update={"timeout_s": timeout_s})
        ask = partial(endpoints.serving, settings, cluster=self.cluster, ask=self._triton)
        return Reconciler(settings, self.plane_of(settings), self.state, ask).one(self.name, fix)

    def found(self) -> list[str]:
        return [f"{one.what}: {one.sentence}" for one in self.reconcile().found]

    def is_put_back(self) -> None:
        done = self.reconcile(fix=True)
        assert done.found
        assert done.left == ()
        assert self.reconcile() == Reconciled(model=self.name, version=2)
        assert self.object("Service", self.address)["spec"]["selector"][TRAFFIC] == "v2"
        assert self.registry.aliases(self.name) == {CHAMPION: 2}

    def object(self, kind: str, name: str) -> Manifest:
        found = self.cluster.get(kind, name)
        assert found is not None
        return found | {"kind": kind, "apiVersion": {"Service": "v1", "Deployment": "apps/v1"}[kind]}

    def _triton(self, address: str, model: str) -> Served:
        """What a Triton says that serves what its pod was made for."""
        pods = self.cluster.select("Pod", {"slipway.dev/model": model})
        (pod,) = [pod for pod in pods if pod["status"].get("podIP") == address.partition(":")[0]]
        number = int(pod["metadata"]["labels"][VERSION])
        served = Served(
            model=model, address=address, version=number, loaded=(number,), digest=self.versions[number - 1].onnx_digest
        )
        return served.model_copy(update=self.says)


@pytest.fixture(scope="module", params=PARAMETERS)
def promoted(
    request: pytest.FixtureRequest, stack_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    """One release for each world; tests leave it as it was promoted."""
    with WORLDS[request.param]() as world, world.kubelet():
        yield Release(world, stack_settings, tmp_path_factory.mktemp("release"))


@pytest.fixture
def release(promoted: Release) -> Iterator[Release]:
    yield promoted
    promoted.says, promoted.answers = {}, lambda *_: None
    promoted.reconcile(fix=True)  # a test that has failed may leave differences


def test_a_promotion_leaves_nothing_to_be_said(release: Release) -> None:
    assert release.after_promotion == Reconciled(model=release.name, version=2)
    assert release.state.served_models() == (release.name,)


def test_a_selector_that_was_patched(release: Release) -> None:
    service = release.object("Service", release.address)
    service["spec"]["selector"][TRAFFIC] = "v1"
    release.cluster.replace(service)
    found = release.found()
    assert [one for one in found if f"Service {release.address} selects other pods ({TRAFFIC} v1 for v2)" in one]
    assert sum("has version 1 loaded, by another hand" in one for one in found) == 2  # each of its two pods
    release.is_put_back()


def test_objects_that_were_deleted(release: Release) -> None:
    release.cluster.delete("Service", release.address)
    assert "replica: no server has version 2" in release.found()[0]
    release.is_put_back()
    release.cluster.delete("Deployment", release.champion)
    assert any(f"Deployment {release.champion} is gone" in one for one in release.found())
    release.is_put_back()


def test_a_deployment_that_was_made_another(release: Release) -> None:
    found = release.object("Deployment", release.champion)
    found["metadata"]["annotations"][DIGEST] = "0" * 64
    template = found["spec"]["template"]
    template["spec"]["initContainers"][0]["args"] = ["--key", "elsewhere", "--digest", "0" * 64]
    args = template["spec"]["containers"][0]["args"]
    template["spec"]["containers"][0]["args"] = [arg.replace("=none", "=explicit") for arg in args]
    release.cluster.replace(found)
    problems = "\n".join(release.found())
    assert "its package is 0000000000000000, promoted was" in problems
    assert "its pods fetch another package (--key elsewhere" in problems
    assert "others can load models into its pods (--model-control-mode=explicit)" in problems
    before = release.object("Deployment", release.champion)["spec"]["replicas"]
    release.is_put_back()
    assert release.object("Deployment", release.champion)["spec"]["replicas"] == before


@pytest.mark.parametrize("promoted", ["fake"], indirect=True)
def test_who_has_written_is_told_by_the_api_servers_books(release: Release) -> None:
    found = release.object("Deployment", release.champion)
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": {}}}}}
    books = {"manager": "kubectl-set", "time": "2026-11-25T07:00:00Z", "operation": "Update", "fieldsV1": fields}
    found["metadata"]["managedFields"] = [books]
    release.cluster.replace(found)
    (said,) = release.found()
    found = release.object("Deployment", release.champion)
    del found["metadata"]["managedFields"]
    release.cluster.replace(found)
    assert said.endswith(
        "kubectl-set has written to its pods' template, by another hand (kubectl-set, 2026-11-25T07:00:00Z)"
    )


def test_pods_that_share_the_traffic(release: Release) -> None:
    """A promotion that was killed in its canary, and is never run again."""
    canary = manifests.canary(release.state.policy, release.world.release_owner(), release.versions[0], "v2")
    release.cluster.apply(canary)
    release.cluster.mark("Deployment", canary["metadata"]["name"], {manifests.STATE: manifests.CANARY}, {})
    release.cluster.scale(canary["metadata"]["name"], 1)
    assert any("of version 1, has a share of the traffic of v2" in one for one in release.found())
    release.is_put_back()
    assert release.cluster.get("Deployment", canary["metadata"]["name"]) is None


def test_a_server_that_says_otherwise(release: Release) -> None:
    release.says = {"digest": "0" * 64}
    assert "says that its graph is 0000000000000000" in release.found()[0]
    release.says = {}
    assert release.reconcile().found == ()


def test_an_alias_that_was_moved(release: Release) -> None:
    release.registry.set_alias(release.name, CHAMPION, 1)
    release.registry.set_alias(release.name, CHALLENGER, 2)
    assert len(release.found()) == 2
    release.is_put_back()


def test_a_version_that_cannot_be_put_back_is_said(release: Release) -> None:
    def refuses(_address: str, _version: Version) -> None:
        raise Invalid("another version answers", "pod")

    service = release.object("Service", release.address)
    service["spec"]["selector"][TRAFFIC] = "v1"
    release.cluster.replace(service)
    release.answers = refuses
    left = release.reconcile(fix=True, timeout_s=0.5).left
    assert left[0].sentence == "it was not put back: another version answers"
    assert len(left) > 1


def test_a_lease_that_another_holds(release: Release) -> None:
    release.registry.set_alias(release.name, CHAMPION, 1)
    with release.plane.alone(release.name, "a-run"):
        busy = release.reconcile(fix=True, timeout_s=0.2)
    assert busy.under_way == "another change of traffic is under way, by a-run"
    assert (busy.found, busy.left) == ((), ())
    assert release.registry.alias(release.name, CHAMPION) == 1
