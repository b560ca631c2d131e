"""What serves is killed while a promotion moves it; promotions and ways back that meet."""

from __future__ import annotations

import time

import psutil
import pytest

from pipeline.supervisor import Supervisor
from tests.chaos.lines import agreed, known, ledger, promoted, ready, weight
from tests.chaos.world import World
from tests.serving.packed import asking

pytestmark = pytest.mark.stack
BACK_S, TRIES, RETRY_S = 90.0, 15, 2.0


def test_a_promotion_during_which_triton_dies(world: World) -> None:
    name = "dies"
    promoted(world, name, 1, None)
    with asking(world.settings, name, pause_s=0.005) as client:
        for version in (2, 3):
            old, new = known(weight(version - 1)), known(weight(version))
            ready(world, name, f"r{version}", weight(version), version - 1)
            child = world.start("promote", name, f"r{version}")
            time.sleep(world.draw.uniform(0.1, 1.5))
            psutil.Process(Supervisor(world.settings).pid("triton")).kill()
            ended, tries = child.end(), 0
            while ended.code != 0:  # as Airflow tries again
                assert ended.code == 1, ended.said
                assert "Traceback" not in ended.said
                assert ended.said.count("unavailable: ") >= 1
                tries += 1
                assert tries < TRIES, ended.said
                time.sleep(RETRY_S)
                ended = world.step("promote", name, f"r{version}")
            assert client.is_back(BACK_S)
            assert set(client.heard()) <= {old, new}
            assert agreed(world, name) == version
    assert [version for _, version in ledger(world.run(name, "r1"), name)] == [1, 2, 3]


def test_two_promotions_of_one_model_at_once(world: World) -> None:
    name = "twice"
    promoted(world, name, 1, None)
    for version in (2, 3):
        ready(world, name, f"r{version}", weight(version), 1)
    with asking(world.settings, name, pause_s=0.002) as client:
        children = [world.start("promote", name, f"r{version}") for version in (2, 3)]
        ends = [child.end() for child in children]
        assert sorted(end.code for end in ends) == [0, 3], [end.said for end in ends]
        won = 2 + [end.code for end in ends].index(0)
        refused = next(end for end in ends if end.code == 3)
        assert f"version {won} became champion after the gates compared with 1" in refused.said
        assert agreed(world, name) == won
        assert set(client.heard()) <= {known(weight(1)), known(weight(won))}
    assert client.failures == []
    assert sorted(kind for kind, _ in ledger(world.run(name, "r1"), name)) == ["promotion", "promotion", "refusal"]


def test_two_models_at_once_do_not_touch_each_other(world: World) -> None:
    names = ("one_of_two", "two_of_two")
    for name in names:
        promoted(world, name, 1, None)
        ready(world, name, "r2", weight(2), 1)
    with asking(world.settings, names[0], 0.002) as first, asking(world.settings, names[1], 0.002) as second:
        children = [world.start("promote", name, "r2") for name in names]
        ends = [child.end() for child in children]
        assert [end.code for end in ends] == [0, 0], [end.said for end in ends]
    for name, client in zip(names, (first, second), strict=True):
        assert agreed(world, name) == 2
        assert set(client.answers) == {known(weight(1)), known(weight(2))}
        assert client.failures == []


def test_a_promotion_and_a_way_back_at_once(world: World) -> None:
    name = "crossed"
    promoted(world, name, 1, None)
    promoted(world, name, 2, 1)
    with asking(world.settings, name, pause_s=0.002) as client:
        champion, new = 2, 3
        for delay in (0.0, 0.3, 0.6, -0.3):
            ready(world, name, f"r{new}", weight(new), champion)
            if delay < 0:
                back = world.child("serving.rollback", [name, "--run", f"back-{name}-{new}"])
                time.sleep(-delay)
            forth = world.start("promote", name, f"r{new}")
            if delay >= 0:
                time.sleep(delay)
                back = world.child("serving.rollback", [name, "--run", f"back-{name}-{new}"])
            ends = forth.end(), back.end()
            assert ends[0].code in (0, 3), ends[
                0
            ].said  # 3: the way back came first, and the gates compared with another
            assert ends[1].code in (0, 2), ends[1].said  # 2: there was none left to go back to
            assert not any("Traceback" in end.said for end in ends)
            champion, new = agreed(world, name), new + 1
            if champion == 1:
                promoted(world, name, new, 1)
                champion, new = new, new + 1
        assert set(client.heard()) <= {known(weight(version)) for version in range(1, new)}
    assert client.failures == []
