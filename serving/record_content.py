"""What a promotion record says: gathered from the run's references, and from what each replica answers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from pipeline.errors import Unavailable
from pipeline.graph import Task, producer, tasks
from pipeline.record import Kind, PromotionRecord, Serving, Times, backwards, digest_of
from pipeline.refs import (
    Approval,
    CheckReport,
    DatasetRef,
    Evaluation,
    GateReport,
    LoggedModelRef,
    ModelVersionRef,
    OnnxRef,
    PackageRef,
    ServingPlan,
)
from pipeline.run import APPROVE, Ref, Run
from pipeline.spec import PipelineSpec
from serving import endpoints
from serving.manifests import Version
from serving.package import package_key
from serving.places import repository
from serving.plane import plane
from serving.signing import signer_identity

LIBRARIES = (
    "slipway", "mlflow", "numpy", "pandas", "scikit-learn", "xgboost", "xgboost-cpu", "torch", "tabm", "onnx",
    "onnxruntime", "onnxmltools", "optuna",  "great-expectations", "deepeval", "fairlearn", "tritonclient",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What is to be recorded: which version serves or was refused, and what served until then."""

    kind: Kind
    version: Version
    previous: int | None
    reasons: tuple[str, ...] = ()


def build(run: Run, spec: PipelineSpec | None, verdict: Verdict, sequence: int) -> PromotionRecord:
    """The record's content. The same run gives the same, but for its times."""
    at = verdict.version
    names = tuple(candidate.name for candidate in spec.candidates) if spec else ()
    found = [run.envelope(task.key) for task in (tasks(names) if spec else ())]
    envelopes = [envelope for envelope in found if envelope is not None]
    approval = run.envelope(APPROVE)
    said = Approval.model_validate_json(approval.ref) if approval else None
    earlier = next((number for number in backwards(run.store, at.name) if number < sequence), None)
    done = {envelope.task for envelope in envelopes}

    def ref(kind: type[Ref], candidate: str | None = None) -> Ref | None:
        return run.ref(kind, candidate) if Task(producer(kind), candidate).key in done else None

    package = ref(PackageRef) or PackageRef(
        name=at.name, version=at.number, key=package_key(at.name, at.number, at.digest), digest=at.digest
    )
    return PromotionRecord(
        kind=verdict.kind,
        model=at.name,
        version=at.number,
        run=run.id,
        sequence=sequence,
        before=digest_of(run.store, at.name, earlier) if earlier else None,
        previous=verdict.previous,
        reasons=verdict.reasons,
        signer=signer_identity(run.settings),
        onnx_digest=at.onnx_digest,
        package=package,
        spec_digest=spec.digest if spec else None,
        spec=spec,
        dataset=ref(DatasetRef),
        checks=ref(CheckReport),
        models=tuple(fitted for name in names if (fitted := ref(LoggedModelRef, name))),
        onnx=tuple(graph for name in names if (graph := ref(OnnxRef, name))),
        evaluation=ref(Evaluation),
        registered=ref(ModelVersionRef),
        plan=ref(ServingPlan),
        mlflow_run=run.registry.find_pipeline_run(run) if spec else None,
        gates=ref(GateReport),
        approval=said.model_copy(update={"at": ""}) if said else None,  # when is one of the times
        serving=None if verdict.kind == "refusal" else acknowledged(run, at),
        libraries=_libraries(),
        times=Times(
            written_at=run.now(),
            approved_at=said.at if said else None,
            steps={envelope.task: envelope.seconds for envelope in envelopes},
            finished_at={envelope.task: envelope.finished_at for envelope in envelopes},
        ),
    )


def acknowledged(run: Run, at: Version) -> Serving:
    """Where the version serves, by what each of its replicas says.

    Raises:
        Unavailable: a replica serves another version, or does not answer. A retry helps.
    """
    replicas = endpoints.serving(run.settings, (at.name,))
    others = [one for one in replicas if one.error or one.version != at.number or one.digest != at.onnx_digest]
    if others or not replicas:
        told = (
            "; ".join(
                f"{one.where}: {one.error or f'version {one.version}, graph {one.digest[:16]}'}" for one in others
            )
            or "none is there"
        )
        what = f"not every replica has acknowledged version {at.number}: {told}"
        raise Unavailable(what, f"model {at.name}", "the step is tried again; what serves was not taken down")
    address = plane(run.settings).address(at.name)
    local = run.settings.runtime == "local"
    place = str(repository(run.settings) / at.name) if local else f"Deployments of {run.settings.release}, {at.name}"
    return Serving(repository=place, http=address.http, grpc=address.grpc, replicas=replicas)


def _libraries() -> dict[str, str]:
    found = {"python": python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
