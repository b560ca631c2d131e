"""What kind of values a column holds: a guess from the values, and the column typed as that kind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import ColumnKind
from pipeline.errors import Problem
from pipeline.parse import blank, booleans, category_strings, is_text, numbers, shown, timestamps

_BOOLEANS = ({"true", "false"}, {"yes", "no"})
_CODE = r"[+-]?0\d"  # a postal code or key: as a number it would lose its zeros
_DATE = r"\d{4}-\d{2}-\d{2}(?:[T ]|$)"
_SAMPLE = 200  # values on which a kind must hold before all are read


def typed(series: pd.Series, kind: ColumnKind) -> pd.Series:
    """The column as its kind: number and boolean float64, category str or None, timestamp datetime64[us, UTC].

    What is not of this kind is missing in the answer; `Guess.problems` tells of it.
    """
    if kind == "category":
        text = pd.Series(category_strings(series), index=series.index, dtype=object)
        return text.where(~blank(series), None)
    if kind == "timestamp":
        return timestamps(series)
    found = booleans(series) if kind == "boolean" else numbers(series)
    return pd.Series(found, index=series.index, name=series.name)


class Guess:
    """What a column's values, seen batch after batch, say of its kind, and of those that are not of the kind asked."""

    def __init__(self, name: str, asked: ColumnKind | None = None) -> None:
        self.name, self.asked = name, asked
        self.empty = True  # no value at all so far
        self._stored: set[ColumnKind] = set()  # the kinds that the batches' types say, where they say any
        self._text = _Text()
        self._nested: set[str] = set()
        self._rows = self._wrong = 0
        self._first = ""  # what is not of the kind asked, and where
        self._at = 0

    def see(self, series: pd.Series) -> None:
        """The next rows of the column."""
        missing = blank(series)
        self.empty = self.empty and bool(missing.all())
        if not is_text(series):
            self._stored.add(_stored(series))
        values = series[~missing]
        self._text.see(values)
        if pd.api.types.is_object_dtype(series.dtype):
            many = (list, dict, set, tuple, np.ndarray)
            self._nested |= {type(value).__name__ for value in values if isinstance(value, many)}
        if self.asked not in (None, "category"):
            self._check(series, missing)
        self._rows += len(series)

    @property
    def kind(self) -> ColumnKind:
        """The kind asked, or the one that the values suggest."""
        if self.asked:
            return self.asked
        alike = len(self._stored) == 1 and not self._text.rows
        return next(iter(self._stored)) if alike else self._text.kind

    def problems(self, where: str) -> list[Problem]:
        """That values are many in one, or not of the kind asked: the first of them, with its row."""
        if self.kind == "category":
            if not self._nested:
                return []
            what = f"column {self.name!r} holds many values in one ({', '.join(sorted(self._nested))})"
            return [Problem(what, where, "make a column of each, or name it in data.drop of the spec")]
        if not self._wrong:
            return []
        return [
            Problem(
                f"{self._first} is not a {self.asked} ({self._wrong} such values)",
                f"{where}, column {self.name!r}, row {self._at}",
                "correct it, leave it empty, or give the column another kind in data.kinds",
            )
        ]

    def _check(self, series: pd.Series, missing: npt.NDArray[np.bool_]) -> None:
        wrong = typed(series, self.kind).isna().to_numpy() & ~missing
        if wrong.any() and not self._wrong:
            at = int(np.flatnonzero(wrong)[0])
            self._first, self._at = shown(series.iloc[at]), self._rows + at + 1
        self._wrong += int(wrong.sum())


class _Text:
    """Of which kinds every value can be read as; values that are no text are read as if they were."""

    def __init__(self) -> None:
        self.rows = 0  # that are text
        self._spelled: set[str] = set()
        self._seen = False
        self._booleans = self._numbers = self._dates = True
        self._code = False

    def see(self, values: pd.Series) -> None:
        if values.empty:
            return
        self._seen = True
        if not is_text(values):
            kind = _stored(values)
            self._booleans &= kind == "boolean"
            self._numbers &= kind in ("number", "boolean")
            self._dates &= kind == "timestamp"
            return
        few = values.head(_SAMPLE)
        self._spelled |= {str(value).strip().lower() for value in values.head(max(_SAMPLE - self.rows, 0))}
        self.rows += len(values)
        self._booleans = (
            self._booleans and any(self._spelled <= pair for pair in _BOOLEANS) and not np.isnan(booleans(values)).any()
        )
        self._numbers = self._numbers and not np.isnan(numbers(few)).any() and not np.isnan(numbers(values)).any()
        if self._numbers and not self._code:
            self._code = bool(values.astype(str).str.match(_CODE).any())
        self._dates = (
            self._dates
            and bool(few.astype(str).str.match(_DATE).all())
            and bool(values.astype(str).str.match(_DATE).all())
            and bool(timestamps(values).notna().all())
        )

    @property
    def kind(self) -> ColumnKind:
        if not self._seen:
            return "category"
        if self._booleans:
            return "boolean"
        if self._numbers:
            return "category" if self._code else "number"
        return "timestamp" if self._dates else "category"


def _stored(series: pd.Series) -> ColumnKind:
    """The kind that the type of a column of no text says."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return "boolean"
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return "timestamp"
    return "number" if pd.api.types.is_numeric_dtype(series.dtype) else "category"
