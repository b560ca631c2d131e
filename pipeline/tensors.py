"""Rows of a data frame as the tensors that a served model reads; the one place where this happens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import CATEGORICAL, MISSING_TIMESTAMP, NUMERIC, TIMESTAMP, RowSchema
from pipeline.errors import Invalid, Problem
from pipeline.parse import blank, booleans, category_strings, numbers, shown, timestamps

__all__ = ["MISSING_TIMESTAMP", "Tensors", "category_strings", "to_tensors"]

Tensors = dict[str, npt.NDArray[np.generic]]


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
    kinds = {column.name: column.kind for column in schema.columns}
    if schema.numeric:
        numeric = np.empty((rows, len(schema.numeric)), dtype=np.float32)
        for index, name in enumerate(schema.numeric):
            numeric[:, index] = _numbers(frame[name], kinds[name], where, problems)
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


def _numbers(series: pd.Series, kind: str, where: str, problems: list[Problem]) -> npt.NDArray[np.float32]:
    values = booleans(series) if kind == "boolean" else numbers(series)
    _refuse(series, np.isnan(values), f"a {kind}", "correct the value, or leave it empty if missing", where, problems)
    with np.errstate(over="ignore"):  # beyond float32 is infinity, here as on the server
        return values.astype(np.float32)


def _epoch_seconds(series: pd.Series, where: str, problems: list[Problem]) -> npt.NDArray[np.int64]:
    stamps = timestamps(series)
    lost = stamps.isna().to_numpy()
    _refuse(series, lost, "a timestamp", "write it as ISO 8601, such as 2026-01-31T12:00:00Z", where, problems)
    micros = stamps.dt.tz_localize(None).to_numpy(dtype="datetime64[us]").astype(np.int64)
    return np.where(lost, MISSING_TIMESTAMP, micros // 1_000_000)


def _refuse(
    series: pd.Series, lost: npt.NDArray[np.bool_], what: str, remedy: str, where: str, problems: list[Problem]
) -> None:
    """Note the first value that was lost in reading and is not simply missing."""
    if not (lost & series.notna().to_numpy()).any():
        return
    bad = lost & ~blank(series)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        place = f"{where}, column {series.name!r}, row {at + 1}"
        problems.append(
            Problem(f"{shown(series.iloc[at])} is not {what} ({int(bad.sum())} such values)", place, remedy)
        )
