"""Airflow's LocalExecutor, which has imported the steps that its tasks run here, and remembers what it was given.

A task that waits (for a pod, for a person) and goes on at once is given to the executor a second time, under the same
key, before the scheduler reads that its first process has ended. The scheduler then asks whether the executor has the
task; the one of Airflow 3.3 forgets a task when it starts, so that the end of the first process is taken for the end of
the second, and the task for lost: it fails, and with it the person's answer (apache/airflow 66374, 67287, 72716).

Tasks are forked of the scheduler, and a step of its task (`dags.forked`): what is imported here, once, no step imports.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from airflow.executors import local_executor
from airflow.utils.state import TaskInstanceState

from pipeline.ahead import LATER, import_ahead
from pipeline.graph import STEPS
from pipeline.process import settle
from pipeline.settings import read_settings

ENDS = {TaskInstanceState.SUCCESS, TaskInstanceState.FAILED}


class LocalExecutor(local_executor.LocalExecutor):  # type: ignore[misc]
    """See the module. It has its parent's name because Airflow goes by it."""

    def start(self) -> None:
        """See the parent."""
        if read_settings().runtime == "local":  # in pods, elsewhere
            settle()
            import_ahead([*(step.module for step in STEPS), *LATER])
        self._lives: Counter[Any] = Counter()
        super().start()

    def _process_workloads(self, workload_list: list[Any]) -> None:
        self._lives.update(workload.key for workload in workload_list)
        super()._process_workloads(workload_list)

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """See the parent."""
        super().change_state(key, state, info, remove_running)
        if state in ENDS:
            self._lives -= Counter([key])  # keeps none that is zero

    def has_task(self, task_instance: Any) -> bool:
        """Whether a process of this task has still to be heard of."""
        return self._lives[task_instance.key] > 0 or super().has_task(task_instance)
