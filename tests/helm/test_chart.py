"""The chart as a whole: helm's own lint, the default release as a golden, contradictions, notes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.charts import (
    CHART,
    EXTERNAL,
    MATRIX,
    NAME,
    NAMESPACE,
    ROOT,
    S3,
    Refused,
    find,
    helm,
    needs_helm,
    render,
    render_again,
    rendered,
    template,
    try_templates,
)

pytestmark = needs_helm

GOLDEN = Path(__file__).parent / "goldens" / "default.yaml"


@pytest.mark.parametrize("case", ["default", "external", "trial", "extras", "watched", "ingress"])
def test_helm_finds_nothing_to_say(case: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(MATRIX[case]))
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--values", str(path))


def test_the_default_release() -> None:
    """Golden: what stands in the cluster with a database and nothing else said. UPDATE_GOLDENS=1 writes it anew."""
    text = re.sub(r"(?m)^# Source: .*\n", "", template(EXTERNAL))
    for secret in find(render(EXTERNAL), "Secret"):
        for key in secret["data"]:
            text = re.sub(rf"(?m)^  {re.escape(key)}: [A-Za-z0-9+/=]+$", f"  {key}: RANDOM", text)
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text


@pytest.mark.parametrize("case", ["by_name", "trial"])
def test_only_secrets_that_are_made_differ_between_two_renders(case: str) -> None:
    """What is rendered without a cluster, as Argo CD does, must not change by itself."""
    once, again = rendered(case), render_again(MATRIX[case])
    changed = {one["metadata"]["name"] for one, other in zip(once, again, strict=True) if one != other}
    secrets = {one["metadata"]["name"] for one in find(once, "Secret")}
    assert changed == secrets
    assert bool(secrets) is (case == "trial")


def test_a_password_that_is_given_is_the_secrets() -> None:
    (secret,) = find(render({"database": {"host": "db", "password": "pässword"}}), "Secret", "slipway-database")
    assert secret["data"] == {"password": "cMOkc3N3b3Jk"}


def test_secrets_and_the_claim_survive_an_uninstall() -> None:
    kept = [*find(rendered("trial"), "Secret"), *find(rendered("trial"), "PersistentVolumeClaim")]
    assert len(kept) == 8
    assert all(one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for one in kept)


@pytest.mark.parametrize(("given", "shown"), [(None, ...), ("", ""), ("fast", "fast")])
def test_the_class_of_the_claim(given: str | None, shown: Any) -> None:
    values = {**EXTERNAL, "storage": {"persistentVolumeClaim": {"storageClassName": given}}}
    (claim,) = find(render(values), "PersistentVolumeClaim")
    assert claim["spec"].get("storageClassName", ...) == shown


def test_a_bucket_without_keys_is_reached_by_the_identity_of_the_accounts() -> None:
    s3 = {**S3["storage"]["s3"], "existingSecret": ""}
    role = {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/ml"}}
    values = {**EXTERNAL, "storage": {**S3["storage"], "s3": s3}, "serviceAccounts": {"steps": role, "mlflow": role}}
    text = template(values)
    assert "AWS_ACCESS_KEY_ID" not in text
    assert "AWS_ENDPOINT_URL" in text
    annotated = [one["metadata"]["name"] for one in find(render(values), "ServiceAccount") if "annotations" in one["metadata"]]  # fmt: skip
    assert annotated == ["slipway-steps", "slipway-mlflow"]


PUBLIC = (
    ({}, "http://slipway-api-server:8080"),
    ({"ingress": {"enabled": True, "host": "a.example.com"}}, "http://a.example.com"),
    ({"ingress": {"enabled": True, "host": "a.example.com", "tlsSecret": "tls"}}, "https://a.example.com"),
    ({"ingress": {"enabled": True, "host": "a.example.com"}, "publicUrl": "https://b.example.com"}, "https://b.example.com"),
)  # fmt: skip


@pytest.mark.parametrize(("airflow", "url"), PUBLIC)
def test_airflow_knows_the_address_that_browsers_use(airflow: dict[str, Any], url: str) -> None:
    (server,) = find(render({**EXTERNAL, "airflow": airflow}), "Deployment", "slipway-api-server")
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert {"name": "AIRFLOW__API__BASE_URL", "value": url} in container["env"]
    behind = {"name": "AIRFLOW__FAB__ENABLE_PROXY_FIX", "value": "True"} in container["env"]
    assert behind is (airflow != {}), "who stands behind a proxy believes its headers, and nobody else"


CONTRADICTIONS: tuple[tuple[dict[str, Any], tuple[str, ...]], ...] = (
    ({}, ("database.host is empty", "database.existingSecret is empty")),
    ({"postgresql": {"enabled": True}, "database": {"host": "db"}}, ("database.host and postgresql.enabled contradict",)),
    ({"postgresql": {"enabled": True}, "database": {"port": 5433}}, ("database.port is 5433",)),
    ({"database": {"host": "db", "password": "a", "existingSecret": "b"}}, ("database.existingSecret and database.password",)),
    ({**EXTERNAL, "storage": {"persistentVolumeClaim": {"enabled": False}}}, ("exactly one of storage.",)),
    ({**EXTERNAL, "storage": {"s3": {"enabled": True, "bucket": "models"}}}, ("exactly one of storage.",)),
    ({**EXTERNAL, "storage": {**S3["storage"], "s3": {"enabled": True}}}, ("storage.s3.bucket is empty",)),
    ({**EXTERNAL, "storage": {"persistentVolumeClaim": {"existingClaim": "a", "volumeName": "b"}}}, ("existingClaim contradicts",)),
    ({**EXTERNAL, "airflow": {"externalUrl": "http://a"}}, ("airflow.enabled and airflow.externalUrl contradict",)),
    ({**EXTERNAL, "mlflow": {"externalUrl": "http://a"}}, ("mlflow.enabled and mlflow.externalUrl contradict",)),
    ({**EXTERNAL, "mlflow": {"enabled": False}}, ("mlflow.externalUrl is empty", "mlflow.admin.existingSecret is empty", "mlflow.steps.existingSecret is empty")),
    ({**EXTERNAL, "mlflow": {"steps": {"username": "admin"}}}, ("mlflow.admin.username and mlflow.steps.username are both",)),
    ({**EXTERNAL, "signing": {"mode": "sigstore", "sigstore": {"identity": "a@example.com"}}}, ("signing.mode=sigstore needs",)),
    ({**EXTERNAL, "judge": {"url": "http://judge:8000/v1"}}, ("judge.url and judge.model belong together",)),
    ({**EXTERNAL, "serving": {"enabled": False}}, ("serving.enabled=false with airflow.enabled=true",)),
    ({**EXTERNAL, "serving": {"gateway": {"enabled": True}}}, ("serving.gateway.enabled=true needs",)),
    ({**EXTERNAL, "serving": {"autoscaling": {"keda": {"enabled": True}}}}, ("keda.enabled=true without", "needs prometheusAddress and query")),
    ({**EXTERNAL, "serving": {"autoscaling": {"enabled": True, "keda": {"enabled": True, "prometheusAddress": "http://p:9090", "query": "sum(x)"}}}}, ("keda.query has no {model}",)),
    ({**EXTERNAL, "serving": {"triton": {"drainSeconds": 90}}}, ("terminationGracePeriodSeconds (75) is not above drainSeconds (90)",)),
    ({**EXTERNAL, "database": {**EXTERNAL["database"], "mlflowDatabase": "airflow"}}, ("are both \"airflow\"",)),
    ({**EXTERNAL, "serving": {"autoscaling": {"minReplicas": 5}}}, ("minReplicas (5) is above maxReplicas (4)",)),
    ({**EXTERNAL, "serving": {"replicas": 5, "autoscaling": {"enabled": True}}}, ("serving.replicas (5) is above",)),
    ({**EXTERNAL, "serving": {"triton": {"extraArgs": ["--model-control-mode=explicit"]}}}, ("--model-control-mode=explicit is the rollout's own",)),
    ({**EXTERNAL, "airflow": {"ingress": {"enabled": True}}}, ("airflow.ingress.enabled=true needs airflow.ingress.host",)),
    ({**MATRIX["no_airflow"], "airflow": {"enabled": False, "ingress": {"enabled": True, "host": "a"}}}, ("airflow.ingress.enabled=true with airflow.enabled=false",)),
    ({**EXTERNAL, "airflow": {"enabled": False}, "serving": {"enabled": False}, "serviceMonitor": {"enabled": True}}, ("there is no Triton",)),
    ({**EXTERNAL, "airflow": {"scheduler": {"replicas": 2}}, "storage": {"persistentVolumeClaim": {"accessModes": ["ReadWriteOnce"]}}}, ("airflow.scheduler.replicas above 1",)),
)  # fmt: skip


def test_values_that_contradict_each_other_are_refused_with_all_sentences(subtests: pytest.Subtests) -> None:
    every = try_templates([values for values, _ in CONTRADICTIONS])
    for (_, said), refused in zip(CONTRADICTIONS, every, strict=True):
        with subtests.test(said[0]):
            assert isinstance(refused, Refused)
            problems = [line for line in str(refused).splitlines() if line.startswith("- ")]
            assert len(problems) == len(said)
            assert all(part in line for part, line in zip(said, problems, strict=True))


def test_every_contradiction_has_a_case() -> None:
    sentences = re.findall(r"\$problems = (?:append|concat) ", (CHART / "templates" / "validate.yaml").read_text())
    of_secrets = 1  # needs a cluster: test_secrets
    assert len(sentences) == len({part for _, said in CONTRADICTIONS for part in said}) + of_secrets


@pytest.mark.parametrize(
    "case", ["default", "trial", "no_airflow", "no_mlflow", "plane_alone", "no_plane", "bare", "by_name"]
)
def test_the_notes_give_the_next_three_commands(case: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(MATRIX[case]))
    text = helm("install", NAME, str(CHART), "--namespace", NAMESPACE, "--dry-run=client", "--values", str(path))
    notes = text.split("\nNOTES:\n")[1]
    assert re.findall(r"(?m)^(\d)\. .*:\n   (helm|kubectl|echo)", notes) == [
        ("1", "kubectl" if case in ("no_airflow", "plane_alone", "no_plane", "bare") else "helm"),
        ("2", "kubectl" if case in ("no_airflow", "plane_alone", "no_plane") else "echo"),
        ("3", "kubectl" if case in ("no_mlflow", "plane_alone") else "echo"),
    ]
    objects = {one["metadata"]["name"] for one in rendered(case)} | {"airflow-admin", "mlflow-admin"}
    assert set(re.findall(r"(?:secret|service/|configmap) ?(\S+)", notes)) <= objects
    assert ("WARNING" in notes) is (case == "trial")
    assert ("networkPolicy.ingressFrom" in notes) is (case == "ingress")
    assert ("networkPolicy.modelsFrom" in notes) is (case == "gateway")


GUIDE = (ROOT / "docs" / "install.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"(?ms)^```yaml\n(.*?)^```", GUIDE), ids=lambda block: block.split(":")[0])
def test_the_values_of_the_guide_render(block: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(block)
    needed = {} if "database" in block else EXTERNAL
    assert helm("template", NAME, str(CHART), "--values", str(path), "--set-json", json.dumps(needed))
