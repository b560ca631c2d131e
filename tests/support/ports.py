"""Ports for the servers of tests: each process that runs tests has a range of its own."""

from __future__ import annotations

import os
import socket
import tempfile
from functools import cache
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

HOST = "127.0.0.1"
FIRST, RANGES, SIZE = 20_000, 12, 1_000  # below the ports that Linux gives to clients (32768 and above)
_next = count()


def worker_ports(number: int) -> tuple[int, ...]:
    """Return free ports of this process's range; no port is given twice before the range is used up.

    Raises:
        RuntimeError: fewer ports are free, or other runs of the tests have all ranges.
    """
    _, first = _range(os.getpid())
    found: list[int] = []
    for _ in range(SIZE):
        if len(found) == number:
            return tuple(found)
        port = first + next(_next) % SIZE
        if _is_free(port):
            found.append(port)
    raise RuntimeError(f"fewer than {number} of the ports {first} to {first + SIZE - 1} are free")


def worker_port() -> int:
    """Return one free port of this process's range."""
    return worker_ports(1)[0]


@cache
def _range(_process: int) -> tuple[FileLock, int]:
    """Return the first port of a range that no other process has, and the lock that keeps it until this one ends."""
    for number in range(RANGES):
        lock = FileLock(Path(tempfile.gettempdir()) / f"slipway-test-ports-{os.getuid()}-{number}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        return lock, FIRST + number * SIZE
    raise RuntimeError(f"other runs of the tests have all {RANGES} ranges of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
