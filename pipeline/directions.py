"""Which number of a row a declared direction raises, and which number of the answer it is about."""

from __future__ import annotations

from pipeline.columns import RowSchema
from pipeline.errors import Invalid, Problem
from pipeline.gate_rules import Direction
from pipeline.suggest import near


def meant(rule: Direction, schema: RowSchema) -> tuple[int, int]:
    """(column of the tensor `numeric`, column of the answer).

    Raises:
        Invalid: the model reads no such number, or has no such class. A retry does not help.
    """
    place = f"gates.robustness.directions, column {rule.column!r}"
    problems = []
    numbers = schema.names("number")
    if rule.column not in numbers:
        kind = next((column.kind for column in schema.columns if column.name == rule.column), None)
        what = f"it is a {kind}, which cannot be raised" if kind else "the model reads no such column"
        problems.append(Problem(what, place, near(rule.column, numbers) if numbers else "remove the direction"))
    classes = schema.classes
    if not classes and rule.label is not None:
        problems.append(Problem(f"label {rule.label!r} of a regression", place, "remove it"))
    if len(classes) > 2 and rule.label is None:
        problems.append(Problem("which class's probability is meant?", place, f"give a label: {', '.join(classes)}"))
    if classes and rule.label is not None and rule.label not in classes:
        problems.append(Problem(f"there is no class {rule.label!r}", place, near(rule.label, classes)))
    if problems:
        raise Invalid(problems)
    answer = classes.index(rule.label) if rule.label is not None else min(1, len(classes))
    return schema.numeric.index(rule.column), answer
