"""The embedded stack: up, down, status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.show import table
from pipeline.terminal import Json, room, session

if TYPE_CHECKING:
    from pipeline.stack import Part


def up(
    parts: Annotated[list[str] | None, typer.Argument(metavar="[PART]...", help="mlflow, airflow, triton")] = None,
    json: Json = False,
) -> None:
    """Start MLflow, Airflow and Triton on this machine; what runs already is left alone."""
    with session(json) as this, this.console.status("starting the stack") as spinner:
        states = room("pipeline.stack:up")(this.settings, tuple(parts) if parts else None, spinner.update)
        spinner.stop()
        this.result({"parts": [vars(state) for state in states]}, lambda: this.console.print(_table(states)))


def down(json: Json = False) -> None:
    """End every process that the stack started."""
    with session(json) as this, this.console.status("stopping the stack"):
        report = room("pipeline.stack:down")(this.settings)
        this.result(
            {"stopped": list(report)}, lambda: this.console.print("stopped: " + (", ".join(report) or "nothing ran"))
        )


def status(json: Json = False) -> None:
    """Show what runs, where, and whether it answers."""
    with session(json) as this:
        states = room("pipeline.stack:status")(this.settings)
        this.result({"parts": [vars(state) for state in states]}, lambda: this.console.print(_table(states)))


def _state(part: Part) -> str:
    return part.state if part.healthy or part.state == "stopped" else f"{part.state}, does not answer"


def _table(states: Sequence[Part]) -> Table:
    rows: list[tuple[RenderableType, ...]] = [
        (part.name, Text(_state(part), style="green" if part.healthy else "yellow"), part.address, part.note)
        for part in states
    ]
    return table("The embedded stack", ("part", "state", "address", "note"), rows)
