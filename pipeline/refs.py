"""What a step hands to the next: small frozen values, each with exactly one producer.

A key is a path inside the artifact store; a `*Report` says `passed` and why, and never raises.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.columns import RowSchema
from pipeline.frozen import Frozen
from pipeline.gate_rules import Waiver


class Finding(Frozen):
    """Something noteworthy about a column, and whether the model still reads it."""

    column: str
    kind: Literal["constant", "duplicate", "identifier", "all_missing", "precision", "cardinality"]
    message: str
    dropped: bool


class DatasetRef(Frozen):
    """An immutable snapshot of the rows: `key` is one Parquet file, named by the digest of its content."""

    digest: str
    key: str
    source: str
    row_schema: RowSchema
    rows: int
    train_rows: int
    holdout_rows: int
    findings: tuple[Finding, ...] = ()


class Failure(Frozen):
    """An expectation that the rows do not meet."""

    severity: Literal["critical", "warning", "info"]
    expectation: str
    column: str | None
    message: str


class CheckReport(Frozen):
    """The suite's verdict: passed unless a critical expectation failed. `page` and `result` are keys."""

    passed: bool
    suite: str | None
    suite_digest: str | None
    evaluated: int
    failures: tuple[Failure, ...] = ()
    page: str | None = None
    result: str | None = None


class Validation(Frozen):
    """The primary metric in tuning, on rows that the model which gave it had not seen."""

    value: float
    rows: int = Field(description="of the validation part, or of all folds")


class LoggedModelRef(Frozen):
    """A fitted candidate: `key` is a folder with the native model and `features.json`."""

    candidate: str
    kind: Literal["xgboost", "torch"]
    key: str
    digest: str
    model_id: str = Field(description="MLflow logged model of the native model")
    run_id: str = Field(description="MLflow run of the candidate")
    params: dict[str, float | int | str | bool]
    validation: Validation
    trials: int
    fit_s: float = Field(description="seconds spent fitting, tuning included")


class ParityCase(Frozen):
    """Native against ONNX on one family of rows; `max_excess` is max(|a-b| - (atol + rtol*|b|)), <= 0 when equal."""

    name: str
    rows: int
    max_abs: float
    max_excess: float
    passed: bool
    message: str = ""


class OnnxRef(Frozen):
    """One ONNX graph from raw columns to the answer. `predictions` is the key of its held-out answers."""

    candidate: str
    key: str
    digest: str
    size_bytes: int
    model_id: str = Field(description="MLflow logged model of the ONNX graph")
    run_id: str
    passed: bool
    cases: tuple[ParityCase, ...]
    predictions: str
    trees: str | None = Field(
        default=None, description="key of a folder: what the backend `xgboost` serves, of a booster"
    )


class CandidateScore(Frozen):
    """A candidate on the held-out rows, as its ONNX graph answers."""

    candidate: str
    passed: bool
    reason: str
    metrics: dict[str, float]


class Evaluation(Frozen):
    """All candidates on the same held-out rows; `winner` is None when none may go on."""

    primary: str
    scores: tuple[CandidateScore, ...]
    winner: str | None
    dataset_digest: str


class ModelVersionRef(Frozen):
    """A version in the registry."""

    name: str
    version: int
    candidate: str
    model_id: str
    run_id: str
    onnx_key: str
    onnx_digest: str
    predictions: str
    validation: Validation | None = None
    trees: str | None = Field(
        default=None, description="key of a folder: what the backend `xgboost` serves, of a booster"
    )


Backend = Literal["onnxruntime", "xgboost", "tensorrt"]


class ServingOptions(Frozen):
    """What of Triton's configuration is a matter of speed, not of answers."""

    backend: Backend = Field(
        default="onnxruntime", description="what answers: the graph, a TensorRT plan of it, or the booster"
    )
    threads: int = Field(description="threads of one inference")
    instances: int = Field(description="inferences at once")
    max_queue_delay_us: int = Field(description="how long requests wait for others to be answered with")


class ServingTrial(Frozen):
    """Options as they were measured on a server of their own. Without a value they did not serve the load."""

    options: ServingOptions
    value: float | None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    rows_per_s: float | None = None
    seconds: float = Field(default=0.0, description="of all of it, the server's start included")
    problem: str = ""


class ServingPlan(Frozen):
    """The options that a version is packaged with, and why: the spec's own, or others that were measured faster."""

    options: ServingOptions
    reason: str
    trials: tuple[ServingTrial, ...] = Field(default=(), description="none when nothing was measured")


class PackageRef(Frozen):
    """An immutable Triton model version: `key` is a folder with config.pbtxt, VERSION/model.onnx, manifest.json.

    Where the booster itself answers, VERSION/features.onnx and VERSION/model.ubj are beside the graph.
    """

    name: str
    version: int
    key: str
    digest: str = Field(description="digest of the manifest, which holds the digest of every file")


class RolloutRef(Frozen):
    """A challenger on a server of its own; `program` is its name in the supervisor."""

    name: str
    version: int
    digest: str
    program: str
    http: str
    grpc: str


Outcome = Literal["passed", "refused", "inconclusive"]


class Table(Frozen):
    """Numbers behind a verdict, row by row: groups, bins of probabilities, percentiles. Its plot is drawn from them."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[float | str | None, ...], ...]


NO_SKILL = "no_skill"  # among quality's numbers: what one answer for all rows has


class Verdict(Frozen):
    """One gate's answer. `observed` and `bound` are the numbers that decided, in the gate's own unit."""

    gate: str
    outcome: Outcome
    reason: str
    observed: float | None = None
    bound: float | None = None
    numbers: dict[str, float] = Field(default={})
    tables: tuple[Table, ...] = ()
    waiver: Waiver | None = Field(default=None, description="the spec's waiver of this gate, when it held")

    @property
    def passed(self) -> bool:
        """Whether the gate itself let the challenger through."""
        return self.outcome == "passed"

    @property
    def stops(self) -> bool:
        """Whether it stops the promotion: it did not pass, and nobody answers for that."""
        return not self.passed and self.waiver is None

    @property
    def shown(self) -> Literal["passed", "refused", "inconclusive", "waived"]:
        """The verdict in one word: what a waiver lets through is shown as waived, not as passed."""
        return "waived" if self.waiver else self.outcome

    @property
    def why(self) -> str:
        """The reason, with the waiver that answers for it."""
        if self.waiver is None:
            return self.reason
        waiver = self.waiver
        return f"{self.reason}; waived by {waiver.by} until {waiver.until}: {waiver.reason}"


class GateReport(Frozen):
    """All verdicts; passed when none stops. `champion` is the version compared with, None when there was none."""

    passed: bool
    verdicts: tuple[Verdict, ...]
    champion: int | None
    person_decides: bool = Field(
        default=False, description="what is inconclusive stops nothing: the spec asks for a person's approval"
    )

    @property
    def stopping(self) -> tuple[Verdict, ...]:
        """The verdicts that stop the promotion."""
        left = {"inconclusive"} if self.person_decides else set()
        return tuple(verdict for verdict in self.verdicts if verdict.stops and verdict.outcome not in left)

    @property
    def undecided(self) -> tuple[Verdict, ...]:
        """The verdicts that are left to the person who approves."""
        return tuple(verdict for verdict in self.verdicts if verdict.stops and verdict not in self.stopping)


class Approval(Frozen):
    """A person's word on a run, given before its promotion."""

    approved: bool
    by: str
    at: str = Field(description="ISO 8601 UTC")
    via: Literal["airflow", "command"]
    note: str = ""


class PromotionRef(Frozen):
    """The version that serves as champion, and the one kept for a roll-back."""

    name: str
    version: int
    digest: str
    previous: int | None
    http: str
    grpc: str
    record: str = Field(default="", description="key of the signed promotion record's folder")
