"""The benchmark of the tests: servers are counted once, and costs are summed by folder."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil

from benchmarks.tests.servers import LABEL, ServerCount
from benchmarks.tests.summary import Measurement, differing, page, summarise
from tests.support.polling import wait_for
from tests.support.processes import command_line
from tests.tiers import Case

CASES = [
    Case("tests/a/test_x.py::test_one[https://h/p]", "passed", 2.0),
    Case("tests/a/test_x.py::test_two", "skipped", 6.0),
    Case("tests/b/test_y.py::test_three", "passed", 9.0, is_heavy=True),
]


def test_a_server_and_its_forks_are_one_and_others_are_not_counted() -> None:
    forks = ["bash", "-c", "(exec -a 'postgres -D' sleep 60) & exec -a 'postgres -D' bash -c 'sleep 60; true'"]
    single = ["bash", "-c", "exec -a 'postgres -D' sleep 60"]
    started = [
        subprocess.Popen(command, env={**os.environ, LABEL: run}, start_new_session=True)
        for command, run in ((forks, "ours"), (single, "ours"), (single, "theirs"))
    ]
    families = [psutil.Process(process.pid) for process in started]
    servers = ServerCount("ours")
    try:
        wait_for(lambda: sum(_is_server(one) for root in families for one in (root, *root.children())) == 4)
        servers.look()
        servers.look()
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert servers.count == {"PostgreSQL": 2}


def _is_server(process: psutil.Process) -> bool:
    return command_line(process).startswith("postgres -D")


def test_costs_are_summed_by_folder_and_heavy_tests_have_no_limit() -> None:
    run = summarise({"fast": CASES}, 0, 10.0, 0.5, {"Triton": 1}, unmarked="fast")
    assert {name: (cost.tests, cost.seconds) for name, cost in run.folders.items()} == {
        "tests/a": (2, 8.0),
        "tests/b": (1, 9.0),
    }
    assert run.outcomes == {"passed": 2, "skipped": 1}
    assert run.slow == {"tests/a/test_x.py::test_two": 6.0}


def test_a_test_that_does_not_end_alike_is_named() -> None:
    other = [CASES[0], Case(CASES[1].name, "failed", 1.0)]
    assert differing([CASES, other]) == {CASES[1].name: ["skipped", "failed"], CASES[2].name: ["passed", "missing"]}
    assert differing([CASES, CASES]) == {}


def test_the_page_has_each_measurement() -> None:
    run = summarise({"fast": CASES}, 0, 10.0, 0.5, {"Triton": 1}, unmarked="fast")
    shown = {"order": "random order", "machine": "m", "commit": "c", "differing": {}}
    before, after = (Measurement(tier=tier, runs=[run, run], **shown) for tier in ("before", "all"))
    text = page(before, [after])
    assert text.count("| tests/a | 2 | 8 |") == 2
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## before", "## all"]
