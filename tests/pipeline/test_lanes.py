"""Chains side by side: what they tell and log, how they fail, and that none outlives who began it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from threading import Timer

import psutil
import pytest

from pipeline.errors import Problem, Rejected, Unavailable
from pipeline.lanes import Part, Tell, at_once, side_by_side
from tests.support.polling import wait_for

PARENT = """
import time
from pipeline.lanes import Part, side_by_side

def endless(tell):
    tell("began", "running")
    time.sleep(600)

def watch(key, state):
    print(key, flush=True)

side_by_side({"a": [Part(endless)], "b": [Part(endless)]}, watch, 2)
"""


def test_what_chains_tell_and_log_is_told_and_logged_here(caplog):
    told: list[tuple[str, int]] = []

    def chain(name: str, tell: Tell) -> None:
        logging.getLogger("slipway").warning("%s is here", name)
        tell(name, os.getpid())

    chains = {name: [Part(lambda tell, name=name: chain(name, tell))] for name in ("a", "b")}
    side_by_side(chains, lambda key, pid: told.append((key, pid)), 2)
    assert sorted(key for key, _ in told) == ["a", "b"]
    assert len({os.getpid(), *(pid for _, pid in told)}) == 3
    assert sorted(record.getMessage() for record in caplog.records) == ["a is here", "b is here"]


def test_chains_run_at_the_same_time(tmp_path):
    def meet(mine: str, other: str) -> None:
        (tmp_path / mine).touch()
        wait_for_file(tmp_path / other)

    chains = {"a": [Part(lambda _: meet("a", "b"))], "b": [Part(lambda _: meet("b", "a"))]}
    side_by_side(chains, lambda *_: None, 2)


def test_a_failure_is_raised_once_those_under_way_have_ended(tmp_path):
    refusal = Rejected([Problem("the rows are wrong", "check", "mend them")])

    def refuse(_: Tell) -> None:
        wait_for_file(tmp_path / "begun")
        raise refusal

    def go_on(_: Tell) -> None:
        (tmp_path / "begun").touch()
        time.sleep(0.3)
        (tmp_path / "done").touch()

    with pytest.raises(Rejected) as caught:
        side_by_side({"a": [Part(refuse)], "b": [Part(go_on)]}, lambda *_: None, 2)
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

    chains = {name: [Part(lambda tell, name=name: chain(name, tell))] for name in "abcdef"}
    with pytest.raises(Unavailable, match="the process of c"):
        side_by_side(chains, told.append, 1)
    assert "c" in told
    assert told[-1] == "c"  # and none after it


def test_as_many_are_under_way_as_there_are_cores_for_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert at_once(4) == 1


def test_a_process_that_was_lost_is_a_failure_that_may_be_retried():
    with pytest.raises(Unavailable, match="the process of torch ended with signal 9"):
        side_by_side({"torch": [Part(lambda _: os.kill(os.getpid(), signal.SIGKILL))]}, lambda *_: None, 2)


def test_a_process_that_was_lost_in_the_middle_of_a_message_is_such_a_failure_too():
    def long(tell: Tell) -> None:
        time.sleep(0.3)
        Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        tell("x" * 2**20)  # more than a pipe holds while nobody reads

    chains = {"a": [Part(lambda tell: tell("a"))], "torch": [Part(long)]}
    with pytest.raises(Unavailable, match="the process of torch ended with signal 9"):
        side_by_side(chains, lambda _: time.sleep(1), 2)


def wait_for_file(path: Path) -> None:
    wait_for(path.exists, str(path), interval_s=0.01)


@pytest.mark.parametrize("most", [1, 2])
def test_a_part_begins_after_the_one_before_and_prepares_itself_only_where_a_core_is_idle(tmp_path, most):
    def first(tell: Tell) -> None:
        tell("first")
        if most == 2:
            wait_for_file(tmp_path / "prepared")
        else:
            time.sleep(0.3)  # for who would prepare itself where it must not
        assert (tmp_path / "prepared").exists() is (most == 2)
        (tmp_path / "done").touch()

    def second(tell: Tell) -> None:
        assert (tmp_path / "done").exists()
        tell("second")

    told: list[str] = []
    chain = [Part(first), Part(second, (tmp_path / "prepared").touch)]
    side_by_side({"a": chain}, told.append, most)
    assert told == ["first", "second"]


@pytest.mark.parametrize("most", [1, 3])
def test_what_is_done_here_meanwhile_waits_for_an_idle_core(tmp_path, most):
    def chain(name: str) -> None:
        if most == 3:
            wait_for_file(tmp_path / "meanwhile")
        (tmp_path / name).touch()

    def meanwhile() -> None:
        assert os.getpid() == here
        told.append(sorted(path.name for path in tmp_path.iterdir()))
        (tmp_path / "meanwhile").touch()

    told: list[list[str]] = []
    here = os.getpid()
    chains = {name: [Part(lambda _, name=name: chain(name))] for name in "ab"}
    side_by_side(chains, lambda *_: None, most, meanwhile)
    assert told == ([["a", "b"]] if most == 1 else [[]])


def test_nothing_is_begun_after_a_failure(tmp_path):
    def refuse(_: Tell) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        (tmp_path / "begun").touch()
        wait_for_file(tmp_path / "goes on")
        raise Rejected([Problem("the rows are wrong", "check", "mend them")])

    def go_on(_: Tell) -> None:
        wait_for_file(tmp_path / "begun")
        other = psutil.Process(int((tmp_path / "pid").read_text()))
        (tmp_path / "goes on").touch()
        other.wait(60)  # what it had to say is said

    never = Part(lambda _: (tmp_path / "next").touch())
    with pytest.raises(Rejected):
        side_by_side({"a": [Part(refuse), never], "b": [Part(go_on), never]}, lambda *_: None, 2)
    assert not (tmp_path / "next").exists()


def test_no_thread_is_left_after_a_failure(tmp_path):
    def refuse(_: Tell) -> None:
        wait_for_file(tmp_path / "meanwhile")
        raise Rejected([Problem("the rows are wrong", "check", "mend them")])

    def meanwhile() -> None:
        (tmp_path / "meanwhile").touch()
        time.sleep(0.5)

    before = threading.active_count()
    with pytest.raises(Rejected):
        side_by_side({"a": [Part(refuse)]}, lambda *_: None, 2, meanwhile)
    assert threading.active_count() == before


def test_one_that_is_lost_while_it_prepares_itself_is_a_failure(tmp_path):
    chain = [Part(lambda _: time.sleep(0.5)), Part(lambda _: None, lambda: os.kill(os.getpid(), signal.SIGKILL))]
    with pytest.raises(Unavailable, match="the process of torch ended with signal 9"):
        side_by_side({"torch": chain}, lambda *_: None, 2)


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
