"""Great Expectations: says what a suite may say, and judges what is not pushed down. Its import takes seconds."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feature_checks.entries.rows import EXAMPLES
from pipeline.errors import Invalid, Problem

SEVERITIES = ("critical", "warning", "info")
KEYS = ("type", "kwargs", "meta", "severity", "id", "notes", "description", "rendered_content")
_PLACE = "slipway.place"  # in an expectation's meta while it is judged: results come in another order


def read(item: dict[str, Any], where: str) -> dict[str, Any]:
    """The expectation as Great Expectations reads it: its own JSON, arguments converted. `where` names it in errors.

    Raises:
        Invalid: it says what is wrong, all at once. A retry does not help.
    """
    return dict(_build(item, where).configuration.to_json_dict())


def judge(expectations: Sequence[dict[str, Any]], path: Path, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    """Results in Great Expectations' own JSON, in this order, from these columns of the file (None: all of them)."""
    gx = _great_expectations()
    import pandas as pd  # noqa: PLC0415

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    built = []
    for place, item in enumerate(expectations):
        expectation = _build(item, f"expectations[{place}]")
        expectation.meta = {**(expectation.meta or {}), _PLACE: place}
        built.append(expectation)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("snapshot")
    frame = pd.read_parquet(path, columns=None if columns is None else list(columns))
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    form = {"result_format": "BASIC", "partial_unexpected_count": EXAMPLES}
    results = batch.validate(gx.ExpectationSuite(name="left", expectations=built), result_format=form).to_json_dict()
    return sorted(results["results"], key=_place)


def _place(result: dict[str, Any]) -> int:
    """Where the expectation stood; it is taken out of the result."""
    config = result["expectation_config"]
    config["kwargs"].pop("batch_id", None)
    return int(config["meta"].pop(_PLACE))


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
        if key not in KEYS
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
