"""Running a pipeline: run here, trigger in Airflow."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline.commands.approval import ask
from pipeline.commands.author import validate_spec
from pipeline.errors import Invalid, Rejected, SlipwayError, Unavailable, Waits
from pipeline.graph import tasks
from pipeline.run import Run, new_run_id
from pipeline.settings import Settings
from pipeline.show import Board, verdict
from pipeline.spec import Overrides, PipelineSpec
from pipeline.spec_file import load_spec
from pipeline.step import pinned_spec
from pipeline.summary import Summary, summarise
from pipeline.terminal import Json, Quiet, Session, Spec, find_spec, log_to, room, session

Source = Annotated[str | None, typer.Option(help="other rows with the same columns")]
Trials = Annotated[int | None, typer.Option(min=1, help="most tuning trials of each candidate")]
Budget = Annotated[float | None, typer.Option("--budget-s", help="most seconds of tuning of each candidate")]
Seed = Annotated[int | None, typer.Option(min=0, help="seed of tuning and fitting")]


def run(
    spec: Spec,
    source: Source = None,
    trials: Trials = None,
    budget_s: Budget = None,
    seed: Seed = None,
    run_id: Annotated[str | None, typer.Option(help="continue the run of this id")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a pipeline here, with no Airflow, from rows to a served champion."""
    with session(json) as this:
        path, loaded = _load(this.settings, spec, Overrides(source=source, trials=trials, budget_s=budget_s, seed=seed))
        if run_id is None:
            with this.console.status("reading the rows"):
                validate_spec(this.settings, path, loaded, data=True)
        elif pinned_spec(Run(run_id, loaded.name, this.settings, path)) is None:
            where = f"run {run_id} of {loaded.name}"
            raise Invalid(
                "there is no such run to continue", where, "leave --run-id out: a new run gets an id of its own"
            )
        with this.console.status("starting MLflow and Triton"):
            room("pipeline.stack:up")(this.settings, ("mlflow", "triton"))
        this_run = Run(run_id or new_run_id(), loaded.name, this.settings, path)
        names = tuple(candidate.name for candidate in loaded.candidates)
        log_to(this.console, quiet)
        failure = _run_here(this, loaded, this_run, names)
        if isinstance(failure, Waits) and ask(this, this_run):
            failure = _run_here(this, loaded, this_run, names)
        _finish(this, this_run, names, failure)


def _run_here(this: Session, spec: PipelineSpec, run: Run, names: tuple[str, ...]) -> SlipwayError | None:
    """Run, or go on; what ended it early."""
    with Board(this.console, f"{spec.name} {run.id}", tuple(task.key for task in tasks(names))) as board:
        try:
            room("pipeline.local:run_local")(spec, run, board.update)
        except SlipwayError as error:
            return error
    return None


def trigger(
    spec: Spec,
    wait: Annotated[bool, typer.Option(help="follow the run to its verdict")] = False,
    source: Source = None,
    trials: Trials = None,
    budget_s: Budget = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Trigger a pipeline's DAG through Airflow's REST API."""
    with session(json) as this:
        overrides = Overrides(source=source, trials=trials, budget_s=budget_s, seed=seed)
        path, loaded = _load(this.settings, spec, overrides)
        airflow = room("pipeline.airflow_client:AirflowClient")(this.settings)
        with this.console.status(f"waiting for Airflow to see the DAG {loaded.name}"):
            airflow.await_dag(loaded.name, changed=path.stat().st_mtime)
        run_id = airflow.trigger(loaded.name, overrides.model_dump(exclude_none=True), new_run_id())
        where = f"{this.settings.airflow_url}/dags/{loaded.name}/runs/{run_id}"
        if not wait:
            this.result({"run": run_id, "url": where}, lambda: this.console.print(f"run {run_id}\n{where}"))
            return
        names = tuple(candidate.name for candidate in loaded.candidates)
        this.console.print(where, style="dim")
        started = time.monotonic()
        this_run = Run(run_id, loaded.name, this.settings, path)
        with ThreadPoolExecutor(1) as ahead:
            ahead.submit(getattr, this_run, "registry")  # imports MLflow, a second that the verdict would wait for
            with Board(this.console, f"{loaded.name} {run_id}", tuple(task.key for task in tasks(names))) as board:
                states = follow_run(airflow, board, loaded.name, run_id, this.console, where)
        this.console.print(f"finished after {time.monotonic() - started:.0f} s", style="dim")
        _finish(this, this_run, names, _failure(airflow, loaded.name, run_id, states))


def _load(settings: Settings, spec: str, overrides: Overrides) -> tuple[Path, PipelineSpec]:
    path = find_spec(settings, spec)
    return path, overrides.apply(load_spec(path))


def follow_run(airflow: object, board: Board, dag: str, run_id: str, console: Console, where: str) -> dict[str, str]:
    """Show each task's state on the board until the run has ended; return the last states."""
    states: dict[str, str] = {}
    for task in airflow.follow(dag, run_id):  # type: ignore[attr-defined]
        board.update(task.key, task.state, task.seconds)
        if task.state == "awaiting_input":
            console.print(f"waits for a person's approval: {where}/tasks/{task.key}/required_actions", soft_wrap=True)
        states[task.key] = task.state
    return states


def _failure(airflow: object, dag: str, run_id: str, states: dict[str, str]) -> SlipwayError | None:
    """What ended the run early, in the words of the step's log."""
    for key, state in states.items():
        if state == "failed":
            last = airflow.last_line(dag, run_id, key)  # type: ignore[attr-defined]
            return Unavailable(f"the task {key} failed: {last}", f"DAG {dag}, run {run_id}", "see its log in Airflow")
    for key, state in states.items():
        if state == "skipped":
            last = airflow.last_line(dag, run_id, key)  # type: ignore[attr-defined]
            return Rejected(last.removeprefix("rejected: ") or f"the task {key} refused", f"DAG {dag}, run {run_id}")
    return None


def _finish(this: Session, run: Run, names: tuple[str, ...], failure: SlipwayError | None) -> None:
    """Print what the run came to; raise what ended it."""
    summary = summarise(run, names)
    answers, curl = _answers(this, run, summary)
    value = summary.model_dump(mode="json") | {"addresses": dict(answers), "curl": curl}

    def show() -> None:
        this.console.print(verdict(summary))
        for label, text in answers:
            this.console.print(f"{label:<8} {text}", soft_wrap=True, markup=False)
        if curl:
            this.console.print("\nPredict with:", style="bold")
            this.console.print(curl, soft_wrap=True, markup=False)

    if failure is None and summary.outcome == "rejected":
        failure = Rejected(summary.reasons[0], f"run {run.id}", "the champion serves on; mend the model and run again")
    if failure is None or isinstance(failure, Rejected):
        this.result(value, show)
    elif summary.tasks:
        this.console.print(f"[dim]finished steps are kept: slipway run {run.pipeline} --run-id {run.id}[/]")
    if failure is not None:
        raise failure if not (this.as_json and isinstance(failure, Rejected)) else typer.Exit(3)


def _answers(this: Session, run: Run, summary: Summary) -> tuple[tuple[tuple[str, str], ...], str]:
    """Where to look on, and a command that predicts."""
    lines = [("MLflow", run.registry.run_url(run) or this.settings.mlflow_uri)]
    user, password = room("pipeline.programs:airflow_credentials")(this.settings)
    if password and this.settings.airflow_password is None:
        lines.append(("Airflow", f"{this.settings.airflow_url}  (user {user}, password {password})"))
    curl = ""
    if summary.promotion and summary.dataset:
        curl = room("serving.predict:curl_line")(this.settings, run, summary.dataset, summary.promotion.name)
    return tuple(lines), curl
