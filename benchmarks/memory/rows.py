"""Rows of the benchmark, written batch after batch: numbers, some missing, categories, and a target that they tell of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS, CATEGORIES = 20, (5, 50, 1000)  # columns of numbers; categories of each other column
_BATCH = 2**18


def write(path: Path, rows: int) -> None:
    """A Parquet file of so many rows, the same each time."""
    writer: pq.ParquetWriter | None = None
    for at in range(0, rows, _BATCH):
        table = pa.Table.from_pandas(batch(at, min(_BATCH, rows - at)), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def batch(seed: int, rows: int) -> pd.DataFrame:
    """Some of the rows: numbers with two decimals, as most tables have them, so that a file of many is not large."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(scale=3, size=(rows, NUMBERS)).round(2)
    numbers[draw.random((rows, NUMBERS)) < 0.02] = np.nan
    frame = pd.DataFrame(numbers, columns=[f"n{at}" for at in range(NUMBERS)])
    score = np.nan_to_num(numbers[:, 0]) + np.nan_to_num(numbers[:, 1]) * np.nan_to_num(numbers[:, 2]) / 3
    for at, labels in enumerate(CATEGORIES):
        codes = draw.integers(0, labels, rows)
        names = np.array([f"label {label}" for label in range(labels)], dtype=object)
        frame[f"c{at}"] = pd.Categorical.from_codes(codes, names)
        score += (codes % 3) - 1
    frame["y"] = np.where(score + draw.logistic(size=rows) > 0, "yes", "no")
    return frame
