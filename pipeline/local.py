"""The whole graph on this machine: the quick inner loop, with no Airflow."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Literal

from pipeline.ahead import EXPORT, import_ahead
from pipeline.errors import Rejected, Waits
from pipeline.graph import Task, tasks
from pipeline.lanes import Part, side_by_side
from pipeline.process import cores
from pipeline.run import Run
from pipeline.spec import Candidate, PipelineSpec
from pipeline.step import StepFunction, execute, pin_spec

State = Literal["running", "done", "failed", "rejected", "waits"]
Watch = Callable[[str, State], None]  # told of each task's key and state


def run_local(spec: PipelineSpec, run: Run, watch: Watch) -> None:
    """Every task of the run; finished ones are not done again.

    Candidates are fitted side by side, as many at a time as there are cores, each step in a process of its own; what
    comes after a step is imported meanwhile, where fewer processes than cores are under way. Raises what a step raises;
    the tasks after it are not started, and the same run id continues from there.
    """
    spec = pin_spec(run, spec)
    every = tasks(tuple(candidate.name for candidate in spec.candidates))
    for is_fanned_out, group in groupby(every, key=lambda task: task.candidate is not None):
        some = tuple(group)
        if is_fanned_out:
            chains = {candidate.name: _parts(some, candidate, spec, run) for candidate in spec.candidates}
            after = sorted({task.step.module for task in every if task.candidate is None})
            side_by_side(chains, watch, cores(), partial(import_ahead, after))
        else:
            for task in some:
                _do(task, spec, run, watch)


def _parts(some: Iterable[Task], candidate: Candidate, spec: PipelineSpec, run: Run) -> list[Part]:
    """The tasks of a candidate; each but the first imports what it needs while the one before it is under way."""
    parts: list[Part] = []
    is_to_come = False  # the task before
    for task in (task for task in some if task.candidate == candidate.name):
        modules = (task.step.module, *EXPORT[candidate.kind])
        parts.append(Part(partial(_do, task, spec, run), partial(import_ahead, modules) if is_to_come else None))
        is_to_come = run.envelope(task.key) is None
    return parts


def _do(task: Task, spec: PipelineSpec, run: Run, watch: Watch) -> None:
    watch(task.key, "running")
    try:
        execute(_function(task), spec, dataclasses.replace(run, candidate=task.candidate))
    except BaseException as error:
        waits, refused = isinstance(error, Waits), isinstance(error, Rejected)
        watch(task.key, "waits" if waits else "rejected" if refused else "failed")
        raise
    watch(task.key, "done")


def _function(task: Task) -> StepFunction:
    return getattr(importlib.import_module(task.step.module), task.step.name)  # type: ignore[no-any-return]
