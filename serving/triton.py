"""Triton over gRPC: control, health by real answers, inference. The one importer of tritonclient."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pipeline.errors import Invalid, SlipwayError, Unavailable

if TYPE_CHECKING:  # brings pandas, which the watcher would carry for nothing
    from pipeline.tensors import Tensors

Floats = npt.NDArray[np.float32]
LOAD_TIMEOUT_S = 120.0  # a large graph takes its time
_REFUSED = (
    "StatusCode.INVALID_ARGUMENT",
    "StatusCode.NOT_FOUND",
    "StatusCode.UNIMPLEMENTED",
    None,
)  # None: by the client
_SILENT = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")
_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # the servers are this machine's or the cluster's own
    ("grpc.initial_reconnect_backoff_ms", 200),  # a server that starts again is found at once
]


class TritonClient:
    """A connection to one server; safe to share among threads.

    Raises:
        Unavailable: the server, or the model, does not answer. A retry helps.
        Invalid: the server refuses the call (an unknown model, a wrong shape). A retry does not help.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._client = grpc.InferenceServerClient(address, channel_args=_CHANNEL)

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise _failure(what, self.address, error) from error

    def ready(self) -> bool:
        """Whether the server says that it is ready."""
        try:
            return bool(self._client.is_server_ready(client_timeout=self.timeout_s))
        except InferenceServerException:
            return False

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether the server says that the model is loaded. It says so of one that is stuck too: ask it a row."""
        try:
            return bool(self._client.is_model_ready(name, version, client_timeout=self.timeout_s))
        except InferenceServerException:
            return False

    def load(self, name: str, config: Mapping[str, Any] | None = None) -> None:
        """Load or reload a model from the repository; on failure the loaded version serves on.

        `config` stands in for the repository's until the next load.
        """
        text = None if config is None else json.dumps(config)
        with self._answering(f"load of {name}"):
            try:
                self._client.load_model(name, config=text, client_timeout=LOAD_TIMEOUT_S)
            except InferenceServerException as error:
                if error.status() in _SILENT:
                    raise
                remedy = "look at its files in the model repository; what was loaded before serves on"
                raise Invalid(f"Triton cannot load {name}: {_said(error)}", self.address, remedy) from error

    def unload(self, name: str) -> None:
        """Unload a model, if it is loaded."""
        with self._answering(f"unload of {name}"):
            self._client.unload_model(name, client_timeout=self.timeout_s)

    def model_config(self, name: str, version: str = "") -> dict[str, Any]:
        """The configuration that is loaded, as JSON."""
        with self._answering(f"configuration of {name}"):
            found = self._client.get_model_config(name, version, as_json=True, client_timeout=self.timeout_s)
            return dict(found["config"])

    def parameters(self, name: str, version: str = "") -> dict[str, str]:
        """The `parameters` of the loaded configuration."""
        found = self.model_config(name, version).get("parameters", {})
        return {key: str(value.get("string_value", "")) for key, value in found.items()}

    def index(self) -> list[dict[str, str]]:
        """Every model version of the repository with its state and the reason of a failure."""
        with self._answering("the repository's index"):
            found = self._client.get_model_repository_index(as_json=True, client_timeout=self.timeout_s)
            items = [dict(item) for item in found.get("models", [])]
        return [{**item, "reason": _sentence(item["reason"])} if "reason" in item else item for item in items]

    def executions(self, name: str) -> int:
        """How many batches the loaded model has answered or failed, all versions together."""
        with self._answering(f"statistics of {name}"):
            found = self._client.get_inference_statistics(name, as_json=True, client_timeout=self.timeout_s)
        return sum(
            int(item.get("execution_count", 0)) + int(item.get("inference_stats", {}).get("fail", {}).get("count", 0))
            for item in found.get("model_stats", [])
        )

    def infer(self, name: str, tensors: Tensors, output: str, version: str = "") -> Floats:
        """(rows, width) float32: the model's answer to one request."""
        with self._answering(f"inference of {name}"):
            result = self._client.infer(
                name,
                [_input(key, value) for key, value in tensors.items()],
                model_version=version,
                outputs=[grpc.InferRequestedOutput(output)],
                client_timeout=self.timeout_s,
            )
        answer = result.as_numpy(output)
        if answer is None:
            raise Unavailable(f"{name} answered without {output!r}", self.address, "look at the server's log")
        return np.asarray(answer, dtype=np.float32)

    def replay(self, name: str, tensors: Tensors, output: str, version: str = "", batch: int = 256) -> Floats:
        """(rows, width) float32: every row's answer, in order, in requests of `batch` rows. Invalid without rows."""
        rows = max((len(value) for value in tensors.values()), default=0)
        if rows == 0:
            raise Invalid(f"no rows to ask {name} about", self.address, "give it at least one")
        parts = [
            self.infer(name, {key: value[at : at + batch] for key, value in tensors.items()}, output, version)
            for at in range(0, rows, batch)
        ]
        return np.concatenate(parts)


def _input(name: str, value: npt.NDArray[np.generic]) -> Any:
    kind = np_to_triton_dtype(value.dtype)
    if kind is None:
        raise Invalid(f"Triton has no type for {value.dtype}", f"input {name}", "send numbers, booleans or text")
    tensor = grpc.InferInput(name, list(value.shape), kind)
    try:
        tensor.set_data_from_numpy(value)
    except UnicodeEncodeError as error:
        raise Invalid(f"{error.object!r} is no valid text", f"input {name}", "send characters of Unicode") from error
    return tensor


def _failure(what: str, address: str, error: InferenceServerException) -> SlipwayError:
    """Triton's refusal or failure in the house's terms."""
    message, status = _said(error), error.status()
    if status in _REFUSED:
        if "unknown model" in message:
            return Invalid(f"{what}: it is not loaded: {message}", address, "load it, or promote a version of it")
        return Invalid(f"{what}: Triton refuses: {message}", address, "correct the request")
    if "not at ready state" in message:
        remedy = "wait until it is loaded; load it when it was unloaded"
        return Unavailable(f"{what}: it is not ready: {message}", address, remedy)
    if status in _SILENT:
        remedy = "start it with `slipway up` (in a cluster, look at its pods), or wait for it"
        return Unavailable(f"{what}: Triton does not answer: {message}", address, remedy)
    return Unavailable(f"{what}: Triton fails: {message}", address, "look at the server's log")


def _said(error: InferenceServerException) -> str:
    return _sentence(str(error.message()))


def _sentence(text: str) -> str:
    """What the server said, on one line, without its request id and its advice."""
    text = text.removeprefix("[request id: <id_unknown>] ").split(" NOTE: ", maxsplit=1)[0]
    return " ".join(text.split())[:400]


def parse_config(text: str) -> dict[str, Any]:
    """A config.pbtxt as JSON, read by Triton's own schema. Raises Invalid with the line when it is none."""
    from google.protobuf import json_format, text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # noqa: PLC0415

    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise Invalid(f"not a model configuration: {error}", "config.pbtxt", "make it anew") from error
    return dict(json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True)))
