"""Row conditions, as Great Expectations keeps them, as predicates that hold for the rows that pandas selects."""

from __future__ import annotations

import keyword
from typing import Any

from feature_checks.entries.rows import Left, Rows, members, number, text

_COMPARISONS = {"==": ("=", "FALSE"), "!=": ("<>", "TRUE")} | {sign: (sign, "FALSE") for sign in ("<", "<=", ">", ">=")}


def predicate(condition: Any, rows: Rows) -> str:
    """SQL that is true or false of each row. Raises Left for what only pandas can select."""
    if not isinstance(condition, dict):
        raise Left("a condition in pandas' words")
    kind = condition.get("type")
    if kind in ("and", "or"):
        parts = [predicate(part, rows) for part in condition["conditions"]]
        if not parts:
            raise Left("a condition of no parts")
        return f"({f' {kind.upper()} '.join(parts)})"
    if kind not in ("comparison", "nullity"):
        raise Left("a condition in pandas' words")
    name = condition["column"]["name"]
    if not name.isidentifier() or keyword.iskeyword(name) or name == "index":
        raise Left(f"pandas may read {name!r} in a condition as something else")
    if kind == "nullity":
        return f"({rows.column(name).sql} IS {'' if condition['is_null'] else 'NOT '}NULL)"
    column = rows.column(name, "float", "int", "text")
    sign, value = condition["operator"], condition["parameter"]
    if sign in ("IN", "NOT_IN"):
        among = rows.value.among(column.sql, [_plain(one, column.kind) for one in members(value, column)])
        if not value or len(members(value, column)) < len(value):
            raise Left("a condition with values of other kinds than the column")
        return f"coalesce({among}, FALSE)" if sign == "IN" else f"coalesce(NOT {among}, TRUE)"
    operator, missing = _COMPARISONS[sign]
    return f"coalesce({column.sql} {operator} {rows.value(_plain(value, column.kind))}, {missing})"


def _plain(value: Any, kind: str) -> Any:
    if kind != "text":
        return number(value)
    if any(mark in text(value) for mark in "`@#\\\n"):
        raise Left("pandas may read this text in a condition as something else")
    return value
