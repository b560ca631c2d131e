"""A spec becomes a DAG: the graph's tasks, each of which runs the command of its step."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from pipeline.errors import Invalid, Rejected, SlipwayError
from pipeline.graph import Task, task_upstream, tasks
from pipeline.settings import Settings
from pipeline.spec import Overrides, PipelineSpec

START = datetime(2026, 1, 1, tzinfo=UTC)  # a schedule needs a beginning; nothing before now is caught up
RETRY_DELAY = timedelta(seconds=5)


class StepOperator(BaseOperator):  # type: ignore[misc]
    """Runs `python -m MODULE`; its exit code is the retry policy: 1 retry, 2 fail, 3 rejected (skipped)."""

    ui_color = "#dbeafe"

    def __init__(self, *, module: str, spec_path: str, candidate: str | None, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.module, self.spec_path, self.candidate, self.root = module, spec_path, candidate, root
        self.hook: SubprocessHook | None = None

    def command(self, run_id: str, params: dict[str, Any]) -> list[str]:
        """The step's command line."""
        command = [sys.executable, "-m", self.module, "--spec", self.spec_path, "--run", slug(run_id)]
        command += ["--candidate", self.candidate] if self.candidate else []
        return [*command, "--params", json.dumps(params)]

    def execute(self, context: Any) -> None:
        """Run the step to its end; its log lines are the task's log."""
        command = self.command(context["run_id"], dict(context["params"]))
        self.hook = SubprocessHook()
        result = self.hook.run_command(command, env=dict(os.environ), cwd=self.root)
        if result.exit_code == Rejected.exit_code:
            raise AirflowSkipException(result.output)
        if result.exit_code == Invalid.exit_code:
            raise AirflowFailException(result.output)
        if result.exit_code != 0:
            raise AirflowException(f"exit code {result.exit_code}: {result.output}")

    def on_kill(self) -> None:
        """Airflow ends the task: so does the step."""
        if self.hook is not None:
            self.hook.send_sigterm()


class InvalidSpec(BaseOperator):  # type: ignore[misc]
    """Stands for a spec that cannot be read: it fails with every problem, so that the mistake has a place in the UI."""

    ui_color = "#fecaca"

    def __init__(self, *, problems: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.problems = list(problems)

    def execute(self, context: Any) -> None:
        """Fail without a retry."""
        raise AirflowFailException("\n".join(self.problems))


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
        params=trigger_form(),
        default_args={"owner": spec.owner, "retries": spec.retries, "retry_delay": RETRY_DELAY},
    ) as dag:
        operators = {task.key: _operator(task, spec_path, settings) for task in tasks(names)}
        for task in tasks(names):
            for other in task_upstream(task, names):
                operators[other.key] >> operators[task.key]
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


def trigger_form() -> dict[str, Param]:
    """Airflow's form for what one run may change: one typed Param for each field of `Overrides`."""
    fields = Overrides.model_json_schema()["properties"]
    form = {}
    for name, field in fields.items():
        kinds = field.get("anyOf", [field])
        value = next(kind for kind in kinds if kind["type"] != "null")
        bounds = {key: bound for key, bound in value.items() if key != "type"}
        form[name] = Param(
            None, type=[value["type"], "null"], title=name, description=field.get("description", ""), **bounds
        )
    return form


def slug(run_id: str) -> str:
    """Airflow's run id as a name for files and tags."""
    return re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")


def _operator(task: Task, spec_path: Path, settings: Settings) -> StepOperator:
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
