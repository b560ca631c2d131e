"""Reading a snapshot, and which of its rows are held out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import RowSchema
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import Split

_GOLDEN, _MASK = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF
MIN_HOLDOUT = 8  # rows without which no metric of the held-out part means anything


def read_rows(run: Run, dataset: DatasetRef) -> pd.DataFrame:
    """Every row and column of the snapshot, in the snapshot's order.

    Raises:
        Unavailable: the store does not answer. A retry helps.
        Invalid: the snapshot is gone, or is not what was written. A retry does not help.
    """
    with run.store.whole(dataset.key) as path:
        return pd.read_parquet(path)


def split_part(frame: pd.DataFrame, schema: RowSchema) -> pd.DataFrame:
    """The columns whose content decides on which side a row falls: what the model reads, and the target."""
    return frame[[*schema.names(), schema.target]]


def held_out(frame: pd.DataFrame, split: Split) -> npt.NDArray[np.bool_]:
    """(rows,) bool: by the hash of each row's content, so equal rows fall on one side, in every later snapshot too.

    No row's answer depends on another row. A column's values are hashed as what they are (float64, microseconds,
    text), never by how a reader stored them; columns and seed are mixed by the finaliser of SplitMix64 (Steele et al.,
    OOPSLA 2014).
    """
    state = np.full(len(frame), (split.seed + 1) * _GOLDEN & _MASK, dtype=np.uint64)
    for name in frame.columns:
        state = mixed(state ^ value_hashes(frame[name])) + np.uint64(_GOLDEN)
    return np.asarray(mixed(state) / np.float64(2**64) < split.holdout)


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
    """(training rows, held-out rows) of the snapshot, each with a fresh index."""
    frame = read_rows(run, dataset)
    mask = held_out(split_part(frame, dataset.row_schema), split)
    return frame[~mask].reset_index(drop=True), frame[mask].reset_index(drop=True)
