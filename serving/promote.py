"""Step promote: alias and traffic move to the challenger together; or it is taken down, the champion never noticing."""

from __future__ import annotations

from pipeline.errors import Problem, Rejected
from pipeline.refs import GateReport, ModelVersionRef, PackageRef, PromotionRef, RolloutRef
from pipeline.registry import Registry
from pipeline.run import Run
from pipeline.spec import Canary, PipelineSpec
from pipeline.step import main
from serving.manifests import Version
from serving.plane import plane
from serving.register import CHALLENGER, CHAMPION

PREVIOUS, STATE = "slipway.previous", "slipway.state"


def promote(
    spec: PipelineSpec, model: ModelVersionRef, package: PackageRef, rollout: RolloutRef, report: GateReport, run: Run
) -> PromotionRef:
    """Act on the gates. Killed at any moment and run again, it ends the same.

    Raises:
        Rejected: a gate or the canary refused, or another version became champion since the gates compared.
        Invalid: the package is not whole, or Triton cannot serve it; the old version serves on.
        Unavailable: Triton, MLflow or the store do not answer. A retry helps.
    """
    if not report.passed:
        _take_down(spec, model, run, "refused")
        raise Rejected(
            [
                Problem(verdict.reason, f"gate {verdict.gate}", "see the gate report in MLflow")
                for verdict in report.stopping
            ]
        )
    serving, strategy = plane(run.settings), spec.serving.rollout
    lasts_s = strategy.observe_s * len(strategy.shares) if isinstance(strategy, Canary) else 0.0
    version = Version(spec.name, model.version, package.digest, model.onnx_digest)
    with serving.alone(spec.name, run.id, lasts_s):
        champion = run.registry.alias(spec.name, CHAMPION)
        if champion not in (report.champion, model.version):
            _take_down(spec, model, run, "overtaken")
            raise Rejected(
                f"version {champion} became champion after the gates compared with {report.champion or 'none'}",
                spec.name,
                "run again: the gates compare with the new champion",
            )
        previous = _previous(run, spec.name, model.version, champion)
        try:
            serving.switch(version, strategy)
        except Rejected:
            _take_down(spec, model, run, "refused")
            raise
        tags = {STATE: "champion", PREVIOUS: "" if previous is None else str(previous)}
        run.registry.set_version_tags(spec.name, model.version, tags)
        run.registry.set_alias(spec.name, CHAMPION, model.version)
        if previous is not None:
            run.registry.set_version_tags(spec.name, previous, {STATE: "previous"})
        serving.settle(version, None if previous is None else version_of(run.registry, spec.name, previous))
    run.registry.delete_alias(spec.name, CHALLENGER)
    serving.end_challengers(spec.name)
    run_id = run.registry.pipeline_run(run, spec)
    run.registry.set_tags(run_id, {"slipway.outcome": "promoted"})
    run.registry.finish(run_id, "FINISHED")
    address = serving.address(spec.name)
    run.log.info("%s version %d is champion and serves at %s", spec.name, model.version, address.http)
    return PromotionRef(
        name=spec.name,
        version=model.version,
        digest=package.digest,
        previous=previous,
        http=address.http,
        grpc=address.grpc,
    )


def version_of(registry: Registry, name: str, number: int) -> Version:
    """A registered version with the digests that its tags keep."""
    tags = registry.version_tags(name, number)
    return Version(name, number, tags.get("slipway.package", ""), tags.get("slipway.onnx", ""))


def _previous(run: Run, name: str, version: int, champion: int | None) -> int | None:
    """The version to keep for a roll-back; remembered by a tag when the alias has moved already."""
    if champion != version:
        return champion
    remembered = run.registry.version_tags(name, version).get(PREVIOUS, "")
    return int(remembered) if remembered else None


def _take_down(spec: PipelineSpec, model: ModelVersionRef, run: Run, state: str) -> None:
    """The challenger leaves; neither the champion nor its traffic is touched."""
    plane(run.settings).end_challengers(spec.name)
    run.registry.set_version_tags(spec.name, model.version, {STATE: state})
    if run.registry.alias(spec.name, CHALLENGER) == model.version:
        run.registry.delete_alias(spec.name, CHALLENGER)


if __name__ == "__main__":
    main(promote)
