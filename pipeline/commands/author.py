"""Writing a spec: init, validate, spec schema, steps."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from importlib import util
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import Invalid, Problem, SlipwayError
from pipeline.graph import STEPS, upstream
from pipeline.settings import Settings
from pipeline.show import table
from pipeline.spec import PipelineSpec
from pipeline.spec_file import load_spec
from pipeline.terminal import Json, find_spec, room, session


def init(
    data: Annotated[str, typer.Argument(help="CSV or Parquet file or URL, sklearn://NAME, or a SQLAlchemy URL")],
    target: Annotated[str, typer.Option("--target", "-t", help="column to predict")],
    name: Annotated[str | None, typer.Option(help="name of the pipeline (default: from the data's name)")] = None,
    table: Annotated[str | None, typer.Option(help="table of a database")] = None,
    query: Annotated[str | None, typer.Option(help="SQL query of a database")] = None,
    password_env: Annotated[str | None, typer.Option(help="variable that holds a database's password")] = None,
    force: Annotated[bool, typer.Option(help="replace an existing spec and suite")] = False,
    json: Json = False,
) -> None:
    """Profile rows, and write a spec and an expectation suite to edit."""
    with session(json) as this:
        options = {"name": name, "table": table, "query": query, "password_env": password_env, "force": force}
        with this.console.status("reading the rows"):
            report = room("feature_checks.profile:init")(data, target, this.settings, **options)

        def show() -> None:
            out = this.console
            schema = report.row_schema
            sizes = f"[bold]{report.rows}[/] rows, [bold]{len(schema.columns)}[/] columns"
            out.print(f"{sizes}, {schema.task} of {schema.target!r}")
            for finding in report.findings:
                note = "left out" if finding.dropped else "kept"
                out.print(f"  {note}: {finding.message}", markup=False)
            out.print(f"spec   {report.spec_path}\nsuite  {report.suite_path}", highlight=False)
            out.print(
                f"\nEdit both, then:\n  slipway validate {report.name}\n  slipway run {report.name}", highlight=False
            )

        this.result(report.model_dump(mode="json"), show)


def validate(
    specs: Annotated[list[str] | None, typer.Argument(metavar="[SPEC]...", help="default: every spec")] = None,
    data: Annotated[
        bool, typer.Option(help="read the rows too; whether they meet the suite is for a run to say")
    ] = True,
    json: Json = False,
) -> None:
    """Check specs, their suites and the columns of their rows, and say everything that is wrong at once."""
    with session(json) as this:
        names = specs or sorted(str(path) for path in this.settings.specs_dir.glob("*.yaml"))
        problems: list[Problem] = []
        checked: list[dict[str, object]] = []
        for name in names:
            try:
                path = find_spec(this.settings, name)
                with this.console.status(f"reading {path.stem}"):
                    checked.append(validate_spec(this.settings, path, load_spec(path), data))
            except SlipwayError as error:
                problems += error.problems
        if problems:
            raise Invalid(problems)

        def show() -> None:
            for item in checked:
                this.console.print(f"[green]valid[/] {item['spec']}  {item.get('rows', '')}")
                for warning in item["warnings"]:  # type: ignore[attr-defined]
                    this.console.print(f"  {warning}", style="yellow", markup=False)

        this.result({"specs": checked}, show)


def validate_spec(settings: Settings, path: Path, spec: PipelineSpec, data: bool) -> dict[str, object]:
    """What is known of a spec before it runs. Raises Invalid or Unavailable with everything that is wrong."""
    found: dict[str, object] = {"spec": str(path), "name": spec.name, "digest": spec.digest}
    over = [one for one in spec.gates.waivers if not one.holds(datetime.now(UTC).date())]
    found["warnings"] = [
        f"the waiver of {one.gate} by {one.by} expired on {one.until}: its refusal stops again" for one in over
    ]
    if settings.runtime == "local":
        _engines_are_here(spec)
    if spec.gates.judge.metrics:
        room("serving.gates.judge_metrics:validate_metrics")(spec.gates.judge.metrics)
    if not data:
        return found
    with room("pipeline.batches:Spool")(room("pipeline.sources:read_batches")(spec.data, path.parent)) as rows:
        typed = room("pipeline.infer:infer")(rows, spec.data, spec.task, spec.data.source, spec.gates)
    if spec.checks.suite:
        notes = room("pipeline.store:Store")(settings.store)
        room("feature_checks.suite:validate_suite")(settings.suites_dir, spec.checks.suite, typed.columns, notes)
    summary = f"{typed.rows} rows, {len(typed.schema.columns)} columns"
    return {**found, "rows": summary, "findings": [finding.message for finding in typed.findings]}


def _engines_are_here(spec: PipelineSpec) -> None:
    """Raises Invalid for each candidate whose engine is not installed on this machine, where it is to fit."""
    if util.find_spec("ray") is not None:
        return
    asking = [number for number, candidate in enumerate(spec.candidates) if candidate.engine.kind == "ray"]
    if asking:
        remedy = "pip install '.[ray]', or leave engine out"
        raise Invalid([Problem("Ray is not installed", f"candidates.{at}.engine", remedy) for at in asking])


def schema() -> None:
    """Print the JSON schema of a spec (editors complete and check YAML by it)."""
    sys.stdout.write(spec_schema())


def spec_schema() -> str:
    """The JSON schema of a spec, as it is kept in dags/specs/schema.json."""
    return json.dumps(PipelineSpec.model_json_schema(), indent=1) + "\n"


def steps(as_json: Json = False) -> None:
    """List the steps of a run: what each reads, leaves and does."""
    with session(as_json) as this:
        rows = [
            {
                "step": step.name + (" (each candidate)" if step.per_candidate else ""),
                "after": ", ".join(other.name for other in upstream(step)),
                "leaves": step.produces.__name__,
                "does": step.does,
                "command": f"python -m {step.module}",
            }
            for step in STEPS
        ]
        headers = ("step", "after", "leaves", "does")
        shown = table("Steps", headers, [tuple(row[header] for header in headers) for row in rows])
        this.result({"steps": rows}, lambda: this.console.print(shown))
