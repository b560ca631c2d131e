"""Expectations about the table: its rows, its columns, their types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from feature_checks.entries.rows import Asking, Entry, Judged, Left, Rows, flag
from feature_checks.entries.rows import number as exact


def _row_count(
    rows: Rows, *, min_value: Any = None, max_value: Any = None, strict_min: Any = False, strict_max: Any = False
) -> Asking:
    (found,) = yield (rows.count(),)
    return _counted(found, min_value, max_value, strict_min, strict_max)


def _row_count_equal(rows: Rows, *, value: Any) -> Asking:
    expected = exact(value)
    (found,) = yield (rows.count(),)
    return Judged(found == expected, {"observed_value": found})


def _counted(found: int, low: Any, high: Any, strict_min: Any = False, strict_max: Any = False) -> Judged:
    above = low is None or (found > exact(low) if flag(strict_min) else found >= exact(low))
    below = high is None or (found < exact(high) if flag(strict_max) else found <= exact(high))
    return Judged(above and below, {"observed_value": found})


def _by_schema(judge: Callable[..., Judged]) -> Entry:
    """The entry of what the columns alone decide."""

    def entry(rows: Rows, **arguments: Any) -> Asking:
        yield ()
        return judge(rows, **arguments)

    return entry


def _column_count(rows: Rows, *, min_value: Any = None, max_value: Any = None) -> Judged:
    return _counted(len(rows.columns), min_value, max_value)


def _column_count_equal(rows: Rows, *, value: Any) -> Judged:
    return Judged(len(rows.columns) == exact(value), {"observed_value": len(rows.columns)})


def _exists(rows: Rows, *, column: Any, column_index: Any = None) -> Judged:
    names = list(rows.columns)
    if not column_index:
        return Judged(column in names)
    position = exact(column_index)
    if position != int(position):
        raise Left("a position that is no whole number")
    inside = -len(names) <= position < len(names)
    return Judged(inside and names[int(position)] == column)


def _ordered(rows: Rows, *, column_list: Any) -> Judged:
    names, expected = list(rows.columns), _names(column_list)
    if expected is None or names == expected:
        return Judged(True, {"observed_value": names})
    pairs = enumerate(zip_longest(expected, names))
    wrong = [
        {"Expected Column Position": position, "Expected": one, "Found": other}
        for position, (one, other) in pairs
        if one != other
    ]
    return Judged(False, {"observed_value": names, "details": {"mismatched": wrong}})


def _as_set(rows: Rows, *, column_set: Any, exact_match: Any = True) -> Judged:
    names, expected = set(rows.columns), set(_names(column_set) or ())
    unexpected, missing = sorted(names - expected), sorted(expected - names)
    result: dict[str, Any] = {"observed_value": sorted(names)}
    if not unexpected and not missing:
        return Judged(True, result)
    wrong = {"unexpected": unexpected} if unexpected else {}
    result["details"] = {"mismatched": wrong | ({"missing": missing} if missing else {})}
    return Judged(not flag(exact_match) and not missing, result)


def _names(value: Any) -> list[str] | None:
    if value is not None and (not isinstance(value, list) or not all(isinstance(one, str) for one in value)):
        raise Left("no list of names")
    return value


def _of_type(rows: Rows, *, column: Any, type_: Any, mostly: Any = 1) -> Judged:
    dtype = _dtype(rows, column)
    success = type_ is None or dtype.type in _types(type_)
    return Judged(success, {"observed_value": dtype.type.__name__})


def _in_type_list(rows: Rows, *, column: Any, type_list: Any, mostly: Any = 1) -> Judged:
    dtype = _dtype(rows, column)
    success = type_list is None or any(dtype == one for name in _names(type_list) or () for one in _types(name, True))
    return Judged(success, {"observed_value": dtype.type.__name__})


def _dtype(rows: Rows, name: Any) -> Any:
    """The type that pandas gives the column. (Its import takes half a second, which others need not pay.)"""
    from pandas.api.types import pandas_dtype  # noqa: PLC0415

    return pandas_dtype(rows.column(name).dtype)


_NATIVE = {"none": type(None), "bool": bool, "int": int, "long": int, "float": float, "bytes": bytes} | {
    "complex": complex, "str": str, "string_types": str, "list": list, "dict": dict,
}  # fmt: skip


def _types(name: str, dtypes: bool = False) -> list[Any]:
    """What a type's name means to Great Expectations: NumPy's, pandas' and Python's type of that name."""
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    found: list[Any] = [_NATIVE[name.lower()]] if name.lower() in _NATIVE else []
    try:
        found += [np.dtype(name).type, *([np.dtype(name)] if dtypes else [])]
    except (ValueError, SyntaxError, KeyError):
        raise Left(f"NumPy cannot read the type {name!r}") from None
    except TypeError:
        for place in (pd, pd.core.dtypes.dtypes):  # type: ignore[attr-defined]
            kind = getattr(place, name, None)
            if isinstance(kind, type):
                found.append(kind)
                if dtypes:
                    raise Left("a type of pandas' own") from None
    return found


TABLE: Mapping[str, Entry] = {
    "expect_table_row_count_to_be_between": _row_count,
    "expect_table_row_count_to_equal": _row_count_equal,
    "expect_table_column_count_to_be_between": _by_schema(_column_count),
    "expect_table_column_count_to_equal": _by_schema(_column_count_equal),
    "expect_table_columns_to_match_ordered_list": _by_schema(_ordered),
    "expect_table_columns_to_match_set": _by_schema(_as_set),
    "expect_column_to_exist": _by_schema(_exists),
    "expect_column_values_to_be_of_type": _by_schema(_of_type),
    "expect_column_values_to_be_in_type_list": _by_schema(_in_type_list),
}
LEFT: Mapping[str, str] = {
    "expect_column_pair_values_to_be_in_set": "Python compares the pairs one by one",
    "expect_column_type_to_be": "pandas parses the type's name",
    "expect_column_kl_divergence_to_be_less_than": "SciPy computes it",
    "expect_column_values_to_be_dateutil_parseable": "dateutil reads each value",
    "expect_column_values_to_be_json_parseable": "Python reads each value",
    "expect_column_values_to_match_json_schema": "jsonschema reads each value",
    "expect_column_values_to_match_strftime_format": "Python reads each value",
    "expect_column_values_to_match_like_pattern": "no pandas engine has it: it fails, in Great Expectations' words",
    "expect_column_values_to_not_match_like_pattern": "no pandas engine has it",
    "expect_column_values_to_match_like_pattern_list": "no pandas engine has it",
    "expect_column_values_to_not_match_like_pattern_list": "no pandas engine has it",
    "expect_table_row_count_to_equal_other_table": "there is no other table",
    "expect_query_results_to_match_comparison": "there is no other source",
    "unexpected_rows_expectation": "it is a query of its own",
}
