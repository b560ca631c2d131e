"""A cluster in memory behind our own protocol: server-side apply, conflicts, owners, and Deployments that make pods.

`test_cluster.py` holds it to what a real API server does.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import kubernetes_validate
from kubernetes_validate import utils

from pipeline.cluster import API_VERSIONS, Conflict, Manifest
from pipeline.errors import Invalid

utils.schema_contents = functools.cache(utils.schema_contents)  # would read megabytes of JSON for each manifest
NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


class FakeCluster:
    """`Cluster` in memory. Pods are made by Deployments and stay pending until a test sets their status."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], Manifest] = {}
        self._applied: dict[tuple[str, str], Manifest] = {}
        self._events: list[Manifest] = []
        self._count = itertools.count(1)
        self._lock = threading.RLock()

    def get(self, kind: str, name: str) -> Manifest | None:
        with self._lock:
            self._controllers()
            return copy.deepcopy(self._objects.get((kind, name)))

    def select(self, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        with self._lock:
            self._controllers()
            found = [value for (its, _), value in sorted(self._objects.items()) if its == kind]
            return copy.deepcopy([one for one in found if labels.items() <= one["metadata"].get("labels", {}).items()])

    def apply(self, manifest: Manifest) -> Manifest:
        with self._lock:
            self._validate(manifest)
            key = (manifest["kind"], manifest["metadata"]["name"])
            before = self._objects.get(key)
            value = _dropped(before or {}, self._applied.get(key, {}), manifest)
            self._applied[key] = copy.deepcopy(manifest)
            return self._store(key, _merged(value, manifest))

    def create(self, manifest: Manifest) -> Manifest:
        with self._lock:
            self._validate(manifest)
            key = (manifest["kind"], manifest["metadata"]["name"])
            if key in self._objects:
                raise Conflict(f"{key[0]} {key[1]} is there already", "fake")
            return self._store(key, copy.deepcopy(manifest))

    def replace(self, manifest: Manifest) -> Manifest:
        with self._lock:
            key = (manifest["kind"], manifest["metadata"]["name"])
            found = self._objects.get(key)
            if found is None or found["metadata"]["resourceVersion"] != manifest["metadata"].get("resourceVersion"):
                raise Conflict(f"{key[0]} {key[1]} has changed", "fake")
            return self._store(key, copy.deepcopy(manifest))

    def mark(self, kind: str, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> None:
        with self._lock:
            found = self._there(kind, name)
            metadata = {"metadata": {"labels": dict(labels), "annotations": dict(annotations)}}
            self._store((kind, name), _merged(found, metadata))

    def scale(self, name: str, replicas: int) -> None:
        with self._lock:
            found = self._there("Deployment", name)
            self._store(("Deployment", name), _merged(found, {"spec": {"replicas": replicas}}))

    def delete(self, kind: str, name: str) -> None:
        with self._lock:
            gone = self._objects.pop((kind, name), None)
            self._applied.pop((kind, name), None)
            if gone is None:
                return
            uid = gone["metadata"]["uid"]
            for its, other in list(self._objects):
                found = self._objects.get((its, other))
                if found and any(one["uid"] == uid for one in found["metadata"].get("ownerReferences", [])):
                    self.delete(its, other)

    def events(self, name: str) -> list[Manifest]:
        return [event for event in self._events if event["involvedObject"]["name"] == name]

    def set_status(self, kind: str, name: str, status: Mapping[str, Any]) -> None:
        """What a kubelet does."""
        with self._lock:
            found = self._objects.get((kind, name))
            if found is not None:
                found["status"] = copy.deepcopy(dict(status))

    def _there(self, kind: str, name: str) -> Manifest:
        found = self._objects.get((kind, name))
        if found is None:
            raise Invalid(f'{kind} "{name}" not found', "fake")
        return copy.deepcopy(found)

    def _validate(self, manifest: Manifest) -> None:
        if not NAME.match(manifest["metadata"]["name"]):
            raise Invalid(f"the API server refuses: metadata.name: Invalid value: {manifest['metadata']['name']!r}")
        if API_VERSIONS[manifest["kind"]].split("/")[0] in ("keda.sh", "gateway.networking.k8s.io", "ray.io"):
            return
        try:
            kubernetes_validate.validate(manifest, "1.36", strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Invalid(f"the API server refuses: {error.message}", "fake") from error

    def _store(self, key: tuple[str, str], value: Manifest) -> Manifest:
        before = self._objects.get(key)
        metadata = value["metadata"]
        metadata["uid"] = before["metadata"]["uid"] if before else str(uuid.uuid4())
        metadata["creationTimestamp"] = before["metadata"]["creationTimestamp"] if before else "2026-01-01T00:00:00Z"
        generation = before["metadata"]["generation"] if before else 0
        changed = before is None or before.get("spec") != value.get("spec")
        if before and key[0] == "Deployment":  # a Deployment counts its annotations too
            changed |= before["metadata"].get("annotations") != metadata.get("annotations")
        metadata["generation"] = generation + int(changed)
        if key[0] == "Deployment":
            value["spec"].setdefault("replicas", 1)
        metadata["resourceVersion"] = before["metadata"]["resourceVersion"] if before else "0"
        if before != value:
            metadata["resourceVersion"] = str(next(self._count))
        self._objects[key] = value
        return copy.deepcopy(value)

    def _controllers(self) -> None:
        """Deployments make and end pods, and count those that are ready."""
        for (kind, name), one in list(self._objects.items()):
            if kind != "Deployment":
                continue
            wanted, uid = one["spec"]["replicas"], one["metadata"]["uid"]
            pods = [
                (other, pod)
                for (its, other), pod in self._objects.items()
                if its == "Pod" and pod["metadata"]["ownerReferences"][0]["uid"] == uid
            ]
            for other, pod in pods:
                if pod["spec"] != one["spec"]["template"]["spec"]:  # an older template
                    del self._objects["Pod", other]
            pods = [(other, pod) for other, pod in pods if ("Pod", other) in self._objects]
            for other, _ in pods[wanted:]:
                del self._objects["Pod", other]
            for _ in range(wanted - len(pods)):
                self._make_pod(name, one)
            live = [
                pod
                for (its, _), pod in self._objects.items()
                if its == "Pod" and pod["metadata"]["ownerReferences"][0]["uid"] == uid
            ]
            ready = sum(
                any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", []))
                for pod in live
            )
            one["status"] = {
                "observedGeneration": one["metadata"]["generation"],
                "replicas": len(live),
                "updatedReplicas": len(live),
                "readyReplicas": ready,
                "availableReplicas": ready,
            }

    def _make_pod(self, name: str, deployment: Manifest) -> None:
        template = copy.deepcopy(deployment["spec"]["template"])
        pod = f"{name}-{uuid.uuid4().hex[:5]}"
        owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": deployment["metadata"]["uid"]}
        metadata = template["metadata"] | {"name": pod, "uid": str(uuid.uuid4()), "ownerReferences": [owner]}
        why = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
        resources = template["spec"]["containers"][0].get("resources", {}).get("limits", {})
        if "nvidia.com/gpu" in resources:
            why = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
        status = {"phase": "Pending", "conditions": [scheduled]}
        self._objects["Pod", pod] = {"kind": "Pod", "metadata": metadata, "spec": template["spec"], "status": status}


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: _merged(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return copy.deepcopy(over)


def _dropped(value: Any, applied: Any, now: Any) -> Any:
    """The value without what was applied before and is not any more."""
    if not (isinstance(value, dict) and isinstance(applied, dict) and isinstance(now, dict)):
        return copy.deepcopy(value)
    gone = applied.keys() - now.keys()
    return {
        key: _dropped(item, applied.get(key), now.get(key)) if key in now else copy.deepcopy(item)
        for key, item in value.items()
        if key not in gone
    }
