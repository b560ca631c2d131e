"""Reading a snapshot, and which of its rows are held out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import Split


def read_rows(run: Run, dataset: DatasetRef) -> pd.DataFrame:
    """Every row and column of the snapshot, in the snapshot's order.

    Raises:
        Unavailable: the store does not answer. A retry helps.
    """
    with run.store.local(dataset.key) as path:
        return pd.read_parquet(path)


def held_out(frame: pd.DataFrame, split: Split) -> npt.NDArray[np.bool_]:
    """(rows,) bool: by the hash of each row's content, so equal rows fall on one side, in every later snapshot too.

    The hash is mixed with the seed by the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).
    """
    plain = frame.astype("object").where(frame.notna(), "")
    content = pd.util.hash_pandas_object(plain.map(str), index=False).to_numpy(dtype=np.uint64)
    mixed = content + np.uint64((split.seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed / np.float64(2**64) < split.holdout


def split_rows(run: Run, dataset: DatasetRef, split: Split) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(training rows, held-out rows) of the snapshot, each with a fresh index."""
    frame = read_rows(run, dataset)
    mask = held_out(frame, split)
    return frame[~mask].reset_index(drop=True), frame[mask].reset_index(drop=True)
