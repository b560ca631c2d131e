"""Events of OpenLineage: what a receiver gets of each step, by the standard's own classes; and that no step minds it."""

from __future__ import annotations

import inspect
import json
import logging
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import facet_v2
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, RunEvent, RunState
from openlineage.client.event_v2 import Run as EventRun

from pipeline.columns import Column, RowSchema
from pipeline.errors import Invalid, Rejected, Unavailable
from pipeline.gate_rules import Waiver
from pipeline.refs import (
    CandidateScore,
    CheckReport,
    DatasetRef,
    Evaluation,
    Failure,
    GateReport,
    ModelVersionRef,
    OnnxRef,
    PackageRef,
    PromotionRef,
    RolloutRef,
    Verdict,
)
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec
from pipeline.spec_file import parse_spec
from pipeline.step import execute

KEY = "a-key-that-is-secret"
SPEC = parse_spec(
    "version: 1\nname: demo\ntask: {kind: binary}\ndata: {source: rows.csv, target: y}\ncandidates: [{kind: xgboost}]\n",
    "demo.yaml",
)
SCHEMA = RowSchema(
    columns=(Column(name="n", kind="number"), Column(name="c", kind="category")), target="y", task="binary"
)
DATASET = DatasetRef(
    digest="d" * 64,
    key="datasets/d.parquet",
    source="https://reader:pa55@files.example/rows.csv?token=pa55",
    row_schema=SCHEMA,
    rows=10,
    train_rows=8,
    holdout_rows=2,
)
CHECKS = CheckReport(
    passed=True,
    suite="demo",
    suite_digest="s",
    evaluated=3,
    failures=(Failure(severity="warning", expectation="values_between", column="n", message="n is too large"),),
)
ONNX = OnnxRef(
    candidate="xgboost", key="k", digest="o" * 64, size_bytes=1, model_id="m-1", run_id="r", passed=True, cases=(),
    predictions="p",
)  # fmt: skip
EVALUATION = Evaluation(
    primary="roc_auc",
    scores=(CandidateScore(candidate="xgboost", passed=True, reason="winner", metrics={"roc_auc": 0.9}),),
    winner="xgboost",
    dataset_digest="d" * 64,
)
VERSION = ModelVersionRef(
    name="demo", version=3, candidate="xgboost", model_id="m-1", run_id="r", onnx_key="k", onnx_digest="o" * 64,
    predictions="p",
)  # fmt: skip
PACKAGE = PackageRef(name="demo", version=3, key="k", digest="e" * 64)
ROLLOUT = RolloutRef(name="demo", version=3, digest="e" * 64, program="p", http="h:1", grpc="h:2")
WAIVER = Waiver(gate="calibration", by="A. Person", reason="known since spring", until=date(2999, 1, 1))
GATES = GateReport(
    passed=True,
    champion=None,
    verdicts=(
        Verdict(gate="quality", outcome="passed", reason="good", observed=0.93, bound=0.9),
        Verdict(gate="calibration", outcome="refused", reason="off", waiver=WAIVER),
    ),
)
PROMOTION = PromotionRef(name="demo", version=3, digest="e" * 64, previous=None, http="h:8000", grpc="h:8001")


def snapshot(spec: PipelineSpec, run: Run) -> DatasetRef:
    return DATASET


def check(spec: PipelineSpec, dataset: DatasetRef, run: Run) -> CheckReport:
    return CHECKS


def register(spec: PipelineSpec, evaluation: Evaluation, onnx: tuple[OnnxRef, ...], run: Run) -> ModelVersionRef:
    return VERSION


def gate(spec: PipelineSpec, dataset: DatasetRef, model: ModelVersionRef, rollout: RolloutRef, run: Run) -> GateReport:
    return GATES


def promote(
    spec: PipelineSpec, model: ModelVersionRef, package: PackageRef, rollout: RolloutRef, report: GateReport, run: Run
) -> PromotionRef:
    return PROMOTION


class Receiver:
    """A server that keeps every event it gets, and answers with the status `answer`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.answer = 201
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked.append((self.path, self.headers.get("Authorization")))
                receiver.events.append(json.loads(body))
                self.send_response(receiver.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def of(self, job: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["job"]["name"] == job]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


def run_of(settings: Settings, url: str, run_id: str = "r1", key: str | None = KEY) -> Run:
    told = {**settings.model_dump(), "openlineage_url": url, "openlineage_key": key}
    return Run(run_id, "demo", Settings.model_validate(told), settings.home / "specs" / "demo.yaml")


def finish(run: Run, **refs: Any) -> None:
    for task, ref in refs.items():
        run.finish(task, ref, 0.1)


FACETS = {
    found._get_schema(): found
    for module in vars(facet_v2).values()
    if inspect.ismodule(module)
    for found in vars(module).values()
    if inspect.isclass(found) and issubclass(found, facet_v2.BaseFacet)
}


def is_standard(event: dict[str, Any]) -> RunEvent:
    """The event by the standard's classes: each field is one of theirs, each facet is what its schema's URL names."""
    assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
    assert event["producer"].startswith("urn:slipway:")

    def facets(found: dict[str, Any]) -> dict[str, Any]:
        made = {}
        for name, facet in found.items():
            fields = {key: value for key, value in facet.items() if not key.startswith("_")}
            assert facet["_producer"] == event["producer"]
            kind = FACETS[facet["_schemaURL"]]
            if kind in (facet_v2.DatasetFacet, facet_v2.RunFacet):  # a facet of ours
                assert name.startswith("slipway_")
                made[name] = kind().with_additional_properties(**fields)
            else:
                made[name] = kind(**fields)
        return made

    def data(kind: type, found: dict[str, Any]) -> Any:
        found = dict(found)
        for key in ("facets", "inputFacets", "outputFacets"):
            if key in found:
                found[key] = facets(found[key])
        return kind(**found)

    return RunEvent(
        eventTime=event["eventTime"],
        eventType=RunState[event["eventType"]],
        producer=event["producer"],
        run=EventRun(event["run"]["runId"], facets(event["run"]["facets"])),
        job=Job(event["job"]["namespace"], event["job"]["name"], facets(event["job"]["facets"])),
        inputs=[data(InputDataset, found) for found in event["inputs"]],
        outputs=[data(OutputDataset, found) for found in event["outputs"]],
    )


def test_a_run_is_told_from_its_source_to_its_server(settings: Settings, receiver: Receiver) -> None:
    run = run_of(settings, receiver.url)
    execute(snapshot, SPEC, run)
    execute(check, SPEC, run)
    finish(run, evaluate=EVALUATION, export_xgboost=ONNX, package=PACKAGE, rollout=ROLLOUT)
    for step in (register, gate, promote):
        execute(step, SPEC, run)
    told = [(event["job"]["name"], event["eventType"]) for event in receiver.events]
    assert told == [
        ("demo", "START"),
        *(
            (f"demo.{step}", kind)
            for step in ("snapshot", "check", "register", "gate", "promote")
            for kind in ("START", "COMPLETE")
        ),
        ("demo", "COMPLETE"),
    ]
    assert set(receiver.asked) == {("/api/v1/lineage", f"Bearer {KEY}")}
    events = [is_standard(event) for event in receiver.events]
    assert {event.job.namespace for event in events} == {"slipway"}
    whole = events[0].run.runId
    parents = {event.run.facets["parent"].run["runId"] for event in events[1:-1]}
    assert parents == {whole}
    assert events[-1].run.runId == whole

    made = receiver.of("demo.snapshot")[1]
    assert made["inputs"][0]["namespace"] == "file"
    assert made["inputs"][0]["name"].endswith("specs/rows.csv")
    (rows,) = made["outputs"]
    assert (rows["namespace"], rows["name"]) == ("slipway", "demo.rows")
    assert rows["facets"]["version"]["datasetVersion"] == DATASET.digest
    named = [(field["name"], field["type"]) for field in rows["facets"]["schema"]["fields"]]
    assert named == [("n", "number"), ("c", "category"), ("y", "category")]

    (judged,) = receiver.of("demo.check")[1]["inputs"]
    assert (judged["namespace"], judged["name"]) == ("slipway", "demo.rows")  # what snapshot wrote, so it is one graph
    suite, failed = judged["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (suite["success"], suite["expected"], suite["actual"]) == (True, "3", "2")
    assert (failed["assertion"], failed["column"], failed["severity"]) == ("values_between", "n", "warn")

    end = receiver.of("demo.register")[1]
    assert [found["name"] for found in end["inputs"]] == ["demo.xgboost.onnx"]
    (version,) = end["outputs"]
    assert (version["namespace"], version["name"]) == (settings.mlflow_uri, "demo")
    assert version["facets"]["version"]["datasetVersion"] == "3"
    assert version["facets"]["datasetType"]["datasetType"] == "MODEL"
    assert version["facets"]["slipway_model"]["onnx"] == "o" * 64

    quality, calibration = receiver.of("demo.gate")[1]["run"]["facets"]["test"]["tests"]
    assert (quality["status"], quality["expected"], quality["actual"]) == ("pass", "0.9", "0.93")
    assert (calibration["status"], calibration["severity"]) == ("fail", "warn")
    (served,) = receiver.of("demo.promote")[1]["outputs"]
    assert (served["namespace"], served["name"]) == ("triton://h:8000", "demo")


def test_no_secret_is_told(settings: Settings, receiver: Receiver) -> None:
    def check(spec: PipelineSpec, dataset: DatasetRef, run: Run) -> CheckReport:
        raise Unavailable("no answer from postgresql://me:pa55@db/rows")

    run = run_of(settings, receiver.url)
    execute(snapshot, SPEC, run)
    with pytest.raises(Unavailable):
        execute(check, SPEC, run)
    told = json.dumps(receiver.events)
    assert "files.example" in told
    assert "no answer from" in told
    assert "pa55" not in told
    assert KEY not in told


@pytest.mark.parametrize(
    ("error", "kind", "ends"),
    [(Rejected("no"), "ABORT", True), (Invalid("wrong"), "FAIL", True), (Unavailable("away"), "FAIL", False), (MemoryError(), "FAIL", False)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_how_a_step_ends_is_told(
    settings: Settings, receiver: Receiver, error: BaseException, kind: str, ends: bool
) -> None:
    def register(spec: PipelineSpec, evaluation: Evaluation, onnx: tuple[OnnxRef, ...], run: Run) -> ModelVersionRef:
        raise error

    run = run_of(settings, receiver.url)
    finish(run, evaluate=EVALUATION, export_xgboost=ONNX)
    with pytest.raises(type(error)):
        execute(register, SPEC, run)
    begun, ended, *whole = receiver.events
    assert (begun["eventType"], ended["eventType"]) == ("START", kind)
    assert is_standard(ended).run.facets["errorMessage"].message == (str(error) or "MemoryError")
    assert ended["outputs"] == []
    assert [(event["job"]["name"], event["eventType"]) for event in whole] == ([("demo", kind)] if ends else [])


def test_a_step_that_is_run_again_tells_of_the_same_run(settings: Settings, receiver: Receiver) -> None:
    run, tries = run_of(settings, receiver.url), []

    def snapshot(spec: PipelineSpec, run: Run) -> DatasetRef:
        tries.append(1)
        if len(tries) == 1:
            raise Unavailable("away")
        return DATASET

    with pytest.raises(Unavailable):
        execute(snapshot, SPEC, run)
    execute(snapshot, SPEC, run)
    execute(snapshot, SPEC, run_of(settings, receiver.url, "r2"))
    told = [(event["eventType"], event["run"]["runId"]) for event in receiver.of("demo.snapshot")]
    assert [kind for kind, _ in told] == ["START", "FAIL", "START", "COMPLETE", "START", "COMPLETE"]
    assert len({run_id for _, run_id in told[:4]}) == 1
    assert told[4][1] != told[0][1]
    assert all(uuid.UUID(run_id) for _, run_id in told)
    count = len(receiver.events)
    execute(snapshot, SPEC, run)  # is done already
    assert len(receiver.events) == count


@contextmanager
def silent() -> Iterator[socket.socket]:
    """A server to which clients can connect and which never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield listening


def connections(server: socket.socket) -> int:
    """Return how many clients wait for the server."""
    server.setblocking(False)
    found = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            found += 1
    return found


def test_a_receiver_that_hangs_holds_nothing_up(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with silent() as server:
        assert execute(snapshot, SPEC, run_of(settings, f"http://127.0.0.1:{server.getsockname()[1]}")) == DATASET
        assert 1 <= connections(server) < 3  # of the three events, not all are waited for
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "OpenLineage receiver" in warning.getMessage()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "no url at all", "http://me:pa55@nowhere.invalid", "ftp://127.0.0.1"]
)
def test_a_receiver_that_is_not_there_is_one_line(
    settings: Settings, caplog: pytest.LogCaptureFixture, url: str
) -> None:
    caplog.set_level(logging.DEBUG)
    assert execute(snapshot, SPEC, run_of(settings, url)) == DATASET
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warning.name == "slipway"
    assert KEY not in caplog.text
    assert "pa55" not in warning.getMessage()


def test_a_receiver_that_refuses_is_one_line(
    settings: Settings, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.answer = 401
    assert execute(snapshot, SPEC, run_of(settings, receiver.url)) == DATASET
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "401" in warning.getMessage()
    assert KEY not in caplog.text
    assert len(receiver.events) == 3  # each is tried once


def test_without_a_receiver_nothing_of_it_is_loaded(settings: Settings, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.step import execute; from pipeline.run import Run; from pipeline.settings import Settings\n"
        "from pipeline.refs import DatasetRef; from pipeline.spec import PipelineSpec\n"
        "from pipeline.spec_file import parse_spec\n"
        "def snapshot(spec: PipelineSpec, run: Run) -> DatasetRef:\n"
        "    return DatasetRef.model_validate_json(sys.argv[2])\n"
        "spec = parse_spec(sys.argv[3], 'demo.yaml')\n"
        "execute(snapshot, spec, Run('r', 'demo', Settings(home=Path(sys.argv[1])), Path('demo.yaml')))\n"
        "print('openlineage' in sys.modules)\n"
    )
    text = "version: 1\nname: demo\ntask: {kind: binary}\ndata: {source: rows.csv, target: y}\ncandidates: [{kind: xgboost}]\n"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), DATASET.model_dump_json(), text],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"
