"""The step contract: read references, do one thing, write one reference last. `main` is a step's command line."""

from __future__ import annotations

import inspect
import logging
import sys
import time
import typing
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from pydantic import ValidationError

from pipeline.errors import Invalid, Rejected, SlipwayError
from pipeline.frozen import Frozen
from pipeline.graph import Task, step_named
from pipeline.process import settle
from pipeline.run import Run
from pipeline.settings import read_settings
from pipeline.spec import Overrides, PipelineSpec
from pipeline.spec_file import load_spec, parse_overrides

StepFunction = Callable[..., Frozen]


def execute(function: StepFunction, spec: PipelineSpec, run: Run, started: float | None = None) -> Frozen:
    """Run a step once: a finished one is not done again, an interrupted one starts over.

    `started` is the epoch second from which its time counts (default: now).
    Raises what the step raises; see `pipeline.errors` for which a retry helps.
    """
    step = step_named(function.__name__)
    task = Task(step, run.candidate if step.per_candidate else None)
    if (done := run.envelope(task.key)) is not None:
        run.log.info("%s: already done in this run", task.key)
        return step.produces.model_validate_json(done.ref)
    begin = time.time() if started is None else started
    try:
        read = _arguments(function, spec, run)
        with _told(run, spec, task, read) as wrote:
            ref = function(**read)
            run.finish(task.key, ref, time.time() - begin)
            wrote(ref)
    except (Invalid, Rejected) as error:
        _close(run, error)
        raise
    return ref


def _told(
    run: Run, spec: PipelineSpec, task: Task, read: dict[str, object]
) -> AbstractContextManager[Callable[[Frozen], None]]:
    """Tell the receiver of lineage events, where there is one, of what happens inside."""
    if not run.settings.openlineage_url:
        return nullcontext(lambda _: None)
    from pipeline.openlineage import told  # noqa: PLC0415 (a third of a second; only who has a receiver pays it)

    return told(run, spec, task, read)


def _close(run: Run, error: Invalid | Rejected) -> None:
    """Tell MLflow that the run has ended here, and why; no retry follows. Its silence hides nothing of the error."""
    if run.envelope("snapshot") is None:
        return  # the run has nothing in MLflow yet
    try:
        if run_id := run.registry.find_pipeline_run(run):
            run.registry.set_tags(run_id, {"slipway.outcome": error.title, "slipway.reason": str(error)[:5000]})
            run.registry.finish(run_id, "FINISHED" if isinstance(error, Rejected) else "FAILED")
    except SlipwayError as silence:
        run.log.warning("MLflow was not told of the end of the run: %s", silence)


def _arguments(function: StepFunction, spec: PipelineSpec, run: Run) -> dict[str, object]:
    """A value for every parameter, by its annotation: spec, run, a reference, or a tuple of every candidate's."""
    values: dict[str, object] = {}
    hints = typing.get_type_hints(function)
    for name in inspect.signature(function).parameters:
        kind = hints[name]
        if kind is PipelineSpec:
            values[name] = spec
        elif kind is Run:
            values[name] = run
        elif typing.get_origin(kind) is tuple:
            values[name] = tuple(run.ref(typing.get_args(kind)[0], candidate.name) for candidate in spec.candidates)
        else:
            values[name] = run.ref(kind, run.candidate)
    return values


def pin_spec(run: Run, spec: PipelineSpec) -> PipelineSpec:
    """The spec of this run: the one its first step saw. An edit made while it runs is for the next run.

    Raises:
        Invalid: the pinned spec cannot be read. A retry does not help.
    """
    run.store.write(f"{run.key}/spec.json", spec.model_dump_json(indent=1).encode())
    return pinned_spec(run) or spec


def pinned_spec(run: Run) -> PipelineSpec | None:
    """The spec that a run's first step saw, or None when there is no such run. Raises as `pin_spec` does."""
    key = f"{run.key}/spec.json"
    try:
        return PipelineSpec.model_validate_json(run.store.read(key))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise Invalid("the spec pinned for this run cannot be read", run.store.path(key), "start a new run") from error


def _born() -> float:
    """The epoch second at which this process began. psutil counts from the boot, whose second the kernel rounds."""
    process = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return process
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + process - psutil.boot_time()


def main(function: StepFunction, show: Callable[[Any], str] = lambda ref: ref.model_dump_json()) -> None:
    """The command line of a step: `python -m training.train --spec S --run R [--candidate C] [--params JSON]`.

    Prints its reference, as `show` writes it. Exits with 0, or with 1, 2 or 3 as `pipeline.errors` says; a failure is
    told in sentences on stderr.
    """

    def command(
        spec: Annotated[Path, typer.Option(help="spec file")],
        run: Annotated[str, typer.Option(help="run id; the same id continues a run")],
        candidate: Annotated[str | None, typer.Option(help="candidate, for a step that runs for each")] = None,
        params: Annotated[str, typer.Option(help="overrides of the spec, as JSON")] = "{}",
    ) -> None:
        settle()
        form = "%(asctime)s %(levelname)s %(message)s"
        logging.basicConfig(level=logging.WARNING, format=form, stream=sys.stderr, force=True)
        logging.getLogger("slipway").setLevel(logging.INFO)  # not what libraries tell themselves
        try:
            overrides: Overrides = parse_overrides(params)
            loaded = overrides.apply(load_spec(spec))
            this = Run(run, loaded.name, read_settings(), spec.absolute(), candidate)
            if step_named(function.__name__).per_candidate and candidate not in {c.name for c in loaded.candidates}:
                raise Invalid(f"no candidate {candidate!r}", str(spec), "name one of the spec with --candidate")
            ref = execute(function, pin_spec(this, loaded), this, _born())
        except SlipwayError as error:
            for problem in error.problems:
                sys.stderr.write(f"{error.title}: {problem}\n")
            raise typer.Exit(error.exit_code) from None
        sys.stdout.write(show(ref) + "\n")

    command.__doc__ = function.__doc__
    typer.run(command)
