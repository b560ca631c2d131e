"""Request tensors as the matrix that a model reads; training/onnx_features.py does the same arithmetic in ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, RowSchema
from pipeline.frozen import Frozen
from pipeline.tensors import MISSING_TIMESTAMP, Tensors, category_strings

Floats = npt.NDArray[np.float32]
DAY_S = 86_400
ColumnCode = Literal["q", "c"]


class Clock(NamedTuple):
    """A feature of a timestamp in integers only, so that every runtime agrees to the bit.

    value = (((seconds // divide + add) * times) % remainder) // then, with floor division; 0 remainder: none.
    """

    name: str
    divide: int
    add: int = 0
    times: int = 1
    remainder: int = 0
    then: int = 1


CLOCK = (
    Clock("days", DAY_S),
    Clock("hour", 3_600, remainder=24),
    Clock("weekday", DAY_S, add=3, remainder=7),  # 1970-01-01 was a Thursday; Monday is 0
    Clock("yearday", DAY_S, times=10_000, remainder=3_652_425, then=10_000),  # a Gregorian year has 365.2425 days
)


class Features(Frozen):
    """How the matrix comes from the tensors: numbers, then clock features of timestamps, then codes of categories."""

    row_schema: RowSchema
    categories: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each matrix column."""
        stamps = tuple(f"{name}.{clock.name}" for name in self.row_schema.timestamp for clock in CLOCK)
        return (*self.row_schema.numeric, *stamps, *self.row_schema.categorical)

    @property
    def kinds(self) -> tuple[ColumnCode, ...]:
        """ "q" for a quantity and "c" for a category's code, by matrix column."""
        codes = len(self.row_schema.categorical)
        count = len(self.names)
        return tuple("q" if at < count - codes else "c" for at in range(count))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of categories of each category column."""
        return tuple(len(self.categories[name]) for name in self.row_schema.categorical)

    def matrix(self, tensors: Tensors) -> Floats:
        """(rows, width) float32; NaN is a missing value, a number that is not finite, a category never seen."""
        parts: list[Floats] = []
        if self.row_schema.numeric:
            numbers = np.asarray(tensors[NUMERIC], dtype=np.float32)
            parts.append(np.where(np.isfinite(numbers), numbers, np.float32(np.nan)))
        if self.row_schema.timestamp:
            stamps = np.asarray(tensors[TIMESTAMP], dtype=np.int64)
            parts.append(np.concatenate([clock_features(stamps[:, [at]]) for at in range(stamps.shape[1])], axis=1))
        if self.row_schema.categorical:
            texts = np.asarray(tensors[CATEGORICAL], dtype=object)
            parts.append(
                np.stack(
                    [
                        _codes(texts[:, at], self.categories[name])
                        for at, name in enumerate(self.row_schema.categorical)
                    ],
                    axis=1,
                )
            )
        return np.concatenate(parts, axis=1)


def clock_features(seconds: npt.NDArray[np.int64]) -> Floats:
    """(rows, 1) int64 epoch seconds -> (rows, clocks) float32."""
    missing = seconds == MISSING_TIMESTAMP
    seconds = np.where(missing, 0, seconds)
    parts = []
    for clock in CLOCK:
        value = (seconds // clock.divide + clock.add) * clock.times
        value = (value % clock.remainder if clock.remainder else value) // clock.then
        parts.append(np.where(missing, np.float32(np.nan), value.astype(np.float32)))
    return np.concatenate(parts, axis=1)


def fit_features(frame: pd.DataFrame, schema: RowSchema) -> Features:
    """The features of these training rows: which categories there are, by frequency, then by name."""
    return count_features([frame], schema)


def count_features(frames: Iterable[pd.DataFrame], schema: RowSchema) -> Features:
    """The same of training rows that come in batches."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in schema.categorical}
    for frame in frames if schema.categorical else ():
        for name, known in counts.items():
            for label, count in pd.Series(category_strings(frame[name])).value_counts(sort=False).items():
                known[str(label)] += int(count)
    categories = {
        name: tuple(sorted((label for label in known if label != ""), key=lambda label: (-known[label], label)))
        for name, known in counts.items()
    }
    return Features(row_schema=schema, categories=categories)


def _codes(texts: npt.NDArray[np.object_], labels: tuple[str, ...]) -> Floats:
    index = pd.Index(labels, dtype=object)
    codes = index.get_indexer(pd.Index(texts, dtype=object))
    return np.where(codes < 0, np.float32(np.nan), codes.astype(np.float32))
