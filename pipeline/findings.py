"""What is noteworthy about columns: those that teach nothing are left out, the others are told."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.columns import Column
from pipeline.dataset import value_hashes
from pipeline.parse import category_strings
from pipeline.refs import Finding

MANY_CATEGORIES = 1000
MANY_SHARE = 0.5  # of the rows, from _SEVERAL categories on
_SEVERAL = 50
_FLOAT32_EXACT = 2**24  # from here on an integer may share its float32 with a neighbour
_NAMED_LIKE_ID = frozenset({"id", "ids", "uuid", "guid", "key", "index", "rowid", "rownum", "row"})
_MOSTLY = 0.9  # share of rows that an identifier names, at least

_Kind = Literal["constant", "duplicate", "identifier", "precision", "cardinality"]


def find(
    columns: tuple[Column, ...], values: dict[str, pd.Series], target: pd.Series, keep: tuple[str, ...]
) -> tuple[Finding, ...]:
    """Findings in column order. One that says `dropped` takes its column out, unless `keep` names it.

    `values` holds each column typed as its kind (see `pipeline.kinds`), `target` the target as it came.
    """
    found: list[Finding] = []
    goal = category_strings(target)
    seen: dict[int, str] = {}

    def note(name: str, kind: _Kind, message: str, *, drop: bool) -> None:
        found.append(Finding(column=name, kind=kind, message=message, dropped=drop and name not in keep))

    for column in columns:
        name, series = column.name, values[column.name]
        distinct = int(series.nunique(dropna=True))
        if distinct <= 1 and not series.isna().any():
            note(name, "constant", f"column {name!r} has one value in every row", drop=True)
            continue
        content = hash(value_hashes(series).tobytes())
        if content in seen and series.equals(values[seen[content]].rename(name)):
            note(name, "duplicate", f"column {name!r} equals column {seen[content]!r}", drop=True)
            continue
        seen.setdefault(content, name)
        if _equals(series, goal):
            note(name, "duplicate", f"column {name!r} equals the target, and gives the answer away", drop=True)
        elif _identifies(series, column, distinct):
            note(name, "identifier", f"column {name!r} names each row, so it teaches nothing that lasts", drop=True)
        elif column.kind == "category" and _many(distinct, len(series)):
            note(name, "cardinality", f"column {name!r} has {distinct} categories in {len(series)} rows", drop=False)
        elif column.kind == "number" and (rounded := _rounded(series)):
            message = f"column {name!r} has {rounded} integers beyond 2^24, which float32 rounds"
            note(name, "precision", message, drop=False)
    return tuple(found)


def _equals(series: pd.Series, goal: np.ndarray) -> bool:
    """Whether every value is spelled as the target's; most columns differ within a few rows."""
    few = 100
    return bool((category_strings(series.head(few)) == goal[:few]).all() and (category_strings(series) == goal).all())


def _identifies(series: pd.Series, column: Column, distinct: int) -> bool:
    """Text that differs in every row, or integers that do and count up by one or are named like an id. Never floats."""
    present = series.dropna()
    if distinct < len(present) or distinct < _MOSTLY * len(series):
        return False
    if column.kind == "category":
        return True
    if column.kind != "number" or not np.isfinite(present).all() or not (present == present.round()).all():
        return False
    counts_up = bool((np.diff(np.sort(present.to_numpy())) == 1).all())
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", column.name)
    return counts_up or not _NAMED_LIKE_ID.isdisjoint(word.lower() for word in words)


def _many(distinct: int, rows: int) -> bool:
    return distinct > MANY_CATEGORIES or (distinct > _SEVERAL and distinct > MANY_SHARE * rows)


def _rounded(series: pd.Series) -> int:
    """How many values of a column of integers float32 cannot hold; 0 when it has fractions."""
    numbers = series.to_numpy(dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not (np.abs(numbers) > _FLOAT32_EXACT).any() or (numbers != np.round(numbers)).any():
        return 0
    with np.errstate(over="ignore"):
        return int((numbers.astype(np.float32).astype(np.float64) != numbers).sum())
