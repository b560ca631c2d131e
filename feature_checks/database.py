"""One Parquet file as a database that answers what entries ask, and reads nothing else."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from feature_checks.entries.rows import NUMBERED, ROWS, Ask, Values
from feature_checks.parquet import Column, columns_of, view
from pipeline.errors import Unavailable

MEMORY_BYTES = 2 * 2**30  # the most it takes; what does not fit lies on the disk meanwhile
AT_ONCE = 256  # aggregates of one query
_NAMES = re.compile(r"\$(v[0-9]+)")


class Database:
    """Answers, each asked of the file once. `values` are what the queries hold of a suite, as parameters."""

    def __init__(self, connection: Any, columns: tuple[Column, ...]) -> None:
        self._connection = connection
        self._answers: dict[Ask, Any] = {}
        self.columns: Mapping[str, Column] = {column.name: column for column in columns}
        self.values = Values()

    def answer(self, asks: Collection[Ask]) -> Mapping[Ask, Any]:
        """What is asked of one relation is asked in one query, that is, in one scan."""
        relations: dict[str, list[Ask]] = {}
        for ask in dict.fromkeys(asks):
            if ask not in self._answers:
                relations.setdefault(ask.relation, []).append(ask)
        for relation, asked in relations.items():
            for begin in range(0, len(asked), AT_ONCE):
                part = asked[begin : begin + AT_ONCE]
                query = f"SELECT {', '.join(ask.value for ask in part)} FROM {relation}"  # noqa: S608 (all by parameters)
                bound = {name: self.values.bound[name] for name in _NAMES.findall(query)}
                row = self._connection.execute(query, bound).fetchone()
                self._answers.update(zip(part, row, strict=True))
        return self._answers


@contextmanager
def opened(path: Path, threads: int = 0, memory_bytes: int = MEMORY_BYTES) -> Iterator[Database]:
    """The file as a database. `threads`: 0 for one for each core; of `memory_bytes` it takes 2 GiB at most.

    Raises:
        Unavailable: the disk failed, or memory was short. A retry helps.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
        config = {
            "memory_limit": f"{min(memory_bytes, MEMORY_BYTES)}B",
            "temp_directory": scratch,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        columns, plain = columns_of(path), Path(scratch) / "rows.parquet"
        plain.symlink_to(path.absolute())  # so that what the path holds is not taken for a pattern
        try:
            with duckdb.connect(":memory:", config=config | ({"threads": threads} if threads else {})) as connection:
                connection.execute("SET enable_progress_bar = false")
                # a file's statistics know no NaN: trusting them, DuckDB finds none
                connection.execute("SET disabled_optimizers = 'statistics_propagation'")
                connection.execute("SET allowed_paths = ?", [[str(plain)]])
                connection.execute("SET enable_external_access = false")
                connection.execute("SET lock_configuration = true")
                for name, query in zip((ROWS, NUMBERED), view(plain, columns), strict=True):
                    connection.execute(f"CREATE VIEW {name} AS {query}")
                yield Database(connection, columns)
        except (duckdb.IOException, duckdb.PermissionException, duckdb.OutOfMemoryException) as error:
            raise Unavailable(
                f"the rows could not be read: {error}", str(path), "free disk or memory, run again"
            ) from error
