"""config.pbtxt of a version: the text that NVIDIA's container and the embedded server read alike."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, RowSchema
from pipeline.serving_rules import Serving

FILE = "config.pbtxt"
MODEL_FILE = "model.onnx"
PLANS = "/tmp/slipway-tensorrt-"  # noqa: S108 (in a container that has no other user)
COLUMNS = "columns"  # the parameter that holds the RowSchema


def model_config(
    name: str, version: int, schema: RowSchema, serving: Serving, facts: Mapping[str, str], warm_rows: int = 1
) -> str:
    """The configuration that serves exactly `version`; `facts` (run, digests) go into its parameters.

    Before the version is said to be ready, each instance has answered one row, and a request of `warm_rows`.

    The digest among them also makes Triton reload: a configuration equal to the loaded one is ignored in silence.
    """
    backend: str = serving.backend
    by_plan = backend == "tensorrt"  # a part of ONNX Runtime, in NVIDIA's server
    parameters = {
        COLUMNS: schema.model_dump_json(),
        "version": str(version),
        "intra_op_thread_count": str(serving.threads),
        "inter_op_thread_count": "1",
        **facts,
    }
    blocks = [
        f"name: {_quote(name)}",
        f"backend: {_quote('onnxruntime' if by_plan else backend)}",
        f"max_batch_size: {serving.max_batch_size}",
        *(_tensor("input", *item) for item in _inputs(schema)),
        _tensor("output", schema.output, "TYPE_FP32", schema.width),
        # every request of a batch goes into one run of the graph
        f"dynamic_batching {{ max_queue_delay_microseconds: {serving.max_queue_delay_us} }}",
        # KIND_AUTO: a GPU where there is one; KIND_GPU fails to load without
        f"instance_group [ {{ count: {serving.instances} kind: KIND_AUTO }} ]",
        # one version at a time: its directory is immutable, and traffic moves by this line alone
        f"version_policy {{ specific {{ versions: [ {version} ] }} }}",
        *([_tensorrt(facts.get("digest", ""))] if by_plan else []),
        # a plan is built for as many rows as have been asked: for the most now, or again under traffic
        _warmup(schema, sorted({1, serving.max_batch_size if by_plan else min(warm_rows, serving.max_batch_size)})),
        *(
            f"parameters {{ key: {_quote(key)} value {{ string_value: {_quote(value)} }} }}"
            for key, value in sorted(parameters.items())
        ),
    ]
    return "\n".join(blocks) + "\n"


def _inputs(schema: RowSchema) -> list[tuple[str, str, int]]:
    """Name, type and columns of each request tensor that the schema has."""
    every = [
        (NUMERIC, "TYPE_FP32", len(schema.numeric)),
        (CATEGORICAL, "TYPE_STRING", len(schema.categorical)),
        (TIMESTAMP, "TYPE_INT64", len(schema.timestamp)),
    ]
    return [item for item in every if item[2]]


def _tensor(kind: str, name: str, data_type: str, columns: int) -> str:
    return f"{kind} [ {{ name: {_quote(name)} data_type: {data_type} dims: [ {columns} ] }} ]"


def _tensorrt(digest: str) -> str:
    """The parts of the graph that TensorRT can compute are plans of it.

    ONNX Runtime names a plan by the graph's shape, the GPU's SM and TensorRT's version, and not by the weights
    (`trt_engine_cache_path` of its TensorRT provider): so each digest has a folder of its own.
    """
    parameters = {"precision_mode": "FP32", "trt_engine_cache_enable": "true", "trt_engine_cache_path": PLANS + digest}
    shown = " ".join(f"parameters {{ key: {_quote(key)} value: {_quote(value)} }}" for key, value in parameters.items())
    accelerator = f'{{ name: "tensorrt" {shown} }}'
    return f"optimization {{ execution_accelerators {{ gpu_execution_accelerator: [ {accelerator} ] }} }}"


def _warmup(schema: RowSchema, sizes: list[int]) -> str:
    """Requests of so many rows before the version is said to be ready, so that the first one is not the slow one."""
    inputs = " ".join(
        f"inputs {{ key: {_quote(name)} value {{ data_type: {data_type} dims: [ {columns} ] zero_data: true }} }}"
        for name, data_type, columns in _inputs(schema)
    )
    warm = [f'{{ name: "rows {rows}" batch_size: {rows} {inputs} }}' for rows in sizes]
    return f"model_warmup [ {', '.join(warm)} ]"


def _quote(text: str) -> str:
    """A protobuf text string: JSON's escapes are a subset of its own once non-ASCII is written as UTF-8 bytes."""
    return json.dumps(text, ensure_ascii=False)
