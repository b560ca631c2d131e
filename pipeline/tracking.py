"""Tracking in MLflow: runs, their inputs, parameters, metrics and artifacts (the door to mlflow, with registry.py).

Every method raises Unavailable when the server does not answer (a retry helps), Invalid when it refuses the call.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.errors import Invalid, SlipwayError, Unavailable
from pipeline.refs import DatasetRef
from pipeline.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

    from pipeline.run import Run
    from pipeline.spec import PipelineSpec

Status = Literal["RUNNING", "FINISHED", "FAILED"]
RUN, KIND, CANDIDATE, PARENT = "slipway.run", "slipway.kind", "slipway.candidate", "mlflow.parentRunId"
_BATCH = 1000  # metrics, parameters and tags that one log-batch call may hold
_TAGS = 100  # parameters or tags that one log-batch call may hold
_DIGEST = 36  # the longest dataset digest that MLflow keeps
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class TrialRecord:
    """One Optuna trial: `value` is the primary metric (None when it did not finish), `curve` its value by epoch."""

    number: int
    params: Mapping[str, object]
    value: float | None
    state: str
    seconds: float
    curve: tuple[float, ...] = ()


class Tracking:
    """The tracking server of `settings.mlflow_uri`."""

    def __init__(self, settings: Settings) -> None:
        self.uri = settings.mlflow_uri
        for name, value in {**_QUIET, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(settings.timeout_s))}.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: PLC0415 (a second; only who asks for the registry pays it)

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.uri)  # the proxy of artifacts resolves its address from here
        self._client: MlflowClient = mlflow.MlflowClient(self.uri, self.uri)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415
        from requests import RequestException  # noqa: PLC0415

        try:
            yield
        except RequestException as error:
            status = getattr(error.response, "status_code", None)  # of the proxy of artifacts
            raise self._failure({401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}.get(status or 0, "")) from error
        except MlflowException as error:
            raise self._failure(error.error_code, _first_line(error)) from error

    def _failure(self, code: str, said: str = "") -> SlipwayError:
        """What a call came to that MLflow did not do."""
        if code == "PERMISSION_DENIED":
            remedy = "see MLFLOW_TRACKING_USERNAME: the promoter alone writes the registry"
            return Invalid("MLflow does not let this user do it", self.uri, remedy)
        if code == "UNAUTHENTICATED":  # a retry is a new pod, which has the password of now
            remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; after a change, restart MLflow"
            return Unavailable("MLflow does not know this user by this password", self.uri, remedy)
        if code in ("INVALID_PARAMETER_VALUE", "INVALID_STATE", "RESOURCE_DOES_NOT_EXIST"):
            return Invalid(f"MLflow refused: {said}", self.uri, "correct the call")
        what = f"MLflow does not answer: {said}" if said else "MLflow does not answer"
        return Unavailable(what, self.uri, "start it with `slipway up`, or set SLIPWAY_MLFLOW_URI")

    def pipeline_run(self, run: Run, spec: PipelineSpec) -> str:
        """Id of the MLflow run of this pipeline run; created, with spec and description, when first asked for."""
        with self._answering():
            experiment = self._experiment(spec.name)
            found = self._find(experiment, {RUN: run.id, KIND: "pipeline"})
            if found:
                if found[0].info.status != "RUNNING":
                    self._client.update_run(found[0].info.run_id, status="RUNNING")
                return str(found[0].info.run_id)
            tags = {
                RUN: run.id,
                KIND: "pipeline",
                "slipway.pipeline": spec.name,
                "slipway.spec": spec.digest,
                "mlflow.source.name": str(run.spec_path),
                "mlflow.note.content": escape(spec.description, quote=False) or f"Pipeline run {run.id} of {spec.name}",
                **{f"slipway.tag.{tag}": "true" for tag in spec.tags},
            }
            created = self._client.create_run(experiment, run_name=run.id, tags=tags)
            run_id = str(created.info.run_id)
            self._client.log_text(run_id, spec.model_dump_json(indent=2), "spec/spec.json")
            if run.spec_path.is_file():
                self._client.log_artifact(run_id, str(run.spec_path), "spec")
            self.log(run_id, params={"task": spec.task.kind, "target": spec.data.target, "seed": spec.seed})
            return run_id

    def find_pipeline_run(self, run: Run) -> str | None:
        """Id of the MLflow run of this pipeline run, or None when it has none yet."""
        url = self.run_url(run)
        return url.rsplit("/", 1)[-1] if url else None

    def run_url(self, run: Run) -> str | None:
        """Address of the pipeline run's page in the MLflow UI, or None when it has none."""
        with self._answering():
            experiment = self._client.get_experiment_by_name(run.pipeline)
            found = self._find(experiment.experiment_id, {RUN: run.id, KIND: "pipeline"}) if experiment else []
            if not found:
                return None
            return f"{self.uri}/#/experiments/{experiment.experiment_id}/runs/{found[0].info.run_id}"

    def candidate_run(self, run: Run, spec: PipelineSpec, candidate: str) -> str:
        """Id of a fresh nested run of a candidate; one that an interrupted attempt left is deleted."""
        tags = {KIND: "candidate", CANDIDATE: candidate, "slipway.model": spec.candidate(candidate).kind}
        return self._nested(run, spec, candidate, tags)

    def serving_run(self, run: Run, spec: PipelineSpec) -> str:
        """Id of a fresh nested run of the search for serving options, as `candidate_run`."""
        return self._nested(run, spec, "serving", {KIND: "serving"})

    def _nested(self, run: Run, spec: PipelineSpec, name: str, tags: Mapping[str, str]) -> str:
        parent = self.pipeline_run(run, spec)
        with self._answering():
            experiment = self._experiment(spec.name)
            for old in self._find(experiment, {RUN: run.id, **tags}):
                self._client.delete_run(old.info.run_id)
            every = {RUN: run.id, PARENT: parent, **tags}
            return str(self._client.create_run(experiment, run_name=name, tags=every).info.run_id)

    def log_trials(self, parent_run_id: str, trials: Sequence[TrialRecord]) -> None:
        """A nested run for each trial, with its parameters, value and curve; a few at a time."""
        with self._answering():
            parent = self._client.get_run(parent_run_id)
            now = int(time.time() * 1000)

            def log(trial: TrialRecord) -> None:
                tags = {RUN: parent.data.tags.get(RUN, ""), KIND: "trial", PARENT: parent_run_id}
                tags["slipway.state"] = trial.state
                begin = now - int(trial.seconds * 1000)
                created = self._client.create_run(
                    parent.info.experiment_id, start_time=begin, tags=tags, run_name=f"trial {trial.number}"
                )
                values = {"seconds": trial.seconds} | ({} if trial.value is None else {"value": trial.value})
                self.log(created.info.run_id, values, trial.params, series={"validation": trial.curve})
                self._client.set_terminated(created.info.run_id, "FINISHED", end_time=now)

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(log, trials))

    def log(
        self,
        run_id: str,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        series: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """All of it in as few calls as MLflow's limits allow; `series` are metrics by step (an epoch, a round)."""
        from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, 0) for key, value in (metrics or {}).items()]
        for key, values in (series or {}).items():
            points += [Metric(key, float(value), now, at) for at, value in enumerate(values)]
        pairs = [Param(key, str(value)) for key, value in (params or {}).items()]
        labels = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
        with self._answering():
            while points or pairs or labels:
                room = _BATCH - min(len(pairs), _TAGS) - min(len(labels), _TAGS)
                self._client.log_batch(run_id, points[:room], pairs[:_TAGS], labels[:_TAGS])
                points, pairs, labels = points[room:], pairs[_TAGS:], labels[_TAGS:]

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Metrics of a run, in one call."""
        self.log(run_id, metrics)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Tags of a run, in one call."""
        self.log(run_id, tags=tags)

    def find_tag(self, run_id: str, key: str) -> str | None:
        """The value of a run's tag, or None."""
        with self._answering():
            value = self._client.get_run(run_id).data.tags.get(key)
            return None if value is None else str(value)

    def finish(self, run_id: str, status: Status) -> None:
        """Mark a run as ended."""
        with self._answering():
            self._client.set_terminated(run_id, status)

    def log_figure(self, run_id: str, figure: Figure, path: str, *others: str) -> None:
        """A matplotlib figure as an image artifact of one or several runs, drawn once (`savefig` draws it twice)."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.image import imsave  # noqa: PLC0415

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        with self._answering(), tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
            folder, _, name = path.rpartition("/")
            image = Path(scratch) / name
            # a third of the time, 1.2 times the size
            imsave(image, canvas.buffer_rgba(), pil_kwargs={"compress_level": 1})
            for one in (run_id, *others):
                self._client.log_artifact(one, str(image), folder or None)

    def log_text(self, run_id: str, text: str, path: str) -> None:
        """A text artifact."""
        with self._answering():
            self._client.log_text(run_id, text, path)

    def log_file(self, run_id: str, file: Path, folder: str = "") -> None:
        """A file as an artifact, below `folder`."""
        with self._answering():
            self._client.log_artifact(run_id, str(file), folder or None)

    def log_folder(self, run_id: str, local: Path, folder: str) -> None:
        """Everything below a folder as artifacts, below `folder`."""
        with self._answering():
            self._client.log_artifacts(run_id, str(local), folder)

    def log_dataset(self, run_id: str, dataset: DatasetRef, context: str = "training") -> None:
        """The snapshot as a dataset input of a run: digest, source, schema and sizes. Logging it twice is once."""
        from mlflow.entities import Dataset, DatasetInput, InputTag  # noqa: PLC0415

        types = {"number": "double", "boolean": "boolean", "category": "string", "timestamp": "datetime"}
        columns: list[dict[str, object]] = [
            {"name": column.name, "type": types[column.kind], "required": False}
            for column in dataset.row_schema.columns
        ]
        target = "double" if dataset.row_schema.task == "regression" else "string"
        columns.append({"name": dataset.row_schema.target, "type": target, "required": True})
        entity = Dataset(
            name=dataset.source.rsplit("/", 1)[-1][-200:] or "rows",
            digest=dataset.digest[:_DIGEST],
            source_type="slipway",
            source=json.dumps({"uri": dataset.source, "key": dataset.key, "sha256": dataset.digest}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(
                {"num_rows": dataset.rows, "train_rows": dataset.train_rows, "holdout_rows": dataset.holdout_rows}
            ),
        )
        with self._answering():
            inputs = [DatasetInput(entity, [InputTag("mlflow.data.context", context)])]
            self._client.log_inputs(run_id, datasets=inputs)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        if found := self._client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise  # another process came first otherwise
            return self._experiment(name)

    def _find(self, experiment: str, tags: Mapping[str, str]) -> list[MlflowRun]:
        condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return list(self._client.search_runs([experiment], condition))


def _first_line(error: Exception) -> str:
    if "HTTPConnectionPool" in str(error) or "HTTPSConnectionPool" in str(error):
        return "no connection"
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]
