"""A spec that asks for a person: `slipway run` waits for their word, at a terminal or beside one, and then acts on it."""

from __future__ import annotations

import getpass
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from pipeline.record import record_of_run
from pipeline.run import Run
from pipeline.settings import Settings
from tests.integration.test_whole import CHOSEN, slipway, write
from tests.support.settings import CHECKOUT


def at_terminal(settings: Settings, typed: str, *arguments: str) -> tuple[int, str]:
    """The command as its own process on a terminal of its own, and what is typed there; exit code, what was shown."""
    environment = {f"SLIPWAY_{name.upper()}": str(getattr(settings, name)) for name in CHOSEN}
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    child = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, cwd=CHECKOUT, env={**os.environ, **environment, "COLUMNS": "200"}
    )
    os.close(its)
    shown, asked = b"", False
    while True:
        try:
            read = os.read(ours, 65536)
        except OSError:  # it has ended, and its terminal with it
            break
        shown += read
        if not asked and b"Promote this version?" in shown:
            asked = True
            os.write(ours, typed.encode())
    os.close(ours)
    return child.wait(), shown.decode(errors="replace")


def asked_about(name: str, text: str) -> str:
    """The run that somebody is to approve."""
    found = re.search(rf"slipway approve {name} (\S+?)[`\s]", text)
    assert found is not None, text
    return found[1]


def test_a_run_waits_for_a_person_and_does_what_they_say(stack_settings: Settings) -> None:
    name = "asks"
    write(stack_settings, name, "binary", "{at_least: {roc_auc: 0.7}}", "approval: required\n")
    waits = slipway(stack_settings, "run", name, code=1)
    assert waits["error"] == "waits"
    assert "waits for a person's approval" in waits["problems"][0]["what"]
    first = asked_about(name, waits["problems"][0]["remedy"])
    registry = Run(first, name, stack_settings, Path()).registry
    assert registry.alias(name, "champion") is None
    assert slipway(stack_settings, "approve", name, first, "--yes", "--note", "seen by two")["by"] == getpass.getuser()
    assert slipway(stack_settings, "run", name, "--run-id", first)["outcome"] == "promoted"
    said = record_of_run(Run(first, name, stack_settings, Path()).store, name, first).approval  # type: ignore[union-attr]
    assert said is not None
    assert (said.approved, said.by, said.note) == (True, getpass.getuser(), "seen by two")

    csv = stack_settings.root / f"{name}.csv"
    lines = csv.read_text().splitlines(keepends=True)
    csv.write_text("".join(lines[:-20]))
    code, shown = at_terminal(stack_settings, "later\n", "run", name, "-q")
    assert code == 1, shown
    assert "quality" in shown
    assert "it waits for a person's approval" in shown
    second = asked_about(name, shown)
    code, shown = at_terminal(stack_settings, "reject\rtoo bold\r", "run", name, "--run-id", second, "-q")
    assert code == 3, shown
    assert f"{getpass.getuser()} did not approve it: too bold" in shown
    assert registry.alias(name, "champion") == 1
    assert registry.alias(name, "challenger") is None
    said = record_of_run(Run(second, name, stack_settings, Path()).store, name, second).approval  # type: ignore[union-attr]
    assert said is not None
    assert (said.approved, said.note) == (False, "too bold")
