"""The whole graph on this machine: the quick inner loop, with no Airflow."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import groupby
from threading import Thread, get_native_id
from typing import Literal

from pipeline.errors import Rejected, Waits
from pipeline.graph import Task, later, tasks
from pipeline.lanes import at_once, side_by_side
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import StepFunction, execute, pin_spec

State = Literal["running", "done", "failed", "rejected", "waits"]
LOW = 10  # the niceness of imports
Watch = Callable[[str, State], None]  # told of each task's key and state


def run_local(spec: PipelineSpec, run: Run, watch: Watch) -> None:
    """Every task of the run; finished ones are not done again.

    Candidates are fitted side by side, as many at a time as there are cores, each in a process of its own, and so they
    are exported. While they are fitted, this process imports what comes after. Raises what a step raises; the tasks
    after it are not started, and the same run id continues from there.
    """
    spec = pin_spec(run, spec)
    every = tasks(tuple(candidate.name for candidate in spec.candidates))
    ahead = dict.fromkeys([*later({one.kind for one in spec.candidates}), *(task.step.module for task in every)])
    for fanned_out, group in groupby(every, key=lambda task: task.candidate and task.step.name):
        some = tuple(group)
        if fanned_out is None:
            _chain(some, spec, run, watch)
            continue
        chains = {str(task.candidate): partial(_chain, [task], spec, run) for task in some}
        with side_by_side(chains, watch, at_once(len(chains))):
            importing = Thread(target=_import_ahead, args=(ahead,), daemon=True)
            importing.start()
        importing.join()  # while a thread imports, no process is to be forked


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
    """Import modules on a core that has nothing else to do; one that fails is imported again by who needs it."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, get_native_id(), LOW)
    for module in modules:
        with suppress(Exception):
            importlib.import_module(module)


def _function(task: Task) -> StepFunction:
    return getattr(importlib.import_module(task.step.module), task.step.name)  # type: ignore[no-any-return]
