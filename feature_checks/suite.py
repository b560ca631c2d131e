"""Expectation suites in Great Expectations' own JSON: read with every mistake at once, and run on rows."""

from __future__ import annotations

import difflib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Problem
from pipeline.refs import Failure

SEVERITIES = ("critical", "warning", "info")
EXAMPLES = 3  # offending values that a message shows
COLUMN_KEYS = ("column", "column_A", "column_B", "column_list", "column_set")


@dataclass(frozen=True)
class Suite:
    """A suite as it stands in its file: `expectations` are GX's own JSON objects."""

    name: str
    path: Path
    digest: str
    expectations: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Outcome:
    """One expectation's result: what was expected, whether it held, in words and in numbers."""

    type: str
    column: str | None
    severity: str
    passed: bool
    expected: str
    message: str
    unexpected_share: float | None

    @property
    def failure(self) -> Failure:
        """The failure as the report carries it."""
        return Failure.model_validate(
            {"severity": self.severity, "expectation": self.type, "column": self.column, "message": self.message}
        )


def load_suite(folder: Path, name: str) -> Suite:
    """The suite `name` of a folder; its form is checked, its expectations are not yet (`build` does that).

    Raises:
        Invalid: no such file, or not a suite. A retry does not help.
    """
    path = folder / f"{name}.json"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        known = sorted(item.stem for item in folder.glob("*.json"))
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else f"suites here: {', '.join(known) or 'none'}"
        raise Invalid(f"there is no suite {name!r}", str(path), remedy) from None
    try:
        value = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise Invalid(f"not JSON: {error}", f"{path}:{line}", "correct it; GX writes suites as JSON") from None
    expectations = value.get("expectations") if isinstance(value, dict) else None
    if not isinstance(expectations, list) or not all(isinstance(item, dict) for item in expectations):
        raise Invalid("a suite is an object with a list `expectations`", str(path), "see docs/checks.md")
    return Suite(name, path, digest_bytes(content), tuple(expectations))


def validate_suite(folder: Path, name: str, columns: tuple[str, ...]) -> Suite:
    """The suite, when every expectation can be built and names columns that exist.

    Raises:
        Invalid: names each expectation that is wrong, with its place. A retry does not help.
    """
    suite = load_suite(folder, name)
    problems: list[Problem] = []
    for index, item in enumerate(suite.expectations):
        where = f"{suite.path}: expectations[{index}] {item.get('type', '')}"
        try:
            _build(item, where)
        except Invalid as error:
            problems += error.problems
        for column in _columns(item):
            if column not in columns:
                near = difflib.get_close_matches(column, columns, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else "remove the expectation, or bring the column back"
                problems.append(Problem(f"the rows have no column {column!r}", where, remedy))
    if problems:
        raise Invalid(problems)
    return suite


def run_suite(suite: Suite, frame: pd.DataFrame) -> tuple[tuple[Outcome, ...], dict[str, Any]]:
    """Every expectation on the rows, and GX's own result as JSON.

    An expectation that cannot be evaluated has failed. Call `validate_suite` before.
    """
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    built = [_build(item, f"expectations[{index}]") for index, item in enumerate(suite.expectations)]
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("snapshot")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    expectations = gx.ExpectationSuite(name=suite.name, expectations=built)
    form = {"result_format": "BASIC", "partial_unexpected_count": EXAMPLES}
    result = batch.validate(expectations, result_format=form).to_json_dict()
    return tuple(_outcome(item) for item in result["results"]), result


def _great_expectations() -> Any:
    """The library, told to keep to itself (its import takes seconds; a spec with no suite does not pay it)."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    import great_expectations  # noqa: PLC0415

    return great_expectations


def _build(item: dict[str, Any], where: str) -> Any:
    """GX's expectation object. GX itself drops one that it cannot read, in silence: so each is built here."""
    _great_expectations()
    from great_expectations.expectations import registry  # noqa: PLC0415

    kind, kwargs = item.get("type"), item.get("kwargs", {})
    known = [name for name in registry.list_registered_expectation_implementations() if name.startswith("expect_")]
    problems = [
        Problem(f"unknown key {key!r}", where, "keys: type, kwargs, meta, severity, id, notes")
        for key in item
        if key not in ("type", "kwargs", "meta", "severity", "id", "notes", "description", "rendered_content")
    ]
    if item.get("severity", "critical") not in SEVERITIES:
        problems.append(Problem(f"severity {item['severity']!r}", where, f"write one of: {', '.join(SEVERITIES)}"))
    if not isinstance(kwargs, dict):
        problems.append(Problem("`kwargs` is not an object", where, 'write {"column": ...}'))
    if not isinstance(kind, str) or kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "see the gallery of Great Expectations"
        problems.append(Problem(f"unknown expectation {kind!r}", where, remedy))
    if problems:
        raise Invalid(problems)
    try:
        return registry.get_expectation_impl(kind)(
            **kwargs, severity=item.get("severity", "critical"), meta=item.get("meta") or {}
        )
    except (ValueError, TypeError) as error:  # pydantic's errors are ValueErrors
        reasons = " ".join(line.strip() for line in str(error).splitlines()[1:]) or str(error)
        raise Invalid(f"wrong arguments: {reasons}", where, "correct `kwargs`") from None


def _columns(item: dict[str, Any]) -> list[str]:
    kwargs = item.get("kwargs")
    if not isinstance(kwargs, dict) or str(item.get("type", "")).startswith("expect_table_columns"):
        return []
    found: list[str] = []
    for key in COLUMN_KEYS:
        value = kwargs.get(key, [])
        found += [str(name) for name in value] if isinstance(value, list) else [str(value)]
    return found


def _outcome(result: dict[str, Any]) -> Outcome:
    config, found = result["expectation_config"], result.get("result") or {}
    kwargs = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    column = kwargs.get("column") or ", ".join(_columns(config)) or None
    expected = expectation_in_words(config["type"], kwargs)
    share = found.get("unexpected_percent")
    return Outcome(
        type=config["type"],
        column=column,
        severity=config.get("severity") or "critical",
        passed=bool(result["success"]),
        expected=expected,
        message=_message(result, column, expected, found),
        unexpected_share=None if share is None else float(share) / 100,
    )


def expectation_in_words(kind: str, kwargs: dict[str, Any]) -> str:
    """`expect_column_values_to_be_between` with its bounds as a phrase: "values between 5 and 30"."""
    phrase = kind.removeprefix("expect_column_").removeprefix("expect_").replace("_to_", " ").replace("_", " ")
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if low is not None or high is not None:
        bounds = (
            f"at least {low}" if high is None else f"at most {high}" if low is None else f"between {low} and {high}"
        )
        phrase = f"{phrase.removesuffix(' be between')} {bounds}"
    if (values := kwargs.get("value_set")) is not None:
        shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        phrase = f"{phrase}: {shown}"
    if (mostly := kwargs.get("mostly")) is not None and mostly < 1:
        phrase += f", in {mostly:.1%} of rows at least"
    return phrase


def _message(result: dict[str, Any], column: str | None, expected: str, found: dict[str, Any]) -> str:
    subject = f"column {column!r}" if column else "the table"
    if reason := _exception(result.get("exception_info") or {}):
        return f"{subject}: {expected}: could not be evaluated: {reason}"
    if result["success"]:
        return f"{subject}: {expected}"
    count, total = found.get("unexpected_count"), found.get("element_count")
    if count is not None and total:
        examples = ", ".join(
            repr(value) for value in found.get("partial_unexpected_list", [])[:EXAMPLES] if value is not None
        )
        shown = f", for example {examples}" if examples else ""
        return f"{subject}: {count} of {total} values ({count / total:.1%}) are not as expected ({expected}){shown}"
    if (observed := found.get("observed_value")) is not None:
        return f"{subject}: expected {expected}, observed {observed}"
    return f"{subject}: expected {expected}"


def _exception(info: dict[str, Any]) -> str:
    """GX reports an exception flat, or keyed by metric."""
    parts = [info] if "raised_exception" in info else list(info.values())
    for part in parts:
        if isinstance(part, dict) and part.get("raised_exception"):
            return " ".join(str(part.get("exception_message", "")).split())[:200]
    return ""
