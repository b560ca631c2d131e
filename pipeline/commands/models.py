"""What serves: predict, lineage, verify, rollback, reconcile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.lineage import trace
from pipeline.lineage_graph import Direction
from pipeline.registry import Registry
from pipeline.run import ROLLBACK, Run, new_run_id
from pipeline.terminal import Json, room, session

Model = Annotated[str, typer.Argument(help="name of the model, which is the spec's", show_default=False)]


def predict(
    model: Model,
    data: Annotated[str, typer.Argument(help="CSV, Parquet or JSON file with rows; - reads JSON rows from stdin")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="write a CSV instead of printing")] = None,
    json: Json = False,
) -> None:
    """Ask the serving champion for answers."""
    with session(json) as this:
        frame = room("serving.predict:read_request")(data)
        answers = room("serving.predict:predict")(this.settings, model, frame)
        if out is not None:
            answers.to_csv(out, index=False)
            this.result(
                {"rows": len(answers), "file": str(out)}, lambda: this.console.print(f"{len(answers)} answers in {out}")
            )
        else:
            this.result(
                {"model": model, "answers": answers.to_dict("records")},
                lambda: sys.stdout.write(answers.to_csv(index=False)),  # type: ignore[arg-type]
            )


def lineage(
    what: Annotated[
        str,
        typer.Argument(
            help="MODEL, MODEL@ALIAS, MODEL/VERSION, a run, the digest of a dataset, graph or package (8 letters of it "
            "will do), HOST:PORT/MODEL, or a URL of Triton's v2 API",
            show_default=False,
        ),
    ],
    down: Annotated[bool, typer.Option("--down", help="only what it was made from")] = False,
    up: Annotated[bool, typer.Option("--up", help="only what was made from it")] = False,
    json: Json = False,
) -> None:
    """Trace anything to the rows it was made from, and to every server of what was made from it."""
    with session(json) as this:
        direction: Direction = "both" if up == down else "up" if up else "down"
        found = trace(this.settings, Registry(this.settings), what, direction)
        this.result(found.model_dump(mode="json"), lambda: this.console.print(*found.trees(), sep="\n"))


def verify(
    what: Annotated[
        str,
        typer.Argument(
            help="a folder (a package, a record), MODEL, MODEL@ALIAS or MODEL/VERSION; what exists as a folder is one",
            show_default=False,
        ),
    ],
    json: Json = False,
) -> None:
    """Verify digests, signatures and records of a version, wherever it lies, and that nothing in it is pickled."""
    with session(json) as this:
        found = room("serving.verify:verified")(this.settings, what)
        problems = [problem for one in found for problem in one.problems]

        def show() -> None:
            this.console.print(room("serving.verify:table")(found))
            for problem in problems:
                this.console.print(f"refused: {problem}", markup=False, soft_wrap=True)

        checked = [one.model_dump() for one in found]
        this.result({"checked": checked, "problems": [vars(problem) for problem in problems]}, show)
        if problems:
            raise typer.Exit(2)


def rollback(model: Model, json: Json = False) -> None:
    """Move traffic and the alias champion back to the version that was kept."""
    with session(json) as this:
        end = room("serving.rollback:rollback")(Run(new_run_id(), ROLLBACK, this.settings, Path()), model)
        this.result(
            end.model_dump(mode="json"),
            lambda: this.console.print(
                f"{end.name}: version {end.version} serves; version {end.previous} was taken back"
            ),
        )


def reconcile(
    model: Annotated[
        str | None, typer.Argument(help="name of a model (default: every one)", show_default=False)
    ] = None,
    fix: Annotated[bool, typer.Option("--fix", help="put back what was moved")] = False,
    json: Json = False,
) -> None:
    """Hold alias, traffic and model repository against the last promotion or roll-back; exits with 3 if they differ."""
    with session(json) as this:
        found = room("serving.reconcile:reconcile")(this.settings, model, fix)
        lines = room("serving.reconcile:sentences")(found, fix)
        this.result(
            {"models": [one.model_dump(mode="json") for one in found]},
            lambda: this.console.print("\n".join(lines), markup=False, soft_wrap=True),
        )
        if any(one.left for one in found):
            raise typer.Exit(3)
