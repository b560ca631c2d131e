"""Rows of a data frame as the tensors that a served model reads; the one place where this happens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, RowSchema
from pipeline.errors import Invalid, Problem

MISSING_TIMESTAMP = np.iinfo(np.int64).min
Tensors = dict[str, npt.NDArray[np.generic]]

_TRUE_FALSE = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "yes": 1.0, "no": 0.0}


def to_tensors(frame: pd.DataFrame, schema: RowSchema, where: str = "rows") -> Tensors:
    """The request tensors of `frame`: only those for which the schema has columns.

    `numeric` (rows, n) float32 with NaN for missing; `categorical` (rows, m) object array of str, "" for missing;
    `timestamp` (rows, t) int64 epoch seconds. Columns that the schema does not name are ignored.

    Raises:
        Invalid: a column is absent, or a value does not fit its kind; all such at once. A retry does not help.
    """
    problems = [
        Problem(f"column {name!r} is missing", where=where, remedy="add it; a missing value may be left empty")
        for name in schema.names()
        if name not in frame.columns
    ]
    if problems:
        raise Invalid(problems)
    tensors: Tensors = {}
    rows = len(frame)
    if schema.numeric:
        numeric = np.empty((rows, len(schema.numeric)), dtype=np.float32)
        for index, name in enumerate(schema.numeric):
            numeric[:, index] = _numbers(frame[name], where, problems)
        tensors[NUMERIC] = numeric
    if schema.categorical:
        categorical = np.empty((rows, len(schema.categorical)), dtype=object)
        for index, name in enumerate(schema.categorical):
            categorical[:, index] = category_strings(frame[name])
        tensors[CATEGORICAL] = categorical
    if schema.timestamp:
        stamps = np.empty((rows, len(schema.timestamp)), dtype=np.int64)
        for index, name in enumerate(schema.timestamp):
            stamps[:, index] = _epoch_seconds(frame[name], where, problems)
        tensors[TIMESTAMP] = stamps
    if problems:
        raise Invalid(problems)
    return tensors


def category_strings(series: pd.Series) -> npt.NDArray[np.object_]:
    """(rows,) str: the one spelling of a category, so that 1, 1.0 and "1" from different readers are one."""
    if pd.api.types.is_float_dtype(series.dtype):
        whole = series.dropna()
        if (whole == whole.round()).all():
            series = series.astype("Int64")
    text = series.astype("object").where(series.notna(), "")
    return text.map(str).to_numpy(dtype=object)


def _numbers(series: pd.Series, where: str, problems: list[Problem]) -> npt.NDArray[np.float32]:
    if pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        with np.errstate(over="ignore"):  # beyond float32 is infinity, here as on the server
            return series.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
    text = series.astype("object")
    booleans = text.map(lambda value: _TRUE_FALSE.get(str(value).strip().lower()), na_action="ignore")
    values = pd.to_numeric(text, errors="coerce")
    values = values.where(values.notna(), booleans)
    bad = values.isna() & text.notna() & (text.astype(str).str.strip() != "")
    if bad.any():
        place = int(np.flatnonzero(bad.to_numpy())[0])
        problems.append(
            Problem(
                f"{text.iloc[place]!r} is not a number ({int(bad.sum())} such values)",
                where=f"{where}, column {series.name!r}, row {place + 1}",
                remedy="correct the value, or leave it empty when it is missing",
            )
        )
    with np.errstate(over="ignore"):
        return values.to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)


def _epoch_seconds(series: pd.Series, where: str, problems: list[Problem]) -> npt.NDArray[np.int64]:
    text = pd.api.types.is_object_dtype(series.dtype) or pd.api.types.is_string_dtype(series.dtype)
    stamps = pd.to_datetime(series, errors="coerce", utc=True, format="ISO8601" if text else None)
    bad = stamps.isna() & series.notna() & (series.astype(str).str.strip() != "")
    if bad.any():
        place = int(np.flatnonzero(bad.to_numpy())[0])
        problems.append(
            Problem(
                f"{series.iloc[place]!r} is not a timestamp ({int(bad.sum())} such values)",
                where=f"{where}, column {series.name!r}, row {place + 1}",
                remedy="write it as ISO 8601, such as 2026-01-31T12:00:00Z",
            )
        )
    seconds = stamps.dt.floor("s").dt.tz_localize(None).to_numpy(dtype="datetime64[s]").astype(np.int64)
    return np.where(stamps.isna().to_numpy(), MISSING_TIMESTAMP, seconds)
