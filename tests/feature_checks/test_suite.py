"""Suites in GX's JSON: every mistake at once, severity decides, failures in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_checks.judge import run_suite
from feature_checks.outcome import Outcome, expectation_in_words
from feature_checks.suite import load_suite, validate_suite
from pipeline.errors import Invalid

ROWS = pd.DataFrame({"a": [1.0, 2.0, 3.0, None], "b": ["x", "y", "z", "z"]})


def write(folder: Path, *expectations: dict[str, Any], name: str = "s") -> Path:
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "expectations": list(expectations)}))
    return folder


def expect(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


def judge(folder: Path, *expectations: dict[str, Any]) -> tuple[Outcome, ...]:
    ROWS.to_parquet(folder / "rows.parquet")
    suite = validate_suite(write(folder, *expectations), "s", tuple(ROWS.columns))
    return run_suite(suite, folder / "rows.parquet")[0]


def test_failures_are_told_with_their_numbers(tmp_path: Path) -> None:
    outcomes = judge(
        tmp_path,
        expect("column_values_to_be_between", "warning", column="a", min_value=0, max_value=2),
        expect("column_values_to_not_be_null", column="a", mostly=0.9),
        expect("column_values_to_be_in_set", column="b", value_set=["x", "y"]),
        expect("table_row_count_to_be_between", min_value=10),
        expect("column_values_to_not_be_null", column="b"),
        expect("column_mean_to_be_between", "info", column="b", min_value=1),
    )
    told = {(outcome.type.removeprefix("expect_"), outcome.column): outcome for outcome in outcomes}
    between, missing = told["column_values_to_be_between", "a"], told["column_values_to_not_be_null", "a"]
    inside, rows = told["column_values_to_be_in_set", "b"], told["table_row_count_to_be_between", None]
    full, mean = told["column_values_to_not_be_null", "b"], told["column_mean_to_be_between", "b"]
    assert [one.passed for one in (between, missing, inside, rows, full, mean)] == [False] * 4 + [True, False]
    assert [one.severity for one in (between, missing, mean)] == ["warning", "critical", "info"]
    assert (
        between.message
        == "column 'a': 1 of 4 values (25.0%) are not as expected (values between 0.0 and 2.0), for example 3.0"
    )
    assert "in 90.0% of rows at least" in missing.message
    assert "2 of 4 values (50.0%)" in inside.message
    assert "'z'" in inside.message
    assert "the table: expected table row count at least 10, observed 4" in rows.message
    assert "could not be evaluated" in mean.message
    assert between.failure.column == "a"
    assert inside.unexpected_share == 0.5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "an object with a list `expectations`"),
        (b'{"expectations": [1]}', "an object with a list `expectations`"),
    ],
)
def test_a_file_that_is_no_suite(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(Invalid, match=says):
        load_suite(tmp_path, "s")


def test_a_suite_that_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, name="patients")
    with pytest.raises(Invalid, match="did you mean 'patients'"):
        load_suite(tmp_path, "patient")


def test_every_mistake_of_a_suite_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        expect("column_values_to_be_betwen", column="a"),
        expect("column_values_to_be_between", column="a", minimum=3),
        {"type": "expect_column_to_exist", "kwargs": {"column": "a"}, "severity": "fatal", "colour": 1},
        expect("column_values_to_not_be_null", column="gone"),
        expect("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="bb"),
        {"type": "expect_column_to_exist", "kwargs": []},
    )
    with pytest.raises(Invalid) as refused:
        validate_suite(tmp_path, "s", ("a", "b"))
    told = str(refused.value)
    for part in (
        "expectations[0]", "did you mean 'expect_column_values_to_be_between'?",
        "expectations[1]", "minimum",
        "severity 'fatal'", "unknown key 'colour'",
        "the rows have no column 'gone'", "the rows have no column 'bb' -> did you mean 'b'?",
        "`kwargs` is not an object",
    ):  # fmt: skip
        assert part in told


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "kwargs", "severity", "expectations", "x"]), inner, max_size=3)))  # fmt: skip
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "s.json").write_text(json.dumps({"expectations": value} if not isinstance(value, dict) else value))
    try:
        validate_suite(folder, "s", ("a",))
    except Invalid as error:
        assert error.problems  # noqa: PT017 (either end is right)


def test_phrases() -> None:
    assert expectation_in_words("expect_column_values_to_be_between", {"max_value": 3}) == "values at most 3"
    assert expectation_in_words("expect_column_values_to_be_in_set", {"value_set": list("abcdefgh")}).endswith("f, ...")
