"""The Kubernetes API over HTTP, as far as a step's pod needs it: pods, their status and log, deletion with its grace.

Nothing schedules or runs pods here: tests play the kubelet. The same tests run on a real API server beside it.
"""

from __future__ import annotations

import copy
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

Manifest = dict[str, Any]
ENDED = ("Succeeded", "Failed")


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Pods:
    """The pods of one namespace, and the logs that a test has given them."""

    def __init__(self) -> None:
        self.found: dict[str, Manifest] = {}
        self.logs: dict[str, str] = {}
        self.forbids = ""  # what an admission says to every new pod
        self.lock = threading.RLock()

    def create(self, pod: Manifest) -> Manifest:
        name = pod["metadata"]["name"]
        try:
            kubernetes_validate.validate(pod, "1.36", strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, "Invalid", f'Pod "{name}" is invalid: {error.message}') from error
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        for mount in pod["spec"]["containers"][0].get("volumeMounts", ()):
            if mount["name"] not in volumes:
                raise Refused(422, "Invalid", f'Pod "{name}" is invalid: Not found: "{mount["name"]}"')
        if self.forbids:
            raise Refused(403, "Forbidden", f'pods "{name}" is forbidden: {self.forbids}')
        if name in self.found:
            raise Refused(409, "AlreadyExists", f'pods "{name}" already exists')
        stamp = {"uid": str(uuid.uuid4()), "creationTimestamp": _time(datetime.now(UTC))}
        self.found[name] = {**pod, "metadata": pod["metadata"] | stamp, "status": {"phase": "Pending"}}
        return self.found[name]

    def get(self, name: str) -> Manifest:
        if name not in self.found:
            raise Refused(404, "NotFound", f'pods "{name}" not found')
        return self.found[name]

    def delete(self, name: str, grace_s: int | None) -> Manifest:
        pod = self.get(name)
        if grace_s is None:
            grace_s = pod["spec"].get("terminationGracePeriodSeconds", 30)
        if grace_s == 0 or not pod["spec"].get("nodeName") or pod["status"]["phase"] in ENDED:
            return self.found.pop(name)
        due = datetime.now(UTC) + timedelta(seconds=grace_s)
        pod["metadata"].setdefault("deletionTimestamp", _time(due))
        return pod

    def select(self, selector: str) -> list[Manifest]:
        return [pod for pod in self.found.values() if _matches(pod["metadata"].get("labels", {}), selector)]


class _Handler(BaseHTTPRequestHandler):
    pods: Pods
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 (the server's own names)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with self.pods.lock:
                code, body = 200, copy.deepcopy(self._act(json.loads(data) if data else {}))
        except Refused as error:
            code = error.code
            body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
            body |= {"reason": error.reason, "message": str(error)}
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _act(self, body: Manifest) -> Manifest | str:
        url = urlsplit(self.path)
        options = {key: values[0] for key, values in parse_qs(url.query).items()}
        found = re.fullmatch(r"/api/v1/namespaces/[^/]+/(pods|events)(?:/([^/]+))?(?:/(status|log|binding))?", url.path)
        if found is None:
            raise Refused(404, "NotFound", f"no such path: {url.path}")
        kind, name, part = found.groups()
        if kind == "events":
            return (
                "" if options.get("watch") else {"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": []}
            )
        if name is None and self.command == "POST":
            return self.pods.create(body)
        if name is None:
            return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.pods.select(options.get("labelSelector", ""))}  # fmt: skip
        pod = self.pods.get(name)
        if part == "log":
            if "containerStatuses" not in pod["status"]:
                raise Refused(400, "BadRequest", f'container "step" in pod "{name}" is not available')
            return self.pods.logs.get(name, "")
        if part == "binding":
            pod["spec"]["nodeName"] = body["target"]["name"]
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if self.command == "DELETE":
            return self.pods.delete(name, body.get("gracePeriodSeconds"))
        if self.command == "PATCH":
            pod["status"].update(body.get("status", {}))
            pod["metadata"].setdefault("labels", {}).update(body.get("metadata", {}).get("labels", {}))
        return pod


@contextmanager
def api_server() -> Iterator[tuple[str, Pods]]:
    """A server on a free port of this machine: its URL, and the pods that it has."""
    pods = Pods()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"pods": pods}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", pods
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _matches(labels: dict[str, str], selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        key, operator, value = re.fullmatch(r"(!?[^!=]+)(!=|=)?(.*)", term).groups()  # type: ignore[union-attr]
        if operator == "=" and labels.get(key) != value:
            return False
        if operator == "!=" and labels.get(key) == value:
            return False
        if operator is None and (key.removeprefix("!") in labels) == key.startswith("!"):
            return False
    return True


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
