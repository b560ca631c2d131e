"""Pushed down, an expectation gets Great Expectations' own verdict, whatever rows and arguments are."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from feature_checks import gx
from feature_checks.entries.rows import Judged, Left
from feature_checks.entries.table import LEFT
from feature_checks.pushdown import ENTRIES, push_down

SCHEMA = pa.schema(
    {
        "f": pa.float64(), "g": pa.float64(), "i": pa.int64(), "s": pa.string(), "u": pa.large_string(),
        "t": pa.timestamp("us", "UTC"), "v": pa.timestamp("us", "UTC"), "w": pa.timestamp("us"), "b": pa.bool_(),
    }
)  # fmt: skip


def judge(path: Path, *expectations: tuple[str, dict[str, Any]]) -> list[tuple[Judged | Left, dict[str, Any]]]:
    """The verdict pushed down, beside Great Expectations' result."""
    items = [{"type": kind, "kwargs": kwargs} for kind, kwargs in expectations]
    ours = push_down(path, [gx.read(item, "") for item in items], threads=2)
    return list(zip(ours, json.loads(json.dumps(gx.judge(items, path, None), default=_plain)), strict=True))


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def raised(result: dict[str, Any]) -> bool:
    info = result["exception_info"]
    parts = [info] if "raised_exception" in info else list(info.values())
    return any(part.get("raised_exception") for part in parts)


def same(ours: Any, theirs: Any) -> bool:
    """Equal, but for the rounding of numbers and the order of a set."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(
            sorted(ours[key], key=repr) == sorted(theirs[key], key=repr)
            if key == "partial_missing_list"
            else same(ours[key], theirs[key])
            for key in ours
        )
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return ours == theirs or math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)
    return bool(ours == theirs)


def assert_same(kind: str, kwargs: dict[str, Any], ours: Judged, theirs: dict[str, Any]) -> None:
    told = f"{kind} {kwargs}: {ours} is not {theirs['success']} {theirs['result']}"
    assert not raised(theirs), told
    assert ours.success is theirs["success"], told
    mine, other = dict(ours.result), dict(theirs["result"])
    shown, expected = mine.pop("partial_unexpected_list", None), other.pop("partial_unexpected_list", None)
    if expected is not None:
        expected = [None if value == "NaT" else value for value in expected]  # how GX spells a moment that is missing
    assert same(mine, other), told
    if not ours.success and kind.startswith("expect_column_value") and not kind.endswith("unique"):
        assert same(shown, expected), told


# Rows: few values, so that they meet; each kind also constant, missing throughout, and alone.

NUMBERS = st.sampled_from([None, math.nan, 0.0, -0.0, 1.0, 2.0, 2.5, -1.0, 3.0, 0.1, 1e9, -7.25, 2.0**53, math.inf, -math.inf])  # fmt: skip
WHOLE = st.sampled_from([0, 1, 2, 3, -1, 10**9, 2**53])
TEXTS = st.sampled_from([None, "", "a", "b", "ab", "A b", "12", "ü1", "x\n", "a\nb", "\x1f", "٣", "👍🏽", "e\u0301", "'; --", '"'])  # fmt: skip
PLAIN_TEXTS = st.sampled_from([None, "", "a", "b", "ab", "12", "user-7", "A_b", "a b\t"])
NEW_YEAR = datetime(2026, 1, 1)  # noqa: DTZ001 (the zone is the column's)
TIMES = st.none() | st.datetimes(NEW_YEAR.replace(year=1960), NEW_YEAR.replace(year=2040)) | st.just(NEW_YEAR)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.sampled_from([1, 2, 3, 5, 9, 16]))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        few = draw(st.sampled_from(["any", "any", "any", "constant"]))
        return [draw(values)] * rows if few == "constant" else draw(st.lists(values, min_size=rows, max_size=rows))

    kinds = (NUMBERS, st.sampled_from([None, 0.5, 1.0, 2.0, 3.0, 4.0]), WHOLE, TEXTS, PLAIN_TEXTS, TIMES, TIMES, TIMES, st.booleans())  # fmt: skip
    return pa.table([pa.array(column(one), kind) for one, kind in zip(kinds, SCHEMA.types, strict=True)], schema=SCHEMA)


# Arguments: of every entry.

bound = st.none() | st.sampled_from([-1, 0, 0.3, 1, 2, 3.5, 1e9, math.inf])
instants = st.sampled_from(
    ["2026-01-01T00:00:00Z", "1980-05-05T12:30:00.25+02:00", "1999-01-01T00:00:00", "2000-01-01"]
)
mostly = st.sampled_from([{}, {}, {"mostly": 0.5}, {"mostly": 0.9}, {"mostly": 0}])
strict = st.fixed_dictionaries({}, optional={"strict_min": st.booleans(), "strict_max": st.booleans()})
any_column, number_column, text_column = st.sampled_from(SCHEMA.names), st.sampled_from("fgi"), st.sampled_from("su")
value_sets = st.lists(st.sampled_from([0, 1, 2.5, 3, 2**53, None, "a", "b", "", "ü1", "12", math.inf]), max_size=5) | st.just(list(range(40)))  # fmt: skip
patterns = st.sampled_from(
    ["a", "^a", "b$", "^$", "[0-9]+", r"\d", r"\w+", r"\bab\b", r"\s", r"[^\s]", r"\S$", "a|b", "(a)(b)?", "a{1,2}", ".", "^.$",
     r"\.", "[^a]", "(?:a|b)+", "(?i)A", r"(a)\1", "(?<=a)b", r"^user-[0-9]+\Z", "[", "a++", "x{2001}", "ü", "[\\w-]", "-", "'; DROP TABLE rows; --"]
)  # fmt: skip


def comparison(columns: str, values: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    one = st.fixed_dictionaries({
        "type": st.just("comparison"), "column": st.sampled_from(columns).map(lambda name: {"name": name}),
        "operator": st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), "parameter": st.sampled_from(values),
    })  # fmt: skip
    many = st.fixed_dictionaries({
        "type": st.just("comparison"), "column": st.sampled_from(columns).map(lambda name: {"name": name}),
        "operator": st.sampled_from(["IN", "NOT_IN"]), "parameter": st.lists(st.sampled_from(values), min_size=1, max_size=3),
    })  # fmt: skip
    return one | many


single = (
    comparison("fgi", [0, 1, 2.5, 2])
    | comparison("su", ["a", "b", "", "ü1", "it's"])
    | st.fixed_dictionaries(
        {"type": st.just("nullity"), "column": any_column.map(lambda name: {"name": name}), "is_null": st.booleans()}
    )
)
joined = st.fixed_dictionaries({"type": st.sampled_from(["and", "or"]), "conditions": st.lists(single, min_size=2, max_size=3)})  # fmt: skip
conditions = st.sampled_from([{}, {}]) | st.fixed_dictionaries({"row_condition": single | joined | st.just("f > 1")})


def arguments(*parts: st.SearchStrategy[dict[str, Any]], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Keyword arguments; those that are None are left out."""
    drawn = st.tuples(st.fixed_dictionaries(named), *parts)
    return drawn.map(lambda found: {key: value for part in found for key, value in part.items() if value is not None})


def between(columns: st.SearchStrategy[str], *parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    return arguments(strict, conditions, *parts, column=columns, min_value=bound, max_value=bound)


times_between = arguments(
    strict, conditions, column=st.sampled_from("tw"), min_value=instants, max_value=st.none() | instants
)
quantiles = st.lists(st.tuples(st.sampled_from([0, 0.1, 0.25, 0.5, 0.99, 1]), st.sampled_from([[None, 2], [0, None], [-1, 3]])), min_size=1, max_size=3)  # fmt: skip
pair = {"column_A": any_column, "column_B": any_column}
ignored = st.sampled_from([{}, {"ignore_row_if": "either_value_is_missing"}, {"ignore_row_if": "neither"}])
ignored_list = st.sampled_from([{}, {"ignore_row_if": "any_value_is_missing"}, {"ignore_row_if": "never"}])
column_lists = st.sampled_from([["f", "g"], ["g", "f"], ["s", "u"], ["f", "g", "i"], ["t", "v"], ["s", "f"], ["b", "i"], ["t", "w"], ["u", "b", "v"]])  # fmt: skip
types = st.sampled_from(["str", "float", "float64", "int", "int64", "bool", "object", "Timestamp", "datetime64", "datetime64[us, UTC]", "string", "Int64", "NoSuch"])  # fmt: skip
ARGUMENTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "expect_column_values_to_not_be_null": arguments(mostly, conditions, column=any_column),
    "expect_column_values_to_be_null": arguments(mostly, conditions, column=any_column),
    "expect_column_values_to_be_between": between(number_column, mostly) | times_between,
    "expect_column_values_to_be_in_set": arguments(mostly, conditions, column=any_column, value_set=value_sets),
    "expect_column_values_to_not_be_in_set": arguments(mostly, conditions, column=any_column, value_set=value_sets),
    "expect_column_values_to_be_unique": arguments(mostly, conditions, column=any_column),
    "expect_column_values_to_match_regex": arguments(mostly, conditions, column=text_column, regex=patterns),
    "expect_column_values_to_not_match_regex": arguments(mostly, conditions, column=text_column, regex=patterns),
    "expect_column_values_to_match_regex_list": arguments(mostly, conditions, column=text_column, regex_list=st.lists(patterns, min_size=1, max_size=2), match_on=st.sampled_from(["any", "all"])),
    "expect_column_values_to_not_match_regex_list": arguments(mostly, column=text_column, regex_list=st.lists(patterns, min_size=1, max_size=2)),
    "expect_column_value_lengths_to_be_between": arguments(strict, mostly, conditions, column=text_column, min_value=st.sampled_from([None, 0, 1]), max_value=st.sampled_from([1, 2])),
    "expect_column_value_lengths_to_equal": arguments(mostly, conditions, column=text_column, value=st.sampled_from([0, 1, 2])),
    "expect_column_values_to_be_increasing": arguments(mostly, conditions, column=any_column, strictly=st.booleans()),
    "expect_column_values_to_be_decreasing": arguments(mostly, conditions, column=any_column, strictly=st.booleans()),
    "expect_column_min_to_be_between": between(number_column) | times_between,
    "expect_column_max_to_be_between": between(number_column) | times_between,
    "expect_column_sum_to_be_between": between(number_column),
    "expect_column_mean_to_be_between": between(number_column),
    "expect_column_stdev_to_be_between": between(number_column),
    "expect_column_median_to_be_between": between(number_column),
    "expect_column_quantile_values_to_be_between": arguments(conditions, column=number_column, quantile_ranges=quantiles.map(lambda found: {"quantiles": [one for one, _ in found], "value_ranges": [two for _, two in found]}), allow_relative_error=st.sampled_from([False, "linear", "lower", "higher", "midpoint", "nearest"])),
    "expect_column_proportion_of_non_null_values_to_be_between": between(any_column),
    "expect_column_unique_value_count_to_be_between": arguments(strict, conditions, column=any_column, min_value=st.sampled_from([None, 0, 2]), max_value=st.sampled_from([None, 1, 3])),
    "expect_column_proportion_of_unique_values_to_be_between": between(any_column),
    "expect_column_most_common_value_to_be_in_set": arguments(conditions, column=any_column, value_set=value_sets, ties_okay=st.none() | st.booleans()),
    "expect_column_distinct_values_to_be_in_set": arguments(conditions, column=any_column, value_set=value_sets.filter(bool)),
    "expect_column_distinct_values_to_contain_set": arguments(conditions, column=any_column, value_set=value_sets),
    "expect_column_distinct_values_to_equal_set": arguments(conditions, column=any_column, value_set=value_sets),
    "expect_column_value_z_scores_to_be_less_than": arguments(mostly, conditions, column=number_column, threshold=st.sampled_from([0.5, 1, 1.3, 2]), double_sided=st.booleans()),
    "expect_column_values_to_not_be_outliers": arguments(mostly, conditions, column=number_column, method=st.sampled_from(["iqr", "std"]), multiplier=st.sampled_from([0, 0.7, 1.5])),
    "expect_column_pair_values_to_be_equal": arguments(mostly, conditions, ignored, **pair),
    "expect_column_pair_values_a_to_be_greater_than_b": arguments(mostly, conditions, ignored, or_equal=st.none() | st.booleans(), **pair),
    "expect_compound_columns_to_be_unique": arguments(mostly, conditions, ignored_list, column_list=column_lists),
    "expect_select_column_values_to_be_unique_within_record": arguments(mostly, conditions, ignored_list, column_list=column_lists),
    "expect_multicolumn_values_to_be_equal": arguments(mostly, conditions, ignored_list, column_list=column_lists),
    "expect_multicolumn_sum_to_equal": arguments(mostly, conditions, ignored_list, column_list=column_lists, sum_total=st.sampled_from([0, 3, 3.5])),
    "expect_table_row_count_to_be_between": arguments(strict, conditions, min_value=st.sampled_from([None, 0, 2]), max_value=st.sampled_from([None, 3, 9])),
    "expect_table_row_count_to_equal": arguments(conditions, value=st.sampled_from([0, 1, 2, 9])),
    "expect_table_column_count_to_be_between": arguments(min_value=st.sampled_from([1, 9]), max_value=st.sampled_from([9, 20])),
    "expect_table_column_count_to_equal": arguments(value=st.sampled_from([8, 9])),
    "expect_table_columns_to_match_ordered_list": arguments(column_list=st.just(SCHEMA.names) | st.lists(any_column, unique=True, max_size=10)),
    "expect_table_columns_to_match_set": arguments(column_set=st.just(SCHEMA.names) | st.lists(any_column | st.just("q"), unique=True, max_size=10), exact_match=st.none() | st.booleans()),
    "expect_column_to_exist": arguments(column=any_column | st.just("q"), column_index=st.none() | st.integers(-12, 12)),
    "expect_column_values_to_be_of_type": arguments(column=any_column, type_=types),
    "expect_column_values_to_be_in_type_list": arguments(column=any_column, type_list=st.lists(types, max_size=3)),
}  # fmt: skip
suites = st.lists(st.sampled_from(sorted(ENTRIES)).flatmap(lambda kind: st.tuples(st.just(kind), ARGUMENTS[kind])), min_size=20, max_size=40)  # fmt: skip


def readable(kind: str, kwargs: dict[str, Any]) -> bool:
    try:
        gx.read({"type": kind, "kwargs": kwargs}, "")
    except gx.Invalid:
        return False
    return True


@pytest.mark.heavy
@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(tables(), suites)
def test_pushed_down_or_not_the_verdict_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table, suite: list[tuple[str, dict[str, Any]]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(table, path, row_group_size=4)
    suite = [one for one in suite if readable(*one)]
    for (kind, kwargs), (ours, theirs) in zip(suite, judge(path, *suite), strict=True):
        if isinstance(ours, Judged):
            assert_same(kind, kwargs, ours, theirs)


PLAIN = pa.table(
    {
        "f": [1.0, 2.0, 2.0, None, 4.5, -3.0], "g": [1.0, 1.0, 3.0, None, 4.0, None], "i": [1, 2, 3, 4, 5, 5],
        "s": ["a", "b", "a", None, "", "user-7"], "u": ["a", "b", "b", None, "x", "y"],
        "t": [datetime(2026, 1, day) for day in range(1, 7)], "v": [datetime(2026, 1, day) for day in range(6, 0, -1)],  # noqa: DTZ001
        "w": [datetime(2026, 1, day) for day in range(1, 7)], "b": [True, False, True, True, False, False],  # noqa: DTZ001
    },
    schema=SCHEMA,
)  # fmt: skip
TYPICAL: dict[str, dict[str, Any]] = {
    "expect_column_values_to_not_be_null": {"column": "f", "mostly": 0.9},
    "expect_column_values_to_be_null": {"column": "s"},
    "expect_column_values_to_be_between": {"column": "t", "min_value": "2026-01-03T00:00:00Z"},
    "expect_column_values_to_be_in_set": {"column": "s", "value_set": ["a", "b", 1]},
    "expect_column_values_to_not_be_in_set": {"column": "f", "value_set": list(range(2, 60))},
    "expect_column_values_to_be_unique": {"column": "f"},
    "expect_column_values_to_match_regex": {"column": "s", "regex": r"^\w*$"},
    "expect_column_values_to_not_match_regex": {"column": "s", "regex": "^user-[0-9]+$"},
    "expect_column_values_to_match_regex_list": {"column": "s", "regex_list": ["a", "b"], "match_on": "all"},
    "expect_column_values_to_not_match_regex_list": {"column": "s", "regex_list": ["a", "-"]},
    "expect_column_value_lengths_to_be_between": {"column": "s", "max_value": 1, "strict_max": True},
    "expect_column_value_lengths_to_equal": {"column": "s", "value": 1},
    "expect_column_values_to_be_increasing": {"column": "f", "strictly": True},
    "expect_column_values_to_be_decreasing": {"column": "v"},
    "expect_column_min_to_be_between": {"column": "w", "min_value": "2026-01-01T00:00:00"},
    "expect_column_max_to_be_between": {"column": "f", "max_value": 4.5, "strict_max": True},
    "expect_column_sum_to_be_between": {"column": "f", "min_value": 6, "max_value": 7},
    "expect_column_mean_to_be_between": {"column": "i", "max_value": 3},
    "expect_column_stdev_to_be_between": {"column": "f", "min_value": 1},
    "expect_column_median_to_be_between": {"column": "g", "min_value": 1.9, "max_value": 2},
    "expect_column_quantile_values_to_be_between": {
        "column": "f", "quantile_ranges": {"quantiles": [0.1, 0.5], "value_ranges": [[-3, None], [3, 4]]},
        "allow_relative_error": "linear",
    },
    "expect_column_proportion_of_non_null_values_to_be_between": {"column": "g", "min_value": 0.9},
    "expect_column_unique_value_count_to_be_between": {"column": "f", "min_value": 4, "max_value": 4},
    "expect_column_proportion_of_unique_values_to_be_between": {"column": "b", "max_value": 0.3},
    "expect_column_most_common_value_to_be_in_set": {"column": "f", "value_set": [2]},
    "expect_column_distinct_values_to_be_in_set": {"column": "s", "value_set": ["a", ""]},
    "expect_column_distinct_values_to_contain_set": {"column": "f", "value_set": [2, 9]},
    "expect_column_distinct_values_to_equal_set": {"column": "i", "value_set": [1, 2, 3, 4, 5]},
    "expect_column_value_z_scores_to_be_less_than": {"column": "f", "threshold": 1, "double_sided": True},
    "expect_column_values_to_not_be_outliers": {"column": "f", "multiplier": 1},
    "expect_column_pair_values_to_be_equal": {"column_A": "f", "column_B": "g"},
    "expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "t", "column_B": "v", "or_equal": True},
    "expect_compound_columns_to_be_unique": {"column_list": ["i", "b"]},
    "expect_select_column_values_to_be_unique_within_record": {"column_list": ["s", "u"]},
    "expect_multicolumn_values_to_be_equal": {"column_list": ["s", "u"], "ignore_row_if": "never"},
    "expect_multicolumn_sum_to_equal": {"column_list": ["f", "g"], "sum_total": 2},
    "expect_table_row_count_to_be_between": {"min_value": 6, "strict_min": True},
    "expect_table_row_count_to_equal": {"value": 6},
    "expect_table_column_count_to_be_between": {"min_value": 1, "max_value": 8},
    "expect_table_column_count_to_equal": {"value": 9},
    "expect_table_columns_to_match_ordered_list": {"column_list": ["f", "i", "g"]},
    "expect_table_columns_to_match_set": {"column_set": ["f", "q"], "exact_match": False},
    "expect_column_to_exist": {"column": "g", "column_index": 1},
    "expect_column_values_to_be_of_type": {"column": "t", "type_": "Timestamp"},
    "expect_column_values_to_be_in_type_list": {"column": "f", "type_list": ["int", "float64"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Judged | Left, dict[str, Any]]]:
    """One expectation of every type, on the same six rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pq.write_table(PLAIN, path)
    return dict(zip(TYPICAL, judge(path, *TYPICAL.items()), strict=True))


@pytest.mark.parametrize("kind", sorted(ENTRIES))
def test_an_entry_judges_as_great_expectations_does(
    kind: str, judged: dict[str, tuple[Judged | Left, dict[str, Any]]]
) -> None:
    ours, theirs = judged[kind]
    assert isinstance(ours, Judged), ours
    assert_same(kind, TYPICAL[kind], ours, theirs)


def test_every_type_has_an_entry_or_a_reason_and_every_entry_is_drawn() -> None:
    gx.read({"type": "expect_column_to_exist", "kwargs": {"column": "a"}}, "")  # imports it, quietly
    from great_expectations.expectations import registry

    known = set(registry.list_registered_expectation_implementations())
    assert known == ENTRIES.keys() | LEFT.keys()
    assert not ENTRIES.keys() & LEFT.keys()
    assert ENTRIES.keys() == ARGUMENTS.keys() == TYPICAL.keys()


def test_the_guide_names_every_type() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    pushed, left = guide.split("## What is left, and why")
    assert all(f"`{kind.removeprefix('expect_')}`" in pushed for kind in ENTRIES)
    assert all(f"`{kind.removeprefix('expect_')}`" in left for kind in LEFT)
