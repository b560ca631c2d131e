"""The manifest of a step's pod: its goldens, and what holds for every spec and policy."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import ApiClient, Configuration, V1Pod

from dags.pod import Identity, PodPolicy, ending, rollback_pod, step_pod
from pipeline.engine import Ray, Resources
from pipeline.errors import Invalid
from pipeline.graph import STEPS, Task, step_named, tasks
from pipeline.policy import read_policy
from pipeline.run import slug
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec

GOLDENS = Path(__file__).parent / "goldens"
RUN = "manual__2026-11-25T00:00:00+00:00"
VERSIONS = ("1.34", "1.35", "1.36", "1.37")
SPEC = """version: 1
name: fraud_eu
task: {kind: binary}
data: {source: rows.csv, target: y}
candidates:
  - {kind: xgboost, resources: {cpu: 1.5, memory_gib: 2.5}}
  - {kind: torch, device: cuda}
  - {kind: torch, name: wide, resources: {gpus: 2}}
  - {kind: torch, name: plain}
"""
POLICY = """
namespace: ml
image: registry.example/slipway-steps:1
gpuImage: registry.example/slipway-steps:1-gpu
imagePullSecrets: [{name: pull}]
roles:
  steps:
    serviceAccount: slipway-steps
    env: [{name: USER, value: steps}]
  promoter:
    serviceAccount: slipway-promoter
    env: [{name: USER, value: promoter}, {name: SLIPWAY_SIGNING_KEY, value: /etc/slipway/keys/signing.pem}]
    volumes: [{name: keys, secret: {secretName: slipway-signing}}]
    volumeMounts: [{name: keys, mountPath: /etc/slipway/keys, readOnly: true}]
labels: {app.kubernetes.io/name: slipway, app.kubernetes.io/instance: slipway}
annotations: {team: platform}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: batch, operator: Exists}]
priorityClassName: batch
resources:
  default: {requests: {cpu: 250m, memory: 512Mi}, limits: {memory: 2Gi}}
  train: {requests: {cpu: "1", memory: 2Gi}, limits: {memory: 4Gi}}
gpu:
  resource: nvidia.com/gpu
  nodeSelector: {pool: gpu}
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
env: [{name: OMP_NUM_THREADS, value: "2"}, {name: KEY, valueFrom: {secretKeyRef: {name: store, key: key}}}]
envFrom: [{configMapRef: {name: slipway-settings}}]
volumes: [{name: tmp, emptyDir: {}}]
volumeMounts: [{name: tmp, mountPath: /tmp}]
"""


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    return parse_spec(SPEC, "fraud_eu.yaml")


@pytest.fixture(scope="module")
def policy() -> PodPolicy:
    return PodPolicy.model_validate_json(json.dumps(yaml.safe_load(POLICY)))


def pod(policy: PodPolicy, spec: PipelineSpec, step: str, candidate: str | None = None, run: str = RUN) -> Any:
    path = Path("/etc/slipway/specs/fraud_eu.yaml")
    return step_pod(policy, Task(step_named(step), candidate), spec, path, slug(run), {"trials": 3, "seed": None})


def every(policy: PodPolicy, spec: PipelineSpec) -> dict[str, Any]:
    found = tasks(tuple(candidate.name for candidate in spec.candidates))
    steps = {task.key: pod(policy, spec, task.step.name, task.candidate) for task in found}
    return {**steps, "rollback": rollback_pod(policy, spec.name, slug(RUN))}


@pytest.mark.parametrize(
    ("name", "step", "candidate"),
    [
        ("snapshot", "snapshot", None),
        ("train_cpu", "train", "xgboost"),
        ("train_gpu", "train", "torch"),
        ("promote", "promote", None),
    ],
)
def test_goldens(name: str, step: str, candidate: str | None, policy: PodPolicy, spec: PipelineSpec) -> None:
    """UPDATE_GOLDENS=1 writes them anew."""
    golden(name, pod(policy, spec, step, candidate))


def test_the_way_back_is_the_promoters_pod(policy: PodPolicy, spec: PipelineSpec) -> None:
    manifest = rollback_pod(policy, spec.name, slug(RUN))
    assert manifest["spec"]["serviceAccountName"] == "slipway-promoter"
    assert manifest["spec"]["automountServiceAccountToken"] is True
    golden("rollback", manifest)


def golden(name: str, manifest: Any) -> None:
    text = yaml.safe_dump(manifest, sort_keys=True, width=120)
    path = GOLDENS / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("version", VERSIONS)
def test_every_pod_is_of_the_schema(version: str, policy: PodPolicy, spec: PipelineSpec) -> None:
    for manifest in every(policy, spec).values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_client_reads_all_of_it(policy: PodPolicy, spec: PipelineSpec) -> None:
    """Airflow's provider turns the manifest into the client's model: nothing may get lost on the way."""
    api = ApiClient(Configuration())
    for manifest in every(policy, spec).values():
        model = api._ApiClient__deserialize_model(manifest, V1Pod)
        assert api.sanitize_for_serialization(model) == manifest


def test_every_pod_is_restricted(policy: PodPolicy, spec: PipelineSpec) -> None:
    """As the Pod Security standard of that name has it, whatever the policy says."""
    for manifest in every(policy, spec).values():
        body, (container,) = manifest["spec"], manifest["spec"]["containers"]
        assert body["securityContext"]["runAsNonRoot"] is True
        assert body["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(body)
        assert (body["restartPolicy"], body["shareProcessNamespace"]) == ("Never", True)


def test_a_token_is_mounted_for_the_promoter_alone(policy: PodPolicy, spec: PipelineSpec) -> None:
    for step in STEPS:
        body = pod(policy, spec, step.name, "xgboost" if step.per_candidate else None)["spec"]
        promotes = step.name in ("register", "tune", "package", "rollout", "gate", "promote")
        assert body["automountServiceAccountToken"] is promotes
        assert body["serviceAccountName"] == ("slipway-promoter" if promotes else "slipway-steps")


def test_who_trains_on_ray_only_waits_and_may_only_make_rayjobs(policy: PodPolicy, spec: PipelineSpec) -> None:
    engine = Ray(kind="ray", workers=4, gpus_per_worker=1)
    torch = spec.candidates[1].model_copy(update={"engine": engine, "resources": Resources()})
    asking = spec.model_copy(update={"candidates": (spec.candidates[0], torch)})
    with pytest.raises(Invalid, match=r"asks for Ray, which this platform does not allow .*ray.enabled"):
        pod(policy, asking, "train", "torch")
    roles = policy.roles.model_copy(update={"trainer": Identity(serviceAccount="slipway-trainer")})
    allowing = policy.model_copy(update={"roles": roles})
    manifest = pod(allowing, asking, "train", "torch")
    body = manifest["spec"]
    assert body["serviceAccountName"] == "slipway-trainer"
    assert body["automountServiceAccountToken"] is True
    assert body["containers"][0]["resources"] == policy.resources["default"]
    assert "nodeSelector" not in body or "pool" not in body["nodeSelector"]
    assert manifest["metadata"]["labels"]["slipway.dev/role"] == "trainer"
    for step in ("snapshot", "export"):
        other = pod(allowing, asking, step, "torch" if step == "export" else None)["spec"]
        assert (other["serviceAccountName"], other["automountServiceAccountToken"]) == ("slipway-steps", False)


def test_each_role_has_its_own_credentials_and_the_promoter_alone_the_key(
    policy: PodPolicy, spec: PipelineSpec
) -> None:
    for name, manifest in every(policy, spec).items():
        role, (container,) = manifest["metadata"]["labels"]["slipway.dev/role"], manifest["spec"]["containers"]
        assert {"name": "USER", "value": role} in container["env"], name
        assert ("slipway-signing" in json.dumps(manifest)) is (role == "promoter"), name
        assert ("SLIPWAY_SIGNING_KEY" in json.dumps(manifest)) is (role == "promoter"), name


def test_training_alone_gets_what_the_spec_asks_for(policy: PodPolicy, spec: PipelineSpec) -> None:
    found = {key: manifest["spec"]["containers"][0]["resources"] for key, manifest in every(policy, spec).items()}
    assert found["train_xgboost"] == {
        "requests": {"cpu": "1.5", "memory": "2560Mi"},
        "limits": {"cpu": "1.5", "memory": "2560Mi"},
    }
    assert found["train_plain"] == {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
    default = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    assert {key for key, value in found.items() if value != default} == {
        "train_xgboost",
        "train_torch",
        "train_wide",
        "train_plain",
    }


def test_gpus_are_for_training_that_asks_for_them(policy: PodPolicy, spec: PipelineSpec) -> None:
    wanted = {"train_torch": "1", "train_wide": "2"}  # `device: cuda` means one at least
    for key, manifest in every(policy, spec).items():
        body, (container,) = manifest["spec"], manifest["spec"]["containers"]
        resources = container["resources"]
        assert resources["limits"].get("nvidia.com/gpu") == wanted.get(key)
        assert resources["requests"].get("nvidia.com/gpu") == wanted.get(key)
        assert body["nodeSelector"] == {"kubernetes.io/os": "linux"} | ({"pool": "gpu"} if key in wanted else {})
        assert len(body["tolerations"]) == (2 if key in wanted else 1)
        assert container["image"].endswith("-gpu") is (key in wanted)


def test_without_an_image_for_gpus_there_is_one_image(policy: PodPolicy, spec: PipelineSpec) -> None:
    one = policy.model_copy(update={"gpuImage": ""})
    assert {manifest["spec"]["containers"][0]["image"] for manifest in every(one, spec).values()} == {policy.image}


LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,52}[a-z0-9])?")  # leaves room for the end that makes it unique
names = st.from_regex(r"[a-z]([a-z0-9_]{0,61}[a-z0-9])?", fullmatch=True)
runs = st.text(st.sampled_from("abcXYZ019_.~:+-"), min_size=1, max_size=250).filter(slug)


@given(name=names, candidate=names, run=runs)
def test_labels_and_names_are_legal(name: str, candidate: str, run: str) -> None:
    text = SPEC.replace("name: fraud_eu", f"name: '{name}'").replace("name: wide", f"name: '{candidate}'")
    if candidate in ("xgboost", "torch", "plain"):
        return
    manifest = pod(_policy(), parse_spec(text, "s"), "train", candidate, run)
    for key, value in manifest["metadata"]["labels"].items():
        assert LABEL.fullmatch(value), (key, value)
    assert NAME.fullmatch(manifest["metadata"]["name"])
    assert manifest["metadata"]["annotations"]["slipway.dev/run"] == slug(run)


@given(one=runs, two=runs)
def test_runs_that_differ_have_labels_that_differ(one: str, two: str) -> None:
    labels = [pod(_policy(), parse_spec(SPEC, "s"), "check", None, run)["metadata"]["labels"] for run in (one, two)]
    assert (labels[0]["slipway.dev/run"] == labels[1]["slipway.dev/run"]) is (slug(one) == slug(two))


def test_long_names_differ_in_their_labels() -> None:
    long = ["a" * 70 + end for end in ("b", "c", "_", "b_")]
    labels = [pod(_policy(), parse_spec(SPEC, "s"), "check", None, run)["metadata"]["labels"] for run in long]
    assert len({label["slipway.dev/run"] for label in labels}) == 4
    spec = parse_spec(SPEC.replace("name: wide", f"name: {'w' * 63}"), "s")
    (of_train, of_other) = (pod(_policy(), spec, "train", name)["metadata"] for name in ("w" * 63, "plain"))
    assert of_train["labels"]["slipway.dev/candidate"] == "w" * 63
    assert of_train["labels"] != of_other["labels"]


def _policy() -> PodPolicy:
    return PodPolicy.model_validate_json(json.dumps(yaml.safe_load(POLICY)))


def test_a_wrong_policy_names_every_mistake(tmp_path: Path) -> None:
    path = tmp_path / "pods.yaml"
    path.write_text(
        "namespace: ml\nimag: x\nroles: {steps: {serviceAccount: a}}\nstartupTimeoutS: 0\nlabels: {a: 1}\nvolumes: none\n"
    )
    with pytest.raises(Invalid) as caught:
        read_policy(path, PodPolicy, "SLIPWAY_PODS")
    places = {problem.where.removeprefix(f"{path}: ") for problem in caught.value.problems}
    assert places == {"imag", "image", "roles.promoter", "startupTimeoutS", "labels.a", "volumes"}
    for problem in caught.value.problems:
        assert "SLIPWAY_PODS" in problem.remedy
    assert "(value 0)" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff", "cannot be read: not UTF-8"),
        (b"a: [", "is no YAML"),
        (b"", "Input should be an object"),
        (b"- 1", "Input should be an object"),
        (b"namespace: 2026-11-25", "is no YAML"),
    ],
)
def test_a_policy_that_is_none(text: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "pods.yaml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(Invalid, match=says) as caught:
        read_policy(path, PodPolicy, "SLIPWAY_PODS")
    assert str(path) in str(caught.value)


def step_status(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "other", "state": {}}, {"name": "step", "state": state}]}


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (None, (None, "")),
        ({"phase": "Pending"}, (None, "")),
        (step_status(running={}), (None, "")),
        (step_status(terminated={"exitCode": 0, "reason": "Completed"}), (0, "")),
        (step_status(terminated={"exitCode": 3, "reason": "Error", "message": "a\nrejected: b\n"}), (3, "rejected: b")),
        (step_status(terminated={"exitCode": 137, "reason": "OOMKilled", "message": ""}), (137, "OOMKilled")),
        (step_status(terminated={"exitCode": 143, "reason": "Error", "message": "x"}), (143, "ended by signal 15: x")),
        (step_status(waiting={"reason": "ErrImagePull", "message": "denied"}), (None, "ErrImagePull: denied")),
        (
            step_status(terminated={"exitCode": 2}) | {"reason": "Evicted", "message": "low\n on memory"},
            (None, "Evicted: low on memory"),
        ),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no"}]},
            (None, "Unschedulable: no"),
        ),
        ({"conditions": [{"type": "PodScheduled", "status": "True"}]}, (None, "")),
    ],
)
def test_how_a_step_has_ended(status: dict[str, Any] | None, end: tuple[int | None, str]) -> None:
    assert ending({"status": status}) == end


def test_no_two_tasks_share_labels(policy: PodPolicy, spec: PipelineSpec) -> None:
    pods = every(policy, spec)
    for one, two in itertools.combinations(pods, 2):
        assert pods[one]["metadata"]["labels"] != pods[two]["metadata"]["labels"]
