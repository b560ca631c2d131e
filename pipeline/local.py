"""The whole graph in this process: the quick inner loop, with no Airflow."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Literal

from pipeline.errors import Rejected, Waits
from pipeline.graph import Task, tasks
from pipeline.run import Run
from pipeline.spec import PipelineSpec
from pipeline.step import StepFunction, execute, pin_spec

State = Literal["running", "done", "failed", "rejected", "waits"]
Watch = Callable[[str, State], None]  # told of each task's key and state


def run_local(spec: PipelineSpec, run: Run, watch: Watch) -> None:
    """Every task of the run, one after the other; finished ones are not done again.

    Raises what a step raises; the tasks after it are not started, and the same run id continues from there.
    """
    spec = pin_spec(run, spec)
    for task in tasks(tuple(candidate.name for candidate in spec.candidates)):
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
