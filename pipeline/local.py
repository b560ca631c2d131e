"""The whole graph on this machine: the quick inner loop, with no Airflow."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Literal

from pipeline.errors import Rejected, Waits
from pipeline.graph import Task, tasks
from pipeline.lanes import at_once, side_by_side
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import StepFunction, execute, pin_spec

State = Literal["running", "done", "failed", "rejected", "waits"]
Watch = Callable[[str, State], None]  # told of each task's key and state


def run_local(spec: PipelineSpec, run: Run, watch: Watch) -> None:
    """Every task of the run; finished ones are not done again.

    Candidates are fitted side by side, as many at a time as there are cores, each in a process of its own, while this
    one imports what comes after them. Raises what a step raises; the tasks after it are not started, and the same run
    id continues from there.
    """
    spec = pin_spec(run, spec)
    every = tasks(tuple(candidate.name for candidate in spec.candidates))
    for is_fanned_out, group in groupby(every, key=lambda task: task.candidate is not None):
        some = tuple(group)
        if not is_fanned_out:
            _chain(some, spec, run, watch)
            continue
        chains = {
            candidate.name: partial(_chain, [task for task in some if task.candidate == candidate.name], spec, run)
            for candidate in spec.candidates
        }
        with side_by_side(chains, watch, at_once(len(chains))):
            _import_ahead({task.step.module for task in every if task.candidate is None})


def _chain(some: Iterable[Task], spec: PipelineSpec, run: Run, watch: Watch) -> None:
    """Some tasks, one after the other."""
    for task in some:
        watch(task.key, "running")
        try:
            execute(_function(task), spec, dataclasses.replace(run, candidate=task.candidate))
        except BaseException as error:
            waits, refused = isinstance(error, Waits), isinstance(error, Rejected)
            watch(task.key, "waits" if waits else "rejected" if refused else "failed")
            raise
        watch(task.key, "done")


def _import_ahead(modules: Iterable[str]) -> None:
    """Import modules beside whatever this process does; one that fails is imported again by who needs it."""
    ahead = ThreadPoolExecutor(1)
    for module in sorted(modules):
        ahead.submit(importlib.import_module, module)
    ahead.shutdown(wait=False)


def _function(task: Task) -> StepFunction:
    return getattr(importlib.import_module(task.step.module), task.step.name)  # type: ignore[no-any-return]
