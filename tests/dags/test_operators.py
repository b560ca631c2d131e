"""A task's command: what Airflow is told of its end, and what `slipway trigger` finds in the task's log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.operators import CommandOperator
from pipeline.airflow_client import AirflowClient
from pipeline.settings import Settings


class Command(CommandOperator):
    def arguments(self, run: str, params: dict[str, Any]) -> list[str]:
        return [run]


@pytest.mark.parametrize(
    ("text", "kind", "reason", "last"),
    [
        ("import sys; print('too few rows'); sys.exit(3)", AirflowSkipException, "too few rows", "too few rows"),
        ("raise SystemExit(2)", AirflowFailException, "", "python -m operated_command a-run"),
        (
            "import os; print('trial 1', flush=True); os.kill(os.getpid(), 9)",
            AirflowException,
            "exit code -9: it was ended by signal 9 (Killed); it last said: trial 1",
            "it was ended by signal 9 (Killed); it last said: trial 1",
        ),
    ],
)
def test_why_it_ended_is_told_and_found_in_the_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
    kind: type[Exception],
    reason: str,
    last: str,
) -> None:
    (tmp_path / "operated_command.py").write_text(text)
    operator = Command(task_id="a_task", module="operated_command", root=str(tmp_path))
    monkeypatch.setattr(Command, "log", logging.getLogger("operated"))
    caplog.set_level(logging.INFO, "operated")
    with pytest.raises(kind) as raised:
        operator.execute({"run_id": "a-run", "params": {}})
    assert str(raised.value) == reason
    lines = (*caplog.messages, "Skipping task.")
    monkeypatch.setattr(AirflowClient, "logs", lambda *_: lines)
    assert AirflowClient(Settings()).last_line("a_dag", "a-run", "a_task") == last
