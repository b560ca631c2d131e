"""Specs become DAGs: tasks and edges of the graph, a typed form, exit codes as states, mistakes as DAGs that say so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.factory import build, trigger_form
from dags.operators import StepOperator
from pipeline.graph import task_upstream, tasks
from pipeline.run import slug
from pipeline.settings import Settings
from pipeline.spec_file import parse_spec

SPEC = """version: 1
name: demo
description: What it is for
schedule: "0 3 * * *"
owner: team
tags: [risk]
retries: 4
task: {kind: binary}
data: {source: rows.csv, target: y}
candidates: [{kind: xgboost}, {kind: torch, name: net}]
"""


def test_a_dag_has_the_graphs_tasks_and_edges(tmp_path: Path) -> None:
    dag = build(parse_spec(SPEC, "s"), tmp_path / "demo.yaml", Settings(home=tmp_path))
    names = ("xgboost", "net")
    assert set(dag.task_ids) == {task.key for task in tasks(names)}
    for task in tasks(names):
        assert dag.get_task(task.key).upstream_task_ids == {other.key for other in task_upstream(task, names)}
    assert (dag.max_active_runs, dag.catchup, dag.description) == (1, False, "What it is for")
    assert set(dag.tags) == {"slipway", "risk"}
    assert (dag.get_task("snapshot").retries, dag.get_task("snapshot").owner) == (4, "team")
    assert "rows.csv" in str(dag.doc_md)
    assert dag.get_task("gate").doc_md


def test_the_form_is_typed_and_bounded() -> None:
    form = trigger_form()
    assert set(form) == {"source", "trials", "budget_s", "seed"}
    assert form["trials"].schema == form["trials"].schema | {
        "type": ["integer", "null"],
        "minimum": 1,
        "maximum": 10_000,
    }
    assert form["budget_s"].schema["exclusiveMinimum"] == 0
    assert form["source"].description


def test_a_run_id_is_a_name() -> None:
    assert slug("manual__2026-11-24T02:50:19+00:00_Xy") == "manual-2026-11-24t02-50-19-00-00-xy"


@pytest.mark.parametrize(
    ("code", "raises"),
    [(0, None), (1, AirflowException), (2, AirflowFailException), (3, AirflowSkipException), (9, AirflowException)],
)
def test_the_exit_code_is_the_state(code: int, raises: type[Exception] | None, tmp_path: Path) -> None:
    """A real process ends with each code; Airflow's own exceptions say retry, fail, skip."""
    operator = StepOperator(task_id="t", module="m", spec_path="s.yaml", candidate="net", root=str(tmp_path))
    command = operator.command("Run 1", {"trials": 3})
    assert command == [
        sys.executable,
        "-m",
        "m",
        "--spec",
        "s.yaml",
        "--run",
        "run-1",
        "--candidate",
        "net",
        "--params",
        '{"trials": 3}',
    ]
    operator.command = lambda *_: [sys.executable, "-c", f"print('the reason'); raise SystemExit({code})"]  # type: ignore[method-assign]
    context: dict[str, Any] = {"run_id": "r", "params": {}}
    if raises is None:
        operator.execute(context)
        return
    with pytest.raises(raises, match="the reason") as raised:
        operator.execute(context)
    assert type(raised.value) is raises


def test_a_killed_task_ends_its_step(tmp_path: Path) -> None:
    operator = StepOperator(task_id="t", module="m", spec_path="s", candidate=None, root=str(tmp_path))
    operator.on_kill()
    told: list[str] = []
    operator.hook = SimpleNamespace(send_sigterm=lambda: told.append("term"))  # type: ignore[assignment]
    operator.on_kill()
    assert told == ["term"]


def test_a_spec_that_cannot_be_read_is_a_dag_that_says_so(tmp_path: Path) -> None:
    from dags.pipelines import load

    (tmp_path / "good.yaml").write_text(SPEC)
    (tmp_path / "Bad One.yaml").write_text("version: 1\nnam: x\n")
    (tmp_path / "twice.yaml").write_text(SPEC)
    found = load(Settings(home=tmp_path, specs_dir=tmp_path))
    assert set(found) == {"demo", "bad_one", "twice"}
    assert "unknown key 'nam'" in str(found["bad_one"].doc_md)
    assert "is taken by another spec" in str(found["twice"].doc_md)
    with pytest.raises(AirflowFailException, match="unknown key 'nam'"):
        found["bad_one"].get_task("invalid_spec").execute({})
