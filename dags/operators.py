"""A task of the graph as a process beside Airflow, which ends in one of Airflow's own states."""

from __future__ import annotations

import json
import shlex
import signal
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.forked import Forked
from pipeline.errors import Invalid, Rejected
from pipeline.run import slug


class CommandOperator(BaseOperator):  # type: ignore[misc]
    """Runs `python -m MODULE`; its exit code is the retry policy: 1 retry, 2 fail, 3 rejected (skipped)."""

    ui_color = "#dbeafe"

    def __init__(self, *, module: str, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.module, self.root = module, root
        self.process: Forked | None = None

    @abstractmethod
    def arguments(self, run: str, params: dict[str, Any]) -> list[str]:
        """What follows the module on the command line."""

    def execute(self, context: Any) -> None:
        """Run the command to its end; its log lines are the task's log."""
        arguments = self.arguments(slug(context["run_id"]), dict(context["params"]))
        self.log.info("python -m %s %s", self.module, shlex.join(arguments))
        self.process = Forked(self.module, arguments, self.root)
        code, said = self.process.wait(self.log)
        if code < 0:
            said = f"it was ended by signal {-code} ({signal.strsignal(-code)}); it last said: {said}"
            self.log.error("%s", said)
        self.log.info("Command exited with return code %s", code)  # by which `slipway trigger` knows the line before
        if code != 0:
            raise ended(code, said)

    def on_kill(self) -> None:
        """Airflow ends the task: so does the command."""
        if self.process is not None:
            self.process.end()


class StepOperator(CommandOperator):
    """A step of the graph."""

    def __init__(self, *, spec_path: str, candidate: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.spec_path, self.candidate = spec_path, candidate

    def arguments(self, run: str, params: dict[str, Any]) -> list[str]:
        """See `CommandOperator`."""
        found = ["--spec", self.spec_path, "--run", run]
        found += ["--candidate", self.candidate] if self.candidate else []
        return [*found, "--params", json.dumps(params)]


class RollbackOperator(CommandOperator):
    """The way back of the model that the run's form names."""

    def arguments(self, run: str, params: dict[str, Any]) -> list[str]:
        """See `CommandOperator`."""
        return [params["model"], "--run", run]


class InvalidSpec(BaseOperator):  # type: ignore[misc]
    """Stands for a spec that cannot be read: it fails with every problem, so that the mistake has a place in the UI."""

    ui_color = "#fecaca"

    def __init__(self, *, problems: Sequence[str], **options: Any) -> None:
        super().__init__(**options)
        self.problems = list(problems)

    def execute(self, context: Any) -> None:
        """Fail without a retry."""
        raise AirflowFailException("\n".join(self.problems))


def ended(code: int | None, reason: str) -> AirflowException:
    """The exception that puts a task into the state of its step's exit code."""
    if code == Rejected.exit_code:
        return AirflowSkipException(reason)
    if code == Invalid.exit_code:
        return AirflowFailException(reason)
    return AirflowException(reason if code is None else f"exit code {code}: {reason}")
