"""Step gate: the held-out rows are replayed through the challenger's server, and every gate judges."""

from __future__ import annotations

import io
from datetime import date

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from pipeline.dataset import split_rows
from pipeline.errors import Invalid
from pipeline.refs import DatasetRef, GateReport, ModelVersionRef, RolloutRef, Verdict
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.target import encode_target
from pipeline.tensors import to_tensors
from serving.gates.base import Champion, Evidence, Floats, judge
from serving.gates.champion import ChampionGate
from serving.gates.latency import LatencyGate
from serving.gates.parity import ParityGate
from serving.gates.quality import QualityGate
from serving.gates.robustness import RobustnessGate
from serving.plane import plane
from serving.probe import probe, served_schema
from serving.promote import version_of
from serving.register import CHAMPION
from serving.triton import TritonClient

GATES = (QualityGate, ChampionGate, ParityGate, RobustnessGate, LatencyGate)  # the load comes last, on an idle server


def gate(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, rollout: RolloutRef, run: Run) -> GateReport:
    """Judge the challenger by every gate; a refusal is a report, and promote acts on it.

    Raises:
        Invalid: another model answers than the one that was rolled out. A retry does not help.
        Unavailable: a server does not answer. A retry helps.
    """
    plane(run.settings).ensure(rollout, model.onnx_digest)
    _, rows = split_rows(run, dataset, spec.split)
    schema = dataset.row_schema
    tensors = to_tensors(rows, schema, "snapshot")
    with np.load(io.BytesIO(run.store.read(model.predictions)), allow_pickle=False) as arrays:
        native = np.asarray(arrays["native"], dtype=np.float32)
    champion = _champion(spec, run, rows)
    with TritonClient(rollout.grpc, run.settings.timeout_s) as client:
        probe(client, rollout.name, rollout.version, model.onnx_digest)
        evidence = Evidence(
            spec=spec,
            schema=schema,
            tensors=tensors,
            target=encode_target(rows, schema),
            native=native,
            served=client.replay(rollout.name, tensors, schema.output, str(rollout.version)),
            onnx_digest=model.onnx_digest,
            champion=champion,
            challenger=client,
            version=rollout.version,
            rows=rows,
            validation=model.validation,
        )
        verdicts = judge([kind(evidence) for kind in GATES], date.fromisoformat(run.now()[:10]))
    report = GateReport(
        passed=not any(verdict.stops for verdict in verdicts),
        verdicts=verdicts,
        champion=champion.version if champion else None,
    )
    _log(spec, run, model, report)
    return report


def _champion(spec: PipelineSpec, run: Run, rows: object) -> Champion | None:
    """The serving champion's answers to the same rows, by its own columns; or why there are none."""
    version = run.registry.alias(spec.name, CHAMPION)
    if version is None:
        return None
    known = version_of(run.registry, spec.name, version)
    digest = known.onnx_digest
    answers: Floats | None = None
    problem = ""
    serving = plane(run.settings)
    with TritonClient(serving.address(spec.name).grpc, run.settings.timeout_s) as client:
        try:
            with serving.alone(spec.name, run.id):
                serving.restore(known)
            probe(client, spec.name, version, digest)
            theirs = served_schema(client, spec.name)
            answers = client.replay(spec.name, to_tensors(rows, theirs, "snapshot"), theirs.output, str(version))  # type: ignore[arg-type]
        except Invalid as error:
            problem = str(error)
    return Champion(version=version, onnx_digest=digest, answers=answers, problem=problem)


def _log(spec: PipelineSpec, run: Run, model: ModelVersionRef, report: GateReport) -> None:
    for verdict in report.verdicts:
        level = run.log.info if verdict.passed else run.log.warning
        level("gate %-10s %-7s %s", verdict.gate, "passed" if verdict.passed else "refused", verdict.reason)
    page = render(spec.name, model.version, run.id, report)
    document = report.model_dump_json(indent=1)
    run.store.write(f"{run.key}/gates.html", page.encode(), replace=True)
    run_id = run.registry.pipeline_run(run, spec)
    run.registry.log_text(run_id, page, "gates/report.html")
    run.registry.log_text(run_id, document, "gates/report.json")
    run.registry.log_metrics(run_id, _metrics(report.verdicts))
    outcomes = {f"slipway.gate.{one.gate}": "passed" if one.passed else "refused" for one in report.verdicts}
    run.registry.set_tags(run_id, outcomes)
    run.registry.set_version_tags(spec.name, model.version, {"slipway.gates": "passed" if report.passed else "refused"})


def _metrics(verdicts: tuple[Verdict, ...]) -> dict[str, float]:
    return {f"gate_{one.gate}_{key}": value for one in verdicts for key, value in one.numbers.items()}


def render(name: str, version: int, run: str, report: GateReport) -> str:
    """The report as one HTML file that reads offline."""
    environment = Environment(loader=PackageLoader("serving", "templates"), autoescape=select_autoescape())
    return environment.get_template("gates.html.j2").render(name=name, version=version, run=run, report=report)


if __name__ == "__main__":
    main(gate)
