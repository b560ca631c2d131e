"""A model whose answers are known, taken through the real steps from the registry to traffic."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

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
    ServingOptions,
    ServingPlan,
    Validation,
)
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.tensors import to_tensors
from serving.judgement import judgement, keep
from serving.package import package
from serving.promote import promote
from serving.register import register
from serving.rollout import rollout
from tests.serving.known import PASSED, SCHEMA, graph, native, rows, spec_of


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
        return package(self.spec, self.dataset, model, plan or self.declared, self.run)

    @property
    def declared(self) -> ServingPlan:
        """What `tune` returns where the spec asks for no search."""
        declared = self.spec.serving.model_dump(include=set(ServingOptions.model_fields))
        return ServingPlan(options=ServingOptions.model_validate(declared), reason="as the spec declares")

    def tune(self, model: ModelVersionRef) -> ServingPlan:
        from serving.tune import tune  # needs Optuna and DeepEval

        return tune(self.spec, self.dataset, model, self.run)

    def rollout(self, model: ModelVersionRef, packed: PackageRef) -> RolloutRef:
        return rollout(self.spec, model, packed, self.run)

    def gate(self, model: ModelVersionRef, challenger: RolloutRef) -> GateReport:
        from serving.gate import gate  # needs DeepEval

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


@cache
def _snapshot() -> bytes:
    content = io.BytesIO()
    frame = rows().assign(region=[f"r{at % 7}" for at in range(400)])  # for slices; the model does not read it
    frame.to_parquet(content)
    return content.getvalue()


def chain(
    settings: Settings,
    folder: Path,
    name: str,
    run_id: str,
    weight: float,
    logged: LoggedModelRef | None = None,
    **changes: object,
) -> Chain:
    """Write the rows, graph and evaluation of a run to the store and MLflow.

    Args:
        settings: of a running stack.
        folder: of the spec file, which is not written.
        name: of the pipeline and its model.
        run_id: of the pipeline run.
        weight: of the model; models of two weights answer differently.
        logged: the logged model of an earlier run of this weight, used again; a new one is logged by default.
        changes: fields of the spec.
    """
    spec = spec_of(name).model_copy(update=changes)
    run = Run(run_id, name, settings, folder / f"{name}.yaml")
    content = _snapshot()
    digest = digest_bytes(content)
    key = f"datasets/{digest}.parquet"
    run.store.write(key, content)
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
    if logged is None:
        run_of_candidate = run.registry.candidate_run(run, spec, "xgboost")
        with run.store.local(f"onnx/{onnx_digest}.onnx") as path:
            model_id = run.registry.log_onnx(run_of_candidate, "xgboost_onnx", path, SCHEMA, onnx_digest)
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
    ref = OnnxRef(
        candidate="xgboost",
        key=f"onnx/{onnx_digest}.onnx",
        digest=onnx_digest,
        size_bytes=len(model),
        model_id=logged.model_id,
        run_id=logged.run_id,
        passed=True,
        cases=(),
        predictions=f"{run.key}/predictions_xgboost.npz",
    )
    score = CandidateScore(candidate="xgboost", passed=True, reason="winner", metrics={"roc_auc": 0.9})
    evaluation = Evaluation(primary="roc_auc", scores=(score,), winner="xgboost", dataset_digest=digest)
    return Chain(run, spec, dataset, logged, ref, evaluation, weight)
