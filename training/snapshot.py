"""Step snapshot: the rows of the source as one immutable Parquet file, named by the digest of its content."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.batches import Spool
from pipeline.columns import RowSchema
from pipeline.dataset import MIN_HOLDOUT, held_out, split_part
from pipeline.digest import digest_file
from pipeline.disk import disk
from pipeline.errors import Invalid, Problem
from pipeline.infer import infer
from pipeline.refs import DatasetRef
from pipeline.run import Run
from pipeline.sources import describe, read_batches
from pipeline.spec import PipelineSpec, Split
from pipeline.step import main

GROUP_ROWS, GROUP_CELLS = 2**20, 2**25  # of a row group, whichever is less: 256 MiB of numbers at most


def snapshot(spec: PipelineSpec, run: Run) -> DatasetRef:
    """Read the source, keep its rows as immutable Parquet, and hold rows out. Never holds more than a few batches."""
    where = describe(spec.data)
    with (
        Spool(read_batches(spec.data, run.spec_path.parent)) as rows,
        tempfile.TemporaryDirectory(prefix="slipway-") as scratch,
    ):
        typed = infer(rows, spec.data, spec.task, where, spec.gates)
        for finding in typed.findings:
            run.log.warning("%s%s", finding.message, " (left out)" if finding.dropped else "")
        parts, path = _Parts(spec.split, typed.schema, typed.rows), Path(scratch) / "rows.parquet"
        with disk(scratch, "the temporary folder", "TMPDIR"):
            write_parquet(parts.counted(typed), path)
        parts.can_judge(where)
        digest = digest_file(path)
        ref = DatasetRef(
            digest=digest,
            key=f"datasets/{digest}.parquet",
            source=where,
            row_schema=typed.schema,
            rows=typed.rows,
            train_rows=typed.rows - parts.held,
            holdout_rows=parts.held,
            findings=typed.findings,
        )
        run.store.put(path, ref.key)
    run.log.info(
        "%d rows, %d columns, %d held out, digest %s",
        ref.rows,
        len(ref.row_schema.columns),
        ref.holdout_rows,
        digest[:12],
    )
    run_id = run.registry.pipeline_run(run, spec)
    run.registry.log_dataset(run_id, ref)
    run.registry.set_tags(run_id, {"slipway.dataset": digest})
    if ref.findings:
        run.registry.log_text(run_id, "\n".join(finding.message for finding in ref.findings), "checks/findings.txt")
    return ref


def to_parquet(frame: pd.DataFrame) -> bytes:
    """The frame as Parquet bytes, as `write_parquet` writes them."""
    sink = io.BytesIO()
    write_parquet([frame], sink)
    return sink.getvalue()


def write_parquet(frames: Iterable[pd.DataFrame], target: Path | IO[bytes]) -> None:
    """The rows as a Parquet file; the same rows give the same bytes, whatever they were read from, and in what batches.

    Raises:
        OSError: the disk is full, or failed.
    """
    tables = (pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None) for frame in frames)
    first = next(tables)  # pandas' metadata would hold its version
    with pq.ParquetWriter(target, first.schema, compression="zstd") as writer:
        for group in _groups(itertools.chain([first], tables), min(GROUP_ROWS, GROUP_CELLS // first.num_columns)):
            writer.write_table(group, row_group_size=group.num_rows)


def _groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of so many rows, the last of as many as are left; each in one piece, for pages end where pieces do."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        at = 0
        while at < table.num_rows:
            piece = table.slice(at, rows - count)
            waiting.append(piece)
            at, count = at + piece.num_rows, count + piece.num_rows
            if count == rows:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting, count = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


class _Parts:
    """What the parts hold, counted as the rows go by."""

    def __init__(self, split: Split, schema: RowSchema, rows: int) -> None:
        self._split, self._schema, self._rows = split, schema, rows
        self.held = 0
        self._labels: dict[str, set[str]] = {"held-out": set(), "training": set()}

    def counted(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            held: npt.NDArray[np.bool_] = held_out(split_part(frame, self._schema), self._split, self._rows)
            self.held += int(held.sum())
            for part, rows in (("held-out", frame[held]), ("training", frame[~held])):
                self._labels[part] |= set(rows[self._schema.target].unique()) if self._schema.classes else set()
            yield frame

    def can_judge(self, where: str) -> None:
        """Refuse a split whose held-out part is too small, or lacks a class."""
        remedy = "bring more rows, or change split.holdout or split.seed"
        problems = []
        if self.held < MIN_HOLDOUT:
            problems.append(Problem(f"only {self.held} rows are held out", where, remedy))
        problems += [
            Problem(f"no {part} row has the class {label!r}", where, remedy)
            for part, labels in self._labels.items()
            for label in self._schema.classes
            if label not in labels
        ]
        if problems:
            raise Invalid(problems)


if __name__ == "__main__":
    main(snapshot)
