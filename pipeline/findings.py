"""What is noteworthy about columns: those that teach nothing are left out, the others are told."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import Column
from pipeline.dataset import mixed, value_hashes
from pipeline.distinct import Distinct
from pipeline.parse import category_strings
from pipeline.refs import Finding

MANY_CATEGORIES = 1000
MANY_SHARE = 0.5  # of the rows, from _SEVERAL categories on
_SEVERAL = 50
_NAMED_LIKE_ID = frozenset({"id", "ids", "uuid", "guid", "key", "index", "rowid", "rownum", "row"})
_MOSTLY = 0.9  # share of rows that an identifier names, at least

_Kind = Literal["constant", "duplicate", "identifier", "precision", "cardinality"]


class Facts:
    """What the batches seen so far say of all columns; each value typed as its kind (see `pipeline.kinds`)."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = {column.name: _Facts(column) for column in columns}
        kinds = [("category",), ("timestamp",), ("number", "boolean")]
        groups = [[column.name for column in columns if column.kind in kind] for kind in kinds]
        self._alike = groups  # columns that have been equal so far

    def see(self, values: dict[str, pd.Series], target: pd.Series) -> None:
        """The next rows: every column typed, and the target as it came."""
        hashes = {name: value_hashes(values[name]) for name in self._columns}
        goal = category_strings(target)
        for name, facts in self._columns.items():
            facts.see(values[name], hashes[name], goal)
        self._alike = [part for group in self._alike for part in _parts(group, hashes)]

    def find(self, keep: tuple[str, ...]) -> tuple[Finding, ...]:
        """Findings in column order. One that says `dropped` takes its column out, unless `keep` names it."""
        found: list[Finding] = []
        first = {name: group[0] for group in self._alike for name in group[1:]}
        for name, facts in self._columns.items():
            if (told := facts.tell(first.get(name))) is not None:
                kind, message, drop = told
                found.append(Finding(column=name, kind=kind, message=message, dropped=drop and name not in keep))
        return tuple(found)


def _parts(group: list[str], hashes: dict[str, npt.NDArray[np.uint64]]) -> list[list[str]]:
    """Those columns of the group that are equal in this batch too."""
    if len(group) < 2:
        return []
    parts: dict[bytes, list[str]] = {}
    for name in group:
        parts.setdefault(hashlib.sha256(np.ascontiguousarray(hashes[name]).data).digest(), []).append(name)
    return [part for part in parts.values() if len(part) > 1]


class _Facts:
    """Of one column."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self.rows = self.present = 0
        self.first: object = None
        self.one_value = self.is_target = True
        self.whole = column.kind == "number"  # all values are finite integers
        self.fractions = False
        self.low, self.high, self.rounded = np.inf, -np.inf, 0
        self.distinct = Distinct()

    def see(self, values: pd.Series, hashes: npt.NDArray[np.uint64], goal: npt.NDArray[np.object_]) -> None:
        here = values.notna().to_numpy()
        present = values[here]
        self.rows += len(values)
        self.present += len(present)
        if self.one_value and len(present):
            self.first = present.iloc[0] if self.first is None else self.first
            self.one_value = bool((present == self.first).all())
        self.is_target = self.is_target and _equal(values, goal)
        if self.column.kind == "number":
            self._numbers(present.to_numpy(dtype=np.float64))
        if self.whole or self.column.kind == "category":
            self.distinct.see(mixed(hashes[here]))

    def _numbers(self, present: npt.NDArray[np.float64]) -> None:
        numbers = present[np.isfinite(present)]
        self.fractions = self.fractions or bool((numbers != np.round(numbers)).any())
        self.whole = self.whole and not self.fractions and len(numbers) == len(present)
        if self.fractions or not len(numbers):
            return
        self.low, self.high = min(self.low, float(numbers.min())), max(self.high, float(numbers.max()))
        with np.errstate(over="ignore"):
            self.rounded += int((numbers.astype(np.float32).astype(np.float64) != numbers).sum())

    def tell(self, twin: str | None) -> tuple[_Kind, str, bool] | None:
        """Kind of the finding, what it says, and whether the column is to be left out; None when all is well."""
        name, distinct = self.column.name, self.distinct.count
        if self.one_value and self.present == self.rows:
            return "constant", f"column {name!r} has one value in every row", True
        if twin is not None:
            return "duplicate", f"column {name!r} equals column {twin!r}", True
        if self.is_target:
            return "duplicate", f"column {name!r} equals the target, and gives the answer away", True
        if self._identifies():
            return "identifier", f"column {name!r} names each row, so it teaches nothing that lasts", True
        if self.column.kind == "category" and _many(distinct, self.rows):
            return "cardinality", f"column {name!r} has {distinct} categories in {self.rows} rows", False
        if self.rounded and not self.fractions:
            message = f"column {name!r} has {self.rounded} integers beyond 2^24, which float32 rounds"
            return "precision", message, False
        return None

    def _identifies(self) -> bool:
        """Text that differs in every row, or integers that do and count up by one or are named like an id."""
        if self.column.kind != "category" and not self.whole:
            return False  # floats never name a row
        if self.distinct.repeats or self.present < _MOSTLY * self.rows:
            return False
        if self.column.kind == "category":
            return True
        counts_up = self.high - self.low == self.present - 1
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", self.column.name)
        return counts_up or not _NAMED_LIKE_ID.isdisjoint(word.lower() for word in words)


def _equal(values: pd.Series, goal: npt.NDArray[np.object_]) -> bool:
    """Whether every value is spelled as the target's; most columns differ within a few rows."""
    few = 100
    return bool((category_strings(values.head(few)) == goal[:few]).all() and (category_strings(values) == goal).all())


def _many(distinct: int, rows: int) -> bool:
    return distinct > MANY_CATEGORIES or (distinct > _SEVERAL and distinct > MANY_SHARE * rows)
