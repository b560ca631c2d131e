"""What the columns are: kinds, target, and what is noteworthy; everything that is wrong at once."""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd

from pipeline.columns import Column, ColumnKind, RowSchema
from pipeline.errors import Invalid, Problem
from pipeline.refs import Finding
from pipeline.spec import Binary, Data, Multiclass, Regression, Task
from pipeline.tensors import category_strings

MIN_ROWS = 40  # fewer give no held-out part that could carry a verdict
MIN_CLASS_ROWS = 10  # fewer cannot be split, cross-validated and held out
MAX_CLASSES = 20  # a number with more values than this is guessed to be a regression target
FLOAT32_EXACT = 2**24  # larger integers share their float32 with a neighbour
MANY_CATEGORIES = 1000
_BOOLEANS = ({"true", "false"}, {"yes", "no"})


def infer_rows(
    frame: pd.DataFrame, data: Data, task: Task, where: str
) -> tuple[pd.DataFrame, RowSchema, tuple[Finding, ...]]:
    """The typed frame (feature columns of all kinds, target last), its schema, and findings about columns.

    Number -> float64, boolean -> float64 0/1/NaN, category -> object of str or None, timestamp -> datetime64[us, UTC].
    A column that a finding drops is in neither frame nor schema, unless `data.keep` names it.

    Raises:
        Invalid: target, rows or columns are wrong; names all of it. A retry does not help.
    """
    problems = _names(frame, data, where)
    if data.target not in frame.columns:
        raise Invalid(problems)
    problems += _target(frame[data.target], task, where)
    if len(frame) < MIN_ROWS:
        problems.append(Problem(f"{len(frame)} rows are too few", where, f"bring at least {MIN_ROWS}"))
    typed: dict[str, pd.Series] = {}
    columns: list[Column] = []
    for name in (str(name) for name in frame.columns):
        if name == data.target or name in data.drop:
            continue
        series = frame[name]
        if series.isna().all():
            problems.append(
                Problem(f"column {name!r} has no value at all", where, "fill it, or name it in data.drop of the spec")
            )
            continue
        kind = data.kinds.get(name) or guess_kind(series)
        try:
            typed[name] = _typed(series, kind, where)
        except Invalid as error:
            problems += error.problems
            continue
        columns.append(Column(name=name, kind=kind))
    if not columns and not problems:
        problems.append(Problem("no column is left to learn from", where, "bring one, or shorten data.drop"))
    if problems:
        raise Invalid(problems)
    findings = _findings(frame, typed, columns, data)
    dropped = {finding.column for finding in findings if finding.dropped}
    kept = tuple(column for column in columns if column.name not in dropped)
    if not kept:
        raise Invalid(
            "no column is left to learn from",
            where,
            "; ".join(finding.message for finding in findings if finding.dropped),
        )
    schema = RowSchema(columns=kept, target=data.target, task=task.kind, classes=_classes(frame[data.target], task))
    result = pd.DataFrame({column.name: typed[column.name] for column in kept})
    if task.kind == "regression":
        result[data.target] = pd.to_numeric(frame[data.target]).astype(np.float64)
    else:
        result[data.target] = category_strings(frame[data.target])
    return result, schema, findings


def guess_task(series: pd.Series) -> Task:
    """The task that a target column suggests: two values binary, few or text multiclass, else regression."""
    values = series.dropna()
    distinct = values.nunique()
    if distinct == 2:
        return Binary(kind="binary")
    numeric = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    if numeric and (distinct > MAX_CLASSES or not (values == values.round()).all()):
        return Regression(kind="regression")
    return Multiclass(kind="multiclass")


def guess_kind(series: pd.Series) -> ColumnKind:
    """The kind that a column's values suggest."""
    if pd.api.types.is_bool_dtype(series.dtype):
        return "boolean"
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return "timestamp"
    if pd.api.types.is_numeric_dtype(series.dtype):
        return "number"
    values = series.dropna()
    text = values.astype(str).str.strip()
    if {value.lower() for value in text.unique()[:3]} in _BOOLEANS:
        return "boolean"
    if pd.to_numeric(values, errors="coerce").notna().all():
        return "number"  # decimals from a database, numbers kept as text
    dates = text.str.match(r"^\d{4}-\d{2}-\d{2}([T ]|$)")
    if dates.all() and pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601").notna().all():
        return "timestamp"
    if values.map(lambda value: hasattr(value, "isoformat")).all():
        return "timestamp"
    return "category"


def _typed(series: pd.Series, kind: ColumnKind, where: str) -> pd.Series:
    if kind == "category":
        text = pd.Series(category_strings(series), index=series.index, dtype=object)
        return text.where(text != "", None)
    if kind == "timestamp":
        stamps = pd.to_datetime(series, errors="coerce", utc=True, format="ISO8601" if _is_text(series) else None)
        _refuse(series, stamps.isna(), "a timestamp", where)
        return stamps.astype("datetime64[us, UTC]")
    if kind == "boolean" and _is_text(series):
        lowered = series.astype("object").map(lambda value: str(value).strip().lower(), na_action="ignore")
        numbers = lowered.map({"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1": 1.0, "0": 0.0})
        numbers = numbers.astype(np.float64)
    else:
        numbers = pd.to_numeric(series.astype("object"), errors="coerce").astype(np.float64)
    _refuse(series, numbers.isna(), f"a {kind}", where)
    return numbers


def _is_text(series: pd.Series) -> bool:
    return bool(pd.api.types.is_object_dtype(series.dtype) or pd.api.types.is_string_dtype(series.dtype))


def _refuse(series: pd.Series, missing: pd.Series, what: str, where: str) -> None:
    bad = missing & series.notna()
    if bad.any():
        place = int(np.flatnonzero(bad.to_numpy())[0])
        raise Invalid(
            f"{series.iloc[place]!r} is not {what} ({int(bad.sum())} such values)",
            f"{where}, column {series.name!r}, row {place + 1}",
            "correct it, leave it empty, or give the column another kind in data.kinds",
        )


def _names(frame: pd.DataFrame, data: Data, where: str) -> list[Problem]:
    known = [str(name) for name in frame.columns]
    named = {
        "data.target": (data.target,),
        "data.drop": data.drop,
        "data.keep": data.keep,
        "data.kinds": tuple(data.kinds),
    }
    problems = []
    for place, names in named.items():
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(known[:20])}"
                problems.append(Problem(f"there is no column {name!r} ({place})", where, remedy))
    return problems


def _target(series: pd.Series, task: Task, where: str) -> list[Problem]:
    place = f"{where}, target {series.name!r}"
    if missing := int(series.isna().sum()):
        first = int(np.flatnonzero(series.isna().to_numpy())[0]) + 1
        return [Problem(f"{missing} rows have no target, the first is row {first}", place, "fill or remove these rows")]
    if task.kind == "regression":
        numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            return [Problem(f"{series.iloc[row]!r} is not a finite number", f"{place}, row {row + 1}", "correct it")]
        if np.ptp(numbers) == 0:
            return [Problem("every row has the same value", place, "there is nothing to learn; bring other rows")]
        return []
    counts = pd.Series(category_strings(series)).value_counts()
    labels = ", ".join(f"{label!r}" for label in sorted(counts.index)[:6])
    if len(counts) == 1:
        return [Problem(f"only one class, {labels}", place, "bring rows of at least two classes")]
    if task.kind == "binary" and len(counts) > 2:
        return [Problem(f"{len(counts)} classes ({labels}, ...)", place, "write `task: {kind: multiclass}`")]
    if task.kind == "multiclass" and len(counts) == 2:
        return [Problem(f"two classes ({labels})", place, "write `task: {kind: binary}`")]
    if isinstance(task, Binary) and task.positive is not None and task.positive not in counts.index:
        return [Problem(f"no row has the positive label {task.positive!r}", place, f"name one of: {labels}")]
    return [
        Problem(f"class {label!r} has {count} rows", place, f"bring at least {MIN_CLASS_ROWS}, or drop the class")
        for label, count in counts.items()
        if count < MIN_CLASS_ROWS
    ]


def _classes(series: pd.Series, task: Task) -> tuple[str, ...]:
    if task.kind == "regression":
        return ()
    labels = sorted(set(category_strings(series)), key=_natural)
    if isinstance(task, Binary) and task.positive is not None:
        labels.sort(key=lambda label: label == task.positive)
    return tuple(labels)


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers by value, then text, so that class 10 comes after class 9."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _findings(
    frame: pd.DataFrame, typed: dict[str, pd.Series], columns: list[Column], data: Data
) -> tuple[Finding, ...]:
    found: list[Finding] = []

    def note(column: str, kind: str, message: str, drop: bool) -> None:
        dropped = drop and column not in data.keep
        found.append(Finding.model_validate({"column": column, "kind": kind, "message": message, "dropped": dropped}))

    seen: dict[int, str] = {}
    for column in columns:
        name, values = column.name, typed[column.name]
        distinct = int(values.nunique(dropna=True))
        if distinct <= 1 and not values.isna().any():
            note(name, "constant", f"column {name!r} has one value in every row", drop=True)
            continue
        content = int(pd.util.hash_pandas_object(values, index=False).sum())
        if content in seen and values.equals(typed[seen[content]].rename(name)):
            note(name, "duplicate", f"column {name!r} equals column {seen[content]!r}", drop=True)
            continue
        seen.setdefault(content, name)
        if _identifies(frame[name], column, distinct):
            note(name, "identifier", f"column {name!r} names each row, so it teaches nothing that lasts", drop=True)
        elif column.kind == "category" and distinct > MANY_CATEGORIES:
            note(name, "cardinality", f"column {name!r} has {distinct} categories", drop=False)
        elif column.kind == "number" and _rounds(values):
            note(name, "precision", f"column {name!r} has integers beyond 2^24, which float32 rounds", drop=False)
    return tuple(found)


def _identifies(series: pd.Series, column: Column, distinct: int) -> bool:
    """Text that is unique in every row, or integers that are unique and count up or are named like an id."""
    if distinct < len(series):
        return False
    if column.kind == "category":
        return True
    if column.kind != "number" or not (series == series.round()).all():
        return False
    steps = np.diff(np.sort(series.to_numpy(dtype=np.float64)))
    words = str(series.name).lower().replace("-", "_").split("_")
    return bool((steps == 1).all()) or any(word in ("id", "uuid", "key", "index", "rowid") for word in words)


def _rounds(values: pd.Series) -> bool:
    """Whether a column of integers has some that float32 cannot hold."""
    return bool((values.abs() > FLOAT32_EXACT).any() and (values.dropna() == values.dropna().round()).all())
