"""What each step does, told to an OpenLineage receiver as it happens. The one importer of openlineage.

No step waits for it or fails by it: events go out on a thread of their own, and one that does not arrive is a line in
the log. A step that runs again tells of the same run again: run ids follow from run and task.
"""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import urlsplit

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, RunEvent, RunState, set_producer
from openlineage.client.event_v2 import Run as EventRun
from openlineage.client.facet_v2 import (
    DatasetFacet,
    data_quality_assertions_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    datasource_dataset,
    error_message_run,
    job_type_job,
    parent_run,
    schema_dataset,
    test_run,
)
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider

from pipeline import refs
from pipeline.errors import Invalid, Rejected
from pipeline.frozen import Frozen
from pipeline.graph import STEPS, Task
from pipeline.mask import mask, one_line
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec import PipelineSpec

TIMEOUT_S = 2.0  # for one event, and again for what is still to be sent when the step has ended
NO_RETRY = {"total": 0, "connect": 0, "read": 0}
Direction = type[InputDataset] | type[OutputDataset]
Kind = Literal["START", "COMPLETE", "FAIL", "ABORT"]


@contextmanager
def told(run: Run, spec: PipelineSpec, task: Task, read: Mapping[str, object]) -> Iterator[Callable[[Frozen], None]]:
    """Tell of the step inside: that it starts, reading `read`; how it ends, and what it wrote when that is handed over.

    Never raises of its own accord.
    """
    sender = Sender(run.settings, run.log)
    tale = Tale(run, spec, task, tuple(read.values()))
    wrote: list[Frozen] = []
    sender.tell(tale, "START")
    try:
        yield wrote.append
    except BaseException as error:
        sender.tell(tale, "ABORT" if isinstance(error, Rejected) else "FAIL", error=error)
        raise
    else:
        sender.tell(tale, "COMPLETE", wrote=tuple(wrote))
    finally:
        sender.close()


class Sender:
    """Sends events in their order, beside the step; the first one that does not arrive is warned of."""

    def __init__(self, settings: Settings, log: logging.Logger) -> None:
        self._settings, self._log, self._warned = settings, log, False
        self._waiting: queue.SimpleQueue[list[Callable[[], RunEvent]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="openlineage", daemon=True)
        self._thread.start()

    def tell(self, tale: Tale, kind: Kind, wrote: tuple[Frozen, ...] = (), error: BaseException | None = None) -> None:
        """Send what has happened by now, soon."""
        at = datetime.now(UTC).isoformat()
        self._waiting.put([partial(tale.event, kind, at, key, wrote, error) for key in tale.told(kind, error)])

    def close(self) -> None:
        """Return when everything is sent, or when it takes too long."""
        self._waiting.put(None)
        self._thread.join(TIMEOUT_S)
        if self._thread.is_alive():
            self._warn(f"no answer in {TIMEOUT_S:g} s")

    def _work(self) -> None:
        key = self._settings.openlineage_key
        secret = key.get_secret_value() if key else ""
        try:
            transport = _transport(self._settings.openlineage_url, secret)
        except ValueError as error:
            self._warn(one_line(error, secret))
            return
        while (made := self._waiting.get()) is not None:
            for event in made:
                try:
                    transport.emit(event())
                except Exception as error:  # noqa: BLE001 (whatever the client raises, no report may end a step)
                    self._warn(one_line(error, secret))
        transport.close()

    def _warn(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            where = mask(self._settings.openlineage_url)
            self._log.warning("OpenLineage receiver %s was not told of this step: %s", where, why)


def _transport(url: str, key: str) -> HttpTransport:
    auth = ApiKeyTokenProvider({"api_key": key}) if key else TokenProvider({})
    return HttpTransport(HttpConfig(url=url, timeout=TIMEOUT_S, auth=auth, retry=NO_RETRY))


class Tale:
    """The events of one task of a run, and of the run as a whole where it begins and ends."""

    def __init__(self, run: Run, spec: PipelineSpec, task: Task, read: tuple[object, ...]) -> None:
        self._run, self._spec, self._task, self._read = run, spec, task, read
        self._namespace = run.settings.release

    def told(self, kind: Kind, error: BaseException | None) -> tuple[str | None, ...]:
        """Of what an event is due: of the task; where the run begins and ends, also of the run, which is None."""
        key, first, last = self._task.key, STEPS[0], STEPS[-1]
        if kind == "START":
            return (None, key) if self._task.step is first else (key,)
        ends = isinstance(error, Invalid | Rejected) or (error is None and self._task.step is last)
        return (key, None) if ends else (key,)

    def event(
        self, kind: Kind, at: str, key: str | None, wrote: tuple[Frozen, ...] = (), error: BaseException | None = None
    ) -> RunEvent:
        """One event of the task of this key, or of the whole run."""
        set_producer(f"urn:slipway:{version('slipway')}")
        facets: dict[str, Any] = {}
        pipeline = self._run.pipeline
        if key is not None:
            run, job = parent_run.Run(self._id(None)), parent_run.Job(self._namespace, pipeline)
            root = parent_run.Root(parent_run.RootRun(self._id(None)), parent_run.RootJob(self._namespace, pipeline))
            facets["parent"] = parent_run.ParentRunFacet(run=run, job=job, root=root)
        if error is not None:
            said = mask(str(error) or type(error).__name__)
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(said, "PYTHON")
        for report in wrote:
            if isinstance(report, refs.GateReport):
                facets["test"] = test_run.TestRunFacet(tests=[_test(verdict) for verdict in report.verdicts])
        kind_of_job = job_type_job.JobTypeJobFacet("BATCH", "SLIPWAY", "DAG" if key is None else "TASK")
        return RunEvent(
            eventTime=at,
            eventType=RunState[kind],
            run=EventRun(self._id(key), facets),
            job=Job(self._namespace, pipeline if key is None else f"{pipeline}.{key}", {"jobType": kind_of_job}),
            inputs=[] if key is None else self._inputs(wrote),
            outputs=[
                made for ref in wrote if key is not None and (made := self._dataset(ref, OutputDataset)) is not None
            ],
        )

    def _id(self, key: str | None) -> str:
        name = f"slipway/{self._namespace}/{self._run.pipeline}/{self._run.id}/{key or ''}"
        return str(uuid.uuid5(uuid.NAMESPACE_URL, name))

    def _inputs(self, wrote: tuple[Frozen, ...]) -> list[InputDataset]:
        if self._task.step is STEPS[0]:
            source = mask(self._spec.data.source)
            if "://" not in source:
                source = str(self._run.spec_path.parent / source)
            namespace, name = _place(source, self._spec.data.table)
            return [InputDataset(namespace, name, facets={"dataSource": _source(source)})]
        read = [ref for value in self._read for ref in (value if isinstance(value, tuple) else (value,))]
        found = [(ref, made) for ref in read if (made := self._dataset(ref, InputDataset)) is not None]
        for report in wrote:
            if isinstance(report, refs.CheckReport):
                for ref, made in found:
                    if isinstance(ref, refs.DatasetRef):
                        made.inputFacets = {"dataQualityAssertions": _assertions(report)}
        return [made for _, made in found]

    def _dataset(self, ref: object, direction: Direction) -> Any:
        """The reference as a dataset of OpenLineage; None when it is a verdict and no data."""
        pipeline, namespace = self._run.pipeline, self._namespace
        match ref:
            case refs.DatasetRef():
                facets = {"schema": _schema(ref), "dataSource": _source(mask(ref.source))}
                return direction(namespace, f"{pipeline}.rows", facets=facets | _typed("FILE", "parquet", ref.digest))
            case refs.LoggedModelRef():
                name, facts = f"{pipeline}.{ref.candidate}", {"logged_model": ref.model_id}
                return direction(namespace, name, facets=_model(ref.kind, ref.digest, facts))
            case refs.OnnxRef():
                name, facts = f"{pipeline}.{ref.candidate}.onnx", {"logged_model": ref.model_id}
                return direction(namespace, name, facets=_model("onnx", ref.digest, facts))
            case refs.ModelVersionRef():
                facts = {"onnx": ref.onnx_digest, "logged_model": ref.model_id, "candidate": ref.candidate}
                registry = mask(self._run.settings.mlflow_uri)
                return direction(registry, ref.name, facets=_model("registered", str(ref.version), facts))
            case refs.PackageRef():
                facts = {"version": str(ref.version)}
                return direction(namespace, f"{pipeline}.package", facets=_model("package", ref.digest, facts))
            case refs.RolloutRef() | refs.PromotionRef():
                facts = {"version": str(ref.version)}
                return direction(f"triton://{ref.http}", ref.name, facets=_model("served", ref.digest, facts))
        return None


def _place(source: str, table: str | None) -> tuple[str, str]:
    """Namespace and name of a source, as OpenLineage names data: its server, then its path and table."""
    parts = urlsplit(source)
    path = "/".join(filter(None, (parts.path.strip("/") if parts.scheme else source, table)))
    if not parts.scheme:
        return "file", path
    server = parts.netloc.rpartition("@")[2]
    return (f"{parts.scheme}://{server}", path) if path else (parts.scheme, server)


def _source(shown: str) -> Any:
    return datasource_dataset.DatasourceDatasetFacet(name=shown, uri=shown)


def _schema(ref: refs.DatasetRef) -> Any:
    schema = ref.row_schema
    target = "number" if schema.task == "regression" else "category"
    named = [*((column.name, str(column.kind)) for column in schema.columns), (schema.target, target)]
    field = schema_dataset.SchemaDatasetFacetFields
    return schema_dataset.SchemaDatasetFacet([field(name, kind, None, at) for at, (name, kind) in enumerate(named, 1)])


def _typed(kind: str, sub: str, number: str) -> dict[str, Any]:
    return {
        "datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(kind, sub),
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(number),
    }


def _model(sub: str, number: str, facts: Mapping[str, str]) -> dict[str, Any]:
    """A model's facets; what the standard has no field for stands in one of ours, which is a plain DatasetFacet."""
    return _typed("MODEL", sub, number) | {"slipway_model": DatasetFacet().with_additional_properties(**facts)}


def _assertions(report: refs.CheckReport) -> Any:
    assertion = data_quality_assertions_dataset.Assertion
    met = f"{report.evaluated - len(report.failures)}"
    suite = assertion("suite", report.passed, name=report.suite, expected=str(report.evaluated), actual=met)
    failed = [
        assertion(
            failure.expectation,
            success=False,
            column=failure.column,
            severity="error" if failure.severity == "critical" else "warn",
            description=failure.message,
        )
        for failure in report.failures
    ]
    return data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet([suite, *failed])


def _test(verdict: refs.Verdict) -> Any:
    return test_run.TestExecution(
        name=verdict.gate,
        status="pass" if verdict.passed else "fail",
        severity="warn" if verdict.waiver else "error",
        type="gate",
        description=f"{verdict.shown}: {verdict.why}",
        expected=None if verdict.bound is None else f"{verdict.bound:g}",
        actual=None if verdict.observed is None else f"{verdict.observed:g}",
    )
