"""A model whose answers are known, taken through the real steps from the registry to traffic."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper

from pipeline.columns import Column, RowSchema
from pipeline.dataset import split_rows
from pipeline.digest import digest_bytes
from pipeline.refs import (
    CandidateScore,
    DatasetRef,
    Evaluation,
    GateReport,
    LoggedModelRef,
    ModelVersionRef,
    OnnxRef,
    PackageRef,
    PromotionRef,
    RolloutRef,
    ServingPlan,
    Validation,
)
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec
from pipeline.tensors import to_tensors
from serving.gate import gate
from serving.judgement import judgement, keep
from serving.package import package
from serving.promote import promote
from serving.register import register
from serving.rollout import rollout
from serving.tune import tune

SCHEMA = RowSchema(
    columns=(Column(name="a", kind="number"), Column(name="b", kind="number"), Column(name="c", kind="category")),
    target="y",
    task="binary",
    classes=("no", "yes"),
)
PASSED = GateReport(passed=True, verdicts=(), champion=None)


# A weight says how rows are ordered, and little of odds.
GATES = "{calibration: {max_error: 0.5}, latency: {rate_per_s: 50, duration_s: 0.2, p95_ms: 5000}}"


def spec_of(name: str, gates: str = GATES) -> PipelineSpec:
    return parse_spec(
        f"""version: 1
name: {name}
task: {{kind: binary}}
data: {{source: rows.csv, target: y}}
candidates: [{{kind: xgboost}}]
gates: {gates}
""",
        name,
    )


def rows(count: int = 400) -> pd.DataFrame:
    """Rows in which `a` tells the class, mostly."""
    draw = np.random.default_rng(0)
    a = draw.normal(size=count)
    label = np.where(a + 0.3 * draw.normal(size=count) > 0, "yes", "no")
    return pd.DataFrame({"a": a, "b": draw.normal(size=count), "c": draw.choice(["u", "v"], count), "y": label})


def native(weight: float, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """(rows, 2) float32: sigmoid(weight * a), a missing `a` being nought."""
    score = weight * np.nan_to_num(tensors["numeric"][:, :1].astype(np.float64))
    yes = 1 / (1 + np.exp(-score))
    return np.concatenate([1 - yes, yes], axis=1).astype(np.float32)


def graph(weight: float) -> bytes:
    """The same as ONNX."""
    nodes = [
        helper.make_node("Gather", ["numeric", "first"], ["a"], axis=1),
        helper.make_node("IsNaN", ["a"], ["missing"]),
        helper.make_node("Where", ["missing", "nought", "a"], ["known"]),
        helper.make_node("Mul", ["known", "weight"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Identity", ["categorical"], ["unused"]),
        helper.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("weight", TensorProto.FLOAT, [1], [weight]),
    ]
    inputs = [
        helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["N", 2]),
        helper.make_tensor_value_info("categorical", TensorProto.STRING, ["N", 1]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])]
    body = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@dataclass
class Chain:
    """One run of one model; each method is the real step."""

    run: Run
    spec: PipelineSpec
    dataset: DatasetRef
    model_ref: LoggedModelRef
    onnx_ref: OnnxRef
    evaluation: Evaluation
    weight: float

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        return to_tensors(split_rows(self.run, self.dataset, self.spec.split)[1], SCHEMA)

    def register(self) -> ModelVersionRef:
        return register(self.spec, self.evaluation, (self.model_ref,), (self.onnx_ref,), self.run)

    def package(self, model: ModelVersionRef, plan: ServingPlan | None = None) -> PackageRef:
        return package(self.spec, self.dataset, model, plan or self.tune(model), self.run)

    def tune(self, model: ModelVersionRef) -> ServingPlan:
        return tune(self.spec, self.dataset, model, self.run)

    def rollout(self, model: ModelVersionRef, packed: PackageRef) -> RolloutRef:
        return rollout(self.spec, model, packed, self.run)

    def gate(self, model: ModelVersionRef, challenger: RolloutRef) -> GateReport:
        return gate(self.spec, self.dataset, model, challenger, self.run)

    def ready(self, report: GateReport = PASSED) -> tuple[ModelVersionRef, PackageRef, RolloutRef, GateReport]:
        """Everything that promote reads; the challenger's server is described, not started."""
        model = self.register()
        packed = self.package(model)
        keep(judgement(self.spec, model, report, self.run), self.run)  # as the gate does
        described = RolloutRef(
            name=self.spec.name, version=model.version, digest=packed.digest, program="none", http="h:1", grpc="g:1"
        )
        return model, packed, described, report

    def promote(self, *read: object) -> PromotionRef:
        return promote(self.spec, *read, self.run)  # type: ignore[arg-type]


def chain(settings: Settings, folder: Path, name: str, run_id: str, weight: float, **changes: object) -> Chain:
    """A run whose rows, graph and evaluation are in store and MLflow."""
    spec = spec_of(name).model_copy(update=changes)
    run = Run(run_id, name, settings, folder / f"{name}.yaml")
    frame = rows().assign(region=[f"r{at % 7}" for at in range(400)])  # judged by, and not read by the model
    content = io.BytesIO()
    frame.to_parquet(content)
    digest = digest_bytes(content.getvalue())
    key = f"datasets/{digest}.parquet"
    run.store.write(key, content.getvalue())
    dataset = DatasetRef(
        digest=digest, key=key, source="rows.csv", row_schema=SCHEMA, rows=400, train_rows=320, holdout_rows=80
    )
    run.store.write(f"{run.key}/spec.json", spec.model_dump_json().encode())
    run.finish("snapshot", dataset, 0.0)
    model = graph(weight)
    onnx_digest = digest_bytes(model)
    run.store.write(f"onnx/{onnx_digest}.onnx", model)
    held = to_tensors(split_rows(run, dataset, spec.split)[1], SCHEMA)
    answers = io.BytesIO()
    np.savez(answers, native=native(weight, held), onnx=native(weight, held))
    run.store.write(f"{run.key}/predictions_xgboost.npz", answers.getvalue())
    run_of_candidate = run.registry.candidate_run(run, spec, "xgboost")
    with run.store.local(f"onnx/{onnx_digest}.onnx") as path:
        model_id = run.registry.log_onnx(run_of_candidate, "xgboost_onnx", path, SCHEMA, onnx_digest)
    ref = OnnxRef(
        candidate="xgboost",
        key=f"onnx/{onnx_digest}.onnx",
        digest=onnx_digest,
        size_bytes=len(model),
        model_id=model_id,
        run_id=run_of_candidate,
        passed=True,
        cases=(),
        predictions=f"{run.key}/predictions_xgboost.npz",
    )
    score = CandidateScore(candidate="xgboost", passed=True, reason="winner", metrics={"roc_auc": 0.9})
    evaluation = Evaluation(primary="roc_auc", scores=(score,), winner="xgboost", dataset_digest=digest)
    logged = LoggedModelRef(
        candidate="xgboost",
        kind="xgboost",
        key="",
        digest="",
        model_id=model_id,
        run_id=run_of_candidate,
        params={},
        validation=Validation(value=0.97, rows=320),
        trials=1,
        fit_s=0.0,
    )
    return Chain(run, spec, dataset, logged, ref, evaluation, weight)
