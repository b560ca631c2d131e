"""A real tritonserver with tiny graphs to serve, started as the stack starts it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import onnx
from onnx import TensorProto, helper

from pipeline.settings import Settings
from pipeline.sweep import mark
from serving.places import repository
from serving.server import program
from serving.triton import TritonClient
from tests.support.polling import wait_for
from tests.support.settings import own_settings

CONFIG = """backend: "onnxruntime"
max_batch_size: 64
input [
  {{ name: "numeric" data_type: TYPE_FP32 dims: [ 3 ] }},
  {{ name: "categorical" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [ {{ name: "prediction" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
version_policy {{ specific {{ versions: [ {version} ] }} }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}
"""


@dataclass
class RealTriton:
    """A tritonserver of its own home; `start` and `kill` as often as a test wants."""

    settings: Settings
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.settings.home / "triton.log"

    @property
    def repository(self) -> Path:
        return repository(self.settings)

    def client(self, timeout_s: float = 10.0) -> TritonClient:
        return TritonClient(self.settings.triton_grpc, timeout_s)

    def start(self) -> None:
        described = program(self.settings)
        described.prepare()
        bare = (*described.argv[described.argv.index("--") + 1 :], "--load-model=*")  # these models have no packages
        with self.log.open("ab") as log:
            env = {**os.environ, **described.env, **mark(self.settings.home), **self.env}
            self.process = subprocess.Popen(bare, env=env, stdout=log, stderr=log, start_new_session=True)
        wait_for(lambda: self._is_ready(described.ready_url), self.log.read_text, seconds=described.ready_timeout_s)

    def _is_ready(self, url: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return _answers(url)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(20)

    def end(self) -> None:
        """The server, however it is."""
        if self.process is not None:
            for number in (signal.SIGCONT, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, number)
            self.process.wait(20)

    def write(self, name: str, version: int, scale: float, delay_us: int = 0) -> None:
        """A version that answers scale * sum(numeric) + the number of its category, and is the one to be served."""
        folder = self.repository / name
        (folder / str(version)).mkdir(parents=True)
        onnx.save(sum_graph(scale), folder / str(version) / "model.onnx")
        self.choose(name, version, delay_us)

    def choose(self, name: str, version: int, delay_us: int = 0) -> None:
        (self.repository / name / "config.pbtxt").write_text(CONFIG.format(version=version, delay_us=delay_us))


def sum_graph(scale: float) -> onnx.ModelProto:
    """numeric (N, 3) float32, categorical (N, 1) string -> prediction (N, 1) float32; x is 1, y is 2, others 0."""
    nodes = [
        helper.make_node("ReduceSum", ["numeric", "axes"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "scale"], ["scaled"]),
        helper.make_node(
            "LabelEncoder",
            ["categorical"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["x", "ü"],
            values_floats=[1.0, 2.0],
            default_float=0.0,
        ),
        helper.make_node("Add", ["scaled", "code"], ["prediction"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale]),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["N", 3]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, ["N", 1]),
    ]
    return model(nodes, inputs, [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["N", 1])], constants)


def model(nodes: list, inputs: list, outputs: list, constants: list) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@contextmanager
def running(home: Path, env: Mapping[str, str]) -> Iterator[RealTriton]:
    triton = RealTriton(own_settings(home=home), env)
    home.mkdir(parents=True, exist_ok=True)
    try:
        yield triton
    finally:
        triton.end()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False
