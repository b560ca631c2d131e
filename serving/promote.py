"""Step promote: alias and traffic move to the challenger together; or it is taken down, the champion never noticing."""

from __future__ import annotations

from pipeline.errors import Problem, Rejected, Unavailable
from pipeline.record import read_record
from pipeline.refs import Approval, GateReport, ModelVersionRef, PackageRef, PromotionRef, RolloutRef
from pipeline.registry import Registry
from pipeline.run import Run
from pipeline.spec import Canary, PipelineSpec
from pipeline.step import main
from serving.manifests import Version
from serving.plane import plane
from serving.record import APPROVE, KEY_TAG, Verdict, record
from serving.register import CHALLENGER, CHAMPION

PREVIOUS, STATE = "slipway.previous", "slipway.state"


def promote(
    spec: PipelineSpec, model: ModelVersionRef, package: PackageRef, rollout: RolloutRef, report: GateReport, run: Run
) -> PromotionRef:
    """Act on the gates, and on the person's word where the spec asks for one. Killed and run again, it ends the same.

    Raises:
        Rejected: a gate, a person or the canary refused, or another version became champion since the gates compared.
        Invalid: the package is not whole, or Triton cannot serve it; the old version serves on.
        Unavailable: Triton, MLflow or the store do not answer; a person has not answered yet. A retry helps.
    """
    version = Version(spec.name, model.version, package.digest, model.onnx_digest)
    refusal = _refused(run, version) or _judged(spec, report, run)
    if refusal is not None:
        raise _refuse(spec, version, report.champion, run, "refused", refusal)
    serving, strategy = plane(run.settings), spec.serving.rollout
    lasts_s = strategy.observe_s * len(strategy.shares) if isinstance(strategy, Canary) else 0.0
    with serving.alone(spec.name, run.id, lasts_s):
        champion = run.registry.alias(spec.name, CHAMPION)
        if champion not in (report.champion, model.version):
            overtaken = Rejected(
                f"version {champion} became champion after the gates compared with {report.champion or 'none'}",
                spec.name,
                "run again: the gates compare with the new champion",
            )
            raise _refuse(spec, version, champion, run, "overtaken", overtaken)
        previous = _previous(run, spec.name, model.version, champion)
        try:
            serving.switch(version, strategy)
        except Rejected as canary:
            raise _refuse(spec, version, previous, run, "refused", canary) from canary
        entry = record(run, spec, Verdict("promotion", version, previous))
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
        record=entry.key,
    )


def _judged(spec: PipelineSpec, report: GateReport, run: Run) -> Rejected | None:
    """What gates and person say against it. Raises Unavailable while the person has not answered (a retry helps)."""
    if not report.passed:
        remedy = "see the gate report in MLflow"
        return Rejected([Problem(one.reason, f"gate {one.gate}", remedy) for one in report.stopping])
    if spec.approval != "required":
        return None
    envelope = run.envelope(APPROVE)
    if envelope is None:
        remedy = f"answer in Airflow, or by `slipway approve {spec.name} {run.id}`; then go on with the same run"
        raise Unavailable("it waits for a person's approval", f"run {run.id}", remedy)
    said = Approval.model_validate_json(envelope.ref)
    if said.approved:
        return None
    note = f": {said.note}" if said.note else ""
    return Rejected(f"{said.by} did not approve it{note}", f"run {run.id}", "ask them, and run again")


def _refused(run: Run, version: Version) -> Rejected | None:
    """The refusal that this run has recorded before it was killed: it is not asked twice."""
    key = run.registry.version_tags(version.name, version.number).get(KEY_TAG)
    if not key:
        return None
    entry = read_record(run.store, version.name, int(key.rpartition("/")[2]))
    if entry.run != run.id or entry.kind != "refusal":
        return None
    return Rejected([Problem(reason) for reason in entry.reasons])


def _refuse(
    spec: PipelineSpec, version: Version, champion: int | None, run: Run, state: str, refusal: Rejected
) -> Rejected:
    """Take the challenger down, neither the champion nor its traffic being touched; record why."""
    plane(run.settings).end_challengers(spec.name)
    record(run, spec, Verdict("refusal", version, champion, tuple(map(str, refusal.problems))))
    run.registry.set_version_tags(spec.name, version.number, {STATE: state})
    if run.registry.alias(spec.name, CHALLENGER) == version.number:
        run.registry.delete_alias(spec.name, CHALLENGER)
    return refusal


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


if __name__ == "__main__":
    main(promote)
