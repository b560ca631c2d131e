"""Addresses as people write them, and servers that are no Triton."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.errors import Invalid, Unavailable
from pipeline.settings import Settings
from serving.endpoints import at, serving
from tests.serving.real_triton import RealTriton


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("body", [b"<html>", b"3", b"[3]", b"{}", b'[{"a": 1}]', b'{"name": "m"}', b"\xff", b""])
def test_what_is_no_triton(settings: Settings, body: bytes) -> None:
    with answering(200, body) as address, pytest.raises(Invalid, match=r"no Triton|no model"):
        at(settings, f"{address}/m")
    for version in ("x", "²"):
        index = json.dumps([{"name": "m", "state": "READY", "version": version}]).encode()
        with answering(200, index) as address, pytest.raises(Invalid):
            at(settings, address)  # whose configuration is a list


def test_what_refuses_and_what_is_not_there(settings: Settings) -> None:
    with (
        answering(403, b'{"error": "forbidden"}') as address,
        pytest.raises(Invalid, match="Triton refuses: forbidden"),
    ):
        at(settings, f"http://{address}/v2/models/m")
    for where in ("127.0.0.1:1/m", "http://nowhere.invalid/v2/models/m"):
        with pytest.raises(Unavailable, match=r"no server answers|does not answer"):
            at(settings.model_copy(update={"timeout_s": 3.0}), where)
    for where in ("ftp://host/v2", "host:99999999/m", "host"):
        with pytest.raises(Invalid, match="is no address of a model"):
            at(settings, where)


def test_an_address_with_one_model_needs_no_name(own_triton: RealTriton) -> None:
    settings = own_triton.settings
    own_triton.start()
    for where in (settings.triton_http, settings.triton_grpc, f"http://{settings.triton_http}/v2/"):
        with pytest.raises(Invalid, match="it serves 0 models"):
            at(settings, where)
    own_triton.write("first", 1, 1.0)
    with own_triton.client() as client:
        client.load("first")
    for where in (settings.triton_http, settings.triton_grpc, f"http://{settings.triton_http}"):
        found = at(settings, where)
        assert (found.model, found.version, found.loaded, found.said) == ("first", 1, (1,), "")
    own_triton.write("second", 3, 1.0)
    with own_triton.client() as client:
        client.load("second")
    with pytest.raises(Invalid, match=r"it serves 2 models.*add /first, /second"):
        at(settings, settings.triton_http)
    one, other = serving(settings, ("second", "third"))
    assert (one.version, one.error) == (3, "")
    assert other.error == "it serves no model 'third'"
