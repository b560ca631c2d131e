"""Runs a suite on a Parquet file: pushed down what can be, by Great Expectations the rest."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from feature_checks import gx
from feature_checks.database import MEMORY_BYTES
from feature_checks.entries.rows import Judged, Left
from feature_checks.outcome import Outcome, columns_named, outcome_of
from feature_checks.parquet import columns_of
from feature_checks.pushdown import push_down
from feature_checks.suite import Suite

_FINE = {"raised_exception": False, "exception_traceback": None, "exception_message": None}


def run_suite(
    suite: Suite, path: Path, threads: int = 0, memory_bytes: int = MEMORY_BYTES
) -> tuple[tuple[Outcome, ...], dict[str, Any]]:
    """Every expectation on the rows of the file, and the result in Great Expectations' form.

    Of the rows, those columns are loaded that an expectation needs which is not pushed down. The meta of each result
    names the engine that judged, and why where it was not DuckDB. An expectation that cannot be evaluated has failed.
    Call `validate_suite` before. `threads`: 0 for one for each core; of `memory_bytes` DuckDB takes 2 GiB at most.

    Raises:
        Unavailable: the disk failed, or memory was short. A retry helps.
    """
    verdicts = push_down(path, suite.reading, threads, memory_bytes)
    left = [index for index, verdict in enumerate(verdicts) if isinstance(verdict, Left)]
    by_gx = iter(
        gx.judge([suite.expectations[index] for index in left], path, _needed(suite, left, path)) if left else ()
    )
    results = [
        _pushed(config, verdict) if isinstance(verdict, Judged) else _left(next(by_gx), verdict)
        for _, config, verdict in zip(suite.expectations, suite.reading, verdicts, strict=True)
    ]
    met = sum(result["success"] for result in results)
    document = {
        "success": met == len(results),
        "results": results,
        "suite_name": suite.name,
        "suite_parameters": {},
        "statistics": {
            "evaluated_expectations": len(results),
            "successful_expectations": met,
            "unsuccessful_expectations": len(results) - met,
            "success_percent": met / len(results) * 100 if results else None,
        },
        "meta": {"great_expectations_version": version("great_expectations"), "duckdb_version": version("duckdb")},
        "id": None,
    }
    return tuple(outcome_of(result) for result in results), document


def _pushed(config: dict[str, Any], verdict: Judged) -> dict[str, Any]:
    return {
        "success": verdict.success,
        "expectation_config": config,
        "result": verdict.result,
        "meta": {"engine": "DuckDB"},
        "exception_info": dict(_FINE),
    }


def _left(result: dict[str, Any], why: Left) -> dict[str, Any]:
    return {**result, "meta": {**(result.get("meta") or {}), "engine": "Great Expectations", "why": str(why)}}


def _needed(suite: Suite, left: Sequence[int], path: Path) -> list[str] | None:
    """The columns that these expectations name; None, for all, where one may read others too."""
    needed: set[str] = set()
    for index in left:
        named = {*columns_named(suite.expectations[index]), *_conditioned(suite.reading[index]["kwargs"])}
        if not named or _in_words(suite.reading[index]["kwargs"].get("row_condition")):
            return None
        needed |= named
    return [column.name for column in columns_of(path) if column.name in needed]


def _conditioned(value: Any) -> set[str]:
    """The columns of a row condition, wherever in the arguments they stand."""
    if isinstance(value, list):
        return set().union(*map(_conditioned, value))
    if not isinstance(value, dict):
        return set()
    own = {str(value["column"]["name"])} if isinstance(value.get("column"), dict) else set()
    return own.union(*map(_conditioned, value.values()))


def _in_words(condition: Any) -> bool:
    """Whether a condition is in pandas' words, which may name any column."""
    return condition is not None and (not isinstance(condition, dict) or "pass_through" in str(condition))
