"""A value that nothing reads is a lie: each one has a mark of its own, which must be seen in a release."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

from tests.helm.charts import INGRESS, S3, Refused, needs_helm, parse, template, try_templates
from tests.helm.values import Schema, defaults, keys, lay, schema

pytestmark = needs_helm
Path_ = tuple[str, ...]
Values = dict[str, Any]
LEAVES = {path: part for path, part in keys(schema(), schema()) if "properties" not in part or "requests" in part["properties"]}  # fmt: skip
EITHER = {("serving", "triton", "probe"): ("inference", "http")}  # a switch of two names
SWITCHES = [path for path, part in LEAVES.items() if part.get("type") == "boolean" or path in EITHER]
UNCHECKED = "--skip-schema-validation"
NO_URLS: Values = {"airflow": {"externalUrl": ""}, "mlflow": {"externalUrl": ""}}
TAGS: Values = {"images": {name: {"digest": ""} for name in defaults()["images"]}}
# Releases in which, between them, every value has something to say. What they give stands above the marks.
RELEASES: tuple[tuple[Values, ...], ...] = (
    (  # everything by name
        NO_URLS,
        {"nameOverride": "", "database": {"password": ""}, "storage": {"persistentVolumeClaim": {"existingClaim": ""}}},
        {"airflow": {"scheduler": {"replicas": 1}, "ingress": INGRESS}, "mlflow": {"ingress": INGRESS}},
        {"serving": {"autoscaling": {"enabled": True}, "gateway": {"enabled": True}}, "serviceMonitor": {"enabled": True}},
        {"signing": {"mode": "key"}, "ray": {"enabled": True}},
    ),
    (  # in a bucket, with secrets that are made, and the URLs of Ingresses
        NO_URLS,
        TAGS,
        S3,
        {"storage": {"s3": {"existingSecret": ""}}, "database": {"existingSecret": ""}},
        {"airflow": {"existingSecret": "", "publicUrl": "", "admin": {"existingSecret": ""}, "ingress": {"enabled": True}}},
        {"mlflow": {"existingSecret": "", "admin": {"existingSecret": ""}, "steps": {"existingSecret": ""}, "ingress": {"enabled": True}}},
        {"signing": {"mode": "sigstore"}},
        {"serving": {"autoscaling": {"enabled": True, "keda": {"enabled": True}}}},
    ),
    (  # a trial, on a claim that is there
        NO_URLS,
        TAGS,  # a digest would win
        {"fullnameOverride": "", "postgresql": {"enabled": True}, "database": {"host": "", "password": "", "port": 5432}},
        {"storage": {"persistentVolumeClaim": {"volumeName": "", "storageClassName": None}}},
    ),
    (  # another's Airflow and MLflow; the bucket's keys by name
        {"storage": {"persistentVolumeClaim": {"enabled": False}, "s3": {"enabled": True}}},
        {"airflow": {"enabled": False}, "mlflow": {"enabled": False}, "postgresql": {"enabled": True}},
        {"database": {"host": "", "password": "", "port": 5432}},
    ),
)  # fmt: skip


@cache
def values_of(release: int) -> Values:
    """Marks everywhere, and above them what makes this release."""
    values: Values = {}
    for number, (path, part) in enumerate(LEAVES.items(), start=2001):
        if path not in SWITCHES:
            values = lay(values, _at(path, mark(path, part, number)[0]))
    for over in RELEASES[release]:
        values = lay(values, over)
    return values


def mark(path: Path_, part: Schema, number: int) -> tuple[Any, str]:
    """A value of the key's kind that holds `number`, and the text by which it is known."""
    text, kind = f"m{number}", part.get("type", "string")
    if path[-1].lower().endswith(("url", "address")):
        return f"http://{text}", text
    if path == ("steps", "resources"):
        return {"default": {"requests": {"memory": f"{number}Mi"}}}, f"{number}Mi"
    if "requests" in part.get("properties", {}):
        return {"requests": {"memory": f"{number}Mi"}, "limits": {"memory": f"{number}Mi"}}, f"{number}Mi"
    if path[-1] == "query":
        return f"{text}{{model}}", text
    if kind == "integer":
        return number, str(number)
    if path[-1] == "apiServerPorts":
        return [number], str(number)
    if kind == "object":
        return {text: text}, text
    if kind == "array":
        return [{"name": text, "mountPath": text} if part["items"].get("type") == "object" else text], text
    return text, text


def test_every_value_is_read() -> None:
    texts = [template(values_of(release), UNCHECKED) for release in range(len(RELEASES))]
    unread = []
    for number, (path, part) in enumerate(LEAVES.items(), start=2001):
        _, text = mark(path, part, number)
        secret = base64.b64encode(text.encode()).decode()
        if path not in SWITCHES and not any(text in shown or secret in shown for shown in texts):
            unread.append(".".join(path))
    assert unread == []


def test_every_switch_switches() -> None:
    left = SWITCHES
    for release in range(len(RELEASES)):
        values = values_of(release)
        turned = [lay(values, _at(path, _turned(path, release))) for path in left]
        before, *after = map(shown, try_templates([values, *turned], UNCHECKED))
        left = [path for path, now in zip(left, after, strict=True) if now == before]
    assert [".".join(path) for path in left] == []


def _turned(path: Path_, release: int) -> bool | str:
    """The other position of a switch."""
    now = _get(lay(defaults(), values_of(release)), path)
    return next(name for name in EITHER[path] if name != now) if path in EITHER else not now


def shown(text: str | Refused) -> Any:
    """The release without what is random, or what is said against it."""
    if isinstance(text, Refused):
        return str(text)
    return [{**one, "data": sorted(one["data"])} if one["kind"] == "Secret" else one for one in parse(text)]


def _at(path: Path_, value: Any) -> Values:
    for name in reversed(path):
        value = {name: value}
    found: Values = value
    return found


def _get(values: Values, path: Path_) -> Any:
    found: Any = values
    for name in path:
        found = found[name]
    return found
