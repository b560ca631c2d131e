"""What the rows are: the typed rows, their schema and findings; everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from pipeline.columns import Column, ColumnKind, RowSchema
from pipeline.directions import meant
from pipeline.errors import Invalid, Problem
from pipeline.findings import Facts
from pipeline.gate_rules import Gates
from pipeline.kinds import Guess, typed
from pipeline.labels import Labels
from pipeline.parse import category_strings, numbers
from pipeline.refs import Finding
from pipeline.spec import Data, Task
from pipeline.suggest import near

MIN_ROWS = 40  # fewer give no held-out part that could carry a verdict


class Typed:
    """The rows as the model and the gates read them, in batches: feature columns of all kinds, then the target.

    Number -> float64, boolean -> float64 0/1/NaN, category -> object of str or None, timestamp -> datetime64[us, UTC].
    A column that a finding drops is in neither rows nor schema, unless `data.keep` names it. Columns by which the
    gates look at slices come last where the model does not read them: in the rows, and not in the schema.

    `rows` is how many there are, `schema` what each looks like, `findings` what is noteworthy about columns.
    """

    def __init__(self, seen: _Seen, rows: Iterable[pd.DataFrame], where: str) -> None:
        self.rows = seen.rows
        facts, last = Facts(seen.columns), None
        for frame in rows:
            last = seen.typed(frame)
            facts.see(last, frame[seen.data.target])
        self.findings: tuple[Finding, ...] = facts.find(seen.data.keep)
        dropped = {finding.column: finding.message for finding in self.findings if finding.dropped}
        kept = tuple(column for column in seen.columns if column.name not in dropped)
        if not kept:
            remedy = "; ".join(dropped.values()) or "bring one, or shorten data.drop"
            raise Invalid("no column is left to learn from", where, remedy)
        self.schema = RowSchema(columns=kept, target=seen.data.target, task=seen.task.kind, classes=seen.labels.classes)
        if problems := _directions(seen.gates, self.schema):
            raise Invalid(problems)
        self._seen, self._source = seen, rows
        self._only = last if seen.batches == 1 else None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a batch."""
        read = (*self.schema.names(), self.schema.target)
        return (*read, *(name for name in self._seen.gates.slices.columns if name not in read))

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Each batch, in the source's order."""
        for frame in self._source:
            values = self._seen.typed(frame) if self._only is None else self._only
            yield self._laid_out(values, frame)

    def _laid_out(self, values: dict[str, pd.Series], frame: pd.DataFrame) -> pd.DataFrame:
        target = frame[self.schema.target]
        result = pd.DataFrame({name: values[name] for name in self.schema.names()})
        result[self.schema.target] = numbers(target) if self.schema.task == "regression" else category_strings(target)
        for name in self.columns[result.shape[1] :]:
            result[name] = values[name]
        return result


def infer(rows: Iterable[pd.DataFrame], data: Data, task: Task, where: str, gates: Gates | None = None) -> Typed:
    """The typed rows, their schema, and findings about columns. `rows` are batches that can be gone through again.

    Which batches the rows come in changes nothing.

    Raises:
        Invalid: target, rows or columns are wrong; names all of it. A retry does not help.
    """
    seen = _Seen(data, task, gates or Gates())
    for frame in rows:
        seen.see(frame)
    if problems := seen.problems(where):
        raise Invalid(problems)
    return Typed(seen, rows, where)


class _Seen:
    """What the batches seen so far say of the kinds of columns, and of the target."""

    def __init__(self, data: Data, task: Task, gates: Gates) -> None:
        self.data, self.task, self.gates = data, task, gates
        self.rows = self.batches = 0
        self.labels = Labels(data.target, task)
        self._names: list[str] = []
        self._guesses: dict[str, Guess] = {}  # of the features, then of the columns that only the gates read

    def see(self, frame: pd.DataFrame) -> None:
        """The next batch."""
        if not self.batches:
            self._names = [str(name) for name in frame.columns]
            read = [name for name in self._names if name != self.data.target]
            apart = [name for name in self.gates.slices.columns if name in self.data.drop and name in read]
            for name in [*(name for name in read if name not in self.data.drop), *apart]:
                self._guesses[name] = Guess(name, self.data.kinds.get(name))
        for name, guess in self._guesses.items():
            guess.see(frame[name])
        if self.data.target in self._names:
            self.labels.see(frame[self.data.target])
        self.rows += len(frame)
        self.batches += 1

    @property
    def columns(self) -> tuple[Column, ...]:
        """The feature columns."""
        return tuple(Column(name=name, kind=kind) for name, kind in self._kinds if name not in self.data.drop)

    def typed(self, frame: pd.DataFrame) -> dict[str, pd.Series]:
        """Each column of the batch that is read, as its kind."""
        return {name: typed(frame[name], kind) for name, kind in self._kinds}

    @property
    def _kinds(self) -> list[tuple[str, ColumnKind]]:
        return [(name, guess.kind) for name, guess in self._guesses.items()]

    def problems(self, where: str) -> list[Problem]:
        """Everything that is wrong."""
        problems = self._unknown(where)
        if self.data.target in self._names:
            problems += self.labels.problems(where)
        if self.rows < MIN_ROWS:
            problems.append(Problem(f"{self.rows} rows are too few", where, f"bring at least {MIN_ROWS}"))
        for name, guess in self._guesses.items():
            if guess.empty:
                remedy = "fill it, or name it in data.drop of the spec"
                problems.append(Problem(f"column {name!r} has no value at all", where, remedy))
            else:
                problems += guess.problems(where)
        return problems

    def _unknown(self, where: str) -> list[Problem]:
        """Names in the spec that no column has."""
        named = {
            "data.target": (self.data.target,),
            "data.drop": self.data.drop,
            "data.keep": self.data.keep,
            "data.kinds": tuple(self.data.kinds),
            "gates.slices.columns": self.gates.slices.columns,
            "gates.robustness.directions": tuple(one.column for one in self.gates.robustness.directions),
        }
        return [
            Problem(f"there is no column {name!r} ({place})", where, near(name, self._names))
            for place, names in named.items()
            for name in names
            if name not in self._names
        ]


def _directions(gates: Gates, schema: RowSchema) -> list[Problem]:
    """What is wrong with the directions that the spec declares."""
    problems: list[Problem] = []
    for direction in gates.robustness.directions:
        try:
            meant(direction, schema)
        except Invalid as error:
            problems += error.problems
    return problems
