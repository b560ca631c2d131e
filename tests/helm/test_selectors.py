"""What selects pods by their labels finds them: Services, budgets, NetworkPolicies, the ServiceMonitor, autoscalers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.charts import (
    EXTERNAL,
    MATRIX,
    Manifest,
    containers,
    each_case,
    everything,
    find,
    made,
    needs_helm,
    pods,
    policies,
    render,
    rendered,
)

pytestmark = needs_helm
PROMOTER, STEP, TRITON, CANARY = "Pod/breast-cancer-gate", "Pod/breast-cancer-snapshot", "Deployment/slipway-model-fraud-eu-v7", "Deployment/slipway-model-fraud-eu-v7-canary"  # fmt: skip


@each_case
def test_services_have_pods_with_their_ports(case: str) -> None:
    objects = everything(case)
    templates = dict(pods(objects))
    for service in find(objects, "Service"):
        behind = [pod for pod in templates.values() if matches({"matchLabels": service["spec"]["selector"]}, pod)]
        assert behind, service["metadata"]["name"]
        for pod in behind:
            ports = [port for container in containers(pod) for port in container.get("ports", [])]
            known = {port["name"] for port in ports} | {port["containerPort"] for port in ports}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= known, service["metadata"]["name"]


@each_case
def test_pages_and_routes_lead_to_services(case: str) -> None:
    objects = everything(case)
    for ingress in find(objects, "Ingress"):
        (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
        (service,) = find(objects, "Service", path["backend"]["service"]["name"])
        assert path["backend"]["service"]["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
    for route in (*find(objects, "HTTPRoute"), *find(objects, "GRPCRoute")):
        assert route["spec"]["hostnames"] == ["fraud-eu.ml.example.com"]
        assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}]
        new = route["spec"]["rules"][0]["backendRefs"][-1]
        (service,) = find(objects, "Service", new["name"])
        assert new["port"] in {port["port"] for port in service["spec"]["ports"]}


@each_case
def test_budgets_are_of_one_component_each_and_never_stop_a_drain(case: str) -> None:
    objects = everything(case)
    for budget in find(objects, "PodDisruptionBudget"):
        name = budget["metadata"]["name"]
        found = {owner for owner, pod in pods(objects) if matches(budget["spec"]["selector"], pod)}
        assert found == ({TRITON, CANARY} if name == "slipway-triton" else {f"Deployment/{name}"})
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@each_case
def test_every_pod_is_denied_by_default_and_every_policy_has_pods(case: str) -> None:
    objects = everything(case)
    policies = find(objects, "NetworkPolicy")
    if case == "open":
        assert policies == []
        return
    (deny,) = find(objects, "NetworkPolicy", "slipway-default-deny")
    assert {"ingress", "egress"}.isdisjoint(deny["spec"])
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for name, pod in pods(objects):
        assert matches(deny["spec"]["podSelector"], pod), name
    for policy in policies:
        assert any(matches(policy["spec"]["podSelector"], pod) for _, pod in pods(objects)), policy["metadata"]["name"]


FLOWS = (
    # who, whom, port, whether it may
    ("Deployment/slipway-scheduler", "Deployment/slipway-api-server", 8080, True),
    ("Deployment/slipway-api-server", "Deployment/slipway-scheduler", 8793, True),
    ("Deployment/slipway-api-server", "Deployment/slipway-triggerer", 8794, True),
    ("Deployment/slipway-scheduler", "Deployment/slipway-postgresql", 5432, True),
    ("Deployment/slipway-mlflow", "Deployment/slipway-postgresql", 5432, True),
    (STEP, "Deployment/slipway-mlflow", 5000, True),
    (PROMOTER, "Deployment/slipway-mlflow", 5000, True),
    (PROMOTER, TRITON, 8001, True),
    (PROMOTER, CANARY, 8002, True),
    ("Pod/slipway-test", "Deployment/slipway-api-server", 8080, True),
    ("Pod/slipway-test", TRITON, 8000, True),
    (STEP, "Deployment/slipway-postgresql", 5432, False),
    (TRITON, "Deployment/slipway-mlflow", 5000, False),
    ("Deployment/slipway-mlflow", TRITON, 8000, False),
    ("Deployment/slipway-mlflow", "Deployment/slipway-api-server", 8080, False),
    ("Deployment/slipway-postgresql", "Deployment/slipway-mlflow", 5000, False),
)
# Asked by nobody of the namespace but those who have to.
CLOSED = {"networkPolicy": {"ingressFrom": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "modelsFrom": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}}  # fmt: skip


@pytest.mark.parametrize("values", [{}, CLOSED], ids=["namespace", "closed"])
def test_the_flows_that_exist_are_open(values: dict[str, Any]) -> None:
    objects = render({**MATRIX["trial"], **values})
    objects = [*objects, *made(objects)]
    there = dict(pods(objects))
    wrong = [flow for flow in FLOWS if flows(objects, there[flow[0]], there[flow[1]], flow[2]) is not flow[3]]
    assert wrong == []


def test_only_who_must_reaches_the_models_when_they_are_closed() -> None:
    objects = render({**EXTERNAL, **CLOSED})
    objects = [*objects, *made(objects)]
    stranger = {"metadata": {"labels": {}}}
    there = dict(pods(objects))
    for whom, port in ((TRITON, 8000), ("Deployment/slipway-mlflow", 5000), ("Deployment/slipway-api-server", 8080)):
        assert not _side(objects, there[whom], stranger, port, "Ingress", "from"), whom
    assert _side(list(rendered("default")), there[TRITON], stranger, 8000, "Ingress", "from")
    for who, whom, port in ((STEP, TRITON, 8000), ("Deployment/slipway-scheduler", "Deployment/slipway-mlflow", 5000)):
        assert not _side(objects, there[whom], there[who], port, "Ingress", "from"), who


def test_who_has_a_token_reaches_the_clusters_api_and_a_step_does_not() -> None:
    objects = render({**EXTERNAL, "networkPolicy": {"stepsTo": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}})
    outside = {"metadata": {"labels": {}}}
    for name, pod in pods([*objects, *made(objects)]):
        reaches = _side(objects, pod, outside, 6443, "Egress", "to")
        if pod["spec"]["automountServiceAccountToken"] is not False:
            assert reaches, name
        elif pod["metadata"]["labels"].get("slipway.dev/role") == "steps":
            assert not reaches, name


def test_the_pods_of_a_rayjob_talk_among_themselves_and_its_operator_to_their_dashboard() -> None:
    only = {"networkPolicy": {"stepsTo": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}}
    objects = render({**MATRIX["ray"], **only})
    objects = [*objects, *made(objects)]
    there = dict(pods(objects))
    head, worker = (next(pod for name, pod in there.items() if name.endswith(end)) for end in ("/head", "/worker"))
    assert flows(objects, worker, head, 6379)
    assert flows(objects, head, worker, 40_001)
    assert flows(objects, worker, there["Deployment/slipway-mlflow"], 5000)
    assert not flows(objects, there[STEP], head, 6379)
    assert not flows(objects, there[STEP], head, 10_001)
    outside = {"metadata": {"labels": {}}}
    assert _side(objects, head, outside, 8265, "Ingress", "from")
    assert not _side(objects, head, outside, 6379, "Ingress", "from")


def test_the_store_and_an_outer_mlflow_are_reached_by_the_port_of_their_url() -> None:
    s3 = list(rendered("external"))
    for name in ("airflow", "mlflow", "triton", "steps"):
        (policy,) = find(s3, "NetworkPolicy", f"slipway-{name}")
        ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
        assert 9000 in ports, name
    only = {"networkPolicy": {"stepsTo": [{"ipBlock": {"cidr": "10.9.0.0/16"}}]}}
    for url, port in (("https://m.example.com", 443), ("http://m", 80), ("http://m:5001/path", 5001)):
        values = {**MATRIX["no_mlflow"], **only, "mlflow": {**MATRIX["no_mlflow"]["mlflow"], "externalUrl": url}}
        (policy,) = find(render(values), "NetworkPolicy", "slipway-steps")
        assert {"ports": [{"port": port, "protocol": "TCP"}]} in policy["spec"]["egress"], url
        assert {} not in policy["spec"]["egress"]


def test_prometheus_finds_each_pod_of_triton_once() -> None:
    objects = everything("watched")
    (monitor,) = find(objects, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    services = [one for one in find(objects, "Service") if matches(monitor["spec"]["selector"], one)]
    assert [one["metadata"]["name"] for one in services] == ["slipway-triton-metrics"]
    ports = {port["name"] for port in services[0]["spec"]["ports"]}
    assert {one["port"] for one in monitor["spec"]["endpoints"]} <= ports
    selector = {"matchLabels": services[0]["spec"]["selector"]}
    assert {name for name, pod in pods(objects) if matches(selector, pod)} == {TRITON, CANARY}


def test_an_autoscaler_scales_the_version() -> None:
    for case, kind in (("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
        (scaler,) = find(made(rendered(case)), kind)
        target = scaler["spec"]["scaleTargetRef"]
        assert find(made(rendered(case)), target["kind"], target["name"])
        (role,) = find(rendered(case), "Role", "slipway-promoter")
        group = scaler["apiVersion"].split("/")[0]
        (rule,) = [rule for rule in role["rules"] if rule["apiGroups"] == [group]]
        assert {"get", "create", "patch"} <= set(rule["verbs"])
    _, serving = policies(rendered("default"))
    assert serving is not None
    assert serving.autoscaler is None


def flows(objects: list[Manifest], who: Manifest, whom: Manifest, port: int) -> bool:
    """Whether NetworkPolicies let one pod reach another: both sides must."""
    return _side(objects, who, whom, port, "Egress", "to") and _side(objects, whom, who, port, "Ingress", "from")


def _side(objects: list[Manifest], pod: Manifest, peer: Manifest, port: int, kind: str, key: str) -> bool:
    """Whether the policies of `pod` open a port to or from `peer`, a pod of the same namespace."""
    for policy in find(objects, "NetworkPolicy"):
        spec = policy["spec"]
        if kind not in spec["policyTypes"] or not matches(spec["podSelector"], pod):
            continue
        for rule in spec.get(kind.lower(), []):
            ports = [one["port"] for one in rule.get("ports", []) if one["protocol"] == "TCP"]
            if "ports" in rule and port not in ports:
                continue
            if key not in rule or any(_is(one, peer) for one in rule[key]):
                return True
    return False


def _is(peer: Manifest, pod: Manifest) -> bool:
    if "podSelector" in peer and "namespaceSelector" not in peer:
        return matches(peer["podSelector"], pod)
    return peer.get("namespaceSelector") == {}


def matches(selector: Manifest, one: Manifest) -> bool:
    """Kubernetes' rule: all labels and all expressions. Of the operators the chart has In alone."""
    labels = one["metadata"]["labels"]
    assert all(term["operator"] == "In" for term in selector.get("matchExpressions", []))
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(term["key"]) in term["values"] for term in selector.get("matchExpressions", [])
    )
