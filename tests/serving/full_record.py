"""A promotion record with every part filled in, in which a text of one's choice stands wherever others may write one."""

from __future__ import annotations

from datetime import date

from pipeline.columns import Column, RowSchema
from pipeline.gate_rules import Waiver
from pipeline.record import PromotionRecord, Serving, Times
from pipeline.refs import (
    Approval,
    CandidateScore,
    CheckReport,
    DatasetRef,
    Evaluation,
    Failure,
    Finding,
    GateReport,
    LoggedModelRef,
    OnnxRef,
    PackageRef,
    ParityCase,
    Table,
    Validation,
    Verdict,
)
from pipeline.served import Served
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec

SPEC = """version: 1
name: credit
description: Does a customer pay back?
owner: risk team
schedule: 0 4 * * 1
task: {kind: binary, positive: bad}
data: {source: rows.csv, target: outcome, drop: [id]}
checks: {suite: credit}
candidates: [{kind: xgboost, trials: 4}]
approval: required
gates:
  quality: {at_least: {roc_auc: 0.7}}
  slices: {columns: [region]}
  waivers: [{gate: slices, by: Ada, reason: measured anew next month, until: 2026-12-24}]
"""


def full_record(text: str = "plain", version: int = 2, **changes: object) -> PromotionRecord:
    """The record of a promotion to `version`."""
    score = CandidateScore(
        candidate="xgboost", passed=True, reason=text, metrics={"roc_auc": 0.8125, "log_loss": 0.4375}
    )
    values: dict[str, object] = {
        "kind": "promotion",
        "model": "credit",
        "version": version,
        "run": f"run-{version}",
        "sequence": version,
        "before": "b" * 64 if version > 1 else None,
        "previous": version - 1 or None,
        "signer": "sha256:" + "5" * 64,
        "onnx_digest": "c" * 64,
        "package": PackageRef(name="credit", version=version, key=f"packages/credit/{version}", digest="d" * 64),
        "spec_digest": "e" * 64,
        "spec": spec_of(text),
        "dataset": _dataset(text),
        "checks": CheckReport(
            passed=True,
            suite="credit",
            suite_digest="f" * 64,
            evaluated=12,
            failures=(Failure(severity="warning", expectation=text, column=text, message=text),),
        ),
        "models": (_model(text),),
        "onnx": (_graph(text),),
        "evaluation": Evaluation(primary="roc_auc", scores=(score,), winner="xgboost", dataset_digest="a" * 64),
        "mlflow_run": "0" * 32,
        "gates": _gates(text),
        "approval": Approval(approved=True, by=text, at="", via="command", note=text),
        "serving": Serving(
            repository="/models/credit",
            http="h:8000",
            grpc="h:8001",
            replicas=(Served(model="credit", address="h:8001", replica=text, version=version, digest="c" * 64),),
        ),
        "libraries": {"xgboost": "3.2.0", "slipway": "0.1.0"},
        "times": Times(
            written_at="2026-11-25T08:00:00+00:00", approved_at="2026-11-25T07:59:00+00:00", steps={"snapshot": 0.5}
        ),
    }
    return PromotionRecord(**(values | changes))  # type: ignore[arg-type]


def spec_of(text: str) -> PipelineSpec:
    spec = parse_spec(SPEC, "credit")
    waiver = Waiver(gate="slices", by=text + ".", reason=text + " " * 10 + "." * 10, until=date(2026, 12, 24))
    rules = spec.gates.model_copy(
        update={"waivers": (waiver,), "slices": spec.gates.slices.model_copy(update={"columns": (text,)})}
    )
    data = spec.data.model_copy(update={"target": f"y {text}", "drop": (text,), "source": text})
    return spec.model_copy(
        update={"description": text, "owner": text, "schedule": text, "gates": rules, "data": data, "tags": (text,)}
    )


def _dataset(text: str) -> DatasetRef:
    schema = RowSchema(
        columns=(Column(name=text, kind="number"), Column(name="region", kind="category")),
        target=f"y {text}",
        task="binary",
        classes=("good", text),
    )
    return DatasetRef(
        digest="a" * 64,
        key="datasets/a.parquet",
        source=text,
        row_schema=schema,
        rows=1200,
        train_rows=960,
        holdout_rows=240,
        findings=(Finding(column=text, kind="constant", message=text, dropped=True),),
    )


def _model(text: str) -> LoggedModelRef:
    return LoggedModelRef(
        candidate="xgboost",
        kind="xgboost",
        key="models/x",
        digest="1" * 64,
        model_id="m-1",
        run_id="2" * 32,
        params={"eta": 0.1, "depth": 6, "booster": text},
        validation=Validation(value=0.81, rows=960),
        trials=4,
        fit_s=1.5,
    )


def _graph(text: str) -> OnnxRef:
    case = ParityCase(name=text, rows=240, max_abs=1.5e-7, max_excess=-1e-5, passed=True)
    return OnnxRef(
        candidate="xgboost",
        key="onnx/c.onnx",
        digest="c" * 64,
        size_bytes=1000,
        model_id="m-2",
        run_id="2" * 32,
        passed=True,
        cases=(case,),
        predictions="p.npz",
    )


def _gates(text: str) -> GateReport:
    waiver = spec_of(text).gates.waivers[0]
    groups = Table(
        name="slices",
        columns=("column", "group", "rows", "metric", "low", "high", "verdict"),
        rows=((text, text, 200.0, 0.8, 0.75, 0.85, "held"), (text, "north", 40.0, 0.7, None, None, text)),
    )
    pairs = Table(name="reliability", columns=("mean predicted", "observed share", "rows"), rows=((0.2, 0.25, 120.0),))
    return GateReport(
        passed=True,
        champion=1,
        verdicts=(
            Verdict(
                gate="quality", outcome="passed", reason=text, observed=0.8125, bound=0.7, numbers={"roc_auc": 0.8125}
            ),
            Verdict(gate="slices", outcome="refused", reason=text, tables=(groups,), waiver=waiver),
            Verdict(gate="calibration", outcome="passed", reason=text, tables=(pairs,), numbers={"ece": 0.05}),
        ),
    )
