"""Whether the ONNX graph is the model that was trained: both answer the same rows, the ordinary and the hostile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from pipeline.columns import CATEGORICAL, NUMERIC, TIMESTAMP, RowSchema
from pipeline.errors import Unavailable
from pipeline.refs import ParityCase
from pipeline.spec import Tolerance
from pipeline.tensors import MISSING_TIMESTAMP, Tensors

Floats = npt.NDArray[np.float32]
HOSTILE_ROWS = 64  # held-out rows that each hostile case bends
PROVIDER = "CPUExecutionProvider"
SUM_ATOL = 1e-4  # probabilities of a row sum to one within this


class OnnxModel:
    """A graph in ONNX Runtime, on the provider that was asked for (it falls back to another in silence)."""

    def __init__(self, content: bytes, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(content, options, providers=[PROVIDER])
        if self._session.get_providers()[0] != PROVIDER:
            raise Unavailable(f"ONNX Runtime took {self._session.get_providers()}", "ONNX Runtime", "install it anew")

    def predict(self, tensors: Tensors) -> Floats:
        """(rows, width) from request tensors."""
        return np.asarray(self._session.run(None, dict(tensors))[0])


def cases(schema: RowSchema, tensors: Tensors) -> dict[str, Tensors]:
    """Families of rows by name: all held-out rows, then some of them bent."""
    some = {name: value[:HOSTILE_ROWS] for name, value in tensors.items()}
    families: dict[str, Tensors] = {"held_out": tensors, "one_row": _rows(tensors, 1), "three_rows": _rows(tensors, 3)}
    if schema.numeric:
        big = float(np.finfo(np.float32).max)
        for name, value in (
            ("nan", np.nan),
            ("infinity", np.inf),
            ("minus_infinity", -np.inf),
            ("largest", big),
            ("smallest", -big),
            ("denormal", 1e-42),
            ("zero", 0.0),
        ):
            families[f"numbers_{name}"] = _with(some, NUMERIC, np.full_like(some[NUMERIC], value))
        families["each_number_missing"] = _each_missing(some, NUMERIC, np.nan)
    if schema.categorical:
        families["categories_unseen"] = _with(some, CATEGORICAL, np.full_like(some[CATEGORICAL], "\u2603 unseen"))
        families["categories_missing"] = _with(some, CATEGORICAL, np.full_like(some[CATEGORICAL], ""))
        families["each_category_missing"] = _each_missing(some, CATEGORICAL, "")
    if schema.timestamp:
        for name, value in (("missing", MISSING_TIMESTAMP), ("ancient", -(2**40)), ("distant", 2**40), ("epoch", 0)):
            families[f"timestamps_{name}"] = _with(some, TIMESTAMP, np.full_like(some[TIMESTAMP], value))
    return families


def compare(
    name: str,
    schema: RowSchema,
    tolerance: Tolerance,
    rows: int,
    native: Callable[[], Floats],
    onnx: Callable[[], Floats],
) -> tuple[ParityCase, Floats | None, Floats | None]:
    """One family's verdict with both answers; an answer that fails in any way is a failed case, never a crash."""
    try:
        expected, answer = native(), onnx()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # ONNX Runtime's errors are RuntimeErrors
        message = " ".join(str(error).split())[:300]
        return _case(name, rows, f"no answer: {message}"), None, None
    wrong = _malformed(schema, rows, answer)
    if expected.shape != answer.shape:
        wrong = f"shape {answer.shape} where the model answers {expected.shape}"
    if wrong:
        return _case(name, rows, wrong), expected, answer
    gap = np.abs(answer.astype(np.float64) - expected)
    excess = gap - (tolerance.atol + tolerance.rtol * np.abs(expected.astype(np.float64)))
    worst = float(np.nanmax(excess)) if np.isfinite(gap).all() else float("inf")
    passed = worst <= 0
    message = (
        "" if passed else f"{int((excess > 0).any(axis=1).sum())} of {rows} rows differ, by {float(gap.max()):.3g}"
    )
    case = ParityCase(
        name=name, rows=rows, max_abs=_finite(gap.max()), max_excess=_finite(worst), passed=passed, message=message
    )
    return case, expected, answer


def _malformed(schema: RowSchema, rows: int, answer: Floats) -> str:
    if answer.shape != (rows, schema.width):
        return f"shape {answer.shape} where ({rows}, {schema.width}) is expected"
    if answer.dtype != np.float32:
        return f"dtype {answer.dtype} where float32 is expected"
    if not np.isfinite(answer).all():
        return f"{int((~np.isfinite(answer)).any(axis=1).sum())} of {rows} rows have an answer that is not finite"
    if schema.task != "regression" and np.abs(answer.sum(axis=1) - 1).max() > SUM_ATOL:
        return "the probabilities of a row do not sum to one"
    return ""


def _case(name: str, rows: int, message: str) -> ParityCase:
    largest = _finite(float("inf"))
    return ParityCase(name=name, rows=rows, max_abs=largest, max_excess=largest, passed=False, message=message)


def _finite(value: float) -> float:
    """JSON has no infinity: the largest double stands for it."""
    return float(min(value, np.finfo(np.float64).max))


def _rows(tensors: Tensors, count: int) -> Tensors:
    return {name: value[:count] for name, value in tensors.items()}


def _with(tensors: Tensors, name: str, value: npt.NDArray[np.generic]) -> Tensors:
    return {**tensors, name: value}


def _each_missing(tensors: Tensors, name: str, missing: float | str) -> Tensors:
    """Row i lacks column i: every column is missing once."""
    width, rows = tensors[name].shape[1], len(next(iter(tensors.values())))
    take = np.arange(width) % rows
    bent = {key: value[take].copy() for key, value in tensors.items()}
    bent[name][np.arange(width), np.arange(width)] = missing
    return bent
