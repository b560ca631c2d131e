"""The client against the real Airflow, on DAGs of its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline import stack
from pipeline.airflow_client import AirflowClient
from pipeline.errors import Invalid, Unavailable
from pipeline.process import cores
from pipeline.programs import airflow_credentials
from pipeline.settings import Settings
from pipeline.supervisor import Supervisor
from pipeline.sweep import await_end, marked
from tests.support.polling import wait_for
from tests.support.processes import command_line

PROBE = '''
"""A DAG for the tests of the client: airflow finds it by these words, airflow and dag."""
import os, sys
from datetime import timedelta
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

with DAG("probe", params={"trials": Param(3, type="integer", minimum=1)}, schedule=None, max_active_runs=4) as dag:
    hello = BashOperator(task_id="hello", bash_command="echo home is $SLIPWAY_HOME; echo trials {{ params.trials }}")
    if "BREAKS":
        hello >> BashOperator(task_id="refuses", bash_command="echo too few rows; exit 99")
        hello >> BashOperator(
            task_id="fails", bash_command="echo column age is gone; exit 2", retries=1, retry_delay=timedelta(seconds=0)
        )
'''


@pytest.fixture(scope="session")
def airflow(airflow_settings: Settings) -> AirflowClient:
    client = AirflowClient(airflow_settings)
    write(airflow_settings, "probe.py", PROBE)
    return client


def write(settings: Settings, name: str, text: str) -> Path:
    path = settings.root / "dags" / name
    path.write_text(text)
    return path


def test_a_new_dag_file_is_awaited_triggered_and_followed(airflow: AirflowClient, airflow_settings: Settings) -> None:
    airflow.await_dag("probe")
    assert "probe" in airflow.dags()
    assert airflow.has_dag("probe")
    run = airflow.trigger("probe", {"trials": 5}, "20261124t101500-abcd")
    assert run == "20261124t101500-abcd"
    assert airflow.trigger("probe", {"trials": 5}, run) == run  # the same id continues a run
    seen: dict[str, list[str]] = {}
    for task in airflow.follow("probe", run, interval_s=0.3):
        seen.setdefault(task.key, []).append(task.state)
    assert {key: states[-1] for key, states in seen.items()} == {
        "hello": "success",
        "refuses": "skipped",
        "fails": "failed",
    }
    assert airflow.run_state("probe", run) == "failed"
    tasks = {task.key: task for task in airflow.tasks("probe", run)}
    assert tasks["hello"].seconds is not None
    assert (tasks["hello"].try_number, tasks["fails"].try_number) == (1, 2)
    assert tasks["hello"].start is not None
    lines = airflow.logs("probe", run, "hello")
    assert f"home is {airflow_settings.home}" in lines
    assert "trials 5" in lines
    assert "column age is gone" in airflow.logs("probe", run, "fails", try_number=1)
    assert airflow.last_line("probe", run, "fails") == "column age is gone"
    assert airflow.last_line("probe", run, "refuses") == "too few rows"


def test_an_edited_dag_is_read_before_it_is_triggered(airflow: AirflowClient, airflow_settings: Settings) -> None:
    text = PROBE.replace('DAG("probe"', 'DAG("edited"')
    write(airflow_settings, "edited.py", text)
    airflow.await_dag("edited")
    path = write(airflow_settings, "edited.py", text.replace('"BREAKS"', '""'))
    airflow.await_dag("edited", changed=path.stat().st_mtime)
    run = airflow.trigger("edited", {})
    states = {task.key: task.state for task in airflow.follow("edited", run, interval_s=0.3)}
    assert states == {"hello": "success"}


def test_refused_params_in_airflows_words(airflow: AirflowClient) -> None:
    airflow.await_dag("probe")
    with pytest.raises(Invalid, match=r"Airflow refuses \(400\): .*trials.*0 is less than the minimum of 1"):
        airflow.trigger("probe", {"trials": 0})
    with pytest.raises(Invalid, match=r"\(422\): body.dag_run_id: "):
        airflow.trigger("probe", {}, 7)  # type: ignore[arg-type]


def test_what_is_not_there(airflow: AirflowClient, airflow_settings: Settings) -> None:
    airflow.await_dag("probe")
    assert not airflow.has_dag("prob")
    with pytest.raises(Invalid, match=r"Airflow has no DAG 'prob' -> it has: .*probe"):
        airflow.trigger("prob", {})
    with pytest.raises(Invalid, match=r"DAG probe, run never .*: Airflow refuses \(404\)"):
        airflow.run_state("probe", "never")
    write(airflow_settings, "damaged.py", "from airflow.sdk import DAG  # a dag\nraise RuntimeError('no such table')\n")
    try:
        wait_for(lambda: any(file.endswith("damaged.py") for file in airflow.import_errors()), interval_s=0.2)
        with pytest.raises(Invalid, match="waited 1 s") as caught:
            airflow.await_dag("prob", timeout_s=1)
        problem = next(problem for problem in caught.value.problems if problem.where.endswith("damaged.py"))
        assert "RuntimeError: no such table" in problem.what
    finally:
        (airflow_settings.root / "dags" / "damaged.py").unlink()


def test_an_expired_token_is_renewed(airflow_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    client = AirflowClient(airflow_settings)
    before = client.dags()
    request, paths, expired = httpx.Client.request, [], iter(["Bearer expired"])

    def late(this: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response:
        """Send the first request with a token that Airflow does not accept."""
        paths.append(url)
        token = next(expired, options["headers"]["Authorization"])
        return request(this, method, url, **{**options, "headers": options["headers"] | {"Authorization": token}})

    monkeypatch.setattr(httpx.Client, "request", late)
    assert client.dags() == before
    assert paths == ["/api/v2/dags", "/auth/token", "/api/v2/dags"]


def test_airflow_listens_on_this_machine_alone_and_keeps_its_mark(airflow_settings: Settings) -> None:
    processes = marked(airflow_settings.home)
    pids = {process.pid for process in processes}
    listening = [
        connection.laddr
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    ]
    assert (airflow_settings.host, airflow_settings.airflow_port) in listening
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {airflow_settings.host}
    assert sum("LocalExecutor" in command_line(process) for process in processes) == max(2, cores())
    url = f"{airflow_settings.airflow_url}/api/v2/monitor/health"
    wait_for(
        lambda: {part["status"] for part in httpx.get(url, trust_env=False).json().values()} == {"healthy"},
        lambda: httpx.get(url, trust_env=False).text,
        interval_s=0.2,
    )


def test_a_component_that_dies_brings_airflow_back(airflow_settings: Settings) -> None:
    api = next(process for process in marked(airflow_settings.home) if "api_server" in command_line(process))
    standalone = api.parent()
    assert standalone is not None
    patient = AirflowClient(airflow_settings.model_copy(update={"timeout_s": 180.0}))  # as long as it may take to start
    before = set(patient.dags())
    api.kill()
    assert await_end([api], 30.0)
    assert set(patient.dags()) == before  # retried until the new one answers
    assert not standalone.is_running() or standalone.status() == psutil.STATUS_ZOMBIE
    stack.up(airflow_settings, ("airflow",))


def password(settings: Settings, value: str) -> None:
    """Write the file in which Airflow keeps the password of its user."""
    path = settings.home / "airflow" / "passwords.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"admin": value}))


def test_no_airflow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="never started here -> start it with `slipway up`"):
        AirflowClient(settings).dags()
    password(settings, "a password")
    assert airflow_credentials(settings)[1]
    request, tries = httpx.Client.request, []

    def counted(*arguments: Any, **options: Any) -> httpx.Response:
        tries.append(arguments[1:])
        return request(*arguments, **options)

    monkeypatch.setattr(httpx.Client, "request", counted)
    patient = settings.model_copy(update={"timeout_s": 120.0})
    with pytest.raises(Unavailable, match=f"{settings.airflow_url}/auth/token: Airflow does not answer"):
        AirflowClient(patient).trigger("probe", {})
    assert set(tries) == {("POST", "/auth/token")}
    assert len(tries) < 9  # in 2 s; in the 120 s of a server that has answered before it would be about 60


def test_a_wrong_password_is_refused(settings: Settings, airflow_settings: Settings) -> None:
    password(settings, "wrong")
    wrong = settings.model_copy(update={"airflow_url": airflow_settings.airflow_url})
    with pytest.raises(Invalid, match=r"user admin .*Airflow refuses \(401\)"):
        AirflowClient(wrong).dags()


def test_starting_it_again_changes_nothing(airflow: AirflowClient, airflow_settings: Settings) -> None:
    states = Supervisor(airflow_settings).states()
    parts = stack.up(airflow_settings, ("airflow",))
    assert dataclasses.asdict(parts[0])["state"] == "running"
    assert set(Supervisor(airflow_settings).states()) == set(states)
