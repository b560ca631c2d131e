"""Read at once what the steps read in batches, for tests with few rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pipeline.columns import ColumnKind, RowSchema
from pipeline.dataset import row_batches
from pipeline.gate_rules import Gates
from pipeline.infer import infer
from pipeline.kinds import Guess
from pipeline.refs import DatasetRef, Finding
from pipeline.run import Run
from pipeline.sources import read_batches
from pipeline.spec import Data, Task


def read_source(data: Data, base: Path) -> pd.DataFrame:
    """Return every row of a source."""
    return pd.concat(read_batches(data, base), ignore_index=True)


def read_rows(run: Run, dataset: DatasetRef) -> pd.DataFrame:
    """Return every row of a snapshot, in its order."""
    return pd.concat(row_batches(run, dataset), ignore_index=True)


def infer_rows(
    frame: pd.DataFrame, data: Data, task: Task, where: str, gates: Gates | None = None
) -> tuple[pd.DataFrame, RowSchema, tuple[Finding, ...]]:
    """Return the typed rows, their schema and findings."""
    found = infer([frame], data, task, where, gates)
    return next(iter(found)), found.schema, found.findings


def guess_kind(series: pd.Series) -> ColumnKind:
    """Return the kind that a column's values suggest."""
    guess = Guess(str(series.name))
    guess.see(series)
    return guess.kind
