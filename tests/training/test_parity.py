"""Parity tells equal from different, and whatever goes wrong is a case that failed, never a crash."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xgboost as xgb
from onnx import TensorProto, helper
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from pipeline.columns import NUMERIC, Column, RowSchema
from pipeline.errors import Invalid
from pipeline.gate_rules import Tolerance
from pipeline.tensors import Tensors
from training.features import Features
from training.models.base import Native
from training.models.boosted import Boosted
from training.onnx_model import build
from training.onnx_session import OnnxModel
from training.parity import HELD_OUT, UNBOUNDED, Proof, compare, families, prove

EXACT = Tolerance()
NUMBERS = RowSchema(columns=(Column(name="a", kind="number"), Column(name="b", kind="number")), target="y", task="regression")  # fmt: skip
LABELS = NUMBERS.model_copy(update={"task": "binary", "classes": ("n", "p")})
ROWS: Tensors = {NUMERIC: np.arange(40, dtype=np.float32).reshape(20, 2)}


def total(tensors: Tensors) -> np.ndarray:
    numbers = tensors[NUMERIC]
    return np.where(np.isfinite(numbers), np.clip(numbers, -1e3, 1e3), 0).sum(axis=1, keepdims=True).astype(np.float32)


def proved(onnx: Callable[[Tensors], np.ndarray], native: Callable[[Tensors], np.ndarray] = total) -> Proof:
    return prove(NUMBERS, EXACT, native, onnx, ROWS)


def test_a_model_is_itself() -> None:
    proof = proved(total)
    assert proof.passed
    assert proof.cases[0].name == HELD_OUT
    assert proof.cases[0].rows == 20
    assert all(case.max_abs == 0 and case.max_excess <= 0 and not case.message for case in proof.cases)
    np.testing.assert_array_equal(proof.native, total(ROWS))
    np.testing.assert_array_equal(proof.onnx, total(ROWS))


def test_families_cover_what_a_client_may_send(table: Callable) -> None:
    _, schema, tensors = table("binary")
    found = families(schema, tensors)
    sizes = {len(next(iter(rows.values()))) for rows in found.values()}
    assert {1, 2, 7, len(tensors[NUMERIC])} <= sizes
    assert all(set(rows) == set(tensors) for rows in found.values())
    for rows in found.values():
        assert {name: (value.dtype, value.shape[1]) for name, value in rows.items()} == {
            name: (value.dtype, value.shape[1]) for name, value in tensors.items()
        }
    assert np.isnan(found["everything_missing"][NUMERIC]).all()
    alone = found["each_categorical_missing"]["categorical"] == ""
    assert (alone[0] & ~alone[1]).any()
    assert (found["numbers_one_step_up"][NUMERIC][1:2] > tensors[NUMERIC][1:2])[0, 0]
    before = {name: value.copy() for name, value in tensors.items()}
    families(schema, tensors)
    assert all((before[name].astype(str) == tensors[name].astype(str)).all() for name in tensors)


def wrong_by(delta: float) -> Callable[[Tensors], np.ndarray]:
    return lambda tensors: total(tensors) + np.float32(delta)


def only(condition: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], np.ndarray]:
    """Wrong in the rows of which some number meets the condition."""
    return lambda tensors: total(tensors) + condition(tensors[NUMERIC]).any(axis=1, keepdims=True).astype(np.float32)


@pytest.mark.parametrize(
    ("graph", "family", "says"),
    [
        (wrong_by(0.5), HELD_OUT, "20 of 20 rows differ"),
        (only(np.isnan), "everything_missing", "rows differ"),
        (only(np.isnan), "each_numeric_missing", "rows differ"),
        (only(np.isposinf), "numbers_infinity", "rows differ"),
        (only(np.isneginf), "numbers_minus_infinity", "rows differ"),
        (only(lambda n: n > 1e38), "numbers_largest", "rows differ"),
        (only(lambda n: (n > 0) & (n < 1e-38)), "numbers_denormal", "rows differ"),
        (only(lambda n: (n > 2) & (n < 2.000001)), "numbers_one_step_up", "1 of 20 rows differ; row 2"),
        (only(lambda n: (n < 2) & (n > 1.999999)), "numbers_one_step_down", "1 of 20 rows differ; row 2"),
        (lambda t: total(t) if len(t[NUMERIC]) != 1 else total(t) + 1, "batch_of_1", "1 of 1 rows differ"),
        (lambda t: total(t)[:-1] if len(t[NUMERIC]) == 7 else total(t), "batch_of_7", "shape (6, 1) where (7, 1)"),
        (lambda t: total(t)[:, 0], HELD_OUT, "shape (20,) where (20, 1)"),
        (lambda t: total(t).astype(np.float64), HELD_OUT, "float64 where float32"),
        (lambda t: np.where(np.isnan(t[NUMERIC][:, :1]), np.float32(np.nan), total(t)), "numbers_nan", "NaN or infinity"),
        (lambda t: total(t) * np.float32(np.inf), HELD_OUT, "NaN or infinity"),
    ],
)  # fmt: skip
def test_a_planted_difference_is_found(graph: Callable[[Tensors], np.ndarray], family: str, says: str) -> None:
    proof = proved(graph)
    assert not proof.passed
    case = {case.name: case for case in proof.cases}[family]
    assert not case.passed
    assert case.max_excess > 0
    assert says in case.message
    for each in proof.cases:
        assert type(each).model_validate_json(each.model_dump_json()) == each


@pytest.mark.parametrize("error", [Invalid("no", "x", "y"), RuntimeError("no"), ValueError("no"), KeyError("no"), TypeError("no")])  # fmt: skip
def test_an_answer_that_does_not_come_is_a_failed_case(error: Exception) -> None:
    def fails(_: Tensors) -> np.ndarray:
        raise error

    for proof, who in ((proved(fails), "the graph"), (proved(total, fails), "the model")):
        assert not any(case.passed for case in proof.cases)
        assert proof.cases[0].message.startswith(f"{who} does not answer: ")
        assert proof.cases[0].max_abs == UNBOUNDED
        assert proof.native is None
        assert proof.onnx is None


def test_a_native_nan_is_a_failed_case() -> None:
    proof = proved(total, lambda tensors: total(tensors) * np.float32(np.nan))
    assert "the model answers NaN" in proof.cases[0].message


def test_probabilities_sum_to_one() -> None:
    def answer(second: float) -> Callable[[Tensors], np.ndarray]:
        return lambda tensors: np.tile(np.array([0.5, second], np.float32), (len(tensors[NUMERIC]), 1))

    wide = Tolerance(atol=1, rtol=1)
    assert prove(LABELS, wide, answer(0.5), answer(0.5), ROWS).passed
    case, *_ = compare("x", LABELS, wide, ROWS, answer(0.5), answer(0.6))
    assert "sum is off one by 0.1" in case.message


@pytest.mark.parametrize(("tolerance", "passed"), [((0.51, 0), True), ((0.49, 0), False), ((0, 0.51), True), ((0, 0.49), False)])  # fmt: skip
def test_the_tolerance_is_of_the_native_answer(tolerance: tuple[float, float], passed: bool) -> None:
    def of(value: float) -> Callable[[Tensors], np.ndarray]:
        return lambda tensors: np.full((len(tensors[NUMERIC]), 1), value, np.float32)

    case, *_ = compare("x", NUMBERS, Tolerance(atol=tolerance[0], rtol=tolerance[1]), ROWS, of(1.0), of(1.5))
    assert case.passed == passed
    assert case.max_abs == 0.5


class TestOnnxRuntime:
    """What ONNX Runtime refuses is a sentence."""

    def test_a_graph_that_is_none(self) -> None:
        with pytest.raises(Invalid, match="ONNX Runtime cannot load the graph"):
            OnnxModel(b"no graph")

    def test_a_graph_with_an_operator_that_is_unknown(self) -> None:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Rank", [NUMERIC], ["y"], domain="nowhere")],
            "g",
            [value(NUMERIC, TensorProto.FLOAT, ["rows", 2])],
            [value("y", TensorProto.FLOAT, ["rows", 1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("nowhere", 1)])
        with pytest.raises(Invalid, match="cannot load the graph"):
            OnnxModel(model.SerializeToString())

    def test_rows_that_do_not_fit(self) -> None:
        model = OnnxModel(sum_graph())
        with pytest.raises(Invalid, match="ONNX Runtime cannot answer"):
            model.predict({NUMERIC: np.zeros((3, 5), dtype=np.float32)})
        with pytest.raises(Invalid, match="ONNX Runtime cannot answer"):
            model.predict({"other": np.zeros((3, 2), dtype=np.float32)})

    def test_many_rows_come_back_in_order(self) -> None:
        rows = np.arange(40_002, dtype=np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(OnnxModel(sum_graph()).predict({NUMERIC: rows}), rows.sum(axis=1, keepdims=True))

    def test_another_provider_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime as ort

        monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda _: ["AzureExecutionProvider"])
        with pytest.raises(Invalid, match="took AzureExecutionProvider"):
            OnnxModel(sum_graph())

    def test_a_fixed_batch_is_caught(self) -> None:
        proof = prove(NUMBERS, EXACT, lambda t: t[NUMERIC].sum(axis=1, keepdims=True), OnnxModel(sum_graph(20)).predict, ROWS)  # fmt: skip
        cases = {case.name: case for case in proof.cases}
        assert cases[HELD_OUT].passed
        assert "cannot answer" in cases["batch_of_1"].message


def sum_graph(rows: str | int = "rows") -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", [NUMERIC, "w"], ["y"])],
        "g",
        [value(NUMERIC, TensorProto.FLOAT, [rows, 2])],
        [value("y", TensorProto.FLOAT, [rows, 1])],
        [helper.make_tensor("w", TensorProto.FLOAT, [2, 1], [1.0, 1.0])],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )


def test_scaling_before_trees_is_caught() -> None:
    """Scaled in float64 and in float32, some rows fall on the other side of a split (the StandardScaler trap)."""
    x, y = load_breast_cancer(return_X_y=True)
    x = x.astype(np.float32)
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x.astype(np.float64)).astype(np.float32)
    booster = xgb.train({"objective": "binary:logistic", "nthread": 1}, xgb.DMatrix(scaled, y), 40)
    names = [f"c{at}" for at in range(x.shape[1])]
    schema = RowSchema(
        columns=tuple(Column(name=name, kind="number") for name in names), target="y", task="binary", classes=("0", "1")
    )
    trees = Boosted(booster, "binary", ("q",) * x.shape[1])
    graph = OnnxModel(build(Native(Features(row_schema=schema, categories={}), trees), "xgboost"))
    shift, factor = scaler.mean_.astype(np.float32), (1 / scaler.scale_).astype(np.float32)

    def native(tensors: Tensors) -> np.ndarray:
        return trees.predict(scaler.transform(tensors[NUMERIC].astype(np.float64)).astype(np.float32))

    def onnx(tensors: Tensors) -> np.ndarray:
        return graph.predict({NUMERIC: (tensors[NUMERIC] - shift) * factor})

    case, *_ = compare(HELD_OUT, schema, EXACT, {NUMERIC: x}, native, onnx)
    assert not case.passed
    assert case.max_abs > 0.01
    assert compare(HELD_OUT, schema, EXACT, {NUMERIC: scaled}, lambda t: trees.predict(t[NUMERIC]), graph.predict)[
        0
    ].passed
