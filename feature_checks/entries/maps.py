"""Expectations about each value of a column: how many rows are not as expected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from feature_checks.entries.regex import Pattern, translate
from feature_checks.entries.rows import (
    NUMBERED,
    Ask,
    Asking,
    Entry,
    Judged,
    Left,
    Rows,
    accepts,
    counted,
    flag,
    members,
    met,
)
from feature_checks.entries.rows import number as exact
from feature_checks.parquet import EPOCH, Column, Kind

Predicate = Callable[..., str]  # (rows, column, **arguments): SQL that holds for what is as expected, NULL for missing
FEW = 32  # a set that every row is compared with; a larger one is compared with the distinct values


def bounds(column: Column, low: Any, high: Any) -> tuple[Any, Any]:
    """The bounds in the column's own terms. Raises Left where pandas refuses to compare, so that it says so itself."""
    if column.kind != "time":
        return tuple(None if one is None else exact(one, finite=False) for one in (low, high))  # type: ignore[return-value]
    return moment(column, low), moment(column, high)


def moment(column: Column, value: Any) -> int | None:
    """Microseconds of a bound of a column of times."""
    if value is None:
        return None
    try:
        when = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise Left(f"{value!r} is no time") from None
    if "T" not in value or (when.tzinfo is not None) != column.zoned:
        raise Left("one time has a zone, the other has none")
    return round((when.replace(tzinfo=None) - (when.utcoffset() or EPOCH - EPOCH) - EPOCH).total_seconds() * 10**6)


def between(
    rows: Rows,
    column: Column,
    *,
    min_value: Any = None,
    max_value: Any = None,
    strict_min: Any = False,
    strict_max: Any = False,
) -> str:
    """Whether the value lies within the bounds."""
    low, high = bounds(column, min_value, max_value)
    return within(rows, column.sql, low, high, strict_min, strict_max)


def within(rows: Rows, sql: str, low: Any, high: Any, strict_min: Any = False, strict_max: Any = False) -> str:
    """Whether a value of SQL lies within the bounds."""
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise Left("the bounds hold nothing")
    above = f"{sql} {'>' if flag(strict_min) else '>='} {rows.value(low)}" if low is not None else ""
    below = f"{sql} {'<' if flag(strict_max) else '<='} {rows.value(high)}" if high is not None else ""
    return " AND ".join(filter(None, (above, below)))


def lengths_between(
    rows: Rows,
    column: Column,
    *,
    min_value: Any = None,
    max_value: Any = None,
    strict_min: Any = False,
    strict_max: Any = False,
) -> str:
    """Whether the text has so many characters."""
    low, high = (None if one is None else exact(one) for one in (min_value, max_value))
    return within(rows, f"length({column.sql})", low, high, strict_min, strict_max)


def lengths_equal(rows: Rows, column: Column, *, value: Any) -> str:
    """Whether the text has exactly so many characters."""
    return f"length({column.sql}) = {rows.value(exact(value))}"


def _about(column_kinds: tuple[Kind, ...], predicate: Predicate) -> Entry:
    """The entry of a predicate about a column's values that are there."""

    def judge(rows: Rows, *, column: Any, mostly: Any = 1, **arguments: Any) -> Asking:
        found = rows.column(column, *column_kinds)
        accepts(predicate, arguments)
        return (yield from _counted(rows, found, predicate(rows, found, **arguments), exact(mostly)))

    return judge


def _counted(rows: Rows, column: Column, ok: str, mostly: float, *unless: tuple[Ask, str]) -> Asking:
    """How many rows are not `ok`. What `unless` finds is a reason to leave it to Great Expectations."""
    total, present, unexpected, *found = yield (
        rows.count(),
        rows.aggregate(f"count({column.sql})"),
        rows.count(f"NOT ({ok})"),
        *(ask for ask, _ in unless),
    )
    for count, (_, why) in zip(found, unless, strict=True):
        if count:
            raise Left(why)
    success, examples = met(present, unexpected, mostly), []
    if not success:
        (shown,) = yield (rows.examples([column], f"NOT ({ok})"),)
        examples = [column.read(value) for (value,) in shown]
    return Judged(success, counted(total, present, unexpected, examples))


def _sets(*, wanted: bool) -> Entry:
    """The entry of values that shall be, or shall not be, in a set."""

    def judge(rows: Rows, *, column: Any, value_set: Any, mostly: Any = 1) -> Asking:
        found = rows.column(column, "float", "int", "text")
        inside = rows.value.among(found.sql, members(value_set, found))
        ok = inside if wanted else f"NOT {inside}"
        if len(value_set) <= FEW:
            return (yield from _counted(rows, found, ok, exact(mostly)))
        there = f"{found.sql} IS NOT NULL"
        total, present, unexpected = yield (
            rows.count(),
            rows.aggregate(f"count({found.sql})"),
            rows.groups(f"coalesce(sum(n) FILTER (NOT ({ok})), 0)::BIGINT", [found], there),
        )
        success, examples = met(present, unexpected, exact(mostly)), []
        if not success:
            (shown,) = yield (rows.examples([found], there, f"NOT ({ok})"),)
            examples = [value for (value,) in shown]
        return Judged(success, counted(total, present, unexpected, examples))

    return judge


def _regex(*, wanted: bool, many: bool) -> Entry:
    """The entry of texts that shall, or shall not, match a pattern or those of a list."""

    def judge(
        rows: Rows, *, column: Any, mostly: Any = 1, regex: Any = None, regex_list: Any = None, match_on: Any = "any"
    ) -> Asking:
        found = rows.column(column, "text")
        sources = regex_list if many else [regex]
        if not isinstance(sources, list) or not sources or match_on not in ("any", "all"):
            raise Left("no list of patterns")
        patterns = [translate(one) for one in sources]
        matches = [f"regexp_matches({found.sql}, {rows.value(one.re2)})" for one in patterns]
        joined = f"({(' AND ' if match_on == 'all' else ' OR ').join(matches)})"
        unless = tuple(_unless(rows, found, patterns))
        return (yield from _counted(rows, found, joined if wanted else f"NOT {joined}", exact(mostly), *unless))

    return judge


def _unless(rows: Rows, column: Column, patterns: list[Pattern]) -> list[tuple[Ask, str]]:
    found = []
    if any(one.ascii_only for one in patterns):
        wide = rows.count(f"strlen({column.sql}) <> length({column.sql})")
        found.append((wide, "beyond ASCII, a class of characters is not the same to RE2"))
    if any(one.one_line for one in patterns):
        lines = rows.count(f"contains({column.sql}, chr(10))")
        found.append((lines, "in text of several lines, `$` is not the same to RE2"))
    return found


def _missing(*, wanted: bool) -> Entry:
    """The entry of values that shall be missing, or shall not be; to it, missing values count as rows."""

    def judge(rows: Rows, *, column: Any, mostly: Any = 1) -> Asking:
        found = rows.column(column)
        total, present = yield rows.count(), rows.aggregate(f"count({found.sql})")
        unexpected = present if wanted else total - present
        success, examples = met(total, unexpected, exact(mostly)), []
        if not success:
            (shown,) = yield (rows.examples([found], f"{found.sql} IS {'NOT ' if wanted else ''}NULL"),)
            examples = [found.read(value) for (value,) in shown]
        return Judged(success, counted(total, None, unexpected, examples))

    return judge


def _unique(rows: Rows, *, column: Any, mostly: Any = 1) -> Asking:
    """Each value that is there more than once is unexpected, as often as it is there."""
    found = rows.column(column)
    there = f"{found.sql} IS NOT NULL"
    total, present, doubled = yield (
        rows.count(),
        rows.aggregate(f"count({found.sql})"),
        rows.groups("coalesce(sum(n) FILTER (n > 1), 0)::BIGINT", [found], there),
    )
    success, examples = met(present, doubled, exact(mostly)), []
    if not success:
        (shown,) = yield (rows.examples([found], "n > 1", relation=rows.grouped([found], there)),)
        examples = [found.read(value) for (value,) in shown]
    return Judged(success, counted(total, present, doubled, examples))


def _ordered(sign: str) -> Entry:
    """The entry of values that shall rise, or fall, from one row that has one to the next."""

    def judge(rows: Rows, *, column: Any, strictly: Any = None, mostly: Any = 1) -> Asking:
        found = rows.column(column, "float", "time")
        step = f"{found.sql} - lag({found.sql}) OVER (ORDER BY position)"
        there = rows.where(f"{found.sql} IS NOT NULL")
        steps = f"(SELECT {found.sql}, position, {step} AS step FROM {NUMBERED} WHERE {there})"  # noqa: S608 (values are parameters)
        nan = "isnan(step::DOUBLE)"  # infinity less infinity: pandas lets it pass
        wrong = f"step IS NOT NULL AND NOT {nan} AND NOT step {sign}{'' if flag(strictly) else '='} 0"
        total, present, unexpected = yield (
            rows.count(),
            rows.aggregate(f"count({found.sql})"),
            Ask(steps, f"count(*) FILTER ({wrong})"),
        )
        success, examples = met(present, unexpected, exact(mostly)), []
        if not success:
            (shown,) = yield (rows.examples([found], wrong, relation=steps, order="position"),)
            examples = [found.read(value) for (value,) in shown]
        return Judged(success, counted(total, present, unexpected, examples))

    return judge


MAPS: Mapping[str, Entry] = {
    "expect_column_values_to_not_be_null": _missing(wanted=False),
    "expect_column_values_to_be_null": _missing(wanted=True),
    "expect_column_values_to_be_between": _about(("float", "int", "time"), between),
    "expect_column_values_to_be_in_set": _sets(wanted=True),
    "expect_column_values_to_not_be_in_set": _sets(wanted=False),
    "expect_column_values_to_be_unique": _unique,
    "expect_column_values_to_match_regex": _regex(wanted=True, many=False),
    "expect_column_values_to_not_match_regex": _regex(wanted=False, many=False),
    "expect_column_values_to_match_regex_list": _regex(wanted=True, many=True),
    "expect_column_values_to_not_match_regex_list": _regex(wanted=False, many=True),
    "expect_column_value_lengths_to_be_between": _about(("text",), lengths_between),
    "expect_column_value_lengths_to_equal": _about(("text",), lengths_equal),
    "expect_column_values_to_be_increasing": _ordered(">"),
    "expect_column_values_to_be_decreasing": _ordered("<"),
}
