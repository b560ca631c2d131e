"""What a row looks like: the columns that a model reads, their kinds, and the target."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.frozen import Frozen

ColumnKind = Literal["number", "boolean", "category", "timestamp"]
TaskKind = Literal["binary", "multiclass", "regression"]

# The tensors of a request, by column kind. Every served model reads these names, and nothing else.
NUMERIC, CATEGORICAL, TIMESTAMP = "numeric", "categorical", "timestamp"
MISSING_TIMESTAMP = -(2**63)
PROBABILITIES, PREDICTION = "probabilities", "prediction"


class Column(Frozen):
    """One feature column as it arrives, before any transformation."""

    name: str
    kind: ColumnKind


class RowSchema(Frozen):
    """Feature columns in the order in which tensors carry them, and the target's name and classes."""

    columns: tuple[Column, ...]
    target: str
    task: TaskKind
    classes: tuple[str, ...] = Field(default=(), description="labels by index; for binary the second is the positive")

    def names(self, *kinds: ColumnKind) -> tuple[str, ...]:
        """Names of the columns of these kinds, in tensor order; of all columns when no kind is given."""
        return tuple(column.name for column in self.columns if not kinds or column.kind in kinds)

    @property
    def numeric(self) -> tuple[str, ...]:
        """Columns of the tensor `numeric`, (rows, n) float32: numbers and booleans in schema order."""
        return self.names("number", "boolean")

    @property
    def categorical(self) -> tuple[str, ...]:
        """Columns of the tensor `categorical`, (rows, m) string; the empty string is a missing value."""
        return self.names("category")

    @property
    def timestamp(self) -> tuple[str, ...]:
        """Columns of the tensor `timestamp`, (rows, t) int64 UTC epoch seconds; the smallest int64 is missing."""
        return self.names("timestamp")

    @property
    def output(self) -> str:
        """Name of the output: `probabilities` (rows, classes) float32, or `prediction` (rows, 1) float32."""
        return PREDICTION if self.task == "regression" else PROBABILITIES

    @property
    def width(self) -> int:
        """Second dimension of the output."""
        return 1 if self.task == "regression" else len(self.classes)
