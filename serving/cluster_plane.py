"""Versions and traffic on Kubernetes: a version is a Deployment, the switch is the selector of the model's Service."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import cached_property

import tenacity

from pipeline.cluster import Cluster, KubernetesCluster, Manifest, whole_cores
from pipeline.errors import Invalid, SlipwayError
from pipeline.policy import read_policy
from pipeline.refs import RolloutRef
from pipeline.serving_rules import BlueGreen, Canary, Rollout
from pipeline.settings import Settings
from pipeline.store import Store
from serving import manifests
from serving.canary import Sides, replicas_for, step_through
from serving.lease import lease
from serving.manifests import (
    CHALLENGER,
    CHAMPION,
    STATE,
    Version,
    labels,
    model_name,
    version_name,
)
from serving.observe import Load, scrape
from serving.package import package_key
from serving.plane import Address
from serving.policy import ServingPolicy
from serving.probe import probe
from serving.readiness import await_no_canary, await_ready, pods_of
from serving.triton import TritonClient

Ask = Callable[[str, Version], None]
log = logging.getLogger("slipway")
SLACK_S = 600.0  # a lease outlives the waiting that it covers by this


class ClusterPlane:
    """See `Plane`. `ask` makes sure that the server at an address answers as the version, by a real request."""

    def __init__(
        self, settings: Settings, cluster: Cluster | None = None, ask: Ask | None = None, poll_s: float = 1.0
    ) -> None:
        self.settings = settings
        self.policy = read_policy(settings.serving, ServingPolicy, "SLIPWAY_SERVING")
        self._given = cluster
        self._ask = ask or self._probe
        self._poll_s = poll_s

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster's API; opened when it is first needed: who asks for an address may have no access to it."""
        return self._given or KubernetesCluster(self.policy.namespace, self.settings.timeout_s)

    def address(self, name: str) -> Address:
        """See `Plane`."""
        return self._address(model_name(self.policy, name))

    def alone(self, name: str, holder: str, lasts_s: float = 0.0) -> AbstractContextManager[None]:
        """See `Plane`. The holder is told by its name: the same step, killed and run again, goes on at once."""
        owned = manifests.model_lease(self.policy, self._owner, name)
        term_s = 2 * self.policy.readyTimeoutS + lasts_s + SLACK_S
        return lease(self.cluster, owned, holder, term_s, wait_s=self.settings.timeout_s)

    def cores(self) -> int:
        """See `Plane`."""
        return whole_cores(self.policy.cpu)

    def has_gpu(self) -> bool:
        """See `Plane`."""
        return self.policy.has_gpu

    def start(self, version: Version) -> RolloutRef:
        """See `Plane`. One pod, which no traffic reaches; deleted again when it does not become ready."""
        self.end_challengers(version.name)
        name = version_name(self.policy, version.name, version.number)
        address = self._address(name)
        try:
            self._challenger(version)
        except SlipwayError:
            self._delete(name)
            raise
        return RolloutRef(
            name=version.name,
            version=version.number,
            digest=version.digest,
            program=name,
            http=address.http,
            grpc=address.grpc,
        )

    def ensure(self, ref: RolloutRef, onnx_digest: str) -> None:
        """See `Plane`."""
        self._challenger(Version(ref.name, ref.version, ref.digest, onnx_digest))

    def end_challengers(self, name: str) -> None:
        """See `Plane`. A version that has traffic is no challenger, whatever its label says."""
        serving = self._traffic(name)
        for found in self._deployments(name):
            labelled = found["metadata"]["labels"]
            if labelled.get(STATE) == CHALLENGER and f"v{labelled[manifests.VERSION]}" != serving:
                self._delete(found["metadata"]["name"])

    def is_kept(self, version: Version) -> bool:
        """See `Plane`. A Deployment is quick to serve again; from the package in the store it is made anew."""
        if self.cluster.get("Deployment", version_name(self.policy, version.name, version.number)):
            return True
        key = package_key(version.name, version.number, version.digest)
        return Store(self.settings.store).exists(key)

    def switch(self, version: Version, rollout: Rollout) -> None:
        """See `Plane`."""
        before = self._traffic(version.name)
        champion = self._serving(version.name, before)
        replicas = max(self.policy.replicas, int(champion["spec"].get("replicas", 1)) if champion else 0)
        self._stand(version, replicas)
        if before != version.traffic:
            try:
                if isinstance(rollout, Canary) and champion is not None:
                    self._canary(version, champion, rollout)
                self._move(version, before)
            except (SlipwayError, SystemExit):  # it fails, or is told to end
                self._withdraw(version.name, champion)
                raise
        self._route(version.name, {version.number: 100})
        if (scaler := manifests.autoscaler(self.policy, self._owner, version)) is not None:
            self.cluster.apply(scaler)
        self._delete_canaries(version.name)

    def restore(self, version: Version) -> None:
        """See `Plane`."""
        serving = self._serving(version.name, self._traffic(version.name))
        self._withdraw(version.name, serving)  # a promotion that was killed, and never run again, may have left it
        await_no_canary(self.cluster, labels(self.policy) | {manifests.MODEL: version.name}, self._poll_s)
        if serving is None:
            log.warning("%s: nothing serves version %d, the champion: it starts again", version.name, version.number)
            self.switch(version, BlueGreen(kind="blue_green"))
            self._crown(version)

    def settle(self, version: Version, previous: Version | None) -> None:
        """See `Plane`. The version before keeps its pods until its time is up (`serving.collect`)."""
        self._crown(version)
        for found in self._deployments(version.name):
            other = found["metadata"]["name"]
            number = int(found["metadata"]["labels"][manifests.VERSION])
            if number == version.number or found["metadata"]["labels"].get(STATE) == CHALLENGER:
                continue
            if previous is not None and number == previous.number:
                self._keep(other, manifests.PREVIOUS)
            else:
                self._delete(other)

    def collect(self, now: datetime) -> tuple[str, ...]:
        """Delete every version whose time is up and which has no traffic; their names."""
        gone = []
        for found in self.cluster.select("Deployment", labels(self.policy)):
            metadata = found["metadata"]
            until = metadata.get("annotations", {}).get(manifests.KEPT_UNTIL, "")
            if not until or datetime.fromisoformat(until) > now:
                continue
            model, number = metadata["labels"][manifests.MODEL], metadata["labels"][manifests.VERSION]
            with self.alone(model, "collector"):  # a roll-back may be about to serve it
                if self._traffic(model) != f"v{number}" or metadata["labels"].get(STATE) == manifests.CANARY:
                    self._delete(metadata["name"])
                    gone.append(str(metadata["name"]))
        return tuple(gone)

    @cached_property
    def _owner(self) -> Manifest:
        """The release's own object: what rollouts have made goes away with it."""
        found = self.cluster.get(self.policy.owner.kind, self.policy.owner.name)
        if found is None:
            where = f"{self.policy.owner.kind} {self.policy.owner.name}, namespace {self.policy.namespace}"
            raise Invalid("the release's own object is not there", where, "install the chart, or correct `owner`")
        return {**found, "kind": self.policy.owner.kind}

    def _address(self, service: str) -> Address:
        host = f"{service}.{self.policy.namespace}.svc"
        return Address(http=f"{host}:{manifests.HTTP}", grpc=f"{host}:{manifests.GRPC}")

    def _traffic(self, name: str) -> str | None:
        """The traffic label that the model's Service selects; None where another hand made it one of no version."""
        found = self.cluster.get("Service", model_name(self.policy, name))
        label = str((found or {}).get("spec", {}).get("selector", {}).get(manifests.TRAFFIC, ""))
        return label if re.fullmatch(r"v\d+", label) else None

    def _serving(self, name: str, traffic: str | None) -> Manifest | None:
        """The Deployment that has the model's traffic."""
        return self.cluster.get("Deployment", version_name(self.policy, name, int(traffic[1:]))) if traffic else None

    def _deployments(self, name: str) -> list[Manifest]:
        return self.cluster.select("Deployment", labels(self.policy) | {manifests.MODEL: name})

    def _challenger(self, version: Version) -> None:
        """One pod at least, ready and answering; a version that has traffic is left as it is."""
        name = version_name(self.policy, version.name, version.number)
        if self._traffic(version.name) == version.traffic:
            return
        self._stand(version, 1)
        self._keep(name, CHALLENGER)

    def _stand(self, version: Version, replicas: int) -> None:
        """The version's Deployment and Service, with as many ready pods, each of which has answered."""
        name = version_name(self.policy, version.name, version.number)
        found = self.cluster.get("Deployment", name)
        if found is None or found["metadata"]["labels"].get(STATE) == CHALLENGER:
            # what has served is not written to: a policy that has changed since must not restart it
            found = self.cluster.apply(manifests.deployment(self.policy, self._owner, version, CHALLENGER))
            self.cluster.apply(manifests.service(self.policy, self._owner, version))
        if int(found["spec"].get("replicas", 1)) < replicas:
            self.cluster.scale(name, replicas)
        for pod in await_ready(self.cluster, name, replicas, self.policy.readyTimeoutS, self._poll_s):
            self._ask(f"{pod['status']['podIP']}:{manifests.GRPC}", version)

    def _move(self, version: Version, before: str | None) -> None:
        """The one write that moves traffic; taken back when the model's address does not answer as the version."""
        log.info("%s: traffic moves from %s to %s", version.name, before or "nothing", version.traffic)
        self.cluster.apply(manifests.model_service(self.policy, self._owner, version))
        arriving = tenacity.Retrying(  # a moment passes until every node's proxy has the new selector
            retry=tenacity.retry_if_exception_type(SlipwayError),
            stop=tenacity.stop_after_delay(self.settings.timeout_s),
            wait=tenacity.wait_fixed(self._poll_s),
            reraise=True,
        )
        try:
            arriving(self._ask, self.address(version.name).grpc, version)
        except (SlipwayError, SystemExit):
            if before is not None:
                old = Version(version.name, int(before.removeprefix("v")), "", "")
                self.cluster.apply(manifests.model_service(self.policy, self._owner, old))
            raise

    def _canary(self, version: Version, champion: Manifest, plan: Canary) -> None:
        """Step through the shares."""
        share = self._by_weight if self.policy.gateway else self._by_replicas
        load = self._load(version.name)
        step_through(self.cluster, plan, lambda wanted: share(version, champion, wanted), load, self._poll_s)

    def _withdraw(self, name: str, champion: Manifest | None) -> None:
        """No pod and no share of a canary stays behind."""
        if champion is not None:
            self._route(name, {int(champion["metadata"]["labels"][manifests.VERSION]): 100})
        self._delete_canaries(name)

    def _route(self, name: str, weights: dict[int, int]) -> None:
        """The Gateway's shares by version number, where there is one."""
        for manifest in manifests.routes(self.policy, self._owner, name, weights):
            self.cluster.apply(manifest)

    def _by_replicas(self, version: Version, champion: Manifest, wanted: float) -> Sides:
        """Pods of the version that carry the champion's traffic label; champion and Service are not written to."""
        old = pods_of(self.cluster, champion)
        joins = champion["spec"]["template"]["metadata"]["labels"][manifests.TRAFFIC]
        manifest = manifests.canary(self.policy, self._owner, version, joins)
        name = manifest["metadata"]["name"]
        replicas = replicas_for(wanted, len(old))
        self.cluster.apply(manifest)
        self._keep(name, manifests.CANARY)
        self.cluster.scale(name, replicas)
        new = await_ready(self.cluster, name, replicas, self.policy.readyTimeoutS, self._poll_s)
        return Sides(new, old, len(new) / (len(new) + len(old)))

    def _by_weight(self, version: Version, champion: Manifest, wanted: float) -> Sides:
        """The Gateway's weights; the version's own pods take the share."""
        number = int(champion["metadata"]["labels"][manifests.VERSION])
        self._route(version.name, {version.number: round(100 * wanted), number: 100 - round(100 * wanted)})
        found = self.cluster.get("Deployment", version_name(self.policy, version.name, version.number))
        return Sides(pods_of(self.cluster, found) if found else [], pods_of(self.cluster, champion), wanted)

    def _load(self, name: str) -> Callable[[Manifest], Load]:
        return lambda pod: scrape(f"{pod['status']['podIP']}:{manifests.METRICS}", name, self.settings.timeout_s)

    def _crown(self, version: Version) -> None:
        name = version_name(self.policy, version.name, version.number)
        self.cluster.mark("Deployment", name, {STATE: CHAMPION}, {manifests.KEPT_UNTIL: ""})

    def _keep(self, name: str, state: str) -> None:
        until = (datetime.now(UTC) + timedelta(seconds=self.policy.keepPreviousS)).isoformat(timespec="seconds")
        self.cluster.mark("Deployment", name, {STATE: state}, {manifests.KEPT_UNTIL: until})

    def _delete_canaries(self, name: str) -> None:
        for found in self._deployments(name):
            if found["metadata"]["labels"].get(STATE) == manifests.CANARY:
                self._delete(found["metadata"]["name"])

    def _delete(self, name: str) -> None:
        self.cluster.delete("Deployment", name)
        self.cluster.delete("Service", name)

    def _probe(self, address: str, version: Version) -> None:
        with TritonClient(address, self.settings.timeout_s) as client:
            probe(client, version.name, version.number, version.onnx_digest or None)
