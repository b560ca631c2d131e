"""An expectation's result in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from feature_checks.entries.rows import EXAMPLES
from pipeline.refs import Failure

COLUMN_KEYS = ("column", "column_A", "column_B", "column_list", "column_set")
Engine = Literal["DuckDB", "Great Expectations"]


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
    engine: Engine = "DuckDB"

    @property
    def failure(self) -> Failure:
        """The failure as the report carries it."""
        return Failure.model_validate(
            {"severity": self.severity, "expectation": self.type, "column": self.column, "message": self.message}
        )


def outcome_of(result: dict[str, Any]) -> Outcome:
    """The outcome that a result in Great Expectations' JSON tells; its meta names the engine that judged."""
    config, found = result["expectation_config"], result.get("result") or {}
    kwargs = {key: value for key, value in config["kwargs"].items() if key != "batch_id"}
    column = kwargs.get("column") or ", ".join(columns_named(config)) or None
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
        engine=result["meta"]["engine"],
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


def columns_named(item: dict[str, Any]) -> list[str]:
    """The columns that an expectation needs; none for those about the columns themselves."""
    kwargs = item.get("kwargs")
    if not isinstance(kwargs, dict) or str(item.get("type", "")).startswith("expect_table_columns"):
        return []
    found: list[str] = []
    for key in COLUMN_KEYS:
        value = kwargs.get(key, [])
        found += [str(name) for name in value] if isinstance(value, list) else [str(value)]
    return found
