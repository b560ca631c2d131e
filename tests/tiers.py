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
INTERRUPTED = 2  # pytest's exit code


@dataclass(frozen=True)
class Pass:
    """One run of pytest: the tests that a mark expression selects."""

    name: str
    marks: str


@dataclass(frozen=True)
class Case:
    """How one test ended, and the seconds of its set-up, call and tear-down."""

    name: str
    outcome: Literal["passed", "failed", "error", "skipped"]
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
        begin, code = time.monotonic(), 0
        if coverage:
            _coverage("erase")
        files = [report_file(folder, tier, number) for number in range(len(TIERS[tier]))]
        for one, file in zip(TIERS[tier], files, strict=True):
            print(f"\n== {one.name} (-m {one.marks!r})", flush=True)
            ended = _run(one, file, coverage, options or [])
            code = code or ended
            if ended == INTERRUPTED:
                break
        if coverage:
            _coverage("report", "--skip-covered")
        cases = [case for file in files if file.is_file() for case in read_cases(file)]
        print(*slowest(cases), sep="\n")
        print(closing_line(cases, time.monotonic() - begin, lost=code != 0), flush=True)
    raise typer.Exit(code)


def _run(one: Pass, report: Path, coverage: bool, options: Sequence[str]) -> int:
    workers = str(min(cores(), WORKERS))
    command = [sys.executable, "-m", "pytest", "-m", one.marks, "-n", workers, "--dist", "loadgroup"]
    command += [f"--junitxml={report}", *REPORT, *options]
    if coverage:
        command += ["--cov", "--cov-append", "--cov-report="]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""}) as pytest:
        signal.signal(signal.SIGTERM, lambda *_: pytest.terminate())  # it ends the servers of its workers
        while True:
            try:
                return pytest.wait()
            except KeyboardInterrupt:  # the terminal has told pytest too
                continue


def _coverage(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "coverage", *arguments], cwd=ROOT, check=False)


def report_file(folder: Path, tier: str, number: int) -> Path:
    """Return the file of a pass's JUnit report; passes are numbered from 0."""
    return folder / f"{tier}-{number}.xml"


def read_cases(report: Path) -> list[Case]:
    """Return the tests of a JUnit report; a test with two entries, as for a failed tear-down, has the worse outcome."""
    found: dict[str, Case] = {}
    for element in ElementTree.parse(report).iter("testcase"):
        name = f"{element.get('file', '')}::{without_group(element.get('name', ''))}"
        properties = {(one.get("name"), one.get("value")) for one in element.iter("property")}
        children = {child.tag for child in element}
        outcome = next((tag for tag in ("failure", "error", "skipped") if tag in children), "passed")
        ended = "failed" if outcome == "failure" else outcome
        case = Case(name, ended, float(element.get("time", 0)), HEAVY in properties)  # type: ignore[arg-type]
        before = found.get(name)
        if before is not None and before.outcome in ("failed", "error"):
            case = before
        found[name] = case
    return list(found.values())


def without_group(name: str) -> str:
    """Return a test's name without the group that pytest-xdist appends."""
    return name[: name.rfind("@")] if name.rfind("@") > name.rfind("]") else name


def slowest(cases: Sequence[Case]) -> list[str]:
    """Return a table of the slowest tests."""
    worst = sorted(cases, key=lambda case: -case.seconds)[:SLOWEST]
    return [f"\n== the {len(worst)} slowest tests", *(f"{case.seconds:8.2f} s  {case.name}" for case in worst)]


def closing_line(cases: Sequence[Case], seconds: float, lost: bool) -> str:
    """Return the last line in pytest's form; `lost`: a pass ended with an error, which no test may show."""
    outcomes = [case.outcome for case in cases]
    failed, errors = outcomes.count("failed"), outcomes.count("error")
    if lost and not failed + errors:
        errors = 1  # a pass that ended before its report
    counts = {
        "failed": failed,
        "passed": outcomes.count("passed"),
        "skipped": outcomes.count("skipped"),
        "errors": errors,
    }
    parts = [
        f"{count} {'error' if name == 'errors' and count == 1 else name}" for name, count in counts.items() if count
    ]
    text = f"{', '.join(parts) or 'no tests ran'} in {seconds:.2f}s"
    return f"{f' {text} ':=^80}"


if __name__ == "__main__":
    typer.run(main)
