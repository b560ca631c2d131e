"""A person's word on a run that waits for it: given by a command, or at the terminal of `slipway run`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.prompt import Prompt

from pipeline.approval import answer, awaited, give
from pipeline.errors import Invalid, SlipwayError
from pipeline.refs import Approval
from pipeline.run import Run
from pipeline.show import gates_table
from pipeline.terminal import Json, Session, room, session

WORDS = {"approve": True, "reject": False, "later": None}


def approve(
    model: Annotated[str, typer.Argument(help="name of the model, which is its spec's", show_default=False)],
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="id of the run that waits", show_default=False)],
    reject: Annotated[bool, typer.Option("--reject", help="say no: the challenger is taken down")] = False,
    note: Annotated[str, typer.Option(help="why; it goes into the record")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask; needed where there is no terminal")] = False,
    json: Json = False,
) -> None:
    """Say yes or no to a run whose spec asks for a person's approval; it then goes on, or ends."""
    with session(json) as this:
        run = Run(run_id, model, this.settings, this.settings.specs_dir / f"{model}.yaml")
        this.console.print(gates_table(awaited(run)))
        before = answer(run)
        if before is None and not yes:
            if json or not is_at_terminal(this):
                raise Invalid("nobody can be asked here, and a word stays", f"run {run_id} of {model}", "say --yes")
            typer.confirm(f"{'Reject' if reject else 'Approve'} run {run_id} of {model}?", abort=True)
        said = give(run, not reject, note)
        if before is not None and note not in ("", before.note):
            this.console.print(f"{said.by} gave their word at {said.at}: the note is not added", style="yellow")
        word = "approved" if said.approved else "rejected"
        how = f"go on with `slipway run {model} --run-id {run_id}`; if it waits in Airflow, answer there as well"
        if run.envelope("promote") is not None:
            how = "it has been promoted"
        elif _told_airflow(this, run, said):
            how = "the run goes on in Airflow"
        this.result(
            said.model_dump(mode="json"),
            lambda: this.console.print(f"{word} by {said.by}: {how}", markup=False, soft_wrap=True),
        )


def ask(this: Session, run: Run) -> bool:
    """Ask who sits at the terminal; whether they gave their word."""
    if this.as_json or not is_at_terminal(this):
        return False
    this.console.print(gates_table(awaited(run)))
    approved = WORDS[Prompt.ask("Promote this version?", console=this.console, choices=list(WORDS), default="later")]
    if approved is None:
        return False
    give(run, approved, Prompt.ask("Why (for the record)", console=this.console, default="", show_default=False))
    return True


def is_at_terminal(this: Session) -> bool:
    """Return whether a person sits at the terminal."""
    return this.console.is_terminal and sys.stdin.isatty()


def _told_airflow(this: Session, run: Run, said: Approval) -> bool:
    """Give the word to the task that waits in Airflow; whether there was one. The word itself is kept already."""
    try:
        return bool(room("pipeline.airflow_client:AirflowClient")(this.settings).answer(run.pipeline, run.id, said))
    except SlipwayError as silence:
        run.log.debug("Airflow was not told: %s", silence)
        return False
