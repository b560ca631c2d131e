"""supervisord itself (PyPI supervisor): starting it in a session of its own, and calling it over its socket."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import Unavailable

BAD_NAME, NOT_RUNNING, STILL_RUNNING = 10, 70, 91  # supervisor.xmlrpc.Faults
_SOCKET, _CONF = "supervisor.sock", "supervisord.conf"
_START_S, _PROBE_S, _CALL_S = 60.0, 5.0, 120.0
_STACK_CONF = f"""; paths start at the working directory: <home> may have any length and characters
[supervisord]
logfile=supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=supervisord.pid
childlogdir=logs
nocleanup=true
[unix_http_server]
file=/proc/self/cwd/{_SOCKET}
chmod=0600
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files=programs/*.conf
"""


class Daemon:
    """The supervisord of a folder: its settings, socket and logs, and a section per program in `programs/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"

    def answers(self) -> bool:
        """Whether it runs and takes calls."""
        try:
            with self.call(_PROBE_S) as rpc:
                return str(rpc.getState()["statename"]) == "RUNNING"
        except Unavailable:
            return False

    @contextmanager
    def call(self, timeout_s: float = _CALL_S) -> Iterator[Any]:
        """Its XML-RPC interface; a call may wait `timeout_s` for its answer.

        Raises:
            Unavailable: it does not answer, or refuses. A retry helps.
        """
        transport = _SocketTransport(self.folder, timeout_s)
        try:
            yield xmlrpc.client.ServerProxy("http://localhost/RPC2", transport).supervisor
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(
                f"the supervisor does not answer: {error}", str(self.folder), "`slipway down`, then `slipway up`"
            ) from error
        finally:
            transport.close()

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it, with no programs; `environment` is added to what it and its programs inherit.

        Raises:
            Unavailable: it did not start, and says why. OSError: its folder cannot be written.
        """
        for folder in (self.programs, self.folder / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        for file in (*self.programs.glob("*"), self.folder / _SOCKET):
            file.unlink(missing_ok=True)
        write_private(self.folder / _CONF, _STACK_CONF)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}
        try:  # it goes to the background by itself once its socket is open
            subprocess.run(
                [sys.executable, "-m", "supervisor.supervisord", "-c", _CONF],
                cwd=self.folder,
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            said = str(getattr(error, "stderr", None) or getattr(error, "stdout", None) or error).strip()
            raise Unavailable(f"supervisord did not start: {said}", str(self.folder), "mend it, start again") from error


class _SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over the supervisor's socket, addressed by its folder: a long path does not fit a socket address."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__()
        self._folder, self._timeout_s = folder, timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost")
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(self._timeout_s)
            connection.sock.connect(f"/proc/self/fd/{folder}/{_SOCKET}")
        except OSError:
            connection.close()
            raise
        finally:
            os.close(folder)
        self._connection = host, connection
        return connection


@contextmanager
def tolerate(code: int) -> Iterator[None]:
    """Go on when supervisord answers with this fault."""
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != code:
            raise


def write_private(path: Path, text: str) -> None:
    """Write a file whole, for this user alone."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)
