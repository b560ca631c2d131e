"""A small model whose answers are known, as a graph of ONNX; importing this is cheap."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from pipeline.columns import Column, RowSchema

SCHEMA = RowSchema(
    columns=(Column(name="a", kind="number"), Column(name="b", kind="number"), Column(name="c", kind="category")),
    target="y",
    task="binary",
    classes=("no", "yes"),
)


def graph(weight: float) -> bytes:
    """Return a graph that answers (1 - p, p) with p = sigmoid(weight * a); a missing `a` counts as 0."""
    nodes = [
        helper.make_node("Gather", ["numeric", "first"], ["a"], axis=1),
        helper.make_node("IsNaN", ["a"], ["missing"]),
        helper.make_node("Where", ["missing", "nought", "a"], ["known"]),
        helper.make_node("Mul", ["known", "weight"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Identity", ["categorical"], ["unused"]),
        helper.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("weight", TensorProto.FLOAT, [1], [weight]),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, ["N", 1]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])]
    body = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
