"""A person's approval: asked in the real Airflow, and what they say is kept for the promotion."""

from __future__ import annotations

import getpass
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dags.approval import question
from dags.factory import build
from pipeline.airflow_client import ENDED, AirflowClient
from pipeline.cli import app
from pipeline.commands.runs import follow_run
from pipeline.programs import airflow_credentials
from pipeline.refs import Approval, GateReport, ModelVersionRef, Verdict
from pipeline.run import APPROVE, Run, new_run_id
from pipeline.settings import Settings
from pipeline.show import Board
from pipeline.spec_file import parse_spec
from pipeline.step import pin_spec
from tests.support.polling import wait_for

SPEC = """version: 1
name: asked
task: {kind: binary}
data: {source: rows.csv, target: y}
candidates: [{kind: xgboost}]
approval: required
"""
DAG = '''
"""Asks a person; airflow finds this dag by these words."""
from airflow.sdk import DAG
from dags.approval import ApprovalOperator
from pipeline.settings import read_settings

with DAG("asked", schedule=None, max_active_runs=8) as dag:
    ApprovalOperator(task_id="approve", pipeline="asked", spec_path="asked.yaml", settings=read_settings())
'''
REPORT = GateReport(
    passed=True,
    verdicts=(
        Verdict(gate="quality", outcome="passed", reason="roc_auc 0.9", observed=0.9, bound=0.8),
        Verdict(gate="slices", outcome="passed", reason="worst | group <script>alert(1)</script> [x](http://y)"),
    ),
    champion=3,
)


def test_it_stands_between_gate_and_promote_where_the_spec_asks_for_it(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    dag = build(parse_spec(SPEC, "s"), tmp_path / "asked.yaml", settings)
    assert dag.get_task(APPROVE).upstream_task_ids == {"gate"}
    assert APPROVE in dag.get_task("promote").upstream_task_ids
    without = build(parse_spec(SPEC.replace("required", "none"), "s"), tmp_path / "asked.yaml", settings)
    assert APPROVE not in without.task_ids


def test_the_question_shows_the_report_and_nothing_in_it_is_markup() -> None:
    text = question(REPORT, "http://mlflow/#/runs/r")
    assert "| quality | passed | 0.9 | 0.8 | roc\\_auc 0.9 |" in text
    assert "Compared with champion 3." in text
    assert "(http://mlflow/#/runs/r)" in text
    assert "<script>" not in text
    assert "worst \\| group" in text
    assert "[x](" not in text
    undecided = REPORT.model_copy(
        update={"person_decides": True, "verdicts": (Verdict(gate="judge", outcome="inconclusive", reason="0.5"),)}
    )
    assert "Nobody could tell by numbers: judge" in question(undecided, "u")


@pytest.fixture(scope="module")
def airflow(airflow_settings: Settings) -> AirflowClient:
    (airflow_settings.root / "dags" / "asked.py").write_text(DAG)
    client = AirflowClient(airflow_settings)
    client.await_dag("asked")
    return client


@pytest.fixture
def asked(airflow: AirflowClient, airflow_settings: Settings) -> Callable[..., Run]:
    """asked(report): a run whose gates have judged, and which now asks."""

    def start(report: GateReport = REPORT, said: Approval | None = None) -> Run:
        run = Run(new_run_id(), "asked", airflow_settings, Path("asked.yaml"))
        pin_spec(run, parse_spec(SPEC, "s"))
        run.finish("gate", report, 0.0)
        version = ModelVersionRef(
            name="asked", version=4, candidate="x", model_id="m", run_id="r", onnx_key="k", onnx_digest="d",
            predictions="p",
        )  # fmt: skip
        run.finish("register", version, 0.0)
        if said:
            run.finish(APPROVE, said, 0.0)
        airflow.trigger("asked", {}, run.id)
        return run

    return start


def state(airflow: AirflowClient, run: Run) -> str:
    return next((task.state for task in airflow.tasks("asked", run.id) if task.key == APPROVE), "")


TAKEN = (httpx.codes.OK, httpx.codes.CONFLICT)  # or it was, before SQLite was locked


def until(condition: Callable[[], object], every_s: float = 0.3) -> None:
    wait_for(condition, seconds=120.0, interval_s=every_s)


@pytest.fixture(scope="module")
def api(airflow: AirflowClient, airflow_settings: Settings) -> Iterator[httpx.Client]:
    """Airflow's API as a person's browser calls it: each call once, its answer as it is."""
    user, password = airflow_credentials(airflow_settings)
    login = {"username": user, "password": password}
    with httpx.Client(base_url=airflow_settings.airflow_url, timeout=60.0, trust_env=False) as client:
        token = wait_for(lambda: client.post("/auth/token", json=login).json().get("access_token"))
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


def path_of(run: Run) -> str:
    return f"/api/v2/dags/asked/dagRuns/{run.id}/taskInstances/{APPROVE}/-1/hitlDetails"


def question_of(api: httpx.Client, run: Run) -> dict[str, Any] | None:
    """What the run asks; None before it does."""
    found = api.get(path_of(run))
    asked = ("subject", "body", "created_at", "options")
    return {key: found.json()[key] for key in asked} if found.is_success else None


def answer(api: httpx.Client, run: Run, option: str, note: str = "") -> int:
    """Answer the question; the status is 500 where SQLite was locked."""
    body = {"chosen_options": [option], "params_input": {"note": note}}
    return api.patch(path_of(run), json=body).status_code


def taken(airflow: AirflowClient, runs: list[Run], options: list[str]) -> None:
    """Each run ends with its answer, and nobody was asked twice."""
    for run, option in zip(runs, options, strict=True):
        until(lambda run=run: airflow.run_state("asked", run.id) in ENDED)  # type: ignore[misc]
        assert airflow.run_state("asked", run.id) == "success"
        assert [task.try_number for task in airflow.tasks("asked", run.id)] == [1]
        assert word(run).approved == (option == "Approve")


def word(run: Run) -> Approval:
    envelope = run.envelope(APPROVE)
    assert envelope is not None
    return Approval.model_validate_json(envelope.ref)


@pytest.mark.stack
def test_what_a_person_says_is_kept_with_who_and_when(
    airflow: AirflowClient, api: httpx.Client, asked: Callable[..., Run], subtests: pytest.Subtests
) -> None:
    runs = {option: asked() for option in ("Approve", "Reject")}
    for option, run in runs.items():
        with subtests.test(option):
            until(lambda run=run: state(airflow, run) == "awaiting_input")  # type: ignore[misc]
            asks = question_of(api, run)
            assert asks is not None
            assert asks["subject"] == "Promote version 4 of asked?"
            assert "| quality | passed |" in asks["body"]
            until(lambda run=run, option=option: answer(api, run, option, "seen by two") in TAKEN)  # type: ignore[misc]
            until(lambda run=run: airflow.run_state("asked", run.id) == "success")  # type: ignore[misc]
            said = word(run)
            user = airflow_credentials(run.settings)[0]
            assert (said.approved, said.by, said.via) == (option == "Approve", user, "airflow")
            assert said.note == "seen by two"
            assert said.at.startswith("20")


@pytest.mark.stack
def test_an_answer_at_once_is_taken(airflow: AirflowClient, api: httpx.Client, asked: Callable[..., Run]) -> None:
    """As soon as a task waits, it is answered once: before the scheduler has heard that it does."""
    options = ["Approve", "Reject"] * 3
    runs = [asked() for _ in options]
    waiting = dict(zip([run.id for run in runs], options, strict=True))

    def answered() -> bool:
        for run in runs:
            asks = run.id in waiting and state(airflow, run) == "awaiting_input"
            if asks and answer(api, run, waiting[run.id]) == httpx.codes.OK:
                del waiting[run.id]
        return not waiting

    until(answered)
    taken(airflow, runs, options)


@pytest.mark.stack
def test_an_answer_before_the_task_waits_is_taken(
    airflow: AirflowClient, api: httpx.Client, asked: Callable[..., Run]
) -> None:
    """As soon as a question is written, it is answered, while its task still runs and begins to wait."""
    options = ["Approve", "Reject"] * 3
    runs = [asked() for _ in options]

    def insist(run: Run, option: str) -> None:
        until(lambda: question_of(api, run) is not None, every_s=0.02)
        until(lambda: answer(api, run, option) == httpx.codes.OK, every_s=0.02)

    with ThreadPoolExecutor(len(runs)) as people:
        list(people.map(insist, runs, options))
    taken(airflow, runs, options)


@pytest.mark.stack
def test_it_waits_on_and_looks_up(airflow: AirflowClient, api: httpx.Client, asked: Callable[..., Run]) -> None:
    """It takes a word that Airflow was not told, and what it asks stays as it was."""
    asks, told = asked(), asked()
    for run in (asks, told):
        until(lambda run=run: state(airflow, run) == "awaiting_input")  # type: ignore[misc]
    question = question_of(api, asks)
    given = Approval(approved=True, by="somebody", at="2026-01-01T00:00:00+00:00", via="command")
    told.finish(APPROVE, given, 0.0)
    until(lambda: airflow.run_state("asked", told.id) == "success")
    until(lambda: sum("Pausing" in line for line in airflow.logs("asked", asks.id, APPROVE)) > 1, every_s=1.0)
    until(lambda: state(airflow, asks) == "awaiting_input")
    assert word(told) == given
    assert question_of(api, asks) == question
    until(lambda: answer(api, asks, "Reject") in TAKEN)
    taken(airflow, [asks], ["Reject"])


@pytest.mark.stack
def test_nobody_is_asked_when_there_is_nothing_to_ask(airflow: AirflowClient, asked: Callable[..., Run]) -> None:
    refused = asked(REPORT.model_copy(update={"passed": False}))
    given = Approval(approved=False, by="somebody", at="2026-01-01T00:00:00+00:00", via="command")
    answered = asked(said=given)
    for run in (refused, answered):
        until(lambda run=run: airflow.run_state("asked", run.id) == "success")  # type: ignore[misc]
    assert refused.envelope(APPROVE) is None
    assert word(answered) == given


@pytest.mark.stack
def test_a_word_given_by_the_command_lets_airflow_go_on(
    airflow: AirflowClient, asked: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While `slipway trigger --wait` looks on, which says where to answer and goes on waiting."""
    run = asked()
    shown = io.StringIO()
    console = Console(file=shown, width=400)

    def look() -> None:
        with Board(console, "asked") as board:
            follow_run(airflow, board, "asked", run.id, console, "http://airflow/dags/asked/runs/r")

    looking = threading.Thread(target=look)
    looking.start()
    until(lambda: "http://airflow/dags/asked/runs/r/tasks/approve/required_actions" in shown.getvalue())
    for name in ("root", "home", "airflow_port", "mlflow_port"):
        monkeypatch.setenv(f"SLIPWAY_{name.upper()}", str(getattr(run.settings, name)))
    done = CliRunner().invoke(app, ["approve", "asked", run.id, "--reject", "--yes", "--note", "too bold"])
    assert done.exit_code == 0, done.output
    assert f"rejected by {getpass.getuser()}: the run goes on in Airflow" in done.output
    looking.join(60)
    assert not looking.is_alive()
    assert airflow.run_state("asked", run.id) == "success"
    said = word(run)
    assert (said.approved, said.by, said.via, said.note) == (False, getpass.getuser(), "command", "too bold")
    assert not airflow.answer("asked", run.id, said)  # nobody is asked any more
