"""The three kinds of failure, each with the exit code that is its retry policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: what (with the value), where, and what to do about it."""

    what: str
    where: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f" -> {self.remedy}" if self.remedy else "")


class SlipwayError(Exception):
    """A failure that a person is told about in sentences, never by a traceback."""

    exit_code = 1
    title = "failed"

    def __init__(self, problems: Problem | Sequence[Problem] | str, where: str = "", remedy: str = "") -> None:
        if isinstance(problems, str):
            problems = Problem(problems, where, remedy)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Unavailable(SlipwayError):
    """The outside world failed (a server, a disk, a network): the same call may succeed later. A retry helps."""

    exit_code = 1
    title = "unavailable"


class Waits(Unavailable):
    """Somebody has to say something first. A retry helps once they have."""

    title = "waits"


class Invalid(SlipwayError):
    """Our input, spec or contract is wrong: the same call fails again. A retry does not help."""

    exit_code = 2
    title = "invalid"


class Rejected(SlipwayError):
    """A check or gate said no. The machinery is healthy, and nothing that serves was touched."""

    exit_code = 3
    title = "rejected"
