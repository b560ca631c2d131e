"""values.schema.json describes exactly values.yaml, and README.md exactly the schema."""

from __future__ import annotations

import os
from collections import Counter
from functools import reduce
from typing import Any

import pytest

from pipeline.graph import STEPS
from tests.helm.charts import CHART, ROOT, Refused, needs_helm, template, try_templates
from tests.helm.values import BEGIN, END, defaults, keys, lay, schema, table

pytestmark = needs_helm

WHOLE = schema()
KEYS = list(keys(WHOLE, WHOLE))
OPTIONAL = {("storage", "persistentVolumeClaim", "storageClassName")}  # null is a value of it
TRIAL = {"postgresql": {"enabled": True}}


def test_the_schema_and_the_values_have_the_same_keys_in_the_same_order() -> None:
    described = [path for path, _ in KEYS]
    assert described == list(_paths(defaults(), set(described)))


def test_every_key_has_a_description_that_is_a_phrase() -> None:
    for path, part in KEYS:
        text = part.get("description", "")
        assert text, path
        assert text[0] in text[0].upper() + "`", path
        assert not text.endswith("."), path
        assert "|" not in text, path


def test_every_table_is_closed_and_whole() -> None:
    """Only Kubernetes' own maps take any key: labels, annotations, quantities, selectors."""
    for path, part in (((), WHOLE), *KEYS):
        if "properties" in part:
            assert part["additionalProperties"] is False, path
            missing = set(part["properties"]) - set(part.get("required", ()))
            assert all((*path, name) in OPTIONAL for name in missing) or "requests" in part["properties"], path
        elif part.get("type") == "object" and path[-1] != "affinity":
            assert "patternProperties" in part or isinstance(part["additionalProperties"], dict), path


def test_every_part_of_the_schema_is_used() -> None:
    text = (CHART / "values.schema.json").read_text()
    assert [name for name in WHOLE["$defs"] if f'"#/$defs/{name}"' not in text] == []


def test_the_steps_of_the_schema_are_those_of_the_graph() -> None:
    (pattern,) = dict(KEYS)["steps", "resources"]["patternProperties"]
    assert pattern == f"^({'|'.join(['default', *(step.name for step in STEPS)])})$"


def test_the_table_of_the_readme_is_generated() -> None:
    """Golden: UPDATE_GOLDENS=1 writes it anew."""
    path = CHART / "README.md"
    text = path.read_text()
    before, rest = text.split(BEGIN)
    expected = before + table() + rest.split(END)[1]
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(expected)
    assert path.read_text() == expected


def test_the_example_is_the_projects_own() -> None:
    for ours, theirs in (("yaml", "dags/specs"), ("json", "feature_checks/suites")):
        name = f"breast_cancer.{ours}"
        assert (CHART / "files" / name).read_text() == (ROOT / theirs / name).read_text()


def test_a_value_that_is_taken_away_is_missed() -> None:
    """`--set key=null` takes a default away: each is refused by name, and none is a nil pointer in a template."""
    taken: dict[str, Any] = {}
    expected = []
    for path, part in KEYS:
        if ("properties" in part and "requests" not in part["properties"]) or path in OPTIONAL:
            continue
        part_of: dict[str, Any] = taken
        for name in path[:-1]:
            part_of = part_of.setdefault(name, {})
        part_of[path[-1]] = None
        expected.append(path)
    with pytest.raises(Refused) as refused:
        template(taken)
    for path in expected:
        (line,) = [line for line in str(refused.value).splitlines() if f"at '{'/'.join(('', *path[:-1]))}':" in line and "missing propert" in line]  # fmt: skip
        assert f"'{path[-1]}'" in line


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"airflwo": {}}, "at '': additional properties 'airflwo' not allowed"),
    ({"airflow": {"apiServer": {"replica": 2}}}, "at '/airflow/apiServer': additional properties 'replica' not allowed"),
    ({"airflow": {"parallelism": "many"}}, "at '/airflow/parallelism': got string, want integer"),
    ({"airflow": {"parallelism": 0}}, "at '/airflow/parallelism': minimum: got 0, want 1"),
    ({"airflow": {"admin": {"username": ""}}}, "at '/airflow/admin/username': '' does not match pattern"),
    ({"airflow": {"admin": {"email": "nobody"}}}, "at '/airflow/admin/email': 'nobody' does not match pattern"),
    ({"airflow": {"extraEnv": [{"value": "1"}]}}, "at '/airflow/extraEnv/0': missing property 'name'"),
    ({"airflow": {"extraEnv": [{"name": "A", "value": 1}]}}, "at '/airflow/extraEnv/0/value': got number, want string"),
    ({"airflow": {"ingress": {"host": "https://a.example.com"}}}, "at '/airflow/ingress/host'"),
    ({"mlflow": {"externalUrl": "mlflow.example.com"}}, "at '/mlflow/externalUrl': 'mlflow.example.com' does not match"),
    ({"mlflow": {"externalUrl": "https://user:pw@mlflow"}}, "at '/mlflow/externalUrl'"),
    ({"mlflow": {"podAnnotations": {"a": True}}}, "at '/mlflow/podAnnotations/a': got boolean, want string"),
    ({"mlflow": {"podLabels": {"a": "two words"}}}, "at '/mlflow/podLabels/a': 'two words' does not match pattern"),
    ({"mlflow": {"resources": {"limit": {}}}}, "at '/mlflow/resources': additional properties 'limit' not allowed"),
    ({"mlflow": {"resources": {"limits": {"memory": "2 GB"}}}}, "at '/mlflow/resources/limits/memory': '2 GB'"),
    ({"images": {"steps": {"digest": "sha256:abc"}}}, "at '/images/steps/digest': 'sha256:abc' does not match pattern"),
    ({"images": {"steps": {"repository": "slipway-steps:1"}}}, "at '/images/steps/repository'"),
    ({"images": {"steps": {"repository": ""}}}, "at '/images/steps/repository': minLength"),
    ({"images": {"steps": {"tag": 17}}}, "at '/images/steps/tag': got number, want string"),
    ({"images": {"steps": {"pullPolicy": "Sometimes"}}}, "must be one of 'Always', 'IfNotPresent', 'Never'"),
    ({"global": {"imageRegistry": "https://registry"}}, "at '/global/imageRegistry'"),
    ({"database": {"port": 99999}}, "at '/database/port': maximum"),
    ({"database": {"sslMode": "maybe"}}, "at '/database/sslMode': value must be one of 'disable'"),
    ({"database": {"user": "me@db"}}, "at '/database/user': 'me@db' does not match pattern"),
    ({"fullnameOverride": "Slipway"}, "at '/fullnameOverride': 'Slipway' does not match pattern"),
    ({"fullnameOverride": "s" * 31}, "at '/fullnameOverride': maxLength"),
    ({"storage": {"s3": {"bucket": "s3://models"}}}, "at '/storage/s3/bucket'"),
    ({"storage": {"persistentVolumeClaim": {"accessModes": ["ReadOnlyMany"]}}}, "must be one of 'ReadWriteMany'"),
    ({"specs": {"inline": {"Fraud.yml": ""}}}, "at '/specs/inline': additional properties 'Fraud.yml' not allowed"),
    ({"steps": {"resources": {"tarin": {}}}}, "at '/steps/resources': additional properties 'tarin' not allowed"),
    ({"steps": {"gpu": {"resource": "gpu"}}}, "at '/steps/gpu/resource': 'gpu' does not match pattern"),
    ({"serving": {"replicas": 0}}, "at '/serving/replicas': minimum: got 0, want 1"),
    ({"serving": {"triton": {"gpus": -1}}}, "at '/serving/triton/gpus': minimum"),
    ({"serving": {"triton": {"extraArgs": ["log-verbose"]}}}, "at '/serving/triton/extraArgs/0'"),
    ({"serving": {"collector": {"schedule": "sometimes"}}}, "at '/serving/collector/schedule'"),
    ({"serving": {"podDisruptionBudget": {"maxUnavailable": "half"}}}, "at '/serving/podDisruptionBudget/maxUnavailable'"),
    ({"networkPolicy": {"stepsTo": [{"cidr": "10.0.0.0/8"}]}}, "at '/networkPolicy/stepsTo/0'"),
    ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts': minItems"),
    ({"serviceMonitor": {"interval": 30}}, "at '/serviceMonitor/interval': got number, want string"),
)  # fmt: skip


def test_every_wrong_value_is_refused_with_its_place() -> None:
    """Helm names all wrong values at once: it runs once for values that stand in different places."""
    batches: list[list[tuple[dict[str, Any], str]]] = []
    for case in WRONG:
        free = next((batch for batch in batches if not any(_meet(case[0], other) for other, _ in batch)), None)
        if free is None:
            batches.append(free := [])
        free.append(case)
    values = [reduce(lay, (wrong for wrong, _ in batch), TRIAL) for batch in batches]
    unnamed = []
    for batch, refused in zip(batches, try_templates(values), strict=True):
        assert isinstance(refused, Refused)
        claims = Counter(line for line in str(refused).splitlines() for _, message in batch if message in line)
        own = [line for line, count in claims.items() if count == 1]  # a line that two messages match proves neither
        unnamed += [message for _, message in batch if not any(message in line for line in own)]
    assert unnamed == []


def _meet(one: object, other: object) -> bool:
    """Return whether two tables of values give the same key a value."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return True
    return any(_meet(one[name], other[name]) for name in one.keys() & other.keys())


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(Refused) as refused:
        template({"fullnameOverride": "A", "database": {"port": 0}, "serving": {"replicas": 0}, "typo": 1})
    assert str(refused.value).count("- at '") == 4


def _paths(
    values: dict[str, Any], described: set[tuple[str, ...]], path: tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    """Every key of the values; what is below the last described key is Kubernetes' own, or one of a map."""
    found = []
    for name, value in values.items():
        here = (*path, name)
        found.append(here)
        if isinstance(value, dict) and any(other[: len(here)] == here != other for other in described):
            found += _paths(value, described, here)
    return found
