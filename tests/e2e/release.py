"""An installed release, as the platform team and its users reach it: helm, kubectl, port-forwards."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from dags.pod import PodPolicy, rollback_pod, step_pod
from pipeline.graph import STEPS, Task
from pipeline.settings import Settings
from pipeline.spec_file import load_spec
from serving.probe import missing_row, served_schema
from serving.triton import TritonClient
from tests.support.polling import wait_for

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT / ".tools"
CHART = CHECKOUT / "helm" / "slipway"
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@dataclass
class Release:
    """The chart in a namespace of the cluster of KUBECONFIG; `values` are those that this cluster needs."""

    namespace: str
    values: Path
    name: str = "slipway"
    settings: Settings = field(default_factory=Settings)

    def helm(self, *arguments: str, timeout_s: float = 1500) -> str:
        return _run(str(TOOLS / "helm"), "--namespace", self.namespace, *arguments, timeout_s=timeout_s)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return _run(str(TOOLS / "kubectl"), "--namespace", self.namespace, *arguments, stdin=stdin)

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        return list(json.loads(self.kubectl("get", kind, *arguments, "-o", "json"))["items"])

    def names(self, kind: str, *arguments: str) -> set[str]:
        return {str(item["metadata"]["name"]) for item in self.get(kind, *arguments)}

    def upgrade(self, values: dict[str, Any], *arguments: str) -> str:
        """Install or upgrade with the cluster's values and these."""
        own = yaml.safe_dump(values)
        command = ["upgrade", "--install", self.name, str(CHART), "--values", str(self.values), "--values", "-"]
        return _run(
            str(TOOLS / "helm"), "--namespace", self.namespace, *command, "--wait", "--timeout", "15m", *arguments,
            stdin=own, timeout_s=1000,
        )  # fmt: skip

    def as_role(self, role: Literal["steps", "promoter"], *command: str) -> str:
        """What a command says in a pod of that role, made from the policy as Airflow makes a step's. Fails as it does."""
        text = json.loads(self.kubectl("get", "configmap", f"{self.name}-policy", "-o", "json"))["data"]["pods.yaml"]
        policy = PodPolicy.model_validate_json(json.dumps(yaml.safe_load(text)))
        pod = rollback_pod(policy, "e2e", "e2e") if role == "promoter" else _steps_pod(policy)
        name = f"as-{role}-{uuid.uuid4().hex[:6]}"
        pod["metadata"] |= {"name": name}
        pod["metadata"]["labels"] |= {"app.kubernetes.io/component": "e2e"}
        pod["spec"]["containers"][0]["command"] = list(command)
        self.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
        try:
            phase = wait_for(
                lambda: self._end(name), lambda: self.kubectl("get", "pod", name), seconds=240, interval_s=1
            )
            said = self.kubectl("logs", name)
            assert phase == "Succeeded", said
            return said
        finally:
            self.kubectl("delete", "pod", name, "--wait=false")

    def _end(self, pod: str) -> str:
        """Return the phase of a pod that has ended; of another one nothing."""
        phase = str(json.loads(self.kubectl("get", "pod", pod, "-o", "json"))["status"]["phase"])
        return phase if phase in ("Succeeded", "Failed") else ""

    def secret(self, name: str, key: str) -> str:
        found = json.loads(self.kubectl("get", "secret", name, "-o", "json"))
        return base64.b64decode(found["data"][key]).decode()

    @contextlib.contextmanager
    def forward(self, service: str, port: int) -> Iterator[str]:
        """127.0.0.1:port of a Service."""
        command = [
            str(TOOLS / "kubectl"),
            "--namespace",
            self.namespace,
            "port-forward",
            f"service/{service}",
            f":{port}",
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                said = process.stdout.readline() if process.stdout else ""
                found = FORWARDING.match(said)
                assert found is not None, said
                yield f"127.0.0.1:{found[1]}"
            finally:
                process.terminate()

    def deployment(self, model: str) -> str:
        """The Deployment of the version that serves."""
        return f"{self.name}-model-{model.replace('_', '-')}-v{self.serves(model)}"

    def serves(self, model: str) -> int:
        """The version of the model that answers at its Service."""
        with self.forward(f"{self.name}-model-{model}", 8001) as address, TritonClient(address, 30.0) as client:
            return int(client.parameters(model)["version"])


@dataclass
class Client:
    """Asks a model without a pause through its Service, as an application with one retry; remembers who answered."""

    release: Release
    model: str
    versions: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=self._ask, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)

    def _ask(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self._once(stop)
            except Exception as error:  # noqa: BLE001 (any failure is what the test looks for)
                self.failures.append(str(error))
                time.sleep(0.5)

    def _once(self, stop: threading.Event) -> None:
        """Ask some forty times by one connection: a forwarded one stays with its pod."""
        service = f"{self.release.name}-model-{self.model}"
        with self.release.forward(service, 8001) as address, TritonClient(address, 30.0) as client:
            schema = served_schema(client, self.model)
            for _ in range(40):
                client.infer(self.model, missing_row(schema), schema.output)
                self.versions.append(int(client.parameters(self.model)["version"]))
                if stop.wait(0.05):
                    return


def _steps_pod(policy: PodPolicy) -> dict[str, Any]:
    """The first step's pod, of a pipeline that does not matter."""
    path = CHART / "files" / "breast_cancer.yaml"
    return step_pod(policy, Task(STEPS[0]), load_spec(path), path, "e2e", {})


def _run(*command: str, stdin: str | None = None, timeout_s: float = 120) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command[:8])}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
