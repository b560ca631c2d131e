"""A task as a plain pod manifest: what the step needs, inside what the platform's policy allows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.digest import digest_bytes
from pipeline.engine import Resources
from pipeline.errors import Invalid
from pipeline.frozen import Frozen
from pipeline.graph import Task
from pipeline.spec import PipelineSpec

Manifest = dict[str, Any]
CONTAINER = "step"
PREFIX = "slipway.dev/"
USER = 10001  # of every image


class Identity(Frozen):
    """What the pods of one role have that those of the other have not: their account, their credentials, their keys."""

    serviceAccount: str  # noqa: N815 (Kubernetes' own names)
    env: tuple[Manifest, ...] = ()
    volumes: tuple[Manifest, ...] = ()
    volumeMounts: tuple[Manifest, ...] = ()  # noqa: N815


class Identities(Frozen):
    """One for each role of the graph, and one for steps that have a RayJob train."""

    steps: Identity
    promoter: Identity
    trainer: Identity | None = None


class GpuPool(Frozen):
    """Where training pods go whose spec asks for a GPU."""

    resource: str = "nvidia.com/gpu"
    nodeSelector: dict[str, str] = Field(default={})  # noqa: N815
    tolerations: tuple[Manifest, ...] = ()


class PodPolicy(Frozen):
    """The platform team's part of every step pod, in Kubernetes' own terms (`pods.yaml`, written by the chart)."""

    namespace: str
    image: str
    gpuImage: str = ""  # noqa: N815
    imagePullPolicy: str = "IfNotPresent"  # noqa: N815
    imagePullSecrets: tuple[Manifest, ...] = ()  # noqa: N815
    roles: Identities
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})
    nodeSelector: dict[str, str] = Field(default={})  # noqa: N815
    tolerations: tuple[Manifest, ...] = ()
    affinity: Manifest = Field(default={})
    priorityClassName: str = ""  # noqa: N815
    resources: dict[str, Manifest] = Field(default={}, description="by step; `default` for the others")
    gpu: GpuPool = GpuPool()
    env: tuple[Manifest, ...] = ()
    envFrom: tuple[Manifest, ...] = ()  # noqa: N815
    volumes: tuple[Manifest, ...] = ()
    volumeMounts: tuple[Manifest, ...] = ()  # noqa: N815
    startupTimeoutS: int = Field(default=600, ge=1)  # noqa: N815


def step_pod(
    policy: PodPolicy, task: Task, spec: PipelineSpec, spec_path: Path, run: str, params: dict[str, Any]
) -> Manifest:
    """The pod that runs `task` once; its labels say what it works on.

    Raises:
        Invalid: the task trains on Ray, and the platform does not allow that. A retry does not help.
    """
    wanted = spec.candidate(task.candidate).resources if task.candidate else Resources()
    gpus = _gpus(task, spec, wanted)
    command = ["python", "-m", task.step.module, "--spec", str(spec_path), "--run", run]
    command += ["--candidate", task.candidate] if task.candidate else []
    command += ["--params", json.dumps(params, sort_keys=True)]
    lineage = {
        "pipeline": spec.name,
        "run": run,
        "step": task.step.name,
        "candidate": task.candidate or "",
        "role": "trainer" if _on_ray(task, spec) else task.step.role,
        "spec": spec.digest[:16],
    }
    resources = policy.resources.get("default", {}) if _on_ray(task, spec) else _resources(policy, task, wanted, gpus)
    return _pod(policy, f"{spec.name}-{task.key}", command, lineage, resources, gpus=gpus)


def rollback_pod(policy: PodPolicy, model: str, run: str) -> Manifest:
    """The pod that takes a model back to the version before, as the promoter."""
    command = ["python", "-m", "serving.rollback", model, "--run", run]
    lineage = {"model": model, "run": run, "step": "rollback", "role": "promoter"}
    return _pod(policy, f"rollback-{model}", command, lineage, policy.resources.get("default", {}))


def _pod(
    policy: PodPolicy, name: str, command: list[str], lineage: dict[str, str], resources: Manifest, gpus: int = 0
) -> Manifest:
    """A pod that is restricted in the sense of Pod Security, with the policy's part filled in."""
    role = lineage["role"]
    identity: Identity | None = getattr(policy.roles, role)
    if identity is None:
        raise Invalid(
            "a candidate asks for Ray, which this platform does not allow",
            "candidates.engine",
            "have the chart's ray.enabled set, or leave engine out",
        )
    container = {
        "name": CONTAINER,
        "image": (policy.gpuImage or policy.image) if gpus else policy.image,
        "imagePullPolicy": policy.imagePullPolicy,
        "command": command,
        "env": [*policy.env, *identity.env],
        "envFrom": list(policy.envFrom),
        "volumeMounts": [*policy.volumeMounts, *identity.volumeMounts],
        "resources": resources,
        "terminationMessagePolicy": "FallbackToLogsOnError",  # Airflow shows the reason of a failure
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    body = {
        "restartPolicy": "Never",  # a retry is Airflow's, by exit code
        "serviceAccountName": identity.serviceAccount,
        "automountServiceAccountToken": role != "steps",
        "enableServiceLinks": False,
        "shareProcessNamespace": True,  # a step that were process 1 would not hear SIGTERM, and cost the whole grace
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "imagePullSecrets": list(policy.imagePullSecrets),
        "nodeSelector": {**policy.nodeSelector, **(policy.gpu.nodeSelector if gpus else {})},
        "tolerations": [*policy.tolerations, *(policy.gpu.tolerations if gpus else ())],
        "affinity": policy.affinity,
        "priorityClassName": policy.priorityClassName,
        "containers": [_full(container)],
        "volumes": [*policy.volumes, *identity.volumes],
    }
    labels = {
        **policy.labels,
        "app.kubernetes.io/component": "step",
        **{f"{PREFIX}{key}": _label(value) for key, value in lineage.items() if value},
    }
    metadata = {
        "name": re.sub(r"[^a-z0-9]+", "-", name)[:50].strip("-"),  # its end is made unique by Airflow
        "namespace": policy.namespace,
        "labels": labels,
        "annotations": {**policy.annotations, f"{PREFIX}run": lineage["run"]},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _full(metadata), "spec": _full(body)}


def _on_ray(task: Task, spec: PipelineSpec) -> bool:
    """Whether the task's own pod only waits for a RayJob."""
    return (
        task.step.name == "train" and task.candidate is not None and spec.candidate(task.candidate).engine.kind == "ray"
    )


def _gpus(task: Task, spec: PipelineSpec, wanted: Resources) -> int:
    """GPUs of the task's pod: training alone has any, and `device: cuda` means one at least."""
    if task.step.name != "train" or task.candidate is None or _on_ray(task, spec):
        return 0
    return max(wanted.gpus, int(spec.candidate(task.candidate).device == "cuda"))


def _resources(policy: PodPolicy, task: Task, wanted: Resources, gpus: int) -> Manifest:
    """The policy's resources for the step, with what a training spec asks for in their place."""
    base = policy.resources.get(task.step.name, policy.resources.get("default", {}))
    requests, limits = dict(base.get("requests", {})), dict(base.get("limits", {}))
    if task.step.name == "train":
        if wanted.cpu is not None:
            requests["cpu"] = limits["cpu"] = f"{wanted.cpu:g}"
        if wanted.memory_gib is not None:
            requests["memory"] = limits["memory"] = f"{round(wanted.memory_gib * 1024)}Mi"
    if gpus:
        requests[policy.gpu.resource] = limits[policy.gpu.resource] = str(gpus)
    return _full({"requests": requests, "limits": limits})


def _label(value: str) -> str:
    """A value that Kubernetes takes: at most 63 of letters, digits, `-_.`, a letter or digit at each end.

    One that had to be changed ends with its digest, so that different values have different labels.
    """
    legal = re.sub(r"[^A-Za-z0-9_.-]", "-", value)[:63].strip("-_.")
    return value if value == legal else f"{legal[:54].rstrip('-_.')}-{digest_bytes(value.encode())[:8]}".lstrip("-")


def _full(value: Manifest) -> Manifest:
    """The mapping without what is empty, which Kubernetes would fill in anyway."""
    return {key: item for key, item in value.items() if item not in ({}, [], "", None)}


def ending(pod: Manifest) -> tuple[int | None, str]:
    """How the step of this pod has ended, as far as the cluster says: its exit code, and a sentence on it.

    None, where the step did not end by itself: its pod was evicted, or never started.
    """
    status = pod.get("status") or {}
    said = [status.get("reason") or "", " ".join((status.get("message") or "").split())]
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        if container["name"] != CONTAINER:
            continue
        if (end := state.get("terminated")) is not None and not any(said):
            code, lines = int(end["exitCode"]), (end.get("message") or "").strip().splitlines()
            told = end.get("reason") if end.get("reason") not in (None, "Error", "Completed") else ""
            told = told or (f"ended by signal {code - 128}" if code > 128 else "")
            return code, ": ".join(filter(None, [told, lines[-1] if lines else ""]))
        if (waiting := state.get("waiting")) is not None:
            said += [waiting.get("reason") or "", waiting.get("message") or ""]
    if not any(said):
        unmet = [one for one in status.get("conditions") or () if one["type"] == "PodScheduled"]
        said = [text for one in unmet if one["status"] == "False" for text in (one.get("reason"), one.get("message"))]
    return None, ": ".join(text for text in said if text)
