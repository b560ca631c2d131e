"""The training rows of a snapshot as matrices: all of them at once where they fit in memory, else batch after batch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from pipeline.dataset import file_batches, held_share, positions, split_part
from pipeline.refs import DatasetRef
from pipeline.spec import Split
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from training.features import Features, Floats, count_features

Target = npt.NDArray[np.float64]
COPIES = 8  # of a matrix that are in memory at once while it is tuned on: folds, bins, what a network is scaled by
CLASS_ROWS = 1000  # of each class that a sample has, where there are so many
MIXED = 16  # row groups between which a shuffled batch mixes


@dataclass(frozen=True)
class TrainingRows:
    """All that is not held out of a snapshot's file, and what of it is tuned on within `memory_bytes`."""

    path: Path
    dataset: DatasetRef
    split: Split
    memory_bytes: int
    features: Features

    @classmethod
    def of(cls, path: Path, dataset: DatasetRef, split: Split, memory_bytes: int) -> TrainingRows:
        """The rows of the file at `path`, with features that are counted on them."""
        schema = dataset.row_schema
        rows = cls(path, dataset, split, memory_bytes, Features(row_schema=schema, categories={}))
        counted = count_features(rows._frames(), schema)
        return cls(path, dataset, split, memory_bytes, counted)

    @property
    def count(self) -> int:
        """How many they are."""
        return self.dataset.train_rows

    @property
    def fitting(self) -> int:
        """How many rows of the matrix may be in memory."""
        return self.memory_bytes // (len(self.features.names) * np.dtype(np.float32).itemsize * COPIES)

    @property
    def fit(self) -> bool:
        """Whether all of them may be in memory."""
        return self.count <= self.fitting

    def matrices(self, least: int = 1) -> Iterator[tuple[Floats, Target]]:
        """(rows, width) float32 and (rows,) float64 of each batch, in the snapshot's order.

        Batches are joined until they have `least` rows; the last has as many as are left.
        """
        parts: list[tuple[Floats, Target]] = []
        for part in map(self._matrix, self._frames()):
            parts.append(part)
            if sum(len(y) for _, y in parts) >= least:
                whole, parts = _joined(parts), []
                yield whole
        if any(len(y) for _, y in parts):
            yield _joined(parts)

    def sample(self) -> tuple[Floats, Target]:
        """The matrix and target of all rows if they fit, else of those that do, drawn by the hash of their content.

        The same rows are drawn each time, and no class is left out.
        """
        parts = [*self.matrices()] if self.fit else [self._matrix(frame) for frame in self._drawn()]
        return _joined(parts)

    def shuffled(self, draw: np.random.Generator) -> Iterator[tuple[Floats, Target]]:
        """Batches in which rows of several row groups are mixed: each row once, in another order at each call."""
        order = draw.permutation(pq.read_metadata(self.path).num_row_groups)
        for at in range(0, len(order), MIXED):
            groups = [self._frames([int(group)], MIXED) for group in order[at : at + MIXED]]
            for frames in itertools.zip_longest(*groups):
                x, y = self._matrix(pd.concat(frames, ignore_index=True))  # those that are over give None, and nothing
                rows = draw.permutation(len(y))
                yield x[rows], y[rows]

    def _drawn(self) -> Iterator[pd.DataFrame]:
        """The rows below a position that is higher for rare classes."""
        held, share = held_share(self.split, self.dataset.rows), self.fitting / self.count
        target = self.dataset.row_schema.target
        counts: Counter[str] = Counter()
        if self.dataset.row_schema.classes:
            for frame in self._frames():
                for label, count in frame[target].value_counts().items():
                    counts[str(label)] += int(count)
        shares = {label: max(share, CLASS_ROWS / count) for label, count in counts.items()}
        for frame in self._frames():
            below = frame[target].map(shares).to_numpy(dtype=np.float64) if shares else share
            yield frame[self._positions(frame) < held + (1 - held) * below]

    def _frames(self, groups: list[int] | None = None, parts: int = 1) -> Iterator[pd.DataFrame]:
        schema, held = self.dataset.row_schema, held_share(self.split, self.dataset.rows)
        for frame in file_batches(self.path, [*schema.names(), schema.target], groups, parts):
            yield frame[self._positions(frame) >= held]

    def _positions(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        return positions(split_part(frame, self.dataset.row_schema), self.split)

    def _matrix(self, frame: pd.DataFrame) -> tuple[Floats, Target]:
        schema = self.dataset.row_schema
        return self.features.matrix(to_tensors(frame, schema, "snapshot")), encode_target(frame, schema)


def _joined(parts: list[tuple[Floats, Target]]) -> tuple[Floats, Target]:
    x, y = parts[0] if len(parts) == 1 else (np.concatenate(part) for part in zip(*parts, strict=True))
    return x, y
