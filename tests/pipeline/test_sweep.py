"""What carries the mark of a stack ends, however it resists."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.settings import Settings
from pipeline.sweep import mark, sweep


def test_sweep_kills_what_ignores_term_and_spares_its_caller(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sweep.TERM_S", 0.5)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **mark(settings.home)}, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    assert [report.split()[0] for report in sweep(settings.home)] == [str(child.pid)]
    assert child.wait() == -9
    child.stdout.close()
    code = f"from pathlib import Path; from pipeline.sweep import sweep; print(sweep(Path({str(settings.home)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **mark(settings.home)}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"()\n")
