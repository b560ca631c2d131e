"""Whether the ONNX graph is the model that was trained: both answer the same rows, the ordinary and the hostile."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, RowSchema
from pipeline.errors import Invalid
from pipeline.gate_rules import Tolerance
from pipeline.refs import ParityCase
from pipeline.tensors import MISSING_TIMESTAMP, Tensors

Floats = npt.NDArray[np.float32]
Predict = Callable[[Tensors], Floats]
HELD_OUT = "held_out"
HOSTILE_ROWS = 64  # held-out rows that each hostile family bends
STEPPED_ROWS = 2048  # held-out rows of which every number moves by one float32, over the splits of trees
EACH = 4  # rows in which each column is missing
SUM_ATOL = 1e-4  # probabilities of a row sum to one within this
UNBOUNDED = float(np.finfo(np.float64).max)  # stands for a difference that has no number: JSON has no infinity

_BIG = float(np.finfo(np.float32).max)
NUMBERS = {
    "nan": np.nan,
    "infinity": np.inf,
    "minus_infinity": -np.inf,
    "largest": _BIG,
    "smallest": -_BIG,
    "denormal": 1e-42,
    "zero": 0.0,
    "large_integer": 2.0**31,
}
TEXTS = ("\u2603 never seen", "", " ", "nan", "None", "\u00e9\u4e2d\U0001f600", "x" * 5000, "0", "-1", 'a,b;c\t"d"')
_INT64 = np.iinfo(np.int64)
SECONDS = (MISSING_TIMESTAMP, int(_INT64.min) + 1, int(_INT64.max), 0, -1, -86_401, 2**40, -(2**40), 951_827_696)
FAILURES = (Invalid, RuntimeError, ValueError, TypeError, LookupError)


class Proof(NamedTuple):
    """A case for each family, and both answers on the held-out rows: (rows, width) float32, None when one has none."""

    cases: tuple[ParityCase, ...]
    native: Floats | None
    onnx: Floats | None

    @property
    def passed(self) -> bool:
        """Whether every family agreed."""
        return all(case.passed for case in self.cases)


def prove(schema: RowSchema, tolerance: Tolerance, native: Predict, onnx: Predict, tensors: Tensors) -> Proof:
    """Native against ONNX on every family of rows; `tensors` are the held-out rows. Never raises for a difference."""
    found: list[ParityCase] = []
    held: tuple[Floats | None, Floats | None] = (None, None)
    for name, rows in families(schema, tensors).items():
        case, *answers = compare(name, schema, tolerance, rows, native, onnx)
        found.append(case)
        if name == HELD_OUT:
            held = (answers[0], answers[1])
    return Proof(tuple(found), *held)


def families(schema: RowSchema, tensors: Tensors) -> dict[str, Tensors]:
    """Families of rows by name: all held-out rows, few of them, and some of them bent."""
    some = _rows(tensors, HOSTILE_ROWS)
    found = {HELD_OUT: tensors} | {f"batch_of_{count}": _rows(tensors, count) for count in (1, 2, 7)}
    draw = np.random.default_rng(0)
    missing: dict[str, float | str | int] = {NUMERIC: np.nan, CATEGORICAL: "", TIMESTAMP: MISSING_TIMESTAMP}
    found["everything_missing"] = {name: np.full_like(value, missing[name]) for name, value in some.items()}
    for name in tensors:
        found[f"each_{name}_missing"] = _each(some, name, missing[name])
    if schema.numeric:
        for name, number in NUMBERS.items():
            found[f"numbers_{name}"] = some | {NUMERIC: np.full_like(some[NUMERIC], number)}
        found["numbers_mixed"] = some | {
            NUMERIC: _mixed(some[NUMERIC], np.array([*NUMBERS.values()], np.float32), draw)
        }
        many = _rows(tensors, STEPPED_ROWS)
        for name, toward in (("up", np.inf), ("down", -np.inf)):
            with np.errstate(over="ignore", under="ignore"):
                stepped = np.nextafter(many[NUMERIC].astype(np.float32), np.float32(toward))
            found[f"numbers_one_step_{name}"] = many | {NUMERIC: stepped}
    if schema.categorical:
        found["categories_unseen"] = some | {CATEGORICAL: np.full_like(some[CATEGORICAL], TEXTS[0])}
        found["categories_mixed"] = some | {CATEGORICAL: _mixed(some[CATEGORICAL], np.array(TEXTS, object), draw)}
    if schema.timestamp:
        found["timestamps_mixed"] = some | {TIMESTAMP: _mixed(some[TIMESTAMP], np.array(SECONDS, np.int64), draw)}
        seconds = np.array(SECONDS, np.int64)[np.arange(len(some[TIMESTAMP])) % len(SECONDS), None]
        found["timestamps_extreme"] = some | {TIMESTAMP: np.broadcast_to(seconds, some[TIMESTAMP].shape).copy()}
    return found


def compare(
    name: str, schema: RowSchema, tolerance: Tolerance, tensors: Tensors, native: Predict, onnx: Predict
) -> tuple[ParityCase, Floats | None, Floats | None]:
    """One family's case with both answers; an answer that fails in any way is a failed case, never a crash."""
    rows = len(next(iter(tensors.values())))
    answers: list[Floats] = []
    for who, predict in (("the model", native), ("the graph", onnx)):
        try:
            answer = predict(tensors)
        except FAILURES as error:
            return failed(name, rows, f"{who} does not answer: {error}"), None, None
        if wrong := _malformed(schema, rows, answer):
            return failed(name, rows, f"{who} answers {wrong}"), None, None
        answers.append(answer)
    a, b = answers[1].astype(np.float64), answers[0].astype(np.float64)
    gap = np.abs(a - b)
    excess = gap - (tolerance.atol + tolerance.rtol * np.abs(b))
    apart = (excess > 0).any(axis=1)
    at = int(excess.max(axis=1).argmax())
    message = (
        f"{int(apart.sum())} of {rows} rows differ; row {at + 1}: {_text(a[at])} where the model says {_text(b[at])}"
    )
    case = ParityCase(
        name=name,
        rows=rows,
        max_abs=float(gap.max()),
        max_excess=float(excess.max()),
        passed=not apart.any(),
        message=message if apart.any() else "",
    )
    return case, answers[0], answers[1]


def failed(name: str, rows: int, message: str) -> ParityCase:
    """A case with no numbers to compare."""
    short = " ".join(message.split())[:500]
    return ParityCase(name=name, rows=rows, max_abs=UNBOUNDED, max_excess=UNBOUNDED, passed=False, message=short)


def _malformed(schema: RowSchema, rows: int, answer: Floats) -> str:
    if answer.shape != (rows, schema.width):
        return f"in shape {answer.shape} where {(rows, schema.width)} is due"
    if answer.dtype != np.float32:
        return f"in {answer.dtype} where float32 is due"
    if wrong := int((~np.isfinite(answer)).any(axis=1).sum()):
        return f"NaN or infinity in {wrong} of {rows} rows"
    if schema.task != "regression" and (off := float(np.abs(answer.sum(axis=1) - 1).max())) > SUM_ATOL:
        return f"probabilities whose sum is off one by {off:.3g}"
    return ""


def _text(values: npt.NDArray[np.float64]) -> str:
    return ", ".join(f"{value:.6g}" for value in values[:4])


def _rows(tensors: Tensors, count: int) -> Tensors:
    return {name: value[:count] for name, value in tensors.items()}


def _mixed(
    values: npt.NDArray[np.generic], choices: npt.NDArray[np.generic], draw: np.random.Generator
) -> npt.NDArray[np.generic]:
    """Half of the cells replaced, each by one of the choices."""
    return np.where(draw.random(values.shape) < 0.5, choices[draw.integers(len(choices), size=values.shape)], values)


def _each(tensors: Tensors, name: str, missing: float | str) -> Tensors:
    """Row i lacks column i of the tensor, a few times over: every column is missing alone."""
    width, rows = tensors[name].shape[1], len(next(iter(tensors.values())))
    count = np.arange(width * EACH)
    bent = {key: value[count % rows] for key, value in tensors.items()}
    bent[name][count, count % width] = missing
    return bent
