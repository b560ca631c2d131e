"""MLflow, behind one door: on top of tracking, logged models, versions and aliases.

Every method raises Unavailable when the server does not answer (a retry helps), Invalid when it refuses the call.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.columns import RowSchema
from pipeline.errors import Invalid
from pipeline.frozen import Frozen
from pipeline.tracking import KIND, RUN, Tracking, TrialRecord

__all__ = ["Registry", "TrialRecord"]
PAGE = 1000  # what one search may answer
_LAST = 2**31 - 1  # number of a version, as databases keep it
_EXPERIMENTS = 200  # that one search is asked about


class Version(Frozen):
    """A version in the registry, with the MLflow run that made it."""

    name: str
    version: int
    run_id: str
    tags: dict[str, str]

    @property
    def id(self) -> str:
        """Its node in a lineage."""
        return f"version/{self.name}/{self.version}"


class RunTags(Frozen):
    """A pipeline run as MLflow keeps it; `started` is in epoch milliseconds."""

    run_id: str
    started: int
    tags: dict[str, str]
    is_running: bool = False


class Registry(Tracking):
    """The tracking server and model registry of `settings.mlflow_uri`."""

    def log_native(self, run_id: str, name: str, folder: Path, kind: str) -> str:
        """The native model's files as a logged model of a run; its id. XGBoost loads by `mlflow.xgboost`."""
        flavors: dict[str, dict[str, Any]] = {kind: {"data": ".", "code": None}}
        if kind == "xgboost":
            flavors[kind] |= {
                "data": "model.ubj",
                "model_class": "xgboost.core.Booster",
                "model_format": "ubj",
                "xgb_version": _version("xgboost", "xgboost-cpu"),
            }
        return self._log_model(run_id, name, folder, flavors, kind, {})

    def log_onnx(self, run_id: str, name: str, onnx_path: Path, row_schema: RowSchema, digest: str) -> str:
        """The ONNX graph, byte for byte, as a logged model that `mlflow.onnx` loads; its id."""
        cpu = ["CPUExecutionProvider"]
        flavor = {"onnx_version": _version("onnx"), "data": "model.onnx", "providers": cpu, "code": None}
        with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
            shutil.copyfile(onnx_path, Path(folder) / "model.onnx")
            (Path(folder) / "columns.json").write_text(row_schema.model_dump_json(indent=1), encoding="utf-8")
            return self._log_model(run_id, name, Path(folder), {"onnx": flavor}, "onnx", {"slipway.onnx": digest})

    def _log_model(
        self, run_id: str, name: str, folder: Path, flavors: dict[str, dict[str, Any]], kind: str, tags: dict[str, str]
    ) -> str:
        from mlflow.entities import LoggedModelOutput  # noqa: PLC0415
        from mlflow.models import Model  # noqa: PLC0415

        with self._answering(), tempfile.TemporaryDirectory(prefix="slipway-") as scratch:
            experiment = self._client.get_run(run_id).info.experiment_id
            model = self._client.create_logged_model(experiment, name, run_id, tags, {}, kind)
            staged = shutil.copytree(folder, Path(scratch) / "model")
            description = Model(run_id=run_id, model_id=model.model_id, artifact_path=model.artifact_location)
            for flavor, options in flavors.items():
                description.add_flavor(flavor, **options)
            description.save(str(staged / "MLmodel"))
            self._client.log_model_artifacts(model.model_id, str(staged))
            self._client.finalize_logged_model(model.model_id, "READY")
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            return str(model.model_id)

    def register(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str]) -> int:
        """A version of the registered model `name`; the one of the same `slipway.run` when there is one."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        with self._answering():
            try:
                self._client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            for found in self._client.search_model_versions(f"name = '{name}' and tags.`{RUN}` = '{tags[RUN]}'"):
                return int(found.version)
            created = self._client.create_model_version(
                name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id
            )
            return int(created.version)

    def alias(self, name: str, alias: str) -> int | None:
        """The version that an alias names, or None."""
        return self.aliases(name).get(alias)

    def aliases(self, name: str) -> dict[str, int]:
        """Every alias of a registered model and its version; none when the model is not registered."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        with self._answering():
            try:
                found = self._client.get_registered_model(name).aliases
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise
            return {key: int(version) for key, version in found.items()}

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Move an alias to a version."""
        with self._answering():
            self._client.set_registered_model_alias(name, alias, str(version))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias, if it is there."""
        with self._answering():
            self._client.delete_registered_model_alias(name, alias)

    def version(self, name: str, version: int) -> Version:
        """A version of a registered model. Raises Invalid when there is none."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        absent = Invalid(f"there is no version {version} of {name!r}", self.uri, "see `slipway status`")
        if version > _LAST:
            raise absent
        with self._answering():
            try:
                found = self._client.get_model_version(name, str(version))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise absent from error
        return Version(name=name, version=version, run_id=str(found.run_id), tags=dict(found.tags))

    def versions(self, condition: str = "") -> tuple[Version, ...]:
        """Every version that a filter of MLflow's search finds, by name and number; all of them by default."""
        with self._answering():
            found = _pages(partial(self._client.search_model_versions, condition, PAGE))
        made = [
            Version(name=one.name, version=int(one.version), run_id=str(one.run_id), tags=dict(one.tags))
            for one in found
        ]
        return tuple(sorted(made, key=lambda one: (one.name, one.version)))

    def models(self) -> dict[str, dict[str, int]]:
        """The name of each registered model, with its aliases and their versions."""
        with self._answering():
            found = _pages(partial(self._client.search_registered_models, None, PAGE))
        return {
            str(one.name): {alias: int(version) for alias, version in one.aliases.items()}
            for one in sorted(found, key=lambda one: str(one.name))
        }

    def pipeline_runs(self, condition: str) -> tuple[RunTags, ...]:
        """The pipeline runs that a filter of MLflow's search finds, in every experiment, the oldest first."""
        with self._answering():
            experiments = _pages(partial(self._client.search_experiments, max_results=PAGE))
            ids = [str(one.experiment_id) for one in experiments]
            condition = f"tags.`{KIND}` = 'pipeline' and {condition}"
            order = ["attributes.start_time ASC"]
            found: list[Any] = []
            for at in range(0, len(ids), _EXPERIMENTS):
                some = ids[at : at + _EXPERIMENTS]
                found += _pages(partial(self._client.search_runs, some, condition, max_results=PAGE, order_by=order))
        return tuple(
            RunTags(
                run_id=str(one.info.run_id),
                started=int(one.info.start_time),
                tags=dict(one.data.tags),
                is_running=one.info.status == "RUNNING",
            )
            for one in found
        )

    def run_of(self, run_id: str) -> str | None:
        """The pipeline run to which an MLflow run belongs; None when there is no such run, or it is another's."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        with self._answering():
            try:
                value = self._client.get_run(run_id).data.tags.get(RUN)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                value = None
        return None if value is None else str(value)

    def download(self, name: str, version: int, folder: Path) -> str:
        """All that MLflow keeps of a version's making, and the id of the logged model that the version is.

        `folder/models/ID` has each logged model of the run that trained it, `folder/runs/ID` the artifacts of that run
        and of the pipeline run that it belongs to.
        """
        from mlflow.artifacts import download_artifacts  # noqa: PLC0415

        with self._answering():
            found = self._client.get_model_version(name, str(version))
            run = self._client.get_run(found.run_id)
            runs = {str(found.run_id), run.data.tags.get("mlflow.parentRunId", str(found.run_id))}
            outputs = run.outputs.model_outputs if run.outputs else ()
            model_id = str(found.source).removeprefix("models:/")
            models = {model_id, *(str(output.model_id) for output in outputs)}
            for kind, prefix, ids in (("models", "models:/", models), ("runs", "runs:/", runs)):
                for one in sorted(ids):
                    (folder / kind / one).mkdir(parents=True)
                    uri = f"{prefix}{one}/" if kind == "runs" else f"{prefix}{one}"
                    download_artifacts(uri, dst_path=str(folder / kind / one), tracking_uri=self.uri)
        return model_id

    def version_tags(self, name: str, version: int) -> dict[str, str]:
        """Tags of a version. Raises Invalid when there is no such version."""
        return self.version(name, version).tags

    def set_version_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._answering():
            for key, value in tags.items():
                self._client.set_model_version_tag(name, str(version), key, value)

    def describe(self, name: str, version: int, text: str) -> None:
        """Set what MLflow shows of a version: a few lines of Markdown."""
        with self._answering():
            self._client.update_model_version(name, str(version), text)


def _pages(search: Callable[..., Any]) -> list[Any]:
    """All that a search finds, page by page."""
    found, token = [], None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _version(*names: str) -> str:
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"
