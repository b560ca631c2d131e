"""What a release consists of, over the matrix of values; every object is one that Kubernetes takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache

import kubernetes_validate
import pytest
from kubernetes_validate import utils

from tests.helm.charts import EXTERNAL, MATRIX, each_case, everything, needs_helm, render, rendered, try_templates

pytestmark = needs_helm

MINORS = [utils.major_minor(version) for version in utils.all_versions()][-3:]
CUSTOM = {
    "RayJob",
    "ServiceMonitor",
    "ScaledObject",
    "HTTPRoute",
    "GRPCRoute",
}  # custom resources, of which no schema is at hand
COMPONENTS = ("api-server", "dag-processor", "scheduler", "triggerer")
AIRFLOW = {
    *(f"{kind}/slipway-{name}" for kind in ("Deployment", "PodDisruptionBudget") for name in COMPONENTS),
    "Job/slipway-migrate",
    "NetworkPolicy/slipway-airflow",
    "Pod/slipway-test",
    "Secret/slipway-airflow",
    "Secret/slipway-airflow-admin",
    "Service/slipway-api-server",
}
MLFLOW = {
    "ConfigMap/slipway-mlflow",
    "Deployment/slipway-mlflow",
    "NetworkPolicy/slipway-mlflow",
    "PodDisruptionBudget/slipway-mlflow",
    "Secret/slipway-mlflow",
    "Secret/slipway-mlflow-admin",
    "Secret/slipway-mlflow-steps",
    "Service/slipway-mlflow",
    "ServiceAccount/slipway-mlflow",
}
SERVING = {
    "CronJob/slipway-collector",
    "CronJob/slipway-reconcile",
    "NetworkPolicy/slipway-promoter",
    "NetworkPolicy/slipway-triton",
    "PodDisruptionBudget/slipway-triton",
    "Role/slipway-promoter",
    "RoleBinding/slipway-promoter",
    "Secret/slipway-signing",
    "ServiceAccount/slipway-promoter",
}
COMMON = {
    *(f"ConfigMap/slipway-{name}" for name in ("policy", "settings", "specs", "suites")),
    *(f"NetworkPolicy/slipway-{name}" for name in ("default-deny", "dns", "steps")),
    "PersistentVolumeClaim/slipway",
    *(f"{kind}/slipway-airflow" for kind in ("Role", "RoleBinding", "ServiceAccount")),
    "ServiceAccount/slipway-steps",
}
POSTGRESQL = {
    *(f"{kind}/slipway-postgresql" for kind in ("ConfigMap", "Deployment", "NetworkPolicy", "Service")),
    "Secret/slipway-database",
}
RAY = {
    *(f"NetworkPolicy/slipway-{name}" for name in ("ray", "trainer")),
    *(f"{kind}/slipway-trainer" for kind in ("Role", "RoleBinding", "ServiceAccount")),
}
DEFAULT = COMMON | AIRFLOW | MLFLOW | SERVING
NETWORK = {name for name in DEFAULT if name.startswith("NetworkPolicy/")}
INVENTORY = {
    "default": DEFAULT,
    "external": DEFAULT - {"PersistentVolumeClaim/slipway"},
    "trial": DEFAULT | POSTGRESQL,
    "claim": DEFAULT - {"PersistentVolumeClaim/slipway"},
    "no_airflow": DEFAULT - AIRFLOW,
    "no_mlflow": DEFAULT - MLFLOW,
    "plane_alone": COMMON | SERVING,
    "no_plane": COMMON | MLFLOW,
    "gpu": DEFAULT,
    "ray": DEFAULT | RAY,
    "hpa": DEFAULT,
    "keda": DEFAULT,
    "gateway": DEFAULT,
    "ingress": DEFAULT | {"Ingress/slipway-api-server", "Ingress/slipway-mlflow"},
    "watched": DEFAULT | {"Service/slipway-triton-metrics", "ServiceMonitor/slipway-triton"},
    "open": DEFAULT - NETWORK,
    "bare": DEFAULT - {"Pod/slipway-test", "PodDisruptionBudget/slipway-triton"},
    "mirrored": DEFAULT | POSTGRESQL,
    "by_name": {name for name in DEFAULT if not name.startswith("Secret/")},
    "told": DEFAULT,
    "sigstore": DEFAULT - {"CronJob/slipway-reconcile", "Secret/slipway-signing"},
    "extras": DEFAULT | POSTGRESQL | {"ConfigMap/slipway-webserver-config"},
}


def test_the_matrix_is_the_inventory() -> None:
    assert set(MATRIX) == set(INVENTORY)


@pytest.fixture(scope="module", autouse=True)
def _schemas_are_read_once() -> Iterator[None]:
    """The library reads its schemas, of some megabytes, for each object anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@each_case
def test_a_release_has_these_objects_and_no_others(case: str) -> None:
    found = [f"{one['kind']}/{one['metadata']['name']}" for one in rendered(case)]
    named = [re.sub("-[0-9a-f]{8}$", "", name) if name.startswith("Job/") else name for name in found]
    assert sorted(named) == sorted(INVENTORY[case])


@each_case
def test_kubernetes_takes_every_object(case: str) -> None:
    checked = [one for one in everything(case) if one["kind"] not in CUSTOM]
    assert [wrong for one in checked for minor in MINORS if (wrong := refusal(json.dumps(one), minor))] == []


@cache
def refusal(text: str, minor: str) -> str:
    """What Kubernetes of this minor version says against an object; many objects are in many cases."""
    one = json.loads(text)
    try:
        kubernetes_validate.validate(one, minor, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{minor}: {one['kind']}/{one['metadata']['name']}: {list(error.path)}: {error.message}"
    return ""


def test_the_validation_sees_a_mistake() -> None:
    (service,) = [one for one in render(EXTERNAL) if one["metadata"]["name"] == "slipway-api-server" and one["kind"] == "Service"]  # fmt: skip
    for minor in MINORS:
        assert "'port' was unexpected" in refusal(
            json.dumps({**service, "spec": {**service["spec"], "port": 1}}), minor
        )


@each_case
def test_names_are_unique_and_of_a_length_that_kubernetes_takes(case: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in everything(case)]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)


def test_a_long_name_of_the_release_is_shortened() -> None:
    objects = render({**EXTERNAL, "nameOverride": "n" * 30})
    names = [one["metadata"]["name"] for one in objects]
    assert all(name.startswith("slipway-nnnn") and len(name) <= 63 for name in names)


@each_case
def test_every_object_says_whose_it_is(case: str) -> None:
    for one in everything(case):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "slipway"
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component"} <= set(labels)


def test_a_job_is_never_changed() -> None:
    """Its pod cannot be changed, so that whatever changes the pod must change its name."""
    changes = (
        {"airflow": {"extraEnv": [{"name": "A", "value": "1"}]}},
        {"airflow": {"migration": {"nodeSelector": {"a": "b"}}}},
        {"database": {"host": "other.example.com"}},
        {"global": {"imagePullSecrets": [{"name": "pull"}]}},
        {"images": {"airflow": {"tag": "1.2.3"}}},
        {"mlflow": {"replicas": 2}},  # has no part in it
    )
    jobs = {}
    many = [
        {**EXTERNAL, **change, "database": {**EXTERNAL["database"], **change.get("database", {})}}
        for change in ({}, *changes)
    ]
    try_templates(many)  # at once
    for values in many:
        (job,) = [one for one in render(values) if one["kind"] == "Job"]
        jobs.setdefault(job["metadata"]["name"], []).append(job["spec"])
    assert len(jobs) == len(changes)
    assert all(spec == specs[0] for specs in jobs.values() for spec in specs)
