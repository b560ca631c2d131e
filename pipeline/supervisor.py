"""The programs of the embedded stack, kept alive by one supervisord under <home>/supervisor.

It is started on demand, lives on when its starter ends, and restarts a program that dies.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shlex
import signal
import ssl
import sys
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import httpx
import psutil

from pipeline import launch
from pipeline.daemon import BAD_NAME, NOT_RUNNING, STILL_RUNNING, Daemon, tolerate, write_private
from pipeline.errors import Invalid, Unavailable
from pipeline.ports import require_free
from pipeline.program import Program
from pipeline.settings import Settings
from pipeline.sweep import await_end, mark, sweep

_log = logging.getLogger("slipway")
ALIVE = ("STARTING", "RUNNING", "BACKOFF")
_LOCK_S, _POLL_S = 120.0, 0.2
_TAIL_LINES = 12


class Supervisor:
    """The programs of one stack. Any number of processes and threads may call at once.

    Every method raises Unavailable when the supervisor does not answer (a retry helps), Invalid when <home> may not
    be written (a retry does not help).
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cancelled = threading.Event()  # set: `start` waits no longer, and leaves the program as it is
        self._daemon = Daemon(settings.home / "supervisor")

    def clear(self) -> None:
        """End what a supervisor that died has left behind: nobody keeps it alive any longer, and it has the ports."""
        if self._daemon.folder.is_dir():
            with self._changing():
                if not self._daemon.answers():
                    sweep(self.settings.home)

    def start(self, program: Program) -> None:
        """Start a program and return when it is ready; one that runs as described is left alone.

        Raises:
            Invalid: a port is in use. A retry does not help.
            Unavailable: the program ended, or was not ready in time; has the end of its log. A retry may help.
        """
        with self._changing():
            begun = self._begin(program)
        try:
            self._await_ready(program, begun)
        except Unavailable:
            if begun is not None:
                self.stop(program.name)
            raise

    def stop(self, name: str) -> None:
        """Stop a program and forget it; nothing happens when there is none of this name."""
        if not self._daemon.answers():
            return
        with self._changing():
            if self._info(name) is not None:
                self._remove(name)

    def states(self) -> dict[str, str]:
        """Each program's state in supervisor's words, such as RUNNING; none when nothing was started."""
        if not self._daemon.answers():
            return {}
        with self._daemon.call() as rpc:
            return {info["name"]: info["statename"] for info in rpc.getAllProcessInfo()}

    def pid(self, name: str) -> int:
        """The process of a program; 0 when it does not run now."""
        if not self._daemon.answers():
            return 0
        info = self._info(name)
        return 0 if info is None else int(info["pid"])

    def restart(self, name: str) -> None:
        """Kill a program with its children, to be started anew at once; or start one that was given up."""
        if pid := self.pid(name):
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # each program leads a group of its own
        elif self.states().get(name) == "FATAL":
            with self._daemon.call() as rpc:
                rpc.startProcess(name, False)

    def stop_all(self) -> tuple[str, ...]:
        """End every program, the supervisor, and whatever else carries the stack's mark; what was ended, in words."""
        if not self._daemon.folder.is_dir():
            return tuple(f"orphan {name}" for name in sweep(self.settings.home))
        with self._changing():
            ended: tuple[str, ...] = ()
            if self._daemon.answers():
                ended = tuple(name for name, state in self.states().items() if state in ALIVE)
                with self._daemon.call() as rpc:
                    process = psutil.Process(rpc.getPID())
                    rpc.stopAllProcesses()  # all at once; `shutdown` alone takes one after the other
                    rpc.shutdown()
                await_end([process], 10.0)
            orphans = sweep(self.settings.home)
            for file in self._daemon.programs.glob("*"):
                file.unlink(missing_ok=True)
            return (*ended, *(f"orphan {name}" for name in orphans))

    def log(self, name: str) -> Path:
        """The file with all that a program has said."""
        return self._daemon.folder / "logs" / f"{name}.log"

    def _begin(self, program: Program) -> int | None:
        """Start the process, unless it runs as described; the size of its log before, None when nothing was done."""
        if not self._daemon.answers():
            sweep(self.settings.home)  # what a dead supervisor has left behind
            self._daemon.start(mark(self.settings.home))
        section = _section(program)
        description = json.dumps(
            {
                "argv": program.argv,
                "env": {**mark(self.settings.home), **program.env},
                "cwd": program.cwd,
                "host": self.settings.host,
            }
        )
        file = self._daemon.programs / f"{program.name}.json"
        info = self._info(program.name)
        if info is not None:
            if info["statename"] in ALIVE and file.is_file() and file.read_text(encoding="utf-8") == description:
                return None
            if info["statename"] in ALIVE:
                _log.warning("%s runs by other settings: it is started anew by those of now", program.name)
            self._remove(program.name)
        require_free(self.settings, [program])
        if program.prepare is not None:
            program.prepare()
        log = self.log(program.name)
        size = log.stat().st_size if log.is_file() else 0
        write_private(file, description)
        write_private(file.with_suffix(".conf"), section)
        with self._daemon.call() as rpc:
            rpc.reloadConfig()
            rpc.addProcessGroup(program.name)
            rpc.startProcess(program.name, False)
        return size

    def _await_ready(self, program: Program, begun: int | None) -> None:
        first = 0
        deadline = time.monotonic() + program.ready_timeout_s
        while not self.cancelled.is_set():
            info = self._info(program.name)
            if info is None:
                raise self._failure(program, "was stopped while it started", begun)
            state, first = info["statename"], first or info["pid"]
            # who began it takes its first end for a failure; to others it may be restarting after a crash
            ended = begun is not None and (state in ("BACKOFF", "EXITED") or info["pid"] not in (first, 0))
            if state == "FATAL" or ended:
                raise self._failure(program, "ended before it was ready", begun)
            # one patient question: a server that prepares itself on the first call does so for each that gives up
            patience_s = max(deadline - time.monotonic(), 1.0)
            if answers(program.ready_url, patience_s) if program.ready_url else state == "RUNNING":
                return
            if time.monotonic() > deadline:
                raise self._failure(program, f"was not ready after {program.ready_timeout_s:g} s", begun)
            self.cancelled.wait(_POLL_S)

    def _failure(self, program: Program, what: str, begun: int | None) -> Unavailable:
        log = self.log(program.name)
        lines = _tail(log, begun)
        said = "; its log ends with:\n" + "\n".join(f"    {line}" for line in lines) + "\n" if lines else ", silently"
        return Unavailable(f"{program.name} {what}{said}", str(log), "mend what its log says, then start it again")

    def _remove(self, name: str) -> None:
        deadline = time.monotonic() + _LOCK_S
        with self._daemon.call() as rpc:
            while True:
                try:
                    with tolerate(NOT_RUNNING):
                        rpc.stopProcess(name)
                    rpc.removeProcessGroup(name)
                    break
                except xmlrpc.client.Fault as fault:  # an earlier stop is still under way
                    if fault.faultCode != STILL_RUNNING or time.monotonic() > deadline:
                        raise
                    time.sleep(_POLL_S)
        for suffix in (".conf", ".json"):
            (self._daemon.programs / f"{name}{suffix}").unlink(missing_ok=True)

    def _info(self, name: str) -> dict[str, Any] | None:
        with self._daemon.call() as rpc, tolerate(BAD_NAME):
            return dict(rpc.getProcessInfo(name))
        return None

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone in changing the stack; what cannot be written is told in sentences."""
        try:
            self._daemon.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self._daemon.folder / "lock", timeout=_LOCK_S):
                yield
        except filelock.Timeout as error:
            what = f"another process has been changing the stack for {_LOCK_S:g} s"
            raise Unavailable(what, error.lock_file, "try again") from error
        except OSError as error:
            kind = Unavailable if error.errno in (errno.ENOSPC, errno.EDQUOT) else Invalid
            where = str(error.filename or self._daemon.folder)
            raise kind(f"cannot be written: {error.strerror}", where, "make room, or set SLIPWAY_HOME") from error


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a server of this machine answers with success."""
    try:
        return httpx.get(url, timeout=timeout_s, trust_env=False, verify=_authorities()).is_success
    except httpx.HTTPError:
        return False


@cache
def _authorities() -> ssl.SSLContext:
    """Whose certificates are believed: read once, for that takes longer than the question."""
    return httpx.create_ssl_context(trust_env=False)


def _section(program: Program) -> str:
    """The program's ini section. Its argv and environment stay in the JSON beside it, where no character is special."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", program.name):
        raise Invalid(f"{program.name!r} cannot name a program", "stack", "use letters, digits, '.', '_' and '-'")
    command = shlex.join([sys.executable, "-I", str(Path(launch.__file__)), f"programs/{program.name}.json"])
    return f"""[program:{program.name}]
command={command.replace("%", "%%")}
autostart=false
autorestart=true
startsecs=1
startretries=5
stopsignal={program.stop_signal}
stopwaitsecs={max(1, round(program.stop_timeout_s))}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile=logs/{program.name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=1
"""


def _tail(log: Path, begin: int | None) -> list[str]:
    """The last lines; of the first start after byte `begin` when given, for by now it may have been started again."""
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return []
    starts = data[begin if begin is not None and begin <= len(data) else 0 :].split(launch.STARTED.encode())
    text = (starts[-1] if begin is None else starts[min(1, len(starts) - 1)]).decode("utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:]
