"""Expectations about a number that a column has: an extreme, a mean, a share, a quantile, its commonest value."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np

from feature_checks.entries.maps import bounds
from feature_checks.entries.rows import Ask, Asking, Entry, Judged, Left, Rows, flag, members
from feature_checks.entries.rows import number as exact
from feature_checks.parquet import Column, Kind

ROUNDING = 1e-9  # relative; two ways to add up numbers differ by less
HUGE = 1e100  # of numbers beyond it, squares and sums may overflow in one way and not in the other
MOST = 100  # commonest values that are shown where many tie
MOST_DISTINCT = 20  # values outside of a set that Great Expectations shows

Observing = Generator[tuple[Ask, ...], Sequence[Any], Any]  # asks, and comes to a number; None where there is none
Observe = Callable[..., Observing]  # (rows, column, lower bound, upper bound)


def _bounded(observe: Observe, *kinds: Kind, own: bool = False) -> Entry:
    """The entry of a number that shall lie within bounds; `own`: it is a value of the column itself."""

    def judge(
        rows: Rows,
        *,
        column: Any,
        min_value: Any = None,
        max_value: Any = None,
        strict_min: Any = False,
        strict_max: Any = False,
    ) -> Asking:
        found = rows.column(column, *kinds)
        if own:
            low, high = bounds(found, min_value, max_value)
        else:
            low, high = (None if one is None else exact(one, finite=False) for one in (min_value, max_value))
        observed = yield from observe(rows, found, low, high)
        if observed is None or observed != observed:  # noqa: PLR0124 (NaN)
            return Judged(False, {"observed_value": None})
        above = low is None or (observed > low if flag(strict_min) else observed >= low)
        below = high is None or (observed < high if flag(strict_max) else observed <= high)
        return Judged(bool(above and below), {"observed_value": found.read(observed) if own else observed})

    return judge


def _extreme(name: str) -> Observe:
    def observe(rows: Rows, column: Column, *bounds: Any) -> Observing:
        (observed,) = yield (rows.aggregate(f"{name}({column.sql})"),)
        if observed is None and column.kind == "time":
            raise Left("pandas knows a time that is none")
        return observed

    return observe


def _moment(name: str) -> Observe:
    """A sum, a mean or a deviation: exact but for rounding, so not to be held against a bound that it may lie on."""

    def observe(rows: Rows, column: Column, *bounds: Any) -> Observing:
        observed, scale = yield moments(rows, column, name)
        finite(scale)
        if observed is None:
            return 0.0 if name == "sum" else None
        error = ROUNDING * scale
        if error and any(bound is not None and abs(observed - bound) <= error for bound in bounds):
            raise Left("it lies on its bound but for rounding")
        return observed

    return observe


def moments(rows: Rows, column: Column, *names: str) -> tuple[Ask, ...]:
    """These numbers of the column, and the magnitude that bounds what rounding can do to them."""
    value = f"{column.sql}::DOUBLE"
    scale = rows.aggregate(f"sum(abs({value}))") if "sum" in names else rows.aggregate(f"max(abs({value}))")
    return (*(rows.aggregate(f"{name}({value})") for name in names), scale)


def finite(scale: float | None) -> None:
    """Raises Left where two ways of adding up may end differently."""
    if scale is not None and not scale < HUGE:
        raise Left("infinities, or numbers whose sum may be one")


def _present_share(rows: Rows, column: Column, *bounds: Any) -> Observing:
    total, present = yield rows.count(), rows.aggregate(f"count({column.sql})")
    return present / total if total else 0


def _distinct(rows: Rows, column: Column, *bounds: Any) -> Observing:
    (distinct,) = yield (rows.groups("count(*)", [column], f"{column.sql} IS NOT NULL"),)
    return distinct


def _distinct_share(rows: Rows, column: Column, *bounds: Any) -> Observing:
    (present,) = yield (rows.aggregate(f"count({column.sql})"),)
    distinct = yield from _distinct(rows, column)
    return distinct / present if present else 0


def _at(rows: Rows, column: Column, ranks: Sequence[int], present: int) -> Ask:
    """The values at these places of the sorted column, counted from 0."""
    shares = ", ".join(repr((rank + 0.5) / present) for rank in ranks)
    return rows.aggregate(f"quantile_disc({column.sql}::DOUBLE, [{shares}])")


def quantile(rows: Rows, column: Column, quantiles: Sequence[float], method: str) -> Any:
    """The column's quantiles as pandas computes them: from the values at two neighbouring places. None of no rows."""
    (present,) = yield (rows.aggregate(f"count({column.sql})"),)
    if not present:
        return None
    places = np.asarray(quantiles, dtype=np.float64) * 100.0 / 100 * (present - 1)
    if method == "nearest":
        places = np.around(places)
    lower = np.floor(places).astype(int)
    ranks = sorted({*lower.tolist(), *np.minimum(lower + 1, present - 1).tolist()})
    (values,) = yield (_at(rows, column, ranks, present),)
    found = dict(zip(ranks, values, strict=True))
    pairs = [(found[low], found[min(low + 1, present - 1)]) for low in lower.tolist()]
    between = zip(pairs, (places - lower).tolist(), strict=True)
    return [float(np.quantile(np.array(pair), share, method=method)) for pair, share in between]  # type: ignore[call-overload]


def _median(rows: Rows, column: Column, *bounds: Any) -> Observing:
    """The mean of the two values in the middle."""
    (present,) = yield (rows.aggregate(f"count({column.sql})"),)
    if not present:
        return None
    (middle,) = yield (_at(rows, column, [(present - 1) // 2, present // 2], present),)
    return sum(middle) / 2


def _quantiles(rows: Rows, *, column: Any, quantile_ranges: Any, allow_relative_error: Any = False) -> Asking:
    """Each quantile within its range, or as good as on its bound, which Great Expectations lets pass."""
    found = rows.column(column, "float", "int")
    quantiles = [exact(one) for one in quantile_ranges["quantiles"]]
    ranges = [[None if one is None else exact(one) for one in pair] for pair in quantile_ranges["value_ranges"]]
    method = allow_relative_error or "nearest"
    known = ("linear", "lower", "higher", "midpoint", "nearest")
    sound = quantiles and all(0 <= one <= 1 for one in quantiles) and all(len(pair) == 2 for pair in ranges)
    if method not in known or not sound:
        raise Left("quantiles in a form that only pandas knows")
    values = yield from quantile(rows, found, quantiles, method)
    if values is None:
        raise Left("a column of no values has no quantiles")
    if any(math.isinf(one) or math.isnan(one) for one in values):
        raise Left("a quantile that is not finite")
    details = [_in_range(value, *pair) for value, pair in zip(values, ranges, strict=True)]
    observed = {"quantiles": quantile_ranges["quantiles"], "values": values}
    return Judged(all(details), {"observed_value": observed, "details": {"success_details": details}})


def _in_range(value: float, low: float | None, high: float | None) -> bool:
    near = any(one is not None and abs(value - one) <= 1e-8 + 1e-4 * abs(one) for one in (low, high))
    return near or ((low is None or low <= value) and (high is None or value <= high))


def _most_common(rows: Rows, *, column: Any, value_set: Any, ties_okay: Any = None) -> Asking:
    """The commonest value, or with ties any of them, is in the set."""
    found = rows.column(column, "float", "int", "text")
    inside = rows.value.among(found.sql, members(value_set, found))
    grouped = rows.grouped([found], f"{found.sql} IS NOT NULL")
    commonest = f"(SELECT {found.sql} FROM {grouped} QUALIFY n = max(n) OVER ())"  # noqa: S608 (values are parameters)
    tied, expected, shown = yield (
        Ask(commonest, "count(*)"),
        Ask(commonest, f"count(*) FILTER ({inside})"),
        Ask(commonest, f"min({found.sql}, {MOST})"),
    )
    success = expected > 0 if flag(ties_okay) else tied == 1 and expected == 1
    return Judged(success, {"observed_value": shown or []})


def _distinct_set(*, within: bool, covering: bool) -> Entry:
    """The entry of distinct values that lie within a set, cover it, or both."""

    def judge(rows: Rows, *, column: Any, value_set: Any) -> Asking:
        found = rows.column(column, "float", "int", "text")
        values = list(dict.fromkeys(members(value_set, found)))
        if len(values) < len(set(value_set)):
            raise Left("a set with values that no such column can have")
        inside = rows.value.among(found.sql, values)
        there = f"{found.sql} IS NOT NULL"
        outside, shown, present = yield (
            rows.groups(f"count(*) FILTER (NOT {inside})", [found], there),
            rows.groups(f"min({found.sql}, {MOST_DISTINCT}) FILTER (NOT {inside})", [found], there),
            rows.groups(f"list({found.sql}) FILTER ({inside})", [found], there),
        )
        absent = [one for one in values if one not in set(present or ())]
        result: dict[str, Any] = {"observed_value": None}
        if within:
            result |= {"unexpected_count": outside, "partial_unexpected_list": shown or []}
        if covering:
            result |= {"missing_count": len(absent), "partial_missing_list": absent[:MOST_DISTINCT]}
        return Judged(not (within and outside) and not (covering and absent), result)

    return judge


STATISTICS: Mapping[str, Entry] = {
    "expect_column_min_to_be_between": _bounded(_extreme("min"), "float", "int", "time", own=True),
    "expect_column_max_to_be_between": _bounded(_extreme("max"), "float", "int", "time", own=True),
    "expect_column_sum_to_be_between": _bounded(_moment("sum"), "float", "int"),
    "expect_column_mean_to_be_between": _bounded(_moment("avg"), "float", "int"),
    "expect_column_stdev_to_be_between": _bounded(_moment("stddev_samp"), "float", "int"),
    "expect_column_median_to_be_between": _bounded(_median, "float", "int"),
    "expect_column_quantile_values_to_be_between": _quantiles,
    "expect_column_proportion_of_non_null_values_to_be_between": _bounded(_present_share),
    "expect_column_unique_value_count_to_be_between": _bounded(_distinct),
    "expect_column_proportion_of_unique_values_to_be_between": _bounded(_distinct_share),
    "expect_column_most_common_value_to_be_in_set": _most_common,
    "expect_column_distinct_values_to_be_in_set": _distinct_set(within=True, covering=False),
    "expect_column_distinct_values_to_contain_set": _distinct_set(within=False, covering=True),
    "expect_column_distinct_values_to_equal_set": _distinct_set(within=True, covering=True),
}
