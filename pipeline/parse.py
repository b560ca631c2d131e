"""Values of one column as numbers, booleans, timestamps or categories: one reading, wherever the rows come from."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

TRUE_FALSE = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


def numbers(series: pd.Series) -> npt.NDArray[np.float64]:
    """(rows,) float64: NaN where the value is missing or is no number. A zero has no sign."""
    return _signed(series) + 0.0  # -0.0 is 0.0, which some readers make of it and others do not


def _signed(series: pd.Series) -> npt.NDArray[np.float64]:
    if _is_plain(series):
        return series.to_numpy(dtype=np.float64, na_value=np.nan)
    if not is_text(series):
        return np.full(len(series), np.nan)
    if pd.api.types.is_object_dtype(series.dtype):
        series = series.map(lambda value: value if isinstance(value, str | int | float | Decimal | np.number) else None)
        return np.asarray(pd.to_numeric(series, errors="coerce"), dtype=np.float64)
    codes, values = _distinct(series)
    return np.append(np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64), np.nan)[codes]


def booleans(series: pd.Series) -> npt.NDArray[np.float64]:
    """(rows,) float64: 1, 0, or NaN where the value is missing or neither of the two."""
    if _is_plain(series):
        found = numbers(series)
        return np.where((found == 0) | (found == 1), found, np.nan)
    return _by_value(series, lambda value: TRUE_FALSE.get(str(value).strip().lower(), np.nan), np.nan).astype(
        np.float64
    )


def timestamps(series: pd.Series) -> pd.Series:
    """(rows,) datetime64[us, UTC]: ISO 8601 text, dates or times; NaT where missing or none. No offset means UTC."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        stamps = pd.to_datetime(series, utc=True)
    elif is_text(series):
        text = series.map(_timestamp_text)
        stamps = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
    else:
        stamps = pd.Series(pd.NaT, index=series.index, name=series.name)
        stamps = pd.to_datetime(stamps, utc=True)
    return stamps.astype("datetime64[us, UTC]")


def category_strings(series: pd.Series) -> npt.NDArray[np.object_]:
    """(rows,) str, "" for missing: text as it stands, and one spelling of a number, so that 1 and 1.0 are one."""
    return _by_value(series, _spell, "")


def blank(series: pd.Series) -> npt.NDArray[np.bool_]:
    """(rows,) bool: missing, or text of nothing but spaces."""
    missing = series.isna().to_numpy()
    if not is_text(series):
        return np.asarray(missing)
    if not pd.api.types.is_object_dtype(series.dtype):
        return np.asarray(missing | (series.str.strip() == "").to_numpy(dtype=bool, na_value=True))
    return np.asarray(missing | _by_value(series, lambda value: str(value).strip() == "", True).astype(bool))


def shown(value: object) -> str:
    """A value as a message names it."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def is_text(series: pd.Series) -> bool:
    """Whether the values are strings, or objects of any kind."""
    return bool(pd.api.types.is_object_dtype(series.dtype) or pd.api.types.is_string_dtype(series.dtype))


def _is_plain(series: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype))


def _by_value(series: pd.Series, spell: Callable[[Any], object], missing: object) -> npt.NDArray[np.object_]:
    """`spell` of each value, asked once for each that differs (object array, rows)."""
    if pd.api.types.is_object_dtype(series.dtype):  # 1, True and 1.0 are equal and not the same; lists have no hash
        lost = series.isna().to_numpy()
        found = [missing if gone else spell(value) for value, gone in zip(series, lost, strict=True)]
    else:
        codes, values = _distinct(series)
        each = np.empty(len(values) + 1, dtype=object)
        each[:] = [*(spell(value) for value in values), missing]  # code -1 is the last: missing
        return each[codes]
    result = np.empty(len(found), dtype=object)
    result[:] = found
    return result


def _distinct(series: pd.Series) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.object_]]:
    """The values that differ, and for each row which it has; -1 for missing."""
    codes, values = pd.factorize(series)
    return codes, np.asarray(values, dtype=object)


def _spell(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _timestamp_text(value: object) -> object:
    if isinstance(value, datetime.date):  # a datetime is one too
        return value
    text = value.strip() if isinstance(value, str) else ""
    return text if text[:1].isdigit() else None  # pandas reads "now" as the clock; rows must not depend on it
