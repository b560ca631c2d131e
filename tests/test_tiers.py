"""The closing line of a tier says how its passes ended, whichever of them failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from tests.support.polling import wait_for
from tests.tiers import HEAVY, REPORT, ROOT, STOPPED, Case, Outcome, closing_line, read_cases, slowest

TESTS = """
import pytest

def test_passes(): pass

@pytest.fixture
def marked(record_property): record_property("mark", "heavy")

def test_is_heavy(marked): pass

def test_skips(): pytest.skip("no reason")

@pytest.mark.parametrize("text", ["a@b", "c"])
@pytest.mark.xdist_group("group")
def test_has_a_group(text): assert text == "c"

def test_has_subtests(subtests):
    for number in range(3):
        with subtests.test(str(number)):
            assert number != 1

@pytest.fixture
def broken():
    yield
    raise ValueError

def test_cannot_be_torn_down(broken): pass
"""


def run_pytest(folder: Path, report: Path, workers: int) -> int:
    """Run the tests of a folder with no plugin but pytest-xdist; return pytest's exit code."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "xdist",
        f"-n{workers}",
        "--dist=loadgroup",
        f"--junitxml={report}",
    ]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [*command, *REPORT], cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=False
    ).returncode


def test_a_report_of_pytest_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_of_each_kind.py").write_text(TESTS)
    report = tmp_path / "report.xml"
    assert run_pytest(tmp_path, report, workers=1) == 1
    name = "test_of_each_kind.py::test_"
    cases = read_cases(report)
    assert {case.name: case.outcome for case in cases} == {
        f"{name}passes": "passed",
        f"{name}is_heavy": "passed",
        f"{name}skips": "skipped",
        f"{name}has_a_group[a@b]": "failed",
        f"{name}has_a_group[c]": "passed",
        f"{name}has_subtests": "failed",
        f"{name}cannot_be_torn_down": "error",
    }
    assert HEAVY == ("mark", "heavy")
    assert [case.name for case in cases if case.is_heavy] == [f"{name}is_heavy"]
    assert closing_line(cases, 61.5, lost=0).strip("= ") == "2 failed, 3 passed, 1 skipped, 1 error in 61.50s"


@pytest.mark.parametrize(
    ("outcomes", "lost", "expected"),
    [
        (["passed", "passed"], 0, "2 passed in 1.00s"),
        (["passed", "skipped"], 0, "1 passed, 1 skipped in 1.00s"),
        (["error", "error"], 0, "2 errors in 1.00s"),
        (["passed", "failed"], 1, "1 failed, 1 passed, 1 error in 1.00s"),  # a pass has ended before its report
        ([], 2, "2 errors in 1.00s"),
        ([], 0, "no tests ran in 1.00s"),
    ],
)
def test_the_closing_line_counts_each_outcome(outcomes: list[Outcome], lost: int, expected: str) -> None:
    cases = [Case(f"t{number}", outcome, 0.0) for number, outcome in enumerate(outcomes)]
    assert closing_line(cases, 1.0, lost).strip("= ") == expected


def test_the_slowest_come_first() -> None:
    cases = [Case(f"t{number}", "passed", float(number)) for number in range(40)]
    rows = slowest(cases)[1:]
    assert len(rows) == 25
    assert rows[0].split() == ["39.00", "s", "t39"]


def test_a_report_that_is_missing_or_cut_off_has_no_tests(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert read_cases(report) == []
    report.write_text("<testsuites><testsuite><testcase")
    assert read_cases(report) == []


# no test has this name: what this file runs must never run this file
TIER = [
    sys.executable,
    "-m",
    "tests.tiers",
    "test",
    "--pytest=-kno_test_has_this_name",
    "--pytest=-n0",
    "--pytest=tests/docker",
]


def test_a_pass_without_tests_is_an_error_and_the_next_one_runs() -> None:
    done = subprocess.run(TIER, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stdout.splitlines()[-1].strip("= ").startswith("2 errors in ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_pass_and_those_that_would_follow(number: signal.Signals) -> None:
    tier = subprocess.Popen(TIER, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    process = psutil.Process(tier.pid)
    wait_for(process.children)
    tier.send_signal(number)
    lines = tier.communicate()[0].splitlines()
    assert tier.returncode == STOPPED
    assert len([line for line in lines if line.startswith("== ") and "-m" in line]) == 1


GROUPS = """
import os
import pytest

@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("group", ["one", "two"])
def test_runs(group, number, record_property): record_property(group, os.environ["PYTEST_XDIST_WORKER"])
"""
CONFTEST = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.callspec.params["group"]))
"""


def test_one_worker_runs_the_tests_of_a_group(tmp_path: Path) -> None:
    (tmp_path / "test_groups.py").write_text(GROUPS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    report = tmp_path / "report.xml"
    assert run_pytest(tmp_path, report, workers=2) == 0
    pairs = {(one.get("name"), one.get("value")) for one in ElementTree.parse(report).iter("property")}
    assert sorted(group for group, _ in pairs) == ["one", "two"]
    assert len({worker for _, worker in pairs}) == 2


GUARDED = """
import subprocess
import pytest

@pytest.fixture(scope="module")
def server(): return subprocess.Popen(["python", "-m", "mlflow server", "--version"])

def test_starts_one_in_a_fixture(server): pass

def test_starts_one_itself(): subprocess.Popen(["pg_ctl", "start"])

@pytest.mark.stack
def test_may_start_one(): subprocess.run(["python", "-c", "'mlflow server'"], check=True)
"""


def test_a_test_without_its_mark_starts_no_server(tmp_path: Path) -> None:
    (tmp_path / "test_guarded.py").write_text(GUARDED)
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.conftest import *\n"
    )
    report = tmp_path / "report.xml"
    assert run_pytest(tmp_path, report, workers=0) == 1
    outcomes = {case.name.partition("::")[2]: case.outcome for case in read_cases(report)}
    assert outcomes == {
        "test_starts_one_in_a_fixture": "error",
        "test_starts_one_itself": "failed",
        "test_may_start_one": "passed",
    }
