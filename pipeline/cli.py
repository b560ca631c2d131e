"""The `slipway` command: every subcommand by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from pipeline.commands import approval, author, models, runs, stack
from pipeline.process import settle

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="From a one-page spec to a served champion. A SPEC is a file, or the name of one in dags/specs.",
    epilog="Exit codes: 0 done · 1 the outside world failed, retry · 2 wrong input · 3 a check or gate said no.",
)
spec_app = typer.Typer(no_args_is_help=True, help="About specs.")
app.add_typer(spec_app, name="spec", rich_help_panel="A model")
_PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "A model": (author.init, author.validate, runs.run, runs.trigger, approval.approve, author.steps),
    "What serves": (models.predict, models.lineage, models.verify, models.rollback, models.reconcile),
    "The embedded stack": (stack.up, stack.down, stack.status),
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        app.command(rich_help_panel=_panel)(_command)
spec_app.command()(author.schema)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"slipway {version('slipway')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point of the `slipway` command."""
    settle()
    app()


if __name__ == "__main__":
    main()
