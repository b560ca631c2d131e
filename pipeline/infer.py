"""What the rows are: the typed frame, its schema and findings; everything that is wrong at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.columns import Column, RowSchema
from pipeline.directions import meant
from pipeline.errors import Invalid, Problem
from pipeline.findings import find
from pipeline.gate_rules import Gates
from pipeline.kinds import guess_kind, typed
from pipeline.parse import blank, category_strings, numbers, shown
from pipeline.refs import Finding
from pipeline.spec import Binary, Data, Multiclass, Regression, Task
from pipeline.suggest import near

MIN_ROWS = 40  # fewer give no held-out part that could carry a verdict
MIN_CLASS_ROWS = 10  # fewer cannot be split, cross-validated and held out
MAX_CLASSES = 20  # a number with more values than this is guessed to be a regression target
_SHOWN = 5  # rare classes that are named one by one


def infer_rows(
    frame: pd.DataFrame, data: Data, task: Task, where: str, gates: Gates | None = None
) -> tuple[pd.DataFrame, RowSchema, tuple[Finding, ...]]:
    """The typed frame (feature columns of all kinds, then the target), its schema, and findings about columns.

    Number -> float64, boolean -> float64 0/1/NaN, category -> object of str or None, timestamp -> datetime64[us, UTC].
    A column that a finding drops is in neither frame nor schema, unless `data.keep` names it. Columns by which the
    gates look at slices come last where the model does not read them: in the frame, and not in the schema.

    Raises:
        Invalid: target, rows or columns are wrong; names all of it. A retry does not help.
    """
    gates = gates or Gates()
    problems = _names(frame, data, gates, where)
    target = frame[data.target] if data.target in frame.columns else None
    if target is not None:
        problems += _target(target, task, where)
    if len(frame) < MIN_ROWS:
        problems.append(Problem(f"{len(frame)} rows are too few", where, f"bring at least {MIN_ROWS}"))
    columns, values, wrong = _columns(frame, data, where)
    problems += wrong
    apart = [name for name in gates.slices.columns if name in data.drop and name in frame.columns]
    _, values_apart, wrong = _columns(frame[apart], data.model_copy(update={"drop": ()}), where)
    problems += wrong
    if target is None or problems:
        raise Invalid(problems)
    findings = find(columns, values, target, data.keep)
    dropped = {finding.column: finding.message for finding in findings if finding.dropped}
    kept = tuple(column for column in columns if column.name not in dropped)
    if not kept:
        remedy = "; ".join(dropped.values()) or "bring one, or shorten data.drop"
        raise Invalid("no column is left to learn from", where, remedy)
    schema = RowSchema(columns=kept, target=data.target, task=task.kind, classes=_classes(target, task))
    result = pd.DataFrame({column.name: values[column.name] for column in kept})
    result[data.target] = numbers(target) if task.kind == "regression" else category_strings(target)
    for name in gates.slices.columns:
        if name not in result.columns:
            result[name] = values_apart[name] if name in values_apart else values[name]
    if problems := _directions(gates, schema):
        raise Invalid(problems)
    return result, schema, findings


def guess_task(series: pd.Series) -> Task:
    """The task that a target column suggests: two values binary, few or text multiclass, else regression."""
    values = series[~blank(series)]
    distinct = len(set(category_strings(values)))
    if distinct == 2:
        return Binary(kind="binary")
    if not values.empty and guess_kind(values) == "number":
        found = numbers(values)
        if distinct > MAX_CLASSES or (found != np.round(found)).any():
            return Regression(kind="regression")
    return Multiclass(kind="multiclass")


def _columns(
    frame: pd.DataFrame, data: Data, where: str
) -> tuple[tuple[Column, ...], dict[str, pd.Series], list[Problem]]:
    """The feature columns, their values typed, and what is wrong with them."""
    columns: list[Column] = []
    values: dict[str, pd.Series] = {}
    problems: list[Problem] = []
    for name in (str(name) for name in frame.columns):
        if name == data.target or name in data.drop:
            continue
        series = frame[name]
        if series.isna().all() or blank(series).all():
            remedy = "fill it, or name it in data.drop of the spec"
            problems.append(Problem(f"column {name!r} has no value at all", where, remedy))
            continue
        kind = data.kinds.get(name) or guess_kind(series)
        try:
            values[name] = typed(series, kind, where)
        except Invalid as error:
            problems += error.problems
        columns.append(Column(name=name, kind=kind))
    return tuple(columns), values, problems


def _directions(gates: Gates, schema: RowSchema) -> list[Problem]:
    """What is wrong with the directions that the spec declares."""
    problems: list[Problem] = []
    for direction in gates.robustness.directions:
        try:
            meant(direction, schema)
        except Invalid as error:
            problems += error.problems
    return problems


def _names(frame: pd.DataFrame, data: Data, gates: Gates, where: str) -> list[Problem]:
    """Names in the spec that no column has."""
    known = [str(name) for name in frame.columns]
    named = {
        "data.target": (data.target,),
        "data.drop": data.drop,
        "data.keep": data.keep,
        "data.kinds": tuple(data.kinds),
        "gates.slices.columns": gates.slices.columns,
        "gates.robustness.directions": tuple(one.column for one in gates.robustness.directions),
    }
    return [
        Problem(f"there is no column {name!r} ({place})", where, near(name, known))
        for place, names in named.items()
        for name in names
        if name not in known
    ]


def _target(series: pd.Series, task: Task, where: str) -> list[Problem]:
    place = f"{where}, target {series.name!r}"
    missing = blank(series)
    if missing.any():
        first = int(np.flatnonzero(missing)[0]) + 1
        what = f"{int(missing.sum())} rows have no target, the first is row {first}"
        return [Problem(what, place, "fill or remove these rows; nothing can be learnt or judged by them")]
    if task.kind == "regression":
        return _number_target(series, place)
    return _class_target(series, task, place)


def _number_target(series: pd.Series, place: str) -> list[Problem]:
    found = numbers(series)
    bad = ~np.isfinite(found)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        what = f"{shown(series.iloc[at])} is not a finite number ({int(bad.sum())} such values)"
        return [Problem(what, f"{place}, row {at + 1}", "correct it, or write `task: {kind: multiclass}`")]
    if np.ptp(found) == 0:
        return [Problem("every row has the same value", place, "there is nothing to learn; bring other rows")]
    return []


def _class_target(series: pd.Series, task: Binary | Multiclass, place: str) -> list[Problem]:
    counts = pd.Series(category_strings(series)).value_counts()
    names = sorted((str(label) for label in counts.index), key=_natural)
    labels = ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")
    if len(names) == 1:
        return [Problem(f"only one class, {labels}", place, "bring rows of at least two classes")]
    if task.kind == "binary" and len(names) > 2:
        other = guess_task(series).kind
        return [Problem(f"{len(names)} classes ({labels})", place, f"write `task: {{kind: {other}}}`")]
    if task.kind == "multiclass" and len(names) == 2:
        return [Problem(f"two classes ({labels})", place, "write `task: {kind: binary}`")]
    problems = []
    if isinstance(task, Binary) and task.positive is not None and task.positive not in names:
        problems.append(Problem(f"no row has the positive label {task.positive!r}", place, near(task.positive, names)))
    rare = [(str(label), int(count)) for label, count in counts.items() if count < MIN_CLASS_ROWS]
    if guess_task(series).kind == "regression" and len(rare) > _SHOWN:
        what = f"{len(names)} classes ({labels}), {len(rare)} of them with fewer than {MIN_CLASS_ROWS} rows"
        return [*problems, Problem(what, place, "write `task: {kind: regression}`")]
    remedy = f"bring at least {MIN_CLASS_ROWS}, or drop the class"
    problems += [Problem(f"class {label!r} has {count} rows", place, remedy) for label, count in rare[:_SHOWN]]
    if len(rare) > _SHOWN:
        problems.append(Problem(f"{len(rare) - _SHOWN} more classes have too few rows", place, remedy))
    return problems


def _classes(series: pd.Series, task: Task) -> tuple[str, ...]:
    """Labels by index: in natural order, for binary (negative, positive)."""
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
