"""Judges expectations by aggregates of DuckDB, over the rows where they lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from feature_checks.database import MEMORY_BYTES, Database, opened
from feature_checks.entries.conditions import predicate
from feature_checks.entries.maps import MAPS
from feature_checks.entries.outliers import OUTLIERS
from feature_checks.entries.records import RECORDS
from feature_checks.entries.rows import Ask, Asking, Entry, Judged, Left, Rows, accepts
from feature_checks.entries.statistics import STATISTICS
from feature_checks.entries.table import LEFT, TABLE

ENTRIES: Mapping[str, Entry] = {**MAPS, **STATISTICS, **OUTLIERS, **RECORDS, **TABLE}


class _Work:
    """One expectation under way: what its entry asks, then its verdict, or why it is left."""

    def __init__(self, expectation: Mapping[str, Any], database: Database) -> None:
        self.asks: tuple[Ask, ...] = ()
        self.verdict: Judged | Left | None = None
        self._advance(lambda: self._begin(expectation, database))

    def hear(self, answers: Mapping[Ask, Any]) -> None:
        """Go on with the answers to what was asked."""
        self._advance(lambda: self._asking.send([answers[ask] for ask in self.asks]))

    def _advance(self, step: Callable[[], tuple[Ask, ...]]) -> None:
        try:
            self.asks = step()
        except StopIteration as end:
            self.verdict = end.value
        except Left as why:
            self.verdict = why

    def _begin(self, expectation: Mapping[str, Any], database: Database) -> tuple[Ask, ...]:
        kind, arguments = expectation["type"], dict(expectation["kwargs"])
        entry = ENTRIES.get(kind)
        if entry is None:
            raise Left(LEFT.get(kind, "not one of Great Expectations' own"))
        rows = Rows(database.columns, database.values)
        condition = arguments.pop("row_condition", None)
        arguments.pop("condition_parser", None)  # by which the condition was read
        if condition is not None:
            rows = Rows(rows.columns, rows.value, predicate(condition, rows))
        accepts(entry, arguments)
        self._asking: Asking = entry(rows, **arguments)
        return next(self._asking)


def push_down(
    path: Path, expectations: Sequence[Mapping[str, Any]], threads: int = 0, memory_bytes: int = MEMORY_BYTES
) -> list[Judged | Left]:
    """The verdict on each expectation, as Great Expectations reads it, or why it is left to Great Expectations.

    Entries ask in rounds, and what all of them ask in a round is asked together: of most suites, most is in the first
    scan of the file.

    Raises:
        Unavailable: the disk failed, or memory was short. A retry helps.
    """
    with opened(path, threads, memory_bytes) as database:
        works = [_Work(expectation, database) for expectation in expectations]
        while under_way := [work for work in works if work.verdict is None]:
            answers = database.answer([ask for work in under_way for ask in work.asks])
            for work in under_way:
                work.hear(answers)
    return [work.verdict for work in works if work.verdict is not None]
