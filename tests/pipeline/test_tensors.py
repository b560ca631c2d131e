"""Rows as tensors: the same numbers, texts and seconds whatever the reader, and what does not fit is told."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.columns import Column, RowSchema
from pipeline.errors import Invalid
from pipeline.kinds import typed
from pipeline.target import encode_target
from pipeline.tensors import MISSING_TIMESTAMP, category_strings, to_tensors


def schema(*kinds: str) -> RowSchema:
    columns = tuple(Column.model_validate({"name": f"{kind[0]}{at}", "kind": kind}) for at, kind in enumerate(kinds))
    return RowSchema(columns=columns, target="y", task="binary", classes=("no", "yes"))


def one(kind: str, values: object) -> list[object]:
    (tensor,) = to_tensors(pd.DataFrame({f"{kind[0]}0": values}), schema(kind)).values()
    return tensor.ravel().tolist()


@pytest.mark.parametrize(
    "values",
    [[1, 2], [1.0, 2.0], ["1", "2"], ["1.0", " 2 "], pd.array([1, 2], dtype="Int64"), np.array([1, 2], dtype="int8")],
)
def test_a_number_is_one_number(values: object) -> None:
    assert one("number", values) == [1.0, 2.0]


@pytest.mark.parametrize(
    "values", [[True, False], [1, 0], ["True", "no"], ["1.0", "FALSE"], pd.array([True, False], dtype="boolean")]
)
def test_a_boolean_is_one_and_zero(values: object) -> None:
    assert one("boolean", values) == [1.0, 0.0]


@pytest.mark.parametrize(
    "values",
    [
        ["2026-01-31T12:00:00Z", None],
        ["2026-01-31 13:00:00+01:00", ""],
        [datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC), None],
        [pd.Timestamp("2026-01-31T12:00:00.999"), pd.NaT],
        np.array(["2026-01-31T12:00:00", "NaT"], dtype="datetime64[ns]"),
    ],
)
def test_a_timestamp_is_its_epoch_second(values: object) -> None:
    assert one("timestamp", values) == [1_769_860_800, MISSING_TIMESTAMP]


def test_dates_far_away_and_before_the_epoch() -> None:
    assert one("timestamp", ["9999-12-31", "1969-12-31T23:59:59.5", "0001-01-01"]) == [253402214400, -1, -62135596800]


def test_missing_has_one_form_for_each_tensor() -> None:
    frame = pd.DataFrame({"n0": [None, ""], "b1": [None, " "], "c2": [None, ""], "t3": [None, ""]}, dtype=object)
    found = to_tensors(frame, schema("number", "boolean", "category", "timestamp"))
    assert np.isnan(found["numeric"]).all()
    assert found["categorical"].ravel().tolist() == ["", ""]
    assert found["timestamp"].ravel().tolist() == [MISSING_TIMESTAMP] * 2
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        "numeric": (np.dtype("float32"), (2, 2)),
        "categorical": (np.dtype(object), (2, 1)),
        "timestamp": (np.dtype("int64"), (2, 1)),
    }


def test_columns_come_in_the_order_of_the_schema() -> None:
    rows = pd.DataFrame({"n1": [2], "extra": [9], "n0": [1]})
    assert to_tensors(rows, schema("number", "number"))["numeric"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("kind", "values", "says"),
    [
        ("number", ["1", "yes"], "'yes' is not a number (1 such values)"),
        ("number", [1, [2]], "[2] is not a number"),
        ("number", [pd.Timestamp("2026-01-01"), pd.NaT], "is not a number"),
        ("boolean", [1, 2], "2 is not a boolean"),
        ("boolean", ["maybe", "no"], "'maybe' is not a boolean"),
        ("timestamp", ["2026-01-01", "now"], "'now' is not a timestamp"),
        ("timestamp", [1, 2], "1 is not a timestamp (2 such values)"),
    ],
)
def test_what_does_not_fit_is_told(kind: str, values: list[object], says: str) -> None:
    with pytest.raises(Invalid) as refused:
        one(kind, values)
    assert says in str(refused.value)


def test_a_category_is_spelled_alike_beside_any_other() -> None:
    assert category_strings(pd.Series([1.0, 2.5, None])).tolist() == ["1", "2.5", ""]
    assert category_strings(pd.Series([1.0, "x", None], dtype=object)).tolist() == ["1", "x", ""]
    assert category_strings(pd.Series([1.0, np.inf])).tolist() == ["1", "inf"]
    assert category_strings(pd.Series(["007", "1.0", " x"])).tolist() == ["007", "1.0", " x"]
    assert category_strings(pd.Series(["a", None], dtype="category")).tolist() == ["a", ""]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=4), st.floats(), st.integers()), min_size=1, max_size=6))
def test_rows_of_any_values_become_tensors_or_are_told(values: list[object]) -> None:
    for kind in ("number", "boolean", "category", "timestamp"):
        try:
            assert len(one(kind, pd.Series(values, dtype=object))) == len(values)
        except Invalid as error:
            assert "column" in str(error)  # noqa: PT017 (either end is right)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(width=32), st.sampled_from(["1", "", "2.5"])), min_size=1, max_size=6))
def test_training_reads_as_serving_does(values: list[object]) -> None:
    """What the snapshot keeps of a column gives the tensor that the raw column gives."""
    raw = pd.Series(values, name="n0", dtype=object)
    for kind in ("number", "category"):
        kept = typed(raw, kind)  # type: ignore[arg-type]
        np.testing.assert_array_equal(np.array(one(kind, kept)), np.array(one(kind, raw)))


def test_labels_and_numbers_of_a_target() -> None:
    assert encode_target(pd.DataFrame({"y": ["yes", "no"]}), schema("number")).tolist() == [1.0, 0.0]
    numbers = RowSchema(columns=(), target="y", task="regression")
    assert encode_target(pd.DataFrame({"y": [1, 2]}), numbers).tolist() == [1.0, 2.0]
    for labels in (["maybe"], [None]):
        with pytest.raises(Invalid, match="is not one of"):
            encode_target(pd.DataFrame({"y": labels}), schema("number"))
