"""pandera on polars: its own checks where it has them, an expression for the rest. Imports nothing of Slipway."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors


def known(values: list[Any]) -> list[Any]:
    """Whole numbers as floats, as the columns have them."""
    return [float(one) if isinstance(one, int) else one for one in values]


ROWS = {  # whether each row is as expected
    "column_values_to_be_between": lambda value, low, high, more: value.is_between(
        -math.inf if low is None else low,
        math.inf if high is None else high,
        closed="left" if more.get("strict_max") else "both",
    ),
    "column_values_to_be_in_set": lambda value, low, high, more: value.is_in(known(more["value_set"])),
    "column_values_to_not_be_in_set": lambda value, low, high, more: ~value.is_in(known(more["value_set"])),
    "column_values_to_match_regex": lambda value, low, high, more: value.str.contains(more["regex"]),
    "column_value_lengths_to_equal": lambda value, low, high, more: value.str.len_chars() == more["value"],
    "column_value_lengths_to_be_between": lambda value, low, high, more: value.str.len_chars().is_between(low, high),
    "column_values_to_not_be_null": lambda value, low, high, more: value.is_not_null(),
    "column_values_to_be_unique": lambda value, low, high, more: value.is_unique(),
}
NUMBERS = {  # a number of the column, which lies between bounds
    "column_unique_value_count_to_be_between": lambda value: value.drop_nulls().n_unique(),
    "column_proportion_of_unique_values_to_be_between": lambda value: value.drop_nulls().n_unique() / value.count(),
    "column_min_to_be_between": pl.Expr.min,
    "column_max_to_be_between": pl.Expr.max,
    "column_mean_to_be_between": pl.Expr.mean,
    "column_stdev_to_be_between": pl.Expr.std,
    "column_sum_to_be_between": pl.Expr.sum,
    "column_median_to_be_between": pl.Expr.median,
}


def check(place: int, kind: str, more: dict[str, Any]) -> pa.Check:
    """The expectation as a check of pandera, on one number that polars computes of the column."""
    value, low, high = pl.col(more["column"]), more.get("min_value"), more.get("max_value")
    if kind in ROWS:
        expression = ROWS[kind](value, low, high, more).mean()
        holds = lambda found: found >= more.get("mostly", 1)  # noqa: E731
    elif kind in NUMBERS:
        expression = NUMBERS[kind](value)
        holds = lambda found: (low is None or found >= low) and (high is None or found <= high)  # noqa: E731
    elif kind.startswith("column_distinct"):
        known = set(more["value_set"])
        expression = value.drop_nulls().unique().implode()
        holds = lambda found: set(found) == known if kind.endswith("equal_set") else set(found) <= known  # noqa: E731
    elif kind == "column_most_common_value_to_be_in_set":
        expression = value.drop_nulls().mode().first()
        holds = lambda found: found in more["value_set"]  # noqa: E731
    else:
        ranges = more["quantile_ranges"]
        expression = pl.concat_list([value.quantile(one, "nearest") for one in ranges["quantiles"]])
        holds = lambda found: all(a <= b <= c for b, (a, c) in zip(found, ranges["value_ranges"], strict=True))  # noqa: E731
    return pa.Check(
        lambda data: bool(holds(data.lazyframe.select(expression).collect().item())), name=str(place), error=str(place)
    )


def main(path: str, suite: str) -> None:
    begin = time.perf_counter()
    items = json.loads(Path(suite).read_text(encoding="utf-8"))["expectations"]
    frame = pl.read_parquet(path)
    failed: set[int] = set()
    checks: dict[str, list[pa.Check]] = {}
    for place, item in enumerate(items):
        kind, more = item["type"].removeprefix("expect_"), item["kwargs"]
        if "column" in more:
            checks.setdefault(more["column"], []).append(check(place, kind, more))
        elif not table(frame, kind, more):
            failed.add(place)
    schema = pa.DataFrameSchema({name: pa.Column(nullable=True, checks=some) for name, some in checks.items()})
    try:
        schema.validate(frame, lazy=True)
    except SchemaErrors as error:
        failed |= {int(one) for one in error.failure_cases["check"]}
    verdicts = [place not in failed for place in range(len(items))]
    print(json.dumps({"judging_s": time.perf_counter() - begin, "verdicts": verdicts}))


def table(frame: Any, kind: str, kwargs: dict[str, Any]) -> bool:
    if kind == "table_row_count_to_be_between":
        return bool(kwargs["min_value"] <= frame.height <= kwargs["max_value"])
    if kind == "table_column_count_to_equal":
        return bool(frame.width == kwargs["value"])
    return bool((frame[kwargs["column_A"]] >= frame[kwargs["column_B"]]).all())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[3])
