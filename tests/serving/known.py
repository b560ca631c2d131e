"""A model whose answers are known, and rows for it; needs neither MLflow nor a server."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.columns import Column, RowSchema
from pipeline.refs import GateReport
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec

SCHEMA = RowSchema(
    columns=(Column(name="a", kind="number"), Column(name="b", kind="number"), Column(name="c", kind="category")),
    target="y",
    task="binary",
    classes=("no", "yes"),
)
PASSED = GateReport(passed=True, verdicts=(), champion=None)


# The weight orders the rows; the probabilities are not calibrated.
GATES = "{calibration: {max_error: 0.5}, latency: {rate_per_s: 50, duration_s: 0.2, p95_ms: 5000}}"


def spec_of(name: str, gates: str = GATES) -> PipelineSpec:
    return parse_spec(
        f"""version: 1
name: {name}
task: {{kind: binary}}
data: {{source: rows.csv, target: y}}
candidates: [{{kind: xgboost}}]
gates: {gates}
""",
        name,
    )


def rows(count: int = 400) -> pd.DataFrame:
    """Return rows whose class follows from `a`, but for noise."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=count)
    label = np.where(a + 0.3 * draw.normal(size=count) > 0, "yes", "no")
    return pd.DataFrame({"a": a, "b": draw.normal(size=count), "c": draw.choice(["u", "v"], count), "y": label})


def native(weight: float, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Return (rows, 2) float32: sigmoid(weight * a); a missing `a` counts as 0."""
    score = weight * np.nan_to_num(tensors["numeric"][:, :1].astype(np.float64))
    yes = 1 / (1 + np.exp(-score))
    return np.concatenate([1 - yes, yes], axis=1).astype(np.float32)


def graph(weight: float) -> bytes:
    """Return the same model as ONNX."""
    import onnx
    from onnx import TensorProto, helper

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
