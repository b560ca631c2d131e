"""Secrets that are in the cluster: the chart keeps what it has made, and looks into those that a value names.

The API server here knows Secrets and nothing else; what helm asks of a real one, an installation shows.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Invalid
from pipeline.settings import Settings
from serving.signing import check_signature, sign
from tests.helm.charts import (
    EXTERNAL,
    MATRIX,
    NAME,
    NAMESPACE,
    Manifest,
    Refused,
    find,
    needs_helm,
    render_again,
    rendered,
)

pytestmark = needs_helm
Secrets = dict[str, dict[str, str]]
Install = Callable[[dict[str, Any], Secrets], list[Manifest]]


@pytest.fixture
def install() -> Iterator[Install]:
    """Renders values as helm does against a cluster that has these Secrets."""
    there: Secrets = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = _answer(self.path.split("?")[0], there)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body or {"kind": "Status", "reason": "NotFound", "code": 404}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"

    def _install(values: dict[str, Any], secrets: Secrets) -> list[Manifest]:
        there.clear()
        there.update(secrets)
        return render_again(values, "--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", address)

    try:
        yield _install
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_what_was_made_survives_an_upgrade(install: Install) -> None:
    """Even where a later version of the chart needs one key more."""
    before = {one["metadata"]["name"]: one["data"] for one in find(install(MATRIX["trial"], {}), "Secret")}
    assert len(before) == 7
    old = {name: dict(data) for name, data in before.items()}
    del old["slipway-airflow"]["secret-key"]
    old["slipway-mlflow-admin"]["password"] = ""
    del old["slipway-signing"]["verify.pem"]
    after = {one["metadata"]["name"]: one["data"] for one in find(install(MATRIX["trial"], old), "Secret")}
    for name, data in before.items():
        for key, value in data.items():
            assert (after[name][key] == value) is bool(old[name].get(key)), f"{name}: {key}"
            assert len(base64.b64decode(after[name][key])) >= (4 if key == "username" else 20), f"{name}: {key}"


def test_the_certificate_that_is_made_verifies_what_the_key_signs(install: Install, tmp_path: Path) -> None:
    """Also one that is made anew for a key that is there, as after a key was put there by hand."""
    (secret,) = find(install(MATRIX["trial"], {}), "Secret", "slipway-signing")
    kept = {"slipway-signing": {"signing.pem": secret["data"]["signing.pem"]}}
    (again,) = find(install(MATRIX["trial"], kept), "Secret", "slipway-signing")
    assert again["data"]["signing.pem"] == secret["data"]["signing.pem"]
    assert again["data"]["verify.pem"] != secret["data"]["verify.pem"]
    for number, data in enumerate((secret["data"], again["data"])):
        folder = tmp_path / str(number)
        (folder / "package").mkdir(parents=True)
        for name, value in data.items():
            (folder / name).write_bytes(base64.b64decode(value))
        (folder / "package" / "file").write_text("content")
        settings = Settings(
            runtime="kubernetes", signing_key=folder / "signing.pem", verify_key=folder / "verify.pem", home=folder
        )
        sign(folder / "package", settings)
        check_signature(folder / "package", settings)
        (folder / "package" / "file").write_text("other")
        with pytest.raises(Invalid, match="the signature does not hold"):
            check_signature(folder / "package", settings)


def test_a_password_that_is_given_replaces_what_is_there(install: Install) -> None:
    values = {"database": {"host": "db", "password": "new"}}
    (secret,) = find(install(values, {"slipway-database": {"password": _text("old")}}), "Secret", "slipway-database")
    assert secret["data"]["password"] == _text("new")


def test_a_secret_without_its_key_is_refused(install: Install) -> None:
    """An empty password too: no one gets in without one."""
    secrets = {
        "db": {"pass": _text("a")},
        "airflow-keys": {"fernet-key": _text("a"), "jwt-secret": _text("b"), "secret-key": _text("c")},
        "airflow-admin": {"password": ""},
        "mlflow-admin": {"username": _text("admin")},
        "mlflow-steps": {"username": _text("steps"), "password": _text("a")},
        "signing-keys": {"signing.pem": _text("a"), "public.pem": _text("b")},
    }
    with pytest.raises(Refused) as refused:
        install(MATRIX["by_name"], secrets)
    said = [line for line in str(refused.value).splitlines() if line.startswith("- ")]
    place = 'existingSecret: the Secret "{}" has no value under the key "{}": add it, or correct the key\'s name'
    assert said == [
        f"- database.{place.format('db', 'password')}",
        f"- airflow.admin.{place.format('airflow-admin', 'password')}",
        f"- mlflow.admin.{place.format('mlflow-admin', 'password')}",
        f"- signing.{place.format('signing-keys', 'verify.pem')}",
    ]
    assert install({**EXTERNAL, "database": {**EXTERNAL["database"], "passwordKey": "pass"}}, secrets)


def _text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _answer(path: str, there: Secrets) -> dict[str, Any] | None:
    """Discovery of the kinds that a release has, and Secrets by name."""
    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets/"
    if path.startswith(secrets) and path.removeprefix(secrets) in there:
        name = path.removeprefix(secrets)
        owner = {"meta.helm.sh/release-name": NAME, "meta.helm.sh/release-namespace": NAMESPACE}
        metadata = {"name": name, "annotations": owner, "labels": {"app.kubernetes.io/managed-by": "Helm"}}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": there[name]}
    kinds: dict[str, set[str]] = {}
    for one in rendered("trial"):
        kinds.setdefault(one["apiVersion"], set()).add(one["kind"])
    if path == "/version":
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version.split("/") for version in kinds if "/" in version]
        versions = [(group, [{"groupVersion": f"{group}/{version}", "version": version}]) for group, version in groups]
        return {"kind": "APIGroupList", "groups": [{"name": group, "versions": found} for group, found in versions]}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    resources = [
        {"name": f"{kind.lower()}s", "kind": kind, "namespaced": True, "verbs": ["get"]} for kind in kinds.get(version, ())
    ]  # fmt: skip
    return {"kind": "APIResourceList", "groupVersion": version, "resources": resources} if resources else None
