"""The benchmark of serving: its goals are counted whoever they favour, and a wait counts from when it was due."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from benchmarks.serving.goals import goals
from benchmarks.serving.opened import offered
from benchmarks.serving.report import report
from benchmarks.serving.results import GRPC, HTTP, IN_PROCESS, SHARED, Point, Results
from benchmarks.serving.wires import Request, raw, v2_binary, v2_grpc, v2_json

PEER, OTHER = "MLServer onnx, gRPC", "LitServe"


def closed(way: str, batch: int, per_s: float, p99_ms: float, repeat: int = 0) -> Point:
    return Point("closed", way, batch, 8, 0, repeat, requests=100, per_s=per_s, p50_ms=1, p99_ms=p99_ms)


def results(path: Path, *points: Point) -> Results:
    about = {"machine": "a machine", "model": "xgboost", "workers": 2, "seconds": 1.0}
    return Results(path / "results.json", about, list(points))


def test_a_point_is_missed_by_the_best_peer_of_each_measure(tmp_path: Path) -> None:
    found = results(
        tmp_path, closed(HTTP, 1, 100, 5), closed(GRPC, 1, 50, 1), closed(SHARED, 1, 300, 2), closed(PEER, 1, 200, 9), closed(OTHER, 1, 10, 4)
    )  # fmt: skip
    said = "\n".join(goals(found))
    assert f"throughput of {HTTP} 100 against 200 of {PEER} a second, 0.50" in said
    assert f"p99 of {HTTP} 5 against 4 of {OTHER} ms, 1.25" in said
    assert f"of {GRPC}" not in said  # one way answers for both measures: the one with more throughput
    assert "shared memory: ahead of every peer in throughput and p99 at each of 1 point: met" in said


def test_the_median_of_the_ratios_decides(tmp_path: Path) -> None:
    paces = [(100, 50), (100, 90), (40, 80)]
    points = [closed(HTTP, 1, ours, 1, at) for at, (ours, _) in enumerate(paces)]
    points += [closed(PEER, 1, theirs, 2, at) for at, (_, theirs) in enumerate(paces)]
    assert "Closed loop, Slipway over the network" in (said := "\n".join(goals(results(tmp_path, *points))))
    assert "at each of 1 point: met" in said


@pytest.mark.parametrize(("limit", "said"), [(190, "1 point: met"), (210, "2.10 (2.10-2.10) times as much as")])
def test_in_process_may_be_twice_as_fast_at_large_batches(tmp_path: Path, limit: float, said: str) -> None:
    small = [closed(HTTP, 1, 100, 1), closed(IN_PROCESS, 1, 9000, 1)]
    text = "\n".join(goals(results(tmp_path, *small, closed(HTTP, 128, 100, 1), closed(IN_PROCESS, 128, limit, 1))))
    assert said in text
    assert "9000" not in text


def test_what_was_written_is_read_again_and_a_failure_is_on_the_page(tmp_path: Path) -> None:
    found = results(tmp_path, closed(HTTP, 1, 100, 5))
    found.add(Point("closed", PEER, 1, 8, 0, 0, error="no answer in 1.0 s"))
    found.failures[OTHER] = "it ended with 1"
    found.write()
    again = Results.read(found.path)
    assert again == found
    page = report(again)
    assert f"| {PEER} | no answer in 1.0 s | | |" in page
    assert f"Failed: {OTHER}: it ended with 1" in page


class _Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    asked: ClassVar[list[bytes]] = []
    turn = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.turn:
            self.asked.append(body)
            status = 503 if len(self.asked) % 10 == 0 else 200
            threading.Event().wait(0.02)
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def slow() -> Iterator[str]:
    """Answers one request after the other, in 20 ms each; every tenth with 503."""
    _Slow.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_open_loop_counts_the_wait_and_what_was_refused(slow: str) -> None:
    rows = np.ones((2, 30), dtype=np.float32)
    point = offered(Point("open", "slow", 2, 4, 200, 0), raw(slow, rows), 0.5)
    assert point.requests == 100
    assert point.failed == 10
    assert _Slow.asked[-1] == rows.tobytes()
    assert point.p99_ms > 500  # 100 requests of 20 ms due within half a second: the last waits for the others


def test_every_wire_carries_the_rows_and_reads_the_answer() -> None:

    rows = np.arange(60, dtype=np.float32).reshape(2, 30)
    answer = np.array([[0.25, 0.75], [0.5, 0.5]], dtype=np.float32)
    binary: Request = v2_binary("bench")("h:1", rows)
    length = int(binary.headers["Inference-Header-Content-Length"])
    assert binary.body[length:] == rows.tobytes()
    assert (binary.read({"Inference-Header-Content-Length": "3"}, b"{ }" + answer.tobytes()) == answer).all()
    message = service_pb2.ModelInferRequest.FromString(v2_grpc("m", "p")("h:1", rows).body[5:])
    assert message.raw_input_contents[0] == rows.tobytes()
    assert list(message.inputs[0].shape) == [2, 30]
    said = b'{"outputs": [{"shape": [2, 1], "data": [0.75, 0.5]}]}'
    assert (v2_json("m")("h:1", rows).read({}, said) == answer).all()  # of the second class alone
