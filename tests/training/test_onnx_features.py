"""The ONNX features are the features: to the bit, on ordinary rows and on hostile ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, Column, RowSchema
from pipeline.tensors import MISSING_TIMESTAMP, Tensors
from training.features import CLOCK, Features, fit_features
from training.onnx_features import MATRIX, features_graph
from training.onnx_model import ML_OPSET, OPSET

INT64 = np.iinfo(np.int64)


def graph_of(features: Features) -> ort.InferenceSession:
    model = features_graph(features, OPSET, ML_OPSET)
    onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def features_of(categories: dict[str, tuple[str, ...]] | None = None, **kinds: str) -> Features:
    columns = tuple(Column(name=name, kind=kind) for name, kind in kinds.items())
    schema = RowSchema(columns=columns, target="y", task="regression")
    return Features(row_schema=schema, categories=categories or {})


def same(features: Features, session: ort.InferenceSession, tensors: Tensors) -> np.ndarray:
    answer = session.run([MATRIX], tensors)[0]
    expected = features.matrix(tensors)
    assert answer.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(answer, expected)
    return answer


def test_mixed_columns_are_equal_to_the_bit(table: Callable) -> None:
    frame, schema, tensors = table("binary")
    features = fit_features(frame, schema)
    session = graph_of(features)
    assert {item.name for item in session.get_inputs()} == {NUMERIC, CATEGORICAL, TIMESTAMP}
    answer = same(features, session, tensors)
    assert answer.shape == (len(frame), len(features.names))
    for rows in (0, 1, 2, 7):
        same(features, session, {name: value[:rows] for name, value in tensors.items()})


def test_a_number_that_is_not_finite_is_missing() -> None:
    features = features_of(a="number", b="boolean")
    rows = np.array([[np.inf, -np.inf], [np.nan, 1], [3.4e38, 1e-42], [-0.0, 0]], dtype=np.float32)
    answer = same(features, graph_of(features), {NUMERIC: rows})
    assert np.isnan(answer).sum() == 3


def test_only_the_inputs_that_exist() -> None:
    for kind, name in (("number", NUMERIC), ("category", CATEGORICAL), ("timestamp", TIMESTAMP)):
        features = features_of({"a": ("x",)}, a=kind)
        assert [item.name for item in graph_of(features).get_inputs()] == [name]


@pytest.mark.parametrize(
    "second",
    [0, -1, 1, 86_399, 86_400, -86_400, -86_401, 951_827_696, INT64.max, INT64.min + 1, -(2**40), MISSING_TIMESTAMP],
)
def test_timestamps_by_integer_arithmetic(second: int) -> None:
    features = features_of(t="timestamp")
    answer = same(features, graph_of(features), {TIMESTAMP: np.array([[second]], dtype=np.int64)})
    assert answer.shape == (1, len(CLOCK))
    assert np.isnan(answer).all() == (second == MISSING_TIMESTAMP)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(INT64.min, INT64.max), st.integers(INT64.min, INT64.max)), min_size=1))
def test_any_two_timestamps(stamps_session: tuple, rows: list[tuple[int, int]]) -> None:
    same(*stamps_session, {TIMESTAMP: np.array(rows, dtype=np.int64)})


@pytest.fixture(scope="module")
def stamps_session() -> tuple[Features, ort.InferenceSession]:
    features = features_of(t="timestamp", u="timestamp")
    return features, graph_of(features)


def test_unseen_empty_and_odd_categories_are_missing() -> None:
    features = features_of({"a": ("x", "\u00e9\u4e2d", "nan"), "b": ("x ",)}, a="category", b="category")
    rows = np.array([["x", "x "], ["\u00e9\u4e2d", "x"], ["nan", ""], ["", "X "], ["z" * 9000, "\u2603"]], dtype=object)
    answer = same(features, graph_of(features), {CATEGORICAL: rows})
    np.testing.assert_array_equal(answer[:3, 0], [0, 1, 2])
    assert np.isnan(answer).sum() == 6


def test_a_column_without_a_label() -> None:
    features = features_of({"a": ()}, a="category")
    answer = same(features, graph_of(features), {CATEGORICAL: np.array([["x"], [""]], dtype=object)})
    assert np.isnan(answer).all()


def test_many_categories() -> None:
    labels = tuple(f"label {at}" for at in range(50_000))
    features = features_of({"a": labels}, a="category")
    rows = np.array([["label 49999"], ["label 0"], ["label 50000"]], dtype=object)
    answer = same(features, graph_of(features), {CATEGORICAL: rows})
    np.testing.assert_array_equal(answer[:, 0], np.array([49_999, 0, np.nan], dtype=np.float32))
