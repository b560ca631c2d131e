"""How each server is asked for rows: the bytes of a request, and the answer out of the bytes of a response."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
from tritonclient.grpc import InferenceServerClient, service_pb2
from tritonclient.utils import shared_memory

from benchmarks.serving.model import COLUMNS, NAME, Floats

GRPC = "/inference.GRPCInferenceService/ModelInfer"
BINARY_HEADER = "Inference-Header-Content-Length"
CLASSES = 2
PREFIX = 5  # bytes before a message of gRPC
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Request:
    """A request that can be sent again and again; `read` makes (rows, 2) float32 of a response's headers and body."""

    url: str
    body: bytes
    read: Callable[[Mapping[str, str], bytes], Floats]
    headers: Mapping[str, str] = field(default_factory=dict)
    http2: bool = False

    def exchange(self) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of one response, outside of any measurement. Raises httpx.HTTPError or grpc.RpcError."""
        if self.http2:
            parts = httpx.URL(self.url)
            with grpc.insecure_channel(f"{parts.host}:{parts.port}", [("grpc.enable_http_proxy", 0)]) as channel:
                return {}, channel.unary_unary(parts.path)(self.body[PREFIX:], timeout=TIMEOUT_S)
        said = httpx.post(self.url, content=self.body, headers=self.headers, timeout=TIMEOUT_S, trust_env=False)
        return said.raise_for_status().headers, said.content


Wire = Callable[[str, Floats], Request]  # a server's address and (rows, COLUMNS) float32


def raw(address: str, rows: Floats) -> Request:
    """Float32 bytes in and out, with nothing around them."""
    headers = {"Content-Type": "application/octet-stream"}
    return Request(f"http://{address}/predict", rows.tobytes(), lambda _, body: _floats(body), headers)


def json_wire(path: str, write: Callable[[list[Any]], object], read: Callable[[Any], object]) -> Wire:
    """JSON: `write` makes the request's value of lists of numbers, `read` finds the answer in the response's."""

    def wire(address: str, rows: Floats) -> Request:
        body = json.dumps(write(rows.tolist())).encode()
        headers = {"Content-Type": "application/json"}
        return Request(f"http://{address}{path}", body, lambda _, said: _both(read(json.loads(said))), headers)

    return wire


def v2_json(model: str) -> Wire:
    """The V2 protocol as JSON."""

    def write(rows: list[Any]) -> object:
        data = [value for row in rows for value in row]
        return {"inputs": [{"name": "numeric", "datatype": "FP32", "shape": [len(rows), COLUMNS], "data": data}]}

    def read(said: Any) -> object:
        return np.reshape(said["outputs"][0]["data"], said["outputs"][0]["shape"])

    return json_wire(f"/v2/models/{model}/infer", write, read)


def v2_binary(model: str) -> Wire:
    """The V2 protocol over HTTP with its extension of binary tensors."""

    def wire(address: str, rows: Floats) -> Request:
        content = rows.tobytes()
        tensor = _tensor(rows, {"binary_data_size": len(content)})
        header = json.dumps({"inputs": [tensor], "outputs": [_output({"binary_data": True})]}).encode()

        def read(headers: Mapping[str, str], body: bytes) -> Floats:
            return _floats(body[int(headers[BINARY_HEADER]) :])

        url = f"http://{address}/v2/models/{model}/infer"
        return Request(url, header + content, read, {BINARY_HEADER: str(len(header))})

    return wire


def v2_grpc(model: str, output: str) -> Wire:
    """The V2 protocol over gRPC, tensors as bytes."""

    def wire(address: str, rows: Floats) -> Request:
        asked = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[rows.tobytes()])
        asked.inputs.add(name="numeric", datatype="FP32", shape=rows.shape)
        asked.outputs.add(name=output)
        message = asked.SerializeToString()

        def read(_: Mapping[str, str], body: bytes) -> Floats:
            said = service_pb2.ModelInferResponse.FromString(body)
            shape = tuple(said.outputs[0].shape)
            content = np.frombuffer(said.raw_output_contents[0], np.float32)
            return _both(content.reshape(shape))

        framed = b"\0" + len(message).to_bytes(4, "big") + message
        return Request(
            f"http://{address}{GRPC}", framed, read, {"content-type": "application/grpc", "te": "trailers"}, True
        )

    return wire


class SharedMemory:
    """The V2 protocol over HTTP, tensors in shared memory that the server is told of over gRPC: two regions a batch."""

    def __init__(self, control: str) -> None:
        self.control = control
        self._regions: list[Any] = []

    def wire(self, address: str, rows: Floats) -> Request:
        """Write the rows into a region of their own; the answer is read from the other."""
        size = len(rows) * CLASSES * rows.itemsize
        name = f"{address.rpartition(':')[2]}_{len(rows)}"
        given, answered = self._region(f"in_{name}", rows.nbytes), self._region(f"out_{name}", size)
        shared_memory.set_shared_memory_region(given, [rows])
        tensor = _tensor(rows, _place(f"in_{name}", rows.nbytes))
        body = json.dumps({"inputs": [tensor], "outputs": [_output(_place(f"out_{name}", size))]}).encode()

        def read(_: Mapping[str, str], body: bytes) -> Floats:
            answer = shared_memory.get_contents_as_numpy(answered, np.float32, [len(rows), CLASSES]).copy()
            shared_memory.set_shared_memory_region(answered, [np.zeros_like(answer)])  # the next is not this one again
            return answer

        return Request(f"http://{address}/v2/models/{NAME}/infer", body, read, {"Content-Type": "application/json"})

    def close(self) -> None:
        """Remove the regions."""
        for region in self._regions:
            shared_memory.destroy_shared_memory_region(region)
        self._regions.clear()

    def _region(self, name: str, size: int) -> Any:
        key = f"/slipway_bench_{name}"
        region = shared_memory.create_shared_memory_region(name, key, size)
        self._regions.append(region)
        with InferenceServerClient(self.control) as client:
            client.register_system_shared_memory(name, key, size, client_timeout=TIMEOUT_S)
        return region


def _tensor(rows: Floats, parameters: Mapping[str, object]) -> dict[str, object]:
    return {"name": "numeric", "datatype": "FP32", "shape": list(rows.shape), "parameters": parameters}


def _output(parameters: Mapping[str, object]) -> dict[str, object]:
    return {"name": "probabilities", "parameters": parameters}


def _place(region: str, size: int) -> dict[str, object]:
    return {"shared_memory_region": region, "shared_memory_byte_size": size}


def _floats(content: bytes) -> Floats:
    return np.frombuffer(content, np.float32).reshape(-1, CLASSES)


def _both(answer: object) -> Floats:
    """(rows, 2) float32, from that or from the probability of the second class alone."""
    found = np.asarray(answer, dtype=np.float32)
    if found.ndim == 2 and found.shape[1] == CLASSES:
        return found
    return np.stack([1 - found.ravel(), found.ravel()], axis=1)
