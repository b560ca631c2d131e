"""Small HTTP servers as programs of a supervisor, and what the tests ask of them."""

from __future__ import annotations

import sys

import httpx
import psutil

from pipeline.program import Program
from tests.support.ports import worker_port

SERVER = """
import http.server, json, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "argv": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd()})
        self.send_response(200); self.end_headers(); self.wfile.write(body.encode())
    def log_message(self, *args): pass
if os.environ.get("STRAY"):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
if os.environ.get("STUBBORN"):
    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def server(name: str = "web", *arguments: str, **env: str) -> Program:
    port = worker_port()
    return Program(
        name=name,
        argv=(sys.executable, "-c", SERVER, str(port), *arguments),
        env=env,
        ports={"mlflow_port": port},
        ready_url=f"http://127.0.0.1:{port}/",
        ready_timeout_s=20,
        stop_timeout_s=2,
    )


def script(code: str, name: str = "web", **options: object) -> Program:
    port = worker_port()
    url = f"http://127.0.0.1:{port}/"
    return Program(name, (sys.executable, "-c", code), ready_url=url, **options)  # type: ignore[arg-type]


def ask(program: Program) -> dict[str, object]:
    return dict(httpx.get(program.ready_url, trust_env=False).json())


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
