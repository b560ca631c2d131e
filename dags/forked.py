"""A command `python -m MODULE` in a process forked of this one: what is imported here is not imported again there.

Airflow's scheduler has imported what steps need (see `dags.executor`), and its tasks are forked of it; a new Python
would take seconds of each step for the same.
"""

from __future__ import annotations

import logging
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NoReturn

_ALIVE = 3  # the file that ends with the parent


class Forked:
    """A command that is under way, in a session of its own. It ends with the process that began it."""

    def __init__(self, module: str, arguments: Sequence[str], folder: str) -> None:
        (self._output, writes), (alive, self._alive) = os.pipe(), os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(module, arguments, folder, writes, alive)
        os.close(writes)
        os.close(alive)

    def wait(self, log: logging.Logger) -> tuple[int, str]:
        """Log each line that it writes until it ends; its exit code (minus the signal that killed it) and last line."""
        line = ""
        with os.fdopen(self._output, encoding="utf-8", errors="backslashreplace") as lines:
            for text in lines:
                line = text.rstrip()
                log.info("%s", line)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._alive)
        return os.waitstatus_to_exitcode(status), line

    def end(self) -> None:
        """Ask it, and all that it has started, to end."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)


def _show(message: Warning | str, category: type[Warning], file: str, line: int, *_: object) -> None:
    sys.stderr.write(warnings.formatwarning(message, category, file, line))


def _end_with_parent() -> None:
    """As `Forked.end` does, once nobody is left to do so: a retry is not to run beside this one."""
    os.read(_ALIVE, 1)
    os.killpg(0, signal.SIGTERM)


def _become(module: str, arguments: Sequence[str], folder: str, output: int, alive: int) -> NoReturn:
    """Be the command, in the forked process; files, signals and logging of the parent are left behind."""
    code, kept = 1, tuple[object, ...]()
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.setsid()
        os.chdir(folder)
        os.dup2(alive, _ALIVE)
        os.closerange(_ALIVE + 1, os.sysconf("SC_OPEN_MAX"))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        kept = sys.stdin, sys.stdout, sys.stderr  # they may own these numbers, and close them where nobody has them
        sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        logging.root.handlers.clear()
        warnings.showwarning = _show  # type: ignore[assignment]  # Airflow's writes to a file that is closed here
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)
        Thread(target=_end_with_parent, daemon=True).start()
        sys.path.insert(0, str(Path(folder)))
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 (as a Python of its own does)
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        del kept
        os._exit(code)  # what is to be done at the end of the parent is not this one's
