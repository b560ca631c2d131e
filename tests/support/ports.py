"""Ports for the servers of tests: each worker of pytest-xdist has a range of its own."""

from __future__ import annotations

import os
import socket
from itertools import count

HOST = "127.0.0.1"
FIRST, PER_WORKER = 20_000, 1_500  # below the ports that Linux gives to clients (32768 and above)
_next = count()


def worker_ports(number: int) -> tuple[int, ...]:
    """Return free ports of this worker's range; no port is given twice before the range is used up."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = FIRST + worker % 8 * PER_WORKER
    found: list[int] = []
    for _ in range(PER_WORKER):
        if len(found) == number:
            return tuple(found)
        port = first + next(_next) % PER_WORKER
        if _is_free(port):
            found.append(port)
    raise RuntimeError(f"fewer than {number} of the ports {first} to {first + PER_WORKER - 1} are free")


def worker_port() -> int:
    """Return one free port of this worker's range."""
    return worker_ports(1)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
