"""A spec becomes a DAG: the graph's tasks, each of which runs the command of its step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from airflow.sdk import DAG, Param

from dags.operators import InvalidSpec, RollbackOperator, StepOperator
from pipeline.errors import SlipwayError
from pipeline.graph import Task, task_upstream, tasks
from pipeline.run import APPROVE, ROLLBACK
from pipeline.settings import Settings
from pipeline.spec import Overrides, PipelineSpec

START = datetime(2026, 1, 1, tzinfo=UTC)  # a schedule needs a beginning; nothing before now is caught up
RETRY_DELAY = timedelta(seconds=5)


def build(spec: PipelineSpec, spec_path: Path, settings: Settings) -> DAG:
    """The DAG of a spec."""
    names = tuple(candidate.name for candidate in spec.candidates)
    with DAG(
        spec.name,
        schedule=spec.schedule,
        start_date=START,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        description=spec.description or f"{spec.task.kind} of {spec.data.target}",
        doc_md=_page(spec, spec_path),
        tags=["slipway", *spec.tags],
        default_args={"owner": spec.owner, "retries": spec.retries, "retry_delay": RETRY_DELAY},
    ) as dag:
        operators = {task.key: _operator(task, spec_path, settings) for task in tasks(names)}
        for task in tasks(names):
            for other in task_upstream(task, names):
                operators[other.key] >> operators[task.key]
        if spec.approval == "required":
            approve = resolve_name("dags.approval:ApprovalOperator")(  # imported by those who need it
                task_id=APPROVE, pipeline=spec.name, spec_path=str(spec_path), settings=settings
            )
            operators["gate"] >> approve >> operators["promote"]
    dag.params.update(trigger_form())  # not before: each operator would copy it, a few times
    return dag


def build_invalid(name: str, error: SlipwayError, spec_path: Path) -> DAG:
    """The DAG of a spec that cannot be read: its page lists what is wrong."""
    problems = [str(problem) for problem in error.problems]
    with DAG(
        name,
        schedule=None,
        start_date=START,
        description=f"invalid spec: {problems[0]}"[:250],
        doc_md="\n".join([f"`{spec_path}` cannot be read:", "", *(f"- {problem}" for problem in problems)]),
        tags=["slipway", "invalid spec"],
    ) as dag:
        InvalidSpec(task_id="invalid_spec", problems=problems, retries=0)
    return dag


def build_rollback(settings: Settings) -> DAG:
    """The DAG that takes a model back to the version before."""
    about = "Name of the model, which is its spec's"
    with DAG(
        ROLLBACK,
        schedule=None,
        start_date=START,
        is_paused_upon_creation=False,
        description="Serve the version before the champion again, at once",
        doc_md="Traffic and the alias `champion` go back to the version that the last promotion kept.",
        tags=["slipway"],
        params={"model": Param(title="model", type="string", minLength=1, description=about)},
        default_args={"owner": "slipway", "retries": 2, "retry_delay": RETRY_DELAY},
    ) as dag:
        if settings.runtime == "kubernetes":
            resolve_name("dags.pod_operator:RollbackPodOperator")(task_id="rollback", settings=settings)
        else:
            RollbackOperator(task_id="rollback", module="serving.rollback", root=str(settings.root))
    return dag


def trigger_form() -> dict[str, Param]:
    """Airflow's form for what one run may change: one typed Param for each field of `Overrides`."""
    form = {}
    for name, field in _fields().items():
        kinds = field.get("anyOf", [field])
        value = next(kind for kind in kinds if kind["type"] != "null")
        bounds = {key: bound for key, bound in value.items() if key != "type"}
        form[name] = Param(
            None, type=[value["type"], "null"], title=name, description=field.get("description", ""), **bounds
        )
    return form


@cache
def _fields() -> dict[str, Any]:
    return dict(Overrides.model_json_schema()["properties"])


def _operator(task: Task, spec_path: Path, settings: Settings) -> Any:
    if settings.runtime == "kubernetes":
        step_pod_operator = resolve_name("dags.pod_operator:StepPodOperator")  # the provider's import takes a second
        return step_pod_operator(
            task_id=task.key,
            step=task.step.name,
            candidate=task.candidate,
            spec_path=str(spec_path),
            settings=settings,
            doc_md=task.step.does,
        )
    return StepOperator(
        task_id=task.key,
        module=task.step.module,
        spec_path=str(spec_path),
        candidate=task.candidate,
        root=str(settings.root),
        doc_md=task.step.does,
    )


def _page(spec: PipelineSpec, spec_path: Path) -> str:
    rows = [
        ("source", spec.data.source),
        ("target", f"{spec.data.target} ({spec.task.kind})"),
        ("candidates", ", ".join(candidate.name for candidate in spec.candidates)),
        ("primary metric", spec.primary),
        ("suite", spec.checks.suite or "schema only"),
        ("spec", str(spec_path)),
    ]
    return "\n".join([spec.description, "", "| | |", "|---|---|", *(f"| {key} | `{value}` |" for key, value in rows)])
