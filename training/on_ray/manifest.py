"""The RayJob (KubeRay) in which a candidate is fitted: the policy's pods, as many as the spec has workers."""

from __future__ import annotations

import copy
import re
import shlex
from importlib.metadata import version
from typing import Any

from pipeline.digest import digest_json
from pipeline.engine import Ray
from pipeline.run import Run
from training.on_ray.cluster import SPARE
from training.on_ray.policy import RayPolicy

Manifest = dict[str, Any]
PREFIX = "slipway.dev/"
NAME_LENGTH = 47  # KubeRay's limit for the name of a RayJob


def ray_job(policy: RayPolicy, owner: Manifest, engine: Ray, run: Run) -> Manifest:
    """The RayJob that runs the step train of this run and candidate inside a cluster of its own.

    It is submitted by KubeRay over HTTP: there is no further pod or container that would have to be restricted, and
    KubeRay must reach the head's dashboard in every mode.
    """
    step = ["python", "-m", "training.train", "--spec", str(run.spec_path), "--run", run.id]
    step += ["--candidate", str(run.candidate)]
    lineage = {"pipeline": run.pipeline, "candidate": str(run.candidate)}
    labels = {"app.kubernetes.io/component": "ray", **{f"{PREFIX}{key}": value for key, value in lineage.items()}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {
            "name": job_name(run),
            "namespace": policy.namespace,
            "labels": policy.template.get("metadata", {}).get("labels", {}) | labels,
            "annotations": {f"{PREFIX}run": run.id},
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                }
            ],
        },
        "spec": {
            "entrypoint": shlex.join(step),
            "submissionMode": "HTTPMode",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": policy.keepS,
            "preRunningDeadlineSeconds": policy.startupTimeoutS,
            "activeDeadlineSeconds": policy.deadlineS,
            "backoffLimit": 0,  # a retry is Airflow's, by exit code, and goes on from the last checkpoint
            "rayClusterSpec": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 (in its pod)
                    "template": _pod(policy, labels, policy.head),
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "workers",
                        "replicas": engine.workers,
                        "minReplicas": engine.workers,
                        "maxReplicas": engine.workers,
                        "rayStartParams": {"num-cpus": str(engine.cpus_per_worker + SPARE)},
                        "template": _pod(policy, labels, _resources(policy, engine), engine.gpus_per_worker),
                    }
                ],
            },
        },
    }


def job_name(run: Run) -> str:
    """The same for every attempt at a run's candidate, and no other's."""
    digest = digest_json([run.pipeline, run.id, str(run.candidate)])[:8]
    start = re.sub(r"[^a-z0-9]+", "-", f"{run.pipeline}-{run.candidate}".lower()).strip("-")
    return f"{start[: NAME_LENGTH - 9].rstrip('-')}-{digest}"


def _pod(policy: RayPolicy, labels: dict[str, str], resources: Manifest, gpus: int = 0) -> Manifest:
    template = copy.deepcopy(policy.template)
    template.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
    body, container = template["spec"], template["spec"]["containers"][0]
    container["resources"] = resources
    container["env"] = [*container.get("env", []), {"name": "SLIPWAY_RAY_ADDRESS", "value": "auto"}]
    if gpus:
        container["image"] = policy.gpuImage or container["image"]
        body["nodeSelector"] = {**body.get("nodeSelector", {}), **policy.gpu.nodeSelector}
        body["tolerations"] = [*body.get("tolerations", []), *policy.gpu.tolerations]
    return template


def _resources(policy: RayPolicy, engine: Ray) -> Manifest:
    requests, limits = dict(policy.worker.get("requests", {})), dict(policy.worker.get("limits", {}))
    requests["cpu"] = limits["cpu"] = str(engine.cpus_per_worker)
    if engine.memory_gib_per_worker is not None:
        requests["memory"] = limits["memory"] = f"{round(engine.memory_gib_per_worker * 1024)}Mi"
    if engine.gpus_per_worker:
        requests[policy.gpu.resource] = limits[policy.gpu.resource] = str(engine.gpus_per_worker)
    return {"requests": requests, "limits": limits}
