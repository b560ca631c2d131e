"""The servers that are measured, and the ways to ask each."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.serving import wires
from benchmarks.serving.environments import python
from benchmarks.serving.model import NAME, TREES, Subject, place
from benchmarks.serving.results import GRPC, HTTP, SHARED, TREES_GRPC, TREES_HTTP
from pipeline.ports import free_ports
from pipeline.serving_rules import Serving
from pipeline.settings import Settings
from serving.server import program

HOST = "127.0.0.1"
PEERS = Path(__file__).parent / "peers"
QUIET = {
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "UVICORN_LOG_LEVEL": "warning",
}


@dataclass(frozen=True)
class Server:
    """What to start, and when it serves (`ready` answers 200); `ways` to ask it, by their names in the report.

    A way is an address and a wire.
    """

    name: str
    argv: tuple[str, ...]
    ready: str
    ways: Mapping[str, tuple[str, wires.Wire]]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


@dataclass(frozen=True)
class Setting:
    """For what servers are made: a folder for their files, the environments, how many workers each has, the model."""

    folder: Path
    environments: Path
    workers: int
    subject: Subject

    def python(self, environment: str) -> str:
        """The Python of a peer's environment."""
        return str(python(self.environments, environment))

    def files(self, name: str) -> Path:
        """The folder of a peer's own files."""
        return self.folder / name

    def peer(self, name: str, argv: tuple[str, ...], port: int, ready: str, ways: Mapping[str, wires.Wire]) -> Server:
        """A peer that listens on one port; one thread an inference, as Slipway configures it."""
        folder = self.files(name)
        folder.mkdir()
        env = {"MODEL": str(self.subject.onnx), "WORKERS": str(self.workers), "OMP_NUM_THREADS": "1"}
        env |= {"PYTHONPATH": str(PEERS), "BENTOML_HOME": str(folder), **QUIET}
        env["PATH"] = os.pathsep.join([str(Path(argv[0]).parent), os.environ["PATH"]])
        address = f"{HOST}:{port}"
        return Server(
            name, argv, f"http://{address}{ready}", {key: (address, wire) for key, wire in ways.items()}, env, folder
        )


def triton(setting: Setting, memory: wires.SharedMemory, ports: tuple[int, int, int]) -> Server:
    """The embedded Triton, as `slipway up` starts it, an instance for each core."""
    names = ("triton_http_port", "triton_grpc_port", "triton_metrics_port")
    settings = Settings.model_validate(
        {"home": setting.folder / "triton", "host": HOST, **dict(zip(names, ports, strict=True))}
    )
    place(setting.subject, settings, Serving(instances=setting.workers))
    described = program(settings)
    if described.prepare is not None:
        described.prepare()
    argv = (
        *described.argv[described.argv.index("--") + 1 :],
        f"--load-model={NAME}",  # a package would be verified first
        *([f"--load-model={TREES}"] if setting.subject.trees else []),
    )
    http, grpc = f"{HOST}:{ports[0]}", f"{HOST}:{ports[1]}"
    ways = {
        HTTP: (http, wires.v2_binary(NAME)),
        GRPC: (grpc, wires.v2_grpc(NAME, "probabilities")),
        SHARED: (http, memory.wire),
    }
    if setting.subject.trees:
        ways[TREES_HTTP] = (http, wires.v2_binary(TREES))
        ways[TREES_GRPC] = (grpc, wires.v2_grpc(TREES, "probabilities"))
    return Server("Slipway", argv, f"http://{http}/v2/models/{NAME}/ready", ways, described.env)


def fastapi(setting: Setting, file: str, name: str, wire: wires.Wire) -> Server:
    """uvicorn with a worker for each core."""
    (port,) = free_ports(HOST, 1)
    argv = (setting.python("fastapi"), "-m", "uvicorn", f"{file}:app", "--host", HOST, "--port", str(port))
    argv += ("--workers", str(setting.workers), "--no-access-log", "--log-level", "warning")
    return setting.peer(name, argv, port, "/docs", {name: wire})


def bentoml(setting: Setting) -> Server:
    """`bentoml serve`."""
    (port,) = free_ports(HOST, 1)
    argv = (setting.python("bentoml"), "-m", "bentoml", "serve", "bento_service:Bench", "--working-dir", str(PEERS))
    argv += ("--host", HOST, "--port", str(port), "--quiet")
    wire = wires.json_wire("/predict", lambda rows: {"rows": rows}, lambda said: said)
    return setting.peer("BentoML", argv, port, "/readyz", {"BentoML": wire})


def litserve(setting: Setting) -> Server:
    """LitServe's own server."""
    (port,) = free_ports(HOST, 1)
    argv = (setting.python("litserve"), str(PEERS / "lit_service.py"), str(port))
    wire = wires.json_wire("/predict", lambda rows: {"rows": rows}, lambda said: said["probabilities"])
    return setting.peer("LitServe", argv, port, "/health", {"LitServe": wire})


def mlflow(setting: Setting) -> Server:
    """`mlflow models serve` of the graph, saved with the flavour onnx. Raises subprocess.CalledProcessError."""
    (port,) = free_ports(HOST, 1)
    saved = setting.folder / "saved"
    command = [setting.python("mlflow"), str(PEERS / "mlflow_save.py"), str(setting.subject.onnx), str(saved)]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=setting.folder)
    argv = (setting.python("mlflow"), "-m", "mlflow", "models", "serve", "--model-uri", str(saved), "--host", HOST)
    argv += ("--port", str(port), "--env-manager", "local", "--workers", str(setting.workers))
    wire = wires.json_wire(
        "/invocations", lambda rows: {"inputs": {"numeric": rows}}, lambda said: said["predictions"]["probabilities"]
    )
    return setting.peer("mlflow models serve", argv, port, "/health", {"mlflow models serve": wire})


def mlserver(setting: Setting, runtime: str, workers: int) -> Server:
    """MLServer; `runtime` is `onnx` (a custom one) or `xgboost` (its own). Without workers it infers where it listens."""
    http, grpc, metrics = free_ports(HOST, 3)
    name, model = f"MLServer {runtime}{'' if workers else ', one process'}", f"{NAME}_{runtime}"
    argv = (str(Path(setting.python("mlserver")).with_name("mlserver")), "start", ".")
    server = setting.peer(name, argv, http, f"/v2/models/{model}/ready", {f"{name}, HTTP": wires.v2_json(model)})
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    implementation = {"onnx": "mlserver_onnx.OnnxModel", "xgboost": "mlserver_xgboost.XGBoostModel"}[runtime]
    path = {"onnx": setting.subject.onnx, "xgboost": setting.subject.booster}[runtime]
    for file, value in (
        ("settings.json", {"host": HOST, **ports, "debug": False, "parallel_workers": workers}),
        ("model-settings.json", {"name": model, "implementation": implementation, "parameters": {"uri": str(path)}}),
    ):
        (setting.files(name) / file).write_text(json.dumps(value), encoding="utf-8")
    output = {"onnx": "probabilities", "xgboost": "predict"}[runtime]
    ways = {**server.ways, f"{name}, gRPC": (f"{HOST}:{grpc}", wires.v2_grpc(model, output))}
    return replace(server, ways=ways)


def peers(setting: Setting) -> dict[str, tuple[str, Callable[[], Server]]]:
    """Name of each peer, its environment, and what makes it."""
    rows = wires.json_wire("/predict", lambda rows: {"rows": rows}, lambda said: said["probabilities"])
    raw_name = f"FastAPI, raw bytes, {setting.workers} workers"
    found: dict[str, tuple[str, Callable[[], Server]]] = {
        raw_name: ("fastapi", lambda: fastapi(setting, "fastapi_raw", raw_name, wires.raw)),
        "FastAPI, JSON": ("fastapi", lambda: fastapi(setting, "fastapi_json", "FastAPI, JSON", rows)),
        "MLServer onnx": ("mlserver", lambda: mlserver(setting, "onnx", setting.workers)),
        "MLServer onnx, one process": ("mlserver", lambda: mlserver(setting, "onnx", 0)),
        "MLServer xgboost": ("mlserver", lambda: mlserver(setting, "xgboost", setting.workers)),
        "BentoML": ("bentoml", lambda: bentoml(setting)),
        "LitServe": ("litserve", lambda: litserve(setting)),
        "mlflow models serve": ("mlflow", lambda: mlflow(setting)),
    }
    if setting.subject.booster is None:
        del found["MLServer xgboost"]
    return found
