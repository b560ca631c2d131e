"""The chart as tests see it: renders of values, the matrix of values, the pods in a render.

Renders are kept for the whole run of tests: whoever gets one must not change it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dags.pod import PodPolicy, step_pod
from pipeline.engine import Ray
from pipeline.graph import tasks
from pipeline.process import cores
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import load_spec
from serving import manifests
from serving.policy import ServingPolicy
from tests.support.cases import each
from training.on_ray.manifest import ray_job
from training.on_ray.policy import RayPolicy

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "slipway"
HELM = ROOT / ".tools" / "helm"
NAME, NAMESPACE = "slipway", "ml"
Manifest = dict[str, Any]
Values = dict[str, Any]
needs_helm = [pytest.mark.helm, pytest.mark.xdist_group("helm")]  # one worker: it renders each case once

EXTERNAL: Values = {"database": {"host": "db.example.com", "existingSecret": "db"}}
S3: Values = {
    "storage": {
        "persistentVolumeClaim": {"enabled": False},
        "s3": {"enabled": True, "bucket": "models", "existingSecret": "bucket", "endpointUrl": "http://minio:9000"},
    }
}
DIGEST = f"sha256:{'0123456789abcdef' * 4}"
POD: Values = {
    "podAnnotations": {"team/name": "platform"},
    "podLabels": {"cost": "ml"},
    "nodeSelector": {"pool": "ml"},
    "tolerations": [{"key": "ml", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}]}},
    "priorityClassName": "high",
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
}  # fmt: skip
SPREAD = {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}]}  # fmt: skip
INGRESS: Values = {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a.example.com/b": "c"}}
USERS: Values = {"admin": {"existingSecret": "m"}, "steps": {"existingSecret": "m-steps"}}
MATRIX: dict[str, Values] = {
    "default": EXTERNAL,
    "external": {**EXTERNAL, **S3},
    "trial": {"postgresql": {"enabled": True}},
    "claim": {**EXTERNAL, "storage": {"persistentVolumeClaim": {"existingClaim": "shared"}}},
    "no_airflow": {**EXTERNAL, "airflow": {"enabled": False, "externalUrl": "https://airflow.example.com"}},
    "no_mlflow": {
        **EXTERNAL,
        "mlflow": {"enabled": False, "externalUrl": "https://m.example.com", **USERS},
    },
    "plane_alone": {
        "airflow": {"enabled": False},
        "mlflow": {"enabled": False, "externalUrl": "http://m:5000", **USERS},
    },
    "no_plane": {**EXTERNAL, "airflow": {"enabled": False}, "serving": {"enabled": False}},
    "gpu": {
        **EXTERNAL,
        "images": {"stepsGpu": {"repository": "slipway-steps-cuda"}},
        "serving": {"triton": {"gpus": 2, "runtimeClassName": "nvidia", "extraArgs": ["--log-verbose=1"]}},
    },
    "ray": {**EXTERNAL, "ray": {"enabled": True}, "images": {"stepsGpu": {"repository": "slipway-steps-cuda"}}},
    "hpa": {**EXTERNAL, "serving": {"autoscaling": {"enabled": True}}},
    "keda": {
        **EXTERNAL,
        "serving": {
            "autoscaling": {
                "enabled": True,
                "keda": {
                    "enabled": True,
                    "prometheusAddress": "http://prometheus:9090",
                    "query": 'sum(nv_inference_pending_request_count{model="{model}"})',
                },
            }
        },
    },
    "gateway": {
        **EXTERNAL,
        "serving": {"gateway": {"enabled": True, "name": "public", "namespace": "edge", "domain": "ml.example.com"}},
    },
    "ingress": {
        **EXTERNAL,
        "airflow": {"ingress": {**INGRESS, "host": "airflow.example.com"}},
        "mlflow": {"ingress": {**INGRESS, "host": "mlflow.example.com"}},
    },
    "watched": {**EXTERNAL, "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
    "open": {**EXTERNAL, "networkPolicy": {"enabled": False}},
    "bare": {
        **EXTERNAL,
        "examples": {"enabled": False},
        "tests": {"enabled": False},
        "serving": {"podDisruptionBudget": {"enabled": False}},
    },
    "mirrored": {
        "postgresql": {"enabled": True},
        "global": {"imageRegistry": "registry.example.com/mirror", "imagePullSecrets": [{"name": "pull"}]},
        "images": {
            name: {"digest": DIGEST} for name in ("airflow", "steps", "stepsGpu", "mlflow", "triton", "postgresql")
        }
        | {"stepsGpu": {"repository": "slipway-steps-cuda", "digest": DIGEST}},
    },
    "by_name": {  # every secret is there already
        **EXTERNAL,
        "airflow": {"existingSecret": "airflow-keys", "admin": {"existingSecret": "airflow-admin"}},
        "mlflow": {
            "existingSecret": "mlflow-keys",
            "admin": {"existingSecret": "mlflow-admin"},
            "steps": {"existingSecret": "mlflow-steps"},
        },
        "signing": {"existingSecret": "signing-keys"},
    },
    "told": {  # a judge and a receiver of events, with their keys
        **EXTERNAL,
        "judge": {"url": "http://vllm:8000/v1", "model": "judge-7b", "existingSecret": "judge"},
        "openlineage": {"url": "https://marquez.example.com", "existingSecret": "marquez"},
        "serving": {"reconcile": {"fix": True}},
    },
    "sigstore": {
        **EXTERNAL,
        "signing": {
            "mode": "sigstore",
            "sigstore": {"identity": "slipway@example.com", "issuer": "https://accounts.example.com"},
        },
        "serving": {"reconcile": {"enabled": False}},
    },
    "extras": {
        "postgresql": {"enabled": True, **POD},
        "specs": {"inline": {"fraud.yaml": "version: 1\n"}, "existingConfigMap": "more-specs"},
        "suites": {"inline": {"fraud.json": "{}"}, "existingConfigMap": "more-suites"},
        "airflow": {
            "webserverConfig": "AUTH_TYPE = 1\n",
            "extraEnv": [{"name": "AIRFLOW__CORE__PARALLELISM", "value": "3"}],
            **{name: {**POD, **SPREAD} for name in ("apiServer", "scheduler", "dagProcessor", "triggerer")},
            "migration": POD,
        },
        "mlflow": {**POD, **SPREAD},
        "steps": POD,
        "serving": {"triton": {**POD, **SPREAD}, "collector": POD, "reconcile": POD},
    },
}


class Refused(Exception):
    """Helm did not render the values; the text is what it said."""


def helm(*arguments: str) -> str:
    """Run helm; its output."""
    if not HELM.is_file():
        raise FileNotFoundError(f"{HELM} is missing: run `make env`")
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def template_again(values: Values, *options: str) -> str:
    """Return what `helm template` prints now of `values`, laid over the chart's own."""
    return helm("template", NAME, str(CHART), "--namespace", NAMESPACE, "--set-json", json.dumps(values), *options)


def template(values: Values, *options: str) -> str:
    """Return what `helm template` prints of `values`, laid over the chart's own; helm runs once for the same values."""
    return _template(json.dumps(values), options)


@cache
def _template(values: str, options: tuple[str, ...]) -> str:
    return template_again(json.loads(values), *options)


def try_templates(every: Sequence[Values], *options: str) -> list[str | Refused]:
    """Return the output or the refusal of each of these values; helm runs on all cores."""

    def try_template(values: Values) -> str | Refused:
        try:
            return template(values, *options)
        except Refused as refused:
            return refused

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(try_template, every))


def parse(text: str) -> list[Manifest]:
    """Return the objects in what helm has printed."""
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def render_again(values: Values, *options: str) -> list[Manifest]:
    """Return the objects of a release with these values, rendered now."""
    return parse(template_again(values, *options))


def render(values: Values, *options: str) -> list[Manifest]:
    """Return the objects of a release with these values."""
    return list(_render(json.dumps(values), options))


@cache
def _render(values: str, options: tuple[str, ...]) -> list[Manifest]:
    return parse(_template(values, options))


def rendered(case: str) -> tuple[Manifest, ...]:
    """Return the objects of a case of the matrix."""
    return tuple(render(MATRIX[case]))


# A test of one case: it goes over the whole matrix, whose cases are rendered at once.
each_case = each({case: case for case in MATRIX}, lambda: try_templates(list(MATRIX.values())))


def find(objects: tuple[Manifest, ...] | list[Manifest], kind: str, name: str = "") -> list[Manifest]:
    """Objects of a kind; those named `name` when it is given."""
    return [one for one in objects if one["kind"] == kind and name in ("", one["metadata"]["name"])]


def policies(objects: tuple[Manifest, ...] | list[Manifest]) -> tuple[PodPolicy, ServingPolicy | None]:
    """The two policies of a release, as the code reads them."""
    (config,) = find(objects, "ConfigMap", "slipway-policy")
    data = {name: json.dumps(yaml.safe_load(text)) for name, text in config["data"].items()}
    serving = data.get("serving.yaml")
    return PodPolicy.model_validate_json(data["pods.yaml"]), ServingPolicy.model_validate_json(serving) if serving else None  # fmt: skip


def ray_policy(objects: tuple[Manifest, ...] | list[Manifest]) -> RayPolicy | None:
    """The policy of RayJobs, where the release allows them."""
    (config,) = find(objects, "ConfigMap", "slipway-policy")
    text = config["data"].get("ray.yaml")
    return RayPolicy.model_validate_json(json.dumps(yaml.safe_load(text))) if text else None


def spec(engine: Ray | None = None) -> PipelineSpec:
    """The example pipeline, whose second candidate asks for a GPU, and may ask for Ray."""
    found = load_spec(CHART / "files" / "breast_cancer.yaml")
    torch = found.candidates[-1].model_copy(update={"device": "cuda"} | ({"engine": engine} if engine else {}))
    return found.model_copy(update={"candidates": (*found.candidates[:-1], torch)})


def made(objects: tuple[Manifest, ...] | list[Manifest]) -> list[Manifest]:
    """What the release's policies make of a run: the pod of each step, and all objects of a version."""
    pods, serving = policies(objects)
    ray = ray_policy(objects)
    engine = Ray(kind="ray", workers=2, gpus_per_worker=1) if ray else None
    pipeline = spec(engine)
    names = tuple(candidate.name for candidate in pipeline.candidates)
    steps = [task for task in tasks(names) if serving is not None or task.step.role == "steps"]
    found = [step_pod(pods, task, pipeline, Path("/etc/slipway/specs/a.yaml"), "r1", {}) for task in steps]
    if ray is not None and engine is not None:
        owner = {"apiVersion": "v1", "kind": ray.owner.kind, "metadata": {"name": ray.owner.name, "uid": "1"}}
        run = Run("r1", pipeline.name, Settings(), Path("/etc/slipway/specs/a.yaml"), names[-1])
        found.append(ray_job(ray, owner, engine, run))
    if serving is not None:
        owner = {"kind": serving.owner.kind, "metadata": {"name": serving.owner.name, "uid": "1"}}
        version = manifests.Version("fraud_eu", 7, "0" * 64, "1" * 64)
        scaler = manifests.autoscaler(serving, owner, version)
        found += [
            manifests.deployment(serving, owner, version, manifests.CHALLENGER),
            manifests.canary(serving, owner, version, "v6"),
            manifests.service(serving, owner, version),
            manifests.model_service(serving, owner, version),
            *manifests.routes(serving, owner, "fraud_eu", {6: 90, 7: 10}),
            *([scaler] if scaler else []),
        ]
    return found


def everything(case: str) -> list[Manifest]:
    """The objects of a case, and what its policies make."""
    return list(_everything(case))


@cache
def _everything(case: str) -> list[Manifest]:
    return [*rendered(case), *made(rendered(case))]


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod or pod template, with metadata and spec, by the name of its owner."""
    for one in objects:
        name = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Pod":
            yield name, one
        elif one["kind"] in ("Deployment", "Job"):
            yield name, one["spec"]["template"]
        elif one["kind"] == "CronJob":
            yield name, one["spec"]["jobTemplate"]["spec"]["template"]
        elif one["kind"] == "RayJob":
            groups = one["spec"]["rayClusterSpec"]
            yield f"{name}/head", groups["headGroupSpec"]["template"]
            yield f"{name}/worker", groups["workerGroupSpecs"][0]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    """Its containers, those that go before included."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
