"""Specs become DAGs: tasks and edges of the graph, a typed form, exit codes as states, mistakes as DAGs that say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization

from dags.factory import build, build_rollback, trigger_form
from dags.operators import RollbackOperator, StepOperator
from pipeline.graph import task_upstream, tasks
from pipeline.run import ROLLBACK, slug
from pipeline.settings import Settings
from pipeline.spec_file import parse_spec
from tests.support.polling import wait_for

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
    assert slug("20261124t025019-k3f9") == "20261124t025019-k3f9"
    assert slug("manual__2026-11-24T02:50:19+00:00_Xy").startswith("manual-2026-11-24t02-50-19-00-00-xy-")
    assert (
        len({slug(run) for run in ("a-b", "a.b", "a_b", "A-b", "a-b-")}) == 5
    )  # two runs never share their references


@pytest.mark.parametrize(
    ("code", "raises"),
    [(0, None), (1, AirflowException), (2, AirflowFailException), (3, AirflowSkipException), (9, AirflowException)],
)
def test_the_exit_code_is_the_state(code: int, raises: type[Exception] | None, tmp_path: Path) -> None:
    """A real process ends with each code; Airflow's own exceptions say retry, fail, skip."""
    text = f"import sys; print(sys.argv[1:]); print('the reason'); raise SystemExit({code})"
    (tmp_path / "ends_so.py").write_text(text)
    operator = StepOperator(task_id="t", module="ends_so", spec_path="s.yaml", candidate="net", root=str(tmp_path))
    arguments = operator.arguments(slug("Run 1"), {"trials": 3})
    assert arguments == ["--spec", "s.yaml", "--run", slug("Run 1"), "--candidate", "net", "--params", '{"trials": 3}']
    context: dict[str, Any] = {"run_id": "r", "params": {}}
    if raises is None:
        operator.execute(context)
        return
    with pytest.raises(raises, match="the reason") as raised:
        operator.execute(context)
    assert type(raised.value) is raises


def test_a_killed_task_ends_its_step(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import pathlib, time; pathlib.Path('here').touch(); time.sleep(600)")
    operator = StepOperator(task_id="t", module="endless", spec_path="s", candidate=None, root=str(tmp_path))
    operator.on_kill()

    def kill() -> None:
        wait_for((tmp_path / "here").exists, interval_s=0.01)
        operator.on_kill()

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        with pytest.raises(AirflowException, match="exit code -15"):
            operator.execute({"run_id": "r", "params": {}})
        killed.result()


def test_a_spec_that_cannot_be_read_is_a_dag_that_says_so(tmp_path: Path) -> None:
    from dags.pipelines import load

    (tmp_path / "good.yaml").write_text(SPEC)
    (tmp_path / "Bad One.yaml").write_text("version: 1\nnam: x\n")
    (tmp_path / "twice.yaml").write_text(SPEC)
    found = load(Settings(home=tmp_path, specs_dir=tmp_path))
    assert set(found) == {"demo", "bad_one", "twice", ROLLBACK}
    assert "unknown key 'nam'" in str(found["bad_one"].doc_md)
    assert "the name 'demo' is taken" in str(found["twice"].doc_md)
    with pytest.raises(AirflowFailException, match="unknown key 'nam'"):
        found["bad_one"].get_task("invalid_spec").execute({})


def test_the_same_graph_in_both_runtimes(tmp_path: Path) -> None:
    """And either becomes the scheduler's copy of a DAG."""
    spec, path = parse_spec(SPEC, "s"), tmp_path / "demo.yaml"
    found = {}
    for runtime, operator in (("local", "StepOperator"), ("kubernetes", "StepPodOperator")):
        dag = build(spec, path, Settings.model_validate({"home": tmp_path, "runtime": runtime}))
        assert {task.task_type for task in dag.tasks} == {operator}
        copy = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        assert {task.task_id: task.downstream_task_ids for task in copy.tasks} == {
            task.task_id: task.downstream_task_ids for task in dag.tasks
        }
        found[runtime] = (
            {
                task.task_id: (task.downstream_task_ids, task.retries, task.retry_delay, task.owner, task.doc_md)
                for task in dag.tasks
            },
            dag.schedule,
            dag.max_active_runs,
            dag.doc_md,
            {name: param.schema for name, param in dag.params.items()},
        )
    assert found["local"] == found["kubernetes"]


def test_the_way_back_is_a_dag_in_both_runtimes(tmp_path: Path) -> None:
    for runtime, operator in (("local", "RollbackOperator"), ("kubernetes", "RollbackPodOperator")):
        dag = build_rollback(Settings.model_validate({"home": tmp_path, "runtime": runtime}))
        assert [(task.task_id, task.task_type) for task in dag.tasks] == [("rollback", operator)]
        assert dag.params.get_param("model").schema["type"] == "string"
        DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    operator = RollbackOperator(task_id="rollback", module="serving.rollback", root=str(tmp_path))
    assert operator.arguments("r1", {"model": "demo"}) == ["demo", "--run", "r1"]


def test_parsing_for_pods_loads_no_ml_library(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(SPEC + "approval: required\n")
    heavy = ("torch", "xgboost", "mlflow", "sklearn", "pandas", "scipy", "great_expectations", "onnx", "onnxruntime")
    code = (
        "import sys, dags.pipelines as p; print(type(p.demo.get_task('gate')).__name__,"
        f" sorted({set(heavy)!r} & set(sys.modules)))"
    )
    environment = os.environ | {"SLIPWAY_RUNTIME": "kubernetes", "SLIPWAY_SPECS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "StepPodOperator []"


def test_the_provider_is_imported_for_pods_alone(tmp_path: Path) -> None:
    """Its import takes a second, of every parse; who asks nobody does not pay for the question either."""
    (tmp_path / "demo.yaml").write_text(SPEC)
    code = "import sys, dags.pipelines as p; p.demo; print({'kubernetes', 'dags.approval'} & set(sys.modules) != set())"
    environment = os.environ | {"SLIPWAY_SPECS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
