"""Chains side by side: what they tell and log, how they fail, and that none outlives who began it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from threading import Timer

import psutil
import pytest

from pipeline.errors import Problem, Rejected, Unavailable
from pipeline.lanes import Tell, at_once, side_by_side

PARENT = """
import time
from pipeline.lanes import side_by_side

def endless(tell):
    tell("began", "running")
    time.sleep(600)

def watch(key, state):
    print(key, flush=True)

with side_by_side({"a": endless, "b": endless}, watch, 2):
    pass
"""


def test_what_chains_tell_and_log_is_told_and_logged_here(caplog):
    told: list[tuple[str, int]] = []

    def chain(name: str, tell: Tell) -> None:
        logging.getLogger("slipway").warning("%s is here", name)
        tell(name, os.getpid())

    chains = {name: lambda tell, name=name: chain(name, tell) for name in ("a", "b")}
    with side_by_side(chains, lambda key, pid: told.append((key, pid)), 2):
        pass
    assert sorted(key for key, _ in told) == ["a", "b"]
    assert len({os.getpid(), *(pid for _, pid in told)}) == 3
    assert sorted(record.getMessage() for record in caplog.records) == ["a is here", "b is here"]


def test_chains_run_at_the_same_time(tmp_path):
    def meet(mine: str, other: str) -> None:
        (tmp_path / mine).touch()
        while not (tmp_path / other).exists():
            time.sleep(0.01)

    with side_by_side({"a": lambda _: meet("a", "b"), "b": lambda _: meet("b", "a")}, lambda *_: None, 2):
        pass


def test_a_failure_is_raised_once_those_under_way_have_ended(tmp_path):
    refusal = Rejected([Problem("the rows are wrong", "check", "mend them")])

    def refuse(_: Tell) -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        raise refusal

    def go_on(_: Tell) -> None:
        (tmp_path / "begun").touch()
        time.sleep(0.3)
        (tmp_path / "done").touch()

    with (
        pytest.raises(Rejected) as caught,
        side_by_side({"a": refuse, "b": go_on}, lambda *_: None, 2),
    ):
        pass
    assert caught.value.problems == refusal.problems
    assert (tmp_path / "done").exists()


def test_no_more_at_once_than_may_be_whatever_becomes_of_them(tmp_path):
    told: list[str] = []

    def chain(name: str, tell: Tell) -> None:
        assert not list(tmp_path.iterdir())
        (tmp_path / name).touch()
        tell(name)
        time.sleep(0.05)
        (tmp_path / name).unlink()
        if name == "c":
            os.kill(os.getpid(), signal.SIGKILL)

    chains = {name: lambda tell, name=name: chain(name, tell) for name in "abcdef"}
    with pytest.raises(Unavailable, match="the process of c"), side_by_side(chains, told.append, 1):
        pass
    assert "c" in told
    assert told[-1] == "c"  # and none after it


def test_as_many_are_under_way_as_there_are_cores_for_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert at_once(4) == 1


def test_a_process_that_was_lost_is_a_failure_that_may_be_retried():
    with (
        pytest.raises(Unavailable, match="the process of torch ended with signal 9"),
        side_by_side({"torch": lambda _: os.kill(os.getpid(), signal.SIGKILL)}, lambda *_: None, 2),
    ):
        pass


def test_a_process_that_was_lost_in_the_middle_of_a_message_is_such_a_failure_too():
    def long(tell: Tell) -> None:
        Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        tell("x" * 2**20)  # more than a pipe holds while nobody reads

    with (
        pytest.raises(Unavailable, match="the process of torch ended with signal 9"),
        side_by_side({"torch": long}, lambda *_: None, 1),
    ):
        time.sleep(1)


def test_no_chain_outlives_who_began_it():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == ["began\n", "began\n"]
        lanes = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.wait()
    assert len(lanes) == 2
    assert not psutil.wait_procs(lanes, timeout=30)[1]
