"""What the target column holds: its classes or numbers, and what of it cannot be learnt from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pipeline.errors import Problem
from pipeline.kinds import Guess
from pipeline.parse import blank, category_strings, numbers, shown
from pipeline.spec import Binary, Multiclass, Regression, Task
from pipeline.suggest import near

MIN_CLASS_ROWS = 10  # fewer cannot be split, cross-validated and held out
MAX_CLASSES = 20  # a number with more values than this is guessed to be a regression target
_MOST = 100_000  # classes that are counted
_SHOWN = 5  # rare classes that are named one by one


class Labels:
    """The target's values, seen batch after batch."""

    def __init__(self, name: str, task: Task) -> None:
        self.name, self.task = name, task
        self._rows = self._missing = self._first_missing = 0
        self._counts: dict[str, int] = {}
        self._wrong = self._at = 0  # numbers that are not finite, and the row of the first
        self._first = ""
        self._low, self._high = np.inf, -np.inf

    def see(self, series: pd.Series) -> None:
        """The next rows of the target, as they came."""
        missing = blank(series)
        if missing.any() and not self._missing:
            self._first_missing = self._rows + int(np.flatnonzero(missing)[0]) + 1
        self._missing += int(missing.sum())
        if self.task.kind == "regression":
            self._see_numbers(series)
        elif len(self._counts) <= _MOST:
            for label, count in pd.Series(category_strings(series)).value_counts(sort=False).items():
                self._counts[str(label)] = self._counts.get(str(label), 0) + int(count)
        self._rows += len(series)

    def _see_numbers(self, series: pd.Series) -> None:
        found = numbers(series)
        bad = ~np.isfinite(found)
        if bad.any() and not self._wrong:
            at = int(np.flatnonzero(bad)[0])
            self._first, self._at = shown(series.iloc[at]), self._rows + at + 1
        self._wrong += int(bad.sum())
        if len(found) and not self._wrong:
            self._low, self._high = min(self._low, found.min()), max(self._high, found.max())

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels by index: in natural order, for binary (negative, positive); none for regression."""
        labels = sorted(self._counts, key=_natural)
        if isinstance(self.task, Binary) and self.task.positive is not None:
            labels.sort(key=lambda label: label == self.task.positive)  # type: ignore[union-attr]
        return tuple(labels)

    def problems(self, where: str) -> list[Problem]:
        """What of the target cannot be learnt from."""
        place = f"{where}, target {self.name!r}"
        if self._missing:
            what = f"{self._missing} rows have no target, the first is row {self._first_missing}"
            return [Problem(what, place, "fill or remove these rows; nothing can be learnt or judged by them")]
        if not isinstance(self.task, Regression):
            return self._of_classes(self.task, place)
        if self._wrong:
            what = f"{self._first} is not a finite number ({self._wrong} such values)"
            return [Problem(what, f"{place}, row {self._at}", "correct it, or write `task: {kind: multiclass}`")]
        if self._high == self._low:
            return [Problem("every row has the same value", place, "there is nothing to learn; bring other rows")]
        return []

    def _of_classes(self, task: Binary | Multiclass, place: str) -> list[Problem]:
        if len(self._counts) > _MOST:
            return [Problem(f"more than {_MOST} classes", place, "write `task: {kind: regression}`")]
        names = sorted(self._counts, key=_natural)
        labels = ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")
        suggested = guess_task([pd.Series([*self._counts], dtype=object)]).kind
        if len(names) == 1:
            return [Problem(f"only one class, {labels}", place, "bring rows of at least two classes")]
        if task.kind == "binary" and len(names) > 2:
            return [Problem(f"{len(names)} classes ({labels})", place, f"write `task: {{kind: {suggested}}}`")]
        if task.kind == "multiclass" and len(names) == 2:
            return [Problem(f"two classes ({labels})", place, "write `task: {kind: binary}`")]
        problems = []
        if isinstance(task, Binary) and task.positive is not None and task.positive not in names:
            what = f"no row has the positive label {task.positive!r}"
            problems.append(Problem(what, place, near(task.positive, names)))
        many_first = sorted(self._counts.items(), key=lambda item: -item[1])
        rare = [(label, count) for label, count in many_first if count < MIN_CLASS_ROWS]
        if suggested == "regression" and len(rare) > _SHOWN:
            what = f"{len(names)} classes ({labels}), {len(rare)} of them with fewer than {MIN_CLASS_ROWS} rows"
            return [*problems, Problem(what, place, "write `task: {kind: regression}`")]
        remedy = f"bring at least {MIN_CLASS_ROWS}, or drop the class"
        problems += [Problem(f"class {label!r} has {count} rows", place, remedy) for label, count in rare[:_SHOWN]]
        if len(rare) > _SHOWN:
            problems.append(Problem(f"{len(rare) - _SHOWN} more classes have too few rows", place, remedy))
        return problems


def guess_task(batches: Iterable[pd.Series]) -> Task:
    """The task that a target column suggests, batch after batch.

    Two values are binary, few numbers or text multiclass, other numbers regression.
    """
    guess, labels, is_whole = Guess("target"), set[str](), True
    for series in batches:
        values = series[~blank(series)]
        guess.see(values)
        if len(labels) <= MAX_CLASSES:
            labels |= set(category_strings(values))
        found = numbers(values)
        is_whole = is_whole and bool((found == np.round(found)).all())
    if len(labels) == 2:
        return Binary(kind="binary")
    if not guess.empty and guess.kind == "number" and (len(labels) > MAX_CLASSES or not is_whole):
        return Regression(kind="regression")
    return Multiclass(kind="multiclass")


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers by value, then text, so that class 10 comes after class 9."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
