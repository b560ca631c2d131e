"""Rows in batches: data frames of bounded size, which come once and can be gone through more than once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pandas as pd
import pyarrow as pa

from pipeline.disk import disk
from pipeline.parse import category_strings

BATCH_CELLS = 2**23  # of a batch: 64 MiB of numbers
BATCH_ROWS = 2**20  # at most, however narrow the table


def batch_rows(columns: int) -> int:
    """Rows of a batch of a table with so many columns; what is read from it does not depend on this number."""
    return max(1, min(BATCH_ROWS, BATCH_CELLS // max(columns, 1)))


class Spool:
    """Batches of a source, read once. A single batch is kept in memory, of more than one all are on disk.

    To be entered, and gone through to its end the first time:

        with Spool(read_batches(data, base)) as rows:
            for frame in rows: ...
            for frame in rows: ...
    """

    def __init__(self, source: Iterator[pd.DataFrame]) -> None:
        self._source: Iterator[pd.DataFrame] | None = source
        self._only: pd.DataFrame | None = None
        self._kept = 0
        self._folder = tempfile.TemporaryDirectory(prefix="slipway-")

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Each batch, in the source's order. Raises what the source raises."""
        if self._source is not None:
            yield from self._first(self._source)
        elif self._only is not None:
            yield self._only
        else:
            for at in range(self._kept):
                with pa.OSFile(self._file(at)) as file:
                    yield pa.ipc.open_file(file).read_all().to_pandas()

    def _first(self, source: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        self._source = None
        for batch in source:
            yield batch
            if self._only is not None:
                self._keep(self._only)
                self._only = None
                self._keep(batch)
            elif self._kept:
                self._keep(batch)
            else:
                self._only = batch

    def _keep(self, batch: pd.DataFrame) -> None:
        table, options = _plain(batch), pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            disk(self._folder.name, "the temporary folder", "TMPDIR"),
            pa.OSFile(self._file(self._kept), "wb") as file,
            pa.ipc.new_file(file, table.schema, options=options) as writer,
        ):
            writer.write_table(table)
        self._kept += 1

    def _file(self, at: int) -> str:
        return str(Path(self._folder.name) / f"{at}.arrow")


def _plain(frame: pd.DataFrame) -> pa.Table:
    """As Arrow; objects that are of no one type of its, such as numbers beside text, are spelled as categories are."""
    spelled = {}
    for name in frame.columns[[pd.api.types.is_object_dtype(kind) for kind in frame.dtypes]]:
        try:
            pa.array(frame[name], from_pandas=True)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            text = pd.Series(category_strings(frame[name]), index=frame.index, dtype=object)
            spelled[name] = text.where(frame[name].notna(), None)
    return pa.Table.from_pandas(frame.assign(**spelled), preserve_index=False)
