"""`answers`, by which the container's probes ask the server: against a server that says what we like, and the real one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import stack
from pipeline.supervisor import Supervisor
from tests.docker.dockerfiles import DOCKER
from tests.support.ports import worker_port
from tests.support.settings import own_settings

PROGRAM = DOCKER / "triton" / "answers.py"
HOST = "127.0.0.1"
DEAD = "no memory is left"
READY = {"name": "m", "version": "7", "state": "READY"}
INPUTS = [
    {"name": "numeric", "datatype": "FP32", "shape": [-1, 3]},
    {"name": "categorical", "datatype": "BYTES", "shape": [-1, 2]},
    {"name": "timestamp", "datatype": "INT64", "shape": [-1, 1]},
    {"name": "known", "datatype": "BOOL", "shape": [1]},
]


class Said:
    """What the server says next, and what it was asked."""

    def __init__(self) -> None:
        self.index: list[dict[str, str]] = [READY]
        self.metadata: tuple[int, Any] = (200, {"inputs": INPUTS})
        self.answer: tuple[int, Any] = (200, {"outputs": []})
        self.done = 0
        self.does = 0  # batches of others, while we wait
        self.wait_s = 0.0
        self.rows: list[Any] = []
        self.port = 0

    def reply(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/v2/repository/index":
            return 200, self.index
        assert path.startswith("/v2/models/m/versions/7"), path
        if path.endswith("/stats"):
            return 200, {"model_stats": [{"execution_count": self.done}]}
        if not path.endswith("/infer"):
            return self.metadata
        self.rows.append(body)
        self.done += self.does
        time.sleep(self.wait_s)
        return self.answer


@contextmanager
def saying() -> Iterator[Said]:
    """Run a server as long as the block runs."""
    server_state = Said()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = server_state.reply(self.path, json.loads(body) if body else None)
            text = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            return  # who asked has gone

    with Server((HOST, 0), Handler) as server:
        server_state.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server_state
        server.shutdown()


@pytest.fixture
def said() -> Iterator[Said]:
    with saying() as server_state:
        yield server_state


def answers(port: int) -> tuple[int, str]:
    """Exit code and what was said, as the kubelet gets them."""
    done = subprocess.run(
        [sys.executable, "-IS", str(PROGRAM), str(port)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


def test_each_loaded_model_is_asked_for_a_row_of_nothing(said: Said) -> None:
    assert answers(said.port) == (0, "")
    (row,) = said.rows
    assert [(one["name"], one["datatype"], one["shape"], one["data"]) for one in row["inputs"]] == [
        ("numeric", "FP32", [1, 3], [0.0] * 3),
        ("categorical", "BYTES", [1, 2], ["", ""]),
        ("timestamp", "INT64", [1, 1], [0]),
        ("known", "BOOL", [1], [False]),
    ]


@pytest.mark.parametrize("state", ["LOADING", "UNLOADING", "UNAVAILABLE", None])
def test_a_model_that_is_not_loaded_is_not_asked(said: Said, state: str | None) -> None:
    said.index = [{"name": "m", "version": "7"} | ({"state": state} if state else {})]
    said.answer = (500, {"error": DEAD})
    assert answers(said.port) == (0, "")
    assert said.rows == []


def test_a_model_that_is_unloaded_meanwhile_is_not_dead(said: Said) -> None:
    said.metadata = (404, {"error": "unknown model"})
    assert answers(said.port) == (0, "")


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_is_an_answer(said: Said, status: int) -> None:
    said.answer = (status, {"error": "zero is out of bounds"})
    assert answers(said.port) == (0, "")


@pytest.mark.parametrize("content", [{"error": DEAD}, b"<html>", [], {}])
def test_an_error_of_the_server_is_none(said: Said, content: Any) -> None:
    said.answer, said.does = (500, content), 3  # whatever another instance of the model answers
    code, text = answers(said.port)
    assert code == 1
    assert text.startswith("m does not answer: 500")
    assert not isinstance(content, dict) or content.get("error", "") in text


@pytest.mark.parametrize(("answer", "wait_s"), [((200, {}), 4.0), ((503, {"error": "the queue is full"}), 0.0)])
def test_a_model_that_is_busy_is_not_dead_and_one_that_does_nothing_is(answer: tuple[int, Any], wait_s: float) -> None:
    with saying() as idle, saying() as busy, ThreadPoolExecutor(2) as pool:  # at once: either waits for seconds
        for server, does in ((idle, 0), (busy, 1)):
            server.answer, server.wait_s, server.does = answer, wait_s, does
        of_idle, of_busy = pool.map(answers, (idle.port, busy.port))
    assert of_busy[0] == 0
    assert of_idle == (1, f"m does not answer: {'503, the queue is full' if answer[0] == 503 else 'no answer in time'}")


def test_a_server_that_is_not_there() -> None:
    port = worker_port()
    code, text = answers(port)
    assert code == 1
    assert text.startswith("the server does not answer: ")


@pytest.mark.stack
def test_the_real_server_that_is_stopped(tmp_path: Path) -> None:
    from tests.serving.packed import serve  # imports ONNX

    settings = own_settings(home=tmp_path / "home")
    try:
        stack.up(settings, ("triton",))
        Supervisor(settings).stop("triton-watch")  # it would heal what we break
        assert answers(settings.triton_http_port) == (0, "")
        serve(settings, tmp_path / "packs", "m", 7)
        assert answers(settings.triton_http_port) == (0, "")
        server = psutil.Process(Supervisor(settings).pid("triton"))
        server.suspend()
        code, text = answers(settings.triton_http_port)
        server.resume()
        assert code == 1
        assert text.startswith("the server does not answer")
    finally:
        stack.down(settings)
