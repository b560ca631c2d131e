"""What kind of values a column holds: a guess from the values, and the column typed as that kind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import ColumnKind
from pipeline.errors import Invalid
from pipeline.parse import blank, booleans, category_strings, is_text, numbers, shown, timestamps

_BOOLEANS = ({"true", "false"}, {"yes", "no"})
_CODE = r"[+-]?0\d"  # a postal code or key: as a number it would lose its zeros
_DATE = r"\d{4}-\d{2}-\d{2}(?:[T ]|$)"
_SAMPLE = 200  # values on which a kind must hold before all are read


def guess_kind(series: pd.Series) -> ColumnKind:
    """The kind that a column's values suggest; text is a number, boolean or timestamp when every value is one."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return "boolean"
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return "timestamp"
    if not is_text(series):
        return "number" if pd.api.types.is_numeric_dtype(series.dtype) else "category"
    values = series[~blank(series)]
    if values.empty:
        return "category"
    few = values.head(_SAMPLE)
    spelled = {str(value).strip().lower() for value in few}
    if any(spelled <= pair for pair in _BOOLEANS) and not np.isnan(booleans(values)).any():
        return "boolean"
    if not np.isnan(numbers(few)).any() and not np.isnan(numbers(values)).any():
        return "category" if values.astype(str).str.match(_CODE).any() else "number"
    dates = few.astype(str).str.match(_DATE)
    if dates.all() and values.astype(str).str.match(_DATE).all() and timestamps(values).notna().all():
        return "timestamp"
    return "category"


def typed(series: pd.Series, kind: ColumnKind, where: str) -> pd.Series:
    """The column as its kind: number and boolean float64, category str or None, timestamp datetime64[us, UTC].

    Raises:
        Invalid: a value is not of this kind; names the first, with its row. A retry does not help.
    """
    if kind == "category":
        _refuse_nested(series, where)
        text = pd.Series(category_strings(series), index=series.index, dtype=object)
        return text.where(~blank(series), None)
    if kind == "timestamp":
        stamps = timestamps(series)
        _refuse(series, stamps.isna().to_numpy(), kind, where)
        return stamps
    found = booleans(series) if kind == "boolean" else numbers(series)
    _refuse(series, np.isnan(found), kind, where)
    return pd.Series(found, index=series.index, name=series.name)


def _refuse_nested(series: pd.Series, where: str) -> None:
    if pd.api.types.is_object_dtype(series.dtype):
        nested = {type(value).__name__ for value in series if isinstance(value, list | dict | set | tuple | np.ndarray)}
        if nested:
            what = f"column {series.name!r} holds many values in one ({', '.join(sorted(nested))})"
            raise Invalid(what, where, "make a column of each, or name it in data.drop of the spec")


def _refuse(series: pd.Series, lost: npt.NDArray[np.bool_], kind: ColumnKind, where: str) -> None:
    if not (lost & series.notna().to_numpy()).any():
        return
    bad = lost & ~blank(series)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise Invalid(
            f"{shown(series.iloc[at])} is not a {kind} ({int(bad.sum())} such values)",
            f"{where}, column {series.name!r}, row {at + 1}",
            "correct it, leave it empty, or give the column another kind in data.kinds",
        )
