"""Whether a program's ports are free, and who holds the ones that are not."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

import psutil

from pipeline.errors import Invalid, Problem
from pipeline.program import Program
from pipeline.settings import PREFIX, Settings


def require_free(settings: Settings, programs: Sequence[Program]) -> None:
    """Return when every port of the programs can be listened on.

    Raises:
        Invalid: names each port that cannot, the variable that sets it and who holds it. A retry does not help.
    """
    wanted = [(program, label, port) for program in programs for label, port in program.ports.items()]
    problems: list[Problem] = []
    seen: dict[int, str] = {}
    for program, label, port in wanted:
        variable = f"{PREFIX}{label.upper()}" if label in Settings.model_fields else ""
        where = f"{program.name}, {variable}={port}" if variable else f"{program.name}, {label} {port}"
        remedy = f"set {variable} to a free port" if variable else "start it again: it takes other ports"
        if port in seen:
            problems.append(Problem(f"port {port} is given to {seen[port]} too", where, remedy))
        elif failure := _failure(settings.host, port):
            problems.append(_problem(settings.host, port, failure, where, remedy))
        seen.setdefault(port, variable or label)
    if problems:
        raise Invalid(problems)


def free_ports(host: str, count: int) -> tuple[int, ...]:
    """Different ports that are free now; another process may take one before its server does."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind((host, 0))
        return tuple(int(item.getsockname()[1]) for item in sockets)
    finally:
        for item in sockets:
            item.close()


def _failure(host: str, port: int) -> OSError | None:
    """What the system says to a server that would listen here; None when it may."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that lingers after a stop is free
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _problem(host: str, port: int, failure: OSError, where: str, remedy: str) -> Problem:
    if failure.errno == errno.EADDRINUSE:
        return Problem(f"port {port} is in use by {_holder(port)}", where, f"{remedy}, or end that process")
    if failure.errno == errno.EACCES:
        return Problem(f"port {port} may not be used: {os.strerror(errno.EACCES)}", where, remedy)
    return Problem(f"{host} is no address of this machine: {failure}", f"{PREFIX}HOST", "set it to one, as 127.0.0.1")


def _holder(port: int) -> str:
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:2] == (port,) and connection.pid:
            try:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({' '.join(process.cmdline())[:80] or process.name()})"
            except psutil.Error:
                return f"process {connection.pid}"
    return "a process of another user"
