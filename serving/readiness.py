"""Why a Deployment's pods are not ready, in sentences; and waiting until they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from pipeline.cluster import Cluster, Manifest
from pipeline.errors import Invalid, Problem, Unavailable
from serving.manifests import TRAFFIC, VERSION

HOPELESS = ("InvalidImageName", "CreateContainerConfigError", "ErrImageNeverPull")
BEGINNING = ("PodInitializing", "ContainerCreating")
POLL_S = 1.0
DRAINED_S = 120.0  # a pod takes its grace to end; who asks the model then, sees whether it has


def await_ready(cluster: Cluster, name: str, replicas: int, timeout_s: float, poll_s: float = POLL_S) -> list[Manifest]:
    """The Deployment's pods, once `replicas` of them are ready and none of an older template is left.

    Raises:
        Invalid: it cannot become ready: the package is refused, the image's name is wrong. A retry does not help.
        Unavailable: it is not ready in time; says of each pod why (image, node, crash, probe). A retry may help.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        deployment = cluster.get("Deployment", name)
        if deployment is None:
            raise Unavailable(f"Deployment {name} was deleted by another hand", "cluster", "run again")
        pods = pods_of(cluster, deployment)
        if _is_ready(deployment, replicas):
            return [pod for pod in pods if is_ready(pod)]
        if refusals := [problem for pod in pods for problem in _refusals(pod)]:
            raise Invalid(refusals)
        if time.monotonic() > deadline:
            problems = [problem for pod in pods for problem in _problems(cluster, pod)]
            problems = problems or _conditions(deployment)
            what = f"{name} has {_count(deployment)} of {replicas} pods ready after {timeout_s:g} s"
            raise Unavailable([Problem(what, "cluster", "see why below; what serves was not touched"), *problems])
        time.sleep(poll_s)


def await_no_canary(cluster: Cluster, labels: Mapping[str, str], poll_s: float = POLL_S) -> None:
    """Return once no pod of a version has the traffic of another one: one that drains still answers for a while."""
    deadline = time.monotonic() + DRAINED_S
    while time.monotonic() < deadline:
        found = [pod["metadata"]["labels"] for pod in cluster.select("Pod", labels)]
        if all(own.get(TRAFFIC) == f"v{own.get(VERSION)}" for own in found):
            return
        time.sleep(poll_s)


def pods_of(cluster: Cluster, deployment: Manifest) -> list[Manifest]:
    """The pods of a Deployment that are not about to end."""
    pods = cluster.select("Pod", deployment["spec"]["selector"]["matchLabels"])
    return [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]


def is_ready(pod: Manifest) -> bool:
    """Whether the pod's own condition says so."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _is_ready(deployment: Manifest, replicas: int) -> bool:
    status = deployment.get("status", {})
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0)
    updated = min(status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    return bool(seen and updated >= replicas and status.get("replicas", 0) == updated)


def _count(deployment: Manifest) -> int:
    return int(deployment.get("status", {}).get("readyReplicas", 0))


def _refusals(pod: Manifest) -> Iterator[Problem]:
    """What no waiting mends."""
    name = f"pod {pod['metadata']['name']}"
    for status in _statuses(pod):
        state = status.get("state", {})
        waiting = state.get("waiting") or {}
        # how its last try ended: one that runs again now, or has ended well since, may have found the store mended
        ended = state.get("terminated") or (waiting and status.get("lastState", {}).get("terminated")) or {}
        if status["name"] == "fetch" and ended.get("exitCode") == Invalid.exit_code:
            yield Problem((ended.get("message") or "the package is refused").strip()[-500:], name)
        if waiting.get("reason") in HOPELESS:
            yield Problem(f"{waiting['reason']}: {waiting.get('message', '')}", f"{name}, {status['name']}")


def _problems(cluster: Cluster, pod: Manifest) -> Iterator[Problem]:
    """Why this pod is not ready."""
    if is_ready(pod):
        return
    name = f"pod {pod['metadata']['name']}"
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            what = f"no node takes it: {condition.get('message', condition.get('reason'))}"
            yield Problem(what, name, "free a node or GPU, or change the pod template in the chart's values")
            return
    for status in _statuses(pod):
        place = f"{name}, container {status['name']}"
        waiting = status.get("state", {}).get("waiting") or {}
        if waiting and waiting.get("reason") not in BEGINNING:
            yield Problem(f"{waiting.get('reason')}: {waiting.get('message', '')}"[:500], place, "see its log")
        if last := status.get("lastState", {}).get("terminated"):
            said = (last.get("message") or "").strip()[-300:]
            yield Problem(f"it ended with {last.get('exitCode')} ({last.get('reason')}): {said}", place, "see its log")
    warnings = [event for event in cluster.events(pod["metadata"]["name"]) if event.get("type") == "Warning"]
    for event in {event.get("message", ""): event for event in warnings[-3:]}.values():
        yield Problem(f"{event.get('reason')}: {event.get('message', '')}"[:500], name)


def _statuses(pod: Manifest) -> list[Manifest]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _conditions(deployment: Manifest) -> list[Problem]:
    """What the Deployment itself says: a quota, a refusal by an admission controller."""
    return [
        Problem(f"{one.get('reason')}: {one.get('message', '')}", f"Deployment {deployment['metadata']['name']}")
        for one in deployment.get("status", {}).get("conditions", [])
        if (one["type"], one["status"]) in (("ReplicaFailure", "True"), ("Available", "False"))
    ]
