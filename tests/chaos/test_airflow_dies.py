"""Airflow killed in the middle of a run, in part and as a whole: it comes back by itself, and the run ends as it should."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from pipeline import stack
from pipeline.airflow_client import ENDED, AirflowClient
from pipeline.errors import SlipwayError
from pipeline.record import sequences
from pipeline.refs import Approval, PromotionRef
from pipeline.run import APPROVE, Run
from pipeline.supervisor import Supervisor
from tests.chaos.world import SPEC, World, results
from tests.support.polling import wait_for
from tests.support.processes import command_line

pytestmark = pytest.mark.stack
CHECKOUT = Path(__file__).resolve().parents[2]
YES = Approval(approved=True, by="", at="", via="airflow", note="seen")
# while a task runs, or waits for a person: what is killed
DEATHS = (
    ("train_xgboost", "scheduler"),
    ("package", "api-server"),
    ("gate", "first"),
    (APPROVE, "all"),
    ("promote", "scheduler"),
)


@pytest.fixture(scope="module")
def airflow(world: World) -> Iterator[AirflowClient]:
    for name in ("pipelines.py", ".airflowignore"):
        shutil.copyfile(CHECKOUT / "dags" / name, world.settings.root / "dags" / name)
    stack.up(world.settings, ("airflow",))
    yield AirflowClient(world.settings)
    Supervisor(world.settings).stop("airflow")


def processes(world: World) -> list[psutil.Process]:
    """Airflow's: its first process, and all that comes of it."""
    first = psutil.Process(Supervisor(world.settings).pid("airflow"))
    return [first, *first.children(recursive=True)]


def kill(world: World, part: str) -> None:
    """Its first process, its api-server, its scheduler, or all there is of it."""
    every = processes(world)
    titled = {title: one for one in every for title in ("LocalExecutor", "api_server") if title in command_line(one)}
    parts = {
        "first": [every[0]],
        "api-server": [titled["api_server"]],
        "scheduler": [titled["LocalExecutor"].parent()],  # whose workers alone have a title
        "all": every,
    }
    for process in parts[part]:
        assert process is not None
        with suppress(psutil.NoSuchProcess):  # a task's has just ended
            process.kill()


def until(what: str, condition: Callable[[], bool]) -> None:
    def holds() -> bool:
        try:
            return condition()
        except SlipwayError:
            return False  # Airflow is away

    wait_for(holds, what, seconds=240, interval_s=0.2)


def test_a_run_outlives_the_deaths_of_airflow(world: World, airflow: AirflowClient, calm: dict[str, float]) -> None:
    name = "without_airflow"
    world.spec(name, SPEC + "approval: required\nretries: 0\n")
    airflow.await_dag(name)
    run: Run = world.run(name, airflow.trigger(name, {}, "r1"))

    def reached(task: str) -> bool:
        state = next(one.state for one in airflow.tasks(name, run.id) if one.key == task)
        return state in (("awaiting_input",) if task == APPROVE else ("running", "success"))  # some take no time

    for task, part in DEATHS:
        until(task, partial(reached, task))
        kill(world, part)
        if task == APPROVE:
            until("an answer", lambda: airflow.answer(name, run.id, YES))
    until("the end", lambda: airflow.run_state(name, run.id) in ENDED)
    assert airflow.run_state(name, run.id) == "success", airflow.tasks(name, run.id)
    assert results(run) == results(world.run("calm", "r1"))
    assert run.ref(PromotionRef).version == 1
    assert len(sequences(run.store, name)) == 1  # promoted once
