"""What an entry may ask of the rows, and the forms of its verdict."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feature_checks.parquet import Column, Kind

EXACT = 2**53  # integers beyond it are not all numbers of a float
ROWS, NUMBERED = "rows", "numbered"  # the views; the second knows the rows' positions
EXAMPLES = 3  # offending values that a verdict shows


class Left(Exception):
    """These arguments, on these rows, are for Great Expectations to judge; the message says why."""


@dataclass(frozen=True)
class Ask:
    """One value: an aggregate over a relation. What is asked of one relation is asked in one query."""

    relation: str
    value: str


@dataclass(frozen=True)
class Judged:
    """A verdict, and the result in the form that Great Expectations gives it."""

    success: bool
    result: dict[str, Any] = field(default_factory=dict)


Asking = Generator[tuple[Ask, ...], Sequence[Any], Judged]  # asks, in rounds; the answers come back in that order
Entry = Callable[..., Asking]  # (rows, **arguments of the expectation)


class Values:
    """Values of a suite as parameters of queries, so that none is ever part of one."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}
        self._names: dict[tuple[type, Any], str] = {}

    def __call__(self, value: Any) -> str:
        """The parameter that stands for the value."""
        name = self._names.setdefault((type(value), value), f"v{len(self._names)}")
        self.bound[name] = value
        return f"${name}"

    def among(self, sql: str, values: Sequence[Any]) -> str:
        """Whether `sql` is one of the values; NULL where it is NULL."""
        if not values:
            return f"({sql} IS NULL AND NULL)"
        return f"{sql} IN ({', '.join(map(self, values))})"


@dataclass(frozen=True)
class Rows:
    """The rows that one expectation is about: those for which `condition` holds."""

    columns: Mapping[str, Column]
    value: Values
    condition: str = ""

    def column(self, name: Any, *kinds: Kind) -> Column:
        """The column of this name. Raises Left when it is of no such kind."""
        found = self.columns.get(name) if isinstance(name, str) else None
        if found is None:
            raise Left("no such column")
        if found.kind not in (kinds or ("float", "int", "text", "bool", "time")):
            raise Left(f"not for columns that are {found.dtype or 'of this Parquet type'}")
        return found

    def where(self, *predicates: str) -> str:
        """The condition and the predicates as one; TRUE when there is none."""
        return " AND ".join(f"({one})" for one in (self.condition, *predicates) if one) or "TRUE"

    def count(self, *predicates: str) -> Ask:
        """How many rows meet all predicates."""
        where = self.where(*predicates)
        return Ask(ROWS, "count(*)" if where == "TRUE" else f"count(*) FILTER ({where})")

    def aggregate(self, value: str, *predicates: str) -> Ask:
        """An aggregate of the rows that meet all predicates."""
        where = self.where(*predicates)
        return Ask(ROWS, value if where == "TRUE" else f"{value} FILTER ({where})")

    def groups(self, value: str, columns: Sequence[Column], *predicates: str) -> Ask:
        """An aggregate of the distinct values of the columns, each with the number `n` of its rows."""
        return Ask(self.grouped(columns, *predicates), value)

    def grouped(self, columns: Sequence[Column], *predicates: str) -> str:
        """The relation of the distinct values of the columns, each with the number `n` of its rows."""
        names = ", ".join(column.sql for column in columns)
        return f"(SELECT {names}, count(*) AS n FROM {ROWS} WHERE {self.where(*predicates)} GROUP BY {names})"  # noqa: S608 (values are parameters)

    def examples(self, columns: Sequence[Column], *predicates: str, relation: str = ROWS, order: str = "") -> Ask:
        """Some rows of a relation that meet all predicates, each a tuple of the columns' values."""
        names = ", ".join(column.sql for column in columns)
        where = self.where(*predicates) if relation == ROWS else " AND ".join(predicates)
        sort = f" ORDER BY {order}" if order else ""
        return Ask(f"(SELECT {names} FROM {relation} WHERE {where}{sort} LIMIT {EXAMPLES})", f"list(row({names}))")  # noqa: S608 (values are parameters)


def met(considered: int, unexpected: int, mostly: float) -> bool:
    """Whether enough rows are as expected; of none, all are."""
    return considered == 0 or (considered - unexpected) / considered >= mostly


def counted(total: int, considered: int | None, unexpected: int, examples: list[Any]) -> dict[str, Any]:
    """The result of an expectation about each row; `considered` is None where missing values count as rows."""
    of_all = unexpected / total * 100 if total else None
    result: dict[str, Any] = {
        "element_count": total,
        "unexpected_count": unexpected,
        "unexpected_percent": of_all,
        "partial_unexpected_list": examples,
    }
    if considered is not None:
        share = unexpected / considered * 100 if total and considered else None
        result |= {
            "unexpected_percent": share,
            "missing_count": total - considered,
            "missing_percent": (total - considered) / total * 100 if total else None,
            "unexpected_percent_total": of_all,
            "unexpected_percent_nonmissing": share,
        }
    return result


def accepts(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises Left for an argument that the function does not know, or needs and has not."""
    try:
        inspect.signature(function).bind_partial(**arguments)
    except TypeError as error:
        raise Left(str(error)) from None


def number(value: Any, *, finite: bool = True) -> float:
    """A number that a float holds exactly. Raises Left for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Left(f"{value!r} is no number")
    if math.isnan(value) or (finite and math.isinf(value)) or (isinstance(value, int) and abs(value) > EXACT):
        raise Left(f"{value!r} is no number that can be compared exactly")
    return value


def flag(value: Any) -> bool:
    """Yes or no; None is no. Raises Left for anything else."""
    if not isinstance(value, bool | None):
        raise Left(f"{value!r} is neither true nor false")
    return bool(value)


def text(value: Any) -> str:
    """Text that a query can hold. Raises Left for anything else."""
    if not isinstance(value, str) or "\0" in value or not _encodable(value):
        raise Left(f"{value!r} is no text")
    return value


def members(value: Any, column: Column) -> list[Any]:
    """Those of a list that a value of the column can be equal to. Raises Left where only pandas knows which are."""
    if not isinstance(value, list):
        raise Left("the set is not a list")
    if column.kind == "text":
        return [text(one) for one in value if isinstance(one, str)]
    numbers = [one for one in value if one is not None and not isinstance(one, str)]
    return [number(one, finite=False) for one in numbers if one == one]  # noqa: PLR0124 (NaN is missing)


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may write
        return False
    return True
