"""Step gate: the held-out rows are replayed through the challenger's server, and every gate judges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

import numpy as np
import pandas as pd

from pipeline.dataset import held_rows
from pipeline.errors import Invalid
from pipeline.record import promotion_of
from pipeline.refs import DatasetRef, GateReport, ModelVersionRef, RolloutRef
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.step import main
from pipeline.target import encode_target
from pipeline.tensors import Tensors, to_tensors
from pipeline.tracking import RUN
from serving.gate_report import as_text, publish
from serving.gates.base import Champion, Endpoint, Evidence, Floats, judge
from serving.gates.calibration import CalibrationGate
from serving.gates.champion import ChampionGate
from serving.gates.judge import JudgeGate
from serving.gates.latency import LatencyGate
from serving.gates.leakage import LeakageGate
from serving.gates.parity import ParityGate
from serving.gates.quality import QualityGate
from serving.gates.robustness import RobustnessGate
from serving.gates.slices import SlicesGate
from serving.judgement import judgement, keep, kept, require
from serving.ledger import champion, version_in
from serving.plane import plane
from serving.probe import probe, served_schema
from serving.promote import version_of
from serving.triton import TritonClient
from serving.unseen import unseen

GATES = (
    QualityGate, ChampionGate, LeakageGate, SlicesGate, CalibrationGate, ParityGate, RobustnessGate, JudgeGate,
    LatencyGate,  # the load comes last, on an idle server
)  # fmt: skip


def gate(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, rollout: RolloutRef, run: Run) -> GateReport:
    """Judge the challenger by every gate; a refusal is a report, and promote acts on it.

    Raises:
        Invalid: another model answers than the one that was rolled out. A retry does not help.
        Unavailable: a server does not answer. A retry helps.
    """
    if (signed := kept(run)) is not None:  # it was killed between its word and its reference
        require(judgement(spec, model, signed.report, run), run)
        return signed.report
    plane(run.settings).ensure(rollout, model.onnx_digest)
    rows = held_rows(run, dataset, spec.split)
    schema = dataset.row_schema
    tensors = to_tensors(rows, schema, "snapshot")
    with run.store.whole(model.predictions) as path, np.load(path, allow_pickle=False) as arrays:
        native, onnx = (np.asarray(arrays[name], dtype=np.float32) for name in ("native", "onnx"))
    with (
        _champion(spec, dataset, run, rows) as rival,
        TritonClient(rollout.grpc, run.settings.timeout_s) as client,
    ):
        probe(client, rollout.name, rollout.version, model.onnx_digest)
        evidence = Evidence(
            spec=spec,
            schema=schema,
            tensors=tensors,
            target=encode_target(rows, schema),
            native=native,
            onnx=onnx,
            served=client.replay(rollout.name, tensors, schema.output, str(rollout.version)),
            onnx_digest=model.onnx_digest,
            champion=rival,
            challenger=client,
            version=rollout.version,
            rows=rows,
            validation=model.validation,
            endpoint=_endpoint(run.settings),
        )
        verdicts = judge([kind(evidence) for kind in GATES], date.fromisoformat(run.now()[:10]))
    report = GateReport(
        passed=False,
        verdicts=verdicts,
        champion=rival.version if rival else None,
        person_decides=spec.approval == "required",
    )
    report = report.model_copy(update={"passed": not report.stopping})
    publish(spec, run, model.version, report)
    keep(judgement(spec, model, report, run), run)
    return report


@contextmanager
def _champion(spec: PipelineSpec, dataset: DatasetRef, run: Run, rows: pd.DataFrame) -> Iterator[Champion | None]:
    """The serving champion with its answers to the same rows, by its own columns; or why there are none.

    It can be asked while the context is open.
    """
    version = champion(run.settings, run.store, run.registry, spec.name)
    if version is None:
        yield None
        return
    promoted = promotion_of(run.store, spec.name, version)
    known = version_in(promoted) if promoted else version_of(run.registry, spec.name, version)
    serving = plane(run.settings)
    with TritonClient(serving.address(spec.name).grpc, run.settings.timeout_s) as client:
        try:
            with serving.alone(spec.name, run.id):
                serving.restore(known)
            probe(client, spec.name, version, known.onnx_digest)
            theirs = served_schema(client, spec.name)
            tensors = to_tensors(rows, theirs, "snapshot")

            def ask(other: Tensors) -> Floats:
                return client.replay(spec.name, other, theirs.output, str(version))

            trained_by = promoted.run if promoted else run.registry.version_tags(spec.name, version).get(RUN, "")
            fair = unseen(rows, spec, dataset, run, trained_by)
            found = Champion(version, known.onnx_digest, ask(tensors), tensors=tensors, ask=ask, unseen=fair)
        except Invalid as error:
            found = Champion(version, known.onnx_digest, None, problem=str(error))
        yield found


def _endpoint(settings: Settings) -> Endpoint | None:
    """Where a model that judges text answers, when the settings name one."""
    if not (settings.judge_url and settings.judge_model):
        return None
    key = settings.judge_key.get_secret_value() if settings.judge_key else ""
    return Endpoint(settings.judge_url, settings.judge_model, key, settings.timeout_s)


if __name__ == "__main__":
    main(gate, as_text)
