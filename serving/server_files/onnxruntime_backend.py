"""Triton's backend `onnxruntime` by the Python package of that name: serves the repository of NVIDIA's native backend.

Runs inside Triton's Python stub, with its own environment: it imports nothing of Slipway.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(int64)": "TYPE_INT64",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int8)": "TYPE_INT8",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
}
FILE = "model.onnx"
LEVELS = {  # optimization.graph.level, as NVIDIA's backend reads it; everything is on without
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One instance of a model: a session, and the batches that it answers."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Fill inputs and outputs that config.pbtxt leaves out, from the graph."""
        described = config.as_dict()
        if described["input"] and described["output"]:
            return config
        version = Path(Path("/proc/self/cmdline").read_bytes().split(b"\0")[1].decode()).parent  # said nowhere else
        path = version / (described.get("default_model_filename") or FILE)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        batched = described.get("max_batch_size", 0) > 0
        for declared, nodes in (
            (described["input"], session.get_inputs()),
            (described["output"], session.get_outputs()),
        ):
            names = {item["name"] for item in declared}
            declared.extend(_described(node, batched) for node in nodes if node.name not in names)
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's graph with the options of config.pbtxt."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"numpy {np.__version__} makes this server answer with zero bytes: install numpy<2 beside the backend"
            )
        config = json.loads(args["model_config"])
        first = args["model_instance_name"].endswith("_0")  # says for all what would be said by each
        if first and config.get("optimization", {}).get("execution_accelerators"):
            pb_utils.Logger.log_warn("execution_accelerators have no effect in this backend: ONNX Runtime's own run")
        file = config.get("default_model_filename") or FILE
        path = Path(args["model_repository"]) / args["model_version"] / file
        self.names = [item["name"] for item in config["output"]]
        providers = _providers(args["model_instance_kind"], first)
        self.session = ort.InferenceSession(str(path), _session_options(config), providers=providers)
        self.batched = config.get("max_batch_size", 0) > 0

    def execute(self, requests: list[Any]) -> list[Any]:
        """One run for all requests of a batch; when it fails, one by one, so that a bad request hurts itself alone."""
        inputs = [self._inputs(request) for request in requests]
        if len(requests) > 1 and self.batched:
            try:
                return self._together(requests, inputs)
            except Exception:  # noqa: BLE001, S110 (whatever it was, each request gets its own answer below)
                pass
        return [self._alone(request, one) for request, one in zip(requests, inputs, strict=True)]

    def _together(self, requests: list[Any], inputs: list[dict[str, np.ndarray]]) -> list[Any]:
        sizes = [len(next(iter(one.values()))) for one in inputs]
        joined = {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}
        outputs = self.session.run(self.names, joined)
        ends = np.cumsum(sizes)
        return [
            self._response(request, [output[end - size : end] for output in outputs])
            for request, size, end in zip(requests, sizes, ends, strict=True)
        ]

    def _alone(self, request: Any, inputs: dict[str, np.ndarray]) -> Any:
        try:
            return self._response(request, self.session.run(self.names, inputs))
        except Exception as error:  # noqa: BLE001 (the client is told; the server serves on)
            kind = pb_utils.TritonError.INVALID_ARG if _by_input(error) else pb_utils.TritonError.INTERNAL
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), kind))

    def _response(self, request: Any, outputs: list[np.ndarray]) -> Any:
        wanted = set(request.requested_output_names())
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, np.ascontiguousarray(output))
                for name, output in zip(self.names, outputs, strict=True)
                if name in wanted
            ]
        )

    def _inputs(self, request: Any) -> dict[str, np.ndarray]:
        found = {}
        for tensor in request.inputs():
            value = tensor.as_numpy()
            if value.dtype == np.object_:
                texts = [item.decode("utf-8", "replace") for item in value.ravel()]
                value = np.array(texts, dtype=object).reshape(value.shape)
            found[tensor.name()] = value
        return found


def _session_options(config: dict[str, Any]) -> ort.SessionOptions:
    """The options of config.pbtxt that NVIDIA's backend knows, by the same names."""
    options = {key: item.get("string_value", "") for key, item in config.get("parameters", {}).items()}
    level = config.get("optimization", {}).get("graph", {}).get("level")
    result = ort.SessionOptions()
    result.intra_op_num_threads = int(options.get("intra_op_thread_count") or 0)
    result.inter_op_num_threads = int(options.get("inter_op_thread_count") or 0)
    if options.get("execution_mode") == "1":
        result.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if level in LEVELS:
        result.graph_optimization_level = LEVELS[level]
    result.log_severity_level = 3
    return result


def _providers(kind: str, first: bool) -> list[str]:
    """CUDA where the instance lies on a GPU and the package has it; a GPU that cannot be used is said once."""
    if kind == "GPU":
        if "CUDAExecutionProvider" in ort.get_available_providers():
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]
        if first:
            pb_utils.Logger.log_warn("this onnxruntime has no CUDA: the instance answers from the CPU")
    return ["CPUExecutionProvider"]


def _described(node: Any, batched: bool) -> dict[str, Any]:
    """A graph's input or output in the terms of config.pbtxt."""
    dims = [size if isinstance(size, int) else -1 for size in node.shape][1 if batched else 0 :]
    described = {"name": node.name, "data_type": TYPES[node.type], "dims": dims or [1]}
    if not dims:  # one value a row, such as a label: Triton knows no empty dims
        described["reshape"] = {"shape": []}
    return described


def _by_input(error: Exception) -> bool:
    """Whether ONNX Runtime blames the values or shapes of the request."""
    return type(error).__name__ == "InvalidArgument" or "out of bounds" in str(error)
