"""Every step killed at its start, in the middle and at its end, and run again: the same results as undisturbed."""

from __future__ import annotations

import time

import pytest

from pipeline.graph import STEPS, Task
from pipeline.refs import PromotionRef
from tests.chaos.lines import agreed, known, ledger, promoted, ready, weight
from tests.chaos.world import World, results
from tests.serving.packed import asking

pytestmark = pytest.mark.stack


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


@pytest.mark.smoke
def test_a_promotion_killed_before_its_alias_moves_ends_the_same_when_run_again(world: World) -> None:
    name = "killed_once"
    promoted(world, name, 1, None)
    ready(world, name, "r2", weight(2), 1)
    with asking(world.settings, name, pause_s=0.005) as client:
        ended = world.step("promote", name, "r2", at="registered-models/alias")
        assert ended.code == -9, ended.said
        again = world.step("promote", name, "r2")
        assert again.code == 0, again.said
        assert agreed(world, name) == 2
        assert set(client.heard()) <= {known(weight(1)), known(weight(2))}
    assert client.failures == []
    assert ledger(world.run(name, "r1"), name) == [("promotion", 1), ("promotion", 2)]
