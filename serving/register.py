"""Step register: the winner's ONNX graph becomes a version in the registry, under the alias `challenger`."""

from __future__ import annotations

from pipeline.errors import Problem, Rejected
from pipeline.refs import Evaluation, LoggedModelRef, ModelVersionRef, OnnxRef
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.tracking import RUN

CHALLENGER, CHAMPION = "challenger", "champion"


def register(
    spec: PipelineSpec,
    evaluation: Evaluation,
    models: tuple[LoggedModelRef, ...],
    onnx: tuple[OnnxRef, ...],
    run: Run,
) -> ModelVersionRef:
    """Register the winner; the same run registers the same version, however often it tries.

    Raises:
        Rejected: no candidate may go on.
        Unavailable: MLflow does not answer. A retry helps.
    """
    if evaluation.winner is None:
        raise Rejected(
            [
                Problem(score.reason, f"candidate {score.candidate}", "see its parity report in MLflow")
                for score in evaluation.scores
            ]
        )
    winner = next(ref for ref in onnx if ref.candidate == evaluation.winner)
    model = next(ref for ref in models if ref.candidate == evaluation.winner)
    score = next(score for score in evaluation.scores if score.candidate == evaluation.winner)
    tags = {
        RUN: run.id,
        "slipway.pipeline": spec.name,
        "slipway.spec": spec.digest,
        "slipway.dataset": evaluation.dataset_digest,
        "slipway.onnx": winner.digest,
        "slipway.candidate": winner.candidate,
        f"slipway.holdout.{evaluation.primary}": f"{score.metrics[evaluation.primary]:.6f}",
    }
    version = run.registry.register(spec.name, winner.model_id, winner.run_id, tags)
    run.registry.set_alias(spec.name, CHALLENGER, version)
    run.registry.set_tags(run.registry.pipeline_run(run, spec), {"slipway.version": str(version)})
    run.log.info("%s version %d is the challenger (%s)", spec.name, version, winner.candidate)
    return ModelVersionRef(
        name=spec.name,
        version=version,
        candidate=winner.candidate,
        model_id=winner.model_id,
        run_id=winner.run_id,
        onnx_key=winner.key,
        onnx_digest=winner.digest,
        predictions=winner.predictions,
        validation=model.validation,
        trees=winner.trees,
    )


if __name__ == "__main__":
    main(register)
