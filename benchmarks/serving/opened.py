"""Open loop over HTTP/1.1: requests are due at a rate, by the generator of the latency gate."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import httpx

from benchmarks.serving.results import Point, percentiles_ms
from benchmarks.serving.wires import TIMEOUT_S, Request
from pipeline.errors import Unavailable
from pipeline.tensors import Tensors
from serving.load import OpenLoop

CLIENTS = 32
PATIENCE_S = 2.0  # after the last was due
CHUNK = 1 << 18
FEWEST, LONGEST_S = 60, 4.0  # requests, and seconds for them


class Connections:
    """A connection for each thread, over which the same bytes are sent again and again: as little as a client can do."""

    def __init__(self, request: Request) -> None:
        url = httpx.URL(request.url)
        self._place = (url.host, url.port or 80)
        lines = {"Host": f"{url.host}:{url.port}", "Content-Length": str(len(request.body)), **request.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._message = f"POST {url.path} HTTP/1.1\r\n{head}\r\n".encode() + request.body
        self._own = threading.local()
        self._all: list[socket.socket] = []

    def ask(self, _: Tensors) -> None:
        """Send and read one answer. Raises Unavailable when it is not 200."""
        try:
            found = getattr(self._own, "socket", None) or self._connect()
            found.sendall(self._message)
            status = _read(found)
        except OSError as error:
            self._own.socket = None
            raise Unavailable(f"no answer: {error}", str(self._place), "look at the server's log") from error
        if status != 200:
            raise Unavailable(f"status {status}", str(self._place), "look at the server's log")

    def close(self) -> None:
        """Close all of them."""
        for item in self._all:
            item.close()

    def _connect(self) -> socket.socket:
        found = socket.create_connection(self._place, TIMEOUT_S)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._own.socket = found
        self._all.append(found)
        return found


def offered(point: Point, request: Request, seconds: float) -> Point:
    """Offer `point.rate_per_s`, longer where that is few requests. Raises Unavailable when the first has no answer."""
    seconds = min(max(seconds, FEWEST / point.rate_per_s), LONGEST_S)
    count = max(round(point.rate_per_s * seconds), 2)
    connections = Connections(request)
    begin, used = time.perf_counter(), time.process_time()
    try:
        load = OpenLoop(point.clients).run(connections.ask, [{}], point.rate_per_s, count, PATIENCE_S)
    finally:
        connections.close()
    took = time.perf_counter() - begin
    return replace(
        point,
        requests=count,
        failed=int((~load.answered).sum()),
        per_s=float(load.answered.sum()) / took,
        generator=(time.process_time() - used) / took,
        **percentiles_ms(load.waited),
    )


def _read(connection: socket.socket) -> int:
    """The status of a response with a Content-Length, read to its end."""
    content = connection.recv(CHUNK)
    while (end := content.find(b"\r\n\r\n")) < 0:
        if not (more := connection.recv(CHUNK)):
            raise ConnectionResetError("the connection was closed")
        content += more
    head = content[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        raise OSError(f"a response without a length: {head[:200]!r}")
    left = int(head[at + 15 :].split(b"\r\n", 1)[0]) - (len(content) - end - 4)
    while left > 0:
        if not (more := connection.recv(CHUNK)):
            raise ConnectionResetError("the connection was closed")
        left -= len(more)
    return int(head.split(b" ", 2)[1])
