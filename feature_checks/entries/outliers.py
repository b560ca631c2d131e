"""Expectations about values that lie far from the others of their column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feature_checks.entries.rows import Asking, Entry, Judged, Left, Rows, counted, flag, met
from feature_checks.entries.rows import number as exact
from feature_checks.entries.statistics import ROUNDING, finite, moments, quantile
from feature_checks.parquet import Column


def _z_scores(rows: Rows, *, column: Any, threshold: Any, double_sided: Any, mostly: Any = 1) -> Asking:
    """How many values lie so many standard deviations from the mean."""
    found = rows.column(column, "float", "int")
    limit = exact(threshold)
    total, present, mean, deviation, scale = yield (
        rows.count(),
        rows.aggregate(f"count({found.sql})"),
        *moments(rows, found, "avg", "stddev_samp"),
    )
    finite(scale)
    if deviation is not None and deviation <= ROUNDING * scale:
        raise Left("a spread that may be rounding's alone")
    if deviation is None:
        return Judged(True, counted(total, present, 0, []))
    score = f"({found.sql} - {rows.value(mean)}) / {rows.value(deviation)}"
    if flag(double_sided):
        score, limit = f"abs({score})", abs(limit)
    return (yield from _beyond(rows, found, f"{score} - {rows.value(limit)}", total, present, exact(mostly)))


def _beyond(rows: Rows, column: Column, excess: str, total: int, present: int, mostly: float) -> Asking:
    """How many values exceed something, when none is as good as on it."""
    close, unexpected = yield rows.count(f"abs({excess}) <= {ROUNDING}"), rows.count(f"{excess} >= 0")
    if close:
        raise Left("a value lies on the limit but for rounding")
    success, examples = met(present, unexpected, mostly), []
    if not success:
        (shown,) = yield (rows.examples([column], f"{excess} >= 0"),)
        examples = [value for (value,) in shown]
    return Judged(success, counted(total, present, unexpected, examples))


def _outliers(rows: Rows, *, column: Any, method: Any = "iqr", multiplier: Any = 1.5, mostly: Any = 1) -> Asking:
    """How many values lie beyond Tukey's fences, or so many standard deviations from the mean."""
    found = rows.column(column, "float", "int")
    if method == "std":
        return (yield from _z_scores(rows, column=column, threshold=multiplier, double_sided=True, mostly=mostly))
    if method != "iqr":
        raise Left("an unknown method")
    quartiles = yield from quantile(rows, found, [0.25, 0.75], "linear")
    total, present, scale = yield (
        rows.count(),
        rows.aggregate(f"count({found.sql})"),
        rows.aggregate(f"max(abs({found.sql}))"),
    )
    if quartiles is None:
        return Judged(True, counted(total, present, 0, []))
    finite(scale)
    room = exact(multiplier) * (quartiles[1] - quartiles[0])
    low, high = rows.value(quartiles[0] - room), rows.value(quartiles[1] + room)
    outside = f"({found.sql} < {low} OR {found.sql} > {high})"
    (unexpected,) = yield (rows.count(outside),)
    success, examples = met(present, unexpected, exact(mostly)), []
    if not success:
        (shown,) = yield (rows.examples([found], outside),)
        examples = [value for (value,) in shown]
    return Judged(success, counted(total, present, unexpected, examples))


OUTLIERS: Mapping[str, Entry] = {
    "expect_column_value_z_scores_to_be_less_than": _z_scores,
    "expect_column_values_to_not_be_outliers": _outliers,
}
