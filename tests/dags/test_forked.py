"""A command in a forked process: what it writes, how it ends, and that nothing of its parent is left in it."""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dags.forked import Forked
from tests.support.polling import wait_for

LOG = logging.getLogger("forked")


def run(folder: Path, text: str, *arguments: str) -> tuple[int, str]:
    (folder / "forked_command.py").write_text(text)
    return Forked("forked_command", arguments, str(folder)).wait(LOG)


@pytest.mark.parametrize(
    ("text", "code", "last"),
    [
        ("print('done')", 0, "done"),
        ("import sys; sys.exit()", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no more')", 1, "no more"),
        ("import os; os.write(2, b'\\xff\\n')", 0, "\\xff"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("raise SystemExit('no file \\udcff')", 1, "no file \\udcff"),  # how Python has a name that is not UTF-8
        ("raise OSError('no file \\udcff')", 1, "OSError: no file \\udcff"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import os; os.system('echo of a child'); os._exit(7)", 7, "of a child"),
    ],
)
def test_its_end_and_its_last_line(tmp_path: Path, text: str, code: int, last: str) -> None:
    assert run(tmp_path, text) == (code, last)


def test_it_is_the_command_and_nothing_of_its_parent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "forked")
    text = """
import logging, os, signal, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
logging.getLogger("step").info("logged")
print(__name__, sys.argv[1:], os.getcwd() == os.path.realpath(sys.argv[1]), os.getsid(0) == os.getpid())
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, sorted(map(int, os.listdir("/proc/self/fd")))[:3])
print(len(os.listdir("/proc/self/fd")), sys.stdin.read() == "")
"""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with socket.socket():  # of the parent's
            assert run(tmp_path, text, str(tmp_path), "b c") == (0, "5 True")
    finally:
        signal.signal(signal.SIGTERM, before)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["logged", f"__main__ ['{tmp_path}', 'b c'] True True", "True [0, 1, 2]", "5 True"]
    assert str(Path.cwd()) != str(tmp_path)


def test_streams_of_the_parent_that_own_their_numbers(tmp_path: Path) -> None:
    """As a task of Airflow has them: where they are collected, they close."""
    (tmp_path / "forked_command.py").write_text("print('written')")
    code = f"""
import logging, sys
from dags.forked import Forked
sys.stdout = sys.__stdout__ = open(1, "w"); sys.stderr = sys.__stderr__ = open(2, "w")
print(Forked("forked_command", (), {str(tmp_path)!r}).wait(logging.getLogger()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 'written')\n"


def test_warnings_are_written_where_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise OSError("Bad file descriptor")

    monkeypatch.setattr("warnings.showwarning", closed)
    code, last = run(tmp_path, "import warnings; warnings.simplefilter('always'); warnings.warn('mind it')")
    assert code == 0
    assert "mind it" in last


def test_what_it_has_started_ends_with_it(tmp_path: Path) -> None:
    (tmp_path / "forked_command.py").write_text("import os; os.system('touch here; sleep 600')")
    forked = Forked("forked_command", (), str(tmp_path))
    wait_for((tmp_path / "here").exists, interval_s=0.01)
    forked.end()
    assert forked.wait(LOG)[0] == -signal.SIGTERM
    forked.end()  # of what is over, nothing


def test_it_ends_with_who_began_it(tmp_path: Path) -> None:
    (tmp_path / "forked_command.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    code = f"""
import logging, sys
from dags.forked import Forked
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
Forked("forked_command", (), {str(tmp_path)!r}).wait(logging.getLogger())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    step = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    step.wait(30)
