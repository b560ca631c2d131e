"""Expectation suites in Great Expectations' own JSON, read with every mistake at once."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_checks import gx
from feature_checks.outcome import columns_named
from pipeline.digest import digest_bytes
from pipeline.errors import Invalid, Problem, SlipwayError

if TYPE_CHECKING:
    from pipeline.store import Store


@dataclass(frozen=True)
class Suite:
    """A suite as it stands in its file: `expectations` are GX's own JSON objects.

    `reading` is what Great Expectations makes of them, once `validate_suite` has asked it.
    """

    name: str
    path: Path
    digest: str
    expectations: tuple[dict[str, Any], ...]
    reading: tuple[dict[str, Any], ...] = ()


def load_suite(folder: Path, name: str) -> Suite:
    """The suite `name` of a folder; its form is checked, its expectations are not yet (`validate_suite` does that).

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


def validate_suite(folder: Path, name: str, columns: tuple[str, ...], notes: Store | None = None) -> Suite:
    """The suite, when every expectation can be built and names columns that exist.

    Great Expectations reads a suite once: what it makes of this content in this version stays in `notes`.

    Raises:
        Invalid: names each expectation that is wrong, with its place. A retry does not help.
    """
    suite = load_suite(folder, name)
    key = f"suites/{suite.digest}-{version('great_expectations')}.json"
    reading, problems = _noted(notes, key, suite), list[Problem]()
    if reading is None:
        reading, problems = _read(suite)
        if notes is not None and not problems:
            _note(notes, key, reading)
    for index, item in enumerate(suite.expectations):
        for column in columns_named(item):
            if column not in columns:
                near = difflib.get_close_matches(column, columns, n=1)
                remedy = (
                    f"did you mean {near[0]!r}?"
                    if near
                    else "remove the expectation, or bring the column (data.drop leaves it out?)"
                )
                problems.append(Problem(f"the rows have no column {column!r}", _where(suite, index), remedy))
    if problems:
        raise Invalid(problems)
    return Suite(suite.name, suite.path, suite.digest, suite.expectations, reading)


def _read(suite: Suite) -> tuple[tuple[dict[str, Any], ...], list[Problem]]:
    reading, problems = [], list[Problem]()
    for index, item in enumerate(suite.expectations):
        try:
            reading.append(gx.read(item, _where(suite, index)))
        except Invalid as error:
            problems += error.problems
    return tuple(reading), problems


def _where(suite: Suite, index: int) -> str:
    return f"{suite.path}: expectations[{index}] {suite.expectations[index].get('type', '')}"


def _noted(notes: Store | None, key: str, suite: Suite) -> tuple[dict[str, Any], ...] | None:
    """What Great Expectations made of the suite before; None when it has to be asked."""
    try:
        reading = json.loads(notes.read(key)) if notes is not None else []
        types = [item["type"] for item in reading if isinstance(item["kwargs"], dict)]
    except (FileNotFoundError, ValueError, TypeError, KeyError, SlipwayError):
        return None  # a note is a help: without it, or with a damaged one, the same is found again
    return tuple(reading) if reading and types == [item.get("type") for item in suite.expectations] else None


def _note(notes: Store, key: str, reading: tuple[dict[str, Any], ...]) -> None:
    try:
        notes.write(key, json.dumps(reading).encode(), replace=True)
    except SlipwayError:
        return  # whoever needs the store says so
