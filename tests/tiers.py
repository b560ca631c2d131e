"""`python -m tests.tiers test|all`: the passes of a tier, one after the other, and one closing line for all of them.

A pass is a run of pytest. The report of each is kept as JUnit XML in a folder, for `benchmarks/tests` too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from xml.etree import ElementTree

import typer

from pipeline.process import cores

ROOT = Path(__file__).resolve().parents[1]
SLOWEST = 25
WORKERS = 4  # each has servers of its own: about 2 GiB of memory
REPORT = ("-o", "junit_duration_report=total", "-o", "junit_family=xunit1")  # seconds of set-ups too; names of files
HEAVY = ("mark", "heavy")  # the property of a report by which a test with this mark is known
STOPPED = 130  # the exit code of a tier that a signal has ended


Outcome = Literal["passed", "failed", "error", "skipped"]
OUTCOMES: dict[str, Outcome] = {"failure": "failed", "error": "error", "skipped": "skipped"}  # by JUnit's tags


@dataclass(frozen=True)
class Pass:
    """One run of pytest: the tests that a mark expression selects."""

    name: str
    marks: str


@dataclass(frozen=True)
class Case:
    """How one test ended, and the seconds of its set-up, call and tear-down."""

    name: str
    outcome: Outcome
    seconds: float
    is_heavy: bool = False


NO_SERVER = Pass("without servers", "not stack")
TIERS = {
    "test": (NO_SERVER, Pass("on the real stack, short", "stack and smoke")),
    "all": (NO_SERVER, Pass("on the real stack", "stack")),
}


def main(
    tier: Annotated[str, typer.Argument(help=" or ".join(TIERS))],
    coverage: Annotated[bool, typer.Option(help="measure the coverage of all passes together")] = False,
    reports: Annotated[Path | None, typer.Option(help="folder for the JUnit XML of each pass")] = None,
    options: Annotated[list[str] | None, typer.Option("--pytest", help="a further option of pytest")] = None,
) -> None:
    """Run the passes of a tier; exit with the first code of pytest that is not 0, after all passes."""
    if tier not in TIERS:
        raise typer.BadParameter(f"{tier!r} is no tier: name {' or '.join(TIERS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = reports or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = [report_file(folder, tier, number) for number in range(len(TIERS[tier]))]
        for file in files:
            file.unlink(missing_ok=True)
        if coverage:
            _coverage("erase")
        runner, begin = _Runner(coverage, options or []), time.monotonic()
        results = [runner.run(one, file) for one, file in zip(TIERS[tier], files, strict=True)]
        if coverage:
            _coverage("report", "--skip-covered")
        cases = [case for result in results for case in result.cases]
        print(*slowest(cases), sep="\n")
        print(closing_line(cases, time.monotonic() - begin, sum(result.is_lost for result in results)), flush=True)
    raise typer.Exit(next((result.code for result in results if result.code), 0))


@dataclass(frozen=True)
class _Result:
    """How a pass ended: pytest's exit code, and the tests of its report."""

    code: int
    cases: list[Case]

    @property
    def is_lost(self) -> bool:
        """The pass ended with an error that no test shows."""
        return self.code != 0 and not any(case.outcome in ("failed", "error") for case in self.cases)


class _Runner:
    """Run passes one after the other; a signal ends the one under way, with its servers, and starts no further one."""

    def __init__(self, coverage: bool, options: Sequence[str]) -> None:
        self.coverage, self.options = coverage, options
        self.is_stopped = False
        self.pytest: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def run(self, one: Pass, report: Path) -> _Result:
        """Run one pass and read its report."""
        if self.is_stopped:
            return _Result(STOPPED, [])
        print(f"\n== {one.name} (-m {one.marks!r})", flush=True)
        command = [sys.executable, "-m", "pytest", "-m", one.marks, "-n", str(min(cores(), WORKERS))]
        command += ["--dist", "loadgroup", f"--junitxml={report}", *REPORT, *self.options]
        if self.coverage:
            command += ["--cov", "--cov-append", "--cov-report="]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        # in a group of its own: Ctrl-C of a terminal reaches it once, by way of this process
        with subprocess.Popen(command, cwd=ROOT, env=environment, process_group=0) as self.pytest:
            if self.is_stopped:
                self.pytest.terminate()
            code = self.pytest.wait()
        return _Result(STOPPED if self.is_stopped else code, read_cases(report))

    def _stop(self, _number: int, _frame: object) -> None:
        if self.pytest is not None and not self.is_stopped:
            self.pytest.terminate()  # a second signal would cut its cleaning up short
        self.is_stopped = True


def _coverage(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False)


def report_file(folder: Path, tier: str, number: int) -> Path:
    """Return the file of a pass's JUnit report; passes are numbered from 0."""
    return folder / f"{tier}-{number}.xml"


def read_cases(report: Path) -> list[Case]:
    """Return the tests of a JUnit report; a test with two entries, as for a failed tear-down, has the worse outcome.

    A report that is missing or cut off, since pytest was killed, has no tests.
    """
    try:
        elements = list(ElementTree.parse(report).iter("testcase"))
    except (FileNotFoundError, ElementTree.ParseError):
        return []
    found: dict[str, Case] = {}
    for element in elements:
        name = f"{element.get('file', '')}::{without_group(element.get('name', ''))}"
        properties = {(one.get("name"), one.get("value")) for one in element.iter("property")}
        outcome = next((OUTCOMES[child.tag] for child in element if child.tag in OUTCOMES), "passed")
        case = Case(name, outcome, float(element.get("time", 0)), HEAVY in properties)
        before = found.get(name)
        found[name] = before if before is not None and before.outcome in ("failed", "error") else case
    return list(found.values())


def without_group(name: str) -> str:
    """Return a test's name without the group that pytest-xdist appends."""
    return name[: name.rfind("@")] if name.rfind("@") > name.rfind("]") else name


def slowest(cases: Sequence[Case]) -> list[str]:
    """Return a table of the slowest tests."""
    worst = sorted(cases, key=lambda case: -case.seconds)[:SLOWEST]
    return [f"\n== the {len(worst)} slowest tests", *(f"{case.seconds:8.2f} s  {case.name}" for case in worst)]


def closing_line(cases: Sequence[Case], seconds: float, lost: int) -> str:
    """Return the last line in pytest's form; `lost` passes ended with an error that no test shows."""
    outcomes = [case.outcome for case in cases]
    errors = outcomes.count("error") + lost
    counts = {name: outcomes.count(name) for name in ("failed", "passed", "skipped")}
    counts["error" if errors == 1 else "errors"] = errors
    parts = [f"{count} {name}" for name, count in counts.items() if count]
    text = f"{', '.join(parts) or 'no tests ran'} in {seconds:.2f}s"
    return f"{f' {text} ':=^80}"


if __name__ == "__main__":
    typer.run(main)
