"""Step promote: alias and traffic move to the challenger together; or it is taken down, the champion never noticing."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pipeline.errors import Problem, Rejected, Waits
from pipeline.frozen import Frozen
from pipeline.record import PromotionRecord
from pipeline.refs import Approval, GateReport, ModelVersionRef, PackageRef, PromotionRef, RolloutRef
from pipeline.registry import Registry
from pipeline.run import APPROVE, Run
from pipeline.serving_rules import Canary
from pipeline.spec import PipelineSpec
from pipeline.step import main
from serving.judgement import judgement, require
from serving.ledger import champion, trusted
from serving.manifests import Version
from serving.plane import plane
from serving.record import record
from serving.record_content import Verdict
from serving.register import CHALLENGER, CHAMPION

STATE = "slipway.state"
REFUSAL = "refusal.decided"  # what a run keeps of its decision


class Refusal(Frozen):
    """Why a version is not promoted: decided once in a run, so that one that was killed does not ask again."""

    state: Literal["refused", "overtaken"]
    champion: int | None
    problems: tuple[Problem, ...]


def promote(
    spec: PipelineSpec, model: ModelVersionRef, package: PackageRef, rollout: RolloutRef, report: GateReport, run: Run
) -> PromotionRef:
    """Act on the gates, and on the person's word where the spec asks for one. Killed and run again, it ends the same.

    Raises:
        Rejected: a gate, a person or the canary refused, or another version became champion since the gates compared.
        Invalid: the package is not whole, Triton cannot serve it, the gates' word is not signed, or the ledger cannot
            be trusted; the old version serves on.
        Unavailable: Triton, MLflow or the store do not answer; a person has not answered yet. A retry helps.
    """
    require(judgement(spec, model, report, run), run)
    version = Version(spec.name, model.version, package.digest, model.onnx_digest)
    refusal = _decided(run) or _judged(spec, report, run)
    serving, strategy = plane(run.settings), spec.serving.rollout
    lasts_s = strategy.observe_s * len(strategy.shares) if isinstance(strategy, Canary) else 0.0
    with serving.alone(spec.name, run.id, lasts_s):
        last = trusted(run.settings, run.store, spec.name)  # nothing is written after what somebody changed
        serves = champion(run.settings, run.store, run.registry, spec.name)
        if refusal is None and serves not in (report.champion, model.version):
            what = f"version {serves} became champion after the gates compared with {report.champion or 'none'}"
            problem = Problem(what, spec.name, "run again: the gates compare with the new champion")
            refusal = Refusal(state="overtaken", champion=serves, problems=(problem,))
        previous = _previous(last, model.version, serves)
        if refusal is None:
            try:
                serving.switch(version, strategy)
            except Rejected as canary:
                refusal = Refusal(state="refused", champion=previous, problems=canary.problems)
        if refusal is not None:
            raise _refuse(refusal, spec, version, run)
        entry = record(run, spec, Verdict("promotion", version, previous))
        run.registry.set_version_tags(spec.name, model.version, {STATE: "champion"})
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


def _decided(run: Run) -> Refusal | None:
    """The refusal that this run decided before it was killed."""
    try:
        return Refusal.model_validate_json(run.store.read(f"{run.key}/{REFUSAL}"))
    except FileNotFoundError:
        return None


def _judged(spec: PipelineSpec, report: GateReport, run: Run) -> Refusal | None:
    """What gates and person say against it. Raises Waits while the person has not answered."""
    if not report.passed:
        remedy = "see the gate report in MLflow"
        problems = tuple(Problem(one.reason, f"gate {one.gate}", remedy) for one in report.stopping)
        return Refusal(state="refused", champion=report.champion, problems=problems)
    today = date.fromisoformat(run.now()[:10])
    over = [one for one in report.verdicts if one.waiver is not None and not one.waiver.holds(today)]
    if over:  # between the gates' word and this
        remedy = "see the gate report in MLflow"
        problems = tuple(
            Problem(
                f"{one.reason}; the waiver of {one.waiver.by} expired on {one.waiver.until}", f"gate {one.gate}", remedy
            )
            for one in over
            if one.waiver is not None
        )
        return Refusal(state="refused", champion=report.champion, problems=problems)
    if spec.approval != "required":
        return None
    envelope = run.envelope(APPROVE)
    if envelope is None:
        remedy = f"answer in Airflow, or by `slipway approve {spec.name} {run.id}`; then go on with the same run"
        raise Waits("it waits for a person's approval", f"run {run.id}", remedy)
    said = Approval.model_validate_json(envelope.ref)
    if said.approved:
        return None
    note = f": {said.note}" if said.note else ""
    problem = Problem(f"{said.by} did not approve it{note}", f"run {run.id}", "ask them, and run again")
    return Refusal(state="refused", champion=report.champion, problems=(problem,))


def _refuse(refusal: Refusal, spec: PipelineSpec, version: Version, run: Run) -> Rejected:
    """Take the challenger down, neither the champion nor its traffic being touched; record why."""
    run.store.write(f"{run.key}/{REFUSAL}", refusal.model_dump_json().encode())
    plane(run.settings).end_challengers(spec.name)
    record(run, spec, Verdict("refusal", version, refusal.champion, tuple(map(str, refusal.problems))))
    run.registry.set_version_tags(spec.name, version.number, {STATE: refusal.state})
    if run.registry.alias(spec.name, CHALLENGER) == version.number:
        run.registry.delete_alias(spec.name, CHALLENGER)
    return Rejected(refusal.problems)


def version_of(registry: Registry, name: str, number: int) -> Version:
    """A registered version with the digests that its tags keep."""
    tags = registry.version_tags(name, number)
    return Version(name, number, tags.get("slipway.package", ""), tags.get("slipway.onnx", ""))


def _previous(last: PromotionRecord | None, version: int, serves: int | None) -> int | None:
    """The version to keep for a roll-back: what serves, or what did when this promotion was recorded."""
    if serves != version:
        return serves
    return None if last is None else last.previous


if __name__ == "__main__":
    main(promote)
