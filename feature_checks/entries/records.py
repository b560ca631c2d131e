"""Expectations about several columns of a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

from feature_checks.entries.rows import Asking, Entry, Judged, Left, Rows, accepts, counted, flag, met
from feature_checks.entries.rows import number as exact
from feature_checks.parquet import Column, Kind

NUMBERS: tuple[Kind, ...] = ("float", "int")


def _present(columns: Sequence[Column], ignored: Any) -> str:
    """Which rows count, where those are ignored of which all, or some, or no values are missing."""
    there = [f"{column.sql} IS NOT NULL" for column in columns]
    joiners = {
        "both_values_are_missing": " OR ",
        "all_values_are_missing": " OR ",
        "either_value_is_missing": " AND ",
        "any_value_is_missing": " AND ",
        "neither": None,
        "never": None,
    }
    if ignored not in joiners:
        raise Left(f"rows cannot be ignored if {ignored!r}")
    joiner = joiners[ignored]
    return f"({joiner.join(there)})" if joiner else "TRUE"


def _judge(
    rows: Rows, columns: Sequence[Column], ok: str, ignored: Any, mostly: float, form: Callable[[tuple[Any, ...]], Any]
) -> Asking:
    """How many rows are not `ok`, of those that count."""
    counts, wrong = _present(columns, ignored), f"NOT ({ok})"
    total, considered, unexpected = yield rows.count(), rows.count(counts), rows.count(counts, wrong)
    success, examples = met(considered, unexpected, mostly), []
    if not success:
        (shown,) = yield (rows.examples(columns, counts, wrong),)
        examples = [form(row) for row in shown]
    return Judged(success, counted(total, considered, unexpected, examples))


def _comparable(columns: Sequence[Column]) -> None:
    """Raises Left where pandas may convert one of the columns, or refuse to compare them."""
    if len({"number" if column.kind in NUMBERS else column.dtype for column in columns}) > 1:
        raise Left("columns of several kinds")


def _pair(rows: Rows, names: Sequence[Any], *kinds: Kind) -> list[Column]:
    found = [rows.column(name, *kinds) for name in names]
    if len({column.name for column in found}) < len(found):
        raise Left("a column that is named twice")
    return found


def _equal_pair(
    rows: Rows, *, column_A: Any, column_B: Any, ignore_row_if: Any = "both_values_are_missing", mostly: Any = 1
) -> Asking:
    """Both values are there and equal."""
    pair = _pair(rows, (column_A, column_B))
    _comparable(pair)
    ok = f"coalesce({pair[0].sql} = {pair[1].sql}, FALSE)"
    return (yield from _judge(rows, pair, ok, ignore_row_if, exact(mostly), _listed(pair)))


def _greater_pair(
    rows: Rows,
    *,
    column_A: Any,
    column_B: Any,
    or_equal: Any = None,
    ignore_row_if: Any = "both_values_are_missing",
    mostly: Any = 1,
) -> Asking:
    """Both values are there, and the first is greater."""
    pair = _pair(rows, (column_A, column_B), "float", "int", "text", "time")
    _comparable(pair)
    ok = f"coalesce({pair[0].sql} {'>=' if flag(or_equal) else '>'} {pair[1].sql}, FALSE)"
    return (yield from _judge(rows, pair, ok, ignore_row_if, exact(mostly), _listed(pair)))


def _list(rows: Rows, names: Any, *kinds: Kind) -> list[Column]:
    if not isinstance(names, list):
        raise Left("no list of columns")
    return _pair(rows, names, *kinds)


def _compound(
    rows: Rows, *, column_list: Any, ignore_row_if: Any = "all_values_are_missing", mostly: Any = 1
) -> Asking:
    """No two rows have the same values; what is missing is a value like any other."""
    columns = _list(rows, column_list)
    counts = _present(columns, ignore_row_if)
    total, considered, doubled = yield (
        rows.count(),
        rows.count(counts),
        rows.groups("coalesce(sum(n) FILTER (n > 1), 0)::BIGINT", columns, counts),
    )
    success, examples = met(considered, doubled, exact(mostly)), []
    if not success:
        (shown,) = yield (rows.examples(columns, "n > 1", relation=rows.grouped(columns, counts)),)
        examples = [_record(columns)(row) for row in shown]
    return Judged(success, counted(total, considered, doubled, examples))


def _listed(columns: Sequence[Column]) -> Callable[[tuple[Any, ...]], list[Any]]:
    return lambda row: [column.read(value) for column, value in zip(columns, row, strict=True)]


def _record(columns: Sequence[Column]) -> Callable[[tuple[Any, ...]], dict[str, Any]]:
    return lambda row: {column.name: column.read(value) for column, value in zip(columns, row, strict=True)}


def _across(ok: Callable[..., str], *kinds: Kind) -> Entry:
    """The entry of a predicate about the values of a row."""

    def judge(
        rows: Rows, *, column_list: Any, ignore_row_if: Any = "all_values_are_missing", mostly: Any = 1, **more: Any
    ) -> Asking:
        columns = _list(rows, column_list, *kinds)
        accepts(ok, more)
        held = ok(rows, columns, **more)
        return (yield from _judge(rows, columns, held, ignore_row_if, exact(mostly), _record(columns)))

    return judge


def _all_differ(rows: Rows, columns: Sequence[Column]) -> str:
    _comparable(columns)
    return " AND ".join(f"{one.sql} IS DISTINCT FROM {other.sql}" for one, other in combinations(columns, 2))


def _all_equal(rows: Rows, columns: Sequence[Column]) -> str:
    _comparable(columns)
    return " AND ".join(f"{columns[0].sql} IS NOT DISTINCT FROM {other.sql}" for other in columns[1:])


def _sum_equals(rows: Rows, columns: Sequence[Column], *, sum_total: Any = None) -> str:
    return f"coalesce({' + '.join(column.sql for column in columns)} = {rows.value(exact(sum_total))}, FALSE)"


RECORDS: Mapping[str, Entry] = {
    "expect_column_pair_values_to_be_equal": _equal_pair,
    "expect_column_pair_values_a_to_be_greater_than_b": _greater_pair,
    "expect_compound_columns_to_be_unique": _compound,
    "expect_select_column_values_to_be_unique_within_record": _across(_all_differ, "float", "text"),
    "expect_multicolumn_values_to_be_equal": _across(_all_equal),
    "expect_multicolumn_sum_to_equal": _across(_sum_equals, "float"),
}
