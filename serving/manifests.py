"""What a served version is in the cluster, as plain manifests. Pure: policy and version in, objects out."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from serving.package import package_key
from serving.policy import TRITON, ServingPolicy

Manifest = dict[str, Any]
PREFIX = "slipway.dev/"
MODEL, VERSION, TRAFFIC, STATE = (f"{PREFIX}{name}" for name in ("model", "version", "traffic", "state"))
KEPT_UNTIL, DIGEST = f"{PREFIX}kept-until", f"{PREFIX}package"
CHALLENGER, CHAMPION, PREVIOUS, CANARY = "challenger", "champion", "previous", "canary"
HTTP, GRPC, METRICS = 8000, 8001, 8002
CONNECTION_AGE_S = 30  # a gRPC client that never closes finds the new version this long after the switch
MODELS = "models"  # the volume that holds the version
LONGEST = 63  # of a Service's name
AMBIGUOUS = re.compile(r"(-v\d+|-canary|-)$")


@dataclass(frozen=True)
class Version:
    """A packaged version: `digest` is the package's, `onnx_digest` the graph's."""

    name: str
    number: int
    digest: str
    onnx_digest: str

    @property
    def traffic(self) -> str:
        """The label by which a Service chooses its pods."""
        return f"v{self.number}"


def model_name(policy: ServingPolicy, model: str) -> str:
    """The name of a model's Service, which is neither another model's nor a version's nor one of the chart's own.

    A name that is too long, or that ends as the name of a version does, carries a digest of the model's.
    """
    name = f"{policy.release}-model-{model.replace('_', '-')}"
    limit = LONGEST - len("-v123456-canary")
    if len(name) <= limit and not AMBIGUOUS.search(name):
        return name
    return f"{name[: limit - 9].rstrip('-')}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def version_name(policy: ServingPolicy, model: str, number: int) -> str:
    """The name of a version's Deployment and Service."""
    return f"{model_name(policy, model)}-v{number}"


def deployment(policy: ServingPolicy, owner: Manifest, version: Version, state: str) -> Manifest:
    """The version as a Deployment, without replicas: those belong to the scale subresource, and to an autoscaler."""
    name = version_name(policy, version.name, version.number)
    return _deployment(policy, owner, version, name, version.traffic, state)


def canary(policy: ServingPolicy, owner: Manifest, version: Version, joins: str) -> Manifest:
    """Pods of the version that carry the traffic label `joins`, and so share the Service of the champion."""
    name = f"{version_name(policy, version.name, version.number)}-canary"
    return _deployment(policy, owner, version, name, joins, CANARY)


def service(policy: ServingPolicy, owner: Manifest, version: Version) -> Manifest:
    """The address of one version, whether or not it has the model's traffic."""
    name = version_name(policy, version.name, version.number)
    return _service(policy, owner, name, version, {VERSION: str(version.number)})


def model_service(policy: ServingPolicy, owner: Manifest, version: Version) -> Manifest:
    """The address of the model: the selector is the switch."""
    return _service(policy, owner, model_name(policy, version.name), version, {})


def autoscaler(policy: ServingPolicy, owner: Manifest, version: Version) -> Manifest | None:
    """The policy's autoscaler on the version, with the model's name for `{model}`; None when the policy has none."""
    if policy.autoscaler is None:
        return None
    spec = json.loads(json.dumps(policy.autoscaler.spec).replace("{model}", version.name))  # a name needs no quoting
    target = {"apiVersion": "apps/v1", "kind": "Deployment"}
    spec["scaleTargetRef"] = target | {"name": version_name(policy, version.name, version.number)}
    return {
        "apiVersion": policy.autoscaler.apiVersion,
        "kind": policy.autoscaler.kind,
        "metadata": _metadata(policy, owner, model_name(policy, version.name), {MODEL: version.name}),
        "spec": spec,
    }


def routes(policy: ServingPolicy, owner: Manifest, model: str, weights: dict[int, int]) -> list[Manifest]:
    """HTTPRoute and GRPCRoute of a model behind the policy's Gateway; `weights` by version number. None without one."""
    gateway = policy.gateway
    if gateway is None:
        return []
    parent = {"name": gateway.name, "namespace": gateway.namespace}
    if gateway.sectionName:
        parent["sectionName"] = gateway.sectionName
    found = []
    for kind, port in (("HTTPRoute", HTTP), ("GRPCRoute", GRPC)):
        backends = [
            {"name": version_name(policy, model, number), "port": port, "weight": weight}
            for number, weight in sorted(weights.items())
        ]
        host = f"{model.replace('_', '-')}.{gateway.domain}"
        found.append(
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": kind,
                "metadata": _metadata(policy, owner, model_name(policy, model), {MODEL: model}),
                "spec": {"parentRefs": [parent], "hostnames": [host], "rules": [{"backendRefs": backends}]},
            }
        )
    return found


def model_lease(policy: ServingPolicy, owner: Manifest, model: str) -> Manifest:
    """What is held while a model's traffic is changed."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": _metadata(policy, owner, model_name(policy, model), {MODEL: model}),
    }


def labels(policy: ServingPolicy) -> dict[str, str]:
    """What every object of a rollout carries, and the chart's own objects select on."""
    return {
        "app.kubernetes.io/name": "slipway",
        "app.kubernetes.io/instance": policy.release,
        "app.kubernetes.io/component": "triton",
        "app.kubernetes.io/managed-by": "slipway",
    }


def _metadata(policy: ServingPolicy, owner: Manifest, name: str, own: dict[str, str]) -> Manifest:
    reference = {"apiVersion": "v1", "kind": owner["kind"], "name": owner["metadata"]["name"]}
    return {
        "name": name,
        "namespace": policy.namespace,
        "labels": labels(policy) | own,
        "ownerReferences": [reference | {"uid": owner["metadata"]["uid"]}],
    }


def _service(policy: ServingPolicy, owner: Manifest, name: str, version: Version, also: dict[str, str]) -> Manifest:
    ports = [("http", HTTP), ("grpc", GRPC), ("metrics", METRICS)]
    selector = {MODEL: version.name, TRAFFIC: version.traffic, "app.kubernetes.io/instance": policy.release}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(policy, owner, name, {MODEL: version.name}),
        "spec": {
            "type": "ClusterIP",
            "selector": selector | also,
            "ports": [{"name": key, "port": port, "targetPort": port, "protocol": "TCP"} for key, port in ports],
        },
    }


def _deployment(
    policy: ServingPolicy, owner: Manifest, version: Version, name: str, traffic: str, state: str
) -> Manifest:
    own = {MODEL: version.name, VERSION: str(version.number), TRAFFIC: traffic}
    metadata = _metadata(policy, owner, name, {MODEL: version.name, VERSION: str(version.number), STATE: state})
    metadata["annotations"] = {DIGEST: version.digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": own | {"app.kubernetes.io/instance": policy.release}},
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": policy.readyTimeoutS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": _pod(policy, version, own),
        },
    }


def _pod(policy: ServingPolicy, version: Version, own: dict[str, str]) -> Manifest:
    """The platform's template with what makes it this version: labels, the package, Triton's arguments."""
    template = copy.deepcopy(policy.template)
    metadata = template.setdefault("metadata", {})
    metadata["labels"] = metadata.get("labels", {}) | labels(policy) | own
    metadata["annotations"] = metadata.get("annotations", {}) | {DIGEST: version.digest}
    spec = template["spec"]
    triton = next(container for container in spec["containers"] if container["name"] == TRITON)
    triton["command"] = ["tritonserver"]
    triton["args"] = [
        f"--model-repository=/{MODELS}",
        "--model-control-mode=none",  # nothing can be loaded into it but what the init container has verified
        "--strict-readiness=true",
        f"--grpc-max-connection-age={CONNECTION_AGE_S * 1000}",
        *triton.get("args", []),
    ]
    triton["volumeMounts"] = [
        {"name": MODELS, "mountPath": f"/{MODELS}", "readOnly": True},
        *triton.get("volumeMounts", []),
    ]
    spec["volumes"] = [{"name": MODELS, "emptyDir": {}}, *spec.get("volumes", [])]
    spec["initContainers"] = [*spec.get("initContainers", []), _fetch(policy, version)]
    spec["automountServiceAccountToken"] = False
    return template


def _fetch(policy: ServingPolicy, version: Version) -> Manifest:
    fetch = policy.fetch
    key = package_key(version.name, version.number, version.digest)
    container: Manifest = {
        "name": "fetch",
        "image": fetch.image,
        "imagePullPolicy": fetch.imagePullPolicy,
        "command": ["python", "-m", "serving.fetch"],
        "args": ["--key", key, "--digest", version.digest, "--name", version.name, "--to", f"/{MODELS}"],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": MODELS, "mountPath": f"/{MODELS}"}, *fetch.volumeMounts],
    }
    optional = {"resources": fetch.resources, "env": list(fetch.env), "envFrom": list(fetch.envFrom)}
    return container | {key: value for key, value in optional.items() if value}
