"""What the cluster's objects say, held against the version that ought to serve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.cluster import MANAGER, Cluster, KubernetesCluster, Manifest
from pipeline.policy import read_policy
from pipeline.settings import Settings
from serving import manifests
from serving.manifests import CHAMPION, DIGEST, MODEL, TRAFFIC, VERSION, Version, labels, model_name, version_name
from serving.package import package_key
from serving.policy import TRITON, ServingPolicy
from serving.readiness import pods_of

NOBODY: Manifest = {"kind": "", "metadata": {"name": "", "uid": ""}}  # the owner of what is made to compare with
CONTROL = "--model-control-mode"


class ClusterState:
    """The objects of one release."""

    def __init__(self, settings: Settings, cluster: Cluster | None = None) -> None:
        self.policy = read_policy(settings.serving, ServingPolicy, "SLIPWAY_SERVING")
        self.cluster = cluster or KubernetesCluster(self.policy.namespace, settings.timeout_s)

    def served_models(self) -> tuple[str, ...]:
        """Names of the models that have a version in the cluster."""
        found = self.cluster.select("Deployment", labels(self.policy))
        return tuple(sorted({str(one["metadata"]["labels"].get(MODEL, "")) for one in found} - {""}))

    def moved(self, version: Version) -> Iterator[str]:
        """Each thing that is not as a promotion of this version leaves it, as a sentence."""
        yield from self._service(version)
        name = version_name(self.policy, version.name, version.number)
        found = self.cluster.get("Deployment", name)
        if found is None:
            yield f"Deployment {name} is gone: nothing can serve version {version.number}"
        else:
            for change in self._changes(found, version):
                yield f"Deployment {name}: {change}, {_by(found, 'template')}"
            yield from self._strangers(version, found)
        yield from self._shares(version)

    def mend(self, version: Version) -> None:
        """Give a changed Deployment its own template back; its pods are replaced one by one, and none is missing."""
        found = self.cluster.get("Deployment", version_name(self.policy, version.name, version.number))
        if found is None or not list(self._changes(found, version)):
            return
        made = manifests.deployment(self.policy, NOBODY, version, CHAMPION)
        found["spec"]["template"] = made["spec"]["template"]
        found["metadata"]["annotations"] = found["metadata"].get("annotations", {}) | {DIGEST: version.digest}
        self.cluster.replace(found | {"apiVersion": made["apiVersion"], "kind": "Deployment"})

    def _service(self, version: Version) -> Iterator[str]:
        name = model_name(self.policy, version.name)
        found = self.cluster.get("Service", name)
        if found is None:
            yield f"Service {name} is gone: the model has no address"
            return
        ought = manifests.model_service(self.policy, NOBODY, version)["spec"]["selector"]
        is_now = found["spec"].get("selector", {})
        if is_now != ought:
            changed = ", ".join(
                f"{key} {is_now.get(key, 'absent')} for {ought.get(key, 'absent')}"
                for key in sorted(is_now.keys() | ought.keys())
                if is_now.get(key) != ought.get(key)
            )
            yield f"Service {name} selects other pods ({changed}), {_by(found, 'selector')}"

    def _changes(self, found: Manifest, version: Version) -> Iterator[str]:
        """What makes a Deployment another one than this version's. The platform's part may be of an older policy."""
        template = found["spec"]["template"]
        for where, metadata in (("its", found["metadata"]), ("its pods'", template["metadata"])):
            is_now = str(metadata.get("annotations", {}).get(DIGEST, "none"))
            if is_now != version.digest:
                yield f"{where} package is {is_now[:16]}, promoted was {version.digest[:16]}"
        fetched = _container(template["spec"], "initContainers", "fetch").get("args", [])
        if not {version.digest, package_key(version.name, version.number, version.digest)} <= set(fetched):
            yield f"its pods fetch another package ({' '.join(fetched) or 'none'})"
        modes = [arg for arg in _container(template["spec"], "containers", TRITON).get("args", []) if CONTROL in arg]
        if modes != [f"{CONTROL}=none"]:
            yield f"others can load models into its pods ({' '.join(modes) or f'no {CONTROL}'})"
        for entry in found["metadata"].get("managedFields", []):
            fields = entry.get("fieldsV1", {}).get("f:spec", {}).get("f:template", {})
            if entry.get("manager") != MANAGER and "f:spec" in fields:
                yield f"{entry.get('manager')} has written to its pods' template"

    def _strangers(self, version: Version, deployment: Manifest) -> Iterator[str]:
        """Pods that have the model's traffic and are not the version's own."""
        own = {pod["metadata"]["name"] for pod in pods_of(self.cluster, deployment)}
        selector = {MODEL: version.name, TRAFFIC: version.traffic}
        for pod in self.cluster.select("Pod", selector):
            metadata = pod["metadata"]
            if metadata["name"] not in own and not metadata.get("deletionTimestamp"):
                number = metadata["labels"].get(VERSION, "unknown")
                yield f"pod {metadata['name']}, of version {number}, has a share of the traffic of {version.traffic}"

    def _shares(self, version: Version) -> Iterator[str]:
        for route in manifests.routes(self.policy, NOBODY, version.name, {version.number: 100}):
            found = self.cluster.get(route["kind"], route["metadata"]["name"])
            ought = _weights(route)
            if found is None or _weights(found) != ought:
                is_now = "gone" if found is None else f"at {_weights(found)}"
                yield f"{route['kind']} {route['metadata']['name']} is {is_now}, it ought to be at {ought}"


def _weights(route: Manifest) -> dict[str, int]:
    """Shares above nought, by the name of the version's Service."""
    refs = [ref for rule in route["spec"].get("rules", []) for ref in rule.get("backendRefs", [])]
    return {str(ref["name"]): int(ref.get("weight", 1)) for ref in refs if ref.get("weight", 1)}


def _container(spec: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    return next((one for one in spec.get(kind, []) if one["name"] == name), {})


def _by(found: Manifest, field: str) -> str:
    """Who wrote a field last, by the API server's own books."""
    others = [
        entry
        for entry in found["metadata"].get("managedFields", [])
        if entry.get("manager") != MANAGER and f"f:{field}" in str(entry.get("fieldsV1", ""))
    ]
    if not others:
        return "by another hand"
    last = max(others, key=lambda entry: str(entry.get("time", "")))
    return f"by another hand ({last.get('manager')}, {last.get('time', 'at an unknown time')})"
