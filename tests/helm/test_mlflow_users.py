"""The two users that the chart makes in MLflow, on a real MLflow behind its authentication: what each may do.

The files are those of the chart's ConfigMap, run as its pod runs them; the database alone is SQLite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pipeline.columns import RowSchema
from pipeline.errors import Invalid, Unavailable
from pipeline.refs import DatasetRef
from pipeline.registry import Registry, TrialRecord
from pipeline.run import Run
from pipeline.settings import Settings
from pipeline.spec_file import load_spec
from tests.helm.charts import EXTERNAL, find, render
from tests.support.polling import wait_for
from tests.support.ports import worker_port

pytestmark = [pytest.mark.stack, pytest.mark.helm]
Become = Callable[[tuple[str, str]], Registry]
ADMIN, STEPS = ("admin", "the administrator's"), ("steps", "the password of steps")
SPEC = """version: 1
name: demo
task: {kind: regression}
data: {source: rows.csv, target: y}
candidates: [{kind: xgboost}]
"""


@dataclass(frozen=True)
class Server:
    """MLflow as the chart starts it."""

    settings: Settings
    environment: dict[str, str]
    files: Path

    def make_users(self, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(self.files / "users.py")]
        return subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, check=False, timeout=120
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    database = f"sqlite:///{folder}/mlflow.db"
    (config,) = find(render(EXTERNAL), "ConfigMap", "slipway-mlflow")
    for name, text in config["data"].items():
        lines = [
            f"database_uri = {database}" if line.startswith("database_uri") else line for line in text.splitlines()
        ]
        (folder / name).write_text("\n".join(lines))
    port = worker_port()
    environment = {
        **os.environ,
        "DATABASE": database,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        **{"MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0], "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1]},
        **{"STEPS_USERNAME": STEPS[0], "STEPS_PASSWORD": STEPS[1]},
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    made = Server(Settings(mlflow_uri=f"http://127.0.0.1:{port}", store=str(folder / "store")), environment, folder)
    mlflow = [sys.executable, "-m", "mlflow"]
    subprocess.run([*mlflow, "db", "upgrade", database], env=environment, check=True, capture_output=True)
    for _ in range(2):  # as after a restart of the pod
        done = made.make_users()
        assert done.returncode == 0, done.stderr
    command = [*mlflow, "server", "--app-name=basic-auth", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [f"--backend-store-uri={database}", f"--artifacts-destination={folder / 'artifacts'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            wait_for(
                lambda: process.poll() is not None or _is_up(made.settings.mlflow_uri),
                lambda: (folder / "log").read_text()[-2000:],
                seconds=120,
            )
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            yield made
        finally:
            process.terminate()
            process.wait(30)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def become(server: Server, monkeypatch: pytest.MonkeyPatch) -> Become:
    """A registry as one of the two."""

    def _become(user: tuple[str, str]) -> Registry:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])
        return Registry(server.settings)

    return _become


@pytest.fixture
def rows() -> RowSchema:
    return RowSchema.model_validate_json(
        json.dumps({"columns": [{"name": "x", "kind": "number"}], "target": "y", "task": "regression"})
    )


def train(registry: Registry, server: Server, rows: RowSchema, folder: Path, run_id: str) -> tuple[str, str]:
    """All that the steps before `register` ask of MLflow; the candidate's MLflow run and its logged model."""
    path = folder / "demo.yaml"
    path.write_text(SPEC)
    spec = load_spec(path)
    run = Run(id=run_id, pipeline="demo", spec_path=path, settings=server.settings)
    dataset = DatasetRef.model_validate_json(
        json.dumps(
            {"digest": "d" * 64, "key": "datasets/d", "source": "file:///rows.csv", "rows": 10, "train_rows": 8,
             "holdout_rows": 2, "row_schema": json.loads(rows.model_dump_json())}
        )
    )  # fmt: skip
    parent = registry.pipeline_run(run, spec)
    registry.log_dataset(parent, dataset)
    registry.set_tags(parent, {"slipway.dataset": dataset.digest})
    registry.log_text(parent, "<html></html>", "checks/report.html")
    registry.log_file(parent, path, "spec")
    registry.candidate_run(run, spec, "xgboost")  # of an attempt that was killed: it is deleted by the next
    child = registry.candidate_run(run, spec, "xgboost")
    native = folder / "native"
    native.mkdir(exist_ok=True)
    (native / "model.ubj").write_bytes(b"a model")
    registry.log_native(child, "xgboost", native, "xgboost")
    registry.log(child, {"rmse": 0.5}, params={"depth": 3}, series={"validation": [0.7, 0.6, 0.5]})
    registry.log_trials(child, [TrialRecord(0, {"depth": 3}, 0.5, "COMPLETE", 1.0, (0.6, 0.5))])
    (folder / "model.onnx").write_bytes(b"a graph")
    model = registry.log_onnx(child, "xgboost-onnx", folder / "model.onnx", rows, "o" * 64)
    assert registry.find_tag(parent, "slipway.dataset") == dataset.digest
    from matplotlib.figure import Figure

    registry.log_figure(child, Figure(), "plots/curve.png")
    registry.finish(child, "FINISHED")
    assert registry.find_pipeline_run(run) == parent
    assert registry.run_url(run)
    return child, model


def test_who_trains_trains_and_who_promotes_promotes(
    server: Server, become: Become, rows: RowSchema, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    steps = become(STEPS)
    child, model = train(steps, server, rows, tmp_path, "r1")
    tags = {"slipway.run": "r1"}
    refused = (
        lambda: steps.register("demo", model, child, tags),  # also a name that nobody has yet
        lambda: steps.register("squat", model, child, tags),
    )
    for call in refused:
        with pytest.raises(Invalid, match="MLflow does not let this user do it") as caught:
            call()
        assert "the promoter alone writes the registry" in str(caught.value)
    admin = become(ADMIN)
    assert admin.models() == {}
    version = admin.register("demo", model, child, tags)
    admin.set_alias("demo", "champion", version)
    admin.set_version_tags("demo", version, {"slipway.state": "champion"})
    admin.log_text(child, "{}", "record/record.json")
    second = admin.register("demo", model, child, {"slipway.run": "r2"})

    steps = become(STEPS)
    client = MlflowClient(server.settings.mlflow_uri)
    for call in (
        lambda: steps.register("demo", model, child, {"slipway.run": "r3"}),
        lambda: steps.set_alias("demo", "champion", second),
        lambda: steps.set_alias("demo", "mine", second),
        lambda: steps.delete_alias("demo", "champion"),
        lambda: steps.set_version_tags("demo", version, {"slipway.state": "other"}),
        lambda: steps.describe("demo", version, "other"),
    ):
        with pytest.raises(Invalid, match="MLflow does not let this user do it"):
            call()
    for asked in (
        lambda: client.delete_model_version_tag("demo", str(version), "slipway.state"),
        lambda: client.set_registered_model_tag("demo", "a", "b"),
        lambda: client.rename_registered_model("demo", "other"),
        lambda: client.delete_model_version("demo", str(version)),
        lambda: client.delete_registered_model("demo"),
    ):
        with pytest.raises(MlflowException) as answered:
            asked()
        assert answered.value.get_http_status_code() == 403
    prompt = {"name": "squat", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]}  # names are shared
    made = httpx.post(f"{server.settings.mlflow_uri}/api/2.0/mlflow/registered-models/create", json=prompt, auth=STEPS)
    assert made.status_code == 403
    admin = become(ADMIN)
    assert admin.models() == {"demo": {"champion": version}}
    assert admin.version_tags("demo", version)["slipway.state"] == "champion"


def test_steps_write_into_experiments_that_the_promoter_or_an_older_release_has_made(
    server: Server, become: Become, rows: RowSchema, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    admin = become(ADMIN)
    client = MlflowClient(server.settings.mlflow_uri)
    before = client.get_experiment_by_name("demo")
    if before is not None:
        client.rename_experiment(before.experiment_id, "demo-of-steps")
    train(admin, server, rows, tmp_path, "r5")
    train(become(STEPS), server, rows, tmp_path, "r6")
    train(become(STEPS), server, rows, tmp_path, "r5")


def test_steps_make_no_users_and_give_no_rights(server: Server) -> None:
    url = f"{server.settings.mlflow_uri}/api/2.0/mlflow/users"
    for method, path, body in (
        ("POST", "create", {"username": "other", "password": "a long password"}),
        ("PATCH", "update-admin", {"username": STEPS[0], "is_admin": True}),
        ("PATCH", "update-password", {"username": ADMIN[0], "password": "a long password"}),
    ):
        assert httpx.request(method, f"{url}/{path}", json=body, auth=STEPS).status_code == 403, path


def test_a_wrong_password_is_said_and_tried_again(become: Become) -> None:
    """The next try is a new pod: it has the password that the Secret has by then."""
    with pytest.raises(Unavailable, match="MLflow does not know this user by this password") as caught:
        become((STEPS[0], "an older password")).models()
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value)


def test_a_changed_password_is_taken_at_the_next_start(server: Server) -> None:
    me = f"{server.settings.mlflow_uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert httpx.get(me, auth=STEPS).status_code == 200
    try:
        assert server.make_users(STEPS_PASSWORD="another long password").returncode == 0
        assert httpx.get(me, auth=(STEPS[0], "another long password")).status_code == 200
    finally:
        server.make_users()


def test_one_user_for_both_is_refused(server: Server) -> None:
    done = server.make_users(STEPS_USERNAME=ADMIN[0])
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said == "mlflow.admin and mlflow.steps name one user: who trains must not be who promotes"
