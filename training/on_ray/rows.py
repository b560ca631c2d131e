"""The training rows of a snapshot on a cluster: Ray Data's tasks read its row groups, each as a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow.parquet as pq
import ray.data

from pipeline.dataset import held_out, split_part
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.spec import Split
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from training.features import Features


def training_rows(run: Run, dataset: DatasetRef, split: Split, features: Features) -> ray.data.Dataset:
    """Rows that are not held out: `x` (rows, width) float32, `y` (rows,) float64, in the order of the snapshot.

    Every node must reach the store: a folder that all of them mount, or an object store.
    """
    path, files = run.store.path(dataset.key), run.store.filesystem
    with files.open(path) as file:
        groups = pq.ParquetFile(file).num_row_groups
    read = _Group(files, path, dataset, split, features)
    return ray.data.range(groups, override_num_blocks=groups).map_batches(read, batch_size=1)


@dataclass(frozen=True)
class _Group:
    """Reads a row group, leaves out the rows that are held out, and makes the others a matrix."""

    files: fsspec.AbstractFileSystem
    path: str
    dataset: DatasetRef
    split: Split
    features: Features

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        schema = self.dataset.row_schema
        with self.files.open(self.path) as file:
            frame = pq.ParquetFile(file).read_row_group(int(batch["id"][0])).to_pandas()
        rows = frame[~held_out(split_part(frame, schema), self.split, self.dataset.rows)].reset_index(drop=True)
        return {"x": self.features.matrix(to_tensors(rows, schema, "snapshot")), "y": encode_target(rows, schema)}
