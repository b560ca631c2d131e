"""A suite on a file: what is loaded, what is kept, what no suite can do, and that memory stays flat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_checks import gx
from feature_checks.database import opened
from feature_checks.entries.rows import ROWS, Ask
from feature_checks.judge import run_suite
from feature_checks.parquet import columns_of
from feature_checks.suite import Suite, validate_suite
from pipeline.errors import Invalid, Unavailable
from pipeline.store import Store

HOSTILE = ("a b", 'say "c3"', "Ü'; DROP VIEW rows; --", "A B", "$v0", "c0", "", "position", "n")
ROOT = Path(__file__).resolve().parents[2]


def expect(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": "critical"}


def read(folder: Path, path: Path, *expectations: dict[str, Any], notes: Store | None = None) -> Suite:
    (folder / "s.json").write_text(json.dumps({"name": "s", "expectations": expectations}))
    return validate_suite(folder, "s", tuple(column.name for column in columns_of(path)), notes)


def test_no_name_and_no_value_is_ever_part_of_a_query(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if name]
    frame = pd.DataFrame({name: [f"{name}'", '"', "x; DROP VIEW rows", None] for name in names})
    frame.to_parquet(tmp_path / "rows.parquet")
    suite = read(
        tmp_path, tmp_path / "rows.parquet",
        *(expect("column_values_to_be_in_set", column=name, value_set=[f"{name}'", '"', "x; DROP VIEW rows"]) for name in names),
        *(expect("column_values_to_be_unique", column=name) for name in names),
        *(expect("column_values_to_match_regex", column=name, regex="'|\"|;") for name in names),
        expect("compound_columns_to_be_unique", column_list=names),
        expect("column_values_to_be_in_set", column=names[0], value_set=["x'); DROP VIEW rows; --"]),
    )  # fmt: skip
    outcomes, result = run_suite(suite, tmp_path / "rows.parquet")
    assert {one["meta"]["engine"] for one in result["results"]} == {"DuckDB"}
    assert [outcome.passed for outcome in outcomes] == [True] * (len(outcomes) - 1) + [False]


def test_the_database_reads_this_file_and_no_other(tmp_path: Path) -> None:
    for name in ("rows", "other"):
        pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "text").write_text("secret")
    with opened(tmp_path / "rows.parquet") as database:
        database.answer([Ask(f"{ROWS}; SELECT 1", "count(*)")])  # a further statement is executed
        for relation in (
            f"read_parquet('{tmp_path}/other.parquet')",
            f"read_text('{tmp_path}/text')",
            f"{ROWS}; COPY rows TO '{tmp_path}/copy.csv'",
            f"{ROWS}; SET enable_external_access = true",
            f"{ROWS}; INSTALL httpfs",
        ):
            with pytest.raises(duckdb.Error):
                database.answer([Ask(relation, "count(*)")])
    assert not (tmp_path / "copy.csv").exists()


@pytest.mark.parametrize("folder", ["plain", "a[1]*?", "year=2026", "it's", "ü {a,b}"])
def test_a_path_is_a_path_whatever_it_holds(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    path = tmp_path / folder / "rows.parquet"
    pd.DataFrame({"a": [1.0, 2.0]}).to_parquet(path)
    (outcome,), _ = run_suite(read(tmp_path, path, expect("table_row_count_to_equal", value=2)), path)
    assert (outcome.passed, outcome.engine) == (True, "DuckDB")


def test_a_nan_is_missing_where_the_statistics_of_the_file_know_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": [0.0, 3.0, float("nan"), 1.0]}), path)
    suite = read(
        tmp_path, path, expect("column_median_to_be_between", column="a", max_value=1),
        expect("column_values_to_be_null", column="a", mostly=0.25), expect("column_max_to_be_between", column="a", max_value=3),
        expect("column_distinct_values_to_equal_set", column="a", value_set=[0, 1, 3]),
    )  # fmt: skip
    outcomes, _ = run_suite(suite, path)
    assert [(outcome.passed, outcome.engine) for outcome in outcomes] == [(True, "DuckDB")] * 4


def test_of_what_is_left_only_the_columns_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"a": ["1", "{"], "b": [1.0, 2.0], "c": [3.0, 4.0], "d": ["x", "y"]}).to_parquet(path)
    loaded = []
    read_parquet = pd.read_parquet
    monkeypatch.setattr(pd, "read_parquet", lambda path, columns=None: loaded.append(columns) or read_parquet(path, columns=columns))  # fmt: skip
    condition = {"type": "comparison", "column": {"name": "b"}, "operator": ">", "parameter": 1}
    json_of_a = expect("column_values_to_be_json_parseable", column="a", row_condition=condition)
    suite = read(tmp_path, path, expect("column_values_to_not_be_null", column="c"), json_of_a)
    outcomes, result = run_suite(suite, path)
    assert loaded == [["a", "b"]]
    assert [(outcome.engine, outcome.passed) for outcome in outcomes] == [
        ("DuckDB", True),
        ("Great Expectations", False),
    ]
    assert result["results"][1]["meta"]["why"] == "Python reads each value"
    assert result["results"][1]["result"]["element_count"] == 1
    assert result["statistics"] == {
        "evaluated_expectations": 2, "successful_expectations": 1, "unsuccessful_expectations": 1, "success_percent": 50.0,
    }  # fmt: skip
    run_suite(read(tmp_path, path, expect("column_values_to_not_be_null", column="c", row_condition="a == 'x'")), path)
    assert loaded[1] is None  # a condition in pandas' words may name any column


def test_results_stand_in_the_suites_order_in_great_expectations_own_form(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"a": [1.0, None, 3.0], "s": ["{}", "x", None]}).to_parquet(path)
    expectations = [
        expect("column_values_to_be_json_parseable", column="s"),
        expect("column_values_to_be_between", column="a", max_value=2),
        expect("table_row_count_to_be_between", min_value=9),
        expect("column_values_to_be_json_parseable", column="s", mostly=0.1),
    ]
    suite = read(tmp_path, path, *expectations)
    _, result = run_suite(suite, path)
    theirs = gx.judge(expectations, path, None)
    assert [one["expectation_config"] for one in result["results"]] == [one["expectation_config"] for one in theirs]
    for ours, other in zip(result["results"], theirs, strict=True):
        assert ours.keys() == other.keys()
        assert ours["result"] == other["result"]
        assert ours["exception_info"].keys() == other["exception_info"].keys()
    json.dumps(result)


def test_what_great_expectations_has_read_it_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, notes = tmp_path / "rows.parquet", Store(str(tmp_path / "store"))
    pd.DataFrame({"a": [1.0, 2.0]}).to_parquet(path)
    between = expect("column_values_to_be_between", column="a", min_value="1")
    first = read(tmp_path, path, between, notes=notes)
    asked: list[object] = []
    original = gx.read
    monkeypatch.setattr(gx, "read", lambda item, where: asked.append(item) or original(item, where))
    assert read(tmp_path, path, between, notes=notes) == first
    assert not asked
    (note,) = notes.list("suites")
    for damage in (b"", b"[", b"{}", b"[1]", b'[{"type": "expect_column_to_exist", "kwargs": {}}]'):
        notes.write(f"suites/{note}", damage, replace=True)
        asked.clear()
        assert read(tmp_path, path, between, notes=notes) == first
        assert asked
    read(tmp_path, path, between, expect("column_to_exist", column="a"), notes=notes)
    assert len(notes.list("suites")) == 2
    with pytest.raises(Invalid):  # what is wrong is said each time
        read(tmp_path, path, expect("column_values_to_be_between", column="a", minimum=1), notes=notes)
    with pytest.raises(Invalid, match="no column 'b'"):  # the columns are not the suite's
        read(tmp_path, path, expect("column_values_to_not_be_null", column="b"), notes=notes)


PROGRAM = """
import sys
from pathlib import Path
from benchmarks.machine import peak_mib
from feature_checks.judge import run_suite
from feature_checks.suite import validate_suite
from pipeline.store import Store
folder = Path(sys.argv[1])
suite = validate_suite(folder, "bench", tuple(sys.argv[2].split(",")), Store(str(folder / "store")))
for rows in sys.argv[3:]:
    outcomes, _ = run_suite(suite, Path(rows), 2)
    assert {outcome.engine for outcome in outcomes} == {"DuckDB"}
    print(round(peak_mib()))
assert not {"great_expectations", "pandas"} & sys.modules.keys(), sorted(sys.modules)
"""


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Two million more rows, 320 MB of numbers, cost a few; and Great Expectations is not imported."""
    names = [f"x{at}" for at in range(20)]
    paths = []
    expectations = [
        *(expect("column_values_to_not_be_null", column=name) for name in names),
        *(expect("column_values_to_be_between", column=name, min_value=0, max_value=1) for name in names),
        *(expect("column_mean_to_be_between", column=name, min_value=0.2, max_value=0.9) for name in names),
        expect("column_values_to_be_between", column="x0", max_value=0.5),
    ]
    (tmp_path / "bench.json").write_text(json.dumps({"name": "bench", "expectations": expectations}))
    validate_suite(tmp_path, "bench", tuple(names), Store(str(tmp_path / "store")))
    for rows in (1_500_000, 3_500_000):
        paths.append(tmp_path / f"{rows}.parquet")
        columns = ", ".join(
            f"(hash(i * 32 + {at}) >> 11)::DOUBLE / 9007199254740992 AS {name}" for at, name in enumerate(names)
        )
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT {columns} FROM range({rows}) AS r(i)) TO '{paths[-1]}' (FORMAT parquet)")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), ",".join(names), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert not done.returncode, done.stderr
    few, many = map(int, done.stdout.split())
    assert many - few < 100, (few, many)


def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"a": [1.0]}).to_parquet(path)
    with pytest.raises(Unavailable, match="could not be read"), opened(path) as database:
        path.unlink()
        database.answer([Ask(ROWS, "sum(c0)")])
