"""The columns of a Parquet file: what each is to pandas, and so to Great Expectations, and how SQL reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

Kind = Literal["float", "int", "text", "bool", "time", "other"]
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 (the zone is the column's)


@dataclass(frozen=True)
class Column:
    """One column. `sql` is its name in the view `rows`, in which a missing value is NULL and a time microseconds.

    `dtype` is what pandas reads the column as; "" where that is not one of those of which SQL's answers are known to be
    Great Expectations' own.
    """

    name: str
    kind: Kind
    sql: str
    dtype: str = ""

    @property
    def zoned(self) -> bool:
        """Whether a time is an instant."""
        return self.dtype.endswith("UTC]")

    def read(self, value: Any) -> Any:
        """A value of the view as Great Expectations writes it in JSON."""
        if self.kind != "time" or value is None:
            return value
        moment = EPOCH + timedelta(microseconds=value)
        return (moment.replace(tzinfo=UTC) if self.zoned else moment).isoformat()


def columns_of(path: Path) -> tuple[Column, ...]:
    """The columns of the file, in its order. Reads the footer alone."""
    with pq.ParquetFile(path) as file:
        schema, missing = file.schema_arrow, _missing(file.metadata)
    written = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    as_pandas = {item["field_name"]: item["numpy_type"] for item in written.get("columns", ())}
    index = {name for name in written.get("index_columns", ()) if isinstance(name, str)}
    found = []
    for position, field in enumerate(schema):
        if field.name in index:
            continue
        dtype = _dtype(field.type, missing.get(field.name))
        if as_pandas.get(field.name, dtype) not in _WRITTEN.get(dtype, (dtype,)):
            dtype = ""
        found.append(Column(field.name, _KINDS.get(dtype, "other"), f"c{position}", dtype))
    return tuple(found)


def view(path: Path, columns: tuple[Column, ...]) -> tuple[str, str]:
    """The queries of the views `rows` and `numbered`, which also has the rows' `position` in the file.

    Columns are renamed by their position, so that no name in them is ever part of a query.
    """
    with pq.ParquetFile(path) as file:
        names = ", ".join(f"c{position}" for position in range(len(file.schema_arrow)))
    read = ", ".join(f"{_READ.get(column.dtype, '{0}').format(column.sql)} AS {column.sql}" for column in columns)
    source = "'" + str(path).replace("'", "''") + "'"
    options = "hive_partitioning = false, union_by_name = false"
    numbered = f"{options}, file_row_number = true"
    return (
        f"SELECT {read} FROM read_parquet({source}, {options}) AS file({names})",  # noqa: S608 (all of it is ours)
        f"SELECT {read}, position FROM read_parquet({source}, {numbered}) AS file({names}, position)",  # noqa: S608
    )


_KINDS: Mapping[str, Kind] = {
    "float64": "float",
    "int64": "int",
    "str": "text",
    "bool": "bool",
    "datetime64[us]": "time",
    "datetime64[us, UTC]": "time",
}
# what a file by pandas may say of itself, where pandas reads the column as `dtype`
_WRITTEN = {"str": ("str", "object"), "datetime64[us, UTC]": ("datetime64[us, UTC]", "datetime64[us]")}
_READ = {  # a NaN is a missing value to pandas; integers of which some are missing are floats
    "float64": "CASE WHEN isnan({0}::DOUBLE) THEN NULL ELSE {0}::DOUBLE END",
    "datetime64[us]": "epoch_us({0})",
    "datetime64[us, UTC]": "epoch_us({0})",
}
_DTYPES = {
    pa.float64(): "float64",
    pa.string(): "str",
    pa.large_string(): "str",
    pa.timestamp("us"): "datetime64[us]",
    pa.timestamp("us", "UTC"): "datetime64[us, UTC]",
}


def _dtype(kind: Any, missing: int | None) -> str:
    if kind == pa.int64():
        return {None: "", 0: "int64"}.get(missing, "float64")
    if kind == pa.bool_():
        return "bool" if missing == 0 else ""
    return _DTYPES.get(kind, "")


def _missing(metadata: Any) -> dict[str, int | None]:
    """How many values of each column are null; None where the file does not say."""
    found: dict[str, int | None] = {}
    for group in range(metadata.num_row_groups):
        for position in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(position)
            counted = chunk.statistics.null_count if chunk.is_stats_set and chunk.statistics.has_null_count else None
            before = found.get(chunk.path_in_schema, 0)
            found[chunk.path_in_schema] = None if counted is None or before is None else before + counted
    return found
