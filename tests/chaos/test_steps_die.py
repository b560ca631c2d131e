"""Every step killed at its start, in the middle and at its end, and run again: the same results as undisturbed."""

from __future__ import annotations

import time

import pytest

from pipeline.graph import STEPS, Task
from pipeline.refs import DatasetRef, Evaluation, GateReport, LoggedModelRef, ModelVersionRef, OnnxRef, PromotionRef
from pipeline.run import Run
from tests.chaos.world import World

pytestmark = pytest.mark.stack


def results(run: Run) -> dict[str, object]:
    """What a run came to, without what only names it."""
    scores = run.ref(Evaluation).scores
    return {
        "dataset": run.ref(DatasetRef),
        "native": run.ref(LoggedModelRef, "xgboost").digest,
        "params": run.ref(LoggedModelRef, "xgboost").params,
        "onnx": run.ref(OnnxRef, "xgboost").digest,
        "metrics": [score.metrics for score in scores],
        "served": run.ref(ModelVersionRef).onnx_digest,
        "gates": [(verdict.gate, verdict.outcome) for verdict in run.ref(GateReport).verdicts],
    }


def test_a_run_whose_every_step_is_killed_ends_as_one_that_was_left_alone(world: World, calm: dict[str, float]) -> None:
    world.spec("wild")
    for step in STEPS:
        key = Task(step, "xgboost" if step.per_candidate else None).key
        ended = world.step(step.name, "wild", "r1", at=1)  # before it has written anything
        assert ended.code == -9, ended.said
        child = world.start(step.name, "wild", "r1")
        time.sleep(world.draw.uniform(0.2, 0.9) * calm[step.name])
        child.kill()
        child.end()
        # Its reference, not its exit: it may be killed between the two.
        done = world.run("wild", "r1").envelope(key) is not None
        if not done:
            ended = world.step(step.name, "wild", "r1", at=f"{key}.json'")  # before its reference has its name
            assert ended.code == -9, ended.said
        ended = world.step(step.name, "wild", "r1")
        assert ended.code == 0, ended.said
        assert ("already done" in ended.said) is done, ended.said
    wild = world.run("wild", "r1")
    assert results(world.run("calm", "r1")) == results(wild)
    assert (wild.ref(PromotionRef).version, wild.ref(PromotionRef).previous) == (1, None)
    assert [one.version for one in wild.registry.versions("name = 'wild'")] == [1]  # one run, one version
