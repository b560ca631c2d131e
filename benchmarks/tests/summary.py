"""What one run of a tier cost, and what its repetitions agree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from pydantic import BaseModel

from tests.tiers import Case

LIMIT_S = 5.0  # for a test without a mark


class FolderCost(BaseModel):
    """Tests of a folder, and the seconds of their set-up, call and tear-down (the sum over all workers)."""

    tests: int
    seconds: float


class TierRun(BaseModel):
    """One run of a tier."""

    code: int = 0  # exit code of the tier
    seconds: float
    load: float  # the load average of one minute, before
    outcomes: dict[str, int]
    pass_seconds: dict[str, float]  # the sum over all workers
    folders: dict[str, FolderCost]
    servers: dict[str, int]
    slow: dict[
        str, float
    ]  # tests of the pass without servers, and without the mark `heavy`, that take more than LIMIT_S


class Measurement(BaseModel):
    """A tier, measured several times on one machine."""

    tier: str
    order: str
    machine: str
    commit: str
    runs: list[TierRun]
    differing: dict[str, list[str]]  # outcomes of the tests that did not end alike in all runs


def summarise(
    passes: dict[str, Sequence[Case]], code: int, seconds: float, load: float, servers: dict[str, int], unmarked: str
) -> TierRun:
    """Return the cost of one run.

    Args:
        passes: the tests of each pass, by the name of the pass.
        code: exit code of the tier.
        seconds: wall-clock seconds of the whole run.
        load: load average before the run.
        servers: started servers by kind.
        unmarked: the pass whose tests have the limit of `LIMIT_S`.
    """
    cases = [case for found in passes.values() for case in found]
    folders: dict[str, FolderCost] = {}
    for case in cases:
        cost = folders.setdefault(_folder(case.name), FolderCost(tests=0, seconds=0))
        cost.tests += 1
        cost.seconds = round(cost.seconds + case.seconds, 2)
    return TierRun(
        code=code,
        seconds=round(seconds, 1),
        load=round(load, 2),
        outcomes=dict(Counter(case.outcome for case in cases)),
        pass_seconds={name: round(sum(case.seconds for case in found), 1) for name, found in passes.items()},
        folders=dict(sorted(folders.items())),
        servers=servers,
        slow={
            case.name: round(case.seconds, 2)
            for case in passes.get(unmarked, ())
            if case.seconds > LIMIT_S and not case.is_heavy
        },
    )


def differing(runs: Sequence[Iterable[Case]]) -> dict[str, list[str]]:
    """Return each test whose outcome is not the same in all runs, with its outcomes; `missing`: it did not run."""
    outcomes = [{case.name: case.outcome for case in run} for run in runs]
    names = sorted({name for run in outcomes for name in run})
    found = {name: [str(run.get(name, "missing")) for run in outcomes] for name in names}
    return {name: ends for name, ends in found.items() if len(set(ends)) > 1}


def page(before: Measurement | None, after: Sequence[Measurement]) -> str:
    """Return the page of results as Markdown."""
    shown = [*([before] if before else []), *after]
    lines = [
        "# What the tests cost",
        "",
        "Seconds of folders are sums over all workers, of set-up, call and tear-down; seconds of a run are wall-clock time.",
        "",
    ]
    for one in shown:
        times = [run.seconds for run in one.runs]
        lines += [
            f"## {one.tier}",
            "",
            f"Commit {one.commit}; {one.machine}; {one.order}.",
            "",
            f"Wall-clock seconds of {len(times)} runs: minimum {min(times):.0f}, median {median(times):.0f}, "
            f"maximum {max(times):.0f}; load average before each: {', '.join(f'{run.load:.1f}' for run in one.runs)}.",
            "",
            f"Outcomes: {'; '.join(f'{_counts(run.outcomes)} (exit code {run.code})' for run in one.runs)}.",
            "",
            f"Servers started: {'; '.join(_counts(run.servers) or 'none' for run in one.runs)}.",
            "",
            "| folder | tests | seconds (median) |",
            "|---|---|---|",
        ]
        for folder in one.runs[0].folders:
            found = [run.folders[folder] for run in one.runs if folder in run.folders]
            lines.append(f"| {folder} | {found[0].tests} | {median(cost.seconds for cost in found):.0f} |")
        slow = sorted({name for run in one.runs for name in run.slow})
        lines += ["", f"Tests without a mark above {LIMIT_S:g} s in any run: {', '.join(slow) or 'none'}.", ""]
        if len(one.runs) > 1:
            ends = [f"{name} ({', '.join(found)})" for name, found in one.differing.items()]
            lines += [f"Tests that did not end alike: {'; '.join(ends) or 'none'}.", ""]
    return "\n".join(lines)


def _folder(name: str) -> str:
    return Path(name.partition("::")[0]).parent.as_posix()


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
