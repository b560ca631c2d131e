"""Properties of every pod of a release: those of the chart, and those that its policies make of a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.settings import Settings
from tests.helm.charts import (
    DIGEST,
    EXTERNAL,
    MATRIX,
    POD,
    Manifest,
    containers,
    each_case,
    everything,
    find,
    made,
    needs_helm,
    pods,
    render,
    rendered,
)

ALLOWED_VOLUMES = {"configMap", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
TOKENS = {  # who speaks to the cluster's API
    "Deployment/slipway-scheduler",
    "Deployment/slipway-triggerer",
    "CronJob/slipway-collector",
    "CronJob/slipway-reconcile",
    "Pod/breast-cancer-register",
    "Pod/breast-cancer-tune",
    "Pod/breast-cancer-package",
    "Pod/breast-cancer-rollout",
    "Pod/breast-cancer-gate",
    "Pod/breast-cancer-promote",
}
TRAINER = "Pod/breast-cancer-train-torch"  # with `ray.enabled`
pytestmark = needs_helm


@each_case
def test_pods_are_restricted(case: str) -> None:
    """Pod Security's level `restricted`, and a read-only root beside it."""
    for name, pod in pods(everything(case)):
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= ALLOWED_VOLUMES, name
        security = spec["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", [])), name


@each_case
def test_containers_ask_for_what_they_need_and_have_a_limit(case: str) -> None:
    for name, pod in pods(everything(case)):
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), name
            assert "memory" in resources["limits"], name


@each_case
def test_servers_have_probes(case: str) -> None:
    objects = everything(case)
    behind = [one["spec"]["selector"] for one in find(objects, "Service")]
    for name, pod in pods(objects):
        if name.startswith("Deployment/"):
            for container in pod["spec"]["containers"]:
                assert "livenessProbe" in container, name
                if any(selects(selector, pod) for selector in behind):
                    assert "readinessProbe" in container, name
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    port = container.get(probe, {}).get("httpGet", {}).get("port")
                    assert port in (None, *(port["name"] for port in container.get("ports", []))), name


@each_case
def test_accounts_are_the_releases_own_and_tokens_only_where_the_api_is_asked(case: str) -> None:
    objects = everything(case)
    accounts = {one["metadata"]["name"] for one in find(objects, "ServiceAccount")}
    bound = {subject["name"] for one in find(objects, "RoleBinding") for subject in one["subjects"]}
    found = set()
    for name, pod in pods(objects):
        account = pod["spec"]["serviceAccountName"]
        assert account != "default", name
        if pod["spec"].get("automountServiceAccountToken", True):
            found.add(name)
            assert account in bound, name
        assert account in accounts, name
    assert found <= (TOKENS | {TRAINER} if case == "ray" else TOKENS)
    assert (TRAINER in found) is (case == "ray")
    if case == "default":
        assert found == TOKENS
    assert all(one["automountServiceAccountToken"] is False for one in find(objects, "ServiceAccount"))


@each_case
def test_no_right_reaches_beyond_the_namespace_or_to_secrets(case: str) -> None:
    objects = everything(case)
    assert not {"ClusterRole", "ClusterRoleBinding"} & {one["kind"] for one in objects}
    for role in find(objects, "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"secrets", "roles", "rolebindings", "pods/exec", "serviceaccounts/token"} & set(
                rule["resources"]
            )
    for binding in find(objects, "RoleBinding"):
        assert find(objects, "Role", binding["roleRef"]["name"])
        assert all(find(objects, "ServiceAccount", subject["name"]) for subject in binding["subjects"])


def test_who_makes_rayjobs_does_not_train_and_what_trains_asks_nobody() -> None:
    objects = everything("ray")
    (role,) = find(objects, "Role", "slipway-trainer")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create", "delete"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["slipway-policy"], "verbs": ["get"]},
    ]
    there = dict(pods(objects))
    accounts = {name: pod["spec"]["serviceAccountName"] for name, pod in there.items()}
    assert [name for name, account in accounts.items() if account == "slipway-trainer"] == [TRAINER]
    inside = {name: pod for name, pod in there.items() if name.startswith("RayJob/")}
    assert {name.rsplit("/", 1)[1] for name in inside} == {"head", "worker"}
    for name, pod in inside.items():
        assert (accounts[name], pod["spec"]["automountServiceAccountToken"]) == ("slipway-steps", False), name
        (container,) = containers(pod)
        assert container["image"].startswith("slipway-steps-cuda:") is name.endswith("/worker"), name
        assert {"name": "SLIPWAY_RAY_ADDRESS", "value": "auto"} in container["env"], name
    assert not any(find(objects, "RoleBinding", name) for name in ("slipway-steps", "slipway-mlflow"))
    assert not find(everything("default"), "ServiceAccount", "slipway-trainer")


@each_case
def test_what_a_pod_refers_to_is_there(case: str) -> None:
    """Objects of the release, or names that the values gave; keys of Secrets too."""
    objects, given = everything(case), set(_strings(MATRIX[case]))
    for name, pod in pods(objects):
        for kind, referred, key in _references(pod["spec"]):
            if referred in given:
                continue
            there = find(objects, kind, referred)
            assert there, f"{name}: {kind}/{referred}"
            assert key is None or key in there[0]["data"], f"{name}: {kind}/{referred} has no {key}"


@each_case
def test_mounts_have_their_volume_and_names_are_unique(case: str) -> None:
    for name, pod in pods(everything(case)):
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert sorted(mounted) == sorted(volumes), name
        for container in containers(pod):
            assert len({one["name"] for one in container.get("env", [])}) == len(container.get("env", [])), name
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(paths)) == len(paths), name
            assert "/tmp" in paths, f"{name}: nowhere to write"  # the root is read-only


@each_case
def test_images_come_from_the_values(case: str) -> None:
    images = {container["image"] for _, pod in pods(everything(case)) for container in containers(pod)}
    registry = "registry.example.com/mirror/" if case == "mirrored" else ""
    for image in images:
        assert image.startswith((f"{registry}slipway-", f"{registry}postgres")), image
        assert image.endswith(f"@{DIGEST}" if registry else (":0.1.0", ":17")), image


@each_case
def test_the_signing_key_is_the_promoters_steps_alone(case: str) -> None:
    """And that by which is verified is where it is needed: there, in a version's init container, in the comparison."""
    signing = "signing-keys" if case == "by_name" else "slipway-signing"
    found: dict[str, set[str]] = {}
    for name, pod in pods(everything(case)):
        (keys,) = [one["secret"] for one in pod["spec"]["volumes"] if "secret" in one] or [{"items": []}]
        assert keys.get("secretName", signing) == signing, name
        for container in containers(pod):
            if any(mount["name"] == "keys" for mount in container["volumeMounts"]):
                found[f"{name}/{container['name']}"] = {item["key"] for item in keys["items"]}
                assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] == "keys"), name
        role = pod["metadata"]["labels"].get("slipway.dev/role")
        assert ("signing.pem" in json.dumps(pod["spec"]["volumes"])) is (
            role == "promoter" and name.startswith("Pod/") and case != "sigstore"
        ), name
    steps = ("register", "tune", "package", "rollout", "gate", "promote")
    ours = {f"Pod/breast-cancer-{step}/step": {"signing.pem", "verify.pem"} for step in steps}
    ours["CronJob/slipway-reconcile/reconcile"] = {"verify.pem"}
    versions = ("Deployment/slipway-model-fraud-eu-v7", "Deployment/slipway-model-fraud-eu-v7-canary")
    ours |= {f"{name}/fetch": {"verify.pem"} for name in versions}
    assert found == ({} if case in ("sigstore", "no_plane") else ours)


@each_case
def test_who_trains_is_another_user_of_mlflow_than_who_promotes(case: str) -> None:
    admin, steps = {
        "by_name": ("mlflow-admin", "mlflow-steps"),
        "no_mlflow": ("m", "m-steps"),
        "plane_alone": ("m", "m-steps"),
    }.get(case, ("slipway-mlflow-admin", "slipway-mlflow-steps"))
    for name, pod in pods(everything(case)):
        role = pod["metadata"]["labels"].get("slipway.dev/role")
        secrets = {referred for kind, referred, _ in _references(pod["spec"]) if kind == "Secret"}
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] == "mlflow":
            assert secrets >= {admin, steps}, name
            continue
        assert (admin in secrets) is (role == "promoter" and name != "CronJob/slipway-collector"), name
        assert (steps in secrets) is (role in ("steps", "trainer", "test")), name


def test_keys_of_judge_and_lineage_go_to_who_asks_there() -> None:
    for name, pod in pods(everything("told")):
        role, secrets = pod["metadata"]["labels"].get("slipway.dev/role"), {one[1] for one in _references(pod["spec"])}
        asks = role in ("steps", "promoter", "test") and name != "CronJob/slipway-collector"
        assert ("marquez" in secrets) is asks, name
        assert ("judge" in secrets) is (asks and role == "promoter"), name
    (settings,) = find(rendered("told"), "ConfigMap", "slipway-settings")
    assert settings["data"]["SLIPWAY_JUDGE_URL"] == "http://vllm:8000/v1"
    assert settings["data"]["SLIPWAY_JUDGE_MODEL"] == "judge-7b"
    assert settings["data"]["SLIPWAY_OPENLINEAGE_URL"] == "https://marquez.example.com"
    assert "SLIPWAY_JUDGE_URL" not in find(rendered("default"), "ConfigMap", "slipway-settings")[0]["data"]


def test_the_comparison_puts_back_only_where_the_values_say_so() -> None:
    for case, arguments in (("default", None), ("told", ["--fix"])):
        (job,) = find(rendered(case), "CronJob", "slipway-reconcile")
        (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["python", "-m", "serving.reconcile"]
        assert container.get("args") == arguments


def test_settings_of_the_chart_are_settings_of_the_code() -> None:
    for case in ("default", "told", "sigstore"):
        (config,) = find(rendered(case), "ConfigMap", "slipway-settings")
        known = {f"SLIPWAY_{name.upper()}" for name in Settings.model_fields}
        assert set(config["data"]) <= known


def test_training_on_a_gpu_has_the_image_the_taint_and_the_resource() -> None:
    (train,) = [one for one in made(rendered("gpu")) if one["metadata"]["name"] == "breast-cancer-train-torch"]
    (container,) = train["spec"]["containers"]
    assert container["image"] == "slipway-steps-cuda:0.1.0"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in train["spec"]["tolerations"]


def test_triton_on_gpus() -> None:
    spec = _triton("gpu")["spec"]
    (triton,) = spec["containers"]
    assert triton["resources"]["requests"]["nvidia.com/gpu"] == triton["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert triton["resources"]["requests"]["memory"] == "256Mi"
    assert spec["runtimeClassName"] == "nvidia"
    assert "--log-verbose=1" in triton["args"]
    assert "--model-control-mode=none" in triton["args"]


def test_a_version_may_take_as_long_to_start_as_the_values_say() -> None:
    values = {**EXTERNAL, "serving": {"readyTimeoutSeconds": 1201}}
    (version,) = find(made(render(values)), "Deployment", "slipway-model-fraud-eu-v7")
    probe = version["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= version["spec"]["progressDeadlineSeconds"] == 1201


@pytest.mark.parametrize(("probe", "kind"), [("inference", "exec"), ("http", "httpGet")])
def test_an_image_of_another_hand_is_not_asked_by_a_program_that_it_lacks(probe: str, kind: str) -> None:
    values = {**EXTERNAL, "serving": {"triton": {"probe": probe}}}
    (version,) = find(made(render(values)), "Deployment", "slipway-model-fraud-eu-v7")
    (triton,) = version["spec"]["template"]["spec"]["containers"]
    assert "httpGet" in triton["startupProbe"], "what is being loaded is not asked"
    assert kind in triton["livenessProbe"]
    assert kind in triton["readinessProbe"]


def test_what_may_be_set_of_a_pod_reaches_every_pod() -> None:
    objects = everything("extras")
    for name, pod in pods(objects):
        spec, metadata = pod["spec"], pod["metadata"]
        assert metadata["annotations"]["team/name"] == "platform", name
        assert metadata["labels"]["cost"] == "ml", name
        assert spec["nodeSelector"] == POD["nodeSelector"], name
        assert POD["tolerations"][0] in spec["tolerations"], name
        assert spec["affinity"] == POD["affinity"], name
        assert spec["priorityClassName"] == "high", name
        assert POD["extraVolumes"][0] in spec["volumes"], name
        for container in containers(pod):
            if container["name"] != "fetch":
                assert POD["extraEnv"][0] in container["env"], name
                assert POD["extraVolumeMounts"][0] in container["volumeMounts"], name
        if name.startswith("Deployment/") and not name.endswith("postgresql"):
            assert len(spec["topologySpreadConstraints"]) == 1, name


def test_a_variable_that_is_given_replaces_the_charts() -> None:
    for name, pod in pods(list(rendered("extras"))):
        for container in containers(pod):
            if container["image"].startswith("slipway-airflow"):
                found = [one for one in container["env"] if one["name"] == "AIRFLOW__CORE__PARALLELISM"]
                assert found == [{"name": "AIRFLOW__CORE__PARALLELISM", "value": "3"}], name


def test_labels_of_the_chart_cannot_be_replaced() -> None:
    values = {**EXTERNAL, "mlflow": {"podLabels": {"app.kubernetes.io/component": "other", "app.kubernetes.io/instance": "other"}}}  # fmt: skip
    (mlflow,) = find(render(values), "Deployment", "slipway-mlflow")
    assert selects(mlflow["spec"]["selector"]["matchLabels"], mlflow["spec"]["template"])


def test_pull_secrets_reach_every_pod() -> None:
    for name, pod in pods(everything("mirrored")):
        assert pod["spec"]["imagePullSecrets"] == [{"name": "pull"}], name


def test_airflow_restarts_for_its_settings_and_not_for_a_spec() -> None:
    (before,) = find(rendered("default"), "Deployment", "slipway-scheduler")
    (spec,) = find(render({**EXTERNAL, "specs": {"inline": {"a.yaml": "x"}}}), "Deployment", "slipway-scheduler")
    (bucket,) = find(render({**EXTERNAL, "fullnameOverride": "other"}), "Deployment", "other-scheduler")
    checksum = [
        one["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for one in (before, spec, bucket)
    ]
    assert checksum[0] == checksum[1] != checksum[2]
    assert before["spec"]["template"] == spec["spec"]["template"]


def selects(selector: dict[str, str], pod: Manifest) -> bool:
    """Whether every label of the selector is the pod's."""
    return selector.items() <= pod["metadata"]["labels"].items()


def _triton(case: str) -> Manifest:
    (found,) = find(made(rendered(case)), "Deployment", "slipway-model-fraud-eu-v7")
    return found["spec"]["template"]


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def _references(spec: Manifest) -> list[tuple[str, str, str | None]]:
    sources = [source for volume in spec["volumes"] for source in (volume, *volume.get("projected", {}).get("sources", []))]  # fmt: skip
    every = [*spec.get("initContainers", []), *spec["containers"]]
    variables = [one.get("valueFrom", {}) for container in every for one in container.get("env", [])]
    claims = [volume.get("persistentVolumeClaim") for volume in spec["volumes"]]
    return [
        *(("ConfigMap", one["configMapRef"]["name"], None) for container in every for one in container.get("envFrom", [])),
        *(("ConfigMap", one["configMap"]["name"], None) for one in sources if "configMap" in one),
        *(("Secret", one["secretKeyRef"]["name"], one["secretKeyRef"]["key"]) for one in variables if "secretKeyRef" in one),
        *(("PersistentVolumeClaim", claim["claimName"], None) for claim in claims if claim),
        *(("Secret", one["secret"]["secretName"], item["key"]) for one in sources if "secret" in one for item in one["secret"]["items"]),
    ]  # fmt: skip


def test_references_are_found_where_they_stand() -> None:
    (scheduler,) = [pod for name, pod in pods(list(rendered("trial"))) if name == "Deployment/slipway-scheduler"]
    found = _references(scheduler["spec"])
    assert ("Secret", "slipway-database", "password") in found
    assert ("ConfigMap", "slipway-specs", None) in found
    assert ("PersistentVolumeClaim", "slipway", None) in found
    assert json.dumps(scheduler).count("secretKeyRef") == sum(kind == "Secret" for kind, _, _ in found)
