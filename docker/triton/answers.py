#!/usr/bin/python3 -IS
"""Whether the tritonserver of this container really answers: `answers [PORT]` asks each loaded model for one row.

A server that is stuck, or has a model that is, goes on calling both ready, so it is asked, not believed. Being busy is
no illness, and what is being loaded is not asked. Exits 1 with a sentence when a model is dead.
"""

from __future__ import annotations

import json
import socket
import sys
import time

TYPE_CHECKING = False  # an import costs each probe milliseconds: that of http.client as much as all the rest
if TYPE_CHECKING:
    from typing import Any, Never

HOST = "127.0.0.1"
ANSWER_S = 3.0  # for all models
PROGRESS_S = 1.0  # to say how much it has done
OK, ERROR, UNAVAILABLE = 200, 500, 503  # of HTTP; the last is of a queue that is full
EMPTY = {"BYTES": "", "BOOL": False, "FP32": 0.0, "FP64": 0.0}  # and 0 for all others


class Dead(Exception):
    """What does not answer, and what was said instead."""


class Server:
    """The tritonserver of this container, which has until the deadline."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.deadline = time.monotonic() + ANSWER_S

    def look(self) -> None:
        """Raises Dead when the server, or a model that it calls ready, is."""
        try:
            status, index = self._ask("POST", "/v2/repository/index", {"ready": True})
        except OSError as error:
            raise Dead(f"the server does not answer: {error}") from error
        if status != OK:
            raise Dead(f"the server does not tell its models: {status}, {index}")
        for item in index:
            if item.get("state") == "READY":
                self._look_at(item["name"], f"/v2/models/{item['name']}/versions/{item['version']}")

    def _look_at(self, name: str, path: str) -> None:
        """A refusal is an answer, whatever the model dislikes in the row; an error of the server is none."""
        done, said = -1, "no answer in time"
        try:
            done = self._done(path)
            status, about = self._ask("GET", path)
            if status != OK:  # it was unloaded meanwhile
                return
            status, answer = self._ask("POST", f"{path}/infer", {"inputs": [_empty(one) for one in about["inputs"]]})
            if status < ERROR:
                return
            said = f"{status}, {answer.get('error', answer) if isinstance(answer, dict) else answer}"
            busy = status == UNAVAILABLE
        except TimeoutError:
            busy = True
        except OSError as error:
            raise Dead(f"the server does not answer for {name}: {error}") from error
        if not (busy and self._has_done_more(path, done)):
            raise Dead(f"{name} does not answer: {said}")

    def _has_done_more(self, path: str, done: int) -> bool:
        """Whether the model answers others while we wait."""
        self.deadline = time.monotonic() + PROGRESS_S
        try:
            return done >= 0 and self._done(path) > done
        except OSError:
            return False

    def _done(self, path: str) -> int:
        """Batches that the model has answered."""
        status, found = self._ask("GET", f"{path}/stats")
        return sum(one["execution_count"] for one in found["model_stats"]) if status == OK else -1

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Status and content of a reply. Raises OSError, of which TimeoutError is one, when there is none."""
        text = "" if body is None else json.dumps(body)
        left_s, reply = max(self.deadline - time.monotonic(), 0.01), b""
        with socket.create_connection((HOST, self.port), left_s) as connection:
            connection.sendall(f"{method} {path} HTTP/1.0\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
            while part := connection.recv(65536):
                reply += part
        head, _, content = reply.decode("utf-8", "replace").partition("\r\n\r\n")
        words = head.split(maxsplit=2)
        if len(words) < 2 or not words[1].isdecimal():
            raise OSError("the connection has ended without a reply")
        try:
            return int(words[1]), json.loads(content or "{}")
        except ValueError:
            return int(words[1]), content[:200]


def _empty(described: dict[str, Any]) -> dict[str, Any]:
    """An input of one row, of nothing but zeros or empty texts."""
    shape, size = [max(int(one), 1) for one in described["shape"]], 1
    for one in shape:
        size *= one
    kind = described["datatype"]
    return {"name": described["name"], "datatype": kind, "shape": shape, "data": [EMPTY.get(kind, 0)] * size}


def main() -> Never:
    """Ask, and exit by what was answered."""
    try:
        Server(int(sys.argv[1]) if len(sys.argv) > 1 else 8000).look()
    except Dead as error:
        sys.exit(str(error))
    sys.exit(0)


if __name__ == "__main__":
    main()
