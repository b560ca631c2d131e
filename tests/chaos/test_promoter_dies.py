"""The promoter killed before every write, under a client that asks all the while: old or new, never else, never none."""

from __future__ import annotations

import os
import time

import pytest

from serving.register import CHAMPION
from tests.chaos.lines import agreed, known, ledger, ready, weight
from tests.chaos.world import World
from tests.serving.packed import answer, asking

pytestmark = pytest.mark.stack
EVERY = os.environ.get("CHAOS") == "all"  # every write, not one in STRIDE
STRIDE, REQUESTS, MANY = 5, 10_000, 25


def test_a_promotion_killed_before_any_write_ends_the_same_when_run_again(world: World) -> None:
    name, at, asked = "killed", 1, 0
    ready(world, name, "r0", weight(1), None)
    assert world.step("promote", name, "r0").code == 0
    run, ends = world.run(name, "r0"), [("promotion", 1)]
    with asking(world.settings, name, pause_s=0.001) as client:
        ended = None
        while ended is None or ended.code != 0:
            old, new = known(weight(len(ends))), known(weight(len(ends) + 1))
            model = ready(world, name, f"r{at}", weight(len(ends) + 1), len(ends))
            heard = client.heard()
            assert set(heard) <= {old}
            asked += sum(heard.values())
            ended = world.step("promote", name, f"r{at}", at=at)
            assert ended.code in (-9, 0), ended.said
            assert answer(world.settings, name) in (old, new)
            if ended.code == -9:
                again = world.step("promote", name, f"r{at}")
                assert again.code == 0, f"{ended.said}\n{again.said}"
            heard = client.heard()
            assert set(heard) <= {old, new}, ended.said
            asked += sum(heard.values())
            ends.append(("promotion", model.version))
            assert agreed(world, name) == model.version == len(ends)
            assert run.registry.aliases(name) == {CHAMPION: model.version}, ended.said
            assert ledger(run, name) == ends, ended.said
            at += 1 if EVERY else world.draw.randint(1, 2 * STRIDE - 1)
        assert at > MANY
        while asked < REQUESTS:
            time.sleep(0.1)
            heard = client.heard()
            assert set(heard) <= {new}
            asked += sum(heard.values())
    assert client.failures == []


def test_a_way_back_killed_before_any_write_ends_the_same_when_run_again(world: World) -> None:
    name, at = "taken_back", 1
    ready(world, name, "r1", weight(1), None)
    assert world.step("promote", name, "r1").code == 0
    run, ends, ended, new = world.run(name, "r1"), [("promotion", 1)], None, 1
    with asking(world.settings, name, pause_s=0.005) as client:
        while ended is None or ended.code != 0:
            new += 1  # version 1 is what is come back to, time and again
            assert ready(world, name, f"r{new}", weight(new), 1).version == new
            assert world.step("promote", name, f"r{new}").code == 0
            assert set(client.heard()) <= {known(weight(1)), known(weight(new))}
            ended = world.child("serving.rollback", [name, "--run", f"back-{name}-{new}"], at).end()
            assert ended.code in (-9, 0), ended.said
            if ended.code == -9:
                again = world.child("serving.rollback", [name, "--run", f"back-{name}-{new}"]).end()
                assert again.code == 0, f"{ended.said}\n{again.said}"
            assert set(client.heard()) <= {known(weight(1)), known(weight(new))}, ended.said
            ends += [("promotion", new), ("rollback", 1)]
            assert agreed(world, name) == 1
            assert ledger(run, name) == ends, ended.said
            at += 1 if EVERY else world.draw.randint(2, 3 * STRIDE)
        assert at > MANY // 2
    assert client.failures == []
