"""Reading a snapshot, and which of its rows are held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from pipeline.batches import batch_rows
from pipeline.columns import RowSchema
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import Split

_GOLDEN, _MASK = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF
_BUFFER = 2**18  # bytes of a column that are read at once
MIN_HOLDOUT = 8  # rows without which no metric of the held-out part means anything


def row_batches(run: Run, dataset: DatasetRef) -> Iterator[pd.DataFrame]:
    """Every row and column of the snapshot, in its order, in batches of bounded size.

    Raises:
        Unavailable: the store does not answer. A retry helps.
        Invalid: the snapshot is gone, or is not what was written. A retry does not help.
    """
    with run.store.whole(dataset.key) as path:
        yield from file_batches(path)


def file_batches(
    path: Path, columns: list[str] | None = None, groups: list[int] | None = None, parts: int = 1
) -> Iterator[pd.DataFrame]:
    """The rows of a snapshot's file in batches of bounded size: of these columns, and row groups (default: of all).

    `parts`: how many such batches the caller holds at once; each is smaller by as much.
    """
    # not ahead: what Arrow has read ahead is kept until the file is closed
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        size = max(1, batch_rows(len(file.schema_arrow)) // parts)
        for batch in file.iter_batches(size, groups, columns):
            yield batch.to_pandas()


def split_part(frame: pd.DataFrame, schema: RowSchema) -> pd.DataFrame:
    """The columns whose content decides on which side a row falls: what the model reads, and the target."""
    return frame[[*schema.names(), schema.target]]


def held_out(frame: pd.DataFrame, split: Split, rows: int | None = None) -> npt.NDArray[np.bool_]:
    """(rows,) bool: by the hash of each row's content, so equal rows fall on one side, in every later snapshot too.

    No row's answer depends on another row, but for how many there are: `rows` of the whole table, of which `frame` may
    be a batch (default: it is all of it).
    """
    return np.asarray(positions(frame, split) < held_share(split, len(frame) if rows is None else rows))


def held_share(split: Split, rows: int) -> float:
    """The share that is held out of so many rows; what a smaller share holds out, a larger one does too."""
    return min(split.holdout, split.most_held_out / max(rows, 1))


def positions(frame: pd.DataFrame, split: Split) -> npt.NDArray[np.float64]:
    """(rows,) float64 in [0, 1): where a row stands by its content alone; those below the split's share are held out.

    A column's values are hashed as what they are (float64, microseconds, text), never by how a reader stored them;
    columns and seed are mixed by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).
    """
    state = np.full(len(frame), (split.seed + 1) * _GOLDEN & _MASK, dtype=np.uint64)
    for name in frame.columns:
        state = mixed(state ^ value_hashes(frame[name])) + np.uint64(_GOLDEN)
    return np.asarray(mixed(state) / np.float64(2**64))


def value_hashes(series: pd.Series) -> npt.NDArray[np.uint64]:
    """(rows,) uint64: each value's own hash, the same for equal values of any column, storage and snapshot."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        stamps = series.dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
        return np.asarray(stamps.view(np.uint64), dtype=np.uint64)
    if pd.api.types.is_numeric_dtype(series.dtype) or pd.api.types.is_bool_dtype(series.dtype):
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan) + 0.0  # -0.0 is 0.0
        return np.where(np.isnan(numbers), np.uint64(1), numbers.view(np.uint64))
    codes, values = pd.factorize(series)  # each text is hashed once, however many rows have it
    texts = np.array(
        [*map(str, np.asarray(values, dtype=object)), ""], dtype=object
    )  # code -1 is the last: missing is the empty text
    return np.asarray(pd.util.hash_array(texts, categorize=False)[codes], dtype=np.uint64)


def mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """(rows,) uint64: other numbers for other numbers, in which every bit is as good as random."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def split_rows(run: Run, dataset: DatasetRef, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training rows, held-out rows) of the snapshot, each with a fresh index, where they fit in memory."""
    parts = list(split_batches(run, dataset, split))
    train, held = (pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True))
    return train, held


def held_rows(run: Run, dataset: DatasetRef, split: Split) -> pd.DataFrame:
    """The held-out rows alone, with a fresh index: they fit in memory, for `split.most_held_out` sees to it."""
    return pd.concat((held for _, held in split_batches(run, dataset, split)), ignore_index=True)


def split_batches(run: Run, dataset: DatasetRef, split: Split) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """(training rows, held-out rows) of each batch of the snapshot. Raises as `row_batches` does."""
    for frame in row_batches(run, dataset):
        held = held_out(split_part(frame, dataset.row_schema), split, dataset.rows)
        yield frame[~held], frame[held]
