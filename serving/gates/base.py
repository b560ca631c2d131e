"""A gate is a DeepEval metric that judges evidence, and refuses whatever it cannot judge."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.columns import RowSchema
from pipeline.errors import Invalid
from pipeline.refs import Outcome, Table, Validation, Verdict
from pipeline.spec import PipelineSpec
from pipeline.tensors import Tensors
from serving.gates.evals import (
    AsyncConfig,
    BaseMetric,
    CacheConfig,
    DisplayConfig,
    ErrorConfig,
    LLMTestCase,
    evaluate,
)
from serving.triton import TritonClient

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Champion:
    """The version that serves now, and its answers to the same rows; `problem` says why there are none.

    `tensors` are the rows by its own columns, which `ask` answers as the serving server does; `unseen` are the rows
    that it was not trained on, None when that is all of them.
    """

    version: int
    onnx_digest: str
    answers: Floats | None
    problem: str = ""
    tensors: Tensors | None = None
    ask: Callable[[Tensors], Floats] | None = None
    unseen: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Endpoint:
    """Where a model that judges text is asked: an OpenAI-compatible endpoint."""

    url: str
    model: str
    key: str = field(repr=False)
    timeout_s: float


@dataclass(frozen=True)
class Evidence:
    """All that gates look at: held-out rows, and what native model, challenger and champion answer to them."""

    spec: PipelineSpec
    schema: RowSchema
    tensors: Tensors
    target: npt.NDArray[np.float64]
    native: Floats
    served: Floats
    onnx_digest: str
    champion: Champion | None
    challenger: TritonClient
    version: int
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)  # held-out, with columns that the model does not read
    validation: Validation | None = None
    onnx: Floats | None = None  # the graph's answers in one process, where it was exported
    endpoint: Endpoint | None = None

    def ask(self, tensors: Tensors) -> Floats:
        """(rows, width): the challenger's answers to other rows."""
        return self.challenger.replay(self.spec.name, tensors, self.schema.output, str(self.version))


class Gate(BaseMetric):  # type: ignore[misc]
    """One question about a challenger. Subclasses name themselves and judge."""

    name = ""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.verdict: Verdict | None = None
        self.threshold = 1.0
        self.score: float | None = None
        self.success: bool | None = None
        self.reason: str | None = None
        self.error: str | None = None
        self.async_mode = self.strict_mode = self.verbose_mode = False
        self.include_reason = True

    def judge(self) -> Verdict:
        """The verdict on the evidence, which is each gate's own. Raises Unavailable when a server does not answer."""
        raise NotImplementedError  # DeepEval's class is no ABC, whose methods Python would ask for

    def measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        """DeepEval's entry: 1 when passed. What cannot be judged is refused."""
        try:
            self.verdict = self.judge()
        except (Invalid, ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
            self.verdict = self.refused(f"could not be judged: {str(error) or type(error).__name__}")
        self.success, self.reason = self.verdict.passed, self.verdict.reason
        self.score = score = 1.0 if self.verdict.passed else 0.0
        return score

    async def a_measure(self, test_case: LLMTestCase, *args: Any, **kwargs: Any) -> float:
        """The same; gates share servers, so they run one after the other."""
        return self.measure(test_case)

    def is_successful(self) -> bool:
        """Whether the gate passed; one that has not been asked has not."""
        return self.success is True

    @property
    def __name__(self) -> str:
        return self.name

    def passed(self, reason: str, *, tables: Any = (), **numbers: Any) -> Verdict:
        """A verdict that lets the challenger through.

        `observed` and `bound` among the numbers are what decided; `tables` are `Table`s (see `table`).
        """
        return _verdict(self.name, "passed", reason, tables, numbers)

    def refused(self, reason: str, *, tables: Any = (), **numbers: Any) -> Verdict:
        """A verdict that stops it."""
        return _verdict(self.name, "refused", reason, tables, numbers)

    def inconclusive(self, reason: str, *, tables: Any = (), **numbers: Any) -> Verdict:
        """A verdict that stops it as well, unless a person decides: the evidence proves neither."""
        return _verdict(self.name, "inconclusive", reason, tables, numbers)


def judge(gates: Sequence[Gate], today: date) -> tuple[Verdict, ...]:
    """Every gate's verdict, run by DeepEval as metrics of one test case; what it does not count as passed is refused.

    A waiver of the spec that holds `today` (UTC) is attached to the verdict that it answers for.

    Raises Unavailable when a server does not answer. A retry helps.
    """
    evidence = gates[0].evidence
    case = LLMTestCase(
        input=f"{len(evidence.target)} held-out rows",
        actual_output=f"{evidence.spec.name} version {evidence.version}",
    )
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        result = evaluate(
            [case],
            list(gates),
            display_config=DisplayConfig(show_indicator=False, print_results=False),
            async_config=AsyncConfig(run_async=False),
            cache_config=CacheConfig(write_cache=False),
            error_config=ErrorConfig(ignore_errors=False),
        )
    counted = {item.name: item.success is True for item in result.test_results[0].metrics_data or []}
    verdicts = []
    for gate in gates:
        verdict = gate.verdict or gate.refused("was not asked")
        if verdict.passed and not counted.get(gate.name, False):
            verdict = gate.refused("DeepEval did not count it as passed")
        verdicts.append(_waived(verdict, evidence.spec, today))
    return tuple(verdicts)


def table(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Numbers behind a verdict, of numpy or of Python; what is not finite is an empty cell."""

    def cell(value: Any) -> float | str | None:
        if value is None or isinstance(value, str):
            return value
        return float(value) if np.isfinite(value) else None

    return Table(name=name, columns=tuple(columns), rows=tuple(tuple(cell(value) for value in row) for row in rows))


def _waived(verdict: Verdict, spec: PipelineSpec, today: date) -> Verdict:
    """The verdict with the waiver that answers for it; a waiver that has expired is told and counts for nothing."""
    waiver = next((one for one in spec.gates.waivers if one.gate == verdict.gate), None)
    if verdict.passed or waiver is None:
        return verdict
    if waiver.holds(today):
        return verdict.model_copy(update={"waiver": waiver})
    return verdict.model_copy(
        update={"reason": f"{verdict.reason}; the waiver of {waiver.by} expired on {waiver.until}"}
    )


def _verdict(gate: str, outcome: Outcome, reason: str, tables: Iterable[Table], numbers: dict[str, Any]) -> Verdict:
    observed, bound = numbers.pop("observed", None), numbers.pop("bound", None)
    plain = {key: float(value) for key, value in numbers.items() if value is not None and np.isfinite(value)}
    return Verdict(
        gate=gate,
        outcome=outcome,
        reason=reason,
        observed=None if observed is None or not np.isfinite(observed) else float(observed),
        bound=None if bound is None else float(bound),
        numbers=plain,
        tables=tuple(tables),
    )
