"""The features as an ONNX graph: request tensors to matrix, the arithmetic of training/features.py to the bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP
from pipeline.tensors import MISSING_TIMESTAMP
from training.features import CLOCK, Features

IR_VERSION = 8  # read by ONNX Runtime since 1.11
MATRIX = "matrix"
ROWS = "rows"


@dataclass
class _Graph:
    """Nodes and constants, with names made as they come."""

    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, op: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        """A node with one output; its name."""
        name = f"features_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{name}_{op}", domain=domain, **attributes))
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        """A constant's name."""
        name = f"features_c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name


def features_graph(features: Features, opset: int, ml_opset: int) -> ModelProto:
    """The request tensors (those for which the schema has columns) -> matrix (rows, width) float32.

    numeric (rows, n) float32, categorical (rows, m) string, timestamp (rows, t) int64.
    """
    schema = features.row_schema
    graph = _Graph()
    inputs, parts = [], []
    if schema.numeric:
        inputs.append(helper.make_tensor_value_info(NUMERIC, TensorProto.FLOAT, [ROWS, len(schema.numeric)]))
        parts.append(_numbers(graph))
    if schema.timestamp:
        inputs.append(helper.make_tensor_value_info(TIMESTAMP, TensorProto.INT64, [ROWS, len(schema.timestamp)]))
        parts += [_clock(graph, at) for at in range(len(schema.timestamp))]
    if schema.categorical:
        inputs.append(helper.make_tensor_value_info(CATEGORICAL, TensorProto.STRING, [ROWS, len(schema.categorical)]))
        parts += [_codes(graph, at, features.categories[name]) for at, name in enumerate(schema.categorical)]
    graph.nodes.append(helper.make_node("Concat", parts, [MATRIX], name="features_concat", axis=1))
    output = helper.make_tensor_value_info(MATRIX, TensorProto.FLOAT, [ROWS, len(features.names)])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", ml_opset)]
    proto = helper.make_graph(graph.nodes, "features", inputs, [output], graph.constants)
    return helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="slipway")


def _numbers(graph: _Graph) -> str:
    """Infinite numbers are missing, as NaN is."""
    infinite = graph.add("IsInf", [NUMERIC])
    return graph.add("Where", [infinite, graph.constant(math.nan, np.float32), NUMERIC])


def _clock(graph: _Graph, at: int) -> str:
    """The integers of `Clock`, for one column."""
    column = graph.add("Gather", [TIMESTAMP, graph.constant([at], np.int64)], axis=1)
    missing = graph.add("Equal", [column, graph.constant(MISSING_TIMESTAMP, np.int64)])
    seconds = graph.add("Where", [missing, graph.constant(0, np.int64), column])
    parts = []
    for clock in CLOCK:
        value = _floor_div(graph, seconds, clock.divide)
        if clock.add:
            value = graph.add("Add", [value, graph.constant(clock.add, np.int64)])
        if clock.times != 1:
            value = graph.add("Mul", [value, graph.constant(clock.times, np.int64)])
        if clock.remainder:
            value = graph.add("Mod", [value, graph.constant(clock.remainder, np.int64)], fmod=0)
        if clock.then != 1:
            value = _floor_div(graph, value, clock.then)
        parts.append(graph.add("Cast", [value], to=TensorProto.FLOAT))
    joined = graph.add("Concat", parts, axis=1)
    return graph.add("Where", [missing, graph.constant(math.nan, np.float32), joined])


def _floor_div(graph: _Graph, value: str, by: int) -> str:
    """Division in ONNX rounds to zero: one less where a negative value leaves a remainder (no step can overflow)."""
    divisor = graph.constant(by, np.int64)
    zero = graph.constant(0, np.int64)
    remains = graph.add("Not", [graph.add("Equal", [graph.add("Mod", [value, divisor], fmod=0), zero])])
    below = graph.add("And", [graph.add("Less", [value, zero]), remains])
    return graph.add("Sub", [graph.add("Div", [value, divisor]), graph.add("Cast", [below], to=TensorProto.INT64)])


def _codes(graph: _Graph, at: int, labels: tuple[str, ...]) -> str:
    """A label's code; NaN for a label that is empty or was never seen."""
    column = graph.add("Gather", [CATEGORICAL, graph.constant([at], np.int64)], axis=1)
    return graph.add(
        "LabelEncoder",
        [column],
        domain="ai.onnx.ml",
        keys_strings=["", *labels],  # a column without labels has a key all the same
        values_floats=[math.nan, *(float(code) for code in range(len(labels)))],
        default_float=math.nan,
    )
